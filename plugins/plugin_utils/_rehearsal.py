# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deciding what of a deployment can be rehearsed, and what its rehearsal has shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: A restore with its proof was measured at about the time of the backup and a half.
RESTORE_FACTOR = 1.5

#: The strength of table locks, the weakest first (https://www.postgresql.org/docs/current/explicit-locking.html).
LOCKS = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)

#: How a fingerprint describes a column; of what follows the type, nothing changes a value.
COLUMN = re.compile(
    r"""(?P<name>"(?:[^"]|"")*"|\S+)[ ](?P<type>.*?)
        (?P<rest>$|[ ](?:not[ ](?:null|valid)|(?:always|default)[ ]identity|generated|default|collate|storage|statistics
                        |options|acl|comment)\b.*)""",
    re.VERBOSE | re.DOTALL,
)

#: What stands in the way of steps down although each pending migration may have one; no reason to stop.
IRREVERSIBLE = "migration_irreversible"

Row = Mapping[str, Any]


def rehearsal_plan(
    pending: Sequence[Row],
    *,
    mode: str = "full",
    archive: Row | None = None,
    layout: str = "",
    max_bytes: int = 0,
    time_budget_s: float = 0,
    deployments: Sequence[Row] = (),
) -> dict[str, Any]:
    """Return what is to be rehearsed, and how.

    ``pending`` comes from pg_migrate, ``archive`` from pg_backup, ``deployments`` from the ledger, newest first. The
    plan has ``mode`` (``full``, ``schema`` or ``off``), ``notes`` (sentences about what is left out), ``versions`` (of
    ``pending``, those to rehearse), ``target`` (the last of them where it is not the last of all, else an empty text),
    ``base`` (the newest of them that cannot be reverted, above which the steps down are tried, else an empty text),
    ``tries_downs``, ``whole`` (whether nothing that is pending is left out) and ``expected_s`` (of the restore, or
    None).
    """
    notes: list[str] = []
    rows = list(pending)
    if mode != "off" and layout == "command":
        mode = "off"
        notes.append("Not rehearsed: whether a program of its own connects to a copy cannot be known.")
    if mode != "off" and not (archive or {}).get("path"):
        mode = "off"
        notes.append("Not rehearsed: this run has taken no archive.")
    beyond = next((n for n, row in enumerate(rows) if row.get("beyond_database")), None)
    if mode != "off" and beyond is not None:
        place = rows[beyond]["beyond_database"][0]
        notes.append(
            "Not rehearsed from %s on: %s in %s, line %s, would change more than a copy of the database."
            % (rows[beyond]["version"], place["command"], place["path"], place["line"])
        )
        del rows[beyond:]
        mode = mode if rows else "off"
    expected_s = _expected_restore_s(archive or {}, deployments)
    if mode == "full":
        too_much = _too_much(archive or {}, max_bytes=max_bytes, time_budget_s=time_budget_s, expected_s=expected_s)
        if too_much:
            mode = "schema"
            notes.append("The schema alone is rehearsed, without rows: %s are wanted." % too_much)
    stuck = [row for row in rows if _no_way_down(row)]
    base = stuck[-1]["version"] if stuck else ""
    notes += ["%s: %s. An undo by steps down is impossible." % (row["version"], _no_way_down(row)) for row in stuck]
    return {
        "mode": mode,
        "notes": notes,
        "versions": [row["version"] for row in rows] if mode != "off" else [],
        "target": rows[-1]["version"] if rows and len(rows) < len(pending) else "",
        "base": base,
        "tries_downs": bool(rows) and rows[-1]["version"] != base,
        "whole": mode != "off" and len(rows) == len(pending),
        "expected_s": expected_s if mode == "full" else None,
    }


def _no_way_down(row: Row) -> str:
    """Return why a migration cannot be reverted to what was before, else an empty text."""
    if row.get("statements_done"):
        return "it is half-way up"
    if row.get("repeatable"):
        return "it runs again whenever it changes, and nothing brings its earlier text back"
    return "" if row.get("has_down") else "there is no step down"


