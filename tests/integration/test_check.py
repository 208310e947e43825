# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks against real servers: read-only, in one snapshot, each for itself."""

from __future__ import annotations

import pathlib
import stat
import time

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import Limits, check_database
from tests.support.junit import read_junit
from tests.support.modules import run_module

PAYMENTS = """
CREATE TABLE payment (id int PRIMARY KEY, amount numeric NOT NULL, email text);
INSERT INTO payment SELECT n, n / 3.0, 'person' || n || '@example.org' FROM generate_series(1, 10) n;
"""


def document(*checks, **keys):
    return {"file": "rules.yml", "lines": {}, "content": {"suite": "rules", "checks": list(checks), **keys}}


def check(name, sql, expect="no_rows", **keys):
    return {"name": name, "sql": sql, "expect": expect, **keys}


@pytest.fixture
def run(pg18, database):
    pg18.execute(PAYMENTS, database=database)

    def call(*checks, keys=None, limits=None, **options):
        options.setdefault("fail_on", "never")
        answer = check_database(
            server=pg18.server,
            database=options.pop("database", database),
            documents=[document(*checks, **(keys or {}))],
            limits=limits or Limits(),
            **options,
        )
        answer["by_name"] = {result["name"]: result for result in answer["results"]}
        return answer

    return call


def test_violations_are_counted_and_sampled(run):
    answer = run(
        check("none", "SELECT * FROM payment WHERE amount < 0"),
        check("many", "SELECT id, amount FROM payment ORDER BY id DESC"),
        check("few", "TABLE payment", {"rows": {"equals": 10}}),
        limits=Limits(sample=2),
    )
    assert [result["status"] for result in answer["results"]] == ["passed", "failed", "passed"]
    many = answer["by_name"]["many"]
    assert many["rows"] == 10
    assert many["sample"] == [{"id": 10, "amount": "3.3333333333333333"}, {"id": 9, "amount": "3.0000000000000000"}]
    assert many["message"].startswith("10 rows, expected none; first: id 10")
    assert answer["by_name"]["few"]["sample"] == []
    assert (answer["failed_checks"], answer["passed_checks"]) == (1, 2)


def test_error_in_one_check_says_nothing_about_another(run):
    answer = run(
        check("before", "SELECT 1", {"scalar": {"equals": 1}}),
        check("wrong", "SELECT nothing FROM payment"),
        check("division", "SELECT 1 / (id - 5) FROM payment", severity="warning"),
        check("after", "SELECT count(*) FROM payment", {"scalar": {"equals": 10}}),
        limits=Limits(jobs=1),
    )
    assert [result["status"] for result in answer["results"]] == ["passed", "failed", "failed", "passed"]
    wrong = answer["by_name"]["wrong"]
    assert wrong["errored"]
    assert wrong["message"] == 'column "nothing" does not exist'
    assert (answer["failed_checks"], answer["warned_checks"]) == (1, 1)


def test_check_that_tries_to_write_fails_and_nothing_is_written(run, pg18, database):
    pg18.execute(
        "CREATE FUNCTION erase() RETURNS int LANGUAGE sql AS 'DELETE FROM payment; SELECT 1'; CREATE SEQUENCE s",
        database=database,
    )
    writers = [
        "DELETE FROM payment",
        "WITH gone AS (DELETE FROM payment RETURNING *) SELECT * FROM gone",
        "SELECT erase()",
        "SELECT nextval('s')",
        "CREATE TABLE t ()",
        "SELECT set_config('transaction_read_only', 'off', false), erase()",
        "SET TRANSACTION READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "COMMIT",
        "ROLLBACK AND CHAIN",
        "DO $$ BEGIN COMMIT; DELETE FROM payment; END $$",
    ]
    answer = run(*(check(sql, sql) for sql in writers), limits=Limits(jobs=1))
    assert all(result["errored"] for result in answer["results"]), answer["results"]
    assert "read-only" in answer["by_name"]["DELETE FROM payment"]["message"]
    # The last check again, after one that tried to make later transactions writable.
    assert run(check("count", "TABLE payment", {"rows": {"equals": 10}}))["passed_checks"] == 1
    assert pg18.execute("SELECT last_value, is_called FROM s", database=database) == [(1, False)]


