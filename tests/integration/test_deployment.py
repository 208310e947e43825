# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: one record, in its database or in the journal, and never twice."""

from __future__ import annotations

import json
import re
import stat
import threading
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger import journal
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.baseline import keep_baseline
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.ledger import record_deployment
from tests.support.modules import ROOT, run_module

HOSTILE = "a 'b' \"c\" \\ %s = ü 🙂 -- \n"


@pytest.fixture
def ledger_name(pg18):
    name = "ledger_" + uuid.uuid4().hex[:10]
    yield name
    pg18.drop_database(name)


@pytest.fixture
def call(pg18, ledger_name, tmp_path):
    def record(state, *, server=None, check_mode=False, now=None, **options):
        return record_deployment(
            {
                "state": state,
                "ledger_database": ledger_name,
                "journal_dir": str(tmp_path / "journal"),
                "limit": 20,
                "stale_after_s": 21600,
                **options,
            },
            server=server or pg18.server,
            now=now or datetime.now(timezone.utc),
            check_mode=check_mode,
        )

    return record


@pytest.fixture
def down(pg18):
    """The server, at a port where nobody listens."""
    return replace(pg18.server, port=1)


def refused(call, *arguments, **options):
    with pytest.raises(HoldfastError) as caught:
        call(*arguments, **options)
    return caught.value


def open_one(call, **options):
    return call("opened", **{"live_database": "app", **options})["deployment"]["id"]


def test_first_use_makes_the_ledger_and_says_so(call, pg18, ledger_name):
    predicted = call("opened", live_database="app", check_mode=True)
    assert predicted["changed"]
    assert predicted["deployment"]["id"]
    assert ledger_name not in pg18.databases()
    first = call("opened", live_database="app", operator="ada", controller="", details={"ticket": "CHG-1"})
    assert first["changed"]
    second = call("opened", live_database="app")
    assert not second["changed"]
    assert first["deployment"] == {
        "id": first["deployment"]["id"],
        "database": "app",
        "kind": "deploy",
        "status": "running",
        "started_at": first["deployment"]["started_at"],
        "finished_at": None,
        "duration_s": None,
        "operator": "ada",
        "controller": None,
        "summary": None,
        "details": {"ticket": "CHG-1"},
        "steps": [],
    }
    assert first["ledger"] == "database"
    owner, collation = pg18.execute(
        "SELECT pg_get_userbyid(datdba), datcollate FROM pg_database WHERE datname = %s", (ledger_name,)
    )[0]
    assert (owner, collation) == ("postgres", "C")


