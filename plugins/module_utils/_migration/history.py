# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table in the live database that says which migrations it has."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import check_name
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    Key,
    is_repeatable,
    version_key,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import identifier

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    from psycopg2 import sql
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor
else:
    Cursor = Any

APPLIED = "applied"
#: A file outside a transaction that stopped half-way on its way up, or down.
PARTIAL = "partial"
REVERTING = "reverting"

#: Name and type of every column, in the order of a new table. ``statement_started`` is the statement that was
#: begun outside a transaction and of which nobody has recorded how it ended; after a kill it is in doubt.
COLUMNS = {
    "version": "text",
    "description": "text",
    "applied_at": "timestamptz",
    "checksum": "text",
    "duration_ms": "bigint",
    "deployment_id": "text",
    "applied_by": "text",
    "state": "text",
    "statements_done": "integer",
    "statements_total": "integer",
    "down_checksum": "text",
    "statement_started": "integer",
}
#: Columns that tell the history of another tool, which may have the same name.
OTHERS = {"installed_rank": "Flyway", "dirty": "golang-migrate", "is_applied": "goose", "run_on": "Diesel"}
SESSION_AGE_MS = """(
    SELECT pg_catalog.round(1000 * EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.backend_start))::bigint
      FROM pg_catalog.pg_stat_activity AS a
     WHERE a.pid = pg_catalog.pg_backend_pid())"""
NAME_PARTS = re.compile(r'(?:("(?:[^"]|"")+"|[^".\s]+)\.)?("(?:[^"]|"")+"|[^".\s]+)')


@dataclass(frozen=True)
class Entry:
    """One row of the history; ``key`` is the place of its version, None for one that the layout does not know."""

    version: str
    description: str | None = None
    applied_at: str | None = None
    checksum: str | None = None
    duration_ms: int | None = None
    deployment_id: str | None = None
    applied_by: str | None = None
    state: str = APPLIED
    statements_done: int | None = None
    statements_total: int | None = None
    down_checksum: str | None = None
    statement_started: int | None = None
    key: Key | None = None

    def as_row(self) -> dict[str, Any]:
        """Return the row as the module shows it."""
        return {
            "version": self.version,
            "description": self.description,
            "applied_at": self.applied_at if self.applied_at != "-infinity" else None,
            "checksum": self.checksum,
            "down_checksum": self.down_checksum,
            "duration_ms": self.duration_ms,
            "deployment_id": self.deployment_id,
            "applied_by": self.applied_by,
            "state": self.state,
            "statements_done": self.statements_done,
            "statements_total": self.statements_total,
        }


