# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Histories whose runner is killed, and what their databases hold then: exactly what the history says."""

from __future__ import annotations

import pathlib
import random
import time

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import SourceFile, find
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.plan import prepare
from tests.support.histories import HISTORIES, history_files, schema_of
from tests.support.migrations import run, runner_sessions, start
from tests.support.server import TestServer, eventually

TABLES = """
SELECT c.oid::regclass::text
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema)' AND c.relname <> 'schema_version'
 ORDER BY 1
"""

Content = tuple[str, list[tuple]]


class Story:
    """One history: what a database holds after each number of its migrations, and the database that is killed in."""

    def __init__(self, server: TestServer, name: str) -> None:
        self.server = server
        self.database = "killed_" + name
        self.options = HISTORIES[name][2]
        self.files = {pathlib.Path(file.path).name: file.content.decode() for file in history_files(name)}
        found = find([SourceFile("/m/" + n, text.encode()) for n, text in self.files.items()], self.options)
        self.prepared = {m.version: prepare(m.up, step="up") for m in found.migrations}
        self.renew()
        self.expected = [self.content(self.database)]
        versions = [row["version"] for row in self.run(state="status")["pending"]]
        self.versions = [version for version in versions if not version.startswith("R__")]
        # What Flyway repeats comes with the last version, and is no part of it.
        once = {name: text for name, text in self.files.items() if not name.startswith("R__")}
        for version in self.versions:
            run(self.server, self.database, once, options=self.options, target_version=version)
            self.expected.append(self.content(self.database))
        self.repeated = len(self.files) - len(once)
        self.run()
        self.complete = self.content(self.database)
        self.renew()

    def renew(self) -> None:
        """Begin with an empty database."""
        self.server.drop_database(self.database)
        self.server.create_database(self.database)

    def run(self, **options: object) -> dict:
        """Run the history, or what ``options`` say."""
        return run(self.server, self.database, self.files, options=self.options, **options)

    def content(self, database: str) -> Content:
        """The schema, and the number of rows of each table."""
        tables = [table for (table,) in self.server.execute(TABLES, database=database)]
        counts = ", ".join("(SELECT count(*) FROM %s)" % table for table in tables)
        rows = self.server.execute("SELECT %s" % counts, database=database)
        return schema_of(self.server, database), rows

    def kill(self, after_s: float) -> bool:
        """Start a runner and kill it after a while; return whether it was still at work."""
        process = start(self.server, self.database, self.files, options=self.options)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(after_s)
        was_running = process.poll() is None
        process.kill()
        process.communicate()
        eventually(lambda: runner_sessions(self.server, self.database) == [], timeout_s=30)
        return was_running

    def check(self) -> str | None:
        """Compare the database with its history; return the version that is half-way, if one is."""
        states = []
        if self.server.execute("SELECT to_regclass('schema_version') IS NOT NULL", database=self.database)[0][0]:
            states = self.server.execute(
                "SELECT version, state, statements_done, statement_started FROM schema_version", database=self.database
            )
        applied = [version for version, state, _done, _started in states if state == "applied"]
        partial = [row for row in states if row[1] != "applied"]
        repeated = [version for version in applied if version.startswith("R__")]
        if repeated:
            assert len(applied) - len(repeated) == len(self.versions)
            assert (self.content(self.database) == self.complete) == (len(repeated) == self.repeated)
            return None
        assert set(applied) == set(self.versions[: len(applied)])
        if not partial:
            assert self.content(self.database) == self.expected[len(applied)]
            return None
        ((version, state, done, started),) = partial
        assert (version, state) == (self.versions[len(applied)], "partial")
        assert started in (None, done + 1)
        found = self.content(self.database)
        assert found in [self.after(len(applied), count) for count in {done, started or done}], (version, done, started)
        return str(version)

    def after(self, applied: int, count: int) -> Content:
        """What a database holds after so many migrations and so many statements of the next one."""
        name = "expected_by_statement"
        self.server.drop_database(name)
        self.server.create_database(name)
        try:
            if applied:
                target = self.versions[applied - 1]
                run(self.server, name, self.files, options=self.options, target_version=target)
            connection = self.server.connect(name)
            with connection.cursor() as cursor:
                for statement in self.prepared[self.versions[applied]].statements[:count]:
                    cursor.execute(statement.text)
            connection.close()
            return self.content(name)
        finally:
            self.server.drop_database(name)


def kill_again_and_again(story: Story, *, kills: int, dice: random.Random) -> dict[str, int]:
    """Kill so many runners at random moments of their way; returns how often and how often half-way in a file."""
    begun = time.monotonic()
    story.run()
    lasting_s = time.monotonic() - begun
    story.renew()
    killed = finished = half_way = 0
    while killed < kills:
        was_running = story.kill(dice.random() * lasting_s)
        killed += was_running
        half_way += story.check() is not None
        if not was_running or dice.random() < 0.2:
            to_its_end(story)
            finished += 1
            story.renew()
    to_its_end(story)
    return {"rounds": killed, "finished": finished + 1, "half_way": half_way}


def to_its_end(story: Story) -> None:
    """Run the rest; the database is then as if nobody had been killed."""
    assert story.run()["pending"] == []
    assert story.content(story.database) == story.complete
    assert story.run()["changed"] is False
