# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making the clients of a database wait in every PgBouncer in front of it, all or none, and letting them go on.

PAUSE of one database answers when the last transaction in it has ended; until then everybody else's next transaction
waits already. So each attempt is short, and when one pooler does not get there, all are resumed before the next.
A connection that waits for its PAUSE can do nothing else: RESUME has one of its own, opened before.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.backlog import ASK_INTERVAL_S, Backlog
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import (
    CONNECT_TIMEOUT_S,
    Console,
    PoolerAddress,
    PoolerSession,
    connected,
    logging_in,
    wait_for,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.discovery import (
    broken,
    entries_to,
    require_admin,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.gate import (
    Gate,
    one_line,
    tell_gates,
    tell_gates_anew,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.probe import Probe
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.refusal import (
    Refusal,
    refusal_of,
    stuck_named,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.watchdog import Watchdog, nothing

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

if TYPE_CHECKING:
    from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
    from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import Session

#: How many times, and for how long each time, clients may wait for a PAUSE that does not get there.
ATTEMPTS = 3
ATTEMPT_TIMEOUT_S = 2.0

#: The pause between two attempts, doubled each time; clients go on meanwhile.
BACKOFF_S = 0.25

#: How often to look whether servers are still logging in; nobody waits meanwhile.
LOGIN_INTERVAL_S = 0.005

#: How long after RESUME to look for when the last of those that waited is served.
MEASURE_TIMEOUT_S = 5.0

#: How long to try to have the probe served once before clients are made to wait.
PROBE_TIMEOUT_S = 2.0

#: How long the process on guard tries.
GUARDIAN_TIMEOUT_S = 60.0

Target = tuple[PoolerAddress, str]
Activity = Callable[[Sequence[int]], "Sequence[Session]"]


class _Pooler:
    """One PgBouncer process while its clients are made to wait."""

    def __init__(self, address: PoolerAddress) -> None:
        self.address = address
        self.gates: list[Gate] = []
        self.probe: Probe | None = None
        self.unprobed: str | None = None
        self.was_paused = False
        self.turned_away_s = math.inf
        self.attempts = 0
        self.sent: float | None = None
        self.stall_s = 0.0
        self.paused_at: datetime | None = None
        self.backlog: Backlog | None = None
        self.waiting = 0
        self.waited_s = 0.0
        self.unseen_s = 0.0
        self._may_probe = False

    @property
    def names(self) -> list[str]:
        return [gate.name for gate in self.gates]

    def open(self, database: str) -> None:
        """Connect, and find the names that lead to ``database``."""
        first = Console(self.address)
        try:
            connected([first], timeout_s=CONNECT_TIMEOUT_S)
            require_admin(first)
            entries = entries_to(first, database)
            settings = {row["key"]: row["value"] for row in first.show("CONFIG")}
            self.turned_away_s = float(settings.get("query_wait_timeout") or 0) or math.inf
            # In session mode a client keeps its server, and the probe itself would be what a PAUSE waits for.
            modes = {entry.pool_mode or settings.get("pool_mode") for entry in entries}
            self._may_probe = self.address.probe is not None and "session" not in modes
        finally:
            first.close()
        self.was_paused = any(entry.paused for entry in entries)
        self.gates = [Gate(self.address, entry.name) for entry in entries]
        for gate in self.gates:
            gate.session_mode = "session" in modes
        connected([console for gate in self.gates for console in gate.consoles], timeout_s=CONNECT_TIMEOUT_S)

    def open_probe(self) -> None:
        """Have an ordinary client ask once, so that nothing but the pause can hold it up; not while it would wait.

        A pooler may let no client through, because its logins to the server fail: for a moment after a crash of the
        server, or for as long as something is wrong with the live database. That is no reason against a swap, only
        against measuring by this client. Raises `HoldfastError` for a login that PgBouncer itself does not accept.
        """
        client = self.address.probe
        if client is None or not self._may_probe or self.was_paused or self.probe is not None:
            return
        wait_until(lambda: self._asked_as(client), timeout_s=PROBE_TIMEOUT_S)

    def _asked_as(self, client: Server) -> bool:
        session = None
        try:
            session = PoolerSession(
                self.address,
                server=client,
                database=self.gates[0].name,
                application_name="holdfast probe",
            )
            connected([session], timeout_s=PROBE_TIMEOUT_S)
            session.command("SELECT 1", timeout_s=PROBE_TIMEOUT_S)
        except (HoldfastError, psycopg2.Error) as exc:
            if session is not None:
                session.close()
            if isinstance(exc, HoldfastError) and exc.code == "authentication_failed":
                raise
            self.unprobed = one_line(exc)
            return False
        self.probe, self.unprobed = Probe(session), None
        return True

    def begin_pause(self) -> None:
        """Send PAUSE for every name."""
        self.attempts += 1
        self.was_paused = True  # until `finish_pause` knows better, whatever comes between
        self.paused_at = datetime.now(timezone.utc)
        self.sent = self.sent or time.monotonic()
        for gate in self.gates:
            gate.begin_pause()

    def watch_backlog(self) -> None:
        """Ask how many clients wait, on a console that is free, without waiting for the answer."""
        self.backlog = None
        if self.gates and self.gates[0].paused:
            self.backlog = Backlog(self.gates[0].pauser, self.names)
            self.backlog.ask()

    def look(self) -> None:
        """Take what the probe and the pooler say, and ask again."""
        if self.probe is not None:
            self.probe.look()
        if self.backlog is not None:
            self.backlog.look(resumed_at=max(gate.resumed_at for gate in self.gates))
            self.backlog.ask()

    @property
    def questions(self) -> list[PoolerSession]:
        """Return the sessions on which there will be an answer."""
        return [who.session for who in (self.probe, self.backlog) if who is not None and who.under_way]

    @property
    def served(self) -> bool:
        """Whether everybody has been served who waited."""
        asking = self.probe is not None and self.probe.under_way
        return not asking and (self.backlog is None or self.backlog.over)

    def stop_watching(self) -> None:
        """Leave it at the time from PAUSE to RESUME."""
        self.backlog = None
        if self.probe is not None:
            self.probe.give_up("not looked at, since a pooler did not answer")

    def finish_measure(self) -> None:
        """Keep what was seen."""
        if self.probe is not None:
            self.probe.give_up("no answer within %g s after RESUME" % MEASURE_TIMEOUT_S)
        if self.backlog is not None:
            self.waiting = max(self.waiting, self.backlog.clients)
            self.waited_s = max(self.waited_s, self.backlog.longest_s)
            self.backlog = None

    def finish_pause(self) -> None:
        """Take the time, and remember whether it is paused still."""
        self.was_paused = any(gate.error is not None for gate in self.gates)
        if self.sent is not None:
            ends = [gate.resumed_at for gate in self.gates if gate.error is None] or [time.monotonic()]
            held_s = max(ends) - self.sent
            self.stall_s = max(self.stall_s, held_s)
            if self.backlog is None:
                self.unseen_s = max(self.unseen_s, held_s)
            self.sent = None

    def close(self) -> None:
        for gate in self.gates:
            gate.close()
        if self.probe is not None:
            self.probe.session.close()

    def facts(self) -> dict[str, Any]:
        """Return the entry of ``poolers[]``."""
        stall_s, source = self._stall()
        errors = [gate.error for gate in self.gates if gate.error]
        return {
            "name": self.address.name,
            "console": self.address.where,
            "databases": self.names,
            "attempts": self.attempts,
            "clients_waiting": self.waiting,
            "paused_at": self.paused_at.isoformat(timespec="milliseconds") if self.paused_at else None,
            "stall_ms": round(stall_s * 1000, 1),
            "stall_source": source,
            "error": errors[0] if errors else None,
            "probe_error": self.probe.error if self.probe is not None else self.unprobed,
        }

    def _stall(self) -> tuple[float, str]:
        """Return the longest time that a client is known to have waited, and who says so."""
        probed = self.probe is not None and self.probe.error is None
        other = (self.probe.longest_s, "probe") if self.probe is not None and probed else (self.unseen_s, "console")
        longest = max((self.waited_s, "clients"), other)
        return longest if longest[0] > 0 else (self.stall_s, "console")


class Poolers:
    """Every PgBouncer in front of one database, as one."""

    def __init__(
        self,
        addresses: Sequence[PoolerAddress],
        *,
        database: str,
        attempts: int = ATTEMPTS,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
    ) -> None:
        self.addresses = tuple(addresses)
        self.database = database
        self.attempts = attempts
        self.attempt_timeout_s = attempt_timeout_s
        self._poolers: list[_Pooler] = []

    @property
    def _gates(self) -> list[Gate]:
        return [gate for pooler in self._poolers for gate in pooler.gates]

    def open(self) -> None:
        """Connect to every pooler and find the names that lead to the database; nobody waits yet.

        Where one is of no use, the others can still be resumed; the caller closes in any case.

        Raises `HoldfastError` with the codes ``connection_failed``, ``authentication_failed``, ``permission_denied``,
        ``database_not_found``, ``unsupported`` or ``timeout``, naming every pooler that is of no use.
        """
        self._poolers = [_Pooler(address) for address in self.addresses]
        self._each(lambda pooler: pooler.open(self.database))

    def prepare(self) -> None:
        """Have the probes ready, as ordinary clients; raises `HoldfastError` as `open` does."""
        self._each(lambda pooler: pooler.open_probe())

    def _each(self, action: Callable[[_Pooler], None]) -> None:
        failures = []
        for pooler in self._poolers:
            try:
                action(pooler)
            except HoldfastError as exc:
                failures.append(exc)
            except psycopg2.Error as exc:
                failures.append(broken(pooler.address, exc))
        if failures:
            raise HoldfastError(
                code=failures[0].code,
                msg=" ".join(failure.msg for failure in failures),
                hint=failures[0].hint,
                poolers=[failure.details.get("pooler") for failure in failures],
            )

    @property
    def facts(self) -> list[dict[str, Any]]:
        """Return for each pooler, in the order given, what it did; also after `close`."""
        return [pooler.facts() for pooler in self._poolers]

    @property
    def turned_away_s(self) -> float:
        """Return after how many seconds a pooler turns waiting clients away (query_wait_timeout), or infinity."""
        return min((pooler.turned_away_s for pooler in self._poolers), default=math.inf)

    @property
    def targets(self) -> list[Target]:
        """Return every name that is paused and resumed, with where its pooler is."""
        return [(gate.address, gate.name) for gate in self._gates]

    @property
    def left_paused(self) -> list[str]:
        """Return the poolers that are or may be paused: found so, or by `pause`, and not resumed since."""
        return [pooler.address.name for pooler in self._poolers if pooler.was_paused]

    def close(self) -> None:
        """Close all connections. Whatever is paused stays so: `resume` comes first."""
        for pooler in self._poolers:
            pooler.close()

    def pause(self, *, timeout_s: float, activity: Activity | None = None) -> None:
        """Make the clients of all poolers wait, and return when no transaction runs any more.

        Raises `HoldfastError` with the code ``pause_refused`` when one does not get there within the attempts or the
        time; all are resumed then. ``activity`` returns the server's sessions with given process ids, for the message.
        """
        deadline = time.monotonic() + timeout_s
        for number in range(1, self.attempts + 1):
            if number > 1:
                time.sleep(max(0.0, min(BACKOFF_S * 2 ** (number - 2), deadline - time.monotonic())))
            refusals = self._attempt(deadline)
            if not refusals:
                return
            if number == self.attempts or time.monotonic() >= deadline:
                raise _refused(refusals, attempts=number, activity=activity, stuck=bool(self.left_paused))
            for gate in self._gates:
                gate.reopen()

    def _attempt(self, latest: float) -> list[Refusal]:
        """Pause all; when one refuses, resume all and return why."""
        refusals = self._still_logging_in(min(self.attempt_timeout_s, latest - time.monotonic()))
        if refusals:
            return refusals
        started = time.monotonic()
        deadline = min(started + self.attempt_timeout_s, latest)
        try:
            for pooler in self._poolers:
                pooler.begin_pause()
            waiting = [gate for gate in self._gates if gate.error is None]
            while waiting and all(gate.error is None for gate in self._gates):
                for probe in self._probes():
                    probe.ask()
                sessions = [gate.pauser for gate in waiting] + [p.session for p in self._probes()]
                if not wait_for(sessions, timeout_s=deadline - time.monotonic()):
                    break
                for gate in waiting:
                    gate.look()
                waiting = [gate for gate in waiting if not gate.paused and gate.error is None]
            for probe in self._probes():
                probe.ask()
            refusing = [gate for gate in self._gates if not gate.paused]
            failed = [gate for gate in refusing if gate.error is not None]
            refusals = [refusal_of(gate, waited_s=time.monotonic() - started) for gate in failed or refusing]
        except BaseException:
            self.resume()
            raise
        if refusals:
            self.resume()
            self.measure()
        return refusals

    def _probes(self) -> list[Probe]:
        return [pooler.probe for pooler in self._poolers if pooler.probe is not None and pooler.probe.error is None]

    def _still_logging_in(self, timeout_s: float) -> list[Refusal]:
        """Wait until no server of the paused-to-be logs in: PAUSE would close it, and PgBouncer call that a failure.

        After such a failure clients are turned away until a login succeeds (check_fast_fail in src/objects.c).
        """
        refusals: list[Refusal] = []

        def quiet() -> bool:
            refusals.clear()
            for pooler in self._poolers:
                try:
                    number = logging_in(pooler.gates[0].resumer.show("POOLS"), pooler.names)
                except (HoldfastError, psycopg2.Error) as exc:
                    refusals.append(Refusal(pooler.address, pooler.names, one_line(exc), []))
                    continue
                if number:
                    reason = "%d of its servers are still logging in after %.1f s" % (number, timeout_s)
                    refusals.append(Refusal(pooler.address, pooler.names, reason, []))
            return not refusals

        wait_until(quiet, timeout_s=max(0.0, timeout_s), interval_s=LOGIN_INTERVAL_S)
        return refusals

    def resume(self) -> None:
        """Let all clients go on, whether they wait or not.

        It never raises: a pooler that could not be told is named by ``error`` in its facts.
        """
        for pooler in self._poolers:
            pooler.watch_backlog()
        failed = tell_gates(self._gates)
        if failed:
            # Nobody looks while these are told anew, and what the others answer meanwhile would be read too late.
            for pooler in self._poolers:
                pooler.stop_watching()
            tell_gates_anew(failed)
        for pooler in self._poolers:
            pooler.finish_pause()

    def measure(self) -> None:
        """See for how long clients waited, once they can go on; returns when the last of them has been served.

        It never raises. What cannot be seen within a few seconds is left out, or as long as it was then.
        """
        deadline = time.monotonic() + MEASURE_TIMEOUT_S
        # Those that could not be told have let nobody go on.
        watched = [pooler for pooler in self._poolers if not pooler.was_paused]
        while watched and time.monotonic() < deadline:
            wait_for([session for pooler in watched for session in pooler.questions], timeout_s=ASK_INTERVAL_S)
            for pooler in watched:
                pooler.look()
            watched = [pooler for pooler in watched if not pooler.served]
        for pooler in self._poolers:
            pooler.finish_measure()


def _refused(refusals: Sequence[Refusal], *, attempts: int, activity: Activity | None, stuck: bool) -> HoldfastError:
    pids = [client["server_pid"] for refusal in refusals for client in refusal.clients if client["server_pid"]]
    sessions = {session.pid: session for session in activity(pids)} if activity and pids else {}
    for refusal in refusals:
        for client in refusal.clients:
            session = sessions.get(client["server_pid"])
            if session is not None:
                client.update(
                    state=session.state,
                    transaction_age_s=session.transaction_age_s,
                    query_age_s=session.query_age_s,
                    query=session.query,
                )
    return HoldfastError(
        code="pause_refused",
        msg="Clients could not be made to wait in %d attempt%s%s: %s"
        % (
            attempts,
            "" if attempts == 1 else "s",
            "" if stuck else "; nothing is paused",
            "; ".join(refusal.describe() for refusal in refusals),
        ),
        hint="Let these clients end their transactions, or end them with pg_terminate_backend(pid); then run the"
        " task again.",
        refusals=[refusal.as_dict() for refusal in refusals],
    )


class Resumer:
    """Resumes ``targets`` on connections of its own, for the process that is on guard."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        self._gates: list[Gate] = []

    def open(self) -> None:
        """Connect; raises `HoldfastError`."""
        self._gates = [Gate(address, name) for address, name in self.targets]
        connected([console for gate in self._gates for console in gate.consoles], timeout_s=CONNECT_TIMEOUT_S)

    def resume(self) -> None:
        """Let all clients go on; a pooler that does not answer is tried for long."""
        tell_gates_anew(tell_gates(self._gates), timeout_s=GUARDIAN_TIMEOUT_S)


@contextlib.contextmanager
def paused(
    addresses: Sequence[PoolerAddress],
    database: str,
    *,
    timeout_s: float,
    max_pause_s: float | None = None,
    prepare_rescue: Callable[[], None] = nothing,
    before_resume: Callable[[], None] = nothing,
    attempts: int = ATTEMPTS,
    attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
    activity: Activity | None = None,
) -> Iterator[Poolers]:
    """Have the clients of ``database`` wait in every pooler during the block; all are resumed at its end.

    ``timeout_s`` bounds the pausing. With ``max_pause_s`` a process of its own resumes when that time is over or this
    process has ended. It calls ``prepare_rescue`` at once, where connections may be opened, and ``before_resume`` right
    before it resumes, which must not take long. After the block, ``facts`` of what is yielded has what each pooler did.
    Raises `HoldfastError` as `Poolers.open` and `Poolers.pause`.
    """
    poolers = Poolers(
        addresses,
        database=database,
        attempts=attempts,
        attempt_timeout_s=attempt_timeout_s,
    )
    with contextlib.closing(poolers), stuck_named(poolers), contextlib.ExitStack() as armed:
        poolers.open()
        poolers.prepare()
        if max_pause_s is not None:
            resumer = Resumer(poolers.targets)

            def prepare() -> None:
                prepare_rescue()
                resumer.open()

            def rescue() -> None:
                before_resume()
                resumer.resume()

            guardian = Watchdog(rescue, prepare=prepare)
            guardian.arm(timeout_s=max_pause_s)
            armed.callback(lambda: guardian.leave_armed() if poolers.left_paused else guardian.disarm())
        try:
            poolers.pause(timeout_s=timeout_s, activity=activity)
            yield poolers
        finally:
            poolers.resume()
        poolers.measure()
