# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a run: one document for machines and people, from what the stages returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ansible_collections.holdfast.postgres.plugins.plugin_utils._evidence import (
    broken,
    checks_of,
    found_in_words,
    timings_of,
    unrecorded_checks,
    verdict_of,
    verdict_table,
)
from ansible_collections.holdfast.postgres.plugins.plugin_utils._writes import (
    carried_forward,
    left_behind,
    writes_sentences,
)

STAGES = {
    "deploy": ("lint", "preflight", "backup", "rehearse", "rollback_point", "migrate", "verify"),
    "rollback": ("rollback",),
    "backup": ("backup",),
    "cleanup": ("cleanup",),
    "verify": ("verify",),
}
#: What a failure belongs to that came before any stage began.
FIRST = {"deploy": "preflight"}
#: Those that a run has only where its inventory asks for them.
OPTIONAL = ("tap", "probe", "timing")
ORDER = ("gate", *STAGES["deploy"], *OPTIONAL, "rollback", "writes", "cleanup", "report")


def report_document(deployment: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of a run.

    ``deployment`` is the ledger's record (while the run is open, or closed); ``facts`` are the results that the stages
    registered, an empty mapping or None for a stage that did not run. Keys of the document: ``deployment``, ``steps``,
    ``backup``, ``lint`` (or None), ``rehearsal`` (or None), ``migrations``, ``checks``, ``timings`` (or None),
    ``rollback`` (or None), ``cleanup`` (or None), ``failure`` (or None), ``versions``, ``summary`` (one paragraph),
    ``further_failures`` (of a verification, which goes on after the first), ``table`` (the lines of the verdict),
    ``ok``, and what the ledger has not heard of yet: ``steps_to_record``, ``checks_to_record`` and ``point_to_record``
    (or None), a rollback point that nobody needs because nothing was changed.
    """
    kind = str(facts["kind"])
    failures = _failures(facts, first=FIRST.get(kind, kind))
    failure = failures[0] if failures else None
    swap = facts.get("swap") or {}
    swapped = bool(swap.get("live_oid")) and not swap.get("failed") and not facts.get("check_mode")
    stepped = _stepped_down(facts)
    status = "rolled_back" if facts.get("undone_by") else _status(kind, failure, swapped)
    steps = [_step(step, run_started_at=deployment.get("started_at")) for step in deployment.get("steps") or []]
    missing = _missing_steps(kind, facts, failures, swapped)
    checks, timings = checks_of(facts), timings_of(facts)
    document: dict[str, Any] = {
        "deployment": {
            "id": deployment.get("id"),
            "kind": kind,
            "database": facts["database"],
            "status": status,
            "started_at": deployment.get("started_at"),
            "finished_at": deployment.get("finished_at"),
            "duration_s": deployment.get("duration_s"),
            "operator": deployment.get("operator"),
            "controller": deployment.get("controller"),
        },
        "steps": sorted(steps or missing, key=lambda step: _place(step["name"])),
        "steps_to_record": missing,
        "point_to_record": _needless_point(kind, facts, failure),
        "backup": _backup(facts.get("archive")),
        "lint": _lint(facts),
        "rehearsal": facts.get("rehearsal") or None,
        "migrations": _migrations(facts),
        "checks": checks,
        "checks_to_record": unrecorded_checks(facts),
        "timings": timings,
        "table": verdict_table(checks, timings),
        "rollback": _rollback(facts, swapped),
        "cleanup": _cleanup(facts.get("cleanup")),
        "gate": facts.get("gate") or None,
        "failure": failure,
        "further_failures": failures[1:],
        "versions": _versions(facts, swapped),
        "reverted": [str(row["version"]) for row in (facts.get("reverted") or {}).get("reverted") or []],
    }
    document["ok"] = (
        status == "succeeded"
        and not facts.get("incomplete")
        and not ((swapped or stepped) and broken(checks, "rollback"))
        and not (swapped and document["rollback"] and writes_sentences(document["rollback"], facts)[1])
        and not _stuck_poolers(facts)
    )
    document["summary"] = _summary(document, facts, swapped)
    return document


def _place(step: str) -> int:
    return ORDER.index(step) if step in ORDER else len(ORDER)


def _failures(facts: Mapping[str, Any], *, first: str) -> list[dict[str, Any]]:
    """Return the reasons of the failures in their order, one for most runs."""
    given = facts.get("failures") or [failure for failure in [facts.get("failure")] if failure]
    return [_failure(failure, started=facts.get("started") or {}, first=first) for failure in given]


def _failure(failure: Mapping[str, Any], *, started: Mapping[str, str], first: str) -> dict[str, Any]:
    """Return the reason of a failure with the stage that failed: the last one that began."""
    result = failure.get("result") or {}
    began = {
        name: when
        for name, when in started.items()
        if name != "report" and when and when <= str(failure.get("at") or when)
    }
    stage = max(began, key=lambda name: began[name], default=first)
    times = {"started_at": began.get(stage) or None, "finished_at": failure.get("at") or None}
    kept: dict[str, Any] = {"stage": stage, **times}
    kept.update({key: failure.get(key) or "" for key in ("msg", "code", "hint")})
    for key in ("path", "line", "statement", "sqlstate", "differences"):
        if result.get(key):
            kept[key] = result[key]
    return kept


def _status(kind: str, failure: Any, swapped: bool) -> str:
    if not failure:
        return "succeeded"
    return "rolled_back" if kind == "deploy" and swapped else "failed"


def _step(step: Mapping[str, Any], *, run_started_at: str | None) -> dict[str, Any]:
    """Return a step with ``offset_s``, the seconds from the begin of the run to the step's, or None."""
    kept = {key: step.get(key) for key in ("name", "status", "started_at", "finished_at", "duration_s")}
    begin, run_begin = _time(step.get("started_at")), _time(run_started_at)
    offset_s = max(0.0, (begin - run_begin).total_seconds()) if begin and run_begin else None
    return {**kept, "offset_s": offset_s}


def _time(text: str | None) -> datetime | None:
    """Return the time that ``text`` gives in ISO 8601, or None; without an offset it is UTC."""
    if not text:
        return None
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _missing_steps(
    kind: str, facts: Mapping[str, Any], failures: Sequence[Mapping[str, Any]], swapped: bool
) -> list[dict[str, Any]]:
    """Return the steps that no stage recorded: those that failed, those that were not needed, and the report."""
    started = facts.get("started") or {}
    failed = {failure["stage"]: failure for failure in failures}
    if "tap" in failed and kind == "deploy":
        # The tests of a deployment are part of its rehearsal.
        failed.setdefault("rehearse", {**failed["tap"], "started_at": started.get("rehearse") or None})
    missing: list[dict[str, Any]] = []
    for name in (*STAGES[kind], *(stage for stage in OPTIONAL if started.get(stage))):
        if name == "tap" and (facts.get("tap") or {}).get("results"):
            continue
        if name in failed:
            times = {key: failed[name][key] for key in ("started_at", "finished_at")}
            details = _details_of_failed(name, facts)
            missing.append({"name": name, "status": "failed", **times, **({"details": details} if details else {})})
        elif not started.get(name):
            missing.append({"name": name, "status": "skipped", "duration_s": 0.0})
    if kind == "deploy" and started.get("rollback") and not swapped:
        missing.append({"name": "rollback", "status": "failed", "started_at": started["rollback"]})
    began = started.get("writes")
    if began:
        failed = facts.get("writes_failure") or facts.get("carry_failure")
        status = "failed" if failed else "succeeded"
        missing.append(
            {"name": "writes", "status": status, "started_at": began, "finished_at": started.get("report") or None}
        )
    missing.append({"name": "report", "status": "succeeded", "started_at": started.get("report") or None})
    return missing


def _details_of_failed(stage: str, facts: Mapping[str, Any]) -> Any:
    """Return what the ledger keeps of a stage that failed before it recorded anything."""
    if stage == "lint":
        return _lint(facts)
    if stage == "rehearse" and facts.get("rehearsal"):
        return {"rehearsal": facts["rehearsal"]}
    if stage == "timing" and (facts.get("timing") or {}).get("timings"):
        return {key: facts["timing"][key] for key in ("timings", "regressions")}
    return None


def _needless_point(kind: str, facts: Mapping[str, Any], failure: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the rollback point of a failed deployment that left the live database as it was, or None.

    To undo such a deployment would change nothing but lose what was written since.
    """
    archive = facts.get("archive") or {}
    if kind != "deploy" or not failure or _left(facts) != "nothing" or not archive.get("snapshot_at"):
        return None
    return {
        "kind": "archive",
        "state": "unneeded",
        "live_database": facts["database"],
        "archive_path": archive.get("path"),
        "archive_id": archive.get("id"),
        "taken_at": archive["snapshot_at"],
    }


def _left(facts: Mapping[str, Any]) -> str:
    """Return what the run left in the live database: ``nothing``, ``something``, or ``unknown``."""
    migrate = facts.get("migrate") or {}
    if migrate.get("applied") or migrate.get("partial"):
        return "something"
    return str((facts.get("outcome") or {}).get("left") or "nothing")


def _backup(archive: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the facts of the archive, those that check mode only predicts as None."""
    if not archive:
        return None
    return {**dict.fromkeys(("path", "id", "lsn", "snapshot_at", "bytes", "rows", "tables", "duration_s")), **archive}


def _lint(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the lint found, or None when it did not run."""
    lint = facts.get("lint") or {}
    return {key: lint[key] for key in ("findings", "counts")} if "counts" in lint else None


def _migrations(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    migrate = facts.get("migrate") or {}
    rehearsed = {row["version"]: row for row in (facts.get("rehearsal") or {}).get("versions") or []}
    rows = [(row, "applied", None) for row in migrate.get("applied") or []]
    if migrate.get("failed") and migrate.get("version"):
        rows.append((migrate, "failed", migrate.get("msg")))
    return [
        _migration(row, rehearsed.get(row["version"], {}), status=status, message=message)
        for row, status, message in rows
    ]


def _migration(
    row: Mapping[str, Any], rehearsed: Mapping[str, Any], *, status: str, message: str | None
) -> dict[str, Any]:
    kept = {key: row.get(key) for key in ("version", "description", "path", "duration_ms", "statements")}
    lists = {key: row.get(key) or [] for key in ("notices", "lock_waits")}
    predicted = {record["number"]: record for record in rehearsed.get("records") or []}
    return {
        **kept,
        **lists,
        "status": status,
        "message": message,
        "predicted_ms": rehearsed.get("up_ms"),
        "down": rehearsed.get("down"),
        "down_reason": rehearsed.get("reason"),
        "undo_ms": rehearsed.get("down_ms"),
        "records": [
            {**record, "predicted_ms": predicted.get(record["number"], {}).get("duration_ms")}
            for record in row.get("records") or []
        ],
    }


def _rollback(facts: Mapping[str, Any], swapped: bool) -> dict[str, Any] | None:
    plan = facts.get("plan")
    if not plan:
        return None
    swap = facts.get("swap") or {}
    restore = facts.get("restore") or {}
    return {
        "strategy": plan.get("strategy"),
        "used": plan.get("side_database") or plan.get("archive") or _steps(facts),
        "taken_at": plan.get("taken_at"),
        "schema_version": plan.get("schema_version"),
        "expected_s": plan.get("expected_s"),
        "writes": plan.get("writes"),
        "sentence": plan.get("sentence"),
        "left_behind": plan.get("left_behind"),
        "done": swapped or _stepped_down(facts),
        "discarded": (facts.get("new_data") or {}).get("files") or [],
        "retired": swap.get("retired"),
        "stall_ms": swap.get("stall_ms"),
        "poolers": _poolers(swap),
        "terminated": swap.get("terminated") or [],
        "restore_s": restore.get("duration_s"),
        "verified": restore.get("verified"),
        "left": left_behind(facts) if swapped else None,
        "carried": carried_forward(facts) if swapped else None,
    }


def _steps(facts: Mapping[str, Any]) -> str | None:
    versions = [str(row["version"]) for row in (facts.get("reverted") or {}).get("reverted") or []]
    return "steps down of %s" % ", ".join(versions) if versions else None


def _poolers(result: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return what each pooler did in a swap or a clone; a failure may name them only."""
    return [pooler for pooler in (result or {}).get("poolers") or [] if isinstance(pooler, Mapping)]


def _stuck_poolers(facts: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each pooler that could not be told to let its clients go on."""
    stuck = {
        (pooler["name"], pooler["console"]): pooler
        for stage in ("clone", "swap")
        for pooler in _poolers(facts.get(stage))
        if pooler.get("error")
    }
    return [
        "POOLER %s AT %s MAY STILL MAKE CLIENTS WAIT (%s): RESUME %s on its console."
        % (name, console, str(pooler["error"]).rstrip("."), ", ".join(pooler.get("databases") or [facts["database"]]))
        for (name, console), pooler in stuck.items()
    ]


def _cleanup(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not result or "removed" not in result:
        return None
    return {key: result.get(key) for key in ("removed", "kept", "freed_bytes")}


def _stepped_down(facts: Mapping[str, Any]) -> bool:
    """Whether steps down have brought the version before back."""
    reverted = facts.get("reverted") or {}
    return "reverted" in reverted and not reverted.get("failed") and not facts.get("check_mode")


def _versions(facts: Mapping[str, Any], swapped: bool) -> dict[str, Any]:
    """Return the schema version before and now, as far as this run knows them."""
    status = facts.get("status") or {}
    migrate = facts.get("migrate") or {}
    before = status.get("current_version")
    outcome = facts.get("outcome") or {}
    now = outcome.get("current_version") or migrate.get("current_version") or before
    if facts.get("undone_by"):
        now = before
    if swapped:
        now = (facts.get("plan") or {}).get("schema_version") or before
    if "current_version" in (facts.get("reverted") or {}):
        now = facts["reverted"]["current_version"]
    return {"before": before, "now": now}


def _summary(document: Mapping[str, Any], facts: Mapping[str, Any], swapped: bool) -> str:
    kind = document["deployment"]["kind"]
    sentences = [_what_happened(document, facts, swapped=swapped)]
    failure = document["failure"]
    hint = (facts.get("undo_failure") or {}).get("hint") or (failure or {}).get("hint")
    if hint:
        sentences.append("Next: %s" % hint)
    rollback = document["rollback"]
    if rollback and _stepped_down(facts):
        sentences.append("Rows that were written since stay where they are.")
        for file in rollback["discarded"]:
            sentences.append("%s rows of %s are kept in %s." % (file["rows"], file["name"], file["path"]))
        failing = broken(document["checks"], "rollback")
        if failing:
            sentences.append("CHECKS FAILED AFTER THE UNDO: %s." % "; ".join(failing))
    if rollback and swapped:
        if rollback["retired"]:
            kept = "The failed version" if kind == "deploy" else "The version that served until now"
            sentences.append("%s is kept as %s." % (kept, rollback["retired"]))
        if rollback["stall_ms"] is not None:
            who = "Clients of the poolers waited" if rollback["poolers"] else "New sessions were kept out"
            sentences.append("%s for %s ms." % (who, rollback["stall_ms"]))
        said, problems = writes_sentences(rollback, facts)
        sentences += said + problems
        failing = broken(document["checks"], "rollback")
        if failing:
            sentences.append("CHECKS FAILED AFTER THE UNDO: %s." % "; ".join(failing))
        if facts.get("probe_failure"):
            sentences.append("Whether the application works is not known: %s" % facts["probe_failure"])
    sentences += _stuck_poolers(facts)
    if facts.get("incomplete"):
        sentences.append("THE RECORD OF THIS RUN IS INCOMPLETE: %s" % facts["incomplete"])
    elif not facts.get("check_mode"):
        sentences.append("Evidence: %s/report.html." % facts["report_path"])
    return " ".join(sentences)


def _what_happened(document: Mapping[str, Any], facts: Mapping[str, Any], *, swapped: bool) -> str:
    kind, database = document["deployment"]["kind"], facts["database"]
    if kind == "verify":
        return _what_was_verified(document, database)
    version = document["versions"]["now"]
    serves = "%s serves%s" % (database, " at %s" % version if version else "")
    if facts.get("undone_by"):
        return _what_was_undone(document, facts)
    if document["failure"]:
        return _what_failed(document["failure"], facts, kind=kind, swapped=swapped, serves=serves)
    if facts.get("dry_run") and kind == "deploy" and _pending(facts):
        return "Dry run: %s" % _what_was_tried(document["rehearsal"] or {}, facts, serves=serves)
    if facts.get("check_mode"):
        return "Check mode: %s" % _what_would_happen(document, facts, kind=kind)
    archive = document["backup"] or {}
    return {
        "deploy": _what_was_deployed(document, facts, serves=serves),
        "backup": "%s was archived as %s (%s bytes)." % (database, archive.get("path"), archive.get("bytes")),
        "cleanup": _what_was_cleaned(document["cleanup"] or {}, database, "were dropped"),
        "rollback": "The deployment was undone%s: %s."
        % (" by the %s" % _steps(facts) if _stepped_down(facts) and _steps(facts) else "", serves),
    }[kind]


def _inner(message: Any) -> str:
    """Return a message as a part of a longer sentence: without its full stop, but with an ellipsis."""
    text = str(message)
    return text if text.endswith("...") else text.rstrip(".")


def _what_was_verified(document: Mapping[str, Any], database: str) -> str:
    found = found_in_words(document["checks"], document["timings"])
    failures = [document["failure"], *document["further_failures"]] if document["failure"] else []
    if not failures:
        return "%s was verified: %s." % (database, found)
    return "%s DOES NOT HOLD: %s. In all, %s." % (
        database,
        "; ".join("at the stage %s, %s" % (row["stage"], _inner(row["msg"])) for row in failures),
        found,
    )


def _what_was_deployed(document: Mapping[str, Any], facts: Mapping[str, Any], *, serves: str) -> str:
    applied = [str(row["version"]) for row in document["migrations"]]
    pending = _pending(facts)
    if applied:
        done = "%s %s deployed" % (", ".join(applied), "was" if len(applied) == 1 else "were")
    elif pending and (facts.get("started") or {}).get("migrate"):
        done = "Another run had applied %s meanwhile, and this one nothing" % ", ".join(pending)
    elif pending:
        done = "Pending and not applied, because the stage migrate was left out, is %s" % ", ".join(pending)
    else:
        done = "Nothing was pending"
    return "%s: %s, %s." % (done, serves, verdict_of(document["checks"]))


def _what_was_tried(rehearsal: Mapping[str, Any], facts: Mapping[str, Any], *, serves: str) -> str:
    tried = [str(row["version"]) for row in rehearsal.get("versions") or [] if row.get("up_ms") is not None]
    done = "%s %s applied to a copy of %s" % (
        ", ".join(tried) or "nothing",
        "were" if len(tried) > 1 else "was",
        facts["database"],
    )
    took = " in %.1f s" % (rehearsal["up_ms"] / 1000) if rehearsal.get("up_ms") is not None else ""
    proven = ", and the way back is %sproven" % ("" if rehearsal.get("proven") else "not ") if tried else ""
    return "%s%s%s. %s." % (done, took, proven, serves[:1].upper() + serves[1:])


def _what_would_happen(document: Mapping[str, Any], facts: Mapping[str, Any], *, kind: str) -> str:
    database = facts["database"]
    if kind == "rollback":
        return str((document["rollback"] or {}).get("sentence"))
    if kind == "cleanup":
        return _what_was_cleaned(document["cleanup"] or {}, database, "would be dropped")
    if kind == "backup":
        archive = facts.get("archive") or {}
        return "%s would be archived as %s." % (database, archive.get("path"))
    missing = (document["gate"] or {}).get("missing")
    stopped = " BUT THE GATE WOULD STOP IT: %s" % " ".join(missing) if missing else ""
    return "%s would be applied to %s.%s" % (", ".join(_pending(facts)) or "nothing", database, stopped)


def _what_was_cleaned(cleanup: Mapping[str, Any], database: str, verb: str) -> str:
    removed, kept = cleanup.get("removed") or [], cleanup.get("kept") or []
    gone = "%s (%s bytes)" % (", ".join(row["name"] for row in removed), cleanup.get("freed_bytes"))
    return "Of the side databases of %s, %s %s and %d kept." % (database, gone if removed else "none", verb, len(kept))


def _what_was_undone(document: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    applied = ", ".join(str(row["version"]) for row in document["migrations"])
    failure = document["failure"]
    return "%s was applied to %s, and UNDONE MEANWHILE by %s: the version before serves.%s" % (
        applied,
        facts["database"],
        facts["undone_by"],
        " The deployment had failed at the stage %s: %s." % (failure["stage"], _inner(failure["msg"]))
        if failure
        else "",
    )


def _pending(facts: Mapping[str, Any]) -> list[str]:
    return [str(row["version"]) for row in (facts.get("status") or {}).get("pending") or []]


def _what_failed(failure: Mapping[str, Any], facts: Mapping[str, Any], *, kind: str, swapped: bool, serves: str) -> str:
    database = facts["database"]
    noun = "deployment" if kind == "deploy" else kind
    reason = "failed at the stage %s: %s" % (failure["stage"], _inner(failure["msg"]))
    if swapped and kind == "deploy":
        return "The deployment to %s %s. It was undone: %s again, as before." % (database, reason, serves)
    if swapped:
        return "The %s of %s %s. The names were exchanged already: %s." % (noun, database, reason, serves)
    left = _left(facts)
    done = (facts.get("reverted") or {}).get("reverted") or (facts.get("reverted") or {}).get("partial")
    if done and kind == "rollback":
        return "The rollback of %s %s. %s WERE RUN: %s. Run it again to go on, or with another strategy." % (
            database,
            reason,
            "The %s" % _steps(facts) if _steps(facts) else "Parts of a step down",
            serves,
        )
    if left == "nothing":
        return "The %s of %s %s. The live database was not changed: %s." % (noun, database, reason, serves)
    if left == "unknown":
        return "The deployment to %s %s. WHETHER IT CHANGED THE DATABASE IS NOT KNOWN, and nothing was undone." % (
            database,
            reason,
        )
    undo = (facts.get("undo_failure") or {}).get("msg")
    why = " The undo failed: %s." % _inner(undo) if undo else ""
    return "The deployment to %s %s.%s IT WAS NOT UNDONE: %s. The playbook rollback undoes it." % (
        database,
        reason,
        why,
        serves,
    )
