# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The longest wait of a pooler's clients, by what SHOW POOLS says from moment to moment."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.backlog import (
    SETTLED_ANSWERS,
    Backlog,
    longest_waits,
)


def pool(waited_s: float, *, clients: int = 1, database: str = "live", user: str = "app") -> dict[str, Any]:
    """A row of SHOW POOLS with clients in the queue."""
    return {
        "database": database,
        "user": user,
        "cl_waiting": clients,
        "maxwait": int(waited_s),
        "maxwait_us": round(waited_s % 1 * 1e6),
    }


def backlog() -> Backlog:
    """A backlog of clients of two names."""
    return Backlog(None, ["live", "live_ro"])  # type: ignore[arg-type]  # nothing is asked


def test_waits_are_those_of_clients_in_the_queues_of_the_names() -> None:
    rows = [
        pool(3.25),
        pool(0.5, user="report"),
        pool(9, database="other"),
        pool(0, clients=0, database="live_ro"),
    ]
    assert longest_waits(rows, ["live", "live_ro"]) == {("live", "app"): 3.25, ("live", "report"): 0.5}


def test_version_without_microseconds_gives_whole_seconds() -> None:
    row = pool(3.25)
    del row["maxwait_us"]
    assert longest_waits([row], ["live"]) == {("live", "app"): 3.0}


def test_longest_wait_ends_when_somebody_else_is_first_in_the_queue() -> None:
    queue = backlog()
    queue.take([pool(0.100, clients=7)], moment=10.000, resumed_at=10.001)
    queue.take([pool(0.110, clients=6)], moment=10.010, resumed_at=10.001)
    queue.take([pool(0.030, clients=2)], moment=10.015, resumed_at=10.001)
    assert queue.longest_s == pytest.approx(0.115)
    assert queue.clients == 7
    assert not queue.over


def test_client_whose_server_was_taken_by_another_one_is_counted_when_it_comes_first_again() -> None:
    queue = backlog()
    queue.take([pool(0.100)], moment=10.000, resumed_at=10.001)
    queue.take([pool(0.040)], moment=10.005, resumed_at=10.001)
    queue.take([pool(0.160)], moment=10.060, resumed_at=10.001)
    assert queue.longest_s == pytest.approx(0.160)


def test_each_user_has_a_queue_of_its_own() -> None:
    queue = backlog()
    queue.take([pool(0.100), pool(0.200, user="report")], moment=10.000, resumed_at=10.001)
    queue.take([pool(0.110), pool(0.210, user="report")], moment=10.010, resumed_at=10.001)
    queue.take([pool(0.120)], moment=10.020, resumed_at=10.001)
    assert queue.longest_s == pytest.approx(0.220)


def test_who_comes_after_resume_waits_for_other_reasons() -> None:
    queue = backlog()
    queue.take([pool(0.050, clients=3)], moment=10.000, resumed_at=10.001)
    for number in range(SETTLED_ANSWERS):
        assert not queue.over
        queue.take([pool(0.500, clients=9)], moment=11.000 + number, resumed_at=10.001)
    assert queue.over
    # The one that waited was served when the first of these answers came, at the latest.
    assert queue.longest_s == pytest.approx(1.050)
    assert queue.clients == 3


def test_nobody_waited() -> None:
    queue = backlog()
    for number in range(SETTLED_ANSWERS):
        queue.take([], moment=10.0 + number, resumed_at=10.001)
    assert queue.over
    assert (queue.longest_s, queue.clients) == (0.0, 0)
