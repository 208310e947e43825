CREATE INDEX CONCURRENTLY IF NOT EXISTS stay_q1_plate_idx ON parking.stay_2026_q1 (plate);
CREATE INDEX CONCURRENTLY IF NOT EXISTS stay_q2_plate_idx ON parking.stay_2026_q2 (plate);
CREATE INDEX CONCURRENTLY IF NOT EXISTS stay_other_plate_idx ON parking.stay_other (plate);
