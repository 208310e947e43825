# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check expects of its query, and whether an outcome meets it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._verification.place import Place, kind_of
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.units import (
    UNITS,
    dimension_of,
    parse_interval,
    parse_quantity,
    show_quantity,
)

KINDS = ("no_rows", "rows", "scalar", "set", "not_worse", "same_as")
OPERATORS = ("equals", "not_equals", "at_least", "at_most", "above", "below", "between")

#: What "not worse" compares, and which direction is the better one.
MEASURES = ("scalar", "rows")
DIRECTIONS = ("lower", "higher")
NOT_WORSE_KEYS = ("of", "better", "tolerance", "unit")

#: Where the same can be looked for: in another database of the server, or in an archive's manifest.
SOURCES = ("database", "archive")

#: The most rows that are compared one by one; a set is a list that a person wrote, and the same is for aggregates.
MAX_COMPARED_ROWS = 10_000

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
    """One of `KINDS`, with its conditions (operator and operand, all of which must hold) or its set's members.

    With a ``unit`` operands and tolerance are numbers of it, and so is what the query returns. ``of``, ``better`` and
    ``tolerance`` are those of "not worse", where a tolerance may be a share of the earlier value; ``source`` is that
    of "same as".
    """

    kind: str
    conditions: tuple[tuple[str, Any], ...] = ()
    members: tuple[Any, ...] = ()
    unit: str = ""
    of: str = "scalar"
    better: str = "lower"
    tolerance: Decimal = Decimal(0)
    tolerance_is_share: bool = False
    source: str = ""

    @property
    def rows_needed(self) -> int:
        """How many rows the judgement itself must see; counting needs none."""
        if self.kind in ("set", "same_as"):
            return MAX_COMPARED_ROWS
        return 1 if self.kind == "scalar" or (self.kind == "not_worse" and self.of == "scalar") else 0


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
    hint = "Write no_rows, or one of rows, scalar, set, not_worse, same_as with its condition."
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
    if kind == "not_worse":
        return _parse_not_worse(operand, inside)
    if kind == "same_as":
        if operand not in SOURCES:
            raise inside.refusal(
                "a query can be the same as in a database or an archive, not %s." % show(operand),
                hint="Write same_as: database.",
                allowed=SOURCES,
            )
        return Expectation("same_as", source=operand)
    if not isinstance(operand, dict) or kind == "rows":
        return Expectation(kind, conditions=_parse_conditions(operand, inside, counts=kind == "rows"))
    unit = _parse_unit(operand, inside)
    conditions = {key: value for key, value in operand.items() if key != "unit"}
    return Expectation(kind, conditions=_parse_conditions(conditions, inside, unit=unit), unit=unit)


def _parse_unit(mapping: Mapping[str, Any], place: Place) -> str:
    if "unit" not in mapping:
        return ""
    unit = mapping["unit"]
    if unit not in UNITS:
        raise place.at("unit").refusal(
            "the unit %s is unknown." % show(unit), hint="Say in which unit the query counts.", allowed=UNITS
        )
    return str(unit)


def _parse_not_worse(value: Any, place: Place) -> Expectation:
    mapping = place.mapping(value, what="the expectation not_worse", allowed=NOT_WORSE_KEYS)
    words = {"of": mapping.get("of", "scalar"), "better": mapping.get("better")}
    for key, allowed in (("of", MEASURES), ("better", DIRECTIONS)):
        if words[key] not in allowed:
            raise place.at(key).refusal(
                "not_worse has %s as %s." % (show(words[key]), key),
                hint="Write for example not_worse: {better: lower}.",
                allowed=allowed,
            )
    unit = _parse_unit(mapping, place)
    if unit and words["of"] == "rows":
        raise place.at("unit").refusal("a number of rows has no unit.", hint="Remove unit, or write of: scalar.")
    tolerance = mapping.get("tolerance", 0)
    share = parse_quantity(tolerance, "%") if isinstance(tolerance, str) else None
    number = share if share is not None else quantity(tolerance, unit)
    if isinstance(tolerance, (dict, list)) or number is None or number < 0:
        raise place.at("tolerance").refusal(
            "the tolerance is %s." % (kind_of(tolerance) if isinstance(tolerance, (dict, list)) else show(tolerance)),
            hint="Write a number of at least 0, such as 5, or a share of the earlier value, such as 5 %.",
        )
    return Expectation(
        "not_worse",
        unit=unit,
        of=words["of"],
        better=str(words["better"]),
        tolerance=number,
        tolerance_is_share=share is not None and unit != "%",
    )


def _parse_members(value: Any, place: Place) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise place.refusal("a set is a list, not %s." % kind_of(value), hint="Write set: [first, second].")
    for position, member in enumerate(value):
        if isinstance(member, (dict, list)):
            raise place.at(position).refusal(
                "a member of a set is a single value, not %s." % kind_of(member), hint="Write one value per member."
            )
    return tuple(value)


def _parse_conditions(value: Any, place: Place, *, counts: bool = False, unit: str = "") -> tuple[tuple[str, Any], ...]:
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
            lower, upper = (_parse_operand(b, inside, ordered=True, counts=counts, unit=unit) for b in operand)
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
            parsed = _parse_operand(operand, inside, ordered=ordered, counts=counts, unit=unit)
            conditions.append((operator, parsed))
    return tuple(conditions)


