VACUUM (ANALYZE) parking.stay_2026_q1;
VACUUM (ANALYZE) parking.stay_2026_q2;
