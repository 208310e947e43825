# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample lending platform: its steps up and down, its data, what its suites notice, its monitoring."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from decimal import Decimal

import psycopg2
import pytest

from tests.support.rently import BROKEN, V1, V2, contents, generate, not_held, run_suite, schema, step
from tests.support.server import TestServer, distribution_bin_dir

SERVERS = ("pg18", "pg16", "pg_distribution")


class Sample:
    """A server with one database of each version, filled, to copy from."""

    def __init__(self, server: TestServer) -> None:
        self.server = server
        prefix = "rently_" + uuid.uuid4().hex[:8]
        self.v1, self.v2 = prefix + "_v1", prefix + "_v2"
        self.copies: list[str] = []
        server.create_database(self.v1)
        step(server, self.v1, V1)
        step(server, self.v1, V1, "verify")
        self.generated = generate(server, self.v1)
        assert self.generated.returncode == 0, self.generated.stderr
        self.copies.append(self._copy(self.v1, self.v2))
        step(server, self.v2, V2)
        step(server, self.v2, V2, "verify")

    def _copy(self, source: str, target: str) -> str:
        self.server.execute('CREATE DATABASE "%s" TEMPLATE "%s"' % (target, source))
        return target

    def copy(self, source: str) -> str:
        self.copies.append(self._copy(source, "rently_" + uuid.uuid4().hex[:12]))
        return self.copies[-1]

    def remove(self) -> None:
        for database in (*self.copies, self.v1):
            self.server.drop_database(database)


@pytest.fixture(scope="module", params=SERVERS)
def sample(request: pytest.FixtureRequest) -> Iterator[Sample]:
    made = Sample(request.getfixturevalue(request.param))
    yield made
    made.remove()


@pytest.fixture(scope="module")
def sample18(pg18: TestServer) -> Iterator[Sample]:
    made = Sample(pg18)
    yield made
    made.remove()


def one(server: TestServer, database: str, sql: str, parameters: object = None) -> object:
    return server.execute(sql, parameters, database=database)[0][0]


# The steps


def test_step_down_restores_exactly_the_schema_before_and_up_works_again(sample: Sample) -> None:
    server, database = sample.server, sample.copy(sample.v1)
    before, rows = schema(server, database), contents(server, database)
    step(server, database, V2)
    above = schema(server, database)
    step(server, database, V2, "down")
    assert schema(server, database) == before
    assert contents(server, database) == rows
    step(server, database, V2)
    step(server, database, V2, "verify")
    assert schema(server, database) == above
    step(server, database, V2, "down")
    step(server, database, V1, "down")
    assert (
        server.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relname NOT LIKE 'schema_version%'",
            database=database,
        )
        == []
    )


def test_step_down_stops_at_what_somebody_built_on_top(sample18: Sample) -> None:
    server, database = sample18.server, sample18.copy(sample18.v2)
    server.execute("CREATE VIEW mine AS SELECT loan_id FROM public.collections_event", database=database)
    before = schema(server, database)
    with pytest.raises(psycopg2.errors.DependentObjectsStillExist):
        step(server, database, V2, "down")
    assert schema(server, database) == before


@pytest.mark.parametrize(
    ("version", "damage", "message"),
    [
        (V1, "ALTER TABLE loan RENAME COLUMN end_date TO ends", "loan.end_date"),
        (V1, "ALTER TABLE loan DROP CONSTRAINT loan_status_known", "loan_status_known"),
        (V1, "DROP INDEX idx_payment_allocation_loan_id", "idx_payment_allocation_loan_id"),
        (V2, "DROP VIEW v_performance_dashboard", "v_performance_dashboard"),
        (V2, "DROP INDEX idx_collections_event_dpd", "idx_collections_event_dpd"),
        (V2, "REFRESH MATERIALIZED VIEW mv_current_loan_status WITH NO DATA", "mv_current_loan_status"),
        (V2, "DELETE FROM loan_status_history WHERE status_value = 'pending'", "loans have a status"),
        (V2, "UPDATE loan_status_history SET effective_through = now()", "loans have a"),
    ],
)
def test_verify_refuses_what_the_step_did_not_do(sample18: Sample, version: str, damage: str, message: str) -> None:
    database = sample18.copy(sample18.v2)
    sample18.server.execute(damage, database=database)
    with pytest.raises(psycopg2.errors.RaiseException, match=message):
        step(sample18.server, database, version, "verify")


