# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files with commands of psql run whole, not at all, or are in doubt and said to be."""

from __future__ import annotations

import random
import threading
import time

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.migrations import run, runner_sessions, start
from tests.support.modules import run_module
from tests.support.server import eventually

LOADED = r"""\set name 'it''s; x'
BEGIN;
CREATE TABLE t (a text, b int);
COPY t FROM stdin;
it's; \\! x	1
\.
SELECT count(*) = 1 AS loaded FROM t \gset
\if :loaded
INSERT INTO t VALUES (:'name', 2);
\else
SELECT 1/0;
\endif
SELECT format('COMMENT ON TABLE t IS %L', 'told') \gexec
\echo loaded :name
ALTER ROLE postgres SET app.secret = 'geheim';
ALTER ROLE postgres RESET app.secret;
COMMIT;
"""


def history(server, database):
    """The rows of the history as version, state, statements done and the one in doubt."""
    return server.execute(
        "SELECT version, state, statements_done, statement_started FROM schema_version ORDER BY 1", database=database
    )


def failure(*arguments, **options):
    with pytest.raises(HoldfastError) as error:
        run(*arguments, **options)
    return error.value


@pytest.mark.parametrize("version", ["pg16", "pg18", "pg_distribution"])
def test_file_runs_in_one_transaction_with_its_record(request, version):
    server = request.getfixturevalue(version)
    database = "psql ' \\ %s = \" é"
    server.create_database(database)
    try:
        files = {"1_a.up.sql": LOADED, "1_a.down.sql": "\\set x t\nDROP TABLE :x;\n"}
        assert run(server, database, files, check=True)["pending"][0]["transactional"] is True
        (applied,) = run(server, database, files)["applied"]
        assert applied["notices"][-1:] == ["loaded it's; x"]
        (record,) = applied["records"]
        assert (record["number"], record["statement"], record["attempts"]) == (1, "(psql)", 1)
        rows = server.execute("SELECT a, b, obj_description('t'::regclass) FROM t ORDER BY b", database=database)
        assert rows == [("it's; \\! x", 1, "told"), ("it's; x", 2, "told")]
        assert history(server, database) == [("1", "applied", 1, None)]
        assert run(server, database, files)["changed"] is False
        assert run(server, database, files, state="reverted", target_version="0")["reverted"][0]["transactional"]
        assert history(server, database) == []
    finally:
        server.drop_database(database)


def test_error_undoes_the_file_and_names_the_line(pg18, database):
    files = {"1_a.up.sql": "\\set x 1\nCREATE TABLE t ();\nALTER ROLE nobody PASSWORD 'geheim';\n"}
    error = failure(pg18, database, files)
    assert (error.details["path"], error.details["line"], error.details["sqlstate"]) == ("/m/1_a.up.sql", 3, "42704")
    assert "The file was rolled back" in error.msg
    assert "geheim" not in error.msg + repr(error.details)
    assert pg18.execute("SELECT to_regclass('t')", database=database) == [(None,)]
    assert history(pg18, database) == []


def test_file_that_cannot_be_one_transaction_is_in_doubt_after_an_error(pg18, database):
    good = "\\set x 1\nCREATE TABLE t ();\nVACUUM t;\n"
    assert run(pg18, database, {"1_a.up.sql": good})["applied"][0]["transactional"] is False
    files = {"1_a.up.sql": good, "2_b.up.sql": "\\set x 1\nCREATE TABLE u ();\nVACUUM u;\nSELECT 1/0;\n"}
    error = failure(pg18, database, files)
    assert "What psql has done before is committed" in error.msg
    assert history(pg18, database)[1] == ("2", "partial", 0, 1)
    error = failure(pg18, database, files)
    assert "cannot go on by itself" in error.msg
    checksum = error.hint.partition("checksum to '")[2].partition("'")[0]
    pg18.execute(
        "UPDATE schema_version SET statement_started = NULL, statements_done = 1, checksum = %s WHERE version = '2'",
        (checksum,),
        database=database,
    )
    assert run(pg18, database, files)["current_version"] == "2"


