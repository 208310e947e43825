# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes as people write them, and as they run: what cannot be understood is refused before anything is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union
from urllib import parse

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.entry import Entry, invalid
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.web import (
    FORM,
    JSON,
    Http,
    Login,
    encode_form,
)

STAGES = ("preflight", "verify", "rollback")
SEVERITIES = ("error", "warning")
KINDS = ("http", "tcp", "libpq", "command")
LOGIN_KINDS = ("form", "token", "bearer", "basic")
#: Methods that change nothing (RFC 9110, 9.2.1).
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
METHODS = (*SAFE_METHODS, "POST", "PUT", "PATCH", "DELETE")

LOGIN_KEYS = (
    "name",
    "kind",
    "url",
    "fields",
    "user",
    "password",
    "password_field",
    "encoding",
    "token",
    "token_path",
    "scheme",
    "cookie",
    "csrf_field",
    "status",
)
PROBE_KEYS = ("name", "description", "severity", "stages", "timeout_s", "retry", "expect", *KINDS)
HTTP_KEYS = ("url", "method", "headers", "secret_headers", "json", "form", "login", "follow_redirects")
TCP_KEYS = ("host", "port")
TLS_KEYS = ("ssl_mode", "ca_cert", "ssl_cert", "ssl_key")
LIBPQ_KEYS = ("host", "port", "database", "user", "password", *TLS_KEYS, "login", "query")
COMMAND_KEYS = ("argv", "environment", "secret_environment")
NO_QUERY = "SELECT 1"
#: What can be expected of each kind.
EXPECT_KEYS = {
    "http": ("status", "json", "text", "max_latency_ms"),
    "tcp": ("max_latency_ms",),
    "libpq": ("value", "max_latency_ms"),
    "command": ("exit_code", "text", "max_latency_ms"),
}


@dataclass(frozen=True)
class Tcp:
    """A port that is to be open."""

    host: str
    port: int


@dataclass(frozen=True)
class Libpq:
    """A server, or a pooler, that is to let a role in, or only to be ready for it."""

    server: Server
    database: str
    login: bool = True
    query: str = NO_QUERY


