# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running PostgreSQL's client programs: found by version, watched while they run, judged by what they say."""

from __future__ import annotations

import glob
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

#: Where distributions keep one directory of client programs per major version.
VERSIONED_BIN_DIRS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")


@dataclass(frozen=True)
class Completed:
    """What a program did: its exit code, the tail of its output by line, and its duration."""

    argv: Sequence[str]
    exit_code: int
    stdout: str
    stderr: str
    duration_s: float


def run_program(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    allowed_exit_codes: Sequence[int] = (0,),
    timeout_s: float | None = None,
    on_stderr_line: Callable[[str], None] | None = None,
    max_lines: int = 5000,
    stdin_path: str | None = None,
    directory: str | None = None,
) -> Completed:
    """Run ``argv`` without a shell, in ``directory``, both pipes drained while it runs, and return what it did.

    ``max_lines`` bounds what is kept of each stream (the newest lines). Raises `HoldfastError` with the code
    ``program_not_found``, ``program_failed`` (exit code not among ``allowed_exit_codes``) or ``timeout``.
    The program and its children end with the call, however the call ends.
    """
    started = time.monotonic()
    name = os.path.basename(argv[0])
    with open(stdin_path or os.devnull, "rb") as stdin:
        try:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                list(argv),
                env=dict(environment),
                cwd=directory,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as exc:
            raise HoldfastError(
                code="program_not_found",
                msg="Cannot run %s: %s" % (argv[0], exc.strerror),
                hint="Install the PostgreSQL client programs, or set bin_dir to the directory that holds them.",
            ) from exc
        captured: dict[str, deque[str]] = {"stdout": deque(maxlen=max_lines), "stderr": deque(maxlen=max_lines)}

        def drain(stream: IO[bytes], key: str) -> None:
            for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip("\n")
                captured[key].append(line)
                if key == "stderr" and on_stderr_line is not None:
                    on_stderr_line(line)

        if process.stdout is None or process.stderr is None:
            raise AssertionError("Popen was asked for pipes")
        threads = [
            threading.Thread(target=drain, args=(process.stdout, "stdout"), daemon=True),
            threading.Thread(target=drain, args=(process.stderr, "stderr"), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            exit_code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired as exc:
            _end_group(process)
            raise HoldfastError(
                code="timeout",
                msg="%s did not finish within %s s and was ended." % (name, timeout_s),
                hint="Look for what it waited on (locks, a slow disk), or raise the time limit.",
            ) from exc
        except BaseException:
            _end_group(process)
            raise
        for thread in threads:
            thread.join(timeout=10)
        process.stdout.close()
        process.stderr.close()
    completed = Completed(
        argv=tuple(argv),
        exit_code=exit_code,
        stdout="\n".join(captured["stdout"]),
        stderr="\n".join(captured["stderr"]),
        duration_s=time.monotonic() - started,
    )
    if exit_code not in allowed_exit_codes:
        raise HoldfastError(
            code="program_failed",
            msg="%s ended with exit code %d: %s" % (name, exit_code, last_complaint(completed.stderr)),
            hint="The program's own messages are in stderr.",
            exit_code=exit_code,
            stderr=completed.stderr[-8000:],
        )
    return completed


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        process.wait()


def last_complaint(stderr: str) -> str:
    """Return the line of ``stderr`` that says why a program failed: the first error, else the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line in lines:
        if re.search(r"\b(error|fatal|FATAL|ERROR|PANIC)\b", line):
            return line
    return lines[-1] if lines else "it said nothing"


def parse_program_version(text: str) -> int:
    """Return the version number that ``program --version`` printed, in the server's form (180003 for 18.3).

    Development versions count as ``.0``: ``pg_dump (PostgreSQL) 19beta1`` gives 190000.
    """
    match = re.search(r"\(PostgreSQL\)\s+(\d+)(?:\.(\d+))?", text)
    if not match:
        raise HoldfastError(
            code="program_failed",
            msg="Cannot read a version from %r." % text.strip(),
            hint="Set bin_dir to a directory with PostgreSQL's own client programs.",
        )
    return int(match.group(1)) * 10000 + int(match.group(2) or 0)


@dataclass(frozen=True)
class ClientPrograms:
    """One directory of client programs of one version."""

    bin_dir: str
    version: int

    @property
    def major(self) -> int:
        """The major version, such as 18."""
        return self.version // 10000

    def path(self, program: str) -> str:
        """Return the path of ``program``; raises `HoldfastError` when it is not there."""
        path = os.path.join(self.bin_dir, program)
        if not os.access(path, os.X_OK):
            raise HoldfastError(
                code="program_not_found",
                msg="%s is not in %s." % (program, self.bin_dir),
                hint="Install the PostgreSQL client programs of version %d, or set bin_dir." % self.major,
            )
        return path


def find_client_programs(
    *, server_version: int, bin_dir: str | None = None, environment: Mapping[str, str], program: str = "pg_dump"
) -> ClientPrograms:
    """Return client programs at least as new as the server, the nearest version first.

    An explicit ``bin_dir`` is the only candidate when given; else the directories of `VERSIONED_BIN_DIRS` and
    PATH are searched. A newer dump may not load into an older server, so the server's own major is preferred
    (https://www.postgresql.org/docs/current/app-pgdump.html, Notes).
    Raises `HoldfastError` with the code ``client_too_old`` or ``program_not_found``.
    """
    directories: list[str]
    if bin_dir:
        directories = [bin_dir]
    else:
        on_path = shutil.which(program, path=environment.get("PATH"))
        directories = [os.path.dirname(on_path)] if on_path else []
        for pattern in VERSIONED_BIN_DIRS:
            directories.extend(sorted(glob.glob(pattern)))
    found: list[ClientPrograms] = []
    for directory in directories:
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK):
            version = parse_program_version(run_program([path, "--version"], environment=environment).stdout)
            found.append(ClientPrograms(bin_dir=directory, version=version))
    wanted = server_version // 10000
    if not found:
        raise HoldfastError(
            code="program_not_found",
            msg="%s was not found in %s." % (program, ", ".join(directories) or "PATH or the usual directories"),
            hint="Install the PostgreSQL client programs of version %d, or set bin_dir." % wanted,
        )
    usable = [candidate for candidate in found if candidate.major >= wanted]
    if not usable:
        newest = max(found, key=lambda candidate: candidate.version)
        raise HoldfastError(
            code="client_too_old",
            msg="%s in %s is version %d, older than the server's %d." % (program, newest.bin_dir, newest.major, wanted),
            hint="Install the client programs of version %d or newer, or set bin_dir to them." % wanted,
            client_version=newest.version,
            server_version=server_version,
        )
    return min(usable, key=lambda candidate: candidate.major)
