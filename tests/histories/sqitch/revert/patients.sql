-- Revert clinic:patients from pg

BEGIN;

DROP TABLE clinic.patient;

COMMIT;
