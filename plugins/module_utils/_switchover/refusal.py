# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a pooler did not pause: which clients hold it up, and what they do; and which one could not be resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import BUSY_STATES, PoolerAddress
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.gate import Gate, one_line

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2


@dataclass(frozen=True)
class Refusal:
    """Why one pooler did not pause."""

    address: PoolerAddress
    databases: Sequence[str]
    reason: str
    clients: list[dict[str, Any]]

    def describe(self) -> str:
        """Return one phrase for a message."""
        shown = "; ".join(map(_described, self.clients[:5]))
        if len(self.clients) > 5:
            shown += "; and %d more" % (len(self.clients) - 5)
        return "pooler %s, database %s: %s%s" % (
            self.address.name,
            ", ".join(map(repr, self.databases)),
            self.reason,
            ": " + shown if shown else "",
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "pooler": self.address.name,
            "console": self.address.where,
            "databases": list(self.databases),
            "reason": self.reason,
            "clients": self.clients,
        }


def _described(client: dict[str, Any]) -> str:
    text = "client %s:%s (user %s%s), server process %s" % (
        client["client_addr"],
        client["client_port"],
        client["user"],
        ", application %s" % client["application_name"] if client["application_name"] else "",
        client["server_pid"] or "unknown",
    )
    if client["transaction_age_s"] is not None:
        text += ", %s, transaction open for %.1f s" % (client["state"], client["transaction_age_s"])
    if client["query"]:
        text += ", query: %s" % " ".join(client["query"].split())
    return text


def refusal_of(gate: Gate, *, waited_s: float) -> Refusal:
    """Return what a gate that did not close says, and which clients kept it open, while they still do."""
    if gate.error is not None:
        return Refusal(gate.address, [gate.name], gate.error, [])
    reason = "transactions were still running after %.1f s" % waited_s
    if gate.session_mode:
        reason = "clients had not disconnected after %.1f s, which a pool in session mode waits for" % waited_s
    try:
        servers = gate.resumer.show("SERVERS", timeout_s=1)
        clients = gate.resumer.show("CLIENTS", timeout_s=1)
    except (HoldfastError, psycopg2.Error) as exc:
        return Refusal(gate.address, [gate.name], "%s (%s)" % (reason, one_line(exc)), [])
    return Refusal(gate.address, [gate.name], reason, holders(servers, clients, gate.name))


def holders(
    servers: Sequence[dict[str, Any]], clients: Sequence[dict[str, Any]], database: str
) -> list[dict[str, Any]]:
    """Return the clients that have a server of ``database``, by the rows of SHOW SERVERS and SHOW CLIENTS."""
    by_pointer = {client["ptr"]: client for client in clients}
    found = []
    for server in servers:
        if server["database"] == database and server["state"] in BUSY_STATES:
            client = by_pointer.get(server["link"], {})
            found.append(
                {
                    "user": client.get("user") or server["user"],
                    "client_addr": client.get("addr"),
                    "client_port": client.get("port"),
                    "application_name": client.get("application_name") or "",  # from 1.18 on
                    "connected_at": client.get("connect_time"),
                    "server_pid": server.get("remote_pid") or None,
                    "state": None,
                    "transaction_age_s": None,
                    "query_age_s": None,
                    "query": "",
                }
            )
    return found


class _Poolers(Protocol):
    @property
    def facts(self) -> Sequence[Mapping[str, Any]]:
        """Return what each of them did."""


@contextlib.contextmanager
def stuck_named(poolers: _Poolers) -> Iterator[None]:
    """Have a failure of the block say, too, which poolers could not be resumed: their clients may wait still."""
    try:
        yield
    except (HoldfastError, psycopg2.Error) as exc:
        facts = [dict(fact) for fact in poolers.facts]
        stuck = [fact for fact in facts if fact["error"]]
        if not stuck:
            raise
        known: dict[str, Any] = {"code": "connection_failed", "msg": one_line(exc), "hint": "Then run the task again."}
        if isinstance(exc, HoldfastError):
            known = exc.as_result()
        names = sorted({name for fact in stuck for name in fact["databases"]})
        raise HoldfastError(
            **{
                **known,
                "msg": "%s NOT RESUMED: %s."
                % (known["msg"], "; ".join("pooler %(name)s at %(console)s (%(error)s)" % fact for fact in stuck)),
                "hint": "RESUME %s on these consoles, unless they are down. %s" % (", ".join(names), known["hint"]),
                "poolers": facts,
            }
        ) from exc
