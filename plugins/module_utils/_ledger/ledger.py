# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping the record of deployments: in the ledger's database, and beside it while that cannot be reached."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    check_name,
    require_driver,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger import journal, schema, store
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.record import (
    build_record,
    check_id,
    fold,
    iso,
    merged,
    new_id,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# What keeps the ledger from being written, as opposed to a request that it refuses.
UNREACHABLE = (
    "authentication_failed",
    "connection_failed",
    "database_not_found",
    "ledger_unavailable",
    "permission_denied",
)

# The record must not hold up what it records: no waiting for locks or for a synchronous standby.
SETTINGS = {"statement_timeout": "10000", "lock_timeout": "5000", "synchronous_commit": "local"}
CONNECT_TIMEOUT_S = 5
NETWORK_LIMITS = {"tcp_user_timeout": "15000"}  # ms; a server whose network is gone sends no error

POINT_KEYS = ("deployment_id", "kind")


@dataclass
class Ledger:
    """Where records go, and what happened on the way there."""

    server: Server
    database: str
    journal_dir: str | None = None
    check_mode: bool = False
    changed: bool = False
    imported: int = 0
    warnings: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def connection(self, *, create: bool) -> Iterator[Connection | None]:
        """A connection to the ledger in its present form, or None where there is none and none may be made.

        Check mode makes none, and says in ``changed`` whether the run would.
        """
        try:
            connection = self._connect()
        except HoldfastError as exc:
            if exc.code != "database_not_found":
                raise
            if not create or not self._create():
                yield None
                return
            connection = self._connect()
        with contextlib.closing(connection):
            missing = schema.missing_upgrades(connection, database=self.database)
            if not missing:
                yield connection
            elif not create:
                yield None
            elif self.check_mode:
                self.changed = self._may(connection)
                yield None
            else:
                self.changed = schema.upgrade(connection, database=self.database) or self.changed
                yield connection

    def _connect(self) -> Connection:
        settings = {**SETTINGS, **({"default_transaction_read_only": "on"} if self.check_mode else {})}
        server = replace(self.server, connect_params={**NETWORK_LIMITS, **self.server.connect_params})
        return server.connect(
            self.database,
            application_name="holdfast ledger",
            settings=settings,
            connect_timeout_s=CONNECT_TIMEOUT_S,
        )

    def _create(self) -> bool:
        if self.check_mode:
            if not schema.may_create_database(server=self.server):
                raise _may_not_create(self.database)
            self.changed = True
            return False
        self.changed = schema.create_database(server=self.server, name=self.database)
        return True

    def _may(self, connection: Connection) -> bool:
        if not schema.may_create_schema(connection):
            raise _may_not_create(self.database)
        return True

    def take_in(self, connection: Connection, paths: list[str]) -> None:
        """Import journals, each in one transaction, and retire them. What fails stays, with a warning."""
        for path in paths:
            try:
                with journal.taken_in(path) as found, transaction(connection) as cursor:
                    for record in found.records:
                        store.apply_record(cursor, record, add_unknown=True)
            except FileNotFoundError:
                continue  # another run was faster
            except (OSError, psycopg2.Error, KeyError, TypeError) as exc:
                if connection.closed:
                    raise
                reason = " ".join(str(exc).split())
                self.warnings.append("The journal %s was not imported and stays where it is: %s" % (path, reason))
                continue
            self.imported += len(found.records)
            self._warn_of_damage(found)

    def _warn_of_damage(self, found: journal.JournalFile) -> None:
        if found.damaged_lines:
            self.warnings.append(
                "The journal %s has damaged lines, which were left out: %s."
                % (found.path, ", ".join(map(str, found.damaged_lines)))
            )

    def journals(self) -> list[str]:
        """Return the journals that wait for their import."""
        return journal.pending(self.journal_dir)

    def journal_of(self, deployment_id: str) -> list[str]:
        """Return the journal of one deployment, if it has one."""
        path = journal.journal_path(self.journal_dir, deployment_id) if self.journal_dir else ""
        return [path] if path and os.path.exists(path) else []

    def journaled(self, paths: list[str]) -> dict[str, dict[str, Any]]:
        """Return the deployments that these journals describe, without importing them."""
        records: list[dict[str, Any]] = []
        for path in paths:
            try:
                found = journal.read(path)
            except OSError as exc:
                self.warnings.append("The journal %s cannot be read: %s" % (path, exc.strerror))
                continue
            records.extend(found.records)
            self._warn_of_damage(found)
        return fold(records)

    def answer(self, kept_in: str, **keys: Any) -> dict[str, Any]:
        """Return the keys of a module result."""
        return {
            "changed": self.changed,
            "ledger": kept_in,
            "imported_records": self.imported,
            "warnings": list(self.warnings),
            **keys,
        }


def _may_not_create(database: str) -> HoldfastError:
    return HoldfastError(
        code="permission_denied",
        msg="There is no ledger in database %r, and the role may not make one." % database,
        hint="Give the role CREATEDB once, or create the database with the role as its owner.",
    )


@contextlib.contextmanager
def transaction(connection: Connection) -> Iterator[Any]:
    """A cursor in a transaction that ends with the block: committed, or rolled back when it raises."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            if not connection.closed:
                cursor.execute("ROLLBACK")
            raise


def record_deployment(
    options: Mapping[str, Any],
    *,
    server: Server,
    now: datetime,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Do what the options of the module say and return the keys of its result.

    While the ledger's database cannot be reached or written, the record goes to the journal and the answer carries a
    warning. Where there is no journal either, and ``must_record`` is false, nothing is recorded. Raises
    `HoldfastError`: ``option_invalid``, ``target_exists``, ``deployment_running``, ``deployment_not_found``, and
    ``ledger_unavailable`` where there is no journal either.
    """
    require_driver()
    state = options["state"]
    database = check_name(options["ledger_database"], what="ledger database")
    live_database = options.get("live_database") or None
    given_id = options.get("deployment_id") or None
    if live_database == database:
        raise HoldfastError(
            code="option_invalid",
            msg="The ledger cannot live in the live database %r: its record would vanish with a rollback." % database,
            hint="Leave ledger_database at its default, or name another database.",
        )
    for option, value, states in (
        ("live_database", live_database, ("opened",)),
        ("deployment_id", given_id, ("recorded", "closed")),
        ("status", options.get("status") or None, ("closed",)),
    ):
        if state in states and value is None:
            raise HoldfastError(
                code="option_invalid",
                msg="The state %s needs the option %s." % (state, option),
                hint="Set %s." % option,
            )
    ledger = Ledger(
        server=server, database=database, journal_dir=options.get("journal_dir") or None, check_mode=check_mode
    )
    deployment_id = check_id(str(given_id)) if given_id else None
    record: dict[str, Any] = {}
    if state != "listed":
        deployment_id = deployment_id or new_id(now)
        record = build_record(options, deployment_id=deployment_id, now=now)
    try:
        answer = _recorded(ledger, options, record, deployment_id=deployment_id, live_database=live_database, now=now)
    except HoldfastError as exc:
        if exc.code not in ("ledger_unavailable", "deployment_not_found") or options.get("must_record", True):
            raise
        answer = _nowhere(ledger, record, exc)
    if state == "opened" and options.get("listed"):
        listing = {**options, "state": "listed", "deployment_id": None}
        others = record_deployment(listing, server=server, now=now, check_mode=check_mode)
        answer.update({key: others[key] for key in ("deployments", "rollback_points")})
    return answer


def _recorded(
    ledger: Ledger,
    options: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    deployment_id: str | None,
    live_database: str | None,
    now: datetime,
) -> dict[str, Any]:
    state = options["state"]
    try:
        if state == "listed":
            return _list_from_database(ledger, options, deployment_id=deployment_id, live_database=live_database)
        return _to_database(ledger, options, record, now=now)
    except HoldfastError as exc:
        if exc.code not in UNREACHABLE:
            raise
        reason = exc.msg
    except psycopg2.Error as exc:
        reason = " ".join((exc.diag.message_primary or str(exc)).split())
    ledger.changed = False
    if state == "listed":
        return _list_from_journals(ledger, options, reason, deployment_id=deployment_id, live_database=live_database)
    return _to_journal(ledger, options, record, reason, now=now)


def _nowhere(ledger: Ledger, record: Mapping[str, Any], failure: HoldfastError) -> dict[str, Any]:
    """Return what there is to say of a record that nothing could take, for a run that must go on."""
    ledger.changed = False
    ledger.warnings.append("%s The run goes on without a record." % failure.msg)
    if not record:
        return _listed(ledger, "nowhere", [], [], deployment_id=None)
    deployment = fold([record])[record["deployment_id"]]
    return ledger.answer("nowhere", deployment=deployment if record["state"] == "closed" else _brief(deployment))


def _to_database(
    ledger: Ledger, options: Mapping[str, Any], record: Mapping[str, Any], *, now: datetime
) -> dict[str, Any]:
    deployment_id = record["deployment_id"]
    opens = record["state"] == "opened"
    waiting = ledger.journals() if opens else ledger.journal_of(deployment_id)
    with ledger.connection(create=opens or bool(waiting)) as connection:
        if ledger.check_mode:
            return _predicted(ledger, options, record, connection, waiting, now=now)
        if connection is None:
            raise _not_found(deployment_id, ledger)
        ledger.take_in(connection, waiting)
        with transaction(connection) as cursor:
            if opens and _opened_before(cursor, options, record, now=now):
                return ledger.answer(
                    "database", deployment=store.read_deployments(cursor, deployment_id=deployment_id)[0]
                )
            if not store.apply_record(cursor, record):
                if ledger.journal_of(deployment_id):
                    raise _unavailable(ledger, "the earlier records of %s are in its journal." % deployment_id)
                raise _not_found(deployment_id, ledger)
            deployment = store.read_deployments(cursor, deployment_id=deployment_id)[0]
            if record["state"] == "closed":
                deployment.update(store.read_parts(cursor, deployment_id))
        return ledger.answer("database", deployment=deployment)


def _opened_before(cursor: Any, options: Mapping[str, Any], record: Mapping[str, Any], *, now: datetime) -> bool:
    """Return whether this opening is a repetition; refuse one that collides with another deployment."""
    known = store.read_deployments(cursor, deployment_id=record["deployment_id"])
    if known and _refuse_reopening(known[0], record):
        return True
    if options.get("exclusive"):
        database = record["deployment"]["database"]
        stale_after_s = options["stale_after_s"]
        running = store.running_deployment(cursor, database=database, now=now, stale_after_s=stale_after_s)
        _refuse_second(running, record)
    return False


def _predicted(
    ledger: Ledger,
    options: Mapping[str, Any],
    record: Mapping[str, Any],
    connection: Connection | None,
    waiting: list[str],
    *,
    now: datetime,
) -> dict[str, Any]:
    """Return what a run would, storing nothing.

    A deployment that check mode opened is nowhere, so its later records are predicted like its first.
    """
    deployment_id = record["deployment_id"]
    known = ledger.journaled(waiting)
    again = False
    if connection is not None:
        with connection.cursor() as cursor:
            again = record["state"] == "opened" and _opened_before(cursor, options, record, now=now)
            for deployment in store.read_deployments(cursor, deployment_id=deployment_id):
                known[deployment_id] = {**deployment, **store.read_parts(cursor, deployment_id)}
    if not again:
        known = fold([record], known)
    deployment = known[deployment_id]
    return ledger.answer("database", deployment=deployment if record["state"] == "closed" else _brief(deployment))


def _to_journal(
    ledger: Ledger, options: Mapping[str, Any], record: Mapping[str, Any], reason: str, *, now: datetime
) -> dict[str, Any]:
    deployment_id = record["deployment_id"]
    directory = _journal_dir(ledger, reason)
    known = ledger.journaled(ledger.journals() if record["state"] == "opened" else ledger.journal_of(deployment_id))
    again = False
    if record["state"] == "opened":
        again = deployment_id in known and _refuse_reopening(known[deployment_id], record)
        if options.get("exclusive") and not again:
            since = iso(now - timedelta(seconds=options["stale_after_s"]))
            running = [
                other
                for other in known.values()
                if other["database"] == record["deployment"]["database"]
                and other["status"] == "running"
                and other["started_at"] > since
            ]
            _refuse_second(running[-1] if running else None, record)
    if not again:
        if not ledger.check_mode:
            try:
                journal.append(directory, record)
            except HoldfastError as exc:
                raise _unavailable(ledger, "%s %s" % (reason, exc.msg)) from exc
        known = fold([record], known)
    ledger.warnings.append(
        "The ledger %r cannot be written (%s); the record is kept in %s and imported later."
        % (ledger.database, reason.rstrip("."), journal.journal_path(directory, deployment_id))
    )
    deployment = known[deployment_id]
    return ledger.answer("journal", deployment=deployment if record["state"] == "closed" else _brief(deployment))


def _list_from_database(
    ledger: Ledger, options: Mapping[str, Any], *, deployment_id: str | None, live_database: str | None
) -> dict[str, Any]:
    waiting = ledger.journals()
    with ledger.connection(create=False) as connection:
        if connection is None:
            listed = _selected(ledger.journaled(waiting), options, deployment_id, live_database)
            return _listed(ledger, "database", *listed, deployment_id=deployment_id)
        if not ledger.check_mode:
            ledger.take_in(connection, waiting)
            waiting = ledger.journals()
        with connection.cursor() as cursor:
            deployments = store.read_deployments(
                cursor, deployment_id=deployment_id, database=live_database, limit=options["limit"]
            )
            points = store.read_rollback_points(cursor, database=live_database)
            if deployment_id and deployments:
                deployments[0].update(store.read_parts(cursor, deployment_id))
        if waiting:  # check mode, or journals that could not be imported
            known = {deployment["id"]: deployment for deployment in deployments}
            more, more_points = _selected(ledger.journaled(waiting), options, deployment_id, live_database)
            deployments = _newest([*deployments, *(d for d in more if d["id"] not in known)], options)
            points = _newest_points(merged(points, more_points, POINT_KEYS))
    return _listed(ledger, "database", deployments, points, deployment_id=deployment_id)


def _list_from_journals(
    ledger: Ledger, options: Mapping[str, Any], reason: str, *, deployment_id: str | None, live_database: str | None
) -> dict[str, Any]:
    _journal_dir(ledger, reason)
    ledger.warnings.append(
        "The ledger %r cannot be read (%s); only its journals are listed." % (ledger.database, reason.rstrip("."))
    )
    listed = _selected(ledger.journaled(ledger.journals()), options, deployment_id, live_database)
    return _listed(ledger, "journal", *listed, deployment_id=deployment_id)


def _selected(
    known: Mapping[str, dict[str, Any]],
    options: Mapping[str, Any],
    deployment_id: str | None,
    live_database: str | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    # In the order of the records, because a later deployment tells that an earlier one's point was used.
    points = merged([], [point for d in known.values() for point in d["rollback_points"]], POINT_KEYS)
    deployments = [
        deployment if deployment_id else _brief(deployment)
        for deployment in known.values()
        if deployment_id in (None, deployment["id"]) and live_database in (None, deployment["database"])
    ]
    return _newest(deployments, options), _newest_points(
        [point for point in points if live_database in (None, point["live_database"])]
    )


def _listed(
    ledger: Ledger,
    kept_in: str,
    deployments: list[dict[str, Any]],
    points: list[dict[str, Any]],
    *,
    deployment_id: str | None,
) -> dict[str, Any]:
    if deployment_id and not deployments:
        raise _not_found(deployment_id, ledger)
    return ledger.answer(
        kept_in,
        deployment=deployments[0] if deployment_id else None,
        deployments=deployments,
        rollback_points=points,
    )


def _newest(deployments: list[dict[str, Any]], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    deployments.sort(key=lambda deployment: (deployment["started_at"], deployment["id"]), reverse=True)
    return deployments[: options["limit"]]


def _newest_points(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(points, key=lambda point: point["taken_at"] or "", reverse=True)


def _brief(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deployment with its steps only, as while it runs."""
    parts = ("checks", "migrations", "rollback_points", "alerts", "incidents")
    return {key: value for key, value in deployment.items() if key not in parts}


def _refuse_reopening(known: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Return True for a deployment that runs already, so that its opening is repeated; refuse any other."""
    if known["status"] == "running" and known["database"] in (None, record["deployment"]["database"]):
        return known["database"] is not None
    raise HoldfastError(
        code="target_exists",
        msg="The id %s belongs to a deployment of %r that is %s."
        % (known["id"], known["database"], known["status"].replace("_", " ")),
        hint="Leave deployment_id out: each run gets an id of its own.",
    )


def _refuse_second(running: Mapping[str, Any] | None, record: Mapping[str, Any]) -> None:
    if running is None:
        return
    raise HoldfastError(
        code="deployment_running",
        msg="Deployment %s of %r is running: opened by %s on %s at %s."
        % (
            running["id"],
            record["deployment"]["database"],
            running["operator"] or "an unnamed operator",
            running["controller"] or "an unnamed controller",
            running["started_at"],
        ),
        hint="Wait for it. If its run is dead, close it: holdfast.postgres.deployment with state=closed status=stopped "
        "deployment_id=%s." % running["id"],
        running=running["id"],
    )


def _not_found(deployment_id: str, ledger: Ledger) -> HoldfastError:
    return HoldfastError(
        code="deployment_not_found",
        msg="The ledger %r has no deployment %s%s."
        % (ledger.database, deployment_id, ", and no journal does" if ledger.journal_dir else ""),
        hint="Check the id: the state listed names the newest ones.",
    )


def _journal_dir(ledger: Ledger, reason: str) -> str:
    if not ledger.journal_dir:
        raise _unavailable(ledger, reason)
    return ledger.journal_dir


def _unavailable(ledger: Ledger, reason: str) -> HoldfastError:
    return HoldfastError(
        code="ledger_unavailable",
        msg="The ledger %r cannot be used: %s" % (ledger.database, reason),
        hint="Mend the reason, or set journal_dir to a directory that this user can write: records wait there.",
    )
