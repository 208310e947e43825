# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which archives to keep, decided by a pure function, and the removal of the others."""

from __future__ import annotations

import datetime
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.archive import ArchiveState
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

#: The time units of a policy, and what makes two moments belong to the same one (in UTC; weeks begin on Monday).
PERIODS: dict[str, Callable[[datetime.datetime], tuple[int, ...]]] = {
    "daily": lambda moment: (moment.year, moment.month, moment.day),
    "weekly": lambda moment: tuple(moment.isocalendar())[:2],
    "monthly": lambda moment: (moment.year, moment.month),
}


@dataclass(frozen=True)
class Policy:
    """What to keep of each database; an archive stays when any of the rules wants it.

    ``keep_last`` counts archives; ``keep_daily``, ``keep_weekly`` and ``keep_monthly`` keep the newest archive of
    that many days, weeks and months that have one; ``max_age_days`` keeps everything not older. ``protect`` are ids.
    """

    keep_last: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    max_age_days: float | None = None
    protect: Collection[str] = ()
    remove_corrupt: bool = False

    def check(self) -> None:
        """Raise `HoldfastError` (``option_invalid``) unless the policy says what to keep."""
        counts = (self.keep_last, self.keep_daily, self.keep_weekly, self.keep_monthly)
        if min(counts) < 0 or (self.max_age_days is not None and self.max_age_days < 0):
            raise HoldfastError(
                code="option_invalid", msg="A rule of retention is negative.", hint="Give numbers of zero or more."
            )
        if not any(counts) and self.max_age_days is None:
            raise HoldfastError(
                code="option_invalid",
                msg="No rule of retention says what to keep.",
                hint="Set at least one of keep_last, keep_daily, keep_weekly, keep_monthly and max_age_days.",
            )


@dataclass(frozen=True)
class Decision:
    """One archive, and why it stays or goes."""

    archive: ArchiveState
    reasons: Sequence[str]


def plan_retention(
    archives_of_one: Iterable[ArchiveState], policy: Policy, now: datetime.datetime
) -> tuple[list[Decision], list[Decision]]:
    """Return what to keep and what to remove of the archives of one database, newest first.

    Rules count only archives that are not known to be bad. The newest of those stays whatever the rules say. Corrupt
    archives stay unless ``remove_corrupt``; what a killed run left goes, and what a run is writing stays.
    """
    ordered = sorted(archives_of_one, key=lambda a: (_utc(a), a.path), reverse=True)
    usable = [a for a in ordered if a.status in ("good", "unverified") and a.snapshot_at is not None]
    reasons = _reasons_to_keep(usable, policy, now)
    kept: list[Decision] = []
    removed: list[Decision] = []
    for state in ordered:
        why = reasons.get(state.path, []) + (["protected"] if state.id in policy.protect else [])
        condition = "%s: %s" % (state.status, state.reason)
        if state in usable:
            (kept if why else removed).append(Decision(state, why or ["no rule keeps it"]))
        elif why or not _worthless(state, policy):
            kept.append(Decision(state, [*why, condition]))
        else:
            removed.append(Decision(state, [condition]))
    return kept, removed


def _worthless(state: ArchiveState, policy: Policy) -> bool:
    if state.status == "incomplete":
        return state.reason != archives.BEING_WRITTEN
    return state.status == "corrupt" and policy.remove_corrupt


def _reasons_to_keep(usable: Sequence[ArchiveState], policy: Policy, now: datetime.datetime) -> dict[str, list[str]]:
    """Return by path which rules want an archive; ``usable`` is sorted, newest first."""
    reasons: dict[str, list[str]] = {state.path: [] for state in usable}
    for state in usable[:1]:
        reasons[state.path].append("the newest good one")
    for state in usable[: policy.keep_last]:
        reasons[state.path].append("last")
    for period, unit_of in PERIODS.items():
        newest_of: dict[tuple[int, ...], ArchiveState] = {}
        for state in usable:
            newest_of.setdefault(unit_of(_utc(state)), state)
        for state in list(newest_of.values())[: getattr(policy, "keep_" + period)]:
            reasons[state.path].append(period)
    if policy.max_age_days is not None:
        oldest = now - datetime.timedelta(days=policy.max_age_days)
        for state in usable:
            if _utc(state) >= oldest:
                reasons[state.path].append("not older than %g days" % policy.max_age_days)
    return reasons