def test_every_loan_starts_its_history_with_its_own_status_and_date(sample: Sample) -> None:
    assert (
        sample.server.execute(
            """
            SELECT l.id, l.status, l.created_at FROM loan AS l
            EXCEPT
            SELECT loan_id, status_value, effective_from FROM loan_status_history
             WHERE status_type = 'loan_status' AND effective_through IS NULL
            """,
            database=sample.v2,
        )
        == []
    )


# The data


def test_data_satisfy_every_suite_of_their_version(sample: Sample) -> None:
    server = sample.server
    for suite in ("pre", "data_quality", "emergency"):
        for database in (sample.v1, sample.v2):
            results = run_suite(server, database, suite)
            assert not_held(results) == not_held(results, "warning") == set(), results
    results = run_suite(server, sample.v2, "post")
    assert not_held(results) == set(), results


def test_data_are_the_same_for_the_same_seed_on_every_server(sample: Sample, sample18: Sample) -> None:
    assert contents(sample.server, sample.v1) == contents(sample18.server, sample18.v1)


def test_data_differ_by_seed_and_leave_the_schema_as_it_was(sample18: Sample) -> None:
    server = sample18.server
    database = "rently_" + uuid.uuid4().hex[:12]
    sample18.copies.append(server.create_database(database))
    step(server, database, V1)
    before = schema(server, database)
    assert generate(server, database, seed=-2).returncode == 0
    assert schema(server, database) == before
    ours, others = contents(server, database), contents(server, sample18.v1)
    assert all(ours[table] != others[table] for table in ours)
    assert not_held(run_suite(server, database, "data_quality")) == set()


@pytest.mark.parametrize("rows", [1, 7, 60])
def test_small_samples_are_consistent_too(sample18: Sample, rows: int) -> None:
    server = sample18.server
    database = "rently_" + uuid.uuid4().hex[:12]
    sample18.copies.append(server.create_database(database))
    step(server, database, V1)
    made = generate(server, database, rows=rows)
    assert made.returncode == 0, made.stderr
    assert one(server, database, "SELECT count(*) FROM payment") == rows
    assert not_held(run_suite(server, database, "data_quality")) == set()
    step(server, database, V2)
    step(server, database, V2, "verify")


def test_data_are_varied(sample18: Sample) -> None:
    server, database = sample18.server, sample18.v1
    statuses = {row[0] for row in server.execute("SELECT DISTINCT status FROM loan", database=database)}
    assert statuses == {"active", "closed", "written_off", "pending"}
    statuses = {row[0] for row in server.execute("SELECT DISTINCT status FROM payment", database=database)}
    assert statuses == {"completed", "failed", "pending"}
    sizes = server.execute(
        "SELECT DISTINCT count(*) FROM payment_allocation GROUP BY payment_id ORDER BY 1", database=database
    )
    assert sizes == [(1,), (2,)]
    assert one(server, database, "SELECT max(received_at) - min(received_at) > '1000 days' FROM payment")
    assert "payment_allocation" in sample18.generated.stdout


def test_generator_refuses_to_mix_with_rows_that_are_there(sample18: Sample) -> None:
    before = contents(sample18.server, sample18.v1)
    refused = generate(sample18.server, sample18.v1)
    assert refused.returncode != 0
    assert "holds rows" in refused.stderr
    assert contents(sample18.server, sample18.v1) == before


def test_generator_says_what_is_missing(database: str, pg18: TestServer) -> None:
    refused = generate(pg18, database)
    assert refused.returncode != 0
    assert "apply the migration v1.0.0 first" in refused.stderr


# What the suites notice

