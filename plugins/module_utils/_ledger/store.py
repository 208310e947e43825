# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of the ledger: records in, deployments and rollback points out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.record import iso

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

ADD_RECORD = """
INSERT INTO holdfast.record (uuid, deployment_id)
VALUES (%(uuid)s::uuid, %(deployment_id)s)
ON CONFLICT (uuid) DO NOTHING
RETURNING uuid
"""

OPEN_DEPLOYMENT = """
INSERT INTO holdfast.deployment AS d
       (id, database_name, kind, status, started_at, operator, controller, summary, details)
VALUES (%(id)s, %(database)s, %(kind)s, %(status)s, %(started_at)s, %(operator)s, %(controller)s, %(summary)s,
        %(details)s::jsonb)
ON CONFLICT (id) DO UPDATE
   SET database_name = excluded.database_name,
       kind = excluded.kind,
       started_at = least(d.started_at, excluded.started_at),
       operator = coalesce(d.operator, excluded.operator),
       controller = coalesce(d.controller, excluded.controller),
       summary = coalesce(d.summary, excluded.summary),
       details = excluded.details || d.details
"""

# For a journal that tells of a deployment whose opening this ledger never saw.
ADD_UNKNOWN_DEPLOYMENT = """
INSERT INTO holdfast.deployment (id, database_name, kind, status, started_at)
VALUES (%(id)s, %(database)s, 'deploy', 'running', %(at)s)
ON CONFLICT (id) DO NOTHING
"""

# Also locks the row, so that what several runs record of one deployment gets its order one after the other.
UPDATE_DEPLOYMENT = """
UPDATE holdfast.deployment
   SET database_name = coalesce(database_name, %(database)s),
       finished_at = CASE WHEN finished_at IS NOT NULL AND status = %(status)s THEN finished_at
                          ELSE coalesce(%(finished_at)s, finished_at) END,
       status = coalesce(%(status)s, status),
       operator = coalesce(%(operator)s, operator),
       controller = coalesce(%(controller)s, controller),
       summary = coalesce(%(summary)s, summary),
       details = details || %(details)s::jsonb
 WHERE id = %(id)s
RETURNING id
"""

ADD_STEPS = """
INSERT INTO holdfast.step AS old
       (deployment_id, ordinal, name, status, started_at, finished_at, duration_s, details)
SELECT %(id)s,
       (SELECT coalesce(max(ordinal), 0) FROM holdfast.step WHERE deployment_id = %(id)s) + s.position,
       s.name, s.status, s.started_at, s.finished_at, s.duration_s, s.details
  FROM pg_catalog.jsonb_to_recordset(%(items)s::jsonb)
       AS s(position integer, name text, status text, started_at timestamptz, finished_at timestamptz,
            duration_s double precision, details jsonb)
ON CONFLICT (deployment_id, name) DO UPDATE
   SET status = excluded.status,
       started_at = coalesce(excluded.started_at, old.started_at),
       finished_at = coalesce(excluded.finished_at, old.finished_at),
       duration_s = coalesce(excluded.duration_s,
                             extract(epoch FROM coalesce(excluded.finished_at, old.finished_at)
                                                - coalesce(excluded.started_at, old.started_at)),
                             old.duration_s),
       details = old.details || excluded.details
"""

ADD_CHECKS = """
INSERT INTO holdfast.check_result
       (deployment_id, ordinal, recorded_at, stage, suite, name, severity, status, errored, rows, value, message,
        sample, tags, duration_ms)
SELECT %(id)s,
       (SELECT coalesce(max(ordinal), 0) FROM holdfast.check_result WHERE deployment_id = %(id)s) + c.position,
       %(at)s, c.stage, c.suite, c.name, c.severity, c.status, c.errored, c.rows, c.value, c.message,
       c.sample, c.tags, c.duration_ms
  FROM pg_catalog.jsonb_to_recordset(%(items)s::jsonb)
       AS c(position integer, stage text, suite text, name text, severity text, status text, errored boolean,
            rows bigint, value jsonb, message text, sample jsonb, tags jsonb, duration_ms double precision)
"""

ADD_MIGRATIONS = """
INSERT INTO holdfast.migration_run
       (deployment_id, ordinal, recorded_at, version, description, direction, status, duration_ms, details)
SELECT %(id)s,
       (SELECT coalesce(max(ordinal), 0) FROM holdfast.migration_run WHERE deployment_id = %(id)s) + m.position,
       %(at)s, m.version, m.description, m.direction, m.status, m.duration_ms, m.details
  FROM pg_catalog.jsonb_to_recordset(%(items)s::jsonb)
       AS m(position integer, version text, description text, direction text, status text,
            duration_ms double precision, details jsonb)
"""

