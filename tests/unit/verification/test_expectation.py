# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What expectations accept, and the sentences that they say."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.expectation import (
    Outcome,
    judge,
    parse_expectation,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.place import Place

PLACE = Place("rules.yml", {"": 1, "checks/0/expect": 7}, ("checks", "0", "expect"))


def scalar(value, **conditions):
    return judge(parse_expectation({"scalar": conditions}, PLACE), Outcome(("value",), 1, [(value,)]))


@pytest.mark.parametrize(
    ("value", "conditions"),
    [
        (1, {"equals": 1}),
        (Decimal("1.00"), {"equals": 1}),
        (Decimal("0.30"), {"equals": 0.3}),
        (0.1, {"equals": 0.1}),
        (Decimal("12345678901234567890.01"), {"equals": "12345678901234567890.01"}),
        (10**30, {"above": 10**30 - 1}),
        (5, {"between": [5, 7]}),
        (7, {"between": [5, 7]}),
        (6, {"at_least": 1, "at_most": 6}),
        (-1, {"below": 0}),
        ("active", {"equals": "active"}),
        ("b", {"between": ["a", "c"]}),
        ("active", {"not_equals": "closed"}),
        (True, {"equals": True}),
        (None, {"equals": None}),
        (0, {"not_equals": None}),
        (float("inf"), {"above": 1}),
    ],
)
def test_scalar_holds(value, conditions):
    assert scalar(value, **conditions).passed


@pytest.mark.parametrize(
    ("value", "conditions", "words"),
    [
        (2, {"equals": 1}, "found 2, expected 1"),
        (Decimal("100.0000000000000000001"), {"equals": 100}, "expected 100"),
        (Decimal("0.01"), {"below": 0.01}, "expected below 0.01"),
        (True, {"equals": 1}, "the query returns a boolean"),
        (1, {"equals": True}, "expected true (the query returns a number)"),
        ("ten", {"at_least": 1}, "the query returns text"),
        (None, {"not_equals": 5}, "found NULL, expected anything but 5 (NULL satisfies only equals: null)"),
        (None, {"at_least": 0}, "NULL satisfies only"),
        (None, {"not_equals": None}, "found NULL"),
        (Decimal("NaN"), {"at_least": 0}, "found NaN"),
        (8, {"between": [5, 7]}, "expected between 5 and 7"),
        (7, {"at_least": 1, "at_most": 6}, "expected at least 1 and at most 6"),
    ],
)
def test_scalar_does_not_hold_and_says_why(value, conditions, words):
    verdict = scalar(value, **conditions)
    assert not verdict.passed
    assert words in verdict.message


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(("value",), 0, []), "the query returned no rows; a scalar needs exactly one"),
        (Outcome(("value",), 2, [(1,), (1,)]), "2 rows; a scalar needs exactly one"),
        (Outcome(("a", "b"), 1, [(1, 1)]), "2 columns (a, b)"),
    ],
)
def test_scalar_needs_one_row_with_one_column(outcome, words):
    verdict = judge(parse_expectation({"scalar": {"equals": 1}}, PLACE), outcome)
    assert not verdict.passed
    assert words in verdict.message


def test_rows_are_counted_beyond_the_sample():
    expectation = parse_expectation({"rows": {"at_most": 3}}, PLACE)
    verdict = judge(expectation, Outcome(("id",), 4, [(1,)]))
    assert (verdict.passed, verdict.message) == (False, "4 rows, expected at most 3")
    assert judge(parse_expectation("no_rows", PLACE), Outcome(("id",), 0, [])).passed


def test_set_names_what_is_missing_and_what_is_unexpected():
    expectation = parse_expectation({"set": ["a", "b", 1, None]}, PLACE)
    assert judge(expectation, Outcome(("x",), 5, [(None,), ("b",), ("a",), (Decimal("1.0"),), ("a",)])).passed
    verdict = judge(expectation, Outcome(("x",), 3, [("a",), (1,), ("c",)]))
    assert verdict.message == 'missing: "b", NULL; unexpected: "c"'


def test_set_of_nothing_is_met_by_no_rows():
    assert judge(parse_expectation({"set": []}, PLACE), Outcome(("x",), 0, [])).passed


def test_hidden_values_stay_out_of_messages():
    expectation = parse_expectation({"scalar": {"equals": 1}}, PLACE)
    assert "4711" not in judge(expectation, Outcome(("iban",), 1, [(4711,)]), hide=True).message
    expectation = parse_expectation({"set": ["a"]}, PLACE)
    assert "4711" not in judge(expectation, Outcome(("iban",), 1, [("4711",)]), hide=True).message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("norows", "the expectation 'norows' is unknown"),
        (None, "not NULL"),
        ({"scaler": {"equals": 1}}, "'scaler' is unknown"),
        ({"no_rows": True}, "'no_rows' is unknown"),
        ({"scalar": 1}, "needs an operator"),
        ({"scalar": {}}, "needs an operator"),
        ({"scalar": {"equal": 1}}, "unknown key 'equal'"),
        ({"scalar": {"equals": [1]}}, "a single value, not a list"),
        ({"scalar": {"above": None}}, "not NULL"),
        ({"scalar": {"above": True}}, "not a boolean"),
        ({"scalar": {"between": 5}}, "two bounds"),
        ({"scalar": {"between": [5]}}, "two bounds"),
        ({"scalar": {"between": [7, 5]}}, "holds nothing"),
        ({"scalar": {"between": [1, "x"]}}, "two types"),
        ({"rows": {"equals": "two"}}, "whole number"),
        ({"rows": {"equals": -1}}, "whole number"),
        ({"rows": {"equals": True}}, "whole number"),
        ({"set": "a"}, "a set is a list"),
        ({"set": [["a"]]}, "single value"),
        ({"scalar": {"equals": 1}, "rows": {"equals": 1}}, "one word or one key"),
    ],
)
def test_bad_expectation_is_refused_with_file_line_and_words(value, words):
    with pytest.raises(HoldfastError) as caught:
        parse_expectation(value, PLACE)
    assert caught.value.code == "suite_invalid"
    assert "rules.yml, line 7" in caught.value.msg
    assert words in caught.value.msg
