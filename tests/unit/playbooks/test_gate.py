# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What opens a gate and what keeps it closed, at fixed times."""

from __future__ import annotations

import copy
import pathlib
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import yaml

from ansible_collections.holdfast.postgres.plugins.plugin_utils._gate import digest_of, gate_verdict

ROOT = pathlib.Path(__file__).resolve().parents[3]
NOW = "2026-11-20T20:00:00Z"  # a Friday; 21:00 in Amsterdam
PENDING = [{"version": "v2.0.0", "checksum": "abc"}]
ITEMS: list[dict[str, Any]] = [
    {"name": "change", "title": "Change request approved", "signed_by": "technical_lead"},
]
SIGNED = {
    "item": "change",
    "role": "technical_lead",
    "by": "T. Lead",
    "at": "2026-11-20T18:00:00+01:00",
    "reference": "CHG-1042",
    "for": "v2.0.0",
}


def judge(
    *signatures: Any, items: Any = ITEMS, facts: dict[str, Any] | None = None, **definition: Any
) -> dict[str, Any]:
    given = {
        "kind": "standard",
        "stage": "open",
        "now": NOW,
        "operator": "deployer.person",
        "deployment_id": "20261120T200000Z-7f3a",
        "database": "rently_lending",
        "pending": PENDING,
        **(facts or {}),
    }
    return gate_verdict({"items": items, "signatures": list(signatures), **definition}, given)


def signed(**changes: Any) -> dict[str, Any]:
    return {**SIGNED, **changes}


def state(verdict: dict[str, Any], name: str = "change") -> str:
    return next(item["state"] for item in verdict["items"] if item["name"] == name)


# People


def test_signature_with_name_time_and_reference_opens_it() -> None:
    verdict = judge(SIGNED)
    assert verdict["ok"] and verdict["code"] == "" and verdict["missing"] == []
    assert verdict["items"][0]["signatures"] == [
        {
            "role": "technical_lead",
            "by": "T. Lead",
            "at": "2026-11-20T18:00:00+01:00",
            "reference": "CHG-1042",
            "for": ["v2.0.0"],
            "comment": "",
            "rejected": False,
        }
    ]
    assert verdict["message"] == (
        "The gate is open for the standard deployment of v2.0.0 to rently_lending: 1 of 1 are fulfilled."
    )


def test_missing_signature_is_told_with_what_to_do() -> None:
    verdict = judge()
    assert not verdict["ok"] and verdict["code"] == "gate_closed" and state(verdict) == "missing"
    assert verdict["missing"] == [
        "change (Change request approved): Nobody has signed as technical_lead. Have it signed: {item: change, "
        "role: technical_lead, by: ..., at: ..., reference: ..., for: v2.0.0}."
    ]
    assert "stopped, 1 of 1 are missing. Nothing was touched. (1) change" in verdict["message"]


