# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choosing what an undo will use, and saying what it will cost, before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.lineage import (
    lineage_of,
    standing_points,
    taken_before,
    undone_deployments,
)
from ansible_collections.holdfast.postgres.plugins.plugin_utils._steps_down import SWAP_S, StepsDown, steps_down

Counters = Mapping[str, Any]
Point = Mapping[str, Any]


def rollback_plan(
    live: Mapping[str, Any],
    *,
    databases: Sequence[Mapping[str, Any]],
    rollback_points: Sequence[Point],
    strategy: str = "auto",
    side_database: str | None = None,
    archive: str | None = None,
    archives: Sequence[Mapping[str, Any]] | None = None,
    running: Sequence[str] = (),
    deployments: Sequence[Mapping[str, Any]] = (),
    schema_refused: str | None = None,
) -> dict[str, Any]:
    """Return what an undo of ``live`` would use and cost.

    ``live`` and ``databases`` are entries of pg_database_info (``live`` with ``write_counters``, and ``deployments``,
    which decide where they are known: what the database itself names is there to be undone, and nothing else is);
    ``rollback_points`` come from the ledger, newest first; ``archives`` from pg_backup_info, or None when nobody
    looked yet. ``running`` are the ids of deployments that were never closed: what they are doing is in no history yet,
    and an undo stops them. ``deployments`` are those of the ledger with their steps, newest first, which tell whether
    the steps down are proven; ``schema_refused`` is why they cannot be used, as somebody found out.
    The plan has ``strategy`` (``clone``, ``schema``, ``archive`` or ``none``), ``deployment_id``,
    ``side_database``, ``side_oid``, ``archive``, ``taken_at``, ``schema_version``, ``expected_s`` (seconds, or None),
    ``writes`` (see `writes_since`), ``left_behind`` (the same as a sentence), ``since`` and ``migrated`` (the readings
    of the counters from before the rollback point and from the end of the migration, where the live database itself is
    what it was taken from; else None), ``skipped`` (what was passed over, and why), ``needs_archives`` (True when the
    archives must be listed first), ``sentence``, and ``point``, which of the rollback points it is. A plan with the
    strategy ``none`` and a point tells of an undo that was not recorded.
    """
    if live.get("oid") is None:
        return _none(["the database %s does not exist" % live["name"]])
    if archive:
        return _named_archive(live, archive, rollback_points)
    if side_database:
        return _named_clone(live, side_database, databases, rollback_points)
    serving = _serving_clone(live, rollback_points)
    if serving is not None:
        done = "deployment %s has been undone already, its clone serves as %s"
        return {
            **_none([done % (serving.get("deployment_id"), live["name"])]),
            "point": {**serving, "state": "used"},
        }
    return _newest_way_back(
        live,
        databases=databases,
        rollback_points=rollback_points,
        strategy=strategy,
        archives=archives,
        running=running,
        steps_down=steps_down(live, deployments, running=running, refused=schema_refused),
    )


def _newest_way_back(
    live: Mapping[str, Any],
    *,
    databases: Sequence[Mapping[str, Any]],
    rollback_points: Sequence[Point],
    strategy: str,
    archives: Sequence[Mapping[str, Any]] | None,
    running: Sequence[str],
    steps_down: StepsDown,
) -> dict[str, Any]:
    skipped: list[str] = []
    if strategy == "schema":
        return steps_down.plan(live) if steps_down.possible else _none([steps_down.reason])
    deployed = live.get("deployments")
    held = None if deployed is None else {*running, *(d["id"] for d in deployed)}
    standing = standing_points(live, rollback_points, skipped, held)
    newest: Point | None = standing[0] if standing else None
    stopping = newest is not None and newest.get("deployment_id") in running
    if deployed and not stopping:
        newest = _point_of(deployed[0], standing)
        if strategy == "auto" and newest not in standing:
            standing = []
    if strategy != "archive":
        found = _newest_clone(standing, databases, skipped, older_ones=strategy == "clone")
        if found is not None:
            plan = _by_clone(live, found[0], found[1], rollback_points, skipped)
            if steps_down.lossless and not stopping:
                plan["sentence"] += " With rollback_strategy=schema, proven steps down would keep these rows."
            return plan
    if strategy == "auto" and steps_down.lossless and not stopping:
        return steps_down.plan(live)
    if steps_down.refused:
        skipped.append(steps_down.reason)
    if strategy == "clone" or (
        strategy == "auto" and not stopping and _nothing_to_undo(live, rollback_points, skipped)
    ):
        return _none(skipped)
    if archives is None:
        return {**_none(skipped), "needs_archives": True}
    chosen = _newest_archive(newest, archives, skipped)
    return _by_archive(live, newest, chosen, rollback_points, skipped) if chosen else _none(skipped)


