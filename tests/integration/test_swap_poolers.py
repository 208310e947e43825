# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swaps behind real PgBouncers: under load, refused, killed, stopped, and with poolers that die."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import Poolers
from tests.support.pgbouncer import TestPooler, poolers_running, transaction_open
from tests.support.server import TestServer, embedded_bin_dir, eventually
from tests.support.switchover import ROOT, Pair, pair_of_databases, rows_of, start_engine


@pytest.fixture(scope="module")
def poolers(pg18: TestServer) -> Iterator[list[TestPooler]]:
    with poolers_running(pg18, "one", "two", "three") as running:
        yield running


@pytest.fixture(scope="module")
def lasting_pair(pg18: TestServer) -> Iterator[Pair]:
    with pair_of_databases(pg18) as databases:
        yield databases


@pytest.fixture
def pair(lasting_pair: Pair, poolers: list[TestPooler]) -> Iterator[Pair]:
    yield lasting_pair
    for pooler in poolers:
        for name in pooler.paused():
            pooler.ask('RESUME "%s"' % name)
        pooler.ask("RECONNECT")
    eventually(lambda: not sessions_in(lasting_pair))
    lasting_pair.restore()


def sessions_in(pair: Pair) -> int:
    return pair.server.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datid IN (%s, %s)", (pair.old_oid, pair.new_oid)
    )[0][0]


def group(poolers: list[TestPooler], pair: Pair, *, probe: bool = True, **options: Any) -> Poolers:
    return Poolers([pooler.address(probe=probe) for pooler in poolers], database=pair.live, **options)


class Client:
    """A client of a pooler that writes numbers, fails on the first error, and remembers its longest wait."""

    def __init__(self, pooler: TestPooler, name: str, first: int, *, reconnect: bool) -> None:
        self.pooler, self.name, self.number, self.reconnect = pooler, name, first, reconnect
        self.committed: list[int] = []
        self.errors: list[str] = []
        self.longest_s = 0.0
        self.last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection = None
        while not self._stop.is_set():
            started = time.monotonic()
            self.number += 1
            try:
                connection = connection or self.pooler.connect(self.name)
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO written VALUES (%s)", (self.number,))
                self.committed.append(self.number)
                if self.reconnect:
                    connection.close()
                    connection = None
            except psycopg2.Error as exc:
                self.errors.append(str(exc))
                connection = None
                time.sleep(0.05)
            self.last = time.monotonic()
            self.longest_s = max(self.longest_s, self.last - started)
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def load(poolers: list[TestPooler], name: str, *, reconnect: bool = False, each: int = 2) -> Iterator[list[Client]]:
    clients = [
        Client(pooler, name, 1_000_000 * (i * each + j), reconnect=reconnect)
        for i, pooler in enumerate(poolers)
        for j in range(each)
    ]
    try:
        eventually(lambda: all(len(client.committed) > 5 for client in clients))
        yield clients
    finally:
        for client in clients:
            client.stop()


def going_on(clients: list[Client], *, timeout_s: float = 10) -> None:
    """Wait until every client has committed something from now on."""
    counts = [len(client.committed) for client in clients]
    eventually(
        lambda: all(len(client.committed) > count + 2 for client, count in zip(clients, counts)), timeout_s=timeout_s
    )


@pytest.mark.parametrize("reconnect", [False, True])
def test_swap_under_load_fails_no_client(
    pg18: TestServer, poolers: list[TestPooler], pair: Pair, reconnect: bool
) -> None:
    side, retired = pair.side, pair.retired
    with load(poolers, pair.live, reconnect=reconnect) as clients:
        for _round in range(4):
            done = pair.swap(
                replacement=side, retired_name=retired, poolers=group(poolers, pair), guarded=True, drain_timeout_s=2
            )
            side, retired = retired, side
            assert done["changed"] and done["terminated"] == [] and done["stall_source"] in ("probe", "clients")
            assert 0 < done["stall_ms"] < 1500
            going_on(clients)
    assert [error for client in clients for error in client.errors] == []
    committed = {number for client in clients for number in client.committed}
    old, new = rows_of(pg18, pair.live), rows_of(pg18, pair.side)
    assert committed == old | new and not old & new and old and new
    # The last round ended the stall for everybody; what clients saw is what was reported, roughly.
    for facts in done["poolers"]:
        assert facts["error"] is None and facts["probe_error"] is None and facts["attempts"] >= 1


