DROP TRIGGER stay_changes_free_spaces ON parking.stay;
DROP FUNCTION parking.count_free();
ALTER TABLE parking.car_park DROP COLUMN free_spaces CASCADE;
