ALTER TABLE parking.car_park ADD COLUMN free_spaces int NOT NULL DEFAULT 0;

CREATE FUNCTION parking.count_free() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
    changed bigint := coalesce(NEW.space_id, OLD.space_id);
BEGIN
    UPDATE parking.car_park AS c
       SET free_spaces = c.free_spaces + CASE TG_OP WHEN 'INSERT' THEN -1 WHEN 'DELETE' THEN 1 ELSE 0 END
      FROM parking.space AS s
     WHERE s.space_id = changed AND c.car_park_id = s.car_park_id;
    RETURN NULL;
END;
$body$;

CREATE TRIGGER stay_changes_free_spaces AFTER INSERT OR DELETE ON parking.stay
    FOR EACH ROW EXECUTE FUNCTION parking.count_free();
