# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Saying where in a file the server found what wrong."""

from __future__ import annotations

from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.masking import mask_secrets
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import Script
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.plan import HINT_NO_TRANSACTION
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import (
    SHOWN_CHARACTERS,
    Statement,
    concurrent_index,
    place,
)

MAX_MESSAGE_CHARACTERS = 2000

HINTS = {
    "25001": HINT_NO_TRANSACTION,
    "55P04": "A new enum value can be used once it is committed: " + HINT_NO_TRANSACTION,
    "55P03": "End the blockers that lock_waits names, or raise lock_retries; then run the task again.",
    "40P01": "Another session locked the same objects in another order; run the task again when it has ended.",
    "25006": "The database or role is set to default_transaction_read_only; reset that first.",
    "42501": "Let the login role or the option role own the objects, or connect as a superuser.",
    "57014": "Raise statement_timeout_ms if the time-out struck; otherwise somebody cancelled the statement.",
}
HINT = "Mend the file, then run the task again: what is recorded as applied stays."
HINT_STOPPED = (
    "Whoever waited goes on. Run it when fewer clients do, or write it so that it blocks nobody for long (concurrently,"
    " in batches, NOT VALID and then VALIDATE), or raise max_blocking_s."
)


class StatementFailed(Exception):
    """The server refused a statement of a file, or, without ``statement``, what belongs to the file as a whole."""

    def __init__(
        self,
        cause: Exception | str,
        *,
        script: Script,
        statement: Statement | None = None,
        number: int | None = None,
        total: int | None = None,
        doing: str = "",
        stopped: str | None = None,
    ) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.script = script
        self.statement = statement
        self.number = number
        self.total = total
        self.doing = doing
        #: Why the runner itself had the statement cancelled.
        self.stopped = stopped

    @property
    def sqlstate(self) -> str | None:
        """The server's code; None when the connection broke or the server did not object."""
        return getattr(self.cause, "pgcode", None)

    @property
    def hint(self) -> str:
        """The operator's next step."""
        if self.stopped:
            return HINT_STOPPED
        index = concurrent_index(self.statement) if self.statement else None
        if index is not None and not index.name:
            return "Drop the invalid index that the failed build left on %s, name the index in the file, run again." % (
                index.table
            )
        return HINTS.get(self.sqlstate or "", HINT)

    def facts(self) -> dict[str, Any]:
        """Return ``path``, ``line``, ``column``, ``statement`` and ``sqlstate`` for a module's result."""
        line, column = self._place()
        return {
            "path": self.script.path,
            "line": line,
            "column": column,
            "statement": self.statement.shown if self.statement else None,
            "statement_number": self.number,
            "sqlstate": self.sqlstate,
        }

    def describe(self) -> str:
        """Return one sentence with place and reason, and the line of the file below it."""
        line, column = self._place()
        where = ":".join([self.script.path, *(str(part) for part in (line, column) if part is not None)])
        if self.number:
            where += ", statement %d of %d" % (self.number, self.total or 0)
        text = "%s%s: %s" % (where, ", " + self.doing if self.doing else "", self._reason())
        source = self._line(line)
        return text + ("\nLINE %s: %s" % (line, source) if source else "")

    def _place(self) -> tuple[int | None, int | None]:
        if self.statement is None:
            return None, None
        position = getattr(getattr(self.cause, "diag", None), "statement_position", None)
        if position is None:
            return place(self.script.text, self.statement.offset)[0], None
        return place(self.script.text, self.statement.offset + int(position) - 1)

    def _line(self, line: int | None) -> str:
        if self.statement is None or line is None:
            return ""
        first = place(self.script.text, self.statement.offset)[0]
        lines = mask_secrets(self.statement.text).split("\n")
        return lines[line - first][:SHOWN_CHARACTERS].rstrip() if line - first < len(lines) else ""

    def _reason(self) -> str:
        if self.stopped:
            return "it was cancelled: " + clean(self.stopped)
        diag = getattr(self.cause, "diag", None)
        if diag is None or not diag.message_primary:
            return clean(" ".join(str(self.cause).split()))
        parts = ["%s: %s" % (self.sqlstate, diag.message_primary)]
        for title, value in (("detail", diag.message_detail), ("hint", diag.message_hint), ("context", diag.context)):
            if value:
                parts.append("%s: %s" % (title, " ".join(value.split())[:300]))
        return clean("; ".join(parts))


def clean(message: str) -> str:
    """Return a message of the server without secrets and of bounded length."""
    masked = mask_secrets(message)
    return masked if len(masked) <= MAX_MESSAGE_CHARACTERS else masked[:MAX_MESSAGE_CHARACTERS] + "..."
