ALTER TYPE parking.tariff_kind ADD VALUE 'season';
INSERT INTO parking.tariff (car_park_id, kind, cents) SELECT car_park_id, 'season', 9900 FROM parking.car_park;
