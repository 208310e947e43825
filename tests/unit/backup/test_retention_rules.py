# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: what stays, as a table, and the removal on disk."""

from __future__ import annotations

import datetime
import os

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.archive import ArchiveState
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.retention import Policy, plan_retention, prune
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.archives import flip_bit, manifest, write_archive

UTC = datetime.timezone.utc
NOW = datetime.datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def archive(moment: str, status: str = "good", reason: str | None = None) -> ArchiveState:
    """An archive of that moment, known by the moment."""
    taken = manifest(id=moment, snapshot_at=moment.replace(" ", "T") + ":00Z")
    return ArchiveState("/b/app/" + moment, moment, "app", status, reason, taken, 100)


def kept_by(policy: Policy, *found: ArchiveState) -> list[str]:
    """The ids that stay, newest first."""
    kept, removed = plan_retention(found, policy, NOW)
    assert len(kept) + len(removed) == len(found)
    return [decision.archive.id for decision in kept]


NIGHTS = [archive("2026-11-%02d 02:00" % day) for day in range(1, 21)]

TABLE = [
    (Policy(keep_last=2), ["2026-11-20 02:00", "2026-11-19 02:00"]),
    (Policy(keep_daily=2), ["2026-11-20 02:00", "2026-11-19 02:00"]),
    (Policy(keep_weekly=3), ["2026-11-20 02:00", "2026-11-15 02:00", "2026-11-08 02:00"]),
    (Policy(keep_monthly=12), ["2026-11-20 02:00"]),
    (Policy(max_age_days=2), ["2026-11-20 02:00", "2026-11-19 02:00"]),
    (Policy(max_age_days=0), ["2026-11-20 02:00"]),
    (
        Policy(keep_last=1, keep_weekly=2, protect=["2026-11-03 02:00", "absent"]),
        ["2026-11-20 02:00", "2026-11-15 02:00", "2026-11-03 02:00"],
    ),
    (Policy(keep_last=100), [a.id for a in reversed(NIGHTS)]),
]


@pytest.mark.parametrize(("policy", "expected"), TABLE)
def test_an_archive_stays_when_any_rule_wants_it(policy, expected):
    assert kept_by(policy, *NIGHTS) == expected
    assert kept_by(policy, *reversed(NIGHTS)) == expected


def test_of_a_day_the_newest_stays_and_days_without_an_archive_do_not_count():
    found = [archive(m) for m in ("2026-11-18 01:00", "2026-11-18 23:59", "2026-11-01 05:00", "2026-10-31 05:00")]
    assert kept_by(Policy(keep_daily=2), *found) == ["2026-11-18 23:59", "2026-11-01 05:00"]


def test_weeks_at_the_turn_of_the_year_are_iso_weeks():
    found = [archive(m) for m in ("2026-12-28 00:00", "2027-01-03 00:00", "2027-01-04 00:00")]
    assert kept_by(Policy(keep_weekly=2), *found) == ["2027-01-04 00:00", "2027-01-03 00:00"]


def test_the_newest_good_one_stays_however_old_it_is():
    found = [archive("2020-01-01 00:00"), archive("2019-01-01 00:00")]
    assert kept_by(Policy(max_age_days=30), *found) == ["2020-01-01 00:00"]


def test_corrupt_ones_never_count_and_stay_unless_told_otherwise():
    found = [
        archive("2026-11-20 02:00", "corrupt", "x"),
        archive("2026-11-19 02:00"),
        archive("2026-11-18 02:00"),
    ]
    assert kept_by(Policy(keep_last=1), *found) == ["2026-11-20 02:00", "2026-11-19 02:00"]
    assert kept_by(Policy(keep_last=1, remove_corrupt=True), *found) == ["2026-11-19 02:00"]
    protected = Policy(keep_last=1, remove_corrupt=True, protect=["2026-11-20 02:00"])
    assert kept_by(protected, *found) == ["2026-11-20 02:00", "2026-11-19 02:00"]


def test_archives_that_this_release_cannot_read_stay():
    unreadable = ArchiveState("/b/app/x", "x", "app", "unverified", "needs a newer release")
    assert kept_by(Policy(keep_last=1, remove_corrupt=True), archive("2026-11-19 02:00"), unreadable) == [
        "2026-11-19 02:00",
        "x",
    ]


def test_a_running_backup_stays_and_what_a_killed_one_left_goes():
    running = ArchiveState("/b/app/r.partial", "r.partial", "app", "incomplete", archives.BEING_WRITTEN)
    dead = ArchiveState("/b/app/d.partial", "d.partial", "app", "incomplete", "killed")
    assert kept_by(Policy(keep_last=1), running, dead) == ["r.partial"]


