# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The difference of one table between a retired database, which stands still, and the one that serves in its place.

The serving database was the rollback point until the names were exchanged, and clients write to it since. So a row of
it counts as the rollback point's only when its version is older than the exchange, which its ``xmin`` tells: the
exchange has a transaction id, there was no session in either database when it committed, and so every version written
by a client afterwards has a later one.

The same helps on the other side. A row version of the retired database that is older than the reading before the
rollback point was taken is in the rollback point unchanged, because it was there then and is there still. So only
versions that are younger are compared, one by one by their key. Where that reading is not known, the contents of both
tables are compared by sums over groups of rows, then row by row in the groups that differ.

Transaction ids have 32 bits in a row and come again. Compared within the range of ids that were given out since, an
old version can be taken for a young one, never a young one for an old one; that costs time, and no row.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.pairs import (
    Pair,
    expressions,
    key_definition,
    same_key,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import server_version
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.table_proof import STILL_THE_SAME_FILE

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import errorcodes, sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: Groups of rows whose sums are compared first, so that rows are compared only in groups that differ.
GROUPS = 4096

#: What is copied between the databases stays in memory up to this size.
SPOOL_BYTES = 32 * 1024 * 1024

#: Up to as many transaction ids are listed in a condition.
LISTED_XIDS = 20_000

#: Beyond this distance, transaction ids are no longer compared.
MAX_XIDS = 1 << 31


@dataclass(frozen=True)
class XidRange:
    """The transaction ids from ``first`` up to, not including, ``end``, counted without coming again (xid8)."""

    first: int
    end: int

    @property
    def usable(self) -> bool:
        """Whether the 32 bits in a row tell an id of the range from earlier ones."""
        return self.end - self.first < MAX_XIDS

    def holds(self, *, version: int) -> sql.Composable:
        """Return the condition that the version of the row of ``t`` was written in the range.

        A list is searched by hash from version 14 on; there is no order of such ids that an operator could use.
        """
        if version >= 140000 and self.end - self.first <= LISTED_XIDS:
            ids = ",".join(str(number % (1 << 32)) for number in range(self.first, self.end))
            return sql.SQL("t.xmin = ANY ({}::xid[])").format(sql.Literal("{%s}" % ids))
        return sql.SQL("((t.xmin::text::bigint - {}) & 4294967295) < {}").format(
            sql.Literal(self.first % (1 << 32)), sql.Literal(max(self.end - self.first, 0))
        )


class Deadline:
    """The moment by which the work must be done."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._end = clock() + timeout_s

    def left_ms(self) -> int:
        """Return the milliseconds left; raises `HoldfastError` with the code ``timeout`` when there are none."""
        left_ms = int((self._end - self._clock()) * 1000)
        if left_ms <= 0:
            raise self.missed()
        return left_ms

    def missed(self) -> HoldfastError:
        """Return the failure for what was not done in time."""
        return HoldfastError(
            code="timeout",
            msg="It was not done within %g s." % self.timeout_s,
            hint="Run it again with more time; the retired database keeps everything.",
        )

    def limit(self, *connections: Connection) -> None:
        """Let statements of the current transactions run no longer than what is left."""
        left_ms = self.left_ms()
        for connection in connections:
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", (str(left_ms),))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the server's word that the time is up into `missed`."""
        try:
            yield
        except psycopg2.Error as exc:
            if exc.pgcode == errorcodes.QUERY_CANCELED:
                raise self.missed() from exc
            raise


@dataclass(frozen=True)
class Evidence:
    """What is known of a table without reading it.

    ``unchanged``: nothing was written to it since the rollback point. ``append_only``: no row of it was changed or
    deleted since. ``none_deleted``: no row was deleted, so that only those whose key was changed can be gone.
    ``written``: the transaction ids since the reading before the rollback point, or None when versions cannot be told
    apart by them.
    """

    unchanged: bool = False
    append_only: bool = False
    none_deleted: bool = False
    written: XidRange | None = None


@dataclass(frozen=True)
class Difference:
    """How many rows of the retired table differ, and where they are to be found.

    ``changes`` is the temporary table of the retired session that lists their ``tid`` and ``change``; ``deleted_keys``
    is a CSV of the keys (of whole rows, for a table without a key) that only the rollback point had.
    """

    inserted: int = 0
    updated: int = 0
    conflicting: int = 0
    deleted: int | None = 0
    changes: str | None = None
    deleted_keys: IO[bytes] | None = None


@contextlib.contextmanager
def spooled() -> Iterator[IO[bytes]]:
    """A file for bytes on their way from one database to the other."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
        yield file


class TableComparison:
    """The comparison of one pair.

    ``retired`` and ``serving`` are sessions in a transaction of REPEATABLE READ that may write temporary tables.
    ``arrived`` holds the transaction ids given out since the exchange, None when its own is not known; ``encoding`` is
    that of the retired database.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        retired: Connection,
        serving: Connection,
        evidence: Evidence,
        arrived: XidRange | None,
        number: int,
        encoding: str,
        deadline: Deadline,
    ) -> None:
        self.pair = pair
        self.retired = retired
        self.serving = serving
        self.evidence = evidence
        self.arrived = arrived
        self.encoding = encoding
        self.deadline = deadline
        self.mine, self.theirs = expressions(pair, retired)
        self.changes = "changes_%d" % number
        written, version = evidence.written, server_version(retired)
        self.new = arrived.holds(version=version) if arrived is not None else sql.SQL("false")
        self.candidate = written.holds(version=version) if written is not None else sql.SQL("true")

    def run(self) -> Difference:
        """Return the difference; raises `HoldfastError` with the code ``timeout`` or ``snapshot_lost``.

        The temporary table of changes stays in the retired session; the serving session keeps neither tables nor locks.
        """
        with self.deadline.explained(), _savepoint(self.retired, keep=True), _savepoint(self.serving):
            self._limit()
            difference = self._by_key() if self.pair.key else self._by_row()
            with self.serving.cursor() as cursor:
                cursor.execute(STILL_THE_SAME_FILE, (self.pair.serving.oid,))
                same = cursor.fetchone()
            if same is None or not same[0]:
                raise HoldfastError(
                    code="snapshot_lost",
                    msg="It was truncated or rewritten in the database that serves, while it was compared.",
                    hint="Run it again when no TRUNCATE, VACUUM FULL or ALTER TABLE runs on it.",
                )
            return difference

    # --- tables with a key

    def _by_key(self) -> Difference:
        groups: list[int] | None = None
        if self.evidence.written is None:
            groups = self._different_groups(self.mine.key, self.theirs.key, sums=(self.mine.row, self.theirs.row))
            if not groups:
                return Difference()
        self._send_written(groups)
        with spooled() as spool:
            self._copy_out(self.serving, self._classified(), spool)
            counts = self._receive_changes(spool)
        deleted, keys = self._deleted(groups)
        return Difference(
            inserted=counts.get("inserted", 0),
            updated=counts.get("updated", 0),
            conflicting=counts.get("conflicting", 0),
            deleted=deleted,
            changes=self.changes if counts else None,
            deleted_keys=keys,
        )

    def _send_written(self, groups: list[int] | None) -> None:
        """Copy place, key and hash of the rows that may differ into the serving session, as the table ``written``."""
        where = [self.candidate]
        if groups is not None:
            where.append(_in_groups(self.mine.key, groups))
        query = sql.SQL("SELECT t.ctid, {}, {} FROM ONLY {} AS t WHERE {}").format(
            sql.SQL(", ").join(self.mine.key_values), self.mine.row, self.mine.table, sql.SQL(" AND ").join(where)
        )
        self._create("written", sql.SQL("tid text, {}, hash bigint").format(key_definition(self.pair)))
        self._transfer(query, "written")

    def _classified(self) -> sql.Composable:
        """Return the query for place and change of each row that differs.

        A key that the serving database has written since the exchange and that holds something else is a conflict: what
        the rollback point had under it is not known any more.
        """
        return sql.SQL(
            "SELECT w.tid, CASE WHEN t.ctid IS NULL THEN 'inserted' WHEN {new} THEN 'conflicting' ELSE 'updated' END"
            "  FROM pg_temp.written AS w LEFT JOIN ONLY {table} AS t ON {same}"
            " WHERE t.ctid IS NULL OR {row} <> w.hash"
        ).format(new=self.new, table=self.theirs.table, same=same_key(self.theirs, "w"), row=self.theirs.row)

    def _deleted(self, groups: list[int] | None) -> tuple[int | None, IO[bytes] | None]:
        """Return how many keys only the rollback point had, and a CSV of them."""
        if self.evidence.append_only:
            return 0, None
        if self.arrived is None:
            return None, None
        gone = sql.SQL("NOT {new} AND NOT EXISTS (SELECT FROM pg_temp.written AS w WHERE {same})").format(
            new=self.new, same=same_key(self.theirs, "w")
        )
        if groups is None:
            # What is left of both sides should be the rows that nobody has touched since the rollback point.
            kept = sql.SQL("NOT {}").format(self.candidate)
            if self.evidence.none_deleted and self._same_sums((self.mine.key, self.theirs.key), where=(kept, gone)):
                return 0, None
            groups = self._different_groups(self.mine.key, self.theirs.key, where=(kept, gone))
            if not groups:
                return 0, None
            self._create("kept", key_definition(self.pair))
            query = sql.SQL("SELECT {} FROM ONLY {} AS t WHERE {} AND {}").format(
                sql.SQL(", ").join(self.mine.key_values), self.mine.table, kept, _in_groups(self.mine.key, groups)
            )
            self._transfer(query, "kept")
            gone = sql.SQL("{} AND NOT EXISTS (SELECT FROM pg_temp.kept AS k WHERE {})").format(
                gone, same_key(self.theirs, "k")
            )
        names = [theirs.name for _mine, theirs in self.pair.key_columns]
        query = sql.SQL("SELECT {} FROM ONLY {} AS t WHERE {} AND {} ORDER BY {}").format(
            sql.SQL(", ").join(sql.Identifier("t", name) for name in names),
            self.theirs.table,
            gone,
            _in_groups(self.theirs.key, groups),
            sql.SQL(", ").join(sql.Identifier("t", name) for name in names),
        )
        return self._keys_file(query)

    def _keys_file(self, query: sql.Composable) -> tuple[int, IO[bytes] | None]:
        file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 (whoever writes the export closes it)
        count = self._copy_out(self.serving, query, file, options="FORMAT csv, HEADER")
        if not count:
            file.close()
            return 0, None
        return count, file

    # --- tables without a key

    def _by_row(self) -> Difference:
        """Compare as multisets: rows are told apart by their values over the common columns, and counted."""
        groups = self._different_groups(self.mine.row, self.theirs.row)
        if not groups:
            return Difference()
        query = sql.SQL(
            "SELECT {row}, count(*), count(*) FILTER (WHERE {candidate})"
            "  FROM ONLY {table} AS t WHERE {where} GROUP BY 1"
        ).format(
            row=self.mine.row,
            candidate=self.candidate,
            table=self.mine.table,
            where=_in_groups(self.mine.row, groups),
        )
        self._create("written", sql.SQL("hash bigint, rows bigint, candidates bigint"))
        self._transfer(query, "written")
        self._create("surplus", sql.SQL("hash bigint, inserted bigint, deleted bigint"))
        with self.serving.cursor() as cursor:
            cursor.execute(
                sql.SQL(
                    "INSERT INTO pg_temp.surplus"
                    " SELECT hash,"
                    "        least(coalesce(w.candidates, 0), greatest(coalesce(w.rows, 0) - coalesce(s.rows, 0), 0)),"
                    "        greatest(coalesce(s.old, 0) - coalesce(w.rows, 0), 0)"
                    "   FROM pg_temp.written AS w FULL JOIN"
                    "        (SELECT {row} AS hash, count(*) AS rows, count(*) FILTER (WHERE NOT {new}) AS old"
                    "           FROM ONLY {table} AS t WHERE {where} GROUP BY 1) AS s USING (hash)"
                ).format(
                    row=self.theirs.row,
                    new=self.new,
                    table=self.theirs.table,
                    where=_in_groups(self.theirs.row, groups),
                )
            )
        with spooled() as spool:
            inserted_rows = sql.SQL("SELECT hash, inserted FROM pg_temp.surplus WHERE inserted > 0")
            self._copy_out(self.serving, inserted_rows, spool)
            inserted = self._locate_surplus(spool)
        deleted: int | None = None
        rows: IO[bytes] | None = None
        if self.arrived is not None:
            deleted, rows = self._keys_file(self._deleted_rows(groups))
        return Difference(
            inserted=inserted, deleted=deleted, changes=self.changes if inserted else None, deleted_keys=rows
        )

    def _locate_surplus(self, spool: IO[bytes]) -> int:
        """Choose rows of the retired table, the youngest first, for the numbers in ``spool``; return how many."""
        surplus = self.changes + "_surplus"
        with self.retired.cursor() as cursor:
            cursor.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} (hash bigint, rows bigint) ON COMMIT DROP").format(
                    sql.Identifier(surplus)
                )
            )
            self._copy_in(self.retired, surplus, spool)
            cursor.execute(
                sql.SQL(
                    "CREATE TEMPORARY TABLE {changes} ON COMMIT DROP AS SELECT n.tid, 'inserted'::text AS change"
                    "  FROM (SELECT t.ctid AS tid, {row} AS hash,"
                    "               row_number() OVER (PARTITION BY {row} ORDER BY t.ctid DESC) AS number"
                    "          FROM ONLY {table} AS t WHERE {candidate}) AS n"
                    "  JOIN pg_temp.{surplus} AS s ON s.hash = n.hash AND n.number <= s.rows"
                ).format(
                    changes=sql.Identifier(self.changes),
                    surplus=sql.Identifier(surplus),
                    row=self.mine.row,
                    table=self.mine.table,
                    candidate=self.candidate,
                )
            )
            return int(cursor.rowcount)

    def _deleted_rows(self, groups: list[int]) -> sql.Composable:
        return sql.SQL(
            "SELECT {columns} FROM (SELECT t.*, {row} AS {hash},"
            "               row_number() OVER (PARTITION BY {row} ORDER BY t.ctid) AS {number}"
            "          FROM ONLY {table} AS t WHERE NOT {new} AND {where}) AS n"
            "  JOIN pg_temp.surplus AS s ON s.hash = n.{hash} AND n.{number} <= s.deleted"
        ).format(
            columns=sql.SQL(", ").join(sql.Identifier("n", theirs.name) for _mine, theirs in self.pair.columns)
            or sql.SQL("n.{}").format(sql.Identifier(HASH_COLUMN)),
            row=self.theirs.row,
            hash=sql.Identifier(HASH_COLUMN),
            number=sql.Identifier(NUMBER_COLUMN),
            table=self.theirs.table,
            new=self.new,
            where=_in_groups(self.theirs.row, groups),
        )

    # --- both

    def _different_groups(
        self,
        mine: sql.Composable,
        theirs: sql.Composable,
        *,
        sums: tuple[sql.Composable, sql.Composable] | None = None,
        where: tuple[sql.Composable, sql.Composable] | None = None,
    ) -> list[int]:
        """Return the groups, by the hashes ``mine`` and ``theirs``, that have other rows on one side than the other."""
        sums = sums or (mine, theirs)
        where = where or (sql.SQL("true"), sql.SQL("true"))
        query = "SELECT ({group} & {last})::int, count(*), sum({sum}) FROM ONLY {table} AS t WHERE {where} GROUP BY 1"
        found = self._ask_both(
            *(
                sql.SQL(query).format(
                    group=group, last=sql.Literal(GROUPS - 1), sum=sums[side], table=table, where=where[side]
                )
                for side, (group, table) in enumerate(((mine, self.mine.table), (theirs, self.theirs.table)))
            )
        )
        before, after = ({row[0]: row[1:] for row in rows} for rows in found)
        return sorted(group for group in {*before, *after} if before.get(group) != after.get(group))

    def _same_sums(
        self, sums: tuple[sql.Composable, sql.Composable], *, where: tuple[sql.Composable, sql.Composable]
    ) -> bool:
        """Return whether both sides have as many rows and the same sum, a third of the work of `_different_groups`."""
        query = "SELECT count(*), sum({}) FROM ONLY {} AS t WHERE {}"
        tables = (self.mine.table, self.theirs.table)
        mine, theirs = self._ask_both(*(sql.SQL(query).format(sums[n], tables[n], where[n]) for n in (0, 1)))
        return mine == theirs

    def _ask_both(self, mine: sql.Composable, theirs: sql.Composable) -> tuple[list[Any], list[Any]]:
        """Return the rows of a query on the retired and of one on the serving database, run at the same time."""
        self._limit()
        with ThreadPoolExecutor(max_workers=1) as executor:
            pending = executor.submit(_ask, self.retired, mine)
            other = _ask(self.serving, theirs)
            return pending.result(), other

    def _limit(self) -> None:
        self.deadline.limit(self.retired, self.serving)

    def _create(self, table: str, definition: sql.Composable) -> None:
        with self.serving.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE TEMPORARY TABLE {} ({})").format(sql.Identifier(table), definition))

    def _transfer(self, query: sql.Composable, table: str) -> None:
        """Copy the result of a query on the retired database into a temporary table of the serving session."""
        with spooled() as spool:
            self._limit()
            self._copy_out(self.retired, query, spool)
            self._limit()
            self._copy_in(self.serving, table, spool)

    def _receive_changes(self, spool: IO[bytes]) -> Mapping[str, int]:
        """Make the temporary table of changes in the retired session; return the number of each kind."""
        if not spool.tell():
            return {}
        changes = sql.Identifier(self.changes)
        with self.retired.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE TEMPORARY TABLE {} (tid tid, change text) ON COMMIT DROP").format(changes))
            self._copy_in(self.retired, self.changes, spool)
            cursor.execute(sql.SQL("SELECT change, count(*) FROM pg_temp.{} GROUP BY 1").format(changes))
            return dict(cursor.fetchall())

    def _copy_out(self, connection: Connection, query: sql.Composable, file: Any, *, options: str | None = None) -> int:
        """Write the result of a query to ``file`` and return the number of rows."""
        chosen = sql.SQL(options) if options else sql.SQL("ENCODING {}").format(sql.Literal(self.encoding))
        return copy_out(connection, query, file, options=chosen)

    def _copy_in(self, connection: Connection, table: str, file: Any) -> None:
        file.seek(0)
        name = sql.Identifier(table)
        with connection.cursor() as cursor:
            statement = sql.SQL("COPY pg_temp.{} FROM STDIN (ENCODING {})").format(name, sql.Literal(self.encoding))
            cursor.copy_expert(statement, file)
            cursor.execute(sql.SQL("ANALYZE pg_temp.{}").format(name))


