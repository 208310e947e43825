# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cleaning up side databases: what goes, what stays and why, and what a kill in the middle leaves."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, suffixed_name
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover import prune
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.prune import prune_side_databases
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.retention import Policy
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.swap import lock_key
from tests.support.modules import run_module
from tests.support.server import TestServer

OLD, OLDER, OLDEST = "20260220T000000Z-00b2", "20260210T000000Z-00b1", "20260201T000000Z-00b0"


def today(days_ago: float = 0) -> str:
    return (datetime.now(timezone.utc) - timedelta(days=days_ago)).strftime("%Y%m%dT%H%M%SZ-00f1")


def clean(
    server: TestServer, live: str, *, keep_days: float = 14, keep_last: int = 1, **options: Any
) -> dict[str, Any]:
    given = {"points": [], "runs": [], "confirm": live, "history_table": "public.schema_version", **options}
    return prune_side_databases(
        server=given.pop("login", server.server), live=live, policy=Policy(keep_days, keep_last), **given
    )


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["name"] for entry in entries]


def kept_because(result: dict[str, Any], name: str) -> str:
    return str(next(entry["reason"] for entry in result["kept"] if entry["name"] == name))


@pytest.fixture
def live(pg18: TestServer) -> Iterator[str]:
    name = "live_" + uuid.uuid4().hex[:8]
    pg18.create_database(name)
    yield name
    for found in sorted(pg18.databases()):
        if name in found:
            if pg18.execute("SELECT datistemplate FROM pg_database WHERE datname = %s", (found,))[0][0]:
                pg18.execute('ALTER DATABASE "%s" IS_TEMPLATE false' % found)
            pg18.drop_database(found)


def test_module_drops_what_is_old_once_and_predicts_it(pg18: TestServer, live: str) -> None:
    side = {run: pg18.create_database("%s_before_%s" % (live, run)) for run in (OLDER, OLD, today())}
    retired = [pg18.create_database("%s_retired_%s" % (live, run)) for run in (OLDER, OLD)]
    stranger = pg18.create_database(live + "_backup_" + OLD)
    arguments = {**pg18.login, "database": live, "rollback_points": [], "deployments": []}

    checked = run_module("pg_side_database_prune", arguments, check=True)
    assert checked["changed"], checked
    assert names(checked["removed"]) == [side[OLDER], retired[0], side[OLD]]
    assert checked["freed_bytes"] == sum(entry["bytes"] for entry in checked["removed"]) > 10_000_000
    assert {*side.values(), *retired, stranger} <= pg18.databases()

    refused = run_module("pg_side_database_prune", arguments)
    assert refused["failed"] and refused["code"] == "confirm_required"
    assert {*side.values(), *retired, stranger} <= pg18.databases()

    done = run_module("pg_side_database_prune", {**arguments, "confirm": live})
    assert done["changed"] and done["removed"] == checked["removed"] and done["kept"] == checked["kept"]
    assert pg18.databases() & {*side.values(), *retired} == {side[list(side)[2]], retired[1]}
    assert stranger in pg18.databases() and live in pg18.databases()

    for check in (True, False):
        again = run_module("pg_side_database_prune", {**arguments, "confirm": live}, check=check)
        assert not again["changed"] and again["removed"] == [] and again["freed_bytes"] == 0
        assert names(again["kept"]) == [retired[1], side[list(side)[2]]]


def test_unknown_ledger_and_rising_doubts_keep_everything_that_is_whole(pg18: TestServer, live: str) -> None:
    whole = pg18.create_database("%s_before_%s" % (live, OLD))
    broken = pg18.create_database("%s_retired_%s" % (live, OLDER))
    pg18.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", (broken,))
    done = clean(pg18, live, points=None, runs=None, keep_days=0, keep_last=0)
    assert names(done["removed"]) == [broken] and "interrupted DROP" in done["removed"][0]["reason"]
    assert "ledger" in kept_because(done, whole)
    assert whole in pg18.databases() and broken not in pg18.databases()


def test_live_databases_own_history_keeps_its_way_back(pg18: TestServer, live: str) -> None:
    clones = {run: pg18.create_database("%s_before_%s" % (live, run)) for run in (OLDEST, OLDER, OLD)}
    pg18.execute(
        "CREATE TABLE public.schema_version (version text, applied_at timestamptz, deployment_id text);"
        "INSERT INTO public.schema_version VALUES ('1', now(), '%s')" % OLDEST,
        database=live,
    )
    done = clean(pg18, live)
    assert names(done["removed"]) == [clones[OLDER]]
    assert "newest way back" in kept_because(done, clones[OLDEST])
    assert "newest of its kind" in kept_because(done, clones[OLD])


