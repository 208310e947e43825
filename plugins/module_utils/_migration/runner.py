# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running migrations up and down, so that each is whole, or not there, or the history says where it stopped."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    only_row,
    refuse_standby,
    require_driver,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import adoption, psql_run
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import statements as scanner
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.beyond import found_beyond
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.command import (
    Commands,
    migrate_by_command,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.failure import StatementFailed, clean
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.guard import RowGuard
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.history import (
    APPLIED,
    PARTIAL,
    REVERTING,
    Entry,
    History,
    current_version,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    COMMAND,
    Found,
    Migration,
    Options,
    Script,
    SourceFile,
    find,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.locks import (
    APPLICATION_NAME,
    LOCK_CLASS,
    WORKER_LOCK,
    RunnerLock,
    await_worker,
    lock_worker,
    refuse_backup,
    refuse_pooler,
    runner_lock,
    set_parameters,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.plan import (
    BEGIN,
    Group,
    Prepared,
    Step,
    plan_down,
    plan_up,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.psql_run import Part, Psql
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import Statement
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.watch import Effects, Watch

try:
    import psycopg2
    from psycopg2 import errorcodes, sql
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS
except ImportError:  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor
else:
    Connection = Any
    Cursor = Any

COMMITTING = "at the end of the transaction"
MAX_NOTICES = 100
MAX_PARAMETER = 2**31 - 1
BACKOFF_FIRST_S = 0.5
BACKOFF_LIMIT_S = 30.0
RANDOM = random.SystemRandom()

# The login role writes the history, whatever role the file has switched to; the end of the transaction undoes it.
AS_LOGIN_ROLE = "SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE NONE"


@dataclass(frozen=True)
class Settings:
    """How to run; names and defaults are those of the module's options."""

    history_table: str = "public.schema_version"
    target_version: str | None = None
    deployment_id: str | None = None
    lock_timeout_ms: int = 2000
    lock_retries: int = 5
    statement_timeout_ms: int = 0
    idle_in_transaction_session_timeout_ms: int = 0
    allow_out_of_order: bool = False
    allow_missing: bool = False
    role: str | None = None
    adopt: str | None = None
    bin_dir: str | None = None
    allow_during_backup: bool = False
    max_blocking_s: float = 0
    row_versions: Mapping[str, str] | None = None


def migrate(
    *,
    server: Server,
    database: str,
    files: Sequence[SourceFile],
    state: str,
    settings: Settings,
    options: Options = Options(),  # noqa: B008
    commands: Commands = Commands(),  # noqa: B008
    check: bool = False,
) -> dict[str, Any]:
    """Bring ``database`` to ``state`` and return the module's result.

    States are ``status``, ``applied``, ``reverted`` and ``baseline``.

    Durations are in milliseconds. Raises `HoldfastError`; what was done before is in its details, under the keys
    of the result.
    """
    require_driver()
    try:
        _check_settings(settings)
        if options.layout == COMMAND:
            return migrate_by_command(
                server=server, database=database, commands=commands, state=state, settings=settings, check=check
            )
        found = find(files, options)
        return _migrate(server=server, database=database, found=found, state=state, settings=settings, check=check)
    except HoldfastError as exc:
        exc.details = {"applied": [], "reverted": [], **exc.details}
        raise


def _migrate(
    *, server: Server, database: str, found: Found, state: str, settings: Settings, check: bool
) -> dict[str, Any]:
    history = History(settings.history_table, key=found.key)
    if state == "status":
        return _status(server=server, database=database, found=found, history=history, settings=settings)
    with runner_lock(server=server, database=database) as lock:
        refuse_standby(lock.connection)
        with lock.connection.cursor() as cursor:
            await_worker(cursor, database=database)
            _check_role(cursor, settings.role)
            entries = history.read(cursor)
        run = _Run(database=database, found=found, history=history, settings=settings, entries=entries)
        with run.facts_in_failures():
            with lock.connection.cursor() as cursor:
                rows = _adopt(run, cursor, state=state)
            steps: list[Step] = []
            if state == "applied":
                run.pending = _up(run)
                steps = run.pending
            elif state == "reverted":
                steps = plan_down(
                    migrations=found.migrations,
                    entries=entries,
                    target_version=settings.target_version,
                    key=found.key,
                )
            if steps and not settings.allow_during_backup:
                with lock.connection.cursor() as cursor:
                    refuse_backup(cursor, database=database)
            version = lock.connection.server_version
            with _psql(server=server, run=run, steps=steps, down=state == "reverted", server_version=version) as psql:
                if rows and not check:
                    with lock.connection.cursor() as cursor:
                        history.record(cursor, rows, lock_timeout_ms=settings.lock_timeout_ms)
                    run.entries, run.adopted = [*run.entries, *rows], []
                run.recorded = adoption.listed(rows, found)
                if check:
                    run.predicted = steps
                    if state == "reverted":
                        run.reverted = [_listed(step) for step in steps]
                elif steps:
                    with _worker(server=server, lock=lock, run=run, psql=psql) as worker:
                        for step in steps:
                            if state == "applied":
                                worker.up(step)
                            else:
                                worker.down(step)
        return run.result()


def _status(*, server: Server, database: str, found: Found, history: History, settings: Settings) -> dict[str, Any]:
    with server.session(database, application_name=APPLICATION_NAME) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN READ ONLY")
        set_parameters(cursor, {"timezone": "UTC", "datestyle": "ISO"}, local=True)
        entries = history.read(cursor)
        run = _Run(database=database, found=found, history=history, settings=settings, entries=entries)
        with run.facts_in_failures():
            run.recorded = adoption.listed(_adopt(run, cursor, state="status"), found)
        cursor.execute("COMMIT")
        version = connection.server_version
    with run.facts_in_failures():
        run.pending = _up(run)
        with _psql(server=server, run=run, steps=run.pending, down=False, server_version=version):
            pass  # it is there
    return {**run.result(), "changed": False, "history": [entry.as_row() for entry in entries]}


def _check_settings(settings: Settings) -> None:
    for name in ("lock_timeout_ms", "lock_retries", "statement_timeout_ms", "idle_in_transaction_session_timeout_ms"):
        value = getattr(settings, name)
        if not 0 <= value <= MAX_PARAMETER:
            raise HoldfastError(
                code="option_invalid",
                msg="%s is %d, which is not between 0 and %d." % (name, value, MAX_PARAMETER),
                hint="Give a number of that range; 0 stands for no limit of time, and for no retry.",
            )
    if not 0 <= settings.max_blocking_s < math.inf:
        raise HoldfastError(
            code="option_invalid",
            msg="max_blocking_s is %g, which is no number of seconds from 0 on." % settings.max_blocking_s,
            hint="Give the seconds for which a migration may make anybody wait; 0 stands for no limit.",
        )


def _adopt(run: _Run, cursor: Cursor, *, state: str) -> list[Entry]:
    """Return what the database has had before this history began, which is to be recorded."""
    settings = run.settings
    rows: list[Entry] = []
    if state == "baseline" or (state != "reverted" and settings.adopt not in (None, adoption.NONE) and not run.entries):
        rows = adoption.rows_to_record(
            cursor=cursor,
            found=run.found,
            history=run.history,
            entries=run.entries,
            target_version=settings.target_version if state == "baseline" else None,
            adopt=settings.adopt,
            allow_missing=settings.allow_missing,
            allow_out_of_order=settings.allow_out_of_order,
        )
        run.adopted = rows
    elif state != "reverted" and settings.adopt != adoption.NONE and not run.entries:
        adoption.refuse_unknown_history(cursor, history=run.history, found=run.found)
    return rows


def _up(run: _Run) -> list[Step]:
    return plan_up(
        migrations=run.found.migrations,
        entries=[*run.entries, *run.adopted],
        key=run.found.key,
        target_version=run.settings.target_version,
        allow_out_of_order=run.settings.allow_out_of_order,
        allow_missing=run.settings.allow_missing,
    )


def _check_role(cursor: Cursor, role: str | None) -> None:
    if not role:
        return
    cursor.execute(
        "SELECT pg_catalog.pg_has_role(session_user, r.oid, %s) FROM pg_catalog.pg_roles AS r WHERE r.rolname = %s",
        ("SET" if cursor.connection.server_version >= 160000 else "MEMBER", role),
    )
    row = cursor.fetchone()
    if row is None:
        raise HoldfastError(
            code="role_missing",
            msg="The role %r, which is to own new objects, does not exist on this server." % role,
            hint="Create it, or set role to an existing one.",
        )
    if not row[0]:
        raise HoldfastError(
            code="permission_denied",
            msg="The login role may not SET ROLE to %r." % role,
            hint="GRANT that role to the login role, or connect as a superuser.",
        )


@dataclass
class _Run:
    """What one call knows and has done so far."""

    database: str
    found: Found
    history: History
    settings: Settings
    entries: list[Entry]
    #: What the database has, but the history does not say yet.
    adopted: list[Entry] = field(default_factory=list)
    pending: list[Step] = field(default_factory=list)
    predicted: list[Step] = field(default_factory=list)
    applied: list[dict[str, Any]] = field(default_factory=list)
    reverted: list[dict[str, Any]] = field(default_factory=list)
    recorded: list[dict[str, Any]] = field(default_factory=list)
    before: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.before = [entry.version for entry in self.entries if entry.state == APPLIED]

    def record(self, entry: Entry) -> None:
        """Remember what the history says now about a version."""
        self.forget(entry.version)
        self.entries.append(entry)

    def forget(self, version: str) -> None:
        """Remember that the history has no such version any more."""
        self.entries = [entry for entry in self.entries if entry.version != version]

    def result(self) -> dict[str, Any]:
        """Return the result of the module."""
        done = {row["version"] for row in self.applied}
        after = [entry.version for entry in [*self.entries, *self.adopted] if entry.state == APPLIED]
        if self.predicted and self.reverted:
            gone = {row["version"] for row in self.reverted}
            after = [version for version in after if version not in gone]
        elif self.predicted:
            after += [step.migration.version for step in self.predicted]
        target = self.settings.target_version
        if not target:
            target = next((m.version for m in reversed(self.found.migrations) if not m.repeatable), None)
        return {
            "changed": bool(self.applied or self.reverted or self.predicted or self.recorded),
            "recorded": self.recorded,
            "applied": self.applied,
            "reverted": self.reverted,
            "pending": [_listed(step) for step in self.pending if step.migration.version not in done],
            "layout": self.found.layout,
            "current_version": current_version(self.entries),
            "target": target,
            "partial": any(entry.state != APPLIED for entry in self.entries),
            "versions": {"before": self.before, "after": after},
        }

    @contextlib.contextmanager
    def facts_in_failures(self) -> Iterator[None]:
        """Give every failure of the block the result so far."""
        try:
            yield
        except HoldfastError as exc:
            partial = exc.details.get("partial", False)
            exc.details = {**self.result(), **exc.details}
            exc.details["partial"] = bool(partial or exc.details["partial"])
            del exc.details["versions"]
            raise


def _listed(step: Step) -> dict[str, Any]:
    migration = step.migration
    files = [prepared for prepared in (step.up, step.verify, step.down) if prepared]
    return {
        "version": migration.version,
        "description": migration.description,
        "path": migration.up.path,
        "checksum": migration.up.checksum,
        "has_down": migration.down is not None,
        "repeatable": migration.repeatable,
        "has_verify": migration.verify is not None,
        "transactional": step.up.transactional,
        "transactional_reason": step.up.reason,
        "statements": len(step.up.statements),
        "statements_done": (step.entry.statements_done or 0) if step.entry and step.entry.state == PARTIAL else 0,
        "down_checksum": migration.down.checksum if migration.down else None,
        "beyond_database": [
            f for p in files for r in p.readings for f in found_beyond(r.text, r.statements, path=r.path)
        ],
    }


def _expect_guarded(down: Prepared, guard: RowGuard) -> None:
    if guard.versions and (not down.transactional or down.for_psql is not None):
        raise HoldfastError(
            code="unsupported",
            msg="%s runs outside of one transaction of ours, and rows that are written meanwhile could be lost."
            % down.script.path,
            hint="Undo with a clone or an archive; or stop all writers and revert without row_versions.",
        )


@contextlib.contextmanager
def _worker(*, server: Server, lock: RunnerLock, run: _Run, psql: Psql | None) -> Iterator[_Worker]:
    with server.session(run.database, application_name=APPLICATION_NAME) as connection:
        refuse_pooler(connection, database=run.database)
        max_blocking_s = run.settings.max_blocking_s
        with Watch(connection=lock.connection, worker=connection, max_blocking_s=max_blocking_s) as watch:
            yield _Worker(connection=connection, lock=lock, run=run, watch=watch, psql=psql)


@contextlib.contextmanager
def _psql(
    *, server: Server, run: _Run, steps: Sequence[Step], down: bool, server_version: int
) -> Iterator[Psql | None]:
    """Find psql, if one of the files needs it, before anything runs."""
    files = [p for s in steps for p in ((s.down,) if down else (s.up, s.verify)) if p is not None]
    if not any(prepared.for_psql is not None for prepared in files):
        yield None
        return
    with psql_run.psql_for(
        server=server,
        database=run.database,
        settings=run.settings,
        server_version=server_version,
        bin_dir=run.settings.bin_dir,
    ) as psql:
        yield psql


@dataclass(frozen=True)
class _Ending:
    """How psql records a file: the SQL that does, ``applied`` or gone, after the verification."""

    record: sql.Composable
    applied: Entry | None = None
    verify: Prepared | None = None

    def happened(self, found: Entry | None) -> bool:
        """Whether the row of the version says so."""
        if self.applied is None or found is None:
            return self.applied is None and found is None
        return found.state == APPLIED and found.checksum == self.applied.checksum


def _verification(verify: Prepared) -> Part:
    if verify.for_psql is not None:
        return Part(verify.for_psql, verify.script)
    return Part("".join(statement.text + "\n;\n" for statement in verify.statements), verify.script)


class _Worker:
    """The connection that runs the files, one after the other, each in a session that knows nothing of the last."""

    def __init__(
        self, *, connection: Connection, lock: RunnerLock, run: _Run, watch: Watch, psql: Psql | None = None
    ) -> None:
        self.connection = connection
        self.psql = psql
        self.cursor = connection.cursor()
        self.lock = lock
        self.run = run
        self.settings = run.settings
        self.guard = RowGuard(run.settings.row_versions or {})
        self.watch = watch
        self.notices: deque[str] = deque(maxlen=MAX_NOTICES)
        self.lock_waits: list[dict[str, Any]] = []
        self.records: dict[int, dict[str, Any]] = {}
        self.effects: dict[int, Effects] = {}
        self.recorded: Prepared | None = None
        self.started = 0.0
        self.fresh = False
        lock_worker(self.cursor, database=run.database)
        self.client_check = connection.server_version >= 140000

    # -- one migration ------------------------------------------------------------------------------------------

    def up(self, step: Step) -> None:
        """Apply one migration and record it."""
        with self._failures_explained(step.migration, step.up):
            self._begin_file()
            migration = step.migration
            entry = Entry(
                version=step.entry.version if step.entry else migration.version,
                key=migration.key,
                description=migration.description,
                checksum=migration.up.checksum,
                deployment_id=self.settings.deployment_id,
                state=APPLIED,
                statements_done=len(step.up.statements),
                statements_total=len(step.up.statements),
                down_checksum=migration.down.checksum if migration.down else None,
            )

            def finish() -> None:
                if step.verify is not None:
                    self._verify(step.verify)
                self.cursor.execute(AS_LOGIN_ROLE)
                self.run.history.write(self.cursor, replace(entry, duration_ms=self._duration_ms()))

            row = replace(entry, state=PARTIAL)
            if step.up.for_psql is not None or (step.verify is not None and step.verify.for_psql is not None):
                ending = _Ending(self.run.history.writing(entry), applied=entry, verify=step.verify)
                self._run_by_psql(step.up, ending, finish, row=row, stopped=step.entry)
            else:
                self._run_file(step.up, finish, row=row, stopped=step.entry)
            self.run.record(entry)
            self.run.applied.append(
                {
                    "version": migration.version,
                    "description": migration.description,
                    "path": migration.up.path,
                    "duration_ms": self._duration_ms(),
                    "statements": len(step.up.statements),
                    **self._account(step.up),
                }
            )

    def down(self, step: Step) -> None:
        """Revert one migration and remove it from the history."""
        if step.down is None or step.entry is None:
            raise AssertionError("the plan has a step that cannot be reverted")
        down, recorded = step.down, step.entry
        with self._failures_explained(step.migration, down):
            self._begin_file()
            _expect_guarded(down, self.guard)

            def finish() -> None:
                self.cursor.execute(AS_LOGIN_ROLE)
                self.run.history.remove(self.cursor, recorded.version)
                self.guard.renew(self.cursor)

            row = replace(recorded, state=REVERTING, statements_total=len(down.statements))
            stopped = recorded if recorded.state == REVERTING else None
            if down.for_psql is not None:
                self._run_by_psql(
                    down, _Ending(self.run.history.removing(recorded.version)), finish, row=row, stopped=stopped
                )
            else:
                self._run_file(down, finish, row=row, stopped=stopped)
            self.guard.committed()
            self.run.forget(recorded.version)
            self.run.reverted.append(
                {
                    "version": recorded.version,
                    "description": step.migration.description,
                    "path": down.script.path,
                    "duration_ms": self._duration_ms(),
                    "statements": len(down.statements),
                    **self._account(down),
                }
            )

    def _run_file(self, prepared: Prepared, finish: Callable[[], None], *, row: Entry, stopped: Entry | None) -> None:
        if self.run.history.columns and self.run.history.lacking():
            self._retried(
                lambda: self._in_transaction(self._complete_history, script=prepared.script), script=prepared.script
            )
        self.recorded = prepared
        if prepared.transactional:
            self._retried(lambda: self._in_one_transaction(prepared, finish), script=prepared.script)
        else:
            self._one_by_one(prepared, row=row, stopped=stopped)
            self._retried(lambda: self._in_transaction(finish, script=prepared.script), script=prepared.script)

    def _begin_file(self) -> None:
        """Start from a session with nothing of an earlier file in it, and make sure that we are still alone."""
        self.started = time.monotonic()
        self.lock_waits = []
        self.records = {}
        self.effects = {}
        self._keep_notices()
        self.notices.clear()
        self.lock.check()
        self._prepare_session()

    def _prepare_session(self) -> None:
        if self.fresh:
            return
        settings = self.settings
        self.cursor.execute("DISCARD ALL")
        lock_worker(self.cursor, database=self.run.database)
        parameters = {
            "lock_timeout": str(settings.lock_timeout_ms),
            "statement_timeout": str(settings.statement_timeout_ms),
            "idle_in_transaction_session_timeout": str(settings.idle_in_transaction_session_timeout_ms),
            "standard_conforming_strings": "on",
        }
        if self.connection.server_version >= 140000:
            parameters["idle_session_timeout"] = "0"
        if self.connection.server_version >= 170000:
            parameters["transaction_timeout"] = "0"
        set_parameters(self.cursor, parameters)
        if self.client_check:
            try:  # so that the server stops working for a runner that was killed
                set_parameters(self.cursor, {"client_connection_check_interval": "1s"})
            except psycopg2.errors.InvalidParameterValue:  # the server's platform cannot
                self.client_check = False
        self.fresh = True

    def _account(self, prepared: Prepared) -> dict[str, Any]:
        """What is told of a file that has run."""
        return {
            "transactional": prepared.transactional,
            "transactional_reason": prepared.reason,
            "notices": list(self.notices),
            "lock_waits": self.lock_waits,
            "records": self._records(),
        }

    def _records(self) -> list[dict[str, Any]]:
        return [{**self.records[number], **self.effects[number].as_dict()} for number in sorted(self.records)]

    def _duration_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    # -- a file in one transaction ------------------------------------------------------------------------------

    def _in_one_transaction(self, prepared: Prepared, finish: Callable[[], None]) -> None:
        def work() -> None:
            if not self.run.history.columns:
                self._complete_history()
            self.guard.check(self.cursor)
            if self.settings.role:
                self.cursor.execute("SELECT pg_catalog.set_config('role', %s, true)", (self.settings.role,))
            self.notices.clear()
            self._run_statements(prepared, prepared.groups[0])
            finish()

        self._prepare_session()
        self._in_transaction(work, script=prepared.script, begin=prepared.groups[0].begin or BEGIN)

    def _in_transaction(
        self,
        work: Callable[[], None],
        *,
        script: Script,
        statement: Statement | None = None,
        number: int | None = None,
        begin: str = BEGIN,
    ) -> None:
        """Run ``work`` in a transaction that leaves nothing behind when it fails."""
        columns = dict(self.run.history.columns)
        self.cursor.execute(begin)
        try:
            work()
            problem: psycopg2.Error | str = "the server rolled back instead of committing"
            try:
                self.cursor.execute("COMMIT")
            except psycopg2.Error as exc:
                problem = exc
            if isinstance(problem, psycopg2.Error) or self.cursor.statusmessage != "COMMIT":
                raise StatementFailed(problem, script=script, statement=statement, number=number, doing=COMMITTING)
        except (psycopg2.Error, StatementFailed):
            self.run.history.columns = columns
            self._keep_notices()
            self.fresh = False
            if not self.connection.closed:
                with contextlib.suppress(psycopg2.OperationalError, psycopg2.InterfaceError):
                    self.cursor.execute("ROLLBACK")
            raise
        finally:
            self.watch.rest()

    def _complete_history(self) -> None:
        self.run.history.complete(self.cursor)

    def _run_statements(self, prepared: Prepared, group: Group, *, done: int = 0) -> None:
        """Run the statements of a group in the transaction that is open, but for the first ``done`` of the file."""
        for number, statement in enumerate(group.statements, group.first):
            if number <= done:
                continue
            self._execute(prepared, statement, number)
            if self.connection.info.transaction_status != TRANSACTION_STATUS_INTRANS:
                raise StatementFailed(
                    "it ended the transaction that it was in, what came before is committed",
                    script=prepared.script,
                    statement=statement,
                    number=number,
                    total=len(prepared.statements),
                )

    def _execute(self, prepared: Prepared, statement: Statement, number: int) -> None:
        """Run one statement of a file, watched."""

        def failed(cause: Exception | str) -> StatementFailed:
            return StatementFailed(
                cause,
                script=prepared.script,
                statement=statement,
                number=number,
                total=len(prepared.statements),
                stopped=self.watch.stopped,
            )

        self.fresh = False
        effects = self.effects.setdefault(number, Effects()) if prepared is self.recorded else Effects()
        begun = time.monotonic()
        try:
            with self.watch.statement(effects):
                self.cursor.execute(statement.text)
        except psycopg2.Error as exc:
            self._record(prepared, statement, number, begun=begun, sqlstate=exc.pgcode)
            raise failed(exc) from exc
        finally:
            self._keep_notices()
            if self.connection.info.transaction_status == TRANSACTION_STATUS_IDLE:
                self.watch.rest()
        self._record(prepared, statement, number, begun=begun)
        info = self.connection.info
        if info.parameter_status("client_encoding") != "UTF8":
            raise failed("it changed client_encoding, but migrations are sent as UTF-8")
        if info.parameter_status("standard_conforming_strings") != "on":
            raise failed("it changed standard_conforming_strings, by which the rest of the file was read")

    def _record(
        self, prepared: Prepared, statement: Statement, number: int, *, begun: float, sqlstate: str | None = None
    ) -> None:
        """Keep what is known of a statement that has ended; of one that is tried again, the last time counts."""
        if prepared is not self.recorded:
            return
        before = self.records.get(number, {"attempts": 0, "lock_wait_ms": 0})
        effects = self.effects[number]
        timed_out_ms = self.settings.lock_timeout_ms if sqlstate == errorcodes.LOCK_NOT_AVAILABLE else 0
        waited_ms, effects.waited_ms = max(effects.waited_ms, timed_out_ms), 0
        self.records[number] = {
            "number": number,
            "line": scanner.place(prepared.script.text, statement.offset)[0],
            "statement": statement.shown,
            "duration_ms": round((time.monotonic() - begun) * 1000),
            "rows": self.cursor.rowcount if sqlstate is None and self.cursor.rowcount >= 0 else None,
            "lock_wait_ms": before["lock_wait_ms"] + waited_ms,
            "attempts": before["attempts"] + 1,
        }

    def _keep_notices(self) -> None:
        self.notices.extend(clean(notice.strip()) for notice in self.connection.notices)
        setattr(self.connection, "notices", deque(maxlen=MAX_NOTICES))  # noqa: B010 (the driver's own list ends at 50)

    def _verify(self, verify: Prepared) -> None:
        """Run a verification and undo whatever it did; its error is the migration's error."""
        self.cursor.execute("SAVEPOINT holdfast_verify")
        self._run_statements(verify, verify.groups[0])
        self.cursor.execute("ROLLBACK TO SAVEPOINT holdfast_verify")

    # -- a file statement by statement --------------------------------------------------------------------------

    def _one_by_one(self, prepared: Prepared, *, row: Entry, stopped: Entry | None) -> None:
        """Run each group of a file by itself and record it when it is done.

        A group that can run in a transaction shares one with its record. For a statement that cannot, the history
        says that it was begun, so that a run after a kill knows what is in doubt.
        """
        done = (stopped.statements_done or 0) if stopped else 0
        in_doubt = stopped.statement_started if stopped else None
        self._write_progress(prepared, row, done=done, started=in_doubt)
        if self.settings.role:
            set_parameters(self.cursor, {"role": self.settings.role})
        self.fresh = False
        for group in prepared.groups:
            for number, statement in enumerate(group.statements, group.first):
                if number <= done and scanner.sets_session(statement):
                    self._execute(prepared, statement, number)
            if group.last <= done:
                continue
            if group.begin is None:
                (statement,) = group.statements
                self._single(prepared, statement, group.first, row=row, in_doubt=group.first == in_doubt)
            else:
                self._together(prepared, group, row=row, done=done)

    def _together(self, prepared: Prepared, group: Group, *, row: Entry, done: int) -> None:
        """Run a transaction of a file, but for the first ``done`` statements, with its record."""
        progress = replace(row)

        def work() -> None:
            nonlocal progress
            self._run_statements(prepared, group, done=done)
            self.cursor.execute(AS_LOGIN_ROLE)
            progress = self._progress(prepared, row, done=group.last, started=None)
            self.run.history.write(self.cursor, progress)

        self._retried(
            lambda: self._in_transaction(work, script=prepared.script, begin=group.begin or BEGIN),
            script=prepared.script,
        )
        self.run.record(progress)

    def _single(self, prepared: Prepared, statement: Statement, number: int, *, row: Entry, in_doubt: bool) -> None:
        def together() -> None:
            progress = self._progress(prepared, row, done=number, started=None)

            def work() -> None:
                self._execute(prepared, statement, number)
                self.cursor.execute(AS_LOGIN_ROLE)
                self.run.history.write(self.cursor, replace(progress, duration_ms=self._duration_ms()))

            self._in_transaction(work, script=prepared.script, statement=statement, number=number)
            self.run.record(progress)

        def alone() -> None:
            self._alone(prepared, statement, number, row=row, in_doubt=in_doubt)

        index = scanner.concurrent_index(statement)
        if index is not None and not index.name:
            alone()  # not again: what a failed build leaves behind could not be found
            return
        if in_doubt or scanner.outside_transaction(statement):
            self._retried(alone, script=prepared.script, statement=statement, number=number)
            return
        try:
            self._retried(together, script=prepared.script, statement=statement, number=number)
        except StatementFailed as exc:
            if exc.sqlstate not in (errorcodes.INVALID_TRANSACTION_TERMINATION, errorcodes.ACTIVE_SQL_TRANSACTION):
                raise
            # It commits by itself, or is of a kind that only the server could tell.
            self._retried(alone, script=prepared.script, statement=statement, number=number)

    def _alone(self, prepared: Prepared, statement: Statement, number: int, *, row: Entry, in_doubt: bool) -> None:
        index = scanner.concurrent_index(statement)
        if in_doubt and scanner.may_control_transactions(statement):
            self._refuse_doubtful(prepared, statement, number, row)
        if index is not None and index.name:
            valid = self._index_validity(index)
            if valid is False:
                self._drop_invalid_index(prepared, statement, number, index)
            elif valid and in_doubt:
                self._write_progress(prepared, row, done=number, started=None)
                return
        elif index is not None and in_doubt:
            self._refuse_doubtful(prepared, statement, number, row)
        detach = scanner.concurrent_detach(statement)
        if detach is not None:
            attached = self._attachment(detach)
            if attached == "pending":
                # Half of it is done, and the server refuses the statement itself.
                self.notices.append("holdfast: finishing to detach %s, which was interrupted" % detach.partition)
                text = "ALTER TABLE %s DETACH PARTITION %s FINALIZE" % (detach.table, detach.partition)
                statement = replace(statement, text=text)
            elif attached == "detached" and in_doubt:
                self._write_progress(prepared, row, done=number, started=None)
                return
        self._write_progress(prepared, row, done=number - 1, started=number)
        try:
            self._execute(prepared, statement, number)
        except StatementFailed as exc:
            if exc.sqlstate is not None and not self.connection.closed:
                if not (in_doubt and exc.sqlstate in DONE_BEFORE):
                    self._write_progress(prepared, row, done=number - 1, started=None)
                    raise
            else:
                raise
        self._write_progress(prepared, row, done=number, started=None)

    def _refuse_doubtful(self, prepared: Prepared, statement: Statement, number: int, row: Entry) -> NoReturn:
        failure = StatementFailed(
            "psql ended half-way in an earlier run of this file, and how far it came is unknown"
            if prepared.for_psql is not None
            else "an earlier run was killed while this statement ran, and whether it has done its work is unknown",
            script=prepared.script,
            statement=statement,
            number=number,
            total=len(prepared.statements),
        )
        raise HoldfastError(
            code="migration_failed",
            msg="Migration %s cannot go on by itself: %s" % (row.version, failure.describe()),
            hint=self._hint_for_doubt(prepared, number),
            partial=True,
            **failure.facts(),
        )

    def _hint_for_doubt(self, prepared: Prepared, number: int) -> str:
        if prepared.for_psql is None:
            question = "Look whether it is done. If so,"
        else:
            question = "Look what it has done. When the rest is done, too,"
        return (
            "%s set in the row of this version in %s statement_started to NULL, statements_done to %d and checksum to"
            " '%s'; when nothing of it is, statement_started alone. Then run the task again."
            % (question, self.run.history, number, prepared.prefix_checksum(number))
        )

    def _index_validity(self, index: scanner.ConcurrentIndex) -> bool | None:
        """Return whether an index of that name on that table is valid; None when there is none."""
        self.cursor.execute(
            "SELECT i.indisvalid FROM pg_catalog.pg_index AS i"
            " JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid"
            " WHERE i.indrelid = pg_catalog.to_regclass(%s) AND c.relname = %s::name AND c.relkind = 'i'",
            (index.table, index.name),
        )
        row = self.cursor.fetchone()
        return None if row is None else bool(row[0])

    def _attachment(self, detach: scanner.ConcurrentDetach) -> str | None:
        """Return whether a partition is ``attached``, ``pending`` (half detached) or ``detached``, or None."""
        if self.connection.server_version < 140000:
            return None
        self.cursor.execute(
            "SELECT CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'pending'"
            " ELSE 'attached' END"
            " FROM (SELECT pg_catalog.to_regclass(%s) AS parent, pg_catalog.to_regclass(%s) AS child) AS named"
            " LEFT JOIN pg_catalog.pg_inherits AS i ON i.inhparent = parent AND i.inhrelid = child"
            " WHERE parent IS NOT NULL AND child IS NOT NULL",
            (detach.table, detach.partition),
        )
        row = self.cursor.fetchone()
        return None if row is None else str(row[0])

    def _drop_invalid_index(
        self, prepared: Prepared, statement: Statement, number: int, index: scanner.ConcurrentIndex
    ) -> None:
        """Drop what a failed build left behind; IF NOT EXISTS would take it for the index."""
        self.cursor.execute(
            "SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) FROM pg_catalog.pg_class AS t"
            " JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace"
            " JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = %s::name"
            " WHERE t.oid = pg_catalog.to_regclass(%s)",
            (index.name, index.table),
        )
        row = only_row(self.cursor)
        self.notices.append("holdfast: dropping the invalid index %s that a failed build left behind" % row[0])
        try:
            with self.watch.statement(self.effects.setdefault(number, Effects())):
                self.cursor.execute("DROP INDEX CONCURRENTLY IF EXISTS " + row[0])
        except psycopg2.Error as exc:
            raise StatementFailed(
                exc,
                script=prepared.script,
                statement=statement,
                number=number,
                total=len(prepared.statements),
                doing="dropping the invalid index %s" % row[0],
            ) from exc

    def _progress(self, prepared: Prepared, row: Entry, *, done: int, started: int | None) -> Entry:
        return replace(
            row,
            statements_done=done,
            statement_started=started,
            checksum=prepared.prefix_checksum(done),
            duration_ms=self._duration_ms(),
        )

    def _write_progress(self, prepared: Prepared, row: Entry, *, done: int, started: int | None) -> None:
        entry = self._progress(prepared, row, done=done, started=started)

        def write() -> None:
            self.cursor.execute(AS_LOGIN_ROLE)
            if not self.run.history.columns:
                self._complete_history()
            self.run.history.write(self.cursor, entry)

        self._retried(lambda: self._in_transaction(write, script=prepared.script), script=prepared.script)
        self.run.record(entry)

    # -- a file for psql ----------------------------------------------------------------------------------------

    def _run_by_psql(
        self,
        prepared: Prepared,
        ending: _Ending,
        finish: Callable[[], None],
        *,
        row: Entry,
        stopped: Entry | None,
    ) -> None:
        """Run a file by psql, or only its verification when that is what needs it.

        A file that can be one transaction is, together with its record, and psql ends both. Of any other file the
        history says that it was begun, and psql itself records that it is done; a kill between leaves it in doubt.
        """
        script = prepared.script
        self._retried(lambda: self._in_transaction(self._complete_history, script=script), script=script)
        self.recorded = prepared
        done = (stopped.statements_done or 0) if stopped else 0
        if prepared.for_psql is None:
            self._one_by_one(prepared, row=row, stopped=stopped)
            done = len(prepared.statements)
        elif stopped is not None and stopped.statement_started:
            self._refuse_doubtful(prepared, prepared.statements[0], 1, row)
        if prepared.transactional:
            self._retried(lambda: self._by_psql(prepared, ending, row=row), script=script)
            return
        if not done:
            self._write_progress(prepared, row, done=0, started=1)
            self._by_psql(prepared, ending, row=row)
        elif ending.verify is not None and ending.verify.for_psql is not None:
            self._retried(lambda: self._by_psql(prepared, ending, row=row, done=True), script=script)
        else:
            self._retried(lambda: self._in_transaction(finish, script=script), script=script)

    def _by_psql(self, prepared: Prepared, ending: _Ending, *, row: Entry, done: bool = False) -> None:
        """Run what is not ``done`` of a file, its verification and its record in one session of psql."""
        self._prepare_session()
        history, script = self.run.history, prepared.script
        self.cursor.execute(sql.SQL("SELECT {}").format(history.standing(row.version)))
        expected = only_row(self.cursor)[0]
        opening = psql_run.opening(
            self.connection,
            standing=history.standing(row.version),
            expected=expected,
            settings=self.settings,
            watched=self.client_check,
        )
        # The session of psql takes this lock over, so that it is seen for as long as it works.
        self.cursor.execute("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", (LOCK_CLASS, WORKER_LOCK))
        self.fresh = False

        def ours(*texts: sql.Composable | str) -> Part:
            return Part("".join(t if isinstance(t, str) else t.as_string(self.connection) for t in texts))

        utf8 = "SET LOCAL client_encoding TO 'UTF8';\n"
        whole = prepared.transactional or done
        parts = [ours(opening, *((BEGIN, ";\n", psql_run.TELL_TRANSACTION) if whole else ()))]
        if not done:
            parts.append(Part(str(prepared.for_psql), script))
            if not prepared.transactional:
                progress = self._progress(prepared, row, done=1, started=None)
                parts.append(
                    ours(BEGIN, ";\n", utf8, AS_LOGIN_ROLE, ";\n", history.writing(progress), "COMMIT;\n", BEGIN, ";\n")
                )
        # An error outside a transaction: the file has ended the one that it was in.
        parts.append(ours("SAVEPOINT holdfast_verify;\n"))
        if ending.verify is not None:
            parts.append(_verification(ending.verify))
        parts.append(ours("ROLLBACK TO SAVEPOINT holdfast_verify;\n" if ending.verify is not None else ""))
        parts.append(ours(utf8, AS_LOGIN_ROLE, ";\n", ending.record, "COMMIT;\n"))
        self._call_psql(prepared, parts, ending, row=row)

    def _call_psql(self, prepared: Prepared, parts: list[Part], ending: _Ending, *, row: Entry) -> None:
        if self.psql is None:
            raise AssertionError("psql was not looked for")
        effects = self.effects.setdefault(1, Effects())
        begun = time.monotonic()
        failure: psql_run.PsqlFailed | None = None
        transactions: list[int] = []

        def told(kind: str, number: int) -> None:
            if kind == "session":
                self.watch.follow(number)
            else:
                transactions.append(number)

        try:
            with self.watch.statement(effects):
                self.notices.extend(clean(line) for line in self.psql.run(parts, on_told=told))
        except psql_run.PsqlFailed as exc:
            failure = exc
        finally:
            self.watch.rest()
            self.watch.follow(None)
        if prepared.for_psql is not None:
            self._record_psql(effects, begun=begun, sqlstate=failure.pgcode if failure else None)
        problem: Exception | str = failure or "psql ended without an error, but what it did is not recorded"
        try:
            self._prepare_session()
            entries = self.run.history.read(self.cursor)
            committed = False
            for number in transactions:
                self.cursor.execute("SELECT pg_catalog.txid_status(%s)", (number,))
                committed = only_row(self.cursor)[0] == "committed"
        except psycopg2.Error as exc:
            raise StatementFailed(exc, script=prepared.script, doing=COMMITTING) from exc
        found = next((entry for entry in entries if entry.version == row.version), None)
        if ending.happened(found):
            return
        if found is not None and found.state != APPLIED:
            self.run.record(replace(found, key=row.key))
        if committed:  # by the file itself, which has not come to its end
            self._write_progress(prepared, row, done=0, started=1)
        raise self._psql_failed(problem, prepared, parts, ending, row=row)

    def _psql_failed(
        self, problem: Exception | str, prepared: Prepared, parts: list[Part], ending: _Ending, *, row: Entry
    ) -> StatementFailed:
        script, statement, doing = prepared.script, None, ""
        if isinstance(problem, psql_run.PsqlFailed):
            if problem.part is parts[0] and not prepared.transactional:  # nothing of the file has run
                self._write_progress(prepared, row, done=0, started=None)
            elif problem.pgcode == errorcodes.NO_ACTIVE_SQL_TRANSACTION and problem.path is None:
                problem = "it ended the transaction that it was in, what came before is committed"
            elif problem.path is not None:
                readings = [*prepared.readings, *(ending.verify.readings if ending.verify else ())]
                text = next((r.text for r in readings if r.path == problem.path), "")
                script = Script(path=problem.path, text=text) if text else script
                lines = text.split("\n")
                number = min(problem.line or 1, len(lines))
                offset = sum(len(line) + 1 for line in lines[: number - 1])
                statement = Statement(text=lines[number - 1], offset=offset, head=(), inside=())
            else:
                doing = "recording it in the history"
        return StatementFailed(
            problem,
            script=script,
            statement=statement,
            number=1,
            total=1,
            doing=doing,
            stopped=self.watch.stopped,
        )

    def _record_psql(self, effects: Effects, *, begun: float, sqlstate: str | None) -> None:
        before = self.records.get(1, {"attempts": 0, "lock_wait_ms": 0})
        timed_out_ms = self.settings.lock_timeout_ms if sqlstate == errorcodes.LOCK_NOT_AVAILABLE else 0
        waited_ms, effects.waited_ms = max(effects.waited_ms, timed_out_ms), 0
        self.records[1] = {
            "number": 1,
            "line": 1,
            "statement": "(psql)",
            "duration_ms": round((time.monotonic() - begun) * 1000),
            "rows": None,
            "lock_wait_ms": before["lock_wait_ms"] + waited_ms,
            "attempts": before["attempts"] + 1,
        }

    # -- trying again, and failing ------------------------------------------------------------------------------

    def _retried(
        self,
        work: Callable[[], None],
        *,
        script: Script,
        statement: Statement | None = None,
        number: int | None = None,
    ) -> None:
        """Run ``work`` again, after a while, when it could not get a lock."""
        for attempt in range(1, self.settings.lock_retries + 2):
            begun = time.monotonic()
            try:
                work()
                return
            except StatementFailed as exc:
                failure = exc
            except psycopg2.Error as exc:
                doing = "recording it in the history" if exc.pgcode else ""
                failure = StatementFailed(exc, script=script, statement=statement, number=number, doing=doing)
            if failure.sqlstate not in RETRIED:
                raise failure
            self.lock_waits.append(
                {
                    "attempt": attempt,
                    "statement": failure.number,
                    "line": failure.facts()["line"],
                    "waited_ms": round((time.monotonic() - begun) * 1000),
                    "sqlstate": failure.sqlstate,
                    **self.watch.seen(),
                }
            )
            if attempt > self.settings.lock_retries:
                raise failure
            pause_s = min(BACKOFF_LIMIT_S, BACKOFF_FIRST_S * 2 ** (attempt - 1))
            time.sleep(pause_s * RANDOM.uniform(0.5, 1.0))

    @contextlib.contextmanager
    def _failures_explained(self, migration: Migration, prepared: Prepared) -> Iterator[None]:
        """Turn a failed statement into the failure of a migration that says what is left."""
        try:
            yield
        except StatementFailed as failure:
            entry = next((e for e in self.run.entries if e.key == migration.key), None)
            self._explain(failure, migration, prepared, entry)
        except psycopg2.Error as exc:
            self._explain(StatementFailed(exc, script=prepared.script), migration, prepared, None)

    def _explain(
        self, failure: StatementFailed, migration: Migration, prepared: Prepared, entry: Entry | None
    ) -> NoReturn:
        partial = entry is not None and entry.state != APPLIED
        doubt = False
        if failure.sqlstate is None and failure.doing == COMMITTING:
            left = "The connection broke during COMMIT: state=status tells whether the migration is there."
        elif partial and entry is not None and prepared.for_psql is not None and entry.statement_started:
            left = "What psql has done before is committed; the file is not done, and its row in %s says so." % (
                self.run.history
            )
            doubt = True
        elif partial and entry is not None:
            left = "%d of %d statements are done and recorded; the next run goes on after them." % (
                entry.statements_done or 0,
                len(prepared.statements),
            )
        else:
            left = "The file was rolled back."
        raise HoldfastError(
            code="migration_failed",
            msg="Migration %s (%s) failed. %s %s"
            % (migration.version, migration.description, left, failure.describe()),
            hint=self._hint_for_doubt(prepared, 1) if doubt else failure.hint,
            version=migration.version,
            description=migration.description,
            partial=partial,
            **({"changed": True} if partial else {}),
            notices=list(self.notices),
            lock_waits=self.lock_waits,
            records=self._records(),
            transactional=prepared.transactional,
            transactional_reason=prepared.reason,
            **failure.facts(),
        ) from failure


RETRIED = ("55P03", "40P01", "40001")
#: What the server says when a statement in doubt has in fact done its work before: the object is there, or gone.
DONE_BEFORE = ("42P04", "42P07", "42710", "3D000", "42704")
