-- Fill an empty CRM: the same rows for the same seed and number of contacts.
--
--   PGOPTIONS='-c generate.rows=1000 -c generate.seed=1' \
--     psql --dbname=crm --single-transaction -v ON_ERROR_STOP=1 -f examples/crm/data.sql
--
-- Run it as a superuser, whom row-level security does not bind: it fills several workspaces. It refuses tables that hold
-- rows. Everything lies in the years 2024 and 2025.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL row_security = off;

DO $refuse$
BEGIN
    IF EXISTS (SELECT FROM public.organizations) OR EXISTS (SELECT FROM public.products) THEN
        RAISE EXCEPTION 'the database holds rows: sample data goes into empty tables only';
    END IF;
END
$refuse$;

CREATE FUNCTION pg_temp.rows() RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT COALESCE(NULLIF(current_setting('generate.rows', true), ''), '1000')::bigint $$;

-- Whole numbers from 0 below a limit, and keys, as functions of seed, purpose and row.
CREATE FUNCTION pg_temp.hash(purpose integer, n bigint) RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT hashint8extended(n, COALESCE(NULLIF(current_setting('generate.seed', true), ''), '1')::bigint * 1000 + purpose) $$;
CREATE FUNCTION pg_temp.pick(purpose integer, n bigint, below bigint) RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT (pg_temp.hash(purpose, n) & 9223372036854775807) % below $$;
CREATE FUNCTION pg_temp.key(purpose integer, n bigint) RETURNS uuid LANGUAGE sql STABLE AS
$$ SELECT (lpad(to_hex(pg_temp.hash(purpose, n)), 16, '0') || lpad(to_hex(pg_temp.hash(purpose + 500, n)), 16, '0'))::uuid $$;

-- Three workspaces in turn, so that three organizations before is the same workspace; every fourth belongs to that one.
CREATE TEMPORARY TABLE org ON COMMIT DROP AS
SELECT n, pg_temp.key(1, n) AS id, pg_temp.key(2, n % 3) AS workspace_id,
       CASE WHEN n % 4 = 3 THEN pg_temp.key(1, n - 3) END AS parent_id
  FROM generate_series(0, GREATEST(12, pg_temp.rows() / 10)) AS n;

INSERT INTO public.organizations (id, workspace_id, parent_id, name, created_at)
SELECT id, workspace_id, parent_id, 'Organization ' || n, timestamptz '2024-01-01 09:00:00+00' + n * interval '1 minute'
  FROM org
 ORDER BY n;

INSERT INTO public.products (id, workspace_id, code, name, list_price)
SELECT pg_temp.key(3, n), pg_temp.key(2, n % 3), 'P' || n, 'Product ' || n, 100 + pg_temp.pick(4, n, 5000)
  FROM generate_series(0, 29) AS n;

CREATE TEMPORARY TABLE person ON COMMIT DROP AS
SELECT p.n, pg_temp.key(5, p.n) AS id, o.n AS org, o.id AS organization_id, o.workspace_id
  FROM generate_series(0, pg_temp.rows() - 1) AS p (n)
  JOIN org AS o ON o.n = p.n % (SELECT count(*) FROM org);

-- Half of the organizations have bought something; the contacts of those are customers.
INSERT INTO public.contacts (id, workspace_id, organization_id, display_name, email, created_at, lifecycle_stage)
SELECT id, workspace_id, CASE WHEN n % 50 <> 49 THEN organization_id END,
       (ARRAY['Ada', 'Bela', 'Chidi', 'Dana', 'Emre', 'Fatou', 'Goran', 'Hana'])[1 + pg_temp.pick(6, n, 8)] || ' ' || n,
       'contact' || n || '@example.com',
       timestamptz '2024-02-01 09:00:00+00' + n * interval '1 minute',
       CASE WHEN n % 50 <> 49 AND org % 2 = 0 THEN 'customer' ELSE 'lead' END
  FROM person
 ORDER BY n;

-- Opportunities of an organization are talked about with the first of its contacts.
CREATE TEMPORARY TABLE deal ON COMMIT DROP AS
SELECT d.n, pg_temp.key(7, d.n) AS id, o.workspace_id, o.id AS organization_id, p.id AS contact_id,
       CASE WHEN o.n % 2 = 0 AND d.n < (SELECT count(*) FROM org) THEN 'won'
            ELSE (ARRAY['lead', 'qualified', 'proposal', 'lost'])[1 + pg_temp.pick(8, d.n, 4)] END AS stage,
       timestamptz '2024-06-01 09:00:00+00' + pg_temp.pick(9, d.n, 300 * 86400) * interval '1 second' AS created_at
  FROM generate_series(0, (SELECT count(*) FROM org) * 2 - 1) AS d (n)
  JOIN org AS o ON o.n = d.n % (SELECT count(*) FROM org)
  JOIN person AS p ON p.n = o.n AND p.n % 50 <> 49;

INSERT INTO public.opportunities (id, workspace_id, organization_id, contact_id, product_id, name, stage, probability,
                                  amount, created_at, closed_at)
SELECT d.id, d.workspace_id, d.organization_id, d.contact_id, p.id, 'Deal ' || d.n, d.stage,
       CASE d.stage WHEN 'lead' THEN 10 WHEN 'qualified' THEN 30 WHEN 'proposal' THEN 60 WHEN 'won' THEN 100 ELSE 0 END,
       p.list_price * (1 + pg_temp.pick(10, d.n, 20)), d.created_at,
       CASE WHEN d.stage IN ('won', 'lost') THEN d.created_at + interval '30 days' END
  FROM deal AS d
  JOIN public.products AS p ON p.workspace_id = d.workspace_id AND p.code IN ('P0', 'P1', 'P2')
 ORDER BY d.n;

INSERT INTO public.interactions (id, workspace_id, contact_id, opportunity_id, kind, occurred_at, summary)
SELECT pg_temp.key(11, d.n * 3 + i), d.workspace_id, d.contact_id, d.id,
       (ARRAY['call', 'email', 'meeting', 'note'])[1 + pg_temp.pick(12, d.n * 3 + i, 4)],
       d.created_at + i * interval '5 days', 'About deal ' || d.n
  FROM deal AS d
 CROSS JOIN generate_series(0, 2) AS i
 ORDER BY d.n, i;
