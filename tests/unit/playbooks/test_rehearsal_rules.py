# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is rehearsed, how a rehearsal is judged, and when its steps down may be an undo."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.plugin_utils._rehearsal import (
    rehearsal_lines,
    rehearsal_plan,
    rehearsal_record,
)
from ansible_collections.holdfast.postgres.plugins.plugin_utils._rollback_plan import rollback_plan

ARCHIVE = {"path": "/b/d1", "database_bytes": 1000, "duration_s": 10.0}


def pending(version: str, *, down: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "version": version,
        "description": "x",
        "has_down": down,
        "down_checksum": version + "sum" if down else None,
        "statements_done": 0,
        "beyond_database": [],
        **more,
    }


def applied(version: str, duration_ms: int = 1000, records: Any = (), **more: Any) -> dict[str, Any]:
    return {"version": version, "duration_ms": duration_ms, "records": list(records), "transactional": True, **more}


def difference(kind: str, name: str = "table public.loan", **more: Any) -> dict[str, Any]:
    return {"object": name, "kind": kind, "message": "The %s differs." % name, "diff": "d", **more}


# what is rehearsed


def test_everything_is_rehearsed_on_all_rows_where_nothing_speaks_against_it() -> None:
    plan = rehearsal_plan([pending("v1"), pending("v2")], archive=ARCHIVE)
    assert plan == {
        "mode": "full",
        "notes": [],
        "versions": ["v1", "v2"],
        "target": "",
        "base": "",
        "tries_downs": True,
        "whole": True,
        "expected_s": 15.0,
    }


@pytest.mark.parametrize(
    ("limits", "said"),
    [({"max_bytes": 999}, "1000 bytes, and at most 999"), ({"time_budget_s": 14}, "15 s to restore, and at most 14")],
)
def test_what_is_too_much_is_rehearsed_without_rows(limits: dict[str, Any], said: str) -> None:
    plan = rehearsal_plan([pending("v1")], archive=ARCHIVE, **limits)
    assert plan["mode"] == "schema" and plan["tries_downs"] and said in plan["notes"][0]


def test_earlier_rehearsals_tell_how_long_a_restore_takes() -> None:
    earlier = {"rehearsal": {"mode": "full", "bytes": 500, "restore_s": 30.0}}
    runs = [{"steps": [{"name": "rehearse", "details": {}}]}, {"steps": [{"name": "rehearse", "details": earlier}]}]
    assert rehearsal_plan([pending("v1")], archive=ARCHIVE, deployments=runs)["expected_s"] == 60.0


@pytest.mark.parametrize(
    ("rows", "base", "tries"),
    [
        ([pending("v1"), pending("v2", down=False), pending("v3")], "v2", True),
        ([pending("v1"), pending("v2", down=False)], "v2", False),
        ([pending("v1", statements_done=2), pending("v2")], "v1", True),
        ([pending("v1"), pending("R__x", repeatable=True)], "R__x", False),
    ],
)
def test_steps_down_are_tried_above_the_newest_without_one(rows: Any, base: str, tries: bool) -> None:
    plan = rehearsal_plan(rows, archive=ARCHIVE)
    assert (plan["base"], plan["tries_downs"]) == (base, tries)
    assert base in plan["notes"][0]


def test_what_reaches_beyond_the_database_ends_the_rehearsal_before_it() -> None:
    found = [{"command": "CREATE ROLE", "path": "up.sql", "line": 4, "statement": "CREATE ROLE x"}]
    plan = rehearsal_plan([pending("v1"), pending("v2", beyond_database=found), pending("v3")], archive=ARCHIVE)
    assert (plan["versions"], plan["target"], plan["whole"]) == (["v1"], "v1", False)
    assert "from v2 on: CREATE ROLE in up.sql, line 4" in plan["notes"][0]
    assert rehearsal_plan([pending("v2", beyond_database=found)], archive=ARCHIVE)["mode"] == "off"


@pytest.mark.parametrize(
    ("options", "said"), [({"archive": ARCHIVE, "layout": "command"}, "a program"), ({}, "no archive")]
)
def test_what_cannot_be_rehearsed_is_not(options: dict[str, Any], said: str) -> None:
    plan = rehearsal_plan([pending("v1")], **options)
    assert plan["mode"] == "off" and said in plan["notes"][0] and plan["versions"] == []


# how it is judged


def record_of(listed: Any = None, *, mode: str = "full", **facts: Any) -> dict[str, Any]:
    listed = listed or [pending("v1"), pending("v2")]
    plan = {**rehearsal_plan(listed, archive=ARCHIVE), "mode": mode}
    names = [row["version"] for row in listed]
    values: dict[str, Any] = {
        "pending": listed,
        "history_table": "public.schema_version",
        "before": "v0",
        "restore": {"bytes": 1, "duration_s": 2.0},
        "up": {"applied": [applied(name) for name in names]},
        "down": {"reverted": [applied(name, 100) for name in reversed(names)]},
        "schema": {"equal": True, "differences": []},
        "changed": {"differences": []},
        "rows": {"equal": True, "differences": []},
        "again": {"applied": [applied(name) for name in names]},
        **facts,
    }
    return rehearsal_record(plan, values)