ORPHANED = "SET session_replication_role = replica; "
DATA_FAULTS = {
    "Loans have number, borrower and principal": (
        "ALTER TABLE loan ALTER loan_number DROP NOT NULL;"
        "UPDATE loan SET loan_number = NULL WHERE id = (SELECT min(id::text)::uuid FROM loan)"
    ),
    "Payments have amount, currency and date of receipt": (
        "ALTER TABLE payment ALTER received_at DROP NOT NULL;"
        "UPDATE payment SET received_at = NULL WHERE id = (SELECT min(id::text)::uuid FROM payment)"
    ),
    "Every allocation belongs to a payment": (
        ORPHANED + "DELETE FROM payment WHERE id = (SELECT min(payment_id::text)::uuid FROM payment_allocation)"
    ),
    "Every allocation belongs to a loan": (
        ORPHANED + "DELETE FROM loan WHERE id = (SELECT min(loan_id::text)::uuid FROM payment_allocation)"
    ),
    "Every loan belongs to a product": ORPHANED + "DELETE FROM product WHERE code = 'PL-12'",
    "Every loan belongs to a borrower": (
        ORPHANED + "DELETE FROM party WHERE id = (SELECT min(borrower_party_id::text)::uuid FROM loan)"
    ),
    "Every loan has a known status": (
        "ALTER TABLE loan DROP CONSTRAINT loan_status_known;"
        "UPDATE loan SET status = 'defaulted' WHERE id = (SELECT min(id::text)::uuid FROM loan)"
    ),
    "Every completed payment is allocated": "DELETE FROM payment_allocation WHERE component = 'fee'",
    "Allocations of completed payments add up to the payment": (
        "UPDATE payment_allocation SET allocated_amount = allocated_amount + 0.02"
        " WHERE id = (SELECT min(id::text)::uuid FROM payment_allocation)"
    ),
    "Only completed payments are allocated": (
        "INSERT INTO payment_allocation (payment_id, loan_id, allocated_amount)"
        " SELECT p.id, l.id, 1 FROM payment AS p, loan AS l WHERE p.status = 'failed' LIMIT 1"
    ),
    "Loans end after they start": (
        "ALTER TABLE loan DROP CONSTRAINT loan_ends_after_it_starts;"
        "UPDATE loan SET end_date = start_date WHERE id = (SELECT min(id::text)::uuid FROM loan)"
    ),
    "Interest rates lie between 0 and 1": (
        "ALTER TABLE loan DROP CONSTRAINT loan_interest_rate_is_fraction;"
        "UPDATE loan SET interest_rate = 1.5 WHERE id = (SELECT min(id::text)::uuid FROM loan)"
    ),
}
EMERGENCY_FAULTS = {
    "The tables of the platform exist": "ALTER TABLE party RENAME TO people",
    "There are loans and payments": "TRUNCATE loan, payment, payment_allocation",
    "Allocations in the sample belong to a payment": DATA_FAULTS["Every allocation belongs to a payment"],
    "The newest completed payments equal the sum of their allocations": (
        DATA_FAULTS["Every completed payment is allocated"]
    ),
    "Every loan has a known status": DATA_FAULTS["Every loan has a known status"],
}
PRE_FAULTS = {
    "The schema version is recorded": "DELETE FROM schema_version",
    "Every allocation belongs to a payment": DATA_FAULTS["Every allocation belongs to a payment"],
    "Every loan has a known status": DATA_FAULTS["Every loan has a known status"],
    "Completed payments equal the sum of their allocations": DATA_FAULTS[
        "Allocations of completed payments add up to the payment"
    ],
}
POST_FAULTS = {
    "The schema is at version 2": "DELETE FROM schema_version WHERE version = 'v2.0.0'",
    "The new tables exist": "ALTER TABLE collections_event RENAME TO collections_events",
    "The new indexes exist and are valid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_collections_event_dpd'::regclass"
    ),
    "No constraint of the platform is waiting for validation": (
        "ALTER TABLE loan ADD CONSTRAINT loan_cheap CHECK (interest_rate < 0.9) NOT VALID"
    ),
    "The triggers that record a loan's status are enabled": (
        "ALTER TABLE loan DISABLE TRIGGER loan_status_recorded_on_update"
    ),
    "The current loan status is filled": (
        "UPDATE loan SET status = 'closed' WHERE status = 'active'; SELECT refresh_materialized_views();"
        "UPDATE loan SET status = 'active' WHERE status = 'closed'"
    ),
    "The current loan status knows only existing loans": (
        ORPHANED + "DELETE FROM loan WHERE id = (SELECT loan_id FROM mv_current_loan_status LIMIT 1)"
    ),
    "Every collections event belongs to a loan": (
        ORPHANED + "INSERT INTO collections_event (loan_id, event_type) VALUES (gen_random_uuid(), 'call')"
    ),
    "Every entry of the status history belongs to a loan": (
        ORPHANED + "INSERT INTO loan_status_history (loan_id, status_type, status_value)"
        " VALUES (gen_random_uuid(), 'risk_level', 'high')"
    ),
    "The history has the present status of every loan": (
        ORPHANED + "UPDATE loan SET status = 'written_off' WHERE status = 'pending'"
    ),
    "Every allocation belongs to a payment": DATA_FAULTS["Every allocation belongs to a payment"],
    "Every completed payment is allocated": DATA_FAULTS["Every completed payment is allocated"],
    "Allocations of completed payments add up to the payment": (
        DATA_FAULTS["Allocations of completed payments add up to the payment"]
    ),
    "The portfolio overview answers within ten seconds": "DROP VIEW v_loan_portfolio_overview",
    "The collections performance answers within three seconds": "DROP VIEW v_collections_performance",
    "The current loan status answers within three seconds": (
        "REFRESH MATERIALIZED VIEW mv_current_loan_status WITH NO DATA"
    ),
    "One bucket of overdue loans is found within three seconds": (
        "REFRESH MATERIALIZED VIEW mv_current_loan_status WITH NO DATA"
    ),
    "The system health is one row": "DROP FUNCTION statement_statistics() CASCADE",
    "The performance dashboard has its three sections": "DROP FUNCTION statement_statistics() CASCADE",
    "The alert function answers": "DROP VIEW v_system_health CASCADE",
    "Whoever may read or write loans may do the same with the new tables, and no more": (
        "GRANT SELECT ON loan TO pg_monitor"
    ),
}
FAULTS = [
    (suite, check, fault)
    for suite, faults in (
        ("pre", PRE_FAULTS),
        ("data_quality", DATA_FAULTS),
        ("emergency", EMERGENCY_FAULTS),
        ("post", POST_FAULTS),
    )
    for check, fault in faults.items()
]


