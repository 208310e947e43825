# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check expects of its query, and whether an outcome meets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._verification.place import Place, kind_of

KINDS = ("no_rows", "rows", "scalar", "set")
OPERATORS = ("equals", "not_equals", "at_least", "at_most", "above", "below", "between")

#: The most values that a set is compared with; a set expectation is for lists that a person wrote.
MAX_SET_ROWS = 10_000

_WORDS = {
    "equals": "%s",
    "not_equals": "anything but %s",
    "at_least": "at least %s",
    "at_most": "at most %s",
    "above": "above %s",
    "below": "below %s",
}
_ORDERINGS: Mapping[str, Callable[[Any, Any], bool]] = {
    "at_least": lambda actual, bound: bool(actual >= bound),
    "at_most": lambda actual, bound: bool(actual <= bound),
    "above": lambda actual, bound: bool(actual > bound),
    "below": lambda actual, bound: bool(actual < bound),
}


@dataclass(frozen=True)
class Expectation:
    """One of `KINDS`, with its conditions (operator and operand, all of which must hold) or its set's members."""

    kind: str
    conditions: tuple[tuple[str, Any], ...] = ()
    members: tuple[Any, ...] = ()

    @property
    def rows_needed(self) -> int:
        """How many rows the judgement itself must see; counting needs none."""
        return {"scalar": 1, "set": MAX_SET_ROWS}.get(self.kind, 0)


@dataclass(frozen=True)
class Outcome:
    """What a query returned: the names of its columns, the number of all its rows, and the first of them."""

    columns: tuple[str, ...]
    row_count: int
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Verdict:
    """Whether the expectation was met, and the sentence that says so; ``value`` is that of a scalar."""

    passed: bool
    message: str
    value: Any = None


def parse_expectation(value: Any, place: Place) -> Expectation:
    """Return the expectation that a suite states; raises `HoldfastError` (``suite_invalid``)."""
    if value == "no_rows":
        return Expectation("no_rows")
    hint = "Write no_rows, or one of rows, scalar, set with its condition."
    if isinstance(value, str):
        raise place.refusal("the expectation %r is unknown." % value, hint=hint, allowed=KINDS)
    if not isinstance(value, dict) or len(value) != 1:
        raise place.refusal("an expectation is one word or one key, not %s." % kind_of(value), hint=hint, allowed=KINDS)
    kind, operand = next(iter(value.items()))
    inside = place.at(kind)
    if kind not in KINDS or kind == "no_rows":
        raise inside.refusal("the expectation %r is unknown." % kind, hint=hint, allowed=KINDS)
    if kind == "set":
        return Expectation("set", members=_parse_members(operand, inside))
    return Expectation(kind, conditions=_parse_conditions(operand, inside, counts=kind == "rows"))


def _parse_members(value: Any, place: Place) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise place.refusal("a set is a list, not %s." % kind_of(value), hint="Write set: [first, second].")
    for position, member in enumerate(value):
        if isinstance(member, (dict, list)):
            raise place.at(position).refusal(
                "a member of a set is a single value, not %s." % kind_of(member), hint="Write one value per member."
            )
    return tuple(value)


def _parse_conditions(value: Any, place: Place, *, counts: bool) -> tuple[tuple[str, Any], ...]:
    what = "the expectation %s" % place.path[-1]
    if not isinstance(value, dict) or not value:
        raise place.refusal(
            "%s needs an operator and a value, not %s." % (what, kind_of(value)),
            hint="Write for example %s: {equals: 1}." % place.path[-1],
            allowed=OPERATORS,
        )
    conditions = []
    for operator, operand in place.mapping(value, what=what, allowed=OPERATORS).items():
        inside = place.at(operator)
        if operator == "between":
            if not isinstance(operand, list) or len(operand) != 2:
                raise inside.refusal("between needs two bounds.", hint="Write between: [lowest, highest].")
            lower, upper = (_parse_operand(bound, inside, ordered=True, counts=counts) for bound in operand)
            low, high = comparable(lower, upper)
            if low is None:
                raise inside.refusal("the bounds of between are of two types.", hint="Write two numbers or two texts.")
            if low > high:
                raise inside.refusal(
                    "between %s and %s holds nothing." % (show(lower), show(upper)), hint="Write the lower bound first."
                )
            conditions.append((operator, (lower, upper)))
        else:
            ordered = operator in _ORDERINGS
            conditions.append((operator, _parse_operand(operand, inside, ordered=ordered, counts=counts)))
    return tuple(conditions)


def _parse_operand(value: Any, place: Place, *, ordered: bool, counts: bool) -> Any:
    if isinstance(value, (dict, list)):
        raise place.refusal(
            "%s compares with a single value, not %s." % (place.path[-1], kind_of(value)), hint="Write one value."
        )
    if ordered and (value is None or isinstance(value, bool)):
        raise place.refusal(
            "%s needs a number or a text, not %s." % (place.path[-1], kind_of(value)),
            hint="NULL and booleans have no order: use equals or not_equals.",
        )
    if counts and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise place.refusal(
            "a number of rows is a whole number of at least 0, not %s." % show(value), hint="Write rows: {equals: 2}."
        )
    return value


