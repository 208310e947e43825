# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pgTAP tests against a real server: judged rightly, isolated, and nothing of them stays."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import threading
import time
import uuid

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.tap import TapLimits, run_tests
from tests.support.junit import read_junit
from tests.support.modules import run_module

LENDING = """
CREATE TABLE loan (id int PRIMARY KEY, principal numeric NOT NULL CHECK (principal > 0));
INSERT INTO loan VALUES (1, 100), (2, 250);
"""

#: A legal name that a shell, libpq, pg_prove's own options or psycopg2's formatting trips over.
STRANGE = "l\"oan db=1 %s \\=\\ é'; --"


def sql_file(*statements: str, plan: int) -> str:
    return "\n".join(["BEGIN;", "SELECT plan(%d);" % plan, *statements, "SELECT * FROM finish();", "ROLLBACK;", ""])


PASSING = sql_file(
    "SELECT has_table('loan');",
    "SELECT todo('interest comes later', 1);",
    "SELECT has_column('loan', 'interest');",
    "SELECT skip('no partitions here', 1);",
    "SELECT throws_ok('INSERT INTO loan VALUES (3, 0)', '23514');",
    plan=4,
)
FILES = {
    "passing": PASSING,
    "failing": sql_file("SELECT is(sum(principal), 1.0, 'sum of loans') FROM loan;", "SELECT pass('fine');", plan=2),
    "died": sql_file("SELECT pass('first');", "SELECT 1/0;", "SELECT pass('never');", plan=2),
    "truncated": sql_file("SELECT pass('first');", plan=3),
    "hanging": sql_file("SELECT pass('first');", "SELECT pg_sleep(600);", plan=1),
}


