CREATE TABLE parking.vehicle (
    plate   text PRIMARY KEY CHECK (plate = upper(plate)),
    country char(2) NOT NULL
);
INSERT INTO parking.vehicle SELECT 'PK' || lpad(n::text, 5, '0'), 'IE' FROM generate_series(1, 400) AS n;
