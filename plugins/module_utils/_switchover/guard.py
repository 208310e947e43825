# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead-man switch on a pooler's own host: a transient unit of systemd that resumes what stays paused for too long.

Why it polls instead of being a timer: docs/decisions/0007-a-guard-that-looks.md.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import Completed, run_program
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover import guard_program
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import (
    CONSOLE_DATABASE,
    PoolerAddress,
    argument,
)

#: How long the unit may take to reach its console, and to end.
START_TIMEOUT_S = 15

#: systemd ends the unit this long after it should have ended by itself.
OVERTIME_S = 60

# Program and configuration are base64: systemd expands $ and % in arguments, and names may hold any character.
BOOTSTRAP = (
    "import base64, os, sys; scope = {'__name__': 'guard'}; exec(base64.b64decode(sys.argv[1]), scope);"
    " scope['main'](sys.argv[2], os.environ)"
)

Runner = Callable[[Sequence[str]], Completed]


@dataclass(frozen=True)
class Guard:
    """One pooler and one database, guarded."""

    address: PoolerAddress
    database: str
    max_pause_s: float
    lifetime_s: float
    system_user: str | None = None
    python: str = "/usr/bin/python3"

    def validate(self) -> None:
        """Raise `HoldfastError` for what cannot be guarded."""
        for name in self.address.databases or [self.database]:
            argument(name)
        if self.address.server.password is not None:
            raise HoldfastError(
                code="option_invalid",
                msg="Pooler %s is to be guarded by a unit of systemd, whose properties everybody on the host can read:"
                " it cannot be given a password." % self.address.name,
                hint="Let it connect by the Unix socket as the user that PgBouncer runs as (system_user), or name a"
                " passfile.",
            )
        if self.max_pause_s <= 0 or self.lifetime_s <= 0:
            raise HoldfastError(
                code="option_invalid",
                msg="max_pause (%g s) and lifetime (%g s) must be positive." % (self.max_pause_s, self.lifetime_s),
                hint="Correct the options; nothing was touched.",
            )

    @property
    def unit(self) -> str:
        """Return the unit's name, the same for every run that guards this database of this pooler."""
        server = self.address.server
        key = "\0".join((server.host or "", str(server.port or ""), self.database))
        return "holdfast-guard-%s.service" % hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def config(self, *, lifetime_s: float) -> dict[str, Any]:
        """Return what the program is told; without a lifetime it only looks whether it could."""
        conninfo = {"port": "6432", **self.address.server.parameters(CONSOLE_DATABASE)}
        conninfo.update(connect_timeout="5", application_name="holdfast guard", client_encoding="UTF8", options="")
        return {
            "conninfo": conninfo,
            "database": self.database,
            "names": list(self.address.databases),
            # It looks every quarter of a second, and everybody must go on within the time.
            "limit_s": max(self.max_pause_s - 2 * guard_program.INTERVAL_S, self.max_pause_s / 2),
            "lifetime_s": lifetime_s,
        }

    @property
    def digest(self) -> str:
        """Return what tells one configuration from another."""
        text = json.dumps([self.config(lifetime_s=self.lifetime_s), self.system_user, self.python], sort_keys=True)
        return hashlib.sha256((text + program()).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def program() -> str:
    """Return the source of the program, from wherever this module was loaded."""
    spec = importlib.util.find_spec(guard_program.__name__)
    source = spec.loader.get_source(guard_program.__name__) if spec and spec.loader else None  # type: ignore[attr-defined]
    if source is None:
        raise AssertionError("the source of guard_program is not there")
    return str(source)


def command(guard: Guard, *, lifetime_s: float) -> list[str]:
    """Return what the unit runs."""

    def encoded(text: str) -> str:
        return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode("ascii")

    return [guard.python, "-c", BOOTSTRAP, encoded(program()), encoded(json.dumps(guard.config(lifetime_s=lifetime_s)))]


def trial_argv(guard: Guard) -> list[str]:
    """Return the command line that tries whether the unit will reach the console, and leaves nothing."""
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe"),
        *(["--uid=%s" % guard.system_user] if guard.system_user else []),
        "--property=RuntimeMaxSec=%d" % START_TIMEOUT_S,
        "--",
        *command(guard, lifetime_s=0),
    ]


