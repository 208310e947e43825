# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run has found out about a database: checks, security rules, tests, probes and query times, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

CHECK_KEYS = ("suite", "name", "severity", "status", "rows", "value", "message", "sample", "duration_ms", "tags")
#: Where results come from: the fact that a stage registered, the stage, the role that records them once nothing has
#: failed (none where they are recorded whatever they are), and what they are called.
SOURCES = (
    ("preflight", "preflight", "preflight", "checks"),
    ("probe_before", "preflight", "probe_before", "probes"),
    ("verify", "verify", "verify", "checks"),
    ("security", "verify", "verify", "security rules"),
    ("tap", "tap", "", "test results"),
    ("probe", "verify", "probe", "probes"),
    ("rollback_checks", "rollback", "", "checks"),
    ("probe_after_undo", "rollback", "", "probes"),
)
#: How many of the earlier runs a chart shows, at most.
HISTORY = 30
#: How many of those that do not hold the table names for each suite.
NAMED = 20


def checks_of(facts: Row) -> list[dict[str, Any]]:
    """Return every check, rule, test and probe that was asked, each with its ``stage`` and its ``source``."""
    return [
        {**{key: row.get(key) for key in CHECK_KEYS}, "stage": stage, "source": source}
        for registered, stage, _role, source in SOURCES
        for row in _rows(facts.get(registered))
    ]


def unrecorded_checks(facts: Row) -> list[dict[str, Any]]:
    """Return what the ledger has not heard of: what was found by a role that failed before it recorded it."""
    failed = {role for registered, _stage, role, _source in SOURCES if (facts.get(registered) or {}).get("failed")}
    return [
        {**row, "stage": stage}
        for registered, stage, role, _source in SOURCES
        if role and role in failed
        for row in _rows(facts.get(registered))
    ]


def _rows(registered: Any) -> list[Row]:
    found = registered or {}
    return list(found.get("results") or found.get("checks") or [])


def broken(checks: Sequence[Row], stage: str) -> list[str]:
    """Return the names of the stage's checks of severity error that do not hold."""
    return [
        str(row["name"])
        for row in checks
        if row["stage"] == stage and row["status"] == "failed" and row["severity"] == "error"
    ]


def timings_of(facts: Row) -> dict[str, Any] | None:
    """Return the times of named queries, what they were compared with, and what became worse; None without any."""
    result = facts.get("timing") or {}
    if not result.get("timings"):
        return None
    baseline = facts.get("timing_baseline") or {}
    measurement = baseline.get("measurement") or facts.get("timing_before") or {}
    before = {(row["group"], row["name"]): row for row in measurement.get("timings") or []}
    history = _history(facts.get("timing_history") or [])
    worse = {(row["group"], row["name"]): row for row in reversed(result.get("regressions") or [])}
    keys = ("group", "name", "status", "message", "median_ms", "p95_ms", "q1_ms", "q3_ms", "spread_ms", "samples_ms")
    rows = []
    for row in result["timings"]:
        name = (row["group"], row["name"])
        then = before.get(name) or {}
        comparable = then if then.get("digest") == row.get("digest") else {}
        rows.append(
            {
                **{key: row.get(key) for key in (*keys, "limit_ms", "buffers", "plan")},
                **{"baseline_%s" % key: comparable.get(key) for key in ("q1_ms", "q3_ms")},
                "baseline_ms": comparable.get("median_ms"),
                "level": (worse.get(name) or {}).get("level"),
                "history": history.get((*name, row.get("digest")), [])[-HISTORY:],
            }
        )
    return {
        "compared_with": "baseline %d" % baseline["version"] if baseline else "before" if before else None,
        "timings": rows,
        **{key: result.get(key) for key in ("regressions", "not_compared", "workload_change", "summary")},
    }


