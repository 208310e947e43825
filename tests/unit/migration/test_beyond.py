# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which statements a copy of the database is no place to try."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.beyond import beyond_database, found_beyond
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import statements


def command(text: str) -> str | None:
    (statement,) = statements(text)
    return beyond_database(statement)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("create role app", "CREATE ROLE"),
        ("ALTER USER app SET search_path = x", "ALTER USER"),
        ("DROP GROUP app", "DROP GROUP"),
        ("ALTER DATABASE bank SET work_mem = '1GB'", "ALTER DATABASE"),
        ("ALTER SYSTEM SET work_mem = '1GB'", "ALTER SYSTEM"),
        ("CREATE TABLESPACE fast LOCATION '/fast'", "CREATE TABLESPACE"),
        ("CREATE SUBSCRIPTION s CONNECTION 'host=far' PUBLICATION p", "CREATE SUBSCRIPTION"),
        ("REASSIGN OWNED BY a TO b", "REASSIGN OWNED"),
        ("GRANT readers TO app", "GRANT"),
        ("REVOKE ADMIN OPTION FOR readers FROM app", "REVOKE"),
        ("GRANT CONNECT ON DATABASE bank TO app", "GRANT"),
        ("COMMENT ON ROLE app IS 'x'", "COMMENT ON ROLE"),
        ("COPY loan TO '/tmp/loan'", "COPY"),
        ("COPY loan FROM PROGRAM 'cat x'", "COPY"),
    ],
)
def test_what_changes_more_than_the_database_is_known(text: str, expected: str) -> None:
    assert command(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE role (n int)",
        "CREATE USER MAPPING FOR app SERVER far",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO app",
        "GRANT SELECT (a, b), UPDATE ON TABLE loan TO app",
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM app",
        "COMMENT ON TABLE role IS 'x'",
        "COPY loan FROM '/srv/loan.csv'",
        "SET ROLE app",
        "DROP INDEX owned",
    ],
)
def test_what_stays_within_it_is_not(text: str) -> None:
    assert command(text) is None


def test_place_is_told() -> None:
    text = "CREATE TABLE t ();\n\nCREATE ROLE app PASSWORD 'hush';\n"
    (found,) = found_beyond(text, statements(text), path="up.sql")
    assert (found["path"], found["line"], found["command"]) == ("up.sql", 3, "CREATE ROLE")
    assert "hush" not in found["statement"]
