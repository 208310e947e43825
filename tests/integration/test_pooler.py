# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pausing real PgBouncers, all or none, and being refused by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import read_sessions
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import paused
from tests.support.pgbouncer import TestPooler, poolers_running, transaction_open
from tests.support.server import TestServer

NASTY_NAMES = ["we\"ird na'me", "with space", "100 % %s", "-c x=y", "new\nline \\ 数据", "x" * 63, "UPPER"]


@pytest.fixture(scope="module")
def poolers(pg18: TestServer) -> Iterator[list[TestPooler]]:
    with poolers_running(pg18, "one", "two", "three") as running:
        yield running


@pytest.fixture
def pooler(poolers: list[TestPooler]) -> TestPooler:
    return poolers[0]


def test_clients_wait_during_the_block_and_fail_nothing(poolers: list[TestPooler], database: str) -> None:
    clients = [pooler.connect(database) for pooler in poolers]
    answers: list[float] = []

    def ask(client: object) -> None:
        with client.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute("SELECT 1")
        answers.append(time.monotonic())

    with paused([pooler.address(probe=True) for pooler in poolers], database, timeout_s=5) as group:
        assert all(pooler.paused() == {database} for pooler in poolers)
        threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert answers == []
    for thread in threads:
        thread.join()
    assert len(answers) == 3 and not any(pooler.paused() for pooler in poolers)
    for facts, pooler in zip(group.facts, poolers):
        assert (facts["name"], facts["databases"], facts["attempts"]) == (pooler.name, [database], 1)
        assert facts["stall_source"] == "probe" and 300 <= facts["stall_ms"] < 2000
        assert facts["clients_waiting"] == 2 and facts["error"] is None and facts["probe_error"] is None


def test_open_transaction_makes_all_resume_and_its_client_is_named(
    pg18: TestServer, poolers: list[TestPooler], database: str
) -> None:
    server = pg18.connect()
    other = pg18.create_database(database + "_other")
    started = time.monotonic()
    with (
        transaction_open(poolers[1], database, application_name="nightly report"),
        transaction_open(poolers[1], other),
        pytest.raises(HoldfastError) as refusal,
        paused(
            [pooler.address() for pooler in poolers],
            database,
            timeout_s=5,
            attempts=2,
            attempt_timeout_s=0.3,
            activity=lambda pids: read_sessions(connection=server, oids=(), pids=pids),
        ),
    ):
        pytest.fail("nobody waits")
    assert time.monotonic() - started < 2
    assert not any(pooler.paused() for pooler in poolers)
    assert refusal.value.code == "pause_refused"
    for fact in (
        "pooler two",
        repr(database),
        "nightly report",
        "user postgres",
        "idle in transaction",
        "a long story",
    ):
        assert fact in refusal.value.msg
    (entry,) = refusal.value.details["refusals"]
    (client,) = entry["clients"]
    assert client["server_pid"] and client["transaction_age_s"] > 0 and client["client_addr"] == "127.0.0.1"
    pg18.drop_database(other)


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_any_name_that_the_console_takes_is_paused(pg18: TestServer, pooler: TestPooler, name: str) -> None:
    pg18.create_database(name)
    try:
        # An entry made by a wildcard is shown while somebody is connected.
        client = pooler.connect(name)
        with paused([pooler.address()], name, timeout_s=5):
            assert pooler.paused() == {name}
        assert not pooler.paused()
        with client.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            assert cursor.fetchone() == (name,)
        client.close()
    finally:
        pooler.ask("RECONNECT")
        pg18.drop_database(name)
