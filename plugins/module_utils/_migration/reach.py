# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What statements would reach in the catalog of a live database: tables, their rows and sizes, dependent objects."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.effects import Name

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor
else:
    Connection = Any
    Cursor = Any

#: Of an object in the catalog, as pg_depend has it.
Address = tuple[int, int, int]

APPLICATION_NAME = "holdfast lint"
#: Nobody waits behind a lint: it waits for no lock longer than this, and reads no table longer than that.
SETTINGS = {
    "lock_timeout": "1s",
    "statement_timeout": "10s",
    "default_transaction_read_only": "on",
    # A count through policies would be too low; without this right the estimate is taken.
    "row_security": "off",
    "datestyle": "ISO",
}
#: Tables up to this size are counted, as long as there is time; of others the planner's estimate is told.
COUNTED_BYTES = 64 * 1024 * 1024
COUNTING_S = 15.0


@dataclass(frozen=True)
class Found:
    """An object of the catalog, by its address there."""

    classid: int
    objid: int
    objsubid: int = 0


@dataclass(frozen=True)
class Table:
    """A table with what it holds; ``rows`` is None where nobody knows."""

    oid: int
    name: str
    rows: int | None
    exact: bool
    size_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the table for a result."""
        return {"table": self.name, "rows": self.rows, "exact": self.exact, "size_bytes": self.size_bytes}

    @property
    def is_empty(self) -> bool:
        """Whether it is sure that the table holds nothing."""
        return self.exact and self.rows == 0

    def __str__(self) -> str:
        if self.rows is None:
            return "%s (rows unknown%s)" % (self.name, "" if self.size_bytes is None else ", " + size(self.size_bytes))
        rows = "%s%s row%s" % ("" if self.exact else "about ", format(self.rows, ","), "" if self.rows == 1 else "s")
        return "%s (%s)" % (self.name, rows)


@dataclass(frozen=True)
class Reach:
    """What dropping objects with CASCADE takes along."""

    #: Descriptions of what goes only because of CASCADE, such as ``view public.v``.
    objects: tuple[str, ...]
    tables: tuple[Table, ...]


class Unknown(Exception):
    """The catalog does not tell: a right is missing, or a lock was not to be had in time."""


class Catalog:
    """The catalog of one live database, as a read-only session sees it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.cursor: Cursor = connection.cursor()
        self.server_version = int(connection.server_version)
        self._counting_until = time.monotonic() + COUNTING_S
        self._tables: dict[int, Table] = {}
        self._ask("SELECT pg_catalog.current_setting('search_path')")
        self._search_path = self._path_in_use = str(only_row(self.cursor)[0])

    # -- names ----------------------------------------------------------------------------------------------------

    def use_search_path(self, schemas: Sequence[str] | None) -> None:
        """Look names up in these schemas from here on; None stands for the session's own search_path."""
        path = self._search_path if schemas is None else ", ".join(map(quoted, schemas))
        if path == self._path_in_use:
            return
        self._path_in_use = path
        self._ask("SELECT pg_catalog.set_config('search_path', %s, false)", (path,))

    def relation(self, name: Name) -> int | None:
        """Return the OID of a table or view, or None when there is none."""
        self._ask("SELECT pg_catalog.to_regclass(%s)::pg_catalog.oid", (".".join(map(quoted, name)),))
        oid = only_row(self.cursor)[0]
        return None if oid is None else int(oid)

    def objects(self, kind: str, name: Name, arguments: Sequence[str] | None) -> list[Found]:
        """Return the objects that DROP of this name means; raises `Unknown` when that cannot be told."""
        if kind == "owned":
            self._ask("SELECT oid::int8 < 16384 FROM pg_catalog.pg_roles WHERE rolname = %s", (name[0],))
            if (True,) in self.cursor.fetchall():
                raise Unknown("the server does not keep a list of what its first role owns")
            self._ask(_OWNED, (name[0],))
            return [Found(*row) for row in self.cursor.fetchall()]
        kind = _OBJECT_TYPES.get(kind, kind)
        if kind in _ROUTINES and arguments is None:
            self._ask(_ROUTINES_NAMED, (name[-1], *((name[0],) * 2 if len(name) > 1 else (None, None))))
            return [Found(*row) for row in self.cursor.fetchall()]
        names, args = list(name), list(arguments or ())
        if kind in ("type", "domain"):
            names = [".".join(map(quoted, name))]
        elif kind == "cast":
            names, args = [name[0]], list(name[1:])
        try:
            self._ask(
                "SELECT classid::int8, objid::int8, objsubid"
                " FROM pg_catalog.pg_get_object_address(%s, %s::text[], %s::text[])",
                (kind, names, args),
            )
        except psycopg2.Error as exc:
            if exc.pgcode in _MISSING:
                return []
            raise Unknown(" ".join(str(exc.diag.message_primary or exc).split())) from exc
        return [Found(*row) for row in self.cursor.fetchall()]

    # -- reach ----------------------------------------------------------------------------------------------------

    def names(self, oids: Iterable[int]) -> list[Name]:
        """Return schema and name of relations."""
        self._ask(
            "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class AS c"
            " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ANY (%s::int8[])",
            (list(oids),),
        )
        return [tuple(row) for row in self.cursor.fetchall()]

    def heirs(self, oids: Iterable[int]) -> list[int]:
        """Return tables with all that inherit from them, partitions included."""
        self._ask(_HEIRS, (list(oids),))
        return [oid for (oid,) in self.cursor.fetchall()]

    def truncated(self, oids: Iterable[int]) -> list[int]:
        """Return the tables that TRUNCATE ... CASCADE of these (with their heirs) empties."""
        self._ask(_TRUNCATED, (list(oids),))
        return [oid for (oid,) in self.cursor.fetchall()]

    def dropped(self, found: Sequence[Found]) -> Reach:
        """Return what DROP ... CASCADE of these takes along."""
        columns = list(zip(*((f.classid, f.objid, f.objsubid) for f in found))) or [(), (), ()]
        self._ask(_DROPPED, tuple(map(list, columns)))
        going: dict[Address, tuple[bool, bool]] = {}
        owners: dict[Address, list[Address]] = {}
        tables = set()
        for *address, cascaded, is_relation, table, owner_classid, owner_objid, owner_objsubid in self.cursor:
            key = (address[0], address[1], address[2])
            going[key] = (cascaded, is_relation)
            owners.setdefault(key, []).append((owner_classid, owner_objid, owner_objsubid))
            if table:
                tables.add(key[1])
        listed = [
            key
            for key, (cascaded, is_relation) in going.items()
            if cascaded
            and (is_relation or not any(o in going or (o[0], o[1], 0) in going for o in owners[key]))
            and not (key[2] and (key[0], key[1], 0) in going)
        ]
        self._ask(_DESCRIBED, tuple(map(list, zip(*listed))) or ([], [], []))
        objects = tuple(sorted(description for (description,) in self.cursor.fetchall() if description))
        return Reach(objects=objects, tables=tuple(self.tables(tables)))

    def tables(self, oids: Iterable[int]) -> list[Table]:
        """Return tables with their rows and sizes, in the order of their names; partitioned ones hold nothing."""
        wanted = list(dict.fromkeys(oids))
        new = [oid for oid in wanted if oid not in self._tables]
        if new:
            try:
                self._ask(_TABLES.format(size="pg_catalog.pg_total_relation_size(c.oid)"), (new,))
            except psycopg2.Error as exc:
                if exc.pgcode is None:
                    raise
                # One of them is locked exclusively; what the planner believes needs no lock.
                pages = "c.relpages::int8 * pg_catalog.current_setting('block_size')::int8"
                self._ask(_TABLES.format(size=pages), (new,))
            for oid, name, estimate, size_bytes in self.cursor.fetchall():
                self._tables[oid] = self._measured(oid, name, estimate, size_bytes)
        return sorted((self._tables[oid] for oid in wanted if oid in self._tables), key=lambda table: table.name)

    def _measured(self, oid: int, name: str, estimate: int | None, size_bytes: int) -> Table:
        rows, exact = estimate, False
        if size_bytes <= COUNTED_BYTES and time.monotonic() < self._counting_until:
            try:
                # The name comes quoted from the catalog.
                self._ask(sql.SQL("SELECT pg_catalog.count(*) FROM ONLY {}").format(sql.SQL(name)))
                rows, exact = int(only_row(self.cursor)[0]), True
            except psycopg2.Error as exc:
                if exc.pgcode is None:
                    raise
        return Table(oid=oid, name=name, rows=rows, exact=exact, size_bytes=size_bytes)

    def values(self, oid: int, column: str) -> int | None:
        """Return how many rows have a value in a column, where the table is small enough to look; else None."""
        tables = self.tables([oid])
        if not tables or not tables[0].exact:
            return None
        try:
            self._ask(
                sql.SQL("SELECT pg_catalog.count({}) FROM ONLY {}").format(
                    sql.Identifier(column), sql.SQL(tables[0].name)
                )
            )
        except psycopg2.Error as exc:
            if exc.pgcode is None:
                raise
            return None
        return int(only_row(self.cursor)[0])

    # -- columns --------------------------------------------------------------------------------------------------

    def type_change_rewrites(self, oid: int, column: str, type_name: str) -> bool:
        """Whether ALTER COLUMN TYPE without USING writes the table anew; true where that cannot be told.

        The rule is that of ATColumnChangeRequiresRewrite: no rewrite where the values stay as they are.
        """
        try:
            self._ask(_TYPE_CHANGE, (type_name, oid, column))
        except psycopg2.Error as exc:
            if exc.pgcode is None:
                raise
            return True
        row = self.cursor.fetchone()
        return row is None or not keeps_values(
            old=row[0], new=type_name, kind=row[1], same=row[2], coercible=row[3], constrained=row[4]
        )

    def volatile(self, functions: Sequence[str]) -> list[str]:
        """Return those functions of which one of that name gives another value for each row."""
        self._ask(
            "SELECT DISTINCT proname::text FROM pg_catalog.pg_proc"
            " WHERE provolatile = 'v' AND proname = ANY (%s::name[]) ORDER BY 1",
            (list(functions),),
        )
        return [name for (name,) in self.cursor.fetchall()]

    def constrained_domain(self, type_name: str) -> bool:
        """Whether a type is a domain with constraints, which a new column has to be checked against."""
        try:
            self._ask(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contypid = pg_catalog.to_regtype(%s))",
                (type_name,),
            )
        except psycopg2.Error as exc:
            if exc.pgcode is None:
                raise
            return False
        return bool(only_row(self.cursor)[0])

    def _ask(self, query: Any, parameters: Sequence[Any] | None = None) -> None:
        # Autocommit: an error ends the statement, nothing else.
        self.cursor.execute(query, parameters)


