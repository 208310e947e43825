-- Deploy clinic:functions/age_of to pg

BEGIN;

DROP FUNCTION clinic.age_of(bigint);
CREATE FUNCTION clinic.age_of(who bigint, today date DEFAULT current_date) RETURNS int LANGUAGE sql STABLE AS $$
    SELECT EXTRACT(year FROM age(today, born_on))::int FROM clinic.patient WHERE patient_id = who;
$$;

COMMIT;