@pytest.mark.parametrize(
    ("changes", "expected", "told"),
    [
        ({"for": "v1.9.0"}, "mismatched", "for v1.9.0, and not for v2.0.0"),
        ({"for": None}, "mismatched", "does not say for which version"),
        ({"for": "20261119T200000Z-0000"}, "mismatched", "for 20261119T200000Z-0000, and not for v2.0.0"),
        ({"for": "20261120T200000Z-7f3a"}, "fulfilled", ""),
        ({"for": ["v1.9.0", "v2.0.0"]}, "fulfilled", ""),
        ({"database": "another"}, "mismatched", "for the database another, not rently_lending"),
        ({"database": "rently_lending"}, "fulfilled", ""),
        ({"reference": ""}, "missing", "without a reference"),
        ({"decision": "rejected", "comment": "Not before the audit."}, "rejected", "said no: Not before the audit."),
        ({"at": "2026-11-20T21:06:00+01:00"}, "missing", "which is not yet"),
        ({"at": "2026-11-20T21:04:00+01:00"}, "fulfilled", ""),
        ({"at": datetime(2026, 11, 20, 18, tzinfo=timezone.utc)}, "fulfilled", ""),
        ({"role": "business_lead"}, "missing", "Nobody has signed as technical_lead"),
        ({"item": "chnage"}, "missing", "signatures for chnage, which are no items"),
    ],
)
def test_signature_must_be_for_this_and_complete(changes: dict[str, Any], expected: str, told: str) -> None:
    verdict = judge(signed(**changes))
    assert state(verdict) == expected and told in " ".join(verdict["missing"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"at": "2026-11-20T18:00:00"}, "at: the time has no zone"),
        ({"at": datetime(2026, 11, 20, 18)}, "at: the time has no zone"),
        ({"at": "2026-11-20"}, "at: the time has no zone"),
        ({"at": "yesterday"}, "at: it is no time"),
        ({"at": ""}, "at: it is no time"),
        ({"by": ""}, "by: it is missing"),
        ({"by": None}, "by: it is missing"),
        ({"item": ""}, "item: it is missing"),
        ({"decision": "maybe"}, "decision: the word is unknown"),
        ({"referenec": "x"}, "the key 'referenec' is unknown"),
    ],
)
def test_signature_that_cannot_be_understood_keeps_the_gate_closed(changes: dict[str, Any], told: str) -> None:
    verdict = judge(SIGNED, signed(**changes))
    assert not verdict["ok"] and told in verdict["message"] and "signature 2" in verdict["message"]


def test_every_pending_version_must_be_signed_for() -> None:
    pending = [{"version": "v2.0.0"}, {"version": "v2.1.0"}]
    verdict = judge(SIGNED, facts={"pending": pending})
    assert "for v2.0.0, and not for v2.1.0" in verdict["message"] and "for: [v2.0.0, v2.1.0]" in verdict["message"]
    assert judge(signed(**{"for": ["v2.0.0", "v2.1.0"]}), facts={"pending": pending})["ok"]


@pytest.mark.parametrize(
    ("kind_hours", "item_hours", "expected"),
    [(None, None, "fulfilled"), (2.9, None, "stale"), (3, None, "fulfilled"), (1, 4, "fulfilled"), (99, 2, "stale")],
)
def test_signature_grows_stale(kind_hours: float | None, item_hours: float | None, expected: str) -> None:
    verdict = judge(
        SIGNED,
        items=[{**ITEMS[0], "hours": item_hours}],
        kinds={"standard": {"signature_hours": kind_hours}},
    )
    assert state(verdict) == expected
    if expected == "stale":
        assert "3.0 hours ago, and it holds for" in verdict["message"]


def test_age_is_counted_in_time_and_not_on_the_clock() -> None:
    # Between the two, clocks in Amsterdam went back by an hour.
    given = {"kinds": {"standard": {"signature_hours": 24}}, "facts": {"now": "2026-10-25T11:30:00+01:00"}}
    assert state(judge(signed(at="2026-10-24T12:00:00+02:00"), **given)) == "stale"
    assert state(judge(signed(at="2026-10-24T12:30:00+02:00"), **given)) == "fulfilled"


def test_newest_decision_that_is_meant_for_this_counts() -> None:
    no = signed(decision="rejected", at="2026-11-20T19:00:00+01:00")
    assert state(judge(SIGNED, no)) == "rejected"
    assert state(judge(no, signed(at="2026-11-20T20:00:00+01:00"))) == "fulfilled"
    assert state(judge(SIGNED, {**no, "for": "v1.9.0"})) == "fulfilled"


def test_standing_approval_is_for_no_version_and_still_grows_stale() -> None:
    items = [{**ITEMS[0], "standing": True, "hours": 24}]
    assert judge(signed(**{"for": None}), items=items)["ok"]
    assert state(judge(signed(at="2026-11-01T00:00:00Z"), items=items)) == "stale"


def test_only_named_people_may_sign_in_a_role() -> None:
    people = {"technical_lead": ["t. lead", "another"]}
    assert judge(SIGNED, people=people)["ok"]
    verdict = judge(signed(by="Somebody"), people=people)
    assert "Somebody signed as technical_lead, but is not among those who may" in verdict["message"]