def _serving_clone(live: Mapping[str, Any], points: Sequence[Point]) -> Point | None:
    """Return the point whose clone serves already although nothing says so: the undo was killed after its swap."""
    return next(
        (
            p
            for p in points
            if p.get("state", "available") == "available" and p.get("side_oid") and p.get("side_oid") == live["oid"]
        ),
        None,
    )


def _point_of(deployment: Mapping[str, Any], standing: Sequence[Point]) -> Point:
    """Return the rollback point of a deployment, or what the history of the database says in its place."""
    name = deployment["id"]
    said = {"deployment_id": name, "archive_id": name, "taken_at": deployment.get("applied_at")}
    return next((p for p in standing if p.get("deployment_id") == name), said)


def _nothing_to_undo(live: Mapping[str, Any], points: Sequence[Point], skipped: list[str]) -> bool:
    """Return whether an archive could only bring back what nobody asked for; the reason is in ``skipped``."""
    if _all_undone(points, skipped):
        return True
    deployed = live.get("deployments")
    if deployed is None and not points:
        skipped.append("neither the ledger nor the history of %s names a deployment" % live["name"])
        return True
    if deployed is None:
        return False
    if not deployed:
        skipped.append("the history of %s names no deployment" % live["name"])
        return True
    # Its points are known and were passed over: that the database is another one is a reason to stop, too.
    newest = deployed[0]["id"]
    undone = undone_deployments(points)
    return any(
        p.get("deployment_id") == newest
        and (newest in undone or lineage_of(p, live_oid=live["oid"], points=points) is None)
        for p in points
    )


def _named_archive(live: Mapping[str, Any], path: str, points: Sequence[Point]) -> dict[str, Any]:
    point = next((p for p in points if p.get("kind") == "archive" and p.get("archive_path") == path), {})
    archive = {
        "path": path,
        "id": point.get("archive_id"),
        "schema_version": point.get("schema_version"),
        "snapshot_at": point.get("taken_at"),
        "restore_s": point.get("expected_undo_s"),
    }
    return _by_archive(live, point or None, archive, points, [])


def _named_clone(
    live: Mapping[str, Any], name: str, databases: Sequence[Mapping[str, Any]], points: Sequence[Point]
) -> dict[str, Any]:
    database = _database(databases, name)
    if database is None or database.get("invalid"):
        return _none(["database %s does not exist or is left from an interrupted DROP" % name])
    point = next((p for p in points if p.get("side_database") == name), {})
    return _by_clone(live, point, database, points, [])


def _all_undone(points: Sequence[Point], skipped: list[str]) -> bool:
    undone = undone_deployments(points)
    if points and all(p.get("deployment_id") in undone for p in points):
        skipped.append("every recorded deployment has been undone already or changed nothing")
        return True
    return False


def _newest_clone(
    standing: Sequence[Point], databases: Sequence[Mapping[str, Any]], skipped: list[str], *, older_ones: bool
) -> tuple[Point, Mapping[str, Any]] | None:
    """Return the newest usable clone and its database.

    An older clone undoes older deployments, too. Unless ``older_ones`` are wanted, only the newest deployment's
    clone counts, because the archive of that deployment is nearer to what the operator means.
    """
    for point in standing:
        if not older_ones and point.get("deployment_id") != standing[0].get("deployment_id"):
            break
        if point.get("kind") != "clone":
            continue
        reason = _unusable(point, databases)
        database = _database(databases, str(point.get("side_database")))
        if reason is None and database is not None:
            return point, database
        skipped.append(str(reason))
    return None


def _newest_archive(
    newest: Point | None, archives: Sequence[Mapping[str, Any]], skipped: list[str]
) -> Mapping[str, Any] | None:
    """Return the newest good archive from before the newest standing deployment."""
    for found in sorted(archives, key=lambda a: str(a.get("snapshot_at") or ""), reverse=True):
        if found.get("status") != "good":
            skipped.append("archive %s is %s: %s" % (found.get("id"), found.get("status"), found.get("reason")))
        elif newest is not None and found.get("id") != newest.get("archive_id") and not taken_before(found, newest):
            skipped.append("archive %s was taken after the deployment began" % found.get("id"))
        else:
            return found
    return None


