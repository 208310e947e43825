# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to a web application, as a person of its users makes them: with a login, cookies and redirects.

The standard library's opener would send an Authorization header on to whatever host a redirect names, and would not
tell a redirect of a login from its answer; so redirects are followed here.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.client import HTTPException
from http.cookiejar import CookieJar
from typing import Any
from urllib import parse, request

REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
MAX_BODY_BYTES = 10_000_000
MASK = "********"


class WebError(Exception):
    """Why there is no answer to judge, in words that hold no secret."""


@dataclass(frozen=True)
class Http:
    """One request. Secret headers, like the login, stay with the origin that they are for."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    content_type: str = ""
    login: str = ""
    follow_redirects: bool = True

    @property
    def shown(self) -> str:
        """Method and address, without what comes after the path: that may be a secret."""
        return "%s %s" % (self.method, without_query(self.url))


@dataclass(frozen=True)
class Login:
    """How a session begins: a form with cookies, a token from an endpoint, or a token or password known before."""

    name: str
    kind: str
    url: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    password: str = field(default="", repr=False)
    password_field: str = "password"  # noqa: S105  (a name)
    encoding: str = "form"
    token: str = field(default="", repr=False)
    token_path: str = "access_token"  # noqa: S105  (a path)
    scheme: str = "Bearer"
    cookie: str = ""
    csrf_field: str = ""
    statuses: tuple[int, ...] = (200,)


@dataclass(frozen=True)
class Answer:
    """What came back, after redirects."""

    status: int
    body: bytes
    latency_ms: float
    url: str

    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON; raises ValueError."""
        return json.loads(self.body)


@dataclass
class Session:
    """What a login left: cookies, and a header."""

    jar: CookieJar = field(default_factory=CookieJar)
    authorization: str = ""


class Secrets:
    """What must not be shown, in every form in which it may come back."""

    def __init__(self) -> None:
        """Know none yet."""
        self._known: set[str] = set()

    def add(self, values: Iterable[str]) -> None:
        """Remember secrets."""
        for value in values:
            if value:
                self._known |= {value, parse.quote(value, safe=""), parse.quote_plus(value), json.dumps(value)[1:-1]}

    def hide(self, text: str) -> str:
        """Return the text with every secret replaced."""
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, MASK)
        return text


