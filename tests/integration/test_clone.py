# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clones on real servers: equality, strategies, refusals, and what a killed one leaves."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import read_properties
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover import clone
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.clone import clone_database
from tests.support.modules import run_module
from tests.support.server import TestServer, eventually
from tests.support.switchover import rows_of, set_properties, start_engine, writing

FILLED = "CREATE TABLE written (n int PRIMARY KEY); INSERT INTO written SELECT generate_series(1, 1000)"


@pytest.fixture
def source(pg18: TestServer, database: str) -> str:
    pg18.execute(FILLED, database=database)
    return database


@pytest.fixture
def target(pg18: TestServer, source: str) -> Iterator[str]:
    name = source + "_copy"
    yield name
    pg18.drop_database(name)


def copy(server: TestServer, source: str, target: str, **options: Any) -> dict[str, Any]:
    return clone_database(server=server.server, source=source, target=target, **options)


def temporary(server: TestServer) -> list[str]:
    return [name for name in server.databases() if ".holdfast-clone-" in name]


def test_module_clones_once_and_predicts_it(pg18: TestServer, source: str, target: str) -> None:
    arguments = {**pg18.login, "database": source, "target": target}
    checked = run_module("pg_clone", arguments, check=True)
    assert checked["changed"] and checked["possible"] and checked["reason"] is None, checked
    assert checked["strategy"] == "wal_log" and checked["bytes"] > 1_000_000 and checked["free_bytes"] > 0
    assert "target_oid" not in checked and target not in pg18.databases()

    done = run_module("pg_clone", arguments)
    assert done["changed"], done
    oids = dict(pg18.execute("SELECT datname, oid FROM pg_database"))
    assert (done["source_oid"], done["target_oid"]) == (oids[source], oids[target])
    assert rows_of(pg18, target) == rows_of(pg18, source) and not temporary(pg18)

    for check in (True, False):
        again = run_module("pg_clone", arguments, check=check)
        assert again["failed"] and not again["changed"] and again["code"] == "target_exists", again
        assert "complete" in again["msg"]


@pytest.mark.parametrize("strategy", ["wal_log", "file_copy", "clone"])
def test_copy_equals_its_source_with_every_strategy(pg18: TestServer, source: str, target: str, strategy: str) -> None:
    role = "owner_" + uuid.uuid4().hex[:8]
    set_properties(pg18, source, role=role)
    done = copy(pg18, source, target, strategy=strategy)
    assert done["strategy"] == strategy and done["notices"] == []
    connection = pg18.connect()
    assert read_properties(connection=connection, database=target) == read_properties(
        connection=connection, database=source
    )
    connection.close()
    assert rows_of(pg18, target) == set(range(1, 1001))
    for name in (source, target):
        pg18.drop_database(name)
    pg18.execute("DROP ROLE " + role)


@pytest.mark.parametrize(
    "name", ['it\'s "quoted" 100 % %s', "-c a=b host=x", "back\\slash\nnew line", "é" * 31, "x" * 63]
)
def test_any_legal_name_can_be_cloned_from_and_to(pg18: TestServer, name: str) -> None:
    plain = "plain_" + uuid.uuid4().hex[:8]
    pg18.create_database(name, FILLED)
    try:
        copy(pg18, name, plain)
        pg18.drop_database(name)
        copy(pg18, plain, name)
        assert rows_of(pg18, name) == set(range(1, 1001))
    finally:
        pg18.drop_database(name)
        pg18.drop_database(plain)


def test_older_servers_use_what_they_have(pg16: TestServer, pg_distribution: TestServer) -> None:
    for server in (pg16, pg_distribution):
        server.create_database("older", FILLED)
        try:
            assert copy(server, "older", "older_copy", strategy="file_copy")["strategy"] == "file_copy"
            assert rows_of(server, "older_copy") == set(range(1, 1001))
            with pytest.raises(HoldfastError) as refusal:
                copy(server, "older", "another", strategy="clone")
            assert refusal.value.code == "unsupported"
            checked = copy(server, "older", "another", strategy="clone", check_mode=True)
            assert not checked["possible"] and not checked["changed"] and "PostgreSQL 18" in checked["reason"]
        finally:
            server.drop_database("older")
            server.drop_database("older_copy")


