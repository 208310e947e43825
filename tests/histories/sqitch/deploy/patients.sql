-- Deploy clinic:patients to pg

BEGIN;

CREATE TABLE clinic.patient (
    patient_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    born_on date NOT NULL
);
INSERT INTO clinic.patient (name, born_on) VALUES ('O''Neill; Mary', '1990-02-28'), ('Ng', '2001-12-31');

COMMIT;