def _too_much(archive: Row, *, max_bytes: int, time_budget_s: float, expected_s: float | None) -> str:
    size = archive.get("database_bytes") or 0
    if 0 < max_bytes < size:
        return "the database has %d bytes, and at most %d" % (size, max_bytes)
    if expected_s is not None and 0 < time_budget_s < expected_s:
        return "it should take %.0f s to restore, and at most %.0f" % (expected_s, time_budget_s)
    return ""


def _expected_restore_s(archive: Row, deployments: Sequence[Row]) -> float | None:
    """Return how long the restore should take, from the newest rehearsal or else from the time of the backup."""
    size = archive.get("database_bytes") or 0
    for deployment in deployments:
        for step in deployment.get("steps") or ():
            earlier = (step.get("details") or {}).get("rehearsal") or {}
            if earlier.get("mode") == "full" and earlier.get("restore_s") and earlier.get("bytes"):
                return float(earlier["restore_s"]) * size / float(earlier["bytes"])
    return None if archive.get("duration_s") is None else RESTORE_FACTOR * float(archive["duration_s"])


def rehearsal_record(plan: Row, facts: Row) -> dict[str, Any]:
    """Return what the rehearsal has shown, for the ledger, the report and the undo.

    ``facts`` are what the tasks registered, an empty mapping where they did not run: ``pending``, ``restore`` (with
    ``bytes`` and ``duration_s``), ``first`` and ``up`` (pg_migrate, below and above the base), ``down``, ``again``,
    ``schema`` (pg_schema_info after the steps down), ``changed`` and ``rows`` (pg_fingerprint_info after the steps up
    and down), ``history_table``, ``before`` (the version to which the steps down lead), ``database`` and ``checks``.

    ``proven`` says that every step down is there, was run on all rows, and gave the schema and the rows of all tables
    back that the steps up had left alone; ``restores_rows`` that not a row is another one than before;
    ``problem`` is why the deployment must not go on, else an empty text.
    """
    history = _spellings(str(facts.get("history_table") or ""))
    changed = (facts.get("changed") or {}).get("differences") or []
    after = _about_rows((facts.get("rows") or {}).get("differences") or [], history)
    schema = list((facts.get("schema") or {}).get("differences") or [])
    broken = [d for d in schema if d["kind"] != "column_order"]
    damaged = [d for d in after if _is_damage(d, changed)]
    down = facts.get("down") or {}
    tried = "reverted" in down and not down.get("failed")
    looked_at = ("schema", "rows") if plan["mode"] == "full" else ("schema",)
    complete = tried and all("equal" in (facts.get(name) or {}) for name in looked_at)
    proven_here = complete and not broken and not damaged
    versions = _versions(plan, facts, proven=proven_here, why=_why_not(down, broken, damaged))
    return {
        "mode": plan["mode"],
        "notes": [*plan["notes"], *([str(down["msg"])] if down.get("code") == IRREVERSIBLE else [])]
        + [d["message"] + " SELECT * gives them so." for d in schema if d["kind"] == "column_order"],
        "database": facts.get("database") or "",
        "versions": versions,
        "base": plan["base"],
        "before": facts.get("before") or "0",
        "proven": bool(proven_here and plan["whole"] and plan["mode"] == "full" and not plan["base"]),
        "restores_rows": bool(proven_here and plan["mode"] == "full" and not after),
        "rows_lost": [{key: d[key] for key in ("object", "kind", "message")} for d in after],
        "schema_differences": [{key: d[key] for key in ("object", "kind", "message", "diff")} for d in schema],
        "gains": _gains(changed, history),
        "problem": _why_not(down, broken, damaged) if complete and not proven_here else "",
        "bytes": (facts.get("restore") or {}).get("bytes"),
        "restore_s": (facts.get("restore") or {}).get("duration_s"),
        "up_ms": _total(row.get("up_ms") for row in versions),
        "down_ms": _total(row.get("down_ms") for row in versions) if complete else None,
        "locks": _locks([*_applied(facts, "first"), *_applied(facts, "up")]),
        "checks": _verdict(facts.get("checks") or {}),
    }


