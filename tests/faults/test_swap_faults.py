# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One fault at a time in front of three PgBouncers under load: who is told what, and whose clients notice."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import Poolers
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.swap import SwapRequest, swap_databases
from tests.support.kills import LIVE, Bench, Client, Follower, Playbook, Stage, going_on
from tests.support.pgbouncer import transaction_open
from tests.support.server import embedded_bin_dir, eventually

Record = Callable[[str, object], None]

MAX_PAUSE_S = 5.0

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def lasting_stage() -> Iterator[Stage]:
    stage = Stage(embedded_bin_dir(18), poolers=3)
    yield stage
    stage.remove()


@pytest.fixture
def stage(lasting_stage: Stage) -> Iterator[Stage]:
    """The stage, with everything as it has to be after each test."""
    yield lasting_stage
    assert lasting_stage.problems(lasting_stage.side) == []
    lasting_stage.clear()


class Told(Poolers):
    """Poolers that let a test act right before they are told to pause or to resume."""

    def __init__(self, stage: Stage, **options: Any) -> None:
        addresses = [pooler.address(probe=True) for pooler in stage.poolers]
        super().__init__(addresses, database=LIVE, **options)
        self.before_pause: Callable[[], None] | None = None
        self.before_resume: Callable[[], None] | None = None

    def pause(self, **options: Any) -> None:
        if self.before_pause is not None:
            self.before_pause()
        super().pause(**options)

    def resume(self) -> None:
        action, self.before_resume = self.before_resume, None
        if action is not None:
            action()
        super().resume()


def swap(stage: Stage, poolers: Poolers | None, **options: Any) -> dict[str, Any]:
    """Swap and remember which database is beside the live one now."""
    retired = "retired_%d" % next(NUMBERS)
    options = {"retired_name": retired, "max_pause_s": MAX_PAUSE_S, **options}
    request = SwapRequest(live=LIVE, replacement=stage.side, confirm=LIVE, **options)
    done = swap_databases(server=stage.server.server, request=request, poolers=poolers, guarded=True)
    stage.side = done["retired"]
    return done


def noted(record: Record, clients: list[Client | Bench], fault: str, *, done: bool) -> None:
    """Have the row of the table, from the clients' own books."""
    row = {
        "fault": fault,
        "finished": int(done),
        "undone": int(not done),
        "commits": sum(client.commits for client in clients),
        "failures": sum(len(client.errors) for client in clients),
        "longest_wait_s": round(max(client.longest_s for client in clients), 3),
    }
    record("row", row)


def test_controller_that_is_killed_while_clients_wait(stage: Stage, record_property: Record) -> None:
    live = stage.oid(LIVE)
    with stage.load(reconnect=True) as (clients, benches), held_up(stage):
        playbook, follower = Playbook(stage.directory), Follower(stage.server, stage.poolers)
        playbook.begin(stage.arguments("never", max_pause=MAX_PAUSE_S, drain_timeout=MAX_PAUSE_S))
        try:
            assert follower.wait_for("draining", timeout_s=60)
            assert all(pooler.paused() == {LIVE} for pooler in stage.poolers)
            time.sleep(1)
        finally:
            playbook.kill()
        killed = time.monotonic()
        going_on(clients)
        # Not because its time was up.
        assert time.monotonic() - killed < 1.5
        playbook.finish()
    everybody = [*clients, *benches]
    noted(record_property, everybody, "everything of the controller, while clients wait", done=False)
    assert [client.errors for client in everybody] == [[]] * len(everybody)
    # By their own books they waited for the swap, and no longer than they may.
    assert all(1 < client.longest_s < MAX_PAUSE_S for client in everybody)
    assert stage.oid(LIVE) == live


@contextlib.contextmanager
def held_up(stage: Stage) -> Iterator[None]:
    """A direct session in the side database, for which a swap waits with everything paused and closed."""
    session = stage.server.connect(stage.side)
    try:
        yield
    finally:
        session.close()


