# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantities: what texts with units and intervals are, and expectations that use them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.expectation import (
    Outcome,
    compare_outcomes,
    judge,
    judge_not_worse,
    parse_expectation,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.place import Place
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.units import (
    parse_interval,
    parse_quantity,
    show_quantity,
)

PLACE = Place("rules.yml", {"": 1, "checks/0/expect": 7}, ("checks", "0", "expect"))


def expectation(**value):
    return parse_expectation(value, PLACE)


def one(value):
    return Outcome(("value",), 1, [(value,)])


@pytest.mark.parametrize(
    ("text", "unit", "number"),
    [
        ("10 GB", "B", 10 * 1024**3),
        ("10GB", "MB", 10240),
        ("0.5 h", "min", 30),
        ("250 ms", "s", Decimal("0.25")),
        ("-1 d", "h", -24),
        ("5 %", "%", 5),
        ("5 GB", "s", None),
        ("5 gb", "B", None),
        ("5", "s", None),
        ("GB", "B", None),
    ],
)
def test_text_with_a_unit_is_a_quantity(text, unit, number):
    assert parse_quantity(text, unit) == number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:00", 0),
        ("01:02:03.5", Decimal("3723.5")),
        ("-00:00:01", -1),
        ("2 days", 172800),
        ("1 day -00:00:01", 86399),
        ("-1 days +00:00:01", -86399),
        ("1 mon", 2592000),
        ("1 year 2 mons 3 days 04:05:06", Decimal("365.25") * 86400 + 63 * 86400 + 14706),
        ("", None),
        ("infinity", None),
        ("12", None),
    ],
)
def test_interval_of_the_server_is_a_quantity_of_time(text, seconds):
    assert parse_interval(text, "s") == seconds
    assert parse_interval(text, "B") is None


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (1536, "MB", "1.5 GB"),
        (0, "ms", "0 ms"),
        (90, "s", "1.5 min"),
        (Decimal("0.2"), "%", "0.2 %"),
        (-5, "s", "-5 s"),
    ],
)
def test_quantity_is_shown_with_the_unit_that_reads_best(number, unit, text):
    assert show_quantity(number, unit) == text


def test_bounds_and_values_meet_in_one_unit():
    size = expectation(scalar={"unit": "B", "at_most": "10 GB"})
    assert judge(size, one(10 * 1024**3)).passed
    verdict = judge(size, one(12 * 1024**3))
    assert (verdict.passed, verdict.message) == (False, "found 12 GB, expected at most 10 GB")
    age = expectation(scalar={"unit": "min", "between": ["0 s", "5 min"]})
    assert judge(age, one("00:04:59")).passed
    assert judge(age, one("02:04:59")).message == "found 2.083 h, expected between 0 min and 5 min"
    assert judge(age, one("soon")).message == 'found "soon", which is no number of min'
    assert judge(age, one(None)).message == "found NULL, which is no number of min"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"scalar": {"unit": "GiB", "at_most": 1}}, 'the unit "GiB" is unknown'),
        ({"scalar": {"unit": "s", "at_most": "1 GB"}}, "no quantity that s measures"),
        ({"scalar": {"unit": "s"}}, "needs an operator"),
        ({"not_worse": {}}, "NULL as better"),
        ({"not_worse": {"better": "less"}}, '"less" as better'),
        ({"not_worse": {"better": "lower", "of": "columns"}}, '"columns" as of'),
        ({"not_worse": {"better": "lower", "tolerance": -1}}, "the tolerance is -1"),
        ({"not_worse": {"better": "lower", "tolerance": "much"}}, 'the tolerance is "much"'),
        ({"not_worse": {"better": "lower", "tolerance": [1]}}, "the tolerance is a list"),
        ({"not_worse": {"better": "lower", "of": "rows", "unit": "s"}}, "has no unit"),
        ({"same_as": "yesterday"}, 'not "yesterday"'),
    ],
)
def test_what_makes_no_sense_is_refused(value, words):
    with pytest.raises(HoldfastError) as caught:
        parse_expectation(value, PLACE)
    assert words in caught.value.msg


@pytest.mark.parametrize(
    ("options", "before", "now", "passed", "message"),
    [
        ({"better": "lower"}, 5, 5, True, "found 5, expected at most 5 (earlier 5)"),
        ({"better": "lower"}, 5, 6, False, "found 6, expected at most 5 (earlier 5)"),
        ({"better": "higher"}, "5.0", 6, True, "found 6, expected at least 5.0 (earlier 5.0)"),
        ({"better": "higher"}, 5, 4, False, "found 4, expected at least 5 (earlier 5)"),
        ({"better": "lower", "tolerance": 2}, 5, 7, True, "found 7, expected at most 7 (earlier 5)"),
        ({"better": "lower", "tolerance": "10 %"}, 100, 110, True, "found 110, expected at most 110 (earlier 100)"),
        ({"better": "lower", "tolerance": "10 %"}, 100, 111, False, "found 111, expected at most 110 (earlier 100)"),
        ({"better": "lower", "unit": "MB", "tolerance": "1 GB"}, "1024", 2048, True, "expected at most 2 GB"),
        ({"better": "lower", "unit": "%", "tolerance": "5 %"}, 50, 55, True, "found 55 %"),
        ({"better": "lower"}, None, 5, False, "found 5, but the earlier stage did not measure it"),
        ({"better": "lower"}, "********", 5, False, "but the earlier value is no number"),
        ({"better": "lower"}, 5, None, False, "found NULL, which is no number"),
    ],
)
def test_not_worse_compares_with_the_earlier_value(options, before, now, passed, message):
    verdict = judge_not_worse(expectation(not_worse=options), one(now), earlier=before)
    assert verdict.passed == passed
    assert message in verdict.message


def test_not_worse_of_rows_compares_their_number():
    rows = expectation(not_worse={"better": "lower", "of": "rows"})
    assert judge_not_worse(rows, Outcome(("a", "b"), 3, []), earlier=3).passed
    verdict = judge_not_worse(rows, Outcome(("a", "b"), 4, []), earlier=3)
    assert (verdict.passed, verdict.value) == (False, 4)


def test_without_an_earlier_stage_there_is_only_the_measurement():
    verdict = judge_not_worse(expectation(not_worse={"better": "lower"}), one(5), compared=False)
    assert (verdict.passed, verdict.value) == (True, 5)
    assert "nothing earlier" in verdict.message


def test_same_rows_are_those_with_the_same_values_as_often():
    here = Outcome(("n", "t"), 3, [(1, "a"), (1, "a"), (2, None)])
    there = Outcome(("n", "t"), 3, [(2, None), (Decimal("1.0"), "a"), (1, "a")])
    assert compare_outcomes(here, there, reference="before")[0].passed
    there = Outcome(("n", "t"), 3, [(2, None), (1, "a"), (3, "a")])
    verdict, rows = compare_outcomes(here, there, reference="before")
    assert (verdict.passed, verdict.message) == (False, "1 row only here, 1 row only in before")
    assert rows == [("here", (1, "a")), ("reference", (3, "a"))]
    assert not compare_outcomes(Outcome(("n",), 2, [(1,)]), there, reference="before")[0].passed
    assert "columns" in compare_outcomes(Outcome(("n",), 0, []), there, reference="before")[0].message
