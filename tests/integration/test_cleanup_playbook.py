# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook cleanup, and what becomes of clones that nobody needs. The tests of this file follow one another."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.job import Job, changed
from tests.support.server import TestServer, embedded_bin_dir, eventually

GOOD = "CREATE TABLE second (n int)"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A small database at version 1, deployed; on a server of its own, because the ledger is the server's."""
    server = TestServer(embedded_bin_dir(18))
    job = Job(server, tmp_path_factory.mktemp("job"), database='we"ird %s')
    write_migration(job.directory, "v1", "CREATE TABLE kept AS SELECT 1 AS n")
    configure(job)
    server.create_database(job.database)
    try:
        completed = job.play("deploy")
        assert completed.returncode == 0, completed.stdout + completed.stderr
        yield job
    finally:
        server.remove()


def configure(job: Job, **variables: Any) -> None:
    job.write_inventory(
        migrate_directories=[str(job.directory / "migrations")],
        preflight_suites=[],
        verify_suites=variables.pop("verify_suites", []),
        rollback_suites=[],
        migrate_role="",
        preflight_capacity=False,
        **variables,
    )


def write_migration(directory: pathlib.Path, version: str, up: str) -> None:
    path = directory / "migrations" / ("%s_test" % version)
    path.mkdir(parents=True, exist_ok=True)
    (path / "up.sql").write_text(up, encoding="utf-8")


def clones_of(job: Job) -> list[str]:
    return sorted(name for name in job.server.databases() if name.startswith(job.database + "_before_"))


def states_of(job: Job, **of: str) -> dict[str, str]:
    rows = job.server.execute(
        "SELECT coalesce(side_database, archive_id), state FROM holdfast.rollback_point WHERE deployment_id = %s",
        (of["run"],),
        database="holdfast",
    )
    return dict(rows)


def run_of(completed: subprocess.CompletedProcess[str]) -> str:
    """The id of a run, by where it says that its report is; of two at once, either may be the last to write one."""
    found = re.search(r"reports/([^/]+)/report.html", completed.stdout)
    assert found, completed.stdout + completed.stderr
    return found.group(1)


CONFIRM = ("-e", '{"cleanup_confirm": "we\\"ird %s"}')
CONFIRM_UNDO = ("-e", '{"holdfast_confirm": "we\\"ird %s"}')
NOTHING_IS_YOUNG = ("-e", "cleanup_keep_days=0")


def test_deployment_that_changed_nothing_leaves_no_clone(job: Job) -> None:
    before = clones_of(job)
    write_migration(job.directory, "v2", "SELECT 1 / 0")
    completed = job.play("deploy")
    assert completed.returncode != 0 and "The live database was not changed" in completed.stdout
    assert clones_of(job) == before
    run = job.report()["deployment"]["id"]
    assert states_of(job, run=run) == {run: "unneeded", "%s_before_%s" % (job.database, run): "removed"}


def test_cleanup_is_predicted_confirmed_and_keeps_everything_without_the_ledger(job: Job) -> None:
    write_migration(job.directory, "v2", GOOD)
    assert job.play("deploy").returncode == 0
    before = clones_of(job)
    assert len(before) == 2

    completed = job.play("cleanup", "--check", *NOTHING_IS_YOUNG)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "would be removed" in completed.stdout and "newest way back" in completed.stdout

    completed = job.play("cleanup", *NOTHING_IS_YOUNG)
    assert completed.returncode != 0 and "confirm_required" in completed.stdout
    assert "would be removed" in completed.stdout and before[0].rpartition("_")[2] in completed.stdout

    lost = json.dumps({"holdfast_ledger_login": {**job.server.login, "login_port": 1}})
    completed = job.play("cleanup", *CONFIRM, *NOTHING_IS_YOUNG, "-e", lost)
    assert "the ledger cannot be read" in completed.stdout, completed.stdout + completed.stderr
    assert clones_of(job) == before


def test_cleanup_is_recorded_and_leaves_the_way_back(job: Job) -> None:
    first, second = clones_of(job)
    completed = job.play("cleanup", *CONFIRM, *NOTHING_IS_YOUNG)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert clones_of(job) == [second]
    report = job.report()
    assert report["deployment"]["kind"] == "cleanup" and report["deployment"]["status"] == "succeeded"
    assert [row["name"] for row in report["cleanup"]["removed"]] == [first] and first in report["summary"]
    assert states_of(job, run=first.rpartition("_")[2])[first] == "removed"
    assert states_of(job, run=second.rpartition("_")[2])[second] == "available"

    again = job.play("cleanup", *CONFIRM, *NOTHING_IS_YOUNG)
    assert again.returncode == 0 and changed(again) == 0
    undone = job.play("rollback", *CONFIRM_UNDO)
    assert undone.returncode == 0, undone.stdout + undone.stderr
    assert job.version() == "v1"


def test_deployment_that_was_undone_meanwhile_does_not_call_itself_a_success(job: Job) -> None:
    # A check that waits holds the deployment between its migration and its report.
    suite = job.directory / "slow.yml"
    suite.write_text(
        "suite: slow\nchecks:\n  - name: waits\n    severity: warning\n    sql: SELECT 1 FROM pg_sleep(15)\n"
        "    expect: no_rows\n",
        encoding="utf-8",
    )
    configure(job, verify_suites=[str(suite)])
    results: list[Any] = []
    deploy = threading.Thread(target=lambda: results.append(job.play("deploy")))
    deploy.start()
    waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(15)%' AND pid <> pg_backend_pid()"
    eventually(lambda: job.server.execute(waiting), timeout_s=60)
    undo = job.play("rollback", *CONFIRM_UNDO)
    assert undo.returncode == 0, undo.stdout + undo.stderr
    deploy.join(timeout=120)
    completed = results[0]
    assert completed.returncode != 0, completed.stdout
    assert "UNDONE MEANWHILE by %s" % run_of(undo) in completed.stdout
    assert job.version() == "v1"
    run = run_of(completed)
    statuses = job.server.execute("SELECT status FROM holdfast.deployment WHERE id = %s", (run,), database="holdfast")
    assert statuses == [("rolled_back",)]
    assert states_of(job, run=run)[run] == "available"