def test_open_transaction_is_named_and_nothing_is_touched(poolers: list[TestPooler], pair: Pair) -> None:
    others = [poolers[0], poolers[2]]
    with (
        load(others, pair.live) as clients,
        transaction_open(poolers[1], pair.live, application_name="nightly report"),
    ):
        with pytest.raises(HoldfastError) as refusal:
            pair.swap(poolers=group(poolers, pair, attempts=2, attempt_timeout_s=0.3), guarded=True)
        assert refusal.value.code == "pause_refused"
        for fact in ("pooler two", "nightly report", "idle in transaction"):
            assert fact in refusal.value.msg
        assert not any(pooler.paused() for pooler in poolers)
        going_on(clients)
    assert [error for client in clients for error in client.errors] == []
    assert pair.untouched()


def test_unreachable_pooler_is_named_before_anything_is_touched(poolers: list[TestPooler], pair: Pair) -> None:
    lost = TestPooler(pair.server, name="lost")
    lost.kill()
    with pytest.raises(HoldfastError) as refusal:
        pair.swap(poolers=group([*poolers, lost], pair))
    lost.remove()
    assert refusal.value.code == "connection_failed" and "Pooler lost" in refusal.value.msg
    assert pair.untouched() and not any(pooler.paused() for pooler in poolers)


def test_pooler_that_lets_no_client_through_is_no_reason_against_a_swap(pg18: TestServer, pair: Pair) -> None:
    with poolers_running(pg18, "deaf", databases={"*": "port=1"}) as mine:
        done = pair.swap(poolers=group(mine, pair))
        assert done["changed"] and done["poolers"][0]["probe_error"]
        mine[0].databases = {"*": ""}
        mine[0]._write()
        mine[0].ask("RELOAD")
        eventually(lambda: served(mine[0], pair))


def served(pooler: TestPooler, pair: Pair) -> bool:
    try:
        pooler.connect(pair.live).close()
    except psycopg2.OperationalError:
        return False
    return True


def in_process(poolers: list[TestPooler], pair: Pair, action: str = "guarded swap", **options: Any) -> Any:
    where = {
        pooler.name: {"host": "127.0.0.1", "port": pooler.port, "user": c.user, "password": c.password}
        for pooler in poolers
        for c in [pooler.console]
    }
    request = {"live": pair.live, "replacement": pair.side, "confirm": pair.live, "poolers": where, **options}
    return start_engine(pair.server, action, request)


@contextlib.contextmanager
def held_up(pair: Pair) -> Iterator[None]:
    """A direct session in the replacement, which makes a swap wait with everything paused."""
    session = pair.server.connect(pair.side)
    try:
        yield
    finally:
        session.close()


def waiting_for_locks(cursor: Any) -> bool:
    cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    return bool(cursor.fetchone()[0])


def all_paused(poolers: list[TestPooler], pair: Pair) -> bool:
    return all(pooler.paused() == {pair.live} for pooler in poolers)


def test_killed_swap_lets_the_clients_of_poolers_go_on(poolers: list[TestPooler], pair: Pair) -> None:
    with load(poolers, pair.live, reconnect=True, each=1) as clients, held_up(pair):
        process = in_process(poolers, pair, drain_timeout_s=10)
        eventually(lambda: all_paused(poolers, pair) and not pair.allows_connections(pair.old_oid))
        process.kill()
        killed = time.monotonic()
        process.communicate()
        going_on(clients)
        assert time.monotonic() - killed < 3
        assert not any(pooler.paused() for pooler in poolers)
    assert [error for client in clients for error in client.errors] == []
    assert pair.untouched()


