# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One database of one PgBouncer: where its clients are made to wait, and let go on whatever has become of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import (
    CONNECT_TIMEOUT_S,
    Console,
    PoolerAddress,
    argument,
    connected,
    wait_for,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

#: How long to try to resume a pooler that does not answer.
RESUME_TIMEOUT_S = 10.0

#: How long an answer to RESUME may take before it is tried on another connection.
RESUME_ANSWER_S = 1.0

# What RESUME says when there is nothing to resume; a wildcard's entry goes after a while, and with a restart.
NOT_PAUSED = ("is not paused", "no such database")


def one_line(exc: Exception) -> str:
    """Return the message of an exception in one line."""
    return " ".join(str(exc).split())


class Gate:
    """One name of a pooler, with a connection for PAUSE, which may wait, and one for RESUME, which never does."""

    def __init__(self, address: PoolerAddress, name: str) -> None:
        self.address = address
        self.name = name
        self.argument = argument(name)
        self.pauser = Console(address)
        self.resumer = Console(address)
        self.paused = False
        self.error: str | None = None

    @property
    def consoles(self) -> list[Console]:
        """Return both connections."""
        return [self.pauser, self.resumer]

    def begin_pause(self) -> None:
        """Send PAUSE."""
        self.paused, self.error = False, None
        try:
            self.pauser.send("PAUSE " + self.argument)
        except psycopg2.Error as exc:
            self.error = one_line(exc)

    def look(self) -> None:
        """See whether the pause is complete or refused."""
        try:
            self.paused = self.pauser.ready()
        except psycopg2.Error as exc:
            self.error = one_line(exc)

    def reopen(self) -> None:
        """Have two usable connections again; raises `HoldfastError`."""
        self.close()
        self.pauser, self.resumer = Console(self.address), Console(self.address)
        connected(self.consoles, timeout_s=CONNECT_TIMEOUT_S)

    def close(self) -> None:
        """Close both connections; what is paused stays so."""
        for console in self.consoles:
            console.close()

    def send_resume(self) -> bool:
        """Send RESUME and return whether that was possible."""
        try:
            self.resumer.send("RESUME " + self.argument)
        except psycopg2.Error:
            return False
        return True

    def resumed(self) -> str | None:
        """Wait for the answer to RESUME and return what went wrong."""
        deadline = time.monotonic() + RESUME_ANSWER_S
        try:
            while not self.resumer.ready():
                if not wait_for([self.resumer], timeout_s=deadline - time.monotonic()):
                    return "no answer to RESUME within %g s" % RESUME_ANSWER_S
        except psycopg2.Error as exc:
            return None if any(text in str(exc) for text in NOT_PAUSED) else one_line(exc)
        return None

    def resumed_anew(self) -> str | None:
        """Resume on a new connection and return what went wrong."""
        try:
            self.reopen()
        except HoldfastError as exc:
            return one_line(exc)
        return self.resumed() if self.send_resume() else "the connection was lost"


def resume_gates(gates: Sequence[Gate], *, timeout_s: float = RESUME_TIMEOUT_S) -> None:
    """Let the clients of all ``gates`` go on; ``error`` names what could not be done within the time.

    All are told before any is waited for, so that one that hangs does not hold up the clients of the others.
    """
    told = [gate for gate in gates if gate.send_resume()]
    for gate in gates:
        gate.error = gate.resumed() if gate in told else "the connection was lost"
    failed = [gate for gate in gates if gate.error is not None]

    def all_resumed() -> bool:
        for gate in failed:
            gate.error = gate.resumed_anew()
        failed[:] = [gate for gate in failed if gate.error is not None]
        return not failed

    if failed:
        wait_until(all_resumed, timeout_s=timeout_s, interval_s=0.2)
    for gate in gates:
        gate.paused = False
