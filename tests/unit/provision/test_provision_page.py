# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page for operators says what the roles say: their words, their variables, their numbers."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml

from ansible_collections.holdfast.postgres.plugins.plugin_utils._tuning import postgres_tuning, size_bytes
from tests.support.postgres_role import host

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "provision-a-database-tier.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The text below a heading."""
    return PAGE.split("\n## %s\n" % heading)[1].split("\n## ")[0]


def spoken() -> str:
    """Everything that the role postgres can say, with the pieces of a sentence joined."""
    files = [*(ROOT / "plugins" / "plugin_utils").glob("_*.py"), *(ROOT / "roles/postgres/tasks").glob("*.yml")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    # What Ansible says of a choice that an argument specification does not have.
    return re.sub(r'"\s*\n\s*"', "", text) + " value of method must be one of"


REFUSALS = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"\|([^|]+)\|\n", section("What is refused"))))


@pytest.mark.parametrize("words", [words for words in REFUSALS if words not in ("access",)])
def test_refusals_have_the_words_that_the_page_promises(words):
    assert words in spoken()


def test_variables_that_the_page_names_exist():
    names = set()
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        names |= set(yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"])
    prefixes = "postgres|host_preflight|pgbouncer|app_environment|authority"
    named = set(re.findall(r"\b(?:%s)_[a-z_]+\b" % prefixes, PAGE))
    assert sorted(named - names) == []


def test_example_of_the_tuning_is_what_the_role_works_out():
    tuned = postgres_tuning(host(16384, 8))
    shown = {}
    for names, value in re.findall(
        r"^\| (`[^|]+`) \|[^|]*\| ([0-9.]+(?: [GM]B)?) \|$", section("Tuning"), re.MULTILINE
    ):
        shown.update(dict.fromkeys(re.findall(r"`(\w+)`", names), value))
    assert set(shown) == set(tuned)
    for name, value in shown.items():
        if " " in value:
            assert size_bytes(value) == size_bytes(tuned[name]), name
        else:
            assert float(value) == tuned[name], name
