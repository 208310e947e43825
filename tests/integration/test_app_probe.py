# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes of a real application with a real database behind it, whole and broken."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jinja2.nativetypes
import pytest
import yaml

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.probe import probe_application
from tests.support.modules import ROOT, run_module, run_playbook
from tests.support.server import TestServer, free_port
from tests.support.webapp import API_TOKEN, EMAIL, PASSWORD, WebApp, create_rental, running


@pytest.fixture
def app(pg18: TestServer, database: str) -> Iterator[WebApp]:
    """The rental platform's application."""
    create_rental(pg18, database)
    with running(pg18, database) as app:
        yield app


def example(name: str, **variables: Any) -> dict[str, Any]:
    """The probes of an example, with the variables of an inventory."""
    data = yaml.safe_load((ROOT / "examples" / name / "probes.yml").read_text(encoding="utf-8"))
    environment = jinja2.nativetypes.NativeEnvironment()
    environment.filters["combine"] = lambda one, other: {**one, **other}

    def rendered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rendered(item) for key, item in value.items()}
        if isinstance(value, list):
            return [rendered(item) for item in value]
        # A password is no template, whatever it looks like; Ansible sees to that itself.
        return environment.from_string(value).render(variables) if isinstance(value, str) and "{{" in value else value

    return {"logins": rendered(data["probe_logins"]), "probes": rendered(data["probe_list"])}


def rental(app: WebApp) -> dict[str, Any]:
    parameters = app.server.server.parameters(app.database)
    return example(
        "rentguy",
        rentguy_api=app.url,
        rentguy_web=app.url,
        rentguy_demo_password=PASSWORD,
        rentguy_database={
            "host": parameters["host"],
            "port": int(parameters["port"]),
            "database": app.database,
            "user": "postgres",
            "password": app.server.password,
        },
    )


def ask(**options: Any) -> dict[str, Any]:
    """Ask and return the answer with ``by_name``, and with ``error`` where it failed."""
    given = {"stage": "verify", "logins": [], "deadline_s": 0, "environment": dict(os.environ), **options}
    try:
        answer = probe_application(**given)
    except HoldfastError as exc:
        answer = {"error": exc, **exc.as_result()}
    answer["by_name"] = {row["name"]: row for row in answer.get("probes", [])}
    text = json.dumps(answer, default=lambda error: str(error.as_result()))
    assert not [secret for secret in (PASSWORD, API_TOKEN, json.dumps(PASSWORD)[1:-1], "tok/") if secret in text]
    return answer


def broken(answer: dict[str, Any]) -> set[str]:
    return {row["name"] for row in answer["probes"] if not row["ok"]}


def test_eight_functional_tests_of_the_rental_platform_hold(app):
    answer = ask(**rental(app))
    assert "error" not in answer and len(answer["probes"]) == 8
    assert all(row["ok"] and row["attempts"] == 1 and row["latency_ms"] > 0 for row in answer["probes"])
    assert [method for method, path, _headers in app.seen if path == "/api/v1/auth/login"] == ["POST"]
    assert app.query("SELECT user_email, step_code FROM onb_progress") == [(EMAIL, "welcome")]
    after_undo = ask(**rental(app), stage="rollback")
    assert len(after_undo["probes"]) == 8 and not broken(after_undo)


STEPS = {"there are seven onboarding steps", "the application's role reads seven steps in the database"}
WITH_LOGIN = {
    "the demo user is let in",
    "there are seven onboarding steps",
    "the demo user's progress is a list",
    "the tips for projects are a list",
    "the demo user completes a step",
}


@pytest.mark.parametrize(
    ("statement", "expected", "told"),
    [
        ("DELETE FROM onb_steps WHERE code = 'billing'", STEPS, "length(@) is 6, expected 7"),
        ("UPDATE auth_users SET password = 'another'", WITH_LOGIN, "the login demo failed"),
        ("ALTER TABLE onb_tips RENAME TO tips", {"the tips for projects are a list"}, "answered 500, expected 200"),
        ("DROP TABLE onb_progress", {"the demo user's progress is a list", "the demo user completes a step"}, "500"),
    ],
)
def test_broken_data_breaks_its_probe(app, statement, expected, told):
    app.query(statement)
    answer = ask(**rental(app))
    assert broken(answer) == expected
    assert answer["code"] == "probe_failed" and told in answer["msg"]