def test_everything_of_one_call_is_stored_and_read_back(call):
    deployment_id = open_one(call, now=datetime(2026, 11, 20, 22, 15, tzinfo=timezone.utc))
    assert deployment_id.startswith("20261120T221500Z-")
    check = {"suite": "s", "name": HOSTILE, "severity": "error", "status": "failed", "value": "1.50", "rows": 3}
    recorded = call(
        "recorded",
        deployment_id=deployment_id,
        step={"name": "verify", "status": "failed", "started_at": "2026-11-20T23:15:01+01:00"},
        steps=[{"name": "backup", "started_at": "2026-11-20T22:15:00Z", "finished_at": "2026-11-20T22:15:00.500Z"}],
        checks=[{**check, "sample": [{"id": 1}], "tags": ["a"], "errored": False, "duration_ms": 1.5, "extra": 1}],
        migrations=[{"version": "2.0.0", "description": "two", "status": "applied", "statements": 4}],
        rollback_point={"kind": "clone", "side_database": HOSTILE, "side_oid": 4294967295, "bytes": 2**40},
        alert={"text": HOSTILE},
        incident={"title": "broken", "id": "INC-1"},
        details={"a": 1},
    )
    assert [step["name"] for step in recorded["deployment"]["steps"]] == ["backup", "verify"]
    assert recorded["deployment"]["steps"][0]["duration_s"] == 0.5
    assert recorded["deployment"]["steps"][1]["started_at"] == "2026-11-20T22:15:01.000000Z"
    assert "checks" not in recorded["deployment"]
    call("recorded", deployment_id=deployment_id, details={"b": [2]}, incident={"title": "mended", "id": "INC-1"})
    closed = call(
        "closed",
        deployment_id=deployment_id,
        status="failed",
        summary=HOSTILE,
        now=datetime(2026, 11, 20, 22, 16, tzinfo=timezone.utc),
    )["deployment"]
    assert (closed["status"], closed["duration_s"], closed["summary"]) == ("failed", 60.0, HOSTILE)
    assert closed["details"] == {"a": 1, "b": [2]}
    (stored,) = closed["checks"]
    assert stored["stage"] == "verify"
    assert {key: stored[key] for key in check} == check
    assert closed["migrations"][0]["details"] == {"statements": 4}
    (point,) = closed["rollback_points"]
    assert (point["side_database"], point["side_oid"], point["bytes"]) == (HOSTILE, 4294967295, 2**40)
    assert (point["live_database"], point["state"]) == (None, "available")
    assert [incident["title"] for incident in closed["incidents"]] == ["mended"]
    assert closed["alerts"][0]["text"] == HOSTILE
    listed = call("listed", deployment_id=deployment_id)
    assert listed["deployment"] == closed


def test_step_recorded_again_takes_the_place_of_the_first(call):
    deployment_id = open_one(call)
    call(
        "recorded",
        deployment_id=deployment_id,
        step={"name": "a", "status": "running", "details": {"x": 1}, "started_at": "2026-01-01T00:00:00Z"},
    )
    call("recorded", deployment_id=deployment_id, step={"name": "b", "status": "skipped", "details": {}})
    answer = call(
        "recorded",
        deployment_id=deployment_id,
        step={"name": "a", "status": "succeeded", "finished_at": "2026-01-01T00:00:03Z", "details": {"y": 2}},
    )
    first = answer["deployment"]["steps"][0]
    assert (first["name"], first["status"], first["duration_s"]) == ("a", "succeeded", 3.0)
    assert first["details"] == {"x": 1, "y": 2}
    assert len(answer["deployment"]["steps"]) == 2


def test_closing_again_keeps_the_end_and_a_new_status_counts(call):
    deployment_id = open_one(call)
    first = call("closed", deployment_id=deployment_id, status="failed")["deployment"]
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    again = call("closed", deployment_id=deployment_id, status="failed", now=later)["deployment"]
    assert again["finished_at"] == first["finished_at"]
    other = call("closed", deployment_id=deployment_id, status="rolled_back", now=later)["deployment"]
    assert other["status"] == "rolled_back"
    assert other["finished_at"] > first["finished_at"]


def test_opening_again_is_no_new_deployment(call):
    deployment_id = open_one(call, deployment_id="release-7")
    assert open_one(call, deployment_id=deployment_id) == "release-7"
    assert len(call("listed", live_database="app")["deployments"]) == 1
    assert refused(call, "opened", deployment_id="release-7", live_database="other").code == "target_exists"
    call("closed", deployment_id="release-7", status="succeeded")
    error = refused(call, "opened", deployment_id="release-7", live_database="app")
    assert (error.code, "succeeded" in error.msg) == ("target_exists", True)


