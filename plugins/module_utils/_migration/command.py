# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that migrate by themselves, such as Alembic, Rails or Django: run, compared before and after, recorded."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, refuse_standby
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.masking import mask_secrets
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import (
    Completed,
    last_complaint,
    run_program,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.failure import clean
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.history import (
    APPLIED,
    PARTIAL,
    Entry,
    History,
    current_version,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import COMMAND
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.locks import (
    APPLICATION_NAME,
    RunnerLock,
    refuse_backup,
    runner_lock,
    set_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection

    from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings

#: The version of the row that says that a program was begun and nobody has recorded how it ended.
BEGUN = "(command)"
#: What stands for the version of a program that names none.
NO_VERSION = "(none)"
TARGET = "{target_version}"
PROGRAM_APPLICATION_NAME = APPLICATION_NAME + " command"
MAX_VERSION_CHARACTERS = 200
SHOWN_LINES = 100
SHOWN_CHARACTERS = 8000
#: Every exit code, and every signal.
ANY_EXIT_CODE = range(-64, 256)

#: Parameters of libpq and the variables of the environment that stand for them; the others have none
#: (https://www.postgresql.org/docs/current/libpq-envars.html).
VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "service": "PGSERVICE",
    "passfile": "PGPASSFILE",
    "require_auth": "PGREQUIREAUTH",
    "channel_binding": "PGCHANNELBINDING",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslcompression": "PGSSLCOMPRESSION",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcertmode": "PGSSLCERTMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslsni": "PGSSLSNI",
    "requirepeer": "PGREQUIREPEER",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
    "gsslib": "PGGSSLIB",
    "gssdelegation": "PGGSSDELEGATION",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}


@dataclass(frozen=True)
class Commands:
    """The programs and their arguments; names and defaults are those of the module's option ``commands``."""

    up: Sequence[str] = ()
    down: Sequence[str] = ()
    status: Sequence[str] = ()
    #: Exits with 0 when nothing is pending; Alembic exits with 255 when something is, others with 1.
    pending: Sequence[str] = ()
    chdir: str | None = None
    timeout_s: int | None = None


@dataclass(frozen=True)
class Status:
    """What the program says about the database."""

    text: str

    @property
    def version(self) -> str:
        """The last line."""
        return self.lines[-1].strip()[:MAX_VERSION_CHARACTERS] if self.lines else NO_VERSION

    @property
    def lines(self) -> list[str]:
        """The last lines, fit for messages."""
        return [clean(line) for line in self.text.splitlines() if line.strip()][-SHOWN_LINES:]


def migrate_by_command(
    *,
    server: Server,
    database: str,
    commands: Commands,
    state: str,
    settings: Settings,
    check: bool,
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Bring ``database`` to ``state`` by the program's own means and return the module's result.

    Raises `HoldfastError`: ``option_invalid``, ``program_not_found``, ``program_failed`` when the status cannot be
    told, ``migration_failed`` when the program fails, and what the lock of the runner raises.
    """
    argv = _argv(commands, state, settings)
    history = History(settings.history_table, key=lambda _version: None)
    with _tool(server, database, commands, settings, environ) as tool:
        if state == "status":
            with server.session(database, application_name=APPLICATION_NAME) as connection:
                entries = _read(connection, history)
            run = _Run(history, entries, argv, tool.status())
            return {**run.result(run.before, settings), "pending": run.pending(tool)}
        with runner_lock(server=server, database=database) as lock:
            refuse_standby(lock.connection)
            entries = _read(lock.connection, history)
            if any(entry.state == PARTIAL for entry in entries):
                _refuse_running(lock.connection, database)
            run = _Run(history, entries, argv, tool.status())
            if state == "applied":
                wanted = run.pending(tool)
            else:
                wanted = [] if settings.target_version in run.before.version.split() else [run.listed(tool)]
            if wanted and not settings.allow_during_backup:
                with lock.connection.cursor() as cursor:
                    refuse_backup(cursor, database=database)
            if not check and wanted:
                return run.execute(lock, tool, state=state, settings=settings)
            key = "pending" if state == "applied" else "reverted"
            return {**run.result(run.before, settings), key: wanted, "changed": bool(wanted)}


def _read(connection: Connection, history: History) -> list[Entry]:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN READ ONLY")
        set_parameters(cursor, {"timezone": "UTC", "datestyle": "ISO"}, local=True)
        entries = history.read(cursor)
        cursor.execute("COMMIT")
    return entries


def _argv(commands: Commands, state: str, settings: Settings) -> list[str]:
    names = {"status": "up", "applied": "up", "reverted": "down"}
    if state not in names:
        _invalid("state=%s is not for the layout command." % state, "Let the program itself record what is there.")
    if not commands.status:
        _invalid("The layout command needs commands.status.", "Name a command that prints what the database has.")
    argv = list(getattr(commands, names[state]))
    if not argv:
        _invalid("The layout command needs commands.%s." % names[state], "Give it as a list of program and arguments.")
    uses = any(TARGET in argument for argument in argv)
    if uses and not settings.target_version:
        _invalid("commands.%s has %s, but target_version is not set." % (names[state], TARGET), "Set target_version.")
    if settings.target_version and not uses:
        _invalid(
            "target_version is set, but no argument of commands.%s has %s." % (names[state], TARGET),
            "Write %s where the program expects its version, or leave target_version out." % TARGET,
        )
    return [argument.replace(TARGET, settings.target_version or "") for argument in argv]


def _invalid(msg: str, hint: str) -> NoReturn:
    raise HoldfastError(code="option_invalid", msg=msg, hint=hint)


@contextmanager
def _tool(
    server: Server, database: str, commands: Commands, settings: Settings, environ: Mapping[str, str] | None
) -> Iterator[_Tool]:
    with server.client_environment(environ) as environment:
        environment.update(libpq_environment(server, database, settings))
        yield _Tool(commands=commands, environment=environment)


def libpq_environment(server: Server, database: str, settings: Settings) -> dict[str, str]:
    """Return the variables by which libpq and the drivers that follow it find the database, without the password.

    The time-outs, and the role if there is one, are those of every session that the program opens.
    """
    parameters = server.parameters(database)
    variables = {VARIABLES[name]: value for name, value in parameters.items() if name in VARIABLES}
    role = {"role": settings.role} if settings.role else {}
    variables["PGOPTIONS"] = session_options(server, database, {**time_outs(settings), **role})
    variables["PGAPPNAME"] = PROGRAM_APPLICATION_NAME
    return variables


def time_outs(settings: Settings) -> dict[str, str]:
    """Return the time-outs of a session as run-time parameters."""
    return {
        "lock_timeout": str(settings.lock_timeout_ms),
        "statement_timeout": str(settings.statement_timeout_ms),
        "idle_in_transaction_session_timeout": str(settings.idle_in_transaction_session_timeout_ms),
    }


def session_options(server: Server, database: str, parameters: Mapping[str, str]) -> str:
    """Return libpq's parameter ``options`` for sessions with these run-time parameters, beside those of the server."""
    words = ["-c %s=%s" % (name, re.sub(r"([\s\\])", r"\\\1", value)) for name, value in parameters.items()]
    own = server.parameters(database).get("options")
    return " ".join([*([own] if own else []), *words])


@dataclass(frozen=True)
class _Tool:
    """The program and the environment in which it finds the database."""

    commands: Commands
    environment: Mapping[str, str]

    def run(self, argv: Sequence[str], *, allowed_exit_codes: Sequence[int] = (0,)) -> Completed:
        """Run one command to its end."""
        directory = self.commands.chdir
        if directory and not os.path.isdir(directory):
            _invalid("commands.chdir %s is not a directory." % directory, "It is a directory of the managed host.")
        try:
            completed = run_program(
                argv,
                environment=self.environment,
                allowed_exit_codes=ANY_EXIT_CODE,
                timeout_s=self.commands.timeout_s,
                directory=directory,
            )
        except HoldfastError as exc:
            if exc.code == "program_not_found":
                exc.hint = "Install it on the managed host, or name it with its whole path in commands."
            raise
        if completed.exit_code in allowed_exit_codes:
            return completed
        # Some programs complain on the one stream, some on the other.
        raise HoldfastError(
            code="program_failed",
            msg="%s ended with exit code %d: %s"
            % (clean(" ".join(argv)), completed.exit_code, clean(last_complaint(completed.stderr or completed.stdout))),
            hint="Its own messages are in stdout and stderr; run it by hand in the same directory.",
            exit_code=completed.exit_code,
            stdout=mask_secrets(completed.stdout)[-SHOWN_CHARACTERS:],
            stderr=mask_secrets(completed.stderr)[-SHOWN_CHARACTERS:],
        )

    def status(self) -> Status:
        """Return what the program says about the database."""
        return Status(self.run(self.commands.status).stdout.strip())

    def anything_pending(self) -> bool:
        """Whether the program has something to apply; without a command that tells, it may have."""
        if not self.commands.pending:
            return True
        return self.run(self.commands.pending, allowed_exit_codes=range(256)).exit_code != 0


class _Run:
    """One call: the history as it was, the command, and what the program said before."""

    def __init__(self, history: History, entries: Sequence[Entry], argv: Sequence[str], before: Status) -> None:
        self.history = history
        self.entries = list(entries)
        self.argv = list(argv)
        self.before = before
        self.shown = clean(" ".join(argv))

    def listed(self, tool: _Tool) -> dict[str, Any]:
        """Return the command as a migration that is still to be run."""
        return {
            "version": BEGUN,
            "description": self.shown,
            "path": "",
            "has_down": bool(tool.commands.down),
            "has_verify": False,
            "transactional": False,
            "statements": 1,
            "statements_done": 0,
        }

    def pending(self, tool: _Tool) -> list[dict[str, Any]]:
        """Return the command if it has something to do, or was begun and never ended."""
        begun = any(entry.state == PARTIAL for entry in self.entries)
        return [self.listed(tool)] if begun or tool.anything_pending() else []

    def result(self, status: Status, settings: Settings) -> dict[str, Any]:
        """Return the result of the module without anything done."""
        versions = [entry.version for entry in self.entries if entry.state == APPLIED]
        return {
            "changed": False,
            "layout": COMMAND,
            "applied": [],
            "reverted": [],
            "recorded": [],
            "pending": [],
            "history": [entry.as_row() for entry in self.entries],
            # What the history says, which is what an undo compares; the program may have been run by hand since.
            "current_version": current_version(self.entries),
            "target": settings.target_version,
            "partial": any(entry.state != APPLIED for entry in self.entries),
            "program_status": status.lines,
            "versions": {"before": versions, "after": versions},
        }

    def execute(self, lock: RunnerLock, tool: _Tool, *, state: str, settings: Settings) -> dict[str, Any]:
        """Run the command between two records, and tell by its status what it changed."""
        started = time.monotonic()
        resumed = any(entry.state == PARTIAL for entry in self.entries)
        row = Entry(version=BEGUN, description=self.shown, deployment_id=settings.deployment_id, state=PARTIAL)
        self._write(lock, [row])
        try:
            completed = tool.run(self.argv)
        except HoldfastError as exc:
            self._explain(lock, exc, resumed=resumed, settings=settings)
        after = tool.status()
        lock.check()
        changed = after != self.before
        duration_ms = round((time.monotonic() - started) * 1000)
        done = replace(row, version=after.version, state=APPLIED, duration_ms=duration_ms)
        before = [entry.version for entry in self.entries if entry.state == APPLIED]
        if changed or resumed:
            self._write(lock, self._rows_after(done, state), gone=[BEGUN, *self._gone(done, state)])
        else:
            self._write(lock, [], gone=[BEGUN])
        with lock.connection.cursor() as cursor:
            self.entries = self.history.read(cursor)
        listed = {
            "version": after.version,
            "description": self.shown,
            "path": "",
            "duration_ms": duration_ms,
            "statements": 1,
            "transactional": False,
            "notices": [clean(line) for line in completed.stderr.splitlines()[-SHOWN_LINES:]],
            "lock_waits": [],
            "records": [_record(self.shown, duration_ms)],
        }
        result = self.result(after, settings)
        result["changed"] = changed or resumed
        result["versions"]["before"] = before
        result["applied" if state == "applied" else "reverted"] = [listed] if result["changed"] else []
        return result

    def _gone(self, done: Entry, state: str) -> list[str]:
        """Return the versions that a way back has undone: those after the one that is current now, or the newest."""
        versions = [entry.version for entry in self.entries if entry.state == APPLIED]
        if state == "applied":
            return []
        if done.version in versions:
            return versions[versions.index(done.version) + 1 :]
        return versions if done.version == NO_VERSION else versions[-1:]

    def _rows_after(self, done: Entry, state: str) -> list[Entry]:
        if state == "applied":
            return [done]
        known = done.version == NO_VERSION or any(entry.version == done.version for entry in self.entries)
        return [] if known else [done]

    def _write(self, lock: RunnerLock, rows: Sequence[Entry], *, gone: Sequence[str] = ()) -> None:
        with lock.connection.cursor() as cursor:
            self.history.record(cursor, rows, gone=gone)

    def _explain(self, lock: RunnerLock, error: HoldfastError, *, resumed: bool, settings: Settings) -> NoReturn:
        result = self.result(self.before, settings)
        for key in ("history", "versions"):
            del result[key]
        if error.code in ("program_not_found", "option_invalid"):  # nothing has run
            if not resumed:
                self._write(lock, [], gone=[BEGUN])
            error.details = {**result, **error.details}
            raise error
        raise HoldfastError(
            code="migration_failed",
            msg="%s. Whether it has changed something is unknown, and its row in %s says so."
            % (error.msg.rstrip("."), self.history),
            hint="See stdout and stderr, mend it, and run the task again, which runs the command again; or go back with"
            " rollback.yml.",
            **{
                **result,
                "changed": True,
                "partial": True,
                "version": BEGUN,
                "description": self.shown,
                **error.details,
            },
        ) from error


def _record(shown: str, duration_ms: int) -> dict[str, Any]:
    return {
        "number": 1,
        "line": 1,
        "statement": shown,
        "duration_ms": duration_ms,
        "rows": None,
        "lock_wait_ms": 0,
        "attempts": 1,
        "locks": {},
        "strongest_lock": None,
        "blocked_sessions": 0,
        "blocked_ms": 0,
        "progress": None,
    }


RUNNING = """
SELECT a.pid, a.state
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.datname = pg_catalog.current_database() AND a.application_name = %s
 ORDER BY a.backend_start
 LIMIT 1
"""


def _refuse_running(connection: Connection, database: str) -> None:
    """Raise `HoldfastError` when the program of a run that was killed is still connected."""
    with connection.cursor() as cursor:
        cursor.execute(RUNNING, (PROGRAM_APPLICATION_NAME,))
        row = cursor.fetchone()
    if row is not None:
        raise HoldfastError(
            code="migration_locked",
            msg="The program of an earlier run still works on database %r: pid %s of the server, %s."
            % (database, row[0], row[1]),
            hint="Wait for it to end, or end it; then run the task again.",
            holder={"pid": row[0], "state": row[1]},
        )
