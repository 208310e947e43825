# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clones of databases behind PgBouncer: clients wait and fail nothing, for no longer than they may."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover import clone
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.clone import clone_database
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pause_length import Pause
from tests.support.modules import ROOT, run_module
from tests.support.pgbouncer import TestPooler, poolers_running
from tests.support.server import TestServer, eventually

SLOW = [{"strategy": "wal_log", "bytes": 1_000_000, "copy_s": 60.0}]

RUN_SLOW_CLONE = """
import json, sys, time
sys.path[:0] = sys.argv[1:3]
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover import clone
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import PoolerAddress
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pause_length import Pause
server, poolers, options, max_pause_s = json.load(sys.stdin)
def never_ends(**options):
    print("copying", flush=True)
    time.sleep(60)
clone.create_database = never_ends
addresses = [PoolerAddress(name=p["name"], server=Server(**p["server"])) for p in poolers]
clone.clone_database(server=Server(**server), pause=Pause(addresses, max_pause_s), **options)
"""

# The server's own limits are taken away, as a file system that hangs or an older server would; what is stopped here has
# locked the source, so that whoever logs in to it waits.
RUN_CLONE_THAT_LOCKS = RUN_SLOW_CLONE.replace(
    """    print("copying", flush=True)
    time.sleep(60)
""",
    """    with options["connection"].cursor() as cursor:
        for name in ("statement_timeout", "lock_timeout", "client_connection_check_interval"):
            cursor.execute("SELECT set_config(%s, '0', false)", (name,))
    print("copying", flush=True)
    return create(**options)
""",
).replace("def never_ends", "create = clone.create_database\ndef never_ends")


@pytest.fixture
def source(pg18: TestServer, database: str) -> Iterator[str]:
    pg18.execute("CREATE TABLE written (n bigserial PRIMARY KEY, at timestamptz DEFAULT now())", database=database)
    yield database
    pg18.drop_database(database + "_copy")


@pytest.fixture
def poolers(pg18: TestServer) -> Iterator[list[TestPooler]]:
    with poolers_running(pg18, "one", "two") as running:
        yield running


def copy(server: TestServer, source: str, poolers: list[TestPooler], *, max_pause_s: float = 10, **options: Any) -> Any:
    pause = Pause([pooler.address() for pooler in poolers], max_pause_s)
    return clone_database(server=server.server, source=source, target=source + "_copy", pause=pause, **options)


class Client:
    """A client of a pooler that writes one row in each transaction, and remembers how long each took."""

    def __init__(self, pooler: TestPooler, database: str, *, reconnect: bool = False) -> None:
        self.committed = 0
        self.longest_s = 0.0
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(pooler, database, reconnect))
        self._thread.start()

    def _run(self, pooler: TestPooler, database: str, reconnect: bool) -> None:
        connection = None
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                connection = connection or pooler.connect(database)
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO written DEFAULT VALUES")
                self.committed += 1
                if reconnect:
                    connection.close()
                    connection = None
            except psycopg2.Error as exc:
                self.errors.append(str(exc))
                connection = None
            self.longest_s = max(self.longest_s, time.monotonic() - started)
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def clients(poolers: list[TestPooler], database: str) -> Iterator[list[Client]]:
    running = [Client(pooler, database, reconnect=reconnect) for pooler in poolers for reconnect in (False, True)]
    try:
        eventually(lambda: all(client.committed > 5 for client in running))
        yield running
    finally:
        for client in running:
            client.stop()


def rows(server: TestServer, database: str) -> int:
    return int(server.execute("SELECT count(*) FROM written", database=database)[0][0])


def flowing(running: list[Client]) -> bool:
    before = [client.committed for client in running]
    return bool(eventually(lambda: all(c.committed > n for c, n in zip(running, before)), timeout_s=10))


def test_module_clones_under_load_and_no_client_fails(pg18: TestServer, source: str, poolers: list[TestPooler]) -> None:
    arguments = {
        **pg18.login,
        "database": source,
        "target": source + "_copy",
        "poolers": [{**pooler.option, "probe_user": "postgres", "probe_password": pg18.password} for pooler in poolers],
    }
    with clients(poolers, source) as running:
        checked = run_module("pg_clone", arguments, check=True)
        # The poolers' own sessions are no obstacle.
        assert checked["possible"] and checked["changed"], checked
        assert 0 < checked["expected_s"] < 15 and checked["expected_from"] == "probe" and checked["poolers"] == []
        assert all(not pooler.paused() for pooler in poolers)
        done = run_module("pg_clone", arguments)
        assert not done["failed"], done
        assert flowing(running)
    assert [client.errors for client in running] == [[]] * 4
    assert [pooler["name"] for pooler in done["poolers"]] == ["one", "two"]
    assert 0 < done["copy_s"] <= done["pause_s"] < 15
    assert done["pause_s"] == pytest.approx(max(client.longest_s for client in running), abs=0.3)
    assert 0 < rows(pg18, source + "_copy") < rows(pg18, source)
    assert pg18.password not in json.dumps(done)