@pytest.mark.parametrize(
    ("path", "fault", "expected", "told"),
    [
        ("/health", {"status": 503}, "the API is healthy", "answered 503, expected 200"),
        ("/health", {"hang_up": True}, "the API is healthy", "got no answer"),
        ("/", {"status": 404}, "the frontend is served", "answered 404"),
        ("/api/v1/onboarding/progress", {"content": b"{}"}, "the demo user's progress is a list", 'is "object"'),
        ("/api/v1/onboarding/tips", {"content": b"<html>"}, "the tips for projects are a list", "not with JSON"),
        ("/api/v1/onboarding/complete", {"content": b'{"ok": 1}'}, "the demo user completes a step", "ok is 1, exp"),
    ],
)
def test_broken_endpoint_breaks_its_probe(app, path, fault, expected, told):
    app.faults[path] = fault
    answer = ask(**rental(app))
    assert broken(answer) == {expected}
    assert told in answer["by_name"][expected]["message"]


def test_three_endpoint_tests_of_the_lending_platform(pg18, database):
    pg18.execute("CREATE TABLE loan (id int); INSERT INTO loan VALUES (1), (2)", database=database)
    with running(pg18, database) as app:
        probes = example("rently", rently_api=app.url, rently_api_token=API_TOKEN)
        version_1 = ask(**probes)
        assert broken(version_1) == {"the collections of version 2 are served"}
        assert "collections_event" in version_1["msg"] and "answered 500" in version_1["msg"]
        assert not broken(ask(**probes, stage="rollback"))
        pg18.execute("CREATE TABLE collections_event (id int)", database=database)
        assert not broken(ask(**probes))
        pg18.execute("ALTER TABLE loan RENAME TO loans", database=database)
        assert broken(ask(**probes)) == {"the API counts loans in the database"}
        refused = ask(**example("rently", rently_api=app.url, rently_api_token="no-token"))
        assert "answered 401" in refused["msg"] and len(broken(refused)) == 2


def form(app: WebApp, **changes: Any) -> dict[str, Any]:
    return {
        "name": "person",
        "kind": "form",
        "url": app.url + "/login",
        "fields": {"email": EMAIL},
        "password": PASSWORD,
        "cookie": "session",
        "csrf_field": "csrf",
        **changes,
    }


def test_form_login_keeps_its_cookie_and_sends_the_hidden_field(app):
    probe = {
        "name": "dashboard",
        "http": {"url": app.url + "/dashboard", "login": "person"},
        "expect": {"text": "<h1>Dashboard</h1>"},
    }
    again = {**probe, "name": "again"}
    answer = ask(logins=[form(app)], probes=[probe, again])
    assert not broken(answer)
    assert [path for _method, path, _headers in app.seen] == [
        "/login",
        "/login",
        "/dashboard",
        "/dashboard",
        "/dashboard",
    ]
    without = ask(probes=[{**probe, "http": {"url": app.url + "/dashboard", "follow_redirects": False}}])
    assert "answered 303" in without["msg"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"password": "wrong"}, "set no cookie 'session'"),
        ({"csrf_field": ""}, "set no cookie 'session'"),
        ({"csrf_field": "absent"}, "has no field 'absent'"),
        ({"url": "/nothing"}, "answered 401, expected 200"),
    ],
)
def test_form_login_that_is_refused_is_told_though_the_page_answers_200(app, changes, told):
    if "url" in changes:
        changes = {"url": app.url + changes["url"], "csrf_field": ""}
    probe = {"name": "dashboard", "http": {"url": app.url + "/dashboard", "login": "person"}}
    answer = ask(logins=[form(app, **changes)], probes=[probe])
    assert "the login person failed" in answer["msg"] and told in answer["msg"]


def test_token_by_json_and_password_by_basic(app):
    logins = [
        {"name": "json", "kind": "token", "url": app.url + "/api/v1/auth/json", "encoding": "json",
         "fields": {"email": EMAIL}, "password": PASSWORD},
        {"name": "basic", "kind": "basic", "user": "someone", "password": PASSWORD},
        {"name": "path", "kind": "token", "url": app.url + "/api/v1/auth/login", "token_path": "data.token",
         "fields": {"email": EMAIL}, "password": PASSWORD},
    ]  # fmt: skip
    steps = app.url + "/api/v1/onboarding/steps"
    answer = ask(
        logins=logins, probes=[{"name": n, "http": {"url": steps, "login": n}} for n in ("json", "basic", "path")]
    )
    assert answer["by_name"]["json"]["ok"]
    assert app.seen[-1][2].get("Authorization") is None or "Basic" in app.seen[-1][2]["Authorization"]
    assert answer["by_name"]["basic"]["status"] == 401
    assert "has no text at data.token" in answer["by_name"]["path"]["message"]


def test_token_that_expires_is_asked_for_again(app):
    probe = {"name": "steps", "http": {"url": app.url + "/api/v1/onboarding/steps", "login": "demo"}}
    logins = rental(app)["logins"]

    def expire() -> None:
        while not app.tokens:
            time.sleep(0.01)
        app.tokens.clear()

    app.faults["/api/v1/auth/login"] = {"delay_s": 0.2}
    thread = threading.Thread(target=expire)
    thread.start()
    answer = ask(logins=logins, probes=[probe], deadline_s=10, interval_s=0.05)
    thread.join()
    assert answer["by_name"]["steps"]["ok"] and answer["by_name"]["steps"]["attempts"] == 2


