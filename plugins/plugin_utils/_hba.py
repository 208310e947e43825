# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_hba.conf and pg_ident.conf from rules, strict by default."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

METHODS = ("scram-sha-256", "cert", "peer", "reject")


def hba_lines(access: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return pg_hba.conf: the administrator by peer, what `access` allows, and a refusal for everybody else.

    Raises `ValueError` for a rule that would not be strict or that PostgreSQL would read differently.
    """
    lines = ["local all postgres peer", "local replication postgres peer"]
    for number, rule in enumerate(access, start=1):
        lines += _rule_lines(rule, "postgres_access, rule %d" % number)
    # One line per kind of connection; "all" does not cover replication.
    lines += ["local %s all reject" % database for database in ("all", "replication")]
    lines += ["host %s all all reject" % database for database in ("all", "replication")]
    return lines


KINDS = ("hostssl", "host", "local")
CERTIFICATES = ("none", "verify-ca", "verify-full")
KEYS = frozenset(("type", "databases", "users", "sources", "method", "client_certificate", "map"))
_SOURCE = re.compile(r"(?:[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?|samehost|samenet|\.?[A-Za-z0-9][A-Za-z0-9.-]*)\Z")


def _rule_lines(rule: Mapping[str, Any], where: str) -> list[str]:
    kind = str(rule.get("type") or "hostssl")
    method = str(rule.get("method") or ("peer" if kind == "local" else "scram-sha-256"))
    certificate = str(rule.get("client_certificate") or "none")
    sources = [str(item) for item in rule.get("sources") or []]
    refusals = {
        "unknown key %s" % ", ".join(sorted(set(rule) - KEYS)): set(rule) - KEYS,
        "type %s; there are %s" % (kind, ", ".join(KINDS)): kind not in KINDS,
        "method %s is refused; there are %s" % (method, ", ".join(METHODS)): method not in METHODS,
        "client_certificate %s; there are %s" % (certificate, ", ".join(CERTIFICATES)): certificate not in CERTIFICATES,
        "peer knows local connections only": method == "peer" and kind != "local",
        "local connections know peer and reject only": kind == "local" and method not in ("peer", "reject"),
        "client certificates need type hostssl": (method == "cert" or certificate != "none") and kind != "hostssl",
        "a local rule has no sources": kind == "local" and sources,
        "it names no sources, such as 10.0.0.0/8": kind != "local" and not sources,
        "it names no databases or no users": not rule.get("databases") or not rule.get("users"),
    }
    for words, refused in refusals.items():
        if refused:
            raise ValueError("%s: %s" % (where, words))
    for source in sources:
        if not _SOURCE.match(source):
            raise ValueError("%s: %r is no subnet, address or host name" % (where, source))
        if re.match(r"[0-9.]+\Z", source) or (":" in source and "/" not in source):
            mask = 128 if ":" in source else 32
            raise ValueError("%s: %s lacks its mask, such as %s/%d" % (where, source, source, mask))
    options = ["clientcert=" + certificate] if certificate != "none" else []
    if rule.get("map"):
        options.append("map=" + hba_name(str(rule["map"]), where=where))
    databases = ",".join(_keyword_or_name(str(item), DATABASE_KEYWORDS, where) for item in rule["databases"])
    users = ",".join(_keyword_or_name(str(item), ("all",), where) for item in rule["users"])
    return [" ".join(filter(None, (kind, databases, users, source, method, *options))) for source in sources or [""]]


DATABASE_KEYWORDS = ("all", "sameuser", "samerole", "replication")


def _keyword_or_name(item: str, keywords: Iterable[str], where: str) -> str:
    if item in keywords:
        return item
    # The sign for a group keeps its meaning only outside the quotes.
    return "+" + hba_name(item[1:], where=where) if item.startswith("+") else hba_name(item, where=where)


def hba_name(name: str, *, where: str) -> str:
    """Quote a name for pg_hba.conf, where quotes take every special meaning away, except that of a leading slash."""
    if not name or name.startswith("/") or re.search(r"[\x00-\x1f]", name):
        raise ValueError("%s: %r cannot be written into pg_hba.conf" % (where, name))
    return '"%s"' % name.replace('"', '""')


def ident_line(entry: Mapping[str, Any]) -> str:
    where = "postgres_ident"
    return " ".join(hba_name(str(entry[key]), where=where) for key in ("map", "system_user", "role"))
