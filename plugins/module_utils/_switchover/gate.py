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
RESUME_TIMEOUT_S = 5.0

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
        self.resumed_at = 0.0
        self.session_mode = False
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

    def look_resumed(self) -> bool:
        """Return whether RESUME was answered; ``error`` has what went wrong, and ``resumed_at`` when all was well."""
        try:
            answered = self.resumer.ready()
            self.error = None if answered else self.error
        except psycopg2.Error as exc:
            answered = True
            self.error = None if any(text in str(exc) for text in NOT_PAUSED) else one_line(exc)
        if answered and self.error is None:
            self.resumed_at, self.paused = time.monotonic(), False
        return answered


def tell_gates(gates: Sequence[Gate]) -> list[Gate]:
    """Let the clients of all ``gates`` go on, at once, and return those that could not be told.

    All are told before any is waited for, so that one that hangs does not hold up the clients of the others.
    """
    waiting = [gate for gate in gates if gate.send_resume()]
    for gate in gates:
        gate.error = "no answer to RESUME" if gate in waiting else "the connection was lost"
    deadline = time.monotonic() + RESUME_ANSWER_S
    while waiting and wait_for([gate.resumer for gate in waiting], timeout_s=deadline - time.monotonic()):
        waiting = [gate for gate in waiting if not gate.look_resumed()]
    for gate in waiting:
        gate.error = "no answer to RESUME within %g s" % RESUME_ANSWER_S
    return [gate for gate in gates if gate.error is not None]


def tell_gates_anew(gates: Sequence[Gate], *, timeout_s: float = RESUME_TIMEOUT_S) -> None:
    """Try ``gates`` on new connections, again and again; ``error`` names what could not be done within the time."""
    failed = list(gates)

    def all_told() -> bool:
        usable = []
        for gate in failed:
            try:
                gate.reopen()
                usable.append(gate)
            except HoldfastError as exc:
                gate.error = one_line(exc)
        tell_gates(usable)
        failed[:] = [gate for gate in failed if gate.error is not None]
        return not failed

    if failed:
        wait_until(all_told, timeout_s=timeout_s, interval_s=0.2)
