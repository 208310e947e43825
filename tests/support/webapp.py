# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small application with a real database behind it: the endpoints that the sample platforms' tests ask.

It logs in by form (with a session cookie and a hidden field against forgery) and by token, and can be broken.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2

from tests.support.server import TestServer

RENTAL = """
CREATE TABLE auth_users (email text PRIMARY KEY, password text NOT NULL);
CREATE TABLE onb_steps (code text PRIMARY KEY, title text NOT NULL, position int NOT NULL UNIQUE);
CREATE TABLE onb_progress (
    user_email text NOT NULL REFERENCES auth_users, step_code text NOT NULL REFERENCES onb_steps,
    status text NOT NULL, completed_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_email, step_code)
);
CREATE TABLE onb_tips (module text PRIMARY KEY, body text NOT NULL);
INSERT INTO onb_steps
SELECT code, initcap(code), position
  FROM unnest(ARRAY['welcome', 'profile', 'warehouse', 'inventory', 'crew', 'projects', 'billing'])
       WITH ORDINALITY AS step (code, position);
INSERT INTO onb_tips VALUES ('projects', 'Begin with a project.');
"""
EMAIL = "rentguy@demo.local"
#: A password as people have them: it must survive YAML, Jinja, forms and JSON, and be shown nowhere.
PASSWORD = 'p&ss wörd+"%20 {{ nobody }}'
API_TOKEN = "token-of-the-lending-platform"


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class WebApp:
    """The application; what is in ``faults`` is broken, and ``seen`` has every request."""

    def __init__(self, server: TestServer, database: str) -> None:
        self.server = server
        self.database = database
        self.faults: dict[str, Any] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.tokens: set[str] = set()
        self.sessions: set[str] = set()
        self.forms: set[str] = set()
        app = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                app.answer(self, "GET", b"")

            def do_HEAD(self) -> None:
                app.answer(self, "HEAD", b"")

            def do_POST(self) -> None:
                app.answer(self, "POST", self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = "http://127.0.0.1:%d" % self.http.server_address[1]
        self.port = int(self.http.server_address[1])
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self.http.shutdown()
        self.http.server_close()

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the database in a connection of its own, as after an exchange of names."""
        password = {"password": self.server.password}
        connection = psycopg2.connect(**self.server.server.parameters(self.database), **password)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def answer(self, handler: BaseHTTPRequestHandler, method: str, body: bytes) -> None:
        """Answer one request."""
        url = urlsplit(handler.path)
        self.seen.append((method, handler.path, dict(handler.headers.items())))
        status, headers, content = 200, {"Content-Type": "application/json"}, b""
        try:
            result = self.route(handler, method, url.path, parse_qs(url.query), body)
            if isinstance(result, str):
                headers["Content-Type"] = "text/html; charset=utf-8"
            content = result.encode() if isinstance(result, str) else json.dumps(result).encode()
        except Refused as exc:
            status, content = exc.status, json.dumps({"detail": exc.detail}).encode()
            headers.update(exc.headers)
        except psycopg2.Error as exc:
            status, content = 500, json.dumps({"detail": str(exc).strip(), "api_token": API_TOKEN}).encode()
        fault = self.faults.get(url.path, {})
        time.sleep(fault.get("delay_s", 0))
        status, content = fault.get("status", status), fault.get("content", content)
        if fault.get("hang_up"):
            handler.close_connection = True
            return
        try:
            handler.send_response(status)
            for name, value in {**headers, **fault.get("headers", {})}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            if method != "HEAD":
                handler.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True

    def route(
        self, handler: BaseHTTPRequestHandler, method: str, path: str, query: dict[str, list[str]], body: bytes
    ) -> Any:
        """Return what the endpoint says: JSON, or HTML as a text."""
        if path == "/":
            return "<html><title>RentGuy</title></html>"
        if path == "/health":
            self.query("SELECT 1")
            return {"status": "ok"}
        if path in ("/login", "/dashboard"):
            return self.session(handler, method, path, body)
        if path == "/api/v1/auth/login":
            return self.token({name: values[0] for name, values in parse_qs(body.decode()).items()})
        if path == "/api/v1/auth/json":
            return self.token(json.loads(body))
        bearer = (handler.headers.get("Authorization") or "").partition("Bearer ")[2]
        if bearer not in self.tokens | {API_TOKEN}:
            raise Refused(401, "no valid token")
        return self.data(path, query, body)

    def token(self, given: dict[str, str]) -> Any:
        """Log in for a token."""
        if not self.query(
            "SELECT 1 FROM auth_users WHERE email = %s AND password = %s", given["email"], given["password"]
        ):
            raise Refused(401, "wrong e-mail or password")
        token = "tok/" + secrets.token_urlsafe(24)
        self.tokens.add(token)
        return {"access_token": token, "token_type": "bearer"}

    def session(self, handler: BaseHTTPRequestHandler, method: str, path: str, body: bytes) -> str:
        """Log in by form, as frameworks do: a form that is refused is shown again, with 200."""
        cookies = SimpleCookie(handler.headers.get("Cookie") or "")
        if path == "/dashboard":
            if "session" not in cookies or cookies["session"].value not in self.sessions:
                raise Refused(303, "log in first", Location="/login")
            return "<html><h1>Dashboard</h1></html>"
        given = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        known = method == "POST" and given.get("csrf") in self.forms
        if known and given.get("email") == EMAIL and given.get("password") == PASSWORD:
            session = secrets.token_hex(16)
            self.sessions.add(session)
            raise Refused(303, "welcome", Location="/dashboard", Set_Cookie="session=%s; HttpOnly; Path=/" % session)
        form = secrets.token_hex(8)
        self.forms.add(form)
        return '<form method="post"><input type="hidden" name="csrf" value="%s"><input name="email"></form>' % form

    def data(self, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        """The endpoints behind a login."""
        if path == "/api/v1/onboarding/steps":
            return [{"code": code} for (code,) in self.query("SELECT code FROM onb_steps ORDER BY position")]
        if path == "/api/v1/onboarding/progress":
            rows = self.query(
                "SELECT step_code, status FROM onb_progress WHERE user_email = %s", query["user_email"][0]
            )
            return [{"step_code": code, "status": status} for code, status in rows]
        if path == "/api/v1/onboarding/tips":
            return [
                {"body": tip}
                for (tip,) in self.query("SELECT body FROM onb_tips WHERE module = %s", query["module"][0])
            ]
        if path == "/api/v1/onboarding/complete":
            given = json.loads(body)
            self.query(
                "INSERT INTO onb_progress (user_email, step_code, status) VALUES (%s, %s, 'complete')"
                " ON CONFLICT (user_email, step_code) DO UPDATE SET status = 'complete'",
                given["user_email"],
                given["step_code"],
            )
            return {"ok": True}
        if path == "/api/v1/loans/count":
            return {"count": self.query("SELECT count(*) FROM loan")[0][0]}
        if path == "/api/v1/collections/summary":
            return {"status": "success", "events": self.query("SELECT count(*) FROM collections_event")[0][0]}
        raise Refused(404, "nothing is here")


@contextmanager
def running(server: TestServer, database: str) -> Iterator[WebApp]:
    """An application on a database, stopped at the end of the block."""
    app = WebApp(server, database)
    try:
        yield app
    finally:
        app.close()


def create_rental(server: TestServer, database: str) -> None:
    """Create the rental platform's tables and its demo user."""
    server.execute(RENTAL, database=database)
    server.execute("INSERT INTO auth_users VALUES (%s, %s)", (EMAIL, PASSWORD), database=database)