def test_steps_down_that_give_everything_back_are_proven() -> None:
    history = [difference("rows", "table public.schema_version"), difference("unexpected", "index x")]
    record = record_of(rows={"differences": history, "equal": False})
    assert record["proven"] and record["restores_rows"] and record["problem"] == ""
    assert [row["down"] for row in record["versions"]] == ["proven", "proven"]
    assert (record["up_ms"], record["down_ms"], record["before"]) == (2000, 200, "v0")


def test_schema_that_is_another_one_is_a_problem_and_columns_in_another_order_are_a_note() -> None:
    record = record_of(schema={"equal": False, "differences": [difference("changed")]})
    assert not record["proven"] and "the table public.loan differs" in record["problem"]
    assert record["versions"][0]["reason"] == record["problem"]
    moved = record_of(schema={"equal": False, "differences": [difference("column_order")]})
    assert moved["proven"] and not moved["problem"] and "SELECT *" in moved["notes"][0]


@pytest.mark.parametrize(
    ("up", "down", "problem"),
    [
        ([], "hash", True),
        ([], "rows", True),
        (["hash"], "hash", False),
        (["hash"], "rows", True),
        (["rows"], "rows", False),
        (["rows"], "hash", False),
        (["missing"], "rows", False),
        (["object"], "hash", False),
        (["object"], "rows", True),
        ([], "populated", True),
    ],
)
def test_rows_that_only_the_steps_down_have_changed_are_a_problem(up: list[str], down: str, problem: bool) -> None:
    record = record_of(
        changed={"differences": [difference(kind) for kind in up]},
        rows={"equal": False, "differences": [difference(down)]},
    )
    assert bool(record["problem"]) == problem and record["proven"] != problem
    assert not record["restores_rows"] and [row["kind"] for row in record["rows_lost"]] == [down]


def test_sequence_that_begins_anew_counts_and_one_that_has_moved_on_does_not() -> None:
    for last_value, equal in ((41, False), (43, True)):
        moved = difference("sequence", "sequence s", before={"last_value": 42}, after={"last_value": last_value})
        record = record_of(rows={"equal": False, "differences": [moved]})
        assert record["proven"] and record["restores_rows"] is equal
    gone = record_of(rows={"equal": False, "differences": [difference("missing", "large object 7")]})
    assert gone["problem"]


def test_nothing_is_proven_without_rows_or_without_the_last_step() -> None:
    assert not record_of(mode="schema")["proven"]
    assert record_of(mode="schema")["versions"][0]["reason"] == "there were no rows to see"
    missing = record_of([pending("v1", down=False), pending("v2")], down={"reverted": [applied("v2", 5)]})
    assert not missing["proven"] and [row["down"] for row in missing["versions"]] == ["missing", "proven"]
    stopped = record_of(down={}, schema={}, rows={}, again={})
    assert not stopped["proven"] and not stopped["problem"]
    assert stopped["versions"][0]["reason"] == "the rehearsal did not come so far"
    failed = record_of(
        down={"failed": True, "version": "v2", "msg": "no such table", "reverted": []}, schema={}, rows={}
    )
    assert "the step down of v2 fails: no such table" in failed["versions"][1]["reason"]


def test_history_that_cannot_be_reverted_for_another_reason_is_no_problem() -> None:
    down = {"code": "migration_irreversible", "msg": "no way down from R__view.", "reverted": []}
    record = record_of(down=down, schema={"skipped": True}, rows={"skipped": True}, again={})
    assert not record["proven"] and record["problem"] == "" and "no way down from R__view." in record["notes"]
    assert record["versions"][0]["reason"] == "no way down from R__view."


def test_gains_are_new_tables_and_columns_that_hold_other_values_than_before() -> None:
    before = ["id bigint not null", "note text", "state character varying(9) not null default", '"odd name" int']
    after = [
        "id bigint not null always identity",
        "note text comment 'x'",
        "state character varying(20) not null default",
        '"odd name" int',
        "rate numeric(10,2) not null default",
        '"n ew" timestamp with time zone',
        "twice integer generated stored",
    ]
    record = record_of(
        changed={
            "differences": [
                difference("unexpected", "table public.event", before=None, after={}),
                difference("unexpected", "table public.schema_version", before=None, after={}),
                difference("object", before={"columns": before}, after={"columns": after}),
                difference("object", "table public.party", before={"comment": "a"}, after={"comment": "b"}),
            ]
        }
    )
    assert record["gains"] == {
        "tables": ["public.event"],
        "columns": {"public.loan": ["state", "rate", '"n ew"']},
    }


