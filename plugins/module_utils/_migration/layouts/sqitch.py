# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sqitch's plan: changes in the order of ``sqitch.plan``, each with files in ``deploy/``, ``revert/``, ``verify/``.

See https://sqitch.org/docs/manual/sqitchchanges/ and https://sqitch.org/docs/manual/sqitch-rework/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.base import (
    Found,
    Key,
    Migration,
    NamedFile,
    Script,
    SourceFile,
    described,
    invalid,
    text_of,
)

PLAN = "sqitch.plan"
CONFIGURATION = "sqitch.conf"
DIRECTORIES = {"deploy": "up", "revert": "down", "verify": "verify"}

# A name and, for a change, what it depends on; then time, planner and note, which do not matter for running it.
LINE = re.compile(
    r"(?P<sign>[+@-]?)\s*(?P<name>[^\s\[\]:@#~^]+)(?P<tag>@[^\s\[\]:]+)?"
    r"(?:\s+\[(?P<needs>[^\]]*)\])?(?:\s+(?P<rest>.*))?"
)
SETTING = re.compile(r"\s*(?P<key>\w+)\s*=\s*(?P<value>.*?)\s*")
#: What may stand in sqitch.conf without changing where the files are.
DEFAULTS = {
    "plan_file": ("sqitch.plan", "./sqitch.plan"),
    "top_dir": (".", "./", ""),
    "deploy_dir": ("deploy", "./deploy"),
    "revert_dir": ("revert", "./revert"),
    "verify_dir": ("verify", "./verify"),
    "extension": ("sql",),
}


@dataclass
class Change:
    """A line of the plan: ``number`` counts the changes, ``tags`` are those after it and before the next change."""

    name: str
    number: int
    line: int
    instance: int
    needs: Sequence[str] = ()
    note: str = ""
    tags: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        """The name in the history: that of the change; of one that was reworked since, also the how manyth it is."""
        return self.name if self.instance == 1 else "%s (%d)" % (self.name, self.instance)


class Sqitch:
    """``sqitch.plan`` with ``deploy/<change>.sql``."""

    name = "sqitch"
    shape = "sqitch.plan with deploy/<change>.sql"

    def claims(self, path: str) -> bool:
        """Whether the name of a file is one of this layout; its other files are known by their directory."""
        return os.path.basename(path) == PLAN

    def reads(self, relative: str) -> bool:
        """Whether a file of a source may belong to this layout, and is not to be left alone."""
        first = relative.split(os.sep, 1)[0]
        return relative in (PLAN, CONFIGURATION) or (first in DIRECTORIES and relative.endswith(".sql"))

    def find(self, files: Sequence[NamedFile]) -> Found:
        """Return the migrations; raises `HoldfastError` for what cannot be understood."""
        plans = [file for file in files if os.path.basename(file.path) == PLAN]
        if len(plans) != 1:
            where = plans[1].file.path if plans else files[0].file.path
            invalid(
                where, "there %s" % ("is a second plan" if plans else "is no sqitch.plan"), "Name one plan's source."
            )
        top = os.path.dirname(plans[0].path)
        by_path = {os.path.relpath(file.path, top): file for file in files}
        if CONFIGURATION in by_path:
            _check_configuration(by_path[CONFIGURATION].file)
        project, changes = parse_plan(plans[0].file)
        migrations = []
        for change in changes:
            base = _base(change, changes, by_path)
            scripts = {step: _script(by_path, directory, base) for directory, step in DIRECTORIES.items()}
            up = scripts["up"]
            if up is None:
                invalid(
                    plans[0].file.path,
                    "deploy/%s.sql is not there" % base,
                    "Add the file, or remove the change from the plan.",
                    line=change.line,
                )
            migrations.append(
                Migration(
                    version=change.version,
                    key=(change.number,),
                    description=change.note or described(change.name),
                    up=up,
                    down=scripts["down"],
                    verify=scripts["verify"],
                )
            )
        return Found(self.name, migrations, _keys(changes).get, project)


