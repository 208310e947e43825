-- Verify clinic:visit_kinds on pg

BEGIN;

SELECT kind FROM clinic.visit WHERE false;

ROLLBACK;
