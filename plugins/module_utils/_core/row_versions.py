# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling whether a table was written to, from the versions of its rows, without looking at their values."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import only_row

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor
else:
    Cursor = Any

FIND = """
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = pg_catalog.to_regclass(%s) AND c.relkind IN ('r', 'p')
"""

# Each version of a row has a place and the transaction that wrote it, and no two versions have both in common.
READ = """
SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(
         pg_catalog.hashtextextended(t.ctid::text || ' ' || t.xmin::text, 0)), 0)
  FROM ONLY {} AS t
"""


def find_table(cursor: Cursor, table: str) -> sql.Identifier | None:
    """Return the table that a name quoted as in SQL stands for, or None when there is none."""
    cursor.execute(FIND, (table,))
    row = cursor.fetchone()
    return sql.Identifier(*row) if row else None


def row_versions(cursor: Cursor, table: sql.Identifier) -> str:
    """Return what is another text as soon as a row was inserted, updated or deleted.

    It is another one after VACUUM FULL and the like, too. Partitions and children are tables of their own.
    """
    cursor.execute(sql.SQL(READ).format(table))
    count, total = only_row(cursor)
    return "%d:%d" % (count, total)
