-- Deploy clinic:visits to pg

BEGIN;

CREATE TABLE clinic.visit (
    patient_id bigint NOT NULL REFERENCES clinic.patient,
    came_at timestamptz NOT NULL,
    PRIMARY KEY (patient_id, came_at)
);

COMMIT;
