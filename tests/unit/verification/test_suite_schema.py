# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON schema of suites, which editors read, says what the engine says."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import jsonschema
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification import expectation, suite, units
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite
from tests.support.modules import ROOT

SCHEMA_FILE = ROOT / "docs" / "reference" / "suite.schema.json"
SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
SUITES = sorted(
    path for pattern in ("examples/*/suites/*.yml", "roles/*/files/suites/*.yml") for path in ROOT.glob(pattern)
)
CHECK = SCHEMA["definitions"]["check"]
EXPECT = SCHEMA["definitions"]["expect"]["oneOf"][1]["properties"]


def valid_for_the_engine(content: Any) -> bool:
    try:
        suite.parse_suites([{"file": "x.yml", "lines": {}, "content": content}])
    except HoldfastError as exc:
        assert exc.code == "suite_invalid"
        return False
    return True


def test_schema_is_a_schema():
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_words_of_the_schema_are_those_of_the_engine():
    assert tuple(SCHEMA["properties"]) == suite.SUITE_KEYS
    assert tuple(CHECK["properties"]) == suite.CHECK_KEYS
    assert tuple(CHECK["properties"]["severity"]["enum"]) == suite.SEVERITIES
    for owner in (SCHEMA, CHECK):
        assert tuple(owner["properties"]["stages"]["anyOf"][0]["items"]["enum"]) == suite.STAGES
    assert CHECK["properties"]["timeout_s"]["maximum"] == suite.MAX_TIMEOUT_S
    assert {"no_rows", *EXPECT} == set(expectation.KINDS)
    assert tuple(EXPECT["rows"]["properties"]) == expectation.OPERATORS
    assert tuple(EXPECT["scalar"]["properties"]) == (*expectation.OPERATORS, "unit")
    for kind in ("scalar", "not_worse"):
        assert tuple(EXPECT[kind]["properties"]["unit"]["enum"]) == units.UNITS
    assert set(EXPECT["not_worse"]["properties"]) == set(expectation.NOT_WORSE_KEYS)
    assert tuple(EXPECT["not_worse"]["properties"]["of"]["enum"]) == expectation.MEASURES
    assert tuple(EXPECT["not_worse"]["properties"]["better"]["enum"]) == expectation.DIRECTIONS
    assert tuple(EXPECT["same_as"]["enum"]) == expectation.SOURCES


@pytest.mark.parametrize("path", SUITES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_suite_of_the_collection_is_valid_for_both(path):
    content = read_suite(path.read_text(encoding="utf-8"), file=str(path))["content"]
    assert list(VALIDATOR.iter_errors(content)) == []
    assert valid_for_the_engine(content)


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/suites/*.yml")), ids=lambda p: "/".join(p.parts[-3:]))
def test_editors_find_the_schema_of_every_example(path):
    named = re.search(r"^# yaml-language-server: \$schema=(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert named, "%s does not name its schema" % path
    assert (path.parent / named.group(1)).resolve() == SCHEMA_FILE


# A suite that uses every key, and what may stand in place of each.
WHOLE: dict[str, Any] = {
    "suite": "rules",
    "description": "What holds",
    "parameters": {"limit": 5, "words": ["a"]},
    "stages": ["preflight"],
    "mask": ["email"],
    "checks": [
        {
            "name": "a",
            "description": "why",
            "severity": "info",
            "stages": ["verify", "rollback"],
            "tags": ["money"],
            "mask": ["iban"],
            "timeout_s": 5,
            "min_server_version": 13,
            "max_server_version": 18,
            "sql": "SELECT 1",
            "expect": {"scalar": {"unit": "GB", "at_most": "10 GB", "above": 0}},
        },
        {"name": "b", "tables": ["public.loan"], "expect": {"same_as": "archive"}},
        {
            "name": "c",
            "sql": "SELECT 1",
            "expect": {"not_worse": {"better": "lower", "of": "rows", "tolerance": "5 %"}},
        },
        {"name": "d", "sql": "SELECT 1", "expect": {"set": [1, "a", None, True]}},
        {"name": "e", "sql": "SELECT 1", "expect": {"rows": {"between": [1, 2]}}},
        {"name": "f", "sql": "SELECT 1", "expect": {"scalar": {"equals": None}}},
        {"name": "g", "sql": "SELECT 1", "expect": "no_rows"},
        {"name": "h", "sql": "SELECT 1", "expect": {"same_as": "database"}},
    ],
}
REPLACEMENTS: list[Any] = [None, True, 0, -1, 7, 2.5, "", " ", "word", [], [1], ["word"], [None], {}, {"word": 1}]
# What a schema of this kind cannot say: the engine alone refuses these.
ENGINE_ONLY = {
    "between": "the bounds' order and type",
    "tolerance": "what a text means",
    "at_most": "what a text is in the unit",
    "above": "what a text is in the unit",
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inside for place in places(part, (*path, key)))]


def changed(path: tuple[Any, ...], replacement: Any) -> Any:
    content = copy.deepcopy(WHOLE)
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = replacement
    return content


def test_schema_and_engine_judge_every_change_of_a_whole_suite_alike():
    assert valid_for_the_engine(WHOLE)
    VALIDATOR.validate(WHOLE)
    compared, different = 0, []
    for path in places(WHOLE)[1:]:
        for replacement in REPLACEMENTS:
            content = changed(path, replacement)
            engine, schema = valid_for_the_engine(content), VALIDATOR.is_valid(content)
            compared += 1
            if engine != schema and not (schema and {str(key) for key in path} & set(ENGINE_ONLY)):
                different.append((path, replacement, "engine %s, schema %s" % (engine, schema)))
    assert different == []
    assert compared > 900


@pytest.mark.parametrize("path", [("checks", 0, "word"), ("word",), ("checks", 0, "expect", "scalar", "word")])
def test_unknown_keys_are_refused_by_both(path):
    content = changed(path, 1)
    assert not valid_for_the_engine(content)
    assert not VALIDATOR.is_valid(content)


@pytest.mark.parametrize("key", ["name", "sql", "expect"])
def test_missing_keys_are_refused_by_both(key):
    content = copy.deepcopy(WHOLE)
    del content["checks"][0][key]
    assert not valid_for_the_engine(content)
    assert not VALIDATOR.is_valid(content)