def _parse_operand(value: Any, place: Place, *, ordered: bool, counts: bool, unit: str) -> Any:
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
    if unit:
        number = quantity(value, unit)
        if number is None:
            raise place.refusal(
                "%s is no quantity that %s measures." % (show(value), unit),
                hint="Write a number, or a text with one of these units, such as 10 %s." % unit,
                allowed=dimension_of(unit),
            )
        return number
    return value


def quantity(value: Any, unit: str) -> Decimal | None:
    """Return ``value`` as a number of ``unit``: a number is one already, a text has a unit or is an interval's.

    Without a unit only a number is one.
    """
    if unit and isinstance(value, str):
        for parse in (parse_quantity, parse_interval):
            found = parse(value, unit)
            if found is not None:
                return found
    return as_number(value)


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
    return _judge_scalar(expectation, outcome, hide=hide)


def _judge_scalar(expectation: Expectation, outcome: Outcome, *, hide: bool) -> Verdict:
    if outcome.row_count != 1:
        return Verdict(False, "the query returned %s; a scalar needs exactly one" % rows_text(outcome.row_count))
    value = outcome.rows[0][0]
    found = "a hidden value" if hide else show(value)
    if expectation.unit:
        number = quantity(value, expectation.unit)
        if number is None:
            return Verdict(False, "found %s, which is no number of %s" % (found, expectation.unit), value)
        value = number
        found = "a hidden value" if hide else show_quantity(value, expectation.unit)
    holds = all(_holds(operator, value, operand) for operator, operand in expectation.conditions)
    message = "found %s, expected %s" % (found, describe(expectation))
    if not holds:
        message += _type_remark(value, expectation)
    return Verdict(holds, message, value)


def judge_not_worse(
    expectation: Expectation, outcome: Outcome, *, earlier: Any = None, compared: bool = True, hide: bool = False
) -> Verdict:
    """Return whether ``outcome`` is no worse than the value ``earlier``; its own value is that of the verdict.

    Where nothing earlier exists to be compared with (``compared`` is false), measuring is all there is to do.
    """
    if expectation.of == "rows":
        found: Any = outcome.row_count
    elif len(outcome.columns) != 1 or outcome.row_count != 1:
        return Verdict(
            False,
            "the query returned %s with %d columns; a scalar needs exactly one row with one column"
            % (rows_text(outcome.row_count), len(outcome.columns)),
        )
    else:
        found = outcome.rows[0][0]
    number = quantity(found, expectation.unit)
    words = _measured(found, number, expectation, hide=hide)
    if number is None:
        return Verdict(False, "found %s, which is no number" % words, found)
    if not compared:
        return Verdict(True, "found %s, with nothing earlier to compare it with" % words, number)
    before = quantity(earlier, expectation.unit)
    if before is None:
        reason = "the earlier stage did not measure it" if earlier is None else "the earlier value is no number"
        return Verdict(False, "found %s, but %s" % (words, reason), number)
    slack = abs(before) * expectation.tolerance / 100 if expectation.tolerance_is_share else expectation.tolerance
    worse_by = number - before if expectation.better == "lower" else before - number
    limit = before + slack if expectation.better == "lower" else before - slack
    bound = "%s %s" % (
        "at most" if expectation.better == "lower" else "at least",
        _measured(limit, limit, expectation, hide=hide),
    )
    message = "found %s, expected %s (earlier %s)" % (words, bound, _measured(earlier, before, expectation, hide=hide))
    return Verdict(worse_by <= slack, message, number)


def _measured(value: Any, number: Decimal | None, expectation: Expectation, *, hide: bool) -> str:
    if hide and expectation.of == "scalar":
        return "a hidden value"
    if number is None:
        return show(value)
    if expectation.unit:
        return show_quantity(number, expectation.unit)
    return format(number, "f")


def compare_outcomes(here: Outcome, there: Outcome, *, reference: str) -> tuple[Verdict, list[tuple[str, Any]]]:
    """Return whether two queries returned the same rows, in any order, and the rows that only one of them returned.

    Each of those comes with the word ``here`` or ``reference``.
    """
    for outcome, where in ((here, "here"), (there, "in %s" % reference)):
        if outcome.row_count > len(outcome.rows):
            return Verdict(False, "%s %s, too many to compare" % (rows_text(outcome.row_count), where)), []
    if len(here.columns) != len(there.columns):
        return Verdict(False, "%d columns, but %d in %s" % (len(here.columns), len(there.columns), reference)), []
    counts = Counter(_row_key(row) for row in there.rows)
    only_here = []
    for row in here.rows:
        if counts[_row_key(row)]:
            counts[_row_key(row)] -= 1
        else:
            only_here.append(row)
    only_there = []
    for row in there.rows:
        if counts[_row_key(row)]:
            counts[_row_key(row)] -= 1
            only_there.append(row)
    if not only_here and not only_there:
        return Verdict(True, "%s, the same as in %s" % (rows_text(here.row_count), reference)), []
    message = "%s only here, %s only in %s" % (rows_text(len(only_here)), rows_text(len(only_there)), reference)
    return Verdict(False, message), [*(("here", row) for row in only_here), *(("reference", row) for row in only_there)]


def _row_key(row: Sequence[Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(_key(value) for value in row)


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
    unit = expectation.unit

    def text(operand: Any) -> str:
        return show_quantity(operand, unit) if unit else show(operand)

    words = []
    for operator, operand in expectation.conditions:
        if operator == "between":
            words.append("between %s and %s" % (text(operand[0]), text(operand[1])))
        else:
            words.append(_WORDS[operator] % text(operand))
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
