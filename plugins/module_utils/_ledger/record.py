# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One record of the ledger: what one call of the module says about a deployment, in a form that any store takes.

A record is a mapping of JSON values with ``uuid``, ``at``, ``state`` (opened, recorded or closed),
``deployment_id``, ``deployment`` (what is said of the deployment itself), ``steps``, ``checks``, ``migrations``,
``rollback_points``, ``alerts`` and ``incidents``. The database and the journal keep the same record.
"""

from __future__ import annotations

import math
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import check_name
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

STATES = ("opened", "recorded", "closed", "listed")
KINDS = ("deploy", "rollback", "backup", "restore", "verify", "cleanup")
FINAL_STATUSES = ("succeeded", "failed", "rolled_back", "stopped")
STEP_STATUSES = ("running", "succeeded", "failed", "skipped", "rolled_back", "stopped")
ROLLBACK_POINT_KINDS = ("clone", "archive")
ROLLBACK_POINT_STATES = ("available", "used", "unneeded", "removed")
ALERT_LEVELS = ("info", "warning", "critical")
INCIDENT_STATUSES = ("open", "closed")

MASK = "********"
_SECRET = re.compile(r"passw(?:or)?d|passphrase|secret|token|api_?key|private_?key|credential", re.IGNORECASE)
# An id names files and directories as well.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_CHECK_KEYS = (
    "stage",
    "suite",
    "name",
    "severity",
    "status",
    "errored",
    "rows",
    "value",
    "message",
    "sample",
    "tags",
    "duration_ms",
)
ROLLBACK_POINT_KEYS = (
    "deployment_id",
    "kind",
    "state",
    "live_database",
    "live_oid",
    "side_database",
    "side_oid",
    "archive_path",
    "archive_id",
    "taken_at",
    "schema_version",
    "bytes",
    "expected_undo_s",
    "write_counters",
)
_MIGRATION_KEYS = ("version", "description", "direction", "status", "duration_ms")


def new_id(now: datetime) -> str:
    """Return an id such as ``20261120T221500Z-7f3a``, which sorts by time."""
    return "%s-%s" % (now.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ"), secrets.token_hex(2))


def check_id(deployment_id: str) -> str:
    """Return the id when it can name a file, else raise `HoldfastError` (``option_invalid``)."""
    if not _ID.fullmatch(deployment_id):
        raise HoldfastError(
            code="option_invalid",
            msg="%r cannot be the id of a deployment." % deployment_id,
            hint="Use 1 to 100 letters, digits, dots, underscores and dashes, a letter or digit first.",
        )
    return deployment_id


def build_record(options: Mapping[str, Any], *, deployment_id: str, now: datetime) -> dict[str, Any]:
    """Return the record of a call with these options of the module; unset ones and empty texts are left out.

    Raises `HoldfastError` (``option_invalid``) for a time that is none, and for a part without its name.
    """
    at = iso(now)
    state = options["state"]
    step = _given(options.get("step"))
    said = _given({key: options.get(key) for key in ("operator", "controller", "summary", "details")})
    if "details" in said:
        said["details"] = without_secrets(said["details"])
    if options.get("live_database"):
        said["database"] = check_name(str(options["live_database"]))
    if state == "opened":
        said.update(kind=options.get("kind") or "deploy", status="running", started_at=at)
    elif state == "closed":
        said.update(status=options["status"], finished_at=at)
    record = {
        "uuid": str(uuid.uuid4()),
        "at": at,
        "state": state,
        "deployment_id": deployment_id,
        "deployment": said,
        "steps": _steps([*(options.get("steps") or ()), *([step] if step else ())], at=at),
        "checks": [_check(check, stage=step.get("name")) for check in options.get("checks") or ()],
        "migrations": [_migration(run) for run in options.get("migrations") or ()],
        "rollback_points": _rollback_points(options, deployment_id=deployment_id, at=at),
        "alerts": _alerts(_given(options.get("alert")), at=at),
        "incidents": _incidents(_given(options.get("incident")), at=at),
    }
    return {key: clean(value) for key, value in record.items()}


def _given(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is set; an empty text comes from an unanswered survey and is not."""
    return {key: item for key, item in (value or {}).items() if item not in (None, "")}


