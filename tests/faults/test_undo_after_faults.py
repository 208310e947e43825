# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is undone, and what is left alone, when something else than a migration failed: kills, rivals, a lost ledger."""

from __future__ import annotations

import os
import pathlib
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.job import Job
from tests.support.server import TestServer, embedded_bin_dir, eventually

CONFIRM = ("-e", "holdfast_confirm=bank")


@pytest.fixture(scope="module")
def own_server() -> Iterator[TestServer]:
    """A server of our own, because the ledger is the server's."""
    server = TestServer(embedded_bin_dir(18))
    yield server
    server.remove()


@pytest.fixture
def job(own_server: TestServer, tmp_path: pathlib.Path) -> Iterator[Job]:
    """A small database without a migration, and a directory for some."""
    job = Job(own_server, tmp_path, database="bank")
    (tmp_path / "migrations").mkdir()
    job.write_inventory(
        migrate_directories=[str(tmp_path / "migrations")],
        migrate_role="",
        preflight_suites=[],
        verify_suites=[],
        rollback_suites=[],
    )
    own_server.create_database("bank", "CREATE TABLE payment (id int PRIMARY KEY)")
    yield job
    for name in own_server.databases() - {"postgres", "template0", "template1"}:
        own_server.drop_database(name)


def migration(job: Job, version: str, up: str) -> None:
    path = job.directory / "migrations" / (version + "_test")
    path.mkdir()
    (path / "up.sql").write_text(up, encoding="utf-8")


def pay(job: Job, number: int) -> None:
    job.server.execute("INSERT INTO payment VALUES (%s)", (number,), database="bank")


def payments(job: Job) -> list[int]:
    return [row[0] for row in job.server.execute("SELECT id FROM payment ORDER BY id", database="bank")]


def versions(job: Job) -> list[str]:
    if job.server.execute("SELECT to_regclass('schema_version')", database="bank") == [(None,)]:
        return []
    return [row[0] for row in job.server.execute("SELECT version FROM schema_version ORDER BY 1", database="bank")]


def in_background(job: Job, playbook: str) -> tuple[threading.Thread, dict[str, Any]]:
    outcome: dict[str, Any] = {}

    def run() -> None:
        outcome["completed"] = job.play(playbook)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


#: The state of a connection in /proc/net/tcp.
ESTABLISHED = "01"


def client_of(job: Job, query: str) -> int:
    """The process that runs a query, by the port that it calls from."""
    (port,) = eventually(
        lambda: job.server.execute(
            "SELECT client_port FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s"
            " AND pid <> pg_backend_pid()",
            ("%" + query + "%",),
        ),
        timeout_s=60,
    )[0]
    # By the inode of the socket that calls; closed connections to others may linger at the same port.
    calls = ":%04X" % port, ":%04X" % job.server.port, ESTABLISHED
    for line in pathlib.Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if (fields[1][-5:], fields[2][-5:], fields[3]) == calls:
            inode = "socket:[%s]" % fields[9]
            break
    else:
        raise AssertionError("nobody calls from port %d" % port)
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(link) for link in pathlib.Path("/proc", process, "fd").iterdir()]
        except OSError:
            continue
        if inode in links:
            return int(process)
    raise AssertionError("no process has %s" % inode)


def said(completed: subprocess.CompletedProcess[str]) -> str:
    return completed.stdout + completed.stderr


def test_migration_whose_process_is_killed_half_way_is_undone(job: Job) -> None:
    migration(job, "v1", "CREATE TABLE first ()")
    migration(job, "v2", "SELECT pg_sleep(60)")
    thread, outcome = in_background(job, "deploy")
    os.kill(client_of(job, "pg_sleep(60)"), 9)
    thread.join()
    assert outcome["completed"].returncode != 0
    assert job.report()["deployment"]["status"] == "rolled_back"
    assert versions(job) == []
    assert job.server.execute("SELECT to_regclass('first')", database="bank") == [(None,)]


def test_run_that_comes_too_late_leaves_what_its_rival_deployed(job: Job) -> None:
    migration(job, "v1", "CREATE TABLE first (); SELECT pg_sleep(20)")
    thread, outcome = in_background(job, "deploy")
    client_of(job, "pg_sleep(20)")
    loser = job.play("deploy")
    thread.join()
    assert outcome["completed"].returncode == 0, said(outcome["completed"])
    assert loser.returncode != 0
    assert "The live database was not changed" in loser.stdout
    assert versions(job) == ["v1"]


def test_without_the_ledger_the_archive_from_before_the_deployment_is_restored(job: Job) -> None:
    migration(job, "v1", "CREATE TABLE first ()")
    assert job.play("deploy").returncode == 0
    pay(job, 1)
    assert job.play("backup").returncode == 0
    job.server.drop_database("holdfast")
    completed = job.play("rollback", *CONFIRM)
    assert completed.returncode == 0, said(completed)
    assert versions(job) == []
    assert payments(job) == []


def test_undo_that_was_killed_before_its_record_is_not_done_twice(job: Job) -> None:
    migration(job, "v1", "CREATE TABLE first ()")
    assert job.play("deploy").returncode == 0
    assert job.play("rollback", *CONFIRM).returncode == 0
    # As a kill between the swap and its record leaves it.
    job.server.execute("UPDATE holdfast.rollback_point SET state = 'available'", database="holdfast")
    pay(job, 1)
    completed = job.play("rollback", *CONFIRM)
    assert completed.returncode != 0
    assert "has been undone already, its clone serves as bank" in completed.stdout
    assert (versions(job), payments(job)) == ([], [1])
    # That run recorded it, so a next one would mean the deployment before.
    recorded = job.server.execute("SELECT state FROM holdfast.rollback_point ORDER BY taken_at", database="holdfast")
    assert ("used",) in recorded


def test_undo_goes_on_when_neither_ledger_nor_journal_can_be_written(job: Job) -> None:
    migration(job, "v1", "CREATE TABLE first ()")
    assert job.play("deploy").returncode == 0
    (job.directory / "backups" / "ledger").write_text("a file where the journals should be", encoding="utf-8")
    nowhere = '{"holdfast_ledger_login": {"login_host": "127.0.0.1", "login_port": 1}}'
    completed = job.play("rollback", *CONFIRM, "-e", nowhere)
    assert "The deployment was undone: bank serves" in completed.stdout, said(completed)
    assert "THE RECORD OF THIS RUN IS INCOMPLETE" in completed.stdout
    assert versions(job) == []