@pytest.mark.parametrize("when", ["before", "at the pause", "at the resume"])
@pytest.mark.parametrize("what", ["dead", "hanging"])
def test_pooler_that_is_out_of_reach(stage: Stage, what: str, when: str, record_property: Record) -> None:
    lost = stage.poolers[1]

    def lose() -> None:
        lost.kill() if what == "dead" else lost.signal(signal.SIGSTOP)

    poolers = Told(stage, attempts=2, attempt_timeout_s=0.5)
    with stage.load(reconnect=True) as (clients, benches):
        going_on(clients)
        if when == "before":
            lose()
        elif when == "at the pause":
            poolers.before_pause = lose
        else:
            poolers.before_resume = lose
        done, failure = None, None
        try:
            done = swap(stage, poolers)
        except HoldfastError as exc:
            failure = exc
        finally:
            if what == "dead":
                lost.start()
            else:
                lost.signal(signal.SIGCONT)
        # Whoever comes back goes on without anybody's help.
        going_on(clients)
        assert not any(pooler.paused() for pooler in stage.poolers)
    everybody = [*clients, *benches]
    noted(record_property, everybody, "one of three poolers %s %s" % (what, when), done=done is not None)
    if when == "at the resume":
        assert done is not None and failure is None
        assert [bool(fact["error"]) for fact in done["poolers"]] == [False, True, False]
    else:
        assert done is None and failure is not None and lost.name in failure.msg
        assert failure.code in ("connection_failed", "pause_refused")
    unaffected = [client for number in (0, 2) for client in (*clients[2 * number : 2 * number + 2], benches[number])]
    assert [client.errors for client in unaffected] == [[]] * len(unaffected)
    assert max(client.longest_s for client in unaffected) < MAX_PAUSE_S
    if what == "hanging":
        assert [client.errors for client in everybody] == [[]] * len(everybody)


def test_one_of_three_poolers_refuses_for_a_transaction_that_never_ends(stage: Stage, record_property: Record) -> None:
    with (
        stage.load(reconnect=True) as (clients, benches),
        transaction_open(stage.poolers[1], LIVE, application_name="nightly report"),
    ):
        going_on(clients)
        with pytest.raises(HoldfastError) as refusal:
            swap(stage, Told(stage, attempts=3, attempt_timeout_s=0.5))
        assert not any(pooler.paused() for pooler in stage.poolers)
        going_on(clients)
    everybody = [*clients, *benches]
    noted(record_property, everybody, "one of three poolers refuses: a transaction never ends", done=False)
    assert refusal.value.code == "pause_refused"
    for fact in ("pooler 1", "nightly report", "idle in transaction", "in 3 attempts"):
        assert fact in refusal.value.msg
    assert "pooler 0" not in refusal.value.msg and "pooler 2" not in refusal.value.msg
    assert [client.errors for client in everybody] == [[]] * len(everybody)
    assert max(client.longest_s for client in everybody) < 2
    assert swap(stage, Told(stage))["changed"]


@pytest.mark.parametrize("terminate", [False, True])
def test_direct_transaction_that_never_ends(stage: Stage, terminate: bool, record_property: Record) -> None:
    session = stage.server.connect(LIVE, application_name="forgotten")
    session.autocommit = False
    with session.cursor() as cursor:
        cursor.execute("LOCK TABLE whoami IN ACCESS SHARE MODE")
    done, failure = None, None
    with stage.load(reconnect=True) as (clients, benches):
        going_on(clients)
        try:
            done = swap(stage, Told(stage), drain_timeout_s=0.5, terminate=terminate)
        except HoldfastError as exc:
            failure = exc
        going_on(clients)
    session.close()
    everybody = [*clients, *benches]
    fault = "a direct transaction that never ends, %s" % ("terminated" if terminate else "not terminated")
    noted(record_property, everybody, fault, done=done is not None)
    if terminate:
        assert done is not None and [s["application_name"] for s in done["terminated"]] == ["forgotten"]
    else:
        assert failure is not None and failure.code == "database_in_use" and "forgotten" in failure.msg
    assert [client.errors for client in everybody] == [[]] * len(everybody)
    assert max(client.longest_s for client in everybody) < 2


def test_clients_that_connect_directly_in_a_tight_loop(stage: Stage, record_property: Record) -> None:
    rounds = 10
    with stage.load(reconnect=True) as (clients, benches), contextlib.ExitStack() as stack:
        strangers = []
        for number in range(3):
            strangers.append(Client(1000 + number, stage.server.connect, reconnect=True, pace_s=0))
            stack.callback(strangers[-1].stop)
        for _round in range(rounds):
            going_on(clients)
            before = [stranger.successes for stranger in strangers]
            done = swap(stage, Told(stage))
            assert done["changed"] and done["terminated"] == []
            eventually(lambda counts=before: all(s.successes > n for s, n in zip(strangers, counts)))
    everybody = [*clients, *benches]
    noted(record_property, everybody, "clients connect directly in a tight loop", done=True)
    assert [client.errors for client in everybody] == [[]] * len(everybody)
    # They are refused while the doors are closed, and lose nothing else.
    refused = [error for stranger in strangers for error in stranger.errors]
    assert all("not currently accepting connections" in error for error in refused), refused[:3]
    held = {generation: stage.written(name) for generation, name in stage.names().items()}
    for stranger in strangers:
        for generation, rows in stranger.acknowledged.items():
            assert rows <= held[generation]