#: Columns beside those of the table; the names fit no table by accident.
HASH_COLUMN = "holdfast hash"
NUMBER_COLUMN = "holdfast number"


def copy_out(connection: Connection, query: sql.Composable, file: Any, *, options: sql.Composable) -> int:
    """Write the result of a query to ``file``, as COPY does with ``options``, and return the number of rows."""
    with connection.cursor() as cursor:
        cursor.copy_expert(sql.SQL("COPY ({}) TO STDOUT ({})").format(query, options), file)
        return int(cursor.rowcount)


def _ask(connection: Connection, query: sql.Composable) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def _in_groups(group: sql.Composable, groups: Sequence[int]) -> sql.Composable:
    if len(groups) == GROUPS:
        return sql.SQL("true")
    return sql.SQL("({} & {})::int = ANY ({}::int[])").format(group, sql.Literal(GROUPS - 1), sql.Literal(list(groups)))


@contextlib.contextmanager
def _savepoint(connection: Connection, *, keep: bool = False) -> Iterator[None]:
    """Undo what the block did, unless it succeeded and is to be kept; only that gives locks back before the end."""
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT comparison")
    done = False
    try:
        yield
        done = True
    finally:
        if not connection.closed:
            with connection.cursor() as cursor:
                if not (done and keep):
                    cursor.execute("ROLLBACK TO SAVEPOINT comparison")
                cursor.execute("RELEASE SAVEPOINT comparison")
