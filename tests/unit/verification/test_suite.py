# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suites: what is read from YAML, and refusals that name file, line and key."""

from __future__ import annotations

import json
import re

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.suite import (
    parse_suites,
    select_checks,
    split_statements,
)
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite
from tests.support.modules import ROOT

GOOD = """suite: data_quality
description: Rules of the data
parameters: {tolerance: 0.01, wanted: [a, b]}
checks:
  - name: balanced
    severity: warning
    tags: [money]
    timeout_s: 2.5
    min_server_version: 14
    sql: |
      SELECT 1 WHERE 'x' LIKE 'a%%' AND %(tolerance)s > 1;  -- done
    expect: no_rows
  - name: counted
    sql: SELECT count(*) FROM loan
    expect: {scalar: {at_least: 1}}
"""


def parse(text, *, file="/suites/rules.yml", **options):
    # Through JSON, as the contents travel to the managed host.
    return parse_suites([json.loads(json.dumps(read_suite(text, file=file)))], **options)


def refusal(text, **options):
    with pytest.raises(HoldfastError) as caught:
        parse(text, **options)
    return caught.value


def one_check(**keys):
    return json.dumps({"checks": [{"name": "a", "sql": "SELECT 1", "expect": "no_rows", **keys}]}, indent=1)


def test_suite_is_read_with_the_lines_of_its_checks():
    (suite,) = parse(GOOD)
    assert (suite.name, suite.description, suite.file) == ("data_quality", "Rules of the data", "/suites/rules.yml")
    first, second = suite.checks
    assert (first.line, first.severity, first.tags, first.timeout_s, first.min_server_version) == (
        5,
        "warning",
        ("money",),
        2.5,
        14,
    )
    assert (second.line, second.severity, second.tags, second.timeout_s) == (13, "error", (), None)


def test_suite_is_named_after_its_file():
    assert parse(one_check(), file="/suites/data.quality.yaml")[0].name == "data.quality"


def test_parameters_are_overridden_by_name():
    (suite,) = parse(GOOD, overrides={"tolerance": 5})
    assert suite.parameters == {"tolerance": 5, "wanted": ["a", "b"]}
    error = refusal(GOOD, overrides={"tolerence": 5})
    assert (error.code, error.hint) == ("option_invalid", "Parameters of these suites: tolerance, wanted.")
    assert refusal(GOOD, overrides={"tolerance": {}}).code == "option_invalid"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (GOOD.replace("expect: no_rows", "expects: no_rows"), 12, "unknown key 'expects'"),
        (GOOD.replace("expect: no_rows", "expect: none"), 12, "expectation 'none' is unknown"),
        (GOOD.replace("at_least", "at_leest"), 15, "unknown key 'at_leest'"),
        (GOOD.replace("severity: warning", "severity: critical"), 6, "severity 'critical'"),
        (GOOD.replace("name: counted", "name: balanced"), 13, "(the first in line 5)"),
        (GOOD.replace("    expect: no_rows\n", ""), 5, "does not say what it expects"),
        (GOOD.replace("SELECT count(*) FROM loan", "SELECT 1; SELECT 2"), 14, "2 statements"),
        (GOOD.replace("SELECT count(*) FROM loan", "'  '"), 14, "sql is empty"),
        (GOOD.replace("SELECT count(*) FROM loan", "'-- nothing'"), 14, "holds no statement"),
        (GOOD.replace("%(tolerance)s", "%(tolerence)s"), 10, "'tolerence'"),
        (GOOD.replace("a%%", "a%"), 10, "single percent sign"),
        (GOOD.replace("timeout_s: 2.5", "timeout_s: 0"), 8, "timeout_s"),
        (GOOD.replace("tags: [money]", "tags: money"), 7, "tags are a list"),
        (GOOD.replace("min_server_version: 14", "min_server_version: 140000"), 9, "major version"),
        (GOOD.replace("suite: data_quality", "siute: data_quality"), 1, "unknown key 'siute'"),
        (GOOD.replace("{tolerance: 0.01,", "{tolerance: {a: 1},"), 3, "'tolerance' is a mapping"),
        (GOOD.replace("name: counted", "name: 5"), 13, "name is a number"),
        (GOOD + "suite: again\n", 16, "stands twice"),
        (GOOD + "---\nsuite: b\n", 16, "expected a single document"),
        (GOOD + "  - [\n", 17, "not YAML"),
        (GOOD + "  - {1: 2}\n", 16, "a key must be text"),
        (GOOD + "  - &x [*x]\n", 16, "alias"),
        (GOOD + "  - !!python/name:os.system {}\n", 16, "not YAML"),
        ("", 1, "empty"),
        ("checks: []\n", 1, "has no checks"),
        ("- a\n", 1, "must be a mapping, not a list"),
    ],
)
def test_bad_suite_is_refused_with_file_and_line(text, line, words):
    error = refusal(text)
    assert error.code == "suite_invalid"
    assert "rules.yml" in error.msg
    assert words in error.msg
    assert error.details["line"] == line
    assert "line %d" % line in error.msg


