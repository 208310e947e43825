# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order tables can be filled, so that foreign keys hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

# Partitions that reference or are referenced have constraints of their own, so every table that holds rows is here.
FOREIGN_KEYS = """
SELECT k.conname, n.nspname, k.conrelid, k.condeferrable,
       ARRAY (SELECT p.relid::oid::bigint FROM pg_catalog.pg_partition_tree(k.confrelid) AS p WHERE p.isleaf
              UNION SELECT k.confrelid::bigint) AS parents,
       k.confrelid::pg_catalog.regclass::text,
       ARRAY (SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (attnum, n)
                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum ORDER BY u.n),
       ARRAY (SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS u (attnum, n)
                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.attnum ORDER BY u.n)
  FROM pg_catalog.pg_constraint AS k JOIN pg_catalog.pg_namespace AS n ON n.oid = k.connamespace
 WHERE k.contype = 'f' AND k.conrelid = ANY (%s::oid[])
 ORDER BY k.conrelid, k.conname
"""


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key of the table ``child``, by OIDs; ``parents`` are the tables that may hold the rows it names."""

    name: str
    schema: str
    child: int
    deferrable: bool
    parents: tuple[int, ...]
    parent_name: str
    columns: tuple[str, ...]
    referenced: tuple[str, ...]


def read_foreign_keys(connection: Connection, tables: Sequence[int]) -> list[ForeignKey]:
    """Return the foreign keys of the tables with these OIDs."""
    with connection.cursor() as cursor:
        cursor.execute(FOREIGN_KEYS, (list(tables),))
        return [
            ForeignKey(name, schema, child, deferrable, tuple(parents), parent, tuple(columns), tuple(referenced))
            for name, schema, child, deferrable, parents, parent, columns, referenced in cursor.fetchall()
        ]


def order_by_foreign_keys(
    tables: Sequence[int], keys: Iterable[ForeignKey]
) -> tuple[list[list[int]], list[ForeignKey], list[ForeignKey]]:
    """Return groups of tables, parents before children; the keys to defer; and the keys that allow no order.

    A group has several tables where foreign keys lead around in a circle. There, deferrable keys are checked at the
    end; a circle without one cannot be filled.
    """
    within = [key for key in keys if set(key.parents) & set(tables) - {key.child}]
    groups: list[list[int]] = []
    deferred: list[ForeignKey] = []
    for group in _circles(tables, within):
        inside = [key for key in within if key.child in group and set(key.parents) & set(group) - {key.child}]
        binding = [key for key in inside if not key.deferrable]
        order = [table for part in _circles(group, binding) for table in part]
        if any(len(part) > 1 for part in _circles(group, binding)):
            return groups, deferred, binding
        groups.append(order)
        deferred += [key for key in inside if key.deferrable]
    return groups, deferred, []


def _circles(tables: Sequence[int], keys: Sequence[ForeignKey]) -> list[list[int]]:
    """Return the strongly connected parts of the graph, parents before children (Tarjan's algorithm)."""
    parents = {
        t: sorted({p for k in keys if k.child == t for p in k.parents if p in tables and p != t}) for t in tables
    }
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    parts: list[list[int]] = []

    def visit(table: int) -> None:
        index[table] = low[table] = len(index)
        stack.append(table)
        for parent in parents[table]:
            if parent not in index:
                visit(parent)
                low[table] = min(low[table], low[parent])
            elif parent in stack:
                low[table] = min(low[table], index[parent])
        if low[table] == index[table]:
            cut = stack.index(table)
            parts.append(sorted(stack[cut:]))
            del stack[cut:]

    for table in tables:
        if table not in index:
            visit(table)
    return parts
