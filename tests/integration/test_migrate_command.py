# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that migrates by itself is run with the connection of the task, and what it did is told by its status."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.command import Commands, libpq_environment
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import Options
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate
from tests.support.modules import ROOT, run_module

TOOL = [sys.executable, str(ROOT / "tests" / "support" / "tool.py")]


@pytest.fixture
def commands(tmp_path: pathlib.Path) -> Commands:
    """Two versions of the program's own."""
    (tmp_path / "1.sql").write_text("CREATE TABLE t1 (id int)")
    (tmp_path / "2.sql").write_text("CREATE TABLE t2 AS SELECT current_setting('lock_timeout') AS lock_timeout")
    return Commands(
        up=[*TOOL, "up"],
        down=[*TOOL, "down", "{target_version}"],
        status=[*TOOL, "status"],
        pending=[*TOOL, "pending"],
        chdir=str(tmp_path),
    )


def run(
    server: Any, database: str, commands: Commands, *, state: str = "applied", check: bool = False, **settings: Any
):
    return migrate(
        server=server.server,
        database=database,
        files=[],
        options=Options(layout="command"),
        commands=commands,
        state=state,
        settings=Settings(**settings),
        check=check,
    )


def refused(*arguments: Any, **options: Any) -> HoldfastError:
    with pytest.raises(HoldfastError) as error:
        run(*arguments, **options)
    assert error.value.hint
    return error.value


def history(server: Any, database: str) -> list[tuple]:
    return server.execute(
        "SELECT version, state, deployment_id FROM schema_version ORDER BY applied_at", database=database
    )


def test_check_run_check_again_run_again_and_back(pg18, database, commands):
    predicted = run(pg18, database, commands, check=True)
    assert (predicted["changed"], len(predicted["pending"]), predicted["current_version"]) == (True, 1, None)
    assert not pg18.execute("SELECT 1 FROM pg_tables WHERE tablename = 'tool_version'", database=database)
    done = run(pg18, database, commands, deployment_id="d1", lock_timeout_ms=1234)
    assert (done["changed"], done["current_version"], done["partial"]) == (True, "2 (head)", False)
    assert done["program_status"] == ["connected to %s" % database, "2 (head)"]
    (row,) = done["applied"]
    assert (row["version"], row["notices"], len(row["records"])) == ("2 (head)", ["applying 1", "applying 2"], 1)
    assert pg18.execute("TABLE t2", database=database) == [("1234ms",)]
    assert history(pg18, database) == [("2 (head)", "applied", "d1")]
    for check in (True, False):
        again = run(pg18, database, commands, check=check)
        assert (again["changed"], again["applied"], again["pending"]) == (False, [], [])
    back = run(pg18, database, commands, state="reverted", target_version="1")
    assert (back["changed"], back["current_version"]) == (True, "1")
    assert history(pg18, database) == [("1", "applied", None)]
    assert run(pg18, database, commands, state="reverted", target_version="1")["changed"] is False


def test_without_a_command_for_it_something_may_be_pending_but_nothing_changes(pg18, database, commands):
    commands = dataclasses.replace(commands, pending=[])
    assert run(pg18, database, commands)["changed"] is True
    assert len(run(pg18, database, commands, state="status")["pending"]) == 1
    again = run(pg18, database, commands)
    assert (again["changed"], again["applied"]) == (False, [])
    assert [row[1] for row in history(pg18, database)] == ["applied"]


def test_failure_leaves_a_row_that_says_so_until_the_command_has_ended_well(pg18, database, commands):
    bad = pathlib.Path(str(commands.chdir)) / "2.sql"
    good = bad.read_text()
    bad.write_text("ALTER ROLE postgres PASSWORD 'hunter2' nonsense")
    error = refused(pg18, database, commands, deployment_id="d1")
    assert error.code == "migration_failed"
    assert (error.details["partial"], error.details["changed"]) == (True, True)
    assert "unrecognized role option" in error.details["stderr"]
    assert "hunter2" not in str(error.details) + error.msg
    status = run(pg18, database, commands, state="status")
    assert [(row["state"], row["deployment_id"]) for row in status["history"]] == [("partial", "d1")]
    assert (status["partial"], status["current_version"], len(status["pending"])) == (True, None, 1)
    bad.write_text(good)
    assert run(pg18, database, commands, deployment_id="d2")["partial"] is False
    assert history(pg18, database) == [("2 (head)", "applied", "d2")]


