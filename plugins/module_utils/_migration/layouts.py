# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding migrations among files: what belongs together, in which order, and what cannot be understood."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

#: A version compares as its numbers; trailing zeros do not count, so that 1, 1.0 and v1.0.0 are one version.
Key = tuple[int, ...]

VERSION = r"[vV]?[0-9]+(?:\.[0-9]+)*"
NAME = re.compile(r"(?P<version>%s)_(?P<name>.*\w.*)" % VERSION, re.DOTALL)
SCRIPT = re.compile(r"(?P<stem>.*)\.(?P<step>up|down|verify)\.sql", re.DOTALL)
VERSION_LIKE = re.compile(r"[vV]?[0-9]")
STEPS = ("up", "down", "verify")
HINT_NAME = "Name it <version>_<name>/up.sql or <version>_<name>.up.sql, with a version such as 0001, v1.2.0 or a date."


@dataclass(frozen=True)
class SourceFile:
    """A file as it was read: ``path`` names it in messages, its last two parts say what it is."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Script:
    """One SQL file: ``text`` without byte order mark and with LF alone, which is also what the server gets."""

    path: str
    text: str

    @property
    def checksum(self) -> str:
        """The sha256 of ``text`` in hexadecimal."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Migration:
    """One version's step up, with its step down and its verification if there are any."""

    version: str
    key: Key
    description: str
    up: Script
    down: Script | None = None
    verify: Script | None = None


def version_key(version: str) -> Key | None:
    """Return the numbers of a version, or None for a text that is no version."""
    if len(version) > 255 or re.fullmatch(VERSION, version) is None:
        return None
    numbers = [int(number) for number in version.lstrip("vV").split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def read_directories(directories: Iterable[str]) -> list[SourceFile]:
    """Read what may be migrations from directories, in the order of their names.

    Raises `HoldfastError` with the code ``migration_invalid`` for a directory or file that cannot be read and for
    a migration's directory without ``up.sql``. Hidden files and what is clearly something else are left alone.
    """
    files: dict[str, SourceFile] = {}
    for directory in map(os.path.normpath, directories):
        for entry in _entries(directory):
            path = os.path.join(directory, entry)
            if os.path.isdir(path):
                names = [name for name in _entries(path) if name.endswith(".sql")]
                known = [name for name in names if name in _STEP_FILES]
                if "up.sql" not in names and (known or VERSION_LIKE.match(entry)):
                    invalid(path, "the directory has no up.sql", "Add up.sql, or remove the directory.")
                if known:
                    files.update({p: _read(p) for p in (os.path.join(path, name) for name in names)})
            elif entry.endswith(".sql"):
                files[path] = _read(path)
    return list(files.values())


_STEP_FILES = tuple(step + ".sql" for step in STEPS)


def _entries(directory: str) -> list[str]:
    try:
        return sorted(entry for entry in os.listdir(directory) if not entry.startswith("."))
    except OSError as exc:
        invalid(
            directory,
            "the directory cannot be read: %s" % exc.strerror,
            "Name existing directories in source; remote_src says on which host they are.",
        )


def _read(path: str) -> SourceFile:
    try:
        if not os.path.isfile(path):  # a pipe would never end
            invalid(path, "it is not a regular file, or a link that leads nowhere", "Remove it or mend the link.")
        with open(path, "rb") as file:
            return SourceFile(path=path, content=file.read())
    except OSError as exc:
        invalid(path, "the file cannot be read: %s" % exc.strerror, "Give this user the right to read it.")


def invalid(path: str, reason: str, hint: str, *, line: int | None = None) -> NoReturn:
    """Raise the error of a file or directory that cannot be understood."""
    name = path.encode("utf-8", "backslashreplace").decode()
    where = name if line is None else "%s:%d" % (name, line)
    raise HoldfastError(code="migration_invalid", msg="%s: %s." % (where, reason), hint=hint, path=name, line=line)


def migrations(files: Sequence[SourceFile]) -> list[Migration]:
    """Return the migrations that ``files`` hold, oldest first.

    Raises `HoldfastError` with the codes ``migration_invalid`` and ``migration_version_duplicate``.
    """
    scripts: dict[tuple[str, bool], dict[str, Script]] = {}
    for file in files:
        origin, step, is_directory = _origin(file.path)
        scripts.setdefault((origin, is_directory), {})[step] = _script(file)
    found: dict[Key, Migration] = {}
    for (origin, _is_directory), steps in scripts.items():
        migration = _migration(origin, steps)
        other = found.setdefault(migration.key, migration)
        if other is not migration:
            raise HoldfastError(
                code="migration_version_duplicate",
                msg="Two migrations have one version: %s (%s) and %s (%s)."
                % (other.version, other.up.path, migration.version, migration.up.path),
                hint="Give one of them another version; versions compare as numbers, so 001 is 1 and 1.0 is 1.",
                version=migration.version,
                paths=[other.up.path, migration.up.path],
            )
    return [found[key] for key in sorted(found)]


def _origin(path: str) -> tuple[str, str, bool]:
    """Return what a file belongs to (a path without ``/up.sql`` or ``.up.sql``), its step, and if it is a directory."""
    directory, base = os.path.split(path)
    if base in _STEP_FILES:
        return directory, base[: -len(".sql")], True
    match = SCRIPT.fullmatch(base)
    if match is None:
        invalid(path, "the file is neither a step up nor a step down of a migration", HINT_NAME)
    return os.path.join(directory, match.group("stem")), match.group("step"), False


def _migration(origin: str, steps: dict[str, Script]) -> Migration:
    first = next(iter(steps.values()))
    match = NAME.fullmatch(os.path.basename(origin))
    if match is None:
        invalid(first.path, "%r is not <version>_<name>" % os.path.basename(origin), HINT_NAME)
    if "up" not in steps:
        invalid(first.path, "there is no step up beside it", "Add the up file, or remove this one.")
    key = version_key(match.group("version"))
    if key is None:
        invalid(first.path, "its version is too long", HINT_NAME)
    return Migration(
        version=match.group("version"),
        key=key,
        description=" ".join(match.group("name").replace("_", " ").split()),
        up=steps["up"],
        down=steps.get("down"),
        verify=steps.get("verify"),
    )


def _script(file: SourceFile) -> Script:
    try:
        file.path.encode("utf-8")
    except UnicodeEncodeError:
        invalid(file.path, "the name is not UTF-8", "Rename it.")
    try:
        text = file.content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = file.content.count(b"\n", 0, exc.start) + 1
        invalid(file.path, "the file is not UTF-8 there", "Save the file as UTF-8.", line=line)
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        invalid(file.path, "the file holds a NUL character", "Save the file as UTF-8, not UTF-16.", line=line)
    return Script(path=file.path, text=text.replace("\r\n", "\n"))
