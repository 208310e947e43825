# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For how long the clients of poolers may wait while a database is copied, and whether that is enough."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import (
    CONNECT_TIMEOUT_S,
    Console,
    PoolerAddress,
    connected,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.discovery import entries_to
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.volume import Speed

#: How much of query_wait_timeout, after which PgBouncer turns waiting clients away, a pause may take.
WAIT_SHARE = 0.8

#: How long before the end of a pause the copying is given up, so that it has ended by then.
CANCEL_S = 1.0

SOURCES = {
    "earlier": "as earlier copies were",
    "shared": "since its files can be shared",
    "probe": "as a test of its volume says",
    "default": "by assumption",
}


@dataclass(frozen=True)
class Pause:
    """The PgBouncers whose clients wait while the server copies, and for how long they may."""

    poolers: Sequence[PoolerAddress] = ()
    max_pause_s: float = 15


@dataclass(frozen=True)
class PoolersSeen:
    """What poolers say beforehand: how long their clients may wait, and their sessions on the server.

    ``turned_away_s`` is the shortest query_wait_timeout.
    """

    limit_s: float
    pids: frozenset[int] = frozenset()
    turned_away_s: float = math.inf


def look_at_poolers(pause: Pause, *, database: str) -> PoolersSeen:
    """Return what the poolers say; raises `HoldfastError` as `Poolers.open`."""
    pids: set[int] = set()
    timeouts_s = [math.inf]
    for address in pause.poolers:
        console = Console(address)
        with contextlib.closing(console):
            connected([console], timeout_s=CONNECT_TIMEOUT_S)
            names = [entry.name for entry in entries_to(console, database)]
            pids.update(int(row.get("remote_pid") or 0) for row in console.show("SERVERS") if row["database"] in names)
            settings = {row["key"]: row["value"] for row in console.show("CONFIG")}
            timeouts_s.append(float(settings.get("query_wait_timeout") or 0) or math.inf)
    turned_away_s = min(timeouts_s)
    return PoolersSeen(min(pause.max_pause_s, WAIT_SHARE * turned_away_s), frozenset(pids), turned_away_s)


def pause_too_long(
    database: str, *, size_bytes: int | None, speed: Speed, expected_s: float, seen: PoolersSeen
) -> HoldfastError:
    """Return the refusal of a copy for which clients would have to wait too long."""
    turned_away = ""
    if WAIT_SHARE * seen.turned_away_s <= seen.limit_s:
        turned_away = ", because a pooler turns them away after %g s (query_wait_timeout)" % seen.turned_away_s
    return HoldfastError(
        code="pause_too_long",
        msg="Clients would have to wait about %.1f s while the %d bytes of database %r are copied, at %.0f MB a second"
        " %s; they may wait %g s%s."
        % (
            expected_s,
            size_bytes or 0,
            database,
            speed.bytes_per_s / 1e6,
            SOURCES[speed.source],
            seen.limit_s,
            turned_away,
        ),
        hint="Rely on an archive in place of a clone, or raise max_pause%s."
        % (" and query_wait_timeout" if turned_away else ""),
        expected_s=expected_s,
        limit_s=seen.limit_s,
    )
