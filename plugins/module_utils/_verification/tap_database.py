# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where tests run: a throw-away clone, or the database itself with pgTAP in a schema that is dropped afterwards."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    only_row,
    refuse_standby,
    suffixed_name,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import (
    apply_properties,
    create_database,
    read_properties,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

ISOLATIONS = ("clone", "schema")

EXTENSION = "pgtap"

#: Holds pgTAP while tests run, unless the database has it already.
SCHEMA = "holdfast_tap"

#: Ends the name of a clone: the number is the server process of the run that made it.
CLONE_SUFFIX = ".holdfast-tap-%d"
CLONE_NAME = re.compile(r".*\.holdfast-tap-(\d+)", re.DOTALL)

#: How the comments of the clone and of the schema begin; without it neither is ever dropped.
MARK = "holdfast.postgres pg_tap:"

#: First key of the session-level advisory lock, held in the database while pgTAP is in its schema.
LOCK = 0x48465450

#: How long a run waits for locks of its own statements, and for ended sessions to be gone.
LOCK_TIMEOUT_MS = 10_000
SESSIONS_GONE_S = 10.0

CLONES = """
SELECT d.datname::text, d.datconnlimit = -2 OR (NOT d.datallowconn AND d.datconnlimit = 0),
       coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), '')
  FROM pg_catalog.pg_database d
 WHERE d.datname ~ '\\.holdfast-tap-[0-9]+$'
"""

SESSIONS_IN = """
SELECT pg_catalog.format('pid %%s (%%s, %%s)', pid, coalesce(usename, '?'), coalesce(nullif(application_name, ''), '?'))
  FROM pg_catalog.pg_stat_activity
 WHERE datname = %s AND backend_type = 'client backend'
 ORDER BY pid
"""

INSTALLED_IN = """
SELECT n.nspname::text
  FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = %s
"""

SCHEMA_COMMENT = """
SELECT coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '') FROM pg_catalog.pg_namespace WHERE nspname = %s
"""

END_SESSIONS = """
SELECT pg_catalog.pg_terminate_backend(pid)
  FROM pg_catalog.pg_stat_activity
 WHERE pg_catalog.starts_with(application_name, %s) AND datname = pg_catalog.current_database()
   AND pid <> pg_catalog.pg_backend_pid()
"""

LINGERING = """
SELECT pg_catalog.count(*)
  FROM pg_catalog.pg_stat_activity
 WHERE pg_catalog.starts_with(application_name, %s) AND datname = pg_catalog.current_database()
   AND pid <> pg_catalog.pg_backend_pid()
"""

#: Catalogs whose rows are objects that a test can leave in its database ...
LOCAL_CATALOGS = (
    "pg_am",
    "pg_attrdef",
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_conversion",
    "pg_default_acl",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_language",
    "pg_namespace",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_rewrite",
    "pg_statistic_ext",
    "pg_transform",
    "pg_trigger",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
)
# A large object is known by the catalog of its pages.
LARGE_OBJECTS = ("pg_largeobject", ("oid", "pg_largeobject_metadata"))
#: ... and in the cluster, where they outlive the clone. Each with the view and the column that everybody may read.
CLUSTER_CATALOGS = {
    "pg_authid": ("oid", "pg_roles"),
    "pg_database": ("oid", "pg_database"),
    "pg_subscription": ("subid", "pg_stat_subscription"),
    "pg_tablespace": ("oid", "pg_tablespace"),
}

OBJECTS = " UNION ALL ".join(
    "SELECT 'pg_catalog.%s'::pg_catalog.regclass::oid, %s FROM pg_catalog.%s" % (name, *place)  # noqa: S608 (constants)
    for name, place in (
        *((name, ("oid", name)) for name in LOCAL_CATALOGS),
        LARGE_OBJECTS,
        *CLUSTER_CATALOGS.items(),
    )
)

# What belongs to another new object (a table's index, partition or row type) is not named beside it. The columns of a
# partition key belong to their own table.
DESCRIBE = """
WITH new (classid, objid) AS (SELECT * FROM unnest(%(classes)s::oid[], %(objects)s::oid[]))
SELECT i.type || ' ' || i.identity, new.classid::regclass::text = ANY (%(cluster)s)
  FROM new, LATERAL pg_catalog.pg_identify_object(new.classid, new.objid, 0) i
 WHERE i.type IS NOT NULL
   AND coalesce(i.schema, i.name, '') !~ '^pg_(toast|temp_|toast_temp_)'
   AND coalesce(i.identity, '') !~ '^pg_(temp|toast_temp)_[0-9]+$'
   AND coalesce(i.name, '') !~ '\\.holdfast-(tap|clone)-[0-9]+$'
   AND NOT EXISTS (SELECT
                     FROM pg_catalog.pg_depend d
                     JOIN new other ON (other.classid, other.objid) = (d.refclassid, d.refobjid)
                    WHERE (d.classid, d.objid) = (new.classid, new.objid) AND d.deptype IN ('a', 'e', 'i', 'P', 'S')
                      AND (other.classid, other.objid) <> (new.classid, new.objid))
 ORDER BY 1
"""


@dataclass(frozen=True)
class TestDatabase:
    """A database that is ready for tests: its name, and the search path with which pgTAP is found."""

    __test__ = False

    name: str
    search_path: str


@dataclass(frozen=True)
class LeftBehind:
    """Objects that tests left: what is gone with the clone or stays in the database, and what is in the cluster."""

    local: tuple[str, ...] = ()
    cluster: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.local, *self.cluster]