def test_rollback_point_is_kept_once_for_each_kind_and_marked_by_the_undo(call):
    first = open_one(call)
    point = {"kind": "clone", "side_database": "app_before", "live_oid": 7, "write_counters": {"before": {"token": 5}}}
    call("recorded", deployment_id=first, live_database="app", rollback_point=point)
    call("recorded", deployment_id=first, live_database="app", rollback_point={"kind": "archive", "archive_id": "x"})
    call("recorded", deployment_id=first, rollback_point={"kind": "clone", "side_oid": 9})
    points = call("listed", live_database="app")["rollback_points"]
    assert sorted((p["kind"], p["state"]) for p in points) == [("archive", "available"), ("clone", "available")]
    clone = next(p for p in points if p["kind"] == "clone")
    assert (clone["side_oid"], clone["live_oid"], clone["write_counters"]) == (9, 7, {"before": {"token": 5}})

    undo = open_one(call, kind="rollback")
    call("recorded", deployment_id=undo, live_database="app", rollback_point={**clone, "state": "used", "side_oid": 7})
    points = call("listed", live_database="app")["rollback_points"]
    assert len(points) == 2
    used = next(p for p in points if p["kind"] == "clone")
    assert used == {**clone, "state": "used", "side_oid": 7}
    assert call("listed", live_database="another")["rollback_points"] == []


def test_newest_is_listed_first_and_no_more_than_the_limit(call):
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    ids = [open_one(call, now=start + timedelta(days=day)) for day in range(4)]
    open_one(call, live_database="other")
    listed = call("listed", live_database="app", limit=3)["deployments"]
    assert [deployment["id"] for deployment in listed] == ids[:0:-1]


@pytest.mark.parametrize("check_mode", [False, True])
def test_opening_lists_the_others_where_an_emergency_asks_for_them(call, check_mode):
    first = open_one(call)
    call("recorded", deployment_id=first, live_database="app", rollback_point={"kind": "archive", "archive_id": "x"})
    opened = call("opened", live_database="app", kind="rollback", listed=True, check_mode=check_mode)
    listed = call("listed", live_database="app")
    assert opened["deployment"]["kind"] == "rollback"
    assert opened["deployments"] == listed["deployments"]
    assert opened["rollback_points"] == listed["rollback_points"] != []
    assert "rollback_points" not in call("opened", live_database="app", kind="rollback")


def test_unknown_id_is_refused_and_check_mode_predicts(call):
    call("opened", live_database="app")
    for state in ("recorded", "closed", "listed"):
        error = refused(call, state, deployment_id="none", status="failed")
        assert error.code == "deployment_not_found"
    predicted = call("closed", deployment_id="none", status="failed", step={"name": "x"}, check_mode=True)
    assert predicted["deployment"]["status"] == "failed"
    assert [step["name"] for step in predicted["deployment"]["steps"]] == ["x"]


def test_check_mode_predicts_on_top_of_what_is_stored_and_stores_nothing(call):
    deployment_id = open_one(call)
    call("recorded", deployment_id=deployment_id, step={"name": "a"}, checks=[{"name": "c"}])
    predicted = call("closed", deployment_id=deployment_id, status="succeeded", step={"name": "b"}, check_mode=True)
    assert not predicted["changed"]
    assert [step["name"] for step in predicted["deployment"]["steps"]] == ["a", "b"]
    assert len(predicted["deployment"]["checks"]) == 1
    assert call("listed", deployment_id=deployment_id)["deployment"]["status"] == "running"


def test_exclusive_opening_names_the_running_one(call):
    now = datetime.now(timezone.utc)
    running = open_one(call, operator="ada", controller="runner-1", now=now - timedelta(hours=1))
    for check_mode in (True, False):
        error = refused(call, "opened", live_database="app", exclusive=True, check_mode=check_mode)
        assert error.code == "deployment_running"
        assert running in error.msg
        assert "ada on runner-1" in error.msg
        assert "state=closed" in error.hint
    assert open_one(call, live_database="other", exclusive=True)
    assert open_one(call, exclusive=True, stale_after_s=60)
    call("closed", deployment_id=running, status="stopped")


def test_of_two_exclusive_openings_at_once_one_wins(call):
    open_one(call, live_database="other")
    outcomes = []

    def attempt():
        try:
            outcomes.append(open_one(call, exclusive=True))
        except HoldfastError as exc:
            outcomes.append(exc.code)

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("deployment_running") == 3