def _utc(state: ArchiveState) -> datetime.datetime:
    return (state.snapshot_at or archives.BEGINNING).astimezone(datetime.timezone.utc)


def prune(
    *,
    path: str,
    policy: Policy,
    database: str | None = None,
    verify: str = "checksums",
    check: bool = False,
    now: datetime.datetime | None = None,
) -> dict[str, Any]:
    """Remove what ``policy`` does not keep below ``path`` and return ``{"changed", "kept", "removed", "freed_bytes"}``.

    With ``verify`` V(none) only the archives that justify a removal are read: before anything of a database goes, the
    newest one that stays has been proven good. Raises `HoldfastError` (``option_invalid``).
    """
    policy.check()
    moment = now or datetime.datetime.now(datetime.timezone.utc)
    path = os.path.abspath(path)
    by_database: dict[str, list[ArchiveState]] = {}
    for state in archives.list_archives(path, database=database, verify=verify).archives:
        by_database.setdefault(os.path.dirname(state.path), []).append(state)
    kept: list[Decision] = []
    removed: list[Decision] = []
    for directory, states in sorted(by_database.items()):
        stays, goes = _proven_plan(states, policy, moment)
        for decision in goes:
            obstacle = _obstacle(decision.archive) if check else _remove(decision.archive)
            if obstacle is None:
                removed.append(decision)
            else:
                stays.append(Decision(decision.archive, [*decision.reasons, obstacle]))
        kept += stays
        if not check and any(decision.archive.status == "incomplete" for decision in goes):
            archives.clean_up(directory)
    return {
        "changed": bool(removed),
        "kept": [_as_result(decision) for decision in kept],
        "removed": [_as_result(decision) for decision in removed],
        "freed_bytes": sum(decision.archive.bytes for decision in removed),
    }


def _proven_plan(
    states: Sequence[ArchiveState], policy: Policy, now: datetime.datetime
) -> tuple[list[Decision], list[Decision]]:
    """Return a plan in which the newest archive that stays is proven good, or in which nothing usable goes."""
    known = {state.path: state for state in states}
    while True:
        kept, removed = plan_retention(known.values(), policy, now)
        newest = next(
            (d.archive for d in kept if d.archive.status in ("good", "unverified") and d.archive.manifest), None
        )
        if newest is None or newest.status == "good" or not removed:
            return kept, removed
        known[newest.path] = archives.examine(
            newest.path, archive_id=newest.id, database=newest.database, verify="checksums"
        )


def _obstacle(state: ArchiveState) -> str | None:
    if state.status == "corrupt" and not archives.is_archive_like(state.path):
        return "kept, because it holds what no archive holds; remove it by hand"
    return None


def _remove(state: ArchiveState) -> str | None:
    """Remove an archive, or say why not; what is incomplete is left to `archive.clean_up`, which takes its lock."""
    obstacle = _obstacle(state)
    if obstacle is None and state.status != "incomplete" and not archives.remove_archive(state.path):
        obstacle = "kept, because somebody is reading it"
    return obstacle


def _as_result(decision: Decision) -> dict[str, Any]:
    state = decision.archive
    return {
        "path": state.path,
        "id": state.id,
        "database": state.database,
        "status": state.status,
        "snapshot_at": None if state.manifest is None else state.manifest.snapshot_at,
        "bytes": state.bytes,
        "reasons": list(decision.reasons),
    }
