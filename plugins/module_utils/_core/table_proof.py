# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of a table: how many rows it holds, and a hash of them that does not depend on their order."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any


#: The one algorithm so far. It gives the same hashes on every version from 13 to 18: those of PostgreSQL's hash
#: functions, whose results are part of the on-disk format of hash partitions, and of text output where they would
#: not tell different values apart.
ALGORITHM = "typed-1"

#: What text output and name resolution depend on, and what must not end a long read or hide rows from it.
PINNED_SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "xmloption": "content",
    "quote_all_identifiers": "off",
    "row_security": "off",
    "jit": "off",  # compiling costs more than it saves for these expressions
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}

TYPES_OF_COLUMNS = """
WITH RECURSIVE used (oid) AS (
    SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = ANY (%(relations)s) AND a.attnum > 0 AND a.atttypid <> 0
    UNION
    SELECT t.typbasetype FROM pg_type t JOIN used USING (oid) WHERE t.typtype = 'd'
)
SELECT t.oid, n.nspname, t.typname, t.typtype, t.typbasetype, t.typtypmod,
       EXISTS (SELECT FROM pg_cast c
                WHERE c.castsource = t.oid AND c.casttarget = 'text'::regtype AND c.castmethod = 'f'
                  AND c.oid >= 16384) AS text_function  -- FirstNormalObjectId: made by a user or an extension
  FROM pg_type t JOIN used USING (oid) JOIN pg_namespace n ON n.oid = t.typnamespace
"""

COLUMNS = """
SELECT attrelid, attname, atttypid, atttypmod
  FROM pg_attribute
 WHERE attrelid = ANY (%(relations)s) AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v'
 ORDER BY attrelid, attnum
"""

# Members of extensions come with CREATE EXTENSION, except for the tables whose rows a dump holds.
RELATIONS = """
SELECT c.oid, n.nspname, c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
       c.relkind, c.relispopulated, c.relfilenode,
       coalesce(pg_table_size(c.oid), 0) AS size_bytes,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable,
       row_security_active(c.oid) AS filtered
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = ANY (%(kinds)s) AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
                      AND NOT coalesce(c.oid = ANY (e.extconfig), false))
 ORDER BY size_bytes DESC, name
"""

# A snapshot does not keep TRUNCATE and rewriting ALTER TABLE out: they leave an older snapshot an empty table.
# pg_class under the snapshot has the file as it was, pg_relation_filenode() says which it is.
STILL_THE_SAME_FILE = "SELECT relfilenode = pg_relation_filenode(oid) FROM pg_class WHERE oid = %s"

#: SQLSTATE of a failed read to the code and the hint of the failure.
FAILURES = {
    "42501": ("permission_denied", "Connect as the owner of everything in the database or as a superuser."),
    "42P01": ("snapshot_lost", "Something was dropped or renamed meanwhile; run the task again."),
    "42703": ("snapshot_lost", "A table was altered meanwhile; run the task again."),
    "3F000": ("snapshot_lost", "A schema was dropped or renamed meanwhile; run the task again."),
    "57014": ("timeout", "Its time was up, or somebody canceled it; see the server's log."),
    "55P03": ("timeout", "A session holds or waits for a lock on it; see pg_locks and pg_stat_activity."),
    "lost": ("connection_failed", "See the server's log for the reason, then run the task again."),
    "unforeseen": ("query_failed", "If the server reports corrupt data, stop and restore; see the server's log."),
}


@dataclass(frozen=True)
class TableProof:
    """Rows of one table and their hash, independent of order; 32 hexadecimal digits.

    A materialized view is derived data, which a restore computes anew: it has no hash, but says if it is populated.
    """

    rows: int
    hash: str
    populated: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as JSON-able values."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Column:
    """A column's name and its type with domains resolved; ``type_name`` is empty for types of users."""

    name: str
    type_name: str
    type_kind: str = "b"
    typmod: int = -1
    text_function: bool = False


@dataclass(frozen=True)
class Relation:
    """A table or materialized view to be read."""

    oid: int
    schema: str
    table: str
    name: str
    kind: str
    populated: bool
    columns: Sequence[Column] = ()

    @property
    def label(self) -> str:
        """How differences and messages name it."""
        return ("materialized view " if self.kind == "m" else "table ") + self.name


