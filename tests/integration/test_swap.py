# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swaps on real servers: names, rows, sessions, refusals and crashes."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg2 import sql

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import read_properties
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover import swap
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import list_databases
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.drain import Doors
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.swap import (
    SwapRequest,
    lock_key,
    swap_databases,
)
from tests.support.modules import run_module
from tests.support.server import TestServer, eventually
from tests.support.switchover import (
    Pair,
    names_watched,
    pair_of_databases,
    rows_of,
    set_properties,
    start_engine,
    writing,
)

HOSTILE_NAMES = [
    'it\'s "quoted" 100 % %s',
    "-c a=b host=elsewhere",
    "back\\slash\nnew line",
    "ünïcode données 数据",
    "x" * 63,
    "é" * 31,
]


@pytest.fixture(scope="module")
def lasting_pair(pg18: TestServer) -> Iterator[Pair]:
    with pair_of_databases(pg18) as databases:
        yield databases


@pytest.fixture
def pair(lasting_pair: Pair) -> Iterator[Pair]:
    """A pair as new; tests that change more than names and rows take ``fresh_pair``."""
    yield lasting_pair
    lasting_pair.restore()


@pytest.fixture
def fresh_pair(pg18: TestServer) -> Iterator[Pair]:
    with pair_of_databases(pg18) as databases:
        yield databases


class SpyPoolers:
    """Poolers that tell what was asked of them."""

    targets = ()
    left_paused = ()
    turned_away_s = float("inf")
    facts = ()

    def __init__(self, log: list[str], on_pause: Any = None) -> None:
        self.log = log
        self.on_pause = on_pause

    def open(self) -> None:
        self.log.append("open")

    def prepare(self) -> None:
        self.log.append("prepare")

    def pause(self, *, timeout_s: float, activity: object) -> None:
        self.log.append("pause")
        assert 0 < timeout_s <= 15
        if self.on_pause is not None:
            self.on_pause()

    def resume(self) -> None:
        self.log.append("resume")

    def measure(self) -> None:
        self.log.append("measure")

    def close(self) -> None:
        self.log.append("close")


