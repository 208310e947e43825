# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to PostgreSQL, for the driver and for the client programs alike."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

try:
    import psycopg2
    import psycopg2.extensions

    PSYCOPG2_IMPORT_ERROR: str | None = None
except ImportError:  # reported by require_driver(), when a module runs
    PSYCOPG2_IMPORT_ERROR = traceback.format_exc()

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: Longest identifier in bytes; PostgreSQL truncates silently beyond it
#: (https://www.postgresql.org/docs/current/sql-syntax-lexical.html).
MAX_IDENTIFIER_BYTES = 63

#: Parameters of libpq that are secrets: they are never in a command line, and never shown.
SECRET_PARAMETERS = ("password", "sslpassword")

# What the server says before a session exists; it has no SQLSTATE that libpq would pass on.
NO_DATABASE = re.compile(r'database ".*" does not exist', re.DOTALL)
LOGIN_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba.conf entry|role \".*\" does not exist", re.DOTALL
)
CONNECTION_FORBIDDEN = re.compile(
    r"permission denied for database|not currently accepting connections|not permitted to log in"
)


def require_driver() -> None:
    """Raise `HoldfastError` when psycopg2 is not installed for this interpreter."""
    if PSYCOPG2_IMPORT_ERROR is not None:
        raise HoldfastError(
            code="driver_missing",
            msg="The Python driver psycopg2 is not installed for the interpreter that runs this module.",
            hint="Install psycopg2-binary (or the package python3-psycopg2) there, or set ansible_python_interpreter.",
        )


def only_row(cursor: Any) -> tuple[Any, ...]:
    """Return the row of a query that always has one, such as a call of a function or an aggregate."""
    row: tuple[Any, ...] | None = cursor.fetchone()
    if row is None:
        raise AssertionError("a query that always has a row returned none")
    return row


def check_name(name: str, *, what: str = "database") -> str:
    """Return ``name`` when PostgreSQL can hold it unchanged, else raise `HoldfastError`.

    Any character but NUL is legal; what matters is the length in bytes.
    """
    size_bytes = len(name.encode("utf-8", "surrogateescape"))
    if not name or "\x00" in name or size_bytes > MAX_IDENTIFIER_BYTES:
        raise HoldfastError(
            code="name_invalid",
            msg="The %s name %r is %s."
            % (
                what,
                name,
                "%d bytes long" % size_bytes if size_bytes > MAX_IDENTIFIER_BYTES else "empty or holds a NUL",
            ),
            hint="A name in PostgreSQL has 1 to %d bytes and no NUL character." % MAX_IDENTIFIER_BYTES,
        )
    return name


def suffixed_name(name: str, suffix: str) -> str:
    """Return ``name + suffix``, with ``name`` shortened at a character boundary so that it fits 63 bytes."""
    room = MAX_IDENTIFIER_BYTES - len(suffix.encode("utf-8"))
    return name.encode("utf-8")[:room].decode("utf-8", "ignore") + suffix