def test_servers_own_statistics_show_no_write(run, pg18, database):
    counters = """
    SELECT pg_stat_force_next_flush() IS NULL, tup_inserted, tup_updated, tup_deleted
      FROM pg_stat_database WHERE datname = current_database()
    """
    lsn = "SELECT (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_all_tables)"
    pg18.execute("CHECKPOINT")
    pg18.execute("VACUUM (ANALYZE, FREEZE)", database=database)
    time.sleep(1.2)
    before = pg18.execute(counters, database=database), pg18.execute(lsn, database=database)
    run(*(check("check %d" % n, "SELECT count(*) FROM payment", {"scalar": {"equals": 10}}) for n in range(30)))
    time.sleep(1.2)
    assert (pg18.execute(counters, database=database), pg18.execute(lsn, database=database)) == before


def test_all_checks_see_one_snapshot(run, pg18, database):
    # The first check sleeps while another session writes; every later check still sees the state of the beginning.
    checks = [check("slow", "SELECT pg_sleep(1.2)", {"rows": {"equals": 1}})]
    checks += [check("n%d" % n, "SELECT count(*) FROM payment", {"scalar": {"equals": 10}}) for n in range(4)]
    writer = pg18.connect(database)
    try:
        with writer.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            cursor.execute(
                "CREATE FUNCTION wait_for_check() RETURNS void LANGUAGE plpgsql AS"
                " $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1.2)%'"
                " AND application_name LIKE 'holdfast pg_check%')"
                " LOOP PERFORM pg_sleep(0.02), pg_stat_clear_snapshot();"
                " END LOOP; END $$"
            )
        import threading

        def write():
            with writer.cursor() as cursor:
                cursor.execute("SELECT wait_for_check()")
                cursor.execute("DELETE FROM payment WHERE id > 5")

        thread = threading.Thread(target=write)
        thread.start()
        answer = run(*checks, limits=Limits(jobs=1))
        thread.join(timeout=10)
    finally:
        writer.close()
    assert pg18.execute("SELECT count(*) FROM payment", database=database) == [(5,)]
    assert answer["passed_checks"] == 5, answer["results"]


def test_slow_check_is_ended_and_named(run):
    answer = run(
        check("slow", "SELECT pg_sleep(30)", timeout_s=0.2),
        check("default", "SELECT pg_sleep(30)"),
        check("quick", "SELECT 1", {"scalar": {"equals": 1}}),
        limits=Limits(timeout_s=0.3),
    )
    assert answer["by_name"]["slow"]["message"] == "did not finish within 0.2 s"
    assert answer["by_name"]["default"]["message"] == "did not finish within 0.3 s"
    assert answer["by_name"]["quick"]["status"] == "passed"


def test_session_that_is_ended_from_outside_fails_its_check_only(run):
    answer = run(
        check("suicide", "SELECT pg_terminate_backend(pg_backend_pid())"),
        check("next", "SELECT 1", {"scalar": {"equals": 1}}),
        limits=Limits(jobs=1),
    )
    assert [result["status"] for result in answer["results"]] == ["failed", "passed"]
    assert answer["by_name"]["suicide"]["errored"]


def test_lost_snapshot_is_an_error_and_not_a_verdict(run):
    sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'holdfast pg_check%' AND "
    with pytest.raises(HoldfastError) as caught:
        run(
            check("murder", sql + "state = 'idle in transaction'", {"rows": {"at_least": 0}}),
            check("wait", "SELECT pg_sleep(0.5)", {"rows": {"equals": 1}}),
            check("late", "SELECT 1"),
            limits=Limits(jobs=1),
        )
    assert caught.value.code == "connection_failed"


def test_short_time_limits_of_the_database_do_not_end_the_snapshot(run, pg18, database):
    for setting in ("idle_in_transaction_session_timeout", "transaction_timeout", "statement_timeout"):
        pg18.execute('ALTER DATABASE "%s" SET %s = 200' % (database, setting))
    answer = run(
        check("slow", "SELECT pg_sleep(0.5)", {"rows": {"equals": 1}}),
        check("late", "SELECT 1", {"scalar": {"equals": 1}}),
        limits=Limits(jobs=1),
    )
    assert answer["passed_checks"] == 2