def test_item_may_need_several_roles() -> None:
    items = [{"name": "change", "signed_by": ["technical_lead", "business_lead"]}]
    verdict = judge(SIGNED, items=items)
    assert "Nobody has signed as business_lead" in verdict["message"] and len(verdict["missing"]) == 1
    assert judge(SIGNED, signed(role="business_lead", by="B. Lead"), items=items)["ok"]


def test_signature_may_cover_several_items() -> None:
    items = [ITEMS[0], {"name": "review", "signed_by": "technical_lead"}]
    assert judge({**signed(items=["change", "review"]), "item": None}, items=items)["ok"]


# Four eyes

APART = {"standard": {"apart": [["deployer", "technical_lead"], ["technical_lead", "business_lead"]]}}
TWO = [*ITEMS, {"name": "scope", "signed_by": "business_lead"}]


def test_who_approves_is_not_who_deploys() -> None:
    both = [SIGNED, signed(item="scope", role="business_lead", by="B. Lead")]
    assert judge(*both, items=TWO, kinds=APART)["ok"]
    verdict = judge(*both, items=TWO, kinds=APART, facts={"operator": " t. LEAD "})
    assert verdict["missing"] == [
        "four eyes (deployer and technical_lead): T. Lead is deployer and technical_lead. "
        "Have another person sign, or deploy."
    ]


def test_one_person_cannot_hold_two_roles_that_are_apart() -> None:
    verdict = judge(SIGNED, signed(item="scope", role="business_lead"), items=TWO, kinds=APART)
    assert "T. Lead is technical_lead and business_lead" in verdict["message"]


@pytest.mark.parametrize("operator", ["", "root", "Postgres"])
def test_account_that_several_use_is_nobody(operator: str) -> None:
    both = [SIGNED, signed(item="scope", role="business_lead", by="B. Lead")]
    verdict = judge(*both, items=TWO, kinds=APART, facts={"operator": operator}, shared_accounts=["root", "postgres"])
    assert len(verdict["missing"]) == 1 and "-e gate_operator=" in verdict["missing"][0]


def test_rejected_or_stale_signature_makes_nobody_an_approver() -> None:
    verdict = judge(signed(decision="rejected", by="deployer.person"), items=TWO, kinds=APART)
    assert not [text for text in verdict["missing"] if text.startswith("four eyes")]


# Sources


def test_signatures_come_from_inventory_files_and_a_survey() -> None:
    items = [{"name": name, "signed_by": "technical_lead"} for name in ("a", "b", "c")]
    lines = yaml.safe_dump([signed(item="b")])
    survey = "{item: c, role: technical_lead, by: T. Lead, at: 2026-11-20T18:00:00+01:00, reference: 7, for: v2.0.0}"
    verdict = judge(signed(item="a"), items=items, files={"f.yml": lines}, survey=survey)
    assert verdict["ok"], verdict["missing"]
    listed = "signatures:\n- " + survey
    assert judge(signed(item="a"), signed(item="b"), items=items, files={"f": listed})["ok"]


@pytest.mark.parametrize("survey", ["", None, [], "[]", "# nothing yet"])
def test_empty_answer_of_a_survey_is_no_signature(survey: Any) -> None:
    assert judge(SIGNED, survey=survey)["ok"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"absent": ["gone.yml"]}, "The file gone.yml is not there."),
        ({"files": {"bad.yml": "a: [1\nb: 2"}}, "bad.yml, line 2 is not a list in YAML"),
        ({"survey": "approved by me"}, "gate_survey_signatures is not a list in YAML"),
        ({"survey": "[7]"}, "gate_survey_signatures, signature 1: this is a number, not a mapping"),
    ],
)
def test_what_cannot_be_read_keeps_the_gate_closed(given: dict[str, Any], told: str) -> None:
    verdict = judge(SIGNED, **given)
    assert not verdict["ok"] and told in verdict["message"]