def writes_since(point: Point | None, *, live: Mapping[str, Any], points: Sequence[Point]) -> dict[str, Any]:
    """Return how many rows were written to the live database since ``point``, from the server's own counters.

    ``known`` is False where the counters cannot tell: another database serves than the one that was counted, or
    statistics were reset. ``inserted``, ``updated`` and ``deleted`` are totals, ``tables`` the same for each table
    that changed; ``during_migration`` is the part written between the rollback point and the end of the migration.
    ``rewritten`` names the tables that got a new file, by TRUNCATE perhaps, which no counter of rows tells.
    Rows of transactions that are still open are not counted, and a session may report with a delay of seconds
    (https://www.postgresql.org/docs/current/monitoring-stats.html).
    """
    if point is None:
        return {"known": False, "reason": "no rollback point was recorded"}
    lineage = lineage_of(point, live_oid=live.get("oid"), points=points)
    if lineage is None:
        return {"known": False, "reason": "the live database is not the one that the rollback point was taken from"}
    segments: list[tuple[Counters, Counters]] = []
    start: Counters = _counters(point, "before")
    for used in lineage:
        segments.append((start, _counters(used, "before")))
        start = {"tables": {}}
    now = live.get("write_counters") or {}
    segments.append((start, now))
    total: dict[str, dict[str, int]] = {}
    rewritten: set[str] = set()
    for before, after in segments:
        rewritten |= _rewritten(before.get("relations") or {}, after.get("relations") or {})
        reason = _incomparable(before, after)
        if reason is None and not _add(total, before["tables"], after["tables"]):
            reason = "the server's counters went backwards (a crash loses them)"
        if reason is not None:
            return {"known": False, "reason": reason}
    migration: dict[str, dict[str, int]] = {}
    after_migration = _counters(point, "after_migration")
    if after_migration.get("tables") is not None:
        _add(migration, _counters(point, "before").get("tables") or {}, after_migration["tables"])
    return {
        "known": True,
        "tables": total,
        "rewritten": sorted(rewritten),
        "during_migration": _sums(migration),
        **_sums(total),
    }


