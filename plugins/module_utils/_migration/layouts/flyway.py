# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flyway's files: ``V1.2__name.sql``, its undo ``U1.2__name.sql``, and ``R__name.sql``, which runs whenever it changed.

See https://documentation.red-gate.com/fd/migrations-271585107.html.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.base import (
    AFTER_ALL,
    Found,
    Key,
    Migration,
    NamedFile,
    Problem,
    Script,
    described,
    in_order,
    invalid,
    text_of,
    version_key,
)

NAME = re.compile(r"(?P<kind>[VUB])(?P<version>[0-9]+(?:[._][0-9]+)*)__(?P<name>.*\w.*)\.sql", re.DOTALL)
REPEATABLE = re.compile(r"(?P<version>R__(?P<name>.*\w.*))\.sql", re.DOTALL)
CALLBACK = re.compile(r"(?:before|after|create)[A-Z]\w*\.sql", re.DOTALL)
OTHERS_STEP = re.compile(r".*\.(?:up|down|verify)\.sql", re.DOTALL)
PLACEHOLDER = re.compile(r"\$\{([^}\n]*)\}")
CONFIGURATION = re.compile(r"\s*(?:(?P<key>[\w.]+)\s*[=:]\s*(?P<value>.*?)\s*|[#!].*)?")
HINT_NAME = "Name it V<version>__<name>.sql, U<version>__<name>.sql or R__<name>.sql, or leave it out with include."


@dataclass(frozen=True)
class Flyway:
    """Versioned files in the order of their versions, then repeatable files in the order of their names.

    A repeatable file has no way down but its row does: when versions below it are reverted, it is forgotten, so that
    it runs again after the next step up.
    """

    placeholders: Mapping[str, str] = field(default_factory=dict)
    name = "flyway"
    shape = "V<version>__<name>.sql"

    def claims(self, path: str) -> bool:
        """Whether the name of a file is one of this layout."""
        base = os.path.basename(path)
        base = base[: -len(".conf")] if base.endswith(".sql.conf") else base
        return OTHERS_STEP.fullmatch(base) is None and bool(NAME.fullmatch(base) or REPEATABLE.fullmatch(base))

    def reads(self, relative: str) -> bool:
        """Whether a file of a source may belong to this layout, and is not to be left alone."""
        return self.claims(relative) or (os.sep not in relative and relative.endswith(".sql"))

    def find(self, files: Sequence[NamedFile]) -> Found:
        """Return the migrations; raises `HoldfastError` for what cannot be understood."""
        configurations = {
            file.path[: -len(".conf")]: _configuration(file) for file in files if file.path.endswith(".sql.conf")
        }
        ups: list[Migration] = []
        downs: dict[Key, NamedFile] = {}
        scripts: dict[Key, Script] = {}
        for file in files:
            if file.path.endswith(".sql.conf"):
                continue
            base = os.path.basename(file.path)
            repeatable = REPEATABLE.fullmatch(base)
            match = repeatable or NAME.fullmatch(base)
            if match is None or OTHERS_STEP.fullmatch(base):
                reason = (
                    "a callback of Flyway is not run here" if CALLBACK.fullmatch(base) else "not a name of Flyway's"
                )
                invalid(file.file.path, reason, HINT_NAME)
            script = self._script(file, configurations.get(file.path, {}), repeatable=repeatable is not None)
            version = match.group("version").replace("_", ".") if repeatable is None else match.group("version")
            key = self.key(version)
            if key is None:
                invalid(file.file.path, "its version is too long", HINT_NAME)
            kind = "R" if repeatable else match.group("kind")
            if kind == "B":
                invalid(
                    file.file.path,
                    "a baseline migration stands for others, which is not supported",
                    "Leave it out with include, and keep the versions that it stands for.",
                )
            if kind == "U":
                other = downs.setdefault(key, file)
                if other is not file:
                    invalid(file.file.path, "%s undoes the same version" % other.file.path, "Remove one of them.")
                scripts[key] = script
                continue
            down = Script(path=file.file.path, text="") if repeatable else None
            ups.append(
                Migration(version=version, key=key, description=described(match.group("name")), up=script, down=down)
            )
        migrations = in_order(ups)
        known = {migration.key for migration in migrations}
        for key, file in downs.items():
            if key not in known:
                invalid(file.file.path, "there is no V file of this version", "Add the V file, or remove this one.")
        return Found(self.name, [replace(m, down=scripts.get(m.key, m.down)) for m in migrations], self.key)

    @staticmethod
    def key(version: str) -> Key | None:
        """Return the place of a version, with dots or underscores, or of ``R__name``."""
        if version.startswith("R__"):
            return (AFTER_ALL, *map(ord, described(version[3:])))
        return version_key(version.replace("_", "."))

    def _script(self, file: NamedFile, configuration: Mapping[str, str], *, repeatable: bool) -> Script:
        script = file.script()
        if configuration.get("executeInTransaction", "true").lower() == "false":
            script = replace(script, transactional=False)
        if configuration.get("placeholderReplacement", "true").lower() == "false":
            return script
        for match in PLACEHOLDER.finditer(script.text):
            if match.group(1) not in self.placeholders:
                problem = Problem(
                    line=script.text.count("\n", 0, match.start()) + 1,
                    reason="the placeholder %s has no value" % match.group(),
                    hint="Give it one in the option placeholders; to keep it as it is, its own name: %s."
                    % match.group(),
                )
                return replace(script, problem=problem)
        text = PLACEHOLDER.sub(lambda match: self.placeholders[match.group(1)], script.text)
        # As with Flyway, another value makes a repeatable file run again, and leaves a versioned one as it was.
        return replace(script, text=text, source=None if repeatable else script.text)


def _configuration(file: NamedFile) -> dict[str, str]:
    values: dict[str, str] = {}
    for number, line in enumerate(text_of(file.file).split("\n"), 1):
        match = CONFIGURATION.fullmatch(line)
        key = match.group("key") if match else line.strip()
        if match is None or key not in (None, "executeInTransaction", "placeholderReplacement"):
            invalid(
                file.file.path,
                "%r is not known here" % key,
                "Known are executeInTransaction and placeholderReplacement.",
                line=number,
            )
        if key is not None:
            values[key] = match.group("value")
    return values
