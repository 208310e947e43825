# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The admin console of a PgBouncer process: commands that end within their time, and what SHOW says.

The console speaks the simple protocol only and takes no parameters (https://www.pgbouncer.org/usage.html). Its
connection is asynchronous, so that PAUSE, which waits for running transactions, never holds up its caller, nor does a
process that is stopped or hangs.
"""

from __future__ import annotations

import contextlib
import re
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    connect_failure,
    require_driver,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import extensions

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor
else:
    Connection = Cursor = Any

#: The database by which PgBouncer offers its console.
CONSOLE_DATABASE = "pgbouncer"

CONNECT_TIMEOUT_S = 5.0

#: How long a command may take that PgBouncer answers at once.
COMMAND_TIMEOUT_S = 5.0

#: A word that the console's parser takes as it is; it is case-sensitive (cmd_normal_rx in src/admin.c).
PLAIN_WORD = re.compile(r"[0-9a-zA-Z_]+")

#: Longest argument of a command in bytes, quotes included (admin_parse_query in src/admin.c).
MAX_ARGUMENT_BYTES = 63

#: States of a server connection that PAUSE waits for (per_loop_pause in src/janitor.c).
BUSY_STATES = ("active", "active_cancel", "being_canceled", "tested")

NUMBER = re.compile(r"-?\d+")

# Numbers are recognised by their look, since columns and their types differ by version; these are never numbers.
TEXT_COLUMNS = frozenset(
    {"addr", "application_name", "database", "default", "force_user", "host", "key", "local_addr", "name", "ptr"}
    | {"link", "list", "user", "value", "version"}
)


@dataclass(frozen=True)
class PoolerAddress:
    """One PgBouncer process: its console, and who asks there.

    ``databases`` are the names in the pooler that count, when they are not to be found by where they lead. ``probe``
    is an ordinary client's login, with which a stall is measured as clients see it.
    """

    name: str
    server: Server
    databases: Sequence[str] = ()
    probe: Server | None = None

    @property
    def where(self) -> str:
        """Return host and port for messages."""
        return "%s:%s" % (self.server.host, self.server.port or 6432)


class PoolerSession:
    """A connection to a PgBouncer, to its console or as a client, on which nothing waits without a limit."""

    def __init__(self, address: PoolerAddress, *, server: Server, database: str, application_name: str) -> None:
        require_driver()
        self.address = address
        parameters: dict[str, Any] = {"port": "6432", **server.parameters(database)}
        parameters.update(client_encoding="UTF8", application_name=application_name, options="")
        if server.password is not None:
            parameters["password"] = server.password
        self._server = server
        self._database = database
        try:
            self._connection: Connection = psycopg2.connect(**parameters, async_=1)
        except psycopg2.OperationalError as exc:
            raise self._unreachable(str(exc)) from exc
        self._cursor: Cursor | None = None

    def finish_connecting(self, *, timeout_s: float) -> None:
        """Wait until the session is there; raises `HoldfastError` when it is refused or does not come in time."""
        deadline = time.monotonic() + timeout_s
        try:
            while not self.ready():
                if not wait_for([self], timeout_s=deadline - time.monotonic()):
                    raise self._unreachable("no answer within %g s" % timeout_s)
        except psycopg2.Error as exc:
            raise self._unreachable(str(exc)) from exc
        self._cursor = self._connection.cursor()

    def _unreachable(self, reason: str) -> HoldfastError:
        failure = connect_failure(reason, database=self._database, server=self._server)
        return HoldfastError(
            code="authentication_failed" if failure.code == "authentication_failed" else "connection_failed",
            msg="Pooler %s does not let us in at %s as %s: %s"
            % (self.address.name, self.address.where, self._server.user, failure.msg),
            hint="Check that this PgBouncer runs and listens there, and its admin_users, auth_file and hba.conf.",
            pooler=self.address.name,
        )

    def fileno(self) -> int:
        """Return the socket's descriptor, for `select`."""
        return self._connection.fileno()

    def ready(self) -> bool:
        """Move on what is under way and return whether it is complete; raises psycopg2's errors."""
        self.direction = self._connection.poll()
        return bool(self.direction == extensions.POLL_OK)

    def send(self, statement: str) -> None:
        """Send a statement without waiting for its answer; `ready` tells when `rows` has it."""
        if self._cursor is None:
            raise psycopg2.InterfaceError("the connection was not established")
        self._cursor.execute(statement)
        self.direction = extensions.POLL_READ

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the statement that is complete, by column, with numbers as numbers."""
        if self._cursor is None or self._cursor.description is None:
            return []
        names = [column[0].lower() for column in self._cursor.description]
        return [dict(zip(names, map(typed, names, row))) for row in self._cursor.fetchall()]

    def command(self, statement: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> list[dict[str, Any]]:
        """Send a statement and return its rows.

        Raises psycopg2's errors, and `HoldfastError` with the code ``timeout``; the session is of no use then.
        """
        self.send(statement)
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if not wait_for([self], timeout_s=deadline - time.monotonic()):
                self.close()
                raise HoldfastError(
                    code="timeout",
                    msg="Pooler %s at %s did not answer %s within %g s."
                    % (self.address.name, self.address.where, statement, timeout_s),
                    hint="Look at this PgBouncer and its log; it may be stopped or its host overloaded.",
                    pooler=self.address.name,
                )
        return self.rows()

    @property
    def closed(self) -> bool:
        """Whether it was closed here or found lost."""
        return bool(self._connection.closed)

    def close(self) -> None:
        """Close it, whatever state it is in."""
        self._connection.close()


class Console(PoolerSession):
    """A connection to the admin console."""

    def __init__(self, address: PoolerAddress) -> None:
        super().__init__(address, server=address.server, database=CONSOLE_DATABASE, application_name="holdfast console")

    def show(self, what: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> list[dict[str, Any]]:
        """Return the rows of ``SHOW what``, as the version at hand has them."""
        return self.command("SHOW " + what, timeout_s=timeout_s)

    def entries(self) -> list[Entry]:
        """Return the databases that clients of this pooler may use; a wildcard's appear with their first client."""
        return [entry_of(row) for row in self.show("DATABASES") if row["name"] != CONSOLE_DATABASE]


@dataclass(frozen=True)
class Entry:
    """One row of SHOW DATABASES: a name for clients, and where it leads."""

    name: str
    database: str
    host: str | None
    port: int | None
    pool_mode: str | None
    paused: bool


def entry_of(row: dict[str, Any]) -> Entry:
    """Return a row of SHOW DATABASES of any version."""
    return Entry(
        name=row["name"],
        database=row["database"] or row["name"],
        host=row.get("host") or None,
        port=row.get("port"),
        pool_mode=row.get("pool_mode") or None,
        paused=bool(row.get("paused")),
    )


def logging_in(pools: Sequence[dict[str, Any]], names: Sequence[str]) -> int:
    """Return how many servers of the databases ``names`` are logging in, by the rows of SHOW POOLS."""
    return sum(int(pool.get("sv_login") or 0) for pool in pools if pool["database"] in names)


def clients_waiting(pools: Sequence[dict[str, Any]], names: Sequence[str]) -> int:
    """Return how many clients of the databases ``names`` wait for a server, by the rows of SHOW POOLS."""
    return sum(int(pool.get("cl_waiting") or 0) for pool in pools if pool["database"] in names)


def argument(name: str) -> str:
    """Return a database's name as an argument of a console command.

    Raises `HoldfastError` with the code ``unsupported`` for a name that the console's parser cannot take.
    """
    quoted = name if PLAIN_WORD.fullmatch(name) else '"%s"' % name.replace('"', '""')
    if len(quoted.encode("utf-8", "surrogateescape")) > MAX_ARGUMENT_BYTES:
        raise HoldfastError(
            code="unsupported",
            msg="PgBouncer's console cannot be told the database name %r: with its quotes it exceeds %d bytes."
            % (name, MAX_ARGUMENT_BYTES),
            hint="Give it a shorter name in [databases] of PgBouncer, with dbname= naming the real one.",
        )
    return quoted


def wait_for(sessions: Sequence[PoolerSession], *, timeout_s: float) -> bool:
    """Wait until one of ``sessions`` can move on, and return whether one can."""
    reading = [session for session in sessions if session.direction == extensions.POLL_READ]
    writing = [session for session in sessions if session.direction == extensions.POLL_WRITE]
    if timeout_s <= 0:
        return False
    return any(select.select(reading, writing, (), timeout_s))


def connected(sessions: Sequence[PoolerSession], *, timeout_s: float) -> None:
    """Finish the connecting of several sessions, begun together; closes all of them when one fails."""
    deadline = time.monotonic() + timeout_s
    try:
        for session in sessions:
            session.finish_connecting(timeout_s=max(0.001, deadline - time.monotonic()))
    except BaseException:
        for session in sessions:
            session.close()
        raise


def typed(name: str, value: Any) -> Any:
    """Return a value of SHOW with numbers as numbers, whatever the version calls the column's type."""
    if isinstance(value, Decimal):  # what PgBouncer calls numeric is a whole number
        return int(value)
    if name in TEXT_COLUMNS or not isinstance(value, str):
        return value
    return int(value) if NUMBER.fullmatch(value) else value
