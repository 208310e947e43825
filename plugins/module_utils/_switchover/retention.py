# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which side databases nobody needs any more: the rules, over facts that somebody else has read.

Every doubt keeps a database. Nothing here touches a server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import suffixed_name
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.lineage import (
    Point,
    standing_points,
    undone_deployments,
)

#: What follows the live database's name in a side database's, before the id of the run that made it.
MARKERS = {"clone": "_before_", "retired": "_retired_", "restored": "_restored_", "rehearsal": "_rehearsal_"}

#: An undo that is recorded as running for longer is dead.
UNDO_STALE_AFTER = timedelta(hours=6)

# Ids of runs as the ledger makes or takes them; those that it makes tell their time.
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TIMED_ID = re.compile(r"(\d{8}T\d{6}Z)(?:-[0-9a-f]{4}|_\d+)?")

NOT_ASKED = "the ledger cannot be read, so it is not known whether a deployment needs it"


@dataclass(frozen=True)
class SideDatabase:
    """A database whose name says that it belongs to the live one. ``run`` is the id in its name."""

    name: str
    oid: int
    kind: str
    run: str
    bytes: int | None = None
    invalid: bool = False
    #: What keeps it from being dropped: sessions, prepared transactions, slots, subscriptions, missing rights.
    hindrance: str | None = None
    #: Whether only the ledger can tell whose it is, because the name was shortened or fits another database as well.
    ambiguous: str | None = None


@dataclass(frozen=True)
class Decision:
    """What becomes of a side database, and why; ``at`` is when it was made, as far as that can be known."""

    side: SideDatabase
    remove: bool
    reason: str
    at: datetime | None = None


@dataclass(frozen=True)
class Policy:
    """What is kept though nobody needs it: what is younger than ``keep_days``, and the newest ``keep_last``."""

    keep_days: float = 14
    keep_last: int = 1


@dataclass(frozen=True)
class Knowledge:
    """What is known of the deployments of the live database.

    ``live`` has ``name``, ``oid`` and ``deployments`` (what its own history of migrations names, newest first; None
    when it cannot be read). ``points`` and ``runs`` are the rollback points and deployments of the ledger, newest
    first, or None when it cannot be read.
    """

    live: Mapping[str, Any]
    points: Sequence[Point] | None
    runs: Sequence[Mapping[str, Any]] | None
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def held(self) -> set[str] | None:
        """The deployments that the live database carries, or None when its history cannot be read."""
        deployed = self.live.get("deployments")
        return None if deployed is None else {str(d["id"]) for d in deployed}


def side_of(name: str, *, live: str) -> tuple[str, str] | None:
    """Return the kind of a side database of ``live`` and the id of its run, or None when the name is none of ours.

    It is the inverse of `suffixed_name`, so it holds for names that were shortened to 63 bytes, too.
    """
    for kind, marker in MARKERS.items():
        for found in re.finditer("(?=%s)" % re.escape(marker), name):
            suffix = name[found.start() :]
            if ID.fullmatch(suffix[len(marker) :]) and suffixed_name(live, suffix) == name:
                return kind, suffix[len(marker) :]
    return None


def ambiguity(name: str, *, live: str, others: Sequence[str]) -> str | None:
    """Return why the name of a side database of ``live`` does not say whose it is, or None when it does.

    ``others`` are the databases of the server.
    """
    found = side_of(name, live=live)
    if found is None:
        return None
    suffix = MARKERS[found[0]] + found[1]
    rivals = [other for other in others if other != live and not side_of(other, live=live)]
    rivals = [other for other in rivals if suffixed_name(other, suffix) == name]
    if rivals:
        return "it could be of %s as well" % " or ".join(map(repr, rivals))
    if live + suffix != name:
        return "its name was shortened, so it could be of another database as well"
    return None


def time_of(run: str) -> datetime | None:
    """Return the time that an id tells, or None."""
    match = TIMED_ID.fullmatch(run)
    if match is None:
        return None
    try:
        return datetime.strptime(match.group(1), "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def parsed_time(text: Any) -> datetime | None:
    """Return a time of the ledger, ISO 8601 in UTC, or None."""
    # Python before 3.11 reads neither the Z nor fractions of another length than three or six digits.
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:?00)?", str(text or ""))
    return datetime.fromisoformat(match.group(1)).replace(tzinfo=timezone.utc) if match else None