def test_file_system_that_cannot_clone_is_copied_with_a_notice(
    pg18: TestServer, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = clone.create_database
    attempts = []

    def refuse_first(**options: Any) -> str:
        attempts.append(options["strategy"])
        if len(attempts) == 1:
            raise HoldfastError(code="query_failed", msg="could not clone file", hint="", sqlstate="XX000")
        return create(**options)

    monkeypatch.setattr(clone, "create_database", refuse_first)
    done = copy(pg18, source, target, strategy="clone")
    assert done["strategy"] == "file_copy" and "cannot clone files" in done["notices"][0]
    assert rows_of(pg18, target) == set(range(1, 1001))


def test_session_in_the_source_refuses_and_is_named(pg18: TestServer, source: str, target: str) -> None:
    session = pg18.connect(source, application_name="batch import")
    started = time.monotonic()
    with pytest.raises(HoldfastError) as refusal:
        copy(pg18, source, target, drain_timeout_s=0.3)
    assert time.monotonic() - started < 2
    assert refusal.value.code == "database_in_use"
    assert str(session.info.backend_pid) in refusal.value.msg and "batch import" in refusal.value.msg
    checked = copy(pg18, source, target, check_mode=True, drain_timeout_s=0.1)
    assert not checked["possible"] and not checked["changed"] and "batch import" in checked["reason"]
    assert [s["pid"] for s in checked["blocking_sessions"]] == [session.info.backend_pid]
    timer = threading.Timer(0.3, session.close)
    timer.start()
    assert copy(pg18, source, target)["changed"]


def test_clients_that_come_and_go_do_not_prevent_a_copy(pg18: TestServer, source: str, target: str) -> None:
    pg18.execute("TRUNCATE written", database=source)
    with writing(pg18, source, clients=2, reconnect=True) as writers:
        eventually(lambda: all(len(writer.committed) > 5 for writer in writers))
        copy(pg18, source, target)
        counts = [len(writer.committed) for writer in writers]
        eventually(lambda: all(len(w.committed) > count for w, count in zip(writers, counts)))
    assert not writers[0].errors and not writers[1].errors
    assert rows_of(pg18, target) < rows_of(pg18, source)


def test_newcomers_are_not_held_up_longer_than_the_drain(pg18: TestServer, source: str, target: str) -> None:
    """A session slips in between the look and CREATE DATABASE, which then waits for it with the door shut."""
    create = clone.create_database
    sessions = []
    waited: list[float] = []

    def knock() -> None:
        started = time.monotonic()
        pg18.connect(source).close()
        waited.append(time.monotonic() - started)

    def slip_in(**options: Any) -> str:
        sessions.append(pg18.connect(source, application_name="slipped in"))
        threading.Timer(0.1, knock).start()
        return create(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clone, "create_database", slip_in)
        with pytest.raises(HoldfastError) as refusal:
            copy(pg18, source, target, drain_timeout_s=0.6)
    assert refusal.value.code == "database_in_use" and "slipped in" in refusal.value.msg
    eventually(lambda: waited)
    assert waited[0] < 2
    for session in sessions:
        session.close()
    assert target not in pg18.databases() and not temporary(pg18)


def test_refusals_say_what_and_leave_nothing(pg18: TestServer, source: str, target: str) -> None:
    pg18.create_database(target + "_broken")
    pg18.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", (target + "_broken",))
    connection = pg18.connect(source)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO written VALUES (0)")
        cursor.execute("PREPARE TRANSACTION 'in two phases'")
    connection.close()
    refusals: list[tuple[str, str, dict[str, Any], str]] = [
        ("no such database", target, {}, "database_not_found"),
        (target + "_broken", target, {}, "database_invalid"),
        (source, target + "_broken", {}, "target_exists"),
        (source, source, {}, "option_invalid"),
        (source, "postgres", {}, "option_invalid"),
        (source, "x" * 64, {}, "name_invalid"),
        (source, target, {"drain_timeout_s": -1}, "option_invalid"),
        (source, target, {}, "database_in_use"),
    ]
    for one, other, options, code in refusals:
        with pytest.raises(HoldfastError) as refusal:
            copy(pg18, one, other, **options)
        assert refusal.value.code == code, refusal.value.msg
    assert "in two phases" in refusal.value.msg
    pg18.execute("ROLLBACK PREPARED 'in two phases'", database=source)
    with pytest.raises(HoldfastError) as refusal:
        copy(pg18, source, target, min_free_bytes=1 << 60)
    assert refusal.value.code == "destination_full"
    assert refusal.value.details["free_bytes"] > 0 and refusal.value.details["needed_bytes"] > 1_000_000
    checked = copy(pg18, source, target, min_free_bytes=1 << 60, check_mode=True)
    assert not checked["possible"] and str(1 << 60) in checked["reason"]
    assert target not in pg18.databases() and not temporary(pg18)
    pg18.execute("UPDATE pg_database SET datconnlimit = -1 WHERE datname = %s", (target + "_broken",))
    pg18.drop_database(target + "_broken")


def test_target_created_meanwhile_is_kept_and_the_copy_is_dropped(
    pg18: TestServer, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = clone.create_database

    def lose_the_race(**options: Any) -> str:
        pg18.create_database(target)
        return create(**options)

    monkeypatch.setattr(clone, "create_database", lose_the_race)
    with pytest.raises(HoldfastError) as refusal:
        copy(pg18, source, target)
    assert refusal.value.code == "target_exists"
    assert not temporary(pg18)
    assert pg18.execute("SELECT count(*) FROM pg_class WHERE relname = 'written'", database=target) == [(0,)]


def test_killed_clone_is_never_mistaken_for_one_and_is_removed(pg18: TestServer, source: str, target: str) -> None:
    for delay_s in (0.0, 0.02, 0.05, 0.08, 0.12):
        process = start_engine(pg18, "clone", {"source": source, "target": target})
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if target in pg18.databases():
            assert rows_of(pg18, target) == set(range(1, 1001))
            pg18.drop_database(target)
    # What a kill between the copy and its completion leaves, of a process that is gone.
    stale = "old.holdfast-clone-999999"
    mine = "mine.holdfast-clone-999999"
    running = "busy.holdfast-clone-%d"
    connection = pg18.connect()
    running %= connection.info.backend_pid
    for name in (stale, running):
        pg18.execute('CREATE DATABASE "%s" ALLOW_CONNECTIONS false CONNECTION LIMIT 0' % name)
    pg18.create_database(mine)
    done = copy(pg18, source, target)
    assert stale in done["removed"] and running not in done["removed"] and mine not in done["removed"]
    assert set(temporary(pg18)) == {running, mine}
    connection.close()
    pg18.drop_database(running)
    pg18.drop_database(mine)


def test_signal_during_the_copy_leaves_nothing(pg18: TestServer, source: str, target: str) -> None:
    session = pg18.connect(source)
    process = start_engine(pg18, "clone", {"source": source, "target": target, "drain_timeout_s": 10})
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    output, _errors = process.communicate(timeout=10)
    assert '"interrupted"' in output
    session.close()
    assert target not in pg18.databases() and not temporary(pg18)


def test_owner_without_superuser_needs_createdb(pg18: TestServer) -> None:
    role = "deployer_" + uuid.uuid4().hex[:8]
    pg18.execute("CREATE ROLE %s LOGIN PASSWORD 'x'" % role)
    server = Server(host="127.0.0.1", port=pg18.port, user=role, password="x")
    pg18.create_database(role + "_a", FILLED, owner=role)
    try:
        with pytest.raises(HoldfastError) as refusal:
            clone_database(server=server, source=role + "_a", target=role + "_b")
        assert refusal.value.code == "permission_denied" and "CREATEDB" in refusal.value.msg
        pg18.execute("ALTER ROLE %s CREATEDB" % role)
        done = clone_database(server=server, source=role + "_a", target=role + "_b")
        assert done["free_bytes"] is None and "data_directory" in done["free_reason"]
        assert done["bytes"] > 0
        with pytest.raises(HoldfastError) as refusal:
            clone_database(server=server, source=role + "_a", target=role + "_c", min_free_bytes=1)
        assert refusal.value.code == "unsupported"
        session = pg18.connect(role + "_a")
        with pytest.raises(HoldfastError) as refusal:
            clone_database(server=server, source=role + "_a", target=role + "_c", drain_timeout_s=0.1)
        assert refusal.value.code == "database_in_use" and str(session.info.backend_pid) in refusal.value.msg
        session.close()
    finally:
        pg18.drop_database(role + "_a")
        pg18.drop_database(role + "_b")
        pg18.execute("DROP ROLE " + role)


def test_collation_of_another_library_version_is_told_before(pg_distribution: TestServer) -> None:
    pg_distribution.create_database("collated")
    try:
        pg_distribution.execute("UPDATE pg_database SET datcollversion = '0.1' WHERE datname = 'collated'")
        with pytest.raises(HoldfastError) as refusal:
            copy(pg_distribution, "collated", "collated_copy")
        assert refusal.value.code == "unsupported" and "0.1" in refusal.value.msg
        with pytest.raises(psycopg2.Error, match="collation version"):
            pg_distribution.execute("CREATE DATABASE collated_copy TEMPLATE collated")
    finally:
        pg_distribution.drop_database("collated")
