# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints: what a database holds, small enough to keep beside an archive and exact enough to prove a restore."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.inventory import INVALID_INDEX, read_objects
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.table_proof import (
    ALGORITHM,
    PINNED_SETTINGS,
    Relation,
    TableProof,
    primary_message,
    read_relation,
    read_relations,
    reading,
    refuse_unreadable,
    some,
)

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: Read through psycopg2 in pieces of this size; smaller large objects are hashed by the server, many per query.
LARGE_OBJECT_CHUNK_BYTES = 4 * 1024 * 1024
LARGE_OBJECTS_PER_QUERY = 500
SEQUENCES_PER_QUERY = 100

# Callers read sequences on sessions of their own, so nothing here depends on the search path.
SEQUENCE_DEFINITIONS = """
SELECT n.nspname, c.relname, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
       pg_catalog.format_type(s.seqtypid, NULL),
       s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
       (SELECT pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.relname) || '.'
               || pg_catalog.quote_ident(a.attname)
          FROM pg_catalog.pg_depend d
          JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
          JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
          JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
           AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
           AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0) AS owned_by,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE')
       AND pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AS readable
  FROM pg_catalog.pg_sequence s
  JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                      AND d.deptype = 'e' AND NOT coalesce(c.oid = ANY (e.extconfig), false))
 ORDER BY name
"""

LARGE_OBJECTS = """
SELECT o.oid, octet_length(b), encode(sha256(b), 'hex')
  FROM unnest(%s::oid[]) AS o (oid), LATERAL lo_get(o.oid, 0, %s) AS b
"""


