# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, connection strings, passwords and what is said when a connection fails."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest
from psycopg2.extensions import parse_dsn

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    check_name,
    connect_failure,
    suffixed_name,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

HOSTILE = [
    'we"ird',
    "a b",
    "dbname=x host=y",
    "100%",
    "back\\slash",
    "quo'te",
    "new\nline",
    "--dash",
    "né",
    "postgresql://x",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_survive_the_connection_string(name: str) -> None:
    conninfo = Server(host="h", port=1, user=name).conninfo(name)
    assert parse_dsn(conninfo) == {"dbname": name, "host": "h", "port": "1", "user": name}
    assert conninfo.startswith("dbname='")


def test_secrets_among_connect_params_stay_out_of_command_lines_and_messages() -> None:
    server = Server(connect_params={"password": "hunter2", "sslpassword": "hunter3", "sslcrl": "/crl"})
    assert "hunter" not in server.conninfo("db") and "/crl" in server.conninfo("db")
    failure = connect_failure("role hunter2 and key hunter3", database="db", server=server)
    assert "hunter" not in failure.msg


def test_conninfo_and_repr_never_hold_the_password() -> None:
    server = Server(host="h", password="hunter2", connect_params={"password": "hunter3", "application_name": "x"})
    assert "hunter" not in server.conninfo("db")
    assert "hunter2" not in repr(server)


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 63, "é" * 31])
def test_names_that_fit_are_taken_as_they_are(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 64, "é" * 32, "nul\x00"])
def test_names_that_postgresql_would_cut_or_refuse_are_refused(name: str) -> None:
    with pytest.raises(HoldfastError) as caught:
        check_name(name)
    assert caught.value.code == "name_invalid"


@pytest.mark.parametrize("name", ["bank", "x" * 63, "é" * 31, "\N{GRINNING FACE}" * 15])
def test_suffixed_names_keep_the_suffix_and_fit(name: str) -> None:
    made = suffixed_name(name, "_retired_20261120T221500Z-7f3a")
    assert made.endswith("_retired_20261120T221500Z-7f3a")
    assert len(made.encode()) <= 63
    assert name.startswith(made[: -len("_retired_20261120T221500Z-7f3a")])


def test_password_reaches_programs_in_a_private_file_that_is_gone_afterwards() -> None:
    server = Server(password="with:colon\\and 'quote'")
    with server.client_environment({"PGPASSWORD": "old", "PATH": "/bin"}) as environment:
        path = pathlib.Path(environment["PGPASSFILE"])
        assert path.read_text(encoding="utf-8") == "*:*:*:*:with\\:colon\\\\and 'quote'\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "PGPASSWORD" not in environment
        assert environment["PATH"] == "/bin"
    assert not path.exists()


def test_without_a_password_the_users_own_password_file_counts() -> None:
    with Server().client_environment({"PGPASSFILE": "/mine"}) as environment:
        assert environment["PGPASSFILE"] == "/mine"


def test_nothing_of_the_process_environment_is_lost() -> None:
    with Server().client_environment() as environment:
        assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('FATAL:  database "a "b"" does not exist', "database_not_found"),
        ('FATAL:  password authentication failed for user "x"', "authentication_failed"),
        ("fe_sendauth: no password supplied", "authentication_failed"),
        ('FATAL:  role "x" does not exist', "authentication_failed"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', "authentication_failed"),
        ('FATAL:  permission denied for database "x"', "permission_denied"),
        ('FATAL:  database "x" is not currently accepting connections', "permission_denied"),
        ("connection refused", "connection_failed"),
        ("timeout expired", "connection_failed"),
    ],
)
def test_failed_connections_are_told_apart(message: str, code: str) -> None:
    error = connect_failure(message, database="x", server=Server(host="h", user="u", password="hunter2"))
    assert error.code == code
    assert error.hint


def test_password_in_a_message_of_the_library_is_masked() -> None:
    error = connect_failure('invalid option "hunter2"', database="x", server=Server(password="hunter2"))
    assert "hunter2" not in error.msg
