# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate in the main job: what it stops, what it lets pass, and what it never holds up. One story, in order."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
import yaml

from tests.support.job import Job
from tests.support.server import TestServer, embedded_bin_dir

ROW = {"name": "there is a row", "sql": "SELECT count(*) FROM kept", "expect": {"scalar": {"equals": 1}}}
SUITE = {"suite": "rules", "checks": [ROW]}
ITEMS: list[dict[str, Any]] = [
    {"name": "approval", "title": "both leads approve", "signed_by": ["technical_lead", "business_lead"]},
    {"name": "review", "signed_by": "reviewer", "digest": True},
    {"name": "server", "checks": {"suites": ["server"]}},
    {"name": "archive", "archive": {"hours": 1}},
    {"name": "rules", "stage": "go_live", "checks": {"names": ["there is a row"]}},
    {"name": "answers", "probes": "all"},
    {"name": "tidy", "kinds": ["cleanup"], "signed_by": "operations_lead"},
    {"name": "tidy_archive", "kinds": ["cleanup"], "archive": {"hours": 24}},
]
KINDS = {
    "standard": {"signature_hours": 24, "minutes": 60, "apart": [["deployer", "technical_lead", "business_lead"]]},
    "cleanup": {"windows": [{"from": "00:00", "to": "24:00", "timezone": "Europe/Amsterdam"}]},
}


def signature(item: str, role: str, by: str, **more: Any) -> dict[str, Any]:
    at = datetime.now(timezone.utc).isoformat()
    return {"item": item, "role": role, "by": by, "at": at, "reference": "CHG-7", "for": "v1", **more}


def write_migration(job: Job, version: str, up: str) -> None:
    path = job.directory / "migrations" / ("%s_test" % version)
    path.mkdir(parents=True)
    (path / "up.sql").write_text(up, encoding="utf-8")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A small database with one migration to come, on a server of its own."""
    server = TestServer(embedded_bin_dir(18))
    job = Job(server, tmp_path_factory.mktemp("gate"), database="small")
    server.create_database(job.database)
    write_migration(job, "v1", "CREATE TABLE kept AS SELECT 1 AS n")
    (job.directory / "rules.yml").write_text(json.dumps(SUITE), encoding="utf-8")
    configure(job)
    yield job
    server.remove()


def configure(job: Job, **variables: Any) -> None:
    job.write_inventory(
        **{
            "migrate_directories": [str(job.directory / "migrations")],
            "migrate_role": "",
            "preflight_suites": [],
            "verify_suites": [str(job.directory / "rules.yml")],
            "rollback_suites": [],
            "rollback_export_writes": False,
            "rehearse_mode": "off",
            "probe_deadline_s": 0,
            "probe_list": [{"name": "port", "tcp": {"host": "127.0.0.1", "port": job.server.port}}],
            "gate_items": ITEMS,
            "gate_kinds": KINDS,
            "gate_operator": "D. Eployer",
            **variables,
        }
    )


def gate_step(job: Job) -> dict[str, Any]:
    """The newest record of a gate in the ledger."""
    query = "SELECT status, details FROM holdfast.step WHERE name = 'gate' ORDER BY started_at DESC LIMIT 1"
    ((status, details),) = job.server.execute(query, database="holdfast")
    return {"status": status, **details}


def nothing_was_touched(job: Job) -> bool:
    tables = job.server.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database=job.database)
    return tables == [(0,)] and not list((job.directory / "backups").rglob("manifest.json"))


def said(text: str) -> str:
    """What was printed, without the breaks of its lines."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def memory() -> dict[str, str]:
    """What a test leaves for the next one."""
    return {}


def test_check_mode_says_what_is_missing_and_goes_on(job: Job, memory: dict[str, str]) -> None:
    completed = job.play("deploy", "--check")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    # The archive of the run itself would be there.
    assert "archive: " not in said(completed.stdout).partition("BUT THE GATE")[2].partition("PLAY RECAP")[0]
    # Those who are to sign have it from here.
    found = re.search(r"digest: ([0-9a-f]{12})", completed.stdout)
    assert found
    memory["digest"] = found.group(1)
    assert "v1 would be applied to small. BUT THE GATE WOULD STOP IT: approval" in said(completed.stdout)


@pytest.mark.parametrize("arguments", [[], ["--tags", "migrate"]])
def test_closed_gate_stops_before_anything_is_touched_and_lists_everything(job: Job, arguments: list[str]) -> None:
    mistaken = [
        signature("approval", "technical_lead", "D. Eployer"),
        signature("approval", "business_lead", "B. Lead", **{"for": "v0"}),
    ]
    completed = job.play("deploy", *arguments, "-e", json.dumps({"gate_signatures": mistaken}))
    assert completed.returncode != 0
    told = said(completed.stdout)
    for text in (
        "approval (both leads approve): B. Lead signed as business_lead, but for v0, and not for v1. Have it signed:",
        "review: Nobody has signed as reviewer. Have it signed: {item: review, role: reviewer, by: ..., at: ...,",
        "D. Eployer is deployer and technical_lead. Have another person sign, or deploy.",
    ):
        assert text in told
    report = job.report()
    assert report["failure"]["stage"] == "gate" and "gate_closed" in report["failure"]["msg"]
    assert "The live database was not changed" in report["summary"]
    assert report["gate"]["ok"] is False and nothing_was_touched(job)
    step = gate_step(job)
    assert step["status"] == "stopped" and len(step["missing"]) == 3 and step["operator"] == "D. Eployer"


