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
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import (
    BUSY_STATES,
    COMMAND_TIMEOUT_S,
    Console,
    Entry,
    PoolerAddress,
    PoolerSession,
    argument,
    clients_waiting,
    connected,
    logging_in,
    wait_for,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

if TYPE_CHECKING:
    from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import Session

#: How many times, and for how long each time, clients may wait for a PAUSE that does not get there.
ATTEMPTS = 3
ATTEMPT_TIMEOUT_S = 2.0

#: The pause between two attempts, doubled each time; clients go on meanwhile.
BACKOFF_S = 0.25

CONNECT_TIMEOUT_S = 5.0

#: How long to try to resume a pooler that does not answer.
RESUME_TIMEOUT_S = 10.0

#: How often to look whether servers are still logging in; nobody waits meanwhile.
LOGIN_INTERVAL_S = 0.005

#: How long to wait for the probe's answer after RESUME.
PROBE_TIMEOUT_S = 5.0

# What RESUME says when there is nothing to resume.
NOT_PAUSED = ("is not paused", "no such database")

Activity = Callable[[Sequence[int]], "Sequence[Session]"]


class _Gate:
    """One database of one pooler: where its clients wait."""

    def __init__(self, pooler: _Pooler, entry: Entry) -> None:
        self.pooler = pooler
        self.name = entry.name
        self.was_paused = entry.paused
        self.argument = argument(entry.name)
        self.pauser = Console(pooler.address)
        self.resumer = Console(pooler.address)
        self.done = False
        self.error: str | None = None

    @property
    def consoles(self) -> list[Console]:
        return [self.pauser, self.resumer]

    def begin_pause(self) -> None:
        self.done, self.error = False, None
        try:
            self.pauser.send("PAUSE " + self.argument)
        except psycopg2.Error as exc:
            self.error = _one_line(exc)

    def look(self) -> None:
        """See whether the pause is complete or refused."""
        try:
            self.done = self.pauser.ready()
        except psycopg2.Error as exc:
            self.error = _one_line(exc)

    def reopen(self) -> None:
        """Have two usable consoles again, after an attempt that failed."""
        for console in self.consoles:
            console.close()
        self.pauser, self.resumer = Console(self.pooler.address), Console(self.pooler.address)
        connected(self.consoles, timeout_s=CONNECT_TIMEOUT_S)


class _Probe:
    """An ordinary client of a pooler, asking again and again, and the longest time that it waited."""

    def __init__(self, session: PoolerSession) -> None:
        self.session = session
        self.longest_s = 0.0
        self.error: str | None = None
        self._asked: float | None = None

    def ask(self) -> None:
        """Have a question under way."""
        self.look()
        if self._asked is None and self.error is None:
            self._asked = time.monotonic()
            try:
                self.session.send("SELECT 1")
            except psycopg2.Error as exc:
                self.error = _one_line(exc)

    def look(self) -> None:
        """Take the answer when there is one."""
        if self._asked is None or self.error is not None:
            return
        try:
            if self.session.ready():
                self.longest_s = max(self.longest_s, time.monotonic() - self._asked)
                self._asked = None
        except psycopg2.Error as exc:
            self.error = _one_line(exc)

    def finish(self, *, timeout_s: float) -> None:
        """Wait for the answer to the last question."""
        deadline = time.monotonic() + timeout_s
        while self._asked is not None and self.error is None:
            if not wait_for([self.session], timeout_s=deadline - time.monotonic()):
                self.error = "no answer within %g s after RESUME" % timeout_s
            self.look()


class _Pooler:
    """One PgBouncer process while its clients are made to wait."""

    def __init__(self, address: PoolerAddress) -> None:
        self.address = address
        self.gates: list[_Gate] = []
        self.probe: _Probe | None = None
        self.attempts = 0
        self.sent: float | None = None
        self.stall_s = 0.0
        self.waiting = 0

    @property
    def names(self) -> list[str]:
        return [gate.name for gate in self.gates]

    def open(self, database: str) -> None:
        """Connect, and find the names that lead to ``database``."""
        first = Console(self.address)
        try:
            connected([first], timeout_s=CONNECT_TIMEOUT_S)
            _require_admin(first)
            entries = _entries_to(first, database)
            modes = {entry.pool_mode or _default_pool_mode(first) for entry in entries}
        finally:
            first.close()
        self.gates = [_Gate(self, entry) for entry in entries]
        connected([console for gate in self.gates for console in gate.consoles], timeout_s=CONNECT_TIMEOUT_S)
        # In session mode a client keeps its server, and the probe itself would be what a PAUSE waits for.
        if self.address.probe is not None and "session" not in modes:
            session = PoolerSession(
                self.address,
                server=self.address.probe,
                database=self.gates[0].name,
                application_name="holdfast probe",
            )
            connected([session], timeout_s=CONNECT_TIMEOUT_S)
            self.probe = _Probe(session)

    def close(self) -> None:
        for gate in self.gates:
            for console in gate.consoles:
                console.close()
        if self.probe is not None:
            self.probe.session.close()

    def facts(self) -> dict[str, Any]:
        """Return the entry of ``poolers[]``."""
        probed = self.probe is not None and self.probe.error is None
        stall_s = self.probe.longest_s if self.probe is not None and probed else self.stall_s
        errors = [gate.error for gate in self.gates if gate.error]
        return {
            "name": self.address.name,
            "console": self.address.where,
            "databases": self.names,
            "attempts": self.attempts,
            "clients_waiting": self.waiting,
            "stall_ms": round(stall_s * 1000, 1),
            "stall_source": "probe" if probed else "console",
            "error": errors[0] if errors else None,
            "probe_error": self.probe.error if self.probe is not None else None,
        }


class Poolers:
    """Every PgBouncer in front of one database, as one.

    ``activity`` returns the server's sessions with given process ids; it is asked when a PAUSE is refused.
    """

    def __init__(
        self,
        addresses: Sequence[PoolerAddress],
        *,
        database: str,
        attempts: int = ATTEMPTS,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        activity: Activity | None = None,
    ) -> None:
        self.addresses = tuple(addresses)
        self.database = database
        self.attempts = attempts
        self.attempt_timeout_s = attempt_timeout_s
        self.activity = activity
        self.facts: list[dict[str, Any]] = []
        self._poolers: list[_Pooler] = []

    @property
    def _gates(self) -> list[_Gate]:
        return [gate for pooler in self._poolers for gate in pooler.gates]

    def open(self) -> None:
        """Connect to every pooler and find the names that lead to the database; nobody waits yet.

        Raises `HoldfastError` with the codes ``connection_failed``, ``authentication_failed``, ``permission_denied``,
        ``database_not_found`` or ``unsupported``, naming every pooler that is of no use.
        """
        failures = []
        for address in self.addresses:
            pooler = _Pooler(address)
            self._poolers.append(pooler)
            try:
                pooler.open(self.database)
            except HoldfastError as exc:
                failures.append(exc)
        if failures:
            self.close()
            raise HoldfastError(
                code=failures[0].code,
                msg=" ".join(failure.msg for failure in failures),
                hint=failures[0].hint,
                poolers=[failure.details.get("pooler") for failure in failures],
            )

    def close(self) -> None:
        """Close all connections. Whatever is paused stays so: `resume` comes first."""
        for pooler in self._poolers:
            pooler.close()
        self._poolers = []

    def pause(self, *, timeout_s: float) -> None:
        """Make the clients of all poolers wait, and return when no transaction runs any more.

        Raises `HoldfastError` with the code ``pause_refused`` when one does not get there within the attempts or the
        time; all are resumed then.
        """
        deadline = time.monotonic() + timeout_s
        for number in range(1, self.attempts + 1):
            if number > 1:
                time.sleep(max(0.0, min(BACKOFF_S * 2 ** (number - 2), deadline - time.monotonic())))
            refusals = self._attempt(deadline)
            if not refusals:
                return
            if number == self.attempts or time.monotonic() >= deadline:
                raise self._refused(refusals, attempts=number)
            for gate in self._gates:
                gate.reopen()

    def _attempt(self, latest: float) -> list[_Refusal]:
        """Pause all; when one refuses, resume all and return why."""
        refusals = self._still_logging_in(min(self.attempt_timeout_s, latest - time.monotonic()))
        if refusals:
            return refusals
        started = time.monotonic()
        deadline = min(started + self.attempt_timeout_s, latest)
        try:
            for pooler in self._poolers:
                pooler.attempts += 1
                pooler.sent = pooler.sent or time.monotonic()
                for gate in pooler.gates:
                    gate.begin_pause()
            waiting = [gate for gate in self._gates if gate.error is None]
            while waiting and all(gate.error is None for gate in self._gates):
                for probe in self._probes():
                    probe.ask()
                sessions = [gate.pauser for gate in waiting] + [p.session for p in self._probes()]
                if not wait_for(sessions, timeout_s=deadline - time.monotonic()):
                    break
                for gate in waiting:
                    gate.look()
                waiting = [gate for gate in waiting if not gate.done and gate.error is None]
            for probe in self._probes():
                probe.ask()
            refusing = [gate for gate in self._gates if not gate.done]
            failed = [gate for gate in refusing if gate.error is not None]
            refusals = [_refusal_of(gate, waited_s=time.monotonic() - started) for gate in failed or refusing]
        except BaseException:
            self.resume()
            raise
        if refusals:
            self.resume()
        return refusals

    def _probes(self) -> list[_Probe]:
        return [pooler.probe for pooler in self._poolers if pooler.probe is not None and pooler.probe.error is None]

    def _still_logging_in(self, timeout_s: float) -> list[_Refusal]:
        """Wait until no server of the paused-to-be logs in: PAUSE would close it, and PgBouncer call that a failure.

        After such a failure clients are turned away until a login succeeds (check_fast_fail in src/objects.c).
        """
        refusals: list[_Refusal] = []

        def quiet() -> bool:
            refusals.clear()
            for pooler in self._poolers:
                try:
                    number = logging_in(pooler.gates[0].resumer.show("POOLS"), pooler.names)
                except (HoldfastError, psycopg2.Error) as exc:
                    refusals.append(_Refusal(pooler.address, pooler.names, _one_line(exc), []))
                    continue
                if number:
                    reason = "%d of its servers are still logging in after %.1f s" % (number, timeout_s)
                    refusals.append(_Refusal(pooler.address, pooler.names, reason, []))
            return not refusals

        wait_until(quiet, timeout_s=max(0.0, timeout_s), interval_s=LOGIN_INTERVAL_S)
        return refusals

    def resume(self) -> list[dict[str, Any]]:
        """Let all clients go on, whether they wait or not, and return the facts for ``poolers[]``.

        It never raises: a pooler that could not be told is named by ``error`` in its facts.
        """
        for pooler in self._poolers:
            for gate in pooler.gates[:1]:
                # The number of clients that wait is asked for on a console that is free, without waiting for it.
                if gate.done and not gate.pauser.closed:
                    with contextlib.suppress(psycopg2.Error):
                        gate.pauser.send("SHOW POOLS")
        told = [gate for gate in self._gates if _told(gate)]
        for gate in self._gates:
            gate.error = _resumed(gate) if gate in told else "its console is lost"
        for gate in self._gates:
            if gate.error is not None:
                gate.error = _resumed_anew(gate)
        now = time.monotonic()
        for pooler in self._poolers:
            if pooler.sent is not None:
                pooler.stall_s = max(pooler.stall_s, now - pooler.sent)
                pooler.sent = None
            for gate in pooler.gates[:1]:
                if gate.done:
                    pooler.waiting = max(pooler.waiting, _waiting(gate, pooler.names))
            for gate in pooler.gates:
                gate.done = False
        for probe in self._probes():
            probe.finish(timeout_s=PROBE_TIMEOUT_S)
        self.facts = [pooler.facts() for pooler in self._poolers]
        return self.facts

    def _refused(self, refusals: Sequence[_Refusal], *, attempts: int) -> HoldfastError:
        pids = [client["server_pid"] for refusal in refusals for client in refusal.clients if client["server_pid"]]
        sessions = {session.pid: session for session in self.activity(pids)} if self.activity and pids else {}
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
            msg="Clients could not be made to wait in %d attempt%s; nothing is paused: %s"
            % (attempts, "" if attempts == 1 else "s", "; ".join(refusal.describe() for refusal in refusals)),
            hint="Let these clients end their transactions, or end them with pg_terminate_backend(pid); then run the"
            " task again.",
            refusals=[refusal.as_dict() for refusal in refusals],
        )


