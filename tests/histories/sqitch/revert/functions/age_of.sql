-- Revert clinic:functions/age_of from pg

BEGIN;

DROP FUNCTION clinic.age_of(bigint, date);
CREATE OR REPLACE FUNCTION clinic.age_of(who bigint) RETURNS int LANGUAGE sql STABLE AS $$
    SELECT EXTRACT(year FROM age(current_date, born_on))::int FROM clinic.patient WHERE patient_id = who;
$$;

COMMIT;
