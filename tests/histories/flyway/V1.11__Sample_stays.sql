INSERT INTO parking.stay (space_id, plate, arrived_at, left_at)
SELECT (SELECT min(space_id) FROM parking.space) + n % 180,
       'PK' || lpad((1 + n % 400)::text, 5, '0'),
       TIMESTAMPTZ '2026-01-01 06:00+00' + n * interval '47 minutes',
       TIMESTAMPTZ '2026-01-01 06:00+00' + n * interval '47 minutes' + interval '95 minutes'
  FROM generate_series(1, 4000) AS n;