def parse_plan(file: SourceFile) -> tuple[str, list[Change]]:
    """Return the project and the changes of a plan; raises `HoldfastError` for what does not hold in it."""
    changes: list[Change] = []
    known: dict[str, Change] = {}
    project = ""
    for line, written in enumerate(text_of(file).split("\n"), 1):
        text = written.strip()
        if text.startswith("%"):
            key, _equals, value = text[1:].partition("=")
            project = value.strip() if key.strip() == "project" else project
        if not text or text[0] in "%#":
            continue
        match = LINE.fullmatch(text)
        if match is None:
            invalid(
                file.path, "the line is neither a change nor a tag", "See sqitchchanges, or ask sqitch plan.", line=line
            )
        name = match.group("name")
        if match.group("sign") == "@":
            if not changes or "@" + name in known:
                invalid(file.path, "the tag @%s has no change, or is twice there" % name, "Mend the plan.", line=line)
            changes[-1].tags.append("@" + name)
            known["@" + name] = changes[-1]
            continue
        if match.group("sign") == "-" or match.group("tag"):
            invalid(
                file.path, "the line is neither a change nor a tag", "See sqitchchanges, or ask sqitch plan.", line=line
            )
        needs = (match.group("needs") or "").split()
        for need in needs:
            _check_need(need, known, project, file.path, line)
        earlier = known.get(name)
        if earlier is not None and not any(change.tags for change in changes[earlier.number - 1 :]):
            invalid(
                file.path,
                "the change %s is twice there, without a tag between" % name,
                "sqitch rework asks for one.",
                line=line,
            )
        note = (match.group("rest") or "").partition("#")[2].strip()
        change = Change(name, len(changes) + 1, line, earlier.instance + 1 if earlier else 1, needs, note)
        changes.append(change)
        known[name] = change
    return project, changes


def _check_need(need: str, known: dict[str, Change], project: str, path: str, line: int) -> None:
    conflicts = need.startswith("!")
    owner, colon, name = need.lstrip("!").rpartition(":")
    if colon and owner not in ("", project):
        invalid(
            path,
            "%s depends on another project's change, of which this plan does not know" % need,
            "Look whether it is deployed, then take the dependency out of the plan.",
            line=line,
        )
    change, at, tag = name.partition("@")
    there = (not change or change in known) and (not at or tag in ("HEAD", "ROOT") or "@" + tag in known)
    if there == conflicts:
        invalid(
            path,
            "%s %s" % (need, "conflicts with a change before it" if conflicts else "is not before the change"),
            "Put the plan into an order in which every change comes after those that it needs.",
            line=line,
        )


def _base(change: Change, changes: Sequence[Change], files: dict[str, NamedFile]) -> str:
    """Return the name of a change's files: with a tag, if it was reworked later."""
    later = [other for other in changes[change.number :] if other.name == change.name]
    if not later:
        return change.name
    tags = [tag for other in changes[change.number - 1 : later[0].number - 1] for tag in other.tags]
    bases = [change.name + tag for tag in tags]
    return next((base for base in bases if os.path.join("deploy", base + ".sql") in files), bases[0])


def _script(files: dict[str, NamedFile], directory: str, base: str) -> Script | None:
    file = files.get(os.path.join(directory, *base.split("/")) + ".sql")
    return file.script() if file else None


def _keys(changes: Sequence[Change]) -> dict[str, Key]:
    """Return the place of everything by which a version may be named: changes, tags, and changes as of a tag."""
    keys: dict[str, Key] = {}
    for change in changes:
        keys[change.version] = (change.number,)
        keys.update(dict.fromkeys(change.tags, (change.number,)))
    return keys


def _check_configuration(file: SourceFile) -> None:
    for number, line in enumerate(text_of(file).split("\n"), 1):
        match = SETTING.fullmatch(line)
        if match and match.group("value") not in DEFAULTS.get(match.group("key"), (match.group("value"),)):
            invalid(
                file.path,
                "%s is not the usual one" % match.group("key"),
                "Name in source the directory of sqitch.plan, with deploy, revert and verify in it.",
                line=number,
            )
