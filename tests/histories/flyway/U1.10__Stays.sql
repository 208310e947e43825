DROP TABLE parking.stay CASCADE;
