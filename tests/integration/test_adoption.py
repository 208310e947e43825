# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database that something else has migrated is taken over without running anything twice, or refused with names."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.adoption import flyway_checksum
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import SourceFile
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate
from tests.support.migrations import run
from tests.support.modules import run_module

# What would fail, if it ran a second time.
GOLANG = {"%d_t.up.sql" % n: "CREATE TABLE t%d (id int);" % n for n in (1, 2, 3)}
FLYWAY = {
    "V1__t.sql": "CREATE TABLE t1 (id int);\n",
    "V1.1__t.sql": "CREATE TABLE t2 (id int);\n",
    "V2__t.sql": "CREATE TABLE t3 (id int);\n",
    "R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1 AS one;\n",
}
GOOSE = {"0000%d_t.sql" % n: "-- +goose Up\nCREATE TABLE t%d (id int);\n" % n for n in (1, 2, 3)}
DIESEL = {"2026-01-0%d-101500_t/up.sql" % n: "CREATE TABLE t%d (id int);" % n for n in (1, 2, 3)}
SQITCH = {
    "sqitch.plan": "%project=shop\nt1 2026 A <a@b>\nt2 [t1] 2026 A <a@b>\n@v1 2026 A <a@b>\nt1 [t1@v1] 2026 A <a@b>\n",
    "deploy/t1@v1.sql": "CREATE TABLE t1 (id int);",
    "deploy/t2.sql": "CREATE TABLE t2 (id int);",
    "deploy/t1.sql": "CREATE TABLE t3 (id int);",
}

FLYWAY_TABLE = """
CREATE TABLE public.flyway_schema_history (
    installed_rank int PRIMARY KEY, version varchar(50), description varchar(200) NOT NULL, type varchar(20) NOT NULL,
    script varchar(1000) NOT NULL, checksum int, installed_by varchar(100) NOT NULL DEFAULT current_user,
    installed_on timestamp NOT NULL DEFAULT now(), execution_time int NOT NULL DEFAULT 1, success boolean NOT NULL)
"""
GOLANG_TABLE = "CREATE TABLE public.schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)"
RAILS_TABLE = "CREATE TABLE public.schema_migrations (version varchar PRIMARY KEY)"
GOOSE_TABLE = """
CREATE TABLE public.goose_db_version (
    id serial PRIMARY KEY, version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp DEFAULT now())
"""
DIESEL_TABLE = "CREATE TABLE public.__diesel_schema_migrations (version varchar(50) PRIMARY KEY, run_on timestamp)"
SQITCH_TABLE = """
CREATE SCHEMA sqitch;
CREATE TABLE sqitch.changes (
    change_id text PRIMARY KEY, script_hash text, change text NOT NULL, project text NOT NULL, note text,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp())
"""


def flyway_row(rank: int, version: str | None, name: str, *, kind: str = "SQL", success: bool = True) -> str:
    checksum = flyway_checksum(FLYWAY[name]) if name in FLYWAY else "NULL"
    shown = "NULL" if version is None else "'%s'" % version
    return "INSERT INTO flyway_schema_history VALUES (%d, %s, '%s', '%s', '%s', %s, 'app', now(), 1, %s)" % (
        *(rank, shown, name.split("__")[1][:-4], kind, name, checksum, success),
    )


def sqitch_row(change: str, script: str, *, project: str = "shop") -> str:
    digest = hashlib.sha1(SQITCH.get(script, "").encode()).hexdigest()
    return "INSERT INTO sqitch.changes VALUES (gen_random_uuid()::text, '%s', '%s', '%s', '')" % (
        *(digest, change, project),
    )


def prepared(server: Any, database: str, *statements: str) -> None:
    server.execute("CREATE TABLE t1 (id int); CREATE TABLE t2 (id int)", database=database)
    for statement in statements:
        server.execute(statement, database=database)


def refused(*arguments: Any, **options: Any) -> HoldfastError:
    with pytest.raises(HoldfastError) as error:
        run(*arguments, **options)
    assert error.value.hint
    return error.value


def recorded(result: dict[str, Any]) -> list[str]:
    return [row["version"] for row in result["recorded"]]


def applied(result: dict[str, Any]) -> list[str]:
    return [row["version"] for row in result["applied"]]


# -- a version ----------------------------------------------------------------------------------------------------


