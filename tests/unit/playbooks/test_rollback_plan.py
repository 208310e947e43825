# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an undo chooses, and what it says that it will cost."""

from __future__ import annotations

from typing import Any

from ansible_collections.holdfast.postgres.plugins.plugin_utils._rollback_plan import rollback_plan


def counters(inserted: int = 0, updated: int = 0, deleted: int = 0, table: str = "public.payment") -> dict[str, Any]:
    return {
        "stats_reset": None,
        "tables": {table: {"inserted": inserted, "updated": updated, "deleted": deleted}},
    }


def clone(
    deployment: str, *, live_oid: int, side_oid: int, taken_at: str, state: str = "available", **more: Any
) -> dict:
    return {
        "deployment_id": deployment,
        "kind": "clone",
        "live_database": "bank",
        "live_oid": live_oid,
        "side_database": "bank_before_" + deployment,
        "side_oid": side_oid,
        "archive_id": deployment,
        "taken_at": taken_at,
        "schema_version": "v1",
        "state": state,
        "write_counters": {"before": counters(100)},
        **more,
    }


def database(name: str, oid: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "oid": oid, "invalid": False, **more}


LIVE = database("bank", 10, write_counters=counters(130, 4))


def test_newest_clone_is_chosen_and_writes_are_counted() -> None:
    points = [
        clone("d2", live_oid=10, side_oid=12, taken_at="2026-01-02"),
        clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01"),
    ]
    plan = rollback_plan(
        LIVE, databases=[LIVE, database("bank_before_d1", 11), database("bank_before_d2", 12)], rollback_points=points
    )
    assert (plan["strategy"], plan["side_database"], plan["side_oid"]) == ("clone", "bank_before_d2", 12)
    assert plan["writes"]["known"] and (plan["writes"]["inserted"], plan["writes"]["updated"]) == (30, 4)
    assert "30 inserted, 4 updated and 0 deleted rows in public.payment" in plan["sentence"]


def test_undone_deployment_is_passed_over_and_counters_follow_the_lineage() -> None:
    # d2 failed and was undone: its clone (oid 12) is the live database now; d1 was taken from the original (oid 10).
    points = [
        clone(
            "d2",
            live_oid=10,
            side_oid=12,
            taken_at="2026-01-02",
            state="used",
            write_counters={"before": counters(107)},
        ),
        clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01"),
    ]
    live = database("bank", 12, write_counters=counters(5))
    plan = rollback_plan(live, databases=[live, database("bank_before_d1", 11)], rollback_points=points)
    assert plan["side_database"] == "bank_before_d1"
    assert plan["writes"]["inserted"] == 7 + 5


def test_clone_of_an_unrelated_live_database_is_not_used() -> None:
    points = [clone("d1", live_oid=99, side_oid=11, taken_at="2026-01-01")]
    plan = rollback_plan(LIVE, databases=[LIVE, database("bank_before_d1", 11)], rollback_points=points)
    assert plan["strategy"] == "none" and plan["needs_archives"]
    assert "made on another database" in plan["skipped"][0]


