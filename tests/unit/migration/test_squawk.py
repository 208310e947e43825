# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Squawk's command line, and what it prints in several versions.

The recorded files are what each version printed with ``--reporter json --pg-version 18.3 --assume-in-transaction`` for
1.sql, ``CREATE TABLEE x (;``, and 0.sql: a comment, ``ALTER TABLE loan ADD COLUMN note text NOT NULL;`` and
``/* é */ CREATE INDEX loan_note ON loan (note);`` in three lines.
"""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.squawk import (
    Input,
    command,
    complaints,
    find_squawk,
    parse,
    version_argument,
)

RECORDED = pathlib.Path(__file__).parent / "recorded"
FILES = ["0.sql", "1.sql"]


def recorded(version: str) -> str:
    return (RECORDED / ("squawk-%s.json" % version)).read_text(encoding="utf-8")


def test_the_command_line_says_version_and_transaction():
    arguments = {"program": "/opt/squawk", "files": ["/t/0.sql", "/t/1.sql"], "config": "/t/c", "pg_version": "18.3"}
    begin = ["/opt/squawk", "--config", "/t/c", "--reporter", "json"]
    assert command(**arguments, in_transaction=True) == [
        *begin,
        *("--pg-version", "18.3", "--assume-in-transaction", "/t/0.sql", "/t/1.sql"),
    ]
    assert command(**{**arguments, "pg_version": ""}, in_transaction=False) == [*begin, "/t/0.sql", "/t/1.sql"]


@pytest.mark.parametrize(("number", "text"), [(180003, "18.3"), (130000, "13.0"), (160010, "16.10")])
def test_the_version_is_that_of_the_server(number, text):
    assert version_argument(number) == text


@pytest.mark.parametrize("version", ["2.0.0", "2.20.0", "2.70.0"])
def test_findings_of_every_recorded_version_are_read(version):
    found, strange = parse(recorded(version), files=FILES)
    assert strange == []
    places = {(c.index, c.rule, c.level, c.line, c.column) for c in found}
    assert (0, "adding-required-field", "warning", 2, 18) in places
    assert (0, "require-concurrent-index-creation", "warning", 3, 10) in places
    assert (1, "syntax-error", "error", 1, 8) in places
    required = next(c for c in found if c.rule == "adding-required-field")
    assert required.message.startswith("Adding a new column that is `NOT NULL`")
    assert required.advice == "Make the field nullable or add a non-VOLATILE DEFAULT"


def test_output_of_a_version_that_says_it_otherwise_is_told():
    found, strange = parse(recorded("1.6.1"), files=FILES)
    assert found == []
    assert len(strange) == 3 and "cannot be read" in strange[0] and "adding-required-field" in strange[0]


def test_what_a_newer_version_may_add_is_no_obstacle():
    items = json.loads(recorded("2.70.0"))
    items[0].update(level="Fatal", code="X1", message="New.")
    found, strange = parse(json.dumps(items), files=FILES)
    assert (found[0].level, found[0].message) == ("warning", "New.")
    assert strange == ["squawk printed the unknown level 'Fatal', taken for a warning"]


@pytest.mark.parametrize("output", ["", "Error: it broke", '{"findings": []}'])
def test_what_is_no_list_is_refused(output):
    with pytest.raises(ValueError):
        parse(output, files=FILES)


def test_the_program_beside_this_python_is_found_without_a_path():
    assert os.path.basename(find_squawk(None, environment={"PATH": "/nowhere"})) == "squawk"


def test_a_program_that_is_missing_is_told_with_the_way_to_get_it():
    with pytest.raises(HoldfastError) as caught:
        find_squawk("/nowhere/squawk", environment={"PATH": "/nowhere"})
    assert caught.value.code == "program_not_found"
    assert "pip install squawk-cli" in caught.value.hint


def test_squawk_reads_files_whatever_they_hold():
    program = find_squawk(None, environment=os.environ)
    inputs = [
        Input(text="CREATE INDEX a ON b (c);", in_transaction=True),
        Input(text="", in_transaction=True),
        Input(text="ALTER TABLE a ADD COLUMN b text;", in_transaction=False),
        Input(text="\\set x 1\n(((", in_transaction=True),
        Input(text="ALTER TABLE a ADD COLUMN b text;", in_transaction=True),
    ]
    found, strange = complaints(inputs, program=program, pg_version="18.3", environment=os.environ)
    assert strange == []
    rules = [{c.rule for c in found if c.index == index} for index in range(len(inputs))]
    assert "require-concurrent-index-creation" in rules[0]
    assert rules[1] == set()
    assert "prefer-robust-stmts" in rules[2]
    assert "syntax-error" in rules[3]
    assert "prefer-robust-stmts" not in rules[4]


def test_a_squawk_that_fails_says_why(tmp_path):
    program = tmp_path / "squawk"
    program.write_text("#!/bin/sh\necho 'error: no such option' >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(HoldfastError) as caught:
        complaints(
            [Input(text="SELECT 1;", in_transaction=True)], program=str(program), pg_version="18.3", environment={}
        )
    assert (caught.value.code, "no such option" in caught.value.msg) == ("program_failed", True)
