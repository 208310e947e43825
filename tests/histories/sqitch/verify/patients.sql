-- Verify clinic:patients on pg

BEGIN;

SELECT patient_id, name, born_on FROM clinic.patient WHERE false;

ROLLBACK;
