# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what may be migrations from directories."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import psql
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.base import (
    NamedFile,
    Options,
    SourceFile,
    invalid,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.numbered import (
    STEP_FILES,
    Directories,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.sqitch import (
    DIRECTORIES as SQITCH_DIRECTORIES,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import ScanError

VERSION_LIKE = re.compile(r"[vV]?[0-9]")
MAX_DEPTH = 8

#: Suffixes by which projects tell files for several database systems apart, beside those that ``prefer`` names.
DIALECTS = frozenset(
    (
        *("cockroach", "cockroachdb", "db2", "h2", "hsqldb", "mariadb", "mssql", "mysql", "oracle"),
        *("pg", "pgsql", "postgres", "postgresql", "sqlite", "sqlite3", "sqlserver", "yugabyte"),
    )
)


class Reads(Protocol):
    """The part of a layout that says which files of a directory are worth reading."""

    def claims(self, path: str) -> bool:
        """Whether the name of a file is one of this layout."""

    def reads(self, relative: str) -> bool:
        """Whether a file of a source may belong to this layout, and is not to be left alone."""


def read(directories: Iterable[str], *, layouts: Sequence[Reads], options: Options) -> list[SourceFile]:
    """Read the files that one of ``layouts`` may know, in the order of their names.

    Raises `HoldfastError` with the code ``migration_invalid`` for a directory or file that cannot be read, and for
    a migration's directory without ``up.sql``. Hidden files and what is clearly something else are left alone.
    """
    included = matcher(options.include)
    files: dict[str, SourceFile] = {}
    strange: list[str] = []
    for directory in map(os.path.normpath, directories):
        entries = list(_walk(directory, "", frozenset()))
        relatives = [entry for entry in entries if not entry.endswith(os.sep) and included(entry)]
        wanted = {r for r in relatives if any(layout.reads(named(r, options).path) for layout in layouts)}
        if any(isinstance(layout, Directories) for layout in layouts):
            wanted |= _beside_steps(directory, entries, wanted, options)
        for relative in relatives:
            path = os.path.join(directory, relative)
            if relative in wanted:
                files[path] = _read(path)
            elif relative.endswith(".sql"):
                strange.append(path)
    files = {path: replace(file, beside=_beside(file)) for path, file in files.items()}
    # What a migration includes is none itself, unless its name says so.
    named_files = {file.path for each in files.values() for file in each.beside}
    for path in named_files.intersection(files):
        if not any(layout.claims(named(path, options).path) for layout in layouts) and not _is_sqitch(path):
            del files[path]
    if not files and strange:
        raise HoldfastError(
            code="migration_invalid",
            msg="No layout knows the files that are there: %s." % shortened(strange),
            hint="Set layout, or name in source the directory in which the migrations lie.",
            paths=strange,
        )
    return list(files.values())


def _beside(file: SourceFile) -> tuple[SourceFile, ...]:
    """Read what a file includes or loads by commands of psql; what is not there, its reader will miss."""
    directory = os.path.dirname(file.path)
    found: dict[str, SourceFile] = {}
    waiting = [file]
    while waiting:
        each = waiting.pop()
        text = each.content.decode("utf-8", "replace")
        if "\\" not in text:
            continue
        try:
            includes = psql.read(text.replace("\r\n", "\n")).includes
        except ScanError:  # refused when it is to be run
            continue
        for include in includes:
            path = include.path(each.path, directory=directory)
            if path not in found and path != file.path and os.path.exists(path):
                found[path] = _read(path)
                if include.is_sql:
                    waiting.append(found[path])
    return tuple(found[path] for path in sorted(found))


def _is_sqitch(path: str) -> bool:
    return os.path.basename(os.path.dirname(path)) in SQITCH_DIRECTORIES


def _beside_steps(root: str, entries: Sequence[str], wanted: set[str], options: Options) -> set[str]:
    """Return the SQL files beside ``up.sql``; raises `HoldfastError` for a directory that should have one."""
    beside: set[str] = set()
    for directory in (entry for entry in entries if entry.endswith(os.sep) and entry.count(os.sep) == 1):
        inside = [entry for entry in entries if entry.startswith(directory) and entry.count(os.sep) == 1]
        names = {os.path.basename(named(path, options).path) for path in inside if path != directory}
        steps = names.intersection(STEP_FILES)
        others = any(path.startswith(directory) for path in wanted)
        if "up.sql" not in names and (steps or (VERSION_LIKE.match(directory) and not others)):
            path = os.path.join(root, directory.rstrip(os.sep))
            invalid(path, "the directory has no up.sql", "Add up.sql, or remove the directory.")
        if steps:
            beside.update(path for path in inside if path.endswith(".sql"))
    return beside


def _walk(root: str, relative: str, above: frozenset[str]) -> Iterator[str]:
    """Yield what is below a directory by its relative path, in the order of the names; directories end with a slash."""
    directory = os.path.join(root, relative) if relative else root
    try:
        entries = sorted(entry for entry in os.listdir(directory) if not entry.startswith("."))
    except OSError as exc:
        if relative.count(os.sep):  # far from where migrations usually are, and perhaps none of our business
            return
        invalid(
            directory,
            "the directory cannot be read: %s" % exc.strerror,
            "Name existing directories in source; remote_src says on which host they are.",
        )
    real = os.path.realpath(directory)
    for entry in entries:
        path = os.path.join(relative, entry)
        if not os.path.isdir(os.path.join(root, path)):
            yield path
        elif real not in above and len(above) < MAX_DEPTH:  # a link may lead back
            yield path + os.sep
            yield from _walk(root, path, above | {real})


def _read(path: str) -> SourceFile:
    try:
        if not os.path.isfile(path):  # a pipe would never end
            invalid(path, "it is not a regular file, or a link that leads nowhere", "Remove it or mend the link.")
        with open(path, "rb") as file:
            return SourceFile(path=path, content=file.read())
    except OSError as exc:
        invalid(path, "the file cannot be read: %s" % exc.strerror, "Give this user the right to read it.")


class Name(NamedTuple):
    """What a path says: the path by which the layout knows the file, its dialect, and whether it has the mark."""

    path: str
    dialect: str | None
    marked: bool


def named(path: str, options: Options) -> Name:
    """Return the path without dialect and without the mark of no transaction, and both."""
    directory, base = os.path.split(path)
    pattern = options.no_transaction_pattern
    marked = bool(pattern) and matcher([pattern])(path)
    mark = pattern.split(".")[1] if pattern.startswith(".") and pattern.endswith(".sql") else None
    first, *inner = base.split(".")
    dialect = None
    kept = [first]
    for number, part in enumerate(inner, 1):
        last = number == len(inner)
        if options.prefer and not last and (part in options.prefer or part in DIALECTS):
            dialect = part
        elif mark is not None and part == mark and not last:
            marked = True
        else:
            kept.append(part)
    return Name(os.path.join(directory, ".".join(kept)), dialect, marked)


def choose(files: Sequence[SourceFile], options: Options) -> list[NamedFile]:
    """Return the files that count: of those that are the same step, the one whose dialect is preferred.

    A file without dialect comes after those that ``prefer`` names and before all others. Raises `HoldfastError`
    (``migration_invalid``) where none or more than one is left.
    """
    order = {dialect: number for number, dialect in enumerate(options.prefer)}
    chosen: dict[str, tuple[int, SourceFile, Name]] = {}
    for file in files:
        name = named(file.path, options)
        rank = len(order) if name.dialect is None else order.get(name.dialect, len(order) + 1)
        other = chosen.get(name.path)
        if other is not None and other[0] == rank <= len(order):
            invalid(file.path, "%s is the same step" % other[1].path, "Remove one of them, or choose with include.")
        if other is None or rank < other[0]:
            chosen[name.path] = (rank, file, name)
    for rank, file, name in chosen.values():
        if rank > len(order):
            invalid(
                file.path,
                "it is for %s, and nothing else is there for this step" % name.dialect,
                "Add the file for PostgreSQL, name its dialect in prefer, or leave this one out with include.",
            )
    return [NamedFile(file, name.path, False if name.marked else None) for _rank, file, name in chosen.values()]


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return a test of relative paths: whether one of ``patterns`` matches, or there is none.

    A pattern is a regular expression after ``~``, the end of a name when it begins with a dot, and otherwise a glob,
    of the whole relative path if it has a slash. What is no SQL file is not asked about.
    """
    tests = [_test(pattern) for pattern in patterns]
    return lambda path: not tests or not path.endswith(".sql") or any(test(path) for test in tests)


def _test(pattern: str) -> Callable[[str], bool]:
    if pattern.startswith("~"):
        try:
            expression = re.compile(pattern[1:])
        except re.error as exc:
            raise HoldfastError(
                code="option_invalid",
                msg="%r is no regular expression: %s." % (pattern[1:], exc),
                hint="After ~ goes a regular expression of Python; without ~ a pattern is a glob.",
            ) from exc
        return lambda path: expression.search(path) is not None
    glob = "*" + pattern if pattern.startswith(".") else pattern
    whole = os.sep in pattern
    return lambda path: fnmatch.fnmatchcase(path if whole else os.path.basename(path), glob)


def shortened(paths: Sequence[str], *, limit: int = 4) -> str:
    """Return the first few of many paths, as one text."""
    more = len(paths) - limit
    return ", ".join(paths[:limit]) + (" and %d more" % more if more > 0 else "")
