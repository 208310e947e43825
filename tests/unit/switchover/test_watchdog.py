# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that is on guard: when it acts, and what it keeps open."""

from __future__ import annotations

import os
import pathlib
import time

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.watchdog import Watchdog
from tests.support.server import eventually


@pytest.fixture
def sign(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "acted"


def test_it_acts_when_time_is_up_and_says_so(sign: pathlib.Path) -> None:
    watchdog = Watchdog(sign.touch)
    watchdog.arm(timeout_s=0.1)
    eventually(watchdog.fired)
    eventually(sign.exists)
    watchdog.disarm()


def test_it_does_nothing_once_it_is_disarmed(sign: pathlib.Path) -> None:
    watchdog = Watchdog(sign.touch)
    watchdog.arm(timeout_s=0.2)
    watchdog.disarm()
    time.sleep(0.4)
    assert not sign.exists()


def test_it_acts_at_once_where_it_is_left_armed(sign: pathlib.Path) -> None:
    watchdog = Watchdog(sign.touch)
    watchdog.arm(timeout_s=60)
    watchdog.leave_armed()
    eventually(sign.exists)


def test_it_holds_nothing_open_that_others_wait_for(sign: pathlib.Path) -> None:
    reader, writer = os.pipe()
    watchdog = Watchdog(sign.touch)
    watchdog.arm(timeout_s=60)
    os.close(writer)
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b"", "whoever reads the output of a task would wait for its end"
    os.close(reader)
    watchdog.disarm()


def test_it_is_told_why_it_would_be_of_no_use(sign: pathlib.Path) -> None:
    def prepare() -> None:
        raise HoldfastError(code="connection_failed", msg="no\nway", hint="")

    watchdog = Watchdog(sign.touch, prepare=prepare)
    with pytest.raises(HoldfastError) as refusal:
        watchdog.arm(timeout_s=60)
    assert refusal.value.code == "connection_failed" and "no way" in refusal.value.msg
    assert not sign.exists()
