# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the console of each version shows, and what its parser takes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import (
    argument,
    clients_waiting,
    entry_of,
    logging_in,
    typed,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler_options import poolers_from
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.refusal import holders

# As SHOW of these versions answers, one row each; 1.26 has the columns of 1.24.
DATABASES = {
    "1.15": "name=app_ro host=db port=5432 database=app force_user=~ pool_size=20 reserve_pool=0 pool_mode=~"
    " max_connections=0 current_connections=3 paused=1 disabled=0",
    "1.18": "name=app_ro host=db port=5432 database=app force_user=~ pool_size=20 min_pool_size=0 reserve_pool=0"
    " pool_mode=~ max_connections=0 current_connections=3 paused=1 disabled=0",
    "1.24": "name=app_ro host=db port=5432 database=app force_user=~ pool_size=20 min_pool_size=0 reserve_pool_size=0"
    " server_lifetime=3600 pool_mode=~ load_balance_hosts=~ max_connections=0 current_connections=3"
    " max_client_connections=0 current_client_connections=2 paused=1 disabled=0",
}
POOLS = {
    "1.15": "database=app user=u cl_active=1 cl_waiting=4 sv_active=1 sv_idle=0 sv_used=0 sv_tested=0 sv_login=2"
    " maxwait=0 maxwait_us=0 pool_mode=transaction",
    "1.18": "database=app user=u cl_active=1 cl_waiting=4 cl_active_cancel_req=0 cl_waiting_cancel_req=0 sv_active=1"
    " sv_active_cancel=0 sv_being_canceled=0 sv_idle=0 sv_used=0 sv_tested=0 sv_login=2 maxwait=0 maxwait_us=0"
    " pool_mode=transaction",
    "1.24": "database=app user=u cl_active=1 cl_waiting=4 cl_active_cancel_req=0 cl_waiting_cancel_req=0 sv_active=1"
    " sv_active_cancel=0 sv_being_canceled=0 sv_idle=0 sv_used=0 sv_tested=0 sv_login=2 maxwait=0 maxwait_us=0"
    " pool_mode=transaction load_balance_hosts=~",
}
SOCKET = {
    "1.15": "type={type} user=u database=app state=active addr=10.0.0.3 port=4242 local_addr=10.0.0.9 local_port=6432"
    " connect_time=t request_time=t wait=0 wait_us=0 close_needed=0 ptr={ptr} link={link} remote_pid={pid} tls=",
    "1.18": "type={type} user=u database=app state=active addr=10.0.0.3 port=4242 local_addr=10.0.0.9 local_port=6432"
    " connect_time=t request_time=t wait=0 wait_us=0 close_needed=0 ptr={ptr} link={link} remote_pid={pid} tls="
    " application_name=report",
    "1.24": "type={type} user=u database=app replication=none state=active addr=10.0.0.3 port=4242 local_addr=10.0.0.9"
    " local_port=6432 connect_time=t request_time=t wait=0 wait_us=0 close_needed=0 ptr={ptr} link={link}"
    " remote_pid={pid} tls= application_name=report prepared_statements=0 id=7",
}
VERSIONS = sorted(POOLS)


def row(text: str) -> dict[str, Any]:
    """A row as the driver and `typed` give it; ~ is null."""
    pairs = (item.split("=", 1) for item in text.split())
    return {name: typed(name, None if value == "~" else value) for name, value in pairs}


@pytest.mark.parametrize("version", VERSIONS)
def test_databases_of_every_version(version: str) -> None:
    entry = entry_of(row(DATABASES[version]))
    assert (entry.name, entry.database, entry.host, entry.port) == ("app_ro", "app", "db", 5432)
    assert entry.paused and entry.pool_mode is None


@pytest.mark.parametrize("version", VERSIONS)
def test_pools_of_every_version(version: str) -> None:
    pools = [row(POOLS[version]), {**row(POOLS[version]), "database": "other"}]
    assert (logging_in(pools, ["app"]), clients_waiting(pools, ["app"])) == (2, 4)
    assert logging_in(pools, ["nobody"]) == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_client_behind_a_busy_server_of_every_version(version: str) -> None:
    client = row(SOCKET[version].format(type="C", ptr="0xa", link="0xb", pid=0))
    server = row(SOCKET[version].format(type="S", ptr="0xb", link="0xa", pid=911))
    idle = {**server, "ptr": "0xc", "link": "", "state": "idle"}
    (found,) = holders([server, idle], [client], "app")
    assert (found["user"], found["client_addr"], found["client_port"], found["server_pid"]) == (
        "u",
        "10.0.0.3",
        4242,
        911,
    )
    assert found["application_name"] == ("" if version == "1.15" else "report")
    assert holders([server], [], "app")[0]["user"] == "u", "a client that has just left"
    assert holders([server], [client], "other") == []


def test_numbers_are_numbers_and_names_are_not() -> None:
    assert typed("total_query_count", Decimal(12)) == 12 and isinstance(typed("x", Decimal(12)), int)
    assert typed("pool_size", "20") == 20 and typed("database", "2024") == "2024" and typed("tls", "") == ""
    assert typed("ptr", "123") == "123" and typed("host", None) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app_1", "app_1"),
        ("App", "App"),
        ("with space", '"with space"'),
        ('a"b', '"a""b"'),
        ("x" * 63, "x" * 63),
        ("é", '"é"'),
    ],
)
def test_names_as_the_console_takes_them(name: str, text: str) -> None:
    assert argument(name) == text


@pytest.mark.parametrize("name", ["-" * 62, "é" * 31, '"' * 31])
def test_name_that_the_console_cannot_take_is_refused(name: str) -> None:
    with pytest.raises(HoldfastError) as refusal:
        argument(name)
    assert refusal.value.code == "unsupported"


def option(**values: Any) -> dict[str, Any]:
    names = "name host unix_socket password passfile ssl_mode ca_cert ssl_cert ssl_key probe_user probe_password"
    return {**dict.fromkeys(names.split()), "port": 6432, "user": "pgbouncer", "databases": [], **values}


def test_poolers_from_options() -> None:
    one, two = poolers_from(
        {"poolers": [option(host="p1", probe_user="app"), option(name="two", unix_socket="/run/x", passfile="/f")]}
    )
    assert (one.name, one.where, one.server.user) == ("p1:6432", "p1:6432", "pgbouncer")
    assert one.probe == Server(host="p1", port=6432, user="app")
    assert (two.name, two.server.host, two.probe) == ("two", "/run/x", None)
    assert two.server.parameters("pgbouncer")["passfile"] == "/f"
    assert poolers_from({"poolers": None}) == []


@pytest.mark.parametrize("entries", [[option()], [option(name="a", host="x"), option(name="a", host="y")]])
def test_poolers_without_a_place_or_a_name_of_their_own_are_refused(entries: list[dict[str, Any]]) -> None:
    with pytest.raises(HoldfastError) as refusal:
        poolers_from({"poolers": entries})
    assert refusal.value.code == "option_invalid"