@pytest.mark.parametrize("policy", [Policy(), Policy(keep_last=-1, keep_daily=1), Policy(max_age_days=-1)])
def test_a_policy_that_says_nothing_or_nonsense_is_refused(policy, tmp_path):
    with pytest.raises(HoldfastError) as caught:
        prune(path=str(tmp_path), policy=policy)
    assert caught.value.code == "option_invalid"


# --- on disk ---


@pytest.fixture
def nights(tmp_path):
    """Five nightly archives, oldest first."""
    start = datetime.datetime(2026, 11, 1, 2, tzinfo=UTC)
    return [write_archive(tmp_path, when=start + datetime.timedelta(days=day)) for day in range(5)]


@pytest.mark.parametrize("verify", ["none", "checksums"])
def test_pruning_predicts_removes_and_then_has_nothing_to_do(tmp_path, nights, verify):
    size = archives.examine(str(nights[0]), verify="none").bytes
    arguments = {"path": str(tmp_path), "policy": Policy(keep_last=2), "verify": verify}
    predicted = prune(**arguments, check=True)
    assert all(path.exists() for path in nights)
    done = prune(**arguments)
    assert [path.exists() for path in nights] == [False] * 3 + [True] * 2
    assert done == predicted
    assert [entry["id"] for entry in done["removed"]] == [path.name for path in reversed(nights[:3])]
    assert (done["changed"], done["freed_bytes"]) == (True, 3 * size)
    again = prune(**arguments)
    assert (again["changed"], again["removed"], again["freed_bytes"]) == (False, [], 0)


@pytest.mark.parametrize("verify", ["none", "checksums"])
def test_the_last_good_archive_outlives_newer_corrupt_ones(tmp_path, nights, verify):
    for path in nights[2:]:
        flip_bit(path / "data/1.dat.gz", 5)
    done = prune(path=str(tmp_path), policy=Policy(keep_last=1, remove_corrupt=True), verify=verify)
    assert nights[1].exists()
    assert archives.list_archives(str(tmp_path)).newest_good.path == str(nights[1])
    assert nights[0].name in [entry["id"] for entry in done["removed"]]


def test_nothing_usable_goes_when_no_archive_is_good(tmp_path, nights):
    for path in nights:
        flip_bit(path / "globals.sql", 0)
    done = prune(path=str(tmp_path), policy=Policy(keep_last=1), verify="none")
    assert (done["changed"], done["removed"]) == (False, [])


def test_databases_are_pruned_apart(tmp_path):
    start = datetime.datetime(2026, 11, 1, 2, tzinfo=UTC)
    for database in ("crm", "rently"):
        for day in range(3):
            write_archive(tmp_path, when=start + datetime.timedelta(days=day), database=database)
    prune(path=str(tmp_path), policy=Policy(keep_last=1), database="crm")
    left = [state.database for state in archives.list_archives(str(tmp_path)).archives]
    assert sorted(left) == ["crm", "rently", "rently", "rently"]


def test_archive_that_is_being_restored_stays(tmp_path, nights):
    with archives.in_use(str(nights[0])):
        done = prune(path=str(tmp_path), policy=Policy(keep_last=1))
    assert nights[0].exists()
    assert "somebody is reading it" in done["kept"][-1]["reasons"][-1]


def test_directories_of_somebody_else_are_never_removed(tmp_path, nights):
    foreign = nights[0].parent / "precious"
    foreign.mkdir()
    (foreign / "manifest.json").touch()
    (foreign / "letters").touch()
    (nights[0].parent / "empty").mkdir()
    prune(path=str(tmp_path), policy=Policy(keep_last=1, remove_corrupt=True))
    assert (foreign / "letters").exists()
    assert (nights[0].parent / "empty").exists()


def test_leftovers_of_killed_runs_are_predicted_and_removed(tmp_path, nights):
    left = nights[0].parent / "old.partial"
    left.mkdir()
    (left / "data.dump").write_bytes(b"12345")
    arguments = {"path": str(tmp_path), "policy": Policy(keep_last=9)}
    predicted = prune(**arguments, check=True)
    done = prune(**arguments)
    assert done == predicted
    assert (done["freed_bytes"], [entry["id"] for entry in done["removed"]]) == (5, ["old.partial"])
    assert "old.partial" not in os.listdir(nights[0].parent)
    assert prune(**arguments)["changed"] is False