def choose(sides: Sequence[SideDatabase], *, known: Knowledge, policy: Policy) -> list[Decision]:
    """Return what becomes of each of ``sides``, in the order in which they would be removed: invalid ones first."""
    mine = [side for side in sides if _owner(side, known) in (None, known.live["name"])]
    times = {side.oid: _made_at(side, known) for side in mine}
    newest_first = sorted(mine, key=lambda side: (times[side.oid] or known.now, side.name), reverse=True)
    needed = _newest_way_back([side for side in newest_first if times[side.oid] is not None], known)
    decisions = []
    for side in newest_first:
        at = times[side.oid]
        if side.invalid:
            decisions.append(_finished_drop(side, at))
            continue
        reason = _kept_because(side, known)
        if reason is None and side is needed:
            reason = "it is the newest way back of %s" % known.live["name"]
        reason = reason or _kept_by_policy(side, newest_first, times, known=known, policy=policy)
        gone = "it is %s old, and no deployment needs it" % _age(at, known.now)
        decisions.append(Decision(side, reason is None, reason or gone, at))
    # The oldest first, so that a run that is ended leaves what matters most.
    return sorted(decisions, key=lambda d: (not d.side.invalid, d.at or known.now, d.side.name))


def choose_needless(
    sides: Sequence[SideDatabase], *, known: Knowledge, deployment_id: str, side_oid: int | None
) -> list[Decision]:
    """Return what becomes of the clone of a deployment that failed before it changed anything."""
    decisions = []
    for side in sides:
        if (side.kind, side.run) != ("clone", deployment_id):
            continue
        at = _made_at(side, known)
        if side.invalid:
            decisions.append(_finished_drop(side, at))
            continue
        reason = side.hindrance
        if side_oid is not None and side.oid != side_oid:
            reason = "it has OID %d, the clone of deployment %s had %d" % (side.oid, deployment_id, side_oid)
        elif known.held is not None and deployment_id in known.held:
            reason = "%s holds migrations of deployment %s" % (known.live["name"], deployment_id)
        decisions.append(Decision(side, reason is None, reason or "deployment %s changed nothing" % deployment_id, at))
    return decisions


def choose_rehearsals(
    sides: Sequence[SideDatabase], *, known: Knowledge, deployment_id: str | None, side_oid: int | None
) -> list[Decision]:
    """Return what becomes of the database of one deployment's rehearsal, or of all that rehearsals have left.

    No run needs the database of another run's rehearsal. One that nobody is connected to belongs to a run that is dead;
    should it be alive after all, its rehearsal fails, and nothing else.
    """
    decisions = []
    for side in sides:
        if side.kind != "rehearsal" or deployment_id not in (None, side.run):
            continue
        reason = side.hindrance
        if side_oid is not None and side.oid != side_oid:
            reason = "it has OID %d, the rehearsal of deployment %s had %d" % (side.oid, side.run, side_oid)
        elif side.ambiguous and deployment_id is None and _owner(side, known) != known.live["name"]:
            reason = "%s, and the ledger does not know run %s" % (side.ambiguous, side.run)
        gone = "the rehearsal of deployment %s is over" % side.run
        decisions.append(Decision(side, reason is None, reason or gone, _made_at(side, known)))
    return decisions


def _finished_drop(side: SideDatabase, at: datetime | None) -> Decision:
    """Return the decision for a database that can only be dropped, whoever it belonged to."""
    left = "it is left over from an interrupted DROP DATABASE"
    return Decision(side, side.hindrance is None, "%s; %s" % (left, side.hindrance) if side.hindrance else left, at)


def _run(run: str, known: Knowledge) -> Mapping[str, Any]:
    return next((r for r in known.runs or () if r.get("id") == run), {})


def _point(side: SideDatabase, known: Knowledge) -> Point:
    """Return the recorded rollback point that a clone is by its name, or nothing."""
    if side.kind != "clone":
        return {}
    return next((p for p in known.points or () if _is_point(p, side)), {})


def _is_point(point: Point, side: SideDatabase) -> bool:
    return point.get("kind") == "clone" and point.get("deployment_id") == side.run


def _owner(side: SideDatabase, known: Knowledge) -> str | None:
    """Return the live database that the ledger names for a side database, or None."""
    owner = _run(side.run, known).get("database") or _point(side, known).get("live_database")
    return None if owner is None else str(owner)


def _made_at(side: SideDatabase, known: Knowledge) -> datetime | None:
    """Return when a side database was made, the later of what its name and the ledger say."""
    run, point = _run(side.run, known), _point(side, known)
    times = [time_of(side.run), parsed_time(run.get("started_at")), parsed_time(point.get("taken_at"))]
    return max((time for time in times if time is not None), default=None)


