# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping new sessions out of databases, letting the others leave, and letting everybody in again."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import (
    Database,
    Session,
    read_occupants,
    read_sessions,
    transaction,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import errorcodes, sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: How often to look whether the last session has left; clients wait meanwhile.
LOOK_INTERVAL_S = 0.002

#: How long to wait for dismissed autovacuum workers.
DISMISSAL_TIMEOUT_S = 0.1

#: How long to try to let sessions in again when the server does not answer at once.
REOPEN_TIMEOUT_S = 30

LEAVE_HINT = "Stop these clients or pause their pooler, raise drain_timeout, or let terminate end the sessions."
STUCK_HINT = "They were told to end and have not; look at them in pg_stat_activity and at the server's log."

# A closed database remembers how it was before in a setting of our own role in that database: transactional with
# ALLOW_CONNECTIONS, possible for an owner who is no superuser, without effect while nobody can connect, and gone
# again with the exchange. So a run that was killed can be undone exactly, and a database that somebody else closed is
# told apart from one that a swap closed. It is shorter than an identifier, since a session of our role that is just
# starting may still read it.
MARK_PARAMETER = "application_name"
MARK_KEY = "holdfast.swap"

# Any role can give itself a setting, so only those of the owner's kind count.
READ_MARKS = """
SELECT d.oid, d.datname::text, pg_catalog.pg_get_userbyid(s.setrole)::text,
       pg_catalog.substr(item, pg_catalog.length(%(parameter)s) + 2)
  FROM pg_catalog.pg_db_role_setting AS s
  JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
 CROSS JOIN pg_catalog.unnest(s.setconfig) AS item
 WHERE s.setrole <> 0 AND pg_catalog.starts_with(item, %(prefix)s)
   AND pg_catalog.pg_has_role(s.setrole, d.datdba, 'USAGE')
 ORDER BY d.oid
"""

# Clients wait meanwhile, so not for the disk too: a crash of the server that forgets this commit opens the doors again,
# which is what should happen then.
READ_OWN_SETTINGS = """
SELECT pg_catalog.set_config('synchronous_commit', 'off', true);
SELECT s.setdatabase, pg_catalog.substr(item, pg_catalog.length(%(parameter)s) + 2)
  FROM pg_catalog.pg_db_role_setting AS s
 CROSS JOIN pg_catalog.unnest(s.setconfig) AS item
 WHERE s.setdatabase = ANY(%(oids)s::oid[]) AND pg_catalog.pg_get_userbyid(s.setrole) = current_user
   AND pg_catalog.starts_with(item, %(parameter)s || '=')
"""

# A process must still be the one that was seen, in case its number was given to another meanwhile. The choice is made
# before the deed (MATERIALIZED): a planner may otherwise call the function for every session of the server.
TERMINATE = """
WITH chosen AS MATERIALIZED (
    SELECT a.pid
      FROM pg_catalog.pg_stat_activity AS a
      JOIN unnest(%s::int[], %s::oid[], %s::timestamptz[]) AS seen (pid, datid, backend_start)
        ON seen.pid = a.pid AND seen.datid = a.datid AND seen.backend_start IS NOT DISTINCT FROM a.backend_start
)
SELECT chosen.pid, pg_catalog.pg_terminate_backend(chosen.pid) FROM chosen
"""


@dataclass(frozen=True)
class Mark:
    """What a closed database remembers: which run closed it, and how it was."""

    oid: int
    name: str
    role: str
    run: str
    allow_connections: bool
    application_name: str | None


def read_marks(connection: Connection) -> list[Mark]:
    """Return the marks of all databases that a swap has closed and not opened again."""
    marks = []
    with connection.cursor() as cursor:
        cursor.execute(
            READ_MARKS,
            {"parameter": MARK_PARAMETER, "prefix": '%s={"%s": ' % (MARK_PARAMETER, MARK_KEY)},
        )
        for oid, name, role, text in cursor.fetchall():
            with contextlib.suppress(ValueError, KeyError):  # whatever that is, it is not ours
                content = json.loads(text)
                marks.append(Mark(oid, name, role, content[MARK_KEY], content["open"], content.get("before")))
    return marks


