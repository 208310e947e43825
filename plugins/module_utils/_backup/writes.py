# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an undo leaves behind: what the retired database has and the one that serves has not, counted and kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.difference import (
    Deadline,
    Difference,
    Evidence,
    TableComparison,
    XidRange,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.export import Export
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import (
    read_large_objects,
    read_sequences,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.pairs import (
    Pair,
    Table,
    make_pair,
    read_tables,
    resolve_tables,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    check_name,
    only_row,
    server_version,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.counters import read_counters
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.table_proof import (
    PINNED_SETTINGS,
    primary_message,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

# Both rows were last written by the transaction that exchanged the names, unless somebody altered one of them since.
READ_EXCHANGE = """
SELECT d.datname = %(serving)s, d.oid, d.xmin::text::bigint, pg_encoding_to_char(d.encoding)
  FROM pg_database d WHERE d.datname IN (%(serving)s, %(retired)s)
"""

NEXT_XID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
FIRST_RUNNING_XID = "SELECT pg_snapshot_xmin(%s::pg_snapshot)::text::bigint"

# A session that has ended has reported what it wrote (from version 15 on); one that is there may not have.
UNTOUCHED = """
SELECT NOT EXISTS (SELECT FROM pg_stat_activity a
                    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
                      AND a.backend_type IN ('client backend', 'background worker', 'walsender'))
   AND NOT EXISTS (SELECT FROM pg_stat_all_tables s
                    WHERE s.schemaname !~ '^pg_' AND s.schemaname <> 'information_schema'
                      AND (s.n_tup_upd > 0 OR s.n_tup_del > 0))
   AND current_setting('track_counts')::boolean
"""

READ_LARGE_OBJECTS = "SELECT t.oid::bigint, {new} FROM pg_largeobject_metadata AS t"

# Whose content was written since; only superusers may ask.
READ_WRITTEN_LARGE_OBJECTS = "SELECT DISTINCT t.loid::bigint FROM pg_largeobject AS t WHERE {written}"

#: A table that only a migration has written to becomes a file up to this size.
MIGRATED_BYTES = 1024 * 1024

#: What two readings of the counters must share.
CIRCUMSTANCES = ("stats_reset", "server_started_at", "stats_discarded_at")


@dataclass
class TableWrites:
    """What is to be said of one table.

    ``found_in`` is ``both``, ``retired`` (the migration created it: all its rows are inserted ones) or ``serving`` (the
    migration dropped or renamed it). Counts are None where they are not known, and then ``reason`` says why.
    ``by_migration`` says of a table that only the retired database has that nobody wrote to it since the migration.
    ``by_contents`` says that nothing but the contents could be compared. ``uncertain`` says that a row counted as
    inserted may be one that the rollback point had and clients have deleted since the exchange of the names.
    """

    table: str
    found_in: str
    key: list[str] | None = None
    inserted: int | None = 0
    updated: int | None = 0
    conflicting: int | None = 0
    deleted: int | None = 0
    columns_only_retired: list[str] = field(default_factory=list)
    by_contents: bool = False
    uncertain: bool = False
    by_migration: bool = False
    reason: str | None = None
    file: str | None = None
    deleted_file: str | None = None

    @property
    def known(self) -> bool:
        """Whether every count is."""
        return None not in (self.inserted, self.updated, self.conflicting, self.deleted)

    @property
    def changed(self) -> bool:
        """Whether there is anything to say."""
        return (
            not self.known
            or self.found_in != "both"
            or any((self.inserted, self.updated, self.conflicting, self.deleted))
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {**vars(self), "known": self.known}


class Sides:
    """The sessions in both databases, each in one snapshot, and what is known about their past.

    ``since`` is the reading of the counters from before the rollback point, of the very database that is retired now;
    without it, contents are compared. ``migrated`` is such a reading from the end of the migration. ``snapshot`` is one
    of the serving database, exported before clients came in.
    """

    def __init__(
        self,
        *,
        server: Server,
        serving: str,
        retired: str,
        deadline: Deadline,
        since: Mapping[str, Any] | None = None,
        migrated: Mapping[str, Any] | None = None,
        snapshot: str | None = None,
    ) -> None:
        self._deadline = deadline
        self._opened: list[Connection] = []
        try:
            # As early as can be: clients write to it.
            self.serving = self._open(server, serving, snapshot)
            self.next_xid = self._number(self.serving, NEXT_XID)
            self.exact = snapshot is not None or self._untouched()
            self.retired = self._open(server, retired)
            self.arrived, self.encoding = self._exchange(serving, retired)
            self.version = server_version(self.serving)
            self.since, self.migrated = since or {}, migrated or {}
            self.now = read_counters(self.retired)
            self.written = self._written()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the sessions."""
        for connection in self._opened:
            connection.close()

    def _open(self, server: Server, database: str, snapshot: str | None = None) -> Connection:
        connection = server.connect(database, application_name="holdfast writes", settings=PINNED_SETTINGS)
        self._opened.append(connection)
        if connection.server_version >= 170000:
            with connection.cursor() as cursor:
                cursor.execute("SET transaction_timeout = 0")
        # Temporary tables are all that is written.
        connection.set_session(isolation_level="REPEATABLE READ", readonly=False, autocommit=False)
        with connection.cursor() as cursor:
            if snapshot is not None:
                try:
                    cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot,))
                except psycopg2.Error as exc:
                    raise HoldfastError(
                        code="snapshot_lost",
                        msg="Cannot use the snapshot %s of %s: %s" % (snapshot, database, primary_message(exc)),
                        hint="Whoever exported it has ended; leave it out.",
                        sqlstate=exc.pgcode,
                    ) from exc
            cursor.execute("SELECT pg_current_snapshot()")
        self._deadline.limit(connection)
        return connection

    def _number(self, connection: Connection, query: str, *parameters: Any) -> int:
        with connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return int(only_row(cursor)[0])

    def _untouched(self) -> bool:
        """Return whether nobody can have changed or deleted a row of the serving database by now."""
        if self.serving.server_version < 150000:
            return False
        with self.serving.cursor() as cursor:
            cursor.execute(UNTOUCHED)
            return bool(only_row(cursor)[0])

    def _exchange(self, serving: str, retired: str) -> tuple[XidRange | None, str]:
        """Return the transaction ids since the exchange of the names, and the encoding of the retired database."""
        with self.serving.cursor() as cursor:
            cursor.execute(READ_EXCHANGE, {"serving": serving, "retired": retired})
            rows = {is_serving: (oid, xid, encoding) for is_serving, oid, xid, encoding in cursor.fetchall()}
        (_oid, ours, encoding), (_oid, theirs, retired_encoding) = rows[True], rows[False]
        if encoding != retired_encoding:
            raise HoldfastError(
                code="unsupported",
                msg="Database %s is in %s and %s in %s." % (serving, encoding, retired, retired_encoding),
                hint="Compare databases of the same encoding.",
            )
        age = (self.next_xid - ours) % (1 << 32)
        arrived = XidRange(self.next_xid - age + 1, self.next_xid)
        return (arrived if ours == theirs and arrived.usable else None), encoding

    def _written(self) -> XidRange | None:
        """Return the transaction ids since the reading before the rollback point."""
        if not self.since.get("snapshot"):
            return None
        first = self._number(self.retired, FIRST_RUNNING_XID, self.since["snapshot"])
        written = XidRange(first, self._number(self.retired, NEXT_XID))
        return written if written.usable and first <= written.end else None

    def evidence(self, name: str) -> Evidence:
        """Return what is known of a table without reading it."""
        if not _same_table(self.since, self.now, name):
            # Another table may have got the name, with rows that are old but were never in this one.
            return Evidence()
        moved = self._moved(self.since, name)
        if moved is None:
            return Evidence(written=self.written)
        return Evidence(
            unchanged=not moved,
            append_only=moved <= {"inserted"},
            none_deleted="deleted" not in moved,
            written=self.written,
        )

    def by_migration(self, name: str) -> bool:
        """Return whether nobody has written to a table since the migration had ended, nor made it anew."""
        return _same_table(self.migrated, self.now, name) and self._moved(self.migrated, name) == set()

    def _moved(self, earlier: Mapping[str, Any], name: str) -> set[str] | None:
        """Return which counters of a table have moved since an earlier reading, or None when they prove nothing.

        They do from version 15 on, where they are in shared memory and ended sessions have reported theirs; before,
        messages with them may be lost on their way. No counter tells that a table was emptied or rewritten; its file
        number does.
        """
        proving = (
            self.version >= 150000
            and bool(earlier.get("counting") and self.now["counting"])
            and all(earlier.get(key) == self.now[key] for key in CIRCUMSTANCES)
            and earlier["relations"][name]["filenode"] == self.now["relations"][name]["filenode"]
        )
        if not proving:
            return None
        before, now = earlier["tables"].get(name) or {}, self.now["tables"][name]
        return {key for key in ("inserted", "updated", "deleted") if now[key] != before.get(key)}


def _same_table(earlier: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
    """Return whether the table of that name is the one that had it at an earlier reading."""
    before, after = (earlier.get("relations") or {}).get(name), now["relations"].get(name)
    return bool(before and after and before["oid"] == after["oid"])


@contextlib.contextmanager
def open_sides(**options: Any) -> Iterator[Sides]:
    """`Sides`, closed at the end of the block; nothing that was written in them stays."""
    sides = Sides(**options)
    try:
        yield sides
    finally:
        sides.close()


def compare_tables(
    sides: Sides, *, deadline: Deadline, tables: Sequence[str] | None = None
) -> tuple[dict[str, Pair], dict[str, Table], list[TableWrites], dict[str, Difference]]:
    """Compare the tables of both databases, or those of ``tables``, the smallest first.

    Return the pairs and the tables of the retired database by name, what is to be said of each table (not of those
    that did not change), and where the rows are that differ.
    """
    mine, theirs = read_tables(sides.retired), read_tables(sides.serving)
    names = sorted({*mine, *theirs} if tables is None else tables, key=lambda n: _size(mine.get(n), theirs.get(n)))
    pairs = {name: make_pair(mine[name], theirs[name]) for name in names if name in mine and name in theirs}
    found: list[TableWrites] = []
    differences: dict[str, Difference] = {}
    for number, name in enumerate(names):
        if name in pairs:
            writes, difference = _compare_pair(sides, pairs[name], number, deadline)
            if difference is not None:
                differences[name] = difference
        elif name in mine:
            writes = _count_rows(sides, mine[name], deadline)
        else:
            writes = TableWrites(name, "serving")
        if writes.changed:
            found.append(writes)
    return pairs, mine, sorted(found, key=lambda writes: writes.table), differences


def _size(*tables: Table | None) -> tuple[int, str]:
    there = [table for table in tables if table is not None]
    return max(table.size_bytes for table in there), there[0].name


def _compare_pair(sides: Sides, pair: Pair, number: int, deadline: Deadline) -> tuple[TableWrites, Difference | None]:
    common = {theirs.name for _mine, theirs in pair.columns}
    computed = {column.name for column in pair.serving.columns if column.generated}
    writes = TableWrites(
        pair.name,
        "both",
        key=list(pair.key) or None,
        columns_only_retired=[c.name for c in pair.retired.columns if c.name not in common | computed],
    )
    obstacle = pair.retired.obstacle or pair.serving.obstacle
    if obstacle:
        return _unknown(writes, obstacle), None
    evidence = sides.evidence(pair.name)
    if evidence.unchanged:
        return writes, None
    comparison = TableComparison(
        pair,
        retired=sides.retired,
        serving=sides.serving,
        evidence=evidence,
        arrived=sides.arrived,
        number=number,
        encoding=sides.encoding,
        deadline=deadline,
    )
    try:
        difference = comparison.run()
    except (HoldfastError, psycopg2.Error) as exc:
        return _unknown(writes, _why_not(exc)), None
    writes.inserted, writes.updated = difference.inserted, difference.updated
    writes.conflicting, writes.deleted = difference.conflicting, difference.deleted
    writes.by_contents = evidence.written is None
    # Where nothing was updated, whatever was written since is new.
    certain = sides.exact or (evidence.append_only and not writes.by_contents)
    writes.uncertain = bool(difference.inserted) and not certain
    if difference.deleted is None:
        writes.reason = (
            "one of the databases was altered after the exchange of the names, so rows that only the one that serves "
            "has may be new ones"
        )
    return writes, difference


def _count_rows(sides: Sides, table: Table, deadline: Deadline) -> TableWrites:
    """Return what is to be said of a table that only the retired database has."""
    writes = TableWrites(
        table.name,
        "retired",
        key=list(next(iter(table.keys), ())) or None,
        by_migration=sides.by_migration(table.name),
    )
    if table.obstacle:
        return _unknown(writes, table.obstacle)
    try:
        with deadline.explained(), sides.retired.cursor() as cursor:
            cursor.execute("SAVEPOINT counting")
            try:
                deadline.limit(sides.retired)
                cursor.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(table.identifier))
                writes.inserted = int(only_row(cursor)[0])
            finally:
                cursor.execute("ROLLBACK TO SAVEPOINT counting")
    except (HoldfastError, psycopg2.Error) as exc:
        return _unknown(writes, _why_not(exc))
    return writes


def _unknown(writes: TableWrites, reason: str) -> TableWrites:
    return replace(writes, inserted=None, updated=None, conflicting=None, deleted=None, reason=reason.rstrip("."))


def check_pair_of_names(database: str, retired: str) -> None:
    """Raise `HoldfastError` unless these are the names of two databases."""
    check_name(database)
    check_name(retired, what="retired database")
    if database == retired:
        raise HoldfastError(
            code="option_invalid",
            msg="The database that serves and the retired one have the same name, %r." % database,
            hint="Name the database that an undo retired.",
        )


def writes_report(
    *,
    server: Server,
    database: str,
    retired: str,
    since: Mapping[str, Any] | None = None,
    migrated: Mapping[str, Any] | None = None,
    snapshot: str | None = None,
    tables: Sequence[str] = (),
    path: str | None = None,
    timeout_s: float = 60,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Return what the module pg_writes_info documents: what of ``retired`` the serving ``database`` has not.

    With ``path``, the rows are written to files there. Raises `HoldfastError` with the codes ``name_invalid``,
    ``option_invalid``, ``database_not_found``, ``unsupported``, ``snapshot_lost``, and with
    ``destination_unwritable`` or ``destination_full`` where everything was counted but could not be kept; the counts
    are among its details.
    """
    started = time.monotonic()
    check_pair_of_names(database, retired)
    deadline = Deadline(timeout_s)
    with (
        deadline.explained(),
        open_sides(
            server=server,
            serving=database,
            retired=retired,
            deadline=deadline,
            since=since,
            migrated=migrated,
            snapshot=snapshot,
        ) as sides,
    ):
        wanted = _wanted(sides, tables)
        pairs, mine, found, differences = compare_tables(sides, deadline=deadline, tables=wanted)
        result: dict[str, Any] = {
            "changed": False,
            "database": database,
            "retired": retired,
            "exact": sides.exact,
            "sequences": _sequences(sides) if wanted is None else [],
            "large_objects": _large_objects(sides, deadline) if wanted is None else None,
            "unchanged": len(pairs) - sum(writes.found_in == "both" for writes in found),
            "files": [],
            "directory": None,
        }

        def finish() -> dict[str, Any]:
            result.update(
                tables=[writes.as_dict() for writes in found],
                total=_total(found),
                known=all(writes.known for writes in found) and (result["large_objects"] or {"known": True})["known"],
                duration_s=round(time.monotonic() - started, 3),
            )
            return result

        if path is None:
            return finish()
        export = Export(sides.retired, path=path, check_mode=check_mode, deadline=deadline)
        try:
            export.begin()
            for writes in found:
                _keep(export, writes, pairs.get(writes.table), mine.get(writes.table), differences.get(writes.table))
            result.update(export.finish(finish()))
        except HoldfastError as exc:
            result.update(export.abandon())
            raise HoldfastError(**{**finish(), **exc.as_result()}) from exc
        finally:
            for difference in differences.values():
                if difference.deleted_keys is not None:
                    difference.deleted_keys.close()
        return finish()


def _wanted(sides: Sides, tables: Sequence[str]) -> list[str] | None:
    if not tables:
        return None
    found, missing = resolve_tables(tables, known=read_tables(sides.retired))
    if missing:
        raise HoldfastError(
            code="option_invalid",
            msg="The retired database has no table %s." % ", ".join(missing),
            hint="Name tables as public.payment; leave tables out to compare all of them.",
        )
    return found


def _keep(
    export: Export, writes: TableWrites, pair: Pair | None, table: Table | None, difference: Difference | None
) -> None:
    """Write the files of one table."""
    if writes.found_in == "retired" and table is not None and writes.known and not _left_out(writes, table):
        writes.file = export.write_table(table)
    if pair is None or difference is None:
        return
    if difference.changes is not None:
        writes.file = export.write_changes(pair.retired, difference.changes)
    if difference.deleted_keys is not None:
        writes.deleted_file = export.write_deleted(pair.retired, difference.deleted_keys, rows=difference.deleted or 0)


def _left_out(writes: TableWrites, table: Table) -> bool:
    """Return whether a table is too large to be kept only because a migration filled it; it would fill it again."""
    return writes.by_migration and table.size_bytes > MIGRATED_BYTES


def _total(found: Sequence[TableWrites]) -> dict[str, int]:
    """Return the sums of what is known."""
    return {
        key: sum(getattr(writes, key) or 0 for writes in found)
        for key in ("inserted", "updated", "conflicting", "deleted")
    }


def _sequences(sides: Sides) -> list[dict[str, Any]]:
    """Return the sequences whose values differ, with both values; None where a database has no such sequence."""
    mine, theirs = read_sequences(sides.retired), read_sequences(sides.serving)

    def value(sequences: Mapping[str, Mapping[str, Any]], name: str) -> Any:
        return sequences[name]["last_value"] if name in sequences else None

    return [
        {"sequence": name, "retired": value(mine, name), "serving": value(theirs, name)}
        for name in sorted({*mine, *theirs})
        if value(mine, name) != value(theirs, name)
    ]


def _large_objects(sides: Sides, deadline: Deadline) -> dict[str, Any]:
    """Return how many large objects differ, counted as rows of tables are, and whether that is known."""
    with sides.retired.cursor() as mine, sides.serving.cursor() as theirs:
        for cursor in (mine, theirs):
            cursor.execute("SAVEPOINT large_objects")
        try:
            with deadline.explained():
                deadline.limit(sides.retired, sides.serving)
                return _compare_large_objects(sides, mine, theirs)
        except (HoldfastError, psycopg2.Error) as exc:
            reason = _why_not(exc)
            for cursor in (mine, theirs):
                cursor.execute("ROLLBACK TO SAVEPOINT large_objects")
            return {"inserted": None, "updated": None, "deleted": None, "known": False, "reason": reason}


def _why_not(exc: Exception) -> str:
    """Return why something could not be compared; raises the exception again when its session is lost."""
    if isinstance(exc, HoldfastError):
        return exc.msg.rstrip(".")
    if not isinstance(exc, psycopg2.Error) or exc.pgcode is None:
        raise exc
    return "the server reported %s: %s" % (exc.pgcode, primary_message(exc))


def _compare_large_objects(sides: Sides, mine: Any, theirs: Any) -> dict[str, Any]:
    never = sql.SQL("false")
    mine.execute(sql.SQL(READ_LARGE_OBJECTS).format(new=never))
    retired = {oid for oid, _new in mine.fetchall()}
    arrived = sides.arrived.holds(version=sides.version) if sides.arrived is not None else never
    theirs.execute(sql.SQL(READ_LARGE_OBJECTS).format(new=arrived))
    serving = dict(theirs.fetchall())
    common = retired & set(serving)
    if common and sides.written is not None:
        mine.execute("SELECT has_table_privilege('pg_largeobject', 'SELECT')")
        if only_row(mine)[0]:
            mine.execute(sql.SQL(READ_WRITTEN_LARGE_OBJECTS).format(written=sides.written.holds(version=sides.version)))
            common &= {row[0] for row in mine.fetchall()}
    oids = sorted(common)
    ours, others = (read_large_objects(connection, oids) for connection in (sides.retired, sides.serving))
    return {
        "inserted": len(retired - set(serving)),
        "updated": sum(ours[str(oid)] != others[str(oid)] for oid in oids),
        "deleted": sum(not new for oid, new in serving.items() if oid not in retired)
        if sides.arrived is not None
        else None,
        "known": sides.arrived is not None or not set(serving) - retired,
        "reason": None,
    }
