# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying forward: rows that only a retired database has are inserted into the one that serves.

Everything happens in one transaction. A row that a constraint refuses is found by halving, listed with the server's
reason, and left where it is: in the retired database. The triggers of the serving database fire, as they would have
for its own clients; a row that is not stored as it was is refused, too. No constraint is switched off.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.difference import (
    Deadline,
    Difference,
    copy_out,
    spooled,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.export import write_rejections
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.order import (
    ForeignKey,
    order_by_foreign_keys,
    read_foreign_keys,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.pairs import (
    Expressions,
    Pair,
    Table,
    expressions,
    read_tables,
    resolve_tables,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.sequences import catch_up
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.writes import (
    Sides,
    TableWrites,
    check_pair_of_names,
    compare_tables,
    open_sides,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    only_row,
    refuse_standby,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.table_proof import (
    PINNED_SETTINGS,
    primary_message,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import errorcodes, sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: As many rows go into one statement.
BATCH_ROWS = 10_000

#: As many rejections are returned; the file has all of them.
SHOWN_REJECTIONS = 1000

#: The server's details of these say everything that the row holds, which belongs into the file alone.
SHOW_ROWS = frozenset({"23502", "23514"})

#: How long rows wait for a client's transaction that holds a key or a parent of theirs: once, and while the ones that
#: it keeps out are being looked for.
LOCK_TIMEOUT_MS = 5000
NEXT_LOCK_TIMEOUT_MS = 100

#: What a row can be refused for, by class or code; anything else is the table's or the role's fault.
FAULTS_OF_ROWS = frozenset({"21", "22", "23", "40", "44", "P0", "55P03"})

#: How often a statement is run that the server ended to resolve a deadlock with clients.
DEADLOCK_ATTEMPTS = 3

#: A default that is the same for every row, as the server prints it.
CONSTANT = re.compile(r"(?:true|false|-?[0-9.]+|'(?:[^']|'')*')(?:::[\w ]+(?:\([0-9,]+\))?(?:\[\])*)?")

#: Every table name that stands for all of them.
ALL = "all"

# A partitioned parent stands for its partitions, which hold the rows.
PARTITIONS = """
SELECT p.relid::oid FROM pg_catalog.pg_partition_tree(%s::oid) AS p WHERE p.isleaf
"""

PARTITIONED = """
SELECT c.oid, n.nspname, c.relname, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'p'
"""


@dataclass(frozen=True)
class Failure:
    """Why the server, or this module, refused a statement."""

    reason: str
    sqlstate: str | None = None
    constraint: str | None = None
    detail: str | None = None


class Refused(Exception):
    """A failure that is no row's fault: the table takes none."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def insert_what_fits(
    rows: Sequence[int], insert: Callable[[Sequence[int]], Failure | None]
) -> list[tuple[int, Failure]]:
    """Insert ``rows``, halving what is refused until single rows are; return those, with the reasons, in order."""
    failure = insert(rows) if rows else None
    if failure is None:
        return []
    if len(rows) == 1:
        return [(rows[0], failure)]
    middle = len(rows) // 2
    return [*insert_what_fits(rows[:middle], insert), *insert_what_fits(rows[middle:], insert)]


@dataclass
class _Load:
    """The rows of one table on their way: numbered from 1 in the temporary table ``stage``."""

    pair: Pair
    stage: str
    mine: Expressions
    theirs: Expressions
    rows: int
    columns_left: dict[str, int]
    columns_defaulted: list[str]
    rejected: dict[int, Failure]

    @property
    def name(self) -> str:
        return self.pair.name

    @property
    def target(self) -> sql.Composable:
        return self.pair.serving.identifier

    def accepted(self) -> list[int]:
        return [n for n in range(1, self.rows + 1) if n not in self.rejected]


def carry_forward(
    *,
    server: Server,
    database: str,
    retired: str,
    tables: Sequence[str],
    exclude: Sequence[str] = (),
    since: Mapping[str, Any] | None = None,
    snapshot: str | None = None,
    path: str | None = None,
    timeout_s: float = 600,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Insert what only ``retired`` has of ``tables`` into ``database``, and return what pg_carry_forward documents.

    ``tables`` may be ``["all"]``; tables of ``exclude`` are never carried. In check mode the transaction is rolled back
    at its end, so that what is returned is what would be. Raises `HoldfastError` with the codes ``option_invalid``,
    ``database_not_found``, ``server_is_standby``, ``timeout`` and ``rows_differ``; then nothing was carried.
    """
    started = time.monotonic()
    check_pair_of_names(database, retired)
    deadline = Deadline(timeout_s)
    with (
        deadline.explained(),
        open_sides(
            server=server, serving=database, retired=retired, deadline=deadline, since=since, snapshot=snapshot
        ) as sides,
    ):
        refuse_standby(sides.serving)
        names, missing = _wanted(sides, tables)
        if missing:
            raise HoldfastError(
                code="option_invalid",
                msg="Neither database has a table %s." % ", ".join(missing),
                hint="Name tables as public.payment, or all; pg_writes_info lists what each has.",
            )
        excluded = set(resolve_tables(exclude, known=read_tables(sides.retired))[0])
        pairs, _mine, found, differences = compare_tables(sides, deadline=deadline, tables=names)
        wanted, refused = _choose(found, differences, excluded=excluded, named=ALL not in tables)
        with contextlib.closing(_open_for_writing(server, database)) as connection:
            carry = _Carry(sides, connection, deadline)
            with _connection_explained():
                carry.run([pairs[name] for name in wanted], differences)
                rejected = [*carry.rejections(), *_conflicts(sides, pairs, found, differences, excluded)]
                # No transaction takes back what a sequence gave, so check mode leaves them alone.
                moved = [] if check_mode else catch_up(retired=sides.retired, serving=connection, tables=carry.tables())
                file = None
                if check_mode:
                    connection.rollback()
                else:
                    # Before the rows are there for good: without the list nobody would know which are not.
                    file = write_rejections(path, rejected) if path and rejected else None
                    _commit(connection, file)
    for row in rejected:
        if row["sqlstate"] in SHOW_ROWS:
            row["detail"] = None
    return {
        "changed": bool(carry.tables()),
        "database": database,
        "retired": retired,
        "carried": [
            {
                "table": load.name,
                "rows": len(load.accepted()),
                "rejected": len(load.rejected),
                "columns_left": load.columns_left,
                "columns_defaulted": load.columns_defaulted,
            }
            for load in carry.loads
        ],
        "rejected": rejected[:SHOWN_REJECTIONS],
        "rejected_total": len(rejected),
        "rejected_file": file,
        "refused": refused + carry.refused,
        "sequences": moved,
        "rows": sum(len(load.accepted()) for load in carry.loads),
        "verified": carry.verified,
        "duration_s": round(time.monotonic() - started, 3),
    }


def _commit(connection: Connection, file: str | None) -> None:
    """Commit; where the server refuses that, no list stays of rows that were not the only ones refused."""
    try:
        connection.commit()
    except psycopg2.Error:
        if file is not None:
            with contextlib.suppress(OSError):
                os.unlink(file)
        raise


def _wanted(sides: Sides, tables: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of the tables that hold the rows of ``tables``, and the names that are no table's."""
    mine, theirs = read_tables(sides.retired), read_tables(sides.serving)
    known: dict[str, Table] = {**theirs, **mine}
    if ALL in tables:
        return sorted(known), []
    found, missing = resolve_tables(tables, known=known)
    by_oid = {table.oid: name for name, table in mine.items()}
    with sides.retired.cursor() as cursor:
        cursor.execute(PARTITIONED)
        for oid, schema, table, name in cursor.fetchall():
            spellings = {name, "%s.%s" % (schema, table), *([table] if schema == "public" else [])}
            meant = [wanted for wanted in missing if wanted in spellings]
            if meant:
                cursor.execute(PARTITIONS, (oid,))
                found += [by_oid[row[0]] for row in cursor.fetchall() if row[0] in by_oid]
                missing = [wanted for wanted in missing if wanted not in meant]
    return list(dict.fromkeys(found)), missing


def _choose(
    found: Sequence[TableWrites], differences: Mapping[str, Difference], *, excluded: Collection[str], named: bool
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the tables to carry, and those with rows that stay behind as a whole, with the reason."""
    wanted: list[str] = []
    refused: list[dict[str, Any]] = []
    for writes in found:
        reason = None
        if writes.table in excluded:
            reason = "it says which migrations the database has, and that is not to be copied" if named else ""
        elif writes.found_in == "retired":
            reason = "the version that serves has no such table" if named else ""
        elif writes.found_in == "serving":
            reason = "" if not named else "the retired database has no such table"
        elif not writes.known and writes.table not in differences:
            reason = "what is in it could not be compared: %s" % writes.reason
        elif writes.uncertain and writes.by_contents:
            reason = (
                "which of its rows clients have deleted since the exchange of the names cannot be told, because nothing"
                " was recorded when the rollback point was taken"
            )
        if reason is None:
            wanted += [writes.table] if writes.inserted else []
        elif reason:
            refused.append({"table": writes.table, "rows": writes.inserted, "reason": reason})
    return wanted, refused


def _conflicts(
    sides: Sides,
    pairs: Mapping[str, Pair],
    found: Sequence[TableWrites],
    differences: Mapping[str, Difference],
    excluded: Collection[str],
) -> list[dict[str, Any]]:
    """Return the rows whose key the serving database has written itself since, as rejections."""
    rejected = []
    for writes in found:
        if not writes.conflicting or writes.table in excluded:
            continue
        pair = pairs[writes.table]
        query = sql.SQL(
            "SELECT {} FROM pg_temp.{} AS c JOIN ONLY {} AS t ON t.ctid = c.tid"
            " WHERE c.change = 'conflicting' ORDER BY 1"
        ).format(_identity(pair), sql.Identifier(str(differences[writes.table].changes)), pair.retired.identifier)
        with sides.retired.cursor() as cursor:
            cursor.execute(query)
            reason = "the database that serves has another row under this key, written since the exchange of the names"
            rejected += [_rejection(pair, row[0], Failure(reason)) for row in cursor.fetchall()]
    return rejected


def _open_for_writing(server: Server, database: str) -> Connection:
    # Triggers find what they use by the search path that clients of the database have.
    settings = {name: value for name, value in PINNED_SETTINGS.items() if name != "search_path"}
    connection = server.connect(database, application_name="holdfast carry forward", settings=settings)
    if connection.server_version >= 170000:
        with connection.cursor() as cursor:
            cursor.execute("SET transaction_timeout = 0")
    connection.set_session(isolation_level="READ COMMITTED", readonly=False, autocommit=False)
    with connection.cursor() as cursor:
        # The server's own functions come first, wherever that path has them.
        cursor.execute(
            "SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', 'pg_catalog',"
            " nullif(pg_catalog.current_setting('search_path'), '')), true)"
        )
    return connection


def _identity(pair: Pair) -> sql.Composable:
    """Return an expression for the key of a row of the retired table as jsonb, or its place where there is no key."""
    if not pair.key:
        return sql.SQL("jsonb_build_object('ctid', t.ctid::text)")
    return sql.SQL("jsonb_build_object({})").format(
        sql.SQL(", ").join(sql.SQL("{}, {}").format(sql.Literal(name), sql.Identifier("t", name)) for name in pair.key)
    )


def _rejection(pair: Pair, key: Any, failure: Failure) -> dict[str, Any]:
    return {
        "table": pair.name,
        "key": key,
        "reason": failure.reason,
        "sqlstate": failure.sqlstate,
        "constraint": failure.constraint,
        "detail": failure.detail,
    }


class _Carry:
    """One transaction on the serving database."""

    def __init__(self, sides: Sides, connection: Connection, deadline: Deadline) -> None:
        self.sides = sides
        self.connection = connection
        self.deadline = deadline
        self.loads: list[_Load] = []
        self.refused: list[dict[str, Any]] = []
        self.verified = False

    def run(self, pairs: Sequence[Pair], differences: Mapping[str, Difference]) -> None:
        """Insert what can be inserted; raises `HoldfastError` with the code ``rows_differ`` when it is not equal."""
        by_oid = {pair.serving.oid: pair for pair in pairs}
        keys = read_foreign_keys(self.connection, list(by_oid))
        groups, deferred, impossible = order_by_foreign_keys(list(by_oid), keys)
        if impossible:
            circle = sorted({by_oid[key.child].name for key in impossible})
            raise HoldfastError(
                code="option_invalid",
                msg="The foreign keys %s lead around in a circle through %s, and none of them is deferrable."
                % (", ".join(key.name for key in impossible), ", ".join(circle)),
                hint="Carry only some of these tables, or insert their rows from the exported files by hand.",
                tables=circle,
            )
        self._set_constraints(deferred)
        for group in groups:
            loads = [
                self._load(by_oid[oid], differences[by_oid[oid].name], number=len(self.loads) + n)
                for n, oid in enumerate(group)
            ]
            try:
                self._insert_group(loads, [key for key in deferred if key.child in group])
                self.loads += loads
            except Refused as exc:
                self._execute("ROLLBACK TO SAVEPOINT load")
                self.refused += [
                    {"table": load.name, "rows": load.rows, "reason": exc.failure.reason} for load in loads
                ]
        self._verify()

    def tables(self) -> list[str]:
        """The names of the tables that rows were carried into."""
        return [load.name for load in self.loads if load.accepted()]

    def rejections(self) -> list[dict[str, Any]]:
        """Return the rejected rows with their keys."""
        rejected = []
        for load in self.loads:
            if not load.rejected:
                continue
            with self.connection.cursor() as cursor:
                cursor.execute(
                    sql.SQL("SELECT n, key FROM pg_temp.{} WHERE n = ANY (%s) ORDER BY n").format(
                        sql.Identifier(load.stage)
                    ),
                    (list(load.rejected),),
                )
                rejected += [_rejection(load.pair, key, load.rejected[n]) for n, key in cursor.fetchall()]
        return rejected

    def _execute(self, statement: Any) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)

    def _set_constraints(self, deferred: Sequence[ForeignKey]) -> None:
        """Have everything checked at once, so that the row is known, but for the keys that close a circle."""
        self._execute("SET CONSTRAINTS ALL IMMEDIATE")
        for key in deferred:
            self._execute(sql.SQL("SET CONSTRAINTS {} DEFERRED").format(sql.Identifier(key.schema, key.name)))

    def _load(self, pair: Pair, difference: Difference, *, number: int) -> _Load:
        """Copy the rows of one table beside the table they are for, as text, so that each value can be refused."""
        mine, theirs = expressions(pair, self.connection)
        stage = "holdfast_stage_%d" % number
        common = {column.name for _mine, column in pair.columns}
        rows = sql.SQL("pg_temp.{} AS c JOIN ONLY {} AS t ON t.ctid = c.tid WHERE c.change = 'inserted'").format(
            sql.Identifier(str(difference.changes)), mine.table
        )
        order = sql.SQL(", ").join(sql.Identifier("t", name) for name in pair.key) if pair.key else sql.SQL("t.ctid")
        columns = [sql.Identifier("c%d" % n) for n in range(len(pair.columns))]
        self._execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (n integer PRIMARY KEY, key jsonb, hash bigint, {})").format(
                sql.Identifier(stage), sql.SQL(", ").join(sql.SQL("{} text").format(column) for column in columns)
            )
        )
        query = sql.SQL("SELECT row_number() OVER (ORDER BY {}), {}, {}, {} FROM {}").format(
            order,
            _identity(pair),
            mine.row,
            sql.SQL(", ").join(sql.Identifier("t", column.name) for column, _theirs in pair.columns),
            rows,
        )
        encoding = sql.SQL("ENCODING {}").format(sql.Literal(self.sides.encoding))
        self.deadline.limit(self.sides.retired, self.connection)
        with spooled() as spool:
            count = copy_out(self.sides.retired, query, spool, options=encoding)
            spool.seek(0)
            with self.connection.cursor() as cursor:
                cursor.copy_expert(
                    sql.SQL("COPY pg_temp.{} FROM STDIN ({})").format(sql.Identifier(stage), encoding), spool
                )
        self._execute(sql.SQL("ANALYZE pg_temp.{}").format(sql.Identifier(stage)))
        return _Load(
            pair=pair,
            stage=stage,
            mine=mine,
            theirs=theirs,
            rows=count,
            columns_left=self._columns_left(pair, rows),
            columns_defaulted=[c.name for c in pair.serving.columns if c.name not in common and not c.generated],
            rejected={},
        )

    def _columns_left(self, pair: Pair, rows: sql.Composable) -> dict[str, int]:
        """Return, for each column that only the retired table has, how many of the rows have a value of their own."""
        names = {column.name for column in pair.serving.columns}
        left = [column for column in pair.retired.columns if column.name not in names and not column.generated]
        if not left:
            return {}
        counts = []
        for column in left:
            constant = column.default if column.default and CONSTANT.fullmatch(column.default) else "NULL"
            counts.append(
                sql.SQL("count(*) FILTER (WHERE {}::text IS DISTINCT FROM ({})::text)").format(
                    sql.Identifier("t", column.name), sql.SQL(constant)
                )
            )
        with self.sides.retired.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(counts), rows))
            return dict(zip((column.name for column in left), only_row(cursor)))

    def _insert_group(self, loads: Sequence[_Load], circle: Sequence[ForeignKey]) -> None:
        """Insert the rows of tables that depend on each other; usually it is one."""
        while True:
            self._execute("SAVEPOINT load")
            for load in loads:
                self._insert_load(load)
            orphans = [(load, n, key) for key in circle for load, n in self._orphans(loads, key)]
            if not orphans:
                self._execute("RELEASE SAVEPOINT load")
                return
            self._execute("ROLLBACK TO SAVEPOINT load")
            for load, n, key in orphans:
                reason = "a row of %s that it refers to is not there" % key.parent_name
                load.rejected[n] = Failure(reason, errorcodes.FOREIGN_KEY_VIOLATION, key.name)

    def _insert_load(self, load: _Load) -> None:
        self._limit_lock_waits(LOCK_TIMEOUT_MS)
        rows = load.accepted()
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            load.rejected.update(insert_what_fits(batch, lambda some: self._insert(load, some)))
        # A row may refer to one of its own table that came later.
        waiting = self._refused_by_foreign_key(load)
        while waiting and load.pair.serving.oid in self._parents(load):
            for n in waiting:
                del load.rejected[n]
            load.rejected.update(insert_what_fits(waiting, lambda some: self._insert(load, some)))
            still = self._refused_by_foreign_key(load)
            if len(still) == len(waiting):
                break
            waiting = still

    def _limit_lock_waits(self, timeout_ms: int) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (str(timeout_ms),))

    def _refused_by_foreign_key(self, load: _Load) -> list[int]:
        return [n for n, failure in load.rejected.items() if failure.sqlstate == errorcodes.FOREIGN_KEY_VIOLATION]

    def _parents(self, load: _Load) -> set[int]:
        keys = read_foreign_keys(self.connection, [load.pair.serving.oid])
        return {parent for key in keys for parent in key.parents}

    def _insert(self, load: _Load, rows: Sequence[int]) -> Failure | None:
        """Insert some rows and return why the server refused them, or None."""
        for attempt in range(1, DEADLOCK_ATTEMPTS + 1):
            self.deadline.limit(self.connection)
            self._execute("SAVEPOINT rows")
            try:
                with self.connection.cursor() as cursor:
                    cursor.execute(self._insertion(load, rows))
                    stored, expected, count = only_row(cursor)
            except psycopg2.Error as exc:
                if exc.pgcode is None or exc.pgcode == errorcodes.QUERY_CANCELED or self.connection.closed:
                    raise
                failure = _failure(exc)
                self._execute("ROLLBACK TO SAVEPOINT rows")
                if failure.sqlstate == errorcodes.LOCK_NOT_AVAILABLE:
                    self._limit_lock_waits(NEXT_LOCK_TIMEOUT_MS)
                if failure.sqlstate == errorcodes.DEADLOCK_DETECTED and attempt < DEADLOCK_ATTEMPTS:
                    continue
                if str(failure.sqlstate)[:2] not in FAULTS_OF_ROWS and failure.sqlstate not in FAULTS_OF_ROWS:
                    raise Refused(failure) from exc
                return failure
            if stored == expected and count == len(rows):
                self._execute("RELEASE SAVEPOINT rows")
                return None
            self._execute("ROLLBACK TO SAVEPOINT rows")
            break
        return Failure(
            "it would not be stored as it was: a trigger, or a column that holds less, would change it"
            if count == len(rows)
            else "a trigger or a rule of the table keeps it out"
        )

    def _insertion(self, load: _Load, rows: Sequence[int]) -> sql.Composable:
        """Return the statement that inserts rows; its result: the sums of their hashes then and before, and a count."""
        some = sql.SQL("s.n = ANY ({}::integer[])").format(sql.Literal(list(rows)))
        return sql.SQL(
            "WITH stored AS (INSERT INTO {table} AS t ({columns}) OVERRIDING SYSTEM VALUE"
            " SELECT {values} FROM pg_temp.{stage} AS s WHERE {some} ORDER BY s.n RETURNING {hash} AS hash)"
            " SELECT sum(hash), (SELECT sum(s.hash) FROM pg_temp.{stage} AS s WHERE {some}), count(*) FROM stored"
        ).format(
            table=load.target,
            columns=sql.SQL(", ").join(sql.Identifier(theirs.name) for _mine, theirs in load.pair.columns),
            values=sql.SQL(", ").join(
                sql.SQL("s.{}::{}").format(sql.Identifier("c%d" % n), sql.SQL(theirs.declared))
                for n, (_mine, theirs) in enumerate(load.pair.columns)
            ),
            stage=sql.Identifier(load.stage),
            some=some,
            hash=load.theirs.row,
        )

    def _orphans(self, loads: Sequence[_Load], key: ForeignKey) -> list[tuple[_Load, int]]:
        """Return the rows that a key with a deferred check would refuse."""
        load = next(load for load in loads if load.pair.serving.oid == key.child)
        columns = {theirs.name: (n, theirs.declared) for n, (_mine, theirs) in enumerate(load.pair.columns)}
        values = [
            sql.SQL("s.{}::{}").format(sql.Identifier("c%d" % columns[name][0]), sql.SQL(columns[name][1]))
            for name in key.columns
        ]
        query = sql.SQL(
            "SELECT s.n FROM pg_temp.{stage} AS s"
            " WHERE s.n <> ALL ({rejected}::integer[]) AND num_nulls({values}) = 0"
            "   AND NOT EXISTS (SELECT FROM {parent} AS p WHERE ({referenced}) = ({values}))"
        ).format(
            stage=sql.Identifier(load.stage),
            rejected=sql.Literal(list(load.rejected)),
            values=sql.SQL(", ").join(values),
            parent=sql.SQL(key.parent_name),
            referenced=sql.SQL(", ").join(sql.Identifier("p", name) for name in key.referenced),
        )
        with self.connection.cursor() as cursor:
            cursor.execute(query)
            return [(load, row[0]) for row in cursor.fetchall()]

    def _verify(self) -> None:
        """Compare the rows as they are in the serving database now with those that were read from the retired one."""
        for load in self.loads:
            self.deadline.limit(self.connection)
            with self.connection.cursor() as cursor:
                cursor.execute(self._equal_rows(load))
                equal = int(only_row(cursor)[0])
            if equal != len(load.accepted()):
                raise HoldfastError(
                    code="rows_differ",
                    msg="Of %d rows for %s, %d are equal to those in the retired database; nothing was carried."
                    % (len(load.accepted()), load.name, equal),
                    hint="A trigger of %s changes rows after they are inserted; insert them from the exported file."
                    % load.name,
                )
        self.verified = True

    def _equal_rows(self, load: _Load) -> sql.Composable:
        stage, rejected = sql.Identifier(load.stage), sql.Literal(list(load.rejected))
        if not load.pair.key:
            return sql.SQL(
                "SELECT coalesce(sum(least(s.rows, t.rows)), 0) FROM"
                " (SELECT hash, count(*) AS rows FROM pg_temp.{} AS s WHERE s.n <> ALL ({}::integer[]) GROUP BY 1) AS s"
                " JOIN (SELECT {} AS hash, count(*) AS rows FROM ONLY {} AS t GROUP BY 1) AS t USING (hash)"
            ).format(stage, rejected, load.theirs.row, load.target)
        places = {theirs.name: n for n, (_mine, theirs) in enumerate(load.pair.columns)}
        same = sql.SQL(" AND ").join(
            sql.SQL("{} = s.{}::{}").format(
                sql.Identifier("t", theirs.name), sql.Identifier("c%d" % places[theirs.name]), sql.SQL(theirs.declared)
            )
            for _mine, theirs in load.pair.key_columns
        )
        return sql.SQL(
            "SELECT count(*) FROM pg_temp.{} AS s JOIN ONLY {} AS t ON {}"
            " WHERE {} = s.hash AND s.n <> ALL ({}::integer[])"
        ).format(stage, load.target, same, load.theirs.row, rejected)


def _failure(exc: psycopg2.Error) -> Failure:
    detail = exc.diag.message_detail
    return Failure(
        reason=primary_message(exc),
        sqlstate=exc.pgcode,
        constraint=exc.diag.constraint_name,
        detail=" ".join(detail.split())[:500] if detail else None,
    )


@contextlib.contextmanager
def _connection_explained() -> Iterator[None]:
    """Say of a lost connection what became of the rows."""
    try:
        yield
    except psycopg2.Error as exc:
        if exc.pgcode is not None and exc.pgcode != errorcodes.ADMIN_SHUTDOWN:
            raise
        raise HoldfastError(
            code="connection_failed",
            msg="The connection was lost while rows were carried forward: %s" % primary_message(exc),
            hint="Run it again: what was carried already is recognised, and nothing is inserted twice.",
        ) from exc