def test_replaced_dropped_and_invalid_clones_are_named_and_not_used() -> None:
    points = [clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01")]
    for databases, reason in (
        ([LIVE], "is gone"),
        ([LIVE, database("bank_before_d1", 77)], "is not the clone"),
        ([LIVE, database("bank_before_d1", 11, invalid=True)], "interrupted DROP"),
    ):
        plan = rollback_plan(LIVE, databases=databases, rollback_points=points, strategy="clone")
        assert plan["strategy"] == "none" and reason in plan["sentence"]


def test_newest_clone_gone_falls_back_to_the_archive_of_the_same_deployment_not_to_an_older_clone() -> None:
    points = [
        clone("d2", live_oid=10, side_oid=12, taken_at="2026-01-02T10"),
        {**clone("d2", live_oid=10, side_oid=0, taken_at="2026-01-02T09"), "kind": "archive", "side_oid": None},
        clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01T10"),
    ]
    databases = [LIVE, database("bank_before_d1", 11)]
    assert rollback_plan(LIVE, databases=databases, rollback_points=points)["needs_archives"]
    archives = [
        {"id": "night", "path": "/b/night", "status": "good", "snapshot_at": "2026-01-03T00"},
        {"id": "d2", "path": "/b/d2", "status": "good", "snapshot_at": "2026-01-02T09", "duration_s": 10},
        {"id": "d1", "path": "/b/d1", "status": "good", "snapshot_at": "2026-01-01T09"},
    ]
    plan = rollback_plan(LIVE, databases=databases, rollback_points=points, archives=archives)
    assert (plan["strategy"], plan["archive"], plan["expected_s"]) == ("archive", "/b/d2", 20.0)
    assert plan["writes"]["inserted"] == 30
    assert "taken after the deployment began" in plan["sentence"]
    assert plan["point"]["kind"] == "archive"


def test_corrupt_archive_is_passed_over_and_named() -> None:
    archives = [
        {
            "id": "b",
            "path": "/b/b",
            "status": "corrupt",
            "reason": "data/1.dat: sha256 differs",
            "snapshot_at": "2026-02",
        },
        {"id": "a", "path": "/b/a", "status": "good", "snapshot_at": "2026-01"},
    ]
    plan = rollback_plan(LIVE, databases=[LIVE], rollback_points=[], strategy="archive", archives=archives)
    assert plan["archive"] == "/b/a" and "data/1.dat" in plan["sentence"]
    assert not plan["writes"]["known"] and "not known" in plan["sentence"]


def test_nothing_is_chosen_when_every_deployment_was_undone() -> None:
    points = [clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01", state="used")]
    live = database("bank", 11)
    archives = [{"id": "a", "path": "/b/a", "status": "good", "snapshot_at": "2026-01"}]
    plan = rollback_plan(live, databases=[live], rollback_points=points, archives=archives)
    assert plan["strategy"] == "none" and "undone already" in plan["sentence"]


def test_counters_that_cannot_be_compared_are_called_unknown() -> None:
    databases = [LIVE, database("bank_before_d1", 11)]
    for before, reason in (
        ({"stats_reset": "2026-01-01", "tables": counters()["tables"]}, "reset"),
        ({"server_started_at": "2026-01-01", "tables": counters()["tables"]}, "restarted"),
        (counters(500), "backwards"),
        ({}, "not recorded"),
    ):
        points = [clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01", write_counters={"before": before})]
        plan = rollback_plan(LIVE, databases=databases, rollback_points=points)
        assert plan["strategy"] == "clone" and reason in plan["writes"]["reason"]


def test_named_side_database_and_named_archive_win_over_the_ledger() -> None:
    points = [clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01")]
    databases = [LIVE, database("bank_before_d1", 11), database("mine", 13)]
    assert rollback_plan(LIVE, databases=databases, rollback_points=points, side_database="mine")["side_oid"] == 13
    plan = rollback_plan(LIVE, databases=databases, rollback_points=points, archive="/b/x")
    assert (plan["strategy"], plan["archive"]) == ("archive", "/b/x")
    assert rollback_plan(LIVE, databases=databases, rollback_points=[], side_database="no")["strategy"] == "none"


def test_deployment_that_failed_before_it_changed_anything_is_passed_over() -> None:
    point = clone("d2", live_oid=10, side_oid=12, taken_at="2026-01-02")
    points = [
        point,
        {**point, "kind": "archive", "state": "unneeded"},
        clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01"),
    ]
    databases = [LIVE, database("bank_before_d1", 11), database("bank_before_d2", 12)]
    assert rollback_plan(LIVE, databases=databases, rollback_points=points)["side_database"] == "bank_before_d1"


def test_archive_of_the_deployment_counts_whatever_the_clocks_say() -> None:
    # The point has the time of one host, the archive that of another.
    points = [clone("d2", live_oid=10, side_oid=12, taken_at="2026-01-02T00:00:00")]
    archives = [
        {"id": "d1", "path": "/b/d1", "status": "good", "snapshot_at": "2026-01-01T00:00:00"},
        {"id": "d2", "path": "/b/d2", "status": "good", "snapshot_at": "2026-01-02T00:00:07"},
    ]
    plan = rollback_plan(LIVE, databases=[LIVE], rollback_points=points, archives=archives, strategy="archive")
    assert plan["archive"] == "/b/d2"


def deployed(*names: str) -> list[dict[str, Any]]:
    """What the history of the live database names, newest first; d2 was applied on the second of the month."""
    return [{"id": name, "applied_at": "2026-01-%02dT12:00:00Z" % int(name[1:])} for name in names]


def test_deployment_of_which_the_database_holds_nothing_is_passed_over() -> None:
    # d2 was killed before it migrated, or another run was faster: its clone is no way back, only a loss of writes.
    points = [
        clone("d2", live_oid=10, side_oid=12, taken_at="2026-01-02"),
        clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01"),
    ]
    databases = [LIVE, database("bank_before_d1", 11), database("bank_before_d2", 12)]
    live = {**LIVE, "deployments": deployed("d1")}
    plan = rollback_plan(live, databases=databases, rollback_points=points)
    assert plan["side_database"] == "bank_before_d1"
    assert "bank holds nothing of deployment d2" in plan["sentence"]
    live = {**LIVE, "deployments": []}
    plan = rollback_plan(live, databases=databases, rollback_points=points, archives=[])
    assert plan["strategy"] == "none" and not plan["needs_archives"]
    assert "names no deployment" in plan["sentence"]
    live = {**LIVE, "deployments": None}
    assert (
        rollback_plan(live, databases=databases, rollback_points=points)["side_database"] == "bank_before_d2"
    )  # no history to go by


def test_deployment_that_is_still_migrating_is_what_an_undo_stops() -> None:
    points = [
        clone("d2", live_oid=10, side_oid=12, taken_at="2026-01-02"),
        clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01"),
    ]
    databases = [LIVE, database("bank_before_d1", 11), database("bank_before_d2", 12)]
    live = {**LIVE, "deployments": deployed("d1")}
    plan = rollback_plan(live, databases=databases, rollback_points=points, running=["d2"])
    assert plan["side_database"] == "bank_before_d2"
    # One that was killed long ago is older than what the history names.
    live = {**LIVE, "deployments": deployed("d2")}
    plan = rollback_plan(live, databases=databases, rollback_points=points, running=["d1"])
    assert plan["side_database"] == "bank_before_d2"
    # Without a clone, its archive; never that of the deployment before.
    points[0] = {**points[0], "kind": "archive", "side_database": None, "side_oid": None}
    archives = [
        {"id": "d2", "path": "/b/d2", "status": "good", "snapshot_at": "2026-01-02"},
        {"id": "d1", "path": "/b/d1", "status": "good", "snapshot_at": "2026-01-01"},
    ]
    live = {**LIVE, "deployments": deployed("d1")}
    plan = rollback_plan(live, databases=databases, rollback_points=points, running=["d2"], archives=archives)
    assert plan["archive"] == "/b/d2"


def test_without_a_ledger_the_history_tells_which_archive_is_from_before() -> None:
    archives = [
        {"id": "night", "path": "/b/night", "status": "good", "snapshot_at": "2026-01-03T00:00:00Z"},
        {"id": "d2", "path": "/b/d2", "status": "good", "snapshot_at": "2026-01-02T11:00:00Z", "schema_version": "v1"},
        {"id": "d1", "path": "/b/d1", "status": "good", "snapshot_at": "2026-01-01T11:00:00Z"},
    ]
    live = {**LIVE, "deployments": deployed("d2", "d1")}
    assert rollback_plan(live, databases=[LIVE], rollback_points=[])["needs_archives"]
    plan = rollback_plan(live, databases=[LIVE], rollback_points=[], archives=archives)
    assert (plan["archive"], plan["deployment_id"], plan["point"]) == ("/b/d2", "d2", None)
    # An older deployment's clone would undo two at once.
    points = [clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01")]
    databases = [LIVE, database("bank_before_d1", 11)]
    plan = rollback_plan(live, databases=databases, rollback_points=points, archives=archives)
    assert plan["archive"] == "/b/d2"
    assert rollback_plan(live, databases=databases, rollback_points=points, strategy="clone")["side_oid"] == 11


def test_migration_that_is_not_complete_has_no_time_and_only_the_archive_of_its_own_deployment_counts() -> None:
    live = {**LIVE, "deployments": [{"id": "d2", "applied_at": None}, *deployed("d1")]}
    archives = [{"id": "d1", "path": "/b/d1", "status": "good", "snapshot_at": "2026-01-01T11:00:00Z"}]
    assert rollback_plan(live, databases=[LIVE], rollback_points=[], archives=archives)["strategy"] == "none"
    archives.insert(0, {"id": "d2", "path": "/b/d2", "status": "good", "snapshot_at": "2026-01-02T11:00:00Z"})
    assert rollback_plan(live, databases=[LIVE], rollback_points=[], archives=archives)["archive"] == "/b/d2"


def test_undo_that_was_killed_after_its_swap_is_not_repeated_with_something_older() -> None:
    # The clone of d2 serves (oid 12), but nobody recorded that; d1 must not be undone as well.
    points = [
        clone("d2", live_oid=10, side_oid=12, taken_at="2026-01-02"),
        clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01"),
    ]
    live = {**database("bank", 12), "write_counters": counters(), "deployments": deployed("d1")}
    archives = [{"id": "d1", "path": "/b/d1", "status": "good", "snapshot_at": "2026-01-01T11:00:00Z"}]
    for strategy in ("auto", "clone", "archive"):
        plan = rollback_plan(
            live,
            databases=[live, database("bank_before_d1", 11)],
            rollback_points=points,
            archives=archives,
            strategy=strategy,
        )
        assert plan["strategy"] == "none"
        assert "deployment d2 has been undone already, its clone serves as bank" in plan["sentence"]
        assert (plan["point"]["deployment_id"], plan["point"]["state"]) == ("d2", "used")
    # Undone with an archive, nothing has the OID of what serves: the reason to stop is that d1 was made on another.
    live = {**live, "oid": 77}
    plan = rollback_plan(live, databases=[live], rollback_points=points, archives=archives)
    assert plan["strategy"] == "none" and "made on another database" in plan["sentence"]


def test_archive_is_not_restored_for_want_of_anything_better() -> None:
    archives = [{"id": "night", "path": "/b/night", "status": "good", "snapshot_at": "2026-01-03T00:00:00Z"}]
    plan = rollback_plan(LIVE, databases=[LIVE], rollback_points=[], archives=archives)
    assert plan["strategy"] == "none" and "neither the ledger nor the history of bank" in plan["sentence"]
    plan = rollback_plan(LIVE, databases=[LIVE], rollback_points=[], archives=archives, strategy="archive")
    assert plan["archive"] == "/b/night"


def test_live_database_that_is_not_there_is_named() -> None:
    plan = rollback_plan({"name": "bank"}, databases=[], rollback_points=[])
    assert plan["strategy"] == "none" and "the database bank does not exist" in plan["sentence"]


def test_named_archive_takes_as_long_as_was_recorded_or_nobody_knows() -> None:
    point = {**clone("d2", live_oid=10, side_oid=0, taken_at="2026-01-02"), "kind": "archive", "archive_path": "/b/d2"}
    points = [{**point, "expected_undo_s": 600.0}]
    plan = rollback_plan(LIVE, databases=[LIVE], rollback_points=points, archive="/b/d2")
    assert plan["expected_s"] == 605.0 and "in about 605 s." in plan["sentence"]
    plan = rollback_plan(LIVE, databases=[LIVE], rollback_points=[], archive="/b/d2")
    assert plan["expected_s"] is None and "in a time that is not known." in plan["sentence"]


def undo(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    points = [clone("d1", live_oid=10, side_oid=11, taken_at="2026-01-01", write_counters={"before": before})]
    live = database("bank", 10, write_counters=after)
    return rollback_plan(live, databases=[live, database("bank_before_d1", 11)], rollback_points=points)


def test_table_with_another_file_is_named_because_no_counter_tells_of_truncate() -> None:
    before = {**counters(100), "relations": {"public.payment": {"oid": 1, "filenode": 1}}}
    plan = undo(before, {**counters(100), "relations": {"public.payment": {"oid": 1, "filenode": 2}}})
    assert plan["writes"]["rewritten"] == ["public.payment"] and plan["writes"]["tables"] == {}
    assert plan["left_behind"] == "Rewritten or emptied since then: public.payment."


def test_counters_thrown_away_after_a_crash_are_not_compared() -> None:
    plan = undo({**counters(0), "stats_discarded_at": "1"}, {**counters(0), "stats_discarded_at": "2"})
    assert "after a crash" in plan["writes"]["reason"]


def test_reading_from_before_the_point_is_passed_on_only_where_the_point_was_taken_from_the_live_database() -> None:
    reading = {**counters(100), "snapshot": "7:7:"}
    assert undo(reading, counters(130))["since"] == reading
    assert undo(counters(100), counters(130))["since"] is None
    elsewhere = clone("d1", live_oid=9, side_oid=11, taken_at="2026-01-01", write_counters={"before": reading})
    plan = rollback_plan(
        LIVE,
        databases=[LIVE, database("bank_before_d1", 11)],
        rollback_points=[elsewhere],
        side_database="bank_before_d1",
    )
    assert plan["since"] is None