def test_copy_that_would_take_too_long_makes_nobody_wait(
    pg18: TestServer, source: str, poolers: list[TestPooler]
) -> None:
    with clients(poolers, source) as running:
        with pytest.raises(HoldfastError) as refusal:
            copy(pg18, source, poolers, earlier=SLOW)
        checked = copy(pg18, source, poolers, earlier=SLOW, check_mode=True)
    assert refusal.value.code == "pause_too_long" and "earlier copies" in refusal.value.msg
    assert refusal.value.details["expected_s"] > 60 and refusal.value.details["limit_s"] == 10
    assert not checked["possible"] and not checked["changed"] and checked["expected_from"] == "earlier"
    assert max(client.longest_s for client in running) < 1
    assert source + "_copy" not in pg18.databases()


def test_patience_of_a_pooler_lowers_the_limit(pg18: TestServer, source: str) -> None:
    with (
        poolers_running(pg18, "hasty", settings={"query_wait_timeout": "1"}) as hasty,
        pytest.raises(HoldfastError) as refusal,
    ):
        copy(pg18, source, hasty)
    assert refusal.value.code == "pause_too_long" and "query_wait_timeout" in refusal.value.msg
    assert refusal.value.details["limit_s"] == 0.8


def test_direct_session_refuses_before_anybody_waits(pg18: TestServer, source: str, poolers: list[TestPooler]) -> None:
    session = pg18.connect(source, application_name="batch import")
    with clients(poolers, source) as running:
        with pytest.raises(HoldfastError) as refusal:
            copy(pg18, source, poolers, drain_timeout_s=0.3)
        checked = copy(pg18, source, poolers, drain_timeout_s=0.1, check_mode=True)
    session.close()
    assert refusal.value.code == "database_in_use" and "batch import" in refusal.value.msg
    assert not checked["possible"] and "batch import" in checked["reason"]
    assert max(client.longest_s for client in running) < 1


