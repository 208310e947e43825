# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every layout of migrations is made of: files, scripts, versions, and the error of what cannot be understood."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

#: A version compares as its numbers; trailing zeros do not count, so that 1, 1.0 and v1.0.0 are one version.
Key = tuple[int, ...]

#: Greater than any number of a version, so that what has it in front comes last.
AFTER_ALL = 10**255

#: The numbers of a version, or the date that Diesel writes: 2026-11-21-101500, in newer versions with four more digits.
VERSION = r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{6}(?:-[0-9]{4})?|[vV]?[0-9]+(?:\.[0-9]+)*)"
STEPS = ("up", "down", "verify")


@dataclass(frozen=True)
class SourceFile:
    """A file as it was read: ``path`` names it in messages, its last parts say what it is.

    ``beside`` is what it includes or loads by commands of psql, and what these include.
    """

    path: str
    content: bytes
    beside: tuple[SourceFile, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Why a file must not be run; whoever has applied it already need not care."""

    line: int
    reason: str
    hint: str


@dataclass(frozen=True)
class Script:
    """The SQL of one step: ``text`` without byte order mark and with LF alone, which is also what the server gets.

    ``transactional`` is None where the text itself decides. ``source`` is what the checksum is taken of, where that
    is not ``text``, and of the files ``beside`` it.
    """

    path: str
    text: str
    transactional: bool | None = None
    source: str | None = None
    problem: Problem | None = None
    beside: tuple[SourceFile, ...] = ()

    @property
    def checksum(self) -> str:
        """The sha256 of the text in hexadecimal."""
        text = self.text if self.source is None else self.source
        digest = hashlib.sha256(text.encode("utf-8"))
        for file in self.beside:
            digest.update(b"\0" + file.content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Migration:
    """One version's step up, with its step down and its verification if there are any."""

    version: str
    key: Key
    description: str
    up: Script
    down: Script | None = None
    verify: Script | None = None

    @property
    def repeatable(self) -> bool:
        """Whether it runs again whenever it changed."""
        return is_repeatable(self.key)


def is_repeatable(key: Key | None) -> bool:
    """Whether a key is that of a migration that runs again whenever it changed."""
    return key is not None and key[:1] == (AFTER_ALL,)


def version_key(version: str) -> Key | None:
    """Return the numbers of a version, or None for a text that is no version."""
    if len(version) > 255 or re.fullmatch(VERSION, version) is None:
        return None
    if "-" in version:
        digits = version.replace("-", "")
        numbers = [int(digits[:14]), int(digits[14:] or 0)]
    else:
        numbers = [int(number) for number in version.lstrip("vV").split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


@dataclass(frozen=True)
class Options:
    """How to read files; names and defaults are those of the module's options."""

    layout: str = "auto"
    include: Sequence[str] = ()
    prefer: Sequence[str] = ()
    no_transaction_pattern: str = ""
    placeholders: Mapping[str, str] = field(default_factory=dict)


def options_from(arguments: Mapping[str, Any]) -> Options:
    """Return the options of a task, which a module has as typed values and an action plugin as they were written."""

    def words(name: str) -> tuple[str, ...]:
        value = arguments.get(name) or ()
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else tuple(map(str, value))

    placeholders = arguments.get("placeholders")
    return Options(
        layout=str(arguments.get("layout") or Options.layout),
        include=words("include"),
        prefer=words("prefer"),
        no_transaction_pattern=str(arguments.get("no_transaction_pattern") or ""),
        placeholders={str(key): str(value) for key, value in placeholders.items()}
        if isinstance(placeholders, Mapping)
        else {},
    )


@dataclass(frozen=True)
class NamedFile:
    """A file with the path by which its layout knows it: without dialect and without the mark of no transaction."""

    file: SourceFile
    path: str
    transactional: bool | None = None

    def script(self) -> Script:
        """Return the content as text; raises `HoldfastError` for what is none."""
        return Script(
            path=self.file.path, text=text_of(self.file), transactional=self.transactional, beside=self.file.beside
        )


@dataclass(frozen=True)
class Found:
    """What a source holds: its layout if it holds anything, and its migrations in the order in which they run."""

    layout: str | None
    migrations: list[Migration]
    #: The place of a version, as the history or an operator writes it, among the versions of this layout.
    key: Callable[[str], Key | None] = version_key
    #: The project that a plan names.
    project: str | None = None


def invalid(path: str, reason: str, hint: str, *, line: int | None = None) -> NoReturn:
    """Raise the error of a file or directory that cannot be understood."""
    name = path.encode("utf-8", "backslashreplace").decode()
    where = name if line is None else "%s:%d" % (name, line)
    raise HoldfastError(code="migration_invalid", msg="%s: %s." % (where, reason), hint=hint, path=name, line=line)


def in_order(migrations: Sequence[Migration]) -> list[Migration]:
    """Return migrations by their keys; raises `HoldfastError` (``migration_version_duplicate``) when two have one."""
    found: dict[Key, Migration] = {}
    for migration in migrations:
        other = found.setdefault(migration.key, migration)
        if other is not migration:
            raise HoldfastError(
                code="migration_version_duplicate",
                msg="Two migrations have one version: %s (%s) and %s (%s)."
                % (other.version, other.up.path, migration.version, migration.up.path),
                hint="Give one of them another version; versions compare as numbers, so 001 is 1 and 1.0 is 1. Of files"
                " for several database systems, prefer and include choose.",
                version=migration.version,
                paths=[other.up.path, migration.up.path],
            )
    return [found[key] for key in sorted(found)]


def described(name: str) -> str:
    """Return the part of a file's name that says what the migration is, as words."""
    return " ".join(name.replace("_", " ").split())


def text_of(file: SourceFile) -> str:
    """Return the text of a file, without byte order mark and with LF alone; raises `HoldfastError` if it is none."""
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
    return text.replace("\r\n", "\n")
