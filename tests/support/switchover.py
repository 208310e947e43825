# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairs of databases to swap, swaps in a process of their own, and clients that write meanwhile."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2 import sql

from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.swap import SwapRequest, swap_databases
from tests.support.server import TestServer

ROOT = pathlib.Path(__file__).resolve().parents[2]

RUN_ENGINE = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.interruption import signals_raised
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.clone import clone_database
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import PoolerAddress
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import Poolers
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.swap import SwapRequest, swap_databases
server, action, options = json.load(sys.stdin)
print("ready", flush=True)
try:
    with signals_raised():
        if action in ("swap", "guarded swap"):
            addresses = [PoolerAddress(name, Server(**where)) for name, where in options.pop("poolers", {}).items()]
            poolers = Poolers(addresses, database=options["live"]) if addresses else None
            result = swap_databases(
                server=Server(**server),
                request=SwapRequest(**options),
                poolers=poolers,
                guarded=action == "guarded swap",
            )
        else:
            result = clone_database(server=Server(**server), **options)
except HoldfastError as exc:
    result = exc.as_result()
print(json.dumps(result), flush=True)
"""


@dataclass
class Pair:
    """A live and a side database on one server, each with an empty table ``written (n)``."""

    server: TestServer
    live: str
    side: str
    old_oid: int
    new_oid: int

    @property
    def retired(self) -> str:
        """A name for the live database after the swap."""
        return self.side[:40] + "_ret"

    def request(self, **options: Any) -> SwapRequest:
        """The swap of the pair, live confirmed."""
        return SwapRequest(**{"live": self.live, "replacement": self.side, "confirm": self.live, **options})

    def swap(self, **options: Any) -> dict[str, Any]:
        """Run the engine; what is an argument of it reaches it, the rest is the request."""
        arguments = ("check_mode", "poolers", "guarded", "switches")
        engine = {key: options.pop(key) for key in arguments if key in options}
        return swap_databases(server=self.server.server, request=self.request(**options), **engine)

    def oid(self, name: str) -> int | None:
        """The OID of a database by name."""
        rows = self.server.execute("SELECT oid FROM pg_database WHERE datname = %s", (name,))
        return rows[0][0] if rows else None

    def allows_connections(self, oid: int) -> bool:
        """Whether a database allows connections."""
        return self.server.execute("SELECT datallowconn FROM pg_database WHERE oid = %s", (oid,))[0][0]

    def untouched(self) -> bool:
        """Whether names, connections and settings are as before any swap."""
        return (
            (self.oid(self.live), self.oid(self.side)) == (self.old_oid, self.new_oid)
            and self.allows_connections(self.old_oid)
            and self.allows_connections(self.new_oid)
            and self.marks() == 0
        )

    def restore(self) -> None:
        """Give both their first names again, open and empty."""
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        names = {self.old_oid: self.live, self.new_oid: self.side}
        connection = self.server.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT oid, datname FROM pg_database WHERE oid = ANY (%s)", (list(names),))
                now = dict(cursor.fetchall())
                if now != names:
                    for oid, name in now.items():
                        cursor.execute(rename.format(sql.Identifier(name), sql.Identifier("between_%d" % oid)))
                    for oid, name in names.items():
                        cursor.execute(rename.format(sql.Identifier("between_%d" % oid), sql.Identifier(name)))
                for name in names.values():
                    cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))
        finally:
            connection.close()
        for name in names.values():
            self.server.execute("TRUNCATE written", database=name)
        assert self.untouched()

    def marks(self) -> int:
        """How many traces a swap has left on the pair."""
        return self.server.execute(
            "SELECT count(*) FROM pg_db_role_setting"
            " WHERE setdatabase IN (%s, %s) AND setconfig::text LIKE '%%holdfast%%'",
            (self.old_oid, self.new_oid),
        )[0][0]


@contextlib.contextmanager
def pair_of_databases(server: TestServer, *, live: str | None = None, owner: str = "postgres") -> Iterator[Pair]:
    """A pair, dropped at the end under whatever names it has then."""
    live = live or "app_" + uuid.uuid4().hex[:8]
    side = "side_" + uuid.uuid4().hex[:8]
    for name in (live, side):
        server.create_database(name, owner=owner)
        # Databases that may not be found by a connection string are reached by the driver's keyword.
        server.execute("CREATE TABLE written (n int PRIMARY KEY); GRANT ALL ON written TO PUBLIC", database=name)
    oids = [server.execute("SELECT oid FROM pg_database WHERE datname = %s", (n,))[0][0] for n in (live, side)]
    try:
        yield Pair(server, live, side, oids[0], oids[1])
    finally:
        for (name,) in server.execute("SELECT datname FROM pg_database WHERE oid = ANY (%s)", (oids,)):
            server.drop_database(name)


def start_engine(server: TestServer, action: str, options: dict[str, Any]) -> subprocess.Popen[str]:
    """Run ``swap`` or ``clone`` in a process of its own, and return it when it is about to begin."""
    argv = [sys.executable, "-c", RUN_ENGINE, str(ROOT / ".collections"), str(ROOT)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    where = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password}
    process.stdin.write(json.dumps([where, action, options]))
    process.stdin.close()
    process.stdin = None  # communicate() would flush it
    assert process.stdout.readline() == "ready\n"
    return process


@dataclass
class Writer:
    """A client that writes numbers to the database of one name until told to stop.

    With ``reconnect`` it connects for each of them, otherwise only after an error.
    """

    server: TestServer
    name: str
    first: int
    reconnect: bool
    committed: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = self.first
        connection = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = self.server.connect(self.name)
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO written VALUES (%s)", (number,))
                self.committed.append(number)
                if self.reconnect:
                    connection.close()
                    connection = None
            except psycopg2.Error as exc:
                self.errors.append(str(exc))
                connection = None
                time.sleep(0.002)
            number += 1
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        """Stop and wait for the end."""
        self._stop.set()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def writing(server: TestServer, name: str, *, clients: int, reconnect: bool) -> Iterator[list[Writer]]:
    """Clients that write to the database of that name during the block."""
    writers = [Writer(server, name, 1_000_000 * i, reconnect) for i in range(clients)]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()


@contextlib.contextmanager
def names_watched(server: TestServer, pair: Pair) -> Iterator[set[frozenset[tuple[str, int]]]]:
    """Every state of the pair's names that is ever seen during the block."""
    seen: set[frozenset[tuple[str, int]]] = set()
    stop = threading.Event()
    connection = server.connect()

    def watch() -> None:
        with connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute(
                    "SELECT datname, oid FROM pg_database WHERE oid IN (%s, %s)", (pair.old_oid, pair.new_oid)
                )
                seen.add(frozenset(cursor.fetchall()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(timeout=10)
        connection.close()


def rows_of(server: TestServer, name: str) -> set[int]:
    """The numbers in the table ``written`` of a database."""
    return {row[0] for row in server.execute("SELECT n FROM written", database=name)}


def set_properties(server: TestServer, name: str, *, role: str) -> None:
    """Give a database an ACL, both kinds of settings, a comment and a limit; create ``role`` for it."""
    database, who = sql.Identifier(name), sql.Identifier(role)
    statements = [
        sql.SQL("CREATE ROLE {} LOGIN").format(who),
        sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, who),
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database),
        sql.SQL("GRANT CONNECT ON DATABASE {} TO pg_monitor").format(database),
        sql.SQL("ALTER DATABASE {} SET work_mem = '7MB'").format(database),
        sql.SQL('ALTER DATABASE {} SET search_path = "$user", public, "odd, one"').format(database),
        sql.SQL("ALTER ROLE {} IN DATABASE {} SET statement_timeout = '11s'").format(who, database),
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal("it's 100 % live\n\\ é")),
        sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 33").format(database),
    ]
    connection = server.connect()
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()
