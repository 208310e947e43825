# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real PgBouncers for tests: on a free port of the loopback, in a directory of their own, stopped by pid."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg2

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import PoolerAddress
from tests.support.server import TestServer, eventually, free_port, scratch_root, unprivileged_user

ADMIN = "console_admin"
ADMIN_PASSWORD = "c0nsole:'\\\" pass"


def program() -> str:
    """The distribution's pgbouncer; fails when there is none."""
    found = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    assert found, "no PgBouncer: run make prerequisites, which installs pgbouncer with apt"
    return found


class TestPooler:
    """One running PgBouncer in front of a test server, in transaction mode.

    ``databases`` are lines of ``[databases]`` by name; by default a wildcard leads to the server's databases.
    """

    __test__ = False

    def __init__(
        self,
        server: TestServer,
        *,
        name: str = "main",
        databases: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        ready: bool = True,
    ) -> None:
        self.server = server
        self.name = name
        self.port = free_port()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-pooler-", dir=scratch_root()))
        self.log = self.directory / "log"
        self.account = unprivileged_user()
        self.databases = dict(databases if databases is not None else {"*": ""})
        self.settings = dict(settings or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._write()
        if self.account is not None:
            os.chown(self.directory, self.account.pw_uid, self.account.pw_gid)
            self.directory.chmod(0o755)
        self.start(ready=ready)

    def _write(self) -> None:
        where = "host=127.0.0.1 port=%d" % self.server.port
        lines = ["[databases]", *("%s = %s %s" % (name, where, rest) for name, rest in self.databases.items())]
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": str(self.directory),
            "auth_type": "plain",
            "auth_file": str(self.directory / "users"),
            "admin_users": ADMIN,
            "stats_users": "looker",
            "pool_mode": "transaction",
            "server_login_retry": "0.1",
            "default_pool_size": "5",
            "ignore_startup_parameters": "extra_float_digits",
            "logfile": str(self.log),
            **self.settings,
        }
        lines += ["[pgbouncer]", *("%s = %s" % item for item in settings.items())]
        (self.directory / "pgbouncer.ini").write_text("\n".join(lines) + "\n", encoding="utf-8")
        users = {"postgres": self.server.password, ADMIN: ADMIN_PASSWORD, "looker": "looker"}
        (self.directory / "users").write_text(
            "".join('"%s" "%s"\n' % (user, secret.replace('"', '""')) for user, secret in users.items()),
            encoding="utf-8",
        )

    def start(self, *, ready: bool = True) -> None:
        """Start it and, with ``ready``, wait until it lets the administrator in by password."""
        account = self.account
        options: dict[str, Any] = {}
        if account is not None:
            options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self.process = subprocess.Popen(
            [program(), str(self.directory / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # As a service has: Linux shares processors by session, and each process of a server has one of its own.
            start_new_session=True,
            **options,
        )
        if ready:
            eventually(self._listens)

    def _listens(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text(encoding="utf-8")
        try:
            self.connect("pgbouncer", user=ADMIN, password=ADMIN_PASSWORD).close()
        except psycopg2.OperationalError:
            return False
        return True

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it as a crash would, and wait for its end."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def remove(self) -> None:
        """End it, whatever state it is in, and remove its files."""
        self.kill()
        shutil.rmtree(self.directory)

    @property
    def console(self) -> Server:
        """The console, as the engine's functions take it."""
        return Server(host="127.0.0.1", port=self.port, user=ADMIN, password=ADMIN_PASSWORD)

    @property
    def client(self) -> Server:
        """An ordinary client's login."""
        return Server(host="127.0.0.1", port=self.port, user="postgres", password=self.server.password)

    def address(self, *, probe: bool = False, **options: Any) -> PoolerAddress:
        """This pooler, as the engine's functions take it."""
        return PoolerAddress(
            **{"name": self.name, "server": self.console, "probe": self.client if probe else None, **options}
        )

    @property
    def option(self) -> dict[str, Any]:
        """This pooler, as an element of the option ``poolers`` of a module."""
        return {
            "name": self.name,
            "host": "127.0.0.1",
            "port": self.port,
            "user": ADMIN,
            "password": ADMIN_PASSWORD,
        }

    def connect(self, database: str, **options: Any) -> psycopg2.extensions.connection:
        """An autocommit connection of a client, by default of the superuser."""
        parameters = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "postgres",
            "password": self.server.password,
            "dbname": database,
            **options,
        }
        connection = psycopg2.connect(**parameters)
        connection.autocommit = True
        return connection

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a command on the console and return its rows."""
        connection = self.connect("pgbouncer", user=ADMIN, password=ADMIN_PASSWORD)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def paused(self) -> set[str]:
        """The names of the databases that are paused."""
        connection = self.connect("pgbouncer", user=ADMIN, password=ADMIN_PASSWORD)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SHOW DATABASES")
                names = [column.name for column in cursor.description or ()]
                rows = [dict(zip(names, row)) for row in cursor.fetchall()]
        finally:
            connection.close()
        return {row["name"] for row in rows if row["paused"]}


@contextlib.contextmanager
def poolers_running(server: TestServer, *names: str, **options: Any) -> Iterator[list[TestPooler]]:
    """PgBouncers in front of ``server``, one for each name."""
    running: list[TestPooler] = []
    try:
        for name in names:
            running.append(TestPooler(server, name=name, **options))
        yield running
    finally:
        for pooler in running:
            pooler.remove()


@contextlib.contextmanager
def transaction_open(pooler: TestPooler, database: str, **options: Any) -> Iterator[psycopg2.extensions.connection]:
    """A client that is idle in a transaction during the block."""
    connection = pooler.connect(database, **options)
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT 'a long story'")
        yield connection
    finally:
        connection.close()


def seconds(action: Any) -> float:
    """How long an action takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started
