-- Revert clinic:visits from pg

BEGIN;

DROP TABLE clinic.visit CASCADE;

COMMIT;