def test_parameters_are_bound_and_percent_signs_survive(run):
    hostile = "'; DROP TABLE payment; -- %s \\ ü"
    answer = run(
        check("bound", "SELECT %(text)s::text", {"scalar": {"equals": hostile}}),
        check("list", "SELECT unnest(%(words)s::text[])", {"set": ["a", "b"]}),
        check("empty", "SELECT unnest(%(nothing)s::text[])"),
        check("percent", "SELECT 'a%%b' LIKE '%%\\%%%%'", {"scalar": {"equals": True}}),
        keys={"parameters": {"text": hostile, "words": ["a", "b"], "nothing": []}},
    )
    assert answer["passed_checks"] == 4, answer["results"]
    answer = run(check("percent", "SELECT 17 % 7, '%(text)s %s'", {"rows": {"equals": 1}}))
    assert answer["passed_checks"] == 1, answer["results"]


def test_values_of_every_kind_reach_the_result(run):
    sql = """
    SELECT 'infinity'::timestamptz AS forever, '4713-01-01 BC'::date AS long_ago, 'NaN'::float8 AS nan,
           1e400::numeric > 1 AS big, '{"a": 1e999}'::jsonb AS document, ARRAY['infinity'::date] AS dates,
           '\\x00ff'::bytea AS bytes, NULL AS nothing, repeat('x', 5000) AS long, 1 AS same, 2 AS same,
           'tab' || chr(9) || 'bell' || chr(7) AS control, interval '300 years' AS span, 2::bigint ^ 62 AS float;
    """
    (result,) = run(check("kinds", sql))["results"]
    (row,) = result["sample"]
    assert row["forever"] == "infinity"
    assert row["long_ago"] == "4713-01-01 BC"
    assert row["nan"] == "nan"
    assert row["dates"] == "{infinity}"
    assert row["bytes"] == "\\x00ff"
    assert row["nothing"] is None
    assert len(row["long"]) < 600
    assert (row["same"], row["same_2"]) == (1, 2)


def test_masked_columns_are_nowhere(run):
    answer = run(
        check("rows", "SELECT id, email FROM payment"),
        check("scalar", "SELECT email FROM payment WHERE id = 1", {"scalar": {"equals": "x"}}),
        check("set", "SELECT email FROM payment", {"set": ["x"]}),
        limits=Limits(masked_columns=["EMAIL"]),
    )
    assert "@example.org" not in str(answer)
    assert answer["by_name"]["rows"]["sample"][0] == {"id": 1, "email": "********"}


def test_checks_for_other_versions_are_skipped(run):
    answer = run(
        check("new", "SELECT nothing", min_server_version=19),
        check("old", "SELECT nothing", max_server_version=17),
        check("this", "SELECT 1", {"scalar": {"equals": 1}}, min_server_version=18, max_server_version=18),
    )
    assert [result["status"] for result in answer["results"]] == ["skipped", "skipped", "passed"]
    assert answer["by_name"]["new"]["message"] == "needs PostgreSQL 19 or newer, the server is 18"


def test_show_and_explain_are_queries_too(run):
    answer = run(
        check("show", "SHOW server_encoding", {"scalar": {"equals": "UTF8"}}),
        check("explain", "EXPLAIN SELECT 1", {"rows": {"at_least": 1}}),
        check("comment", "/* why */ -- because\n (SELECT 1) -- end", {"scalar": {"equals": 1}}),
        check("nothing", "SET work_mem = '1MB'"),
    )
    assert answer["passed_checks"] == 3, answer["results"]
    assert "a check is a query" in answer["by_name"]["nothing"]["message"]


def test_failure_names_three_checks_and_keeps_all_results(run):
    checks = [check("bad %d" % n, "SELECT %d" % n) for n in range(5)] + [check("odd", "SELECT 1", severity="warning")]
    with pytest.raises(HoldfastError) as caught:
        run(*checks, fail_on="error")
    error = caught.value
    assert error.code == "check_failed"
    assert "5 of 6 checks did not hold" in error.msg
    assert "bad 0 (rules): 1 row, expected none" in error.msg
    assert error.msg.endswith("And 2 more.")
    assert len(error.details["results"]) == 6
    assert run(checks[-1], fail_on="error")["warned_checks"] == 1
    with pytest.raises(HoldfastError):
        run(checks[-1], fail_on="warning")


def test_hostile_database_name_works(pg18, run):
    name = "a=b 'c' \"d\" \\ %s -ü\n"
    pg18.create_database(name)
    try:
        assert run(check("one", "SELECT 1", {"scalar": {"equals": 1}}), database=name)["passed_checks"] == 1
    finally:
        pg18.drop_database(name)