def keeps_values(*, old: str, new: str, kind: str, same: bool, coercible: bool, constrained: bool) -> bool:
    """Whether values of type ``old`` are stored alike in type ``new``; both are written as in SQL.

    ``kind`` is the internal name of the old type, ``same`` whether both are of it, ``coercible`` whether a cast between
    them changes nothing, ``constrained`` whether the new type is a domain with constraints.
    """
    if constrained or (not same and not coercible):
        return False
    before, after = modifiers(old), modifiers(new)
    if not after and not (same and kind in ("bpchar", "bit")):
        return "[" not in new or same
    if not same or not before:
        return same and before == after
    if kind == "numeric":
        before, after = (*before, 0)[:2], (*after, 0)[:2]
        return before[1] == after[1] and before[0] <= after[0]
    if kind in ("varchar", "varbit", "time", "timetz", "timestamp", "timestamptz"):
        return before[0] <= after[0]
    return before == after


def modifiers(type_name: str) -> tuple[int, ...]:
    """Return the numbers in the parentheses of a type."""
    match = re.search(r"\(([\d\s,-]+)\)", type_name)
    return tuple(int(number) for number in match.group(1).split(",")) if match else ()


def quoted(name: str) -> str:
    """Return a name in double quotes."""
    return '"%s"' % name.replace('"', '""')