@pytest.mark.parametrize("moment", ["draining", "renaming"])
def test_stopped_swap_lets_clients_go_on_in_time_and_renames_nothing_when_it_goes_on(
    poolers: list[TestPooler], pair: Pair, moment: str
) -> None:
    max_pause_s = 3.0
    with load(poolers, pair.live, reconnect=True, each=1) as clients, contextlib.ExitStack() as stack:
        session = stack.enter_context(contextlib.closing(pair.server.connect(pair.side)))
        blocker = stack.enter_context(contextlib.closing(pair.server.connect()))
        process = in_process(poolers, pair, drain_timeout_s=10, max_pause_s=max_pause_s)
        eventually(lambda: all_paused(poolers, pair))
        paused = time.monotonic()
        eventually(lambda: not pair.allows_connections(pair.old_oid))
        if moment == "renaming":
            # The transaction that renames looks for subscriptions first, and waits for this.
            blocker.autocommit = False
            with blocker.cursor() as cursor:
                cursor.execute("LOCK TABLE pg_subscription IN ACCESS EXCLUSIVE MODE")
                session.close()
                cursor.execute("SET LOCAL statement_timeout = '5s'")
                eventually(lambda: waiting_for_locks(cursor))
        process.send_signal(signal.SIGSTOP)
        blocker.rollback()
        eventually(lambda: not any(pooler.paused() for pooler in poolers))
        assert max_pause_s * 0.5 < time.monotonic() - paused < max_pause_s + 0.5
        going_on(clients)
        assert pair.untouched()
        process.send_signal(signal.SIGCONT)
        result = json.loads(process.communicate(timeout=20)[0])
        assert result["code"] in ("timeout", "connection_failed", "database_in_use"), result
        going_on(clients)
    assert [error for client in clients for error in client.errors] == []
    assert pair.untouched() and not any(pooler.paused() for pooler in poolers)


def test_run_after_an_unguarded_kill_resumes_what_was_left(poolers: list[TestPooler], pair: Pair) -> None:
    with held_up(pair), contextlib.ExitStack() as clients:
        # A wildcard's entry that nobody uses is hidden from SHOW DATABASES.
        for pooler in poolers:
            clients.enter_context(contextlib.closing(pooler.connect(pair.live)))
        process = in_process(poolers, pair, "swap", drain_timeout_s=10)
        eventually(lambda: all_paused(poolers, pair) and not pair.allows_connections(pair.old_oid))
        process.kill()
        process.communicate()
        assert all_paused(poolers, pair)
        # Even when it can do nothing else.
        with pytest.raises(HoldfastError) as refusal:
            pair.swap(replacement_oid=1, poolers=group(poolers, pair))
        assert refusal.value.code == "swap_blocked"
        assert pair.untouched() and not any(pooler.paused() for pooler in poolers)
    for pooler in poolers[:2]:
        pooler.connect(pair.live).close()
        pooler.ask("PAUSE %s" % pair.live)
    done = pair.swap(retired_name=pair.retired, poolers=group(poolers, pair))
    assert done["resumed"] == "undone" and done["resumed_poolers"] == ["one", "two"]
    poolers[2].connect(pair.live).close()
    poolers[2].ask("PAUSE %s" % pair.live)
    again = pair.swap(retired_name=pair.retired, poolers=group(poolers, pair))
    assert again["changed"] and again["resumed"] == "already_swapped" and again["resumed_poolers"] == ["three"]
    assert not any(pooler.paused() for pooler in poolers)


def test_pooler_that_dies_while_paused_is_named_and_the_swap_completes(pg18: TestServer, pair: Pair) -> None:
    with poolers_running(pg18, "mortal", "other") as mine:
        session = pg18.connect(pair.side)
        outcome: dict[str, Any] = {}

        def swap() -> None:
            outcome.update(pair.swap(poolers=group(mine, pair), drain_timeout_s=10))

        thread = threading.Thread(target=swap)
        thread.start()
        eventually(lambda: all_paused(mine, pair))
        mine[0].kill()
        mine[0].start()
        session.close()
        thread.join()
        assert pair.oid(pair.live) == pair.new_oid and outcome["changed"]
        assert not any(pooler.paused() for pooler in mine)
        for pooler in mine:
            with pooler.connect(pair.live).cursor() as cursor:
                cursor.execute("SELECT 1")


