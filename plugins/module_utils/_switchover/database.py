# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases as a switchover sees them: who is connected, what keeps a name from changing, how much room there is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._core.counters import read_counters
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.masking import mask_properties, shown
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import read_properties

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: What a session of the collection needs whatever the defaults of the role and the maintenance database are.
#: ``local``: commits must not wait for a standby while clients wait for us, and lose nothing by it, because a
#: later commit that a standby confirmed comes after ours in the same WAL.
SESSION_SETTINGS = {
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "statement_timeout": "0",
    "synchronous_commit": "local",
    "transaction_timeout": "0",
}

#: How much of a session's query is told.
SHOWN_CHARACTERS = 100

APPLY_SETTINGS = """
SELECT pg_catalog.set_config(s.name, v.value, false)
  FROM pg_catalog.pg_settings AS s
  JOIN unnest(%s::text[], %s::text[]) AS v (name, value) USING (name)
"""

READ_DATABASES = """
SELECT d.oid, d.datname::text, pg_catalog.pg_get_userbyid(d.datdba)::text, pg_catalog.pg_encoding_to_char(d.encoding),
       d.datconnlimit, d.datallowconn, d.datistemplate, d.dattablespace
  FROM pg_catalog.pg_database AS d
 WHERE %(names)s::text[] IS NULL OR d.datname = ANY (%(names)s::text[])
 ORDER BY d.datname
"""

# textsend: the text of another database's query may not be valid in this database's encoding.
READ_SESSIONS = """
SELECT a.pid, a.datid, a.datname::text, a.usename::text, pg_catalog.textsend(a.application_name),
       pg_catalog.host(a.client_addr), a.state, a.backend_type, a.backend_start,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.query_start)::float8,
       pg_catalog.textsend(a.query)
  FROM pg_catalog.pg_stat_activity AS a
 WHERE (a.datid = ANY (%(oids)s::oid[]) OR a.pid = ANY (%(pids)s::int[]))
   AND a.pid <> pg_catalog.pg_backend_pid()
 ORDER BY a.pid
"""

# Statements on a database as an object lock it here, and so does a connection until its start is complete, which
# is when it appears in pg_stat_activity (InitPostgres in the server's utils/init/postinit.c).
READ_LOCK_HOLDERS = """
SELECT l.pid
  FROM pg_catalog.pg_locks AS l
 WHERE l.locktype = 'object' AND l.database = 0 AND l.granted
   AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND l.objid = ANY (%s::oid[])
   AND l.pid <> pg_catalog.pg_backend_pid()
"""

READ_BLOCKERS = """
SELECT d.oid, 'prepared_transaction' AS kind, p.gid AS name, p.owner::text AS owner,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8 AS age_s, NULL::boolean AS active
  FROM pg_catalog.pg_prepared_xacts AS p JOIN pg_catalog.pg_database AS d ON d.datname = p.database
 WHERE d.oid = ANY (%(oids)s::oid[])
 UNION ALL
SELECT s.datoid, 'logical_slot', s.slot_name::text, NULL, NULL, s.active
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.datoid = ANY (%(oids)s::oid[])
 UNION ALL
SELECT s.subdbid, 'subscription', s.subname::text, pg_catalog.pg_get_userbyid(s.subowner)::text, NULL, s.subenabled
  FROM pg_catalog.pg_subscription AS s
 WHERE s.subdbid = ANY (%(oids)s::oid[])
 ORDER BY 1, 2, 3
"""

READ_RIGHTS = """
SELECT r.rolsuper, r.rolcreatedb,
       ARRAY (SELECT d.datname::text FROM pg_catalog.pg_database AS d
               WHERE d.oid = ANY (%s::oid[]) AND NOT pg_catalog.pg_has_role(d.datdba, 'USAGE') ORDER BY 1)
  FROM pg_catalog.pg_roles AS r
 WHERE r.rolname = current_user
"""

READ_SIZE = """
SELECT CASE WHEN d.datconnlimit <> -2
             AND (pg_catalog.has_database_privilege(d.oid, 'CONNECT')
                  OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'))
            THEN pg_catalog.pg_database_size(d.oid) END
  FROM pg_catalog.pg_database AS d
 WHERE d.oid = %s
"""