def _applied(facts: Row, name: str) -> list[Row]:
    result = facts.get(name) or {}
    return list(result.get("applied") or [])


def _versions(plan: Row, facts: Row, *, proven: bool, why: str) -> list[dict[str, Any]]:
    up = {row["version"]: row for row in [*_applied(facts, "first"), *_applied(facts, "up")]}
    again = {row["version"]: row for row in _applied(facts, "again")}
    down = {row["version"]: row for row in (facts.get("down") or {}).get("reverted") or []}
    rehearsed = list(plan["versions"])
    above = rehearsed.index(plan["base"]) + 1 if plan["base"] in rehearsed else 0
    found = []
    for row in facts.get("pending") or []:
        version = row["version"]
        place = rehearsed.index(version) if version in rehearsed else None
        if _no_way_down(row):
            state, reason = "missing", _no_way_down(row)
        elif place is None:
            state, reason = "not tried", "the migration was not rehearsed"
        elif place < above:
            state, reason = "not tried", "%s, above it, has no way down" % plan["base"]
        elif proven and plan["mode"] == "full":
            state, reason = "proven", ""
        elif proven:
            state, reason = "not proven", "there were no rows to see"
        else:
            state, reason = "not proven", why or "the rehearsal did not come so far"
        found.append(
            {
                "version": version,
                "description": row.get("description"),
                "down": state,
                "reason": reason,
                "down_checksum": row.get("down_checksum"),
                "up_ms": up.get(version, {}).get("duration_ms"),
                "again_ms": again.get(version, {}).get("duration_ms"),
                "down_ms": down.get(version, {}).get("duration_ms"),
                "records": list(up.get(version, {}).get("records") or []),
                "down_records": list(down.get(version, {}).get("records") or []),
            }
        )
    return found


def _why_not(down: Row, broken: Sequence[Row], damaged: Sequence[Row]) -> str:
    if down.get("code") == IRREVERSIBLE:
        return str(down.get("msg"))
    if down.get("failed"):
        return "the step down of %s fails: %s" % (down.get("version") or "a migration", down.get("msg"))
    differences = [*broken, *damaged]
    if not differences:
        return ""
    more = " and %d more differences" % (len(differences) - 3) if len(differences) > 3 else ""
    return "after the steps down, %s%s" % (
        ", ".join(_lower(str(d["message"]).rstrip(".")) for d in differences[:3]),
        more,
    )


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _spellings(table: str) -> tuple[str, ...]:
    """Return how a fingerprint may call the table that ``table`` names as SQL does."""
    names = [q or p.lower() for q, p in re.findall(r'("(?:[^"]|"")+")|([^".\s]+)', table)]
    names = names if len(names) > 1 else ["public", *names]
    plain = [n[1:-1] if re.fullmatch(r'"[a-z_][a-z0-9_]*"', n) else n for n in names]
    return ("table " + ".".join(names), "table " + ".".join(plain))


def _about_rows(differences: Sequence[Row], history: Sequence[str]) -> list[Row]:
    """Return the differences in what is stored; those in what is defined are the schema's.

    A sequence that has moved on is none of them, one that begins anew is.
    """
    return [
        d
        for d in differences
        if (d["kind"] in ("rows", "hash", "populated", "large_object") and d["object"] not in history)
        or (d["kind"] in ("missing", "unexpected") and str(d["object"]).startswith("large object "))
        or (d["kind"] == "sequence" and _moved_back(d["before"], d["after"]))
    ]


def _moved_back(before: Row, after: Row) -> bool:
    return "last_value" in before and "last_value" in after and after["last_value"] < before["last_value"]


def _is_damage(difference: Row, changed: Sequence[Row]) -> bool:
    """Whether the steps down have changed rows that the steps up had not.

    A sequence is never damage by itself: which way it counts is not looked at.
    """
    if difference["kind"] == "sequence":
        return False
    before = {d["kind"] for d in changed if d["object"] == difference["object"]}
    return not before or (difference["kind"] == "rows" and not before & {"rows", "missing"})


