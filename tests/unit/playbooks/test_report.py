# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report says, for each way in which a run can end."""

from __future__ import annotations

from typing import Any

from ansible_collections.holdfast.postgres.plugins.plugin_utils._report import report_document

STARTED = {
    "preflight": "2026-11-20T22:00:00Z",
    "backup": "2026-11-20T22:00:01Z",
    "rehearse": "2026-11-20T22:00:01.500Z",
    "rollback_point": "2026-11-20T22:00:02Z",
    "migrate": "2026-11-20T22:00:03Z",
}
FAILURE = {
    "at": "2026-11-20T22:00:09Z",
    "msg": "it broke.",
    "code": "migration_failed",
    "hint": "Mend it.",
    "result": {},
}


def facts(**more: Any) -> dict[str, Any]:
    return {
        "kind": "deploy",
        "database": "bank",
        "check_mode": False,
        "status": {"current_version": "v1", "pending": [{"version": "v2"}]},
        "report_path": "/r/d1",
        **more,
    }


def record(**more: Any) -> dict[str, Any]:
    return {"id": "d1", "started_at": "2026-11-20T22:00:00Z", "steps": [], **more}


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["status"] for step in document["steps_to_record"]}


def test_success_names_the_versions_and_the_evidence() -> None:
    migrate = {"applied": [{"version": "v2"}], "current_version": "v2"}
    document = report_document(record(), facts(migrate=migrate, started={**STARTED, "verify": "2026-11-20T22:00:05Z"}))
    assert document["ok"]
    assert document["summary"] == (
        "v2 was deployed: bank serves at v2, and nothing was verified. Evidence: /r/d1/report.html."
    )
    assert statuses(document) == {"lint": "skipped", "report": "succeeded"}
    assert document["rollback"] is None and document["failure"] is None


def test_nothing_pending_marks_the_stages_as_skipped() -> None:
    document = report_document(
        record(), facts(started={"preflight": "1", "verify": "2"}, status={"current_version": "v2"})
    )
    assert document["summary"].startswith("Nothing was pending: bank serves at v2")
    assert statuses(document) == {
        "lint": "skipped",
        "backup": "skipped",
        "rehearse": "skipped",
        "rollback_point": "skipped",
        "migrate": "skipped",
        "report": "succeeded",
    }


def test_failure_is_of_the_stage_that_began_last_before_it() -> None:
    started = {**STARTED, "rollback": "2026-11-20T22:00:10Z"}
    document = report_document(
        record(), facts(failure=FAILURE, started=started, migrate={"failed": True, "msg": "it broke."})
    )
    assert document["failure"]["stage"] == "migrate"
    assert statuses(document)["migrate"] == "failed"


def test_failure_before_anything_was_applied_says_that_nothing_changed() -> None:
    document = report_document(record(), facts(failure=FAILURE, started={}))
    assert not document["ok"]
    assert document["deployment"]["status"] == "failed"
    assert document["failure"]["stage"] == "preflight"
    assert (
        "failed at the stage preflight: it broke. The live database was not changed: bank serves at v1."
        in (document["summary"])
    )
    assert "Next: Mend it." in document["summary"]


def test_undone_deployment_says_what_serves_and_what_is_kept() -> None:
    plan = {
        "strategy": "clone",
        "side_database": "bank_before",
        "schema_version": "v1",
        "sentence": "All.",
        "left_behind": "Nothing.",
    }
    swap = {"retired": "bank_retired", "live_oid": 7, "stall_ms": 12.5, "terminated": []}
    migrate = {"applied": [{"version": "v2"}], "current_version": "v2"}
    document = report_document(record(), facts(failure=FAILURE, started=STARTED, plan=plan, swap=swap, migrate=migrate))
    assert document["deployment"]["status"] == "rolled_back"
    assert document["rollback"]["done"] and document["rollback"]["retired"] == "bank_retired"
    assert "It was undone: bank serves at v1 again" in document["summary"]
    assert "kept as bank_retired. New sessions were kept out for 12.5 ms. Nothing." in document["summary"]


def test_undo_that_failed_is_shouted_with_its_own_reason_and_hint() -> None:
    document = report_document(
        record(),
        facts(
            failure=FAILURE,
            started={**STARTED, "rollback": "2026-11-20T22:00:10Z"},
            migrate={"applied": [{"version": "v2"}], "current_version": "v2"},
            plan={"strategy": "clone", "sentence": "s"},
            undo_failure={"msg": "sessions stayed.", "code": "database_in_use", "hint": "Terminate them."},
        ),
    )
    assert document["deployment"]["status"] == "failed"
    assert statuses(document)["rollback"] == "failed"
    assert "The undo failed: sessions stayed. IT WAS NOT UNDONE: bank serves at v2." in document["summary"]
    assert "Next: Terminate them." in document["summary"]


