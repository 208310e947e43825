BEGIN;
ALTER TABLE parking.vehicle ADD COLUMN blocked boolean;
UPDATE parking.vehicle SET blocked = false;
COMMIT;

START TRANSACTION;
ALTER TABLE parking.vehicle ALTER COLUMN blocked SET NOT NULL;
ALTER TABLE parking.vehicle ALTER COLUMN blocked SET DEFAULT false;
COMMIT;
