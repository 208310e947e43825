# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runners that are killed in a history, and while they build an index. tests/faults does the same at length."""

from __future__ import annotations

import random

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import SourceFile, find
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.plan import prepare
from tests.support.killed_histories import Story, kill_again_and_again
from tests.support.killed_index import kill_during_build
from tests.support.migrations import run, runner_sessions, start
from tests.support.server import eventually

WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def test_history_goes_on_after_a_dozen_kills_as_if_there_were_none(pg18):
    story = Story(pg18, "golang")
    try:
        assert kill_again_and_again(story, kills=12, dice=random.Random(12))["rounds"] == 12
    finally:
        pg18.drop_database(story.database)


def test_invalid_index_of_a_killed_build_is_reported_and_built_again(pg18, database):
    applied = kill_during_build(pg18, database, rows=30_000, held=True)
    assert any("dropping the invalid index public.big_t" in notice for notice in applied["notices"])


DETACH = {"2_detach.up.sql": "ALTER TABLE ONLY public.fine DETACH PARTITION public.fine_2025 CONCURRENTLY;"}
FINES = (
    "CREATE TABLE fine (at date) PARTITION BY RANGE (at);"
    "CREATE TABLE fine_2025 PARTITION OF fine FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')"
)
ATTACHMENT = "SELECT inhdetachpending FROM pg_inherits WHERE inhparent = 'fine'::regclass"


@pytest.fixture
def reader(pg18, database):
    """A transaction that has read the partitioned table: a detachment gets half-way, and waits for its end."""
    pg18.execute(FINES, database=database)
    connection = pg18.connect(database)
    connection.autocommit = False
    connection.cursor().execute("SELECT FROM fine")
    yield connection
    connection.close()


def test_detachment_that_ran_into_its_time_limit_is_finished(pg18, database, reader):
    process = start(pg18, database, DETACH, lock_timeout_ms=200, lock_retries=8)
    eventually(lambda: pg18.execute(ATTACHMENT, database=database) == [(True,)], timeout_s=20)
    eventually(lambda: not pg18.execute(WAITING, database=database), timeout_s=20, interval_s=0.01)
    reader.rollback()
    output, _errors = process.communicate(timeout=60)
    assert "finished" in output, output
    assert pg18.execute(ATTACHMENT, database=database) == []
    assert run(pg18, database, DETACH)["changed"] is False


def test_detachment_whose_runner_was_killed_half_way_is_finished(pg18, database, reader):
    process = start(pg18, database, DETACH, lock_timeout_ms=60_000)
    eventually(lambda: pg18.execute(ATTACHMENT, database=database) == [(True,)], timeout_s=20)
    process.kill()
    process.communicate()
    eventually(lambda: runner_sessions(pg18, database) == [], timeout_s=30)
    reader.rollback()
    assert pg18.execute(ATTACHMENT, database=database) == [(True,)]
    (applied,) = run(pg18, database, DETACH)["applied"]
    assert any("finishing to detach public.fine_2025" in notice for notice in applied["notices"])
    assert pg18.execute(ATTACHMENT, database=database) == []


def test_detachment_that_was_done_before_its_runner_died_is_known_to_be(pg18, database):
    pg18.execute(FINES, database=database)
    run(pg18, database, DETACH)
    (migration,) = find([SourceFile("/m/" + name, text.encode()) for name, text in DETACH.items()]).migrations
    nothing = prepare(migration.up, step="up").prefix_checksum(0)
    pg18.execute(
        "UPDATE schema_version SET state = 'partial', statements_done = 0, statement_started = 1, checksum = %s",
        (nothing,),
        database=database,
    )
    (applied,) = run(pg18, database, DETACH)["applied"]
    assert applied["version"] == "2" and run(pg18, database, DETACH)["changed"] is False
