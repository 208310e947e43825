# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role rehearse: what is proven before the live database is touched, and what stops a deployment."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.job import Job
from tests.support.rehearsal import migration, small_job, write_inventory
from tests.support.server import TestServer, embedded_bin_dir

COUNTERS = "SELECT sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del) FROM pg_stat_user_tables"


@pytest.fixture(scope="module")
def server() -> Iterator[TestServer]:
    """A server of our own, because the ledger is the server's."""
    server = TestServer(embedded_bin_dir(18))
    yield server
    server.remove()


@pytest.fixture
def job(server: TestServer, tmp_path: pathlib.Path) -> Iterator[Job]:
    """A small database whose deployments are rehearsed."""
    yield small_job(server, tmp_path)
    for name in server.databases() - {"postgres", "template0", "template1"}:
        server.drop_database(name)


def state_of(job: Job) -> list[Any]:
    """What tells whether somebody has touched the live database."""
    return [
        job.server.execute("SELECT oid FROM pg_database WHERE datname = %s", (job.database,)),
        job.fingerprint().as_dict(),
        job.server.execute(COUNTERS, database=job.database),
    ]


def downs(report: dict[str, Any]) -> dict[str, str]:
    return {row["version"]: row["down"] for row in report["rehearsal"]["versions"]}


def test_deployment_with_a_wrong_step_down_is_stopped_and_shows_the_difference(job: Job) -> None:
    migration(job, "v1", "ALTER TABLE loan ADD rate numeric DEFAULT 1; CREATE INDEX by_note ON loan (note)",
              "ALTER TABLE loan DROP rate")  # fmt: skip
    before, databases = state_of(job), job.server.databases()
    completed = job.play("deploy")
    assert completed.returncode != 0
    assert state_of(job) == before
    assert job.server.databases() == databases | {"holdfast"}
    report = job.report()
    assert report["failure"]["stage"] == "rehearse", completed.stdout + completed.stderr
    assert "the index public.by_note was not there before" in report["summary"]
    assert "The live database was not changed" in report["summary"]
    assert "+CREATE INDEX by_note ON public.loan USING btree (note);" in completed.stdout
    assert [d["object"] for d in report["rehearsal"]["schema_differences"]] == ["index public.by_note"]
    assert downs(report) == {"v1": "not proven"}
    page = (job.directory / "reports/latest/report.html").read_text(encoding="utf-8")
    assert "+CREATE INDEX by_note ON public.loan USING btree (note);" in page
    steps = {step["name"]: step["status"] for step in report["steps"]}
    assert steps["rehearse"] == "failed" and steps["migrate"] == "skipped"
    # There is nothing of it to undo.
    assert job.server.execute("SELECT DISTINCT state FROM holdfast.rollback_point", database="holdfast") == [
        ("unneeded",)
    ]


def test_rehearsed_deployment_predicts_what_the_report_sets_beside_what_happened(job: Job) -> None:
    migration(
        job,
        "v1",
        "ALTER TABLE loan ADD rate numeric DEFAULT 1;\nCREATE TABLE extra (n int);\n"
        "ALTER TABLE loan DROP CONSTRAINT loan_status_check, ADD CHECK (status IN ('good', 'late', 'lost'));\n",
        "ALTER TABLE loan DROP CONSTRAINT loan_status_check, ADD CHECK (status IN ('good', 'late'));\n"
        "DROP TABLE extra;\nALTER TABLE loan DROP rate;\n",
    )
    completed = job.play("deploy")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    report = job.report()
    rehearsal = report["rehearsal"]
    assert rehearsal["mode"] == "full" and rehearsal["proven"] and rehearsal["restores_rows"], rehearsal
    assert rehearsal["gains"] == {"tables": ["public.extra"], "columns": {"public.loan": ["rate"]}}
    assert rehearsal["restore_s"] > 0 and rehearsal["up_ms"] >= 0 and rehearsal["down_ms"] >= 0
    assert rehearsal["checks"] == {"held": 1, "failed": 0}
    (row,) = rehearsal["versions"]
    assert row["down"] == "proven" and len(row["down_checksum"]) == 64
    (applied,) = report["migrations"]
    assert applied["predicted_ms"] == row["up_ms"] and applied["down"] == "proven"
    assert [record["number"] for record in applied["records"]] == [1, 2, 3]
    for record in applied["records"]:
        assert record["predicted_ms"] is not None and record["duration_ms"] is not None
    page = (job.directory / "reports/latest/report.html").read_text(encoding="utf-8")
    for words in ("predicted", "took", "strongest lock", "sessions blocked", "CREATE TABLE extra (n int)", "proven"):
        assert words in page
    assert not any("_rehearsal_" in name for name in job.server.databases())
    stored = job.server.execute(
        "SELECT details -> 'rehearsal' -> 'proven' FROM holdfast.step WHERE name = 'rehearse'", database="holdfast"
    )
    assert stored == [(True,)]


def test_missing_step_down_is_a_warning_and_those_above_it_are_tried(job: Job) -> None:
    job.server.create_database("bank_rehearsal_20260101T000000Z-dead", "CREATE TABLE left_behind ()")
    migration(job, "v1", "CREATE TABLE a ()", "DROP TABLE a")
    migration(job, "v2", "CREATE TABLE b ()")
    migration(job, "v3", "CREATE TABLE c (status varchar(9) CHECK (status IN ('x', 'y')))", "DROP TABLE c")
    write_inventory(job, rehearse_require_downs=True)
    completed = job.play("deploy")
    assert completed.returncode != 0 and "rehearse_require_downs is set" in completed.stdout
    assert not any("_rehearsal_" in name for name in job.server.databases())
    write_inventory(job)
    completed = job.play("deploy")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    report = job.report()
    assert downs(report) == {"v1": "not tried", "v2": "missing", "v3": "proven"}
    assert not report["rehearsal"]["proven"]
    assert "v2: there is no step down" in completed.stdout


