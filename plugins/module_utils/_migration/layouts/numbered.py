# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations whose names begin with a version: directories as Diesel has them, files as golang-migrate has them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.base import (
    STEPS,
    VERSION,
    Found,
    Migration,
    NamedFile,
    described,
    in_order,
    invalid,
    version_key,
)

NAME = re.compile(r"(?P<version>%s)_(?P<name>.*\w.*)" % VERSION, re.DOTALL)
SCRIPT = re.compile(r"(?P<stem>.*)\.(?P<step>up|down|verify)\.sql", re.DOTALL)
STEP_FILES = tuple(step + ".sql" for step in STEPS)
HINT_NAME = "Name it <version>_<name>/up.sql or <version>_<name>.up.sql, with a version such as 0001, v1.2.0 or a date."


class Origin(NamedTuple):
    """What a file belongs to, a path without its step, and which step it is."""

    path: str
    step: str


class Directories:
    """``<version>_<name>/up.sql``, with ``down.sql`` and ``verify.sql`` beside it."""

    name = "directories"
    shape = "<version>_<name>/up.sql"

    def claims(self, path: str) -> bool:
        """Whether the name of a file is one of this layout."""
        return self.origin(path) is not None

    def reads(self, relative: str) -> bool:
        """Whether a file of a source may belong to this layout, and is not to be left alone."""
        return relative.count(os.sep) == 1 and self.claims(relative)

    def origin(self, path: str) -> Origin | None:
        """Return what a file belongs to, or None."""
        directory, base = os.path.split(path)
        return Origin(directory, base[: -len(".sql")]) if base in STEP_FILES else None

    def find(self, files: Sequence[NamedFile]) -> Found:
        """Return the migrations; raises `HoldfastError` for what cannot be understood."""
        return _find(self.name, files, (self,))


class GolangMigrate:
    """``<version>_<name>.up.sql``, with ``.down.sql`` and ``.verify.sql`` beside it."""

    name = "golang-migrate"
    shape = "<version>_<name>.up.sql"

    def claims(self, path: str) -> bool:
        """Whether the name of a file is one of this layout."""
        return self.origin(path) is not None

    def reads(self, relative: str) -> bool:
        """Whether a file of a source may belong to this layout, and is not to be left alone."""
        return os.sep not in relative and relative.endswith(".sql")

    def origin(self, path: str) -> Origin | None:
        """Return what a file belongs to, or None."""
        directory, base = os.path.split(path)
        match = SCRIPT.fullmatch(base)
        return Origin(os.path.join(directory, match.group("stem")), match.group("step")) if match else None

    def find(self, files: Sequence[NamedFile]) -> Found:
        """Return the migrations; raises `HoldfastError` for what cannot be understood."""
        return _find(self.name, files, (self,))


class DirectoriesAndFiles:
    """Both, merged in the order of their versions."""

    name = "directories+golang-migrate"

    def find(self, files: Sequence[NamedFile]) -> Found:
        """Return the migrations; raises `HoldfastError` for what cannot be understood."""
        return _find(self.name, files, (Directories(), GolangMigrate()))


def _find(name: str, files: Sequence[NamedFile], layouts: Sequence[Directories | GolangMigrate]) -> Found:
    origins: dict[tuple[str, str], dict[str, NamedFile]] = {}
    for file in files:
        for layout in layouts:
            origin = layout.origin(file.path)
            if origin is not None:
                origins.setdefault((layout.name, origin.path), {})[origin.step] = file
                break
        else:
            invalid(file.file.path, "the file is neither a step up nor a step down of a migration", HINT_NAME)
    return Found(name, in_order([_migration(path, steps) for (_layout, path), steps in origins.items()]))


def _migration(origin: str, files: dict[str, NamedFile]) -> Migration:
    first = next(iter(files.values())).file
    match = NAME.fullmatch(os.path.basename(origin))
    if match is None:
        invalid(first.path, "%r is not <version>_<name>" % os.path.basename(origin), HINT_NAME)
    if "up" not in files:
        invalid(first.path, "there is no step up beside it", "Add the up file, or remove this one.")
    key = version_key(match.group("version"))
    if key is None:
        invalid(first.path, "its version is too long", HINT_NAME)
    steps = {step: file.script() for step, file in files.items()}
    return Migration(
        version=match.group("version"),
        key=key,
        description=described(match.group("name")),
        up=steps["up"],
        down=steps.get("down"),
        verify=steps.get("verify"),
    )