def write(root: pathlib.Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(root)


@pytest.fixture
def lending(pg_distribution):
    name = "tap_" + uuid.uuid4().hex[:8]
    pg_distribution.create_database(name, LENDING)
    yield name
    pg_distribution.drop_database(name)


@pytest.fixture
def tap(pg_distribution, lending, tmp_path):
    def call(files, **options):
        path = write(tmp_path / "tests", files)
        options.setdefault("fail_on", "never")
        options.setdefault("server", pg_distribution.server)
        answer = run_tests(database=options.pop("database", lending), path=path, **options)
        answer["by_name"] = {result["name"]: result for result in answer["results"]}
        return answer

    return call


def extensions(server, database):
    return {row[0] for row in server.execute("SELECT extname FROM pg_extension", database=database)}


def schemas(server, database):
    return {row[0] for row in server.execute("SELECT nspname FROM pg_namespace", database=database)}


def test_each_ending_is_told_apart(tap, pg_distribution, lending, tmp_path):
    databases = pg_distribution.databases()
    answer = tap(
        {"unit/%s.sql" % name: text for name, text in FILES.items()},
        limits=TapLimits(jobs=2, file_timeout_s=4),
        junit=str(tmp_path / "junit.xml"),
    )
    by_name = answer["by_name"]
    assert {name: by_name["unit/%s.sql" % name]["outcome"] for name in FILES} == {
        "passing": "passed",
        "failing": "failed",
        "died": "died",
        "truncated": "truncated",
        "hanging": "timed_out",
    }
    assert by_name["unit/passing.sql"]["message"] == "4 tests passed, 1 to do, 1 skipped"
    assert by_name["unit/failing.sql"]["message"] == "1 of 2 tests failed: sum of loans"
    assert by_name["unit/died.sql"]["message"] == "died after 1 of 2 tests: line 4: ERROR:  division by zero"
    assert by_name["unit/truncated.sql"]["message"] == "stopped after 1 of 3 tests"
    assert by_name["unit/hanging.sql"]["message"] == "was ended when its 4 s were over"
    assert any("have: 350" in line for line in by_name["unit/failing.sql"]["sample"][0]["diagnostics"])
    assert (answer["planned_tests"], answer["passed_tests"], answer["failed_tests"]) == (12, 7, 5)
    assert answer["success_rate"] == 58.33
    assert answer["left_behind"] == []
    assert not answer["changed"]
    # The clone is gone, with the session that hung, and the database itself has seen nothing of pgTAP.
    assert pg_distribution.databases() == databases
    assert extensions(pg_distribution, lending) == {"plpgsql"}

    root = read_junit(tmp_path / "junit.xml")
    assert root.get("name") == "holdfast.postgres.pg_tap"
    for suite in root:
        for attribute, tag in (("tests", "testcase"), ("failures", "*/failure"), ("errors", "*/error")):
            assert int(suite.get(attribute)) == len(suite.findall(tag)), suite.get("name")
        assert int(suite.get("skipped")) == len(suite.findall("*/skipped"))
        assert float(suite.get("time")) >= 0
    by_suite = {suite.get("name"): suite for suite in root}
    numbers = {
        name: tuple(int(by_suite["unit/%s.sql" % name].get(key)) for key in ("tests", "failures", "errors", "skipped"))
        for name in FILES
    }
    assert numbers == {
        "passing": (5, 0, 0, 1),
        "failing": (3, 1, 0, 0),
        "died": (2, 0, 1, 0),
        "truncated": (2, 0, 1, 0),
        "hanging": (1, 0, 1, 0),
    }


def test_failures_fail_the_task_with_all_facts(tap):
    with pytest.raises(HoldfastError) as caught:
        tap({"unit/died.sql": FILES["died"], "unit/passing.sql": PASSING}, fail_on="error")
    assert caught.value.code == "test_failed"
    assert "unit/died.sql: died after 1 of 2 tests" in caught.value.msg
    assert len(caught.value.details["results"]) == 3


def test_categories_run_in_order_and_stop_where_told(tap):
    files = {
        "integration/a.sql": PASSING,
        "security/a.sql": FILES["truncated"],
        "unit/b.sql": PASSING,
        "unit/deep/a.pg": PASSING,
        "helpers/x.sql": "SELECT 1/0;",
    }
    answer = tap(files, limits=TapLimits(stop_at_failure=True))
    assert answer["files"] == ["unit/b.sql", "unit/deep/a.pg", "security/a.sql", "integration/a.sql"]
    assert answer["by_name"]["integration/a.sql"]["outcome"] == "not_run"
    assert [(row["category"], row["success_rate"]) for row in answer["categories"]] == [
        ("unit", 100.0),
        ("security", 33.33),
        ("integration", 0.0),
    ]


def test_time_for_all_tests_ends_what_runs_and_what_would_follow(tap):
    started = time.monotonic()
    answer = tap(
        {"unit/a.sql": FILES["hanging"], "unit/b.sql": PASSING}, limits=TapLimits(file_timeout_s=60, timeout_s=2)
    )
    assert [result["outcome"] for result in answer["results"][:2]] == ["timed_out", "not_run"]
    assert "2 s for all tests" in answer["results"][0]["message"]
    assert time.monotonic() - started < 20


def test_everything_that_tests_leave_behind_is_named(tap, pg_distribution):
    role = "left_" + uuid.uuid4().hex[:8]
    leaving = (
        """
    SELECT plan(1);
    CREATE TABLE left_table (id serial PRIMARY KEY, note text UNIQUE);
    CREATE FUNCTION left_function(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE INDEX left_index ON loan (principal);
    CREATE TEMPORARY TABLE gone (id int);
    CREATE ROLE %s;
    SELECT pass();
    """
        % role
    )
    try:
        answer = tap({"unit/leaving.sql": leaving, "unit/passing.sql": PASSING})
        assert answer["left_behind"] == [
            "function public.left_function(integer,pg_catalog.text)",
            "index public.left_index",
            "table public.left_table",
            "role " + role,
        ]
        left = answer["results"][-1]
        assert (left["status"], left["severity"], left["rows"]) == ("failed", "warning", 4)
        # The role outlives the clone, the rest does not.
        assert [row["object"] for row in left["sample"] if row["stays"]] == ["role " + role]
        assert answer["changed"]
        with pytest.raises(HoldfastError, match="tests left 3 objects behind"):
            tap({"unit/leaving.sql": leaving.replace("CREATE ROLE %s;" % role, "")}, fail_on="warning")
    finally:
        pg_distribution.execute("DROP ROLE IF EXISTS " + role)


def test_schema_isolation_runs_in_the_database_and_removes_pgtap(tap, pg_distribution, lending):
    # A session in the database is no obstacle then.
    connection = pg_distribution.connect(lending)
    try:
        answer = tap(
            {"unit/a.sql": PASSING, "unit/b.sql": "CREATE TABLE stays ();" + PASSING, "unit/c.sql": FILES["hanging"]},
            isolation="schema",
            limits=TapLimits(file_timeout_s=2),
        )
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast pg_tap%'")
            assert cursor.fetchone() == (0,)
    finally:
        connection.close()
    assert [result["outcome"] for result in answer["results"][:3]] == ["passed", "passed", "timed_out"]
    assert answer["left_behind"] == ["table public.stays"]
    assert answer["changed"]
    assert extensions(pg_distribution, lending) == {"plpgsql"}
    assert "holdfast_tap" not in schemas(pg_distribution, lending)


def test_pgtap_that_was_asked_for_stays(tap, pg_distribution, lending):
    pg_distribution.execute('CREATE SCHEMA "my tap"; CREATE EXTENSION pgtap SCHEMA "my tap"', database=lending)
    for isolation in ("clone", "schema"):
        answer = tap({"unit/a.sql": PASSING}, isolation=isolation)
        assert answer["results"][0]["outcome"] == "passed", answer["results"]
        assert answer["left_behind"] == []
    assert extensions(pg_distribution, lending) == {"plpgsql", "pgtap"}


def test_leftovers_of_a_killed_run_are_removed_by_the_next(tap, pg_distribution, lending):
    pg_distribution.execute(
        "CREATE SCHEMA holdfast_tap; COMMENT ON SCHEMA holdfast_tap IS 'holdfast.postgres pg_tap: holds pgTAP';"
        "CREATE EXTENSION pgtap SCHEMA holdfast_tap",
        database=lending,
    )
    stale, foreign = lending + ".holdfast-tap-4194999", lending + ".holdfast-tap-4194998"
    for name in (stale, foreign):
        pg_distribution.create_database(name)
    pg_distribution.execute("COMMENT ON DATABASE \"%s\" IS 'holdfast.postgres pg_tap: a copy'" % stale)
    try:
        answer = tap({"unit/a.sql": PASSING}, isolation="clone")
        assert answer["results"][0]["outcome"] == "passed"
        assert stale not in pg_distribution.databases()
        assert foreign in pg_distribution.databases()
        tap({"unit/a.sql": PASSING}, isolation="schema")
        assert "holdfast_tap" not in schemas(pg_distribution, lending)
    finally:
        pg_distribution.drop_database(foreign)


def test_somebody_elses_schema_is_left_alone(tap, pg_distribution, lending):
    pg_distribution.execute("CREATE SCHEMA holdfast_tap; CREATE TABLE holdfast_tap.t ()", database=lending)
    with pytest.raises(HoldfastError) as caught:
        tap({"unit/a.sql": PASSING}, isolation="schema")
    assert caught.value.code == "target_exists"
    assert "holdfast_tap" in schemas(pg_distribution, lending)


def test_database_in_use_cannot_be_cloned_and_says_who_is_in_it(tap, pg_distribution, lending):
    connection = pg_distribution.connect(lending, application_name="shop")
    databases = pg_distribution.databases()
    try:
        with pytest.raises(HoldfastError) as caught:
            tap({"unit/a.sql": PASSING})
    finally:
        connection.close()
    assert caught.value.code == "database_in_use"
    assert "shop" in caught.value.msg
    assert pg_distribution.databases() == databases


def test_any_name_and_any_search_path_will_do(tap, pg_distribution, tmp_path):
    pg_distribution.create_database(STRANGE, 'CREATE SCHEMA "a b\\c"; CREATE TABLE "a b\\c".loan (id int)')
    try:
        pg_distribution.execute(
            "DO $do$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = ''a b\\c''',"
            " current_database()); END $do$",
            database=STRANGE,
        )
        answer = tap(
            {
                "unit/-a = b's %s.sql": sql_file(
                    "SELECT is(to_regclass('loan')::oid, '\"a b\\c\".loan'::regclass::oid);",
                    "SELECT matches(current_database(), '^l\"oan db=1 ');",
                    plan=2,
                )
            },
            database=STRANGE,
        )
        assert answer["results"][0]["outcome"] == "passed", answer["results"]
    finally:
        pg_distribution.drop_database(STRANGE)


@pytest.mark.parametrize("isolation", ["clone", "schema"])
def test_owner_who_may_create_databases_needs_no_superuser(tap, pg_distribution, lending, isolation):
    role = "owner_" + uuid.uuid4().hex[:8]
    pg_distribution.execute("CREATE ROLE %s LOGIN CREATEDB PASSWORD 'owner'" % role)
    try:
        pg_distribution.execute('ALTER DATABASE "%s" OWNER TO %s' % (lending, role))
        pg_distribution.execute("ALTER TABLE loan OWNER TO %s" % role, database=lending)
        server = dataclasses.replace(pg_distribution.server, user=role, password="owner")
        answer = tap(
            {"unit/a.sql": PASSING, "unit/b.sql": FILES["hanging"]},
            server=server,
            isolation=isolation,
            limits=TapLimits(jobs=2, file_timeout_s=2),
        )
        assert [result["outcome"] for result in answer["results"][:2]] == ["passed", "timed_out"]
        assert answer["left_behind"] == []
    finally:
        pg_distribution.execute("REASSIGN OWNED BY %s TO postgres" % role, database=lending)
        pg_distribution.execute("DROP ROLE %s" % role)


def test_what_is_missing_is_said_at_once(tap):
    with pytest.raises(HoldfastError) as caught:
        tap({"unit/a.sql": PASSING}, pg_prove="no-such-pg_prove")
    assert caught.value.code == "program_not_found"
    assert "libtap-parser-sourcehandler-pgtap-perl" in caught.value.msg


def test_to_find_no_test_is_a_failure(tap):
    with pytest.raises(HoldfastError, match="No tests were found"):
        tap({"helpers/a.sql": PASSING})


def test_run_that_is_ended_leaves_neither_clone_nor_session(tap, pg_distribution, lending):
    databases = pg_distribution.databases()
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(HoldfastError) as caught:
        tap({"unit/a.sql": FILES["hanging"], "unit/b.sql": PASSING})
    timer.join()
    assert caught.value.code == "interrupted"
    assert pg_distribution.databases() == databases
    assert (
        pg_distribution.execute("SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'holdfast pg_tap%%'") == []
    )


def test_extension_that_the_server_lacks_is_named_with_its_package(pg18, database, tmp_path):
    with pytest.raises(HoldfastError) as caught:
        run_tests(server=pg18.server, database=database, path=write(tmp_path, {"unit/a.sql": PASSING}))
    assert caught.value.code == "extension_missing"
    assert "postgresql-18-pgtap" in caught.value.msg


def test_module_predicts_runs_and_fails_with_the_facts(pg_distribution, lending, tmp_path):
    arguments = {
        **pg_distribution.login,
        "database": lending,
        "path": write(tmp_path / "tests", {"unit/a.sql": PASSING}),
        "junit": str(tmp_path / "junit.xml"),
    }
    predicted = run_module("pg_tap", arguments, check=True)
    assert not predicted["failed"], predicted
    assert (predicted["results"], predicted["files"]) == ([], ["unit/a.sql"])
    assert not (tmp_path / "junit.xml").exists()
    done = run_module("pg_tap", arguments)
    assert not done["failed"], done
    assert not done["changed"]
    assert (done["planned_tests"], done["success_rate"]) == (4, 100.0)
    failed = run_module("pg_tap", {**arguments, "path": write(tmp_path / "bad", {"unit/a.sql": FILES["failing"]})})
    assert (failed["failed"], failed["code"]) == (True, "test_failed")
    assert failed["results"][0]["sample"][0]["description"] == "sum of loans"