@dataclass(frozen=True)
class Fingerprint:
    """What a database held in one snapshot, by names quoted as in SQL (``public."Loan"``)."""

    algorithm: str = ALGORITHM
    tables: Mapping[str, TableProof] = field(default_factory=dict)
    materialized_views: Mapping[str, TableProof] = field(default_factory=dict)
    sequences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    large_objects: Mapping[str, str] = field(default_factory=dict)
    objects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """All rows of all tables."""
        return sum(proof.rows for proof in self.tables.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the fingerprint as JSON-able values, sorted by name."""
        return {
            "algorithm": self.algorithm,
            "tables": {name: proof.as_dict() for name, proof in sorted(self.tables.items())},
            "materialized_views": {name: proof.as_dict() for name, proof in sorted(self.materialized_views.items())},
            "sequences": {name: dict(facts) for name, facts in sorted(self.sequences.items())},
            "large_objects": dict(sorted(self.large_objects.items(), key=lambda item: int(item[0]))),
            "objects": {name: dict(facts) for name, facts in sorted(self.objects.items())},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint that `as_dict` described; raises `HoldfastError` when it is none."""
        try:
            return cls(
                algorithm=values["algorithm"],
                tables=_proofs(values["tables"]),
                materialized_views=_proofs(values.get("materialized_views", {})),
                sequences=dict(values.get("sequences", {})),
                large_objects=dict(values.get("large_objects", {})),
                objects=dict(values.get("objects", {})),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as exc:
            raise HoldfastError(
                code="option_invalid",
                msg="This is not a fingerprint: %s: %s" % (type(exc).__name__, exc),
                hint="Give a manifest.json of an archive, or what pg_fingerprint_info returned as fingerprint.",
            ) from exc


def _proofs(values: Mapping[str, Mapping[str, Any]]) -> dict[str, TableProof]:
    return {
        name: TableProof(rows=int(proof["rows"]), hash=str(proof["hash"]), populated=proof.get("populated"))
        for name, proof in values.items()
    }


# --- how a row is hashed -------------------------------------------------------------------------------------------


# --- reading -------------------------------------------------------------------------------------------------------


def take_fingerprint(
    *,
    server: Server,
    database: str,
    snapshot: str | None = None,
    jobs: int = 2,
    algorithm: str | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Fingerprint:
    """Return the fingerprint of ``database`` in one snapshot: the exported ``snapshot``, or one of its own.

    ``jobs`` connections read tables, the largest first; one more reads everything else. ``on_progress`` is called
    in this thread with the tables done, the tables in all and the name of the one just done. A table is locked
    (ACCESS SHARE) only while it is read.

    Raises `HoldfastError` with the code ``permission_denied`` (naming the relations) before anything is read,
    ``snapshot_lost`` when the snapshot cannot be used or a table was truncated, rewritten or dropped since, and
    ``unsupported`` for an algorithm that this release does not know.
    """
    if algorithm not in (None, ALGORITHM):
        raise HoldfastError(
            code="unsupported",
            msg="The fingerprint algorithm %r is not known to this release, which has %s." % (algorithm, ALGORITHM),
            hint="Use the release that wrote the manifest, or a newer one.",
        )
    connections: list[Connection] = []
    try:
        lead = _open(server, database)
        connections.append(lead)
        with lead.cursor() as cursor:
            if snapshot is None:
                cursor.execute("SELECT pg_export_snapshot()")
                snapshot = str(only_row(cursor)[0])
            else:
                _import_snapshot(cursor, snapshot)
        relations = read_relations(lead)
        idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        for _number in range(min(max(jobs, 1), len(relations))):
            worker = _open(server, database)
            connections.append(worker)
            with worker.cursor() as cursor:
                _import_snapshot(cursor, snapshot)
            idle.put(worker)

        def read(relation: Relation) -> TableProof:
            worker = idle.get()
            try:
                return read_relation(worker, relation)
            finally:
                idle.put(worker)

        proofs: dict[str, TableProof] = {}
        with ThreadPoolExecutor(max_workers=max(jobs, 1)) as executor:
            futures = {executor.submit(read, relation): relation for relation in relations}
            try:
                rest = _read_rest(lead)
                for done, future in enumerate(as_completed(futures), start=1):
                    proofs[futures[future].name] = future.result()
                    if on_progress is not None:
                        on_progress(done, len(futures), futures[future].name)
            except BaseException:
                for future in futures:
                    future.cancel()
                for connection in connections:
                    with contextlib.suppress(psycopg2.Error):  # the one that failed may be closed
                        connection.cancel()
                raise
    finally:
        for connection in connections:
            connection.close()
    return Fingerprint(
        algorithm=ALGORITHM,
        tables={r.name: proofs[r.name] for r in relations if r.kind == "r"},
        materialized_views={r.name: proofs[r.name] for r in relations if r.kind == "m"},
        **rest,
    )


def _open(server: Server, database: str) -> Connection:
    connection = server.connect(database, settings=PINNED_SETTINGS)
    if connection.server_version >= 170000:
        with connection.cursor() as cursor:
            cursor.execute("SET transaction_timeout = 0")
    connection.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=False)
    return connection


def _import_snapshot(cursor: Any, snapshot: str) -> None:
    try:
        cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot,))
    except psycopg2.Error as exc:
        raise HoldfastError(
            code="snapshot_lost",
            msg="Cannot use the snapshot %s: %s" % (snapshot, primary_message(exc)),
            hint="The transaction that exported it has ended, or it is of another database; run the task again.",
            sqlstate=exc.pgcode,
        ) from exc


def _read_rest(connection: Connection) -> dict[str, Any]:
    with reading("the inventory of objects"):
        objects = read_objects(connection=connection)
    return {
        "sequences": read_sequences(connection),
        "objects": objects,
        "large_objects": read_large_objects(connection),
    }