@dataclass(frozen=True)
class _Refusal:
    """Why one pooler did not pause."""

    address: PoolerAddress
    databases: Sequence[str]
    reason: str
    clients: list[dict[str, Any]]

    def describe(self) -> str:
        shown = "; ".join(map(_described, self.clients[:5]))
        if len(self.clients) > 5:
            shown += "; and %d more" % (len(self.clients) - 5)
        return "pooler %s, database %s: %s%s" % (
            self.address.name,
            ", ".join(map(repr, self.databases)),
            self.reason,
            ": " + shown if shown else "",
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "pooler": self.address.name,
            "console": self.address.where,
            "databases": list(self.databases),
            "reason": self.reason,
            "clients": self.clients,
        }


def _described(client: dict[str, Any]) -> str:
    text = "client %s:%s (user %s%s), server process %s" % (
        client["client_addr"],
        client["client_port"],
        client["user"],
        ", application %s" % client["application_name"] if client["application_name"] else "",
        client["server_pid"] or "unknown",
    )
    if client["transaction_age_s"] is not None:
        text += ", %s, transaction open for %.1f s" % (client["state"], client["transaction_age_s"])
    if client["query"]:
        text += ", query: %s" % " ".join(client["query"].split())
    return text


def _refusal_of(gate: _Gate, *, waited_s: float) -> _Refusal:
    """Return what a gate that did not close says, and which clients kept it open, while they still do."""
    if gate.error is not None:
        return _Refusal(gate.pooler.address, [gate.name], gate.error, [])
    reason = "transactions were still running after %.1f s" % waited_s
    try:
        servers = gate.resumer.show("SERVERS", timeout_s=1)
        clients = gate.resumer.show("CLIENTS", timeout_s=1)
    except (HoldfastError, psycopg2.Error) as exc:
        return _Refusal(gate.pooler.address, [gate.name], "%s (%s)" % (reason, _one_line(exc)), [])
    return _Refusal(gate.pooler.address, [gate.name], reason, holders(servers, clients, gate.name))