# Machines


def check(name: str, *, suite: str = "server", status: str = "passed", **more: Any) -> dict[str, Any]:
    return {"suite": suite, "name": name, "status": status, "severity": "error", "message": "found 3", **more}


def machine(item: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return judge(items=[{"name": "machine", **item}], facts={"stage": "ready", **facts})


def test_machine_items_wait_until_their_stage() -> None:
    items = [*ITEMS, {"name": "server", "checks": {"suites": ["server"]}}, {"name": "answers", "probes": "all"}]
    opened = judge(SIGNED, items=items)
    assert opened["ok"] and (state(opened, "server"), state(opened, "answers")) == ("waiting", "waiting")
    ready = judge(SIGNED, items=items, facts={"stage": "ready", "preflight": [check("x")]})
    assert ready["ok"] and (state(ready, "server"), state(ready, "answers")) == ("fulfilled", "waiting")
    live = judge(
        SIGNED,
        items=items,
        facts={
            "stage": "go_live",
            "preflight": [check("x")],
            "verify": [check("health", suite="probes", status="failed")],
        },
    )
    assert live["missing"] == ["answers: These do not hold: health (found 3). See what the probes say, and mend it."]
    assert "Nothing was touched" not in live["message"]


@pytest.mark.parametrize(
    ("wanted", "rows", "told"),
    [
        ({"names": ["x"]}, [check("x")], ""),
        ({"names": ["x"]}, [check("x", status="failed", severity="info")], "These do not hold: x (found 3)"),
        ({"names": ["x"]}, [check("y")], "The check 'x' was not asked"),
        ({"names": ["x"]}, None, "No check has been made at this stage"),
        ({"names": ["x"]}, [check("x"), check("x", suite="b", status="failed")], "These do not hold: x"),
        ({"suites": ["server"]}, [check("x"), check("y", status="skipped")], ""),
        ({"suites": ["server"]}, [check("y", status="skipped")], "The suite 'server' was not asked"),
        ({"names": ["x"]}, [check("x", status="skipped")], "The check 'x' was not asked"),
        ({"suites": ["server"]}, [check("x", status="failed", severity="warning")], ""),
        (
            {"suites": ["server"], "severity": "warning"},
            [check("x", status="failed", severity="warning"), check("i", status="failed", severity="info")],
            "These do not hold: x (found 3).",
        ),
        ({"suites": ["server", "post"]}, [check("x")], "The suite 'post' was not asked"),
        ({"tags": ["money"]}, [check("x", tags=["money"], status="failed")], "These do not hold: x"),
        ({"tags": ["money"]}, [check("x", tags=[])], "The tag 'money' was not asked"),
    ],
)
def test_checks_must_have_been_made_and_hold(wanted: Any, rows: Any, told: str) -> None:
    verdict = machine({"checks": wanted}, preflight=rows)
    assert verdict["ok"] == (not told) and told in verdict["message"]


def test_probe_of_the_name_of_a_check_is_another() -> None:
    rows = [check("health")]
    assert (
        "The probe 'health' was not asked"
        in machine({"probes": ["health"], "stage": "ready"}, preflight=rows)["message"]
    )


@pytest.mark.parametrize(
    ("archive", "told"),
    [
        ({"path": "/b/1", "snapshot_at": "2026-11-20T00:00:00+00:00"}, ""),
        ({"path": "/b/1", "snapshot_at": "2026-11-20T00:00:00", "status": "good"}, ""),
        (
            {"path": "/b/1", "snapshot_at": "2026-11-19T19:00:00Z"},
            "is 25.0 hours old, and at most 24 hours are allowed",
        ),
        ({"path": "/b/1", "snapshot_at": "2026-11-10T19:00:00Z"}, "is 10 days old"),
        ({"path": "/b/1", "status": "corrupt", "reason": "data.dump"}, "/b/1, is not good: data.dump"),
        ({"path": "/b/1"}, "is not known"),
        (None, "There is no archive. Run playbooks/backup.yml."),
    ],
)
def test_archive_must_be_young_and_good(archive: Any, told: str) -> None:
    verdict = machine({"archive": {"hours": 24}}, archive=archive)
    assert verdict["ok"] == (not told) and told in verdict["message"]


@pytest.mark.parametrize(
    ("wanted", "rehearsal", "ok"),
    [
        ("proven", {"proven": True, "mode": "full"}, True),
        ("proven", {"proven": False, "mode": "full"}, False),
        ("full", {"proven": False, "mode": "full"}, True),
        ("full", {"mode": "schema"}, False),
        ("full", None, False),
    ],
)
def test_rehearsal_must_have_shown_what_is_asked(wanted: str, rehearsal: Any, ok: bool) -> None:
    assert machine({"rehearsal": wanted}, rehearsal=rehearsal)["ok"] == ok


def test_fact_of_the_inventory_must_hold() -> None:
    assert judge(items=[{"name": "space", "holds": True}])["ok"]
    verdict = judge(items=[{"name": "space", "holds": False, "next": "Order disks."}])
    assert verdict["missing"] == ["space: It does not hold. Order disks."]


# Kinds, windows, time


def test_each_kind_has_its_own_items() -> None:
    items = [
        {"name": "all", "signed_by": "a"},
        {"name": "slow", "signed_by": "a", "kinds": ["standard", "infrastructure"]},
        {"name": "tidy", "signed_by": "a", "kinds": ["cleanup"]},
    ]

    def names(kind: str) -> list[str]:
        return [item["name"] for item in judge(items=items, facts={"kind": kind})["items"]]

    assert names("standard") == ["all", "slow"] and names("") == ["all", "slow"]
    assert names("hotfix") == ["all"] and names("cleanup") == ["tidy"]


def test_cleanup_is_signed_for_as_such() -> None:
    items = [{"name": "tidy", "signed_by": "dba", "kinds": ["cleanup"]}]
    yes = signed(item="tidy", role="dba", **{"for": "cleanup"})
    assert judge(yes, items=items, facts={"kind": "cleanup", "pending": []})["ok"]
    assert not judge(signed(item="tidy", role="dba"), items=items, facts={"kind": "cleanup", "pending": []})["ok"]


WEEKEND = {
    "standard": {
        "minutes": 120,
        "windows": [{"days": ["fri", "sat"], "from": "22:00", "to": "02:00", "timezone": "Europe/Amsterdam"}],
    },
    "hotfix": {"minutes": 60},
}


def at(time: str, kind: str = "standard", **given: Any) -> dict[str, Any]:
    facts = {"now": time, "kind": kind, **given.pop("facts", {})}
    return judge(SIGNED, kinds=given.pop("kinds", WEEKEND), facts=facts, **given)


@pytest.mark.parametrize(
    ("now", "ok"),
    [
        ("2026-11-20T20:59:59Z", False),
        ("2026-11-20T21:00:00Z", True),
        ("2026-11-20T22:30:00Z", True),
        ("2026-11-20T23:00:00Z", True),
        ("2026-11-20T23:00:01Z", False),  # less than 120 minutes are left
        ("2026-11-21T21:00:00Z", True),
        ("2026-11-22T00:30:00Z", False),  # Sunday, 01:30: open since Saturday, and too late to begin
        ("2026-11-22T21:30:00Z", False),  # Sunday
    ],
)
def test_window_is_open_over_midnight_and_must_hold_the_whole_run(now: str, ok: bool) -> None:
    verdict = at(now)
    assert verdict["ok"] == ok, verdict["message"]


def test_closed_window_tells_when_it_opens_and_what_is_left() -> None:
    assert "The change window is closed. It opens Fri 2026-11-20T22:00+01:00." in at(NOW)["message"]
    late = at("2026-11-21T00:30:00Z")
    assert "closes in 30 minutes, at Sat 2026-11-21T02:00+01:00, and 120 are needed" in late["message"]
    assert "It opens Sat 2026-11-21T22:00+01:00" in late["message"]


def test_kind_without_a_window_may_begin_at_any_time() -> None:
    verdict = at("2026-11-18T03:00:00Z", "hotfix", items=[])
    assert verdict["ok"] and verdict["window"] is None


def test_windows_that_adjoin_are_one() -> None:
    kinds = {"standard": {"minutes": 600, "windows": [{"from": "00:00", "to": "24:00", "timezone": "UTC"}]}}
    assert at("2026-11-20T20:00:00Z", kinds=kinds)["ok"]


def test_yaml_reads_times_without_quotes_as_numbers_and_they_are_understood() -> None:
    window = yaml.safe_load("{days: [fri], from: 22:00, to: 02:30, timezone: Europe/Amsterdam}")
    assert window["from"] == 1320
    assert at("2026-11-21T01:29:00Z", kinds={"standard": {"windows": [window]}})["ok"]
    assert not at("2026-11-21T01:30:00Z", kinds={"standard": {"windows": [window]}})["ok"]


@pytest.mark.parametrize(
    ("window", "open_minutes"),
    [
        # On 2026-03-29, clocks in Amsterdam go from 02:00 to 03:00; on 2026-10-25, from 03:00 back to 02:00.
        ({"days": ["sat"], "from": "22:00", "to": "04:00"}, {"2026-03-28": 300, "2026-10-24": 420, "2026-11-21": 360}),
        ({"days": ["sun"], "from": "01:00", "to": "02:30"}, {"2026-03-29": 90, "2026-10-25": 90, "2026-11-22": 90}),
        ({"days": ["sun"], "from": "02:30", "to": "03:30"}, {"2026-03-29": 0, "2026-10-25": 120, "2026-11-22": 60}),
        ({"days": ["sun"], "from": "02:15", "to": "02:45"}, {"2026-03-29": 30, "2026-10-25": 30, "2026-11-22": 30}),
    ],
)
def test_window_follows_the_clock_on_the_wall_when_it_changes(window: Any, open_minutes: dict[str, int]) -> None:
    kinds = {"standard": {"windows": [{**window, "timezone": "Europe/Amsterdam"}]}}
    for day, expected in open_minutes.items():
        begin = datetime.fromisoformat(day + "T00:00:00+00:00") - timedelta(hours=2)
        minutes = [begin + timedelta(minutes=n) for n in range(36 * 60)]
        opened = sum(judge(items=[], kinds=kinds, facts={"now": minute.isoformat()})["ok"] for minute in minutes)
        assert opened == expected, day


def test_hour_that_comes_twice_counts_the_first_time() -> None:
    kinds = {
        "standard": {"windows": [{"days": ["sun"], "from": "02:00", "to": "02:30", "timezone": "Europe/Amsterdam"}]}
    }
    assert at("2026-10-25T02:10:00+02:00", kinds=kinds, items=[])["ok"]
    assert not at("2026-10-25T02:10:00+01:00", kinds=kinds, items=[])["ok"]


def blackout(now: str, value: Any, kind: str = "hotfix") -> dict[str, Any]:
    return at(now, kind, items=[], blackouts=[value], timezone="Europe/Amsterdam")


def test_blackout_closes_its_dates_for_the_kinds_that_it_names() -> None:
    freeze = {"from": "2026-12-20", "to": "2027-01-03", "reason": "year end"}
    closed = blackout("2026-12-19T23:30:00Z", freeze)
    assert (
        "2026-12-20 to 2027-01-03 is blacked out (year end). It opens Mon 2027-01-04T00:00+01:00" in closed["message"]
    )
    assert blackout("2026-12-19T21:59:00Z", freeze)["ok"]
    assert "closes in 59 minutes" in blackout("2026-12-19T22:00:30Z", freeze)["message"]
    assert not blackout("2027-01-03T22:59:00Z", freeze)["ok"] and blackout("2027-01-03T23:00:00Z", freeze)["ok"]
    assert blackout("2026-12-25T00:00:00Z", {**freeze, "kinds": ["standard"]})["ok"]


def test_single_date_may_be_blacked_out_and_yaml_may_have_read_it() -> None:
    for value in ("2026-12-24", yaml.safe_load("2026-12-24"), {"date": "2026-12-24"}):
        assert not blackout("2026-12-24T12:00:00+01:00", value)["ok"]
        assert blackout("2026-12-25T00:00:00+01:00", value)["ok"]


def test_window_in_a_blackout_is_none() -> None:
    verdict = at(
        "2026-11-20T21:30:00Z", blackouts=["2026-11-20", {"date": "2026-11-21"}], timezone="Europe/Amsterdam", items=[]
    )
    # What is left of Saturday's window is just long enough.
    assert "It opens Sun 2026-11-22T00:00+01:00" in verdict["message"]


def test_run_that_took_its_time_before_it_began_is_stopped() -> None:
    facts = {"stage": "ready", "started_at": "2026-11-20T21:00:00+00:00"}
    assert at("2026-11-20T22:59:00Z", facts=facts)["ok"]
    late = at("2026-11-20T23:01:00Z", facts=facts)
    assert "The run has taken 121 of the 120 minutes of its kind before it began" in late["message"]
    assert at("2026-11-21T03:00:00Z", facts={**facts, "stage": "go_live"})["ok"]


# What is signed is what is deployed


def test_digest_ties_a_signature_to_the_files() -> None:
    digest = digest_of(PENDING)
    items = [{**ITEMS[0], "digest": True}]
    verdict = judge(SIGNED, items=items)
    assert verdict["digest"] == digest and "for migrations with the digest none, and these have " + digest in str(
        verdict
    )
    assert judge(signed(digest=digest), items=items)["ok"]
    changed = [{"version": "v2.0.0", "checksum": "abd"}]
    assert state(judge(signed(digest=digest), items=items, facts={"pending": changed})) == "mismatched"
    unknown = [{"version": "v2.0.0"}]
    assert state(judge(signed(digest=""), items=items, facts={"pending": unknown})) == "mismatched"


# A gate that cannot be understood


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        ({"items": [{"name": "x"}]}, "item 1 (x) of the gate: it asks nothing"),
        ({"items": [{"name": "x", "holds": True, "probes": "all"}]}, "it asks probes and holds"),
        ({"items": [{"signed_by": "x"}]}, "name: it is missing"),
        ({"items": [{"name": "x", "signed_by": []}]}, "it names nobody"),
        ({"items": [{"name": "x", "checks": {}}]}, "it names no check"),
        ({"items": [{"name": "x", "checks": {"suite": "a"}}]}, "the key 'suite' is unknown"),
        ({"items": [{"name": "x", "checks": {"names": []}}]}, "it names no check"),
        ({"items": [{"name": "x", "archive": {"hours": "old"}}]}, "hours: it must be a number"),
        ({"items": [{"name": "x", "rehearsal": "maybe"}]}, "rehearsal: the word is unknown"),
        ({"items": [{"name": "x", "holds": "perhaps"}]}, "holds: this is text"),
        ({"items": [{"name": "x", "archive": {"hours": 1}, "stage": "open"}]}, "machines have found nothing yet"),
        ({"items": [{"name": "x", "signed_by": "a", "kinds": ["hotfx"]}]}, "kinds: a word is unknown"),
        ({"items": [ITEMS[0], ITEMS[0]]}, "two items have this name"),
        ({"items": "all"}, "gate_items: it is not a list"),
        ({"kinds": {"hotfix": {}}}, "there is no kind 'standard' of deployments"),
        ({"kinds": {"hotfx": {}}}, "the key 'hotfx' is unknown"),
        ({"kinds": {"standard": {"apart": [["deployer", "tech_lead"]]}}}, "does not name two roles"),
        ({"kinds": {"standard": {"apart": [["deployer"]]}}}, "does not name two roles"),
        ({"kinds": {"standard": {"windows": [{"from": "22:00", "to": "23:00"}]}}}, "timezone: it is missing"),
        (
            {"kinds": {"standard": {"windows": [{"from": "22", "to": "23:00", "timezone": "UTC"}]}}},
            "from: it is no time of the day",
        ),
        (
            {"kinds": {"standard": {"windows": [{"from": "22:00", "to": "25:00", "timezone": "UTC"}]}}},
            "to: it is no time of the day",
        ),
        (
            {"kinds": {"standard": {"windows": [{"from": "1:00", "to": "2:00", "timezone": "Europe/Rotterdam"}]}}},
            "'Europe/Rotterdam' is unknown",
        ),
        (
            {"kinds": {"standard": {"windows": [{"days": ["someday"], "from": "1:00", "to": "2:00"}]}}},
            "days: a weekday is unknown",
        ),
        ({"blackouts": ["tomorrow"], "timezone": "UTC"}, "blackout 1, date: it is no date"),
        ({"blackouts": [{"from": "2026-12-24", "to": "2026-12-23"}], "timezone": "UTC"}, "ends before it begins"),
    ],
)
def test_gate_that_cannot_be_understood_stays_closed(definition: dict[str, Any], told: str) -> None:
    verdict = judge(SIGNED, **definition)
    assert not verdict["ok"] and verdict["code"] == "option_invalid"
    assert told in verdict["message"], verdict["message"]


