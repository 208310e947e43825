-- Reads the view before it by name, as repeatable migrations run in the order of their descriptions.
CREATE OR REPLACE VIEW parking.revenue AS
SELECT p.currency, date_trunc('month', p.arrived_at AT TIME ZONE 'UTC') AS month, sum(p.cents) AS cents,
       (SELECT sum(spaces) FROM parking.occupancy) AS spaces
  FROM parking.payment AS p
 GROUP BY 1, 2;