def test_secrets_stay_with_their_origin_when_a_redirect_leaves_it(app, pg18, database):
    with running(pg18, database) as other:
        app.faults["/away"] = {"status": 302, "headers": {"Location": other.url + "/api/v1/onboarding/steps"}}
        app.faults["/here"] = {"status": 302, "headers": {"Location": "/api/v1/onboarding/steps"}}
        app.faults["/keep"] = {"status": 307, "headers": {"Location": other.url + "/health"}}
        app.faults["/file"] = {"status": 302, "headers": {"Location": "file:/etc/passwd"}}
        app.faults["/loop"] = {"status": 302, "headers": {"Location": "/loop"}}
        login = [{"name": "api", "kind": "bearer", "token": API_TOKEN}]
        secret = {"login": "api", "secret_headers": {"X-Key": PASSWORD.encode("ascii", "ignore").decode()}}
        probes = [{"name": n, "http": {"url": app.url + "/" + n, **secret}} for n in ("away", "here", "file", "loop")]
        keep = {"name": "keep", "http": {"url": app.url + "/keep", "form": {"password": "x"}}}
        answer = ask(logins=login, probes=[*probes, keep])
        assert answer["by_name"]["away"]["status"] == 401 and answer["by_name"]["here"]["ok"]
        assert len(other.seen) == 1
        assert not {"Authorization", "X-Key", "X-key"} & set(other.seen[0][2])
        assert "redirects what was sent to" in answer["by_name"]["keep"]["message"]
        assert "neither http nor https" in answer["by_name"]["file"]["message"]
        assert "more than 5 times" in answer["by_name"]["loop"]["message"]


def test_slow_answer_is_right_but_too_slow_and_may_get_faster(app):
    app.faults["/health"] = {"delay_s": 0.3}
    probe = {"name": "health", "http": {"url": app.url + "/health"}, "expect": {"max_latency_ms": 150}}
    slow = ask(probes=[{**probe, "severity": "warning"}])
    assert "error" not in slow and slow["warned_probes"] == 1 and "at most 150 are allowed" in str(slow["probes"])
    threading.Timer(0.5, app.faults.clear).start()
    warmed = ask(probes=[probe], deadline_s=10, interval_s=0.1)
    assert warmed["by_name"]["health"]["ok"] and warmed["by_name"]["health"]["attempts"] > 1
    app.faults["/health"] = {"delay_s": 2}
    started = time.monotonic()
    hanging = ask(probes=[{**probe, "timeout_s": 0.3}])
    assert "did not answer in time" in hanging["msg"] and time.monotonic() - started < 1.5


def test_application_that_starts_late_is_waited_for(pg18, database):
    create_rental(pg18, database)
    port = free_port()
    probes = [
        {"name": "port", "tcp": {"host": "127.0.0.1", "port": port}},
        {"name": "health", "http": {"url": "http://127.0.0.1:%d/health" % port}},
    ]
    early = ask(probes=probes)
    assert broken(early) == {"port", "health"} and "Connection refused" in early["msg"]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    threading.Timer(0.4, lambda: (listener.bind(("127.0.0.1", port)), listener.listen())).start()
    late = ask(probes=probes[:1], deadline_s=10, interval_s=0.1)
    listener.close()
    assert late["by_name"]["port"]["ok"] and late["by_name"]["port"]["attempts"] > 1


def test_libpq_logs_in_asks_or_only_waits_for_readiness(app):
    parameters = app.server.server.parameters(app.database)
    here = {"host": parameters["host"], "port": int(parameters["port"]), "database": app.database, "user": "postgres"}
    let_in = {**here, "password": app.server.password}
    probes = {
        "in": {"libpq": let_in},
        "count": {"libpq": {**let_in, "query": "SELECT count(*) FROM onb_steps"}, "expect": {"value": 8}},
        "error": {"libpq": {**let_in, "query": "SELECT 1/0"}},
        "refused": {"libpq": {**here, "password": PASSWORD}},
        "absent": {"libpq": {**let_in, "database": "no such database"}},
        "ready": {"libpq": {**here, "user": "nobody", "login": False}},
        "nobody": {"libpq": {"host": "127.0.0.1", "port": free_port(), "login": False}},
    }
    answer = ask(probes=[{"name": name, **probe} for name, probe in probes.items()], bin_dir=str(app.server.bin_dir))
    told = {name: row["message"] for name, row in answer["by_name"].items()}
    assert broken(answer) == {"count", "error", "refused", "absent", "nobody"}
    assert "the value is 7, expected 8" in told["count"] and "division by zero" in told["error"]
    assert "authentication failed" in told["refused"] and "no such database" in told["absent"]
    assert "nobody answers" in told["nobody"] and answer["by_name"]["nobody"]["status"] == 2
    assert app.server.password not in str(answer)