class History:
    """The history table of one database; ``name`` may be qualified and quoted as in SQL.

    ``key`` gives versions their places.
    """

    def __init__(self, name: str, *, key: Callable[[str], Key | None] = version_key) -> None:
        match = NAME_PARTS.fullmatch(name.strip())
        if match is None:
            raise HoldfastError(
                code="option_invalid",
                msg="history_table %r is not the name of a table." % name,
                hint='Write schema.table, each part in double quotes where it needs them: "my schema".schema_version.',
            )
        schema, table = match.groups()
        self.schema = check_name(identifier(schema or "public"), what="schema")
        self.table = check_name(identifier(table), what="table")
        self.relation = sql.Identifier(self.schema, self.table)
        self.key = key
        self.columns: dict[str, str] = {}

    def __str__(self) -> str:
        return "%s.%s" % (self.schema, self.table)

    def examine(self, cursor: Cursor) -> bool:
        """Learn the table's columns; return whether there is a table. Raises when it cannot hold a history."""
        cursor.execute(
            "SELECT a.attname::text, pg_catalog.format_type(a.atttypid, NULL), c.relkind::text"
            " FROM pg_catalog.pg_class AS c"
            " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
            " LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " WHERE n.nspname = %s AND c.relname = %s",
            (self.schema, self.table),
        )
        rows = cursor.fetchall()
        self.columns = {name: type_name for name, type_name, _kind in rows if name}
        if not rows:
            return False
        other = next((tool for column, tool in OTHERS.items() if column in self.columns), None)
        if other is not None:
            raise HoldfastError(
                code="option_invalid",
                msg="%s is the history of %s, which it writes by itself." % (self, other),
                hint="Set history_table to another name, and take this one over with adopt=%s." % self,
            )
        applied_at = self.columns.get("applied_at", "timestamp with time zone")
        if rows[0][2] not in ("r", "p") or "version" not in self.columns or not applied_at.startswith("timestamp"):
            raise HoldfastError(
                code="option_invalid",
                msg="%s is not a history of migrations: a table with a column version, and applied_at as timestamp"
                " if it has one; found relation kind %s with %s."
                % (self, rows[0][2], ", ".join("%s %s" % column for column in self.columns.items()) or "no columns"),
                hint="Set history_table to another name.",
            )
        return True

    def read(self, cursor: Cursor) -> list[Entry]:
        """Return all rows in the order in which they were applied; none when there is no table.

        Times are in the format and zone of the session.
        """
        if not self.examine(cursor):
            return []
        fields = [
            sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL("text" if "time" in type_name else type_name))
            if name in self.columns
            else sql.SQL("NULL")
            for name, type_name in COLUMNS.items()
        ]
        order = "ORDER BY applied_at NULLS FIRST" if "applied_at" in self.columns else ""
        fields.append(sql.SQL("pg_catalog.rank() OVER (%s)" % order))
        cursor.execute(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(fields), self.relation))
        entries = []
        for *row, rank in cursor.fetchall():
            values = dict(zip(COLUMNS, row))
            values["state"] = values["state"] or APPLIED
            entries.append((rank, Entry(**values, key=self.key(values["version"]))))
        # Rows of one moment, as a script may have written them, count in the order of their versions.
        entries.sort(key=lambda ranked: (ranked[0], ranked[1].key or ()))
        return [entry for _rank, entry in entries]

    def complete(self, cursor: Cursor) -> list[str]:
        """Create the table, or add the columns that it lacks; return the columns that were added."""
        if not self.columns:
            definitions = [
                sql.SQL("{} {}").format(
                    sql.Identifier(name),
                    sql.SQL(type_name + (" PRIMARY KEY" if name == "version" else _not_null(name))),
                )
                for name, type_name in COLUMNS.items()
            ]
            cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(self.relation, sql.SQL(", ").join(definitions)))
            self.columns = dict(COLUMNS)
            return list(COLUMNS)
        lacking = self.lacking()
        if lacking:
            additions = [sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(n), sql.SQL(COLUMNS[n])) for n in lacking]
            cursor.execute(sql.SQL("ALTER TABLE {} {}").format(self.relation, sql.SQL(", ").join(additions)))
            self.columns.update({name: COLUMNS[name] for name in lacking})
        return lacking

    def lacking(self) -> list[str]:
        """Return the columns that an examined table lacks."""
        return [name for name in COLUMNS if name not in self.columns]

    def write(self, cursor: Cursor, entry: Entry) -> None:
        """Insert or replace the row of ``entry.version``; ``applied_at`` and ``applied_by`` are the server's.

        The newest complete migration always has the greatest ``applied_at``: a clock that stood still or went back
        is overruled, and a migration that is not complete has ``-infinity``.
        """
        expressions = self._expressions(entry)
        # Not ON CONFLICT: a table that was adopted may have no unique index.
        cursor.execute(self._update(entry, expressions))
        if not cursor.rowcount:
            cursor.execute(
                sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                    self.relation,
                    sql.SQL(", ").join(map(sql.Identifier, expressions)),
                    sql.SQL(", ").join(expressions.values()),
                )
            )

    def writing(self, entry: Entry) -> sql.Composable:
        """Return what `write` does as SQL for psql; the session's age counts as duration."""
        expressions = {**self._expressions(entry), "duration_ms": sql.SQL(SESSION_AGE_MS)}
        return sql.SQL("{};\nINSERT INTO {} ({}) SELECT {} WHERE NOT EXISTS ({});\n").format(
            self._update(entry, expressions),
            self.relation,
            sql.SQL(", ").join(map(sql.Identifier, expressions)),
            sql.SQL(", ").join(expressions.values()),
            sql.SQL("SELECT FROM {} WHERE version = {}").format(self.relation, sql.Literal(entry.version)),
        )

    def removing(self, version: str) -> sql.Composable:
        """Return what `remove` does as SQL for psql."""
        return sql.SQL("DELETE FROM {} WHERE version = {};\n").format(self.relation, sql.Literal(version))

    def standing(self, version: str) -> sql.Composable:
        """Return an expression that differs whenever somebody has written to the row of a version meanwhile."""
        return sql.SQL(
            "(SELECT pg_catalog.concat_ws(' ', state, checksum, statements_done, statement_started)"
            " FROM {} WHERE version = {})"
        ).format(self.relation, sql.Literal(version))

    def _expressions(self, entry: Entry) -> dict[str, sql.Composable]:
        values = {
            "version": entry.version,
            "description": entry.description,
            "checksum": entry.checksum,
            "duration_ms": entry.duration_ms,
            "deployment_id": entry.deployment_id,
            "state": entry.state,
            "statements_done": entry.statements_done,
            "statements_total": entry.statements_total,
            "down_checksum": entry.down_checksum,
            "statement_started": entry.statement_started,
        }
        # Literals, since the driver would take a % in the table's name for a parameter's.
        expressions: dict[str, sql.Composable] = {name: sql.Literal(value) for name, value in values.items()}
        time_type = sql.SQL(self.columns.get("applied_at", COLUMNS["applied_at"]))
        if entry.state == APPLIED:
            expressions["applied_at"] = sql.SQL(
                "(SELECT GREATEST(pg_catalog.clock_timestamp()::{0}, pg_catalog.max(h.applied_at)"
                " + interval '1 microsecond') FROM {1} AS h)"
            ).format(time_type, self.relation)
        else:
            expressions["applied_at"] = sql.SQL("'-infinity'::{}").format(time_type)
        expressions["applied_by"] = sql.SQL("session_user")
        return expressions

    def _update(self, entry: Entry, expressions: dict[str, sql.Composable]) -> sql.Composable:
        assignments = [sql.SQL("{} = {}").format(sql.Identifier(n), e) for n, e in expressions.items()]
        return sql.SQL("UPDATE {} SET {} WHERE version = {}").format(
            self.relation, sql.SQL(", ").join(assignments), sql.Literal(entry.version)
        )

    def record(
        self, cursor: Cursor, rows: Iterable[Entry], *, gone: Iterable[str] = (), lock_timeout_ms: int = 0
    ) -> None:
        """Write ``rows`` and delete those of the versions ``gone``, all or none, outside any other transaction."""
        cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        try:
            cursor.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (str(lock_timeout_ms),))
            self.examine(cursor)
            self.complete(cursor)
            for version in gone:
                self.remove(cursor, version)
            for row in rows:
                self.write(cursor, row)
            cursor.execute("COMMIT")
        finally:
            if not cursor.connection.closed and cursor.connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
                cursor.execute("ROLLBACK")

    def remove(self, cursor: Cursor, version: str) -> None:
        """Delete the row of a version."""
        cursor.execute(sql.SQL("DELETE FROM {} WHERE version = {}").format(self.relation, sql.Literal(version)))


def _not_null(name: str) -> str:
    return " NOT NULL" if name in ("applied_at", "state") else ""


def current_version(entries: Iterable[Entry]) -> str | None:
    """Return the version that was completed last, or None. ``entries`` are in the order of their application.

    What runs again whenever it changed is no version.
    """
    complete = [entry for entry in entries if entry.state == APPLIED and not is_repeatable(entry.key)]
    return complete[-1].version if complete else None
