# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measuring named queries on real servers, their baselines in the ledger, and the noise of a busy machine."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.baseline import keep_baseline
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.timing import Measuring
from tests.support.job import Job
from tests.support.modules import run_module
from tests.support.rently import EXAMPLE, V1, V2, generate, step
from tests.support.server import TestServer, distribution_bin_dir, embedded_bin_dir, free_port
from tests.support.timings import LOANS, QUERIES, loans_of, take


@pytest.fixture(scope="module")
def loans(pg18: TestServer) -> Iterator[str]:
    with loans_of(pg18) as name:
        yield name


@pytest.fixture
def ledger_name(pg18: TestServer) -> Iterator[str]:
    name = "ledger_" + uuid.uuid4().hex[:8]
    yield name
    pg18.drop_database(name)


def query(sql: str, **keys: Any) -> str:
    more = "".join("    %s: %s\n" % item for item in keys.items())
    return "queries:\n  - name: q\n    sql: |\n      %s\n%s" % (sql, more)


def test_measurement_has_times_buffers_and_a_plan_to_read(pg18: TestServer, loans: str):
    answer = take(pg18, loans)
    by_index, counted = answer["timings"]
    assert {row["status"] for row in answer["timings"]} == {"measured"}
    assert by_index["runs"] == len(by_index["samples_ms"]) == 9
    assert 0 < by_index["min_ms"] <= by_index["q1_ms"] <= by_index["median_ms"] <= by_index["p95_ms"]
    assert by_index["rows"] == 12 and by_index["buffers"]["hit"] > 0
    assert by_index["plan"]["indexes"] == ["lo an_borrower"]
    assert "Index Cond: (borrower = 17)" in by_index["plan"]["text"]
    assert counted["plan"]["text"].splitlines()[0] == "Aggregate (rows 1)"
    assert answer["regressions"] == [] and "nothing to compare with" in answer["summary"]
    assert answer["workload"]["available"] is False


def test_dropped_index_is_a_critical_regression_with_both_plans(pg18: TestServer, loans: str):
    before = take(pg18, loans)
    pg18.execute('ALTER INDEX "lo an_borrower" RENAME TO kept', database=loans)
    try:
        (renamed,) = take(pg18, loans, baseline=before)["regressions"]
        assert (renamed["kind"], renamed["level"]) == ("plan", "info")
        pg18.execute("DROP INDEX kept", database=loans)
        with pytest.raises(HoldfastError) as caught:
            take(pg18, loans, baseline=before)
    finally:
        pg18.execute("DROP INDEX IF EXISTS kept", database=loans)
        pg18.execute('CREATE INDEX "lo an_borrower" ON "lo an" (borrower)', database=loans)
    error = caught.value
    assert error.code == "timing_regressed"
    assert "no longer uses lo an_borrower" in error.msg
    (found,) = [row for row in error.details["regressions"] if row["level"] == "critical"]
    assert found["name"] == "Loans of a borrower" and found["ratio"] > 2
    assert "lo an_borrower" in found["plan_before"]["text"] and "Seq Scan on lo an" in found["plan_now"]["text"]
    assert len(error.details["timings"]) == 2


@pytest.mark.parametrize(
    "sql",
    [
        'WITH gone AS (DELETE FROM "lo an" RETURNING 1) SELECT count(*) FROM gone',
        'SELECT * INTO copied FROM "lo an"',
        'SELECT * FROM "lo an" FOR UPDATE',
        "SELECT lo_create(0)",
        "SELECT nextval('numbers')",
    ],
)
def test_query_that_writes_is_refused_with_its_line_and_writes_nothing(pg18: TestServer, loans: str, sql: str):
    pg18.execute("CREATE SEQUENCE IF NOT EXISTS numbers", database=loans)
    before = pg18.execute('SELECT count(*) FROM "lo an"', database=loans)
    with pytest.raises(HoldfastError) as caught:
        take(pg18, loans, query(sql), fail_on="never")
    assert caught.value.code == "suite_invalid" and "lending.yml, line 2" in caught.value.msg
    assert pg18.execute('SELECT count(*) FROM "lo an"', database=loans) == before
    assert pg18.execute("SELECT is_called, to_regclass('copied') FROM numbers", database=loans) == [(False, None)]