READ_SERVER = """
SELECT pg_catalog.current_setting('server_version_num')::int,
       pg_catalog.pg_is_in_recovery(),
       pg_catalog.pg_postmaster_start_time(),
       (SELECT s.setting FROM pg_catalog.pg_settings AS s WHERE s.name = 'data_directory'),
       (SELECT s.enumvals FROM pg_catalog.pg_settings AS s WHERE s.name = 'file_copy_method'),
       pg_catalog.inet_server_addr() IS NULL
       OR pg_catalog.inet_server_addr() IS NOT DISTINCT FROM pg_catalog.inet_client_addr()
"""

FIND_HISTORY = """
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = pg_catalog.to_regclass(%s)
"""

# A migration that stopped half-way has no finite time, and is the newest thing that happened.
READ_DEPLOYMENTS = """
SELECT h.deployment_id::text,
       pg_catalog.to_char(
           min(h.applied_at::timestamptz) FILTER (WHERE pg_catalog.isfinite(h.applied_at)) AT TIME ZONE 'UTC',
           'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
  FROM {history} AS h
 GROUP BY 1
 ORDER BY bool_or(NOT pg_catalog.isfinite(h.applied_at)) DESC, max(h.applied_at) DESC
"""


@dataclass(frozen=True)
class Database:
    """One row of pg_database, the owner by name."""

    oid: int
    name: str
    owner: str
    encoding: str
    connection_limit: int
    allow_connections: bool
    is_template: bool
    tablespace_oid: int

    @property
    def invalid(self) -> bool:
        """Whether an interrupted DROP DATABASE left it; such a database can only be dropped."""
        return self.connection_limit == -2


@dataclass(frozen=True)
class Session:
    """A server process that is connected to a database, or holds a lock on it from outside."""

    pid: int
    database_oid: int | None
    database: str | None
    user: str | None
    application_name: str
    client_addr: str | None
    state: str | None
    backend_type: str | None
    backend_start: datetime | None
    transaction_age_s: float | None
    query_age_s: float | None
    query: str

    @property
    def yields(self) -> bool:
        """Whether the server itself cancels it for a rename or a copy, as it does with autovacuum workers.

        Without pg_read_all_stats the kind of a foreign session is hidden; only background processes have no user.
        """
        if self.backend_type is None:
            return self.user is None and self.database_oid is not None
        return self.backend_type == "autovacuum worker"

    def describe(self) -> str:
        """Return one phrase for a message: who it is and what it does for how long."""
        facts = ["user %s" % self.user if self.user else self.backend_type or "starting"]
        if self.application_name:
            facts.append("application %s" % self.application_name)
        if self.client_addr:
            facts.append("from %s" % self.client_addr)
        if self.state:
            age_s = self.transaction_age_s if self.transaction_age_s is not None else self.query_age_s
            facts.append(self.state + (" for %.0f s" % age_s if age_s is not None else ""))
        return "pid %d (%s)" % (self.pid, ", ".join(facts))

    def as_dict(self) -> dict[str, Any]:
        """Return the session as JSON-able values."""
        return {
            "pid": self.pid,
            "database": self.database,
            "user": self.user,
            "application_name": self.application_name,
            "client_addr": self.client_addr,
            "state": self.state,
            "backend_type": self.backend_type,
            "transaction_age_s": _rounded(self.transaction_age_s),
            "query_age_s": _rounded(self.query_age_s),
            "query": self.query,
        }


