# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A foreign key on a table that somebody reads for half a minute, and an index of three million rows that is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.busy_table import probes, reader
from tests.support.killed_index import kill_during_build
from tests.support.migrations import run
from tests.support.server import TestServer, embedded_bin_dir

READER_S = 30.0
LOCK_TIMEOUT_MS = 2000
# A foreign key alone lets readers in; with a column it asks for a lock that lets nobody in.
FOREIGN_KEY = {"1_fk.up.sql": "ALTER TABLE a ADD FOREIGN KEY (i) REFERENCES b;"}
FILES = {"1_fk.up.sql": "ALTER TABLE a ADD j int, ADD FOREIGN KEY (i) REFERENCES b;"}
DATABASE = "busy"


@pytest.fixture
def own_server() -> Iterator[TestServer]:
    server = TestServer(embedded_bin_dir(18))
    server.create_database(DATABASE, "CREATE TABLE a (i int); CREATE TABLE b (i int PRIMARY KEY)")
    yield server
    server.remove()


@pytest.mark.parametrize("retries", [3, 12], ids=["fails at its limit", "succeeds afterwards"])
def test_foreign_key_behind_a_long_reader(
    own_server: TestServer, retries: int, record_property: Callable[[str, object], None]
) -> None:
    with reader(own_server, DATABASE, seconds=READER_S) as pid, probes(own_server, DATABASE) as latencies:
        if retries < 10:
            with pytest.raises(HoldfastError) as error:
                run(own_server, DATABASE, FILES, lock_timeout_ms=LOCK_TIMEOUT_MS, lock_retries=retries)
            waits = error.value.details["lock_waits"]
            assert len(waits) == retries + 1
        else:
            (applied,) = run(own_server, DATABASE, FILES, lock_timeout_ms=LOCK_TIMEOUT_MS, lock_retries=retries)[
                "applied"
            ]
            waits = applied["lock_waits"]
    assert {(b["pid"], b["application"]) for wait in waits for b in wait["blockers"]} == {(pid, "slow report")}
    keys = own_server.execute("SELECT count(*) FROM pg_constraint WHERE contype = 'f'", database=DATABASE)
    assert keys == [(int(retries > 10),)]
    assert max(latencies) < LOCK_TIMEOUT_MS / 1000 + 0.5
    record_property(
        "row",
        {
            "fault": "reader of %d s, %d retries" % (READER_S, retries),
            "rounds": len(waits),
            "commits": len(latencies),
            "longest_wait_s": round(max(latencies), 3),
        },
    )


def test_foreign_key_alone_is_not_in_the_way_of_readers(own_server: TestServer) -> None:
    with reader(own_server, DATABASE, seconds=3), probes(own_server, DATABASE) as latencies:
        (applied,) = run(own_server, DATABASE, FOREIGN_KEY)["applied"]
    assert applied["lock_waits"] == []
    assert max(latencies) < 0.5


def test_killed_build_of_an_index_on_three_million_rows(own_server: TestServer) -> None:
    applied = kill_during_build(own_server, DATABASE, rows=3_000_000)
    assert any("dropping the invalid index public.big_t" in notice for notice in applied["notices"])
