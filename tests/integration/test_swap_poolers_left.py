# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No swap leaves a pooler paused without saying so, or longer than its clients have patience."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import Poolers
from tests.support.pgbouncer import TestPooler, poolers_running, seconds
from tests.support.server import TestServer, eventually
from tests.support.switchover import Pair, pair_of_databases, start_engine


@pytest.fixture
def pair(pg18: TestServer) -> Iterator[Pair]:
    with pair_of_databases(pg18) as databases:
        yield databases


def group(poolers: list[TestPooler], pair: Pair) -> Poolers:
    return Poolers([pooler.address() for pooler in poolers], database=pair.live)


def swapping(stack: contextlib.ExitStack, poolers: list[TestPooler], pair: Pair, **options: Any) -> Any:
    """A guarded swap in a process of its own, with everything paused and held up by the session that is returned."""
    for pooler in poolers:
        # A wildcard's entry that nobody uses is hidden from SHOW DATABASES.
        stack.enter_context(contextlib.closing(pooler.connect(pair.live)))
    session = stack.enter_context(contextlib.closing(pair.server.connect(pair.side)))
    where = {
        pooler.name: {"host": "127.0.0.1", "port": pooler.port, "user": c.user, "password": c.password}
        for pooler in poolers
        for c in [pooler.console]
    }
    request = {"live": pair.live, "replacement": pair.side, "confirm": pair.live, "poolers": where, **options}
    process = start_engine(pair.server, "guarded swap", request)

    def held_up() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return all(p.paused() for p in poolers) and not pair.allows_connections(pair.old_oid)

    eventually(held_up)
    return process, session


def test_what_was_left_paused_is_resumed_though_another_pooler_is_out_of_reach(pg18: TestServer, pair: Pair) -> None:
    with poolers_running(pg18, "lost", "one", "two") as (lost, *others), contextlib.ExitStack() as stack:
        lost.kill()
        for pooler in others:
            stack.enter_context(contextlib.closing(pooler.connect(pair.live)))
            pooler.ask("PAUSE %s" % pair.live)
        with pytest.raises(HoldfastError):
            pair.swap(poolers=group([lost, *others], pair), check_mode=True)
        assert all(pooler.paused() for pooler in others)
        with pytest.raises(HoldfastError) as refusal:
            pair.swap(poolers=group([lost, *others], pair))
        assert not any(pooler.paused() for pooler in others)
        assert refusal.value.code == "connection_failed" and "Pooler lost" in refusal.value.msg
        assert "Found paused, and resumed: one, two." in refusal.value.msg
        assert "NOT RESUMED" not in refusal.value.msg


def test_failure_says_which_pooler_could_not_be_resumed(pg18: TestServer, pair: Pair) -> None:
    with poolers_running(pg18, "frozen", "other") as poolers, contextlib.ExitStack() as stack:
        process, session = swapping(stack, poolers, pair, drain_timeout_s=1)
        poolers[0].signal(signal.SIGSTOP)
        result = json.loads(process.communicate(timeout=30)[0])
        session.close()
        assert result["code"] == "database_in_use"
        assert "NOT RESUMED: pooler frozen at 127.0.0.1:%d" % poolers[0].port in result["msg"]
        assert result["hint"].startswith("RESUME %s on these consoles" % pair.live)
        assert [bool(pooler["error"]) for pooler in result["poolers"]] == [True, False]
        assert not poolers[1].paused()
        poolers[0].signal(signal.SIGCONT)
        eventually(lambda: not poolers[0].paused())
    assert pair.untouched()


def test_signal_while_poolers_are_resumed_leaves_that_to_the_guard_and_tells_of_the_exchange(
    pg18: TestServer, pair: Pair
) -> None:
    with poolers_running(pg18, "frozen", "other") as poolers, contextlib.ExitStack() as stack:
        process, session = swapping(stack, poolers, pair, drain_timeout_s=10, retired_name=pair.retired)
        poolers[0].signal(signal.SIGSTOP)
        session.close()
        eventually(lambda: not poolers[1].paused())
        process.send_signal(signal.SIGTERM)
        result = json.loads(process.communicate(timeout=30)[0])
        assert result["code"] == "interrupted" and "names had been exchanged already" in result["msg"]
        assert "undone; run" not in result["hint"]
        assert pair.oid(pair.live) == pair.new_oid
        poolers[0].signal(signal.SIGCONT)
        eventually(lambda: not poolers[0].paused())
        again = pair.swap(retired_name=pair.retired, poolers=group(poolers, pair))
        assert again["resumed"] == "already_swapped"


def test_clients_wait_no_longer_than_their_pooler_lets_them(pg18: TestServer, pair: Pair) -> None:
    with (
        poolers_running(pg18, "hasty", settings={"query_wait_timeout": "2"}) as poolers,
        contextlib.closing(poolers[0].connect(pair.live)) as client,
        contextlib.closing(pg18.connect(pair.side)),
    ):
        outcome: list[Exception] = []

        def swap() -> None:
            with pytest.raises(HoldfastError) as refusal:
                pair.swap(poolers=group(poolers, pair), drain_timeout_s=10, max_pause_s=15)
            outcome.append(refusal.value)

        assert seconds(swap) < 2.5
        with client.cursor() as cursor:
            cursor.execute("SELECT 1")
    assert pair.untouched() and not isinstance(outcome[0], psycopg2.Error)
