-- Deploy clinic:appschema to pg

BEGIN;

CREATE SCHEMA clinic;

COMMIT;
