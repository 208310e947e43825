# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation that can be followed: links lead somewhere, commands exist, generated pages are current."""

from __future__ import annotations

import pathlib
import re
import runpy
import shlex

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "roles/*/*.md", "examples/**/*.md", "benchmarks/*.md", "molecule/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")


def prose(path: pathlib.Path) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"^(```|~~~).*?^\1[ \t]*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: pathlib.Path) -> set[str]:
    """The anchors that the headings of a page get."""
    headings = re.findall(r"^#+\s+(.+?)\s*#*$", prose(path), flags=re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-") for heading in headings)
    return set(slugs)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _sep, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_commands_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|[`$(]\s*)make ([a-z-]+)", text, flags=re.MULTILINE))
    assert named <= targets


def commands(page: pathlib.Path) -> list[list[str]]:
    """The commands of a page's console blocks, as a shell would split them; a prompt before them is left out."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    started = [line.removeprefix("$ ") for line in lines]
    return [
        shlex.split(line, comments=True)
        for line in started
        if re.match(r"(make|ansible|ansible-playbook|ansible-doc) ", line)
    ]


VALUED = ("-i", "-e", "-l", "--tags", "--skip-tags", "--limit")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_playbooks_modules_and_targets_that_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    unknown = []
    for program, *words in commands(page):
        values = [after for before, after in zip(words, words[1:]) if before in VALUED]
        values += [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")]
        files = [part for value in values for part in value.split() if part.startswith("@")]
        unknown += [name for name in files if not (ROOT / name.removeprefix("@")).is_file()]
        if program == "make":
            unknown += [word for word in words if "=" not in word and word not in targets]
        elif program == "ansible-playbook":
            names = [word for word in words if not word.startswith("-") and word not in values]
            unknown += [name for name in names or ["no playbook"] if not (ROOT / name).is_file()]
        elif program == "ansible" and "-m" in words:
            name = words[words.index("-m") + 1].removeprefix("holdfast.postgres.")
            unknown += [] if (ROOT / "plugins" / "modules" / (name + ".py")).is_file() else [name]
    assert unknown == []


def test_every_page_is_reachable_from_the_readme():
    seen: set[pathlib.Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.is_file():
            continue
        seen.add(page)
        for link in LINK.findall(prose(page)):
            target = (page.parent / link.partition("#")[0]).resolve()
            waiting += sorted(target.glob("*.md")) if target.is_dir() else [target] if target.suffix == ".md" else []
    missing = sorted(str(page.relative_to(ROOT)) for page in set(PAGES) - seen if "docs" in page.parts)
    assert missing == []


def test_page_of_error_codes_is_current():
    generator = runpy.run_path(str(ROOT / ".ci" / "reference.py"))
    assert generator["PAGE"].read_text(encoding="utf-8") == generator["page"](), "run: make reference"