def test_everything_that_is_missing_is_told_at_once() -> None:
    items = [*TWO, {"name": "space", "holds": False}]
    verdict = at(NOW, items=items, kinds={**WEEKEND, "standard": {**WEEKEND["standard"], **APART["standard"]}})
    texts = " | ".join(verdict["missing"])
    assert [name in texts for name in ("change window", "scope", "space")] == [True] * 3 and len(
        verdict["missing"]
    ) == 3
    assert "3 of 4 are missing" in verdict["message"]


def test_nothing_that_is_given_is_changed() -> None:
    definition = {"items": copy.deepcopy(ITEMS), "signatures": [copy.deepcopy(SIGNED)]}
    gate_verdict(definition, {"now": NOW, "stage": "open", "pending": PENDING})
    assert definition == {"items": ITEMS, "signatures": [SIGNED]}


# The gates that the project shows

SHOWN = [
    "examples/rently/gate.yml",
    "examples/rentguy/gate.yml",
    "inventories/staging/group_vars/holdfast.yml",
    "inventories/production/group_vars/holdfast.yml",
]


def shown(name: str) -> dict[str, Any]:
    variables = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    given = {key[len("gate_") :]: value for key, value in variables.items() if key.startswith("gate_")}
    # A fact of the inventory is a template.
    given["items"] = [{**item, "holds": True} if "holds" in item else item for item in given["items"]]
    return given


@pytest.mark.parametrize("kind", ["standard", "hotfix", "infrastructure", "cleanup"])
@pytest.mark.parametrize("name", SHOWN)
def test_gate_that_is_shown_can_be_understood(name: str, kind: str) -> None:
    verdict = judge(facts={"kind": kind, "stage": "go_live", "operator": "somebody"}, **shown(name))
    assert verdict["code"] in ("", "gate_closed"), verdict["message"]
    assert verdict["items"] or kind == "cleanup"


@pytest.mark.parametrize("name", SHOWN)
def test_gate_that_is_shown_names_checks_that_there_are(name: str) -> None:
    example = ROOT / "examples" / ("rentguy" if "rentguy" in name else "rently")
    files = [*(example / "suites").glob("*.yml"), *(ROOT / "roles/preflight/files/suites").glob("*.yml")]
    suites = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    checks = {check["name"] for suite in suites for check in suite["checks"]}
    wanted = [item["checks"] for item in shown(name)["items"] if "checks" in item]
    assert {suite for checks in wanted for suite in checks.get("suites", [])} <= {suite["suite"] for suite in suites}
    assert {named for checks in wanted for named in checks.get("names", [])} <= checks
