# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking over a database that something else has migrated: by a version, or by the history of the other tool."""

from __future__ import annotations

import contextlib
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.history import (
    APPLIED,
    NAME_PARTS,
    Entry,
    History,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    Found,
    Key,
    Migration,
    Script,
    is_repeatable,
    version_key,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import identifier

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor
else:
    Cursor = Any

AUTO = "auto"
#: The value of ``adopt`` for a history that has nothing to do with the files.
NONE = "none"

TABLES = """
SELECT n.nspname::text, c.relname::text, pg_catalog.array_agg(a.attname::text),
       pg_catalog.bool_and(pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                           AND pg_catalog.has_table_privilege(c.oid, 'SELECT'))
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'p')
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND c.relname = ANY (%s)
 GROUP BY 1, 2
 ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Row:
    """A version that the other history has as applied; ``same`` tells whether a file is the one, None if unknown."""

    version: str
    same: Callable[[Script], bool] | None = None


@dataclass
class Others:
    """What the other history says: rows in the order of their application, and those that are not whole."""

    rows: list[Row] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    #: Everything up to this version counts as applied, whether it has a row or not.
    up_to: str | None = None


@dataclass(frozen=True)
class Table:
    """The history of another tool in the database."""

    schema: str
    name: str
    tool: Tool
    #: Whether the login role may read it.
    readable: bool = True

    def __str__(self) -> str:
        return "%s.%s" % (self.schema, self.name)

    def fetch(self, cursor: Cursor, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query in which ``{}`` stands for the table."""
        cursor.execute(sql.SQL(query).format(sql.Identifier(self.schema, self.name)))
        return cursor.fetchall()


@dataclass(frozen=True)
class Tool:
    """A tool and how its history is read."""

    name: str
    #: The usual names of its table, in a schema of its own if it has one; the newest first.
    tables: tuple[str, ...]
    layouts: tuple[str, ...]
    columns: frozenset[str]
    read: Callable[[Cursor, Table, Found], Others]

    @property
    def names(self) -> set[str]:
        """The usual names of its table, without the schema."""
        return {table.rpartition(".")[2] for table in self.tables}


def rows_to_record(
    *,
    cursor: Cursor,
    found: Found,
    history: History,
    entries: Sequence[Entry],
    target_version: str | None,
    adopt: str | None,
    allow_missing: bool = False,
    allow_out_of_order: bool = False,
) -> list[Entry]:
    """Return the rows that the history of ``found`` lacks, in the order in which they are to be written.

    Without ``adopt`` these are all versions up to ``target_version``. Raises `HoldfastError`: ``option_invalid``,
    ``migration_failed`` when the other tool stopped half-way, ``migration_changed``, ``migration_missing`` or
    ``migration_out_of_order`` when its history is not that of the files, and ``history_differs`` when ours has rows
    that are not the same.
    """
    if (target_version is None) == (adopt in (None, NONE)):
        raise HoldfastError(
            code="option_invalid",
            msg="state=baseline needs either target_version or adopt.",
            hint="Name the newest version that the database has, or the table of the tool that migrated it (or auto).",
        )
    if adopt in (None, NONE):
        wanted, where = _up_to(found, str(target_version)), "version %s" % target_version
    else:
        table = find_table(cursor, str(adopt), layout=found.layout, history=history)
        wanted = _adopted(
            table,
            table.tool.read(cursor, table, found),
            found,
            allow_missing=allow_missing,
            allow_out_of_order=allow_out_of_order,
        )
        where = str(table)
    rows = [
        Entry(
            version=migration.version,
            key=migration.key,
            description=migration.description,
            checksum=migration.up.checksum,
            down_checksum=migration.down.checksum if migration.down else None,
            state=APPLIED,
        )
        for migration in wanted
    ]
    if not entries:
        return rows
    _refuse_difference(history, entries, rows, where)
    return []


def _up_to(found: Found, target_version: str) -> list[Migration]:
    target = found.key(target_version)
    versions = [migration for migration in found.migrations if not migration.repeatable]
    if target is None or all(migration.key != target for migration in versions):
        raise HoldfastError(
            code="option_invalid",
            msg="target_version %r is not the version of any migration." % target_version,
            hint="Run the task with state=status to see the versions; quote versions in YAML, 1.10 is the number 1.1.",
        )
    return [migration for migration in versions if migration.key <= target]


def _refuse_difference(history: History, entries: Sequence[Entry], rows: Sequence[Entry], where: str) -> None:
    """Raise `HoldfastError` unless the history has all of ``rows`` and nothing else that is as old."""
    recorded = {entry.key: entry for entry in entries if entry.key is not None}
    newest = max((row.key for row in rows if row.key is not None and not is_repeatable(row.key)), default=())
    known = {row.key for row in rows}
    lacking = [row.version for row in rows if not is_repeatable(row.key) and row.key not in recorded]
    further = [e.version for e in entries if e.key not in known and (e.key is None or e.key <= newest)]
    other = [
        row.version
        for row in rows
        if not is_repeatable(row.key)
        and row.key in recorded
        and (recorded[row.key].state != APPLIED or recorded[row.key].checksum not in (None, "", row.checksum))
    ]
    differences = [
        "%s: %s" % (title, ", ".join(versions))
        for title, versions in (("it lacks", lacking), ("it has besides", further), ("it has changed", other))
        if versions
    ]
    if differences:
        raise HoldfastError(
            code="history_differs",
            msg="%s has %d rows already, and they are not those of %s; nothing was recorded. %s."
            % (history, len(entries), where, "; ".join(differences).capitalize()),
            hint="A history is begun once. Apply what is pending with state=applied, or name another history_table.",
            lacking=lacking,
            further=further,
            changed_versions=other,
        )


def _adopted(
    table: Table, others: Others, found: Found, *, allow_missing: bool, allow_out_of_order: bool
) -> list[Migration]:
    """Return the migrations that the other history has, in its order; raises `HoldfastError` where both differ."""
    if others.broken:
        raise HoldfastError(
            code="migration_failed",
            msg="%s, the history of %s, has what did not end well: %s. Nothing was recorded."
            % (table, table.tool.name, "; ".join(others.broken)),
            hint="Finish or undo it with %s, so that its history is clean, then run the task again." % table.tool.name,
            table=str(table),
            broken=others.broken,
        )
    known = {migration.key: migration for migration in found.migrations}
    places = {row.version: _place(row.version, found, known) for row in others.rows}
    baseline = _place(others.up_to, found, known) if others.up_to is not None else None
    adopted: dict[Key, Migration] = {}
    if baseline is not None:
        adopted.update({m.key: m for m in found.migrations if m.key <= baseline})
    adopted.update({place: known[place] for place in places.values() if place is not None and place in known})
    newest = max((place for place in adopted if not is_repeatable(place)), default=())
    missing = [version for version, place in places.items() if place not in known]
    late = [m.version for m in found.migrations if m.key < newest and m.key not in adopted]
    changed = []
    for row in others.rows:
        migration = adopted.get(places[row.version] or ())
        if migration is not None and row.same is not None and not row.same(migration.up):
            if migration.repeatable:
                del adopted[migration.key]  # it runs again, as it would there
            else:
                changed.append(migration.version)
    lists = {"missing": missing, "late": late, "changed_versions": changed}
    if changed:
        _differ(table, "migration_changed", lists)
    if missing and not allow_missing:
        _differ(table, "migration_missing", lists)
    if late and not allow_out_of_order:
        _differ(table, "migration_out_of_order", lists)
    return list(adopted.values())


def _place(version: str, found: Found, known: dict[Key, Migration]) -> Key | None:
    place = found.key(version)
    if place not in known and re.fullmatch("[0-9]{18}", version):  # Diesel's date and number, without its hyphens
        return version_key("%s-%s-%s-%s-%s" % (version[:4], version[4:6], version[6:8], version[8:14], version[14:]))
    return place


def _differ(table: Table, code: str, lists: dict[str, list[str]]) -> NoReturn:
    titles = {
        "missing": "applied there, but no file is here",
        "late": "a file is here, not applied there, and older than what is",
        "changed_versions": "the file is not the one that was applied there",
    }
    raise HoldfastError(
        code=code,
        msg="%s, the history of %s, and the files differ; nothing was recorded. %s."
        % (
            table,
            table.tool.name,
            "; ".join("%s: %s" % (titles[name], ", ".join(versions)) for name, versions in lists.items() if versions),
        ),
        hint="Check source and layout: is the checkout the one that was deployed? allow_missing and allow_out_of_order"
        " accept the first two.",
        table=str(table),
        **lists,
    )


# -- finding the other history ------------------------------------------------------------------------------------


def find_table(cursor: Cursor, adopt: str, *, layout: str | None, history: History) -> Table:
    """Return the table that ``adopt`` names, or the only one of a known tool; raises `HoldfastError` otherwise."""
    tables = other_tables(cursor, adopt, history=history)
    if len(tables) > 1:
        tables = [table for table in tables if layout in table.tool.layouts] or tables
    if len(tables) == 1:
        return tables[0]
    raise HoldfastError(
        code="option_invalid",
        msg="The database has %s."
        % (
            "several histories of other tools: %s" % ", ".join("%s (%s)" % (t, t.tool.name) for t in tables)
            if tables
            else "no history of a known tool%s" % ("" if adopt == AUTO else " in a table %s" % adopt)
        ),
        hint="Name one of them in adopt, with its schema."
        if tables
        else "Known are %s. Or name in target_version the newest version that the database has."
        % ", ".join("%s (%s)" % (tool.tables[0], tool.name) for tool in TOOLS),
        tables=[str(table) for table in tables],
    )


def other_tables(cursor: Cursor, adopt: str, *, history: History) -> list[Table]:
    """Return the histories of other tools in the database, or those whose table has the name ``adopt``."""
    schema: str | None = None
    if adopt == AUTO:
        names = set().union(*(tool.names for tool in TOOLS))
    else:
        match = NAME_PARTS.fullmatch(adopt)
        if match is None:
            raise HoldfastError(
                code="option_invalid",
                msg="adopt %r is not the name of a table." % adopt,
                hint="Write auto, or schema.table.",
            )
        schema = identifier(match.group(1)) if match.group(1) else None
        names = {identifier(match.group(2))}
    cursor.execute(TABLES, (sorted(names),))
    tables = []
    for table_schema, name, columns, readable in cursor.fetchall():
        if schema not in (None, table_schema) or (table_schema, name) == (history.schema, history.table):
            continue
        tool = next((tool for tool in TOOLS if tool.columns <= set(columns)), None)
        if tool is not None and (adopt != AUTO or name in tool.names):
            tables.append(Table(table_schema, name, tool, readable))
    return tables


def refuse_unknown_history(cursor: Cursor, *, history: History, found: Found) -> None:
    """Raise `HoldfastError` when our history is empty and another tool's is not: everything would run a second time.

    A history that the login role may not even read is somebody else's.
    """
    if not found.migrations:
        return
    for table in other_tables(cursor, AUTO, history=history):
        if not table.readable:
            continue
        others = table.tool.read(cursor, table, found)
        versions = [row.version for row in others.rows]
        if versions or others.broken or others.up_to:
            raise HoldfastError(
                code="history_differs",
                msg="%s is empty, but %s has migrated this database: %s has %d versions%s."
                % (
                    history,
                    table.tool.name,
                    table,
                    len(versions),
                    ", the last is %s" % versions[-1] if versions else "",
                ),
                hint="Take its history over with adopt=%s, or set adopt=none if it has nothing to do with these files."
                % table,
                table=str(table),
            )


# -- reading the histories ----------------------------------------------------------------------------------------


def _flyway(cursor: Cursor, table: Table, found: Found) -> Others:
    others = Others()
    rows: dict[str, Row] = {}
    for version, description, kind, script, checksum, success in table.fetch(
        cursor,
        "SELECT version::text, description::text, type::text, script::text, checksum::bigint, success::bool"
        " FROM {} ORDER BY installed_rank",
    ):
        name = version if version is not None else "R__%s" % description
        if not success:
            others.broken.append("%s failed (%s)" % (name, script))
        elif kind in ("BASELINE", "SQL_BASELINE"):
            others.up_to = version
        elif kind.startswith("UNDO") or kind == "DELETE":
            rows.pop(name, None)
        elif kind != "SCHEMA":
            rows.pop(name, None)
            same = _same_for_flyway(checksum) if checksum is not None and found.layout == "flyway" else None
            rows[name] = Row(name, same)
    others.rows = list(rows.values())
    return others


def _same_for_flyway(checksum: int) -> Callable[[Script], bool]:
    return lambda script: flyway_checksum(script.text if script.source is None else script.source) == checksum


def flyway_checksum(text: str) -> int:
    """Return Flyway's checksum of a file: CRC-32 of its lines without their ends, as a signed number."""
    value = 0
    for line in re.split(r"\r\n|\r|\n", text):
        value = zlib.crc32(line.encode("utf-8"), value)
    return value - 2**32 if value >= 2**31 else value


def _golang_migrate(cursor: Cursor, table: Table, _found: Found) -> Others:
    others = Others()
    for version, dirty in table.fetch(cursor, "SELECT version::text, dirty FROM {}"):
        if dirty:
            others.broken.append("version %s is dirty" % version)
        else:
            # It keeps the newest version alone.
            others.rows.append(Row(version))
            others.up_to = version
    return others


def _versions(query: str) -> Callable[[Cursor, Table, Found], Others]:
    def read(cursor: Cursor, table: Table, _found: Found) -> Others:
        return Others(rows=[Row(version) for (version,) in table.fetch(cursor, query)])

    return read


def _sqitch(cursor: Cursor, table: Table, found: Found) -> Others:
    rows = table.fetch(
        cursor,
        "SELECT project::text, change::text, change_id::text, script_hash::text FROM {} ORDER BY committed_at",
    )
    projects = {row[0] for row in rows}
    seen: dict[str, int] = {}
    others = Others()
    for project, change, change_id, script_hash in rows:
        if found.project not in (None, project) and found.project in projects:
            continue
        seen[change] = seen.get(change, 0) + 1
        version = change if seen[change] == 1 else "%s (%d)" % (change, seen[change])
        # Old registries had the change's id in the place of the hash.
        same = _same_for_sqitch(script_hash) if script_hash not in (None, change_id) else None
        others.rows.append(Row(version, same))
    return others


def _same_for_sqitch(script_hash: str) -> Callable[[Script], bool]:
    def same(script: Script) -> bool:
        texts = (script.text, script.text.replace("\n", "\r\n"))
        return script_hash in {hashlib.sha1(text.encode("utf-8")).hexdigest() for text in texts}  # noqa: S324

    return same


# The last of several rows of a version says whether it is applied; row 0 stands for the empty database.
GOOSE = """
SELECT h.version_id::text
  FROM {0} AS h
 WHERE h.version_id > 0 AND h.is_applied
   AND NOT EXISTS (SELECT FROM {0} AS later WHERE later.version_id = h.version_id AND later.id > h.id)
 ORDER BY h.id
"""


def _columns(*names: str) -> frozenset[str]:
    return frozenset(names)


TOOLS: Sequence[Tool] = (
    Tool(
        "Flyway",
        ("flyway_schema_history", "schema_version"),
        ("flyway",),
        _columns("installed_rank", "version", "description", "type", "script", "checksum", "success"),
        _flyway,
    ),
    Tool("golang-migrate", ("schema_migrations",), ("golang-migrate",), _columns("version", "dirty"), _golang_migrate),
    Tool("goose", ("goose_db_version",), ("goose",), _columns("id", "version_id", "is_applied"), _versions(GOOSE)),
    Tool(
        "Diesel",
        ("__diesel_schema_migrations",),
        ("directories",),
        _columns("version", "run_on"),
        _versions("SELECT version::text FROM {} ORDER BY run_on, version"),
    ),
    Tool(
        "Sqitch",
        ("sqitch.changes",),
        ("sqitch",),
        _columns("project", "change", "change_id", "script_hash", "committed_at"),
        _sqitch,
    ),
    Tool(
        "Rails",
        ("schema_migrations",),
        ("golang-migrate", "directories"),
        _columns("version"),
        _versions("SELECT version::text FROM {} ORDER BY pg_catalog.length(version::text), version"),
    ),
)


def listed(rows: Iterable[Entry], found: Found) -> list[dict[str, Any]]:
    """Return recorded rows as the module shows them."""
    paths = {migration.key: migration.up.path for migration in found.migrations}
    return [{"version": row.version, "description": row.description, "path": paths[row.key or ()]} for row in rows]
