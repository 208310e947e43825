# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Building a side database from an archive, out of everybody's way, and proving it before it gets its name."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.archive import ArchiveState, Manifest
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import read_listing, session_server
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import (
    Fingerprint,
    compare_fingerprints,
    take_fingerprint,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    check_name,
    only_row,
    refuse_standby,
    server_version,
    suffixed_name,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.interruption import signals_raised
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import (
    ClientPrograms,
    find_client_programs,
    run_program,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import (
    DatabaseProperties,
    apply_properties,
    create_database,
    missing_roles,
    property_differences,
    read_properties,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.unfinished import (
    BUILD_LOCK,
    MARK,
    abandoned_restores,
    lock_number,
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

#: First key of a session-level advisory lock, held in the maintenance database: for a target name, by its hash.
TARGET_LOCK = 0x48465254

#: Nothing that was loaded counts before the one transaction at the end, whose commit is synchronous and thereby makes
#: all of the log before it durable; no commit before that one needs to wait for the disk.
LOAD_SETTINGS = {"synchronous_commit": "off", "lock_timeout": "0", "maintenance_work_mem": "256MB", "jit": "off"}

#: What a restored database cannot or need not share with its source; a collation's version is the server's.
NOT_COMPARED = ("allow_connections", "is_template", "collation_version")

#: Before 17 no server knows this parameter, which newer client programs set in each of their sessions.
UNKNOWN_TIMEOUT = 'unrecognized configuration parameter "transaction_timeout"'

EMPTY_DATABASE_BYTES = 16 * 1024 * 1024
EMPTY_OBJECT_BYTES = 32 * 1024

INVALID_OR_PRESENT = "SELECT datconnlimit = -2 FROM pg_catalog.pg_database WHERE datname = %s"

# Only sessions that this role may end; PostgreSQL itself ends its workers when a database is renamed.
END_SESSIONS = """
SELECT pg_catalog.pg_terminate_backend(a.pid)
  FROM pg_catalog.pg_stat_activity a
  JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
 WHERE a.datname = %s AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type = 'client backend'
   AND ((SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
        OR (NOT r.rolsuper AND (pg_catalog.pg_has_role(a.usesysid, 'MEMBER')
                                OR pg_catalog.pg_has_role('pg_signal_backend', 'MEMBER'))))
"""


#: What holds rows in a table of contents; the history of migrations may be wanted nevertheless.
ROWS = ("TABLE DATA", "BLOBS", "BLOB", "BLOB METADATA", "MATERIALIZED VIEW DATA")


def restore_command(
    programs: ClientPrograms,
    *,
    conninfo: str,
    dump: str,
    jobs: int,
    exit_on_error: bool = True,
    use_list: str | None = None,
) -> list[str]:
    """Return the command line of pg_restore; ``use_list`` is a file with the entries that are wanted.

    Subscriptions stay out: one in a side database would claim the original's slot, and keep the side database from
    being dropped.
    """
    return [
        programs.path("pg_restore"),
        "--dbname=" + conninfo,
        "--no-password",
        *(["--exit-on-error"] if exit_on_error else []),
        "--no-subscriptions",
        "--jobs=%d" % jobs,
        *(["--use-list=" + use_list] if use_list else []),
        dump,
    ]


def without_rows(listing: str, *, rows_of: Sequence[str]) -> str:
    """Return the lines of a table of contents without those that hold rows, but for the tables ``rows_of``.

    Tables are written as in SQL, with or without a schema, ``public`` by default.
    """
    wanted = tuple("TABLE DATA %s %s " % _schema_and_name(table) for table in rows_of)

    def stays(line: str) -> bool:
        match = re.match(r"\d+; \d+ \d+ (.+)", line)
        holds_rows = match is not None and match.group(1).startswith(tuple(kind + " " for kind in ROWS))
        return not holds_rows or (match is not None and match.group(1).startswith(wanted))

    return "".join(line + "\n" for line in listing.splitlines() if stays(line))


def _schema_and_name(table: str) -> tuple[str, str]:
    """Return the two names in ``table`` as they are, unquoted."""
    parts = re.findall(r'"((?:[^"]|"")+)"|([^".]+)', table)
    names = [quoted.replace('""', '"') if quoted else plain.strip().lower() for quoted, plain in parts]
    return names[0] if len(names) > 1 else "public", names[-1] if names else ""


@dataclass
class _Phases:
    """Durations of the steps in seconds, in order."""

    values: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.values[name + "_s"] = round(time.monotonic() - started, 3)


@dataclass(frozen=True)
class _Plan:
    server: Server
    database: str
    building: str
    number: int
    environment: Mapping[str, str]
    state: ArchiveState
    manifest: Manifest
    properties: DatabaseProperties
    programs: ClientPrograms
    server_version: int
    tablespace: str | None
    jobs: int
    verify: bool
    keep_on_failure: bool
    rows_of: Sequence[str] | None
    warnings: list[str]

    def result(self, *, changed: bool, **further: Any) -> dict[str, Any]:
        """Return what every answer holds."""
        return {
            "changed": changed,
            "database": self.database,
            "archive": {"path": self.state.path, "id": self.manifest.id, "database": self.manifest.database},
            "snapshot_at": self.manifest.snapshot_at,
            "rows": self.manifest.rows,
            "warnings": self.warnings,
            **further,
        }


def restore_archive(
    *,
    server: Server,
    database: str,
    environment: Mapping[str, str],
    archive: str | None = None,
    path: str | None = None,
    source_database: str | None = None,
    archive_id: str | None = None,
    owner: str | None = None,
    tablespace: str | None = None,
    jobs: int | None = None,
    verify: bool = True,
    checksums: bool = True,
    bin_dir: str | None = None,
    keep_on_failure: bool = False,
    allow_older_server: bool = False,
    rows_of: Sequence[str] | None = None,
    check: bool = False,
) -> dict[str, Any]:
    """Create ``database`` from an archive, which is chosen as by `archive.select_archive`.

    With ``rows_of``, the rows of these tables only are restored, and objects are all that is compared.

    Returns ``changed``, ``database``, ``archive``, ``verified``, ``differences``, ``rows``, ``bytes``, ``duration_s``,
    ``phases`` and ``warnings``. With ``check``, everything is examined that a run examines before it creates
    anything.

    Raises `HoldfastError`. No database of that name is left then, whole or half; with ``keep_on_failure`` the
    half-built one is left under another name, which the failure tells.
    """
    started = time.monotonic()
    phases = _Phases()
    check_name(database)
    with contextlib.ExitStack() as stack:
        with server.session(server.maintenance_db) as connection:
            version = server_version(connection)
        number = secrets.randbits(32)
        steady = session_server(server, version=version, application_name="holdfast restore %08x" % number)
        maintenance = stack.enter_context(steady.session(server.maintenance_db))
        refuse_standby(maintenance)
        _expect_free_name(maintenance, database)
        with phases.timed("check"):
            state, warnings = archives.select_archive(
                archive=archive,
                path=path,
                database=source_database,
                archive_id=archive_id,
                verify="checksums" if checksums else "none",
            )
            try:
                stack.enter_context(archives.in_use(state.path))
            except OSError as exc:
                raise archives.storage_failure(exc, state.path) from exc
            plan = _plan(
                maintenance,
                state=state,
                allow_older_server=allow_older_server,
                owner=owner,
                server=server,
                server_version=version,
                database=database,
                building=suffixed_name(database, ".restoring-%08x" % number),
                number=number,
                environment=environment,
                bin_dir=bin_dir,
                tablespace=tablespace,
                jobs=jobs or min(4, os.cpu_count() or 1),
                verify=verify,
                keep_on_failure=keep_on_failure,
                rows_of=rows_of,
                warnings=warnings,
            )
        if check:
            return plan.result(changed=True, verified=False, differences=[], bytes=plan.manifest.database_bytes)
        with signals_raised():
            differences, size = _restore(plan, maintenance, phases)
    return plan.result(
        changed=True,
        verified=verify and rows_of is None,
        differences=differences,
        bytes=size,
        duration_s=round(time.monotonic() - started, 3),
        phases=phases.values,
    )


# --- before anything is created ------------------------------------------------------------------------------------


def _expect_free_name(maintenance: Connection, database: str) -> None:
    with maintenance.cursor() as cursor:
        cursor.execute(INVALID_OR_PRESENT, (database,))
        row = cursor.fetchone()
    if row is not None:
        raise HoldfastError(
            code="target_exists",
            msg="Database %r exists already%s; nothing is restored over it."
            % (database, ", left over from an interrupted DROP DATABASE" if row[0] else ""),
            hint="Finish that DROP DATABASE." if row[0] else "Choose another name for the side database.",
        )


def _plan(
    maintenance: Connection,
    *,
    state: ArchiveState,
    allow_older_server: bool,
    owner: str | None,
    bin_dir: str | None,
    environment: Mapping[str, str],
    warnings: list[str],
    server: Server,
    server_version: int,
    rows_of: Sequence[str] | None,
    **further: Any,
) -> _Plan:
    manifest = archives.manifest_of(state)
    version = server_version
    if version // 10000 < manifest.server_version // 10000 and not allow_older_server:
        raise HoldfastError(
            code="unsupported",
            msg="The archive %s is of PostgreSQL %d; this server is %d."
            % (state.path, manifest.server_version // 10000, version // 10000),
            hint="Restore into that version or a newer one, or set allow_older_server to try.",
        )
    # What a pg_dump wrote, no older pg_restore can be trusted to read.
    wanted = max(version, manifest.client_version // 10000 * 10000)
    programs = find_client_programs(
        server_version=wanted, bin_dir=bin_dir, environment=environment, program="pg_restore"
    )
    properties = _recorded_properties(state)
    if owner is not None:
        properties = owned_by(properties, check_name(owner, what="role"))
    _expect_roles(maintenance, manifest=manifest, properties=properties, state=state)
    warnings = warnings + _extension_notes(maintenance, manifest, state=state)
    if manifest.subscriptions:
        warnings.append(
            "Subscriptions are not restored into a side database: %s." % ", ".join(sorted(manifest.subscriptions))
        )
    _expect_space(maintenance, server=server, expected_bytes=_expected_bytes(manifest, rows_of=rows_of))
    return _Plan(
        state=state,
        manifest=manifest,
        properties=properties,
        programs=programs,
        environment=environment,
        server=server,
        server_version=version,
        rows_of=rows_of,
        warnings=warnings,
        **further,
    )


def _recorded_properties(state: ArchiveState) -> DatabaseProperties:
    path = os.path.join(state.path, archives.PROPERTIES)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return DatabaseProperties.from_dict(json.load(file))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise HoldfastError(
            code="archive_corrupt",
            msg="The archive %s is corrupt: %s cannot be read: %s." % (state.path, archives.PROPERTIES, exc),
            hint="Use another archive; pg_backup_info with verify: checksums names the good ones.",
        ) from exc


def owned_by(properties: DatabaseProperties, owner: str) -> DatabaseProperties:
    """Return ``properties`` with another owner, who takes the old owner's place in the ACL, as ALTER OWNER does."""

    def renamed(role: str) -> str:
        return owner if role == properties.owner else role

    acl: dict[tuple[str, str, str], dict[str, Any]] = {}
    for entry in properties.acl:
        moved = dict(entry, grantee=renamed(entry["grantee"]), grantor=renamed(entry["grantor"]))
        key = (moved["grantee"], moved["grantor"], moved["privilege"])
        moved["grantable"] = moved["grantable"] or acl.get(key, moved)["grantable"]
        acl[key] = moved
    values = dict(properties.as_dict(), owner=owner, acl=list(acl.values()))
    return DatabaseProperties.from_dict(values)


def _expect_roles(
    maintenance: Connection, *, manifest: Manifest, properties: DatabaseProperties, state: ArchiveState
) -> None:
    missing = set(missing_roles(connection=maintenance, properties=properties))
    with maintenance.cursor() as cursor:
        cursor.execute(
            "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY (%s)", (list(manifest.roles),)
        )
        missing |= set(manifest.roles) - {row[0] for row in cursor.fetchall()}
    if missing:
        raise HoldfastError(
            code="role_missing",
            msg="The archive %s needs roles that this server lacks: %s." % (state.path, ", ".join(sorted(missing))),
            hint="Create them, or run %s, which has them without passwords, with psql first."
            % os.path.join(state.path, archives.GLOBALS),
            roles=sorted(missing),
        )


def _extension_notes(maintenance: Connection, manifest: Manifest, *, state: ArchiveState) -> list[str]:
    """Return a sentence for each extension of another version here; raises where one is not available at all."""
    with maintenance.cursor() as cursor:
        cursor.execute("SELECT name::text, default_version FROM pg_catalog.pg_available_extensions")
        available = dict(cursor.fetchall())
    missing = [extension["name"] for extension in manifest.extensions if extension["name"] not in available]
    if missing:
        raise HoldfastError(
            code="extension_missing",
            msg="The archive %s needs extensions that this server does not offer: %s."
            % (state.path, ", ".join(missing)),
            hint="Install their packages on the server's host, then run the task again.",
            extensions=missing,
        )
    return [
        "Extension %(name)s was %(version)s in the source" % extension
        + " and is %s here." % available[extension["name"]]
        for extension in manifest.extensions
        if available[extension["name"]] != extension["version"]
    ]


def _expected_bytes(manifest: Manifest, *, rows_of: Sequence[str] | None) -> int:
    """Return the size that the restored database will have; without rows, each file of it has a page or a few."""
    empty_bytes = EMPTY_DATABASE_BYTES + EMPTY_OBJECT_BYTES * manifest.toc_entries
    return manifest.database_bytes if rows_of is None else min(manifest.database_bytes, empty_bytes)


def _expect_space(maintenance: Connection, *, server: Server, expected_bytes: int) -> None:
    """Raise `HoldfastError` (``destination_full``) when the server runs on this host and its volume is too small."""
    if not (server.host is None or server.host.startswith("/") or server.host in ("localhost", "127.0.0.1", "::1")):
        return
    with maintenance.cursor() as cursor:
        cursor.execute(
            "SELECT CASE WHEN pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'MEMBER')"
            " THEN pg_catalog.current_setting('data_directory') END"
        )
        directory = only_row(cursor)[0]
    if directory is None or not os.path.isdir(directory):
        return
    needed, free = expected_bytes * 11 // 10, archives.free_bytes(directory)
    if free < needed:
        raise HoldfastError(
            code="destination_full",
            msg="The server's volume at %s has %d bytes free; the restored database is expected to take %d."
            % (directory, free, needed),
            hint="Free space there; databases retired by earlier deployments are the usual candidates.",
            free_bytes=free,
            needed_bytes=needed,
        )


# --- building ------------------------------------------------------------------------------------------------------


def _restore(plan: _Plan, maintenance: Connection, phases: _Phases) -> tuple[list[dict[str, Any]], int]:
    with _target_claimed(maintenance, plan):
        plan.warnings.extend(_drop_left_behind(maintenance, plan.server))
        try:
            with phases.timed("create"):
                _create(plan, maintenance)
            with phases.timed("load"):
                _load(plan)
            differences = _prove(plan, phases)
            with phases.timed("finish"):
                size = _finish(plan, maintenance)
        except BaseException as exc:
            told = _give_up(plan)
            if isinstance(exc, HoldfastError):
                exc.details.update(told)
            raise
    return differences, size


@contextlib.contextmanager
def _target_claimed(maintenance: Connection, plan: _Plan) -> Iterator[None]:
    """Hold both advisory locks; they end with the session, so a killed run holds nothing."""
    with maintenance.cursor() as cursor:
        cursor.execute(
            "SELECT pg_catalog.pg_try_advisory_lock(%s, pg_catalog.hashtext(%s))", (TARGET_LOCK, plan.database)
        )
        if not only_row(cursor)[0]:
            raise HoldfastError(
                code="target_exists",
                msg="Another run is restoring into %r." % plan.database,
                hint="Wait for it, or choose another name for the side database.",
            )
        cursor.execute("SELECT pg_catalog.pg_advisory_lock(%s, %s)", (BUILD_LOCK, lock_number(plan.number)))
    try:
        yield
    finally:
        with contextlib.suppress(psycopg2.Error), maintenance.cursor() as cursor:  # a lost session holds no locks
            cursor.execute("SELECT pg_catalog.pg_advisory_unlock_all()")


def _marker(plan: _Plan) -> str:
    return "%s %s into %r; unfinished, dropped by the next restore" % (MARK, plan.state.path, plan.database)


def _create(plan: _Plan, maintenance: Connection) -> None:
    create_database(
        connection=maintenance,
        database=plan.building,
        properties=plan.properties,
        owner=plan.properties.owner,
        tablespace=plan.tablespace,
    )
    name = sql.Identifier(plan.building)
    with maintenance.cursor() as cursor:
        cursor.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, sql.Literal(_marker(plan))))
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))


def _sessions(plan: _Plan, **settings: str) -> Server:
    return session_server(
        plan.server,
        version=plan.server_version,
        application_name="holdfast restore %08x" % plan.number,
        settings={**LOAD_SETTINGS, **settings},
    )


def _load(plan: _Plan) -> None:
    """Run pg_restore; on any error of its own or of the server the database is worthless."""
    # One job may use the server's parallel workers for an index; several jobs are parallel themselves.
    server = _sessions(plan, max_parallel_maintenance_workers="2" if plan.jobs == 1 else "0")
    # A client newer than 16 offends an older server at once, in each session; that error alone is passed over.
    tolerant = plan.programs.major >= 17 and plan.server_version < 170000
    dump = os.path.join(plan.state.path, plan.manifest.data)
    with plan.server.client_environment(plan.environment) as environment, _wanted(plan, dump, environment) as use_list:
        completed = run_program(
            restore_command(
                plan.programs,
                conninfo=server.conninfo(plan.building),
                dump=dump,
                jobs=plan.jobs,
                exit_on_error=not tolerant,
                use_list=use_list,
            ),
            environment=environment,
            allowed_exit_codes=(0, 1) if tolerant else (0,),
        )
    errors = restore_errors(completed.stderr)
    if errors:
        raise HoldfastError(
            code="program_failed",
            msg="pg_restore reported errors: %s" % errors[0],
            hint="The program's own messages are in stderr.",
            stderr=completed.stderr[-8000:],
        )
    plan.warnings.extend(
        line
        for line in completed.stderr.splitlines()
        if "warning: " in line and "errors ignored on restore" not in line
    )


@contextlib.contextmanager
def _wanted(plan: _Plan, dump: str, environment: Mapping[str, str]) -> Iterator[str | None]:
    """A file with the entries that are wanted, or None for all of them."""
    if plan.rows_of is None:
        yield None
        return
    listing = read_listing(plan.programs, dump=dump, environment=environment)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="surrogateescape", prefix="holdfast-toc-") as file:
        file.write(without_rows(listing, rows_of=plan.rows_of))
        file.flush()
        yield file.name


def restore_errors(stderr: str) -> list[str]:
    """Return the errors that pg_restore went past, but for the one that says nothing about the database.

    The count that pg_restore prints at its end, which leaves out what jobs met while they connected, must be explained
    by errors that were seen; else that is an error too.
    """
    told = [line for line in stderr.splitlines() if line.startswith("pg_restore: error: ")]
    real = [line for line in told if UNKNOWN_TIMEOUT not in line]
    counted = re.search(r"errors ignored on restore: (\d+)", stderr)
    if counted and int(counted.group(1)) > len(told):
        real.append(counted.group(0))
    return real


# --- proving -------------------------------------------------------------------------------------------------------


def _prove(plan: _Plan, phases: _Phases) -> list[dict[str, Any]]:
    """Gather statistics and, beside that, compare the fingerprint; raises ``restore_differs``."""
    server = _sessions(plan, row_security="off")
    with phases.timed("prove"), server.session(plan.building) as connection, _Analyzing(connection):
        if not plan.verify:
            return []
        before = Fingerprint.from_dict(plan.manifest.fingerprint)
        after = take_fingerprint(server=server, database=plan.building, jobs=plan.jobs, algorithm=before.algorithm)
        if plan.rows_of is not None:
            before, after = _without_rows(before), _without_rows(after)
        differences = compare_fingerprints(before, after)
    if differences:
        raise _differs(plan, differences)
    return differences


def _without_rows(fingerprint: Fingerprint) -> Fingerprint:
    objects = {name: o for name, o in fingerprint.objects.items() if not name.startswith("large object ")}
    return Fingerprint(algorithm=fingerprint.algorithm, objects=objects)


def _differs(plan: _Plan, differences: Sequence[Mapping[str, Any]]) -> HoldfastError:
    shown = " ".join(str(difference.get("message") or difference) for difference in differences[:3])
    return HoldfastError(
        code="restore_differs",
        msg="The database restored from %s differs from its manifest in %d places: %s"
        % (plan.state.path, len(differences), shown),
        hint="Use another archive, and keep this one for an investigation.",
        differences=list(differences),
    )


class _Analyzing:
    """ANALYZE in a thread of its own, waited for at the end of the block."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="analyze", daemon=True)

    def _run(self) -> None:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("ANALYZE")
        except psycopg2.Error as exc:
            self._failure = exc

    def __enter__(self) -> _Analyzing:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_rest: Any) -> None:
        if kind is not None:
            with contextlib.suppress(psycopg2.Error):  # the failure on its way out is the one to tell
                self._connection.cancel()
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure


# --- finishing -----------------------------------------------------------------------------------------------------


def _finish(plan: _Plan, maintenance: Connection) -> int:
    """Give the database its properties and its name in one durable transaction, and return its size in bytes."""
    building, target = sql.Identifier(plan.building), sql.Identifier(plan.database)
    with maintenance.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_database_size(%s)", (plan.building,))
        size = int(only_row(cursor)[0])
        # Whoever got in, a monitoring agent of a superuser for instance, would stop the renaming.
        cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(building))
        cursor.execute(END_SESSIONS, (plan.building,))
    maintenance.autocommit = False
    try:
        with maintenance.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = on")
            apply_properties(connection=maintenance, database=plan.building, properties=plan.properties)
            differences = property_differences(
                comparable(plan.properties, tablespace=plan.tablespace),
                comparable(read_properties(connection=maintenance, database=plan.building), tablespace=plan.tablespace),
                ignore=NOT_COMPARED,
            )
            if differences:
                raise _differs(plan, differences)
            cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(building))
            cursor.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(building, target))
        maintenance.commit()
    except psycopg2.errors.DuplicateDatabase as exc:
        raise HoldfastError(
            code="target_exists",
            msg="Database %r came into being while the archive was restored." % plan.database,
            hint="Choose another name for the side database.",
        ) from exc
    except psycopg2.errors.ObjectInUse as exc:
        raise HoldfastError(
            code="database_in_use",
            msg="Somebody stayed connected to %r, which therefore cannot be renamed to %r: %s"
            % (plan.building, plan.database, " ".join(str(exc).split())),
            hint="See pg_stat_activity for that database, end the session, usually a superuser's, and try again.",
        ) from exc
    finally:
        if not maintenance.closed:
            maintenance.rollback()
            maintenance.autocommit = True
    return size


def comparable(properties: DatabaseProperties, *, tablespace: str | None) -> DatabaseProperties:
    """Return ``properties`` without who granted what, which no restore can always repeat, and with ``tablespace``."""
    return dataclasses.replace(
        properties,
        acl=sorted(
            (dict(entry, grantor="") for entry in properties.acl),
            key=lambda entry: (entry["grantee"], entry["privilege"], entry["grantable"]),
        ),
        tablespace=tablespace or properties.tablespace,
    )


def _give_up(plan: _Plan) -> dict[str, str]:
    """Drop the half-built database, or keep it out of the way; return what the failure shall tell of it.

    The session that built it may be lost or in the middle of something, so another one does this.
    """
    try:
        with plan.server.session(plan.server.maintenance_db) as connection:
            if not plan.keep_on_failure or not _exists(connection, plan.building):
                drop_database(connection, plan.building)
                return {}
            name = sql.Identifier(plan.building)
            reason = sql.Literal("kept after a failed restore of %s" % plan.state.path)
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, reason))
                cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
            return {"kept_database": plan.building}
    except (HoldfastError, psycopg2.Error) as exc:  # the failure on its way out is the one to tell; this goes with it
        return {"left_behind": "%s: %s" % (plan.building, " ".join(str(exc).split()))}


def _exists(maintenance: Connection, database: str) -> bool:
    with maintenance.cursor() as cursor:
        cursor.execute(INVALID_OR_PRESENT, (database,))
        return cursor.fetchone() is not None


def drop_database(maintenance: Connection, database: str) -> None:
    """Drop a database and end whatever is connected to it."""
    with maintenance.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


def _drop_left_behind(maintenance: Connection, server: Server) -> list[str]:
    """Drop what killed runs were building, and return a sentence for each."""
    notes = []
    for name in abandoned_restores(connection=maintenance, server=server):
        try:
            drop_database(maintenance, name)
            notes.append("Database %r, left half-built by a restore that was killed, was dropped." % name)
        except psycopg2.Error as exc:
            notes.append("Database %r, left half-built, cannot be dropped: %s" % (name, " ".join(str(exc).split())))
    return notes
