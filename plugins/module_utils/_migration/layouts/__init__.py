# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding migrations among files: which layout they have, what belongs together, and what cannot be understood."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Union

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.base import (
    Found,
    Key,
    Migration,
    NamedFile,
    Options,
    Problem,
    Script,
    SourceFile,
    invalid,
    is_repeatable,
    options_from,
    version_key,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.flyway import Flyway
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.goose import Goose
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.numbered import (
    Directories,
    DirectoriesAndFiles,
    GolangMigrate,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.reading import (
    choose,
    read,
    shortened,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts.sqitch import Sqitch

__all__ = [
    "AUTO",
    "COMMAND",
    "LAYOUTS",
    "Found",
    "Key",
    "Migration",
    "Options",
    "Problem",
    "Script",
    "SourceFile",
    "find",
    "invalid",
    "is_repeatable",
    "migrations",
    "options_from",
    "read_directories",
    "version_key",
]

Layout = Union[Directories, GolangMigrate, Flyway, Goose, Sqitch]

AUTO = "auto"
#: The layout of programs that migrate by themselves; it has no files.
COMMAND = "command"
#: The layouts that have files, by the names of the option.
LAYOUTS = ("directories", "golang-migrate", "flyway", "goose", "sqitch")


def _layouts(options: Options) -> dict[str, Layout]:
    known: dict[str, Layout] = {
        layout.name: layout
        for layout in (Directories(), GolangMigrate(), Flyway(options.placeholders), Goose(), Sqitch())
    }
    if options.layout in (AUTO, COMMAND):
        return known
    if options.layout not in known:
        raise HoldfastError(
            code="option_invalid",
            msg="There is no layout %r." % options.layout,
            hint="Known are %s." % ", ".join([AUTO, *LAYOUTS, COMMAND]),
        )
    return {options.layout: known[options.layout]}


def read_directories(directories: Iterable[str], options: Options = Options()) -> list[SourceFile]:  # noqa: B008
    """Read what may be migrations from directories, in the order of their names; with the layout command nothing.

    Raises `HoldfastError` with the code ``migration_invalid`` for a directory or file that cannot be read, for a
    migration's directory without ``up.sql``, and for SQL files of which no layout knows one. Hidden files and what
    is clearly something else are left alone.
    """
    if options.layout == COMMAND:
        return []
    return read(directories, layouts=list(_layouts(options).values()), options=options)


def find(files: Sequence[SourceFile], options: Options = Options()) -> Found:  # noqa: B008
    """Return the migrations that ``files`` hold, in the order in which they run, and their layout.

    Raises `HoldfastError` with the codes ``migration_invalid`` and ``migration_version_duplicate``.
    """
    if not files:
        return Found(None if options.layout == AUTO else options.layout, [])
    chosen = choose(files, options)
    layouts = _layouts(options)
    if options.layout != AUTO:
        return layouts[options.layout].find(chosen)
    return _detected(chosen, layouts).find(chosen)


def migrations(files: Sequence[SourceFile], options: Options = Options()) -> list[Migration]:  # noqa: B008
    """Return the migrations of `find`."""
    return find(files, options).migrations


def _detected(files: Sequence[NamedFile], layouts: dict[str, Layout]) -> Layout | DirectoriesAndFiles:
    """Return the one layout that the names tell; raises `HoldfastError` when they tell none or several."""
    claimed: dict[str, list[str]] = {}
    plan_directories = tuple(
        os.path.dirname(file.path) + os.sep for file in files if layouts["sqitch"].claims(file.path)
    )
    for file in files:
        if plan_directories and file.path.startswith(plan_directories):
            claimed.setdefault("sqitch", []).append(file.file.path)
            continue
        for name, layout in layouts.items():
            if name != "sqitch" and layout.claims(file.path):
                claimed.setdefault(name, []).append(file.file.path)
                break  # names of steps are asked for first: V1__a.up.sql is a step up
    names = set(claimed)
    if names == {"directories", "golang-migrate"}:
        return DirectoriesAndFiles()
    if len(names) == 1:
        return layouts[names.pop()]
    shapes = ["%s (%s)" % (name, layout.shape) for name, layout in layouts.items()]
    if not names:
        raise HoldfastError(
            code="migration_invalid",
            msg="No layout knows the files that are there: %s." % shortened([file.file.path for file in files]),
            hint="Known are %s. Name the files so, or leave out with include what is no migration." % ", ".join(shapes),
            paths=[file.file.path for file in files],
        )
    raise HoldfastError(
        code="migration_invalid",
        msg="The files are of %d layouts: %s."
        % (len(names), "; ".join("%s: %s" % (name, shortened(paths)) for name, paths in claimed.items())),
        hint="Set layout to one of them, and leave out the files of the others with include or another source.",
        layouts=sorted(names),
    )
