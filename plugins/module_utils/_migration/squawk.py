# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running squawk, the linter of statements, and reading what it prints (https://squawkhq.com/docs/cli)."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import last_complaint, run_program

#: As many files as one command line names.
FILES_PER_RUN = 500
#: The end of the output is not to be cut off: it is one line, or few.
MAX_LINES = 10_000_000
TIMEOUT_S = 300
LEVELS = {"error": "error", "warning": "warning", "info": "info"}
SYNTAX_ERROR = "syntax-error"


@dataclass(frozen=True)
class Input:
    """A file for squawk: its text, and whether the runner wraps it in a transaction."""

    text: str
    in_transaction: bool


@dataclass(frozen=True)
class Complaint:
    """One finding of squawk in the file ``index``; line from 1, column from 1 in bytes as squawk counts."""

    index: int
    rule: str
    level: str
    line: int
    column: int
    message: str
    advice: str


def find_squawk(path: str | None, *, environment: Mapping[str, str]) -> str:
    """Return the program's path: as given, beside this Python, or on PATH. Raises `HoldfastError`."""
    candidates = [path] if path else [os.path.join(sysconfig.get_path("scripts"), "squawk"), "squawk"]
    for candidate in candidates:
        found = shutil.which(candidate, path=environment.get("PATH"))
        if found:
            return found
    raise HoldfastError(
        code="program_not_found",
        msg="squawk, which lints migrations, was not found%s."
        % (": %s is no program" % path if path else " beside %s or on PATH" % sys.executable),
        hint="Install it where the playbook runs: pip install squawk-cli. Without it, squawk=off (in the role,"
        " migrate_lint_squawk: off) leaves the rules about the live catalog.",
    )


def command(*, program: str, files: Sequence[str], config: str, pg_version: str, in_transaction: bool) -> list[str]:
    """Return the command line for ``files``.

    ``config`` is an empty file, so that no .squawk.toml of a working directory has a say. Rules are chosen from what
    squawk prints, since it refuses to run with the name of a rule that it does not know.
    """
    argv = [program, "--config", config, "--reporter", "json"]
    if pg_version:
        argv += ["--pg-version", pg_version]
    if in_transaction:
        argv.append("--assume-in-transaction")
    return [*argv, *files]


def version_argument(server_version: int) -> str:
    """Return the server's version as squawk takes it: 18.3 for 180003."""
    return "%d.%d" % divmod(server_version, 10000)


def parse(output: str, *, files: Sequence[str]) -> tuple[list[Complaint], list[str]]:
    """Return what squawk says of ``files``, and what of its output is not understood.

    This is the output of squawk 2, whose lines and columns count from 0. Raises ValueError for what is no list in JSON.
    """
    items = json.loads(output)
    if not isinstance(items, list):
        raise ValueError("a list was expected, not %s" % type(items).__name__)
    complaints, strange = [], []
    indexes = {path: index for index, path in enumerate(files)}
    for item in items:
        try:
            complaints.append(_complaint(item, indexes))
        except (KeyError, TypeError, ValueError) as exc:
            strange.append(
                "squawk printed a finding that cannot be read (%s): %s"
                % (exc, json.dumps(item, ensure_ascii=True)[:300])
            )
            continue
        if str(item["level"]).lower() not in LEVELS:
            strange.append("squawk printed the unknown level %r, taken for a warning" % (item["level"],))
    return complaints, strange


def _complaint(item: Mapping[str, Any], indexes: Mapping[str, int]) -> Complaint:
    return Complaint(
        index=indexes[item["file"]],
        rule=str(item["rule_name"]),
        level=LEVELS.get(str(item["level"]).lower(), "warning"),
        line=int(item["line"]) + 1,
        column=int(item["column"]) + 1,
        message=" ".join(str(item["message"]).split()),
        advice=" ".join(str(item.get("help") or "").split()),
    )


def complaints(
    inputs: Sequence[Input], *, program: str, pg_version: str, environment: Mapping[str, str]
) -> tuple[list[Complaint], list[str]]:
    """Return what squawk says of ``inputs``, and warnings about its output. Raises `HoldfastError`."""
    found: list[Complaint] = []
    strange: list[str] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-lint-") as directory:
        config = os.path.join(directory, "squawk.toml")
        _write(config, "")
        for in_transaction in (True, False):
            indexes = [index for index, given in enumerate(inputs) if given.in_transaction is in_transaction]
            for begin in range(0, len(indexes), FILES_PER_RUN):
                chosen = indexes[begin : begin + FILES_PER_RUN]
                # Names of our own: squawk takes a name for a pattern.
                files = [os.path.join(directory, "%d.sql" % index) for index in chosen]
                for index, path in zip(chosen, files):
                    _write(path, inputs[index].text)
                argv = command(
                    program=program, files=files, config=config, pg_version=pg_version, in_transaction=in_transaction
                )
                more, odd = _run(argv, files=files, environment=environment)
                found += [_at(complaint, chosen[complaint.index]) for complaint in more]
                strange += odd
    return found, list(dict.fromkeys(strange))


def _at(complaint: Complaint, index: int) -> Complaint:
    return Complaint(**{**complaint.__dict__, "index": index})


def _run(
    argv: Sequence[str], *, files: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[Complaint], list[str]]:
    # Its exit code is 1 for findings and for errors of its own alike; what it prints tells them apart.
    completed = run_program(
        argv, environment=environment, allowed_exit_codes=(0, 1), timeout_s=TIMEOUT_S, max_lines=MAX_LINES
    )
    try:
        return parse(completed.stdout, files=files)
    except ValueError as exc:
        raise HoldfastError(
            code="program_failed",
            msg="squawk ended with exit code %d and without findings: %s"
            % (completed.exit_code, last_complaint(completed.stderr) if completed.stderr else exc),
            hint="Try it by hand: %s" % " ".join([*argv[: -len(files)], "FILE"]),
            stderr=completed.stderr[-2000:],
        ) from exc


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