@pytest.mark.parametrize(("suite", "check", "fault"), FAULTS, ids=["%s: %s" % f[:2] for f in FAULTS])
def test_suites_notice(sample18: Sample, suite: str, check: str, fault: str) -> None:
    server = sample18.server
    database = sample18.copy(sample18.v2 if suite == "post" else sample18.v1)
    server.execute(fault, database=database)
    try:
        results = run_suite(server, database, suite)
    finally:
        server.drop_database(database)
    assert check in not_held(results)
    if check in DATA_FAULTS and suite != "post":
        assert results[check]["sample"], "the message shows no offending row"


def test_every_error_check_has_a_fault_that_it_notices(sample18: Sample) -> None:
    faulty = {(suite, check) for suite, check, _ in FAULTS}
    unproven = {
        (suite, name)
        for suite in ("pre", "data_quality", "emergency", "post")
        for name, result in run_suite(sample18.server, sample18.v2, suite).items()
        if result["severity"] == "error"
    } - faulty
    # These only fail together with the connection, or on a server that the collection refuses.
    assert unproven == {("pre", "The server answers and its version is supported"), ("post", "The server answers")}


def test_a_cent_of_rounding_is_tolerated(sample18: Sample) -> None:
    database = sample18.copy(sample18.v1)
    sample18.server.execute(
        "UPDATE payment_allocation SET allocated_amount = allocated_amount - 0.01"
        " WHERE id = (SELECT min(id::text)::uuid FROM payment_allocation)",
        database=database,
    )
    assert not_held(run_suite(sample18.server, database, "data_quality")) == set()
    assert not_held(run_suite(sample18.server, database, "data_quality", tolerance=0)) == {
        "Allocations of completed payments add up to the payment"
    }


def test_long_transactions_are_named(sample18: Sample) -> None:
    connection = sample18.server.connect(sample18.v1, application_name="forgotten")
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN; SELECT 1")
            results = run_suite(sample18.server, sample18.v1, "pre", long_transaction_minutes=0)
    finally:
        connection.close()
    name = "No transaction has been open for long"
    assert name in not_held(results, "warning")
    assert "forgotten" in {row["application_name"] for row in results[name]["sample"]}