def size(size_bytes: int) -> str:
    """Return a size for people."""
    amount, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        del units[0]
    return "%.*f %s" % (0 if amount >= 10 or units[0] == "B" else 1, amount, units[0])


_MISSING: tuple[str, ...] = (
    "42P01",  # undefined_table
    "42703",  # undefined_column
    "42704",  # undefined_object
    "42883",  # undefined_function
    "3F000",  # invalid_schema_name
)
_ROUTINES: Mapping[str, str] = {"function": "f", "procedure": "p", "aggregate": "a", "routine": ""}
#: Words of the parser to words of pg_get_object_address.
_OBJECT_TYPES = {
    "foreign server": "server",
    "fdw": "foreign-data wrapper",
    "opclass": "operator class",
    "opfamily": "operator family",
    "tsconfiguration": "text search configuration",
    "tsdictionary": "text search dictionary",
    "tsparser": "text search parser",
    "tstemplate": "text search template",
    "statistic ext": "statistics object",
    "event trigger": "event trigger",
    "composite type attribute": "table column",
}

_OWNED = """
SELECT d.classid::int8, d.objid::int8, d.objsubid
  FROM pg_catalog.pg_shdepend AS d
  JOIN pg_catalog.pg_roles AS r ON r.oid = d.refobjid AND d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
 WHERE d.deptype = 'o' AND r.rolname = %s
   AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""

_ROUTINES_NAMED = """
SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass::int8, p.oid::int8, 0
  FROM pg_catalog.pg_proc AS p
  JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
 WHERE p.proname = %s
   AND CASE WHEN %s::text IS NULL THEN pg_catalog.pg_function_is_visible(p.oid) ELSE n.nspname = %s END
