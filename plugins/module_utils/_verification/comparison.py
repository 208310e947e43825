# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a query became slower: ratios with a guard against noise, plans, and what both together mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._verification.explain import touched

LEVELS = ("info", "warning", "critical")
#: Fewer samples have no quarters worth the name; then all of them must be slower.
FEWEST_FOR_QUARTERS = 5
#: A plan that touches this many more pages, and more by the ratio of a warning, is worse however quick it was.
PAGES_THAT_MATTER = 50
SHORTEST_MS = 0.001


@dataclass(frozen=True)
class Thresholds:
    """By how many percent a query may become slower, and below which difference nothing counts."""

    info_percent: float = 10
    warning_percent: float = 20
    critical_percent: float = 50
    min_difference_ms: float = 0.1

    def level(self, ratio: float) -> str | None:
        """Return the level of a ratio of times, None when it stays within all of them."""
        percent = (ratio - 1) * 100
        for level, limit in zip(reversed(LEVELS), (self.critical_percent, self.warning_percent, self.info_percent)):
            if percent > limit:
                return level
        return None


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie, interpolated between neighbours."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * share
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below + (above - below) * (position - math.floor(position))


def statistics(samples_ms: Sequence[float]) -> dict[str, float]:
    """Return the median, p95, the quarters, their distance and the extremes of at least one sample, in ms."""
    first, third = quantile(samples_ms, 0.25), quantile(samples_ms, 0.75)
    values = {
        "median_ms": quantile(samples_ms, 0.5),
        "p95_ms": quantile(samples_ms, 0.95),
        "q1_ms": first,
        "q3_ms": third,
        "spread_ms": third - first,
        "min_ms": min(samples_ms),
        "max_ms": max(samples_ms),
    }
    return {name: round(value, 3) for name, value in values.items()}


def slowdown_of_machine(now: Mapping[str, Any] | None, then: Mapping[str, Any] | None) -> float:
    """Return how many times longer the same computation without any table took, at least 1.

    The quarter that suffered most counts. A machine that is slower now excuses queries that are; one that is quicker
    accuses none.
    """
    if not now or not then or not now.get("median_ms") or not then.get("median_ms"):
        return 1.0
    ratios = (float(now[key]) / max(SHORTEST_MS, float(then[key])) for key in ("q1_ms", "median_ms", "q3_ms"))
    return max(1.0, *ratios)


def compare_times(
    now: Mapping[str, Any], then: Mapping[str, Any], *, slowdown: float, thresholds: Thresholds
) -> tuple[float, str | None]:
    """Return the ratio of the medians, and the level when the difference exceeds the spread of both, else None.

    The quickest quarter of now must lie above the slowest quarter of then: where most samples of both overlap, chance
    explains the rest. The level is that of the smaller of two ratios, of the medians and of the first quarters, because
    noise only ever adds time: a query that became slower is slower at its quickest, too.
    """
    medians = float(now["median_ms"]), max(SHORTEST_MS, float(then["median_ms"])) * slowdown
    lows = float(now[_low(now)]), max(SHORTEST_MS, float(then[_low(then)])) * slowdown
    high = float(then["q3_ms" if _many(then) else "max_ms"]) * slowdown
    ratio = medians[0] / medians[1]
    if lows[0] <= high or medians[0] - medians[1] < thresholds.min_difference_ms:
        return ratio, None
    return ratio, thresholds.level(min(ratio, lows[0] / lows[1]))


def _many(timing: Mapping[str, Any]) -> bool:
    return int(timing.get("runs") or 0) >= FEWEST_FOR_QUARTERS


def _low(timing: Mapping[str, Any]) -> str:
    return "q1_ms" if _many(timing) else "min_ms"


