# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One fault at a time in front of three PgBouncers under load: who is told what, and whose clients notice."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.clone import clone_database
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pause_length import Pause
from tests.support.kills import LIVE, Bench, Client, Follower, Playbook, Stage, going_on
from tests.support.pgbouncer import transaction_open
from tests.support.server import embedded_bin_dir, eventually

Record = Callable[[str, object], None]

MAX_PAUSE_S = 5.0

NUMBERS = itertools.count()

#: What the server says to a new connection while the doors are closed, and while the names change as it comes in.
REFUSALS = ("not currently accepting connections", "seems to have just been dropped or renamed")


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


def swap(stage: Stage, *, before: str = "", act: Callable[[], object] | None = None, **options: Any) -> dict[str, Any]:
    """Run the module and return what it says; ``act`` happens right before poolers are told to pause or to resume."""
    module = stage.module(*([before] if before else []))
    module.begin(stage.arguments("retired_%d" % next(NUMBERS), max_pause=MAX_PAUSE_S, **options))
    try:
        if act is not None:
            with module.stopped():
                act()
        said: dict[str, Any] = json.loads(module.finish()[1].splitlines()[-1])
    finally:
        module.kill()
    stage.side = said.get("retired") or stage.side
    return said


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
    lost, live = stage.poolers[1], stage.oid(LIVE)

    def lose() -> None:
        lost.kill() if what == "dead" else lost.signal(signal.SIGSTOP)

    with stage.load(reconnect=True) as (clients, benches):
        going_on(clients)
        try:
            if when == "before":
                lose()
                said = swap(stage)
            else:
                said = swap(stage, before=when.rpartition(" ")[2], act=lose, pause_attempts=2, pause_timeout=0.5)
        finally:
            if what == "dead":
                lost.start()
            else:
                lost.signal(signal.SIGCONT)
        # Whoever comes back goes on without anybody's help.
        going_on(clients)
        eventually(lambda: not any(pooler.paused() for pooler in stage.poolers))
    everybody = [*clients, *benches]
    noted(record_property, everybody, "one of three poolers %s %s" % (what, when), done=stage.oid(LIVE) != live)
    if when == "at the resume":
        assert stage.oid(LIVE) != live, said
    else:
        assert stage.oid(LIVE) == live and said["code"] in ("connection_failed", "pause_refused"), said
    assert lost.name in json.dumps(said)
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
        said = swap(stage, pause_attempts=3, pause_timeout=0.5)
        assert not any(pooler.paused() for pooler in stage.poolers)
        going_on(clients)
    everybody = [*clients, *benches]
    noted(record_property, everybody, "one of three poolers refuses: a transaction never ends", done=False)
    assert said["code"] == "pause_refused"
    for fact in ("pooler 1", "nightly report", "idle in transaction", "in 3 attempts"):
        assert fact in said["msg"]
    assert "pooler 0" not in said["msg"] and "pooler 2" not in said["msg"]
    assert [client.errors for client in everybody] == [[]] * len(everybody)
    assert max(client.longest_s for client in everybody) < 2
    assert swap(stage)["changed"]


@pytest.mark.parametrize("terminate", [False, True])
def test_direct_transaction_that_never_ends(stage: Stage, terminate: bool, record_property: Record) -> None:
    session = stage.server.connect(LIVE, application_name="forgotten")
    session.autocommit = False
    with session.cursor() as cursor:
        cursor.execute("LOCK TABLE whoami IN ACCESS SHARE MODE")
    with stage.load(reconnect=True) as (clients, benches):
        going_on(clients)
        said = swap(stage, drain_timeout=0.5, terminate=terminate)
        going_on(clients)
    session.close()
    everybody = [*clients, *benches]
    fault = "a direct transaction that never ends, %s" % ("terminated" if terminate else "not terminated")
    noted(record_property, everybody, fault, done=terminate)
    if terminate:
        assert said["changed"] and [s["application_name"] for s in said["terminated"]] == ["forgotten"]
    else:
        assert said["code"] == "database_in_use" and "forgotten" in said["msg"]
    assert [client.errors for client in everybody] == [[]] * len(everybody)
    assert max(client.longest_s for client in everybody) < 2