def start_argv(guard: Guard) -> list[str]:
    """Return the command line that starts the unit and ends when it is on guard."""
    return [
        *("systemd-run", "--quiet", "--collect", "--unit=" + guard.unit),
        "--description=holdfast guard " + guard.digest,
        *(["--uid=%s" % guard.system_user] if guard.system_user else []),
        "--property=Type=notify",
        "--property=TimeoutStartSec=%d" % START_TIMEOUT_S,
        "--property=TimeoutStopSec=5",
        "--property=Restart=on-failure",
        "--property=RestartSec=200ms",
        "--property=RuntimeMaxSec=%d" % (guard.lifetime_s + guard.max_pause_s + OVERTIME_S),
        "--",
        *command(guard, lifetime_s=guard.lifetime_s),
    ]


def program_runner(environment: Mapping[str, str]) -> Runner:
    """Return what runs a program of systemd and returns whatever it said."""
    return lambda argv: run_program(
        argv, environment=environment, allowed_exit_codes=tuple(range(256)), timeout_s=3 * START_TIMEOUT_S
    )


def left_s(guard: Guard, *, run: Runner, clock: Callable[[], float] = time.monotonic) -> float | None:
    """Return for how long the unit will go on guarding as asked; None when it does not run, or otherwise."""
    shown = run(["systemctl", "show", "--property=ActiveState,Description,ActiveEnterTimestampMonotonic", guard.unit])
    values = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    if values.get("ActiveState") != "active" or not values.get("Description", "").endswith(guard.digest):
        return None
    return int(values["ActiveEnterTimestampMonotonic"]) / 1e6 + guard.lifetime_s - clock()


def set_guard(guard: Guard, *, run: Runner, check_mode: bool) -> dict[str, Any]:
    """Have the unit on guard for at least half of its lifetime, and return the entry of ``poolers[]``.

    Raises `HoldfastError` with the codes ``option_invalid``, ``unsupported`` or ``program_failed``.
    """
    guard.validate()
    _require_systemd(run)
    remaining_s = left_s(guard, run=run)
    changed = remaining_s is None or remaining_s < guard.lifetime_s / 2
    if changed:
        _succeeded(run(trial_argv(guard)), "reach the console of pooler %s at %s as %s" % _who(guard))
        if not check_mode:
            _stop(guard, run)
            _succeeded(run(start_argv(guard)), "start the unit %s" % guard.unit)
    return _entry(guard, changed=changed, guarded=True)


def remove_guard(guard: Guard, *, run: Runner, check_mode: bool) -> dict[str, Any]:
    """Have no unit on guard, and return the entry of ``poolers[]``."""
    _require_systemd(run)
    shown = run(["systemctl", "show", "--property=ActiveState", guard.unit])
    changed = shown.stdout.strip() not in ("ActiveState=inactive", "ActiveState=")
    if changed and not check_mode:
        _stop(guard, run)
    return _entry(guard, changed=changed, guarded=False)


def _who(guard: Guard) -> tuple[str, str, str]:
    return guard.address.name, guard.address.where, guard.system_user or "the user of this task"


def _entry(guard: Guard, *, changed: bool, guarded: bool) -> dict[str, Any]:
    return {
        "name": guard.address.name,
        "console": guard.address.where,
        "changed": changed,
        "guarded": guarded,
        "unit": guard.unit,
    }


def _stop(guard: Guard, run: Runner) -> None:
    run(["systemctl", "stop", guard.unit])
    run(["systemctl", "reset-failed", guard.unit])


def _require_systemd(run: Runner) -> None:
    try:
        state = run(["systemctl", "is-system-running"]).stdout.strip()
    except HoldfastError as exc:
        state = exc.code
    if state not in ("running", "degraded", "starting", "initializing", "maintenance"):
        raise HoldfastError(
            code="unsupported",
            msg="This host is not managed by systemd (%s), so no unit can guard the pooler." % (state or "no answer"),
            hint="Leave the guard out: a swap is guarded by a process on its own host, too.",
        )


def _succeeded(completed: Completed, what: str) -> None:
    if completed.exit_code != 0:
        said = " ".join(completed.stderr.split()[-60:])
        raise HoldfastError(
            code="program_failed",
            msg="The guard could not %s: %s" % (what, said or "exit code %d" % completed.exit_code),
            hint="It needs python3 with psycopg2, the right to use systemd-run (root), and a console that lets in"
            " system_user or the passfile's user.",
            exit_code=completed.exit_code,
        )