def test_refusal_lists_the_allowed_words():
    error = refusal(GOOD.replace("severity: warning", "severity: critical"))
    assert error.details["allowed"] == ["error", "warning", "info"]
    assert "error, warning, info" in error.hint


def test_two_suites_of_one_name_are_refused():
    documents = [read_suite(GOOD, file="a.yml"), read_suite(GOOD, file="b.yml")]
    with pytest.raises(HoldfastError) as caught:
        parse_suites(documents)
    assert "is also in a.yml" in caught.value.msg


def test_nul_is_refused():
    assert "NUL" in refusal(one_check(sql="SELECT '\0'")).msg


def test_percent_sign_is_literal_without_parameters():
    (suite,) = parse(one_check(sql="SELECT 1 WHERE 'a' LIKE '%a%' AND 7 % 2 = 0"))
    assert "%a%" in suite.checks[0].sql


def test_yaml_keeps_words_dates_and_digits():
    text = "suite: x\nparameters: {a: no, b: 2026-01-31, c: 12:30, d: 007, e: 1.10, f: 0.1, g: ~, h: true, i: 1e3}\n"
    text = text.replace("}", ", j: 12345678901234567.89}")
    content = read_suite(text, file="x.yml")["content"]
    assert content["parameters"] == {
        "a": "no",
        "b": "2026-01-31",
        "c": "12:30",
        "d": "007",
        "e": 1.1,
        "f": 0.1,
        "g": None,
        "h": True,
        "i": 1000.0,
        "j": "12345678901234567.89",
    }


def test_merge_keys_share_defaults():
    text = """checks:
  - &base {name: a, severity: info, sql: SELECT 1, expect: no_rows}
  - {<<: *base, name: b}
"""
    (suite,) = parse(text)
    assert [(check.name, check.severity) for check in suite.checks] == [("a", "info"), ("b", "info")]


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT ';'", 1),
        ("SELECT 1; -- ; one\n ;;", 1),
        ("SELECT E'\\';' , ';'", 1),
        ('SELECT ";"', 1),
        ("SELECT $$;$$, $a$;$$;$a$", 1),
        ("SELECT a$1;SELECT 2", 2),
        ("/* a; /* b; */ c; */ SELECT 1", 1),
        ("-- ;\nSELECT 1; SELECT 2;", 2),
        ("SELECT 'it''s;'; VALUES (1)", 2),
        ("  ;  ", 0),
        ("/* nothing; */", 0),
    ],
)
def test_statements_are_counted_as_the_server_reads_them(sql, count):
    assert len(list(split_statements(sql))) == count


def test_tags_select_and_unknown_tags_are_refused():
    suites = parse(GOOD)
    assert [check.name for _, check in select_checks(suites, ["money"])] == ["balanced"]
    assert len(select_checks(suites, [])) == 2
    with pytest.raises(HoldfastError) as caught:
        select_checks(suites, ["monney"])
    assert caught.value.code == "option_invalid"
    assert "money" in caught.value.hint


def test_suite_of_the_documentation_is_valid():
    page = (ROOT / "docs/write-a-suite.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(suite:.*?)```", page, re.DOTALL)
    assert len(parse(text)[0].checks) == 4


def test_checks_of_the_documentation_are_valid():
    page = (ROOT / "docs/write-a-suite.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(  - name:.*?)```", page, re.DOTALL)
    assert [len(parse("checks:\n" + block)[0].checks) for block in blocks] == [2, 2, 2]
