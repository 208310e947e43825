-- Fill an empty rental database: the same rows for the same seed and number of reservations.
--
--   PGOPTIONS='-c generate.rows=1000 -c generate.seed=1' \
--     psql --dbname=rentguy --single-transaction -v ON_ERROR_STOP=1 -f examples/rentguy/data.sql
--
-- It refuses tables that hold rows. Everything lies in the years 2024 and 2025.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $refuse$
BEGIN
    IF EXISTS (SELECT FROM public.auth_users) OR EXISTS (SELECT FROM public.equipment) THEN
        RAISE EXCEPTION 'the database holds rows: sample data goes into empty tables only';
    END IF;
END
$refuse$;

CREATE FUNCTION pg_temp.rows() RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT COALESCE(NULLIF(current_setting('generate.rows', true), ''), '1000')::bigint $$;

-- Whole numbers from 0 below a limit, as a function of seed, purpose and row.
CREATE FUNCTION pg_temp.pick(purpose integer, n bigint, below bigint) RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT (hashint8extended(n, COALESCE(NULLIF(current_setting('generate.seed', true), ''), '1')::bigint * 1000 + purpose)
           & 9223372036854775807) % below $$;

INSERT INTO public.auth_users (email, password_hash, display_name, is_active, created_at)
SELECT CASE n WHEN 0 THEN 'rentguy@demo.local' ELSE 'user' || n || '@example.com' END,
       '$2b$12$' || md5('sample ' || n),
       (ARRAY['Ada', 'Bela', 'Chidi', 'Dana', 'Emre', 'Fatou', 'Goran', 'Hana'])[1 + pg_temp.pick(1, n, 8)] || ' ' || n,
       n % 20 <> 19,
       timestamptz '2024-01-01 08:00:00+00' + n * interval '1 hour'
  FROM generate_series(0, GREATEST(10, pg_temp.rows() / 20)) AS n;

-- Each user has done the steps up to some point, one after the other.
INSERT INTO public.onb_progress (user_email, step_code, status, completed_at)
SELECT u.email, s.code,
       CASE WHEN s.position < done THEN 'completed' ELSE 'open' END,
       CASE WHEN s.position < done THEN u.created_at + s.position * interval '10 minutes' END
  FROM public.auth_users AS u
 CROSS JOIN LATERAL (SELECT pg_temp.pick(2, u.id, 9)) AS d (done)
  JOIN public.onb_steps AS s ON s.position <= done
 ORDER BY u.id, s.position;

INSERT INTO public.equipment (code, name, category, daily_rate, retired_on)
SELECT 'E' || lpad(n::text, 6, '0'),
       (ARRAY['Spotlight', 'Mixing desk', 'Loudspeaker', 'Truss', 'Generator', 'Projector'])[1 + n % 6],
       (ARRAY['light', 'sound', 'sound', 'stage', 'power', 'video'])[1 + n % 6],
       5 + pg_temp.pick(3, n, 400) / 2.0,
       CASE WHEN n % 25 = 24 THEN date '2025-12-01' END
  FROM generate_series(0, GREATEST(25, pg_temp.rows() / 10)) AS n;

-- A project lasts less than a week, so a unit that goes to one project each week at most is never reserved twice.
CREATE TEMPORARY TABLE week ON COMMIT DROP AS
SELECT n AS week, date '2024-01-01' + n * 7 AS starts_on
  FROM generate_series(0, 103) AS n;

INSERT INTO public.projects (number, name, client_name, responsible_id, starts_on, ends_on, status)
SELECT 'P' || to_char(w.starts_on, 'YYMMDD'),
       'Week of ' || w.starts_on,
       'Client ' || pg_temp.pick(4, w.week, 40),
       (SELECT min(u.id) FROM public.auth_users AS u WHERE u.is_active),
       w.starts_on,
       w.starts_on + 6,
       CASE WHEN w.week % 13 = 12 THEN 'cancelled'
            WHEN w.week >= 100 THEN 'confirmed'
            ELSE 'done' END
  FROM week AS w
 ORDER BY w.week;

INSERT INTO public.reservations (project_id, equipment_id, from_day, to_day, agreed_rate, amount, status)
SELECT p.id, e.id, p.starts_on + from_offset, p.starts_on + from_offset + days, e.daily_rate, e.daily_rate * days,
       CASE p.status WHEN 'cancelled' THEN 'cancelled' WHEN 'done' THEN 'returned' ELSE 'reserved' END
  FROM generate_series(0, pg_temp.rows() - 1) AS n
  JOIN public.projects AS p ON p.number = 'P' || to_char(date '2024-01-01' + (n % 104)::integer * 7, 'YYMMDD')
  JOIN public.equipment AS e
    ON e.code = 'E' || lpad(((n / 104 + n % 104) % (GREATEST(25, pg_temp.rows() / 10) + 1))::text, 6, '0')
 CROSS JOIN LATERAL (SELECT pg_temp.pick(5, n, 3)::integer, 1 + pg_temp.pick(6, n, 4)::integer) AS d (from_offset, days)
 WHERE e.retired_on IS NULL OR p.starts_on + from_offset + days <= e.retired_on
 ORDER BY n;

INSERT INTO public.scans (reservation_id, direction, scanned_at, scanned_by_id)
SELECT r.id, s.direction,
       CASE s.direction WHEN 'out' THEN r.from_day ELSE r.to_day - 1 END::timestamp AT TIME ZONE 'UTC' + s.at,
       (SELECT min(u.id) FROM public.auth_users AS u WHERE u.is_active)
  FROM public.reservations AS r
 CROSS JOIN (VALUES ('out', interval '8 hours'), ('in', interval '17 hours')) AS s (direction, at)
 WHERE r.status = 'returned'
 ORDER BY r.id, s.at;
