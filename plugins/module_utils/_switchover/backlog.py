# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a pooler's clients wait because of a pause, by the pooler's own account of all of them.

One client that asks is served early or late by chance: after RESUME PgBouncer opens one server connection at a time
(launch_new_connection in src/objects.c), and the last of those that waited is served long after the first. SHOW POOLS
tells how long the first in the queue of each pool has waited (admin_show_pools in src/admin.c). That is the oldest, but
for clients whose server was taken by another one at the last moment, who queue again; so it is asked often.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import Console, clients_waiting

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

#: How often to ask; a pooler that lets its clients go on has better things to do.
ASK_INTERVAL_S = 0.003

#: How many answers in a row without anybody who waited at the time of RESUME show that all have been served.
SETTLED_ANSWERS = 4

Pool = tuple[str, str]


def longest_waits(pools: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[Pool, float]:
    """Return the seconds that the first waiting client of each pool of ``names`` has waited, by rows of SHOW POOLS.

    A client that waits to be let in has sent no question yet, and counts for nothing.
    """
    return {
        (pool["database"], pool["user"]): int(pool["maxwait"]) + int(pool.get("maxwait_us") or 0) / 1e6
        for pool in pools
        if pool["database"] in names and pool.get("cl_waiting")
    }


class Backlog:
    """The clients that wait for the databases ``names`` of one pooler, from a moment when all of them are paused."""

    def __init__(self, session: Console, names: Sequence[str]) -> None:
        self.session = session
        self.names = tuple(names)
        self.clients = 0
        self.longest_s = 0.0
        self.over = False
        self._waits: dict[Pool, float] = {}
        self._asked: float | None = None
        self._moment: float | None = None
        self._answered = 0.0
        self._settled = 0

    @property
    def under_way(self) -> bool:
        """Whether there will be an answer."""
        return self._asked is not None

    def ask(self) -> None:
        """Have a question under way, not too often."""
        if self.over or self.under_way or time.monotonic() < self._answered + ASK_INTERVAL_S:
            return
        self._asked = time.monotonic()
        try:
            self.session.send("SHOW POOLS")
        except psycopg2.Error:
            self.over, self._asked = True, None

    def look(self, *, resumed_at: float) -> None:
        """Take the answer when there is one; ``over`` says that nobody waits any more who waited at ``resumed_at``."""
        if self._asked is None:
            return
        try:
            if not self.session.ready():
                return
            pools = self.session.rows()
        except psycopg2.Error:
            self.over, self._asked = True, None
            return
        self._answered = time.monotonic()
        self.take(pools, moment=(self._asked + self._answered) / 2, resumed_at=resumed_at)
        self._asked = None

    def take(self, pools: Sequence[dict[str, Any]], *, moment: float, resumed_at: float) -> None:
        """Take what SHOW POOLS said at ``moment``."""
        waits = longest_waits(pools, self.names)
        if self._moment is None:
            self.clients = clients_waiting(pools, self.names)
        elapsed_s = 0.0 if self._moment is None else moment - self._moment
        self._moment = moment
        # Who came after RESUME waits for other reasons.
        caught = {pool: waited_s for pool, waited_s in waits.items() if moment - waited_s <= resumed_at}
        for pool, waited_s in self._waits.items():
            # Somebody else is the first now, so that one was served since, at the latest just now.
            if caught.get(pool, 0.0) < waited_s:
                self._count(waited_s + elapsed_s)
        for waited_s in caught.values():
            self._count(waited_s)
        self._waits = caught
        self._settled = 0 if caught else self._settled + 1
        self.over = self._settled >= SETTLED_ANSWERS

    def _count(self, waited_s: float) -> None:
        self.longest_s = max(self.longest_s, waited_s)
