DROP FUNCTION library.year_of(date);
DROP PROCEDURE library.forgive(bigint, numeric);
DROP FUNCTION library.fines_of(bigint);
