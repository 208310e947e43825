# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where something stands in a suite's file, so that a refusal can name file, line and key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError


@dataclass(frozen=True)
class Place:
    """A path of keys and positions inside one parsed file.

    ``lines`` gives the line of a path, its parts joined by slashes (``checks/0/expect``).
    """

    file: str
    lines: Mapping[str, int] = field(default_factory=dict)
    path: tuple[str, ...] = ()

    def at(self, *parts: str | int) -> Place:
        """Return the place of something inside."""
        return Place(self.file, self.lines, (*self.path, *(str(part) for part in parts)))

    @property
    def line(self) -> int | None:
        """The line, or that of the nearest thing around it; None when the file was not read from YAML."""
        for length in range(len(self.path), -1, -1):
            found = self.lines.get("/".join(self.path[:length]))
            if found is not None:
                return found
        return None

    def refusal(self, problem: str, *, hint: str, allowed: Iterable[str] = ()) -> HoldfastError:
        """Return the error that says what is wrong here, and which words would be right."""
        words = list(allowed)
        where = self.file if self.line is None else "%s, line %d" % (self.file, self.line)
        return HoldfastError(
            code="suite_invalid",
            msg="%s: %s" % (where, problem),
            hint=hint + (" Allowed here: %s." % ", ".join(words) if words else ""),
            file=self.file,
            line=self.line,
            key="/".join(self.path),
            allowed=words,
        )

    def mapping(self, value: Any, *, what: str, allowed: Iterable[str] | None = None) -> dict[str, Any]:
        """Return ``value`` when it is a mapping whose keys are all among ``allowed``."""
        if not isinstance(value, dict):
            raise self.refusal("%s must be a mapping, not %s." % (what, kind_of(value)), hint="Write key: value pairs.")
        if allowed is not None:
            words = tuple(allowed)
            for key in value:
                if key not in words:
                    raise self.at(key).refusal(
                        "%s has the unknown key %r." % (what, key), hint="Mend or remove the key.", allowed=words
                    )
        return value


def kind_of(value: Any) -> str:
    """Return how a person calls the type of a value that came from YAML or from the server."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "a number"
