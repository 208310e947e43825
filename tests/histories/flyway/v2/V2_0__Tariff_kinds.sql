CREATE TYPE parking.tariff_kind AS ENUM ('hourly', 'daily');

CREATE TABLE parking.tariff (
    tariff_id   int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    car_park_id int NOT NULL REFERENCES parking.car_park,
    kind        parking.tariff_kind NOT NULL,
    cents       int NOT NULL CHECK (cents >= 0),
    valid       daterange NOT NULL DEFAULT '[2026-01-01,)'
);
INSERT INTO parking.tariff (car_park_id, kind, cents)
SELECT car_park_id, kind, CASE kind WHEN 'hourly' THEN 250 ELSE 1800 END
  FROM parking.car_park, unnest(enum_range(NULL::parking.tariff_kind)) AS kind;
