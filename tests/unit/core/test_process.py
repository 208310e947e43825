# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs: found by version, drained while they run, ended with the call, judged by what they say."""

from __future__ import annotations

import os
import pathlib
import time

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core import process
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import CODES, HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until

ENVIRONMENT = dict(os.environ)


def run(*argv: str, **options: object) -> process.Completed:
    return process.run_program(argv, environment=ENVIRONMENT, **options)  # type: ignore[arg-type]


def program(directory: pathlib.Path, version: str) -> str:
    directory.mkdir(parents=True)
    path = directory / "pg_dump"
    path.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) %s'\n" % version, encoding="utf-8")
    path.chmod(0o755)
    return str(directory)


def test_both_pipes_are_drained_however_much_comes() -> None:
    completed = run("sh", "-c", "for i in $(seq 20000); do echo out$i; echo err$i >&2; done", max_lines=10)
    assert completed.stdout.splitlines()[-1] == "out20000"
    assert completed.stderr.splitlines()[0] == "err19991"


def test_lines_are_told_while_the_program_runs() -> None:
    lines: list[str] = []
    run("sh", "-c", "echo one >&2; printf '\\377two' >&2", on_stderr_line=lines.append)
    assert lines == ["one", "\ufffdtwo"]


def test_exit_codes_that_are_not_allowed_fail_with_the_programs_own_words() -> None:
    with pytest.raises(HoldfastError) as caught:
        run("sh", "-c", "echo 'x: error: it broke' >&2; echo later >&2; exit 3")
    assert caught.value.code == "program_failed"
    assert "x: error: it broke" in caught.value.msg
    assert run("sh", "-c", "exit 3", allowed_exit_codes=(0, 3)).exit_code == 3


def test_program_that_is_not_there_is_named() -> None:
    with pytest.raises(HoldfastError) as caught:
        run("/nowhere/pg_dump")
    assert caught.value.code == "program_not_found" and "/nowhere/pg_dump" in caught.value.msg


def test_timeout_ends_the_program_and_its_children(tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "mark"
    started = time.monotonic()
    with pytest.raises(HoldfastError) as caught:
        run("sh", "-c", "(sleep 2; touch %s) & sleep 30" % mark, timeout_s=0.2)
    assert caught.value.code == "timeout"
    assert time.monotonic() - started < 10
    time.sleep(2.2)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("pg_dump (PostgreSQL) 18.3", 180003),
        ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 150018),
        ("pg_dump (PostgreSQL) 19beta1", 190000),
        ("psql (PostgreSQL) 13.23 (Ubuntu 13.23-1.pgdg22.04+1)", 130023),
    ],
)
def test_versions_are_read_from_what_programs_print(text: str, version: int) -> None:
    assert process.parse_program_version(text) == version


def test_nearest_version_that_is_not_older_is_found(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("13.1", "16.2", "18.0"):
        program(tmp_path / version.split(".")[0] / "bin", version)
    monkeypatch.setattr(process, "VERSIONED_BIN_DIRS", (str(tmp_path / "*" / "bin"),))
    environment = {"PATH": "/nowhere"}
    for server, major in ((150000, 16), (160009, 16), (180000, 18), (120000, 13)):
        assert process.find_client_programs(server_version=server, environment=environment).major == major
    with pytest.raises(HoldfastError) as caught:
        process.find_client_programs(server_version=190001, environment=environment)
    assert caught.value.code == "client_too_old" and "18" in caught.value.msg and "19" in caught.value.msg


def test_explicit_directory_is_the_only_candidate(tmp_path: pathlib.Path) -> None:
    old = program(tmp_path / "bin", "12.0")
    with pytest.raises(HoldfastError) as caught:
        process.find_client_programs(server_version=150000, bin_dir=old, environment=ENVIRONMENT)
    assert caught.value.code == "client_too_old"
    with pytest.raises(HoldfastError) as caught:
        process.find_client_programs(server_version=150000, bin_dir=str(tmp_path), environment=ENVIRONMENT)
    assert caught.value.code == "program_not_found"


def test_codes_are_an_interface() -> None:
    with pytest.raises(ValueError, match="no_such_code"):
        HoldfastError(code="no_such_code", msg="m", hint="h")
    assert list(CODES) == sorted(CODES)
    assert HoldfastError(code="timeout", msg="m", hint="h", pid=1).as_result() == {
        "code": "timeout",
        "msg": "m",
        "hint": "h",
        "pid": 1,
    }


def test_waiting_asks_at_least_once_and_once_more_at_the_end() -> None:
    answers = iter([0, 0, 0, 7])
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert wait_until(lambda: next(answers), timeout_s=1, interval_s=0.5, clock=lambda: now[0], sleep=sleep) == 0
    assert wait_until(lambda: next(answers), timeout_s=0, clock=lambda: now[0], sleep=sleep) == 7