SET_ROLLBACK_POINTS = """
INSERT INTO holdfast.rollback_point AS old
SELECT r.*
  FROM pg_catalog.jsonb_populate_recordset(NULL::holdfast.rollback_point, %(items)s::jsonb) AS r
ON CONFLICT (deployment_id, kind) DO UPDATE
   SET state = excluded.state,
       live_database = coalesce(excluded.live_database, old.live_database),
       live_oid = coalesce(excluded.live_oid, old.live_oid),
       side_database = coalesce(excluded.side_database, old.side_database),
       side_oid = coalesce(excluded.side_oid, old.side_oid),
       archive_path = coalesce(excluded.archive_path, old.archive_path),
       archive_id = coalesce(excluded.archive_id, old.archive_id),
       taken_at = coalesce(excluded.taken_at, old.taken_at),
       schema_version = coalesce(excluded.schema_version, old.schema_version),
       bytes = coalesce(excluded.bytes, old.bytes),
       expected_undo_s = coalesce(excluded.expected_undo_s, old.expected_undo_s),
       write_counters = coalesce(excluded.write_counters, old.write_counters)
"""

ADD_ALERTS = """
INSERT INTO holdfast.alert (deployment_id, level, text, raised_at, details)
SELECT %(id)s, a.level, a.text, a.raised_at, a.details
  FROM pg_catalog.jsonb_to_recordset(%(items)s::jsonb)
       AS a(level text, text text, raised_at timestamptz, details jsonb)
"""

SET_INCIDENTS = """
INSERT INTO holdfast.incident AS old
       (id, deployment_id, title, severity, status, opened_at, closed_at, details)
SELECT i.id, %(id)s, i.title, i.severity, i.status, i.opened_at, i.closed_at, i.details
  FROM pg_catalog.jsonb_to_recordset(%(items)s::jsonb)
       AS i(id text, title text, severity text, status text, opened_at timestamptz, closed_at timestamptz,
            details jsonb)
ON CONFLICT (id) DO UPDATE
   SET title = excluded.title,
       severity = excluded.severity,
       status = excluded.status,
       closed_at = coalesce(excluded.closed_at, old.closed_at),
       details = old.details || excluded.details
"""

PARTS = (
    ("steps", ADD_STEPS),
    ("checks", ADD_CHECKS),
    ("migrations", ADD_MIGRATIONS),
    ("rollback_points", SET_ROLLBACK_POINTS),
    ("alerts", ADD_ALERTS),
    ("incidents", SET_INCIDENTS),
)

# Serializes the openings of one live database, so that two exclusive ones cannot both find nobody.
LOCK_DATABASE = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(%(database)s, 0))"

RUNNING_DEPLOYMENT = """
SELECT id, operator, controller, started_at
  FROM holdfast.deployment
 WHERE database_name = %(database)s AND status = 'running' AND started_at > %(since)s
 ORDER BY started_at DESC
 LIMIT 1
"""

READ_DEPLOYMENTS = """
SELECT id, database_name AS database, kind, status, started_at, finished_at,
       extract(epoch FROM finished_at - started_at)::double precision AS duration_s,
       operator, controller, summary, details
  FROM holdfast.deployment
 WHERE (%(id)s IS NULL OR id = %(id)s)
   AND (%(database)s IS NULL OR database_name = %(database)s)
 ORDER BY started_at DESC, id DESC
 LIMIT %(limit)s
"""

READ_STEPS = """
SELECT deployment_id, name, status, started_at, finished_at, duration_s, details
  FROM holdfast.step
 WHERE deployment_id = ANY (%(ids)s)
 ORDER BY deployment_id, coalesce(started_at, finished_at), ordinal
"""

READ_ROLLBACK_POINTS = """
SELECT deployment_id, kind, state, live_database, live_oid, side_database, side_oid, archive_path, archive_id,
       taken_at, schema_version, bytes, expected_undo_s, write_counters
  FROM holdfast.rollback_point
 WHERE (%(database)s IS NULL OR live_database = %(database)s)
   AND (%(ids)s::text[] IS NULL OR deployment_id = ANY (%(ids)s::text[]))
 ORDER BY taken_at DESC NULLS LAST, deployment_id DESC, kind
"""

