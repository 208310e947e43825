ALTER TABLE parking.vehicle DROP COLUMN blocked;