def test_checks_that_fail_after_an_undo_are_in_the_summary() -> None:
    checks = {"results": [{"name": "Totals agree", "status": "failed", "severity": "error"}]}
    plan = {"strategy": "clone", "schema_version": "v1", "sentence": "s"}
    document = report_document(
        record(),
        facts(
            kind="rollback",
            plan=plan,
            swap={"retired": "bank_retired", "live_oid": 7},
            rollback_checks=checks,
            started={"rollback": "1"},
        ),
    )
    assert "CHECKS FAILED AFTER THE UNDO: Totals agree." in document["summary"]
    assert document["checks"][0]["stage"] == "rollback"
    assert not document["ok"]


def test_check_mode_says_what_would_be() -> None:
    document = report_document(record(), facts(check_mode=True, started=STARTED))
    assert document["summary"] == "Check mode: v2 would be applied to bank."


def test_check_mode_of_an_undo_says_nothing_was_done() -> None:
    plan = {"strategy": "clone", "schema_version": "v1", "sentence": "bank will serve again."}
    swap = {"retired": "bank_retired", "live_oid": 7, "stall_ms": None}
    document = report_document(
        record(), facts(kind="rollback", check_mode=True, plan=plan, swap=swap, started={"rollback": "1"})
    )
    assert document["summary"] == "Check mode: bank will serve again."


def verified(*rows: tuple[str, str]) -> dict[str, Any]:
    return {"results": [{"name": s + " " + t, "severity": s, "status": t} for s, t in rows]}


def test_verdict_counts_what_was_verified() -> None:
    def summary(*rows: tuple[str, str]) -> str:
        migrate = {"applied": [{"version": "v2"}], "current_version": "v2"}
        return str(
            report_document(record(), facts(migrate=migrate, started=STARTED, verify=verified(*rows)))["summary"]
        )

    assert "serves at v2, and its checks hold. " in summary(("error", "passed"), ("error", "skipped"))
    assert "and its checks hold, with 1 warning. " in summary(("error", "passed"), ("warning", "failed"))
    assert "BUT CHECKS DO NOT HOLD: error failed. " in summary(("error", "failed"), ("error", "passed"))
    assert "and nothing was verified. " in summary(("error", "skipped"))


def test_stage_that_was_left_out_leaves_its_work_pending() -> None:
    document = report_document(record(), facts(started={"backup": "1"}))
    assert document["summary"].startswith("Pending and not applied, because the stage migrate was left out, is v2:")


ARCHIVE = {"path": "/b/d1", "id": "d1", "snapshot_at": "2026-11-20T22:00:01Z"}


def test_failure_that_left_nothing_behind_makes_its_rollback_points_unneeded() -> None:
    failed = {"failed": True, "applied": []}
    document = report_document(
        record(), facts(failure=FAILURE, started=STARTED, migrate=failed, archive=ARCHIVE, outcome={"left": "nothing"})
    )
    assert document["point_to_record"]["state"] == "unneeded"
    assert document["point_to_record"]["taken_at"] == ARCHIVE["snapshot_at"]
    for left in ("something", "unknown"):
        document = report_document(
            record(), facts(failure=FAILURE, started=STARTED, migrate=failed, archive=ARCHIVE, outcome={"left": left})
        )
        assert document["point_to_record"] is None
        assert "was not changed" not in document["summary"]


def test_migration_that_was_there_after_a_lost_connection_is_believed() -> None:
    outcome = {"left": "something", "current_version": "v2"}
    document = report_document(record(), facts(failure=FAILURE, started=STARTED, migrate={}, outcome=outcome))
    assert "IT WAS NOT UNDONE: bank serves at v2. The playbook rollback undoes it." in document["summary"]


def test_what_cannot_be_recorded_is_said_and_fails() -> None:
    migrate = {"applied": [{"version": "v2"}], "current_version": "v2"}
    document = report_document(record(), facts(migrate=migrate, started=STARTED, incomplete="No space left."))
    assert not document["ok"]
    assert document["summary"].endswith("THE RECORD OF THIS RUN IS INCOMPLETE: No space left.")


def test_steps_stand_in_the_order_of_the_stages() -> None:
    names = ["report", "migrate", "preflight", "verify"]
    document = report_document(record(steps=[{"name": name} for name in names]), facts(started=STARTED))
    assert [step["name"] for step in document["steps"]] == ["preflight", "migrate", "verify", "report"]


def test_failed_step_ends_when_it_failed() -> None:
    document = report_document(record(), facts(failure=FAILURE, started=STARTED, migrate={"failed": True}))
    failed = next(step for step in document["steps_to_record"] if step["status"] == "failed")
    assert (failed["started_at"], failed["finished_at"]) == (STARTED["migrate"], FAILURE["at"])


PLAN = {"strategy": "clone", "schema_version": "v1", "sentence": "s", "left_behind": "About 7 rows."}
TABLE = {
    "table": "public.payment",
    "found_in": "both",
    "inserted": 10,
    "updated": 2,
    "conflicting": 0,
    "deleted": 1,
    "known": True,
    "reason": None,
}
WRITES = {
    "known": True,
    "exact": True,
    "tables": [TABLE],
    "total": {"inserted": 10, "updated": 2, "conflicting": 0, "deleted": 1},
    "files": [{"name": "public.payment.csv"}],
    "directory": "/r/d1/writes",
    "sequences": [],
    "large_objects": {"known": True},
}
CARRIED = {
    "rows": 9,
    "verified": True,
    "carried": [{"table": "public.payment", "rows": 9, "rejected": 1}],
    "rejected": [{"table": "public.payment", "key": {"id": 1}, "reason": "amount must be positive"}],
    "rejected_total": 1,
    "rejected_file": "/r/d1/writes/rejected.csv",
    "refused": [],
    "sequences": [],
}


