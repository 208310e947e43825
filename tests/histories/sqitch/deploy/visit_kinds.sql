-- Deploy clinic:visit_kinds to pg

BEGIN;

CREATE TYPE clinic.visit_kind AS ENUM ('check-up', 'emergency; any');
ALTER TABLE clinic.visit ADD COLUMN kind clinic.visit_kind;

COMMIT;