# Types whose hash function tells apart whatever the type's output tells apart. Deliberately absent, hence hashed by
# their text: numeric without a scale (1.0 equals 1.00), interval (1 month equals 30 days), jsonb, citext, enums
# (hashed by OID), bpchar without a length (trailing blanks), and every container of something.
NATIVE = {
    "bool": "CASE WHEN {c} THEN {seed} WHEN NOT {c} THEN {seed} - 1 END",
    "int2": "hashint2extended({c}, {seed})",
    "int4": "hashint4extended({c}, {seed})",
    # hashint8extended() folds 64 bits into 32, so that 0 and 4294967297 collide. A seed is mixed in whole.
    "int8": "hashint4extended({small_seed}, {c})",
    "oid": "hashoidextended({c}, {seed})",
    "uuid": "uuid_hash_extended({c}, {seed})",
    "text": 'hashtextextended({c} COLLATE "C", {seed})',
    "varchar": 'hashtextextended({c} COLLATE "C", {seed})',
    "timestamp": "timestamp_hash_extended({c}, {seed})",
    "timestamptz": "timestamp_hash_extended({c}::timestamp, {seed})",  # TimeZone is UTC
    "time": "time_hash_extended({c}, {seed})",
    "date": "CASE WHEN isfinite({c}) THEN hashint4extended({c} - date '2000-01-01', {seed})"
    " WHEN {c} < date '2000-01-01' THEN hashint4extended(-2147483648, {seed})"
    " WHEN {c} > date '2000-01-01' THEN hashint4extended(2147483647, {seed}) END",
    # -0 equals 0, and only its text differs.
    "float4": "CASE WHEN {c} = 0 THEN hashtextextended({c}::text, {seed}) ELSE hashfloat4extended({c}, {seed}) END",
    "float8": "CASE WHEN {c} = 0 THEN hashtextextended({c}::text, {seed}) ELSE hashfloat8extended({c}, {seed}) END",
}

# The same values by one function call in place of several, from version 18 on.
NATIVE_18 = {
    "timestamptz": "timestamptz_hash_extended({c}, {seed})",
    "date": "hashdateextended({c}, {seed})",
}

NUMERIC_WITH_SCALE = "hash_numeric_extended({c}, {seed})"

CHAR_WITH_LENGTH = 'hashbpcharextended({c} COLLATE "C", {seed})'

# Through sha256(), because the text of a bytea is twice as long and must stay below 1 GB.
BYTES = "hashtextextended(encode(sha256({c}), 'hex'), {seed})"

BY_TEXT = 'hashtextextended({c}::text COLLATE "C", {seed})'

# Where a cast to text is a function that may lose something, the type's output function does not. An expression with
# IS NULL would take a row of nulls for null.
BY_OUTPUT = "CASE num_nulls({c}) WHEN 0 THEN hashtextextended(format('%s', {c}) COLLATE \"C\", {seed}) END"


def hash_template(column: Column, *, server_version: int) -> str:
    """Return how a value of the column is hashed, with ``{c}`` for the column and ``{seed}`` for a number."""
    builtin = column.type_kind == "b"
    if builtin and column.type_name in NATIVE:
        newer = NATIVE_18 if server_version >= 180000 else {}
        return newer.get(column.type_name) or NATIVE[column.type_name]
    if builtin and column.type_name == "numeric" and column.typmod >= 0:
        return NUMERIC_WITH_SCALE
    if builtin and column.type_name == "bpchar":
        return CHAR_WITH_LENGTH if column.typmod >= 0 else BY_OUTPUT
    if builtin and column.type_name == "bytea":
        return BYTES
    return BY_OUTPUT if column.text_function else BY_TEXT


def column_hash(column: Column, *, position: int, server_version: int) -> sql.Composable:
    """Return an expression of type bigint: the hash of one column's value, which depends on the column's position.

    Positions count from 0 and skip dropped columns. The value does not depend on ``server_version``.
    """
    return value_hash(hash_template(column, server_version=server_version), column.name, position=position)


def value_hash(template: str, column: str, *, position: int) -> sql.Composable:
    """Return the expression that ``template`` makes for a column of the table called ``t``; nulls have a hash, too."""
    return sql.SQL("coalesce({hash}, {null})").format(
        hash=sql.SQL(template).format(
            c=sql.Identifier("t", column),
            seed=sql.SQL("%d::bigint" % _constant(position)),
            small_seed=sql.SQL("%d" % (position + 1)),
        ),
        null=sql.SQL("%d::bigint" % _constant(-position - 1)),
    )


def row_hash(hashes: Sequence[sql.Composable]) -> sql.Composable:
    """Return the expression that joins the hashes of a row's values into one."""
    return sql.SQL("hashint4extended(0, {})").format(sql.SQL(" # ").join(hashes) if hashes else sql.SQL("0::bigint"))


def _constant(number: int) -> int:
    """A 62-bit constant of its own for each number, without a pattern that the hash functions could share."""
    digest = hashlib.sha256(b"holdfast %d" % number).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def table_query(relation: Relation, *, server_version: int) -> sql.Composable:
    """Return the query for the rows and the hash of one relation: one pass, in parallel where the planner likes.

    A row's hash is the XOR of its columns' hashes, mixed once more; the table's is the exact sum of its rows'.
    Without that last mixing, two values exchanged between two rows would leave a sum unchanged half of the time;
    with a plain XOR over rows, duplicates would cancel.
    """
    target = sql.Identifier(relation.schema, relation.table)
    if relation.kind == "m":
        return sql.SQL("SELECT count(*), NULL FROM {}").format(target)
    hashes = [column_hash(c, position=n, server_version=server_version) for n, c in enumerate(relation.columns)]
    return sql.SQL("SELECT count(*), sum({}) FROM ONLY {} AS t").format(row_hash(hashes), target)