@contextlib.contextmanager
def isolated(*, server: Server, database: str, isolation: str) -> Iterator[TestDatabase]:
    """Yield the database to run tests in, with pgTAP; afterwards nothing of pgTAP is where it was not before.

    Raises `HoldfastError`, such as ``database_in_use`` when sessions keep the database from being cloned.
    """
    if isolation == "schema":
        with _pgtap_installed(server, database) as search_path:
            yield TestDatabase(database, search_path)
        return
    with _cloned(server, database) as name, _pgtap_installed(server, name) as search_path:
        yield TestDatabase(name, search_path)


@contextlib.contextmanager
def _cloned(server: Server, database: str) -> Iterator[str]:
    with server.session(server.maintenance_db) as connection:
        refuse_standby(connection)
        _drop_stale(connection)
        properties = read_properties(connection=connection, database=database)
        name = suffixed_name(database, CLONE_SUFFIX % connection.info.backend_pid)
        try:
            try:
                # Closed to everybody until it has its comment: what a killed run leaves is recognised by either.
                create_database(
                    connection=connection,
                    database=name,
                    properties=properties,
                    template=database,
                    connection_limit=0,
                    allow_connections=False,
                )
            except HoldfastError as exc:
                if exc.code != "database_in_use":
                    raise
                raise _in_use(connection, database, exc) from exc
            comment = "%s a copy of %s for tests" % (MARK, database)
            apply_properties(
                connection=connection,
                database=name,
                properties=replace(properties, comment=comment, connection_limit=-1),
            )
            _execute(connection, sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))
            yield name
        finally:
            _execute(connection, _drop_statement(name))


def _drop_statement(name: str) -> sql.Composed:
    return sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))


def _execute(connection: Connection, statement: sql.Composable) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _in_use(connection: Connection, database: str, cause: HoldfastError) -> HoldfastError:
    with connection.cursor() as cursor:
        cursor.execute(SESSIONS_IN, (database,))
        sessions = [str(row[0]) for row in cursor.fetchall()]
    return HoldfastError(
        code="database_in_use",
        msg="The database %r cannot be cloned for tests while sessions are in it: %s."
        % (database, "; ".join(sessions[:5]) or cause.msg),
        hint="Test a side database instead: restore an archive or use the rollback point, with isolation=schema.",
        sessions=sessions,
    )


def _drop_stale(connection: Connection) -> None:
    """Drop clones whose run was killed: the server process that their names tell of has ended."""
    with connection.cursor() as cursor:
        cursor.execute(CLONES)
        for name, unfinished, comment in cursor.fetchall():
            match = CLONE_NAME.fullmatch(name)
            if match is None or not (unfinished or comment.startswith(MARK)):
                continue
            cursor.execute("SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = %s)", (match.group(1),))
            if not only_row(cursor)[0]:
                cursor.execute(_drop_statement(name))


