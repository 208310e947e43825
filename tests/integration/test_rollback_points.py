# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways back that a deployment can keep, behind PgBouncer and without. The tests follow one another."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.job import Job
from tests.support.pgbouncer import TestPooler, poolers_running
from tests.support.server import TestServer, embedded_bin_dir

CONFIRM = ("-e", "holdfast_confirm=bank")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A small database that was never deployed."""
    server = TestServer(embedded_bin_dir(18))
    job = Job(server, tmp_path_factory.mktemp("job"), database="bank")
    try:
        server.create_database("bank", "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        write_migration(job.directory, "v1", "CREATE TABLE first (n int)")
        yield job
    finally:
        server.remove()


@pytest.fixture(scope="module")
def pooler(job: Job) -> Iterator[TestPooler]:
    with poolers_running(job.server, "main") as running:
        yield running[0]


def configure(job: Job, **variables: Any) -> None:
    job.write_inventory(
        migrate_directories=[str(job.directory / "migrations")],
        preflight_suites=[],
        verify_suites=[],
        rollback_suites=[],
        migrate_role="",
        **variables,
    )


def write_migration(directory: pathlib.Path, version: str, up: str) -> None:
    path = directory / "migrations" / ("%s_test" % version)
    path.mkdir(parents=True, exist_ok=True)
    (path / "up.sql").write_text(up, encoding="utf-8")


def point(job: Job) -> dict[str, Any]:
    run = job.report()["deployment"]["id"]
    step, state, taken_at = job.server.execute(
        "SELECT s.details, p.state, p.taken_at FROM holdfast.step AS s"
        "  LEFT JOIN holdfast.rollback_point AS p ON p.deployment_id = s.deployment_id AND p.kind = 'clone'"
        " WHERE s.deployment_id = %s AND s.name = 'rollback_point'",
        (run,),
        database="holdfast",
    )[0]
    return {**step, "state": state, "taken_at": taken_at}


def test_client_of_a_pooler_is_no_obstacle_to_a_clone(job: Job, pooler: TestPooler) -> None:
    configure(job, holdfast_poolers=[pooler.option])
    client = pooler.connect("bank")
    try:
        with client.cursor() as cursor:
            cursor.execute("SELECT 1")
            completed = job.play("deploy", "-vvv")
            assert completed.returncode == 0, completed.stdout + completed.stderr
            cursor.execute("SELECT count(*) FROM first")
    finally:
        client.close()
    assert "clients wait about" in completed.stdout
    assert pooler.option["password"] not in completed.stdout + completed.stderr
    kept = point(job)
    assert kept["kind"] == "clone" and kept["state"] == "available"
    assert kept["copy_s"] > 0 and kept["pause_s"] >= kept["copy_s"] and kept["bytes"] > 1_000_000
    assert not pooler.paused()


def test_pause_that_would_be_too_long_makes_the_archive_the_way_back(job: Job, pooler: TestPooler) -> None:
    write_migration(job.directory, "v2", "CREATE TABLE second (n int)")
    completed = job.play("deploy", "-e", "rollback_point_max_pause=0.5")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "There will be no clone (Clients would have to wait" in completed.stdout
    assert "No clone: Clients would have to wait" in completed.stdout
    assert point(job)["kind"] == "archive" and not pooler.paused()


def test_restored_archive_is_a_way_back_without_a_pause(job: Job) -> None:
    guards = [{"host": "here", "unix_socket": "/nowhere"}]
    configure(job, rollback_point_strategy="restored", rollback_guards=guards, rollback_point_max_pause=40)
    write_migration(job.directory, "v3", "CREATE TABLE third (n int)")
    client = job.server.connect("bank")
    try:
        completed = job.play("deploy", "-vvv")
    finally:
        client.close()
    assert completed.returncode == 0, completed.stdout + completed.stderr
    # A guard must wait as long as the longest pause; and where there can be none, the deployment goes on without.
    assert '"max_pause": 40' in completed.stdout
    assert "A pooler's host cannot guard itself" in completed.stdout
    assert "s ago. An undo leaves behind what was written" in completed.stdout
    kept = point(job)
    report = job.report()
    assert kept["kind"] == "restored" and kept["state"] == "available"
    assert kept["taken_at"].isoformat()[:19] == report["backup"]["snapshot_at"][:19]

    job.server.execute("INSERT INTO kept VALUES (0)", database="bank")
    completed = job.play("rollback", *CONFIRM)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    undo = job.report()["rollback"]
    assert undo["strategy"] == "clone" and undo["used"].startswith("bank_before_")
    assert undo["writes"]["known"] and undo["writes"]["tables"]["public.kept"]["inserted"] == 1
    assert job.version() == "v2"
    assert job.server.execute("SELECT count(*) FROM kept", database="bank") == [(1000,)]
