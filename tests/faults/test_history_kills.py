# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty runners of whole histories, killed at a random moment, and the same command once more.

Whenever one is killed, the database has exactly what its history says: each file whole or not there, or the one file
that is half-way and named with the number of its statements.
"""

from __future__ import annotations

import pathlib
import random
import time
from collections.abc import Iterator
from typing import Callable

import pytest

from tests.support.histories import history_files, schema_of
from tests.support.migrations import run, runner_sessions, start
from tests.support.server import TestServer, embedded_bin_dir, eventually

KILLS = 25

TABLES = """
SELECT c.oid::regclass::text
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema)' AND c.relname <> 'schema_version'
 ORDER BY 1
"""


@pytest.fixture(scope="module")
def own_server() -> Iterator[TestServer]:
    server = TestServer(embedded_bin_dir(18))
    yield server
    server.remove()


class Story:
    """One history: what a database holds after each number of its migrations, and the database that is killed in."""

    def __init__(self, server: TestServer, name: str) -> None:
        self.server = server
        self.database = "killed_" + name
        self.files = {pathlib.Path(file.path).name: file.content.decode() for file in history_files(name)}
        self.renew()
        self.expected = [self.content()]
        versions = [row["version"] for row in run(server, self.database, self.files, state="status")["pending"]]
        for version in versions:
            run(server, self.database, self.files, target_version=version)
            self.expected.append(self.content())
        self.renew()

    def renew(self) -> None:
        """Begin with an empty database."""
        self.server.drop_database(self.database)
        self.server.create_database(self.database)

    def content(self) -> tuple[str, list[tuple]]:
        """The schema, and the number of rows of each table."""
        tables = [table for (table,) in self.server.execute(TABLES, database=self.database)]
        counts = ", ".join("(SELECT count(*) FROM %s)" % table for table in tables)
        rows = self.server.execute("SELECT %s" % counts, database=self.database)
        return schema_of(self.server, self.database), rows

    def check(self) -> None:
        """Compare the database with its history, unless that names a file that is half-way."""
        states: list[str] = []
        if self.server.execute("SELECT to_regclass('schema_version') IS NOT NULL", database=self.database)[0][0]:
            rows = self.server.execute("SELECT state FROM schema_version", database=self.database)
            states = [state for (state,) in rows]
        if "partial" in states:
            assert states.count("partial") == 1
        else:
            assert self.content() == self.expected[len(states)]


@pytest.mark.parametrize("name", ["golang", "goose"])
def test_history_survives_the_death_of_its_runner(
    own_server: TestServer, name: str, seed: int, rounds: Callable[[int], int], record_property
):
    dice = random.Random("%d %s" % (seed, name))
    story = Story(own_server, name)
    process = start(own_server, story.database, story.files)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    begun = time.monotonic()
    assert process.communicate()[0] == "finished\n"
    lasting_s = time.monotonic() - begun
    story.renew()
    killed = finished = 0
    while killed < rounds(KILLS):
        process = start(own_server, story.database, story.files)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(dice.random() * lasting_s)
        was_running = process.poll() is None
        process.kill()
        process.communicate()
        eventually(lambda: runner_sessions(own_server, story.database) == [], timeout_s=30)
        killed += was_running
        story.check()
        if not was_running or dice.random() < 0.2:
            assert run(own_server, story.database, story.files)["pending"] == []
            assert story.content() == story.expected[-1]
            assert run(own_server, story.database, story.files)["changed"] is False
            story.renew()
            finished += 1
    assert run(own_server, story.database, story.files)["pending"] == []
    assert story.content() == story.expected[-1]
    record_property("row", {"rounds": killed, "finished": finished + 1})