class SpySwitch:
    """A dead-man switch that tells what was asked of it."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def arm(self, *, timeout_s: float) -> None:
        self.log.append("arm %g" % timeout_s)

    def fired(self) -> bool:
        return False

    def disarm(self) -> None:
        self.log.append("disarm")


def test_module_swaps_once_and_predicts_it(pg18: TestServer, pair: Pair) -> None:
    arguments = {
        **pg18.login,
        "database": pair.live,
        "replacement": pair.side,
        "retired_name": pair.retired,
        "confirm": pair.live,
    }
    checked = run_module("pg_swap", arguments, check=True, diff=True)
    assert checked["changed"] and not checked["failed"], checked
    assert checked["diff"]["before"] == {pair.live: pair.old_oid, pair.side: pair.new_oid}
    assert checked["diff"]["after"] == {pair.live: pair.new_oid, pair.retired: pair.old_oid}
    assert pair.untouched()

    done = run_module("pg_swap", arguments)
    assert done["changed"], done
    assert (done["live_oid"], done["retired"], done["retired_oid"]) == (pair.new_oid, pair.retired, pair.old_oid)
    assert done["stall_ms"] > 0 and done["terminated"] == [] and done["poolers"] == [] and done["resumed"] is None
    assert (pair.oid(pair.live), pair.oid(pair.retired), pair.oid(pair.side)) == (pair.new_oid, pair.old_oid, None)

    again = run_module("pg_swap", arguments, check=True)
    assert not again["changed"] and not again["failed"], again
    rerun = run_module("pg_swap", arguments)
    assert not rerun["changed"] and not rerun["failed"] and rerun["resumed"] == "already_swapped"
    assert (rerun["live_oid"], rerun["retired_oid"]) == (pair.new_oid, pair.old_oid)


@pytest.mark.parametrize("confirm", [None, "", "APP"])
def test_nothing_is_touched_without_the_exact_confirmation(pair: Pair, confirm: str | None) -> None:
    with pytest.raises(HoldfastError) as refusal:
        pair.swap(confirm=confirm)
    assert refusal.value.code == "confirm_required"
    assert pair.untouched()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_any_legal_name_can_be_swapped_and_back(pg18: TestServer, name: str) -> None:
    with pair_of_databases(pg18, live=name) as pair:
        done = pair.swap()
        assert done["live"] == name and pair.oid(name) == pair.new_oid
        assert len(done["retired"].encode()) <= 63 and "_retired_2" in done["retired"]
        back = pair.swap(replacement=done["retired"], retired_name=pair.side, replacement_oid=pair.old_oid)
        assert back["changed"] and pair.untouched()


def test_swap_on_older_servers(pg16: TestServer, pg_distribution: TestServer) -> None:
    for server in (pg16, pg_distribution):
        with pair_of_databases(server) as pair:
            session = server.connect(pair.live)
            done = pair.swap(drain_timeout_s=0.1, terminate=True)
            assert [s["pid"] for s in done["terminated"]] == [session.info.backend_pid]
            assert pair.oid(pair.live) == pair.new_oid and pair.marks() == 0
            session.close()


@pytest.mark.parametrize(("reconnect", "terminate"), [(True, False), (True, True), (False, True)])
def test_each_committed_row_is_in_exactly_one_database(
    pg18: TestServer, pair: Pair, reconnect: bool, terminate: bool
) -> None:
    with (
        writing(pg18, pair.live, clients=3, reconnect=reconnect) as writers,
        names_watched(pg18, pair) as seen,
    ):
        eventually(lambda: all(len(writer.committed) > 5 for writer in writers))
        done = pair.swap(retired_name=pair.retired, terminate=terminate, drain_timeout_s=5 if reconnect else 0.05)
        counts = [len(writer.committed) for writer in writers]
        eventually(lambda: all(len(w.committed) > count + 5 for w, count in zip(writers, counts)))
    assert len(done["terminated"]) == (0 if reconnect else 3)
    old, new = rows_of(pg18, pair.retired), rows_of(pg18, pair.live)
    assert old and new and not old & new
    committed = {number for writer in writers for number in writer.committed}
    assert committed <= old | new
    assert seen == {
        frozenset({(pair.live, pair.old_oid), (pair.side, pair.new_oid)}),
        frozenset({(pair.live, pair.new_oid), (pair.retired, pair.old_oid)}),
    }


def test_only_sessions_of_the_two_databases_are_terminated(pg18: TestServer, pair: Pair) -> None:
    bystanders = [pg18.connect(), pg18.connect("template1")]
    sessions = [pg18.connect(pair.live), pg18.connect(pair.side), pg18.connect(pair.live)]
    done = pair.swap(drain_timeout_s=0, terminate=True)
    assert {s["pid"] for s in done["terminated"]} == {session.info.backend_pid for session in sessions}
    for bystander in bystanders:
        with bystander.cursor() as cursor:
            cursor.execute("SELECT 1")
        bystander.close()
    for session in sessions:
        session.close()


def test_swap_without_keeping_clients_out_works_between_their_connections(pg18: TestServer, pair: Pair) -> None:
    with writing(pg18, pair.live, clients=1, reconnect=True) as writers:
        eventually(lambda: len(writers[0].committed) > 5)
        done = pair.swap(keep_direct_clients_out=False)
    assert done["changed"] and pair.oid(pair.live) == pair.new_oid
    assert not [error for error in writers[0].errors if "not currently accepting" in error]


def test_idle_session_blocks_and_is_named(pg18: TestServer, pair: Pair) -> None:
    session = pg18.connect(pair.side, application_name="nightly report")
    with session.cursor() as cursor:
        cursor.execute("BEGIN")
    started = time.monotonic()
    with pytest.raises(HoldfastError) as refusal:
        pair.swap(drain_timeout_s=0.3)
    assert time.monotonic() - started < 2
    assert refusal.value.code == "database_in_use"
    for fact in (str(session.info.backend_pid), "postgres", "nightly report", "idle in transaction", pair.side):
        assert fact in refusal.value.msg
    assert refusal.value.details["sessions"][0]["state"] == "idle in transaction"
    session.close()
    eventually(pair.untouched)
    assert pair.swap()["changed"]


def test_clients_are_never_kept_waiting_longer_than_max_pause(pg18: TestServer, pair: Pair) -> None:
    session = pg18.connect(pair.live)
    started = time.monotonic()
    with pytest.raises(HoldfastError) as refusal:
        pair.swap(drain_timeout_s=60, max_pause_s=0.5)
    assert time.monotonic() - started < 2
    assert refusal.value.code == "database_in_use"
    assert pair.untouched()
    session.close()


def test_lock_on_a_database_ends_the_swap_at_max_pause(pg18: TestServer, pair: Pair) -> None:
    """As a CREATE DATABASE ... TEMPLATE of the live database holds it."""
    other = pg18.connect()
    other.autocommit = False
    with other.cursor() as cursor:
        cursor.execute(sql.SQL("COMMENT ON DATABASE {} IS 'x'").format(sql.Identifier(pair.live)))
    with pytest.raises(HoldfastError) as refusal:
        pair.swap(drain_timeout_s=0.2, max_pause_s=0.5)
    assert refusal.value.code in ("timeout", "database_in_use")
    other.rollback()
    other.close()
    assert pair.untouched()


def test_killed_swap_is_finished_or_undone_by_the_same_call(pg18: TestServer, pair: Pair) -> None:
    """Twenty kills at random moments; the last position of the names decides which direction comes next."""
    generator = random.Random(20)
    live, side, outcomes = pair.live, pair.side, []
    oids = {side: pair.new_oid}
    current = pair.old_oid
    for round_number in range(20):
        retired = "%s_%d" % (pair.retired[:40], round_number)
        options = {
            "live": live,
            "replacement": side,
            "replacement_oid": oids[side],
            "confirm": live,
            "retired_name": retired,
            "drain_timeout_s": 0.3,
            "terminate": True,
        }
        # Every other time a session makes the swap wait with its doors closed.
        session = pg18.connect(live) if round_number % 2 else None
        process = start_engine(pg18, "swap", options)
        time.sleep(generator.uniform(0, 0.35 if session else 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if session is not None:
            session.close()
        names = dict(pg18.execute("SELECT oid, datname FROM pg_database WHERE oid IN (%s, %s)", (current, oids[side])))
        assert names in (
            {current: live, oids[side]: side},
            {current: retired, oids[side]: live},
        )
        done = swap_databases(server=pg18.server, request=SwapRequest(**options))
        outcomes.append(done["resumed"])
        assert (done["live_oid"], done["retired"], done["retired_oid"]) == (oids[side], retired, current)
        assert pg18.execute("SELECT 1", database=live) and pg18.execute("SELECT 1", database=retired)
        assert pair.marks() == 0
        side, oids, current = retired, {retired: current}, done["live_oid"]
    assert "undone" in outcomes, outcomes


def test_killed_swap_lets_clients_in_again_by_itself(pg18: TestServer, pair: Pair) -> None:
    session = pg18.connect(pair.live)
    options = {"live": pair.live, "replacement": pair.side, "confirm": pair.live, "drain_timeout_s": 10}
    for kill in (signal.SIGKILL, signal.SIGTERM):
        process = start_engine(pg18, "guarded swap", options)
        eventually(lambda: not pair.allows_connections(pair.old_oid))
        process.send_signal(kill)
        process.communicate(timeout=10)
        eventually(pair.untouched)
    session.close()
    # With its work done, nothing is left of the watchdog, nor of what it was to undo.
    done = json.loads(start_engine(pg18, "guarded swap", options).communicate(timeout=20)[0])
    assert done["changed"] and pair.allows_connections(pair.new_oid) and pair.marks() == 0


def test_signal_during_the_drain_lets_clients_in_again(pg18: TestServer, pair: Pair) -> None:
    session = pg18.connect(pair.live)
    options = {"live": pair.live, "replacement": pair.side, "confirm": pair.live, "drain_timeout_s": 10}
    process = start_engine(pg18, "swap", options)
    eventually(lambda: not pair.allows_connections(pair.old_oid))
    process.send_signal(signal.SIGTERM)
    output, _errors = process.communicate(timeout=10)
    assert json.loads(output)["code"] == "interrupted"
    assert pair.untouched()
    session.close()


def test_lost_connection_during_the_drain_lets_clients_in_again(pg18: TestServer, pair: Pair) -> None:
    session = pg18.connect(pair.live)

    def end_the_swap() -> None:
        eventually(lambda: not pair.allows_connections(pair.old_oid))
        pg18.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast swap'")

    thread = threading.Thread(target=end_the_swap)
    thread.start()
    with pytest.raises(Exception, match="terminat"):
        pair.swap(drain_timeout_s=10)
    thread.join()
    assert pair.untouched()
    session.close()


def test_check_mode_tells_of_a_killed_run_and_leaves_it(pg18: TestServer, pair: Pair) -> None:
    close_doors_and_die(pg18, pair)
    checked = pair.swap(check_mode=True)
    assert checked["resumed"] == "undone" and checked["changed"] and checked["carried_over"] == []
    assert not pair.allows_connections(pair.old_oid)
    done = pair.swap()
    assert done["resumed"] == "undone" and done["carried_over"] == []
    assert pair.allows_connections(pair.old_oid) and pair.allows_connections(pair.new_oid) and pair.marks() == 0


def test_killed_run_is_undone_even_when_the_next_one_is_refused(pg18: TestServer, fresh_pair: Pair) -> None:
    pair = fresh_pair
    with alter(pg18, "ALTER ROLE postgres IN DATABASE {} SET application_name = 'mine, \"own\"'", pair.live):
        close_doors_and_die(pg18, pair)
    with pytest.raises(HoldfastError) as refusal:
        pair.swap(replacement="no such database")
    assert refusal.value.code == "database_not_found"
    assert pair.untouched()
    properties = read_properties(connection=pg18.connect(), database=pair.live)
    assert properties.role_settings == {"postgres": {"application_name": 'mine, "own"'}}


def test_settings_that_look_like_a_killed_run_are_not_believed(pg18: TestServer, fresh_pair: Pair) -> None:
    pair, role = fresh_pair, "guest_" + uuid.uuid4().hex[:8]
    pg18.execute("CREATE ROLE " + role)
    forgeries = [
        '{"holdfast.swap": "x", "open": true}',
        '{"holdfast.swap": "x"',
        '{"holdfast.swap": "x", "open": false}',
    ]
    with alter(pg18, "ALTER DATABASE {} ALLOW_CONNECTIONS false", pair.side):
        for who, database, text in zip((role, "postgres", "postgres"), (pair.side, pair.side, pair.live), forgeries):
            literal = text.replace("{", "{{").replace("}", "}}")
            with alter(pg18, "ALTER ROLE %s IN DATABASE {} SET application_name = '%s'" % (who, literal), database):
                pass
    with pytest.raises(HoldfastError):
        pair.swap(retired_name="template1")
    assert not pair.allows_connections(pair.new_oid), "a role that does not own the database opened it"
    assert pair.allows_connections(pair.old_oid), "an undo closed a database"
    pg18.execute("DROP ROLE " + role)


def test_autovacuum_workers_do_not_hold_up_a_swap(pg18: TestServer, pair: Pair) -> None:
    table = "CREATE TABLE heap AS SELECT repeat('x', 500) FROM generate_series(1, 40000); DELETE FROM heap"
    pg18.execute("ALTER SYSTEM SET autovacuum_naptime = 1; ", database=pair.live)
    pg18.execute("ALTER SYSTEM SET autovacuum_vacuum_cost_delay = 100")
    pg18.execute("SELECT pg_reload_conf()")
    try:
        pg18.execute(table, database=pair.live)
        workers = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND datid = %s"
        eventually(lambda: pg18.execute(workers, (pair.old_oid,)), timeout_s=30)
        done = pair.swap(drain_timeout_s=0)
        assert done["terminated"] == []
    finally:
        pg18.execute("ALTER SYSTEM RESET autovacuum_naptime")
        pg18.execute("ALTER SYSTEM RESET autovacuum_vacuum_cost_delay")
        pg18.execute("SELECT pg_reload_conf()")


def test_database_closed_by_somebody_else_stays_closed_when_it_retires(pg18: TestServer, pair: Pair) -> None:
    with alter(pg18, "ALTER DATABASE {} ALLOW_CONNECTIONS false", pair.live):
        pass
    with pytest.raises(HoldfastError):
        pair.swap(retired_name="postgres2", replacement="no such database")
    assert not pair.allows_connections(pair.old_oid)
    done = pair.swap()
    assert done["resumed"] is None
    assert pair.allows_connections(pair.new_oid) and not pair.allows_connections(pair.old_oid)


def test_retired_name_taken_meanwhile_undoes_everything(pg18: TestServer, pair: Pair) -> None:
    log: list[str] = []
    poolers = SpyPoolers(log, on_pause=lambda: pg18.create_database(pair.retired))
    with pytest.raises(HoldfastError) as refusal:
        pair.swap(retired_name=pair.retired, poolers=poolers)
    assert refusal.value.code == "target_exists"
    assert pair.untouched()
    assert log == ["open", "prepare", "pause", "resume", "close"]
    pg18.drop_database(pair.retired)


def test_collaborators_are_called_in_order(pair: Pair) -> None:
    log: list[str] = []
    pair.swap(poolers=SpyPoolers(log), switches=[SpySwitch(log)])
    assert log == ["open", "prepare", "arm 14", "pause", "resume", "measure", "disarm", "close"]


def test_poolers_that_refuse_are_resumed(pair: Pair) -> None:
    def refuse() -> None:
        raise HoldfastError(code="pause_refused", msg="PAUSE did not finish.", hint="Look at it.")

    log: list[str] = []
    with pytest.raises(HoldfastError, match="PAUSE"):
        pair.swap(poolers=SpyPoolers(log, on_pause=refuse), switches=[SpySwitch(log)])
    assert log == ["open", "prepare", "arm 14", "pause", "resume", "disarm", "close"]
    assert pair.untouched()


def test_prepared_transactions_slots_and_subscriptions_are_refused_by_name(pg18: TestServer, pair: Pair) -> None:
    pg18.execute("SELECT pg_create_logical_replication_slot('feed_" + pair.side + "', 'pgoutput')", database=pair.side)
    pg18.execute(
        "CREATE SUBSCRIPTION from_elsewhere CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)",
        database=pair.live,
    )
    connection = pg18.connect(pair.live)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO written VALUES (1)")
        cursor.execute("PREPARE TRANSACTION 'two phases'")
    connection.close()
    try:
        for check_mode in (True, False):
            with pytest.raises(HoldfastError) as refusal:
                pair.swap(check_mode=check_mode)
            assert refusal.value.code == "swap_blocked"
            kinds = {(blocker["kind"], blocker["name"]) for blocker in refusal.value.details["blockers"]}
            assert kinds == {
                ("prepared_transaction", "two phases"),
                ("logical_slot", "feed_" + pair.side),
                ("subscription", "from_elsewhere"),
            }
            assert "two phases" in refusal.value.msg and "inactive logical replication slot" in refusal.value.msg
            assert pair.untouched()
    finally:
        pg18.execute("ROLLBACK PREPARED 'two phases'", database=pair.live)
        pg18.execute("ALTER SUBSCRIPTION from_elsewhere SET (slot_name = NONE)", database=pair.live)
        pg18.execute("DROP SUBSCRIPTION from_elsewhere", database=pair.live)
        pg18.execute("SELECT pg_drop_replication_slot('feed_" + pair.side + "')")


def test_blocker_that_appears_while_clients_wait_is_refused(pg18: TestServer, pair: Pair) -> None:
    slot = "late_" + pair.side
    poolers = SpyPoolers(
        [],
        on_pause=lambda: pg18.execute(
            "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,), database=pair.live
        ),
    )
    with pytest.raises(HoldfastError) as refusal:
        pair.swap(poolers=poolers)
    pg18.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
    assert refusal.value.code == "swap_blocked" and slot in refusal.value.msg
    assert pair.untouched()


def test_requests_that_make_no_sense_are_refused_before_anything_is_touched(pg18: TestServer, pair: Pair) -> None:
    refusals = [
        ({"replacement": pair.live}, "option_invalid"),
        ({"retired_name": pair.side}, "option_invalid"),
        ({"retired_name": "x" * 64}, "name_invalid"),
        ({"retired_name": "template1"}, "target_exists"),
        ({"retired_name": "postgres"}, "option_invalid"),
        ({"replacement": "no such database"}, "database_not_found"),
        ({"replacement": "template1"}, "swap_blocked"),
        ({"replacement_oid": 1}, "swap_blocked"),
        ({"max_pause_s": 0}, "option_invalid"),
    ]
    for options, code in refusals:
        with pytest.raises(HoldfastError) as refusal:
            pair.swap(**options)
        assert refusal.value.code == code, (options, refusal.value.msg)
    with pytest.raises(HoldfastError) as refusal:
        swap_databases(server=pg18.server, request=SwapRequest("gone", pair.side, "gone"))
    assert refusal.value.code == "database_not_found" and "'gone'" in refusal.value.msg
    assert pair.untouched()


def test_invalid_database_is_never_chosen(pg18: TestServer, fresh_pair: Pair) -> None:
    pair = fresh_pair
    pg18.execute("UPDATE pg_database SET datconnlimit = -2 WHERE oid = %s", (pair.new_oid,))
    with pytest.raises(HoldfastError) as refusal:
        pair.swap()
    assert refusal.value.code == "database_invalid"
    assert pair.oid(pair.live) == pair.old_oid


def test_what_is_keyed_by_oid_is_carried_over(pg18: TestServer, fresh_pair: Pair) -> None:
    pair = fresh_pair
    role = "owner_" + uuid.uuid4().hex[:8]
    set_properties(pg18, pair.live, role=role)
    connection = pg18.connect()
    before = read_properties(connection=connection, database=pair.live)
    predicted = pair.swap(check_mode=True)["carried_over"]
    done = pair.swap(retired_name=pair.retired)
    assert read_properties(connection=connection, database=pair.live) == before
    assert read_properties(connection=connection, database=pair.retired) == before
    assert done["carried_over"] == predicted and len(predicted) >= 6
    back = pair.swap(replacement=pair.retired, retired_name=pair.side, carry_over=False)
    assert back["carried_over"] == []
    connection.close()
    for name in (pair.live, pair.side):
        pg18.drop_database(name)
    pg18.execute("DROP ROLE " + role)


def test_owner_without_superuser_swaps_with_createdb_only(pg16: TestServer, pg18: TestServer) -> None:
    for server in (pg16, pg18):
        role = "deployer_" + uuid.uuid4().hex[:8]
        server.execute("CREATE ROLE %s LOGIN CREATEDB PASSWORD 'x'" % role)
        owner = Server(host="127.0.0.1", port=server.port, user=role, password="x")
        with pair_of_databases(server, owner=role) as pair:
            session = server.connect(pair.live, user=role, password="x")
            done = swap_databases(
                server=owner, request=pair.request(drain_timeout_s=0.1, terminate=True, retired_name=pair.retired)
            )
            assert done["changed"] and len(done["terminated"]) == 1 and pair.marks() == 0
            session.close()
            request = pair.request(replacement=pair.retired, retired_name=pair.side, drain_timeout_s=0.1)
            session = server.connect(pair.live)
            with pytest.raises(HoldfastError) as refusal:
                swap_databases(
                    server=owner,
                    request=pair.request(
                        replacement=pair.retired, retired_name=pair.side, drain_timeout_s=0.1, terminate=True
                    ),
                )
            assert refusal.value.code == "permission_denied" and "pg_signal_backend" in refusal.value.hint
            session.close()
            server.execute("ALTER ROLE %s NOCREATEDB" % role)
            with pytest.raises(HoldfastError) as refusal:
                swap_databases(server=owner, request=request)
            assert refusal.value.code == "permission_denied" and "CREATEDB" in refusal.value.msg
            server.execute("ALTER ROLE %s CREATEDB" % role)
            assert swap_databases(server=owner, request=request)["changed"]
            assert pair.untouched()
        server.execute("DROP ROLE " + role)


def test_two_swaps_of_one_database_do_not_run_at_once(
    pg18: TestServer, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "PREDECESSOR_TIMEOUT_S", 0.2)
    other = pg18.connect()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (lock_key(pair.side),))
    with pytest.raises(HoldfastError) as refusal:
        pair.swap()
    assert refusal.value.code == "operation_running"
    assert refusal.value.details["pids"] == [other.info.backend_pid]
    other.close()
    assert pair.untouched()


def test_recorded_oid_recognises_a_finished_swap_without_a_retired_name(pair: Pair) -> None:
    done = pair.swap(replacement_oid=pair.new_oid)
    again = pair.swap(replacement_oid=pair.new_oid)
    assert not again["changed"] and again["resumed"] == "already_swapped"
    assert (again["retired"], again["retired_oid"]) == (done["retired"], pair.old_oid)
    with pytest.raises(HoldfastError) as refusal:
        pair.swap()
    assert refusal.value.code == "database_not_found"


def close_doors_and_die(server: TestServer, pair: Pair) -> None:
    """What a run leaves that is killed while it waits for sessions."""
    connection = server.connect()
    databases = list_databases(connection=connection, names=[pair.live, pair.side])
    Doors(connect=server.connect).close(connection, databases)
    connection.close()
    assert not pair.allows_connections(pair.old_oid) and not pair.allows_connections(pair.new_oid)


@contextlib.contextmanager
def alter(server: TestServer, statement: str, database: str) -> Iterator[None]:
    connection = server.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(sql.Identifier(database)))
        yield
    finally:
        connection.close()
