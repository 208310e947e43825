#!/usr/bin/env python3
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fill an empty lending database with consistent data: the same rows for the same seed and number of payments.

python examples/rently/generate.py --dsn "dbname=rently_lending" --rows 100000 [--seed N]

--rows is the number of payments; parties, loans and allocations follow from it. Connection parameters that the DSN
leaves out come from libpq's environment (PGHOST, PGPASSFILE, ...), so a password need not be an argument.
Everything is one transaction: it is all there, or nothing is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

TABLES = ("party", "product", "loan", "payment", "payment_allocation")

# Randomness that is a function of seed, purpose and row number, so that it depends neither on the plan nor on
# parallel workers: whole numbers from 0 below a limit, and keys.
FUNCTIONS = """
CREATE FUNCTION pg_temp.pick(purpose integer, n bigint, below bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (hashint8extended(n, {seed} * 1000 + purpose) & 9223372036854775807) % below $$;

CREATE FUNCTION pg_temp.key(purpose integer, n bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (lpad(to_hex(hashint8extended(n, {seed} * 1000 + purpose)), 16, '0')
        || lpad(to_hex(hashint8extended(n, {seed} * 1000 + purpose + 500)), 16, '0'))::uuid $$;
"""

PRODUCTS = """
INSERT INTO public.product (id, code, name, category, created_at)
SELECT pg_temp.key(1, n), code, name, category, timestamptz '2022-12-01 09:00:00+00'
  FROM (VALUES
           (0, 'PL-12', 'Personal loan, short', 'personal'), (1, 'PL-60', 'Personal loan, long', 'personal'),
           (2, 'AUTO-N', 'New car', 'auto'), (3, 'AUTO-U', 'Used car', 'auto'),
           (4, 'HOME-R', 'Renovation', 'home'), (5, 'HOME-E', 'Energy retrofit', 'home'),
           (6, 'SME-W', 'Working capital', 'business'), (7, 'SME-E', 'Equipment', 'business'),
           (8, 'RENT-D', 'Rent deposit', 'rental'), (9, 'RENT-B', 'Rent bridge', 'rental')
       ) AS p (n, code, name, category)
"""

PARTIES = """
INSERT INTO public.party (id, party_type, display_name, email, created_at)
SELECT pg_temp.key(2, n),
       CASE WHEN pg_temp.pick(3, n, 100) < 8 THEN 'organization' ELSE 'person' END,
       (ARRAY['Ada', 'Bela', 'Chidi', 'Dana', 'Emre', 'Fatou', 'Goran', 'Hana', 'Ines', 'Jonas', 'Keiko', 'Luis',
              'Maëlle', 'Noor', 'Omar', 'Petra'])[1 + pg_temp.pick(4, n, 16)]
       || ' '
       || (ARRAY['Abel', 'Brandt', 'Costa', 'Diallo', 'Eriksen', 'Ferreira', 'Garcia', 'Horvat', 'Ito', 'Jansen',
                 'Kowalski', 'Lindqvist', 'Müller', 'Novak', 'O''Neill', 'Petrov'])[1 + pg_temp.pick(5, n, 16)],
       'party' || n || '@example.com',
       timestamptz '2022-12-01 00:00:00+00' + pg_temp.pick(6, n, 31 * 86400) * interval '1 second'
  FROM generate_series(0, %(parties)s - 1) AS n
"""