@dataclass(frozen=True)
class Command:
    """A program that is to end with one of the exit codes."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    secret_environment: Mapping[str, str] = field(default_factory=dict, repr=False)


Target = Union[Http, Tcp, Libpq, Command]


@dataclass(frozen=True)
class Probe:
    """One question to the application, and the answer that is expected; ``paths`` maps JMESPath to values."""

    name: str
    kind: str
    target: Target
    severity: str = "error"
    stages: tuple[str, ...] = ("verify",)
    timeout_s: float = 10
    retry: bool = True
    statuses: tuple[int, ...] = (200,)
    paths: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    value: Any = None
    max_latency_ms: float | None = None

    @property
    def looks_only(self) -> bool:
        """Whether asking is sure to change nothing, so that check mode may ask."""
        if isinstance(self.target, Http):
            return self.target.method in SAFE_METHODS
        return not isinstance(self.target, Command) and getattr(self.target, "query", NO_QUERY) == NO_QUERY


def parse_logins(values: Any) -> list[Login]:
    """Return the logins; raises `HoldfastError` (``option_invalid``)."""
    logins: list[Login] = []
    for position, value in enumerate(_list(values, "logins"), start=1):
        entry = Entry(value, where=_where("login", position, value), keys=LOGIN_KEYS)
        kind = entry.choice("kind", LOGIN_KINDS)
        asks = kind in ("form", "token")
        login = Login(
            name=entry.text("name"),
            kind=kind,
            url=_url(entry, "url") if asks else "",
            fields=entry.table("fields"),
            user=entry.text("user", None if kind == "basic" else ""),
            password=entry.text("password", None if kind != "bearer" else ""),
            password_field=entry.text("password_field", "password"),
            encoding=entry.choice("encoding", ("form", "json"), "form"),
            token=entry.text("token", None if kind == "bearer" else ""),
            token_path=entry.text("token_path", "access_token"),
            scheme=entry.text("scheme", "Bearer"),
            cookie=entry.text("cookie", None if kind == "form" else ""),
            csrf_field=entry.text("csrf_field", ""),
            statuses=_codes(entry, "status", default=(200,), low=100, high=599),
        )
        if kind == "token":
            _compile(login.token_path, entry, "token_path")
        if login.name in {other.name for other in logins}:
            raise entry.refusal("name", "two logins have this name.")
        logins.append(login)
    return logins


def parse_probes(values: Any, *, logins: Sequence[Login] = ()) -> list[Probe]:
    """Return the probes; raises `HoldfastError` (``option_invalid``, or ``library_missing`` for JMESPath)."""
    probes: list[Probe] = []
    for position, value in enumerate(_list(values, "probes"), start=1):
        entry = Entry(value, where=_where("probe", position, value), keys=PROBE_KEYS)
        probe = _parse_probe(entry, logins={login.name for login in logins})
        if probe.name in {other.name for other in probes}:
            raise entry.refusal("name", "two probes have this name; results are kept by name.")
        probes.append(probe)
    return probes


def _list(values: Any, what: str) -> list[Any]:
    if values in (None, ""):
        return []
    if not isinstance(values, (list, tuple)):
        raise invalid("the list of %s" % what, "it is not a list.")
    return list(values)


def _where(what: str, position: int, value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else None
    return "%s %d%s" % (what, position, " (%s)" % name if isinstance(name, str) and name else "")


def _parse_probe(entry: Entry, *, logins: set[str]) -> Probe:
    kinds = [kind for kind in KINDS if kind in entry.given]
    if len(kinds) != 1:
        raise invalid(
            entry.where, "it asks %s." % (" and ".join(kinds) or "nothing"), hint="Name one of %s." % _or(KINDS)
        )
    kind = kinds[0]
    target: Target
    if kind == "http":
        target = _http(entry, logins=logins)
    elif kind == "tcp":
        inside = _inside(entry, "tcp", TCP_KEYS)
        target = Tcp(inside.text("host"), int(inside.number("port", low=1, high=65535)))
    elif kind == "libpq":
        target = _libpq(_inside(entry, "libpq", LIBPQ_KEYS))
    else:
        inside = _inside(entry, "command", COMMAND_KEYS)
        target = Command(inside.texts("argv"), inside.table("environment"), inside.table("secret_environment"))
        if not target.argv:
            raise inside.refusal("argv", "it names no program.")
    expect = _inside(entry, "expect", EXPECT_KEYS[kind])
    exit_codes = kind == "command"
    paths = expect.given.get("json", {})
    if not isinstance(paths, Mapping):
        raise expect.refusal("json", "it must map JMESPath expressions to values.")
    for path in paths:
        _compile(str(path), expect, "json")
    limit_ms = expect.number("max_latency_ms", 0, low=1, high=3_600_000)
    return Probe(
        name=entry.text("name"),
        kind=kind,
        target=target,
        severity=entry.choice("severity", SEVERITIES, "error"),
        stages=entry.texts("stages", choices=STAGES) or ("verify",),
        timeout_s=entry.number("timeout_s", 10, low=0.1, high=600),
        retry=entry.flag("retry", True),
        statuses=_codes(expect, "exit_code", default=(0,), low=0, high=255)
        if exit_codes
        else _codes(expect, "status", default=(200,), low=100, high=599),
        paths={str(path): value for path, value in paths.items()},
        text=expect.text("text", ""),
        value=expect.given.get("value"),
        max_latency_ms=limit_ms or None,
    )


def _inside(entry: Entry, key: str, keys: Sequence[str]) -> Entry:
    return Entry(entry.given.get(key, {}), where="%s, %s" % (entry.where, key), keys=keys)


def _http(entry: Entry, *, logins: set[str]) -> Http:
    inside = _inside(entry, "http", HTTP_KEYS)
    login = inside.text("login", "")
    if login and login not in logins:
        raise inside.refusal(
            "login", "no login has this name.", hint="Logins: %s." % (", ".join(sorted(logins)) or "none")
        )
    body, content_type = None, ""
    if "json" in inside.given and "form" in inside.given:
        raise inside.refusal("form", "there is a body already, in json.")
    if "json" in inside.given:
        body, content_type = json.dumps(inside.given["json"], default=str).encode("utf-8"), JSON
    elif "form" in inside.given:
        body, content_type = encode_form(inside.table("form")), FORM
    method = inside.text("method", "GET" if body is None else "POST").upper()
    if method not in METHODS:
        raise inside.refusal("method", "the word is unknown.", hint="Write one of: %s." % _or(METHODS))
    headers = {**inside.table("headers"), **inside.table("secret_headers")}
    if any(mark in text for pair in headers.items() for text in pair for mark in "\r\n") or not all(headers):
        raise inside.refusal("headers", "a header is empty or holds a line break.")
    return Http(
        url=_url(inside, "url"),
        method=method,
        headers=inside.table("headers"),
        secret_headers=inside.table("secret_headers"),
        body=body,
        content_type=content_type,
        login=login,
        follow_redirects=inside.flag("follow_redirects", True),
    )


def _libpq(inside: Entry) -> Libpq:
    server = Server(
        host=inside.text("host", "") or None,
        port=int(inside.number("port", 5432, low=1, high=65535)),
        user=inside.text("user", "") or None,
        password=inside.text("password", "") or None,
        ssl_mode=inside.text("ssl_mode", "") or None,
        ca_cert=inside.text("ca_cert", "") or None,
        ssl_cert=inside.text("ssl_cert", "") or None,
        ssl_key=inside.text("ssl_key", "") or None,
    )
    login, query = inside.flag("login", True), inside.text("query", NO_QUERY)
    if query != NO_QUERY and not login:
        raise inside.refusal("query", "without a login there is nobody to ask it.")
    return Libpq(server, inside.text("database", "postgres"), login, query)


def _url(entry: Entry, key: str) -> str:
    """Return an address of http or https without a password in it; such would be shown."""
    url = entry.text(key).strip()
    try:
        parts = parse.urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits, parts = False, parse.urlsplit("")
    if not fits or any(character.isspace() or ord(character) < 32 for character in url):
        raise entry.refusal(
            key, "it is no address of http or https.", hint="Write for example https://app.internal/health"
        )
    if parts.username is not None or parts.password is not None:
        raise entry.refusal(key, "it holds a user or a password.", hint="Give the probe a login of the kind basic.")
    return url


def _codes(entry: Entry, key: str, *, default: tuple[int, ...], low: int, high: int) -> tuple[int, ...]:
    texts = entry.texts(key)
    if not all(text.isdecimal() and low <= int(text) <= high for text in texts):
        raise entry.refusal(key, "it must be a number from %d to %d, or a list of them." % (low, high))
    return tuple(int(text) for text in texts) or default


def _compile(path: str, entry: Entry, key: str) -> None:
    try:
        import jmespath  # noqa: PLC0415  (only where a path is used: the library may not be there)
        from jmespath.exceptions import JMESPathError  # noqa: PLC0415
    except ImportError as exc:
        raise HoldfastError(
            code="library_missing",
            msg="%s, %s: the Python library jmespath is not installed for the interpreter that asks."
            % (entry.where, key),
            hint="Install jmespath there, or let the controller ask: probe_from: localhost.",
        ) from exc
    try:
        jmespath.compile(path)
    except JMESPathError as exc:
        problem = "%r is no JMESPath expression: %s." % (path, " ".join(str(exc).split()).rstrip("."))
        raise entry.refusal(key, problem) from exc


def _or(words: Sequence[str]) -> str:
    return ", ".join(words)
