DROP TABLE parking.vehicle;