# The window is the three years 2023 to 2025. The last loans in order are pending: they have no payments yet. Closed
# loans ended within the window, active ones end after it.
LOANS = """
CREATE TEMPORARY TABLE new_loan ON COMMIT DROP AS
SELECT n, pg_temp.key(10, n) AS id, pg_temp.pick(11, n, %(parties)s) AS party, status, start_date,
       (start_date + months * interval '1 month')::date AS end_date,
       (500 + pg_temp.pick(12, n, 500) * 50)::numeric AS principal_amount,
       (ARRAY['EUR', 'EUR', 'EUR', 'USD', 'GBP'])[1 + pg_temp.pick(13, n, 5)] AS currency_code,
       0.02 + pg_temp.pick(14, n, 1600) / 10000.0 AS interest_rate
  FROM (SELECT n, status,
               date '2023-01-01' + CASE status
                   WHEN 'pending' THEN 1060 + pg_temp.pick(15, n, 35)
                   WHEN 'active' THEN pg_temp.pick(15, n, 1000)
                   ELSE pg_temp.pick(15, n, 700)
               END::integer AS start_date,
               CASE status
                   WHEN 'closed' THEN 6 + 3 * pg_temp.pick(16, n, 3)
                   ELSE 36 + 12 * pg_temp.pick(16, n, 3)
               END AS months
          FROM (SELECT n, CASE WHEN n >= %(payable)s THEN 'pending'
                               WHEN pg_temp.pick(17, n, 100) < 4 THEN 'written_off'
                               WHEN pg_temp.pick(17, n, 100) < 26 THEN 'closed'
                               ELSE 'active' END AS status
                  FROM generate_series(0, %(loans)s - 1) AS n) AS with_status) AS with_term;

INSERT INTO public.loan (id, loan_number, borrower_party_id, product_id, principal_amount, currency_code,
                         interest_rate, start_date, end_date, status, created_at)
SELECT id, 'RL-' || extract(year FROM start_date) || '-' || lpad(n::text, 7, '0'), pg_temp.key(2, party),
       pg_temp.key(1, pg_temp.pick(18, n, 10)), principal_amount, currency_code, interest_rate, start_date, end_date,
       status,
       (start_date::timestamp AT TIME ZONE 'UTC') - interval '2 days' + pg_temp.pick(19, n, 86400) * interval '1 second'
  FROM new_loan
 ORDER BY n
"""

# Payments go round the loans; each loan's payments are spread evenly over its life within the window. The parts are
# decided here, in cents, so that the amount and the allocations cannot differ: one payment in ten is split into
# principal and interest, one in twenty is a fee alone.
PAYMENTS = """
CREATE TEMPORARY TABLE new_payment ON COMMIT DROP AS
SELECT n, pg_temp.key(20, n) AS id, loan_id, party, currency_code, received_at,
       CASE WHEN pg_temp.pick(21, n, 100) < 3 THEN 'failed'
            WHEN received_at > timestamptz '2025-12-01 00:00:00+00' AND pg_temp.pick(22, n, 10) < 3 THEN 'pending'
            ELSE 'completed' END AS status,
       CASE WHEN kind = 0 THEN 0 ELSE installment END AS principal_cents,
       CASE WHEN kind BETWEEN 1 AND 2 THEN GREATEST(1, installment * rate_bp / 10000) ELSE 0 END AS interest_cents,
       CASE WHEN kind = 0 THEN 500 + pg_temp.pick(24, n, 2000) ELSE 0 END AS fee_cents
  FROM (SELECT i.n, l.id AS loan_id, l.party, l.currency_code,
               pg_temp.pick(23, i.n, 20) AS kind,
               GREATEST(1, (l.principal_amount * 100)::bigint / %(per_loan)s
                           * CASE l.status WHEN 'active' THEN 60 WHEN 'written_off' THEN 30 ELSE 100 END / 100)
                   AS installment,
               (l.interest_rate * 10000)::bigint AS rate_bp,
               date_trunc('second',
                   l.begins + (i.n / %(payable)s + pg_temp.pick(25, i.n, 1000) / 1000.0) / %(per_loan)s
                            * (LEAST(l.ends, timestamptz '2026-01-01 00:00:00+00') - l.begins)) AS received_at
          FROM generate_series(0, %(rows)s - 1) AS i (n)
          JOIN (SELECT *, start_date::timestamp AT TIME ZONE 'UTC' AS begins,
                       end_date::timestamp AT TIME ZONE 'UTC' AS ends
                  FROM new_loan) AS l ON l.n = i.n %% %(payable)s) AS due;

INSERT INTO public.payment (id, payer_party_id, amount, currency_code, received_at, status, external_reference,
                            created_at)
SELECT id, pg_temp.key(2, party), (principal_cents + interest_cents + fee_cents) / 100.0, currency_code, received_at,
       status, 'P' || lpad(n::text, 11, '0'), received_at + interval '1 second'
  FROM new_payment
 ORDER BY n
"""

ALLOCATIONS = """
INSERT INTO public.payment_allocation (id, payment_id, loan_id, component, allocated_amount, created_at)
SELECT pg_temp.key(30 + part.n, p.n), p.id, p.loan_id, part.component, part.cents / 100.0,
       p.received_at + interval '1 second'
  FROM new_payment AS p
 CROSS JOIN LATERAL (VALUES (0, 'principal', p.principal_cents), (1, 'interest', p.interest_cents),
                            (2, 'fee', p.fee_cents)) AS part (n, component, cents)
 WHERE p.status = 'completed'
   AND part.cents > 0
 ORDER BY p.n, part.n
"""