@dataclass
class Doors:
    """The entrances to some databases for direct clients, closed for a while.

    ``connect`` opens a new connection to the maintenance database, for the case that the present one is lost.
    """

    connect: Callable[[], Connection]
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    closed: bool = False

    def close(self, connection: Connection, databases: Sequence[Database]) -> None:
        """Refuse new connections to ``databases``, all at once, remembering how each of them was."""
        self.closed = True
        statements = []
        with transaction(connection), connection.cursor() as cursor:
            # Few questions, because clients wait for each answer.
            oids = [database.oid for database in databases]
            cursor.execute(READ_OWN_SETTINGS, {"parameter": MARK_PARAMETER, "oids": oids})
            before = dict(cursor.fetchall())
            for database in sorted(databases, key=lambda d: d.oid):
                mark = {MARK_KEY: self.run, "open": database.allow_connections}
                if database.oid in before:
                    mark["before"] = before[database.oid]
                name = sql.Identifier(database.name)
                statements += [
                    sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name),
                    sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET {} TO {}").format(
                        name, sql.Identifier(MARK_PARAMETER), sql.Literal(json.dumps(mark))
                    ),
                ]
            cursor.execute(sql.SQL("; ").join(statements))

    def open_within(self, connection: Connection) -> None:
        """Undo `close` by statements in the caller's transaction."""
        undo_marks(connection, [mark for mark in read_marks(connection) if mark.run == self.run])

    def reopen(self, connection: Connection) -> None:
        """Undo `close` and commit, on a new connection when ``connection`` is lost; retry until it is done.

        Raises `HoldfastError` when the server does not let it, naming the statement that a person can run.
        """
        reason = self.opened_within(connection, timeout_s=REOPEN_TIMEOUT_S)
        if reason is not None:
            raise HoldfastError(
                code="connection_failed",
                msg="New connections may still be refused: the server did not let the swap undo ALLOW_CONNECTIONS false"
                " within %d s: %s" % (REOPEN_TIMEOUT_S, reason),
                hint="As soon as the server answers, run the same task again, or ALTER DATABASE ... ALLOW_CONNECTIONS"
                " true on the live database.",
            )

    def opened_within(self, connection: Connection, *, timeout_s: float) -> str | None:
        """Undo `close` as `reopen` does; return None, or why the server has not let it."""
        if not self.closed:
            return None
        reasons: list[str] = []

        def opened() -> bool:
            try:
                with contextlib.ExitStack() as stack:
                    usable = connection
                    if usable.closed or reasons:
                        usable = stack.enter_context(contextlib.closing(self.connect()))
                    stack.enter_context(transaction(usable))
                    with usable.cursor() as cursor:
                        cursor.execute("SELECT pg_catalog.set_config('lock_timeout', '5s', true)")
                    self.open_within(usable)
                return True
            except (HoldfastError, psycopg2.Error) as exc:
                reasons.append(" ".join(str(exc).split()))
                return False

        if not wait_until(opened, timeout_s=timeout_s, interval_s=0.2):
            return reasons[-1]
        self.closed = False
        return None


def interrupted_runs(connection: Connection, *, oids: Sequence[int]) -> list[Mark]:
    """Return every mark of the killed runs that closed one of ``oids``.

    The caller holds the lock that every swap of these databases takes, so no such run is alive.
    """
    marks = read_marks(connection)
    runs = {mark.run for mark in marks if mark.oid in oids}
    return [mark for mark in marks if mark.run in runs]


def undo_marks(connection: Connection, marks: Sequence[Mark]) -> None:
    """Let sessions in as before `Doors.close`, by statements in the caller's transaction; it never closes anything."""
    parameter = sql.Identifier(MARK_PARAMETER)
    statements = []
    for mark in marks:
        name = sql.Identifier(mark.name)
        alter_role = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(mark.role), name)
        if mark.allow_connections:
            statements.append(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
        if mark.application_name is None:
            statements.append(sql.SQL("{} RESET {}").format(alter_role, parameter))
        else:
            value = sql.Literal(mark.application_name)
            statements.append(sql.SQL("{} SET {} TO {}").format(alter_role, parameter, value))
    if statements:
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("; ").join(statements))


