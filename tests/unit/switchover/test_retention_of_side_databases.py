# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which side databases a cleanup gives up, and why it keeps the others."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import suffixed_name
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.retention import (
    MARKERS,
    Decision,
    Knowledge,
    Policy,
    SideDatabase,
    ambiguity,
    choose,
    choose_needless,
    choose_rehearsals,
    side_of,
    time_of,
)

NOW = datetime(2026, 3, 31, 12, tzinfo=timezone.utc)
OLD, OLDER, OLDEST, NEW = (
    "20260220T000000Z-00b2",
    "20260210T000000Z-00b1",
    "20260201T000000Z-00b0",
    "20260330T000000Z-00c0",
)


def side(run: str, oid: int, kind: str = "clone", **more: Any) -> SideDatabase:
    return SideDatabase(name="bank" + MARKERS[kind] + run, oid=oid, kind=kind, run=run, bytes=100, **more)


def point(run: str, side_oid: int, *, live_oid: int = 10, state: str = "available", **more: Any) -> dict[str, Any]:
    stamp = time_of(run)
    return {
        "deployment_id": run,
        "kind": "clone",
        "live_database": "bank",
        "live_oid": live_oid,
        "side_database": "bank_before_" + run,
        "side_oid": side_oid,
        "taken_at": stamp.strftime("%Y-%m-%dT%H:%M:%S.000000Z") if stamp else None,
        "state": state,
        **more,
    }


def run_of(name: str, *, status: str = "succeeded", kind: str = "deploy", **more: Any) -> dict[str, Any]:
    return {"id": name, "database": "bank", "kind": kind, "status": status, "started_at": None, **more}


def known(
    *held: str,
    points: list[dict[str, Any]] | None = None,
    runs: list[dict[str, Any]] | None = None,
    **more: Any,
) -> Knowledge:
    live = {"name": "bank", "oid": 10, "deployments": [{"id": name} for name in held], **more}
    return Knowledge(live=live, points=points or [], runs=runs or [], now=NOW)


def outcome(decisions: list[Decision]) -> dict[str, bool]:
    return {decision.side.name: decision.remove for decision in decisions}


def reasons(decisions: list[Decision]) -> str:
    return " | ".join(decision.reason for decision in decisions)


@pytest.mark.parametrize(
    ("name", "live", "expected"),
    [
        ("bank_before_20260220T000000Z-00b2", "bank", ("clone", "20260220T000000Z-00b2")),
        ("bank_retired_20260220T000000Z_2", "bank", ("retired", "20260220T000000Z_2")),
        ("bank_restored_release-7", "bank", ("restored", "release-7")),
        ("bank_before_a_before_b", "bank_before_a", ("clone", "b")),
        ("bank_before_a_before_b", "bank", ("clone", "a_before_b")),
        ("bank_before_", "bank", None),
        ("bank_before_two words", "bank", None),
        ("bank_before_x\n", "bank", None),
        ("bank2_before_20260220T000000Z-00b2", "bank", None),
        ("bank", "bank", None),
        ("bank_backup_20260220T000000Z", "bank", None),
        (suffixed_name("x" * 63, "_before_" + OLD), "x" * 63, ("clone", OLD)),
        (suffixed_name("é" * 31, "_retired_" + OLD), "é" * 31, ("retired", OLD)),
        (suffixed_name("x" * 63, "_before_" + OLD)[1:], "x" * 63, None),
    ],
)
def test_names_are_told_apart(name: str, live: str, expected: tuple[str, str] | None) -> None:
    assert side_of(name, live=live) == expected


def test_shortened_names_may_be_of_somebody_else() -> None:
    first, second = "x" * 62 + "a", "x" * 62 + "b"
    name = suffixed_name(first, "_before_" + OLD)
    assert name == suffixed_name(second, "_before_" + OLD)
    assert "as well" in (ambiguity(name, live=first, others=[first, second, name]) or "")
    # The other one may have been dropped, with nothing left of it but this.
    assert "shortened" in (ambiguity(name, live=first, others=[first, name]) or "")
    assert ambiguity("bank_before_" + OLD, live="bank", others=["bank", "bank_before_" + OLD]) is None
    doubtful = SideDatabase(name=name, oid=5, kind="clone", run=OLD, ambiguous="its name was shortened")
    another = SideDatabase(name=name[:-1] + "0", oid=6, kind="clone", run=OLD[:-1] + "0", ambiguous="shortened")
    facts = Knowledge({"name": first, "oid": 10, "deployments": []}, points=[], runs=[], now=NOW)
    assert not any(outcome(choose([doubtful, another], known=facts, policy=Policy(0, 0))).values())
    facts = Knowledge(facts.live, points=[], runs=[run_of(OLD, database=second)], now=NOW)
    assert name not in outcome(choose([doubtful, another], known=facts, policy=Policy(0, 0)))


