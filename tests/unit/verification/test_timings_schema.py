# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON schema of named queries, which editors read, says what the engine says."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification import queries
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite
from tests.support.modules import ROOT

SCHEMA_FILE = ROOT / "docs" / "reference" / "timings.schema.json"
SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
FILES = sorted(ROOT.glob("examples/*/timings/*.yml"))

WHOLE: dict[str, Any] = {
    "timings": "lending",
    "description": "What the portal asks",
    "parameters": {"borrower": 5, "words": ["a"]},
    "queries": [
        {"name": "a", "description": "why", "timeout_s": 5, "limit_ms": 45.5, "sql": "SELECT 1"},
        {"name": "b", "sql": "TABLE pg_class"},
    ],
}
REPLACEMENTS: list[Any] = [None, True, 0, -1, 7, 2.5, "", " ", "SELECT 1", [], [1], ["word"], {}, {"word": 1}]


def valid_for_the_engine(content: Any) -> bool:
    try:
        queries.parse_queries([{"file": "x.yml", "lines": {}, "content": content}])
    except HoldfastError as exc:
        assert exc.code == "suite_invalid"
        return False
    return True


def test_words_of_the_schema_are_those_of_the_engine() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert tuple(SCHEMA["properties"]) == queries.FILE_KEYS
    assert tuple(SCHEMA["definitions"]["query"]["properties"]) == queries.QUERY_KEYS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_of_the_examples_is_valid_for_both_and_names_its_schema(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    content = read_suite(text, file=str(path))["content"]
    assert list(VALIDATOR.iter_errors(content)) == []
    assert valid_for_the_engine(content)
    named = re.search(r"^# yaml-language-server: \$schema=(\S+)$", text, re.MULTILINE)
    assert named and (path.parent / named.group(1)).resolve() == SCHEMA_FILE


PLACES = [
    *((key,) for key in ("timings", "description", "parameters", "queries", "unknown")),
    ("parameters", "borrower"),
    *(("queries", 0, key) for key in ("name", "description", "timeout_s", "limit_ms", "sql", "unknown")),
    ("queries", 0),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_both_refuse_the_same(place: tuple[Any, ...]) -> None:
    for value in REPLACEMENTS:
        changed = json.loads(json.dumps(WHOLE))
        *above, last = place
        owner = changed
        for key in above:
            owner = owner[key]
        owner[last] = value
        assert VALIDATOR.is_valid(changed) == valid_for_the_engine(changed), value


def test_whole_file_is_valid_for_both() -> None:
    assert VALIDATOR.is_valid(WHOLE) and valid_for_the_engine(WHOLE)