def _history(deployments: Iterable[Row]) -> dict[tuple[Any, Any, Any], list[dict[str, Any]]]:
    """Return the medians of earlier runs by group, name and digest of their query, the oldest first."""
    found: dict[tuple[Any, Any, Any], list[dict[str, Any]]] = {}
    for deployment in sorted(deployments, key=lambda row: str(row.get("started_at"))):
        for step in deployment.get("steps") or []:
            if step.get("name") != "timing":
                continue
            for row in (step.get("details") or {}).get("timings") or []:
                if row.get("median_ms") is not None:
                    found.setdefault((row.get("group"), row.get("name"), row.get("digest")), []).append(
                        {"id": deployment.get("id"), "at": step.get("started_at"), "median_ms": row["median_ms"]}
                    )
    return found


def verdict_of(checks: Sequence[Row]) -> str:
    """Return in a few words what the stage verify of a deployment found."""
    made = [row for row in checks if row["stage"] == "verify" and row["status"] != "skipped"]
    found = broken(checks, "verify")
    if not made:
        return "and nothing was verified"
    if found:
        return "BUT CHECKS DO NOT HOLD: %s" % "; ".join(found)
    warned = sum(row["status"] == "failed" and row["severity"] == "warning" for row in made)
    warnings = ", with %d warning%s" % (warned, "" if warned == 1 else "s") if warned else ""
    return "and its checks hold%s" % warnings


def found_in_words(checks: Sequence[Row], timings: Row | None) -> str:
    """Return how many of each kind hold, such as ``12 of 12 checks and 3 of 4 probes hold``."""
    parts = []
    for source in dict.fromkeys(source for *_where, source in SOURCES):
        made = [row for row in checks if row["source"] == source and row["status"] != "skipped"]
        if made:
            parts.append("%d of %d %s" % (sum(row["status"] == "passed" for row in made), len(made), source))
    said = "%s hold" % _joined(parts) if parts else "nothing was checked"
    if timings:
        worse = [row for row in timings["regressions"] or [] if row["level"] != "info"]
        measured = sum(row["status"] == "measured" for row in timings["timings"])
        slower = "%d became worse" % len(worse) if worse else "none became worse"
        compared = slower if timings["compared_with"] else "there is no baseline to compare them with"
        said += "; of %d named queries %d were measured, and %s" % (len(timings["timings"]), measured, compared)
    return said


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def verdict_table(checks: Sequence[Row], timings: Row | None) -> list[str]:
    """Return a table for a terminal: a line for each suite, and below it one for each that does not hold."""
    lines: list[str] = []
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in checks:
        groups.setdefault((str(row["source"]), str(row["stage"]), str(row["suite"])), []).append(row)
    for (source, stage, suite), rows in groups.items():
        made = [row for row in rows if row["status"] != "skipped"]
        bad = [row for row in made if row["status"] == "failed"]
        held = "%d of %d hold" % (len(made) - len(bad), len(made)) if made else "none was asked"
        took = sum(row["duration_ms"] or 0 for row in rows) / 1000
        lines.append(_line(_worst(bad), "%s: %s (%s)" % (source, suite, stage), "%s, %.1f s" % (held, took)))
        for row in bad[:NAMED]:
            found = "" if row["rows"] is None else "%d rows" % row["rows"]
            lines.append(_line("", "  %s" % row["name"], str(row["message"] or found)))
        if len(bad) > NAMED:
            lines.append(_line("", "  and %d more" % (len(bad) - NAMED), "see the report"))
    for row in (timings or {}).get("timings") or []:
        lines.append(_line(_judged(row), "query times: %s" % row["name"], _times(row)))
    return lines


def _line(judgement: str, what: str, found: str) -> str:
    return "%-8s %-52s %s" % (judgement, what, " ".join(found.split()))


def _worst(bad: Sequence[Row]) -> str:
    severities = {row["severity"] for row in bad}
    return "FAILED" if "error" in severities else "warning" if "warning" in severities else "info" if bad else "ok"


def _judged(timing: Row) -> str:
    if timing["level"]:
        return {"critical": "FAILED"}.get(timing["level"], timing["level"])
    return "ok" if timing["status"] == "measured" else str(timing["status"]).replace("_", " ")


def _times(timing: Row) -> str:
    if timing["median_ms"] is None:
        return str(timing["message"] or "not measured")
    now = "median %.2f ms" % timing["median_ms"]
    return "%s, %.2f ms in the baseline" % (now, timing["baseline_ms"]) if timing["baseline_ms"] else now