def test_old_ones_go_and_the_newest_of_a_kind_stay() -> None:
    clones = [side(OLDEST, 1), side(OLDER, 2), side(OLD, 3)]
    retired = [side(OLDEST, 4, "retired"), side(OLDER, 5, "retired"), side(OLD, 6, "retired")]
    restored = [side(OLDER, 7, "restored"), side(NEW, 8, "restored")]
    facts = known(OLD, points=[point(OLD, 3), point(OLDER, 2), point(OLDEST, 1)])
    decided = choose([*clones, *retired, *restored], known=facts, policy=Policy(14, 2))
    assert {d.side.oid for d in decided if d.remove} == {1, 4, 7}
    assert [d.at for d in decided if d.at] == sorted(d.at for d in decided if d.at)


@pytest.mark.parametrize("keep_last", [0, 1])
def test_newest_clone_is_never_given_up(keep_last: int) -> None:
    facts = known(OLDER, points=[point(OLDER, 2), point(OLDEST, 1)])
    decided = choose([side(OLDEST, 1), side(OLDER, 2)], known=facts, policy=Policy(0, keep_last))
    assert outcome(decided) == {"bank_before_" + OLDEST: True, "bank_before_" + OLDER: False}


def test_clone_of_what_the_live_database_carries_stays_though_newer_ones_exist() -> None:
    # OLD was undone by a swap of which nobody knows more; the live database carries OLDER only.
    facts = known(OLDER, points=[point(OLD, 3), point(OLDER, 2), point(OLDEST, 1)])
    sides = [side(OLDEST, 1), side(OLDER, 2), side(OLD, 3)]
    decided = choose(sides, known=facts, policy=Policy(14, 0))
    assert outcome(decided)["bank_before_" + OLDER] is False and "newest way back" in reasons(decided)
    assert outcome(decided)["bank_before_" + OLDEST] is True


def test_lost_ledger_lets_the_history_of_the_live_database_decide() -> None:
    sides = [side(OLDEST, 1), side(OLDER, 2), side(OLD, 3)]
    decided = choose(sides, known=known(OLDEST), policy=Policy(14, 0))
    assert {d.side.oid for d in decided if not d.remove} == {1, 3}


def test_unreadable_history_keeps_what_the_ledger_says_that_stands() -> None:
    facts = known(points=[point(OLDER, 2), point(OLDEST, 1)], deployments=None)
    decided = choose([side(OLDEST, 1), side(OLDER, 2)], known=facts, policy=Policy(14, 0))
    assert {d.side.oid for d in decided if not d.remove} == {2}


def test_lineage_is_followed_as_the_undo_follows_it() -> None:
    # OLD was taken of OID 9 and undone: its clone (OID 10) is live now. OLDER was taken of OID 9 as well and stands.
    points = [point(OLD, 10, live_oid=9, state="used"), point(OLDER, 2, live_oid=9), point(OLDEST, 1, live_oid=9)]
    facts = known(OLDER, OLDEST, points=points)
    decided = choose([side(OLDEST, 1), side(OLDER, 2)], known=facts, policy=Policy(14, 0))
    assert {d.side.oid for d in decided if not d.remove} == {2}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (Knowledge({"name": "bank", "oid": 10, "deployments": []}, points=None, runs=None, now=NOW), "ledger"),
        (known(points=[point(OLD, 99)]), "OID 3"),
        (known(points=[point(OLD, 3, state="used")]), "nowhere else"),
        (known(runs=[run_of(OLD, status="running")]), "recorded as running"),
        (known(runs=[run_of(NEW, kind="rollback", status="running", started_at="2026-03-31T11:59:00.5Z")]), "undo"),
        (known(runs=[run_of(NEW, database="bank_before_" + OLD)]), "live database"),
        (known(points=[point(NEW, 9, live_database="bank_before_" + OLD)]), "live database"),
        (known(points=[point(OLD, 3, taken_at="2026-03-30T00:00:00.000000Z")]), "1.5 days old"),
    ],
)
def test_every_doubt_keeps_a_database_and_is_named(facts: Knowledge, said: str) -> None:
    newer = side(NEW, 4)
    decided = choose([side(OLD, 3), newer], known=facts, policy=Policy(14, 0))
    assert outcome(decided)["bank_before_" + OLD] is False
    assert said in next(d.reason for d in decided if d.side.oid == 3)


def test_undo_that_died_long_ago_holds_nothing_up() -> None:
    dead = run_of("dead", kind="rollback", status="running", started_at="2026-03-31T05:00:00.000000Z")
    elsewhere = run_of("other", kind="rollback", status="running", started_at=None, database="another")
    facts = known(runs=[elsewhere, dead])
    decided = choose([side(OLD, 3), side(NEW, 4)], known=facts, policy=Policy(14, 0))
    assert outcome(decided)["bank_before_" + OLD] is True


@pytest.mark.parametrize("hindrance", ["in use: pid 7", "inactive logical replication slot 's'"])
def test_what_cannot_be_dropped_is_kept_with_the_reason(hindrance: str) -> None:
    decided = choose([side(OLD, 3, hindrance=hindrance), side(NEW, 4)], known=known(), policy=Policy(14, 0))
    assert decided[0].reason == hindrance and not decided[0].remove


