# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Baselines of query times: measurements that are kept by environment and database, one of which is active."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import check_name, require_driver
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.ledger import (
    UNREACHABLE,
    Ledger,
    transaction,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.record import clean, iso
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.store import read_rows

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

STATES = ("established", "activated", "deactivated", "listed")

#: What of a measurement is kept; the rest of what the module returned is about its run.
MEASUREMENT_KEYS = ("database", "measured_at", "server_version", "reference", "timings")

READ = """
SELECT environment, database_name AS database, version, established_at, established_by, deployment_id, note, active,
       activated_at, activated_by, measurement
  FROM holdfast.timing_baseline
 WHERE environment = %(environment)s AND database_name = %(database)s
 ORDER BY version DESC
"""

# Serializes what happens to the baselines of one environment and database.
LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(%(environment)s || '/' || %(database)s, 1))"

ADD = """
INSERT INTO holdfast.timing_baseline
       (environment, database_name, version, established_at, established_by, deployment_id, note, measurement)
VALUES (%(environment)s, %(database)s, %(version)s, %(at)s, %(operator)s, %(deployment_id)s, %(note)s,
        %(measurement)s::jsonb)
"""

# First the one, then the other: an index allows one active version at any moment.
DEACTIVATE = """
UPDATE holdfast.timing_baseline SET active = false
 WHERE environment = %(environment)s AND database_name = %(database)s AND active
"""

ACTIVATE = """
UPDATE holdfast.timing_baseline SET active = true, activated_at = %(at)s, activated_by = %(operator)s
 WHERE environment = %(environment)s AND database_name = %(database)s AND version = %(version)s
"""


def keep_baseline(
    options: Mapping[str, Any], *, server: Any, now: datetime, check_mode: bool = False
) -> dict[str, Any]:
    """Do what the options of the module say and return the keys of its result.

    Raises `HoldfastError`: ``option_invalid``, ``baseline_not_found``, ``ledger_unavailable``. Where the ledger cannot
    be reached and ``must_read`` is false, the listed baselines are none, with a warning.
    """
    require_driver()
    state = options["state"]
    values = {
        "environment": check_name(options["environment"], what="environment"),
        "database": check_name(options["live_database"]),
        "version": options.get("version"),
        "at": iso(now),
        "operator": options.get("operator") or None,
        "deployment_id": options.get("deployment_id") or None,
        "note": options.get("note") or None,
    }
    ledger = Ledger(
        server=server,
        database=check_name(options["ledger_database"], what="ledger database"),
        check_mode=check_mode,
    )
    measurement = _measurement(options) if state == "established" else {}
    try:
        with ledger.connection(create=state == "established") as connection:
            if connection is None:
                # A ledger that check mode did not make, or one that an earlier release made.
                before: list[dict[str, Any]] = []
                after = _changed(options, before, values, measurement)
            else:
                with transaction(connection) as cursor:
                    if state != "listed" and not check_mode:
                        cursor.execute(LOCK, values)
                    before = read_rows(cursor, READ, values)
                    after = _changed(options, before, values, measurement)
                    if not check_mode:
                        _store(cursor, before, after, values)
    except HoldfastError as exc:
        if exc.code not in UNREACHABLE:
            raise
        return _unreachable(ledger, options, exc.msg)
    except psycopg2.Error as exc:
        return _unreachable(ledger, options, " ".join((exc.diag.message_primary or str(exc)).split()))
    ledger.changed = ledger.changed or before != after
    return _answer(ledger, after)


def _measurement(options: Mapping[str, Any]) -> dict[str, Any]:
    given = options.get("measurement") or {}
    kept = {key: given[key] for key in MEASUREMENT_KEYS if key in given}
    timings = kept.get("timings") or []
    poor = [str(row.get("name")) for row in timings if row.get("status") != "measured"]
    if not timings or poor:
        raise HoldfastError(
            code="option_invalid",
            msg="A baseline needs times of every query; %s."
            % ("there are none of %s" % ", ".join(poor) if poor else "the measurement has no timings"),
            hint="Pass the result of pg_timing, run outside of check mode; mend the queries that failed.",
        )
    cleaned: dict[str, Any] = clean(kept)
    return cleaned


def _changed(
    options: Mapping[str, Any], before: list[dict[str, Any]], values: dict[str, Any], measurement: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the baselines as they shall be, newest first; ``values`` gets the version that is meant."""
    state = options["state"]
    after = [dict(row) for row in before]
    if state == "established":
        same = [row for row in after if row["measurement"] == measurement]
        if not same:
            row = {key: values[key] for key in ("environment", "database", "deployment_id", "note")}
            row.update(version=max((row["version"] for row in after), default=0) + 1, active=False)
            row.update(established_at=values["at"], established_by=values["operator"], measurement=dict(measurement))
            row.update(activated_at=None, activated_by=None)
            after.insert(0, row)
            same = [row]
        values["version"] = same[0]["version"]
    elif state == "activated":
        if values["version"] is None and after:
            values["version"] = after[0]["version"]
        if values["version"] not in [row["version"] for row in after]:
            raise _not_found(values, after)
    if state == "deactivated":
        for row in after:
            row["active"] = False
    elif state == "activated" or (state == "established" and options.get("activate")):
        for row in after:
            if row["version"] == values["version"] and not row["active"]:
                row.update(activated_at=values["at"], activated_by=values["operator"])
            row["active"] = row["version"] == values["version"]
    return after


def _not_found(values: Mapping[str, Any], known: list[dict[str, Any]]) -> HoldfastError:
    return HoldfastError(
        code="baseline_not_found",
        msg="The database %r in the environment %r has %s."
        % (
            values["database"],
            values["environment"],
            "no baseline" if not known else "no baseline of version %s" % values["version"],
        ),
        hint="Versions: %s." % ", ".join(str(row["version"]) for row in known)
        if known
        else "Establish one first: playbooks/baseline.yml.",
    )


def _store(cursor: Any, before: list[dict[str, Any]], after: list[dict[str, Any]], values: Mapping[str, Any]) -> None:
    """Write what is in ``after`` and not in ``before``."""
    known = {row["version"]: row for row in before}
    for row in after:
        if row["version"] not in known:
            cursor.execute(ADD, {**values, "version": row["version"], "measurement": json.dumps(row["measurement"])})
    active_before = [row["version"] for row in before if row["active"]]
    active_after = [row["version"] for row in after if row["active"]]
    if active_before != active_after:
        cursor.execute(DEACTIVATE, values)
        for version in active_after:
            cursor.execute(ACTIVATE, {**values, "version": version})


def _unreachable(ledger: Ledger, options: Mapping[str, Any], reason: str) -> dict[str, Any]:
    if options["state"] != "listed" or options.get("must_read", True):
        raise HoldfastError(
            code="ledger_unavailable",
            msg="The ledger %r cannot be used: %s" % (ledger.database, reason),
            hint="Mend the reason and run the task again; a baseline waits in no journal.",
        )
    ledger.changed = False
    ledger.warnings.append("The ledger %r cannot be read (%s); no baseline is known." % (ledger.database, reason))
    return _answer(ledger, [])


def _answer(ledger: Ledger, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the keys of a module result: the active baseline whole, the list without measurements."""
    return {
        "changed": ledger.changed,
        "active": next((row for row in rows if row["active"]), None),
        "baselines": [
            {
                **{key: value for key, value in row.items() if key != "measurement"},
                "measured_at": row["measurement"].get("measured_at"),
                "queries": len(row["measurement"].get("timings") or []),
            }
            for row in rows
        ],
        "warnings": list(ledger.warnings),
    }
