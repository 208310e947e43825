# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead-man switch: a process of its own that lets clients go on when the one that made them wait is killed."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Callable

DISARM = b"."


class Watchdog:
    """Runs ``rescue`` when this process ends, however it ends, between `arm` and `disarm`.

    It holds one end of a pipe: the end of the file, which the kernel sends even after SIGKILL, is the alarm. The other
    process is nobody's child and of its own session, so that whatever ends a job with all its children leaves it.
    """

    def __init__(self, rescue: Callable[[], None]) -> None:
        self._rescue = rescue
        self._pipe: int | None = None

    def arm(self, *, timeout_s: float) -> None:
        """Start the other process. The time does not matter: the alarm comes with the end, not after a while."""
        del timeout_s
        watched, self._pipe = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                if os.fork() == 0:
                    self._watch(watched)
            finally:
                os._exit(0)  # whatever happens here must not run on in the place of the caller
        os.close(watched)
        os.waitpid(child, 0)

    def disarm(self) -> None:
        """End the other process without an alarm; nothing happens when it was not started."""
        if self._pipe is None:
            return
        with contextlib.suppress(BrokenPipeError):  # somebody ended it
            os.write(self._pipe, DISARM)
        os.close(self._pipe)
        self._pipe = None

    def _watch(self, watched: int) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        # The sessions of the one that is watched must end with it, and so must whoever reads its output.
        os.dup2(watched, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        if os.read(3, 1) != DISARM:
            self._rescue()