def test_rows_that_a_step_down_cannot_bring_back_are_named_and_lost_ones_of_others_stop(job: Job) -> None:
    migration(job, "v1", "ALTER TABLE loan DROP note", "ALTER TABLE loan ADD note text")
    completed = job.play("deploy", "-e", "migrate_dry_run=true")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    rehearsal = job.report()["rehearsal"]
    assert rehearsal["proven"] and not rehearsal["restores_rows"]
    assert [row["object"] for row in rehearsal["rows_lost"]] == ["table public.loan"]
    shutil.rmtree(job.directory / "migrations")
    migration(job, "v1", "ALTER TABLE loan ADD rate int", "ALTER TABLE loan DROP rate; DELETE FROM party WHERE id < 9")
    before = state_of(job)
    completed = job.play("deploy")
    assert completed.returncode != 0
    assert "the table public.party had 50 rows and has 42" in " ".join(completed.stdout.split())
    assert state_of(job) == before


def test_dry_run_tries_on_a_copy_and_ends_there(job: Job) -> None:
    migration(job, "v1", "CREATE TABLE a (n int)", "DROP TABLE a")
    write_inventory(job, rehearse_mode="off")
    before = state_of(job)
    completed = job.play("deploy", "-e", "migrate_dry_run=true")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert state_of(job) == before
    said = " ".join(completed.stdout.split())
    assert "Dry run: v1 was applied to a copy of bank in" in said and "the way back is proven" in said
    assert "CREATE TABLE a (n int)" in said
    assert not any("_before_" in name for name in job.server.databases())
    statuses = {step["name"]: step["status"] for step in job.report()["steps"]}
    assert statuses["rehearse"] == "succeeded"
    assert statuses["rollback_point"] == statuses["migrate"] == statuses["verify"] == "skipped"


@pytest.mark.parametrize(
    ("up", "why"),
    [
        ("SELECT 1 / (SELECT count(*) - 500 FROM loan)", "division by zero"),
        (
            "ALTER TABLE loan DROP CONSTRAINT loan_status_check; UPDATE loan SET status = 'wrong'",
            "every loan has a status",
        ),
    ],
)
def test_failure_of_a_step_up_or_of_a_suite_stops_before_live_is_touched(job: Job, up: str, why: str) -> None:
    migration(job, "v1", up)
    before = state_of(job)
    completed = job.play("deploy")
    assert completed.returncode != 0
    assert job.report()["failure"]["stage"] == "rehearse"
    assert why in job.report()["summary"]
    assert state_of(job) == before
    assert not any("_rehearsal_" in name for name in job.server.databases())


def test_what_is_too_large_is_rehearsed_without_rows_and_what_reaches_beyond_is_not(job: Job) -> None:
    migration(job, "v1", "CREATE TABLE a (n int)", "DROP TABLE a")
    migration(job, "v2", "CREATE ROLE rehearsed_by_mistake", "DROP ROLE rehearsed_by_mistake")
    write_inventory(job, rehearse_max_bytes=1000)
    completed = job.play("deploy", "-e", "migrate_dry_run=true")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    rehearsal = job.report()["rehearsal"]
    assert rehearsal["mode"] == "schema" and not rehearsal["proven"]
    assert downs(job.report()) == {"v1": "not proven", "v2": "not tried"}
    assert "CREATE ROLE in" in " ".join(rehearsal["notes"])
    assert job.server.execute("SELECT FROM pg_roles WHERE rolname = 'rehearsed_by_mistake'") == []


def test_restored_database_that_is_kept_as_the_way_back_is_not_rehearsed_in(job: Job) -> None:
    migration(job, "v1", "ALTER TABLE loan ADD rate int", "ALTER TABLE loan DROP rate")
    write_inventory(job, rehearse_keep="rollback_point", rollback_point_strategy="restored")
    before = job.fingerprint()
    completed = job.play("deploy")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    (kept,) = [name for name in job.server.databases() if "_before_" in name]
    assert job.differences(before, job.fingerprint(kept)) == []
    points = job.server.execute(
        "SELECT kind, side_database, state FROM holdfast.rollback_point WHERE kind = 'clone'", database="holdfast"
    )
    assert points == [("clone", kept, "available")]


def test_what_runs_again_whenever_it_changes_has_no_way_down(job: Job) -> None:
    path = job.directory / "migrations"
    path.mkdir()
    for name, text in (
        ("V1__a.sql", "CREATE TABLE a ()"),
        ("R__names.sql", "CREATE OR REPLACE VIEW names AS SELECT name FROM party"),
    ):
        (path / name).write_text(text, encoding="utf-8")
    assert job.play("deploy", "-e", "rehearse_mode=off").returncode == 0
    (path / "V2__b.sql").write_text("CREATE TABLE b ()", encoding="utf-8")
    (path / "U2__b.sql").write_text("DROP TABLE b", encoding="utf-8")
    (path / "R__names.sql").write_text("CREATE OR REPLACE VIEW names AS SELECT name, id FROM party", encoding="utf-8")
    completed = job.play("deploy", "-e", "migrate_dry_run=true")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert sorted(downs(job.report()).values()) == ["missing", "not tried"]
    assert job.report()["rehearsal"]["up_ms"] is not None
