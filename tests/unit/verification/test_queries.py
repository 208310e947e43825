# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of named queries: what is read, and refusals that name file and line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.queries import Query, parse_queries
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite

GOOD = """timings: lending
parameters: {borrower: 7, unused: x}
queries:
  - name: Loans of a borrower
    timeout_s: 2
    limit_ms: 45
    sql: SELECT * FROM loan WHERE borrower_party_id = %(borrower)s AND note LIKE 'a%%';  -- done
  - name: All
    sql: |
      /* the whole */
      (TABLE loan)
"""


def parse(text: str, *, file: str = "timings/x.yml", **overrides: Any) -> tuple[Query, ...]:
    document = json.loads(json.dumps(read_suite(text, file=file)))
    return parse_queries([document], overrides=overrides)


def refusal(text: str, **overrides: Any) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught:
        parse(text, **overrides)
    return caught.value


def one(**keys: Any) -> str:
    return json.dumps({"queries": [{"name": "q", "sql": "SELECT 1", **keys}]}, indent=1)


def test_queries_are_read_with_lines_and_the_parameters_that_they_use():
    first, second = parse(GOOD)
    assert (first.key, first.line, first.timeout_s, first.limit_ms) == (("lending", "Loans of a borrower"), 4, 2.0, 45)
    assert first.parameters == {"borrower": 7} and second.parameters == {}
    assert first.bound and second.bound
    assert not first.sql.endswith(";")


def test_set_is_named_after_its_file_where_it_has_no_name():
    assert parse(one(), file="a/b/nightly.yml")[0].group == "nightly"


def test_digest_changes_with_the_question_and_not_with_white_space():
    (query,) = parse(one(sql="SELECT  1\n FROM t"))
    assert query.digest == parse(one(sql="SELECT 1 FROM t"))[0].digest
    assert query.digest != parse(one(sql="SELECT 2 FROM t"))[0].digest
    assert parse(GOOD)[0].digest != parse(GOOD, borrower=8)[0].digest
    assert parse(GOOD)[0].digest == parse(GOOD, unused="y")[0].digest


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (one(sql="DELETE FROM loan"), 5, "not a SELECT"),
        (one(sql="SELECT 1; SELECT 2"), 5, "2 statements"),
        (one(sql="EXPLAIN SELECT 1"), 5, "not a SELECT"),
        (one(sql="  "), 5, "empty"),
        (one(limit_ms=0), 6, "limit_ms"),
        (one(limit_ms=True), 6, "limit_ms"),
        (one(timeout_s=0), 6, "timeout_s"),
        (one(severity="error"), 6, "unknown key"),
        ("queries: []", 1, "no queries"),
        ("timings: x", 1, "no queries"),
        (GOOD.replace("borrower)s", "who)s"), 7, "parameter 'who'"),
        (GOOD.replace("%%", "%"), 7, "percent"),
        (GOOD.replace("name: All", "name: Loans of a borrower"), 8, "the first in line 4"),
    ],
)
def test_bad_file_is_refused_with_file_and_line(text: str, line: int, words: str):
    error = refusal(text)
    assert (error.code, error.details["file"], error.details["line"]) == ("suite_invalid", "timings/x.yml", line)
    assert words in error.msg


@pytest.mark.parametrize("overrides", [{"nobody": 1}, {"borrower": {"a": 1}}])
def test_bad_override_is_refused(overrides: dict[str, Any]):
    assert refusal(GOOD, **overrides).code == "option_invalid"


def test_two_files_need_sets_of_different_names():
    documents = [read_suite(GOOD, file="a.yml"), read_suite(GOOD, file="b.yml")]
    with pytest.raises(HoldfastError, match=r"is also in a\.yml"):
        parse_queries(documents)