def test_what_is_in_use_stays_and_is_named(pg18: TestServer, live: str) -> None:
    run = iter("202601%02dT000000Z-aaaa" % day for day in range(1, 20))
    in_use, prepared, slot, subscribed, template, closed = (
        pg18.create_database("%s_retired_%s" % (live, next(run)), "CREATE TABLE t (n int)") for _number in range(6)
    )
    session = pg18.connect(in_use, application_name="auditor")
    # A slot waits for every open transaction, so it comes before the prepared one.
    pg18.execute("SELECT pg_create_logical_replication_slot('left_slot', 'pgoutput')", database=slot)
    two_phase = pg18.connect(prepared)
    with two_phase.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (1)")
        cursor.execute("PREPARE TRANSACTION 'half done'")
    two_phase.close()
    pg18.execute(
        "CREATE SUBSCRIPTION left_sub CONNECTION 'dbname=nowhere' PUBLICATION p"
        " WITH (connect = false, slot_name = NONE, create_slot = false, enabled = false)",
        database=subscribed,
    )
    pg18.execute('ALTER DATABASE "%s" IS_TEMPLATE true' % template)
    mark = {"holdfast.swap": "run", "open": True}
    pg18.execute(
        "ALTER ROLE postgres IN DATABASE \"%s\" SET application_name TO '%s'" % (closed, json.dumps(mark)),
    )
    try:
        for check_mode in (True, False):
            done = clean(pg18, live, keep_last=0, check_mode=check_mode)
            assert done["removed"] == [] and not done["changed"]
            expected = {
                in_use: "auditor",
                prepared: "half done",
                slot: "left_slot",
                subscribed: "left_sub",
                template: "template",
                closed: "interrupted swap",
            }
            for name, word in expected.items():
                assert word in kept_because(done, name), done
    finally:
        session.close()
        pg18.execute("ROLLBACK PREPARED 'half done'", database=prepared)
        pg18.execute("SELECT pg_drop_replication_slot('left_slot')", database=slot)
        pg18.execute("DROP SUBSCRIPTION left_sub", database=subscribed)
    assert names(clean(pg18, live, keep_last=0)["removed"]) == [in_use, prepared, slot, subscribed]


def test_what_comes_between_the_look_and_the_drop_keeps_it(
    pg18: TestServer, live: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = pg18.create_database("%s_retired_%s" % (live, OLD))
    close = prune._close_for_good
    arrivals: list[Any] = []

    def slot_arrives(*args: Any, **kwargs: Any) -> str:
        if not arrivals:
            arrivals.append("slot")
            pg18.execute("SELECT pg_create_logical_replication_slot('late_slot', 'pgoutput')", database=side)
        return close(*args, **kwargs)

    def replaced(*args: Any, **kwargs: Any) -> str:
        pg18.execute('ALTER DATABASE "%s" RENAME TO "%s_moved"' % (side, live))
        pg18.create_database(side)
        return close(*args, **kwargs)

    monkeypatch.setattr(prune, "_close_for_good", slot_arrives)
    done = clean(pg18, live, keep_last=0)
    assert "late_slot" in kept_because(done, side) and not done["changed"]
    pg18.execute("SELECT pg_drop_replication_slot('late_slot')", database=side)
    monkeypatch.setattr(prune, "_close_for_good", replaced)
    done = clean(pg18, live, keep_last=0)
    assert "replaced" in kept_because(done, side)
    assert {side, live + "_moved"} <= pg18.databases()
    allowed = pg18.execute("SELECT datallowconn, datconnlimit FROM pg_database WHERE datname = %s", (side,))
    assert allowed == [(True, -1)]


def test_running_swap_is_not_disturbed(pg18: TestServer, live: str) -> None:
    side = pg18.create_database("%s_retired_%s" % (live, OLD))
    swap = pg18.connect()
    with swap.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (lock_key(live),))
    assert "swap is running" in kept_because(clean(pg18, live, keep_last=0), side)
    swap.close()