def test_pooler_that_hangs_while_paused_is_named_and_resumed_when_it_answers(pg18: TestServer, pair: Pair) -> None:
    with poolers_running(pg18, "frozen", "other") as mine, load(mine[1:], pair.live) as clients:
        session = pg18.connect(pair.side)
        outcome: dict[str, Any] = {}

        def swap() -> None:
            outcome.update(pair.swap(poolers=group(mine, pair), guarded=True, drain_timeout_s=10))

        thread = threading.Thread(target=swap)
        thread.start()
        eventually(lambda: all_paused(mine, pair) and not pair.allows_connections(pair.old_oid))
        mine[0].signal(signal.SIGSTOP)
        resumed = time.monotonic()
        session.close()
        going_on(clients)
        assert time.monotonic() - resumed < 1.5, "one that hangs held up the clients of another"
        thread.join()
        frozen, other = outcome["poolers"]
        assert outcome["changed"] and frozen["error"] and other["error"] is None
        assert other["stall_ms"] < 1500
        # The process on guard goes on trying.
        mine[0].signal(signal.SIGCONT)
        eventually(lambda: not mine[0].paused())
    assert [error for client in clients for error in client.errors] == []


def test_server_that_crashes_while_poolers_are_paused() -> None:
    server = TestServer(embedded_bin_dir(18))
    try:
        with pair_of_databases(server) as pair, poolers_running(server, "one", "two") as mine:
            outcome: list[Exception] = []

            def swap() -> None:
                try:
                    pair.swap(poolers=group(mine, pair), guarded=True, drain_timeout_s=10)
                except (HoldfastError, psycopg2.Error) as exc:
                    outcome.append(exc)

            thread = threading.Thread(target=swap)
            with held_up(pair):
                thread.start()
                eventually(lambda: all_paused(mine, pair) and not pair.allows_connections(pair.old_oid))
                crashed = time.monotonic()
                server.stop("immediate")
                eventually(lambda: not any(pooler.paused() for pooler in mine))
                assert time.monotonic() - crashed < 4
            server.start()
            thread.join()
            assert outcome
            eventually(pair.untouched)
            eventually(lambda: mine[0].connect(pair.live))
            assert pair.swap(poolers=group(mine, pair))["changed"]
    finally:
        server.remove()


def test_end_of_everything_of_the_controller_lets_clients_go_on(
    poolers: list[TestPooler], pair: Pair, tmp_path: pathlib.Path
) -> None:
    arguments = {
        **pair.server.login,
        "poolers": [pooler.option for pooler in poolers],
        "database": pair.live,
        "replacement": pair.side,
        "confirm": pair.live,
        "drain_timeout": 10,
    }
    play = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": sys.executable},
            "tasks": [{"name": "Swap", "holdfast.postgres.pg_swap": arguments}],
        }
    ]
    path = tmp_path / "play.json"
    path.write_text(json.dumps(play), encoding="utf-8")
    with load(poolers, pair.live, reconnect=True, each=1) as clients, held_up(pair):
        program = pathlib.Path(sys.executable).parent / "ansible-playbook"
        process = subprocess.Popen(
            [str(program), "-i", "localhost,", "-c", "local", str(path)],
            cwd=str(ROOT),
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        eventually(lambda: all_paused(poolers, pair) and not pair.allows_connections(pair.old_oid), timeout_s=30)
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        process.wait()
        going_on(clients)
        assert time.monotonic() - killed < 3
    assert [error for client in clients for error in client.errors] == []
    assert pair.untouched() and not any(pooler.paused() for pooler in poolers)


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found + [grandchild for child in found for grandchild in descendants(child)]