def _steps(steps: Sequence[Mapping[str, Any]], *, at: str) -> list[dict[str, Any]]:
    by_name: dict[str, dict[str, Any]] = {}
    for given in map(_given, steps):
        name = str(_required(given, "name", "step"))
        step: dict[str, Any] = {"name": name, "status": given.get("status", "succeeded")}
        if step["status"] not in STEP_STATUSES:
            raise _invalid("The step %r has the status %r." % (name, step["status"]), ", ".join(STEP_STATUSES))
        started_at = _time(given, "started_at")
        finished_at = _time(given, "finished_at")
        if finished_at is None and step["status"] != "running" and given.get("duration_s") is None:
            finished_at = at
        duration_s = given.get("duration_s")
        if duration_s is None and started_at and finished_at:
            duration_s = seconds_between(started_at, finished_at)
        step.update(started_at=started_at, finished_at=finished_at, duration_s=duration_s)
        step["details"] = without_secrets(given.get("details") or {})
        by_name[name] = step
    return list(by_name.values())


def _check(check: Mapping[str, Any], *, stage: Any) -> dict[str, Any]:
    _required(check, "name", "check")
    return {**{key: check.get(key) for key in _CHECK_KEYS}, "stage": check.get("stage") or stage}


def _migration(run: Mapping[str, Any]) -> dict[str, Any]:
    _required(run, "version", "migration")
    known = {key: run.get(key) for key in _MIGRATION_KEYS}
    others = {key: value for key, value in run.items() if key not in _MIGRATION_KEYS}
    known["direction"] = known["direction"] or "up"
    known["status"] = known["status"] or "applied"
    return {**known, "details": without_secrets(others)}


def _rollback_points(options: Mapping[str, Any], *, deployment_id: str, at: str) -> list[dict[str, Any]]:
    given = _given(options.get("rollback_point"))
    if not given:
        return []
    # The undo of a deployment tells that the other deployment's point was used.
    owner = check_id(str(given.get("deployment_id") or deployment_id))
    point = {**given, "deployment_id": owner, "kind": _required(given, "kind", "rollback_point")}
    point["state"] = given.get("state") or "available"
    point["taken_at"] = _time(given, "taken_at") or (at if owner == deployment_id else None)
    point.setdefault("live_database", options.get("live_database") or None)
    return [point]


def _alerts(given: Mapping[str, Any], *, at: str) -> list[dict[str, Any]]:
    if not given:
        return []
    return [
        {
            "level": given.get("level") or "warning",
            "text": _required(given, "text", "alert"),
            "raised_at": at,
            "details": without_secrets(given.get("details") or {}),
        }
    ]


def _incidents(given: Mapping[str, Any], *, at: str) -> list[dict[str, Any]]:
    if not given:
        return []
    status = given.get("status") or "open"
    return [
        {
            "id": given.get("id") or str(uuid.uuid4()),
            "title": _required(given, "title", "incident"),
            "severity": given.get("severity") or "major",
            "status": status,
            "opened_at": at,
            "closed_at": at if status == "closed" else None,
            "details": without_secrets(given.get("details") or {}),
        }
    ]


def _required(given: Mapping[str, Any], key: str, what: str) -> Any:
    if given.get(key) in (None, ""):
        raise _invalid("A %s has no %s." % (what, key), "give each %s its %s" % (what, key))
    return given[key]


def _invalid(msg: str, hint: str) -> HoldfastError:
    return HoldfastError(code="option_invalid", msg=msg, hint=hint[0].upper() + hint[1:] + ".")


def _time(given: Mapping[str, Any], key: str) -> str | None:
    value = given.get(key)
    if value is None:
        return None
    # Python before 3.11 reads neither the Z of ISO 8601 nor fractions of another length than six digits.
    text = re.sub(r"[Zz]$", "+00:00", str(value).strip())
    text = re.sub(r"\.(\d{1,6})\d*", lambda fraction: "." + fraction.group(1).ljust(6, "0"), text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise _invalid(
            "%s is %r, which is no time." % (key, value), "write a time such as 2026-11-20T22:15:00Z"
        ) from exc
    return iso(moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc))


