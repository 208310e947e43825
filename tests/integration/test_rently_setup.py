# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook that creates the sample: complete or not there, the same when run again, no password on show."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.modules import run_module, run_playbook
from tests.support.rently import EXAMPLE, not_held, run_suite, schema
from tests.support.server import TestServer, embedded_bin_dir

DATABASE = "rently_lending"


@pytest.fixture(scope="module")
def own() -> Iterator[TestServer]:
    """A server of our own, because the playbook creates roles."""
    server = TestServer(embedded_bin_dir(18))
    yield server
    server.remove()


def set_up(server: TestServer, directory: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inventory = directory / "hosts.json"
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory.write_text(
        json.dumps({"holdfast": {"hosts": {"here": host}, "vars": {"holdfast_login": server.login}}}), encoding="utf-8"
    )
    completed = run_playbook(EXAMPLE / "setup.yml", "-e", "rently_rows=2000", *arguments, inventory=inventory)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed


def test_sample_is_resumed_completed_and_then_left_alone(own: TestServer, tmp_path: pathlib.Path) -> None:
    own.create_database(DATABASE + "_unfinished")  # as an interrupted run leaves it

    first = set_up(own, tmp_path, "-vvv")
    shown = first.stdout + first.stderr
    assert own.password not in shown
    assert json.dumps(own.password)[1:-1] not in shown
    assert DATABASE in own.databases()
    assert DATABASE + "_unfinished" not in own.databases()
    assert own.execute("SELECT count(*) FROM payment", database=DATABASE) == [(2000,)]
    for suite in ("pre", "data_quality", "emergency"):
        assert not_held(run_suite(own, DATABASE, suite)) == set()

    second = set_up(own, tmp_path)
    assert re.search(r"changed=0\b", second.stdout), second.stdout

    properties = own.execute(
        """
        SELECT pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'),
               (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = d.oid),
               has_database_privilege('rently_app', oid, 'CONNECT'), has_database_privilege('public', oid, 'CONNECT')
          FROM pg_database AS d WHERE datname = %s
        """,
        (DATABASE,),
    )
    assert properties == [("rently_owner", "Rently lending platform (sample)", 3, True, False)]


def test_runner_takes_the_sample_up_and_down_and_its_roles_keep_their_rights(
    own: TestServer, tmp_path: pathlib.Path
) -> None:
    set_up(own, tmp_path)
    before = schema(own, DATABASE)
    arguments = {**own.login, "database": DATABASE, "source": [str(EXAMPLE / "migrations")], "role": "rently_owner"}
    applied = run_module("pg_migrate", arguments)
    assert not applied["failed"], applied
    assert not_held(run_suite(own, DATABASE, "post")) == set()
    assert own.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'schema_version%'",
        database=DATABASE,
    ) == [("rently_owner",)]
    # The application changes a loan, and the owner refreshes the view.
    own.execute(
        "SET ROLE rently_app; UPDATE public.loan SET status = 'closed'"
        " WHERE id = (SELECT id FROM public.loan WHERE status = 'active' LIMIT 1)",
        database=DATABASE,
    )
    own.execute("SET ROLE rently_owner; SELECT public.refresh_materialized_views()", database=DATABASE)
    assert not_held(run_suite(own, DATABASE, "post")) == set()

    reverted = run_module("pg_migrate", {**arguments, "state": "reverted", "target_version": "v1.0.0"})
    assert not reverted["failed"], reverted
    assert schema(own, DATABASE) == before
    for suite in ("data_quality", "emergency"):
        assert not_held(run_suite(own, DATABASE, suite)) == set()
