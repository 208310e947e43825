# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runners that are killed in a history, and while they build an index. tests/faults does the same at length."""

from __future__ import annotations

import random

from tests.support.killed_histories import Story, kill_again_and_again
from tests.support.killed_index import kill_during_build


def test_history_goes_on_after_a_dozen_kills_as_if_there_were_none(pg18):
    story = Story(pg18, "golang")
    try:
        assert kill_again_and_again(story, kills=12, dice=random.Random(12))["rounds"] == 12
    finally:
        pg18.drop_database(story.database)


def test_invalid_index_of_a_killed_build_is_reported_and_built_again(pg18, database):
    applied = kill_during_build(pg18, database, rows=30_000, held=True)
    assert any("dropping the invalid index public.big_t" in notice for notice in applied["notices"])
