# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit that guards a pooler: its command lines, when it is renewed, and when its program resumes."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import Completed
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import PoolerAddress
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.guard import (
    Guard,
    left_s,
    remove_guard,
    set_guard,
    start_argv,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.guard_program import names_of, overdue

NASTY = 'it\'s $HOME \\ %n "x"\n数据'
ADDRESS = PoolerAddress("main", Server(host="/run/pgbouncer/main", port=6432, user="pgbouncer"))
GUARD = Guard(address=ADDRESS, database=NASTY, max_pause_s=15, lifetime_s=900, system_user="postgres")


class Host:
    """systemd, as far as command lines see it."""

    def __init__(self, *, entered: float | None = None, guard: Guard = GUARD, state: str = "running") -> None:
        self.entered, self.guard, self.state = entered, guard, state
        self.calls: list[list[str]] = []
        self.fails: str | None = None

    def __call__(self, argv: Sequence[str]) -> Completed:
        self.calls.append(list(argv))
        output, code = "", 0
        if argv[1] == "is-system-running":
            output = self.state
        elif argv[1] == "show":
            active = "inactive" if self.entered is None else "active"
            output = "ActiveState=%s" % active
            if any("Description" in word for word in argv):
                output += "\nDescription=holdfast guard %s\nActiveEnterTimestampMonotonic=%d" % (
                    self.guard.digest,
                    (self.entered or 0) * 1e6,
                )
        elif self.fails and argv[0] == "systemd-run":
            code = 1
        return Completed(argv, code, output, self.fails or "", 0.0)

    def started(self) -> list[list[str]]:
        return [argv for argv in self.calls if any(word.startswith("--unit=") for word in argv)]


def test_names_and_program_are_in_the_command_line_in_no_form_that_systemd_expands() -> None:
    argv = start_argv(GUARD)
    assert all(set(word).isdisjoint("$%\n") for word in argv)
    config = json.loads(base64.b64decode(argv[-1]))
    assert config["database"] == NASTY and config["conninfo"]["host"] == "/run/pgbouncer/main"
    assert 14 < config["limit_s"] < 15 and config["lifetime_s"] == 900
    assert "--uid=postgres" in argv and "--property=Type=notify" in argv


def test_unit_is_the_pooler_s_and_the_database_s() -> None:
    other = dataclasses.replace(GUARD, database="app")
    assert GUARD.unit == dataclasses.replace(GUARD, max_pause_s=3).unit != other.unit
    assert GUARD.digest != dataclasses.replace(GUARD, max_pause_s=3).digest


def test_guard_is_started_once_and_renewed_after_half_of_its_life() -> None:
    host = Host()
    assert set_guard(GUARD, run=host, check_mode=True)["changed"] and host.started() == []
    assert set_guard(GUARD, run=host, check_mode=False)["changed"] and len(host.started()) == 1
    assert left_s(GUARD, run=Host(entered=1000), clock=lambda: 1100.0) == pytest.approx(800)
    other = dataclasses.replace(GUARD, max_pause_s=3)
    assert left_s(GUARD, run=Host(entered=1000, guard=other), clock=lambda: 1100.0) is None


def test_guard_is_removed_when_there_is_one() -> None:
    assert not remove_guard(GUARD, run=Host(), check_mode=False)["changed"]
    host = Host(entered=1)
    assert remove_guard(GUARD, run=host, check_mode=True)["changed"]
    assert not any("stop" in argv for argv in host.calls)
    assert remove_guard(GUARD, run=host, check_mode=False)["changed"]
    assert ["systemctl", "stop", GUARD.unit] in host.calls


def test_what_cannot_be_guarded_is_refused() -> None:
    password = PoolerAddress("main", Server(host="p", user="u", password="s3cret"))
    for guard, host, code in (
        (dataclasses.replace(GUARD, address=password), Host(), "option_invalid"),
        (dataclasses.replace(GUARD, max_pause_s=0), Host(), "option_invalid"),
        (dataclasses.replace(GUARD, database="-" * 63), Host(), "unsupported"),
        (GUARD, Host(state="offline"), "unsupported"),
    ):
        with pytest.raises(HoldfastError) as refusal:
            set_guard(guard, run=host, check_mode=False)
        assert refusal.value.code == code and "s3cret" not in refusal.value.msg
        assert not host.started()


def test_console_that_does_not_let_the_unit_in_is_told_before_it_is_started() -> None:
    host = Host()
    host.fails = "psycopg2.OperationalError: no such user"
    with pytest.raises(HoldfastError) as refusal:
        set_guard(GUARD, run=host, check_mode=True)
    assert refusal.value.code == "program_failed" and "no such user" in refusal.value.msg
    assert not host.started()


def test_program_counts_from_the_moment_that_it_sees_a_pause() -> None:
    since: dict[str, float] = {}
    assert overdue({"a": False, "b": True}, since, now=10, limit_s=5) == []
    assert overdue({"a": True, "b": True}, since, now=14, limit_s=5) == []
    assert overdue({"a": True, "b": True}, since, now=15, limit_s=5) == ["b"]
    assert overdue({"a": True, "b": False}, since, now=16, limit_s=5) == []
    assert overdue({"a": True, "b": True}, since, now=19, limit_s=5) == ["a"]
    assert overdue({}, since, now=30, limit_s=5) == [] and since == {}


def test_program_minds_every_name_that_leads_to_the_database_or_those_it_is_told() -> None:
    rows = [
        {"name": "app", "database": "app", "paused": "1"},
        {"name": "ro", "database": "app", "paused": 0},
        {"name": "x", "database": "y", "paused": 1},
    ]
    assert names_of(rows, database="app", names=[]) == {"app": True, "ro": False}
    assert names_of(rows, database="app", names=["x"]) == {"x": True}
