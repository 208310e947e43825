# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done in the place of a swap that was killed or stopped: nothing is renamed later, and clients go on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import Resumer, Target

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: How long poolers wait for the databases to be open again, which spares their clients an error.
DOORS_FIRST_S = 0.5

#: How long it is tried to open the databases.
DOORS_TIMEOUT_S = 60.0

END_PROCESS = """
SELECT pg_catalog.pg_terminate_backend(a.pid)
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.pid = %s AND a.backend_start = %s
"""


@dataclass(frozen=True)
class ServerProcess:
    """A session of the server, told apart from any later one with the same number."""

    pid: int
    backend_start: datetime


def own_process(connection: Connection) -> ServerProcess:
    """Return the server's process of ``connection``."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT a.pid, a.backend_start FROM pg_catalog.pg_stat_activity AS a"
            " WHERE a.pid = pg_catalog.pg_backend_pid()"
        )
        return ServerProcess(*only_row(cursor))


class SessionEnder:
    """Ends a session of the server in the place of the one that opened it, and waits a moment until it has gone."""

    def __init__(self, *, connect: Callable[[], Connection], session: ServerProcess) -> None:
        self._connect = connect
        self._session = session
        self._connection: Connection | None = None

    def prepare(self) -> None:
        """Connect; raises `HoldfastError` or psycopg2's errors."""
        self._connection = self._connect()

    def run(self) -> None:
        """End the session. A server that does not answer is not waited for: it has not answered the session either."""
        ending = threading.Thread(target=self._end, daemon=True)
        ending.start()
        ending.join(DOORS_FIRST_S)

    def _end(self) -> None:
        with contextlib.suppress(HoldfastError, psycopg2.Error):
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            wait_until(self._gone, timeout_s=DOORS_FIRST_S, interval_s=0.01)

    def _gone(self) -> bool:
        if self._connection is None:
            return False
        with self._connection.cursor() as cursor:
            cursor.execute(END_PROCESS, (self._session.pid, self._session.backend_start))
            return cursor.fetchone() is None


class Rescue:
    """The work of the process that is on guard while a swap makes clients wait.

    First the swap's session is ended, so that whatever becomes of the swap it renames nothing from now on. Then
    databases are opened: a pooler that is resumed before that turns its clients away. But poolers do not wait for a
    server that does not answer. ``open_databases`` undoes what the swap has closed; it raises `HoldfastError` with
    the code ``operation_running`` when a later swap has begun, to which everything is left then.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Connection],
        swap: ServerProcess,
        open_databases: Callable[[Connection], None],
        targets: Sequence[Target],
    ) -> None:
        self._connect = connect
        self._swap = swap
        self._open_databases = open_databases
        self._resumer = Resumer(targets)
        self._connection: Connection | None = None
        self._superseded = False

    def prepare(self) -> None:
        """Connect to the server and to every pooler; raises `HoldfastError` or psycopg2's errors."""
        self._connection = self._connect()
        self._resumer.open()

    def run(self) -> None:
        """End the swap's session, open the databases, and let the clients of poolers go on."""
        opening = threading.Thread(target=self._until_open, daemon=True)
        opening.start()
        opening.join(DOORS_FIRST_S)
        if not self._superseded:
            self._resumer.resume()
        opening.join(DOORS_TIMEOUT_S)

    def _until_open(self) -> None:
        wait_until(self._opened, timeout_s=DOORS_TIMEOUT_S, interval_s=0.2)

    def _opened(self) -> bool:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            with self._connection.cursor() as cursor:
                cursor.execute(END_PROCESS, (self._swap.pid, self._swap.backend_start))
            self._open_databases(self._connection)
        except HoldfastError as exc:
            self._superseded = exc.code == "operation_running" and self._swap.pid not in exc.details.get("pids", [])
            return self._superseded
        except psycopg2.Error:
            return False
        return True