READ_CHECKS = """
SELECT stage, suite, name, severity, status, errored, rows, value, message, sample, tags, duration_ms
  FROM holdfast.check_result WHERE deployment_id = %(id)s ORDER BY ordinal
"""

READ_MIGRATIONS = """
SELECT version, description, direction, status, duration_ms, details
  FROM holdfast.migration_run WHERE deployment_id = %(id)s ORDER BY ordinal
"""

READ_ALERTS = """
SELECT level, text, raised_at, details FROM holdfast.alert WHERE deployment_id = %(id)s ORDER BY id
"""

READ_INCIDENTS = """
SELECT id, title, severity, status, opened_at, closed_at, details
  FROM holdfast.incident WHERE deployment_id = %(id)s ORDER BY opened_at, id
"""


def apply_record(cursor: Cursor, record: Mapping[str, Any], *, add_unknown: bool = False) -> bool:
    """Store one record inside the caller's transaction and return whether its deployment is known now.

    A record that arrived before is left as it is. With ``add_unknown`` a deployment is made for a record that
    refers to none.
    """
    cursor.execute(ADD_RECORD, {"uuid": record["uuid"], "deployment_id": record["deployment_id"]})
    if cursor.fetchone() is None:
        return True
    said = record["deployment"]
    keys = ("database", "kind", "status", "started_at", "finished_at", "operator", "controller", "summary")
    values: dict[str, Any] = {key: said.get(key) for key in keys}
    values.update(id=record["deployment_id"], at=record["at"], details=json.dumps(said.get("details") or {}))
    if record["state"] == "opened":
        cursor.execute(OPEN_DEPLOYMENT, values)
    else:
        if add_unknown:
            cursor.execute(ADD_UNKNOWN_DEPLOYMENT, values)
        cursor.execute(UPDATE_DEPLOYMENT, values)
        if cursor.fetchone() is None:
            return False
    for part, statement in PARTS:
        if record[part]:
            items = [{**item, "position": position} for position, item in enumerate(record[part], start=1)]
            cursor.execute(statement, {"id": values["id"], "at": values["at"], "items": json.dumps(items)})
    return True


def running_deployment(cursor: Cursor, *, database: str, now: datetime, stale_after_s: float) -> dict[str, Any] | None:
    """Lock the openings of ``database`` until the transaction ends and return its running deployment, if any."""
    cursor.execute(LOCK_DATABASE, {"database": database})
    since = iso(now - timedelta(seconds=stale_after_s))
    return next(iter(read_rows(cursor, RUNNING_DEPLOYMENT, {"database": database, "since": since})), None)


def read_deployments(
    cursor: Cursor, *, deployment_id: str | None = None, database: str | None = None, limit: int = 1
) -> list[dict[str, Any]]:
    """Return deployments with their steps, newest first."""
    found = read_rows(cursor, READ_DEPLOYMENTS, {"id": deployment_id, "database": database, "limit": limit})
    by_id = {deployment["id"]: deployment for deployment in found}
    for deployment in found:
        deployment["steps"] = []
    for step in read_rows(cursor, READ_STEPS, {"ids": list(by_id)}) if by_id else ():
        by_id[step.pop("deployment_id")]["steps"].append(step)
    return found


def read_parts(cursor: Cursor, deployment_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return everything else that was recorded of one deployment, by the names of a record's parts."""
    values = {"id": deployment_id}
    return {
        "checks": read_rows(cursor, READ_CHECKS, values),
        "migrations": read_rows(cursor, READ_MIGRATIONS, values),
        "rollback_points": read_rows(cursor, READ_ROLLBACK_POINTS, {"database": None, "ids": [deployment_id]}),
        "alerts": read_rows(cursor, READ_ALERTS, values),
        "incidents": read_rows(cursor, READ_INCIDENTS, values),
    }


def read_rollback_points(cursor: Cursor, *, database: str | None) -> list[dict[str, Any]]:
    """Return the rollback points of one live database, or of all, newest first."""
    return read_rows(cursor, READ_ROLLBACK_POINTS, {"database": database, "ids": None})


def read_rows(cursor: Cursor, statement: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a query by the names of their columns, times as texts."""
    cursor.execute(statement, values)
    names = [column.name for column in cursor.description or ()]
    return [{name: _plain(value) for name, value in zip(names, row)} for row in cursor.fetchall()]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    return float(value) if isinstance(value, Decimal) else value