def test_pooler_that_lets_in_and_says_nothing_does_not_hold_the_probe():
    silent = socket.create_server(("127.0.0.1", 0))
    try:
        probe = {
            "name": "p",
            "libpq": {"host": "127.0.0.1", "port": silent.getsockname()[1], "user": "u"},
            "timeout_s": 0.5,
        }
        started = time.monotonic()
        answer = ask(probes=[probe])
        assert "did not answer in time" in answer["msg"] and time.monotonic() - started < 3
    finally:
        silent.close()


def test_command_is_judged_by_exit_code_and_output_and_keeps_its_secrets():
    script = "import os, sys; print('seven'); sys.stderr.write('error: ' + os.environ['KEY']); sys.exit(3)"
    command = {"argv": [sys.executable, "-c", script], "secret_environment": {"KEY": PASSWORD}}
    expect = {"exit_code": [3], "text": "seven"}
    answer = ask(
        probes=[
            {"name": "right", "command": command, "expect": expect},
            {"name": "code", "command": command},
            {"name": "text", "command": command, "expect": {"exit_code": 3, "text": "eight"}},
            {"name": "absent", "command": {"argv": ["/no/such/program"]}},
            {"name": "hangs", "command": {"argv": ["sleep", "60"]}, "timeout_s": 0.5},
        ]
    )
    told = {name: row["message"] for name, row in answer["by_name"].items()}
    assert broken(answer) == {"code", "text", "absent", "hangs"}
    assert "ended with 3, expected 0: error: ********" in told["code"]
    assert "without the text 'eight'" in told["text"] and "Cannot run" in told["absent"] and "0.5" not in told["right"]


def test_check_mode_asks_only_what_changes_nothing(app):
    given = rental(app)
    answer = ask(**given, check_mode=True)
    assert "the demo user completes a step" not in answer["by_name"]
    assert "the application's role reads seven steps in the database" not in answer["by_name"]
    assert "6 of 6 probes hold, 2 left out by check mode" in answer["summary"]
    assert app.query("SELECT count(*) FROM onb_progress") == [(0,)]


def test_certificate_file_that_is_none_is_refused(tmp_path: pathlib.Path):
    for content in (None, "no certificate"):
        path = tmp_path / "ca.pem"
        if content:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(HoldfastError) as caught:
            probe_application(
                probes=[{"name": "p", "tcp": {"host": "h", "port": 1}}],
                logins=[],
                stage="verify",
                environment={},
                ca_cert=str(path),
            )
        assert caught.value.code == "option_invalid"


def test_module_tells_what_failed_and_no_secret_even_when_asked_for_everything(app, tmp_path):
    """The contract of app_probe, in check mode and out of it, and at -vvv."""
    given = rental(app)
    # run_module writes a play, in which braces are a template; a lookup's result never is one.
    plain = {**given, "deadline_s": 0, "logins": [{**given["logins"][0], "password": "plain"}]}
    app.query("UPDATE auth_users SET password = 'plain'")
    for check in (True, False, True, False):
        result = run_module("app_probe", plain, check=check)
        assert not result["failed"] and not result["changed"], result
    app.query("UPDATE auth_users SET password = %s", PASSWORD)
    app.query("DELETE FROM onb_steps WHERE code = 'billing'")
    mistyped = {**given, "logins": [{**given["logins"][0], "passwrod": PASSWORD}]}
    for arguments, told in (({**given, "deadline_s": 0}, "length(@) is 6, expected 7"), (mistyped, "'passwrod'")):
        secrets = tmp_path / "secrets.json"
        secrets.write_text(json.dumps({"given": arguments}), encoding="utf-8")
        play = [
            {
                "hosts": "localhost",
                "gather_facts": False,
                "connection": "local",
                "tasks": [{"name": "Ask", "holdfast.postgres.app_probe": "{{ what }}"}],
                "vars": {
                    "ansible_python_interpreter": sys.executable,
                    "what": "{{ (lookup('ansible.builtin.file', '%s') | from_json).given }}" % secrets,
                },
            }
        ]
        path = tmp_path / "play.json"
        path.write_text(json.dumps(play), encoding="utf-8")
        completed = run_playbook(path, "-vvv", inventory="localhost,", environment={"ANSIBLE_INJECT_FACT_VARS": "0"})
        written = completed.stdout + completed.stderr
        assert completed.returncode != 0 and told in written, written
        for secret in (PASSWORD, json.dumps(PASSWORD)[1:-1], app.server.password, "tok/"):
            assert secret not in written