def test_emergency_suite_answers_in_under_a_second(sample18: Sample) -> None:
    server = sample18.server
    database = "rently_" + uuid.uuid4().hex[:12]
    sample18.copies.append(server.create_database(database))
    step(server, database, V1)
    assert generate(server, database, rows=100_000).returncode == 0
    results = run_suite(server, database, "emergency")
    assert not_held(results) == set()
    assert not_held(run_suite(server, database, "emergency", sample=1_000_000)) == set()
    assert sum(result["duration_ms"] for result in results.values()) < 1000


# The broken migration


def test_broken_migration_succeeds_and_both_suites_notice_the_loss(sample: Sample) -> None:
    server, database = sample.server, sample.copy(sample.v2)
    step(server, database, BROKEN)
    for suite in ("post", "data_quality"):
        assert not_held(run_suite(server, database, suite)) == {
            "Every completed payment is allocated",
            "Allocations of completed payments add up to the payment",
        }
    step(server, database, BROKEN, "down")
    assert schema(server, database) == schema(server, sample.v2)
    assert contents(server, database) != contents(server, sample.v2)


# Status history and materialized view


def test_changes_of_a_loan_are_recorded_without_gaps(sample18: Sample) -> None:
    server, database = sample18.server, sample18.copy(sample18.v2)
    loan = one(server, database, "SELECT id FROM loan WHERE status = 'pending' LIMIT 1")
    server.execute("UPDATE loan SET status = 'active' WHERE id = %s", (loan,), database=database)
    server.execute("UPDATE loan SET principal_amount = principal_amount WHERE id = %s", (loan,), database=database)
    server.execute(  # one transaction, one timestamp
        "UPDATE loan SET status = 'written_off' WHERE id = %(l)s; UPDATE loan SET status = 'closed' WHERE id = %(l)s",
        {"l": loan},
        database=database,
    )
    history = server.execute(
        "SELECT status_value, effective_from, effective_through FROM loan_status_history WHERE loan_id = %s"
        " ORDER BY effective_from, effective_through NULLS LAST",
        (loan,),
        database=database,
    )
    assert [row[0] for row in history] == ["pending", "active", "written_off", "closed"]
    assert [row[2] for row in history[:-1]] == [row[1] for row in history[1:]]
    assert history[-1][2] is None


def test_history_is_written_for_roles_that_may_not_write_it(sample18: Sample) -> None:
    server, database = sample18.server, sample18.copy(sample18.v2)
    role = "clerk_" + uuid.uuid4().hex[:8]
    server.execute("CREATE ROLE %s" % role)
    server.execute("GRANT SELECT, UPDATE ON loan TO %s" % role, database=database)
    try:
        server.execute(
            "SET ROLE %s; UPDATE loan SET status = 'closed' WHERE status = 'pending'" % role, database=database
        )
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            server.execute("SET ROLE %s; DELETE FROM loan_status_history" % role, database=database)
    finally:
        server.execute("DROP OWNED BY %s" % role, database=database)
        server.execute("DROP ROLE %s" % role)
    results = run_suite(server, database, "post")
    assert results["The history has the present status of every loan"]["status"] == "passed"


def test_days_past_due_are_those_of_the_newest_event(sample: Sample) -> None:
    server, database = sample.server, sample.copy(sample.v2)
    server.execute(
        """
        INSERT INTO collections_event (loan_id, event_type, event_at, dpd_snapshot, resolution_status)
        SELECT l.id, 'call', now() - age.days * interval '1 day', age.dpd, age.resolution
          FROM (SELECT id, row_number() OVER (ORDER BY loan_number) AS n FROM loan WHERE status = 'active') AS l
          JOIN (VALUES (1, 9, 95, NULL), (1, 1, 0, 'resolved'), (2, 1, 1, NULL), (3, 1, 30, NULL), (4, 1, 31, NULL),
                       (5, 1, 60, NULL), (6, 1, 61, NULL), (7, 1, 90, NULL), (8, 1, 91, NULL), (8, 0, NULL, NULL))
               AS age (n, days, dpd, resolution) ON age.n = l.n;
        INSERT INTO loan_status_history (loan_id, status_type, status_value)
        SELECT id, 'risk_level', 'high' FROM loan WHERE status = 'active' ORDER BY loan_number LIMIT 1;
        """,
        database=database,
    )
    refreshed = server.execute("SELECT * FROM refresh_materialized_views()", database=database)
    assert [(row[0], row[1], row[2] > 0) for row in refreshed] == [("public.mv_current_loan_status", True, True)]
    rows = server.execute(
        "SELECT current_dpd, dpd_bucket, current_risk_level FROM mv_current_loan_status ORDER BY loan_number LIMIT 9",
        database=database,
    )
    assert rows == [
        (0, "Current", "high"),
        (1, "1-30 DPD", "normal"),
        (30, "1-30 DPD", "normal"),
        (31, "31-60 DPD", "normal"),
        (60, "31-60 DPD", "normal"),
        (61, "61-90 DPD", "normal"),
        (90, "61-90 DPD", "normal"),
        (91, "90+ DPD", "normal"),
        (0, "Current", "normal"),
    ]
    assert server.execute(
        "SELECT event_type, events, loans, resolved_events, resolution_rate_pct, highest_dpd"
        "  FROM v_collections_performance",
        database=database,
    ) == [("call", 10, 8, 1, Decimal("10.00"), 95)]


