# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option ``poolers`` of modules, as the doc fragment holdfast.postgres.poolers describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import PoolerAddress

SSL_MODES = ["allow", "disable", "prefer", "require", "verify-ca", "verify-full"]


def poolers_argument_spec(*, required: bool = False) -> dict[str, dict[str, Any]]:
    """Return the option ``poolers``."""
    spec: dict[str, Any] = {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str"},
            "host": {"type": "str"},
            "unix_socket": {"type": "path"},
            "port": {"type": "int", "default": 6432},
            "user": {"type": "str", "default": "pgbouncer"},
            "password": {"type": "str", "no_log": True},
            "passfile": {"type": "path"},
            "ssl_mode": {"type": "str", "choices": SSL_MODES},
            "ca_cert": {"type": "path"},
            "ssl_cert": {"type": "path"},
            "ssl_key": {"type": "path"},
            "databases": {"type": "list", "elements": "str", "default": []},
            "probe_user": {"type": "str"},
            "probe_password": {"type": "str", "no_log": True},
        },
    }
    return {"poolers": {**spec, "required": True} if required else spec}


def poolers_from(params: Mapping[str, Any]) -> list[PoolerAddress]:
    """Return the poolers that the option names; raises `HoldfastError` for one without a place or a name of its own."""
    found = [_address(entry) for entry in params["poolers"] or []]
    names = [address.name for address in found]
    for name in names:
        if names.count(name) > 1:
            raise HoldfastError(
                code="option_invalid",
                msg="Two poolers are called %r." % name,
                hint="Give each element of poolers a name of its own, and each console once.",
            )
    return found


def _address(entry: Mapping[str, Any]) -> PoolerAddress:
    place = entry["unix_socket"] or entry["host"]
    if not place:
        raise HoldfastError(
            code="option_invalid",
            msg="Pooler %s has neither host nor unix_socket." % (entry["name"] or "without a name"),
            hint="Name the host, or the directory of the Unix socket (unix_socket_dir of PgBouncer).",
        )

    def server(user: str, password: str | None) -> Server:
        return Server(
            host=place,
            port=entry["port"],
            user=user,
            password=password or None,
            ssl_mode=entry["ssl_mode"],
            ca_cert=entry["ca_cert"],
            ssl_cert=entry["ssl_cert"],
            ssl_key=entry["ssl_key"],
            connect_params={"passfile": entry["passfile"]} if entry["passfile"] else {},
        )

    return PoolerAddress(
        name=entry["name"] or "%s:%d" % (place, entry["port"]),
        server=server(entry["user"], entry["password"]),
        databases=tuple(entry["databases"] or ()),
        probe=server(entry["probe_user"], entry["probe_password"]) if entry["probe_user"] else None,
    )
