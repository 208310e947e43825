# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same table in two databases, between which a migration may lie: what can be compared, by which key, and how."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import server_version
from ansible_collections.holdfast.postgres.plugins.module_utils._core.table_proof import (
    BY_OUTPUT,
    BY_TEXT,
    RELATIONS,
    TYPES_OF_COLUMNS,
    Column,
    column_of,
    hash_template,
    reading,
    row_hash,
    value_hash,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

COLUMNS = """
SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, format_type(a.atttypid, -1), a.attnotnull,
       a.attgenerated <> '', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
       CASE WHEN l.oid IS NOT NULL THEN quote_ident(n.nspname) || '.' || quote_ident(l.collname) END
  FROM pg_attribute a
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
  LEFT JOIN pg_namespace n ON n.oid = l.collnamespace
 WHERE a.attrelid = ANY (%(relations)s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum
"""

# What identifies each row, the primary key first: no expressions, no rows left out, no nulls.
KEYS = """
SELECT i.indrelid, array_agg(a.attname::text ORDER BY u.n)
  FROM pg_index i
 CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY u (attnum, n)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
 WHERE i.indrelid = ANY (%(relations)s) AND i.indisunique AND i.indisvalid
   AND i.indpred IS NULL AND i.indexprs IS NULL AND u.n <= i.indnkeyatts
 GROUP BY i.indrelid, i.indexrelid, i.indisprimary, i.indnkeyatts
HAVING bool_and(a.attnotnull)
 ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, i.indexrelid
"""

#: Types whose values are compared as numbers when a migration changed the one into the other.
NUMBERS = frozenset({"int2", "int4", "int8", "numeric"})
INTEGERS = frozenset({"int2", "int4", "int8"})
BY_NUMBER = 'hashtextextended(trim_scale({c}::numeric)::text COLLATE "C", {seed})'


@dataclass(frozen=True)
class TableColumn:
    """A column with what it takes to compare it and to insert into it; ``declared`` is its type's name in SQL."""

    column: Column
    declared: str
    not_null: bool
    generated: bool
    default: str | None
    collation: str | None

    @property
    def name(self) -> str:
        """Its name."""
        return self.column.name


@dataclass(frozen=True)
class Table:
    """A table, leaf partitions included, of one of the two databases; ``obstacle`` says why it cannot be read."""

    oid: int
    schema: str
    table: str
    name: str
    size_bytes: int
    columns: tuple[TableColumn, ...]
    keys: tuple[tuple[str, ...], ...]
    obstacle: str | None

    @property
    def identifier(self) -> sql.Composable:
        """Its name for a statement."""
        return sql.Identifier(self.schema, self.table)


def read_tables(connection: Connection) -> dict[str, Table]:
    """Return the tables by their quoted name; the ``search_path`` must be ``pg_catalog``."""
    with reading("the list of tables"), connection.cursor() as cursor:
        cursor.execute(RELATIONS, {"kinds": ["r"]})
        rows = cursor.fetchall()
        relations = {"relations": [row[0] for row in rows]}
        cursor.execute(TYPES_OF_COLUMNS, relations)
        types = {row[0]: row[1:] for row in cursor.fetchall()}
        columns: dict[int, list[TableColumn]] = {}
        cursor.execute(COLUMNS, relations)
        for oid, name, type_oid, typmod, declared, *facts in cursor.fetchall():
            column = TableColumn(column_of(name, type_oid, typmod, types), declared, *facts)
            columns.setdefault(oid, []).append(column)
        keys: dict[int, list[tuple[str, ...]]] = {}
        cursor.execute(KEYS, relations)
        for oid, names in cursor.fetchall():
            keys.setdefault(oid, []).append(tuple(names))
    return {
        name: Table(
            oid=oid,
            schema=schema,
            table=table,
            name=name,
            size_bytes=size_bytes,
            columns=tuple(columns.get(oid, ())),
            keys=tuple(keys.get(oid, ())),
            obstacle=_obstacle(readable, filtered),
        )
        for oid, schema, table, name, _kind, _populated, _file, size_bytes, readable, filtered in rows
    }


def _obstacle(readable: bool | None, filtered: bool) -> str | None:
    if readable is False:
        return "the role may not read it"
    return "row-level security hides rows of it from the role" if filtered else None


@dataclass(frozen=True)
class Pair:
    """A table of the retired database and its namesake in the one that serves, by the columns that both have."""

    retired: Table
    serving: Table
    columns: tuple[tuple[TableColumn, TableColumn], ...]
    key: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that both have."""
        return self.retired.name

    @property
    def key_columns(self) -> list[tuple[TableColumn, TableColumn]]:
        """The columns of the key."""
        by_name = {mine.name: (mine, theirs) for mine, theirs in self.columns}
        return [by_name[name] for name in self.key]


def make_pair(retired: Table, serving: Table) -> Pair:
    """Return the pair with the first key of the serving table that is a key of the retired one, too.

    What the serving database computes by itself (generated columns) is no row's own and is not compared.
    """
    mine = {column.name: column for column in retired.columns}
    columns = tuple((mine[c.name], c) for c in serving.columns if c.name in mine and not c.generated)
    common = {column.name for column, _theirs in columns}
    theirs = {frozenset(key) for key in retired.keys}
    key = next((key for key in serving.keys if frozenset(key) in theirs and common.issuperset(key)), ())
    return Pair(retired=retired, serving=serving, columns=columns, key=key)


@dataclass(frozen=True)
class Expressions:
    """How one side of a pair is read: ``row`` and ``key`` are bigint hashes of the row of the table called ``t``."""

    table: sql.Composable
    row: sql.Composable
    key: sql.Composable
    key_values: Sequence[sql.Composable]


def expressions(pair: Pair, connection: Connection) -> tuple[Expressions, Expressions]:
    """Return the expressions for the retired and for the serving table, whose hashes are equal for equal values."""
    version = server_version(connection)
    hashes = [_hashes(*columns, position=n, version=version) for n, columns in enumerate(pair.columns)]
    key_hashes = [_hashes(*columns, position=n, version=version) for n, columns in enumerate(pair.key_columns)]
    values = [_key_values(*columns) for columns in pair.key_columns]
    retired, serving = (
        Expressions(
            table=table.identifier,
            row=row_hash([h[side] for h in hashes]),
            key=row_hash([h[side] for h in key_hashes]),
            key_values=[v[side] for v in values],
        )
        for side, table in enumerate((pair.retired, pair.serving))
    )
    return retired, serving


def _hashes(
    mine: TableColumn, theirs: TableColumn, *, position: int, version: int
) -> tuple[sql.Composable, sql.Composable]:
    """Return how both columns are hashed: by their type where it is the same, else as numbers or as text."""
    templates = {hash_template(c.column, server_version=version) for c in (mine, theirs)}
    # What is hashed by its text is alike only where it is of the same type.
    alike = len(templates) == 1 and (not templates & {BY_TEXT, BY_OUTPUT} or mine.declared == theirs.declared)
    if alike:
        template = templates.pop()
    else:
        template = BY_NUMBER if {mine.column.type_name, theirs.column.type_name} <= NUMBERS else BY_TEXT
    return (
        value_hash(template, mine.name, position=position),
        value_hash(template, theirs.name, position=position),
    )


def key_type(mine: TableColumn, theirs: TableColumn) -> str | None:
    """Return the type for a copy of a key column that an index of either table can be searched with, or None."""
    ours = (mine.column.type_name, theirs.column.type_name)
    if not all(ours) or (mine.column.type_kind, theirs.column.type_kind) != ("b", "b"):
        return None
    if ours[0] == ours[1]:
        return ours[0]
    return "int8" if INTEGERS.issuperset(ours) else None


def _key_values(mine: TableColumn, theirs: TableColumn) -> tuple[sql.Composable, sql.Composable]:
    cast = "{}" if key_type(mine, theirs) else "{}::text"
    return (
        sql.SQL(cast).format(sql.Identifier("t", mine.name)),
        sql.SQL(cast).format(sql.Identifier("t", theirs.name)),
    )


def key_definition(pair: Pair) -> sql.Composable:
    """Return the columns ``k0``, ``k1``, ... of a table that holds keys of the pair, for CREATE TABLE."""
    definitions = []
    for number, (mine, theirs) in enumerate(pair.key_columns):
        kind = key_type(mine, theirs)
        definition = sql.SQL("{} {}").format(
            sql.Identifier("k%d" % number), sql.Identifier("pg_catalog", kind or "text")
        )
        if kind and theirs.collation:
            # The same as the column's, or the server would not know by which to compare.
            definition = sql.SQL("{} COLLATE {}").format(definition, sql.SQL(theirs.collation))
        definitions.append(definition)
    return sql.SQL(", ").join(definitions)


def same_key(expressions_of_side: Expressions, other: str) -> sql.Composable:
    """Return the condition that the row of ``t`` has the key of the row of the table ``other``."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(value, sql.Identifier(other, "k%d" % number))
        for number, value in enumerate(expressions_of_side.key_values)
    )


def resolve_tables(wanted: Sequence[str], *, known: Mapping[str, Table]) -> tuple[list[str], list[str]]:
    """Return the names among ``known`` that ``wanted`` means, and what of it means none.

    A name may be quoted as in SQL or not, and may leave out the schema ``public``.
    """
    spellings: dict[str, str] = {}
    for name, table in known.items():
        if table.schema == "public":
            spellings.setdefault(table.table, name)
        spellings.setdefault("%s.%s" % (table.schema, table.table), name)
    spellings.update({name: name for name in known})
    found = [spellings[name] for name in wanted if name in spellings]
    return list(dict.fromkeys(found)), [name for name in wanted if name not in spellings]