def test_baseline_records_without_running_and_says_so_before(pg18, database):
    prepared(pg18, database)
    predicted = run(pg18, database, GOLANG, state="baseline", target_version="2", check=True)
    assert (predicted["changed"], recorded(predicted), predicted["versions"]["after"]) == (True, ["1", "2"], ["1", "2"])
    assert not pg18.execute("SELECT 1 FROM pg_tables WHERE tablename = 'schema_version'", database=database)
    done = run(pg18, database, GOLANG, state="baseline", target_version="2")
    assert (done["changed"], recorded(done), done["applied"]) == (True, ["1", "2"], [])
    assert done["current_version"] == "2"
    again = run(pg18, database, GOLANG, state="baseline", target_version="2")
    assert (again["changed"], again["recorded"]) == (False, [])
    assert applied(run(pg18, database, GOLANG)) == ["3"]
    assert run(pg18, database, GOLANG, state="baseline", target_version="2")["changed"] is False


def test_baseline_keeps_checksums_so_that_changed_files_are_found(pg18, database):
    prepared(pg18, database)
    run(pg18, database, GOLANG, state="baseline", target_version="2")
    error = refused(pg18, database, {**GOLANG, "1_t.up.sql": "SELECT 1;"})
    assert error.code == "migration_changed"


@pytest.mark.parametrize("target", [None, "9", "R__v"])
def test_baseline_needs_a_version_that_exists(pg18, database, target):
    assert refused(pg18, database, FLYWAY, state="baseline", target_version=target).code == "option_invalid"


def test_baseline_is_refused_when_the_history_has_other_rows(pg18, database):
    run(pg18, database, {"1_t.up.sql": GOLANG["1_t.up.sql"]})
    error = refused(pg18, database, GOLANG, state="baseline", target_version="2")
    assert error.code == "history_differs"
    assert "It lacks: 2" in error.msg
    error = refused(pg18, database, {"01_t.up.sql": "SELECT 1;"}, state="baseline", target_version="1")
    assert "It has changed: 01" in error.msg
    error = refused(pg18, database, {"2_t.up.sql": ""}, state="baseline", target_version="2")
    assert "it has besides: 1" in error.msg


# -- the history of another tool ----------------------------------------------------------------------------------


def test_checksum_is_that_of_flyway():
    # A file of Flyway's own introduction, and the number that its history shows for it.
    text = "create table PERSON (\r\n    ID int not null,\r\n    NAME varchar(100) not null\r\n);\r\n"
    assert flyway_checksum(text) == flyway_checksum(text.replace("\r", "")) == 1715188512


