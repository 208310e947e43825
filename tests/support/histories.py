# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The migration histories of tests/histories: read as a task would read them, and the schema that they make."""

from __future__ import annotations

import re
import subprocess

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    Options,
    SourceFile,
    read_directories,
)
from tests.support.modules import ROOT
from tests.support.server import TestServer

#: By their directories: the layout that is found, how many migrations there are, and how they are to be read.
HISTORIES = {
    "diesel": ("directories", 4, Options()),
    "flyway": ("flyway", 21, Options(placeholders={"currency": "EUR"})),
    "golang": ("golang-migrate", 26, Options()),
    "goose": ("goose", 21, Options()),
    "sqitch": ("sqitch", 6, Options()),
}

# What says nothing about the schema: the random keys of newer versions, comments and settings of the dump.
NOISE = re.compile(r"^(?:\\(?:un)?restrict .*|--.*|SET .*|SELECT pg_catalog\.set_config.*|\s*)\n", re.MULTILINE)


def history_files(name: str) -> list[SourceFile]:
    """Return the files of one history."""
    return read_directories([str(ROOT / "tests" / "histories" / name)], HISTORIES[name][2])


def schema_of(server: TestServer, database: str) -> str:
    """Return the schema of a database as pg_dump writes it, without the table of the history and without noise."""
    with server.server.client_environment() as environment:
        completed = subprocess.run(
            [
                str(server.bin_dir / "pg_dump"),
                "--schema-only",
                "--exclude-table=public.schema_version",
                "--dbname=" + server.server.conninfo(database),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    return NOISE.sub("", completed.stdout)
