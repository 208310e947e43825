# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules pgbouncer and pgbouncer_info, and poolers as an option of pg_swap, on real PgBouncers."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.administration import (
    PoolerRequest,
    set_state,
    show,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import PoolerAddress
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.guard import Guard, command
from tests.support.modules import run_module
from tests.support.pgbouncer import TestPooler, poolers_running, transaction_open
from tests.support.server import TestServer, eventually
from tests.support.switchover import pair_of_databases


@pytest.fixture(scope="module")
def poolers(pg18: TestServer) -> Iterator[list[TestPooler]]:
    with poolers_running(pg18, "one", "two") as running:
        yield running


@pytest.fixture
def client_of(poolers: list[TestPooler], database: str) -> Iterator[list[object]]:
    """A client of each pooler, since PgBouncer shows a wildcard's database while it has one."""
    clients = [pooler.connect(database) for pooler in poolers]
    yield clients
    for client in clients:
        client.close()


def state_of(poolers: list[TestPooler], server: TestServer, state: str, database: str | None, **options: object):
    request = PoolerRequest(poolers=[p.address() for p in poolers], state=state, database=database, **options)
    return set_state(request, server=server.server, environment={})


@pytest.mark.usefixtures("client_of")
def test_pause_and_resume_change_once_and_check_mode_predicts_it(
    pg18: TestServer, poolers: list[TestPooler], database: str
) -> None:
    arguments = {**pg18.login, "poolers": [pooler.option for pooler in poolers], "database": database}
    for state, paused in (("paused", {database}), ("resumed", set())):
        before = poolers[0].paused()
        checked = run_module("pgbouncer", {**arguments, "state": state}, check=True)
        assert checked["changed"] and not checked["failed"], checked
        assert poolers[0].paused() == before
        done = run_module("pgbouncer", {**arguments, "state": state})
        assert done["changed"] and all(pooler.paused() == paused for pooler in poolers), done
        assert [(entry["name"], entry["databases"], entry["paused"]) for entry in done["poolers"]] == [
            (name, [database], bool(paused)) for name in ("one", "two")
        ]
        again = state_of(poolers, pg18, state, database)
        assert not again["changed"] and all(pooler.paused() == paused for pooler in poolers)


def test_module_names_the_client_that_keeps_a_pause_waiting_and_hides_secrets(
    pg18: TestServer, poolers: list[TestPooler], database: str
) -> None:
    arguments = {**pg18.login, "poolers": [pooler.option for pooler in poolers], "database": database}
    with transaction_open(poolers[0], database, application_name="nightly report"):
        refused = run_module("pgbouncer", {**arguments, "state": "paused", "timeout": 0.2, "attempts": 2})
    assert refused["failed"] and refused["code"] == "pause_refused"
    assert "nightly report" in refused["msg"] and "idle in transaction" in refused["msg"]
    assert not any(pooler.paused() for pooler in poolers)
    assert "c0nsole" not in json.dumps(refused)


@pytest.mark.usefixtures("client_of")
def test_reload_is_refused_while_a_database_is_paused(
    pg18: TestServer, poolers: list[TestPooler], database: str
) -> None:
    state_of(poolers[:1], pg18, "paused", database)
    with pytest.raises(HoldfastError) as refusal:
        state_of(poolers, pg18, "reloaded", None)
    assert refusal.value.code == "operation_running" and repr(database) in refusal.value.msg
    state_of(poolers[:1], pg18, "resumed", database)
    assert state_of(poolers, pg18, "reloaded", None)["changed"]


def test_kill_disconnects_once_confirmed_and_leaves_the_database_paused(
    pg18: TestServer, poolers: list[TestPooler], database: str, client_of: list[object]
) -> None:
    with pytest.raises(HoldfastError) as refusal:
        state_of(poolers, pg18, "killed", database)
    assert refusal.value.code == "confirm_required"
    assert state_of(poolers, pg18, "reconnected", database)["changed"]
    with client_of[0].cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute("SELECT 1")
    assert state_of(poolers, pg18, "killed", database, confirm=database)["changed"]
    with pytest.raises(Exception, match=r"(?i)closed|terminat|shut"), client_of[0].cursor() as cursor:  # type: ignore
        cursor.execute("SELECT 1")
    assert not state_of(poolers, pg18, "killed", database, confirm=database)["changed"]
    assert state_of(poolers, pg18, "resumed", database)["changed"]
    poolers[0].connect(database).close()


def test_user_that_may_only_look_is_told_so(pg18: TestServer, poolers: list[TestPooler], database: str) -> None:
    looker = {**poolers[0].option, "user": "looker", "password": "looker"}
    told = run_module("pgbouncer_info", {"poolers": [looker], "show": ["pools", "config", "lists", "databases"]})
    assert not told["failed"] and not told["changed"], told
    (entry,) = told["poolers"]
    assert entry["name"] == "one" and entry["version"][0].isdigit()
    assert entry["config"]["pool_mode"] == "transaction" and entry["lists"]["databases"] >= 1
    assert isinstance(entry["pools"][0]["cl_active"], int) and "clients" not in entry
    refused = run_module("pgbouncer", {**pg18.login, "poolers": [looker], "database": database, "state": "paused"})
    assert refused["code"] == "permission_denied" and "admin_users" in refused["hint"]