"""

_HEIRS = """
WITH RECURSIVE heirs (oid) AS (
    SELECT pg_catalog.unnest(%s::int8[])::pg_catalog.oid
    UNION
    SELECT i.inhrelid FROM heirs AS h JOIN pg_catalog.pg_inherits AS i ON i.inhparent = h.oid
)
SELECT oid::int8 FROM heirs
"""

# As heap_truncate_find_FKs follows foreign keys; a partition that is reached stands for its table's other partitions,
# too, since the constraints of all of them are one.
_TRUNCATED = """
WITH RECURSIVE edges (parent, child) AS (
    SELECT confrelid, conrelid FROM pg_catalog.pg_constraint WHERE contype = 'f'
    UNION
    SELECT i.inhparent, i.inhrelid
      FROM pg_catalog.pg_inherits AS i
      JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
     WHERE c.relispartition
), reached (oid) AS (
    SELECT pg_catalog.unnest(%s::int8[])::pg_catalog.oid
    UNION
    SELECT e.child FROM reached AS r JOIN edges AS e ON e.parent = r.oid
)
SELECT oid::int8 FROM reached
"""

# As findDependentObjects walks pg_depend: to everything that depends on what goes, and from a part, such as the rule of
# a view, to its owner. Parts of what is listed are not listed themselves.
_DROPPED = """
WITH RECURSIVE reached (classid, objid, objsubid, named, cascaded) AS (
    SELECT s.classid::pg_catalog.oid, s.objid::pg_catalog.oid, s.objsubid, true, false
      FROM ROWS FROM (
          pg_catalog.unnest(%s::int8[]), pg_catalog.unnest(%s::int8[]), pg_catalog.unnest(%s::int4[])
      ) AS s (classid, objid, objsubid)
    UNION
    SELECT n.classid, n.objid, n.objsubid, false, n.cascaded
      FROM reached AS r
     CROSS JOIN LATERAL (
         SELECT d.classid, d.objid, d.objsubid, r.cascaded OR d.deptype = 'n' AS cascaded
           FROM pg_catalog.pg_depend AS d
          WHERE d.refclassid = r.classid AND d.refobjid = r.objid
            AND (r.objsubid = 0 OR d.refobjsubid = r.objsubid)
         UNION ALL
         SELECT d.refclassid, d.refobjid, d.refobjsubid, r.cascaded
           FROM pg_catalog.pg_depend AS d
          WHERE NOT r.named AND d.deptype IN ('i', 'e')
            AND d.classid = r.classid AND d.objid = r.objid AND d.objsubid = r.objsubid
     ) AS n
), going AS (
    SELECT classid, objid, objsubid, pg_catalog.bool_or(named) AS named, pg_catalog.bool_or(cascaded) AS cascaded
      FROM reached
     GROUP BY classid, objid, objsubid
)
SELECT g.classid::int8, g.objid::int8, g.objsubid,
       g.cascaded AND NOT g.named,
       g.objsubid = 0 AND c.relkind IS NOT NULL,
       -- A table that loses a column is told with its rows, too.
       c.relkind IN ('r', 'p', 'm', 'f'),
       d.refclassid::int8, d.refobjid::int8, d.refobjsubid
  FROM going AS g
  LEFT JOIN pg_catalog.pg_class AS c
         ON g.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = g.objid
        AND c.relkind IN ('r', 'p', 'm', 'f', 'v')
  -- What it is a part of.
  LEFT JOIN pg_catalog.pg_depend AS d
         ON d.classid = g.classid AND d.objid = g.objid AND d.objsubid = g.objsubid
        AND d.deptype IN ('a', 'e', 'i', 'P', 'S')
"""

_DESCRIBED = """
SELECT pg_catalog.pg_describe_object(s.classid::pg_catalog.oid, s.objid::pg_catalog.oid, s.objsubid)
  FROM ROWS FROM (
      pg_catalog.unnest(%s::int8[]), pg_catalog.unnest(%s::int8[]), pg_catalog.unnest(%s::int4[])
  ) AS s (classid, objid, objsubid)
"""

_TABLES = """
SELECT c.oid::int8,
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
       CASE WHEN c.reltuples > 0 OR c.relpages > 0 AND c.reltuples = 0 THEN c.reltuples::int8 END,
       {size}
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%s::int8[]) AND c.relkind IN ('r', 'm')
"""

_TYPE_CHANGE = """
SELECT pg_catalog.format_type(a.atttypid, a.atttypmod),
       t.typname::text,
       a.atttypid = w.oid,
       EXISTS (
           SELECT FROM pg_catalog.pg_cast AS k
            WHERE k.castsource = a.atttypid AND k.casttarget = w.oid AND k.castmethod = 'b'
       ),
       EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.contypid = w.oid)
  FROM pg_catalog.pg_attribute AS a
  JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
 CROSS JOIN (SELECT pg_catalog.to_regtype(%s)::pg_catalog.oid AS oid) AS w
 WHERE a.attrelid = %s AND a.attname = %s AND w.oid IS NOT NULL
"""
