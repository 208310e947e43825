-- Revert clinic:appschema from pg

BEGIN;

DROP SCHEMA clinic;

COMMIT;
