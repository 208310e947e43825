# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The swap: a side database becomes live, and the live one retires, by exchanging names in one transaction.

A crash at any point leaves the old pair of names or the new pair. What else a run changes, it remembers on the server
(see drain.py), so that it is undone on every error, and by the next run after a kill.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    check_name,
    only_row,
    refuse_standby,
    suffixed_name,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import (
    DatabaseProperties,
    apply_properties,
    read_properties,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import (
    Database,
    Session,
    find_database,
    get_database,
    lacking_rights,
    list_databases,
    prepare_session,
    read_blockers,
    read_occupants,
    read_sessions,
    transaction,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.drain import (
    Doors,
    Mark,
    drain,
    in_use,
    interrupted_runs,
    undo_marks,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.identity import Expected, require_expected
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pause_length import WAIT_SHARE
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.refusal import stuck_named
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.rescue import Rescue, own_process
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.waiting import (
    DeadManSwitch,
    NoPoolers,
    Poolers,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.watchdog import Watchdog

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import errorcodes, sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: How long a run waits for the server process of a killed predecessor to end before it refuses.
PREDECESSOR_TIMEOUT_S = 5

#: How long a session that we have closed may take to leave; longer, and it has drain_timeout as any other.
LEAVING_TIMEOUT_S = 1.0

#: What is kept back of max_pause for the process on guard, at most, and as a part of it.
RESERVE_S = 1.0
RESERVE_PART = 0.2

#: How long poolers wait for the databases to be open again when a swap failed, which spares their clients an error.
DOORS_FIRST_S = 2.0

#: How long RENAME waits for sessions (CountOtherDBBackends in the server's storage/ipc/procarray.c).
SERVER_WAIT_S = 5

#: Marks the retired database in its default name; the time is UTC.
RETIRED_SUFFIX = "_retired_"

RENAME = "ALTER DATABASE {} RENAME TO {}"

READ_LOCK_HOLDER = """
SELECT l.pid
  FROM pg_catalog.pg_locks AS l
  JOIN pg_catalog.pg_database AS d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
 WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
   AND (l.classid::bigint << 32) | l.objid::bigint = ANY (%s::bigint[])
 ORDER BY 1
"""


@dataclass(frozen=True)
class SwapRequest:
    """What is asked for; see the options of the module pg_swap."""

    live: str
    replacement: str
    confirm: str | None
    retired_name: str | None = None
    replacement_oid: int | None = None
    expected: Expected = field(default_factory=Expected)
    drain_timeout_s: float = 5
    terminate: bool = False
    max_pause_s: float = 15
    keep_direct_clients_out: bool = True
    carry_over: bool = True

    @property
    def names(self) -> tuple[str, str]:
        """Return the two names that change hands."""
        return self.live, self.replacement

    def validate(self, *, maintenance_db: str) -> None:
        """Raise `HoldfastError` when the request makes no sense, whatever the server holds."""
        check_name(self.live, what="live database")
        check_name(self.replacement, what="replacement database")
        if self.retired_name is not None:
            check_name(self.retired_name, what="retired database")
        if self.confirm != self.live:
            raise HoldfastError(
                code="confirm_required",
                msg="A swap of database %r needs confirm to be exactly that name; it is %s."
                % (self.live, "not given" if not self.confirm else repr(self.confirm)),
                hint="Set confirm to the name of the live database. Nothing was touched.",
            )
        names = [self.live, self.replacement] + ([self.retired_name] if self.retired_name else [])
        if len(set(names)) < len(names):
            raise _option_invalid(
                "The live, the replacement and the retired database need different names: %r." % names
            )
        if maintenance_db in names:
            raise _option_invalid(
                "maintenance_db is %r, one of the databases that change their names." % maintenance_db,
                "Set maintenance_db to a third database, such as postgres or template1.",
            )
        if self.drain_timeout_s < 0 or self.max_pause_s <= 0:
            raise _option_invalid(
                "drain_timeout (%s s) must not be negative and max_pause (%s s) must be positive."
                % (self.drain_timeout_s, self.max_pause_s)
            )


def _option_invalid(msg: str, hint: str = "Correct the options; nothing was touched.") -> HoldfastError:
    return HoldfastError(code="option_invalid", msg=msg, hint=hint)


@dataclass(frozen=True)
class Deadline:
    """The moment by which clients must be able to go on."""

    max_pause_s: float
    started: float = field(default_factory=time.monotonic)

    @property
    def timeout_s(self) -> float:
        """Return the seconds after which nothing is renamed any more: the rest is for letting clients go on."""
        return self.max_pause_s - min(RESERVE_S, self.max_pause_s * RESERVE_PART)

    def left_s(self) -> float:
        """Return the seconds left; raises `HoldfastError` with the code ``timeout`` when there are none."""
        left_s = self.started + self.timeout_s - time.monotonic()
        if left_s <= 0:
            raise _too_slow(self.max_pause_s)
        return left_s


def _too_slow(max_pause_s: float) -> HoldfastError:
    return HoldfastError(
        code="timeout",
        msg="The swap would have kept clients waiting for more than %g s (max_pause, or less where a pooler's"
        " query_wait_timeout is short); nothing was renamed." % max_pause_s,
        hint="Look for what was slow (locks on the databases, sessions that end slowly), then run the task again.",
    )


def swap_databases(
    *,
    server: Server,
    request: SwapRequest,
    check_mode: bool = False,
    poolers: Poolers | None = None,
    guarded: bool = False,
    switches: Sequence[DeadManSwitch] = (),
) -> dict[str, Any]:
    """Make the replacement the live database and retire the present one, as ``docs/undo-a-deployment.md`` describes.

    Return the keys that the module pg_swap documents. In check mode everything is examined and nothing is changed.
    With ``guarded`` a process of its own lets clients go on when this one is killed or stopped; ``switches`` are others
    of that kind. On an error nothing is renamed, connections are allowed as before and ``poolers`` are resumed; the
    codes are ``confirm_required``, ``option_invalid``, ``name_invalid``, ``database_not_found``, ``database_invalid``,
    ``target_exists``, ``server_is_standby``, ``permission_denied``, ``swap_blocked``, ``role_missing``,
    ``operation_running``, ``database_in_use``, ``pause_refused``, ``timeout``, and those of `pooler.Poolers.open`.
    """
    started = time.monotonic()
    request.validate(maintenance_db=server.maintenance_db)
    swap = _Swap(server, request, check_mode=check_mode, poolers=poolers or NoPoolers(), switches=switches)
    with contextlib.closing(swap.connect()) as connection, contextlib.closing(swap.poolers):
        refuse_standby(connection)
        with _names_locked(connection, request.names), stuck_named(swap.poolers), swap.exchange_told():
            result = swap.run(connection, guarded=guarded)
    result["duration_s"] = round(time.monotonic() - started, 3)
    return result


def lock_key(name: str) -> int:
    """Return the key of the advisory lock for a database's name, the same for every version of server and client."""
    digest = hashlib.sha256(b"holdfast swap " + name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextlib.contextmanager
def _names_locked(connection: Connection, names: Sequence[str]) -> Iterator[None]:
    """Hold the advisory locks of ``names``, so that no two swaps work on one of them at a time.

    They are the session's, so they end with it, whatever becomes of this process.
    """
    keys = sorted(lock_key(name) for name in names)

    def locked() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT " + ", ".join(["pg_catalog.pg_try_advisory_lock(%s)"] * len(keys)), keys)
            if all(only_row(cursor)):
                return True
            cursor.execute("SELECT pg_catalog.pg_advisory_unlock_all()")
            return False

    if not wait_until(locked, timeout_s=PREDECESSOR_TIMEOUT_S):
        with connection.cursor() as cursor:
            cursor.execute(READ_LOCK_HOLDER, (keys,))
            pids = [row[0] for row in cursor.fetchall()]
        raise HoldfastError(
            code="operation_running",
            msg="Another swap of %s is running, server process %s."
            % (" or ".join(map(repr, names)), ", ".join(map(str, pids)) or "unknown"),
            hint="Wait for it to end, then look at the names with pg_database_info before running this again.",
            pids=pids,
        )
    try:
        yield
    finally:
        # Without a connection there is no lock either.
        with contextlib.suppress(psycopg2.OperationalError, psycopg2.InterfaceError), connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.pg_advisory_unlock_all()")


@dataclass(frozen=True)
class _Plan:
    """The pair as it is, the name that live will have, and what the replacement will take over."""

    live: Database
    replacement: Database
    retired_name: str
    wanted: DatabaseProperties | None = None
    current: DatabaseProperties | None = None

    @property
    def oids(self) -> list[int]:
        return [self.live.oid, self.replacement.oid]


class _Swap:
    """One run of the protocol."""

    def __init__(
        self,
        server: Server,
        request: SwapRequest,
        *,
        check_mode: bool,
        poolers: Poolers,
        switches: Sequence[DeadManSwitch],
    ) -> None:
        self.server = server
        self.request = request
        self.check_mode = check_mode
        self.poolers = poolers
        self.switches = tuple(switches)
        self.exchanged = False

    @contextlib.contextmanager
    def exchange_told(self) -> Iterator[None]:
        """Have a failure that comes after the exchange, such as a signal, say that the names are the new ones."""
        try:
            yield
        except HoldfastError as exc:
            if self.exchanged:
                exc.msg += (
                    " The names had been exchanged already: %r serves under the name %r." % self.request.names[::-1]
                )
                exc.hint = "Nothing was undone. Run the same task again to have the poolers looked at."
            raise

    def connect(self) -> Connection:
        """Open a session in the maintenance database; one in either of the pair would block the renaming."""
        connection = self.server.connect(self.server.maintenance_db, application_name="holdfast swap")
        prepare_session(connection)
        return connection

    def run(self, connection: Connection, *, guarded: bool) -> dict[str, Any]:
        """Examine, then make clients wait, exchange the names and let them go on."""
        marks = self.undo_killed_run(connection)
        left_paused = self._open_poolers()
        resumed = "undone" if marks or left_paused else None
        done = self._already_swapped(connection)
        if done is not None:
            return dict(
                done,
                changed=bool(left_paused),
                resumed_poolers=left_paused,
                poolers=self._facts(),
                stall_source=None,
            )
        plan = self._examine(connection)
        if not (self.check_mode and marks):  # nobody can look into a database that a killed run has left closed
            self._require_expected(connection)
        plan, carried_over = self._rehearse(connection, plan, marks)
        result: dict[str, Any] = {
            "changed": True,
            "live": plan.live.name,
            "live_oid": plan.replacement.oid,
            "retired": plan.retired_name,
            "retired_oid": plan.live.oid,
            "resumed": resumed,
            "resumed_poolers": left_paused,
            "carried_over": carried_over,
            "terminated": [],
            "poolers": self._facts(),
            "stall_ms": None,
            "stall_source": None,
            "diff": {
                "before": {plan.live.name: plan.live.oid, plan.replacement.name: plan.replacement.oid},
                "after": {plan.live.name: plan.replacement.oid, plan.retired_name: plan.live.oid},
            },
        }
        if self.check_mode:
            occupants = read_occupants(connection=connection, oids=plan.oids)
            return dict(result, sessions=[session.as_dict() for session in occupants])
        self.poolers.prepare()
        if guarded:
            self.switches += (self._guardian(connection),)
        terminated, stall_s = self._exchange_while_clients_wait(connection, plan)
        facts = self._facts()
        longest = max(facts, key=lambda fact: float(fact["stall_ms"]), default=None)
        result.update(
            terminated=[session.as_dict() for session in terminated],
            poolers=facts,
            stall_ms=longest["stall_ms"] if longest else round(stall_s * 1000, 1),
            stall_source=longest["stall_source"] if longest else "server",
            sessions=[],
        )
        return result

    def _open_poolers(self) -> list[str]:
        """Connect to the poolers and resume what a killed run has left paused, even where one of them is of no use."""
        left_paused: list[str] = []
        try:
            self.poolers.open()
        except HoldfastError as exc:
            if self.poolers.left_paused and not self.check_mode:
                exc.msg += " Found paused, and resumed: %s." % ", ".join(self.poolers.left_paused)
            raise
        finally:
            left_paused += self.poolers.left_paused
            if left_paused and not self.check_mode:
                self.poolers.resume()
        patience_s = WAIT_SHARE * self.poolers.turned_away_s
        if patience_s < self.request.max_pause_s:
            self.request = replace(self.request, max_pause_s=patience_s)
        return left_paused

    def _facts(self) -> list[dict[str, Any]]:
        return [dict(fact) for fact in self.poolers.facts]

    def _guardian(self, connection: Connection) -> Watchdog:
        """Return the process that does in the place of this one what lets clients go on."""

        def open_databases(connection: Connection) -> None:
            with _names_locked(connection, self.request.names):
                self.undo_killed_run(connection)

        rescue = Rescue(
            connect=self.connect,
            swap=own_process(connection),
            open_databases=open_databases,
            targets=self.poolers.targets,
        )
        return Watchdog(rescue.run, prepare=rescue.prepare)

    def undo_killed_run(self, connection: Connection) -> list[Mark]:
        """Let clients in where a killed run has left them out, and return what it left; check mode only looks."""
        pair = [find_database(connection=connection, name=n) for n in (self.request.live, self.request.replacement)]
        marks = interrupted_runs(connection, oids=[database.oid for database in pair if database is not None])
        if marks and not self.check_mode:
            with transaction(connection):
                undo_marks(connection, marks)
        return marks

    def _already_swapped(self, connection: Connection) -> dict[str, Any] | None:
        """Return the result of a run that has nothing to do, because an earlier one did it."""
        request = self.request
        live = find_database(connection=connection, name=request.live)
        if live is None:
            return None
        retired = None
        if request.retired_name:
            retired = find_database(connection=connection, name=request.retired_name)
        if request.replacement_oid is not None:
            if live.oid != request.replacement_oid:
                return None
            if request.retired_name is None:
                retired = _newest_retired(connection, request.live)
        elif retired is None or find_database(connection=connection, name=request.replacement) is not None:
            return None
        names = {database.name: database.oid for database in (live, retired) if database is not None}
        return {
            "changed": False,
            "live": live.name,
            "live_oid": live.oid,
            "retired": retired.name if retired else None,
            "retired_oid": retired.oid if retired else None,
            "resumed": "already_swapped",
            "carried_over": [],
            "terminated": [],
            "stall_ms": None,
            "sessions": [],
            "diff": {"before": names, "after": names},
        }

    def _examine(self, connection: Connection) -> _Plan:
        """Return the plan; raises `HoldfastError` with everything that stands against it."""
        request = self.request
        live = get_database(connection=connection, name=request.live)
        replacement = get_database(connection=connection, name=request.replacement)
        if request.replacement_oid is not None and replacement.oid != request.replacement_oid:
            raise HoldfastError(
                code="swap_blocked",
                msg="Database %r has OID %d, not the recorded %d: it is not the database that was meant."
                % (replacement.name, replacement.oid, request.replacement_oid),
                hint="Find out who replaced it. If this one is meant, give its OID or none as replacement_oid.",
                blockers=[],
            )
        _require_rights(connection, (live, replacement))
        retired_name = self._retired_name(connection)
        self._refuse_blockers(connection, (live, replacement))
        return _Plan(live, replacement, retired_name)

    def _require_expected(self, connection: Connection) -> None:
        """Look into the replacement, and return when that session has left it."""
        pid = require_expected(server=self.server, database=self.request.replacement, expected=self.request.expected)
        if pid is not None:
            wait_until(
                lambda: not read_sessions(connection=connection, oids=(), pids=[pid]),
                timeout_s=LEAVING_TIMEOUT_S,
                interval_s=0.002,
            )

    def _retired_name(self, connection: Connection) -> str:
        if self.request.retired_name:
            existing = find_database(connection=connection, name=self.request.retired_name)
            if existing is None:
                return self.request.retired_name
            raise HoldfastError(
                code="target_exists",
                msg="Database %r, the name for the retired database, exists already (OID %d)."
                % (existing.name, existing.oid),
                hint="Choose another retired_name, or leave it out to have one made from the time.",
            )
        stamp = RETIRED_SUFFIX + datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        candidates = itertools.chain([stamp], ("%s_%d" % (stamp, number) for number in itertools.count(2)))
        names = (suffixed_name(self.request.live, suffix) for suffix in candidates)
        return next(name for name in names if find_database(connection=connection, name=name) is None)

    def _refuse_blockers(self, connection: Connection, databases: Sequence[Database]) -> None:
        found = read_blockers(connection=connection, databases=databases)
        blockers = [blocker.as_dict() for database in databases for blocker in found[database.oid]]
        blockers += [
            {"kind": "template", "name": d.name, "message": "database %r is a template" % d.name}
            for d in databases
            if d.is_template
        ]
        if blockers:
            raise HoldfastError(
                code="swap_blocked",
                msg="Database %r cannot be swapped with %r: %s."
                % (self.request.live, self.request.replacement, "; ".join(b["message"] for b in blockers)),
                hint="COMMIT PREPARED or ROLLBACK PREPARED the transactions, drop the slots and subscriptions or move"
                " them, ALTER DATABASE ... IS_TEMPLATE false. Nothing was touched.",
                blockers=blockers,
            )

    def _rehearse(self, connection: Connection, plan: _Plan, marks: Sequence[Mark]) -> tuple[_Plan, list[str]]:
        """Carry the properties over and roll back: what would fail later fails here, before clients wait.

        Return the plan with the properties in it, and the statements. In check mode the ``marks`` of a killed run are
        still there and do not count.
        """
        if not self.request.carry_over:
            return plan, []
        try:
            with transaction(connection, keep=False):
                _limit_waits(connection, self.request.max_pause_s)
                if self.check_mode:
                    undo_marks(connection, marks)
                plan = replace(
                    plan,
                    wanted=read_properties(connection=connection, database=plan.live.name),
                    current=read_properties(connection=connection, database=plan.replacement.name),
                )
                return plan, self._carry_over(connection, plan)
        except psycopg2.Error as exc:
            raise self._explained(connection, exc, plan) from exc

    def _carry_over(self, connection: Connection, plan: _Plan) -> list[str]:
        if plan.wanted is None or plan.current is None:
            return []
        return apply_properties(
            connection=connection, database=plan.replacement.name, properties=plan.wanted, current=plan.current
        )

    def _exchange_while_clients_wait(self, connection: Connection, plan: _Plan) -> tuple[list[Session], float]:
        """Return the terminated sessions and the seconds that clients waited."""
        doors = Doors(connect=self.connect)
        with contextlib.ExitStack() as armed:
            for switch in self.switches:
                armed.callback(self._stand_down, switch)
                switch.arm(timeout_s=Deadline(self.request.max_pause_s).timeout_s)
            deadline = Deadline(self.request.max_pause_s)
            with contextlib.ExitStack() as waiting:
                # In reverse: databases open before poolers turn to them, but clients do not wait for a dead server.
                waiting.callback(doors.reopen, connection)
                waiting.callback(self.poolers.resume)
                waiting.callback(doors.opened_within, connection, timeout_s=DOORS_FIRST_S)
                self.poolers.pause(
                    timeout_s=deadline.left_s(),
                    activity=lambda pids: read_sessions(connection=connection, oids=(), pids=pids),
                )
                try:
                    terminated = self._exchange_among_nobody(connection, plan, doors, deadline)
                except psycopg2.Error:
                    self._still_waiting()  # the process on guard ends this session when it acts
                    raise
                doors.closed, self.exchanged = False, True
            stall_s = time.monotonic() - deadline.started
            self.poolers.measure()
        return terminated, stall_s

    def _exchange_among_nobody(
        self, connection: Connection, plan: _Plan, doors: Doors, deadline: Deadline
    ) -> list[Session]:
        """Keep clients out, wait until the others have left, exchange, and return the terminated sessions."""
        if self.request.keep_direct_clients_out:
            doors.close(connection, (plan.live, plan.replacement))
        terminated = drain(
            connection,
            oids=plan.oids,
            drain_timeout_s=self.request.drain_timeout_s,
            terminate=self.request.terminate,
            timeout_s=deadline.left_s(),
        )
        try:
            self._exchange(connection, plan, doors, deadline)
        except psycopg2.Error as exc:
            if not connection.closed:
                raise self._explained(connection, exc, plan) from exc
            # The connection is lost, and perhaps only the answer to COMMIT with it.
            if doors.opened_within(connection, timeout_s=DOORS_FIRST_S) is not None or not self._landed(plan):
                raise
        return terminated

    def _stand_down(self, switch: DeadManSwitch) -> None:
        if self.poolers.left_paused:
            switch.leave_armed()
        else:
            switch.disarm()

    def _still_waiting(self) -> None:
        """Raise `HoldfastError` when clients do not wait any more, so that nothing may be renamed."""
        if any(switch.fired() for switch in self.switches):
            raise _too_slow(self.request.max_pause_s)

    def _exchange(self, connection: Connection, plan: _Plan, doors: Doors, deadline: Deadline) -> None:
        """Everything that makes the replacement live, in one transaction."""
        live, replacement, retired = plan.live.name, plan.replacement.name, plan.retired_name
        with transaction(connection), connection.cursor() as cursor:
            _limit_waits(connection, deadline.left_s())
            # Something may have come between the examination and the closing of the doors.
            self._refuse_blockers(connection, (plan.live, plan.replacement))
            doors.open_within(connection)
            self._carry_over(connection, plan)
            cursor.execute(sql.SQL(RENAME).format(sql.Identifier(live), sql.Identifier(retired)))
            _limit_waits(connection, deadline.left_s())
            cursor.execute(sql.SQL(RENAME).format(sql.Identifier(replacement), sql.Identifier(live)))
            cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(live)))
            named = {d.name: d.oid for d in list_databases(connection=connection, names=[live, retired])}
            if named != {live: plan.replacement.oid, retired: plan.live.oid}:
                raise HoldfastError(
                    code="swap_blocked",
                    msg="Database %r or %r was replaced by another one during the swap; nothing was renamed."
                    % (live, replacement),
                    hint="Find out who renames databases here, look with pg_database_info, then run the task again.",
                    blockers=[],
                )
            self._still_waiting()

    def _landed(self, plan: _Plan) -> bool:
        """Return whether the names were exchanged, asked on a new connection once the lost one has ended."""
        names = (plan.live.name, plan.replacement.name)
        with contextlib.closing(self.connect()) as connection, _names_locked(connection, names):
            live = find_database(connection=connection, name=plan.live.name)
            return live is not None and live.oid == plan.replacement.oid

    def _explained(self, connection: Connection, exc: psycopg2.Error, plan: _Plan) -> Exception:
        if exc.pgcode in (errorcodes.LOCK_NOT_AVAILABLE, errorcodes.QUERY_CANCELED):
            return _too_slow(self.request.max_pause_s)
        if exc.pgcode == errorcodes.OBJECT_IN_USE:
            sessions = read_occupants(connection=connection, oids=plan.oids)
            return in_use(sessions, waited_s=SERVER_WAIT_S)
        if exc.pgcode == errorcodes.DUPLICATE_DATABASE:
            return HoldfastError(
                code="target_exists",
                msg="Database %r was created meanwhile; nothing was renamed." % plan.retired_name,
                hint="Choose another retired_name, then run the task again.",
            )
        return exc


def _require_rights(connection: Connection, databases: Sequence[Database]) -> None:
    lacking = lacking_rights(connection=connection, databases=databases)
    if lacking:
        raise HoldfastError(
            code="permission_denied",
            msg="This role cannot rename the databases; it lacks %s." % " and ".join(lacking),
            hint="Connect as a superuser, or as a role with CREATEDB that owns both databases. Nothing was touched.",
        )


def _limit_waits(connection: Connection, timeout_s: float) -> None:
    """Bound what the next statements of the transaction may wait for, and how long the server waits for us.

    The time for which RENAME itself waits for sessions is not bounded by lock_timeout. The last one is for a process
    that is stopped here and would commit when it comes to itself.
    """
    limit = "%dms" % max(1, int(timeout_s * 1000))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_catalog.set_config('lock_timeout', %s, true),"
            " pg_catalog.set_config('statement_timeout', %s, true),"
            " pg_catalog.set_config('idle_in_transaction_session_timeout', %s, true)",
            (limit, limit, limit),
        )


def _newest_retired(connection: Connection, live: str) -> Database | None:
    """Return the database that the last swap of ``live`` retired under a name made from the time."""
    stamp = "YYYYMMDDTHHMMSSZ"
    prefix = suffixed_name(live, RETIRED_SUFFIX + stamp)[: -len(stamp)]
    pattern = re.compile(re.escape(prefix) + r"\d{8}T\d{6}Z(_\d+)?")
    found = [d for d in list_databases(connection=connection) if pattern.fullmatch(d.name)]
    return max(found, key=lambda d: d.name, default=None)
