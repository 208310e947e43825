-- The indexes of the partitions go with it, and come back alone.
DROP INDEX parking.stay_plate_idx;
CREATE INDEX stay_q1_plate_idx ON parking.stay_2026_q1 (plate);
CREATE INDEX stay_q2_plate_idx ON parking.stay_2026_q2 (plate);
CREATE INDEX stay_other_plate_idx ON parking.stay_other (plate);
