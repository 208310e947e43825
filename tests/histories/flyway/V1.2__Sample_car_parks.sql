INSERT INTO parking.car_park (car_park_id, name, levels)
VALUES (1, 'Station; North', 3), (2, 'O''Connell Street', 2), (3, E'Harbour\\Quay', 1);

INSERT INTO parking.space (car_park_id, level, number)
SELECT c.car_park_id, l, n FROM parking.car_park AS c, generate_series(1, c.levels) AS l, generate_series(1, 30) AS n;