@contextlib.contextmanager
def _pgtap_installed(server: Server, database: str) -> Iterator[str]:
    """Yield the search path with pgTAP at its end; the extension is only removed where it was not before."""
    with server.session(database, settings={"lock_timeout": str(LOCK_TIMEOUT_MS)}) as connection:
        refuse_standby(connection)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.pg_try_advisory_lock(%s, 0)", (LOCK,))
            if not only_row(cursor)[0]:
                raise HoldfastError(
                    code="operation_running",
                    msg="Another run of tests is using the database %r." % database,
                    hint="Wait for its end, then run the task again.",
                )
            _drop_own_schema(cursor, database)
            cursor.execute(INSTALLED_IN, (EXTENSION,))
            found = cursor.fetchone()
            cursor.execute("SHOW search_path")
            path = str(only_row(cursor)[0])
            if found is None:
                _install(cursor)
        try:
            yield _extended(path, SCHEMA if found is None else str(found[0]))
        finally:
            with connection.cursor() as cursor:
                _drop_own_schema(cursor, database)


def _install(cursor: Any) -> None:
    schema = sql.Identifier(SCHEMA)
    cursor.execute("BEGIN")
    try:
        cursor.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        comment = "%s holds pgTAP while tests run" % MARK
        cursor.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(schema, sql.Literal(comment)))
        # Tests may take other roles, and these must be able to call what judges.
        cursor.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(schema))
        # Quiet, because the extension's script is chatty on some servers.
        cursor.execute("SET LOCAL client_min_messages = error")
        cursor.execute(sql.SQL("CREATE EXTENSION {} SCHEMA {}").format(sql.Identifier(EXTENSION), schema))
        cursor.execute("COMMIT")
    except BaseException:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK")
        raise


def _drop_own_schema(cursor: Any, database: str) -> None:
    """Drop the schema with pgTAP in it, and with whatever tests made that needs pgTAP."""
    cursor.execute(SCHEMA_COMMENT, (SCHEMA,))
    found = cursor.fetchone()
    if found is None:
        return
    if not str(found[0]).startswith(MARK):
        raise HoldfastError(
            code="target_exists",
            msg="The schema %s in database %r is somebody else's." % (SCHEMA, database),
            hint="pgTAP is put into a schema of this name while tests run; rename yours, or install pgTAP yourself.",
        )
    cursor.execute("SET client_min_messages = warning")
    cursor.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(SCHEMA)))


def _extended(search_path: str, schema: str) -> str:
    """Return the search path with ``schema`` at its end, as SET would take it."""
    quoted = '"%s"' % schema.replace('"', '""')
    return ", ".join(part for part in ("" if search_path.strip() in ("", '""') else search_path, quoted) if part)


def end_sessions(connection: Connection, application_name: str) -> bool:
    """End what runs under names that begin so, because a server process outlives its client; return whether it did."""
    with connection.cursor() as cursor:
        cursor.execute(END_SESSIONS, (application_name,))
    return sessions_gone(connection, application_name)


def sessions_gone(connection: Connection, application_name: str) -> bool:
    """Wait until no session under names that begin so is left, and return whether that came true."""

    def gone() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(LINGERING, (application_name,))
            return bool(only_row(cursor)[0] == 0)

    return wait_until(gone, timeout_s=SESSIONS_GONE_S)


def take_inventory(connection: Connection) -> frozenset[tuple[int, int]]:
    """Return every object of the database and the cluster, as catalog and OID."""
    with connection.cursor() as cursor:
        cursor.execute(OBJECTS)
        return frozenset((int(row[0]), int(row[1])) for row in cursor.fetchall())


def left_behind(connection: Connection, before: Collection[tuple[int, int]]) -> LeftBehind:
    """Return what is there now and was not ``before``, by type and name, without what belongs to something named."""
    new = sorted(take_inventory(connection) - frozenset(before))
    if not new:
        return LeftBehind()
    with connection.cursor() as cursor:
        cursor.execute(
            DESCRIBE,
            {
                "classes": [catalog for catalog, _oid in new],
                "objects": [oid for _catalog, oid in new],
                "cluster": list(CLUSTER_CATALOGS),
            },
        )
        rows = cursor.fetchall()
    return LeftBehind(
        local=tuple(str(name) for name, cluster in rows if not cluster),
        cluster=tuple(str(name) for name, cluster in rows if cluster),
    )
