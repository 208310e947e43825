# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty runners of whole histories, killed at a random moment, and the same command once more.

Whenever one is killed, the database has exactly what its history says: each file whole or not there, or the one file
that is half-way with the very statements that its row names.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Callable

import pytest

from tests.support.killed_histories import Story, kill_again_and_again
from tests.support.server import TestServer, embedded_bin_dir

#: How many runners of each history are killed.
KILLS = {"golang": 20, "goose": 15, "flyway": 15}


@pytest.fixture(scope="module")
def own_server() -> Iterator[TestServer]:
    server = TestServer(embedded_bin_dir(18))
    yield server
    server.remove()


@pytest.mark.parametrize("name", KILLS)
def test_history_survives_the_death_of_its_runner(
    own_server: TestServer,
    name: str,
    seed: int,
    rounds: Callable[[int], int],
    record_property: Callable[[str, object], None],
):
    dice = random.Random("%d %s" % (seed, name))
    row = kill_again_and_again(Story(own_server, name), kills=rounds(KILLS[name]), dice=dice)
    record_property("row", {"fault": "runner of the history %s" % name, **row})
