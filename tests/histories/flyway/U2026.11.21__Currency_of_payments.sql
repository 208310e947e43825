ALTER TABLE parking.payment DROP COLUMN currency CASCADE;