def _rewritten(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Return the tables that are the same as before, but with another file."""
    return {
        name
        for name, now in after.items()
        if name in before and now["oid"] == before[name]["oid"] and now["filenode"] != before[name]["filenode"]
    }


def _incomparable(before: Counters, after: Counters) -> str | None:
    """Return why two readings of the server's counters cannot be subtracted, or None when they can."""
    if before.get("tables") is None or after.get("tables") is None:
        return "the write counters were not recorded"
    # A database that was made from another begins with counters of nothing, whatever was reset before.
    if before["tables"] and before.get("stats_reset") != after.get("stats_reset"):
        return "the server's statistics were reset since the rollback point"
    if before["tables"] and before.get("server_started_at") != after.get("server_started_at"):
        return "the server was restarted since the rollback point and may have lost counters"
    if "stats_discarded_at" in before and before["stats_discarded_at"] != after.get("stats_discarded_at"):
        return "the server threw its counters away since the rollback point, as it does after a crash"
    return None


def _counters(point: Point, when: str) -> Counters:
    counters = (point.get("write_counters") or {}).get(when)
    return counters if isinstance(counters, Mapping) else {}


def _add(total: dict[str, dict[str, int]], before: Counters, after: Counters) -> bool:
    """Add the differences between two readings to ``total``; False when a counter went backwards."""
    for table, counts in after.items():
        earlier = before.get(table) or {}
        changes = {
            key: int(counts.get(key) or 0) - int(earlier.get(key) or 0) for key in ("inserted", "updated", "deleted")
        }
        if min(changes.values()) < 0:
            return False
        if any(changes.values()):
            sums = total.setdefault(table, {"inserted": 0, "updated": 0, "deleted": 0})
            for key, value in changes.items():
                sums[key] += value
    return True


def _sums(tables: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {key: sum(counts[key] for counts in tables.values()) for key in ("inserted", "updated", "deleted")}


def _database(databases: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    return next((d for d in databases if d.get("name") == name), None)


def _unusable(point: Point, databases: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why the clone of ``point`` cannot be used, or None when it can."""
    name = str(point.get("side_database"))
    database = _database(databases, name)
    if database is None:
        return "the clone %s of deployment %s is gone" % (name, point.get("deployment_id"))
    if database.get("invalid"):
        return "the clone %s is left from an interrupted DROP DATABASE" % name
    if point.get("side_oid") and database.get("oid") != point.get("side_oid"):
        return "the database %s is not the clone that deployment %s made" % (name, point.get("deployment_id"))
    return None


def _by_clone(
    live: Mapping[str, Any],
    point: Point,
    database: Mapping[str, Any],
    points: Sequence[Point],
    skipped: list[str],
) -> dict[str, Any]:
    return _finish(
        {
            "strategy": "clone",
            "point": dict(point) or None,
            "deployment_id": point.get("deployment_id"),
            "side_database": database["name"],
            "side_oid": database.get("oid"),
            "archive": None,
            "taken_at": point.get("taken_at"),
            "schema_version": point.get("schema_version"),
            "expected_s": SWAP_S,
        },
        writes_since(point or None, live=live, points=points),
        point,
        live,
        skipped,
    )


def _by_archive(
    live: Mapping[str, Any],
    point: Point | None,
    archive: Mapping[str, Any],
    points: Sequence[Point],
    skipped: list[str],
) -> dict[str, Any]:
    own = next((p for p in points if p.get("kind") == "archive" and p.get("archive_id") == archive.get("id")), None)
    undone = point.get("deployment_id") if point else None
    sibling = next((p for p in points if p.get("kind") == "archive" and p.get("deployment_id") == undone), point)
    # A parallel restore with its proof was measured at about the time of the backup and a half.
    backup_s, restore_s = archive.get("duration_s"), archive.get("restore_s")
    if restore_s is None and backup_s is not None:
        restore_s = 1.5 * backup_s
    return _finish(
        {
            "strategy": "archive",
            # What only the history of the database told of has no kind, and no record to be marked.
            "point": dict(sibling) if sibling and sibling.get("kind") else None,
            "deployment_id": point.get("deployment_id") if point else None,
            "side_database": None,
            "side_oid": None,
            "archive": archive.get("path"),
            "taken_at": archive.get("snapshot_at"),
            "schema_version": archive.get("schema_version"),
            "expected_s": None if restore_s is None else round(SWAP_S + restore_s, 1),
        },
        writes_since(own, live=live, points=points),
        own or {},
        live,
        skipped,
    )


def _none(skipped: list[str]) -> dict[str, Any]:
    return {
        "strategy": "none",
        "point": None,
        "needs_archives": False,
        "skipped": skipped,
        "sentence": "There is nothing to undo with: %s." % ("; ".join(skipped) or "no rollback point and no archive"),
    }


def _finish(
    plan: dict[str, Any], writes: dict[str, Any], taken: Point, live: Mapping[str, Any], skipped: list[str]
) -> dict[str, Any]:
    since = _counters(taken, "before") if taken.get("live_oid") == live.get("oid") else {}
    left_behind = _writes_sentence(writes)
    source = "clone %s" % plan["side_database"] if plan["strategy"] == "clone" else "archive %s" % plan["archive"]
    sentences = [
        "%s will serve again as it was at %s%s, from the %s, %s."
        % (
            live["name"],
            _moment(plan["taken_at"]),
            " (schema %s)" % plan["schema_version"] if plan["schema_version"] else "",
            source,
            "in a time that is not known" if plan["expected_s"] is None else "in about %.0f s" % plan["expected_s"],
        ),
        left_behind,
    ]
    if skipped:
        sentences.append("Passed over: %s." % "; ".join(skipped))
    return {
        **plan,
        "writes": writes,
        "left_behind": left_behind,
        "since": dict(since) if since.get("snapshot") else None,
        "migrated": dict(_counters(taken, "after_migration")) if since.get("snapshot") else None,
        "skipped": skipped,
        "needs_archives": False,
        "sentence": " ".join(sentences),
    }


def _moment(time: str | None) -> str:
    """Return an ISO 8601 time in UTC as people read it, to the second."""
    return "%s %s UTC" % (time[:10], time[11:19]) if time and len(time) >= 19 else (time or "an unrecorded time")


def _writes_sentence(writes: Mapping[str, Any]) -> str:
    if not writes["known"]:
        return "How many rows written since then will be left behind is not known: %s." % writes["reason"]
    tables = writes["tables"]
    rewritten = writes.get("rewritten") or []
    emptied = " Rewritten or emptied since then: %s." % ", ".join(rewritten[:5]) if rewritten else ""
    if not tables:
        return emptied.strip() or "Nothing was written since then."
    migration = writes["during_migration"]
    worst = sorted(tables, key=lambda name: -sum(tables[name].values()))[:5]
    return (
        "Left behind in the retired database: %d inserted, %d updated and %d deleted rows in %s%s%s."
        % (
            writes["inserted"],
            writes["updated"],
            writes["deleted"],
            ", ".join(worst),
            " and %d more tables" % (len(tables) - len(worst)) if len(tables) > len(worst) else "",
            "; of these, %d inserted, %d updated and %d deleted before the migration had ended"
            % (migration["inserted"], migration["updated"], migration["deleted"])
            if any(migration.values())
            else "",
        )
        + emptied
    )
