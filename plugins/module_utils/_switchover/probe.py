# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stall as a client of a pooler sees it."""

from __future__ import annotations

import contextlib
import time

from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import PoolerSession
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.gate import one_line

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2


class Probe:
    """An ordinary client of a pooler, asking again and again, and the longest time that it waited."""

    def __init__(self, session: PoolerSession) -> None:
        self.session = session
        self.longest_s = 0.0
        self.error: str | None = None
        self._asked: float | None = None

    @property
    def under_way(self) -> bool:
        """Whether there will be an answer."""
        return self._asked is not None and self.error is None

    def ask(self) -> None:
        """Have a question under way."""
        self.look()
        if self._asked is None and self.error is None:
            self._asked = time.monotonic()
            try:
                self.session.send("SELECT 1")
            except psycopg2.Error as exc:
                self.error = one_line(exc)

    def look(self) -> None:
        """Take the answer when there is one."""
        if self._asked is None or self.error is not None:
            return
        try:
            if self.session.ready():
                self.longest_s = max(self.longest_s, time.monotonic() - self._asked)
                self._asked = None
        except psycopg2.Error as exc:
            self.error = one_line(exc)

    def give_up(self, reason: str) -> None:
        """Wait for no answer any more."""
        if self.under_way:
            self.error = reason
