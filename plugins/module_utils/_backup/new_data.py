# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients have written to the tables and columns that a deployment has brought, and that its undo would drop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.difference import copy_out
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.export import (
    DIRECTORY_MODE,
    draft,
    explained,
    file_name,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.row_versions import find_table, row_versions

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

SETTINGS = {"search_path": "pg_catalog", "row_security": "off", "DateStyle": "ISO", "IntervalStyle": "postgres"}

COLUMNS = """
SELECT pg_catalog.quote_ident(a.attname), a.attname::text, pg_catalog.pg_get_expr(d.adbin, d.adrelid)
  FROM pg_catalog.pg_attribute AS a
  LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = pg_catalog.to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""

FIRST_RUNNING_XID = "SELECT pg_catalog.pg_snapshot_xmin(%s::pg_catalog.pg_snapshot)::text::bigint"

# An older version can be taken for a younger one where ids have come round, never the other way.
WRITTEN_SINCE = "((t.xmin::text::bigint - {first}) & 4294967295) < 2147483648"

#: What a column is given without anybody's doing is nobody's data; types without equality are compared as text.
NOT_DEFAULT = "t.{column} IS NOT NULL AND t.{column}::text IS DISTINCT FROM ({default})::text"


@dataclass(frozen=True)
class Gain:
    """A table, or a column of one, that is about to be dropped; ``name`` is what an operator calls it."""

    table: str
    column: str | None = None

    @property
    def name(self) -> str:
        """Such as ``public.loan`` or ``public.loan.rate``, quoted as in SQL."""
        return self.table if self.column is None else "%s.%s" % (self.table, self.column)


def new_data_report(
    *,
    server: Server,
    database: str,
    tables: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    since: str | None = None,
    discard: Sequence[str] = (),
    path: str | None = None,
    timeout_s: float = 600,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Return which of these tables and columns hold rows that were written since the snapshot ``since``.

    Without ``since``, every row counts. Rows of what ``discard`` names are written to files below ``path``, all of a
    table or those that have a value in a column. ``held`` lists what holds rows, ``refused`` the names of it that
    ``discard`` lacks, ``versions`` what `row_versions` tells of each table in the same snapshot as the files.
    """
    gains = [Gain(table) for table in tables]
    gains += [Gain(table, column) for table, names in columns.items() for column in names]
    with contextlib.closing(server.connect(database, autocommit=False, settings=SETTINGS)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("COMMIT")
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SELECT pg_catalog.set_config('statement_timeout', %s, true)", (str(int(timeout_s * 1000)),))
            first = None
            if since:
                cursor.execute(FIRST_RUNNING_XID, (since,))
                first = int(only_row(cursor)[0])
        held = [row for gain in gains for row in [_held(connection, gain, first=first)] if row is not None]
        wanted = {_plain(name) for name in discard}
        refused = [row["name"] for row in held if _plain(row["name"]) not in wanted]
        files: list[dict[str, Any]] = []
        if not refused:
            files = _export(connection, [row for row in held if row["rows"]], path=path, check_mode=check_mode)
        with connection.cursor() as cursor:
            versions = {}
            for table in sorted({gain.table for gain in gains}):
                found = find_table(cursor, table)
                if found is not None:
                    versions[table] = row_versions(cursor, found)
    return {
        "changed": any(file["changed"] for file in files),
        "database": database,
        "held": held,
        "refused": refused,
        "versions": versions,
        "files": [{key: value for key, value in file.items() if key != "changed"} for file in files],
        "directory": path if files else None,
    }


def _plain(name: str) -> str:
    """Return a name without quotes and without the default schema, as operators write it."""
    plain = name.strip().replace('"', "")
    return plain[len("public.") :] if plain.startswith("public.") else plain


def _held(connection: Connection, gain: Gain, *, first: int | None) -> dict[str, Any] | None:
    with connection.cursor() as cursor:
        table = find_table(cursor, gain.table)
        condition = _condition(cursor, gain)
        if table is None or condition is None:
            return None
        if first is not None:
            written = sql.SQL(WRITTEN_SINCE).format(first=sql.Literal(first % (1 << 32)))
            condition = sql.SQL("{} AND {}").format(condition, written)
        cursor.execute(sql.SQL("SELECT count(*) FROM ONLY {} AS t WHERE {}").format(table, condition))
        rows = int(only_row(cursor)[0])
    return {"name": gain.name, "table": gain.table, "column": gain.column, "rows": rows} if rows else None


def _condition(cursor: Any, gain: Gain) -> sql.Composable | None:
    """Return which rows count, or None when the column is not there."""
    if gain.column is None:
        return sql.SQL("true")
    cursor.execute(COLUMNS, (gain.table,))
    found = {quoted: (name, default) for quoted, name, default in cursor.fetchall()}
    if gain.column not in found:
        return None
    name, default = found[gain.column]
    return sql.SQL(NOT_DEFAULT).format(column=sql.Identifier(name), default=sql.SQL(default or "NULL"))


def _export(
    connection: Connection, held: Sequence[Mapping[str, Any]], *, path: str | None, check_mode: bool
) -> list[dict[str, Any]]:
    """Write the rows of each; what has rows and no place to go is refused."""
    if not held:
        return []
    if not path:
        raise HoldfastError(
            code="option_invalid",
            msg="Rows of %s are to be discarded, and path does not say where to keep them." % held[0]["name"],
            hint="Name a directory for the files.",
        )
    files = []
    with explained(path):
        if not check_mode:
            os.makedirs(path, mode=DIRECTORY_MODE, exist_ok=True)
        for row in held:
            gain = Gain(row["table"], row["column"])
            name = file_name(gain.name, suffix=".discarded")
            with connection.cursor() as cursor:
                table = find_table(cursor, gain.table)
                cursor.execute(COLUMNS, (gain.table,))
                names = {quoted: name for quoted, name, _default in cursor.fetchall()}
            if table is None:
                raise AssertionError("the table was there in the same snapshot")
            condition: sql.Composable = sql.SQL("true")
            if gain.column is not None:
                condition = sql.SQL("t.{} IS NOT NULL").format(sql.Identifier(names[gain.column]))
            query = sql.SQL("SELECT * FROM ONLY {} AS t WHERE {}").format(table, condition)
            with draft(os.path.join(path, name), check_mode=check_mode) as sink:
                rows = copy_out(connection, query, sink, options=sql.SQL("FORMAT csv, HEADER"))
            files.append(
                {
                    "name": gain.name,
                    "path": os.path.join(path, name),
                    "rows": rows,
                    "bytes": sink.bytes,
                    "sha256": sink.digest.hexdigest(),
                    "changed": sink.changed,
                }
            )
    return files