def test_clients_that_connect_directly_in_a_tight_loop(stage: Stage, record_property: Record) -> None:
    rounds = 6
    with stage.load(reconnect=True) as (clients, benches), contextlib.ExitStack() as stack:
        strangers = []
        for number in range(3):
            strangers.append(Client(1000 + number, stage.server.connect, reconnect=True, pace_s=0))
            stack.callback(strangers[-1].stop)
        for _round in range(rounds):
            going_on(clients)
            before = [stranger.successes for stranger in strangers]
            said = swap(stage)
            assert said["changed"] and said["terminated"] == []
            eventually(lambda counts=before: all(s.successes > n for s, n in zip(strangers, counts)))
    everybody = [*clients, *benches]
    noted(record_property, everybody, "clients connect directly in a tight loop", done=True)
    assert [client.errors for client in everybody] == [[]] * len(everybody)
    # They are refused while the doors are closed, or in the instant of the exchange, and lose nothing else.
    refused = [error for stranger in strangers for error in stranger.errors]
    others = [error for error in refused if not any(reason in error for reason in REFUSALS)]
    assert refused and others == []
    held = {generation: stage.written(name) for generation, name in stage.names().items()}
    for stranger in strangers:
        for generation, rows in stranger.acknowledged.items():
            assert rows <= held[generation]


#: What the live database has beside its few rows, and what its volume has room for beside two of that size.
PADDING_BYTES = 100 * 1024 * 1024
SPARE_BYTES = 16 * 1024 * 1024


@pytest.fixture
def small_volume(stage: Stage) -> Iterator[pathlib.Path]:
    """A volume of its own for the live database, which is a good deal larger then."""
    volume = stage.server.directory / "volume"
    volume.mkdir()
    size = "size=%d" % (3 * PADDING_BYTES)
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(volume)], check=True)
    try:
        if stage.server.account is not None:
            shutil.chown(volume, stage.server.account.pw_uid, stage.server.account.pw_gid)
        stage.server.execute("CREATE TABLESPACE small LOCATION '%s'" % volume)
        move(stage, "small")
        stage.server.execute(
            "CREATE TABLE padding AS SELECT repeat('x', 1000) FROM generate_series(1, %s)",
            (PADDING_BYTES // 1024,),
            database=LIVE,
        )
        yield volume
        stage.server.execute("DROP TABLE padding", database=LIVE)
        move(stage, "pg_default")
        stage.server.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "--lazy", str(volume)], check=True)


def move(stage: Stage, tablespace: str) -> None:
    """Move the live database to a tablespace, as soon as the poolers have left it."""

    def moved() -> bool:
        with contextlib.suppress(psycopg2.errors.ObjectInUse):
            stage.server.execute("ALTER DATABASE %s SET TABLESPACE %s" % (LIVE, tablespace))
            return True
        return False

    for pooler in stage.poolers:
        pooler.ask("RECONNECT")
    eventually(moved)


def fill_when_a_copy_begins(volume: pathlib.Path) -> None:
    """Leave no room on the volume as soon as it holds a second database."""
    (version,) = volume.glob("PG_*")
    eventually(lambda: len(list(version.iterdir())) > 1, interval_s=0.0005)
    with (volume / "somebody's log").open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), SPARE_BYTES // 8)


def test_disk_that_fills_during_the_clone(stage: Stage, small_volume: pathlib.Path, record_property: Record) -> None:
    free = shutil.disk_usage(small_volume).free
    size = stage.server.execute("SELECT pg_database_size(%s)", (LIVE,))[0][0]
    with (small_volume / "somebody's data").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - size - 2 * SPARE_BYTES)
    thread = threading.Thread(target=fill_when_a_copy_begins, args=(small_volume,))
    with stage.load(reconnect=True) as (clients, benches):
        going_on(clients)
        thread.start()
        with pytest.raises(HoldfastError) as failure:
            clone_database(
                server=stage.server.server,
                source=LIVE,
                target="copy",
                pause=Pause([pooler.address() for pooler in stage.poolers], MAX_PAUSE_S),
            )
        thread.join()
        going_on(clients)
    everybody = [*clients, *benches]
    noted(record_property, everybody, "the disk fills during the clone", done=False)
    assert failure.value.code == "destination_full", failure.value.msg
    assert [client.errors for client in everybody] == [[]] * len(everybody)
    assert max(client.longest_s for client in everybody) < MAX_PAUSE_S
    # Nothing is left of the copy, not even its room.
    assert len(list(next(small_volume.glob("PG_*")).iterdir())) == 1
    theirs = sum(file.stat().st_blocks * 512 for file in small_volume.glob("somebody's *"))
    assert shutil.disk_usage(small_volume).used - theirs < size + SPARE_BYTES
