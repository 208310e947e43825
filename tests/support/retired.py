# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An undo in miniature: a live database, a clone of it as rollback point, and the exchange of their names."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from psycopg2 import sql

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.writes import writes_report
from ansible_collections.holdfast.postgres.plugins.module_utils._core.counters import read_counters
from tests.support.server import TestServer

RENAME = sql.SQL("ALTER DATABASE {} RENAME TO {}")


class Undo:
    """A database ``live`` that ``retired`` and ``side`` come from; the tests say what happens in which of them."""

    def __init__(self, server: TestServer, setup: str) -> None:
        self.server = server
        self.live = "app_" + uuid.uuid4().hex[:8]
        self.side = self.live + "_before"
        self.retired = self.live + "_retired"
        self.since: dict[str, Any] | None = None
        server.create_database(self.live, setup)

    def keep_rollback_point(self) -> None:
        """Read the counters and clone the live database."""
        connection = self.server.connect(self.live)
        self.since = read_counters(connection)
        connection.close()
        self._run(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(self.side), sql.Identifier(self.live))
        )

    def exchange(self) -> None:
        """Make the clone the live database, in one transaction as a swap does."""
        connection = self.server.connect()
        connection.autocommit = False
        with connection.cursor() as cursor:
            cursor.execute(RENAME.format(sql.Identifier(self.live), sql.Identifier(self.retired)))
            cursor.execute(RENAME.format(sql.Identifier(self.side), sql.Identifier(self.live)))
        connection.commit()
        connection.close()

    def _run(self, statement: sql.Composable) -> None:
        connection = self.server.connect()
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()

    def write(self, statements: str) -> None:
        """Run statements in the live database, whichever that is."""
        self.server.execute(statements, database=self.live)

    def left(self, **options: Any) -> dict[str, Any]:
        """What the undo leaves behind."""
        options.setdefault("since", self.since)
        return writes_report(server=self.server.server, database=self.live, retired=self.retired, **options)

    def counts(self, **options: Any) -> dict[str, tuple[Any, ...]]:
        """The same as inserted, updated, conflicting and deleted rows by table."""
        return {
            row["table"]: tuple(row[key] for key in ("inserted", "updated", "conflicting", "deleted"))
            for row in self.left(**options)["tables"]
        }


@contextlib.contextmanager
def undo(server: TestServer, setup: str) -> Iterator[Undo]:
    """An undo whose databases are dropped at the end."""
    databases = Undo(server, setup)
    try:
        yield databases
    finally:
        for name in (databases.live, databases.side, databases.retired):
            server.drop_database(name)
