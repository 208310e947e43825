-- Verify clinic:functions/age_of on pg

BEGIN;

SELECT has_function_privilege('clinic.age_of(bigint)', 'execute');

ROLLBACK;
