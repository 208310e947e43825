# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Goose's files: one for both ways, cut by the annotations ``-- +goose Up`` and ``-- +goose Down``.

See https://pressly.github.io/goose/documentation/annotations/. Annotations are read in any case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.base import (
    Found,
    Migration,
    NamedFile,
    Problem,
    Script,
    described,
    in_order,
    invalid,
    version_key,
)

NAME = re.compile(r"(?P<version>[0-9]+)_(?P<name>.*\w.*)\.sql", re.DOTALL)
PROGRAM = re.compile(r"[0-9]+_.*(?<!_test)\.go", re.DOTALL)
OTHERS_STEP = re.compile(r".*\.(?:up|down|verify)\.sql", re.DOTALL)
ANNOTATION = re.compile(r"(?P<indent>[ \t]*)--[ \t]*\+goose\b[ \t]*(?P<words>.*?)[ \t]*", re.IGNORECASE)
HINT_NAME = "Name it <version>_<name>.sql, with a version of digits such as 00001 or a date."
HINT_ANNOTATION = "Begin with a line '-- +goose Up', and write the way back after a line '-- +goose Down'."


class Goose:
    """``<version>_<name>.sql``."""

    name = "goose"
    shape = "<version>_<name>.sql"

    def claims(self, path: str) -> bool:
        """Whether the name of a file is one of this layout."""
        base = os.path.basename(path)
        return NAME.fullmatch(base) is not None and OTHERS_STEP.fullmatch(base) is None

    def reads(self, relative: str) -> bool:
        """Whether a file of a source may belong to this layout, and is not to be left alone."""
        return os.sep not in relative and (relative.endswith(".sql") or PROGRAM.fullmatch(relative) is not None)

    def find(self, files: Sequence[NamedFile]) -> Found:
        """Return the migrations; raises `HoldfastError` for what cannot be understood."""
        return Found(self.name, in_order([self._migration(file) for file in files]))

    def _migration(self, file: NamedFile) -> Migration:
        base = os.path.basename(file.path)
        if PROGRAM.fullmatch(base):
            invalid(file.file.path, "a migration in Go cannot be run here", "Use the layout command, and goose itself.")
        match = NAME.fullmatch(base)
        key = version_key(match.group("version")) if match and not OTHERS_STEP.fullmatch(base) else None
        if match is None or key is None:
            invalid(file.file.path, "not a name of goose's", HINT_NAME)
        up, down = sections(file.script())
        return Migration(
            version=match.group("version"), key=key, description=described(match.group("name")), up=up, down=down
        )


def sections(script: Script) -> tuple[Script, Script | None]:
    """Return the way up and the way down; each keeps the lines of the file, so that messages name the right ones."""
    lines = script.text.split("\n")
    annotations = _Annotations(script)
    for number, line in enumerate(lines, 1):
        match = ANNOTATION.fullmatch(line)
        if match is not None:
            annotations.take(match, number)
        elif not annotations.marks and line.strip() and not line.lstrip().startswith("--"):
            invalid(script.path, "SQL before the line '-- +goose Up'", HINT_ANNOTATION, line=number)
    annotations.finish()

    def part(text: str) -> Script:
        return replace(script, text=text, transactional=annotations.transactional, problem=annotations.problem)

    if not annotations.marks:
        return part(script.text), part(script.text)  # there is nothing in it, either way
    if "DOWN" not in annotations.marks:
        return part(script.text), None
    before = annotations.marks["DOWN"] - 1
    return part("\n".join(lines[:before]) + "\n"), part("\n" * before + "\n".join(lines[before:]))


class _Annotations:
    """The annotations of one file, which must come in an order that goose accepts."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.marks: dict[str, int] = {}
        self.begun: int | None = None
        self.transactional = script.transactional
        self.problem: Problem | None = None

    def take(self, match: re.Match[str], number: int) -> None:
        """Take the annotation of one line."""
        words = " ".join(match.group("words").upper().split())
        if match.group("indent"):
            self._refuse(number, "an annotation that is indented is a comment to goose", "Begin the line with it.")
        if words in ("UP", "DOWN"):
            self._section(words, number)
        elif words in ("STATEMENTBEGIN", "STATEMENTEND"):
            # Where a statement ends is known here without them.
            begins = words == "STATEMENTBEGIN"
            if not self.marks or begins == (self.begun is not None):
                self._refuse(number, "StatementBegin and StatementEnd do not come in pairs after Up or Down")
            self.begun = number if begins else None
        elif words == "NO TRANSACTION":
            self.transactional = False
        elif words in ("ENVSUB ON", "ENVSUBST ON"):
            self.problem = Problem(
                line=number,
                reason="goose would put variables of the environment into this file, which is not done here",
                hint="Write the values, or use the layout command with goose itself.",
            )
        elif words not in ("ENVSUB OFF", "ENVSUBST OFF"):
            self._refuse(number, "'+goose %s' is not known here" % match.group("words"))

    def _section(self, word: str, number: int) -> None:
        self._refuse_open()
        if word in self.marks or (word == "DOWN") != bool(self.marks):
            self._refuse(number, "there is a second '+goose %s', or none that may come first" % word.capitalize())
        self.marks[word] = number

    def finish(self) -> None:
        """Refuse what is still missing at the end of the file; a file without anything in it is whole."""
        self._refuse_open()
        if not self.marks and self.script.text.strip():
            self._refuse(1, "there is no line '-- +goose Up'")

    def _refuse_open(self) -> None:
        if self.begun is not None:
            self._refuse(self.begun, "StatementBegin without StatementEnd", "Close it with '-- +goose StatementEnd'.")

    def _refuse(self, number: int, reason: str, hint: str = HINT_ANNOTATION) -> None:
        invalid(self.script.path, reason, hint, line=number)
