DELETE FROM parking.space;
DELETE FROM parking.car_park;