def test_lock_is_held_to_the_end_of_its_transaction() -> None:
    records = [
        {"number": 1, "duration_ms": 100, "locks": {"loan": "ShareLock", "party": "AccessShareLock"}},
        {"number": 2, "duration_ms": 10, "locks": {"loan": "AccessExclusiveLock"}},
        {"number": 3, "duration_ms": 5, "locks": {}},
    ]
    locks = record_of(up={"applied": [applied("v1", records=records)]})["locks"]
    assert [(lock["relation"], lock["lock"], lock["held_ms"]) for lock in locks] == [
        ("loan", "AccessExclusiveLock", 15.0),
        ("party", "AccessShareLock", 115.0),
    ]
    alone = record_of(up={"applied": [applied("v1", records=records, transactional=False)]})["locks"]
    assert alone[0]["held_ms"] == 10.0


def test_lines_say_the_time_the_lock_and_the_way_back() -> None:
    records = [
        {"number": 1, "duration_ms": 7, "rows": None, "statement": "ALTER\n TABLE x", "strongest_lock": "ShareLock",
         "locks": {"x": "ShareLock"}},
    ]  # fmt: skip
    record = record_of(up={"applied": [applied("v1", 1500, records=records)]})
    assert rehearsal_lines(record) == ["v1: up 1.5 s, strongest lock ShareLock; step down proven in 0.1 s."]
    assert rehearsal_lines(record, statements=True)[1] == "  up 1: 7 ms, - rows, ShareLock on x: ALTER TABLE x"


# when its steps down may be an undo

LIVE = {"name": "bank", "oid": 10, "deployments": [{"id": "d1", "applied_at": "2026-01-01"}], "write_counters": {}}


def run_of(record: dict[str, Any], name: str = "d1") -> dict[str, Any]:
    steps = [
        {"name": "rehearse", "details": {"rehearsal": record}},
        {"name": "migrate", "details": {"snapshot": "7:7:"}},
    ]
    return {"id": name, "status": "succeeded", "steps": steps}


def undo(record: dict[str, Any], **options: Any) -> dict[str, Any]:
    options.setdefault("deployments", [run_of(record)])
    return rollback_plan(LIVE, databases=[LIVE], rollback_points=[], **options)


def test_proven_steps_down_are_chosen_before_an_archive_and_say_what_stays() -> None:
    changed = {"differences": [difference("unexpected", "table public.event", before=None, after={})]}
    for strategy in ("auto", "schema"):
        plan = undo(record_of(changed=changed), strategy=strategy)
        assert (plan["strategy"], plan["target_version"], plan["snapshot"]) == ("schema", "v0", "7:7:")
        assert plan["checksums"] == {"v1": "v1sum", "v2": "v2sum"} and plan["gains"]["tables"] == ["public.event"]
        assert "by the steps down of v2, v1, which are proven, in about 5 s" in plan["sentence"]
        assert "stay where they are, but for what is in public.event" in plan["sentence"]


def test_steps_down_that_lose_rows_are_chosen_by_an_operator_only() -> None:
    record = record_of(
        changed={"differences": [difference("hash")]}, rows={"differences": [difference("hash")], "equal": 0}
    )
    assert undo(record)["needs_archives"]
    plan = undo(record, strategy="schema")
    assert plan["strategy"] == "schema" and "do not bring that back" in plan["sentence"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"deployments": []}, "d1 was not rehearsed"),
        ({"deployments": [run_of(record_of(), "d0")]}, "d1 was not rehearsed"),
        ({"running": ["d1"]}, "recorded as running"),
        ({"schema_refused": "they were changed"}, "they were changed"),
        ({"deployments": [run_of(record_of(mode="schema"))]}, "are not proven (v1: there were no rows to see"),
    ],
)
def test_steps_down_that_are_not_proven_are_refused_with_the_reason(options: dict[str, Any], said: str) -> None:
    plan = undo(record_of(), strategy="schema", **options)
    assert plan["strategy"] == "none" and said in plan["sentence"]
    assert undo(record_of(), **options)["strategy"] == "none"


def test_clone_comes_first_and_its_sentence_tells_of_the_other_way() -> None:
    point = {
        "deployment_id": "d1",
        "kind": "clone",
        "live_oid": 10,
        "side_database": "bank_before_d1",
        "side_oid": 11,
        "taken_at": "2026-01-01",
        "state": "available",
    }
    side = {"name": "bank_before_d1", "oid": 11}
    plan = rollback_plan(LIVE, databases=[LIVE, side], rollback_points=[point], deployments=[run_of(record_of())])
    assert plan["strategy"] == "clone" and "rollback_strategy=schema" in plan["sentence"]