def test_what_an_earlier_run_began_is_run_again_although_nothing_is_pending(pg18, database, commands):
    run(pg18, database, commands)
    pg18.execute(
        "INSERT INTO schema_version (version, applied_at, state) VALUES ('(command)', '-infinity', 'partial')",
        database=database,
    )
    assert run(pg18, database, commands, check=True)["changed"] is True
    assert run(pg18, database, commands)["changed"] is True
    assert [row[:2] for row in history(pg18, database)] == [("2 (head)", "applied")]


def test_program_of_a_run_that_was_killed_is_not_run_beside_itself(pg18, database, commands):
    run(pg18, database, commands)
    pg18.execute("UPDATE schema_version SET state = 'partial'", database=database)
    with pg18.server.session(database, application_name="holdfast migrate command"):
        assert refused(pg18, database, commands).code == "migration_locked"
    assert run(pg18, database, commands)["changed"] is True


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"up": ["/nowhere/alembic"]}, "program_not_found", "/nowhere/alembic"),
        ({"chdir": "/nowhere"}, "option_invalid", "/nowhere"),
        ({"up": []}, "option_invalid", "commands.up"),
        ({"status": []}, "option_invalid", "commands.status"),
        ({"up": ["alembic", "upgrade", "{target_version}"]}, "option_invalid", "target_version is not set"),
        ({"status": ["false"]}, "program_failed", "exit code 1"),
        ({"pending": ["sh", "-c", "kill -9 $$"]}, "program_failed", "exit code -9"),
        ({"up": ["sleep", "60"], "timeout_s": 1}, "migration_failed", "within 1 s"),
    ],
)
def test_commands_that_cannot_run_are_refused(pg18, database, commands, change, code, named):
    error = refused(pg18, database, dataclasses.replace(commands, **change))
    assert error.code == code
    assert named in error.msg
    if code != "migration_failed":
        rows = pg18.execute("SELECT to_regclass('public.schema_version')", database=database)
        assert rows == [(None,)] or history(pg18, database) == []


def test_a_version_that_no_argument_takes_is_refused(pg18, database, commands):
    assert refused(pg18, database, commands, target_version="1").code == "option_invalid"
    assert refused(pg18, database, commands, state="baseline").code == "option_invalid"
    assert refused(pg18, database, commands, state="reverted").code == "option_invalid"


def test_environment_has_the_connection_and_never_the_password():
    server = Server(
        host="db.example.org",
        port=5433,
        user="app",
        password="secret",
        ssl_mode="verify-full",
        connect_params={"connect_timeout": "3", "keepalives": "1", "options": "-c search_path=a", "password": "secret"},
    )
    settings = Settings(role='the "owner" \\ x')
    variables = libpq_environment(server, "a b", settings)
    assert variables == {
        "PGHOST": "db.example.org",
        "PGPORT": "5433",
        "PGUSER": "app",
        "PGDATABASE": "a b",
        "PGSSLMODE": "verify-full",
        "PGCONNECT_TIMEOUT": "3",
        "PGAPPNAME": "holdfast migrate command",
        "PGOPTIONS": "-c search_path=a -c lock_timeout=2000 -c statement_timeout=0"
        ' -c idle_in_transaction_session_timeout=0 -c role=the\\ "owner"\\ \\\\\\ x',
    }


def test_role_of_the_program_is_the_one_of_the_task(pg18, database, commands):
    pg18.execute('DROP ROLE IF EXISTS "the owner"; CREATE ROLE "the owner"')
    pg18.execute('GRANT ALL ON SCHEMA public TO "the owner"', database=database)
    run(pg18, database, commands, role="the owner")
    owners = pg18.execute(
        "SELECT tableowner FROM pg_tables WHERE tablename IN ('t1', 'tool_version')", database=database
    )
    assert owners == [("the owner",), ("the owner",)]


def test_module_runs_the_program(pg18, database, commands):
    arguments = {
        **{"login_host": "127.0.0.1", "login_port": pg18.port, "login_password": pg18.password},
        **{"database": database, "layout": "command", "commands": {**dataclasses.asdict(commands), "timeout_s": 60}},
    }
    assert run_module("pg_migrate", arguments, check=True)["changed"] is True
    done = run_module("pg_migrate", arguments)
    assert (done["failed"], done["changed"], done["layout"]) == (False, True, "command")
    assert pg18.password not in str(done)
    assert run_module("pg_migrate", arguments, check=True)["changed"] is False
    assert run_module("pg_migrate", arguments)["changed"] is False
