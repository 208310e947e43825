# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger's own database and its tables: made on first use, upgraded by later releases, never anybody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, server_version
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

try:
    import psycopg2
    from psycopg2 import errorcodes, sql
except ImportError:  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Held while tables are made, so that two first runs at once make them once. The number means nothing.
LOCK_KEY = 0x686F6C64

FIRST_TABLES = """
CREATE SCHEMA holdfast;

CREATE TABLE holdfast.ledger (
    version     integer     PRIMARY KEY,
    applied_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

-- Every record that arrived, also by way of a journal: what makes an import happen exactly once.
CREATE TABLE holdfast.record (
    uuid           uuid        PRIMARY KEY,
    deployment_id  text        NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

-- database_name is unknown only where a journal holds a deployment's later records without its first.
CREATE TABLE holdfast.deployment (
    id             text        PRIMARY KEY,
    database_name  text,
    kind           text        NOT NULL,
    status         text        NOT NULL,
    started_at     timestamptz NOT NULL,
    finished_at    timestamptz,
    operator       text,
    controller     text,
    summary        text,
    details        jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX deployment_database_name_started_at ON holdfast.deployment (database_name, started_at DESC);

CREATE TABLE holdfast.step (
    deployment_id  text        NOT NULL REFERENCES holdfast.deployment ON DELETE CASCADE,
    ordinal        integer     NOT NULL,
    name           text        NOT NULL,
    status         text        NOT NULL,
    started_at     timestamptz,
    finished_at    timestamptz,
    duration_s     double precision,
    details        jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (deployment_id, name)
);

CREATE TABLE holdfast.check_result (
    deployment_id  text        NOT NULL REFERENCES holdfast.deployment ON DELETE CASCADE,
    ordinal        integer     NOT NULL,
    recorded_at    timestamptz NOT NULL,
    stage          text,
    suite          text,
    name           text        NOT NULL,
    severity       text,
    status         text,
    errored        boolean,
    rows           bigint,
    value          jsonb,
    message        text,
    sample         jsonb,
    tags           jsonb,
    duration_ms    double precision,
    PRIMARY KEY (deployment_id, ordinal)
);
CREATE INDEX check_result_suite_name ON holdfast.check_result (suite, name);

CREATE TABLE holdfast.migration_run (
    deployment_id  text        NOT NULL REFERENCES holdfast.deployment ON DELETE CASCADE,
    ordinal        integer     NOT NULL,
    recorded_at    timestamptz NOT NULL,
    version        text        NOT NULL,
    description    text,
    direction      text,
    status         text,
    duration_ms    double precision,
    details        jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (deployment_id, ordinal)
);

-- No reference to the deployment: the point of a deployment that this ledger never saw must be storable as well.
CREATE TABLE holdfast.rollback_point (
    deployment_id    text        NOT NULL,
    kind             text        NOT NULL,
    state            text        NOT NULL,
    live_database    text,
    live_oid         bigint,
    side_database    text,
    side_oid         bigint,
    archive_path     text,
    archive_id       text,
    taken_at         timestamptz,
    schema_version   text,
    bytes            bigint,
    expected_undo_s  double precision,
    write_counters   jsonb,
    PRIMARY KEY (deployment_id, kind)
);
CREATE INDEX rollback_point_live_database_taken_at ON holdfast.rollback_point (live_database, taken_at DESC);

CREATE TABLE holdfast.alert (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    deployment_id  text        NOT NULL REFERENCES holdfast.deployment ON DELETE CASCADE,
    level          text        NOT NULL,
    text           text        NOT NULL,
    raised_at      timestamptz NOT NULL,
    details        jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX alert_deployment_id ON holdfast.alert (deployment_id);

CREATE TABLE holdfast.incident (
    id             text        PRIMARY KEY,
    deployment_id  text        NOT NULL REFERENCES holdfast.deployment ON DELETE CASCADE,
    title          text        NOT NULL,
    severity       text        NOT NULL,
    status         text        NOT NULL,
    opened_at      timestamptz NOT NULL,
    closed_at      timestamptz,
    details        jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX incident_deployment_id ON holdfast.incident (deployment_id);
"""

TIMING_BASELINES = """
-- measurement has what the module pg_timing returned. Versions count up from 1 for each environment and database.
CREATE TABLE holdfast.timing_baseline (
    environment     text        NOT NULL,
    database_name   text        NOT NULL,
    version         integer     NOT NULL,
    established_at  timestamptz NOT NULL,
    established_by  text,
    deployment_id   text,
    note            text,
    active          boolean     NOT NULL DEFAULT false,
    activated_at    timestamptz,
    activated_by    text,
    measurement     jsonb       NOT NULL,
    PRIMARY KEY (environment, database_name, version)
);
CREATE UNIQUE INDEX timing_baseline_active ON holdfast.timing_baseline (environment, database_name) WHERE active;
"""

