# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead-man switch: a process of its own that lets clients go on when the one that made them wait does not."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

DISARM = b"."
READY = b"r"
FIRED = b"f"

#: How long the other process may take to have open what it needs.
READY_TIMEOUT_S = 20.0


def nothing() -> None:
    """Prepare nothing."""


def _close_from(first: int) -> None:
    """Close the descriptors from ``first`` on. Where a thousand million may be open, trying each takes minutes."""
    try:
        found = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        found = list(range(first, min(os.sysconf("SC_OPEN_MAX"), 65536)))
    for descriptor in found:
        if descriptor >= first:
            with contextlib.suppress(OSError):  # the one that the list itself was read with
                os.close(descriptor)


class Watchdog:
    """Runs ``rescue`` between `arm` and `disarm`: when this process ends, however it ends, and when its time is up.

    Both hold an end of a pair of sockets. The end of the stream, which the kernel tells even after SIGKILL, is one
    alarm; the clock is the other, for a process that is stopped or stuck. The other process is nobody's child and of
    its own session, so that whatever ends a job with all its children leaves it. ``prepare`` runs there first, so that
    the rescue does not begin with connecting; none of the connections of this process can be used there.
    """

    def __init__(self, rescue: Callable[[], None], *, prepare: Callable[[], None] = nothing) -> None:
        self._rescue = rescue
        self._prepare = prepare
        self._socket: socket.socket | None = None
        self._fired = False

    def arm(self, *, timeout_s: float) -> None:
        """Start the other process, and return when it is ready; its time begins then.

        Raises `HoldfastError` when it cannot do what it is there for.
        """
        mine, others = socket.socketpair()
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                if os.fork() == 0:
                    self._watch(others, timeout_s)
            finally:
                os._exit(0)  # whatever happens here must not run on in the place of the caller
        others.close()
        os.waitpid(child, 0)
        mine.settimeout(READY_TIMEOUT_S)
        try:
            answer = mine.recv(4096)
        except socket.timeout:
            answer = b"it was not ready within %d s" % READY_TIMEOUT_S
        if answer != READY:
            mine.close()
            raise HoldfastError(
                code="connection_failed",
                msg="The process that lets clients go on if this one is killed cannot do so: %s"
                % (answer.decode("utf-8", "replace") or "it ended"),
                hint="Nothing was touched. Make it possible to connect a second time to what is named, then run again.",
            )
        mine.setblocking(False)
        self._socket, self._fired = mine, False

    def fired(self) -> bool:
        """Return whether the other process has let clients go on, so that nothing may rely on their waiting."""
        if self._socket is not None and not self._fired:
            # Without an answer it is on guard; at the end of the stream it was killed, and nobody has let anyone go on.
            with contextlib.suppress(BlockingIOError, ConnectionError):
                self._fired = self._socket.recv(16) == FIRED
        return self._fired

    def disarm(self) -> None:
        """End the other process without an alarm; nothing happens when it was not started."""
        self._leave(DISARM)

    def leave_armed(self) -> None:
        """Let the other process do its work now, because this one has not succeeded."""
        self._leave(b"")

    def _leave(self, word: bytes) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # somebody ended it
            self._socket.send(word)
        self._socket.close()
        self._socket = None

    def _watch(self, line: socket.socket, timeout_s: float) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        # The sessions of the one that is watched must end with it, and so must whoever reads its output.
        os.dup2(line.fileno(), 3)
        _close_from(4)
        try:
            self._prepare()
        except (HoldfastError, psycopg2.Error, OSError) as exc:
            os.write(3, " ".join(str(exc).split()).encode("utf-8", "replace")[:4000] or b"?")
            return
        os.write(3, READY)
        deadline = time.monotonic() + timeout_s
        if not self._heard(deadline - time.monotonic()):
            # The other one lives and may come to itself at any moment.
            with contextlib.suppress(OSError):
                os.write(3, FIRED)
            self._rescue()
            self._heard(None)
        if os.read(3, 1) != DISARM:
            self._rescue()

    @staticmethod
    def _heard(timeout_s: float | None) -> bool:
        return bool(select.select([3], [], [], None if timeout_s is None else max(0.0, timeout_s))[0])
