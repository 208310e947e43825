# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A signal that ends a run becomes an exception, so that what the run had begun is undone on the way out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

#: What schedulers, terminals and time limits send before they send SIGKILL.
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """Raise `HoldfastError` (``interrupted``) in the block on the first of `SIGNALS`, and ignore any further ones.

    Outside the main thread, where Python cannot set handlers, the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: Any) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise HoldfastError(
            code="interrupted",
            msg="The run was ended by %s." % signal.Signals(number).name,
            hint="What it had begun was undone; run the task again.",
        )

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
