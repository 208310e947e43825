DROP TABLE parking.payment CASCADE;