def judge(expectation: Expectation, outcome: Outcome, *, hide: bool = False) -> Verdict:
    """Return whether ``outcome`` is what was expected; ``hide`` keeps values out of the message."""
    if expectation.kind == "no_rows":
        return Verdict(outcome.row_count == 0, "%s, expected none" % rows_text(outcome.row_count))
    if expectation.kind == "rows":
        holds = all(_holds(operator, outcome.row_count, operand) for operator, operand in expectation.conditions)
        return Verdict(holds, "%s, expected %s" % (rows_text(outcome.row_count), describe(expectation)))
    if len(outcome.columns) != 1:
        return Verdict(
            False,
            "the query returns %d columns (%s); the expectation %s needs exactly one"
            % (len(outcome.columns), ", ".join(outcome.columns), expectation.kind),
        )
    if expectation.kind == "set":
        return _judge_set(expectation, outcome, hide=hide)
    if outcome.row_count != 1:
        return Verdict(False, "the query returned %s; a scalar needs exactly one" % rows_text(outcome.row_count))
    value = outcome.rows[0][0]
    holds = all(_holds(operator, value, operand) for operator, operand in expectation.conditions)
    found = "a hidden value" if hide else show(value)
    message = "found %s, expected %s" % (found, describe(expectation))
    if not holds:
        message += _type_remark(value, expectation)
    return Verdict(holds, message, value)


def _judge_set(expectation: Expectation, outcome: Outcome, *, hide: bool) -> Verdict:
    if outcome.row_count > len(outcome.rows):
        return Verdict(False, "%s, too many to compare with a set" % rows_text(outcome.row_count))
    found = {_key(row[0]): row[0] for row in outcome.rows}
    wanted = {_key(member): member for member in expectation.members}
    missing = [show(value) for key, value in wanted.items() if key not in found]
    unexpected = [show(value) for key, value in found.items() if key not in wanted]
    if not missing and not unexpected:
        return Verdict(True, "the set of %d as expected" % len(wanted))
    parts = []
    if missing:
        parts.append("missing: %s" % _some(missing))
    if unexpected:
        parts.append("unexpected: %s" % ("%d hidden" % len(unexpected) if hide else _some(unexpected)))
    return Verdict(False, "; ".join(parts))


def _some(texts: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(texts[:most])
    return shown if len(texts) <= most else "%s and %d more" % (shown, len(texts) - most)


def _holds(operator: str, actual: Any, operand: Any) -> bool:
    if operator == "between":
        return _holds("at_least", actual, operand[0]) and _holds("at_most", actual, operand[1])
    if operator == "equals":
        return _same(actual, operand)
    # NULL is the absence of an answer: it satisfies nothing that was not written for it.
    if actual is None:
        return False
    if operator == "not_equals":
        return not _same(actual, operand)
    left, right = comparable(actual, operand)
    return left is not None and _ORDERINGS[operator](left, right)


def _same(left: Any, right: Any) -> bool:
    if _key(left) == _key(right):
        return True
    left, right = comparable(left, right)
    return left is not None and bool(left == right)


def comparable(left: Any, right: Any) -> tuple[Any, Any]:
    """Return both values in a form that has an order, or a pair of None when they have none in common.

    Numbers are compared exactly; a text that is a number counts as one beside a number.
    """
    numbers = as_number(left), as_number(right)
    if numbers[0] is not None and numbers[1] is not None and not (isinstance(left, str) and isinstance(right, str)):
        return numbers
    if isinstance(left, str) and isinstance(right, str):
        return left, right
    return None, None


def as_number(value: Any) -> Decimal | None:
    """Return the exact number that ``value`` stands for, or None. NaN has no order and is none."""
    if value is None or isinstance(value, bool):
        return None
    try:
        # repr gives the shortest digits of a float, which are what its author wrote.
        number = value if isinstance(value, Decimal) else Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, TypeError, ValueError):
        return None
    return None if number.is_nan() else number


def _key(value: Any) -> tuple[str, Any]:
    """Return what is equal for equal values: 1, 1.0 and 1.00 are; 1 and true are not, nor 1 and its text."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, str):
        return "text", value
    number = as_number(value)
    return ("number", number) if number is not None else (kind_of(value), str(value))


def _type_remark(actual: Any, expectation: Expectation) -> str:
    kinds = {kind_of(part) for condition in expectation.conditions for part in _parts(condition[1])}
    if actual is None and "NULL" not in kinds:
        return " (NULL satisfies only equals: null)"
    if actual is not None and kind_of(actual) not in kinds:
        return " (the query returns %s)" % kind_of(actual)
    return ""


def _parts(operand: Any) -> tuple[Any, ...]:
    return operand if isinstance(operand, tuple) else (operand,)


def describe(expectation: Expectation) -> str:
    """Return the conditions in words, such as "at least 1"."""
    words = []
    for operator, operand in expectation.conditions:
        if operator == "between":
            words.append("between %s and %s" % (show(operand[0]), show(operand[1])))
        else:
            words.append(_WORDS[operator] % show(operand))
    return " and ".join(words)


def show(value: Any, longest: int = 200) -> str:
    """Return a value as a person reads it: text in quotes, NULL and booleans as in SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = '"%s"' % value if isinstance(value, str) else str(value)
    return text if len(text) <= longest else text[:longest] + "..."


def rows_text(count: int) -> str:
    """Return "no rows", "1 row" or "5 rows"."""
    return "no rows" if count == 0 else "%d row%s" % (count, "" if count == 1 else "s")