def test_refresh_fills_a_view_that_was_restored_without_data(sample: Sample) -> None:
    server, database = sample.server, sample.copy(sample.v2)
    server.execute("REFRESH MATERIALIZED VIEW mv_current_loan_status WITH NO DATA", database=database)
    assert [row[:2] for row in server.execute("SELECT * FROM refresh_materialized_views()", database=database)] == [
        ("public.mv_current_loan_status", False)
    ]
    assert one(server, database, "SELECT count(*) > 0 FROM mv_current_loan_status") is True


# Monitoring


def with_metrics(server: TestServer, database: str, **metrics: object) -> list[tuple]:
    """Return the alerts for given metrics, which stand in for the server's own within a transaction."""
    values = {
        "active_connections": 1,
        "cache_hit_ratio_pct": 99,
        "oldest_mv_age_minutes": 1,
        "avg_query_time_ms": 1,
        **metrics,
    }
    connection = server.connect(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                """
                CREATE OR REPLACE VIEW v_system_health AS
                SELECT 'test' AS category, 0::bigint AS db_size_bytes, '' AS db_size_formatted,
                       %(active_connections)s::bigint AS active_connections, 0::bigint AS idle_connections,
                       %(avg_query_time_ms)s::numeric AS avg_query_time_ms,
                       %(cache_hit_ratio_pct)s::numeric AS cache_hit_ratio_pct,
                       %(oldest_mv_age_minutes)s::numeric AS oldest_mv_age_minutes
                """,
                values,
            )
            cursor.execute("SELECT alert_type, alert_level, metric_value, threshold_value FROM check_system_alerts()")
            return cursor.fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("metric", "alert", "value", "level", "threshold"),
    [
        ("active_connections", "Connection Pool", 60, None, None),
        ("active_connections", "Connection Pool", 61, "WARNING", 60),
        ("active_connections", "Connection Pool", 80, "WARNING", 60),
        ("active_connections", "Connection Pool", 81, "CRITICAL", 80),
        ("cache_hit_ratio_pct", "Cache Performance", 95, None, None),
        ("cache_hit_ratio_pct", "Cache Performance", Decimal("94.99"), "WARNING", 95),
        ("cache_hit_ratio_pct", "Cache Performance", 85, "WARNING", 95),
        ("cache_hit_ratio_pct", "Cache Performance", Decimal("84.99"), "CRITICAL", 85),
        ("oldest_mv_age_minutes", "Materialized Views", 5, None, None),
        ("oldest_mv_age_minutes", "Materialized Views", Decimal("5.01"), "WARNING", 5),
        ("oldest_mv_age_minutes", "Materialized Views", Decimal("10.01"), "CRITICAL", 10),
        ("oldest_mv_age_minutes", "Materialized Views", 120, "CRITICAL", 10),
        ("avg_query_time_ms", "Query Performance", 3000, None, None),
        ("avg_query_time_ms", "Query Performance", 3001, "WARNING", 3000),
        ("avg_query_time_ms", "Query Performance", 5001, "CRITICAL", 5000),
        ("avg_query_time_ms", "Query Performance", None, None, None),
    ],
)
def test_alert_levels_are_reached(
    sample18: Sample, metric: str, alert: str, value: object, level: str | None, threshold: object
) -> None:
    found = with_metrics(sample18.server, sample18.v2, **{metric: value})
    if level is None:
        assert found == [("System", "OK", None, None)]
    else:
        assert found == [(alert, level, value, threshold)]


