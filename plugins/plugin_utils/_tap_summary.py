# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How recorded runs of tests went lately, by category, from the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

STEP = "tap"


def tap_summary(
    deployments: Sequence[Mapping[str, Any]], *, hours: float = 24, now: datetime | None = None
) -> dict[str, Any]:
    """Return ``categories``, a row for each with its averages, and ``text`` with a line for each.

    ``deployments`` are those of the ledger with their steps. A run counts when its tests began within ``hours``.
    """
    moment = now or datetime.now(timezone.utc)
    # Times in the ledger are of this form, so texts sort as times do.
    since = (moment.astimezone(timezone.utc) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    runs: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for deployment in deployments:
        for step in deployment.get("steps") or ():
            began = str(step.get("started_at") or deployment.get("started_at") or "")
            if step.get("name") != STEP or began < since:
                continue
            for category in (step.get("details") or {}).get("categories") or ():
                ended = str(step.get("finished_at") or began)
                runs.setdefault(str(category["category"]), []).append((began, ended, category))
    rows = [_row(name, runs[name]) for name in sorted(runs)]
    return {"hours": hours, "categories": rows, "text": _text(rows, hours)}


def _row(name: str, runs: Sequence[tuple[str, str, Mapping[str, Any]]]) -> dict[str, Any]:
    rates = [float(run["success_rate"]) for _began, _ended, run in runs if run.get("success_rate") is not None]
    return {
        "category": name,
        "executions": len(runs),
        "planned_tests": sum(int(run["planned_tests"]) for _began, _ended, run in runs),
        "failed_tests": sum(int(run["failed_tests"]) for _began, _ended, run in runs),
        "avg_success_rate": round(sum(rates) / len(rates), 2) if rates else None,
        "avg_duration_s": round(sum(float(run["duration_s"]) for _began, _ended, run in runs) / len(runs), 2),
        "first_execution": min(began for began, _ended, _run in runs),
        "last_execution": max(ended for _began, ended, _run in runs),
    }


def _text(rows: Sequence[Mapping[str, Any]], hours: float) -> list[str]:
    if not rows:
        return ["No run of tests is recorded of the last %g hours." % hours]
    return ["Tests of the last %g hours:" % hours] + [
        "%s: %d run%s, on average %s in %.2f s, last at %s"
        % (
            row["category"],
            row["executions"],
            "" if row["executions"] == 1 else "s",
            "none planned" if row["avg_success_rate"] is None else "%.2f %% passed" % row["avg_success_rate"],
            row["avg_duration_s"],
            row["last_execution"][:19] + "Z",
        )
        for row in rows
    ]