def test_query_cannot_leave_its_read_only_transaction(pg18: TestServer, loans: str):
    text = query("SELECT set_config('transaction_read_only', 'off', true), lo_create(0)")
    with pytest.raises(HoldfastError):
        take(pg18, loans, text)


def test_failure_and_timeout_of_one_query_leave_the_others_measured(pg18: TestServer, loans: str):
    text = QUERIES + (
        "  - name: broken\n    sql: SELECT * FROM nowhere\n"
        "  - name: slow\n    timeout_s: 0.05\n    sql: SELECT pg_sleep(3)\n"
    )
    answer = take(pg18, loans, text, fail_on="never")
    assert [row["status"] for row in answer["timings"]] == ["measured", "measured", "failed", "timed_out"]
    assert {row["name"]: row["level"] for row in answer["regressions"]} == {"broken": "critical", "slow": "critical"}
    with pytest.raises(HoldfastError, match=r"did not finish within 0\.05 s"):
        take(pg18, loans, text)


def test_time_for_all_queries_is_kept_and_what_had_no_turn_fails(pg18: TestServer, loans: str):
    text = query("SELECT pg_sleep(2)") + "  - name: later\n    sql: SELECT 1\n"
    measuring = Measuring(runs=5, warm_up_runs=0, total_timeout_s=0.5)
    with pytest.raises(HoldfastError) as caught:
        take(pg18, loans, text, measuring=measuring)
    assert caught.value.code == "timeout" and caught.value.details["duration_s"] < 1.5
    assert take(pg18, loans, text, measuring=measuring, fail_on="never")["regressions"] == []


def test_without_parameters_a_percent_sign_is_a_percent_sign(pg18: TestServer, loans: str):
    (timing,) = take(pg18, loans, query("SELECT count(*) FROM \"lo an\" WHERE note LIKE 'y%' OR id % 2 = 1"))["timings"]
    assert timing["status"] == "measured"


def test_statistics_of_the_workload_tell_which_statement_got_slower():
    server = TestServer(distribution_bin_dir(), settings={"shared_preload_libraries": "pg_stat_statements"})
    try:
        server.execute("CREATE SCHEMA stats; CREATE EXTENSION pg_stat_statements SCHEMA stats")
        server.execute("CREATE TABLE loan AS SELECT i AS id FROM generate_series(1, 100) i")
        with server.connect() as connection, connection.cursor() as cursor:
            for _ in range(20):
                cursor.execute("SELECT count(*) FROM loan WHERE id = 1 AND id::text <> 'secret'")
        before = take(server, "postgres", query("SELECT 1"))["workload"]
        server.execute("INSERT INTO loan SELECT i FROM generate_series(1, 200000) i")
        with server.connect() as connection, connection.cursor() as cursor:
            for _ in range(20):
                cursor.execute("SELECT count(*) FROM loan WHERE id = 2 AND id::text <> 'hidden'")
        change = take(server, "postgres", query("SELECT 1"), workload_before=before)["workload_change"]
        (slower,) = change["slower"]
        assert change["compared"] and slower["calls"] == 20
        assert slower["mean_since_ms"] > slower["mean_before_ms"]
        assert slower["query"].startswith("SELECT count(*) FROM loan WHERE id = $1") and "secret" not in slower["query"]
        server.execute("SELECT stats.pg_stat_statements_reset()")
        change = take(server, "postgres", query("SELECT 1"), workload_before=before)["workload_change"]
        assert not change["compared"] and "reset" in change["reason"]
    finally:
        server.remove()


# The modules