def test_the_worst_alert_comes_first(sample18: Sample) -> None:
    found = with_metrics(
        sample18.server, sample18.v2, active_connections=70, cache_hit_ratio_pct=50, avg_query_time_ms=4000
    )
    assert [row[1] for row in found] == ["CRITICAL", "WARNING", "WARNING"]


def test_age_of_the_materialized_view_keeps_its_hours(sample18: Sample) -> None:
    server, database = sample18.server, sample18.copy(sample18.v2)
    connection = server.connect(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_get_viewdef('v_system_health'::regclass)")
            definition = cursor.fetchone()[0]
            cursor.execute("DROP MATERIALIZED VIEW mv_current_loan_status CASCADE")
            cursor.execute(
                "CREATE TABLE mv_current_loan_status AS SELECT now() - interval '2 hours 3 minutes' AS last_updated"
            )
            cursor.execute("CREATE VIEW v_system_health AS " + definition)
            cursor.execute("SELECT oldest_mv_age_minutes FROM v_system_health")
            assert Decimal("123") <= cursor.fetchone()[0] < Decimal("124")
            cursor.execute("SELECT alert_level FROM check_system_alerts() WHERE alert_type = 'Materialized Views'")
            assert cursor.fetchall() == [("CRITICAL",)]
    finally:
        connection.close()


def test_monitoring_works_without_statement_statistics(sample: Sample) -> None:
    health = "SELECT avg_query_time_ms FROM v_system_health"
    top = "SELECT details FROM v_performance_dashboard WHERE section LIKE 'Top%'"
    assert one(sample.server, sample.v2, health) is None
    assert one(sample.server, sample.v2, top) is None
    assert one(sample.server, sample.v2, "SELECT count(*) FROM check_system_alerts()") >= 1


def test_monitoring_works_when_the_library_is_not_loaded(pg_distribution: TestServer) -> None:
    database = "rently_" + uuid.uuid4().hex[:12]
    pg_distribution.create_database(database, "CREATE EXTENSION pg_stat_statements")
    try:
        step(pg_distribution, database, V1)
        step(pg_distribution, database, V2)
        step(pg_distribution, database, V2, "verify")
        assert one(pg_distribution, database, "SELECT avg_query_time_ms FROM v_system_health") is None
    finally:
        pg_distribution.drop_database(database)


def test_statement_statistics_are_used_from_whichever_schema_they_are_in() -> None:
    server = TestServer(distribution_bin_dir(), settings={"shared_preload_libraries": "pg_stat_statements"})
    try:
        server.create_database("r", 'CREATE SCHEMA "Odd one"; CREATE EXTENSION pg_stat_statements SCHEMA "Odd one"')
        step(server, "r", V1)
        step(server, "r", V2)
        for _ in range(12):
            server.execute("SELECT count(*) FROM public.loan", database="r")
        assert one(server, "r", "SELECT avg_query_time_ms FROM v_system_health") > 0
        details = one(server, "r", "SELECT details FROM v_performance_dashboard WHERE section LIKE 'Top%'")
        assert any("SELECT count(*) FROM public.loan" in line for line in details)
        # installed after the step up is as good as before
        server.create_database("s")
        step(server, "s", V1)
        step(server, "s", V2)
        server.execute("CREATE EXTENSION pg_stat_statements", database="s")
        for _ in range(12):
            server.execute("SELECT count(*) FROM public.loan", database="s")
        assert one(server, "s", "SELECT avg_query_time_ms FROM v_system_health") > 0
    finally:
        server.remove()


def test_health_is_about_this_database_under_any_name(sample18: Sample) -> None:
    server = sample18.server
    database = 'rently "side" %s' % uuid.uuid4().hex[:8]
    server.execute('CREATE DATABASE "%s" TEMPLATE "%s"' % (database.replace('"', '""'), sample18.v2))
    try:
        size = one(server, database, "SELECT db_size_bytes FROM v_system_health")
        assert size == one(server, database, "SELECT pg_database_size(current_database())")
    finally:
        server.drop_database(database)
