# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small bank whose deployments are rehearsed."""

from __future__ import annotations

import pathlib
from typing import Any

from tests.support.job import Job
from tests.support.server import TestServer

TABLES = """
CREATE TABLE loan (id bigserial PRIMARY KEY, status varchar(9) NOT NULL CHECK (status IN ('good', 'late')), note text);
INSERT INTO loan (status, note) SELECT 'good', 'n' || i FROM generate_series(1, 500) AS i;
CREATE TABLE party (id int PRIMARY KEY, name text);
INSERT INTO party SELECT i, 'p' || i FROM generate_series(1, 50) AS i
"""
SUITE = """
suite: post
checks:
  - name: every loan has a status
    severity: error
    sql: SELECT id FROM loan WHERE status = 'wrong'
    expect: no_rows
"""


def small_job(server: TestServer, directory: pathlib.Path) -> Job:
    """The database, not deployed to yet."""
    job = Job(server, directory, database="bank")
    write_inventory(job)
    server.create_database("bank", TABLES)
    (directory / "post.yml").write_text(SUITE, encoding="utf-8")
    return job


def write_inventory(job: Job, **variables: Any) -> None:
    """Write the inventory, with ``variables`` on top of the usual ones."""
    values = {
        "migrate_directories": [str(job.directory / "migrations")],
        "migrate_role": "",
        "migrate_lint": False,
        "preflight_suites": [],
        "verify_suites": [str(job.directory / "post.yml")],
        "rollback_suites": [],
        "rollback_export_writes": False,
        "rehearse_mode": "full",
        **variables,
    }
    job.write_inventory(**values)


def migration(job: Job, version: str, up: str, down: str | None = None) -> pathlib.Path:
    """Write a migration and return its directory."""
    path = job.directory / "migrations" / ("%s_test" % version)
    path.mkdir(parents=True)
    (path / "up.sql").write_text(up, encoding="utf-8")
    if down is not None:
        (path / "down.sql").write_text(down, encoding="utf-8")
    return path
