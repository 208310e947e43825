# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking an archive: one snapshot for dump, fingerprint and properties, and proof that nothing is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import (
    Fingerprint,
    read_sequences,
    take_fingerprint,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    check_name,
    only_row,
    server_version,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.interruption import signals_raised
from ansible_collections.holdfast.postgres.plugins.module_utils._core.masking import shown
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import (
    ClientPrograms,
    find_client_programs,
    run_program,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import (
    DatabaseProperties,
    read_properties,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until

try:
    import psycopg2
    from psycopg2 import errorcodes, sql
except ImportError:  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: gzip's level 3 is the last without lazy matching: a third of the time of level 9 for a few percent more bytes.
GZIP = "gzip:3"
ZSTD = "zstd:3"
COMPRESSION = re.compile(r"auto|none|(gzip|lz4|zstd)(:\d{1,2})?")

#: The archive's bytes as a part of the database's, while no earlier archive tells: indexes are not in it, and
#: random keys and text compress little. What an earlier archive tells is used with a margin.
FIRST_RATIO = {"none": 1.2, "compressed": 0.6}
MARGIN = 1.25

#: With every table locked already, a lock that is not granted at once waits behind somebody who waits for this run:
#: no server would ever see that circle, since one edge of it is a client's.
QUEUED_LOCK_WAIT_S = 5
ATTEMPTS = 3

#: Limits meant for applications must not end sessions that wait for one another; each with its first version.
LIMITS = {
    "statement_timeout": 0,
    "idle_in_transaction_session_timeout": 0,
    "idle_session_timeout": 140000,
    "transaction_timeout": 170000,
}

# The relations that pg_dump dumps: nothing of the system, of extensions, or temporary.
RELATIONS = """
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relispopulated
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema'
   AND n.nspname !~ '^pg_'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                      AND d.objid = n.oid AND d.deptype = 'e')
 ORDER BY c.oid
"""

# One statement, so that the position is read together with the snapshot that is exported.
EXPORT_SNAPSHOT = """
SELECT pg_catalog.pg_export_snapshot(),
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_lsn() END::text,
       pg_catalog.clock_timestamp(),
       pg_catalog.pg_is_in_recovery()
"""

EXTENSIONS = """
SELECT e.extname::text, e.extversion, n.nspname::text
  FROM pg_catalog.pg_extension e
  JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
 ORDER BY 1
"""

# Roles by the dependencies that the server keeps; it keeps none on the bootstrap superuser, who is asked for by owner.
ROLES = """
SELECT DISTINCT r.rolname::text
  FROM pg_catalog.pg_roles r
 WHERE r.rolname !~ '^pg_'
   AND (r.oid IN (SELECT s.refobjid FROM pg_catalog.pg_shdepend s
                    JOIN pg_catalog.pg_database d ON d.oid = s.dbid
                   WHERE d.datname = pg_catalog.current_database()
                     AND s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass)
        OR r.oid IN (SELECT relowner FROM pg_catalog.pg_class WHERE oid >= 16384
                     UNION SELECT nspowner FROM pg_catalog.pg_namespace WHERE oid >= 16384
                     UNION SELECT proowner FROM pg_catalog.pg_proc WHERE oid >= 16384
                     UNION SELECT typowner FROM pg_catalog.pg_type WHERE oid >= 16384))
 ORDER BY 1
"""

SUBSCRIPTIONS = """
SELECT s.subname::text
  FROM pg_catalog.pg_subscription s
  JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
 WHERE d.datname = pg_catalog.current_database()
 ORDER BY 1
"""

TERMINATE = """
SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid))
  FROM pg_catalog.pg_stat_activity
 WHERE application_name = %s AND pid <> pg_catalog.pg_backend_pid()
"""

EXCLUSIVE_HOLDERS = """
SELECT DISTINCT a.pid, a.usename::text, a.application_name, a.xact_start::text, pg_catalog.left(a.query, 4000)
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.granted AND l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation'
   AND a.datname = pg_catalog.current_database()
"""

WAITING = """
SELECT pg_catalog.count(*)
  FROM pg_catalog.pg_stat_activity
 WHERE application_name = %s AND wait_event_type = 'Lock'
"""

STILL_THERE = """
SELECT pg_catalog.count(*)
  FROM pg_catalog.pg_stat_activity
 WHERE application_name = %s AND pid <> pg_catalog.pg_backend_pid()
"""


# --- client programs -----------------------------------------------------------------------------------------------


def session_server(
    server: Server, *, version: int, application_name: str, settings: Mapping[str, str] | None = None
) -> Server:
    """Return ``server`` so that every session, of the driver or of a program, has a name, no limits, and ``settings``.

    ``version`` is the server's; what a role or a database sets for applications gives way.
    """
    values = {name: "0" for name, first in LIMITS.items() if version >= first}
    values.update({"default_transaction_read_only": "off", **(settings or {})})
    options = " ".join("-c %s=%s" % (name, re.sub(r"([\\\s])", r"\\\1", value)) for name, value in values.items())
    return dataclasses.replace(
        server,
        connect_params={
            "keepalives_idle": "60",
            **server.connect_params,
            "application_name": application_name,
            "options": (server.connect_params.get("options", "") + " " + options).strip(),
        },
    )


def dump_command(
    programs: ClientPrograms,
    *,
    conninfo: str,
    target: str,
    dump_format: str,
    compression: str,
    jobs: int,
    snapshot: str,
    lock_wait_s: float,
) -> list[str]:
    """Return the command line of pg_dump. It does not sync: `archive.seal` does, several files at once."""
    return [
        programs.path("pg_dump"),
        "--dbname=" + conninfo,
        "--no-password",
        "--format=" + dump_format,
        "--file=" + target,
        "--compress=" + compression_argument(compression, client_version=programs.version),
        *(["--jobs=%d" % jobs] if dump_format == "directory" else []),
        "--snapshot=" + snapshot,
        "--lock-wait-timeout=%d" % int(lock_wait_s * 1000),
        "--no-sync",
    ]


def compression_argument(compression: str, *, client_version: int) -> str:
    """Return ``compression`` as this version's --compress wants it: before 16, gzip's level alone."""
    if client_version >= 160000:
        return compression
    return "0" if compression == "none" else compression.partition(":")[2] or "6"


def globals_command(programs: ClientPrograms, *, conninfo: str, database: str, target: str) -> list[str]:
    """Return the command line of pg_dumpall for roles, memberships and tablespaces, without passwords."""
    return [
        programs.path("pg_dumpall"),
        "--dbname=" + conninfo,
        # pg_dumpall reads this value as a connection string where it looks like one.
        "--database=" + Server().conninfo(database),
        "--no-password",
        "--globals-only",
        "--no-role-passwords",
        "--file=" + target,
    ]


def choose_compression(
    wanted: str, *, programs: ClientPrograms, environment: Mapping[str, str]
) -> tuple[str, str | None]:
    """Return the compression to use, such as ``gzip:3``, and a notice when it is not the one asked for.

    ``auto`` is zstd where this build of pg_dump has it, else gzip. Raises `HoldfastError` (``option_invalid``).
    """
    if not COMPRESSION.fullmatch(wanted):
        raise HoldfastError(
            code="option_invalid",
            msg="compression %r is not understood." % wanted,
            hint="It is auto, none, or gzip, lz4 or zstd, with a level if wanted, as in gzip:6.",
        )
    if wanted == "auto":
        return (ZSTD if _can_compress(ZSTD, programs=programs, environment=environment) else GZIP), None
    if (
        wanted == "none"
        or wanted.startswith("gzip")
        or _can_compress(wanted, programs=programs, environment=environment)
    ):
        return (GZIP if wanted == "gzip" else wanted), None
    return GZIP, "%s (version %d) was built without %s; %s is used." % (
        programs.path("pg_dump"),
        programs.major,
        wanted,
        GZIP,
    )


def _can_compress(compression: str, *, programs: ClientPrograms, environment: Mapping[str, str]) -> bool:
    """Ask pg_dump, which judges its options before it connects, here to a socket that cannot exist."""
    if programs.version < 160000:
        return False
    asked = run_program(
        [programs.path("pg_dump"), "--compress=" + compression, "--dbname=host=/dev/null/none connect_timeout=2"],
        environment=environment,
        allowed_exit_codes=range(256),
        timeout_s=30,
    )
    return "compress" not in asked.stderr


@dataclass(frozen=True)
class TocEntry:
    """One line of ``pg_restore --list``: what it is, and the catalog and OID of its object (0 where it has none)."""

    catalog: int
    oid: int
    rest: str

    def is_a(self, kind: str) -> bool:
        """Whether the entry is of ``kind``, such as ``TABLE DATA``."""
        return self.rest.startswith(kind + " ")


def parse_toc(listing: str) -> list[TocEntry]:
    """Return the entries that ``pg_restore --list`` printed.

    Names in it are not quoted, so objects are known by OID alone. A line that continues no entry is an error.
    """
    entries = []
    for line in listing.splitlines():
        if not line.strip() or line.startswith(";"):
            continue
        match = re.match(r"\d+; (\d+) (\d+) (.+)", line)
        if not match:
            raise HoldfastError(
                code="archive_corrupt",
                msg="pg_restore --list printed %r, which is no entry of a table of contents." % line,
                hint="The client programs do not fit the archive; set bin_dir to newer ones.",
            )
        entries.append(TocEntry(catalog=int(match.group(1)), oid=int(match.group(2)), rest=match.group(3)))
    return entries


def read_toc(programs: ClientPrograms, *, dump: str, environment: Mapping[str, str]) -> list[TocEntry]:
    """Return the table of contents of the dump at the path ``dump``."""
    return parse_toc(read_listing(programs, dump=dump, environment=environment))


def read_listing(programs: ClientPrograms, *, dump: str, environment: Mapping[str, str]) -> str:
    """Return what ``pg_restore --list`` prints for the dump at the path ``dump``."""
    return run_program(
        [programs.path("pg_restore"), "--list", dump], environment=environment, max_lines=10_000_000, timeout_s=600
    ).stdout


@dataclass(frozen=True)
class Relation:
    """A relation that pg_dump must have dumped."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    populated: bool


def missing_entries(relations: Sequence[Relation], entries: Sequence[TocEntry], *, standby: bool = False) -> list[str]:
    """Return what of ``relations`` has no definition or no data in a table of contents, by name.

    A standby cannot read unlogged tables, so their data may be missing there.
    """
    defined = {entry.oid for entry in entries if entry.catalog == PG_CLASS}
    with_data = {entry.oid for entry in entries if entry.is_a("TABLE DATA")}
    missing = []
    for relation in relations:
        name = "%s.%s" % (relation.schema, relation.name)
        if relation.oid not in defined:
            missing.append("the definition of " + name)
        if relation.kind == "r" and relation.oid not in with_data and not (standby and relation.persistence == "u"):
            missing.append("the data of " + name)
    return missing


#: The OID of pg_class itself, the catalog that a table of contents names for relations.
PG_CLASS = 1259


# --- the snapshot --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """An exported snapshot, and what the catalog says under it."""

    name: str
    lsn: str
    at: datetime.datetime
    standby: bool
    relations: Sequence[Relation]
    properties: DatabaseProperties
    extensions: Sequence[Mapping[str, str]]
    roles: Sequence[str]
    subscriptions: Sequence[str]
    release: Callable[[], None]


def _relations(connection: Connection) -> list[Relation]:
    with connection.cursor() as cursor:
        cursor.execute(RELATIONS)
        return [Relation(*row) for row in cursor.fetchall()]


def _first_column(connection: Connection, statement: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return [row[0] for row in cursor.fetchall()]


@contextlib.contextmanager
def exported_snapshot(
    *, server: Server, database: str, reader: Connection, lock_wait_s: float, attempts: int = 5
) -> Iterator[Snapshot]:
    """A `Snapshot` that lives as long as the block, or until it is released.

    Every table is locked against change of its definition before the snapshot is taken, because TRUNCATE and
    rewriting forms of ALTER TABLE are not transactional for older snapshots
    (https://www.postgresql.org/docs/current/mvcc-caveats.html): without that, the dump could find empty what the
    fingerprint found full. Where tables keep coming and going, the last attempt counts.
    """
    with server.session(database) as connection:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=False)
        for attempt in range(1, attempts + 1):
            tables = [relation for relation in _relations(reader) if relation.kind in "rp"]
            try:
                _lock(connection, tables, lock_wait_s=lock_wait_s)
            except psycopg2.errors.UndefinedTable:
                connection.rollback()
                if attempt < attempts:
                    continue
                raise
            except psycopg2.errors.LockNotAvailable as exc:
                raise _locked_out(reader, database=database, lock_wait_s=lock_wait_s) from exc
            except psycopg2.errors.InsufficientPrivilege as exc:
                raise HoldfastError(
                    code="permission_denied",
                    msg="The role cannot read everything in %r: %s" % (database, " ".join(str(exc).split())),
                    hint="Connect as the owner or a superuser, or grant pg_read_all_data and BYPASSRLS to the role.",
                ) from exc
            with connection.cursor() as cursor:
                cursor.execute(EXPORT_SNAPSHOT)
                name, lsn, at, standby = only_row(cursor)
            relations = _relations(connection)
            locked = {table.oid for table in tables}
            if attempt == attempts or all(r.oid in locked for r in relations if r.kind in "rp"):
                break
            connection.rollback()
        with connection.cursor() as cursor:
            cursor.execute(EXTENSIONS)
            extensions = [dict(zip(("name", "version", "schema"), row)) for row in cursor.fetchall()]
        yield Snapshot(
            name=name,
            lsn=lsn,
            at=at,
            standby=standby,
            relations=relations,
            properties=read_properties(connection=connection, database=database),
            extensions=extensions,
            roles=_first_column(connection, ROLES),
            subscriptions=_first_column(connection, SUBSCRIPTIONS),
            release=connection.rollback,
        )


def _lock(connection: Connection, tables: Sequence[Relation], *, lock_wait_s: float) -> None:
    """Lock ``tables`` as the first statement of the transaction, so that no snapshot is older than the locks."""
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal("%dms" % max(1, int(lock_wait_s * 1000))))
        )
        if tables:
            names = [sql.SQL("ONLY {}").format(sql.Identifier(table.schema, table.name)) for table in tables]
            cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.SQL(", ").join(names)))


def _locked_out(reader: Connection, *, database: str, lock_wait_s: float) -> HoldfastError:
    with reader.cursor() as cursor:
        cursor.execute(EXCLUSIVE_HOLDERS)
        holders = [
            "pid %s, role %s, application %r, since %s, %s"
            % (pid, role, application, since, " ".join(shown(query or "", characters=200).split()))
            for pid, role, application, since, query in cursor.fetchall()
        ]
    return HoldfastError(
        code="timeout",
        msg="A table of %r stayed locked for more than %g s%s."
        % (database, lock_wait_s, "; exclusive locks are held by: " + "; ".join(holders) if holders else ""),
        hint="Wait for that session to end, or end it (pg_terminate_backend), or raise lock_wait_s.",
    )


def end_sessions(*, server: Server, application_name: str) -> None:
    """End the sessions of that name and wait until they have gone, for at most ten seconds."""
    with server.session(server.maintenance_db) as connection, connection.cursor() as cursor:

        def gone() -> bool:
            cursor.execute(STILL_THERE, (application_name,))
            return bool(only_row(cursor)[0] == 0)

        cursor.execute(TERMINATE, (application_name,))
        wait_until(gone, timeout_s=10)


# --- taking an archive ---------------------------------------------------------------------------------------------


def take_archive(
    *,
    server: Server,
    database: str,
    path: str,
    environment: Mapping[str, str],
    archive_id: str | None = None,
    deployment_id: str | None = None,
    schema_version: str | None = None,
    dump_format: str = "directory",
    jobs: int | None = None,
    compression: str = "auto",
    bin_dir: str | None = None,
    include_globals: bool = True,
    min_free_bytes: int = 0,
    lock_wait_s: float = 60,
    check: bool = False,
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.timezone.utc),
) -> dict[str, Any]:
    """Take an archive of ``database`` below ``path`` and return ``{"changed", "archive"}``.

    An archive with ``archive_id`` that is there and good is left alone. With ``check``, everything is examined that
    a run examines before it writes, and ``archive`` holds the prediction.

    Raises `HoldfastError`; nothing is left behind then.
    """
    plan = _plan(
        server=server,
        database=check_name(database),
        path=os.path.abspath(path),
        environment=environment,
        archive_id=None if archive_id is None else archives.check_id(archive_id),
        deployment_id=deployment_id,
        schema_version=schema_version,
        dump_format=dump_format,
        jobs=jobs or min(4, os.cpu_count() or 1),
        compression=compression,
        bin_dir=bin_dir,
        include_globals=include_globals,
        min_free_bytes=min_free_bytes,
        lock_wait_s=lock_wait_s,
        started_at=now(),
    )
    if isinstance(plan, dict):
        return plan
    if check:
        return {"changed": True, "archive": plan.prediction()}
    with signals_raised():
        return {"changed": True, "archive": _take(plan)}


@dataclass(frozen=True)
class _Plan:
    server: Server
    database: str
    path: str
    directory: str
    id: str
    environment: Mapping[str, str]
    programs: ClientPrograms
    server_version: int
    deployment_id: str | None
    schema_version: str | None
    dump_format: str
    jobs: int
    compression: str
    include_globals: bool
    lock_wait_s: float
    started_at: datetime.datetime
    database_bytes: int
    predicted_bytes: int
    free_bytes: int
    application_name: str
    warnings: Sequence[str]

    def prediction(self) -> dict[str, Any]:
        """Return what a run would do, as far as it can be known."""
        return {
            "path": os.path.join(self.directory, self.id),
            "id": self.id,
            "database": self.database,
            "format": self.dump_format,
            "compression": self.compression,
            "predicted_bytes": self.predicted_bytes,
            "free_bytes": self.free_bytes,
            "database_bytes": self.database_bytes,
            "server_version": self.server_version,
            "client_version": self.programs.version,
            "deployment_id": self.deployment_id,
            "schema_version": self.schema_version,
            "warnings": list(self.warnings),
        }


def _plan(
    *,
    server: Server,
    database: str,
    path: str,
    environment: Mapping[str, str],
    archive_id: str | None,
    dump_format: str,
    compression: str,
    bin_dir: str | None,
    min_free_bytes: int,
    started_at: datetime.datetime,
    **further: Any,
) -> _Plan | dict[str, Any]:
    """Examine everything that can be examined before anything is written; the answer when there is nothing to do."""
    with server.session(database) as connection:
        version = server_version(connection)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())")
            database_bytes = int(only_row(cursor)[0])
    programs = find_client_programs(server_version=version, bin_dir=bin_dir, environment=environment)
    programs.path("pg_restore")
    existing_parent = archives.expect_writable(path, database)
    if archive_id is not None:
        existing = os.path.join(path, archives.directory_name(database), archive_id)
        if os.path.lexists(existing):
            return _unchanged(existing, archive_id=archive_id, database=database)
    chosen, notice = choose_compression(compression, programs=programs, environment=environment)
    free = archives.free_bytes(existing_parent)
    predicted = predict_bytes(path=path, database=database, database_bytes=database_bytes, compression=chosen)
    if free < predicted + min_free_bytes:
        raise HoldfastError(
            code="destination_full",
            msg="%s has %d bytes free; the archive of %r is expected to take %d bytes, and %d must stay free."
            % (path, free, database, predicted, min_free_bytes),
            hint="Free space there (pg_backup_prune removes old archives), or choose another path.",
            predicted_bytes=predicted,
            free_bytes=free,
        )
    token = secrets.token_hex(4)
    return _Plan(
        server=server,
        database=database,
        path=path,
        directory=os.path.join(path, archives.directory_name(database)),
        id=archive_id or archives.new_id(started_at, token),
        environment=environment,
        programs=programs,
        server_version=version,
        dump_format=dump_format,
        compression=chosen,
        started_at=started_at,
        database_bytes=database_bytes,
        predicted_bytes=predicted,
        free_bytes=free,
        application_name="holdfast backup " + token,
        warnings=[notice] if notice else [],
        **further,
    )


def _unchanged(path: str, *, archive_id: str, database: str) -> dict[str, Any]:
    state = archives.examine(path, archive_id=archive_id, database=database)
    if state.status != "good":
        raise HoldfastError(
            code="archive_corrupt",
            msg="The archive %s exists and is %s: %s." % (path, state.status, state.reason),
            hint="Remove it (pg_backup_prune with remove_corrupt), or choose another id.",
            path=path,
            reason=state.reason,
        )
    return {"changed": False, "archive": state.as_dict()}


def predict_bytes(*, path: str, database: str, database_bytes: int, compression: str) -> int:
    """Return how large an archive will be, from the newest one of this database, else from the database's size."""
    for state in reversed(archives.list_archives(path, database=database, verify="none").archives):
        if state.manifest is not None and state.manifest.database_bytes > 0:
            known, wanted = (c.partition(":")[0] for c in (state.manifest.compression, compression))
            if known == wanted:
                return int(database_bytes * MARGIN * state.bytes / state.manifest.database_bytes)
    return int(database_bytes * FIRST_RATIO["none" if compression == "none" else "compressed"])


def _take(plan: _Plan) -> dict[str, Any]:
    warnings = list(plan.warnings)
    try:
        directory = archives.prepare_directory(plan.path, plan.database)

        def end_outliving(owner: Mapping[str, Any]) -> None:
            if owner.get("application_name"):
                end_sessions(server=plan.server, application_name=str(owner["application_name"]))

        warnings += [
            "%s of a run that was killed was removed." % os.path.join(directory, name)
            for name in archives.clean_up(directory, before_removal=end_outliving)
        ]
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_at": archives.format_time(plan.started_at),
            "application_name": plan.application_name,
        }
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _no_session_outlives(plan), archives.draft(directory, plan.id, owner=owner) as draft:
                    manifest = _fill(plan, draft, warnings)
                    draft.publish()
                break
            except (HoldfastError, psycopg2.Error) as exc:
                if attempt == ATTEMPTS or not _lost_a_lock(exc):
                    raise
                warnings.append("Attempt %d was given up: %s" % (attempt, " ".join(str(exc).split())))
    except OSError as exc:
        raise archives.storage_failure(exc, plan.directory) from exc
    state = archives.examine(os.path.join(directory, plan.id), verify="none")
    return dict(state.as_dict(), status="good", **{"warnings": list(manifest.warnings)})


@contextlib.contextmanager
def _no_session_outlives(plan: _Plan) -> Iterator[None]:
    """End the sessions of a run that fails: the server goes on with the query of a program that was ended."""
    try:
        yield
    except BaseException:
        # The failure is what matters, and a server that cannot be reached holds nothing of ours for long.
        with contextlib.suppress(HoldfastError, psycopg2.Error):
            end_sessions(server=plan.server, application_name=plan.application_name)
        raise


def _lost_a_lock(exc: Exception) -> bool:
    """Whether somebody wanted a table for himself after this run had locked it, and must get it before a new try."""
    if not isinstance(exc, HoldfastError):
        return getattr(exc, "pgcode", None) == errorcodes.LOCK_NOT_AVAILABLE
    if exc.code == "snapshot_lost" or exc.details.get("sqlstate") == errorcodes.LOCK_NOT_AVAILABLE:
        return True
    # pg_dump limits its wait for locks, and nothing else, by statement_timeout; its jobs do not wait at all.
    stderr = str(exc.details.get("stderr", ""))
    return "could not obtain lock on relation" in stderr or "due to statement timeout" in stderr


def _fill(plan: _Plan, draft: archives.Draft, warnings: list[str]) -> archives.Manifest:
    """Write everything of an archive but its name, and return its manifest."""
    started = time.monotonic()

    def sessions(**settings: str) -> Server:
        """Row security would hide rows; off means an error instead."""
        return session_server(
            plan.server,
            version=plan.server_version,
            application_name=plan.application_name,
            settings={"row_security": "off", **settings},
        )

    server = sessions()
    # The limit on queued locks is for those who come after the tables are locked.
    follower = sessions(lock_timeout="%ds" % QUEUED_LOCK_WAIT_S)
    dump = os.path.join(draft.path, archives.DATA_BY_FORMAT[plan.dump_format])
    with (
        server.session(plan.database) as reader,
        exported_snapshot(
            server=server, database=plan.database, reader=reader, lock_wait_s=plan.lock_wait_s
        ) as snapshot,
        plan.server.client_environment(plan.environment) as environment,
    ):
        sequences_before = read_sequences(reader)
        fingerprinting = _Fingerprinting(
            server=follower, database=plan.database, snapshot=snapshot.name, jobs=plan.jobs
        )
        with fingerprinting:
            try:
                dumped = run_program(
                    dump_command(
                        plan.programs,
                        conninfo=server.conninfo(plan.database),
                        target=dump,
                        dump_format=plan.dump_format,
                        compression=plan.compression,
                        jobs=plan.jobs,
                        snapshot=snapshot.name,
                        lock_wait_s=QUEUED_LOCK_WAIT_S,
                    ),
                    environment=environment,
                )
            except HoldfastError as exc:
                fingerprinting.raise_if_failed()
                raise _dump_failure(exc, plan) from exc
            # Read before the fingerprint is waited for, so that the interval is as narrow as it can be.
            sequences = sequence_ranges(sequences_before, read_sequences(reader))
            fingerprint, fingerprint_s = fingerprinting.result(reader, snapshot)
        notes = [line for line in dumped.stderr.splitlines() if line.strip()]
        entries = read_toc(plan.programs, dump=dump, environment=environment)
        _expect_complete(snapshot, entries, plan=plan)
        if plan.include_globals:
            notes += _write_globals(plan, draft, environment=environment)
    properties = json.dumps(snapshot.properties.as_dict(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    archives.write_durably(os.path.join(draft.path, archives.PROPERTIES), properties.encode("utf-8", "surrogateescape"))
    files = archives.seal(draft.path)
    finished_at = plan.started_at + datetime.timedelta(seconds=time.monotonic() - started)
    manifest = archives.Manifest(
        id=plan.id,
        database=plan.database,
        deployment_id=plan.deployment_id,
        schema_version=plan.schema_version,
        started_at=archives.format_time(plan.started_at),
        snapshot_at=archives.format_time(snapshot.at),
        finished_at=archives.format_time(finished_at),
        duration_s=round(time.monotonic() - started, 3),
        dump_s=round(dumped.duration_s, 3),
        fingerprint_s=round(fingerprint_s, 3),
        lsn=snapshot.lsn,
        server_version=plan.server_version,
        client_version=plan.programs.version,
        dump_format=plan.dump_format,
        compression=plan.compression,
        files=files,
        fingerprint=dataclasses.replace(fingerprint, sequences=sequences).as_dict(),
        rows=fingerprint.rows,
        tables=sum(relation.kind == "r" for relation in snapshot.relations),
        database_bytes=plan.database_bytes,
        toc_entries=len(entries),
        extensions=snapshot.extensions,
        roles=snapshot.roles,
        subscriptions=snapshot.subscriptions,
        warnings=warnings + notes,
    )
    content = manifest.encoded()
    archives.write_durably(os.path.join(draft.path, archives.MANIFEST), content)
    archives.write_durably(os.path.join(draft.path, archives.MANIFEST_SUM), archives.checksum_line(content))
    return manifest


class _Fingerprinting:
    """A fingerprint taken beside the dump; the first of the two that fails ends the other."""

    def __init__(self, *, server: Server, database: str, snapshot: str, jobs: int) -> None:
        self._server = server
        self._name = server.connect_params["application_name"]
        self._take = functools.partial(take_fingerprint, server=server, database=database, snapshot=snapshot, jobs=jobs)
        self._fingerprint: Fingerprint | None = None
        self._failure: BaseException | None = None
        self._duration_s = 0.0
        self._thread = threading.Thread(target=self._run, name="fingerprint", daemon=True)

    def _run(self) -> None:
        started = time.monotonic()
        try:
            self._fingerprint = self._take()
        except (HoldfastError, psycopg2.Error, OSError) as exc:
            self._failure = exc
            with contextlib.suppress(HoldfastError, psycopg2.Error):  # the dump then ends by itself, only later
                end_sessions(server=self._server, application_name=self._name)
        self._duration_s = time.monotonic() - started

    def __enter__(self) -> _Fingerprinting:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_rest: Any) -> None:
        if kind is not None and self._thread.is_alive():
            with contextlib.suppress(HoldfastError, psycopg2.Error):  # the failure on its way out is the one to tell
                end_sessions(server=self._server, application_name=self._name)
            self._thread.join(timeout=15)

    def raise_if_failed(self) -> None:
        """Raise what the fingerprint failed with, if it failed."""
        if self._failure is not None:
            raise self._failure

    def result(self, reader: Connection, snapshot: Snapshot) -> tuple[Fingerprint, float]:
        """Wait for the fingerprint and return it with its duration in seconds.

        With the dump complete, the snapshot's locks are let go as soon as the fingerprint waits for one itself: it
        may wait behind somebody who waits for them. What he then does to a table yet unread, the fingerprint notices.
        """
        self._thread.join(timeout=1)
        while self._thread.is_alive():
            with reader.cursor() as cursor:
                cursor.execute(WAITING, (self._name,))
                if only_row(cursor)[0]:
                    snapshot.release()
            self._thread.join(timeout=1)
        self.raise_if_failed()
        if self._fingerprint is None:
            raise AssertionError("the fingerprint neither failed nor came")
        return self._fingerprint, self._duration_s


def sequence_ranges(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return each sequence with the values between which a dump found it, as `compare_fingerprints` takes them."""
    return {
        name: dict(facts, last_value_max=after[name]["last_value"], is_called_max=after[name]["is_called"])
        if name in after
        else dict(facts)
        for name, facts in {**after, **before}.items()
    }


def _dump_failure(exc: HoldfastError, plan: _Plan) -> HoldfastError:
    stderr = str(exc.details.get("stderr", ""))
    if "No space left on device" in stderr or "Disk quota exceeded" in stderr:
        return HoldfastError(
            code="destination_full",
            msg="%s ran full while %r was being dumped: %s" % (plan.directory, plan.database, exc.msg),
            hint="Nothing was left behind. Free space there (pg_backup_prune removes old archives), or choose "
            "another path.",
        )
    return exc


def _expect_complete(snapshot: Snapshot, entries: Sequence[TocEntry], *, plan: _Plan) -> None:
    missing = missing_entries(snapshot.relations, entries, standby=snapshot.standby)
    if missing:
        shown = ", ".join(missing[:5]) + (" and %d more" % (len(missing) - 5) if len(missing) > 5 else "")
        raise HoldfastError(
            code="archive_corrupt",
            msg="The dump of %r lacks %s, although pg_dump reported success; it was discarded."
            % (plan.database, shown),
            hint="Check that %s is PostgreSQL's own program, and whether its output was cut short."
            % plan.programs.path("pg_dump"),
            missing=missing,
        )


def _write_globals(plan: _Plan, draft: archives.Draft, *, environment: Mapping[str, str]) -> list[str]:
    """Write globals.sql, or return why not as a warning: an archive without it is still one of the database."""
    target = os.path.join(draft.path, archives.GLOBALS)
    maintenance_db = plan.server.maintenance_db
    try:
        run_program(
            globals_command(
                plan.programs,
                conninfo=plan.server.conninfo(maintenance_db),
                database=maintenance_db,
                target=target,
            ),
            environment=environment,
        )
    except HoldfastError as exc:
        if exc.code not in ("program_failed", "program_not_found"):
            raise
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        return ["%s is not in the archive: %s" % (archives.GLOBALS, exc.msg)]
    return []


# --- looking at archives -------------------------------------------------------------------------------------------


def describe_archives(
    *,
    path: str,
    environment: Mapping[str, str],
    database: str | None = None,
    archive_id: str | None = None,
    verify: str = "checksums",
    bin_dir: str | None = None,
) -> dict[str, Any]:
    """Return ``{"changed", "archives", "newest_good"}`` for the archives below ``path``, each as a dict."""

    def complaint(archive: str, manifest: archives.Manifest) -> str | None:
        programs = find_client_programs(
            server_version=manifest.client_version, bin_dir=bin_dir, environment=environment, program="pg_restore"
        )
        try:
            entries = read_toc(programs, dump=os.path.join(archive, manifest.data), environment=environment)
        except HoldfastError as exc:
            return "%s has no table of contents that can be read: %s" % (manifest.data, exc.msg)
        if len(entries) != manifest.toc_entries:
            return "%s has %d entries instead of %d" % (manifest.data, len(entries), manifest.toc_entries)
        return None

    listing = archives.list_archives(
        os.path.abspath(path), database=database, archive_id=archive_id, verify=verify, read_toc=complaint
    )
    newest = listing.newest_good
    return {
        "changed": False,
        "archives": [state.as_dict() for state in listing.archives],
        "newest_good": None if newest is None else newest.as_dict(),
    }
