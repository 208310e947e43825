-- Verify clinic:functions/age_of on pg

BEGIN;

SELECT 1 / (clinic.age_of(1, '2026-03-01') - 35);

ROLLBACK;