def read_sequences(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return value and definition of every sequence by its quoted name, as they are now: no snapshot holds them.

    Works on any connection, whatever its search path. Raises `HoldfastError` with the code ``permission_denied``, or
    ``snapshot_lost`` when a sequence was dropped meanwhile.
    """
    sequences: dict[str, dict[str, Any]] = {}
    with reading("the sequences"), connection.cursor() as cursor:
        cursor.execute(SEQUENCE_DEFINITIONS)
        rows = cursor.fetchall()
        refuse_unreadable([row[2] for row in rows if row[11] is False], "lacks USAGE on the schema or SELECT on")
        for start in range(0, len(rows), SEQUENCES_PER_QUERY):
            batch = rows[start : start + SEQUENCES_PER_QUERY]
            selects = [
                sql.SQL("SELECT {}, last_value, is_called FROM {}").format(
                    sql.Literal(number), sql.Identifier(schema, name)
                )
                for number, (schema, name, *_rest) in enumerate(batch)
            ]
            cursor.execute(sql.SQL(" UNION ALL ").join(selects))
            values = {number: (last_value, is_called) for number, last_value, is_called in cursor.fetchall()}
            for number, row in enumerate(batch):
                last_value, is_called = values[number]
                sequences[row[2]] = {
                    "last_value": last_value,
                    "is_called": is_called,
                    "type": row[3],
                    "start": row[4],
                    "increment": row[5],
                    "minimum": row[6],
                    "maximum": row[7],
                    "cache": row[8],
                    "cycle": row[9],
                    "owned_by": row[10],
                }
    return sequences


def read_large_objects(connection: Connection, oids: Sequence[int] | None = None) -> dict[str, str]:
    """Return the SHA-256 of the large objects ``oids``, or of all, by OID."""
    hashes: dict[str, str] = {}
    with reading("the large objects"), connection.cursor() as cursor:
        if oids is None:
            cursor.execute("SELECT oid FROM pg_largeobject_metadata ORDER BY oid")
            oids = [row[0] for row in cursor.fetchall()]
        for start in range(0, len(oids), LARGE_OBJECTS_PER_QUERY):
            batch = list(oids[start : start + LARGE_OBJECTS_PER_QUERY])
            cursor.execute(LARGE_OBJECTS, (batch, LARGE_OBJECT_CHUNK_BYTES))
            for oid, size_bytes, digest in cursor.fetchall():
                longer = size_bytes == LARGE_OBJECT_CHUNK_BYTES
                hashes[str(oid)] = _stream_large_object(connection, oid) if longer else digest
    return hashes


def _stream_large_object(connection: Connection, oid: int) -> str:
    digest = hashlib.sha256()
    large_object: Any = connection.lobject(oid, "rb")
    try:
        while True:
            chunk = large_object.read(LARGE_OBJECT_CHUNK_BYTES)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)
    finally:
        large_object.close()


# --- for the module ------------------------------------------------------------------------------------------------


def read_fingerprint(path: str) -> Fingerprint:
    """Return the fingerprint in an archive, in its manifest, or in a file that holds nothing else.

    With an archive, each sequence carries the interval in which a restore may leave it. Raises `HoldfastError` with
    the code ``archive_not_found`` or ``option_invalid``.
    """
    if os.path.isdir(path):
        path = os.path.join(path, "manifest.json")
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except OSError as exc:
        raise HoldfastError(
            code="archive_not_found",
            msg="Cannot read the fingerprint in %s: %s" % (path, exc.strerror),
            hint="Give an archive's directory, its manifest.json, or a file with a fingerprint.",
        ) from exc
    except ValueError as exc:
        raise HoldfastError(
            code="option_invalid",
            msg="%s is not JSON: %s" % (path, exc),
            hint="Give an archive's directory, its manifest.json, or a file with a fingerprint.",
        ) from exc
    if not isinstance(values, dict) or "fingerprint" not in values:
        return Fingerprint.from_dict(values)
    fingerprint = Fingerprint.from_dict(values["fingerprint"])
    ends = values.get("sequences_after") or {}
    starts = values.get("sequences_before") or {}
    sequences = {
        name: dict(
            facts,
            last_value=starts.get(name, facts)["last_value"],
            last_value_max=ends.get(name, facts)["last_value"],
        )
        for name, facts in fingerprint.sequences.items()
    }
    return replace(fingerprint, sequences=sequences)


def fingerprint_report(
    *,
    server: Server,
    database: str,
    compare_with: str | None = None,
    reference: Mapping[str, Any] | None = None,
    reference_path: str | None = None,
    jobs: int = 2,
    full: bool = False,
) -> dict[str, Any]:
    """Return what `pg_fingerprint_info` says: proofs of ``database`` and its differences from a reference, if any.

    The reference is another database of the server, a fingerprint, or the one at ``reference_path``; in each difference
    it is ``before``, and ``database`` is ``after``.
    """
    started = time.monotonic()
    before = read_fingerprint(reference_path) if reference_path else None
    if reference is not None:
        before = Fingerprint.from_dict(reference)
    algorithm = before.algorithm if before else None
    fingerprint = take_fingerprint(server=server, database=database, jobs=jobs, algorithm=algorithm)
    if compare_with:
        before = take_fingerprint(server=server, database=compare_with, jobs=jobs)
    values = fingerprint.as_dict()
    result: dict[str, Any] = {
        "changed": False,
        "database": database,
        "algorithm": fingerprint.algorithm,
        "tables": values["tables"],
        "materialized_views": values["materialized_views"],
        "sequences": values["sequences"],
        "large_objects": len(fingerprint.large_objects),
        "objects": len(fingerprint.objects),
        "rows": fingerprint.rows,
        "differences": [],
    }
    if before is not None:
        result["differences"] = compare_fingerprints(before, fingerprint)
        result["equal"] = not result["differences"]
    if full:
        result["fingerprint"] = values
    result["duration_s"] = round(time.monotonic() - started, 3)
    return result


# --- comparing -----------------------------------------------------------------------------------------------------


def compare_fingerprints(before: Fingerprint, after: Fingerprint) -> list[dict[str, Any]]:
    """Return what of ``before`` is different in ``after``, an empty list when nothing is.

    Each difference has ``object`` (such as ``table public.loan``), ``kind`` (``rows``, ``hash``, ``missing``,
    ``unexpected``, ``populated``, ``sequence``, ``large_object`` or ``object``), ``before``, ``after`` and
    ``message``, a sentence.

    A sequence of ``before`` may carry ``last_value_max``, read at the end of a dump as ``last_value`` was at its
    beginning: any value between them is right. Not compared: the rows of materialized views, which a restore
    computes anew, and what is left of an index that PostgreSQL calls invalid, which no dump holds.
    """
    if before.algorithm != after.algorithm:
        raise HoldfastError(
            code="unsupported",
            msg="The fingerprints are of different algorithms: %s and %s." % (before.algorithm, after.algorithm),
            hint="Take the second with the algorithm of the first.",
        )
    differences = [
        *_compare_tables(before.tables, after.tables, what="table"),
        *_compare_tables(before.materialized_views, after.materialized_views, what="materialized view"),
        *_compare_sequences(before.sequences, after.sequences),
        *_compare_large_objects(before.large_objects, after.large_objects),
    ]
    named = {difference["object"] for difference in differences if difference["kind"] in ("missing", "unexpected")}
    return differences + [d for d in _compare_objects(before.objects, after.objects) if d["object"] not in named]


def _difference(name: str, kind: str, before: Any, after: Any, message: str) -> dict[str, Any]:
    return {"object": name, "kind": kind, "before": before, "after": after, "message": message}


def _presence(name: str, before: Any, after: Any) -> dict[str, Any]:
    if after is None:
        return _difference(name, "missing", before, None, "The %s is missing." % name)
    return _difference(name, "unexpected", None, after, "The %s was not there before." % name)


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    for name in sorted({*before, *after}):
        yield name, before.get(name), after.get(name)


def _compare_tables(
    before: Mapping[str, TableProof], after: Mapping[str, TableProof], *, what: str
) -> Iterable[dict[str, Any]]:
    for name, old, new in _pairs(before, after):
        label = "%s %s" % (what, name)
        if old is None or new is None:
            yield _presence(label, old and old.as_dict(), new and new.as_dict())
        elif old.populated != new.populated:
            message = "The %s was %spopulated and is%s." % (
                label,
                "" if old.populated else "not ",
                "" if new.populated else " not",
            )
            yield _difference(label, "populated", old.populated, new.populated, message)
        elif what == "table" and old.rows != new.rows:
            message = "The %s had %s and has %d (%+d)." % (label, _rows(old.rows), new.rows, new.rows - old.rows)
            yield _difference(label, "rows", old.rows, new.rows, message)
        elif old.hash != new.hash:
            message = "The %s has %s as before, but with other values." % (label, _rows(old.rows))
            yield _difference(label, "hash", old.hash, new.hash, message)


def _rows(number: int) -> str:
    return "1 row" if number == 1 else "%d rows" % number


def _compare_sequences(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> Iterable[dict[str, Any]]:
    for name, old, new in _pairs(before, after):
        label = "sequence " + name
        if old is None or new is None:
            yield _presence(label, old, new)
            continue
        changed = [
            key
            for key in sorted({*old, *new} - {"last_value", "last_value_max", "is_called", "is_called_max"})
            if old.get(key) != new.get(key)
        ]
        if not _values_agree(old, new):
            changed.insert(0, "last_value")
        if changed:
            keys = [*changed, "last_value_max", "is_called"] if changed[0] == "last_value" else changed
            yield _difference(
                label,
                "sequence",
                {key: old[key] for key in keys if key in old},
                {key: new[key] for key in keys if key in new},
                "The %s differs: %s." % (label, "; ".join(_sequence_change(key, old, new) for key in changed)),
            )


def _values_agree(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    old_range = sorted((old["last_value"], old.get("last_value_max", old["last_value"])))
    new_range = sorted((new["last_value"], new.get("last_value_max", new["last_value"])))
    if old_range[0] != old_range[1] or new_range[0] != new_range[1]:
        return bool(old_range[0] <= new_range[1] and new_range[0] <= old_range[1])
    called = {old["is_called"], old.get("is_called_max", old["is_called"])}
    return bool(old_range == new_range and new["is_called"] in called)


def _sequence_change(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if key != "last_value":
        return "%s was %s and is %s" % (key, old.get(key), new.get(key))
    was = str(old["last_value"])
    if old.get("last_value_max", old["last_value"]) != old["last_value"]:
        was = "between %s and %s" % (was, old["last_value_max"])
    return "its value was %s%s and is %s%s" % (
        was,
        "" if old["is_called"] else " (not yet used)",
        new["last_value"],
        "" if new["is_called"] else " (not yet used)",
    )


def _compare_large_objects(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    for oid, old, new in _pairs(before, after):
        label = "large object " + oid
        if old is None or new is None:
            yield _presence(label, old, new)
        elif old != new:
            yield _difference(label, "large_object", old, new, "The %s has other content." % label)


def _compare_objects(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> Iterable[dict[str, Any]]:
    for name, old, new in _pairs(before, after):
        if old is None or new is None:
            if not (new is None and name.startswith(INVALID_INDEX)):
                yield _presence(name, old, new)
            continue
        keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if keys:
            yield _difference(
                name,
                "object",
                {key: old.get(key) for key in keys},
                {key: new.get(key) for key in keys},
                "The %s differs: %s." % (name, "; ".join(_change(key, old.get(key), new.get(key)) for key in keys)),
            )


def _change(key: str, old: Any, new: Any) -> str:
    what = key.replace("_", " ")
    if isinstance(old, list) and isinstance(new, list):
        lost = [str(item) for item in old if item not in new]
        gained = [str(item) for item in new if item not in old]
        parts = (["lost %s" % some(lost)] if lost else []) + (["gained %s" % some(gained)] if gained else [])
        return "%s %s" % (what, " and ".join(parts) or "are in another order")
    return "%s was %s and is %s" % (what, _shown(old), _shown(new))


def _shown(value: Any) -> str:
    return "absent" if value is None else str(value)
