CREATE TABLE library.fine_2027 (LIKE library.fine INCLUDING ALL);
ALTER TABLE library.fine_2027 ADD CONSTRAINT fine_2027_year CHECK (raised_on >= '2027-01-01' AND raised_on < '2028-01-01');
ALTER TABLE library.fine ATTACH PARTITION library.fine_2027 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
ALTER TABLE library.fine_2027 DROP CONSTRAINT fine_2027_year;
