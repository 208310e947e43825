# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lint reads and what it says, as values that go from the controller to a managed host and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.effects import Effect

ERROR, WARNING, INFO, OFF = "error", "warning", "info", "off"
LEVELS = (OFF, INFO, WARNING, ERROR)

#: Levels of our own rules, and of those of squawk that say something else here than it believes.
DEFAULT_LEVELS: dict[str, str] = {
    "truncate-cascade": ERROR,
    "drop-cascade": ERROR,
    "dynamic-cascade": WARNING,
    "truncate-table": WARNING,
    "delete-without-where": WARNING,
    "update-without-where": WARNING,
    "table-rewrite": WARNING,
    "missing-down": WARNING,
    "down-cannot-restore": WARNING,
    "down-drops-data": WARNING,
    "syntax-error": ERROR,
    "unreadable": ERROR,
    # truncate-cascade says more.
    "ban-truncate-cascade": OFF,
    # The runner sets both for every statement, and keeps a record so that no step is run again.
    "require-lock-timeout": OFF,
    "require-statement-timeout": OFF,
    "prefer-robust-stmts": OFF,
    # Matters of taste that stop nobody at night.
    "prefer-text-field": INFO,
    "prefer-big-int": INFO,
    "prefer-bigint-over-int": INFO,
    "prefer-bigint-over-smallint": INFO,
    "prefer-identity": INFO,
    "prefer-timestamp-tz": INFO,
    "prefer-timestamptz": INFO,
}
#: Rewriting a table up to this size is over before anybody notices.

HOW_TO_ALLOW = "If it is wanted, write '-- holdfast: allow %s: <reason>' on the line above the statement."


@dataclass(frozen=True)
class Examined:
    """One statement of a file, as far as a lint needs it on another host."""

    line: int
    column: int
    shown: str
    effects: tuple[Effect, ...]
    #: Reasons by rule.
    allowed: dict[str, str]


@dataclass(frozen=True)
class File:
    """One file, read."""

    path: str
    statements: tuple[Examined, ...] = ()
    #: What PostgreSQL's parser or the runner says against it, with the place.
    complaints: tuple[tuple[int, int, str, str], ...] = ()
    allowed: dict[str, str] = field(default_factory=dict)
    is_parsed: bool = False


@dataclass(frozen=True)
class Subject:
    """One migration, read; `as_dict` makes it fit for a module's argument."""

    version: str
    up: File
    down: File | None
    #: Whether it runs again whenever it changed, and so needs no way back of its own.
    repeatable: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the subject as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Subject:
        """Return the subject that `as_dict` gave, also after a way through JSON."""
        return cls(
            version=values["version"],
            up=_file_from(values["up"]),
            down=_file_from(values["down"]) if values["down"] else None,
            repeatable=values["repeatable"],
        )


def _file_from(values: Mapping[str, Any]) -> File:
    return File(
        **{
            **values,
            "statements": tuple(
                Examined(**{**s, "effects": tuple(map(Effect.from_dict, s["effects"]))}) for s in values["statements"]
            ),
            "complaints": tuple(tuple(complaint) for complaint in values["complaints"]),
        }
    )


@dataclass(frozen=True)
class Finding:
    """One thing that a rule says; ``at_most`` bounds the level that the rule is given."""

    rule: str
    level: str
    path: str
    line: int
    column: int
    statement: str
    message: str
    advice: str
    version: str
    source: str = "holdfast"
    at_most: str = ERROR
    allowed: bool = False
    reason: str = ""
    objects: tuple[str, ...] = ()
    tables: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the finding for a result."""
        values = asdict(self)
        values.update(objects=list(self.objects), tables=[dict(table) for table in self.tables])
        return values


def finding_from(values: Mapping[str, Any]) -> Finding:
    """Return the finding that `Finding.as_dict` gave, also after a way through JSON."""
    return Finding(**{**values, "objects": tuple(values["objects"]), "tables": tuple(values["tables"])})


def statement_at(file: File, line: int, column: int) -> Examined | None:
    """Return the statement that a place belongs to: the last that begins there or before, else the first."""
    before = [statement for statement in file.statements if (statement.line, statement.column) <= (line, column)]
    return before[-1] if before else next(iter(file.statements), None)


def permitted(finding: Finding, at: Examined | None, file: File) -> Finding:
    allowed = at.allowed if at is not None else file.allowed
    if finding.rule not in allowed:
        return finding
    if not allowed[finding.rule]:
        return replace(
            finding, advice="An allow counts when it has a reason: '-- holdfast: allow %s: <reason>'." % finding.rule
        )
    return replace(finding, allowed=True, reason=allowed[finding.rule])


def lower(one: str, other: str) -> str:
    return min(one, other, key=LEVELS.index)
