\set schema library
\set first 'Central; Main Street'

CREATE TABLE :"schema".branch (branch_id int PRIMARY KEY, name text NOT NULL);
INSERT INTO :"schema".branch VALUES (1, :'first'), (2, 'Harbour');

SELECT count(*) = 2 AS branches FROM :"schema".branch \gset
\if :branches
    ALTER TABLE library.copy ADD COLUMN branch_id int NOT NULL DEFAULT 1 REFERENCES library.branch;
\endif
\echo :branches branches
