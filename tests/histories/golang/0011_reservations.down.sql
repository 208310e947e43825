BEGIN;
DROP TABLE library.reservation;
COMMIT;
