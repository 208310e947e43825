-- Revert clinic:visit_kinds from pg

BEGIN;

ALTER TABLE clinic.visit DROP COLUMN kind;
DROP TYPE clinic.visit_kind;

COMMIT;