def _age(at: datetime | None, now: datetime) -> str:
    return "of unknown age" if at is None else "%.1f days" % ((now - at).total_seconds() / 86400)


def _kept_because(side: SideDatabase, known: Knowledge) -> str | None:
    """Return what forbids a removal at any age, or None."""
    if known.points is None or known.runs is None:
        return NOT_ASKED
    return _not_ours(side, known) or _at_work(side, known) or side.hindrance


def _not_ours(side: SideDatabase, known: Knowledge) -> str | None:
    """Return why a database is another one than its name says, or None."""
    if side.ambiguous and _owner(side, known) is None:
        return "%s, and the ledger does not know run %s" % (side.ambiguous, side.run)
    recorded = (*(known.runs or ()), *(known.points or ()))
    if any(side.name in (record.get("database"), record.get("live_database")) for record in recorded):
        return "deployments were made to it, so it is a live database"
    point = _point(side, known)
    if point.get("side_oid") and point["side_oid"] != side.oid:
        return "it has OID %d, the clone of deployment %s had %d" % (side.oid, side.run, point["side_oid"])
    if point.get("state") == "used":
        return "it was live after the undo of deployment %s, and may hold rows that are nowhere else" % side.run
    return None


def _at_work(side: SideDatabase, known: Knowledge) -> str | None:
    """Return which run may be using a side database right now, or None."""
    run = _run(side.run, known)
    if run.get("status") == "running":
        return (
            "run %s is recorded as running since %s; if it is dead, close it with the module deployment"
            " (state=closed status=stopped)" % (side.run, run.get("started_at"))
        )
    undo = _running_undo(known)
    return "the undo %s is running" % undo if undo else None


def _running_undo(known: Knowledge) -> str | None:
    """Return the undo that may be about to use any of the side databases."""
    for run in known.runs or ():
        started_at = parsed_time(run.get("started_at"))
        recent = started_at is None or known.now - started_at < UNDO_STALE_AFTER
        ours = run.get("database") in (None, known.live["name"])
        if ours and recent and run.get("kind") == "rollback" and run.get("status") == "running":
            return str(run["id"])
    return None


def _newest_way_back(newest_first: Sequence[SideDatabase], known: Knowledge) -> SideDatabase | None:
    """Return the clone that an undo of now would use: the newest of a deployment that the live database carries."""
    clones = [side for side in newest_first if side.kind == "clone" and not side.invalid]
    # What the ledger has never heard of counts as it is named.
    unrecorded: list[Point] = [
        {"deployment_id": s.run, "kind": "clone", "live_oid": known.live["oid"], "side_oid": s.oid}
        for s in clones
        if not _point(s, known)
    ]
    standing = standing_points(known.live, [*(known.points or ()), *unrecorded], [], known.held)
    stands = {point.get("deployment_id") for point in standing if point.get("kind") == "clone"}
    return next((side for side in clones if side.run in stands), None)


def _kept_by_policy(
    side: SideDatabase,
    newest_first: Sequence[SideDatabase],
    times: Mapping[int, datetime | None],
    *,
    known: Knowledge,
    policy: Policy,
) -> str | None:
    at = times[side.oid]
    if at is None:
        return "its age is not known: neither its name nor the ledger tells a time"
    known_as_over = side.kind == "rehearsal" and _run(side.run, known)
    if side.kind in ("restored", "rehearsal") and not known_as_over and known.now - at < UNDO_STALE_AFTER:
        return "it is %s old, and a run that nobody could record may be about to use it" % _age(at, known.now)
    if side.kind != "rehearsal" and known.now - at < timedelta(days=policy.keep_days):
        return "it is %s old; %g days are kept" % (_age(at, known.now), policy.keep_days)
    # What was restored can be restored again, and the clone of a deployment that changed nothing is no way back.
    needless = undone_deployments(known.points or ())
    counted = [s for s in newest_first if s.kind == side.kind and not s.invalid and times[s.oid] is not None]
    if side.kind == "clone":
        counted = [s for s in counted if s.run not in needless]
    # The newest rollback point stays, whatever is asked for.
    keep_last = max(1, policy.keep_last) if side.kind == "clone" else policy.keep_last
    if side.kind not in ("restored", "rehearsal") and side in counted[:keep_last]:
        return "it is the newest of its kind" if keep_last == 1 else "it is one of the newest %d" % keep_last
    return None
