-- Verify clinic:visits on pg

BEGIN;

SELECT came_at FROM clinic.visit WHERE false;

ROLLBACK;