def holders(
    servers: Sequence[dict[str, Any]], clients: Sequence[dict[str, Any]], database: str
) -> list[dict[str, Any]]:
    """Return the clients that have a server of ``database``, by the rows of SHOW SERVERS and SHOW CLIENTS."""
    by_pointer = {client["ptr"]: client for client in clients}
    found = []
    for server in servers:
        if server["database"] == database and server["state"] in BUSY_STATES:
            client = by_pointer.get(server["link"], {})
            found.append(
                {
                    "user": client.get("user") or server["user"],
                    "client_addr": client.get("addr"),
                    "client_port": client.get("port"),
                    "application_name": client.get("application_name") or "",  # from 1.18 on
                    "connected_at": client.get("connect_time"),
                    "server_pid": server.get("remote_pid") or None,
                    "state": None,
                    "transaction_age_s": None,
                    "query_age_s": None,
                    "query": "",
                }
            )
    return found


def _require_admin(console: Console) -> None:
    """Raise `HoldfastError` when the user may look only (stats_users)."""
    try:
        console.command("RESUME pgbouncer")  # is never paused
    except psycopg2.Error as exc:
        if "admin access needed" in str(exc):
            raise HoldfastError(
                code="permission_denied",
                msg="Pooler %s: user %s may not pause or resume." % (console.address.name, console.address.server.user),
                hint="Add it to admin_users of this PgBouncer and reload it.",
                pooler=console.address.name,
            ) from exc
        if not any(text in str(exc) for text in NOT_PAUSED):
            raise _broken(console.address, exc) from exc