def test_junit_file_is_private_and_valid(run, tmp_path):
    path = tmp_path / "junit.xml"
    run(
        check("passes <&>", "SELECT 1", {"scalar": {"equals": 1}}),
        check("fails", "SELECT chr(7) || chr(1) || '<\"]]>' AS text"),
        check("errs", "SELECT nothing"),
        check("warns", "SELECT 1", severity="warning"),
        check("skips", "SELECT 1", min_server_version=99),
        junit=str(path),
    )
    root = read_junit(path)
    (suite,) = root
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    assert [[child.tag for child in case] for case in suite] == [
        [],
        ["failure"],
        ["error"],
        ["system-out"],
        ["skipped"],
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_junit_is_refused_before_any_check(run, tmp_path):
    for path in (tmp_path, tmp_path / "none" / "x.xml"):
        with pytest.raises(HoldfastError) as caught:
            run(check("a", "SELECT 1"), junit=str(path))
        assert caught.value.code == "destination_unwritable"


SUITE = """suite: money
parameters: {limit: 3}
checks:
  - name: payments are small
    tags: [money]
    sql: SELECT id FROM payment WHERE amount > %(limit)s ORDER BY id
    expect: no_rows
  - {name: payments exist, sql: SELECT count(*) FROM payment, expect: {scalar: {at_least: 1}}}
"""


def test_module_reads_suites_of_the_controller(pg18, database, tmp_path: pathlib.Path):
    pg18.execute(PAYMENTS, database=database)
    suites = tmp_path / "suites"
    suites.mkdir()
    (suites / "money.yml").write_text(SUITE, encoding="utf-8")
    junit = tmp_path / "junit.xml"
    arguments = {**pg18.login, "database": database, "suites": [str(suites)], "junit": str(junit)}

    checked = run_module("pg_check", arguments, check=True)
    assert not junit.exists()
    result = run_module("pg_check", arguments)
    for answer in (checked, result):
        assert answer["failed"]
        assert not answer["changed"]
        assert answer["code"] == "check_failed"
        assert (answer["failed_checks"], answer["passed_checks"]) == (1, 1)
        assert answer["results"][0]["line"] == 4
        assert answer["results"][0]["sample"] == [{"id": 10}]
    assert junit.exists()

    result = run_module("pg_check", {**arguments, "parameters": {"limit": 4}})
    assert not result["failed"], result
    assert not result["changed"]
    assert result["summary"].startswith('Database "%s": 2 of 2 checks passed' % database)

    (suites / "money.yml").write_text(SUITE.replace("no_rows", "none"), encoding="utf-8")
    result = run_module("pg_check", {**arguments, "login_port": 1})
    assert result["failed"]
    assert (result["code"], result["line"]) == ("suite_invalid", 7)
    (suites / "money.yml").write_text(SUITE + " - [", encoding="utf-8")
    result = run_module("pg_check", arguments)
    assert (result["failed"], result["code"], result["line"]) == (True, "suite_invalid", 9)


def test_what_several_checks_ask_is_asked_once(run, pg18, database):
    slow = "SELECT count(*) AS n FROM payment WHERE %(least)s < id AND pg_sleep(0.3) IS NOT NULL AND id <= 1"
    keys = {"parameters": {"least": 0, "other": 1}}
    answer = run(
        check("one", slow, {"scalar": {"equals": 1}}),
        check("two", slow, {"scalar": {"equals": 2}}),
        check("set", slow, {"set": [1]}),
        check("rows", slow, "no_rows"),
        check("old", slow, "no_rows", max_server_version=13),
        check("another", slow, {"scalar": {"equals": 1}}, timeout_s=0.05),
        check("wrong", "SELECT nothing", "no_rows"),
        check("wrong, too", "SELECT nothing", "no_rows"),
        keys=keys,
        limits=Limits(jobs=1, sample=0),
    )
    assert [result["status"] for result in answer["results"]] == [
        "passed",
        "failed",
        "passed",
        "failed",
        "skipped",
        "failed",
        "failed",
        "failed",
    ]
    assert answer["by_name"]["another"]["message"] == "did not finish within 0.05 s"
    assert answer["by_name"]["wrong, too"]["message"] == 'column "nothing" does not exist'
    slowest = sorted((result["duration_ms"] for result in answer["results"]), reverse=True)
    assert slowest[0] >= 300 > slowest[1]
