DROP TABLE parking.tariff CASCADE;
DROP TYPE parking.tariff_kind;