def _gains(differences: Sequence[Row], history: Sequence[str]) -> dict[str, Any]:
    """Return the ``tables`` and the ``columns`` (by table) that the steps up have added or defined in another way."""
    tables: list[str] = []
    columns: dict[str, list[str]] = {}
    for difference in differences:
        name = str(difference["object"])
        if not name.startswith("table ") or name in history:
            continue
        if difference["kind"] == "unexpected":
            tables.append(name[len("table ") :])
        elif difference["kind"] == "object" and "columns" in (difference.get("after") or {}):
            before = _columns(difference["before"].get("columns"))
            after = _columns(difference["after"]["columns"])
            gained = [column for column in after if before.get(column) != after[column]]
            if gained:
                columns[name[len("table ") :]] = gained
    return {"tables": sorted(set(tables)), "columns": columns}


def _columns(described: Sequence[str] | None) -> dict[str, str]:
    """Return the types of columns by their quoted names, from how a fingerprint describes them."""
    found: dict[str, str] = {}
    for text in described or ():
        match = COLUMN.match(text)
        # What is computed is no data of anybody.
        if match and not match["rest"].startswith(" generated"):
            found[match["name"]] = match["type"]
    return found


def _locks(applied: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each table the strongest lock that the steps up take and how long it is held, the longest first.

    A transaction keeps its locks to its end.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in applied:
        records = list(row.get("records") or [])
        for n, record in enumerate(records):
            for relation, lock in (record.get("locks") or {}).items():
                held = records[n:] if row.get("transactional", True) else [record]
                held_ms = sum(float(later.get("duration_ms") or 0) for later in held)
                known = found.setdefault(relation, {"relation": relation, "lock": lock, "held_ms": 0.0})
                if _strength(lock) > _strength(known["lock"]):
                    known.update(lock=lock, held_ms=0.0)
                if lock == known["lock"]:
                    known["held_ms"] = max(known["held_ms"], held_ms)
                    known.update(version=row["version"], held_ms=round(known["held_ms"], 1))
    return sorted(found.values(), key=lambda lock: (-_strength(lock["lock"]), -lock["held_ms"], lock["relation"]))


def _strength(lock: str) -> int:
    return LOCKS.index(lock) if lock in LOCKS else -1


def _total(durations: Iterable[Any]) -> int | None:
    known = [duration for duration in durations if duration is not None]
    return sum(known) if known else None


def _verdict(checks: Row) -> dict[str, int]:
    results = checks.get("results") or []
    return {
        "held": sum(row["status"] == "passed" for row in results),
        "failed": sum(row["status"] == "failed" for row in results),
    }


def rehearsal_lines(record: Row, *, statements: bool = False) -> list[str]:
    """Return the rehearsal as a few lines of text: what each version takes, locks and whether it can be undone.

    With ``statements``, there is a line for each statement, too.
    """
    lines = list(record["notes"])
    for row in record["versions"]:
        if row["up_ms"] is None:
            continue
        strongest = max(
            (str(r["strongest_lock"]) for r in row["records"] if r.get("strongest_lock")), key=_strength, default=""
        )
        lines.append(
            "%s: up %.1f s%s; step down %s%s%s."
            % (
                row["version"],
                row["up_ms"] / 1000,
                ", strongest lock %s" % strongest if strongest else "",
                row["down"],
                " in %.1f s" % (row["down_ms"] / 1000)
                if row["down"] == "proven" and row["down_ms"] is not None
                else "",
                " (%s)" % row["reason"] if row["reason"] else "",
            )
        )
        if statements:
            lines += ["  up %s" % _statement(r) for r in row["records"]]
            lines += ["  down %s" % _statement(r) for r in row["down_records"]]
    lines += ["%s The steps down do not bring that back." % d["message"] for d in record["rows_lost"][:5]]
    return lines


def _statement(record: Row) -> str:
    locks = ["%s on %s" % (lock, relation) for relation, lock in (record.get("locks") or {}).items()]
    return "%s: %s ms, %s rows, %s: %s" % (
        record.get("number"),
        record.get("duration_ms"),
        "-" if record.get("rows") is None else record["rows"],
        ", ".join(locks) or "no lock on a table",
        " ".join(str(record.get("statement") or "").split())[:120],
    )
