# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying a database beside itself, with everything that is keyed by its OID.

The copy is made under a temporary name and closed to everybody; in one transaction it then gets the properties, its
final name and its connections. So a database under the final name is complete, and what a killed run leaves is
recognised and removed by the next one.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    check_name,
    only_row,
    refuse_standby,
    server_version,
    suffixed_name,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import (
    DatabaseProperties,
    apply_properties,
    create_database,
    missing_roles,
    property_differences,
    read_properties,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import (
    Database,
    Session,
    database_size,
    file_copy_methods,
    find_database,
    free_bytes,
    get_database,
    lacking_rights,
    list_databases,
    local_directory,
    prepare_session,
    read_blockers,
    read_occupants,
    read_sessions,
    transaction,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.drain import in_use
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pause_length import (
    CANCEL_S,
    Pause,
    PoolersSeen,
    look_at_poolers,
    pause_too_long,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import paused
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.rescue import (
    DOORS_FIRST_S,
    SessionEnder,
    own_process,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.volume import (
    Speed,
    choose_speed,
    shares_blocks,
    write_speed,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import errorcodes, sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

STRATEGIES = ("auto", "wal_log", "file_copy", "clone")

#: Below this size the two checkpoints of a file copy cost more than writing the copy to the WAL.
WAL_LOG_MAX_BYTES = 64 * 1024 * 1024

#: How long check mode watches whether sessions come and go.
PREDICTION_TIMEOUT_S = 1

#: How long the copy waits for sessions to leave while the clients of poolers wait.
LAST_SESSIONS_S = 2.0

HINT = "Stop these clients or pause their pooler, raise drain_timeout, or rely on an archive in place of a clone."

#: Ends the name of an unfinished copy: the number is the server process that makes it.
TEMPORARY_SUFFIX = ".holdfast-clone-%d"
TEMPORARY_NAME = re.compile(r".*\.holdfast-clone-(\d+)", re.DOTALL)

# What file systems answer that cannot clone files; the server has no SQLSTATE of its own for it.
CANNOT_CLONE = ("XX000", "0A000", "58030")

# Object in use, lock not available, query canceled.
GIVEN_UP = ("55006", "55P03", "57014")

# Admin shutdown, as pg_terminate_backend says it; and nothing at all, when the driver only finds the connection lost.
ENDED = ("57P01", None)

READ_COLLATION_VERSIONS = """
SELECT d.datcollversion, pg_catalog.pg_database_collation_actual_version(d.oid)
  FROM pg_catalog.pg_database AS d
 WHERE d.oid = %s
"""


# What a checkpoint may have to write first, where this role cannot have one made before clients wait.
READ_DIRTY_BYTES = """
SELECT CASE WHEN r.rolsuper
              OR EXISTS (SELECT FROM pg_catalog.pg_roles AS c
                          WHERE c.rolname = 'pg_checkpoint' AND pg_catalog.pg_has_role(c.oid, 'USAGE'))
            THEN 0
            ELSE pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')) END
  FROM pg_catalog.pg_roles AS r
 WHERE r.rolname = current_user
"""


@dataclass(frozen=True)
class _Plan:
    """What is about to be copied, how, and what it takes."""

    source: Database
    properties: DatabaseProperties
    strategy: str
    size_bytes: int | None
    free_bytes: int | None
    free_reason: str | None
    stale: Sequence[Database]
    speed: Speed
    dirty_bytes: int = 0

    @property
    def expected_s(self) -> float:
        """How long the server should copy, in seconds."""
        return self.speed.expected_s((self.size_bytes or 0) + self.dirty_bytes)


def clone_database(
    *,
    server: Server,
    source: str,
    target: str,
    strategy: str = "auto",
    drain_timeout_s: float = 5,
    min_free_bytes: int | None = None,
    pause: Pause | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    check_mode: bool = False,
) -> dict[str, Any]:
    """Copy the database ``source`` to ``target`` and return the keys that the module pg_clone documents.

    With ``pause`` its poolers are paused while the server copies, all or none, and resumed whatever happens.
    ``earlier`` are copies of the same database, newest first, as `volume.choose_speed` takes them.

    In check mode nothing is changed, and what circumstances forbid is told by ``possible`` and ``reason``. Otherwise
    raises `HoldfastError` with the codes ``name_invalid``, ``option_invalid``, ``server_is_standby``,
    ``database_not_found``, ``database_invalid``, ``target_exists``, ``permission_denied``, ``role_missing``,
    ``unsupported``, ``destination_full`` or ``database_in_use``, and with poolers ``pause_too_long``,
    ``pause_refused``, ``timeout`` or those of `Poolers.open`; no target exists then.
    """
    started = time.monotonic()
    check_name(source)
    check_name(target)
    if source == target or server.maintenance_db in (source, target):
        raise HoldfastError(
            code="option_invalid",
            msg="The source %r, the target %r and maintenance_db %r need different names."
            % (source, target, server.maintenance_db),
            hint="Set maintenance_db to a third database, such as postgres or template1.",
        )
    pause = pause or Pause()
    if drain_timeout_s < 0 or (min_free_bytes or 0) < 0 or pause.max_pause_s <= 0:
        raise HoldfastError(
            code="option_invalid",
            msg="drain_timeout and min_free_bytes must not be negative, max_pause must be positive.",
            hint="Correct the options; nothing was touched.",
        )
    with contextlib.closing(_connect(server)) as connection:
        refuse_standby(connection)
        plan = _plan(connection, source, target, strategy)
        if pause.poolers or check_mode:
            dirty_bytes = 0 if plan.strategy == "wal_log" else _dirty_bytes(connection)
            plan = replace(plan, speed=_measured_speed(connection, plan, earlier), dirty_bytes=dirty_bytes)
        obstacles = _obstacles(connection, plan, strategy=strategy, min_free_bytes=min_free_bytes)
        seen, answering = PoolersSeen(limit_s=math.inf), Pause()
        if pause.poolers:
            try:
                seen, answering = look_at_poolers(pause, database=source), pause
            except HoldfastError as exc:
                obstacles.append(exc)
            if plan.expected_s + CANCEL_S > seen.limit_s:
                obstacles.append(
                    pause_too_long(
                        source, size_bytes=plan.size_bytes, speed=plan.speed, expected_s=plan.expected_s, seen=seen
                    )
                )
        result: dict[str, Any] = {
            "changed": True,
            "database": source,
            "source_oid": plan.source.oid,
            "target": target,
            "strategy": plan.strategy,
            "bytes": plan.size_bytes,
            "free_bytes": plan.free_bytes,
            "free_reason": plan.free_reason,
            "expected_s": plan.expected_s,
            "expected_from": plan.speed.source,
            "bytes_per_s": int(plan.speed.bytes_per_s),
            "copy_s": None,
            "pause_s": None,
            "poolers": [],
            "possible": True,
            "reason": None,
            "blocking_sessions": [],
            "removed": [database.name for database in plan.stale],
            "notices": [],
        }
        if check_mode:
            pooled = _Pooled(answering, source, seen.pids)
            sessions = _lingering(connection, plan.source, min(drain_timeout_s, PREDICTION_TIMEOUT_S), pooled)
            if sessions:
                obstacles.append(in_use(sessions, waited_s=min(drain_timeout_s, PREDICTION_TIMEOUT_S), hint=HINT))
            return dict(
                result,
                changed=not obstacles,
                possible=not obstacles,
                reason=" ".join(error.msg for error in obstacles) or None,
                blocking_sessions=[session.as_dict() for session in sessions],
                duration_s=round(time.monotonic() - started, 3),
            )
        if obstacles:
            raise obstacles[0]
        _drop(connection, plan.stale)
        copy = _Copy(server, connection, plan, target=target, drain_timeout_s=drain_timeout_s)
        result.update(copy.make(pause, seen))
    result["duration_s"] = round(time.monotonic() - started, 3)
    return result


def _connect(server: Server) -> Connection:
    connection = server.connect(server.maintenance_db, application_name="holdfast clone")
    prepare_session(connection)
    return connection


def choose_strategy(*, version: int, size_bytes: int | None, methods: Sequence[str]) -> str:
    """Return how a database is copied best: ``wal_log``, ``file_copy`` or ``clone``.

    Files are cloned where the server can (on Linux copy_file_range, which shares blocks on XFS and Btrfs and is the
    fastest copy elsewhere). Small databases go through the WAL, which spares the server two checkpoints
    (https://www.postgresql.org/docs/current/sql-createdatabase.html, STRATEGY).
    """
    if version < 150000:
        return "file_copy"
    if size_bytes is not None and size_bytes < WAL_LOG_MAX_BYTES:
        return "wal_log"
    return "clone" if "clone" in methods else "file_copy"


def _plan(connection: Connection, source: str, target: str, strategy: str) -> _Plan:
    database = get_database(connection=connection, name=source)
    existing = find_database(connection=connection, name=target)
    if existing is not None:
        raise HoldfastError(
            code="target_exists",
            msg="Database %r exists already (OID %d, owner %s): %s."
            % (
                target,
                existing.oid,
                existing.owner,
                "left over from an interrupted DROP DATABASE"
                if existing.invalid
                else "complete, since a clone gets its name last",
            ),
            hint="Choose another target, or drop this one when nobody needs it; nothing is overwritten.",
            target_oid=existing.oid,
        )
    size_bytes = database_size(connection=connection, oid=database.oid)
    free, reason = free_bytes(connection=connection, tablespace_oid=database.tablespace_oid)
    if strategy == "auto":
        methods = file_copy_methods(connection=connection)
        strategy = choose_strategy(version=server_version(connection), size_bytes=size_bytes, methods=methods)
    return _Plan(
        source=database,
        properties=read_properties(connection=connection, database=source),
        strategy=strategy,
        size_bytes=size_bytes,
        free_bytes=free,
        free_reason=reason,
        stale=stale_copies(connection),
        speed=choose_speed(strategy=strategy),
    )


def _dirty_bytes(connection: Connection) -> int:
    with connection.cursor() as cursor:
        cursor.execute(READ_DIRTY_BYTES)
        return int(only_row(cursor)[0])


def _measured_speed(connection: Connection, plan: _Plan, earlier: Sequence[Mapping[str, Any]]) -> Speed:
    known = choose_speed(strategy=plan.strategy, earlier=earlier)
    directory, _reason = local_directory(connection=connection, tablespace_oid=plan.source.tablespace_oid)
    if known.source == "earlier" or directory is None:
        return known
    shares = shares_blocks(directory) if plan.strategy == "clone" else None
    return choose_speed(
        strategy=plan.strategy, shares=shares, writes_bytes_per_s=None if shares else write_speed(directory)
    )


def stale_copies(connection: Connection) -> list[Database]:
    """Return unfinished copies whose server process has ended: nobody was ever able to connect to them."""
    candidates = {}
    for database in list_databases(connection=connection):
        match = TEMPORARY_NAME.fullmatch(database.name)
        if match and not database.allow_connections and (database.connection_limit == 0 or database.invalid):
            candidates[database] = int(match.group(1))
    alive = {session.pid for session in read_sessions(connection=connection, oids=(), pids=list(candidates.values()))}
    return [database for database, pid in candidates.items() if pid not in alive]


def _drop(connection: Connection, databases: Sequence[Database]) -> None:
    with connection.cursor() as cursor:
        for database in databases:
            # One that another role made is left for that role.
            with contextlib.suppress(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(database.name)))


def _obstacles(
    connection: Connection, plan: _Plan, *, strategy: str, min_free_bytes: int | None
) -> list[HoldfastError]:
    """Return everything but sessions that forbids the copy."""
    found: list[HoldfastError] = []
    source = plan.source
    lacking = lacking_rights(connection=connection, databases=[] if source.is_template else [source])
    if lacking:
        found.append(
            HoldfastError(
                code="permission_denied",
                msg="This role cannot copy database %r; it lacks %s." % (source.name, " and ".join(lacking)),
                hint="Connect as a superuser, or as a role with CREATEDB that owns the database.",
            )
        )
    # A role can be missing only when it was dropped this moment; its grants then name a number.
    missing = missing_roles(connection=connection, properties=plan.properties)
    if missing:
        found.append(
            HoldfastError(
                code="role_missing",
                msg="The properties of database %r name roles that do not exist: %s."
                % (source.name, ", ".join(missing)),
                hint="Revoke the grants or settings of the dropped roles.",
                roles=missing,
            )
        )
    unsupported = _unsupported(connection, source, strategy)
    if unsupported:
        found.append(unsupported)
    blockers = read_blockers(connection=connection, databases=[source])[source.oid]
    prepared = [blocker.as_dict() for blocker in blockers if blocker.kind == "prepared_transaction"]
    if prepared:
        found.append(
            HoldfastError(
                code="database_in_use",
                msg="Database %r cannot be copied: %s." % (source.name, "; ".join(b["message"] for b in prepared)),
                hint="COMMIT PREPARED or ROLLBACK PREPARED them; the server counts each as a session.",
                blockers=prepared,
            )
        )
    space = _too_little_space(connection, plan, min_free_bytes)
    if space:
        found.append(space)
    return found


def _unsupported(connection: Connection, source: Database, strategy: str) -> HoldfastError | None:
    version = server_version(connection)
    if strategy == "wal_log" and version < 150000:
        needed = "15"
    elif strategy == "clone" and "clone" not in file_copy_methods(connection=connection):
        needed = "18, built for a platform that can clone files"
    else:
        needed = ""
    if needed:
        return HoldfastError(
            code="unsupported",
            msg="Strategy %s needs PostgreSQL %s; this is %d." % (strategy, needed, version // 10000),
            hint="Use strategy auto, which takes the best that the server has.",
        )
    if version >= 150000:
        with connection.cursor() as cursor:
            cursor.execute(READ_COLLATION_VERSIONS, (source.oid,))
            row = cursor.fetchone()
        if row and row[0] is not None and row[0] != row[1]:
            return HoldfastError(
                code="unsupported",
                msg="The server refuses to copy database %r, because its collation has version %s and the system's"
                " library has %s." % (source.name, row[0], row[1]),
                hint="Rebuild the indexes on text, then ALTER DATABASE ... REFRESH COLLATION VERSION.",
            )
    return None


def _too_little_space(connection: Connection, plan: _Plan, min_free_bytes: int | None) -> HoldfastError | None:
    if plan.free_bytes is None:
        if not min_free_bytes:
            return None
        return HoldfastError(
            code="unsupported",
            msg="min_free_bytes is given, but free space cannot be measured: %s." % plan.free_reason,
            hint="Run the task on the server's host, or leave min_free_bytes out.",
        )
    needed = plan.size_bytes or 0
    if plan.strategy == "wal_log":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size'))")
            needed += min(needed, int(only_row(cursor)[0]))
    if plan.free_bytes >= needed + (min_free_bytes or 0):
        return None
    return HoldfastError(
        code="destination_full",
        msg="A copy of database %r needs %d bytes and %d are to stay free, but the server's volume has %d free."
        % (plan.source.name, needed, min_free_bytes or 0, plan.free_bytes),
        hint="Drop side databases that nobody needs, or use an archive on another volume.",
        needed_bytes=needed,
        min_free_bytes=min_free_bytes or 0,
        free_bytes=plan.free_bytes,
    )


def _lingering(
    connection: Connection, source: Database, timeout_s: float, pooled: _Pooled | None = None
) -> list[Session]:
    """Wait until everybody who is in ``source`` now has left, and return who has not.

    Sessions that are ``pooled`` do not count: their poolers give them up when they are paused.

    Who comes meanwhile does not count: where clients come and go, nobody has to leave for good, and the copy itself
    makes newcomers wait.
    """
    remaining: list[Session] = read_occupants(connection=connection, oids=[source.oid])
    present = {(session.pid, session.backend_start) for session in remaining}

    def gone() -> bool:
        now = read_occupants(connection=connection, oids=[source.oid])
        remaining[:] = [session for session in now if (session.pid, session.backend_start) in present]
        if pooled is not None:
            remaining[:] = pooled.strangers(remaining)
        return not remaining

    wait_until(gone, timeout_s=timeout_s, interval_s=0.05 if pooled is None else 0.2)
    return remaining


class _Pooled:
    """Which sessions belong to poolers, who open new ones at any time."""

    def __init__(self, pause: Pause, database: str, pids: Collection[int]) -> None:
        self.pause = pause
        self.database = database
        self.pids = set(pids)

    def strangers(self, sessions: Sequence[Session]) -> list[Session]:
        """Return the sessions that no pooler knows; poolers are asked again before somebody is called a stranger."""
        if any(session.pid not in self.pids for session in sessions):
            self.pids |= look_at_poolers(self.pause, database=self.database).pids
        return [session for session in sessions if session.pid not in self.pids]


class _Copy:
    """One copy in the making."""

    def __init__(
        self, server: Server, connection: Connection, plan: _Plan, *, target: str, drain_timeout_s: float
    ) -> None:
        self.server = server
        self.connection = connection
        self.plan = plan
        self.target = target
        self.drain_timeout_s = drain_timeout_s
        self.strategy = plan.strategy
        self.notices: list[str] = []
        self.clients_wait_until = math.inf
        self.copy_s = 0.0

    def make(self, pause: Pause, seen: PoolersSeen) -> dict[str, Any]:
        """Copy, finish and return what there is now; on any error nothing is left."""
        facts: list[dict[str, Any]] = []
        with contextlib.closing(_connect(self.server)) as worker:
            name = suffixed_name(self.target, TEMPORARY_SUFFIX % worker.info.backend_pid)
            try:
                if pause.poolers:
                    facts = self._create_while_clients_wait(worker, name, pause, seen)
                else:
                    self._create_when_quiet(worker, name, self.drain_timeout_s)
                carried_over, oid = self._finish(name)
            except BaseException:
                # Without a connection the next run drops it.
                with contextlib.suppress(psycopg2.Error):
                    temporary = find_database(connection=self.connection, name=name)
                    _drop(self.connection, [temporary] if temporary else [])
                raise
        return {
            "target_oid": oid,
            "strategy": self.strategy,
            "bytes": database_size(connection=self.connection, oid=oid),
            "copy_s": round(self.copy_s, 3),
            "pause_s": round(max(float(fact["stall_ms"]) for fact in facts) / 1000, 3) if facts else None,
            "poolers": facts,
            "carried_over": carried_over,
            "notices": self.notices,
        }

    def _create_while_clients_wait(
        self, worker: Connection, name: str, pause: Pause, seen: PoolersSeen
    ) -> list[dict[str, Any]]:
        """Run CREATE DATABASE with the poolers paused, resume them, and return what each of them did."""
        # Nobody shall wait for a copy that cannot begin because of somebody who came past the poolers.
        pooled = _Pooled(pause, self.plan.source.name, seen.pids)
        strangers = _lingering(self.connection, self.plan.source, self.drain_timeout_s, pooled)
        if strangers:
            raise in_use(strangers, waited_s=self.drain_timeout_s, hint=HINT)
        self._checkpoint()
        # A copy that went on would keep clients waiting at the door that are not in a pooler's queue any more.
        ender = SessionEnder(connect=lambda: _connect(self.server), session=own_process(worker))
        started = time.monotonic()
        with paused(
            pause.poolers,
            self.plan.source.name,
            timeout_s=seen.limit_s,
            max_pause_s=seen.limit_s - min(DOORS_FIRST_S, seen.limit_s / 2),
            prepare_rescue=ender.prepare,
            before_resume=ender.run,
            activity=lambda pids: read_sessions(connection=self.connection, oids=(), pids=pids),
        ) as poolers:
            self.clients_wait_until = started + seen.limit_s - CANCEL_S
            if time.monotonic() + self.plan.expected_s > self.clients_wait_until:
                raise self._too_slow(seen, "the pausing took %.1f s" % (time.monotonic() - started))
            try:
                # The poolers' sessions are about to end; others had their time.
                self._create_when_quiet(worker, name, LAST_SESSIONS_S)
            except (HoldfastError, psycopg2.Error) as exc:
                state = exc.details.get("sqlstate") if isinstance(exc, HoldfastError) else exc.pgcode
                if time.monotonic() < self.clients_wait_until or state not in (*GIVEN_UP, *ENDED):
                    raise
                raise self._too_slow(seen, "the copy was not complete") from exc
        return [dict(fact) for fact in poolers.facts]

    def _checkpoint(self) -> None:
        """Have a checkpoint now, so that the one of the copy is short; where this role may not, it is longer."""
        if self.strategy != "wal_log":
            with contextlib.suppress(psycopg2.errors.InsufficientPrivilege), self.connection.cursor() as cursor:
                cursor.execute("CHECKPOINT")

    def _too_slow(self, seen: PoolersSeen, what: str) -> HoldfastError:
        return HoldfastError(
            code="timeout",
            msg="Clients of the poolers would have waited for more than %g s: %s. They go on, and no copy was kept."
            % (seen.limit_s, what),
            hint="Rely on an archive in place of a clone, or raise max_pause; a copy was expected to take %g s."
            % self.plan.expected_s,
        )

    def _create_when_quiet(self, worker: Connection, name: str, drain_timeout_s: float) -> None:
        deadline = time.monotonic() + drain_timeout_s
        while True:
            sessions = _lingering(self.connection, self.plan.source, max(0.0, deadline - time.monotonic()))
            if not sessions:
                sessions = self._create(worker, name, deadline)
                if not sessions:
                    return
            if time.monotonic() >= deadline:
                raise in_use(sessions, waited_s=drain_timeout_s, hint=HINT)

    def _create(self, worker: Connection, name: str, deadline: float) -> list[Session]:
        """Run CREATE DATABASE and return nobody, or the sessions for whose sake it was given up.

        While it waits for sessions that slipped in, the server makes newcomers wait too; that is ended when the time
        for draining is over. It runs in a thread, so that a signal can end it.
        """
        failures: list[HoldfastError | psycopg2.Error] = []
        occupants: list[Session] = []

        def create() -> None:
            try:
                self._create_database(worker, name, deadline)
            except (HoldfastError, psycopg2.Error) as exc:
                failures.append(exc)

        def crowded() -> bool:
            now = read_sessions(connection=self.connection, oids=[self.plan.source.oid])
            in_the_way = [session for session in now if not session.yields]
            occupants[:] = in_the_way or occupants
            return bool(in_the_way) and time.monotonic() >= deadline

        thread = threading.Thread(target=create, daemon=True)
        thread.start()
        try:
            # Once it copies, nobody can be in the source.
            wait_until(lambda: not thread.is_alive() or crowded(), timeout_s=math.inf, interval_s=0.02)
        finally:
            while thread.is_alive():
                worker.cancel()
                thread.join(timeout=0.5)
        if not failures:
            return []
        error = failures[0]
        if occupants and isinstance(error, HoldfastError) and error.details.get("sqlstate") in GIVEN_UP:
            return occupants
        raise error

    def _create_database(self, worker: Connection, name: str, deadline: float) -> None:
        with worker.cursor() as cursor:
            limit_ms = max(100, int((deadline - time.monotonic()) * 1000))
            cursor.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", ("%dms" % limit_ms,))
            if self.clients_wait_until < math.inf:
                # The server ends it, should this process not be there to do so.
                left_ms = max(1, int((self.clients_wait_until - time.monotonic()) * 1000))
                cursor.execute("SELECT pg_catalog.set_config('statement_timeout', %s, false)", ("%dms" % left_ms,))
            if server_version(worker) >= 180000:
                method = "clone" if self.strategy == "clone" else "copy"
                cursor.execute("SELECT pg_catalog.set_config('file_copy_method', %s, false)", (method,))
        started = time.monotonic()
        try:
            create_database(
                connection=worker,
                database=name,
                properties=self.plan.properties,
                template=self.plan.source.name,
                strategy="wal_log" if self.strategy == "wal_log" else "file_copy",
                connection_limit=0,
                allow_connections=False,
            )
        except HoldfastError as exc:
            if self.strategy != "clone" or exc.details.get("sqlstate") not in CANNOT_CLONE:
                raise
            self.notices.append("The file system cannot clone files, so they were copied: %s" % exc.msg)
            self.strategy = "file_copy"
            self._create_database(worker, name, deadline)
            return
        self.copy_s = time.monotonic() - started

    def _finish(self, name: str) -> tuple[list[str], int]:
        """Give the copy its properties, its connections and its name, at once."""
        temporary, target = sql.Identifier(name), sql.Identifier(self.target)
        allow = sql.Literal(self.plan.source.allow_connections)
        with transaction(self.connection), self.connection.cursor() as cursor:
            carried_over = apply_properties(connection=self.connection, database=name, properties=self.plan.properties)
            cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(temporary, allow))
            try:
                cursor.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(temporary, target))
            except psycopg2.Error as exc:
                if exc.pgcode != errorcodes.DUPLICATE_DATABASE:
                    raise
                raise HoldfastError(
                    code="target_exists",
                    msg="Database %r was created by somebody else meanwhile; the copy was dropped." % self.target,
                    hint="Choose another target, or drop that one when nobody needs it.",
                ) from exc
            copied = read_properties(connection=self.connection, database=self.target)
            for difference in property_differences(self.plan.properties, copied, ignore=("is_template",)):
                self.notices.append("The copy differs in its %(property)s: %(before)r became %(after)r." % difference)
            database = get_database(connection=self.connection, name=self.target)
        return carried_over, database.oid
