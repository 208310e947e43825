# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How probes are read, how often they are asked, and what their messages hide."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.probe import (
    Reply,
    judged,
    run_probes,
    same,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.probe_plan import (
    parse_logins,
    parse_probes,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.web import (
    MASK,
    Secrets,
    address,
    masked_excerpt,
    without_query,
)

URL = "https://app.internal/health"


def probe(**keys: Any) -> dict[str, Any]:
    return {"name": "p", "http": {"url": URL}, **keys}


def refusal(*probes: Any, logins: Any = None) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught:
        parse_probes(list(probes), logins=parse_logins(logins))
    assert caught.value.code == "option_invalid"
    return caught.value


def test_defaults_are_those_of_a_health_check():
    (only,) = parse_probes([probe()])
    assert (only.kind, only.severity, only.stages, only.statuses) == ("http", "error", ("verify",), (200,))
    assert only.target.method == "GET" and only.looks_only


def test_what_is_sent_makes_it_a_post_that_check_mode_leaves_out():
    (only,) = parse_probes([probe(http={"url": URL, "json": {"a": 1}})])
    assert (only.target.method, only.target.body, only.looks_only) == ("POST", b'{"a": 1}', False)


def test_answers_of_surveys_and_templates_are_read_as_what_they_mean():
    (only,) = parse_probes([probe(timeout_s="2.5", retry="false", severity="", expect={"status": "204", "json": None})])
    assert (only.timeout_s, only.retry, only.severity, only.statuses) == (2.5, False, "error", (204,))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "p"}, "asks nothing"),
        ({"name": "p", "tcp": {"host": "h", "port": 1}, "http": {"url": URL}}, "asks http and tcp"),
        ({"http": {"url": URL}}, "probe 1, name: it is missing"),
        ({"name": "p", "http": "https://app"}, "probe 1 (p), http: this is text, not a mapping"),
        (probe(http={"url": "ftp://app/x"}), "no address of http or https"),
        (probe(http={"url": "file:/etc/passwd"}), "no address of http or https"),
        (probe(http={"url": "http://app:99999/"}), "no address of http or https"),
        (probe(http={"url": "http://app/a b"}), "no address of http or https"),
        (probe(http={"url": URL, "method": "BREW"}), "method: the word is unknown"),
        (probe(http={"url": URL, "login": "nobody"}), "login: no login has this name"),
        (probe(http={"url": URL, "json": {}, "form": {"a": "b"}}), "a body already"),
        (probe(http={"url": URL, "headers": {"X": "a\r\nY: b"}}), "line break"),
        (probe(expect={"status": 99}), "a number from 100 to 599"),
        (probe(expect={"exit_code": 0}), "the key 'exit_code' is unknown"),
        (probe(expect={"json": {"length(": 1}}), "'length(' is no JMESPath expression"),
        (probe(expect={"json": ["length(@)"]}), "must map JMESPath expressions"),
        (probe(stages=["later"]), "stages: a word is unknown"),
        (probe(timeout_s="soon"), "timeout_s: it must be a number"),
        (probe(timeout_s=True), "timeout_s: it must be a number"),
        (probe(retrys=1), "the key 'retrys' is unknown"),
        ({"name": "p", "command": {"argv": []}}, "names no program"),
        ({"name": "p", "tcp": {"host": "h", "port": 0}}, "port: it must be a number from 1 to 65535"),
        ({"name": "p", "libpq": {"login": False, "query": "SELECT 2"}}, "nobody to ask"),
        ("p", "probe 1: this is text"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_place(wrong, told):
    assert told in refusal(wrong).msg


def test_two_probes_of_one_name_are_refused():
    assert "two probes have this name" in refusal(probe(), probe()).msg


@pytest.mark.parametrize(
    ("login", "told"),
    [
        ({"name": "l", "kind": "form", "url": URL, "password": "x"}, "cookie: it is missing"),
        ({"name": "l", "kind": "token", "password": "x"}, "url: it is missing"),
        ({"name": "l", "kind": "basic", "password": "x"}, "user: it is missing"),
        ({"name": "l", "kind": "bearer"}, "token: it is missing"),
        ({"name": "l", "kind": "bearer", "token": ""}, "token: it is missing"),
        ({"name": "l", "kind": "magic"}, "kind: the word is unknown"),
        ({"name": "l", "kind": "token", "url": URL, "password": "x", "token_path": "a["}, "no JMESPath expression"),
    ],
)
def test_login_that_lacks_something_is_refused(login, told):
    assert told in refusal(logins=[login]).msg


def test_refusal_repeats_no_value():
    secret = "hunter2"
    logins = [{"name": "l", "kind": "basic", "user": "u", "passwrod": secret}]
    for error in (
        refusal(logins=logins),
        refusal(probe(http={"url": "https://me:%s@app/" % secret})),
        refusal(probe(timeout_s=secret)),
        refusal(probe(severity=secret)),
        refusal(probe(http={"url": URL, "method": secret})),
        refusal(probe(http={"url": URL, "secret_headers": [secret]})),
    ):
        assert secret not in str(error.as_result())


class Clock:
    """A clock that only sleeping and asking move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def rounds(answers: dict[str, list[bool]], *, deadline_s: float = 10, takes_s: float = 0, **keys: Any) -> Any:
    """Run probes that answer as told, the last answer for ever; return results and what was asked."""
    clock, asked = Clock(), []

    def attempt(probe: Any, *, timeout_s: float) -> Reply:
        asked.append((probe.name, timeout_s))
        clock.now += min(takes_s, timeout_s)
        line = answers[probe.name]
        return Reply(line.pop(0) if len(line) > 1 else line[0], "told")

    probes = parse_probes([probe(name=name, **keys.get(name, {})) for name in answers])
    results = run_probes(probes, attempt=attempt, deadline_s=deadline_s, interval_s=1, clock=clock, sleep=clock.sleep)
    return {row["name"]: row for row in results}, asked, clock.now


def test_each_is_asked_once_when_all_hold():
    results, asked, took_s = rounds({"a": [True], "b": [True]})
    assert [name for name, _timeout in asked] == ["a", "b"] and took_s == 0
    assert all(row["ok"] and row["attempts"] == 1 for row in results.values())


def test_only_what_does_not_hold_is_asked_again_until_it_does():
    results, asked, took_s = rounds({"a": [True], "b": [False, False, True], "c": [True]})
    assert [name for name, _timeout in asked] == ["a", "b", "c", "b", "b"] and took_s == 2
    assert results["b"]["ok"] and results["b"]["attempts"] == 3


def test_one_deadline_is_for_all_of_them():
    results, _asked, took_s = rounds({"a": [False], "b": [False], "c": [False]}, deadline_s=5)
    assert took_s == 5 and {row["attempts"] for row in results.values()} == {6}


def test_hanging_application_cannot_hold_up_an_undo_for_long():
    answers = {name: [False] for name in "abcdefgh"}
    results, asked, took_s = rounds(answers, deadline_s=20, takes_s=600)
    assert all(row["attempts"] == 1 for row in results.values())
    assert [timeout_s for _name, timeout_s in asked] == [10, 10, 1, 1, 1, 1, 1, 1]
    assert took_s == 26


def test_probe_that_must_happen_once_happens_once():
    results, asked, took_s = rounds({"a": [False, True], "b": [False, True]}, a={"retry": False})
    assert [name for name, _timeout in asked] == ["a", "b", "b"]
    assert not results["a"]["ok"] and results["b"]["ok"] and took_s == 1


def row(ok: bool, severity: str = "error") -> dict[str, Any]:
    return {
        "name": "n",
        "kind": "http",
        "severity": severity,
        "ok": ok,
        "status": 200,
        "latency_ms": 1.0,
        "attempts": 1,
        "message": "told.",
    }


@pytest.mark.parametrize(
    ("fail_on", "severity", "fails"),
    [
        ("error", "error", True),
        ("error", "warning", False),
        ("warning", "warning", True),
        ("never", "error", False),
    ],
)
def test_severity_decides_what_fails(fail_on, severity, fails):
    if not fails:
        answer = judged([row(False, severity)], stage="verify", duration_s=0.1, fail_on=fail_on)
        assert answer["failed_probes"] + answer["warned_probes"] == 1
        return
    with pytest.raises(HoldfastError) as caught:
        judged([row(False, severity)], stage="verify", duration_s=0.1, fail_on=fail_on)
    assert caught.value.code == "probe_failed" and "n - told." in caught.value.msg
    assert caught.value.details["checks"][0]["status"] == "failed"


def test_true_is_not_one():
    assert same(7, 7.0) and same([1, {"a": None}], [1, {"a": None}])
    assert not same(True, 1) and not same(0, False) and not same("7", 7) and not same([1], [1, 2])


def test_secret_is_hidden_in_every_form_in_which_it_comes_back():
    secrets = Secrets()
    secrets.add(['p&ss "wörd', "", "abc", "abcdef"])
    for text in ('p&ss "wörd', "p%26ss%20%22w%C3%B6rd", "p%26ss+%22w%C3%B6rd", 'p&ss \\"w\\u00f6rd'):
        assert secrets.hide("<%s>" % text) == "<%s>" % MASK
    assert secrets.hide("abcdef") == MASK


def test_excerpt_of_an_error_page_is_one_short_line_without_what_looks_like_a_secret():
    page = '{"detail": "no\\n luck", "api_token": "t\\"op", "api_key": 12, "x": "<b>y</b>"}'
    assert masked_excerpt(page) == '{"detail": "no\\n luck", "api_token": %s, "api_key": %s, "x": " y "}' % (MASK, MASK)
    assert len(masked_excerpt("word " * 500)) == 203


def test_address_is_shown_without_what_may_be_a_secret_and_travels_in_ascii():
    assert without_query("https://u:p@app/a?key=1#x") == "https://app/a"
    assert address("http://app.internal/größe?q=ä&b=%20") == "http://app.internal/gr%C3%B6%C3%9Fe?q=%C3%A4&b=%20"
    assert address("http://bücher.example/") == "http://xn--bcher-kva.example/"