def test_closed_window_stops_it(job: Job) -> None:
    blackouts = [{"from": "2020-01-01", "to": "2099-12-31", "reason": "no more changes"}]
    completed = job.play("deploy", "-e", json.dumps({"gate_blackouts": blackouts, "gate_timezone": "UTC"}))
    assert completed.returncode != 0
    assert "is blacked out (no more changes). It does not open within 60 days." in said(completed.stdout)
    assert nothing_was_touched(job)


def signatures(job: Job, version: str, digest: str) -> list[str]:
    """Sign for a version: one in the inventory's place, one in a file, one in a survey; return the arguments."""
    file = job.directory / "signatures.yml"
    signed = signature("approval", "business_lead", "B. Lead", **{"for": version})
    file.write_text(yaml.safe_dump({"signatures": [signed]}), encoding="utf-8")
    review = signature("review", "reviewer", "R. Viewer", digest=digest, **{"for": version})
    return [
        "-e",
        json.dumps(
            {
                "gate_signatures": [signature("approval", "technical_lead", "T. Lead", **{"for": version})],
                "gate_signature_files": [str(file)],
                "gate_survey_signatures": yaml.safe_dump([review]),
            }
        ),
    ]


def test_open_gate_lets_it_pass_and_keeps_who_signed(job: Job, memory: dict[str, str]) -> None:
    completed = job.play("deploy", *signatures(job, "v1", memory["digest"]))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    step = gate_step(job)
    assert (step["status"], step["ok"], step["stage"], step["target"]) == ("succeeded", True, "go_live", ["v1"])
    signed = {(row["role"], row["by"], row["reference"]) for item in step["items"] for row in item["signatures"]}
    assert signed == {
        ("technical_lead", "T. Lead", "CHG-7"),
        ("business_lead", "B. Lead", "CHG-7"),
        ("reviewer", "R. Viewer", "CHG-7"),
    }
    assert {item["state"] for item in step["items"]} == {"fulfilled"} and len(step["items"]) == 6
    report = job.report()
    assert report["steps"][0]["name"] == "gate" and report["gate"]["ok"]
    page = (job.directory / "reports" / "latest" / "report.html").read_text(encoding="utf-8")
    assert "The gate: 6 of 6 fulfilled" in page and "R. Viewer as reviewer" in page


def test_run_that_changes_nothing_is_not_held_up(job: Job) -> None:
    completed = job.play("deploy")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "Nothing was pending" in said(completed.stdout)


def test_new_version_that_may_not_be_called_good_is_undone(job: Job) -> None:
    write_migration(job, "v2", "CREATE TABLE second (n int)")
    configure(job, gate_items=[item for item in ITEMS if item["name"] != "review"])
    (job.directory / "rules.yml").write_text(json.dumps(SUITE).replace("there is a row", "another"), encoding="utf-8")
    completed = job.play("deploy", *signatures(job, "v2", ""))
    assert completed.returncode != 0
    assert "rules: The check 'there is a row' was not asked." in said(completed.stdout)
    report = job.report()
    assert report["deployment"]["status"] == "rolled_back" and report["failure"]["stage"] == "gate"
    assert job.version() == "v1" and gate_step(job)["status"] == "stopped"


def test_undo_is_an_emergency_that_no_gate_holds_up_and_the_ledger_keeps_who_ran_it(job: Job) -> None:
    closed = {"gate_blackouts": ["2020-01-01"], "gate_timezone": "nowhere", "report_operator": "N. Ightshift"}
    completed = job.play("rollback", "-e", "holdfast_confirm=small", "-e", json.dumps(closed))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    query = "SELECT operator, status FROM holdfast.deployment WHERE kind = 'rollback'"
    assert job.server.execute(query, database="holdfast") == [("N. Ightshift", "succeeded")]
    assert job.server.execute("SELECT to_regclass('public.kept') IS NULL", database=job.database) == [(True,)]


def test_cleanup_asks_the_gate_before_it_drops(job: Job, tmp_path: pathlib.Path) -> None:
    drop = ["-e", "cleanup_confirm=small", "-e", "cleanup_keep_days=0", "-e", "cleanup_keep_last=0"]
    before = job.server.databases()
    completed = job.play("cleanup", *drop, "-e", "gate_archive_dir=%s" % tmp_path)
    assert completed.returncode != 0 and job.server.databases() == before
    assert "tidy: Nobody has signed as operations_lead. Have it signed: {item: tidy" in said(completed.stdout)
    assert "for: cleanup}" in said(completed.stdout)
    assert "tidy_archive: There is no archive. Run playbooks/backup.yml." in said(completed.stdout)
    signed = {"gate_signatures": [signature("tidy", "operations_lead", "O. Lead", **{"for": "cleanup"})]}
    completed = job.play("cleanup", *drop, "-e", json.dumps(signed))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert len(job.server.databases()) < len(before)
    assert gate_step(job)["kind"] == "cleanup"