def test_swap_is_not_kept_waiting_by_a_long_drop(pg18: TestServer, live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pg18.create_database("%s_retired_%s" % (live, OLD))
    drop = prune._drop
    free: list[bool] = []

    def look(connection: Any, name: str) -> None:
        free.append(pg18.execute("SELECT pg_try_advisory_lock(%s)", (lock_key(live),))[0][0])
        drop(connection, name)

    monkeypatch.setattr(prune, "_drop", look)
    assert clean(pg18, live, keep_last=0)["changed"] and free == [True]


def test_killed_cleanup_is_finished_by_the_next(pg18: TestServer, live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side = pg18.create_database("%s_retired_%s" % (live, OLD))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune, "_drop", lambda connection, name: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            clean(pg18, live, keep_last=0)
    assert side not in pg18.databases()
    left = next(name for name in pg18.databases() if ".holdfast-drop-" in name)
    with pytest.raises(psycopg2.OperationalError, match="not currently accepting"):
        pg18.connect(left)
    lookalike = pg18.create_database(live + ".holdfast-drop-1")
    checked = clean(pg18, live, check_mode=True)
    done = clean(pg18, live)
    assert names(checked["removed"]) == names(done["removed"]) == [left]
    assert done["removed"][0]["kind"] == "unfinished"
    assert left not in pg18.databases() and lookalike in pg18.databases()


def test_what_killed_clones_and_restores_left_is_removed(pg18: TestServer, live: str) -> None:
    stale, abandoned, building = (
        live + ".holdfast-clone-999999",
        live + "_restored_x.restoring-0000beef",
        live + "_restored_y.restoring-fffffeed",
    )
    pg18.execute('CREATE DATABASE "%s" ALLOW_CONNECTIONS false CONNECTION LIMIT 0' % stale)
    for name in (abandoned, building):
        pg18.create_database(name)
        pg18.execute("COMMENT ON DATABASE \"%s\" IS 'holdfast.postgres pg_restore: x'" % name)
    restore = pg18.connect()
    with restore.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", (0x48465242, 0xFFFFFEED - (1 << 32)))
    assert set(names(clean(pg18, live, points=None, runs=None)["removed"])) == {stale, abandoned}
    assert building in pg18.databases()
    restore.close()


def test_long_names_are_recognised_when_the_ledger_knows_them(pg18: TestServer) -> None:
    live = "é" * 31
    pg18.create_database(live)
    sides = [pg18.create_database(suffixed_name(live, "_retired_" + run)) for run in (OLDER, OLD)]
    try:
        doubtful = clean(pg18, live, keep_last=0)
        assert doubtful["removed"] == [] and "shortened" in kept_because(doubtful, sides[0])
        runs = [{"id": run, "database": live, "kind": "rollback", "status": "succeeded"} for run in (OLDER, OLD)]
        assert names(clean(pg18, live, keep_last=1, runs=runs)["removed"]) == [sides[0]]
    finally:
        for name in (live, *sides):
            pg18.drop_database(name)


@pytest.mark.parametrize("live", ['it\'s "quoted" 100 % %s', "-c a=b host=x", "back\\slash\nnew line"])
def test_any_legal_name_is_cleaned_up_after(pg18: TestServer, live: str) -> None:
    side, newest = live + "_before_" + OLD, live + "_before_" + today()
    for name in (live, side, newest):
        pg18.create_database(name)
    try:
        assert names(clean(pg18, live)["removed"]) == [side]
        assert {live, newest} <= pg18.databases()
    finally:
        for name in (live, newest, side):
            pg18.drop_database(name)


def test_refusals_touch_nothing(pg18: TestServer, live: str) -> None:
    side = pg18.create_database("%s_retired_%s" % (live, OLD))
    refusals: list[tuple[str, dict[str, Any], str]] = [
        (live, {"confirm": None}, "confirm_required"),
        (live, {"confirm": live.upper()}, "confirm_required"),
        (live, {"confirm": live.upper(), "check_mode": True}, "confirm_required"),
        (live, {"keep_days": -1}, "option_invalid"),
        (live, {"keep_last": -1}, "option_invalid"),
        ("postgres", {}, "option_invalid"),
        ("no such database", {}, "database_not_found"),
        ("x" * 64, {}, "name_invalid"),
    ]
    for name, options, code in refusals:
        with pytest.raises(HoldfastError) as refusal:
            clean(pg18, name, **{"keep_last": 0, **options})
        assert refusal.value.code == code, refusal.value.msg
    assert side in pg18.databases()


def test_role_without_the_right_keeps_what_is_not_its_own(pg18: TestServer, live: str) -> None:
    role = "cleaner_" + uuid.uuid4().hex[:8]
    pg18.execute("CREATE ROLE %s LOGIN CREATEDB PASSWORD 'x'" % role)
    mine = pg18.create_database("%s_retired_%s" % (live, OLD), owner=role)
    foreign = pg18.create_database("%s_retired_%s" % (live, OLDER))
    login = Server(host="127.0.0.1", port=pg18.port, user=role, password="x")
    for check_mode in (True, False):
        done = clean(pg18, live, keep_last=0, login=login, check_mode=check_mode)
        assert names(done["removed"]) == [mine] and "ownership" in kept_because(done, foreign)
    assert foreign in pg18.databases() and mine not in pg18.databases()
    pg18.execute("DROP ROLE " + role)


def test_older_servers_are_cleaned_up_as_well(pg16: TestServer, pg_distribution: TestServer) -> None:
    for server in (pg16, pg_distribution):
        server.create_database("older")
        sides = [server.create_database("older_before_" + run) for run in (OLDER, OLD)]
        try:
            assert names(clean(server, "older")["removed"]) == [sides[0]]
        finally:
            for name in ("older", *sides):
                server.drop_database(name)
