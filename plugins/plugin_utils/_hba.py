# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_hba.conf and pg_ident.conf from rules, strict by default."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

METHODS = ("scram-sha-256", "cert", "peer", "reject")
KINDS = ("hostssl", "host", "local")
CERTIFICATES = ("none", "verify-ca", "verify-full")
KEYS = frozenset(("type", "databases", "users", "sources", "method", "client_certificate", "map"))
DATABASE_KEYWORDS = ("all", "sameuser", "samerole", "replication")
SOURCE_KEYWORDS = ("all", "samehost", "samenet")
_HOST_NAME = re.compile(r"\.?[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z")


def hba_lines(access: Iterable[Mapping[str, Any]], *, standbys: Mapping[str, Any] | None = None) -> list[str]:
    """Return pg_hba.conf: the administrator by peer, `standbys`, what `access` allows, and a refusal for the rest.

    Raises `ValueError` for a rule that would not be strict or that PostgreSQL would read differently.
    """
    lines = ["local all postgres peer", "local replication postgres peer"]
    if standbys:
        lines += _rule_lines(standbys, "postgres_replication_sources")
    for number, rule in enumerate(access, start=1):
        lines += _rule_lines(rule, "postgres_access, rule %d" % number)
    # One line per kind of connection; "all" does not cover replication.
    lines += ["local %s all reject" % database for database in ("all", "replication")]
    lines += ["host %s all all reject" % database for database in ("all", "replication")]
    return lines


def listed(value: Any, where: str) -> list[Any]:
    """Return a list as it is; Ansible takes a string for one, and its characters would become the items."""
    if isinstance(value, str):
        raise ValueError("%s: %r is no list; write [%s]" % (where, value, value))
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        # What it is instead may hold a password.
        raise ValueError("%s is no list; write [...]" % where)
    return list(value)


def _rule_lines(rule: Mapping[str, Any], where: str) -> list[str]:
    if not isinstance(rule, Mapping):
        raise ValueError("%s: it is no mapping of %s" % (where, ", ".join(sorted(KEYS))))
    kind = str(rule.get("type") or "hostssl")
    method = str(rule.get("method") or ("peer" if kind == "local" else "scram-sha-256"))
    certificate = str(rule.get("client_certificate") or "none")
    given = {key: listed(rule.get(key) or [], "%s, %s" % (where, key)) for key in ("databases", "users", "sources")}
    sources = [str(item) for item in given["sources"]]
    refusals = {
        "unknown key %s; there are %s" % (", ".join(sorted(set(rule) - KEYS)), ", ".join(sorted(KEYS))): set(rule)
        - KEYS,
        "type %s; there are %s" % (kind, ", ".join(KINDS)): kind not in KINDS,
        "method %s is refused; there are %s" % (method, ", ".join(METHODS)): method not in METHODS,
        "client_certificate %s; there are %s" % (certificate, ", ".join(CERTIFICATES)): certificate not in CERTIFICATES,
        "peer knows local connections only": method == "peer" and kind != "local",
        "local connections know peer and reject only": kind == "local" and method not in ("peer", "reject"),
        "client certificates need type hostssl": (method == "cert" or certificate != "none") and kind != "hostssl",
        "a local rule has no sources": kind == "local" and sources,
        "it names no sources, such as 10.0.0.0/8": kind != "local" and not sources,
        "it names no databases or no users": not given["databases"] or not given["users"],
    }
    for words, refused in refusals.items():
        if refused:
            raise ValueError("%s: %s" % (where, words))
    for source in sources:
        _check_source(source, where)
    options = ["clientcert=" + certificate] if certificate != "none" else []
    if rule.get("map"):
        options.append("map=" + hba_name(str(rule["map"]), where=where))
    databases = ",".join(_database(str(item), where) for item in given["databases"])
    users = ",".join(_user(str(item), where) for item in given["users"])
    return [" ".join(filter(None, (kind, databases, users, source, method, *options))) for source in sources or [""]]


def _check_source(source: str, where: str) -> None:
    if source in SOURCE_KEYWORDS:
        return
    if "/" in source or ":" in source or re.match(r"[0-9.]+\Z", source):
        try:
            network = ipaddress.ip_network(source, strict=False)
        except ValueError:
            raise ValueError("%s: %r is no subnet" % (where, source)) from None
        if not re.search(r"/[0-9]{1,3}\Z", source):
            mask = network.max_prefixlen
            raise ValueError("%s: %s lacks its mask, such as %s/%d" % (where, source, source, mask))
    elif not _HOST_NAME.match(source):
        raise ValueError("%s: %r is no subnet, address or host name" % (where, source))


# Whoever means a database or a role with such a name writes it in double quotes, as PostgreSQL has it.
_LITERAL = re.compile(r'"(all|sameuser|samerole|replication|\+.+)"\Z', re.DOTALL)


def _database(item: str, where: str) -> str:
    literal = _LITERAL.match(item)
    if item in DATABASE_KEYWORDS:
        return item
    return hba_name(literal.group(1) if literal else item, where=where)


def _user(item: str, where: str) -> str:
    literal = _LITERAL.match(item)
    if item == "all":
        return item
    if item.startswith("+"):
        # The sign for the members of a role keeps its meaning only outside the quotes.
        return "+" + hba_name(item[1:], where=where)
    return hba_name(literal.group(1) if literal else item, where=where)


def hba_name(name: str, *, where: str) -> str:
    """Quote a name for pg_hba.conf, where quotes take every special meaning away, except that of a leading slash."""
    if not name or name.startswith("/") or re.search(r"[\x00-\x1f]", name):
        raise ValueError("%s: %r cannot be written into pg_hba.conf" % (where, name))
    return '"%s"' % name.replace('"', '""')


def ident_line(entry: Mapping[str, Any], *, where: str = "postgres_ident") -> str:
    """Return one line of pg_ident.conf."""
    keys = ("map", "system_user", "role")
    if not isinstance(entry, Mapping) or set(entry) != set(keys):
        raise ValueError("%s: %r has not exactly %s" % (where, entry, ", ".join(keys)))
    return " ".join(hba_name(str(entry[key]), where=where) for key in keys)