def test_file_that_commits_by_itself_is_not_called_rolled_back(pg18, database):
    for end in ("", "SELECT 1/0;\n"):
        files = {"1_a.up.sql": "CREATE TABLE t ();\nSELECT 'COMMIT' \\gexec\n" + end}
        error = failure(pg18, database, files)
        assert "rolled back" not in error.msg
        assert history(pg18, database) == [("1", "partial", 0, 1)]
        pg18.execute("DROP TABLE t, schema_version", database=database)


@pytest.mark.parametrize(
    ("up", "verify"),
    [
        ("CREATE TABLE t (i int);", "\\set x 1\nSELECT :x / count(*) FROM t;"),
        ("\\set x 1\nCREATE TABLE t (i int);", "SELECT 1 / count(*) FROM t;"),
    ],
)
def test_verification_undoes_the_file_when_either_needs_psql(pg18, database, up, verify):
    error = failure(pg18, database, {"1_a.up.sql": up, "1_a.verify.sql": verify})
    assert error.details["path"] == "/m/1_a.verify.sql"
    assert pg18.execute("SELECT to_regclass('t')", database=database) == [(None,)]
    up += "\nINSERT INTO t VALUES (1);"
    assert run(pg18, database, {"1_a.up.sql": up, "1_a.verify.sql": verify + "DELETE FROM t;"})["applied"]
    assert pg18.execute("SELECT count(*) FROM t", database=database) == [(1,)]


def test_verification_by_psql_follows_a_file_without_transaction(pg18, database):
    files = {
        "1_a.up.sql": "CREATE TABLE t (i int);\nCREATE INDEX CONCURRENTLY t_i ON t (i);",
        "1_a.verify.sql": "\\set x 1\nSELECT :x / count(*) FROM t;",
    }
    assert failure(pg18, database, files).details["path"] == "/m/1_a.verify.sql"
    assert history(pg18, database) == [("1", "partial", 2, None)]
    pg18.execute("INSERT INTO t VALUES (1)", database=database)
    assert run(pg18, database, files)["partial"] is False


def test_objects_belong_to_the_role_and_time_outs_hold(pg18, database):
    pg18.execute('DROP ROLE IF EXISTS "psql owner"; CREATE ROLE "psql owner"', database=database)
    pg18.execute('GRANT ALL ON SCHEMA public TO "psql owner"', database=database)
    text = "\\set x 1\nCREATE TABLE t ();\n\\echo :x\nSELECT current_setting('statement_timeout') \\g\n"
    done = run(pg18, database, {"1_a.up.sql": text}, role="psql owner", statement_timeout_ms=7000)
    assert any("7s" in line for line in done["applied"][0]["notices"])
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 't'"
    assert pg18.execute(owner, database=database) == [('"psql owner"',)]
    pg18.execute('DROP OWNED BY "psql owner"; DROP ROLE "psql owner"', database=database)


def test_lock_that_comes_late_is_waited_for_again_and_its_holder_named(pg18, database):
    pg18.execute("CREATE TABLE a (i int)", database=database)
    reader = pg18.connect(database, application_name="slow report")
    reader.autocommit = False
    with reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM a")
    timer = threading.Timer(1.5, reader.rollback)
    timer.start()
    text = "\\set x 1\nALTER TABLE a ADD j int;"
    (applied,) = run(pg18, database, {"1_a.up.sql": text}, lock_timeout_ms=700)["applied"]
    timer.join()
    reader.close()
    assert applied["lock_waits"][0]["blockers"][0]["application"] == "slow report"
    assert applied["records"][0]["attempts"] > 1


def test_missing_psql_is_said_before_anything_runs(pg18, database):
    files = {"1_a.up.sql": "CREATE TABLE t ();", "2_b.up.sql": "\\set x 1\nSELECT 1;"}
    for options in ({"check": True}, {}, {"state": "status"}):
        error = failure(pg18, database, files, bin_dir="/nowhere", **options)
        assert (error.code, bool(error.hint)) == ("program_not_found", True)
    assert pg18.execute("SELECT to_regclass('t')", database=database) == [(None,)]
    assert run(pg18, database, {"1_a.up.sql": ""}, bin_dir="/nowhere")["changed"]


