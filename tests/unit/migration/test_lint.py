# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lint says: its levels, what a comment allows, where a finding is, and what stops a deployment."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import effects, lint
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.findings import (
    Finding,
    Subject,
    finding_from,
    permitted,
    statement_at,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import SourceFile, migrations
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.reach import keeps_values, size

UP = "/m/1_a.up.sql"


def examined(up: str, down: str = "SELECT 1;") -> Subject:
    found = migrations([SourceFile(UP, up.encode()), SourceFile("/m/1_a.down.sql", down.encode())])
    return lint.examine(found)[0]


def finding(**more: Any) -> Finding:
    values = {
        "rule": "drop-cascade",
        "level": "error",
        "path": UP,
        "line": 1,
        "column": 1,
        "statement": "DROP TABLE a CASCADE",
        "message": "It goes.",
        "advice": "Do not.",
        "version": "1",
    }
    return Finding(**{**values, **more})


def result(*texts: str, findings: tuple[Finding, ...] = (), **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Lint files named 1_x, 2_x, ... with squawk, and with ``findings`` in place of those of a live catalog."""
    files = [
        SourceFile("/m/%d_x.%s.sql" % (number, step), text.encode())
        for number, up in enumerate(texts or ("SELECT 1;",), start=1)
        for step, text in (("up", up), ("down", "SELECT 1;"))
    ]
    found = migrations(files)
    chosen = {
        "rules": {},
        "exclude": [],
        "fail_on": "error",
        "squawk": "required",
        "squawk_path": None,
        "pg_version": None,
    }
    return lint.result(
        findings,
        selected=found,
        subjects=lint.examine(found),
        server_version=180003,
        options={**chosen, **options},
        environment=os.environ,
    )


def said(*texts: str, **options: Any) -> list[tuple[str, str, int]]:
    answer, _warnings = result(*texts, **options)
    return [(row["rule"], row["level"], row["line"]) for row in answer["findings"]]


# Comments


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("-- holdfast: allow drop-cascade: the views are old", {"drop-cascade": "the views are old"}),
        ("--HOLDFAST:Allow Drop-Cascade  wanted", {"drop-cascade": "wanted"}),
        ("-- holdfast: allow a-b, c: both: really", {"a-b": "both: really", "c": "both: really"}),
        ("-- holdfast: allow a", {"a": ""}),
        ("-- holdfast: allow a: one\n-- holdfast: allow b: two", {"a": "one", "b": "two"}),
        ("SELECT 1;\n-- holdfast: allows a: no", {}),
        ("/* -- holdfast: allow a: no */", {}),
        ("SELECT '-- holdfast: allow a: no';", {}),
        ("-- holdfast: allow a: of the statement before\nSELECT 1;", {}),
    ],
)
def test_a_comment_above_a_statement_allows_a_rule(comment, expected):
    subject = examined(comment + "\nDROP TABLE a CASCADE;")
    assert subject.up.statements[-1].allowed == expected


def test_an_allowance_counts_with_a_reason_only():
    subject = examined("-- holdfast: allow drop-cascade: wanted\nDROP TABLE a CASCADE;\nDROP TABLE b CASCADE;")
    first, second = subject.up.statements
    with_reason = permitted(finding(), first, subject.up)
    assert (with_reason.allowed, with_reason.reason) == (True, "wanted")
    assert not permitted(finding(), second, subject.up).allowed
    assert not permitted(finding(rule="other"), first, subject.up).allowed
    bare = examined("-- holdfast: allow drop-cascade\nDROP TABLE a CASCADE;").up
    refused = permitted(finding(), bare.statements[0], bare)
    assert not refused.allowed and "when it has a reason" in refused.advice


def test_the_head_of_a_file_allows_what_concerns_the_whole_file():
    subject = examined("-- holdfast: allow missing-down: a back-fill\nSELECT 1;")
    assert permitted(finding(rule="missing-down"), None, subject.up).allowed


def test_no_transaction_and_an_allowance_stand_together():
    subject = examined("-- holdfast: no-transaction\n-- holdfast: allow table-rewrite: at night\nVACUUM FULL a;")
    assert subject.up.complaints == ()
    assert subject.up.statements[0].allowed == {"table-rewrite": "at night"}


# Files that cannot be read


@pytest.mark.parametrize("text", ["BEGIN;", "COMMIT;", "SELECT 'a", "-- holdfast: nonsense\nSELECT 1;"])
def test_what_the_runner_refuses_is_a_finding(text):
    ((line, _column, rule, reason),) = examined(text).up.complaints
    assert (line, rule) == (1, "unreadable") and "/m/1_a.up.sql:1" in reason


def test_what_the_parser_refuses_is_a_finding_at_its_statement():
    subject = examined("SELECT 1;\nCREATE TABLEE a ();\nTRUNCATE b CASCADE;")
    assert subject.up.complaints == ((2, 1, "syntax-error", 'syntax error at or near "TABLEE"'),)
    assert subject.up.statements[2].effects[0].kind == effects.TRUNCATE


PSQL = """\\set ON_ERROR_STOP on
CREATE TABLE a (t text);
COPY a FROM STDIN;
it's; a
row\\twith TRUNCATE b CASCADE;
\\.
-- holdfast: allow truncate-cascade: test data
TRUNCATE party CASCADE;
SELECT :'name';
"""


def test_what_only_psql_understands_hides_nothing(monkeypatch):
    monkeypatch.setattr(lint, "prepare", lambda _script, step: None)  # as where the runner has psql run the file
    file = examined(PSQL).up
    assert [(s.line, s.shown) for s in file.statements] == [
        (2, "CREATE TABLE a (t text)"),
        (8, "TRUNCATE party CASCADE"),
        (9, "SELECT :'name'"),
    ]
    assert file.complaints == () and not file.is_parsed
    assert file.statements[1].effects[0].cascade and file.statements[1].allowed == {"truncate-cascade": "test data"}


def test_a_file_that_cannot_be_split_is_searched(monkeypatch):
    monkeypatch.setattr(lint, "prepare", lambda _script, step: None)
    (statement,) = examined("\\if :x\nTRUNCATE party CASCADE;\n\\endif 'open\nSELECT 'a").up.statements
    assert [(e.kind, e.cause) for e in statement.effects] == [("hidden", "a file for psql")]


def test_a_file_without_statements_is_read():
    assert examined("-- nothing\n").up.statements == ()
    assert said("-- nothing\n") == []


# Values on their way


def test_subjects_and_findings_survive_the_way_to_another_host():
    subject = examined("-- holdfast: allow a: b\nDROP TABLE a, b CASCADE; SELECT x FROM;", "DROP TABLE c;")
    assert Subject.from_dict(json.loads(json.dumps(subject.as_dict()))) == subject
    one = finding(objects=("view v",), tables=({"table": "t", "rows": 1},))
    assert finding_from(json.loads(json.dumps(one.as_dict()))) == one


def test_passwords_are_masked():
    text = "ALTER ROLE a PASSWORD 'hunter2'; CREATE INDEX i ON t (a);"
    assert "hunter2" not in json.dumps(examined(text).as_dict())
    assert "hunter2" not in json.dumps(result(text)[0])


# Squawk


def test_findings_of_squawk_have_the_statement_and_its_place():
    answer, warnings = result("-- größe\nSELECT 'é'; CREATE INDEX i ON t (a);")
    (row,) = answer["findings"]
    assert (row["rule"], row["level"], row["source"]) == ("require-concurrent-index-creation", "warning", "squawk")
    assert (row["path"], row["line"], row["column"]) == ("/m/1_x.up.sql", 2, 13)
    assert row["statement"] == "CREATE INDEX i ON t (a)"
    assert (answer["squawk_ran"], answer["versions"], warnings) == (True, ["1"], [])


def test_a_file_without_transaction_is_judged_as_such():
    text = "ALTER TABLE a ADD COLUMN b text;"
    rules = {"prefer-robust-stmts": "warning"}
    assert said(text, rules=rules) == []
    assert said("-- holdfast: no-transaction\n" + text, rules=rules) == [("prefer-robust-stmts", "warning", 2)]


def test_the_version_that_is_asked_about_can_be_another():
    text = "ALTER TABLE t ADD COLUMN a integer DEFAULT 1;"
    assert "adding-field-with-default" in [rule for rule, _level, _line in said(text, pg_version="10.0")]
    assert "adding-field-with-default" not in [rule for rule, _level, _line in said(text)]


def test_a_table_that_the_run_creates_is_nothing_to_be_careful_about():
    index = ("require-concurrent-index-creation", "info", 1)
    assert said("CREATE MATERIALIZED VIEW public.m AS SELECT 1 AS a;", "CREATE INDEX i ON m (a);") == [index]
    assert said("CREATE INDEX i ON m (a);", "CREATE MATERIALIZED VIEW m AS SELECT 1 AS a;") == [
        (*index[:1], "warning", 1)
    ]


def test_steps_down_are_only_asked_to_be_readable():
    down = "DROP TABLE a; DROP TABLE b;"
    found = migrations([SourceFile("/m/1_x.up.sql", b"SELECT 1;"), SourceFile("/m/1_x.down.sql", down.encode())])
    said_of, _strange = lint.squawk_findings(
        found,
        lint.examine(found),
        program=lint.squawk.find_squawk(None, environment=os.environ),
        pg_version="18.3",
        environment=os.environ,
    )
    assert said_of == []


def test_what_postgresql_can_read_and_squawk_cannot_is_a_note(monkeypatch):
    text = "SELECT 1;\nCREATE TABLEE a (;"
    assert said(text) == []  # PostgreSQL's parser says it, among the rules that have a catalog
    monkeypatch.setattr(effects, "PARSER", None)
    assert said(text) == [("syntax-error", "warning", 2)]


def test_squawk_that_is_missing_stops_where_it_is_required_and_warns_elsewhere():
    with pytest.raises(HoldfastError) as caught:
        result(squawk_path="/nowhere/squawk")
    assert caught.value.code == "program_not_found"
    answer, warnings = result(squawk="preferred", squawk_path="/nowhere/squawk")
    assert not answer["squawk_ran"] and "pip install squawk-cli" in warnings[0]
    answer, warnings = result(squawk="off", squawk_path="/nowhere/squawk")
    assert not answer["squawk_ran"] and warnings == []


# Levels


def test_rules_have_the_levels_that_they_are_given():
    text = "CREATE INDEX i ON t (a);"
    rule = "require-concurrent-index-creation"
    assert said(text, rules={rule: "info"}) == [(rule, "info", 1)]
    assert said(text, rules={rule: "off"}) == said(text, rules={rule: False}) == said(text, exclude=[rule]) == []
    assert said(text, rules={rule: "Error"}, fail_on="never") == [(rule, "error", 1)]
    with pytest.raises(HoldfastError) as caught:
        result(text, rules={rule: "fatal"})
    assert caught.value.code == "option_invalid"


def test_a_finding_is_never_graver_than_what_it_says():
    options = {"rules": {"table-rewrite": "error"}, "fail_on": "never"}
    answer, _warnings = result(
        findings=(finding(path="/m/1_x.up.sql", rule="table-rewrite", at_most="info"),), **options
    )
    assert [row["level"] for row in answer["findings"]] == ["info"]
    assert "at_most" not in answer["findings"][0]


@pytest.mark.parametrize(
    ("level", "allowed", "fail_on", "stops"),
    [
        ("error", False, "error", True),
        ("error", True, "error", False),
        ("warning", False, "error", False),
        ("warning", False, "warning", True),
        ("warning", True, "warning", False),
        ("info", False, "warning", False),
        ("error", False, "never", False),
    ],
)
def test_what_stops_a_deployment(level, allowed, fail_on, stops):
    one = finding(path="/m/1_x.up.sql", allowed=allowed, reason="why" if allowed else "")
    options: dict[str, Any] = {"findings": (one,), "fail_on": fail_on, "rules": {"drop-cascade": level}}
    if not stops:
        answer, _warnings = result(**options)
        assert answer["counts"]["allowed" if allowed else level] == 1
        return
    with pytest.raises(HoldfastError) as caught:
        result(**options)
    error = caught.value
    assert error.code == "lint_failed"
    assert "/m/1_x.up.sql:1: %s (drop-cascade): It goes." % level in error.msg
    assert error.details["findings"][0]["rule"] == "drop-cascade"


def test_lines_of_a_log_have_the_reasons_of_what_is_allowed():
    answer, _warnings = result(findings=(finding(path="/m/1_x.up.sql", allowed=True, reason="old views"),))
    assert answer["sentences"] == ["/m/1_x.up.sql:1: error (drop-cascade): It goes. Allowed: old views"]


# Small things


def test_a_place_belongs_to_the_last_statement_that_begins_before_it():
    file = examined("SELECT 1; SELECT\n 2;\n-- end").up
    first, second = file.statements
    assert [statement_at(file, *place) for place in ((1, 1), (1, 9), (1, 11), (2, 2), (3, 1))] == [
        first,
        first,
        second,
        second,
        second,
    ]


@pytest.mark.parametrize(
    ("old", "new", "kind", "same", "coercible", "expected"),
    [
        ("character varying(20)", "varchar(50)", "varchar", True, False, True),
        ("character varying(50)", "varchar(20)", "varchar", True, False, False),
        ("character varying(20)", "varchar", "varchar", True, False, True),
        ("character varying", "varchar(20)", "varchar", True, False, False),
        ("character varying(20)", "text", "varchar", False, True, True),
        ("text", "varchar(20)", "text", False, True, False),
        ("text", "varchar", "text", False, True, True),
        ("character(5)", "char(10)", "bpchar", True, False, False),
        ("integer", "bigint", "int4", False, False, False),
        ("integer", "int", "int4", True, False, True),
        ("numeric(10,2)", "numeric(12, 2)", "numeric", True, False, True),
        ("numeric(10,2)", "numeric(12)", "numeric", True, False, False),
        ("numeric(10,0)", "numeric(12)", "numeric", True, False, True),
        ("numeric(10,2)", "numeric", "numeric", True, False, True),
        ("numeric", "numeric(10,2)", "numeric", True, False, False),
        ("numeric(12,2)", "numeric(10,2)", "numeric", True, False, False),
        ("timestamp(3) without time zone", "timestamp", "timestamp", True, False, True),
        ("timestamp(3) without time zone", "timestamp(0)", "timestamp", True, False, False),
        ("timestamp without time zone", "timestamptz", "timestamp", False, False, False),
        ("inet", "text", "inet", False, False, False),
    ],
)
def test_a_change_of_type_that_keeps_values_rewrites_nothing(old, new, kind, same, coercible, expected):
    assert keeps_values(old=old, new=new, kind=kind, same=same, coercible=coercible, constrained=False) is expected
    assert not keeps_values(old=old, new=new, kind=kind, same=same, coercible=coercible, constrained=True)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 kB"), (50 * 2**20, "50 MB"), (5 * 2**50, "5120 TB")]
)
def test_sizes_are_for_people(number, text):
    assert size(number) == text