def test_everything_is_shown_with_numbers_as_numbers(poolers: list[TestPooler], client_of: list[object]) -> None:
    one, two = show([pooler.address() for pooler in poolers])
    assert {"clients", "config", "databases", "lists", "pools", "servers", "stats"} < set(one) & set(two)
    assert any(isinstance(row["total_query_count"], int) for row in one["stats"])
    assert {row["user"] for row in one["clients"]} >= {"postgres"} and len(client_of) == 2


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        ({"port": 1}, "connection_failed", "Pooler odd"),
        ({"password": "wrong"}, "authentication_failed", "console_admin"),
        ({"databases": ["no such name"]}, None, ""),
    ],
)
def test_poolers_that_are_of_no_use(
    pg18: TestServer, poolers: list[TestPooler], database: str, options: dict[str, object], code: str | None, word: str
) -> None:
    entry = {**poolers[1].option, "name": "odd", **options}
    arguments = {**pg18.login, "poolers": [poolers[0].option, entry], "database": database, "state": "paused"}
    answer = run_module("pgbouncer", arguments, check=True)
    if code is None:  # the wildcard makes it
        assert not answer["failed"] and answer["poolers"][1]["databases"] == ["no such name"]
    else:
        assert answer["code"] == code and word in answer["msg"] and "wrong" not in answer["msg"]


def test_aliases_are_found_and_a_name_that_leads_nowhere_is_refused(pg18: TestServer, database: str) -> None:
    names = {"app": "dbname=" + database, "app_ro": "dbname=" + database, "other": "dbname=postgres"}
    with poolers_running(pg18, "named", databases=names) as (pooler,):
        done = state_of([pooler], pg18, "paused", database)
        assert done["poolers"][0]["databases"] == ["app", "app_ro"] and pooler.paused() == {"app", "app_ro"}
        state_of([pooler], pg18, "resumed", database)
        assert not pooler.paused()
        with pytest.raises(HoldfastError) as refusal:
            state_of([pooler], pg18, "paused", "nobody")
        assert refusal.value.code == "database_not_found" and "'app_ro' (to %r)" % database in refusal.value.msg
        only = PoolerRequest(poolers=[pooler.address(databases=("app",))], state="paused", database=database)
        assert set_state(only, server=None, environment={})["changed"] and pooler.paused() == {"app"}


@pytest.mark.usefixtures("client_of")
def test_program_of_the_guard_resumes_what_stays_paused(poolers: list[TestPooler], database: str) -> None:
    pooler = poolers[0]
    passfile = pooler.directory / "pass"
    passfile.write_text("*:*:*:*:%s\n" % pooler.console.password.replace("\\", "\\\\").replace(":", "\\:"))
    passfile.chmod(0o600)
    place = PoolerAddress("one", type(pooler.console)(**{**vars(pooler.console), "password": None}))
    place = PoolerAddress(
        "one",
        type(place.server)(
            **{**vars(place.server), "connect_params": {"passfile": str(passfile)}},
        ),
    )
    guard = Guard(address=place, database=database, max_pause_s=1.5, lifetime_s=4, python=sys.executable)
    guard.validate()
    argv = command(guard, lifetime_s=guard.lifetime_s)
    assert "c0nsole" not in base64.b64decode(argv[-1]).decode()
    started = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    # The pause begins when it begins, not when the guard was set.
    time.sleep(1)
    pooler.ask("PAUSE %s" % database)
    paused = time.monotonic()
    eventually(lambda: not pooler.paused())
    assert 0.6 < time.monotonic() - paused < 1.6
    pooler.ask("PAUSE %s" % database)
    pooler.ask("RESUME %s" % database)
    output, _errors = process.communicate(timeout=10)
    assert process.returncode == 0 and 3.5 < time.monotonic() - started < 6
    assert output.count("resumed") == 1 and repr(database) in output
    assert subprocess.run(command(guard, lifetime_s=0), check=False, timeout=10).returncode == 0


def test_swap_module_pauses_poolers_and_tells_the_stall(pg18: TestServer, poolers: list[TestPooler]) -> None:
    with pair_of_databases(pg18) as pair:
        probed = {"probe_user": "postgres", "probe_password": pg18.password}
        arguments = {
            **pg18.login,
            "poolers": [{**pooler.option, **probed} for pooler in poolers],
            "database": pair.live,
            "replacement": pair.side,
            "retired_name": pair.retired,
            "confirm": pair.live,
        }
        checked = run_module("pg_swap", arguments, check=True)
        assert checked["changed"] and [entry["name"] for entry in checked["poolers"]] == ["one", "two"], checked
        done = run_module("pg_swap", arguments)
        assert done["changed"] and done["stall_source"] in ("probe", "clients") and done["stall_ms"] > 0, done
        assert [entry["databases"] for entry in done["poolers"]] == [[pair.live]] * 2
        again = run_module("pg_swap", arguments)
        assert not again["changed"] and again["resumed"] == "already_swapped" and again["resumed_poolers"] == []
