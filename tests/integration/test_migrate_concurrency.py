# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations among other sessions: locks, a second runner, and a kill at any moment."""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.locks import lock_worker
from tests.support.busy_table import probes, reader
from tests.support.migrations import run, runner_sessions, start
from tests.support.server import eventually

NO_TRANSACTION = "-- holdfast: no-transaction\n"


def test_probes_are_not_blocked_longer_than_lock_timeout_and_a_retry_succeeds(pg18, database):
    pg18.execute("CREATE TABLE a (i int); CREATE TABLE b (i int PRIMARY KEY)", database=database)
    files = {"1_fk.up.sql": "SELECT 1;\nALTER TABLE a ADD FOREIGN KEY (i) REFERENCES b;\nALTER TABLE a ADD j int;"}
    with reader(pg18, database, seconds=5) as pid, probes(pg18, database) as latencies:
        (applied,) = run(pg18, database, files, lock_timeout_ms=1000)["applied"]
    assert max(latencies) < 1.5
    assert len(latencies) > 100
    wait = applied["lock_waits"][0]
    assert (wait["attempt"], wait["statement"], wait["line"], wait["object"]) == (1, 3, 3, "a")
    (blocker,) = wait["blockers"]
    assert (blocker["pid"], blocker["application"], blocker["state"]) == (pid, "slow report", "idle in transaction")
    assert blocker["transaction_age_s"] > 0
    assert 1000 <= wait["waited_ms"] < 2000


def test_lock_that_never_comes_fails_cleanly_and_names_the_blocker(pg_distribution):
    name = "locks_never"
    pg_distribution.create_database(name, "CREATE TABLE a (i int)")
    try:
        with reader(pg_distribution, name, seconds=2.5) as pid, pytest.raises(HoldfastError) as error:
            run(pg_distribution, name, {"1_a.up.sql": "DROP TABLE a"}, lock_timeout_ms=200, lock_retries=1)
        assert error.value.details["sqlstate"] == "55P03"
        assert [wait["blockers"][0]["pid"] for wait in error.value.details["lock_waits"]] == [pid, pid]
        assert pg_distribution.execute("SELECT to_regclass('schema_version')", database=name) == [(None,)]
    finally:
        pg_distribution.drop_database(name)


def test_concurrent_index_is_built_again_after_a_lock_timeout(pg18, database):
    pg18.execute("CREATE TABLE a (i int)", database=database)
    text = NO_TRANSACTION + "CREATE INDEX CONCURRENTLY a_i ON a (i);"
    writer = pg18.connect(database)
    writer.autocommit = False
    with writer.cursor() as cursor:
        cursor.execute("INSERT INTO a VALUES (1)")
    timer = threading.Timer(1.5, writer.commit)
    timer.start()
    (applied,) = run(pg18, database, {"1_a.up.sql": text}, lock_timeout_ms=500)["applied"]
    timer.join()
    writer.close()
    assert applied["lock_waits"]
    assert pg18.execute(
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'a'::regclass", database=database
    ) == [("a_i", True)]


def test_a_second_runner_is_refused_and_told_who_is_first(pg18, database):
    first = start(pg18, database, {"1_a.up.sql": "SELECT pg_sleep(60)"})
    eventually(lambda: any("pg_sleep" in query for _pid, query in runner_sessions(pg18, database)))
    for options in ({}, {"check": True}, {"state": "reverted", "target_version": "0"}):
        with pytest.raises(HoldfastError) as error:
            run(pg18, database, {"1_a.up.sql": ""}, **options)
        assert error.value.code == "migration_locked"
        holder = error.value.details["holder"]
        assert holder["pid"] in [pid for pid, _query in runner_sessions(pg18, database)]
        assert (holder["user"], holder["application"]) == ("postgres", "holdfast migrate")
        assert "pid %d, user postgres" % holder["pid"] in error.value.msg
    assert run(pg18, database, {"1_a.up.sql": "SELECT pg_sleep(60)"}, state="status")["current_version"] is None
    first.kill()
    first.communicate()


def test_server_process_of_a_killed_runner_is_waited_for(pg18, database):
    text = "CREATE TABLE a (); SELECT pg_sleep(60);"
    first = start(pg18, database, {"1_a.up.sql": text})
    eventually(lambda: any("pg_sleep" in query for _pid, query in runner_sessions(pg18, database)))
    first.kill()
    first.wait()
    assert run(pg18, database, {"1_a.up.sql": "CREATE TABLE a ();"})["current_version"] == "1"


def test_process_of_a_killed_runner_that_does_not_end_is_named(pg18, database):
    orphan, worker = pg18.connect(database), pg18.connect(database)
    with orphan.cursor() as cursor, worker.cursor() as later:
        lock_worker(cursor, database=database)
        with pytest.raises(HoldfastError) as error:
            lock_worker(later, database=database, patience_s=0.1)
    assert error.value.code == "migration_locked"
    assert "pg_cancel_backend(%d)" % orphan.info.backend_pid in error.value.hint
    orphan.close()
    worker.close()


