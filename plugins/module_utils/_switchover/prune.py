# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dropping the side databases that deployments left and nobody needs any more.

A side database ceases to be one in a single transaction: while nobody is in it and nobody can come, it is looked at
once more, closed, and given a name under which only the next cleanup finds it. Only then it is dropped, which may take
a while and may be interrupted.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
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
from ansible_collections.holdfast.postgres.plugins.module_utils._core.unfinished import abandoned_restores
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.clone import stale_copies
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import (
    Database,
    database_size,
    find_database,
    get_database,
    lacking_rights,
    list_databases,
    prepare_session,
    read_blockers,
    read_deployments,
    read_occupants,
    transaction,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.drain import read_marks
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.retention import (
    Decision,
    Knowledge,
    Policy,
    SideDatabase,
    ambiguity,
    choose,
    choose_needless,
    choose_rehearsals,
    side_of,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.swap import lock_key

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: Ends the name of a database that is about to be dropped; the number is its OID.
DROPPING_SUFFIX = ".holdfast-drop-%d"
DROPPING = re.compile(r".*\.holdfast-drop-(\d+)", re.DOTALL)

#: How long the renaming waits for a lock on the database; somebody who holds one is at work on it.
LOCK_TIMEOUT = "2s"


class _Kept(Exception):
    """Something came between the examination and the renaming; the text says what."""


def prune_side_databases(
    *,
    server: Server,
    live: str,
    policy: Policy,
    history_table: str,
    confirm: str | None = None,
    points: Sequence[Mapping[str, Any]] | None = None,
    runs: Sequence[Mapping[str, Any]] | None = None,
    needless: tuple[str, int | None] | None = None,
    rehearsals: tuple[str | None, int | None] | None = None,
    now: datetime | None = None,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Drop the side databases of ``live`` that `retention.choose` gives up, and return the keys of the module.

    ``points`` and ``runs`` come from the ledger, None where it cannot be read. With ``needless``, a deployment's id and
    the OID of its clone, only this clone is looked at; with ``rehearsals``, the same or nothing of either, only the
    databases of rehearsals are. What cannot be dropped is kept with the reason and fails
    nothing. Raises `HoldfastError` with the codes ``confirm_required``, ``option_invalid``, ``name_invalid``,
    ``server_is_standby``, ``database_not_found`` or ``database_invalid`` before anything is touched.
    """
    started = time.monotonic()
    _validate(live, policy, confirm=confirm, check_mode=check_mode, maintenance_db=server.maintenance_db)
    with contextlib.closing(_connect(server)) as connection:
        refuse_standby(connection)
        database = get_database(connection=connection, name=live)
        deployments = read_deployments(server=server, database=live, history_table=history_table)
        known = Knowledge(
            live={"name": live, "oid": database.oid, "deployments": deployments},
            points=points,
            runs=runs,
            now=now or datetime.now(timezone.utc),
        )
        sides = _sides(connection, live)
        removed: list[dict[str, Any]] = []
        kept: list[dict[str, Any]] = []
        if rehearsals is not None:
            decisions = choose_rehearsals(sides, known=known, deployment_id=rehearsals[0], side_oid=rehearsals[1])
        elif needless is None:
            decisions = choose(sides, known=known, policy=policy)
            removed += _finish_killed_runs(connection, server, check_mode=check_mode)
        else:
            decisions = choose_needless(sides, known=known, deployment_id=needless[0], side_oid=needless[1])
        for decision in decisions:
            reason = decision.reason
            gone = decision.remove
            if gone and not check_mode:
                obstacle = _remove(connection, decision.side, live=database)
                gone, reason = obstacle is None, obstacle or reason
            (removed if gone else kept).append(_as_dict(decision, reason))
    return {
        "changed": bool(removed),
        "database": live,
        "removed": removed,
        "kept": kept,
        "freed_bytes": sum(entry["bytes"] or 0 for entry in removed),
        "duration_s": round(time.monotonic() - started, 3),
    }


def _validate(live: str, policy: Policy, *, confirm: str | None, check_mode: bool, maintenance_db: str) -> None:
    check_name(live, what="live database")
    if live == maintenance_db:
        raise HoldfastError(
            code="option_invalid",
            msg="maintenance_db is the live database %r." % live,
            hint="Set maintenance_db to another database, such as postgres or template1.",
        )
    if policy.keep_days < 0 or policy.keep_last < 0:
        raise HoldfastError(
            code="option_invalid",
            msg="keep_days and keep_last must not be negative.",
            hint="Correct the options; nothing was touched.",
        )
    # What only predicts needs no confirmation, but a wrong one is wrong there, too.
    if confirm != live and (confirm or not check_mode):
        raise HoldfastError(
            code="confirm_required",
            msg="Dropping side databases of %r needs confirm to be exactly that name; it is %s."
            % (live, repr(confirm) if confirm else "not given"),
            hint="Look with check mode what would be dropped, then set confirm to the name of the live database.",
        )


def _connect(server: Server) -> Connection:
    connection = server.connect(server.maintenance_db, application_name="holdfast cleanup")
    prepare_session(connection)
    return connection


def _sides(connection: Connection, live: str) -> list[SideDatabase]:
    """Return the databases whose names are those of side databases of ``live``, with what keeps them from a drop."""
    databases = list_databases(connection=connection)
    names = [database.name for database in databases]
    found = []
    for database in databases:
        side = side_of(database.name, live=live)
        if side is not None:
            found.append(
                SideDatabase(
                    name=database.name,
                    oid=database.oid,
                    kind=side[0],
                    run=side[1],
                    bytes=database_size(connection=connection, oid=database.oid),
                    invalid=database.invalid,
                    hindrance=_hindrance(connection, database),
                    ambiguous=ambiguity(database.name, live=live, others=names),
                )
            )
    return found


def _hindrance(connection: Connection, database: Database) -> str | None:
    """Return what keeps a database from being dropped, in words, or None."""
    if database.invalid:
        owned = [right for right in lacking_rights(connection=connection, databases=[database]) if right != "CREATEDB"]
        return "this role lacks %s" % owned[0] if owned else None
    reasons = []
    if database.is_template:
        reasons.append("it is a template")
    if any(mark.oid == database.oid for mark in read_marks(connection)):
        reasons.append("an interrupted swap has closed it; run that swap again")
    blockers = read_blockers(connection=connection, databases=[database])[database.oid]
    reasons += [blocker.message for blocker in blockers]
    sessions = read_occupants(connection=connection, oids=[database.oid])
    reasons += ["in use: %s" % session.describe() for session in sessions[:5]]
    if len(sessions) > 5:
        reasons.append("%d more sessions" % (len(sessions) - 5))
    lacking = lacking_rights(connection=connection, databases=[database])
    if lacking:
        reasons.append("this role lacks %s" % " and ".join(lacking))
    return "; ".join(reasons) or None


def _remove(connection: Connection, side: SideDatabase, *, live: Database) -> str | None:
    """Drop one side database; return None, or what kept it from being dropped."""
    name = side.name
    try:
        with _names_claimed(connection, (live.name, side.name)):
            name = _close_for_good(connection, side, live=live)
        # This may take a while, so swaps may run meanwhile.
        _drop(connection, name)
    except _Kept as exc:
        return str(exc)
    except psycopg2.Error as exc:
        reason = _explained(connection, exc)
        if name != side.name:
            reason = "it is closed for good as %r, and the next cleanup drops it: %s" % (name, reason)
        return reason
    return None


def _explained(connection: Connection, exc: psycopg2.Error) -> str:
    """Return what the server said; without a connection there is nothing to go on with."""
    if connection.closed:
        raise exc
    return " ".join(str(exc.diag.message_primary or exc).split())


@contextlib.contextmanager
def _names_claimed(connection: Connection, names: Sequence[str]) -> Iterator[None]:
    """Keep swaps of these names out for the block; raises `_Kept` when one is running."""
    keys = [lock_key(name) for name in names]
    with connection.cursor() as cursor:
        try:
            for key in keys:
                cursor.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", (key,))
                if not only_row(cursor)[0]:
                    raise _Kept("a swap is running")
            yield
        finally:
            if not connection.closed:
                cursor.execute("SELECT pg_catalog.pg_advisory_unlock_all()")


def _close_for_good(connection: Connection, side: SideDatabase, *, live: Database) -> str:
    """Give a side database the name of one that is to be dropped, closed to everybody, and return the name.

    An invalid one can only be dropped, and keeps its name. Raises `_Kept` when it is not what was examined any more.
    """
    serving = find_database(connection=connection, name=live.name)
    present = find_database(connection=connection, name=side.name)
    if serving is None or serving.oid != live.oid:
        raise _Kept("another database than before serves as %s; run the cleanup again" % live.name)
    if present is None or (present.oid, present.invalid) != (side.oid, side.invalid):
        raise _Kept("it was dropped or replaced meanwhile")
    if side.invalid:
        return side.name
    name = suffixed_name(side.name, DROPPING_SUFFIX % side.oid)
    with transaction(connection), connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        # From here on nobody is in it and nobody can come (RENAME locks it as an object and counts its sessions).
        cursor.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(side.name), sql.Identifier(name))
        )
        renamed = get_database(connection=connection, name=name)
        if renamed.oid != side.oid:
            raise _Kept("it was dropped or replaced meanwhile")
        blockers = read_blockers(connection=connection, databases=[renamed])[renamed.oid]
        if blockers:
            raise _Kept("; ".join(blocker.message for blocker in blockers))
        cursor.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0").format(sql.Identifier(name))
        )
    return name


def _drop(connection: Connection, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def _finish_killed_runs(connection: Connection, server: Server, *, check_mode: bool) -> list[dict[str, Any]]:
    """Drop what killed runs on this server have left half-made or half-dropped; nobody was ever able to use it."""
    gone = [
        database
        for database in list_databases(connection=connection)
        if _half_dropped(database) and not lacking_rights(connection=connection, databases=[database])
    ]
    gone += stale_copies(connection)
    removed = [
        entry
        for database in gone
        for entry in _finish(connection, database, "a killed run left it", check_mode=check_mode)
    ]
    for name in abandoned_restores(connection=connection, server=server):
        found = find_database(connection=connection, name=name)
        if found is not None:
            removed += _finish(connection, found, "a killed restore left it half-built", check_mode=check_mode)
    return removed


def _half_dropped(database: Database) -> bool:
    match = DROPPING.fullmatch(database.name)
    closed = not database.allow_connections and (database.connection_limit == 0 or database.invalid)
    return match is not None and closed and int(match.group(1)) == database.oid


def _finish(connection: Connection, database: Database, reason: str, *, check_mode: bool) -> list[dict[str, Any]]:
    """Return the entry of a leftover that is dropped, and nothing when it cannot be, such as another role's."""
    side = SideDatabase(
        database.name, database.oid, "unfinished", "", database_size(connection=connection, oid=database.oid)
    )
    if not check_mode:
        with connection.cursor() as cursor:
            try:
                cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(database.name)))
            except psycopg2.Error:
                if connection.closed:
                    raise
                return []
    return [_as_dict(Decision(side, True, reason), reason)]


def _as_dict(decision: Decision, reason: str) -> dict[str, Any]:
    side = decision.side
    return {
        "name": side.name,
        "oid": side.oid,
        "kind": side.kind,
        "deployment_id": side.run or None,
        "made_at": decision.at.strftime("%Y-%m-%dT%H:%M:%SZ") if decision.at else None,
        "bytes": side.bytes,
        "reason": reason,
    }