#: The steps from an empty database to the present form; the first makes version 1. A release adds, and changes none.
#: Additions leave older releases working, which may share a ledger with newer ones.
UPGRADES: tuple[str, ...] = (FIRST_TABLES, TIMING_BASELINES)

LEDGER_VERSION = "SELECT pg_catalog.max(version) FROM holdfast.ledger"

# NULL where the ledger is, else what somebody keeps in the database. One statement, because one snapshot must show
# both: another run may be making the ledger right now. What an extension of the template brought does not count.
FOREIGN_OBJECTS = """
SELECT CASE WHEN EXISTS (SELECT
                           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                          WHERE n.nspname = 'holdfast' AND c.relname = 'ledger') THEN NULL
       ELSE ARRAY (SELECT name
                FROM (
                      SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), 'pg_catalog.pg_class'::regclass, c.oid
                        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                       WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                      UNION ALL
                      SELECT pg_catalog.format('%I.%I()', n.nspname, p.proname), 'pg_catalog.pg_proc'::regclass, p.oid
                        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                       WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                      UNION ALL
                      SELECT pg_catalog.format('schema %I', n.nspname), 'pg_catalog.pg_namespace'::regclass, n.oid
                        FROM pg_catalog.pg_namespace n
                       WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
                     ) AS object(name, classid, oid)
               WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                                  WHERE d.classid = object.classid AND d.objid = object.oid AND d.deptype = 'e')
               ORDER BY name
               LIMIT 4) END
"""

MAY_CREATE_DATABASE = "SELECT rolsuper OR rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user"

MAY_CREATE_SCHEMA = """
SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
   AND NOT pg_catalog.pg_is_in_recovery()
"""


def create_database(*, server: Server, name: str) -> bool:
    """Create the ledger's database and return whether this call did; another run may have been faster.

    It is made from template0, which nobody can be connected to, in UTF-8 and with the collation C, whose order no
    upgrade of the operating system changes.
    """
    with server.session(server.maintenance_db) as connection, connection.cursor() as cursor:
        statement = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        if server_version(connection) >= 150000:
            statement += " LOCALE_PROVIDER libc"
        try:
            cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))
        except psycopg2.Error as exc:
            if exc.pgcode in (errorcodes.DUPLICATE_DATABASE, errorcodes.UNIQUE_VIOLATION):
                return False
            raise
        cursor.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                sql.Identifier(name), sql.Literal("Ledger of holdfast.postgres: deployments, checks, rollback points")
            )
        )
    return True


def may_create_database(*, server: Server) -> bool:
    """Return whether the login role could create the ledger's database."""
    with server.session(server.maintenance_db) as connection:
        return bool(_value(connection, MAY_CREATE_DATABASE))


def missing_upgrades(connection: Connection, *, database: str) -> int:
    """Return how many of `UPGRADES` the database lacks; 0 means that it can be used as it is.

    Raises `HoldfastError` (``target_exists``) for a database that holds something else.
    """
    names = _value(connection, FOREIGN_OBJECTS)
    if names is None:
        version = _value(connection, LEDGER_VERSION)
        return max(0, len(UPGRADES) - int(version or 0))
    if names:
        raise HoldfastError(
            code="target_exists",
            msg="The database %r is no ledger: it holds %s%s."
            % (database, ", ".join(names[:3]), " and more" if len(names) > 3 else ""),
            hint="Name another database in ledger_database; the ledger makes its own.",
        )
    return len(UPGRADES)


def upgrade(connection: Connection, *, database: str) -> bool:
    """Bring the ledger's tables to the present form, in one transaction; return whether anything was done."""
    if not missing_upgrades(connection, database=database):
        return False
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (LOCK_KEY,))
            missing = missing_upgrades(connection, database=database)
            for position in range(len(UPGRADES) - missing, len(UPGRADES)):
                cursor.execute(UPGRADES[position])
                cursor.execute("INSERT INTO holdfast.ledger (version) VALUES (%s)", (position + 1,))
            cursor.execute("COMMIT")
        except BaseException:
            if not connection.closed:
                cursor.execute("ROLLBACK")
            raise
    return missing > 0


def _value(connection: Connection, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
    return None if row is None else row[0]


def may_create_schema(connection: Connection) -> bool:
    """Return whether the role could make the ledger's tables in the database that it is connected to."""
    return bool(_value(connection, MAY_CREATE_SCHEMA))
