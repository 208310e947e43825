DROP INDEX CONCURRENTLY parking.stay_other_plate_idx;
DROP INDEX CONCURRENTLY parking.stay_q2_plate_idx;
DROP INDEX CONCURRENTLY parking.stay_q1_plate_idx;