def judge_timings(
    timings: Sequence[Mapping[str, Any]],
    *,
    baseline: Mapping[str, Any] | None,
    reference: Mapping[str, Any] | None,
    thresholds: Thresholds,
) -> list[dict[str, Any]]:
    """Return what became worse, the worst first; see `regression` for the keys.

    ``baseline`` is an earlier measurement: its ``timings`` and its ``reference``. A query that it does not have, or
    that asked something else then, is not compared; that it does not run, or takes longer than its ``limit_ms``, counts
    all the same.
    """
    earlier = {(row["group"], row["name"]): row for row in (baseline or {}).get("timings") or ()}
    slowdown = slowdown_of_machine(reference, (baseline or {}).get("reference"))
    found = []
    for timing in timings:
        then = earlier.get((timing["group"], timing["name"]))
        if then is not None and then.get("digest") != timing["digest"]:
            then = None
        regression = _judge(timing, then, slowdown=slowdown, thresholds=thresholds)
        if regression:
            found.append(regression)
    return sorted(found, key=lambda row: (-LEVELS.index(row["level"]), -(row["ratio"] or math.inf)))


def _judge(
    now: Mapping[str, Any], then: Mapping[str, Any] | None, *, slowdown: float, thresholds: Thresholds
) -> dict[str, Any] | None:
    if now["status"] in ("failed", "timed_out"):
        before = then is not None and then["status"] in ("failed", "timed_out")
        message = "%s%s" % (now["message"], "; so it was in the baseline" if before else "")
        return regression(now, then, kind=now["status"], level="info" if before else "critical", message=message)
    if now["status"] != "measured":
        return None
    if now["limit_ms"] and now[_low(now)] > now["limit_ms"]:
        message = "median %s, more than its limit_ms of %s" % (ms(now["median_ms"]), ms(now["limit_ms"]))
        return regression(now, then, kind="limit", level="critical", message=message)
    if then is None or then["status"] != "measured":
        return None
    return _slower_or_planned_anew(now, then, slowdown=slowdown, thresholds=thresholds)


def _slower_or_planned_anew(
    now: Mapping[str, Any], then: Mapping[str, Any], *, slowdown: float, thresholds: Thresholds
) -> dict[str, Any] | None:
    ratio, level = compare_times(now, then, slowdown=slowdown, thresholds=thresholds)
    changed = _plan_change(now, then)
    if level:
        message = "median %s, %s in the baseline: %.2f times as long%s" % (
            ms(now["median_ms"]),
            ms(then["median_ms"]),
            ratio,
            " (the machine itself is %.2f times slower)" % slowdown if slowdown >= 1.1 else "",
        )
        message += "; %s" % changed if changed else "; the plan is the same"
        return regression(now, then, kind="slower", level=level, message=message, ratio=ratio)
    if changed:
        pages_now, pages_then = touched(now["buffers"]), touched(then["buffers"])
        grown = pages_now / max(1, pages_then)
        worse = pages_now - pages_then >= PAGES_THAT_MATTER and thresholds.level(grown) in ("warning", "critical")
        message = "%s; it looks at %d pages, %d in the baseline, and took no longer" % (changed, pages_now, pages_then)
        return regression(
            now, then, kind="plan", level="warning" if worse else "info", message=message, ratio=max(1.0, ratio)
        )
    return None


def _plan_change(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    """Return how the plan differs, empty when it does not."""
    if now["plan"]["digest"] == then["plan"]["digest"]:
        return ""
    here, there = set(now["plan"]["indexes"]), set(then["plan"]["indexes"])
    parts = []
    if there - here:
        parts.append("no longer uses %s" % ", ".join(sorted(there - here)))
    if here - there:
        parts.append("now uses %s" % ", ".join(sorted(here - there)))
    return "its plan %s" % " and ".join(parts) if parts else "its plan changed"


def regression(
    now: Mapping[str, Any],
    then: Mapping[str, Any] | None,
    *,
    kind: str,
    level: str,
    message: str,
    ratio: float | None = None,
) -> dict[str, Any]:
    """Return the entry for what became worse, with both plans where they are known."""
    before = (then or {}).get("plan")
    return {
        "group": now["group"],
        "name": now["name"],
        "file": now["file"],
        "line": now["line"],
        "kind": kind,
        "level": level,
        "message": message,
        "ratio": None if ratio is None else round(ratio, 2),
        "baseline_ms": (then or {}).get("median_ms"),
        "current_ms": now.get("median_ms"),
        "plan_changed": bool(before and now["plan"] and before["digest"] != now["plan"]["digest"]),
        "plan_before": before,
        "plan_now": now["plan"],
    }


def ms(value: float) -> str:
    """Return a time for people."""
    return "%.3g ms" % value if value < 1000 else "%.1f s" % (value / 1000)
