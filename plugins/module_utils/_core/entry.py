# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading mappings that people wrote into variables: known keys only, and refusals that name the place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError


def invalid(where: str, problem: str, *, hint: str = "") -> HoldfastError:
    """Return the error (``option_invalid``) for something at ``where``; the problem names no value, only its kind."""
    return HoldfastError(
        code="option_invalid",
        msg="%s: %s" % (where, problem),
        hint=hint or "Mend this entry of the variable; nothing has been done.",
        where=where,
    )


def kind_of(value: Any) -> str:
    """Return how a person calls the type of a value."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence):
        return "a list"
    return "a number" if isinstance(value, (int, float)) else "something else"


class Entry:
    """One mapping, read key by key.

    A key with nothing or an empty text is not there: that is how surveys and unset variables arrive. A refusal never
    repeats a value, because it may be a secret at a wrong place.
    """

    def __init__(self, value: Any, *, where: str, keys: Iterable[str]) -> None:
        """Take the mapping; raises `HoldfastError` (``option_invalid``) for keys other than ``keys``."""
        known = tuple(keys)
        self.where = where
        if not isinstance(value, Mapping):
            raise invalid(where, "this is %s, not a mapping." % kind_of(value), hint=_keys(known))
        for key, item in value.items():
            if key not in known and item is not None:
                raise invalid(where, "the key %r is unknown." % (key,), hint=_keys(known))
        self.given = {key: item for key, item in value.items() if item is not None and item != ""}

    def refusal(self, key: str, problem: str, *, hint: str = "") -> HoldfastError:
        """Return the error for the value of a key."""
        return invalid("%s, %s" % (self.where, key), problem, hint=hint)

    def _missing(self, key: str) -> HoldfastError:
        return self.refusal(key, "it is missing.")

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text, a number as the text that a person wrote; without a default it is required."""
        value = self.given.get(key)
        if value is None:
            if default is None:
                raise self._missing(key)
            return default
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.refusal(key, "this is %s, not text." % kind_of(value))
        if "\x00" in str(value):
            raise self.refusal(key, "it holds a NUL character.")
        return str(value)

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """Return one of a few words."""
        value = self.text(key, default)
        if value not in choices:
            raise self.refusal(key, "the word is unknown.", hint="Write one of: %s." % ", ".join(choices))
        return value

    def number(self, key: str, default: float | None = None, *, low: float = 0, high: float) -> float:
        """Return a number within bounds; text that is one, such as a survey's answer, will do."""
        value = self.given.get(key)
        if value is None:
            if default is None:
                raise self._missing(key)
            return default
        try:
            number = float(value) if not isinstance(value, bool) else float("nan")
        except (TypeError, ValueError):
            number = float("nan")
        if not low <= number <= high:
            raise self.refusal(key, "it must be a number from %g to %g." % (low, high))
        return number

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        value = self.given.get(key, default)
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
            return value.lower() in ("true", "yes")
        if not isinstance(value, bool):
            raise self.refusal(key, "this is %s, not true or false." % kind_of(value))
        return value

    def texts(self, key: str, *, choices: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a list of texts, a single one as a list of it."""
        value = self.given.get(key, ())
        items = [value] if isinstance(value, (str, int)) and not isinstance(value, bool) else value
        if not isinstance(items, (list, tuple)) or not all(
            isinstance(item, (str, int)) and not isinstance(item, bool) for item in items
        ):
            raise self.refusal(key, "it must be a list of texts.")
        if choices and not set(map(str, items)) <= set(choices):
            raise self.refusal(key, "a word is unknown.", hint="Write some of: %s." % ", ".join(choices))
        return tuple(str(item) for item in items)

    def entries(self, key: str) -> list[Any]:
        """Return a list of anything."""
        value = self.given.get(key, [])
        if not isinstance(value, (list, tuple)):
            raise self.refusal(key, "this is %s, not a list." % kind_of(value))
        return list(value)

    def table(self, key: str) -> dict[str, str]:
        """Return a mapping from names to texts."""
        value = self.given.get(key, {})
        if not isinstance(value, Mapping) or not all(
            isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in value.values()
        ):
            raise self.refusal(key, "it must be a mapping from names to texts.")
        return {str(name): str(item) for name, item in value.items()}


def _keys(known: Sequence[str]) -> str:
    return "Write a mapping with keys among: %s." % ", ".join(known)
