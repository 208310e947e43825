-- Verify clinic:appschema on pg

BEGIN;

SELECT pg_catalog.has_schema_privilege('clinic', 'usage');

ROLLBACK;