class Web:
    """The client of one run: its logins happen when a probe first needs them, and again when one is refused."""

    def __init__(
        self,
        logins: Iterable[Login],
        *,
        secrets: Secrets,
        validate_certs: bool = True,
        ca_cert: str | None = None,
        use_proxy: bool = True,
    ) -> None:
        """Prepare; nothing is sent yet."""
        self.logins = {login.name: login for login in logins}
        self.secrets = secrets
        for login in self.logins.values():
            basic = base64.b64encode(("%s:%s" % (login.user, login.password)).encode("utf-8")).decode("ascii")
            secrets.add([login.password, login.token, *([basic] if login.kind == "basic" else [])])
        self._sessions: dict[str, Session] = {}
        context = ssl.create_default_context(cafile=ca_cert)
        if not validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        # Other schemes than http and https have no handler.
        self._handlers: list[request.BaseHandler] = [
            request.ProxyHandler(None if use_proxy else {}),
            request.UnknownHandler(),
            request.HTTPHandler(),
            request.HTTPSHandler(context=context),
        ]

    def ask(self, http: Http, *, timeout_s: float) -> Answer:
        """Return the answer to a request, logged in where it names a login; raises `WebError`."""
        if not http.login:
            return self._exchange(http, Session(), timeout_s=timeout_s)
        if http.login not in self._sessions:
            self._sessions[http.login] = self._log_in(self.logins[http.login], timeout_s=timeout_s)
        answer = self._exchange(http, self._sessions[http.login], timeout_s=timeout_s)
        if answer.status in (401, 403):
            del self._sessions[http.login]
        return answer

    def _log_in(self, login: Login, *, timeout_s: float) -> Session:
        session = Session()
        if login.kind == "bearer":
            session.authorization = "%s %s" % (login.scheme, login.token)
        elif login.kind == "basic":
            pair = "%s:%s" % (login.user, login.password)
            session.authorization = "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")
        else:
            try:
                self._begin(login, session, timeout_s=timeout_s)
            except WebError as exc:
                raise WebError("the login %s failed: %s" % (login.name, exc)) from exc
        return session

    def _begin(self, login: Login, session: Session, *, timeout_s: float) -> None:
        fields = {**login.fields, login.password_field: login.password}
        headers = {"Referer": login.url}
        if login.csrf_field:
            page = self._exchange(Http(login.url), session, timeout_s=timeout_s)
            hidden = _HiddenField(login.csrf_field)
            hidden.feed(page.text())
            if hidden.value is None:
                raise WebError("%s has no field %r" % (without_query(login.url), login.csrf_field))
            self.secrets.add([hidden.value])
            fields[login.csrf_field] = hidden.value
        http = Http(login.url, "POST", headers, body=encode_form(fields), content_type=FORM)
        if login.encoding == "json":
            http = Http(login.url, "POST", headers, body=json.dumps(fields).encode("utf-8"), content_type=JSON)
        answer = self._exchange(http, session, timeout_s=timeout_s)
        self.secrets.add(cookie.value for cookie in session.jar if cookie.value)
        if answer.status not in login.statuses:
            wanted = " or ".join(map(str, login.statuses))
            raise WebError("%s answered %d, expected %s" % (http.shown, answer.status, wanted))
        if login.kind == "token":
            token = search(login.token_path, _parsed(answer, http))
            if not isinstance(token, str) or not token:
                raise WebError("the answer of %s has no text at %s" % (http.shown, login.token_path))
            self.secrets.add([token])
            session.authorization = "%s %s" % (login.scheme, token)
        elif login.cookie not in {cookie.name for cookie in session.jar}:
            raise WebError("%s answered %d, but set no cookie %r" % (http.shown, answer.status, login.cookie))

    def _exchange(self, http: Http, session: Session, *, timeout_s: float) -> Answer:
        """Send a request and follow its redirects within ``timeout_s`` for all of them."""
        started = time.monotonic()
        url, method, body = http.url, http.method, http.body
        opener = request.OpenerDirector()
        for handler in (*self._handlers, request.HTTPCookieProcessor(session.jar)):
            opener.add_handler(handler)
        for _hop in range(MAX_REDIRECTS + 1):
            status, location, content = self._once(
                opener, http, url=url, method=method, body=body, session=session, ends_at=started + timeout_s
            )
            if status not in REDIRECTS or not location or not http.follow_redirects:
                return Answer(status, content, round((time.monotonic() - started) * 1000, 1), url)
            target = parse.urljoin(url, location)
            if parse.urlsplit(target).scheme not in ("http", "https"):
                raise WebError("%s redirects to something that is neither http nor https" % http.shown)
            if method != "HEAD" and (status == 303 or (status in (301, 302) and method == "POST")):
                method, body = "GET", None
            if body is not None and origin(target) != origin(http.url):
                raise WebError("%s redirects what was sent to %s" % (http.shown, without_query(target)))
            url = target
        raise WebError("%s redirects more than %d times" % (http.shown, MAX_REDIRECTS))

    def _once(
        self,
        opener: request.OpenerDirector,
        http: Http,
        *,
        url: str,
        method: str,
        body: bytes | None,
        session: Session,
        ends_at: float,
    ) -> tuple[int, str | None, bytes]:
        headers = {"Accept": "application/json, */*", "User-Agent": "holdfast", **http.headers}
        if body is not None and http.content_type:
            headers.setdefault("Content-Type", http.content_type)
        if origin(url) == origin(http.url):
            headers.update(http.secret_headers)
            if session.authorization:
                headers["Authorization"] = session.authorization
        asked = request.Request(address(url), data=body, headers=headers, method=method)  # noqa: S310  (see above)
        remaining_s = ends_at - time.monotonic()
        try:
            with opener.open(asked, timeout=max(remaining_s, 0.001)) as response:
                content = bytearray()
                while True:
                    chunk = response.read1(65536)
                    content += chunk
                    if not chunk:
                        return int(response.status), response.headers.get("Location"), bytes(content)
                    if len(content) > MAX_BODY_BYTES:
                        raise WebError("%s answers with more than %d bytes" % (http.shown, MAX_BODY_BYTES))
                    if time.monotonic() > ends_at:
                        raise TimeoutError
        except (TimeoutError, socket.timeout) as exc:  # one and the same since Python 3.10
            raise WebError("%s did not answer in time" % http.shown) from exc
        except (OSError, HTTPException, ValueError) as exc:
            reason = getattr(exc, "reason", None) or exc
            if isinstance(reason, (TimeoutError, socket.timeout)):
                raise WebError("%s did not answer in time" % http.shown) from exc
            words = " ".join(str(reason).split()) or type(reason).__name__
            raise WebError("%s got no answer: %s" % (http.shown, words)) from exc


FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


class _HiddenField(HTMLParser):
    """The value of a field of a form."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.value: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the value where the name fits."""
        attributes = dict(attrs)
        if tag == "input" and attributes.get("name") == self.name and self.value is None:
            self.value = attributes.get("value") or ""


def encode_form(fields: Mapping[str, Any]) -> bytes:
    """Return the body of a form."""
    return parse.urlencode(fields, doseq=True).encode("ascii")


def search(path: str, document: Any) -> Any:
    """Return what a JMESPath expression finds, None where it fits nothing; raises `WebError`."""
    import jmespath  # noqa: PLC0415  (only where a path is used: the library may not be there)
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415

    try:
        return jmespath.search(path, document)
    except JMESPathError as exc:
        # The library's own words repeat a part of the answer.
        raise WebError("%s cannot be asked of an answer of this form" % path) from exc


def _parsed(answer: Answer, http: Http) -> Any:
    try:
        return answer.json()
    except ValueError as exc:
        raise WebError("the answer of %s is not JSON" % http.shown) from exc


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port, the one who may have what is meant for it."""
    parts = parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def without_query(url: str) -> str:
    """Return an address up to its path."""
    parts = parse.urlsplit(url)
    return parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def address(url: str) -> str:
    """Return an address with what is not ASCII in the form that travels; raises UnicodeError for a bad host."""
    parts = parse.urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode("ascii")
    keep = "%/:=&?~#+!$,;'@()*[]|-._"
    path, query = parse.quote(parts.path, safe=keep), parse.quote(parts.query, safe=keep)
    return parse.urlunsplit((parts.scheme, host, path, query, ""))


def masked_excerpt(text: str, *, characters: int = 200) -> str:
    """Return the beginning of an error page on one line, with what looks like a secret in JSON masked."""
    words = re.sub(r"<[^>]*>", " ", text[: 20 * characters])
    words = re.sub(
        r"(\"[^\"]*(?:secret|passw|token|key|credential)[^\"]*\"\s*:\s*)(\"(?:[^\"\\]|\\.)*\"?|[^\s,}\]]+)",
        r"\1" + MASK,
        words,
        flags=re.IGNORECASE,
    )
    words = " ".join(words.split())
    return words if len(words) <= characters else words[:characters] + "..."