def test_several_first_runs_at_once_make_one_ledger(call):
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(call("opened", live_database="a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome["ledger"] for outcome in outcomes] == ["database"] * 4
    assert len(call("listed")["deployments"]) == 4


def test_foreign_database_is_refused_and_untouched(call, pg18, ledger_name):
    pg18.create_database(ledger_name, "CREATE TABLE mine (id int)")
    for state in ("opened", "listed"):
        for check_mode in (True, False):
            error = refused(call, state, live_database="app", check_mode=check_mode)
            assert error.code == "target_exists"
            assert "public.mine" in error.msg
    assert pg18.execute("SELECT to_regnamespace('holdfast')", database=ledger_name) == [(None,)]


def test_empty_database_of_an_administrator_is_used(call, pg18, ledger_name):
    pg18.create_database(ledger_name)
    assert call("opened", live_database="app", check_mode=True)["changed"]
    assert call("opened", live_database="app")["changed"]
    assert call("opened", live_database="app")["ledger"] == "database"


def test_listing_makes_no_ledger(call, pg18, ledger_name):
    answer = call("listed", live_database="app")
    assert (answer["deployments"], answer["rollback_points"], answer["changed"]) == ([], [], False)
    assert ledger_name not in pg18.databases()


def test_ledger_cannot_be_the_live_database(call, ledger_name):
    assert refused(call, "opened", live_database=ledger_name).code == "option_invalid"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"state": "opened"}, "live_database"),
        ({"state": "recorded"}, "deployment_id"),
        ({"state": "closed", "deployment_id": "x"}, "status"),
        ({"state": "recorded", "deployment_id": "../../etc/passwd"}, "cannot be the id"),
        ({"state": "recorded", "deployment_id": "x", "step": {"name": "a", "started_at": "noon"}}, "no time"),
        ({"state": "recorded", "deployment_id": "x", "checks": [{"suite": "s"}]}, "no name"),
    ],
)
def test_bad_request_is_refused_before_anything_is_reached(call, down, options, words):
    options = dict(options)
    error = refused(call, options.pop("state"), server=down, **options)
    assert error.code == "option_invalid"
    assert words in error.msg


def test_unreachable_ledger_is_journaled_and_imported_exactly_once(call, down, tmp_path):
    opened = call("opened", live_database="app", server=down, operator="ada")
    deployment_id = opened["deployment"]["id"]
    assert (opened["ledger"], opened["changed"]) == ("journal", False)
    assert "imported later" in opened["warnings"][0]
    path = tmp_path / "journal" / (deployment_id + ".jsonl")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    point = {"kind": "clone", "side_database": HOSTILE}
    call(
        "recorded",
        deployment_id=deployment_id,
        server=down,
        step={"name": "a"},
        rollback_point=point,
        live_database="app",
        checks=[{"name": "c"}],
        alert={"text": "m"},
    )
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    listed = call("listed", live_database="app", server=down)
    assert (listed["ledger"], listed["deployments"][0]["id"]) == ("journal", deployment_id)
    assert listed["rollback_points"][0]["side_database"] == HOSTILE

    # The server is back: the next record of the same deployment brings the earlier ones along, and makes the ledger.
    closed = call("closed", deployment_id=deployment_id, status="succeeded")
    assert (closed["ledger"], closed["imported_records"], closed["changed"]) == ("database", 2, True)
    assert [step["name"] for step in closed["deployment"]["steps"]] == ["a"]
    assert closed["deployment"]["operator"] == "ada"
    assert closed["deployment"]["started_at"] == opened["deployment"]["started_at"]
    retired = path.with_name(path.name + ".imported")
    assert retired.exists()
    assert not path.exists()

    # The same file again, as after a crash between commit and rename.
    path.write_text(retired.read_text(encoding="utf-8"), encoding="utf-8")
    again = call("listed", deployment_id=deployment_id)
    assert again["deployment"] == closed["deployment"]
    assert len(again["deployment"]["checks"]) == len(again["deployment"]["alerts"]) == 1
    assert not path.exists()
    assert retired.with_name(retired.name + ".2").exists()


