CREATE INDEX stay_plate_idx ON ONLY parking.stay (plate);
ALTER INDEX parking.stay_plate_idx ATTACH PARTITION parking.stay_q1_plate_idx;
ALTER INDEX parking.stay_plate_idx ATTACH PARTITION parking.stay_q2_plate_idx;
ALTER INDEX parking.stay_plate_idx ATTACH PARTITION parking.stay_other_plate_idx;