def test_end_of_the_lock_connection_stops_the_run_before_the_next_file(pg18, database):
    kill = (
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l"
        " WHERE l.locktype = 'advisory' AND l.objid = 1 AND l.pid <> pg_backend_pid(); CREATE TABLE a ();"
    )
    with pytest.raises(HoldfastError) as error:
        run(pg18, database, {"1_a.up.sql": kill, "2_b.up.sql": "CREATE TABLE b ();"})
    assert error.value.code == "connection_failed"
    assert error.value.details["current_version"] == "1"
    assert run(pg18, database, {"1_a.up.sql": kill, "2_b.up.sql": ""})["current_version"] == "2"


def test_end_of_the_working_connection_is_a_clean_failure(pg18, database):
    text = "CREATE TABLE a ();\nSELECT pg_terminate_backend(pg_backend_pid());"
    with pytest.raises(HoldfastError) as error:
        run(pg18, database, {"1_a.up.sql": text})
    assert (error.value.code, error.value.details["line"]) == ("migration_failed", 2)
    assert pg18.execute("SELECT to_regclass('a')", database=database) == [(None,)]


def history_of_thirty():
    """Thirty steps that each leave a trace per statement; three are without transaction."""
    files = {}
    for number in range(1, 31):
        if number % 10:
            text = (
                "CREATE TABLE t{0} (i int);\nSELECT pg_sleep(0.01);\nINSERT INTO t{0} VALUES (1), (2);\n"
                "CREATE INDEX t{0}_i ON t{0} (i);\nSELECT pg_sleep(0.01);\n"
            )
        else:
            text = NO_TRANSACTION + (
                "CREATE TABLE n{0} (i int);\nINSERT INTO n{0} SELECT generate_series(1, 50000);\n"
                "CREATE INDEX CONCURRENTLY n{0}_a ON n{0} (i);\nINSERT INTO n{0} VALUES (0);\n"
                "CREATE UNIQUE INDEX CONCURRENTLY n{0}_b ON n{0} (i);\n"
                "DO $$ BEGIN INSERT INTO n{0} VALUES (-1); PERFORM pg_sleep(0.1); END $$;\n"
            )
        files["%04d_step.up.sql" % number] = text.format(number)
    return files


def check_traces(server, database):
    """Every step is whole, or not there, or partial with exactly the statements that the history names."""
    tables = dict(
        server.execute(
            "SELECT c.relname::text, ("
            "  SELECT count(*) FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisvalid)"
            " FROM pg_class AS c WHERE c.relkind = 'r' AND c.relname ~ '^[nt][0-9]+$'",
            database=database,
        )
    )
    history = {}
    if server.execute("SELECT to_regclass('schema_version')", database=database) != [(None,)]:
        history = {
            int(version): (state, done, started)
            for version, state, done, started in server.execute(
                "SELECT version, state, statements_done, statement_started FROM schema_version", database=database
            )
        }
    assert [number for number, row in sorted(history.items()) if row[0] == "partial"] in ([], [max(history, default=0)])
    for number in range(1, 31):
        state, done, started = history.get(number, (None, 0, None))
        name = "tn"[number % 10 == 0] + str(number)
        if number % 10 or state != "partial":
            assert (name in tables) == (state == "applied"), (name, state)
            continue
        assert (name in tables) == (done >= 1)
        if done >= 1:
            (count,) = server.execute("SELECT count(*) FROM " + name, database=database)[0]
            assert count == (50000 if done >= 2 else 0) + (done >= 4) + (done >= 6)
            indexes = (done >= 3) + (done >= 5)
            assert tables[name] in ((indexes, indexes + 1) if started else (indexes,))


def test_a_kill_at_any_moment_leaves_nothing_that_the_history_does_not_name(pg18, database):
    files = history_of_thirty()
    moments = random.Random(20)
    kills = 0
    while kills < 15:
        process = start(pg18, database, files)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0.05, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        eventually(lambda: not runner_sessions(pg18, database), timeout_s=15)
        check_traces(pg18, database)
        if pg18.execute("SELECT to_regclass('schema_version')", database=database) != [(None,)] and (
            pg18.execute("SELECT count(*) FROM schema_version WHERE state = 'applied'", database=database) == [(30,)]
        ):
            pg18.drop_database(database)
            pg18.create_database(database)
    result = run(pg18, database, files)
    assert (result["partial"], result["current_version"]) == (False, "0030")
    check_traces(pg18, database)
    counts = pg18.execute(
        "SELECT count(*), (SELECT count(*) FROM n30), (SELECT count(*) FROM t29) FROM pg_index WHERE NOT indisvalid",
        database=database,
    )
    assert counts == [(0, 50002, 2)]
    assert run(pg18, database, files)["changed"] is False
