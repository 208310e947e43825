# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rollback points still stand: those of deployments that the live database carries.

What an undo may use and what a cleanup may remove are two sides of the same question, so both ask here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Point = Mapping[str, Any]


def undone_deployments(points: Sequence[Point]) -> set[Any]:
    """Return the deployments without anything to undo: undone already, or failed before they changed anything."""
    return {p.get("deployment_id") for p in points if p.get("state") in ("used", "unneeded")}


def standing_points(
    live: Mapping[str, Any],
    points: Sequence[Point],
    skipped: list[str],
    held: Collection[str] | None,
) -> list[Point]:
    """Return the rollback points, in their order, of deployments that the live database still carries.

    ``held`` are the deployments that the live database's own history names, or None when it cannot be read. Why a
    point is left out is added to ``skipped``.
    """
    done = undone_deployments(points)
    found = []
    for point in points:
        if point.get("state", "available") != "available" or point.get("deployment_id") in done:
            continue
        if lineage_of(point, live_oid=live.get("oid"), points=points) is None:
            skipped.append(
                "deployment %s was made on another database than %s is now" % (point.get("deployment_id"), live["name"])
            )
            continue
        if held is not None and point.get("deployment_id") not in held:
            reason = "%s holds nothing of deployment %s" % (live["name"], point.get("deployment_id"))
            if reason not in skipped:
                skipped.append(reason)
            continue
        found.append(point)
    return found


def lineage_of(point: Point, *, live_oid: Any, points: Sequence[Point]) -> list[Point] | None:
    """Return the undone rollback points that lead from the database of ``point`` to the one that serves now."""
    path: list[Point] = []
    oid = point.get("live_oid")
    used = [p for p in points if p.get("state") == "used" and p.get("side_oid")]
    while oid != live_oid:
        step = next(
            (
                p
                for p in used
                if p.get("live_oid") == oid and p not in path and not taken_before(p, point, strictly=True)
            ),
            None,
        )
        if step is None:
            return None
        path.append(step)
        oid = step["side_oid"]
    return path


def taken_before(thing: Mapping[str, Any], point: Point, *, strictly: bool = False) -> bool:
    """Return whether an archive or point is not newer than ``point`` (both times are ISO 8601 in UTC)."""
    mine = str(thing.get("snapshot_at") or thing.get("taken_at") or "")
    other = str(point.get("taken_at") or "")
    return mine < other if strictly else mine <= other