def report(table: str, rows: int, started: float) -> None:
    """Print one line of progress."""
    print("%-20s %12s rows  %7.1f s" % (table, format(rows, ","), time.monotonic() - started), flush=True)


def refuse_unless_empty(cursor: Cursor) -> None:
    """Exit with a message when a table is missing or holds rows, so that nothing is ever mixed with real data."""
    for table in TABLES:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", ("public." + table,))
        if cursor.fetchone() != (True,):
            sys.exit("Table public.%s does not exist: apply the migration v1.0.0 first. Nothing was changed." % table)
        cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM public.{})").format(sql.Identifier(table)))
        if cursor.fetchone() != (False,):
            sys.exit(
                "Table public.%s holds rows: sample data goes into empty tables only. Nothing was changed." % table
            )


@contextmanager
def without_indexes(cursor: Cursor) -> Iterator[None]:
    """Drop foreign keys and secondary indexes for the block, and build them again from their own definitions.

    One pass over the finished table is several times faster than one look-up per row, and leaves dense indexes. It is
    safe because all of it is one transaction: nobody ever sees the tables without them.
    """
    cursor.execute(
        """
        SELECT c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid)
          FROM pg_constraint AS c
         WHERE c.contype = 'f' AND c.conrelid = ANY (%s::regclass[])
         ORDER BY c.oid
        """,
        (["public." + table for table in TABLES],),
    )
    foreign_keys = cursor.fetchall()
    cursor.execute(
        """
        SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
          FROM pg_index AS i
         WHERE i.indrelid = ANY (%s::regclass[])
           AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)
         ORDER BY i.indexrelid
        """,
        (["public." + table for table in TABLES],),
    )
    indexes = cursor.fetchall()
    for relation, name, _definition in foreign_keys:
        cursor.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.SQL(relation), sql.Identifier(name)))
    for name, _definition in indexes:
        cursor.execute(sql.SQL("DROP INDEX {}").format(sql.SQL(name)))
    yield
    started = time.monotonic()
    for _name, definition in indexes:
        cursor.execute(definition)
    for relation, name, definition in foreign_keys:
        cursor.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                sql.SQL(relation), sql.Identifier(name), sql.SQL(definition)
            )
        )
    print(
        "%-20s %12d built %7.1f s" % ("indexes and keys", len(indexes) + len(foreign_keys), time.monotonic() - started),
        flush=True,
    )


def generate(connection: Connection, *, rows: int, seed: int) -> None:
    """Fill the empty tables with ``rows`` payments and what belongs to them, in one transaction."""
    loans = max(1, rows // 25)
    payable = max(1, loans * 97 // 100)
    sizes = {
        "rows": rows,
        "loans": loans,
        "payable": payable,
        "parties": max(1, rows // 50),
        "per_loan": -(-rows // payable),
    }
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")
        cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
        cursor.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        refuse_unless_empty(cursor)
        cursor.execute(sql.SQL(FUNCTIONS).format(seed=sql.Literal(seed)))
        with without_indexes(cursor):
            for table, statements in zip(TABLES, (PARTIES, PRODUCTS, LOANS, PAYMENTS, ALLOCATIONS)):
                started = time.monotonic()
                cursor.execute(statements, sizes)
                report(table, cursor.rowcount, started)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, generate, and leave fresh statistics behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dsn", default="", help="libpq connection string or URI; the rest comes from PG* variables")
    parser.add_argument("--rows", type=int, default=100_000, help="number of payments (default 100000)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same rows (default 1)")
    arguments = parser.parse_args(argv)
    if arguments.rows < 1:
        parser.error("--rows must be at least 1")
    started = time.monotonic()
    connection = psycopg2.connect(arguments.dsn, application_name="rently-generate")
    try:
        connection.set_client_encoding("UTF8")
        generate(connection, rows=arguments.rows, seed=arguments.seed)
        connection.autocommit = True
        with connection.cursor() as cursor:
            # Sets hint bits too, so that the first reader of the new rows does not write them all again.
            cursor.execute(
                "VACUUM (ANALYZE) public.party, public.product, public.loan, public.payment, public.payment_allocation"
            )
            cursor.execute("SELECT pg_size_pretty(pg_database_size(current_database()))")
            size = cursor.fetchone()
    finally:
        connection.close()
    print("done in %.1f s, database size %s" % (time.monotonic() - started, size[0] if size else "unknown"))


if __name__ == "__main__":
    main()