CASES = {
    "flyway": (
        FLYWAY,
        "public.flyway_schema_history",
        [
            FLYWAY_TABLE,
            "INSERT INTO flyway_schema_history VALUES (0, NULL, 'public', 'SCHEMA', 'public', 0, 'a', now(), 1, true)",
            flyway_row(1, "1", "V1__t.sql"),
            flyway_row(2, "1.1", "V1.1__t.sql"),
            flyway_row(3, None, "R__v.sql"),
            flyway_row(4, "2", "V2__t.sql"),
            flyway_row(5, "2", "U2__t.sql", kind="UNDO_SQL"),
        ],
        (["1", "1.1", "R__v"], ["2"]),
    ),
    "flyway, baseline": (
        FLYWAY,
        "flyway_schema_history",
        [FLYWAY_TABLE, flyway_row(1, "1.1", "<<_Flyway__Baseline_>>", kind="BASELINE")],
        (["1", "1.1"], ["2", "R__v"]),
    ),
    "golang-migrate": (
        GOLANG,
        "schema_migrations",
        [GOLANG_TABLE, "INSERT INTO schema_migrations VALUES (2, false)"],
        (["1", "2"], ["3"]),
    ),
    "rails": (
        {"2026010%d_t.up.sql" % n: GOLANG["%d_t.up.sql" % n] for n in (1, 2, 3)},
        "schema_migrations",
        [RAILS_TABLE, "INSERT INTO schema_migrations VALUES ('20260102'), ('20260101')"],
        (["20260101", "20260102"], ["20260103"]),
    ),
    "goose": (
        GOOSE,
        '"goose_db_version"',
        [
            GOOSE_TABLE,
            "INSERT INTO goose_db_version (version_id, is_applied)"
            " VALUES (0, true), (1, true), (2, true), (3, true), (3, false)",
        ],
        (["00001", "00002"], ["00003"]),
    ),
    "diesel": (
        DIESEL,
        "__diesel_schema_migrations",
        [DIESEL_TABLE, "INSERT INTO __diesel_schema_migrations VALUES ('20260101101500'), ('20260102101500')"],
        (["2026-01-01-101500", "2026-01-02-101500"], ["2026-01-03-101500"]),
    ),
    "sqitch": (
        SQITCH,
        "sqitch.changes",
        [
            SQITCH_TABLE,
            sqitch_row("t1", "deploy/t1@v1.sql"),
            sqitch_row("other", "", project="billing"),
            sqitch_row("t2", "deploy/t2.sql"),
        ],
        (["t1", "t2"], ["t1 (2)"]),
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_history_of_a_tool_is_taken_over_by_name_or_found(pg18, database, case):
    files, table, statements, (old, new) = CASES[case]
    prepared(pg18, database, *statements)
    for adopt in ("auto", table):
        predicted = run(pg18, database, files, state="baseline", adopt=adopt, check=True)
        assert (predicted["changed"], recorded(predicted)) == (True, old)
    unknown = refused(pg18, database, files)
    assert unknown.code == "history_differs"
    assert table.strip('"').rpartition(".")[2] in unknown.msg
    assert refused(pg18, database, files, state="status").code == "history_differs"
    assert recorded(run(pg18, database, files, state="baseline", adopt="auto")) == old
    assert run(pg18, database, files, state="baseline", adopt="auto")["changed"] is False
    assert [row["version"] for row in run(pg18, database, files, state="status")["pending"]] == new
    assert applied(run(pg18, database, files)) == new
    assert run(pg18, database, files)["changed"] is False


def test_history_is_taken_over_by_the_first_run_that_applies_something(pg18, database):
    files, _table, statements, (old, new) = CASES["golang-migrate"]
    prepared(pg18, database, *statements)
    status = run(pg18, database, files, state="status", adopt="auto")
    assert (status["changed"], recorded(status), [p["version"] for p in status["pending"]]) == (False, old, new)
    # What an undo compares is what the history says, and it says nothing yet.
    assert (status["history"], status["current_version"]) == ([], None)
    predicted = run(pg18, database, files, adopt="auto", check=True)
    assert (predicted["changed"], recorded(predicted)) == (True, old)
    done = run(pg18, database, files, adopt="auto", deployment_id="d1")
    assert (recorded(done), applied(done)) == (old, new)
    rows = run(pg18, database, files, state="status", adopt="auto")["history"]
    assert [row["deployment_id"] for row in rows] == [None, None, "d1"]
    assert run(pg18, database, files, adopt="auto")["changed"] is False


def test_history_of_something_else_can_be_left_alone(pg18, database):
    pg18.execute(RAILS_TABLE + "; INSERT INTO schema_migrations VALUES ('1')", database=database)
    assert applied(run(pg18, database, GOLANG, adopt="none")) == ["1", "2", "3"]
    assert run(pg18, database, GOLANG)["changed"] is False


def test_history_that_the_login_role_may_not_read_is_somebody_elses(pg18, database):
    pg18.execute("DROP ROLE IF EXISTS migrator; CREATE ROLE migrator LOGIN PASSWORD 'm'")
    pg18.execute(GOLANG_TABLE + "; INSERT INTO schema_migrations VALUES (2, false)", database=database)
    pg18.execute("GRANT ALL ON SCHEMA public TO migrator", database=database)
    options: dict[str, Any] = {
        "server": dataclasses.replace(pg18.server, user="migrator", password="m"),
        "database": database,
        "files": [SourceFile("/m/" + name, text.encode()) for name, text in GOLANG.items()],
    }
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        migrate(**options, state="baseline", settings=Settings(adopt="schema_migrations"))
    assert applied(migrate(**options, state="applied", settings=Settings())) == ["1", "2", "3"]


def test_an_empty_history_of_a_tool_is_no_hindrance(pg18, database):
    pg18.execute(GOLANG_TABLE, database=database)
    assert applied(run(pg18, database, GOLANG)) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("files", "statements", "named"),
    [
        (GOLANG, [GOLANG_TABLE, "INSERT INTO schema_migrations VALUES (2, true)"], "version 2 is dirty"),
        (
            FLYWAY,
            [FLYWAY_TABLE, flyway_row(1, "1", "V1__t.sql"), flyway_row(2, "1.1", "V1.1__t.sql", success=False)],
            "1.1 failed",
        ),
    ],
)
def test_history_that_did_not_end_well_is_refused(pg18, database, files, statements, named):
    prepared(pg18, database, *statements)
    error = refused(pg18, database, files, state="baseline", adopt="auto")
    assert error.code == "migration_failed"
    assert named in error.msg


def test_differences_of_both_sides_are_named(pg18, database):
    prepared(
        pg18,
        database,
        FLYWAY_TABLE,
        flyway_row(1, "1", "V1.1__t.sql"),
        flyway_row(2, "7", "V7__gone.sql"),
        flyway_row(3, "2", "V2__t.sql"),
    )
    error = refused(pg18, database, FLYWAY, state="baseline", adopt="auto")
    assert error.code == "migration_changed"
    assert "applied there, but no file is here: 7" in error.msg
    assert "older than what is: 1.1" in error.msg
    assert "not the one that was applied there: 1." in error.msg
    assert not pg18.execute("SELECT 1 FROM pg_tables WHERE tablename = 'schema_version'", database=database)


def test_differences_may_be_accepted_but_not_other_files(pg18, database):
    prepared(pg18, database, RAILS_TABLE, "INSERT INTO schema_migrations VALUES ('1'), ('3'), ('9')")
    options = {"state": "baseline", "adopt": "auto"}
    assert refused(pg18, database, GOLANG, **options).code == "migration_missing"
    assert refused(pg18, database, GOLANG, **options, allow_missing=True).code == "migration_out_of_order"
    done = run(pg18, database, GOLANG, **options, allow_missing=True, allow_out_of_order=True)
    assert recorded(done) == ["1", "3"]


def test_repeatable_that_changed_since_runs_again(pg18, database):
    files, _table, statements, _versions = CASES["flyway"]
    prepared(pg18, database, *statements)
    files = {**files, "R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT 2 AS one;\n"}
    assert recorded(run(pg18, database, files, state="baseline", adopt="auto")) == ["1", "1.1"]
    assert applied(run(pg18, database, files)) == ["2", "R__v"]


def test_several_histories_need_a_name_unless_the_layout_tells(pg18, database):
    prepared(
        pg18, database, GOLANG_TABLE, "INSERT INTO schema_migrations VALUES (2, false)", FLYWAY_TABLE, SQITCH_TABLE
    )
    assert recorded(run(pg18, database, GOLANG, state="baseline", adopt="auto", check=True)) == ["1", "2"]
    error = refused(pg18, database, GOOSE, state="baseline", adopt="auto")
    assert "public.flyway_schema_history (Flyway), public.schema_migrations" in error.msg
    pg18.execute('CREATE SCHEMA "a b"; CREATE TABLE "a b".schema_migrations (version text)', database=database)
    assert refused(pg18, database, GOLANG, state="baseline", adopt="schema_migrations").code == "option_invalid"
    result = run(pg18, database, GOLANG, state="baseline", adopt='"a b".schema_migrations', check=True)
    assert recorded(result) == []


def test_a_history_of_flyway_with_our_name_is_no_history_of_ours(pg18, database):
    # The name that Flyway gave its table up to version 4, and that many keep.
    table = FLYWAY_TABLE.replace("flyway_schema_history", "schema_version")
    row = flyway_row(1, "1", "V1__t.sql").replace("flyway_schema_history", "schema_version")
    prepared(pg18, database, table, row)
    error = refused(pg18, database, FLYWAY, state="status")
    assert "public.schema_version is the history of Flyway" in error.msg
    for adopt in ("auto", "public.schema_version"):
        done = run(pg18, database, FLYWAY, state="baseline", adopt=adopt, history_table="migrations", check=True)
        assert recorded(done) == ["1"]


@pytest.mark.parametrize("adopt", ["auto", "absent", "public.t1", "a.b.c"])
def test_a_history_that_is_not_there_is_refused(pg18, database, adopt):
    prepared(pg18, database)
    assert refused(pg18, database, GOLANG, state="baseline", adopt=adopt).code == "option_invalid"


def test_module_takes_over_and_predicts_it(pg18, database, tmp_path):
    files, table, statements, (old, new) = CASES["flyway"]
    prepared(pg18, database, *statements)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    arguments = {
        **{"login_host": "127.0.0.1", "login_port": pg18.port, "login_password": pg18.password},
        **{"database": database, "source": [str(tmp_path)], "state": "baseline", "adopt": table},
    }
    predicted = run_module("pg_migrate", arguments, check=True)
    assert (predicted["changed"], recorded(predicted)) == (True, old)
    done = run_module("pg_migrate", arguments, diff=True)
    assert (done["changed"], recorded(done), done["layout"]) == (True, old, "flyway")
    assert done["diff"] == {"before": "", "after": "".join(version + "\n" for version in old)}
    assert run_module("pg_migrate", arguments, check=True)["changed"] is False
    assert run_module("pg_migrate", arguments)["changed"] is False
    status = run_module("pg_migrate", {**arguments, "state": "status", "adopt": None})
    assert [row["version"] for row in status["pending"]] == new
