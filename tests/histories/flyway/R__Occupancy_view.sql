CREATE OR REPLACE VIEW parking.occupancy AS
SELECT c.name, s.level, count(*) AS spaces
  FROM parking.car_park AS c JOIN parking.space AS s USING (car_park_id)
 GROUP BY c.name, s.level;