def test_outage_in_the_middle_of_a_deployment(call, down):
    deployment_id = open_one(call)
    call("recorded", deployment_id=deployment_id, step={"name": "a", "started_at": "2026-01-01T00:00:00Z"})
    call("recorded", deployment_id=deployment_id, server=down, step={"name": "b", "started_at": "2026-01-01T00:01:00Z"})
    checked = call("listed", deployment_id=deployment_id, check_mode=True)
    assert checked["imported_records"] == 0
    assert (
        call("recorded", deployment_id=deployment_id, step={"name": "c", "started_at": "2026-01-01T00:02:00Z"})[
            "imported_records"
        ]
        == 1
    )
    answer = call("closed", deployment_id=deployment_id, status="succeeded")
    assert [step["name"] for step in answer["deployment"]["steps"]] == ["a", "b", "c"]


def test_journal_without_its_opening_is_imported_as_well(call, down):
    call("recorded", deployment_id="lost-1", live_database="app", server=down, step={"name": "a"})
    call("opened", live_database="other")
    (deployment,) = call("listed", live_database="app")["deployments"]
    assert (deployment["id"], deployment["status"], deployment["steps"][0]["name"]) == ("lost-1", "running", "a")


def test_check_mode_writes_no_journal(call, down, tmp_path):
    answer = call("opened", live_database="app", server=down, check_mode=True)
    assert answer["ledger"] == "journal"
    assert not (tmp_path / "journal").exists()


def test_exclusive_opening_reads_journals_as_well(call, down):
    running = open_one(call, server=down)
    error = refused(call, "opened", live_database="app", exclusive=True, server=down)
    assert error.code == "deployment_running"
    assert running in error.msg


def test_without_a_journal_the_outage_is_an_error(call, down):
    error = refused(call, "opened", live_database="app", server=down, journal_dir=None)
    assert error.code == "ledger_unavailable"
    assert "journal_dir" in error.hint


