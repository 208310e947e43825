-- Fill empty books: the same rows for the same seed and number of transactions.
--
--   PGOPTIONS='-c generate.rows=5000 -c generate.seed=1' \
--     psql --dbname=core_banking --single-transaction -v ON_ERROR_STOP=1 -f examples/core_banking/data.sql
--
-- It refuses tables that hold rows. Everything is booked in the year 2025; the last day with a snapshot is its last day.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL TimeZone = 'UTC';

DO $refuse$
BEGIN
    IF EXISTS (SELECT FROM public.accounts) OR EXISTS (SELECT FROM public.transactions) THEN
        RAISE EXCEPTION 'the database holds rows: sample data goes into empty tables only';
    END IF;
END
$refuse$;

CREATE FUNCTION pg_temp.rows() RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT COALESCE(NULLIF(current_setting('generate.rows', true), ''), '5000')::bigint $$;

-- Whole numbers from 0 below a limit, as a function of seed, purpose and row.
CREATE FUNCTION pg_temp.pick(purpose integer, n bigint, below bigint) RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT (hashint8extended(n, COALESCE(NULLIF(current_setting('generate.seed', true), ''), '1')::bigint * 1000 + purpose)
           & 9223372036854775807) % below $$;

-- The chart of accounts: one heading for each type, cash and fees below them, then customers and loans.
INSERT INTO public.accounts (code, name, account_type, currency_code, created_at)
SELECT code, name, type, 'EUR', timestamptz '2024-12-01 09:00:00+00'
  FROM (VALUES ('1000', 'Assets', 'asset'), ('2000', 'Liabilities', 'liability'), ('3000', 'Equity', 'equity'),
               ('4000', 'Income', 'income'), ('5000', 'Expenses', 'expense')) AS a (code, name, type);
INSERT INTO public.accounts (code, name, account_type, parent_id, currency_code, created_at)
SELECT a.code, a.name, p.account_type, p.id, 'EUR', p.created_at
  FROM (VALUES ('1010', 'Cash', '1000'), ('1200', 'Loans receivable', '1000'), ('2010', 'Deposits', '2000'),
               ('3010', 'Capital', '3000'), ('4010', 'Fees', '4000'), ('5010', 'Bank charges', '5000'))
       AS a (code, name, parent)
  JOIN public.accounts AS p ON p.code = a.parent;
INSERT INTO public.accounts (code, name, account_type, parent_id, currency_code, overdraft_limit, created_at)
SELECT '2010-' || lpad(n::text, 6, '0'), 'Customer ' || n, 'liability', p.id, 'EUR',
       CASE WHEN n % 3 = 0 THEN 1000000 ELSE 0 END, p.created_at
  FROM generate_series(1, GREATEST(10, pg_temp.rows() / 50)) AS n
  JOIN public.accounts AS p ON p.code = '2010';
INSERT INTO public.accounts (code, name, account_type, parent_id, currency_code, created_at)
SELECT '1200-' || lpad(n::text, 6, '0'), 'Loan of customer ' || n, 'asset', p.id, 'EUR', p.created_at
  FROM generate_series(1, GREATEST(10, pg_temp.rows() / 50), 2) AS n
  JOIN public.accounts AS p ON p.code = '1200';

-- What is booked, in cents: the capital first; then deposits, transfers with a fee, and loans paid out in January and
-- paid back in instalments. Customers begin with a deposit that no later transfer can use up.
CREATE TEMPORARY TABLE booking ON COMMIT DROP AS
SELECT n, kind, cents, fee, customer, other,
       CASE kind WHEN 'capital' THEN timestamptz '2025-01-01 08:00:00+00'
                 WHEN 'opening' THEN timestamptz '2025-01-02 08:00:00+00' + n * interval '1 millisecond'
                 WHEN 'loan' THEN timestamptz '2025-01-03 08:00:00+00' + (n - 1000000000) * interval '1 millisecond'
                 ELSE timestamptz '2025-01-05 00:00:00+00' + pg_temp.pick(10, n, 360 * 86400) * interval '1 second' END
           AS booked_at
  FROM (SELECT 0 AS n, 'capital' AS kind, 100000000000 AS cents, 0 AS fee, 0 AS customer, 0 AS other
        UNION ALL
        SELECT n, 'opening', 100000000, 0, n, 0 FROM generate_series(1, GREATEST(10, pg_temp.rows() / 50)) AS n
        UNION ALL
        SELECT 1000000000 + n, 'loan', 5000000 + pg_temp.pick(11, n, 45000000), 0, n, 0
          FROM generate_series(1, GREATEST(10, pg_temp.rows() / 50), 2) AS n
        UNION ALL
        SELECT 2000000000 + n,
               CASE WHEN pg_temp.pick(12, n, 10) < 3 THEN 'deposit'
                    WHEN pg_temp.pick(12, n, 10) < 8 THEN 'transfer'
                    ELSE 'instalment' END,
               100 + pg_temp.pick(13, n, 100000), 35,
               1 + 2 * pg_temp.pick(14, n, GREATEST(10, pg_temp.rows() / 50) / 2),
               1 + (1 + 2 * pg_temp.pick(14, n, GREATEST(10, pg_temp.rows() / 50) / 2))
                   % GREATEST(10, pg_temp.rows() / 50)
          FROM generate_series(1, pg_temp.rows()) AS n) AS b;

