DROP TABLE parking.space CASCADE;