def test_module_measures_compares_and_predicts(pg18: TestServer, loans: str, tmp_path: Any):
    path = tmp_path / "lending.yml"
    path.write_text(QUERIES, encoding="utf-8")
    arguments = {**pg18.login, "database": loans, "queries": [str(path)], "runs": 5}
    predicted = run_module("pg_timing", arguments, check=True)
    assert (predicted["failed"], predicted["changed"]) == (False, False)
    assert [row["status"] for row in predicted["timings"]] == ["not_measured", "not_measured"]
    measured = run_module("pg_timing", arguments)
    assert (measured["failed"], measured["changed"]) == (False, False)
    assert [row["line"] for row in measured["timings"]] == [4, 6]
    shrunk = {**measured, "timings": [{**row} for row in measured["timings"]]}
    for row in shrunk["timings"]:
        row.update({key: row[key] / 100 for key in ("median_ms", "q1_ms", "q3_ms", "max_ms", "min_ms")})
    slower = run_module("pg_timing", {**arguments, "baseline": shrunk})
    assert (slower["failed"], slower["code"]) == (True, "timing_regressed")
    assert slower["regressions"][0]["plan_before"] == slower["regressions"][0]["plan_now"]
    path.write_text(QUERIES.replace("SELECT count", "UPDATE count"), encoding="utf-8")
    refused = run_module("pg_timing", arguments, check=True)
    assert (refused["failed"], refused["code"], refused["line"]) == (True, "suite_invalid", 7)


