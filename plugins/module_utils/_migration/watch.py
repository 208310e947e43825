# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking, from another connection, at what a migration does to everybody else, and who is in its own way.

What a statement has locked is read at its end, while its transaction still holds it. Who waits is sampled, since
nobody can tell afterwards.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import shown

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: Lock modes of tables, each of which conflicts with more than the ones before
#: (https://www.postgresql.org/docs/current/explicit-locking.html).
LOCK_MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)

#: How often one looks, at first and later.
INTERVAL_S = 0.1
LATER_INTERVAL_S = 0.5
LATER_S = 10.0

#: A statement that ran for less has no progress worth asking for.
PROGRESS_AFTER_S = 1.0

MAX_NAMED = 10

# Everybody may read pg_locks, while pg_stat_activity hides the waits of other roles. waitstart came with version 14.
WAITING = """
SELECT l.pid, pg_catalog.pg_blocking_pids(l.pid), a.usename::text, a.application_name, a.query,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp()
                          - (pg_catalog.to_jsonb(l) ->> 'waitstart')::timestamptz)::float8
  FROM pg_catalog.pg_locks AS l
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
 WHERE NOT l.granted
"""

BLOCKERS = """
SELECT a.pid, a.usename::text, a.application_name, a.state,
       pg_catalog.round(EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::numeric, 1)::float8,
       a.query
  FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(%s)) AS b (pid)
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = b.pid
 GROUP BY 1, 2, 3, 4, 5, 6
 ORDER BY 5 DESC NULLS LAST
"""
AWAITED = """
SELECT l.mode, CASE WHEN l.relation IS NULL THEN l.locktype ELSE l.relation::regclass::text END
  FROM pg_catalog.pg_locks AS l
 WHERE l.pid = %s AND NOT l.granted
"""

# A table that the transaction itself has made is not in the catalog yet, and in nobody's way.
HELD = """
SELECT n.nspname || '.' || c.relname, l.mode
  FROM pg_catalog.pg_locks AS l
  JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE l.pid = %s AND l.granted AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'm', 'f', 'v', 'S')
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
   AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
"""

# The view of each command that tells how far it is; that of COPY came with version 14.
PROGRESS = """
SELECT i.command, i.phase, i.blocks_done, i.blocks_total
  FROM pg_catalog.pg_stat_progress_create_index AS i WHERE i.pid = %(pid)s
 UNION ALL
SELECT c.command, c.phase, c.heap_blks_scanned, c.heap_blks_total
  FROM pg_catalog.pg_stat_progress_cluster AS c WHERE c.pid = %(pid)s
 UNION ALL
SELECT 'VACUUM', v.phase, v.heap_blks_scanned, v.heap_blks_total
  FROM pg_catalog.pg_stat_progress_vacuum AS v WHERE v.pid = %(pid)s
"""
PROGRESS_OF_COPY = """
 UNION ALL
SELECT p.command, p.type, p.bytes_processed, p.bytes_total
  FROM pg_catalog.pg_stat_progress_copy AS p WHERE p.pid = %(pid)s
"""


@dataclass
class Effects:
    """What one statement does to others: strongest lock per table, and how many sessions waited for how long."""

    locks: dict[str, str] = field(default_factory=dict)
    blocked_sessions: int = 0
    blocked_ms: int = 0
    progress: dict[str, Any] | None = None
    waited_ms: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the keys that a record of a statement has of it."""
        return {
            "locks": dict(sorted(self.locks.items())),
            "strongest_lock": max(self.locks.values(), key=strength, default=None),
            "blocked_sessions": self.blocked_sessions,
            "blocked_ms": self.blocked_ms,
            "progress": self.progress,
        }


def strength(mode: str) -> int:
    """Return the place of a lock mode among all, the weakest first."""
    return LOCK_MODES.index(mode) if mode in LOCK_MODES else -1


def strongest(locks: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the strongest mode of each table among its locks."""
    held: dict[str, str] = {}
    for table, mode in locks:
        if table not in held or strength(mode) > strength(held[table]):
            held[table] = mode
    return held


