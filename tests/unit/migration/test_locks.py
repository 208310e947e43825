# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Poolers are recognised before a lock or a setting could get lost in them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.locks import RunnerLock, refuse_pooler


class Cursor:
    """Answers each query with the next of the given rows."""

    def __init__(self, rows):
        self.rows = rows

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        return None

    def execute(self, *_arguments):
        pass

    def fetchall(self):
        return self.rows.pop(0)


def connection(announced_pid, *answers):
    rows = list(answers)
    return SimpleNamespace(info=SimpleNamespace(backend_pid=announced_pid), cursor=lambda: Cursor(rows))


def test_direct_connection_is_accepted():
    refuse_pooler(connection(77, [(77,)], [(77,)]), database="d")


@pytest.mark.parametrize(
    "answers",
    [
        ([(78,)], [(78,)]),  # a pooler in session mode: the announced process is the pooler's invention
        ([(77,)], [(78,)]),  # transaction mode: two statements, two processes
    ],
)
def test_pooler_is_refused_with_the_way_round_it(answers):
    with pytest.raises(HoldfastError) as error:
        refuse_pooler(connection(77, *answers), database="d")
    assert error.value.code == "unsupported"
    assert "78" in error.value.msg
    assert "PgBouncer" in error.value.hint


def test_lock_that_is_not_held_when_asked_again_is_refused():
    other_session = (90, "app", "x", None, "2026-01-01", "idle", "", False)
    for holders in ([], [other_session]):
        with pytest.raises(HoldfastError) as error:
            RunnerLock(connection=connection(77, holders), database="d").check()
        assert error.value.code == "unsupported"