def test_session_that_a_pooler_has_just_opened_is_nobody_else_s(
    pg18: TestServer, source: str, poolers: list[TestPooler], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = clone.look_at_poolers
    looks = []

    def too_early(pause: Pause, *, database: str) -> Any:
        looks.append(look(pause, database=database))
        return replace(looks[-1], pids=frozenset()) if len(looks) == 1 else looks[-1]

    monkeypatch.setattr(clone, "look_at_poolers", too_early)
    with clients(poolers, source) as running:
        result = copy(pg18, source, poolers)
        assert flowing(running)
    assert looks[0].pids and len(looks) == 2
    assert result["changed"] and [client.errors for client in running] == [[]] * len(running)


def test_transaction_that_does_not_end_refuses_and_everybody_goes_on(
    pg18: TestServer, source: str, poolers: list[TestPooler]
) -> None:
    stuck = poolers[1].connect(source, application_name="forgotten")
    stuck.autocommit = False
    with stuck.cursor() as cursor:
        cursor.execute("SELECT 1")
    with pytest.raises(HoldfastError) as refusal:
        copy(pg18, source, poolers)
    assert refusal.value.code == "pause_refused" and "two" in refusal.value.msg
    assert all(not pooler.paused() for pooler in poolers)
    stuck.close()
    assert copy(pg18, source, poolers)["changed"]


def test_pooler_out_of_reach_is_told_before_anybody_waits(
    pg18: TestServer, source: str, poolers: list[TestPooler]
) -> None:
    poolers[1].kill()
    with pytest.raises(HoldfastError) as refusal:
        copy(pg18, source, poolers)
    assert refusal.value.code == "connection_failed" and "two" in refusal.value.msg
    checked = copy(pg18, source, poolers, check_mode=True)
    assert not checked["possible"] and "two" in checked["reason"]
    assert not poolers[0].paused()


def test_copy_that_takes_longer_than_expected_is_ended_in_time(
    pg18: TestServer, source: str, poolers: list[TestPooler], monkeypatch: pytest.MonkeyPatch
) -> None:
    def takes_long(**options: Any) -> str:
        with options["connection"].cursor() as cursor:
            try:
                cursor.execute("SELECT pg_sleep(30)")
            except psycopg2.Error as exc:
                raise HoldfastError(code="query_failed", msg=str(exc), hint="", sqlstate=exc.pgcode) from exc
        return ""

    monkeypatch.setattr(clone, "create_database", takes_long)
    with clients(poolers, source) as running:
        with pytest.raises(HoldfastError) as refusal:
            copy(pg18, source, poolers, max_pause_s=3)
        assert flowing(running)
    assert refusal.value.code == "timeout" and "3 s" in refusal.value.msg
    assert max(client.longest_s for client in running) < 3.3
    assert [client.errors for client in running] == [[]] * 4


@contextlib.contextmanager
def cloning(pg18: TestServer, source: str, poolers: list[TestPooler], program: str) -> Iterator[subprocess.Popen[str]]:
    """A process that clones with the poolers paused for at most four seconds, when it has begun to copy."""

    def where(server: Any) -> dict[str, Any]:
        return {"host": server.host, "port": server.port, "user": server.user, "password": server.password}

    argv = [sys.executable, "-c", program, str(ROOT / ".collections"), str(ROOT)]
    said = [
        where(pg18.server),
        [{"name": pooler.name, "server": where(pooler.console)} for pooler in poolers],
        {"source": source, "target": source + "_copy"},
        4,
    ]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        process.stdin.write(json.dumps(said))
        process.stdin.close()
        process.stdin = None
        assert process.stdout.readline() == "copying\n"
        assert all(pooler.paused() for pooler in poolers)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_clients_go_on_when_the_clone_dies_or_hangs(
    pg18: TestServer, source: str, poolers: list[TestPooler], number: int
) -> None:
    with clients(poolers, source) as running, cloning(pg18, source, poolers, RUN_SLOW_CLONE) as process:
        process.send_signal(number)
        eventually(lambda: not any(pooler.paused() for pooler in poolers))
        assert flowing(running)
    assert [client.errors for client in running] == [[]] * 4
    assert max(client.longest_s for client in running) < (2 if number == signal.SIGKILL else 5)
    assert source + "_copy" not in pg18.databases()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_copy_of_a_clone_that_died_or_hangs_is_ended_before_clients_go_on(
    pg18: TestServer, source: str, poolers: list[TestPooler], number: int
) -> None:
    blocker = pg18.connect()
    with clients(poolers, source) as running, contextlib.closing(blocker), blocker.cursor() as cursor:
        # CREATE DATABASE locks its source before this.
        blocker.autocommit = False
        cursor.execute("LOCK TABLE pg_database IN SHARE MODE")
        with cloning(pg18, source, poolers, RUN_CLONE_THAT_LOCKS) as process:
            eventually(lambda: copies(pg18) == 1)
            process.send_signal(number)
            eventually(lambda: not any(pooler.paused() for pooler in poolers))
            assert flowing(running)
            assert copies(pg18) == 0
            if number == signal.SIGSTOP:
                process.send_signal(signal.SIGCONT)
                assert "would have waited for more than 4 s" in process.communicate(timeout=20)[1]
    assert [client.errors for client in running] == [[]] * 4
    assert max(client.longest_s for client in running) < (2 if number == signal.SIGKILL else 4.5)
    assert not [name for name in pg18.databases() if name.startswith(source + "_copy")]


def copies(server: TestServer) -> int:
    """How many CREATE DATABASE wait for a lock."""
    found = server.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%' AND wait_event_type = 'Lock'"
    )
    return int(found[0][0])


def test_older_server_is_cloned_behind_a_pooler(pg_distribution: TestServer) -> None:
    pg_distribution.create_database("older", "CREATE TABLE written (n bigserial PRIMARY KEY)")
    try:
        with poolers_running(pg_distribution, "one") as poolers, clients(poolers, "older") as running:
            done = copy(pg_distribution, "older", poolers, strategy="file_copy")
            assert flowing(running)
        assert done["strategy"] == "file_copy" and running[0].errors == []
        assert rows(pg_distribution, "older_copy") > 0
    finally:
        for name in ("older", "older_copy"):
            pg_distribution.drop_database(name)


def test_role_without_checkpoints_expects_a_longer_pause(pg18: TestServer, source: str) -> None:
    role = "plain_" + source
    pg18.execute("CREATE ROLE %s LOGIN CREATEDB PASSWORD 'x'" % role)
    pg18.execute("ALTER DATABASE %s OWNER TO %s" % (source, role))
    login = Server(host="127.0.0.1", port=pg18.port, user=role, password="x")
    options: dict[str, Any] = {"strategy": "file_copy", "check_mode": True}
    options["earlier"] = [{"strategy": "file_copy", "bytes": 100_000_000, "copy_s": 1.5}]
    waits = [
        clone_database(server=server, source=source, target=source + "_copy", **options)["expected_s"]
        for server in (pg18.server, login)
    ]
    assert waits[1] - waits[0] == pytest.approx(128 * 1024 * 1024 / 100_000_000, abs=0.1)
    pg18.execute("GRANT pg_checkpoint TO " + role)
    assert clone_database(server=login, source=source, target=source + "_copy", **options)["expected_s"] == waits[0]
    pg18.execute("ALTER DATABASE %s OWNER TO postgres" % source)
    pg18.execute("DROP ROLE " + role)
