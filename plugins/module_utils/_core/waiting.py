# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a condition, never for a guess."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    *,
    timeout_s: float,
    interval_s: float = 0.05,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call ``condition`` until it returns something true or ``timeout_s`` seconds have passed.

    Returns the last value of the condition, which is false when the time ran out. The condition is asked at
    least once, and once more when the time is up.
    """
    deadline = clock() + timeout_s
    while True:
        value = condition()
        remaining_s = deadline - clock()
        if value or remaining_s <= 0:
            return value
        sleep(min(interval_s, remaining_s))