@pytest.mark.parametrize(
    ("slow", "runs_again"),
    [("DO 'BEGIN PERFORM pg_sleep(2); END';", False), ("SELECT pg_sleep(2);", True)],
    ids=["it ends by itself and has recorded the file", "its output has nowhere to go"],
)
def test_psql_of_a_killed_runner_is_waited_for_and_nothing_is_done_twice(pg18, database, slow, runs_again):
    files = {"1_a.up.sql": "\\set x 1\nCREATE TABLE t ();\n%s\n" % slow}
    process = start(pg18, database, files)
    eventually(lambda: any("pg_sleep" in query for _pid, query in runner_sessions(pg18, database)))
    process.kill()
    process.communicate()
    assert run(pg18, database, files)["changed"] is runs_again
    assert history(pg18, database) == [("1", "applied", 1, None)]


def test_kill_at_any_moment_leaves_the_file_whole_or_absent(pg18, database):
    text = "\\set x 1\n" + "CREATE TABLE t%d ();\nSELECT pg_sleep(0.02);\n" * 5 % tuple(range(5))
    moments = random.Random(7)
    for _kill in range(8):
        process = start(pg18, database, {"1_a.up.sql": text})
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0.05, 0.4))
        process.kill()
        process.communicate()
        eventually(lambda: not runner_sessions(pg18, database), timeout_s=15)
        tables = pg18.execute("SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]$'", database=database)[0][0]
        rows = []
        if pg18.execute("SELECT to_regclass('schema_version')", database=database) != [(None,)]:
            rows = history(pg18, database)
        assert (tables, rows) in ((0, []), (5, [("1", "applied", 1, None)]))
        if rows:
            pg18.execute("DROP TABLE t0, t1, t2, t3, t4, schema_version", database=database)
    assert run(pg18, database, {"1_a.up.sql": text})["current_version"] == "1"


def test_includes_travel_from_the_controller(pg18, database, tmp_path):
    source = tmp_path / "migrations"
    (source / "1_a" / "data").mkdir(parents=True)
    (source / "common").mkdir()
    (source / "1_a" / "up.sql").write_text("\\ir ../common/t.sql\n\\copy t from 'data/it''s.csv' csv\n\\i more.sql\n")
    (source / "1_a" / "down.sql").write_text("DROP TABLE t;\n")
    (source / "1_a" / "data" / "it's.csv").write_text("1\n2\n")
    (source / "1_a" / "more.sql").write_text("INSERT INTO t VALUES (3);\n")
    (source / "common" / "t.sql").write_text("CREATE TABLE t (i int);\n")
    arguments = {"database": database, "source": [str(source)], "bin_dir": str(pg18.bin_dir), **pg18.login}
    assert run_module("pg_migrate", arguments, check=True)["changed"] is True
    result = run_module("pg_migrate", arguments)
    assert result["current_version"] == "1", result
    assert pg18.execute("SELECT sum(i) FROM t", database=database) == [(6,)]
    assert run_module("pg_migrate", arguments)["changed"] is False
    (source / "1_a" / "more.sql").write_text("INSERT INTO t VALUES (4);\n")
    assert run_module("pg_migrate", arguments)["code"] == "migration_changed"


@pytest.mark.parametrize("application", ["pg_dump", "holdfast backup 12ab"])
def test_nothing_runs_beside_a_backup_unless_told(pg18, database, application):
    backup = pg18.connect(database, application_name=application)
    try:
        files = {"1_a.up.sql": "CREATE TABLE t ();"}
        for options in ({}, {"check": True}):
            error = failure(pg18, database, files, **options)
            assert error.code == "backup_running"
            assert "pid %d" % backup.info.backend_pid in error.msg
        assert run(pg18, database, files, allow_during_backup=True)["current_version"] == "1"
        assert run(pg18, database, files)["changed"] is False
    finally:
        backup.close()
    assert run(pg18, database, {**files, "1_a.down.sql": "DROP TABLE t"}, state="reverted", target_version="0")[
        "changed"
    ]