def iso(moment: datetime) -> str:
    """Return the time in UTC with microseconds, so that texts sort as times do."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_between(start: str, end: str) -> float:
    """Return the seconds from one time of `iso` to another."""
    first, last = (datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ") for text in (start, end))
    return round((last - first).total_seconds(), 3)


def clean(value: Any) -> Any:
    """Return a value that jsonb takes: no NUL, no lone surrogate, no NaN, and only the types of JSON."""
    if isinstance(value, Mapping):
        return {str(clean(str(key))): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    return str(value).replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def without_secrets(value: Any, *, inside: bool = False) -> Any:
    """Return details with the values masked that a key calls a secret, also the texts inside such a value."""
    if isinstance(value, Mapping):
        masked: dict[Any, Any] = {}
        for key, item in value.items():
            secret = bool(_SECRET.search(str(key)))
            plain = item is None or isinstance(item, (bool, Mapping, list, tuple))
            masked[key] = MASK if secret and not plain else without_secrets(item, inside=inside or secret)
        return masked
    if isinstance(value, (list, tuple)):
        return [without_secrets(item, inside=inside) for item in value]
    return MASK if inside and isinstance(value, str) else value


def fold(
    records: Sequence[Mapping[str, Any]], known: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the deployments that ``records`` describe, by id, added to those that are ``known``.

    This is what the statements of the store do in the database; it serves journals and check mode.
    """
    deployments = dict(known or {})
    for record in records:
        deployment = deployments.setdefault(str(record["deployment_id"]), _unknown(record))
        said = record["deployment"]
        closed_as_before = deployment["finished_at"] and said.get("status") == deployment["status"]
        if deployment["database"] is None:
            deployment["database"] = said.get("database")
        for key in ("operator", "controller", "summary", "kind", "status", "started_at", "finished_at"):
            if said.get(key) is not None and not (key == "finished_at" and closed_as_before):
                deployment[key] = said[key]
        deployment["details"] = {**deployment["details"], **said.get("details", {})}
        if deployment["started_at"] and deployment["finished_at"]:
            deployment["duration_s"] = seconds_between(deployment["started_at"], deployment["finished_at"])
        for step in record["steps"]:
            _merge_step(deployment["steps"], step)
        deployment["checks"].extend(record["checks"])
        deployment["migrations"].extend(record["migrations"])
        deployment["alerts"].extend(record["alerts"])
        deployment["incidents"] = merged(deployment["incidents"], record["incidents"], ("id",))
        deployment["rollback_points"] = merged(
            deployment["rollback_points"],
            [dict.fromkeys(ROLLBACK_POINT_KEYS) | point for point in record["rollback_points"]],
            ("deployment_id", "kind"),
        )
    return deployments


def _unknown(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": record["deployment_id"],
        "database": None,
        "kind": "deploy",
        "status": "running",
        "started_at": record["at"],
        "finished_at": None,
        "duration_s": None,
        "operator": None,
        "controller": None,
        "summary": None,
        "details": {},
        "steps": [],
        "checks": [],
        "migrations": [],
        "rollback_points": [],
        "alerts": [],
        "incidents": [],
    }


def _merge_step(steps: list[dict[str, Any]], new: Mapping[str, Any]) -> None:
    old = next((step for step in steps if step["name"] == new["name"]), None)
    if old is None:
        steps.append(dict(new))
        return
    details = {**old["details"], **new["details"]}
    old.update({key: value for key, value in new.items() if value is not None}, details=details)
    if new["duration_s"] is None and old["started_at"] and old["finished_at"]:
        old["duration_s"] = seconds_between(old["started_at"], old["finished_at"])


def merged(
    old: Sequence[dict[str, Any]], new: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """Return ``old`` with ``new`` in the place of what has the same ``keys``; what is unset stays as it was."""
    found = {tuple(item[key] for key in keys): dict(item) for item in old}
    for item in new:
        given = {key: value for key, value in item.items() if value is not None}
        identity = tuple(item[key] for key in keys)
        found[identity] = {**found[identity], **given} if identity in found else dict(item)
    return list(found.values())