def _broken(address: PoolerAddress, exc: Exception) -> HoldfastError:
    return HoldfastError(
        code="connection_failed",
        msg="Pooler %s at %s: %s" % (address.name, address.where, _one_line(exc)),
        hint="Look at the log of this PgBouncer.",
        pooler=address.name,
    )


def _default_pool_mode(console: Console) -> str | None:
    return next((row["value"] for row in console.show("CONFIG") if row["key"] == "pool_mode"), None)


def _entries_to(console: Console, database: str) -> list[Entry]:
    """Return the pooler's databases that lead to ``database``.

    By default that is every entry for a database of this name, whatever the host: how a pooler calls the server cannot
    be compared from here, and one entry too many only waits, too. A wildcard's entry exists once somebody has asked for
    it, so the live name is asked for (RECONNECT registers it and does nothing else to one without servers).
    """
    wanted = console.address.databases or [database]
    entries = {entry.name: entry for entry in console.entries()}
    for name in wanted:
        if name not in entries:
            try:
                console.command("RECONNECT " + argument(name))
            except psycopg2.Error as exc:
                if "no such database" not in str(exc):
                    raise _broken(console.address, exc) from exc
            entries = {entry.name: entry for entry in console.entries()}
    if console.address.databases:
        found = [entries[name] for name in wanted if name in entries]
        missing = [name for name in wanted if name not in entries]
    else:
        found = [entry for entry in entries.values() if entry.database == database]
        missing = [] if found else [database]
    if missing:
        raise HoldfastError(
            code="database_not_found",
            msg="Pooler %s at %s has no database %s%s; it has %s."
            % (
                console.address.name,
                console.address.where,
                "" if console.address.databases else "that leads to ",
                ", ".join(map(repr, missing)),
                ", ".join("%r (to %r)" % (entry.name, entry.database) for entry in entries.values()) or "none",
            ),
            hint="Name the pooler's databases with the option databases of the pooler, or leave this pooler out.",
            pooler=console.address.name,
        )
    return found


