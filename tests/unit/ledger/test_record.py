# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of the ledger, and what they add up to without a database."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.record import (
    build_record,
    check_id,
    clean,
    fold,
    iso,
    new_id,
    without_secrets,
)

NOW = datetime(2026, 11, 20, 22, 15, 0, 250_000, tzinfo=timezone.utc)
LATER = NOW + timedelta(seconds=90)


def build(state, *, now=NOW, **options):
    return build_record({"state": state, **options}, deployment_id="d1", now=now)


def test_id_sorts_by_time_and_names_a_file():
    first, second = new_id(NOW.astimezone(timezone(timedelta(hours=5)))), new_id(LATER)
    assert re.fullmatch(r"20261120T221500Z-[0-9a-f]{4}", first)
    assert first < second
    assert check_id(first) == first


@pytest.mark.parametrize("bad", ["", ".", "../x", "a/b", "-x", "a b", "a\n", "ü", "x" * 101])
def test_id_that_cannot_name_a_file_is_refused(bad):
    with pytest.raises(HoldfastError):
        check_id(bad)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("2026-11-20T22:15:00Z", "2026-11-20T22:15:00.000000Z"),
        ("2026-11-20 22:15:00.5", "2026-11-20T22:15:00.500000Z"),
        ("2026-11-20T23:15:00+01:00", "2026-11-20T22:15:00.000000Z"),
        ("2026-11-20T22:15:00.123456Z", "2026-11-20T22:15:00.123456Z"),
    ],
)
def test_times_are_kept_in_utc_and_sort_as_text(given, stored):
    (step,) = build("recorded", step={"name": "a", "started_at": given})["steps"]
    assert step["started_at"] == stored


def test_unanswered_questions_are_unset():
    record = build("opened", live_database="app", operator="", controller="", summary="", details=None, step=None)
    assert record["deployment"] == {"database": "app", "kind": "deploy", "status": "running", "started_at": iso(NOW)}
    point = build("recorded", rollback_point={"kind": "clone", "archive_id": "", "side_oid": None})["rollback_points"]
    assert "archive_id" not in point[0]
    assert "side_oid" not in point[0]


def test_step_ends_now_unless_it_runs():
    running, done, timed = build(
        "recorded",
        steps=[
            {"name": "a", "status": "running", "started_at": "2026-11-20T22:14:00Z"},
            {"name": "b", "started_at": "2026-11-20T22:14:00Z"},
            {"name": "c", "duration_s": 5.0},
        ],
    )["steps"]
    assert (running["finished_at"], running["duration_s"]) == (None, None)
    assert (done["finished_at"], done["duration_s"]) == (iso(NOW), 60.25)
    assert (timed["finished_at"], timed["duration_s"]) == (None, 5.0)


def test_step_named_twice_in_one_call_counts_once():
    steps = build("recorded", steps=[{"name": "a", "status": "running"}], step={"name": "a"})["steps"]
    assert [(step["name"], step["status"]) for step in steps] == [("a", "succeeded")]


def test_checks_carry_the_step_as_their_stage():
    record = build("recorded", step={"name": "verify"}, checks=[{"name": "a"}, {"name": "b", "stage": "own"}])
    assert [check["stage"] for check in record["checks"]] == ["verify", "own"]


def test_what_json_or_jsonb_refuses_is_mended():
    value = {"a\x00": float("inf"), "b": [float("nan"), "x\x00y", "\ud800"], "c": ("t", 1, True, None), 5: "five"}
    assert clean(value) == {"a": "inf", "b": ["nan", "xy", "?"], "c": ["t", 1, True, None], "5": "five"}
    json.dumps(clean(value), allow_nan=False)


@pytest.mark.parametrize(
    "key", ["password", "DB_PASSWORD", "passwd", "client-secret", "auth_token", "apiKey", "private_key"]
)
def test_values_that_a_key_calls_secret_are_masked(key):
    assert without_secrets({key: "x"}) == {key: "********"}
    assert without_secrets([{key: {"deep": ["x", 5]}}]) == [{key: {"deep": ["********", 5]}}]
    assert without_secrets({key: None}) == {key: None}


def test_write_counters_of_a_table_called_token_are_facts():
    counters = {"before": {"tables": {"public.auth_token": {"inserted": 5}}}}
    record = build("recorded", rollback_point={"kind": "clone", "write_counters": counters})
    assert record["rollback_points"][0]["write_counters"] == counters


def test_records_add_up_as_in_the_database():
    records = [
        build("opened", live_database="app", operator="ada", details={"a": 1}),
        build("recorded", step={"name": "s", "status": "running"}, checks=[{"name": "c"}], details={"b": 2}),
        build("recorded", step={"name": "s", "started_at": "2026-11-20T22:15:00Z"}, live_database="other"),
        build("recorded", rollback_point={"kind": "clone", "side_oid": 5}),
        build("recorded", rollback_point={"kind": "clone", "state": "used"}),
        build("closed", status="succeeded", now=LATER),
        build("closed", status="succeeded", now=LATER + timedelta(hours=1)),
    ]
    deployment = fold([json.loads(json.dumps(record)) for record in records])["d1"]
    assert (deployment["database"], deployment["operator"], deployment["status"]) == ("app", "ada", "succeeded")
    assert (deployment["duration_s"], deployment["details"]) == (90.0, {"a": 1, "b": 2})
    (step,) = deployment["steps"]
    assert (step["status"], step["duration_s"]) == ("succeeded", 0.25)
    (point,) = deployment["rollback_points"]
    assert (point["state"], point["side_oid"], point["archive_id"]) == ("used", 5, None)
    assert len(deployment["checks"]) == 1