def drain(
    connection: Connection,
    *,
    oids: Sequence[int],
    drain_timeout_s: float,
    terminate: bool,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Session]:
    """Wait until nobody is in the databases ``oids`` and return the sessions that were terminated for it.

    Sessions have ``drain_timeout_s`` seconds to leave by themselves. Then they are terminated with ``terminate``,
    and have what is left of ``timeout_s`` to end. The connection is in autocommit mode, since a transaction
    would see one picture of the sessions for ever. Raises `HoldfastError` with the code ``database_in_use``, or
    ``permission_denied`` when a session may not be terminated by this role.
    """
    started = clock()
    remaining: list[Session] = []
    terminated: dict[tuple[int, object], Session] = {}

    def empty() -> bool:
        remaining[:] = read_occupants(connection=connection, oids=oids)
        return not remaining

    def empty_by_force() -> bool:
        if empty():
            return True
        # Parallel workers end with their leader; what only holds a lock is connected elsewhere.
        chosen = {
            (session.pid, session.backend_start): session
            for session in remaining
            if session.database_oid in oids and session.backend_type != "parallel worker"
        }
        told = _terminate(connection, [session for key, session in chosen.items() if key not in terminated])
        terminated.update({key: session for key, session in chosen.items() if session.pid in told})
        return False

    done = wait_until(empty, timeout_s=min(drain_timeout_s, timeout_s), interval_s=LOOK_INTERVAL_S)
    if not done and terminate:
        left_s = max(0.0, started + timeout_s - clock())
        done = wait_until(empty_by_force, timeout_s=left_s, interval_s=LOOK_INTERVAL_S)
    if not done:
        raise in_use(
            remaining,
            waited_s=clock() - started,
            hint=STUCK_HINT if terminate else LEAVE_HINT,
            terminated=list(terminated.values()),
        )
    _dismiss_autovacuum(connection, oids)
    return list(terminated.values())


def _dismiss_autovacuum(connection: Connection, oids: Sequence[int]) -> None:
    """End the autovacuum workers, as RENAME does too, but without its sleep of 100 ms afterwards."""
    workers: list[Session] = []

    def gone() -> bool:
        workers[:] = [s for s in read_sessions(connection=connection, oids=oids) if s.yields]
        return not workers

    # Where this role may not, RENAME does it.
    with contextlib.suppress(HoldfastError):
        if not gone():
            _terminate(connection, workers)
            wait_until(gone, timeout_s=DISMISSAL_TIMEOUT_S, interval_s=LOOK_INTERVAL_S)


def _terminate(connection: Connection, sessions: Sequence[Session]) -> set[int]:
    """Tell ``sessions`` to end, all at once, and return the processes that were told."""
    if not sessions:
        return set()
    columns = zip(*((session.pid, session.database_oid, session.backend_start) for session in sessions))
    with connection.cursor() as cursor:
        try:
            cursor.execute(TERMINATE, [list(column) for column in columns])
        except psycopg2.Error as exc:
            if exc.pgcode != errorcodes.INSUFFICIENT_PRIVILEGE:
                raise
            raise HoldfastError(
                code="permission_denied",
                msg="This role may not terminate all of these sessions: %s."
                % "; ".join(session.describe() for session in sessions),
                hint="Grant it pg_signal_backend; only a superuser may terminate a superuser's sessions.",
                sessions=[session.as_dict() for session in sessions],
            ) from exc
        return {pid for pid, told in cursor.fetchall() if told}


def in_use(
    sessions: Sequence[Session],
    *,
    waited_s: float,
    hint: str = LEAVE_HINT,
    terminated: Sequence[Session] = (),
) -> HoldfastError:
    """Return the error that names the ``sessions`` which did not leave."""
    shown = "; ".join(
        "%s%s" % (session.describe(), " in database %r" % session.database if session.database else "")
        for session in sessions[:20]
    )
    return HoldfastError(
        code="database_in_use",
        msg="%d session%s did not leave within %.1f s: %s%s"
        % (
            len(sessions),
            "" if len(sessions) == 1 else "s",
            waited_s,
            shown,
            "; and %d more" % (len(sessions) - 20) if len(sessions) > 20 else "",
        ),
        hint=hint,
        sessions=[session.as_dict() for session in sessions],
        terminated=[session.as_dict() for session in terminated],
    )