@dataclass(frozen=True)
class Server:
    """Where the server is and who asks: everything of a connection but the database's name."""

    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_mode: str | None = None
    ca_cert: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None
    connect_params: Mapping[str, str] = field(default_factory=dict)
    maintenance_db: str = "postgres"

    def parameters(self, database: str, **overrides: Any) -> dict[str, str]:
        """Return libpq parameters by keyword, without the password and without anything unset."""
        values: dict[str, Any] = {
            "dbname": database,
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "sslmode": self.ssl_mode,
            "sslrootcert": self.ca_cert,
            "sslcert": self.ssl_cert,
            "sslkey": self.ssl_key,
        }
        values.update(self.connect_params)
        values.update(overrides)
        return {key: str(value) for key, value in values.items() if value not in (None, "")}

    def conninfo(self, database: str, **overrides: Any) -> str:
        """Return a libpq connection string without a password, safe for any name and fit for ``--dbname=``."""
        parameters = self.parameters(database, **overrides)
        for secret in SECRET_PARAMETERS:
            parameters.pop(secret, None)
        return " ".join("%s='%s'" % (k, re.sub(r"([\\'])", r"\\\1", v)) for k, v in parameters.items())

    def connect(
        self,
        database: str,
        *,
        autocommit: bool = True,
        application_name: str = "holdfast",
        settings: Mapping[str, str] | None = None,
        connect_timeout_s: int = 10,
    ) -> Connection:
        """Open a connection; ``settings`` are run-time parameters for the session.

        Raises `HoldfastError` with the codes ``connection_failed``, ``authentication_failed``,
        ``database_not_found`` or ``permission_denied``. The caller closes the connection.
        """
        require_driver()
        parameters: dict[str, Any] = dict(self.parameters(database))
        parameters.setdefault("connect_timeout", str(connect_timeout_s))
        parameters.setdefault("application_name", application_name)
        parameters["client_encoding"] = "UTF8"
        if self.password is not None:
            parameters["password"] = self.password
        try:
            connection: Connection = psycopg2.connect(**parameters)
        except psycopg2.OperationalError as exc:
            raise connect_failure(str(exc), database=database, server=self) from exc
        connection.autocommit = autocommit
        try:
            if settings:
                with connection.cursor() as cursor:
                    for name, value in settings.items():
                        cursor.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
        except psycopg2.Error:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def session(self, database: str, **options: Any) -> Iterator[Connection]:
        """A connection as in `connect`, closed at the end of the block."""
        connection = self.connect(database, **options)
        try:
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def client_environment(self, environ: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
        """The environment for a client program, with the password in a 0600 file that lives as long as the block."""
        environment = dict(os.environ if environ is None else environ)
        environment.update({"LC_ALL": "C.UTF-8", "PGCLIENTENCODING": "UTF8", "PGAPPNAME": "holdfast"})
        password = self.password if self.password is not None else self.connect_params.get("password")
        if password is None:
            yield environment
            return
        environment.pop("PGPASSWORD", None)
        with _password_file("*:*:*:*:%s\n" % re.sub(r"([\\:])", r"\\\1", password)) as path:
            environment["PGPASSFILE"] = path
            yield environment


@contextlib.contextmanager
def _password_file(content: str) -> Iterator[str]:
    """Yield the path of a file with ``content`` that only this user can read.

    On Linux it lives in memory and in this process alone, so that nothing is left of it even after SIGKILL.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("holdfast-pgpass")
        try:
            os.fchmod(descriptor, 0o600)
            os.write(descriptor, content.encode("utf-8"))
            path = "/proc/%d/fd/%d" % (os.getpid(), descriptor)
            if os.access(path, os.R_OK):
                yield path
                return
        finally:
            os.close(descriptor)
    directory = tempfile.mkdtemp(prefix="holdfast-")
    try:
        path = os.path.join(directory, "pgpass")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
        yield path
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def connect_failure(message: str, *, database: str, server: Server) -> HoldfastError:
    """Return the error for libpq's ``message`` about a failed connection attempt."""
    where = "%s port %s" % (server.host or "the local socket", server.port or 5432)
    reason = " ".join(message.split())
    for secret in (server.password, *(server.connect_params.get(name) for name in SECRET_PARAMETERS)):
        if secret:
            reason = reason.replace(secret, "********")
    if re.search(NO_DATABASE, message):
        return HoldfastError(
            code="database_not_found",
            msg="Database %r does not exist on %s: %s" % (database, where, reason),
            hint="Check the name; pg_database_info lists the databases of this server.",
        )
    if re.search(LOGIN_REFUSED, message):
        return HoldfastError(
            code="authentication_failed",
            msg="%s refused role %r for database %r: %s" % (where, server.user, database, reason),
            hint="Check login_user and login_password (or PGPASSFILE) and the server's pg_hba.conf.",
        )
    if re.search(CONNECTION_FORBIDDEN, message):
        return HoldfastError(
            code="permission_denied",
            msg="%s does not let role %r connect to database %r: %s" % (where, server.user, database, reason),
            hint="Grant CONNECT or LOGIN, or, if a swap was interrupted, run it again: it allows connections again.",
        )
    return HoldfastError(
        code="connection_failed",
        msg="Cannot connect to %s, database %r: %s" % (where, database, reason),
        hint="Check that the server runs and listens there, and login_host, login_port and ssl_mode.",
    )


def server_version(connection: Connection) -> int:
    """Return the server's version as a number, such as 180003 for 18.3."""
    return int(connection.server_version)


def refuse_standby(connection: Connection) -> None:
    """Raise `HoldfastError` when the server is in recovery."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_is_in_recovery()")
        row = cursor.fetchone()
    if row is not None and row[0]:
        raise HoldfastError(
            code="server_is_standby",
            msg="The server is a standby in recovery; it cannot be changed.",
            hint="Point login_host at the primary.",
        )
