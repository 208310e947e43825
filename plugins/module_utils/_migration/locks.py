# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One runner at a time, on direct connections, and who stands in its way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import shown

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor
else:
    Connection = Any
    Cursor = Any

#: Advisory locks belong to a database, so these two numbers mean the same in each. The runner's lock is held by a
#: connection that does nothing else; the worker's by the connection that runs the files, so that a server process
#: whose runner was killed is seen for as long as it works on.
LOCK_CLASS = 0x484F4C44
RUNNER_LOCK = 1
WORKER_LOCK = 2
APPLICATION_NAME = "holdfast migrate"

#: A server needs a moment to notice that a killed runner is gone, and its process a little more.
RUNNER_PATIENCE_S = 2.0
WORKER_PATIENCE_S = 10.0


@dataclass
class RunnerLock:
    """The lock of the one runner of a database, and the connection that holds it."""

    connection: Connection
    database: str

    def check(self) -> None:
        """Raise `HoldfastError` when the lock is not ours any more."""
        try:
            with self.connection.cursor() as cursor:
                mine = _holds(cursor, RUNNER_LOCK)
        except psycopg2.Error as exc:
            raise HoldfastError(
                code="connection_failed",
                msg="The connection that holds the migration lock of database %r was lost." % self.database,
                hint="Nothing more was run. See the server's log for the reason, then run the task again.",
            ) from exc
        if not mine:
            _refuse_pooler(self.database, "a lock taken on it was not held a moment later")


@contextlib.contextmanager
def runner_lock(*, server: Server, database: str, patience_s: float = RUNNER_PATIENCE_S) -> Iterator[RunnerLock]:
    """Hold the lock of the one runner of ``database`` for as long as the block runs.

    The connection stays idle and outside a transaction: an open snapshot would make ``CREATE INDEX CONCURRENTLY``
    wait for us while we wait for it. Raises `HoldfastError` with the code ``migration_locked`` and the holder's
    names, or ``unsupported`` behind a pooler.
    """
    with server.session(database, application_name=APPLICATION_NAME) as connection:
        with connection.cursor() as cursor:
            refuse_pooler(connection, database=database)
            set_parameters(cursor, {"timezone": "UTC", "datestyle": "ISO", "statement_timeout": "60s"})
            if connection.server_version >= 140000:
                set_parameters(cursor, {"idle_session_timeout": "0"})
            if not wait_until(lambda: _try_lock(cursor, RUNNER_LOCK), timeout_s=patience_s, interval_s=0.2):
                _refuse_second(cursor, RUNNER_LOCK, database=database)
        lock = RunnerLock(connection=connection, database=database)
        lock.check()
        yield lock


def lock_worker(cursor: Cursor, *, database: str, patience_s: float = WORKER_PATIENCE_S) -> None:
    """Take the worker's lock for the session of ``cursor``, once the process of a killed runner is gone."""
    if not wait_until(lambda: _try_lock(cursor, WORKER_LOCK), timeout_s=patience_s, interval_s=0.1):
        _refuse_second(cursor, WORKER_LOCK, database=database)


def await_worker(cursor: Cursor, *, database: str) -> None:
    """Wait until nobody works for a killed runner, whose last file may still be committed and recorded."""
    lock_worker(cursor, database=database)
    cursor.execute("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", (LOCK_CLASS, WORKER_LOCK))


def refuse_backup(cursor: Cursor, *, database: str) -> None:
    """Raise `HoldfastError` (``backup_running``) when somebody takes a backup of the session's database."""
    cursor.execute(BACKUPS)
    row = cursor.fetchone()
    if row is None:
        return
    backup = dict(zip(("pid", "user", "application", "address", "since"), row))
    raise HoldfastError(
        code="backup_running",
        msg="A backup of database %r is running: pid %s, user %s, application %r, from %s, since %s. Nothing was run."
        % (database, *backup.values()),
        hint="Wait for it to end: its locks stand in the way of changes, and whoever waits for them blocks others. To"
        " migrate beside it, set allow_during_backup.",
        backup=backup,
    )


BACKUPS = """
SELECT a.pid, a.usename::text, a.application_name, a.client_addr::text, a.backend_start::timestamptz(0)::text
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.datname = pg_catalog.current_database()
   AND (a.application_name IN ('pg_dump', 'pg_dumpall') OR a.application_name LIKE 'holdfast backup %')
 ORDER BY a.backend_start
 LIMIT 1
"""


def set_parameters(cursor: Cursor, parameters: dict[str, str], *, local: bool = False) -> None:
    """Set run-time parameters for the session, or until the end of the transaction."""
    for name, value in parameters.items():
        cursor.execute("SELECT pg_catalog.set_config(%s, %s, %s)", (name, value, local))


def refuse_pooler(connection: Connection, *, database: str) -> None:
    """Raise `HoldfastError` when something between us and the server hands out its sessions.

    A pooler tells clients a process id of its own (PgBouncer's cancel keys), and in transaction mode successive
    statements meet different processes.
    """
    seen: set[int] = set()
    with connection.cursor() as cursor:
        for _attempt in range(2):
            cursor.execute("SELECT pg_catalog.pg_backend_pid()")
            seen.update(pid for (pid,) in cursor.fetchall())
    if seen != {connection.info.backend_pid}:
        _refuse_pooler(
            database,
            "the process that answers has pid %s, the connection was announced as %s"
            % (" and ".join(map(str, sorted(seen))), connection.info.backend_pid),
        )


def _refuse_pooler(database: str, reason: str) -> NoReturn:
    raise HoldfastError(
        code="unsupported",
        msg="The connection to database %r goes through a pooler: %s." % (database, reason),
        hint="Migrations need sessions of their own for locks and settings: give login_host and login_port of the"
        " server itself, not of PgBouncer.",
    )


def _try_lock(cursor: Cursor, number: int) -> bool:
    cursor.execute("SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, number))
    row = cursor.fetchone()
    return bool(row and row[0])


LOCK_HOLDER = """
SELECT l.pid, a.usename::text, a.application_name, a.client_addr::text, a.backend_start::timestamptz(0)::text,
       a.state, a.query, a.pid = pg_catalog.pg_backend_pid()
  FROM pg_catalog.pg_locks AS l
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
   AND l.classid = %s AND l.objid = %s AND l.objsubid = 2
"""


def _holds(cursor: Cursor, number: int) -> bool:
    cursor.execute(LOCK_HOLDER, (LOCK_CLASS, number))
    return any(row[7] for row in cursor.fetchall())


def _refuse_second(cursor: Cursor, number: int, *, database: str) -> NoReturn:
    cursor.execute(LOCK_HOLDER, (LOCK_CLASS, number))
    row = cursor.fetchone()
    if row is None:
        row = (None, None, None, None, None, None, None, False)
    holder = dict(zip(("pid", "user", "application", "address", "since", "state"), row))
    who = "pid %(pid)s, user %(user)s, application %(application)r, from %(address)s, since %(since)s" % holder
    if number == WORKER_LOCK:
        raise HoldfastError(
            code="migration_locked",
            msg="The server still works for a migration runner on database %r that is gone: %s." % (database, who),
            hint="Wait until it ends, or cancel it with SELECT pg_cancel_backend(%s); then run the task again."
            % holder["pid"],
            holder={**holder, "query": shown(str(row[6]))},
        )
    raise HoldfastError(
        code="migration_locked",
        msg="Another runner is migrating database %r: %s." % (database, who),
        hint="Wait for it to end. If its host is gone, end its session with SELECT pg_terminate_backend(%s)."
        % holder["pid"],
        holder=holder,
    )
