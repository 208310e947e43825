-- Revert clinic:functions/age_of from pg

BEGIN;

DROP FUNCTION clinic.age_of(bigint);

COMMIT;
