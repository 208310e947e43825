DELETE FROM parking.tariff WHERE kind = 'season';
ALTER TABLE parking.tariff ALTER COLUMN kind TYPE text;
DROP TYPE parking.tariff_kind CASCADE;
CREATE TYPE parking.tariff_kind AS ENUM ('hourly', 'daily');
ALTER TABLE parking.tariff ALTER COLUMN kind TYPE parking.tariff_kind USING kind::parking.tariff_kind;
