# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements that reach beyond the database in which they run, so that a copy of it is no place to try them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._migration import statements as scanner
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import Statement

# Roles, databases, tablespaces and settings are the whole server's; a subscription claims a slot on another one; COPY
# writes files, or runs programs.
BEYOND = re.compile(
    r"""(?P<command>
        (?:CREATE|ALTER|DROP)[ ](?:ROLE|GROUP|USER(?![ ]MAPPING)|DATABASE|TABLESPACE|SUBSCRIPTION)
      | ALTER[ ]SYSTEM
      | (?:REASSIGN|DROP)[ ]OWNED
      | (?:COMMENT|SECURITY[ ]LABEL(?:[ ]FOR[ ]\S+)?)[ ]ON[ ](?:ROLE|DATABASE|TABLESPACE|SUBSCRIPTION)
      | (?:GRANT|REVOKE)(?![ ](?:.*[ ])?ON[ ])
      | (?:GRANT|REVOKE)(?=[ ](?:.*[ ])?ON[ ](?:DATABASE|TABLESPACE|PARAMETER)[ ])
      | COPY(?=[ ].*[ ](?:TO|PROGRAM)(?:[ ]|$))
    )(?![^ ])""",
    re.VERBOSE | re.DOTALL,
)


def beyond_database(statement: Statement) -> str | None:
    """Return the command by which a statement changes more than its database, or None.

    What code in functions and DO blocks does is not seen.
    """
    match = BEYOND.match(" ".join(statement.words))
    return match.group("command") if match else None


def found_beyond(text: str, statements: Iterable[Statement], *, path: str) -> list[dict[str, Any]]:
    """Return ``path``, ``line``, ``command`` and ``statement`` (masked) of each such statement of a file."""
    return [
        {"path": path, "line": scanner.place(text, s.offset)[0], "command": command, "statement": s.shown}
        for s in statements
        for command in [beyond_database(s)]
        if command
    ]
