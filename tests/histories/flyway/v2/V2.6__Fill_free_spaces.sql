DO LANGUAGE plpgsql $do$
DECLARE
    park parking.car_park;
BEGIN
    FOR park IN SELECT * FROM parking.car_park LOOP
        UPDATE parking.car_park
           SET free_spaces = (SELECT count(*) FROM parking.space AS s WHERE s.car_park_id = park.car_park_id)
         WHERE car_park_id = park.car_park_id;
        RAISE NOTICE 'counted %; done', park.name;
    END LOOP;
END
$do$;
