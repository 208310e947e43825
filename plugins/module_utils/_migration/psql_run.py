# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running a file through psql, in one session with the SQL that guards it and the SQL that records it."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import (
    find_client_programs,
    last_complaint,
    run_program,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.command import (
    ANY_EXIT_CODE,
    session_options,
    time_outs,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import Script
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.locks import (
    APPLICATION_NAME,
    LOCK_CLASS,
    WORKER_LOCK,
    WORKER_PATIENCE_S,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings

PSQL_APPLICATION_NAME = APPLICATION_NAME + " psql"
MAX_LINES = 1000

# With VERBOSITY verbose, so that the code is there; psql's own errors have none.
ERROR = re.compile(r"psql:(?P<file>.+?):(?P<line>\d+): (?:\S+:  (?P<sqlstate>[0-9A-Z]{5}): |error: )(?P<message>.*)")
#: Codes that begin so are notices.
NO_ERROR = ("00", "01", "02")
TOLD = re.compile(r"INFO:  00000: holdfast: (session|transaction) (\d+)$")
NOISE = re.compile(r"LOCATION:  |psql:.*" + TOLD.pattern)
TELL_TRANSACTION = """DO 'BEGIN RAISE INFO ''holdfast: transaction %'', pg_catalog.txid_current(); END';\n"""


@dataclass(frozen=True)
class Part:
    """What psql runs as one file: SQL of ours, or, with ``script``, a file of a migration and what is beside it."""

    text: str
    script: Script | None = None


class PsqlFailed(Exception):
    """What psql complained of; ``pgcode`` is the server's code if there is one, ``part`` where it happened."""

    def __init__(
        self, message: str, *, part: Part | None, path: str | None = None, line: int | None = None, pgcode: str | None
    ) -> None:
        super().__init__(message)
        self.part = part
        self.path = path
        self.line = line
        self.pgcode = pgcode


@dataclass(frozen=True)
class Psql:
    """The program, and how it reaches the database."""

    program: str
    environment: Mapping[str, str]
    conninfo: str

    def run(self, parts: Sequence[Part], *, on_told: Callable[[str, int], None]) -> list[str]:
        """Run parts in one session until the first error; return what psql and the server said.

        ``on_told`` gets ``session`` with the process id of the server, and ``transaction`` with the number of the one
        that `TELL_TRANSACTION` is in. Raises `PsqlFailed`, and `HoldfastError` when the program cannot be run.
        """
        told: set[str] = set()

        def look(line: str) -> None:
            match = TOLD.search(line)
            if match is not None and match.group(1) not in told:
                told.add(match.group(1))
                on_told(match.group(1), int(match.group(2)))

        with _written(parts) as (directory, paths, real):
            completed = run_program(
                command(self.program, conninfo=self.conninfo, paths=[path for path, _part in paths]),
                environment=self.environment,
                allowed_exit_codes=ANY_EXIT_CODE,
                on_stderr_line=look,
                max_lines=MAX_LINES,
                directory=directory,
            )
            said = [line for line in completed.stderr.splitlines() if not NOISE.match(line)]
            if completed.exit_code:
                raise _failure(said, dict(paths), real, directory, completed.exit_code)
            return [real.shown(line) for line in [*completed.stdout.splitlines(), *said] if line.strip()]


def command(program: str, *, conninfo: str, paths: Sequence[str]) -> list[str]:
    """Return the command line; each of ``paths`` runs in the same session, until the first error."""
    return [
        program,
        "--no-psqlrc",
        "--quiet",
        "--no-password",
        "--set=ON_ERROR_STOP=1",
        "--set=VERBOSITY=verbose",
        "--dbname=" + conninfo,
        *("--file=" + path for path in paths),
    ]


@contextlib.contextmanager
def psql_for(
    *, server: Server, database: str, settings: Settings, server_version: int, bin_dir: str | None
) -> Iterator[Psql]:
    """Find psql for a server and lend it the password; raises `HoldfastError` when it is missing or too old."""
    options = session_options(server, database, {**time_outs(settings), "standard_conforming_strings": "on"})
    with server.client_environment() as environment:
        programs = find_client_programs(
            server_version=server_version, bin_dir=bin_dir, environment=environment, program="psql"
        )
        yield Psql(
            program=programs.path("psql"),
            environment={key: value for key, value in environment.items() if key not in ("PGOPTIONS", "PSQLRC")},
            conninfo=server.conninfo(
                database,
                options=options,
                application_name=PSQL_APPLICATION_NAME,
                client_encoding="UTF8",
                connect_timeout=server.connect_params.get("connect_timeout", "10"),
            ),
        )


def opening(
    connection: Connection, *, standing: sql.Composable, expected: str | None, settings: Settings, watched: bool
) -> str:
    """Return the SQL before a file: our lock for this session, and proof that nobody has run it meanwhile.

    The runner may have been killed since it started psql, and its follower been quicker. The lock is that of the
    connection that runs the files (`lock_worker`), which has let it go.
    """
    guard = sql.SQL(
        "BEGIN\n"
        "    RAISE INFO 'holdfast: session %', pg_catalog.pg_backend_pid();\n"
        "    PERFORM pg_catalog.pg_advisory_lock({}, {});\n"
        "    IF {} IS DISTINCT FROM {} THEN\n"
        "        RAISE EXCEPTION 'the history says something else since this run has begun';\n"
        "    END IF;\n"
        "END\n"
    ).format(sql.Literal(LOCK_CLASS), sql.Literal(WORKER_LOCK), standing, sql.Literal(expected))
    text = sql.SQL("SET lock_timeout = {};\nDO {};\nSET lock_timeout = {};\n").format(
        sql.Literal("%ds" % WORKER_PATIENCE_S),
        sql.Literal(guard.as_string(connection)),
        sql.Literal(settings.lock_timeout_ms),
    )
    if watched:
        text += sql.SQL("SET client_connection_check_interval = '1s';\n")
    if settings.role:
        text += sql.SQL("SET ROLE {};\n").format(sql.Identifier(settings.role))
    return text.as_string(connection)


@dataclass(frozen=True)
class _Real:
    """Where the files that psql sees in a directory of ours really are."""

    directory: str
    root: str

    def path(self, seen: str, *, working: str) -> str:
        absolute = posixpath.normpath(posixpath.join(working, seen))
        inside = posixpath.relpath(absolute, self.directory)
        return absolute if inside.startswith("..") else posixpath.normpath(posixpath.join(self.root, inside))

    def shown(self, line: str) -> str:
        return line.replace(self.directory, self.root.rstrip("/"))


@contextlib.contextmanager
def _written(parts: Sequence[Part]) -> Iterator[tuple[str, list[tuple[str, Part]], _Real]]:
    """Write parts, and the files beside them as they lie to each other; yield where psql starts, and its files."""
    scripts = [part.script for part in parts if part.script is not None]
    names = [posixpath.abspath(path) for s in scripts for path in (s.path, *(file.path for file in s.beside))]
    root = posixpath.commonpath([posixpath.dirname(name) for name in names]) if names else "/"
    with tempfile.TemporaryDirectory(prefix="holdfast-psql-") as directory:
        real = _Real(os.path.join(directory, "files"), root)
        os.mkdir(real.directory)
        working = real.directory
        paths: list[tuple[str, Part]] = []
        for number, part in enumerate(parts):
            if part.script is None:
                path = os.path.join(directory, "holdfast-%d.sql" % number)
            else:
                for file in part.script.beside:
                    _write(_inside(real, file.path), file.content)
                path = _inside(real, part.script.path)
                working = os.path.dirname(path) if len(scripts) == 1 or part.script is scripts[0] else working
            _write(path, part.text.encode("utf-8"))
            paths.append((path, part))
        yield working, paths, real


def _inside(real: _Real, path: str) -> str:
    return os.path.join(real.directory, posixpath.relpath(posixpath.abspath(path), real.root))


def _write(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def _failure(told: Sequence[str], parts: Mapping[str, Part], real: _Real, working: str, exit_code: int) -> PsqlFailed:
    """Return what the last complaint says, and of which part it is: an included file belongs to the one before."""
    for line in reversed(told):
        match = ERROR.match(line)
        if match is None or (match.group("sqlstate") or "XX")[:2] in NO_ERROR:
            continue
        seen = posixpath.normpath(posixpath.join(working, match.group("file")))
        part = parts.get(seen)
        ours = part is not None and part.script is None
        scripts = [each for each in parts.values() if each.script is not None]
        return PsqlFailed(
            match.group("message"),
            part=part if part is not None else (scripts[0] if scripts else None),
            path=None if ours else real.path(match.group("file"), working=working),
            line=None if ours else int(match.group("line")),
            pgcode=match.group("sqlstate"),
        )
    reason = last_complaint("\n".join(told))
    return PsqlFailed("psql ended with exit code %d: %s" % (exit_code, real.shown(reason)), part=None, pgcode=None)
