# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator asks of poolers, outside of a swap: states of one database, and what the console shows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import (
    CONNECT_TIMEOUT_S,
    Console,
    PoolerAddress,
    argument,
    connected,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import Session, read_sessions
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.discovery import entries_to, require_admin
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.gate import one_line
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.guard import (
    Guard,
    program_runner,
    remove_guard,
    set_guard,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import Poolers
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.refusal import stuck_named

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

#: What is told to a console for a state that is not about waiting.
WORDS = {"reloaded": "RELOAD", "reconnected": "RECONNECT", "killed": "KILL"}

#: What `show` can tell.
SUBJECTS = ("clients", "config", "databases", "lists", "pools", "servers", "stats")


@dataclass(frozen=True)
class PoolerRequest:
    """What is asked for; see the options of the module pgbouncer."""

    poolers: Sequence[PoolerAddress]
    state: str
    database: str | None = None
    confirm: str | None = None
    timeout_s: float = 2
    attempts: int = 3
    max_pause_s: float = 15
    lifetime_s: float = 900
    system_user: str | None = None
    python: str = "/usr/bin/python3"


def set_state(
    request: PoolerRequest, *, server: Server | None, environment: Mapping[str, str], check_mode: bool = False
) -> dict[str, Any]:
    """Bring every pooler to the state and return the keys that the module pgbouncer documents.

    Raises `HoldfastError` with the codes that the module documents.
    """
    database = request.database or ""
    if request.state == "killed" and request.confirm != database:
        raise HoldfastError(
            code="confirm_required",
            msg="Killing all connections to %r needs confirm to be exactly that name; it is %s."
            % (database, "not given" if not request.confirm else repr(request.confirm)),
            hint="Set confirm to the name of the database. Nothing was touched.",
        )
    if request.timeout_s <= 0 or request.attempts < 1:
        raise HoldfastError(
            code="option_invalid",
            msg="timeout (%g s) must be positive and attempts (%d) at least 1." % (request.timeout_s, request.attempts),
            hint="Correct the options; nothing was touched.",
        )
    if request.state in ("paused", "resumed"):
        entries = set_paused(
            request.poolers,
            database=database,
            paused=request.state == "paused",
            timeout_s=request.timeout_s,
            attempts=request.attempts,
            server=server,
            check_mode=check_mode,
        )
    elif request.state in WORDS:
        about = None if request.state == "reloaded" else request.database
        entries = tell(request.poolers, word=WORDS[request.state], database=about, check_mode=check_mode)
    else:
        run = program_runner(environment)
        guards = [
            Guard(
                address=address,
                database=database,
                max_pause_s=request.max_pause_s,
                lifetime_s=request.lifetime_s,
                system_user=request.system_user,
                python=request.python,
            )
            for address in request.poolers
        ]
        put = set_guard if request.state == "guarded" else remove_guard
        entries = [put(guard, run=run, check_mode=check_mode) for guard in guards]
    return {"changed": any(entry["changed"] for entry in entries), "poolers": entries}


def set_paused(
    addresses: Sequence[PoolerAddress],
    *,
    database: str,
    paused: bool,
    timeout_s: float,
    attempts: int,
    server: Server | None = None,
    check_mode: bool = False,
) -> list[dict[str, Any]]:
    """Pause or resume ``database`` in every pooler and return the entries of ``poolers[]``.

    Pausing is all or none. ``server`` is asked only to say what a client does that a pause waits for. Raises
    `HoldfastError` as `Poolers.open` and `Poolers.pause`, and with ``connection_failed`` for a pooler that was not
    resumed.
    """

    def activity(pids: Sequence[int]) -> list[Session]:
        if server is None:
            return []
        try:
            with server.session(server.maintenance_db, application_name="holdfast pgbouncer") as connection:
                return read_sessions(connection=connection, oids=(), pids=pids)
        except (HoldfastError, psycopg2.Error):
            return []  # the refusal itself is what matters

    poolers = Poolers(addresses, database=database, attempts=attempts, attempt_timeout_s=timeout_s)
    with contextlib.closing(poolers), stuck_named(poolers):
        poolers.open()
        before = set(poolers.left_paused)
        if not check_mode:
            if paused:
                # Each attempt has its own limit, and so has the waiting for logins before it.
                poolers.pause(timeout_s=4 * timeout_s * attempts, activity=activity)
            else:
                poolers.resume()
        facts = poolers.facts
    lost = [fact for fact in facts if fact["error"]]
    if lost:
        raise HoldfastError(
            code="connection_failed",
            msg="Not resumed: %s" % "; ".join("pooler %(name)s at %(console)s: %(error)s" % fact for fact in lost),
            hint="RESUME the database on these consoles as soon as they answer; one that is not running needs nothing.",
            poolers=facts,
        )
    return [
        {
            "name": fact["name"],
            "console": fact["console"],
            "databases": fact["databases"],
            "changed": (fact["name"] in before) is not paused,
            "paused": paused,
            "attempts": fact["attempts"],
        }
        for fact in facts
    ]


def tell(
    addresses: Sequence[PoolerAddress], *, word: str, database: str | None = None, check_mode: bool = False
) -> list[dict[str, Any]]:
    """Tell every pooler RELOAD, RECONNECT or KILL, once all can be told, and return the entries of ``poolers[]``.

    Raises `HoldfastError` with ``operation_running`` for a reload while a database is paused, after which new clients
    of it would be turned away.
    """
    with contextlib.ExitStack() as stack:
        consoles = [stack.enter_context(contextlib.closing(Console(address))) for address in addresses]
        connected(consoles, timeout_s=CONNECT_TIMEOUT_S)
        plans = []
        for console in consoles:
            require_admin(console)
            entries = console.entries()
            paused = [entry.name for entry in entries if entry.paused]
            if word == "RELOAD" and paused:
                raise HoldfastError(
                    code="operation_running",
                    msg="Pooler %s is not reloaded while %s is paused: new clients would be turned away."
                    % (console.address.name, ", ".join(map(repr, paused))),
                    hint="Wait for the swap or the clone that paused it, or set state to resumed.",
                )
            names = [entry.name for entry in entries_to(console, database)] if database is not None else []
            plans.append((console, names, word != "KILL" or _kill_changes(console, names)))
        result = []
        for console, names, changes in plans:
            if changes and not check_mode:
                for statement in ["%s %s" % (word, argument(name)) for name in names] or [word]:
                    _command(console, statement)
            result.append(
                {
                    "name": console.address.name,
                    "console": console.address.where,
                    "databases": names,
                    "changed": changes,
                    "paused": word == "KILL",
                }
            )
    return result


def _kill_changes(console: Console, names: Sequence[str]) -> bool:
    """Return whether KILL would do anything: it disconnects everybody and leaves the database paused."""
    if not all(entry.paused for entry in console.entries() if entry.name in names):
        return True
    return any(row["database"] in names for what in ("CLIENTS", "SERVERS") for row in console.show(what))


def _command(console: Console, statement: str) -> None:
    try:
        console.command(statement)
    except psycopg2.Error as exc:
        raise HoldfastError(
            code="query_failed",
            msg="Pooler %s at %s refused %s: %s"
            % (console.address.name, console.address.where, statement, one_line(exc)),
            hint="See the log of this PgBouncer.",
            pooler=console.address.name,
        ) from exc


def show(addresses: Sequence[PoolerAddress], *, subjects: Sequence[str] = SUBJECTS) -> list[dict[str, Any]]:
    """Return for every pooler its name, console, version and the ``subjects``.

    Rows are as the version at hand has them, with lower-case keys and numbers as numbers; ``config`` and ``lists`` are
    dictionaries. Raises `HoldfastError` with ``connection_failed``, ``authentication_failed`` or ``timeout``.
    """
    found = []
    with contextlib.ExitStack() as stack:
        consoles = [stack.enter_context(contextlib.closing(Console(address))) for address in addresses]
        connected(consoles, timeout_s=CONNECT_TIMEOUT_S)
        for console in consoles:
            try:
                entry = _shown(console, subjects)
            except psycopg2.Error as exc:
                raise HoldfastError(
                    code="query_failed",
                    msg="Pooler %s at %s: %s" % (console.address.name, console.address.where, one_line(exc)),
                    hint="See the log of this PgBouncer; SHOW needs a user of admin_users or stats_users.",
                    pooler=console.address.name,
                ) from exc
            found.append(entry)
    return found


def _shown(console: Console, subjects: Sequence[str]) -> dict[str, Any]:
    rows = {subject: console.show(subject.upper()) for subject in subjects}
    entry: dict[str, Any] = {
        "name": console.address.name,
        "console": console.address.where,
        "version": console.show("VERSION")[0]["version"].replace("PgBouncer", "").strip(),
        **rows,
    }
    if "config" in rows:
        entry["config"] = {row["key"]: row["value"] for row in rows["config"]}
    if "lists" in rows:
        entry["lists"] = {row["list"]: row["items"] for row in rows["lists"]}
    return entry
