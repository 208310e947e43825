CREATE FUNCTION parking.price(kind parking.tariff_kind, minutes int) RETURNS int
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT CASE
               WHEN price.kind = 'hourly' THEN t.cents * ceil(price.minutes / 60.0)::int
               ELSE t.cents
           END
      FROM parking.tariff AS t
     WHERE t.kind = price.kind
     ORDER BY t.tariff_id
     LIMIT 1;
END;
