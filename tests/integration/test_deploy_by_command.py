# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployment by a program that migrates by itself has the same way back as one by files."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

import pytest

from tests.support.job import Job
from tests.support.modules import ROOT
from tests.support.server import TestServer, embedded_bin_dir

TOOL = [sys.executable, str(ROOT / "tests" / "support" / "tool.py")]


@pytest.fixture
def job(tmp_path: pathlib.Path) -> Iterator[Job]:
    """A database at version 1 of the program, with version 2 to come."""
    server = TestServer(embedded_bin_dir(18))
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "1.sql").write_text("CREATE TABLE ticket AS SELECT n AS id FROM generate_series(1, 100) AS n")
    job = Job(server, tmp_path, database="shop")
    job.write_inventory(
        migrate_directories=[],
        migrate_role="",
        migrate_layout="command",
        migrate_commands={
            "up": [*TOOL, "up"],
            "down": [*TOOL, "down", "{target_version}"],
            "status": [*TOOL, "status"],
            "pending": [*TOOL, "pending"],
            "chdir": str(scripts),
        },
        preflight_suites=[],
        verify_suites=[],
        rollback_suites=[],
    )
    server.create_database("shop")
    yield job
    server.remove()


def test_deploy_by_a_program_and_undo_what_it_left_half_way(job: Job):
    scripts = job.directory / "scripts"
    checked = job.play("deploy", "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert job.server.execute("SELECT to_regclass('ticket')", database="shop") == [(None,)]
    completed = job.play("deploy")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert job.version() == "1 (head)"
    assert job.report()["migrations"][0]["version"] == "1 (head)"

    # It commits after each of its files, so that the second is there when the third fails.
    (scripts / "2.sql").write_text("DELETE FROM ticket WHERE id > 10")
    (scripts / "3.sql").write_text("SELECT no_such_function()")
    failed = job.play("deploy")
    assert failed.returncode != 0
    assert "no_such_function" in failed.stdout
    assert job.server.execute("SELECT count(*) FROM ticket", database="shop") == [(100,)]
    assert job.version() == "1 (head)"