def undone(**more: Any) -> dict[str, Any]:
    swap = more.pop("swap", {"retired": "bank_retired", "live_oid": 7, "stall_ms": None})
    started = {"rollback": "2026-11-20T22:00:00Z", "writes": "2026-11-20T22:00:01Z", "report": "2026-11-20T22:00:02Z"}
    return report_document(record(), facts(kind="rollback", plan=PLAN, swap=swap, started=started, **more))


def test_undo_says_exactly_what_it_left_and_where_it_is_kept() -> None:
    document = undone(writes=WRITES)
    assert document["ok"] and statuses(document) == {"writes": "succeeded", "report": "succeeded"}
    assert (
        "Left behind in the retired database: 10 inserted, 2 changed and 1 deleted rows in public.payment."
        " They are kept in /r/d1/writes." in document["summary"]
    )
    assert "About 7 rows" not in document["summary"]
    assert document["rollback"]["left"]["files"] == ["public.payment.csv"]


def test_pooler_that_was_not_resumed_is_shouted_and_the_run_is_not_ok() -> None:
    pooler = {"name": "one", "console": "10.0.0.7:6432", "databases": ["bank"], "error": None}
    swap = {"retired": "bank_retired", "live_oid": 7, "stall_ms": 31.2, "poolers": [pooler]}
    document = undone(writes=WRITES, swap=swap)
    assert document["ok"] and "Clients of the poolers waited for 31.2 ms." in document["summary"]
    swap["poolers"] = [{**pooler, "error": "no answer to RESUME within 1 s"}]
    document = undone(writes=WRITES, swap=swap)
    assert not document["ok"] and document["deployment"]["status"] == "succeeded"
    assert (
        "POOLER one AT 10.0.0.7:6432 MAY STILL MAKE CLIENTS WAIT (no answer to RESUME within 1 s):"
        " RESUME bank on its console." in document["summary"]
    )
    document = report_document(record(), facts(started=STARTED, clone={"poolers": swap["poolers"]}))
    assert not document["ok"] and "RESUME bank" in document["summary"]
    assert report_document(record(), facts(started=STARTED, clone={"failed": True, "poolers": ["one"]}))["ok"]


def test_undo_that_left_nothing_says_so() -> None:
    empty = {**WRITES, "tables": [], "total": dict.fromkeys(WRITES["total"], 0), "files": []}
    document = undone(writes=empty)
    assert document["ok"] and "Nothing was left behind." in document["summary"]


def test_what_is_not_known_or_not_kept_is_shouted_and_the_run_is_not_ok() -> None:
    unknown = {**TABLE, "known": False, "inserted": None, "reason": "it was not done within 60 s"}
    document = undone(writes={**WRITES, "known": False, "tables": [unknown]})
    assert not document["ok"] and document["deployment"]["status"] == "succeeded"
    assert "NOT KNOWN IS WHAT WAS LEFT BEHIND IN public.payment (it was not done within 60 s)." in document["summary"]
    # Nothing could be compared at all: what the counters said is still said.
    document = undone(
        writes={"failed": True}, writes_failure={"msg": "no room.", "code": "destination_full", "hint": ""}
    )
    assert not document["ok"] and statuses(document)["writes"] == "failed"
    assert "About 7 rows. WHAT WAS LEFT BEHIND IS NOT ALL KEPT IN FILES: no room." in document["summary"]


def test_carried_rows_are_counted_and_refused_ones_are_shouted() -> None:
    document = undone(writes=WRITES, carried={**CARRIED, "rejected_total": 0, "rejected": []})
    assert document["ok"]
    assert "Carried forward: 9 rows into public.payment, equal to the originals." in document["summary"]
    document = undone(writes=WRITES, carried=CARRIED, reserve_failure="no right to it.")
    assert not document["ok"]
    assert (
        "1 ROWS WERE REFUSED by the version that serves, the first because: amount must be positive."
        in (document["summary"])
    )
    assert "KEYS MAY HAVE BEEN GIVEN OUT TWICE" in document["summary"]
    refused = [{"table": "public.fee", "rows": 3, "reason": "the version that serves has no such table"}]
    document = undone(writes=WRITES, carried={**CARRIED, "rejected_total": 0, "refused": refused})
    assert not document["ok"] and "NO ROW OF public.fee WAS CARRIED FORWARD" in document["summary"]
    document = undone(writes=WRITES, carry_failure={"msg": "Neither has a table x.", "code": "option_invalid"})
    assert not document["ok"] and "NOTHING WAS CARRIED FORWARD: Neither has a table x." in document["summary"]