-- One in fifty waits, and one in a hundred was given up: neither has entries.
INSERT INTO public.transactions (reference, description, status, currency_code, posted_at, created_at)
SELECT 'T' || lpad(n::text, 12, '0'), kind, status, 'EUR', CASE WHEN status = 'posted' THEN booked_at END, booked_at
  FROM (SELECT b.*, CASE WHEN n < 2000000000 THEN 'posted'
                         WHEN pg_temp.pick(15, n, 100) < 2 THEN 'pending'
                         WHEN pg_temp.pick(15, n, 100) < 3 THEN 'void'
                         ELSE 'posted' END AS status
          FROM booking AS b) AS with_status
 ORDER BY booked_at, n;

INSERT INTO public.entries (transaction_id, account_id, debit, credit, created_at)
SELECT t.id, a.id, CASE WHEN part.cents > 0 THEN part.cents / 100.0 END, CASE WHEN part.cents < 0 THEN -part.cents / 100.0 END,
       b.booked_at
  FROM booking AS b
  JOIN public.transactions AS t ON t.reference = 'T' || lpad(b.n::text, 12, '0') AND t.status = 'posted'
 CROSS JOIN LATERAL (SELECT '2010-' || lpad(b.customer::text, 6, '0'), '2010-' || lpad(b.other::text, 6, '0'),
                            '1200-' || lpad(b.customer::text, 6, '0')) AS c (customer, other, loan)
 CROSS JOIN LATERAL (VALUES
           ('capital', '1010', b.cents), ('capital', '3010', -b.cents),
           ('opening', '1010', b.cents), ('opening', c.customer, -b.cents),
           ('loan', c.loan, b.cents), ('loan', c.customer, -b.cents),
           ('deposit', '1010', b.cents), ('deposit', c.customer, -b.cents),
           ('transfer', c.customer, b.cents + b.fee), ('transfer', c.other, -b.cents), ('transfer', '4010', -b.fee),
           ('instalment', c.customer, b.cents), ('instalment', c.loan, -b.cents)
       ) AS part (kind, code, cents)
  JOIN public.accounts AS a ON a.code = part.code
 WHERE part.kind = b.kind
 ORDER BY b.booked_at, b.n;

-- Ten of the last transfers were wrong and are reversed on the last day.
WITH wrong AS (
    SELECT id, reference, currency_code
      FROM public.transactions
     WHERE status = 'posted' AND description = 'transfer'
     ORDER BY id DESC
     LIMIT 10
),
reversal AS (
    INSERT INTO public.transactions (reference, description, status, currency_code, reversal_of_id, posted_at, created_at)
    SELECT 'R' || reference, 'reversal', 'posted', currency_code, id, timestamptz '2025-12-31 18:00:00+00',
           timestamptz '2025-12-31 18:00:00+00'
      FROM wrong
     ORDER BY id
    RETURNING id, reversal_of_id, created_at
)
INSERT INTO public.entries (transaction_id, account_id, debit, credit, created_at)
SELECT r.id, e.account_id, e.credit, e.debit, r.created_at
  FROM reversal AS r
  JOIN public.entries AS e ON e.transaction_id = r.reversal_of_id
 ORDER BY r.id, e.id;

UPDATE public.accounts AS a
   SET current_balance = e.balance
  FROM (SELECT account_id, sum(COALESCE(debit, 0) - COALESCE(credit, 0)) AS balance
          FROM public.entries
         GROUP BY account_id) AS e
 WHERE e.account_id = a.id;

INSERT INTO public.loans (loan_number, account_id, principal_amount, disbursed_on, oldest_unpaid_on)
SELECT 'L' || right(a.code, 6), a.id, max(e.debit), date '2025-01-03',
       CASE WHEN pg_temp.pick(16, a.id, 10) < 3 THEN date '2025-12-31' - pg_temp.pick(17, a.id, 120)::integer END
  FROM public.accounts AS a
  JOIN public.entries AS e ON e.account_id = a.id AND e.created_at < timestamptz '2025-01-05 00:00:00+00'
 WHERE a.code LIKE '1200-%'
 GROUP BY a.id, a.code
 ORDER BY a.id;

SELECT public.take_balance_snapshots(day)
  FROM (VALUES (date '2025-06-30'), (date '2025-12-30'), (date '2025-12-31')) AS d (day);
REFRESH MATERIALIZED VIEW public.loan_aging_report;