def test_freshly_restored_database_may_be_in_an_undo_that_nobody_recorded() -> None:
    fresh, stale = side("20260331T090000Z-aaaa", 3, "restored"), side("20260331T050000Z-aaaa", 4, "restored")
    decided = choose([fresh, stale], known=known(), policy=Policy(0, 0))
    assert outcome(decided) == {stale.name: True, fresh.name: False}


def test_unknown_age_keeps_unless_the_ledger_knows_it() -> None:
    named = side("release-7", 3)
    assert "age is not known" in choose([named, side(NEW, 4)], known=known(), policy=Policy())[-1].reason
    facts = known(runs=[run_of("release-7", started_at="2026-01-01T00:00:00.000000Z")])
    assert outcome(choose([named, side(NEW, 4)], known=facts, policy=Policy()))[named.name] is True
    future = side("20270101T000000Z-0000", 5)
    assert outcome(choose([future, side(OLD, 3)], known=known(), policy=Policy(0, 0)))[future.name] is False
    assert time_of("20261399T000000Z-0000") is None


def test_invalid_ones_go_first_whatever_is_known_of_them() -> None:
    facts = Knowledge({"name": "bank", "oid": 10, "deployments": None}, points=None, runs=None, now=NOW)
    broken = side(NEW, 4, invalid=True)
    decided = choose([side(OLD, 3), broken], known=facts, policy=Policy())
    assert [(d.side.oid, d.remove) for d in decided] == [(4, True), (3, False)]
    foreign = side(NEW, 4, invalid=True, hindrance="this role lacks ownership")
    assert not choose([foreign], known=facts, policy=Policy())[0].remove


def test_needless_clone_of_a_failed_deployment_goes_at_once() -> None:
    sides = [side(NEW, 4), side(OLD, 3), side(NEW, 5, "retired")]
    wanted: dict[str, Any] = {"deployment_id": NEW, "side_oid": 4}
    running = known(OLD, runs=[run_of(NEW, status="running")])
    assert outcome(choose_needless(sides, known=running, **wanted)) == {"bank_before_" + NEW: True}
    assert not choose_needless(sides, known=running, deployment_id=NEW, side_oid=44)[0].remove
    assert not choose_needless(sides, known=known(NEW), **wanted)[0].remove
    used = [side(NEW, 4, hindrance="in use: pid 7")]
    assert choose_needless(used, known=running, **wanted)[0].reason == "in use: pid 7"


def test_failed_deployments_clone_is_no_way_back() -> None:
    points = [point(NEW, 4), {"deployment_id": NEW, "kind": "archive", "state": "unneeded"}, point(OLD, 3)]
    decided = choose([side(NEW, 4), side(OLD, 3)], known=known(OLD, points=points), policy=Policy(1, 1))
    assert outcome(decided) == {"bank_before_" + NEW: True, "bank_before_" + OLD: False}


def test_database_of_a_rehearsal_is_kept_by_no_age_but_while_its_run_goes_on() -> None:
    sides = [side(NEW, 1, "rehearsal"), side(OLD, 2, "rehearsal")]
    facts = known(runs=[run_of(NEW, status="running"), run_of(OLD, status="failed")])
    decisions = choose(sides, known=facts, policy=Policy())
    assert outcome(decisions) == {"bank_rehearsal_" + OLD: True, "bank_rehearsal_" + NEW: False}
    assert outcome(choose(sides, known=known(), policy=Policy())) == {
        "bank_rehearsal_" + OLD: True,
        "bank_rehearsal_" + NEW: True,
    }
    fresh = side("20260331T110000Z-00aa", 3, "rehearsal")
    assert "nobody could record" in reasons(choose([fresh], known=known(), policy=Policy()))


def test_rehearsals_of_killed_runs_go_at_once_and_nothing_else_does() -> None:
    sides = [
        side(NEW, 1, "rehearsal"),
        side(OLD, 2, "rehearsal", hindrance="in use: psql"),
        side(OLDEST, 3),
        side(OLDER, 4, "rehearsal", ambiguous="its name was shortened"),
    ]
    facts = known(runs=[run_of(NEW, status="running")])
    decisions = choose_rehearsals(sides, known=facts, deployment_id=None, side_oid=None)
    assert outcome(decisions) == {
        "bank_rehearsal_" + NEW: True,
        "bank_rehearsal_" + OLD: False,
        "bank_rehearsal_" + OLDER: False,
    }
    own = choose_rehearsals(sides, known=facts, deployment_id=OLDER, side_oid=4)
    assert outcome(own) == {"bank_rehearsal_" + OLDER: True}
    other = choose_rehearsals(sides, known=facts, deployment_id=OLDER, side_oid=5)
    assert "had 5" in reasons(other) and not other[0].remove