def baseline(server: Server, ledger: str, state: str, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    return keep_baseline(
        {"state": state, "live_database": "app", "environment": "produc'tion", "ledger_database": ledger, **options},
        server=server,
        now=datetime.now(timezone.utc),
        check_mode=check_mode,
    )


def test_one_version_is_active_and_older_ones_can_be_again(pg18: TestServer, loans: str, ledger_name: str):
    first, second = take(pg18, loans), take(pg18, loans)
    server = pg18.server
    assert baseline(server, ledger_name, "listed")["active"] is None
    baseline(server, ledger_name, "established", measurement=first, note="first")
    answer = baseline(server, ledger_name, "established", measurement=second, activate=True, operator="ana")
    assert [(row["version"], row["active"], row["queries"]) for row in answer["baselines"]] == [
        (2, True, 2),
        (1, False, 2),
    ]
    assert answer["active"]["measurement"]["timings"] == second["timings"]
    again = baseline(server, ledger_name, "established", measurement=first)
    assert (again["changed"], again["active"]["version"]) == (False, 2)
    assert baseline(server, ledger_name, "activated", version=1, check_mode=True)["changed"]
    back = baseline(server, ledger_name, "activated", version=1)
    assert back["changed"] and back["active"]["note"] == "first"
    assert baseline(server, ledger_name, "activated", version=1)["changed"] is False
    with pytest.raises(HoldfastError) as caught:
        baseline(server, ledger_name, "activated", version=9)
    assert caught.value.code == "baseline_not_found" and "2, 1" in caught.value.hint
    assert baseline(server, ledger_name, "listed", environment="staging")["baselines"] == []
    assert baseline(server, ledger_name, "deactivated")["active"] is None
    assert baseline(server, ledger_name, "deactivated")["changed"] is False


def test_measurement_with_a_query_that_failed_is_no_baseline(pg18: TestServer, loans: str, ledger_name: str):
    measurement = take(pg18, loans, query("SELECT * FROM nowhere"), fail_on="never")
    with pytest.raises(HoldfastError, match="none of q"):
        baseline(pg18.server, ledger_name, "established", measurement=measurement)
    assert ledger_name not in pg18.databases()


def test_ledger_that_cannot_be_reached_has_no_baseline_where_that_is_allowed():
    gone = Server(host="127.0.0.1", port=free_port(), user="postgres")
    answer = baseline(gone, "ledger", "listed", must_read=False)
    assert answer["active"] is None and "no baseline is known" in answer["warnings"][0]
    with pytest.raises(HoldfastError) as caught:
        baseline(gone, "ledger", "listed")
    assert caught.value.code == "ledger_unavailable"


def test_baseline_module_establishes_once(pg18: TestServer, loans: str, ledger_name: str):
    arguments = {
        **pg18.login,
        "ledger_database": ledger_name,
        "live_database": loans,
        "state": "established",
        "activate": True,
        "measurement": take(pg18, loans),
    }
    assert run_module("timing_baseline", arguments, check=True)["changed"] and ledger_name not in pg18.databases()
    first = run_module("timing_baseline", arguments)
    assert first["changed"] and first["active"]["version"] == 1
    assert run_module("timing_baseline", arguments, check=True)["changed"] is False
    assert run_module("timing_baseline", arguments)["changed"] is False


# The sample


def test_example_measures_every_query_of_both_versions(pg18: TestServer):
    path = EXAMPLE / "timings" / "lending.yml"
    database = pg18.create_database("rently_" + uuid.uuid4().hex[:8])
    try:
        step(pg18, database, V1)
        assert generate(pg18, database).returncode == 0
        text = path.read_text(encoding="utf-8")
        first = take(pg18, database, text)
        step(pg18, database, V2)
        second = take(pg18, database, text, baseline=first, fail_on="never")
        for answer in (first, second):
            assert {row["status"] for row in answer["timings"]} == {"measured"}
            assert all(row["rows"] > 0 for row in answer["timings"])
        assert second["not_compared"] == []
        assert [row for row in second["regressions"] if row["level"] == "critical"] == []
    finally:
        pg18.drop_database(database)


# A deployment


@pytest.fixture
def shop(tmp_path: pathlib.Path) -> Iterator[Job]:
    """A database of its own server, because the ledger is the server's, and a file of queries."""
    server = TestServer(embedded_bin_dir(18))
    database = server.create_database("shop")
    for statement in (LOANS % 60000).split(";"):
        server.execute(statement.replace("%%", "%"), database=database)
    (tmp_path / "lending.yml").write_text(QUERIES, encoding="utf-8")
    yield Job(server, tmp_path, database=database)
    server.remove()


def test_active_baseline_is_what_later_measurements_are_compared_with(shop: Job):
    shop.write_inventory(timing_queries=[str(shop.directory / "lending.yml")], timing_runs=7)
    predicted = shop.play("baseline", "--check", "-e", "timing_activate=true")
    assert predicted.returncode == 0, predicted.stdout
    assert "holdfast" not in shop.server.databases()
    established = shop.play("baseline", "-e", "timing_activate=true", "-e", "timing_note=first")
    assert established.returncode == 0, established.stdout
    query = "SELECT version, active, note FROM holdfast.timing_baseline"
    assert shop.server.execute(query, database="holdfast") == [(1, True, "first")]
    shop.server.execute('DROP INDEX "lo an_borrower"', database=shop.database)
    slower = shop.play("baseline", "-e", "timing_fail_on=critical")
    assert slower.returncode != 0 and "timing_regressed" in slower.stdout
    assert shop.server.execute(query, database="holdfast") == [(1, True, "first")]


def test_dropped_index_fails_the_deployment_which_is_undone_with_both_plans_in_the_report(shop: Job):
    migration = shop.directory / "migrations" / "v1_tidy_up"
    migration.mkdir(parents=True)
    (migration / "up.sql").write_text('DROP INDEX "lo an_borrower";\n', encoding="utf-8")
    (migration / "down.sql").write_text('CREATE INDEX "lo an_borrower" ON "lo an" (borrower);\n', encoding="utf-8")
    shop.write_inventory(
        migrate_directories=[str(migration.parent)],
        migrate_role="",
        migrate_lint=False,
        timing_queries=[str(shop.directory / "lending.yml")],
        timing_runs=7,
        **{key: [] for key in ("preflight_suites", "verify_suites", "rollback_suites")},
    )
    completed = shop.play("deploy")
    assert completed.returncode != 0, completed.stdout
    report = shop.report()
    assert report["deployment"]["status"] == "rolled_back", completed.stdout
    assert (report["failure"]["stage"], report["failure"]["code"]) == ("timing", "timing_regressed")
    assert report["timings"]["compared_with"] == "before"
    worst = report["timings"]["regressions"][0]
    assert (worst["name"], worst["level"]) == ("Loans of a borrower", "critical") and worst["ratio"] >= 5
    assert "Index Cond" in worst["plan_before"]["text"]
    assert "Seq Scan on lo an" in worst["plan_now"]["text"]
    assert {step["name"]: step["status"] for step in report["steps"]}["timing"] == "failed"
    recorded = "SELECT details->'regressions'->0->>'level' FROM holdfast.step WHERE name = 'timing'"
    assert shop.server.execute(recorded, database="holdfast") == [("critical",)]
    indexes = shop.server.execute(
        "SELECT indexname FROM pg_indexes WHERE schemaname = 'public'", database=shop.database
    )
    assert ("lo an_borrower",) in indexes