def test_unwritable_journal_is_an_error_that_names_both_reasons(call, down, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    error = refused(call, "opened", live_database="app", server=down, journal_dir=str(tmp_path / "file"))
    assert error.code == "ledger_unavailable"
    assert "Cannot connect" in error.msg
    assert "Cannot write the journal" in error.msg


def test_emergency_goes_on_where_nothing_can_be_recorded(call, down):
    options = {"server": down, "live_database": "app", "must_record": False, "journal_dir": None}
    opened = call("opened", **options)
    assert (opened["ledger"], opened["changed"]) == ("nowhere", False)
    assert "goes on without a record" in opened["warnings"][-1]
    name = opened["deployment"]["id"]
    assert call("recorded", deployment_id=name, step={"name": "rollback"}, **options)["ledger"] == "nowhere"
    listed = call("listed", **options)
    assert (listed["ledger"], listed["deployments"], listed["rollback_points"]) == ("nowhere", [], [])
    closed = call("closed", deployment_id=name, status="succeeded", **options)
    assert closed["deployment"]["status"] == "succeeded"
    # The ledger is back, and does not know the run.
    call("opened", live_database="app")
    assert call("recorded", deployment_id=name, must_record=False)["ledger"] == "nowhere"
    assert refused(call, "recorded", deployment_id=name).code == "deployment_not_found"


def test_role_without_the_right_to_make_a_ledger_goes_on_with_the_journal(call, pg18, ledger_name):
    role = "plain_" + uuid.uuid4().hex[:8]
    pg18.execute('CREATE ROLE "%s" LOGIN PASSWORD %%s' % role, (pg18.password,))
    try:
        server = replace(pg18.server, user=role)
        for check_mode in (True, False):
            answer = call("opened", live_database="app", server=server, check_mode=check_mode)
            assert (answer["ledger"], answer["changed"]) == ("journal", False)
            assert answer["warnings"]
        assert ledger_name not in pg18.databases()
        # The ledger of somebody else is no better.
        call("opened", live_database="app")
        assert call("opened", live_database="app", server=server)["ledger"] == "journal"
    finally:
        pg18.execute('DROP ROLE "%s"' % role)


def test_read_only_ledger_goes_on_with_the_journal(call, pg18, ledger_name):
    deployment_id = open_one(call)
    pg18.execute('ALTER DATABASE "%s" SET default_transaction_read_only = on' % ledger_name)
    answer = call("recorded", deployment_id=deployment_id, step={"name": "a"})
    assert (answer["ledger"], answer["deployment"]["steps"][0]["name"]) == ("journal", "a")
    pg18.execute('ALTER DATABASE "%s" RESET default_transaction_read_only' % ledger_name)
    assert call("closed", deployment_id=deployment_id, status="succeeded")["imported_records"] == 1


def test_locked_ledger_does_not_hold_up_an_emergency(call, pg18, ledger_name, monkeypatch):
    from ansible_collections.holdfast.postgres.plugins.module_utils._ledger import ledger

    deployment_id = open_one(call)
    monkeypatch.setitem(ledger.SETTINGS, "lock_timeout", "200")
    blocker = pg18.connect(ledger_name)
    try:
        with blocker.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE holdfast.deployment")
            answer = call("recorded", deployment_id=deployment_id, step={"name": "a"})
        assert answer["ledger"] == "journal"
        assert "lock timeout" in answer["warnings"][0]
    finally:
        blocker.close()


def test_damaged_line_is_left_out_and_named(call, down, tmp_path):
    deployment_id = open_one(call, server=down)
    path = tmp_path / "journal" / (deployment_id + ".jsonl")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"uuid": "torn')
    call("recorded", deployment_id=deployment_id, server=down, step={"name": "a"})
    answer = call("listed", live_database="app", server=down)
    assert [step["name"] for step in answer["deployments"][0]["steps"]] == ["a"]
    answer = call("opened", live_database="other")
    assert answer["imported_records"] == 2
    assert any("damaged lines" in warning and "2" in warning for warning in answer["warnings"])


def test_poisoned_journal_stays_and_blocks_nobody(call, tmp_path):
    (tmp_path / "journal").mkdir()
    path = tmp_path / "journal" / "bad.jsonl"
    record = {"uuid": "no uuid", "at": "2026-01-01T00:00:00.000000Z", "state": "recorded", "deployment_id": "bad"}
    record.update(deployment={}, steps=[], checks=[], migrations=[], rollback_points=[], alerts=[], incidents=[])
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    answer = call("opened", live_database="app")
    assert answer["ledger"] == "database"
    assert "was not imported" in answer["warnings"][0]
    assert path.exists()
    # Further records of that deployment wait behind the ones that could not be imported.
    assert call("recorded", deployment_id="bad", step={"name": "a"})["ledger"] == "journal"


def test_record_written_while_the_file_is_imported_is_not_lost(tmp_path):
    directory = str(tmp_path)
    record = {"uuid": "1", "at": "x", "state": "recorded", "deployment_id": "d"}
    path = journal.append(directory, record)
    thread = threading.Thread(target=journal.append, args=(directory, {**record, "uuid": "2"}))
    with journal.taken_in(path) as found:
        thread.start()
        thread.join(timeout=0.2)
        assert thread.is_alive()
        assert [item["uuid"] for item in found.records] == ["1"]
    thread.join(timeout=5)
    assert [item["uuid"] for item in journal.read(path).records] == ["2"]


def test_secrets_and_impossible_characters_do_not_reach_the_ledger(call, pg18, ledger_name):
    deployment_id = open_one(call)
    call(
        "recorded",
        deployment_id=deployment_id,
        summary="nul \x00 and surrogate \udcff",
        details={
            "db_password": "s3cret",
            "nested": [{"api_key": 4711}],
            "token": {"a": "s3cret"},
            "has_token": True,
            "x\x00y": float("nan"),
        },
    )
    stored = call("listed", deployment_id=deployment_id)["deployment"]
    assert stored["summary"] == "nul  and surrogate ?"
    assert stored["details"] == {
        "db_password": "********",
        "nested": [{"api_key": "********"}],
        "token": {"a": "********"},
        "has_token": True,
        "xy": "nan",
    }


def test_hostile_names_of_ledger_and_live_database(pg18, tmp_path):
    name = "le=dger 'x' \"y\" \\ %s é"
    options = {"ledger_database": name, "journal_dir": str(tmp_path), "limit": 5, "live_database": HOSTILE}
    try:
        for _ in range(2):
            answer = record_deployment(
                {"state": "opened", **options}, server=pg18.server, now=datetime.now(timezone.utc)
            )
            assert (answer["ledger"], answer["deployment"]["database"]) == ("database", HOSTILE), answer
    finally:
        pg18.drop_database(name)


def test_ledger_of_other_versions(pg16, pg_distribution, tmp_path):
    for server in (pg16, pg_distribution):
        options = {"ledger_database": "holdfast", "live_database": "app", "limit": 5}
        try:
            answer = record_deployment(
                {"state": "opened", **options}, server=server.server, now=datetime.now(timezone.utc)
            )
            assert (answer["ledger"], answer["changed"]) == ("database", True)
        finally:
            server.drop_database("holdfast")


def test_queries_of_the_documentation_work(call, pg18, ledger_name):
    deployment_id = open_one(call)
    call(
        "recorded",
        deployment_id=deployment_id,
        step={"name": "a"},
        checks=[{"name": "c", "status": "failed"}],
        rollback_point={"kind": "clone", "side_database": "x", "bytes": 5},
        live_database="app",
    )
    baseline = {"environment": "test", "live_database": "app", "ledger_database": ledger_name, "activate": True}
    measured = {"timings": [{"name": "q", "status": "measured"}]}
    keep_baseline(
        {**baseline, "state": "established", "measurement": measured},
        server=pg18.server,
        now=datetime.now(timezone.utc),
    )
    page = (ROOT / "docs/the-ledger.md").read_text(encoding="utf-8")
    queries = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert len(queries) == 5
    for query in queries:
        assert len(pg18.execute(query, database=ledger_name)) == 1, query


def test_module_check_run_check_run(pg18, ledger_name, tmp_path):
    arguments = {**pg18.login, "ledger_database": ledger_name, "journal_dir": str(tmp_path / "journal")}
    opening = {**arguments, "state": "opened", "live_database": "app", "deployment_id": "first", "kind": "deploy"}
    assert run_module("deployment", opening, check=True)["changed"]
    assert ledger_name not in pg18.databases()
    result = run_module("deployment", opening)
    assert not result["failed"], result
    assert result["changed"]
    assert result["deployment"]["id"] == "first"
    assert not run_module("deployment", opening, check=True)["changed"]
    assert not run_module("deployment", opening)["changed"]
    result = run_module(
        "deployment",
        {
            **arguments,
            "state": "closed",
            "deployment_id": "first",
            "status": "succeeded",
            "step": {"name": "one", "started_at": "2026-01-01T00:00:00Z"},
            "rollback_point": {"kind": "archive", "archive_id": "a", "live_database": "app", "schema_version": ""},
        },
    )
    assert (result["changed"], result["deployment"]["status"]) == (False, "succeeded")
    result = run_module("deployment", {**arguments, "state": "listed", "live_database": "app", "login_port": 1})
    assert (result["failed"], result["ledger"], result["deployments"]) == (False, "journal", [])
    assert result["warnings"]
