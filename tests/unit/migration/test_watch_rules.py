# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who waits for whom, and which locks are a statement's own."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.watch import (
    Effects,
    strongest,
    taken,
    waiting_for,
)


@pytest.mark.parametrize(
    ("blockers", "waiting"),
    [
        ({}, set()),
        ({2: [1]}, {2}),
        # Behind somebody who waits for it, in any order.
        ({4: [3], 3: [2], 2: [1]}, {2, 3, 4}),
        # It waits itself: who is in its own way does not wait for it, who queues behind it does.
        ({1: [9], 2: [1, 9]}, {2}),
        # Others have their own quarrels, also in a circle, which is a deadlock until the server ends it.
        ({7: [8], 8: [7]}, set()),
        ({1: [2], 2: [1]}, {2}),
        # 0 stands for a prepared transaction.
        ({2: [0]}, set()),
    ],
)
def test_who_waits_for_a_process(blockers: dict[int, list[int]], waiting: set[int]) -> None:
    assert waiting_for(1, blockers) == waiting


def test_strongest_lock_of_each_table_counts() -> None:
    held = [("a", "AccessShareLock"), ("a", "AccessExclusiveLock"), ("a", "ShareLock"), ("b", "RowExclusiveLock")]
    assert strongest(held) == {"a": "AccessExclusiveLock", "b": "RowExclusiveLock"}


def test_what_the_transaction_held_before_is_not_the_statement_s() -> None:
    before = {"a": "ShareLock", "b": "AccessExclusiveLock"}
    held = {"a": "ExclusiveLock", "b": "AccessExclusiveLock", "c": "AccessShareLock"}
    assert taken(held, before) == {"a": "ExclusiveLock", "c": "AccessShareLock"}


def test_effects_name_the_strongest_lock_of_all() -> None:
    effects = Effects(locks={"b": "AccessShareLock", "a": "ShareRowExclusiveLock"}, blocked_sessions=2, blocked_ms=70)
    assert effects.as_dict() == {
        "locks": {"a": "ShareRowExclusiveLock", "b": "AccessShareLock"},
        "strongest_lock": "ShareRowExclusiveLock",
        "blocked_sessions": 2,
        "blocked_ms": 70,
        "progress": None,
    }
    assert Effects().as_dict()["strongest_lock"] is None
