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
        "v2 was deployed: bank serves at v2, and its checks hold. Evidence: /r/d1/report.html."
    )
    assert statuses(document) == {"report": "succeeded"}
    assert document["rollback"] is None and document["failure"] is None


def test_nothing_pending_marks_the_stages_as_skipped() -> None:
    document = report_document(
        record(), facts(started={"preflight": "1", "verify": "2"}, status={"current_version": "v2"})
    )
    assert document["summary"].startswith("Nothing was pending: bank serves at v2")
    assert statuses(document) == {
        "backup": "skipped",
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
    plan = {"strategy": "clone", "side_database": "bank_before", "schema_version": "v1", "sentence": "All of it."}
    swap = {"retired": "bank_retired", "stall_ms": 12.5, "terminated": []}
    migrate = {"applied": [{"version": "v2"}], "current_version": "v2"}
    document = report_document(record(), facts(failure=FAILURE, started=STARTED, plan=plan, swap=swap, migrate=migrate))
    assert document["deployment"]["status"] == "rolled_back"
    assert document["rollback"]["done"] and document["rollback"]["retired"] == "bank_retired"
    assert "It was undone: bank serves at v1 again" in document["summary"]
    assert "kept as bank_retired; clients waited 12.5 ms at most" in document["summary"]


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
            swap={"retired": "bank_retired"},
            rollback_checks=checks,
            started={"rollback": "1"},
        ),
    )
    assert "CHECKS FAILED AFTER THE UNDO: Totals agree." in document["summary"]
    assert document["checks"][0]["stage"] == "rollback"


def test_check_mode_says_what_would_be() -> None:
    document = report_document(record(), facts(check_mode=True, started=STARTED))
    assert document["summary"] == "Check mode: v2 would be applied to bank."