@dataclass(frozen=True)
class Blocker:
    """Something that is keyed to a database and keeps it from being renamed."""

    kind: str
    name: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Return the blocker as JSON-able values."""
        return {"kind": self.kind, "name": self.name, "message": self.message}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _decoded(value: Any) -> str:
    return bytes(value or b"").decode("utf-8", "replace")


def prepare_session(connection: Connection) -> None:
    """Give ``connection`` the settings of `SESSION_SETTINGS` that its server knows.

    Where the server can (14 and newer), a statement of ours also ends soon after this process is killed, so that
    nothing is renamed or copied later by a server process that nobody waits for any more.
    """
    with connection.cursor() as cursor:
        cursor.execute(APPLY_SETTINGS, (list(SESSION_SETTINGS), list(SESSION_SETTINGS.values())))
        # Some platforms refuse it.
        with contextlib.suppress(psycopg2.errors.InvalidParameterValue):
            cursor.execute(APPLY_SETTINGS, (["client_connection_check_interval"], ["200ms"]))


@contextlib.contextmanager
def transaction(connection: Connection, *, keep: bool = True) -> Iterator[None]:
    """Run the block in one transaction of an autocommit connection; without ``keep`` it is always rolled back."""
    connection.autocommit = False
    try:
        try:
            yield
            if keep:
                connection.commit()
        finally:
            if not connection.closed:
                connection.rollback()
    finally:
        if not connection.closed:
            connection.autocommit = True


def list_databases(*, connection: Connection, names: Sequence[str] | None = None) -> list[Database]:
    """Return the databases of the server, or those of ``names`` that exist, by name."""
    with connection.cursor() as cursor:
        cursor.execute(READ_DATABASES, {"names": None if names is None else list(names)})
        return [Database(*row) for row in cursor.fetchall()]


def find_database(*, connection: Connection, name: str) -> Database | None:
    """Return the database of that name, or None."""
    return next(iter(list_databases(connection=connection, names=[name])), None)


def get_database(*, connection: Connection, name: str) -> Database:
    """Return the usable database of that name.

    Raises `HoldfastError` with the code ``database_not_found`` or ``database_invalid``.
    """
    database = find_database(connection=connection, name=name)
    if database is None:
        raise HoldfastError(
            code="database_not_found",
            msg="Database %r does not exist on this server." % name,
            hint="Check the name; pg_database_info lists the databases of this server.",
        )
    if database.invalid:
        raise HoldfastError(
            code="database_invalid",
            msg="Database %r is left over from an interrupted DROP DATABASE." % name,
            hint="Finish the drop with DROP DATABASE; nothing in it can be used.",
        )
    return database


def lacking_rights(*, connection: Connection, databases: Sequence[Database]) -> list[str]:
    """Return what the role lacks to rename or copy ``databases``: CREATEDB, or the ownership of some of them.

    A superuser lacks nothing (https://www.postgresql.org/docs/current/sql-alterdatabase.html).
    """
    with connection.cursor() as cursor:
        cursor.execute(READ_RIGHTS, ([database.oid for database in databases],))
        superuser, createdb, foreign = only_row(cursor)
    if superuser:
        return []
    return ([] if createdb else ["CREATEDB"]) + ["ownership of %r" % name for name in foreign]


def database_size(*, connection: Connection, oid: int) -> int | None:
    """Return the size of a database in bytes, or None when it is invalid, gone or not ours to measure."""
    with connection.cursor() as cursor:
        cursor.execute(READ_SIZE, (oid,))
        row = cursor.fetchone()
    return None if row is None or row[0] is None else int(row[0])


def read_sessions(*, connection: Connection, oids: Sequence[int], pids: Sequence[int] = ()) -> list[Session]:
    """Return the sessions in the databases ``oids``, and those with ``pids``, without this one."""
    with connection.cursor() as cursor:
        cursor.execute(READ_SESSIONS, {"oids": list(oids), "pids": list(pids)})
        return [
            Session(
                pid=row[0],
                database_oid=row[1],
                database=row[2],
                user=row[3],
                application_name=_decoded(row[4]),
                client_addr=row[5],
                state=row[6],
                backend_type=row[7],
                backend_start=row[8],
                transaction_age_s=row[9],
                query_age_s=row[10],
                query=shown(_decoded(row[11]), characters=SHOWN_CHARACTERS, ellipsis=""),
            )
            for row in cursor.fetchall()
        ]


def read_occupants(*, connection: Connection, oids: Sequence[int]) -> list[Session]:
    """Return who must leave before the databases ``oids`` can be renamed or copied.

    These are their sessions, but those that yield by themselves, and whoever holds a lock on one of them as an object:
    connections that are just starting, and a CREATE DATABASE that copies it.
    """
    with connection.cursor() as cursor:
        # First the locks, then the sessions: a start that completes in between is seen as a session.
        cursor.execute(READ_LOCK_HOLDERS, (list(oids),))
        holders = {row[0] for row in cursor.fetchall()}
    sessions = [s for s in read_sessions(connection=connection, oids=oids, pids=sorted(holders)) if not s.yields]
    starting = holders - {session.pid for session in sessions}
    known = {s.pid for s in read_sessions(connection=connection, oids=(), pids=sorted(starting))} if starting else set()
    return sessions + [
        Session(pid, None, None, None, "", None, "starting", None, None, None, None, "") for pid in starting - known
    ]


def read_blockers(*, connection: Connection, databases: Sequence[Database]) -> dict[int, list[Blocker]]:
    """Return by OID what must be removed before a database can be renamed: no sessions, which only need to leave."""
    found: dict[int, list[Blocker]] = {database.oid: [] for database in databases}
    names = {database.oid: database.name for database in databases}
    with connection.cursor() as cursor:
        cursor.execute(READ_BLOCKERS, {"oids": list(found)})
        for oid, kind, name, owner, age_s, active in cursor.fetchall():
            if kind == "prepared_transaction":
                message = "prepared transaction %r of %s, %.0f s old, in database %r" % (name, owner, age_s, names[oid])
            elif kind == "logical_slot":
                message = "%s logical replication slot %r of database %r, which would follow the renamed database" % (
                    "active" if active else "inactive",
                    name,
                    names[oid],
                )
            else:
                message = "%s subscription %r of %s in database %r, which would follow the renamed database" % (
                    "enabled" if active else "disabled",
                    name,
                    owner,
                    names[oid],
                )
            found[oid].append(Blocker(kind, name, message))
    return found


def _session_blocker(session: Session) -> Blocker:
    return Blocker("session", str(session.pid), "session in database %r: %s" % (session.database, session.describe()))


def free_bytes(*, connection: Connection, tablespace_oid: int | None = None) -> tuple[int | None, str | None]:
    """Return ``(bytes free for new data, None)`` on the volume of a tablespace, or ``(None, reason)``."""
    directory, reason = local_directory(connection=connection, tablespace_oid=tablespace_oid)
    if directory is None:
        return None, reason
    volume = os.statvfs(directory)
    return volume.f_bavail * volume.f_frsize, None


def local_directory(*, connection: Connection, tablespace_oid: int | None = None) -> tuple[str | None, str | None]:
    """Return ``(directory of a tablespace, None)``, or ``(None, reason)`` when it cannot be looked at from here.

    Only a process on the server's own host can do that, and only when the role may know the path.
    """
    with connection.cursor() as cursor:
        cursor.execute(READ_SERVER)
        row = only_row(cursor)
        directory, same_host = row[3], row[5]
        if directory is None:
            return None, "the role may not read data_directory (grant pg_read_all_settings)"
        if tablespace_oid is not None:
            cursor.execute("SELECT pg_catalog.pg_tablespace_location(%s)", (tablespace_oid,))
            directory = os.path.join(directory, only_row(cursor)[0] or "")
        if not same_host:
            return None, "the server runs on another host than this module"
        try:
            modified = os.stat(directory).st_mtime
            os.statvfs(directory)
        except OSError as exc:
            return None, "%s cannot be reached from here: %s" % (directory, exc.strerror)
        # A forwarded port looks like the same host; the directory's own time tells the two apart.
        cursor.execute("SELECT pg_catalog.has_function_privilege('pg_catalog.pg_stat_file(text)', 'EXECUTE')")
        if only_row(cursor)[0]:
            with contextlib.suppress(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(
                    "SELECT EXTRACT(epoch FROM f.modification)::float8 FROM pg_catalog.pg_stat_file(%s) AS f",
                    (directory,),
                )
                if abs(only_row(cursor)[0] - modified) > 60:
                    return None, "%s on this host is not the server's directory" % directory
    return str(directory), None


def file_copy_methods(*, connection: Connection) -> list[str]:
    """Return what file_copy_method can be set to (18 and newer), or only ``copy``."""
    with connection.cursor() as cursor:
        cursor.execute(READ_SERVER)
        return list(only_row(cursor)[4] or ["copy"])


def read_write_counters(*, server: Server, database: str) -> dict[str, Any]:
    """Return `read_counters` of ``database``."""
    with server.session(database, application_name="holdfast info") as connection:
        prepare_session(connection)
        return read_counters(connection)


def read_deployments(*, server: Server, database: str, history_table: str) -> list[dict[str, Any]] | None:
    """Return the deployments whose migrations the history of ``database`` names, the newest first.

    Each has ``id`` and ``applied_at``, when its first migration was complete (None when none is). None says that there
    is no history to go by: no such table, one without a row or the columns, or one that the role cannot read.
    """
    try:
        with server.session(database, application_name="holdfast info") as connection:
            prepare_session(connection)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_catalog.set_config('search_path', 'public', false)")
                cursor.execute(FIND_HISTORY, (history_table,))
                found = cursor.fetchone()
                if found is None:
                    return None
                cursor.execute(sql.SQL(READ_DEPLOYMENTS).format(history=sql.Identifier(*found)))
                rows = cursor.fetchall()
    except (HoldfastError, psycopg2.Error):
        return None
    return [{"id": name, "applied_at": at} for name, at in rows if name] if rows else None


def databases_info(
    *,
    server: Server,
    databases: Sequence[str] | None = None,
    write_counters: bool = False,
    write_counters_of: Sequence[str] = (),
    history_table: str | None = None,
) -> dict[str, Any]:
    """Return the facts of ``databases`` (by default of all but the templates) and of their server.

    With ``write_counters`` writes are counted in all of them, else in those of ``write_counters_of``, which takes a
    connection into each; with ``history_table`` their `read_deployments` are told, too. Names without a database are
    listed in ``missing``; a database that vanishes meanwhile is left out.
    """
    with server.session(server.maintenance_db, application_name="holdfast info") as connection:
        prepare_session(connection)
        with connection.cursor() as cursor:
            cursor.execute(READ_SERVER)
            row = only_row(cursor)
        found = list_databases(connection=connection, names=databases or None)
        if not databases:
            found = [database for database in found if not database.is_template]
        free, reason = free_bytes(connection=connection)
        blockers = read_blockers(connection=connection, databases=found)
        entries = []
        for database in found:
            with contextlib.suppress(_Vanished):
                entry = _database_info(connection, database, blockers[database.oid])
                if write_counters or database.name in write_counters_of:
                    entry.update(_write_counters(server, database))
                    if history_table:
                        entry["deployments"] = read_deployments(
                            server=server, database=database.name, history_table=history_table
                        )
                entries.append(entry)
    present = {database.name for database in found}
    return {
        "databases": entries,
        "missing": [name for name in databases or () if name not in present],
        "server_version": row[0],
        "is_standby": row[1],
        "server_started_at": row[2].isoformat(),
        "data_directory": row[3],
        "data_free_bytes": free,
        "data_free_reason": reason,
        "file_copy_methods": list(row[4] or ["copy"]),
    }


class _Vanished(Exception):
    """The database was dropped or renamed while it was being examined."""


def _database_info(connection: Connection, database: Database, blockers: list[Blocker]) -> dict[str, Any]:
    sessions = read_sessions(connection=connection, oids=[database.oid])
    properties = None
    try:
        size_bytes = database_size(connection=connection, oid=database.oid)
        if not database.invalid:
            properties = mask_properties(read_properties(connection=connection, database=database.name).as_dict())
    except HoldfastError as exc:
        raise _Vanished from exc
    in_the_way = blockers + [_session_blocker(session) for session in sessions if not session.yields]
    return {
        "name": database.name,
        "oid": database.oid,
        "owner": database.owner,
        "encoding": database.encoding,
        "connection_limit": database.connection_limit,
        "allow_connections": database.allow_connections,
        "is_template": database.is_template,
        "invalid": database.invalid,
        "size_bytes": size_bytes,
        "properties": properties,
        "sessions": [session.as_dict() for session in sessions],
        "subscriptions": [blocker.name for blocker in blockers if blocker.kind == "subscription"],
        "rename_blockers": [blocker.as_dict() for blocker in in_the_way],
    }


def _write_counters(server: Server, database: Database) -> dict[str, Any]:
    if database.invalid or not database.allow_connections:
        reason = "the database is invalid" if database.invalid else "the database does not allow connections"
        return {"write_counters": None, "write_counters_reason": reason}
    try:
        return {"write_counters": read_write_counters(server=server, database=database.name)}
    except HoldfastError as exc:
        return {"write_counters": None, "write_counters_reason": exc.msg}