def _told(gate: _Gate) -> bool:
    """Send RESUME and return whether that was possible."""
    try:
        gate.resumer.send("RESUME " + gate.argument)
    except psycopg2.Error:
        return False
    return True


def _resumed(gate: _Gate, timeout_s: float = 1.0) -> str | None:
    """Wait for the answer to RESUME and return what went wrong."""
    deadline = time.monotonic() + timeout_s
    try:
        while not gate.resumer.ready():
            if not wait_for([gate.resumer], timeout_s=deadline - time.monotonic()):
                return "no answer to RESUME within %g s" % timeout_s
    except psycopg2.Error as exc:
        return None if any(text in str(exc) for text in NOT_PAUSED) else _one_line(exc)
    return None


def _resumed_anew(gate: _Gate) -> str | None:
    """Resume on a new connection, again and again, and return what went wrong in the end."""
    errors: list[str] = []

    def resumed() -> bool:
        try:
            gate.reopen()
        except HoldfastError as exc:
            errors.append(_one_line(exc))
            return False
        error = _resumed(gate) if _told(gate) else "the connection was lost"
        if error is not None:
            errors.append(error)
        return error is None

    return None if wait_until(resumed, timeout_s=RESUME_TIMEOUT_S, interval_s=0.2) else errors[-1]


def _waiting(gate: _Gate, names: Sequence[str]) -> int:
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    try:
        while not gate.pauser.ready():
            if not wait_for([gate.pauser], timeout_s=deadline - time.monotonic()):
                return 0
        return clients_waiting(gate.pauser.rows(), names)
    except psycopg2.Error:
        return 0


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())


@contextlib.contextmanager
def paused(
    addresses: Sequence[PoolerAddress],
    database: str,
    *,
    timeout_s: float,
    attempts: int = ATTEMPTS,
    attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
    activity: Activity | None = None,
) -> Iterator[Poolers]:
    """Have the clients of ``database`` wait in every pooler during the block; all are resumed at its end.

    ``timeout_s`` bounds the pausing, not the block. After the block, ``facts`` of what is yielded has what each pooler
    did.
    """
    poolers = Poolers(
        addresses,
        database=database,
        attempts=attempts,
        attempt_timeout_s=attempt_timeout_s,
        activity=activity,
    )
    poolers.open()
    try:
        try:
            poolers.pause(timeout_s=timeout_s)
            yield poolers
        finally:
            poolers.resume()
    finally:
        poolers.close()