def taken(held: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Return the locks that were not held ``before``, or not so strong."""
    return {
        table: mode for table, mode in held.items() if table not in before or strength(mode) > strength(before[table])
    }


def waiting_for(pid: int, blockers: Mapping[int, Collection[int]]) -> set[int]:
    """Return who waits for a process, directly or behind somebody who does."""
    found: set[int] = set()
    while True:
        more = {
            waiter
            for waiter, others in blockers.items()
            if waiter != pid and waiter not in found and (pid in others or found.intersection(others))
        }
        if not more:
            return found
        found |= more


class Watch:
    """Looks at what the session of ``worker`` does, over the ``connection`` that holds the runner's lock.

    A statement that makes somebody wait for more than ``max_blocking_s`` seconds, if that is not 0, is cancelled;
    `stopped` says then who waited.
    """

    def __init__(self, *, connection: Connection, worker: Connection, max_blocking_s: float = 0) -> None:
        self._connection = connection
        self._worker = worker
        self._pid = int(worker.info.backend_pid)
        self._is_worker = True
        self._max_blocking_s = max_blocking_s
        self._changed = threading.Condition()
        self._effects: Effects | None = None
        self._since = 0.0
        self._held: dict[str, str] = {}
        self._first_seen: dict[int, float] = {}
        self._blockers: dict[str, Any] = {}
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="migration watch", daemon=True)
        self.stopped: str | None = None

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    @contextlib.contextmanager
    def statement(self, effects: Effects) -> Iterator[None]:
        """Watch while the block runs a statement, and until `rest`, since its locks stay."""
        with self._changed:
            resting = self._effects is None
            self._effects = effects
            self._since = time.monotonic()
            self._first_seen = {}
            self._blockers = {}
            self.stopped = None
            if resting:
                self._changed.notify()
        yield
        with contextlib.suppress(psycopg2.Error), self._connection.cursor() as cursor:
            cursor.execute(HELD, (self._pid,))
            self._held = self._keep_locks(effects, cursor.fetchall())

    def follow(self, pid: int | None) -> None:
        """Look at another session than the worker's, which psql has opened; with None at the worker's again."""
        with self._changed:
            self._pid = int(self._worker.info.backend_pid) if pid is None else pid
            self._is_worker = pid is None

    def rest(self) -> None:
        """Look away: the transaction has ended."""
        with self._changed:
            self._effects = None
            self._held = {}

    def seen(self) -> dict[str, Any]:
        """Return ``blockers`` (list), ``lock`` and ``object`` of the last statement, as far as they were seen."""
        with self._changed:
            return dict(self._blockers or {"blockers": [], "lock": None, "object": None})

    def _keep_locks(self, effects: Effects, locks: Sequence[tuple[str, str]]) -> dict[str, str]:
        held = strongest(locks)
        with self._changed:
            if self._effects is effects:
                effects.locks = strongest([*effects.locks.items(), *taken(held, self._held).items()])
        return held

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._changed:
            while not self._ended:
                if self._effects is None:
                    self._changed.wait()
                    continue
                lasting_s = time.monotonic() - self._since
                next_look = time.monotonic() + (INTERVAL_S if lasting_s < LATER_S else LATER_INTERVAL_S)
                while not self._ended and next_look > time.monotonic():
                    self._changed.wait(next_look - time.monotonic())
                effects, lasting_s = self._effects, time.monotonic() - self._since
                if self._ended or effects is None:
                    continue
                self._changed.release()
                try:
                    self._look(effects, lasting_s)
                except psycopg2.Error:  # the runner finds out by itself, when it checks its lock
                    return
                finally:
                    self._changed.acquire()

    def _look(self, effects: Effects, lasting_s: float) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(WAITING)
            rows = cursor.fetchall()
            waiting = {pid: facts[:4] for pid, *facts in rows}
            now = time.monotonic()
            waited_s = {pid: self._waited(pid, waited, now) for pid, *_facts, waited in rows}
            self._first_seen = {pid: first for pid, first in self._first_seen.items() if pid in waiting}
            blockers: dict[str, Any] = {}
            if self._pid in waiting:
                blockers = self._who_is_in_the_way(cursor)
            cursor.execute(HELD, (self._pid,))
            locks = cursor.fetchall()
            progress = self._progress(cursor) if lasting_s > PROGRESS_AFTER_S else None
        victims = waiting_for(self._pid, {pid: facts[0] for pid, facts in waiting.items()})
        self._keep_locks(effects, locks)
        with self._changed:
            if self._effects is not effects:
                return
            effects.progress = progress or effects.progress
            if blockers:
                self._blockers = blockers
                effects.waited_ms = max(effects.waited_ms, round(waited_s[self._pid] * 1000))
            effects.blocked_sessions = max(effects.blocked_sessions, len(victims))
            longest_s = max((waited_s[pid] for pid in victims), default=0.0)
            effects.blocked_ms = max(effects.blocked_ms, round(longest_s * 1000))
            if not self._max_blocking_s or longest_s <= self._max_blocking_s:
                return
            self.stopped = "it made %d session%s wait, the first for %.1f s, longer than max_blocking_s (%g): %s" % (
                len(victims),
                "" if len(victims) == 1 else "s",
                longest_s,
                self._max_blocking_s,
                "; ".join(
                    "pid %d, user %s, application %r, %s" % (pid, *waiting[pid][1:3], shown(waiting[pid][3] or ""))
                    for pid in sorted(victims, key=lambda pid: -waited_s[pid])[:MAX_NAMED]
                ),
            )
        # Its own session alone; the statement ends, and whoever waited goes on.
        if self._is_worker:
            self._worker.cancel()
            return
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.pg_cancel_backend(%s)", (self._pid,))

    def _waited(self, pid: int, waited_s: float | None, now: float) -> float:
        first = self._first_seen.setdefault(pid, now)
        return max(0.0, now - first if waited_s is None else waited_s)

    def _who_is_in_the_way(self, cursor: Any) -> dict[str, Any]:
        cursor.execute(BLOCKERS, (self._pid,))
        blockers = [
            {
                "pid": pid,
                "user": user,
                "application": application,
                "state": state,
                "transaction_age_s": age_s,
                "query": shown(query or ""),
            }
            for pid, user, application, state, age_s, query in cursor.fetchall()
        ]
        if not blockers:
            return {}
        cursor.execute(AWAITED, (self._pid,))
        row = cursor.fetchone() or (None, None)
        return {"blockers": blockers, "lock": row[0], "object": row[1]}

    def _progress(self, cursor: Any) -> dict[str, Any] | None:
        newer = PROGRESS_OF_COPY if self._connection.server_version >= 140000 else ""
        cursor.execute(PROGRESS + newer, {"pid": self._pid})
        row = cursor.fetchone()
        return dict(zip(("command", "phase", "done", "total"), row)) if row else None