def primary_message(exc: psycopg2.Error) -> str:
    """Return what the server says first, on one line."""
    return " ".join(str(exc.diag.message_primary or exc).split())


def read_relations(connection: Connection, *, only: Collection[int] | None = None) -> list[Relation]:
    """Return the tables and materialized views, or those with the OIDs ``only``, the largest first.

    Expects `PINNED_SETTINGS`. Raises `HoldfastError` (``permission_denied``) naming those that cannot be read whole.
    """
    with reading("the list of tables"), connection.cursor() as cursor:
        cursor.execute(RELATIONS, {"kinds": ["r", "m"]})
        rows = [row for row in cursor.fetchall() if only is None or row[0] in only]
        # Null, not false, says that a relation was dropped meanwhile; reading it will say so too.
        refuse_unreadable([row[3] for row in rows if row[8] is False], "lacks USAGE on the schema or SELECT on")
        refuse_unreadable([row[3] for row in rows if row[9]], "may see only some rows, by row-level security, of")
        oids = [row[0] for row in rows]
        cursor.execute(TYPES_OF_COLUMNS, {"relations": oids})
        types = {row[0]: row[1:] for row in cursor.fetchall()}
        columns: dict[int, list[Column]] = {oid: [] for oid in oids}
        cursor.execute(COLUMNS, {"relations": oids})
        for relation, name, type_oid, typmod in cursor.fetchall():
            columns[relation].append(column_of(name, type_oid, typmod, types))
    return [
        Relation(
            oid=row[0],
            schema=row[1],
            table=row[2],
            name=row[3],
            kind=row[4],
            populated=row[5],
            columns=tuple(columns[row[0]]),
        )
        for row in rows
    ]


def column_of(name: str, type_oid: int, typmod: int, types: Mapping[int, Sequence[Any]]) -> Column:
    """Return the column whose type ``types``, rows of `TYPES_OF_COLUMNS` by OID, describe."""
    schema, type_name, kind, base, domain_typmod, text_function = types[type_oid]
    while kind == "d":
        typmod = domain_typmod
        schema, type_name, kind, base, domain_typmod, text_function = types[base]
    return Column(
        name=name,
        type_name=type_name if schema == "pg_catalog" else "",
        type_kind=kind,
        typmod=typmod,
        text_function=text_function,
    )


def refuse_unreadable(names: Sequence[str], why: str) -> None:
    """Raise `HoldfastError` (``permission_denied``) when there are names of relations that ``why`` is about."""
    if names:
        raise HoldfastError(
            code="permission_denied",
            msg="The role %s %d relation%s: %s." % (why, len(names), "" if len(names) == 1 else "s", some(names)),
            hint="Connect as the owner or a superuser, or grant pg_read_all_data and BYPASSRLS to the role.",
            relations=list(names),
        )


def some(names: Sequence[str], limit: int = 10) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else "%s and %d more" % (shown, len(names) - limit)


def read_relation(connection: Connection, relation: Relation) -> TableProof:
    """Return the proof of one relation, in the transaction that is open; its lock is given back at once.

    Raises `HoldfastError`: ``snapshot_lost`` when it was truncated or rewritten since the snapshot was taken.
    """
    if relation.kind == "m" and not relation.populated:
        return TableProof(rows=0, hash="", populated=False)
    with reading("the " + relation.label, relation=relation.name), connection.cursor() as cursor:
        cursor.execute("SAVEPOINT relation")
        cursor.execute(table_query(relation, server_version=connection.server_version))
        result = only_row(cursor)
        cursor.execute(STILL_THE_SAME_FILE, (relation.oid,))
        same = cursor.fetchone()
        # Rolled back rather than released: only that gives the lock back before the transaction ends.
        cursor.execute("ROLLBACK TO SAVEPOINT relation")
    if relation.kind == "m":
        return TableProof(rows=int(result[0]), hash="", populated=True)
    if same is None or not same[0]:
        raise HoldfastError(
            code="snapshot_lost",
            msg="The %s was truncated or rewritten after the snapshot was taken." % relation.label,
            hint="Run the task again when no TRUNCATE, VACUUM FULL or ALTER TABLE runs on it.",
            relation=relation.name,
        )
    return TableProof(rows=int(result[0]), hash="%032x" % (int(result[1] or 0) % (1 << 128)))


@contextlib.contextmanager
def reading(what: str, **details: Any) -> Iterator[None]:
    """Turn errors of the driver in the block into one that says what was read; ``details`` go into its result."""
    try:
        yield
    except psycopg2.Error as exc:
        code, hint = FAILURES.get(exc.pgcode or "", FAILURES["unforeseen"])
        if exc.pgcode is None or exc.pgcode.startswith(("08", "57P")):
            code, hint = FAILURES["lost"]
        raise HoldfastError(
            code=code,
            msg="Cannot read %s: %s" % (what, primary_message(exc)),
            hint=hint,
            sqlstate=exc.pgcode,
            **details,
        ) from exc
