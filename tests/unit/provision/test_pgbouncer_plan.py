# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of PgBouncer for each version, what speaks against them, and who must restart to have read them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.plugin_utils._pgbouncer import (
    AT_START,
    FIXED,
    GONE_IN,
    SINCE,
    pgbouncer_actions,
    pgbouncer_plan,
    version_of,
)

SECRET = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"
VERSIONS = ["1.15.0", "1.18.0", "1.24.1", "1.26.1"]
CHOICES: dict[str, Any] = {
    "config_dir": "/etc/pgbouncer",
    "runtime_dir": "/run/pgbouncer",
    "system_user": "postgres",
    "listen_addresses": ["*"],
    "port": 6432,
    "client_networks": ["10.0.1.0/24"],
    "hba_rules": [],
    "databases": [{"name": "rently_lending"}],
    "server_host": "db1.internal",
    "server_port": 5432,
    "sizes": {
        "pool_mode": "transaction",
        "max_client_conn": 500,
        "default_pool_size": 25,
        "max_prepared_statements": 200,
        "query_wait_timeout": 120,
        "server_login_retry": 0.1,
    },
    "settings": {},
    "max_pause_s": 15,
    "open_files": 4096,
    "tls_protocols": ["tlsv1.3"],
    "tls_on_host": False,
    "client_tls": {"mode": "require", "certificate": "/c/pooler.crt", "key": "/c/pooler.key", "ca": ""},
    "server_tls": {"mode": "verify-full", "certificate": "/c/auth.crt", "key": "/c/auth.key", "ca": "/c/ca.crt"},
    "auth": "auto",
    "auth_user": "pgbouncer_auth",
    "auth_database": "postgres",
    "auth_schema": "pgbouncer",
    "users": ["rently_app"],
    "console_user": "",
    "console_networks": [],
}
STATE: dict[str, Any] = {"secrets": {"rently_app": SECRET}}


def plan(
    *instances: dict[str, Any], version: str = "1.24.1", state: Any = None, trial_dir: str = "", **choices: Any
) -> dict[str, Any]:
    """The plan for instances with these choices on top of the usual ones."""
    changed = copy.deepcopy(CHOICES)
    for name, value in choices.items():
        changed[name] = {**changed[name], **value} if name in ("client_tls", "server_tls", "sizes") else value
    return pgbouncer_plan(
        instances or ({"name": "main"},),
        choices=changed,
        version="PgBouncer %s\nlibevent 2.1" % version,
        state={**STATE, **(state or {})},
        trial_dir=trial_dir,
    )


def settings(text: str) -> dict[str, str]:
    """The settings of a file."""
    lines = [line for line in text.splitlines() if " = " in line and not line.startswith(";")]
    return dict(line.split(" = ", 1) if " = " in line else (line, "") for line in lines)


def files(result: dict[str, Any]) -> dict[str, str]:
    return dict(result["instances"][0]["files"])


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("PgBouncer 1.15.0\nlibevent 2.1.12-stable\n", (1, 15)),
        ("pgbouncer:\n  Installed: (none)\n  Candidate: 1.18.0-1+deb12u1\n  Version table:\n", (1, 18)),
        ("pgbouncer:\n  Installed: (none)\n  Candidate: 1:1.26.1-1\n", (1, 26)),
        ("pgbouncer:\n  Installed: (none)\n  Candidate: (none)\n", None),
        ("", None),
    ],
)
def test_version_comes_from_the_program_or_from_apt(text, version):
    assert version_of(text) == version


@pytest.mark.parametrize("version", VERSIONS)
def test_usual_choices_suit_every_version(version):
    result = plan(version=version)
    assert result["problems"] == []
    assert result["version"] == version.rsplit(".", 1)[0]
    both = {**settings(files(result)["start.ini"]), **settings(files(result)["pgbouncer.ini"])}
    release = version_of("PgBouncer " + version)
    known = {name for name, since in SINCE.items() if since <= release < GONE_IN.get(name, (9, 9))}
    assert set(both) - known == {"rently_lending", *(["pgbouncer_auth"] if release >= (1, 19) else [])}


@pytest.mark.parametrize(("version", "auth"), [("1.15.0", "userlist"), ("1.18.0", "userlist"), ("1.19.1", "query")])
def test_secrets_are_looked_up_only_where_the_look_up_has_a_database_of_its_own(version, auth):
    result = plan(version=version)
    assert result["auth"] == auth
    assert ("auth_dbname = pgbouncer_auth" in files(result)["pgbouncer.ini"]) == (auth == "query")
    assert files(result)["userlist.txt"] == ("" if auth == "query" else '"rently_app" "%s"\n' % SECRET)


def test_look_up_that_would_hold_sessions_of_the_live_database_is_refused():
    (problem,) = plan(version="1.18.0", auth="query")["problems"]
    assert "no auth_dbname (1.19 has)" in problem
    assert "pgbouncer_users" in problem


def test_look_up_without_client_certificate_is_refused_because_it_needs_a_plain_password():
    (problem,) = plan(server_tls={"certificate": "", "key": ""})["problems"]
    assert "plain-text password" in problem
    assert plan(server_tls={"certificate": "", "key": ""}, server_host="/run/postgresql")["problems"] == []


@pytest.mark.parametrize("secret", [None, "md5" + "0" * 32, "plain"])
def test_roles_without_scram_secret_are_refused_by_name_and_their_secret_is_not_shown(secret):
    (problem,) = plan(version="1.15.0", state={"secrets": {"rently_app": SECRET, "old": secret}})["problems"]
    assert "'old'" in problem
    assert "rently_app" not in problem
    assert secret is None or secret not in problem


def test_names_of_roles_are_quoted_in_the_userlist():
    result = plan(version="1.15.0", users=['a"b c'], state={"secrets": {'a"b c': SECRET}})
    assert files(result)["userlist.txt"] == '"a""b c" "%s"\n' % SECRET


@pytest.mark.parametrize(("version", "at_start"), [("1.15.0", True), ("1.16.1", False), ("1.26.1", False)])
def test_what_a_version_reads_only_at_its_start_is_in_the_file_for_it(version, at_start):
    texts = files(plan(version=version))
    for name in ("client_tls_cert_file", "server_tls_sslmode", "default_pool_size"):
        assert (name in settings(texts["start.ini"])) == at_start
        assert (name in settings(texts["pgbouncer.ini"])) != at_start
    assert {"listen_addr", "listen_port", "unix_socket_dir", "unix_socket_mode"} <= set(settings(texts["start.ini"]))
    assert "%include /etc/pgbouncer/main/start.ini" in texts["pgbouncer.ini"]


def test_restart_names_the_settings_that_need_it_and_renewed_files_count():
    sums = {"/c/pooler.crt": "aa"}
    before = files(plan(version="1.15.0", state={"checksums": sums}))["start.ini"]
    state = {"current": {"main": before}, "checksums": sums}
    assert plan(version="1.15.0", state=state)["instances"][0]["restart_for"] == []
    assert plan(version="1.15.0", state=state, port=6433)["instances"][0]["restart_for"] == ["listen_port"]
    state["checksums"] = {"/c/pooler.crt": "bb"}
    assert plan(version="1.15.0", state=state)["instances"][0]["restart_for"] == ["client_tls_cert_file"]
    assert plan(version="1.24.1", state={"checksums": sums})["instances"][0]["restart_for"] == []


def test_trial_listens_on_a_socket_in_its_directory_and_nowhere_else():
    result = plan(trial_dir="/run/trial")
    start = settings(files(result)["start.ini"].replace("listen_addr = \n", "listen_addr = nothing\n"))
    assert start["listen_addr"] == "nothing"
    assert start["unix_socket_dir"] == "/run/trial/main"
    texts = "".join(files(result).values())
    assert "/etc/pgbouncer" not in texts
    assert "/c/" not in texts
    assert {item["path"].rsplit("/", 1)[0] for item in result["tls_files"]} == {"/run/trial/tls"}


def test_files_on_the_host_are_used_where_they_are():
    result = plan(tls_on_host=True)
    assert result["tls_files"] == []
    assert settings(files(result)["pgbouncer.ini"])["client_tls_key_file"] == "/c/pooler.key"


def test_console_and_look_up_are_closed_before_anybody_is_let_in():
    rules = [line for line in files(plan())["hba.conf"].splitlines() if not line.startswith("#")]
    assert rules == [
        "host pgbouncer all 0.0.0.0/0 reject",
        "host pgbouncer all ::/0 reject",
        "host pgbouncer_auth all 0.0.0.0/0 reject",
        "host pgbouncer_auth all ::/0 reject",
        "hostssl all all 10.0.1.0/24 scram-sha-256",
    ]
    assert (
        "host all all 10.0.1.7/32 scram-sha-256"
        in files(plan(client_tls={"mode": "disable"}, client_networks=["10.0.1.7"]))["hba.conf"]
    )


def test_names_with_special_characters_reach_the_server():
    name = "we\"ird db='1' %s \\ né"
    entry = {"name": "weird", "dbname": name, "pool_size": 3}
    (line,) = [x for x in files(plan(databases=[entry]))["pgbouncer.ini"].splitlines() if x.startswith("weird")]
    assert line == "weird = host=db1.internal port=5432 dbname='we\"ird db=''1'' %s \\ né' pool_size=3"
    assert "'my db' = " in files(plan(databases=[{"name": "my db"}], version="1.26.1"))["pgbouncer.ini"]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"client_networks": []}, "every login would be rejected"),
        ({"client_networks": ["10.0.1.5/24"]}, "host bits set"),
        ({"client_networks": ["app1.internal"]}, "not names of hosts"),
        ({"hba_rules": ["hostssl all all 10.0.0.0/8 trust"]}, "take anybody"),
        ({"hba_rules": ["everybody"]}, "is no rule"),
        ({"server_host": ""}, "pgbouncer_server_host is empty"),
        ({"databases": []}, "pgbouncer_databases is empty"),
        ({"databases": [{"name": "a"}, {"name": "a"}]}, "names 'a' twice"),
        ({"databases": [{"name": "*"}]}, "retired ones too"),
        ({"databases": [{"name": "pgbouncer"}]}, "taken by PgBouncer itself"),
        ({"databases": [{"name": "pgbouncer_auth"}]}, "taken by PgBouncer itself"),
        ({"databases": [{"name": "my db"}]}, "the real name as dbname"),
        ({"databases": [{"name": "a", "password": "x"}]}, "no password here"),
        ({"databases": [{"name": "a", "prt": 1}]}, "knows no prt"),
        ({"databases": [{"name": "a", "query_wait_timeout": 1}]}, "knows no query_wait_timeout"),
        ({"databases": [{"name": "a", "dbname": "b\nc = host=d"}]}, "line break"),
        ({"settings": {"max_clinet_conn": 1}}, "PgBouncer has no setting max_clinet_conn"),
        ({"settings": {"transaction_timeout": 1}}, "1.24 has no setting transaction_timeout; 1.25 has"),
        ({"settings": {"auth_type": "trust"}}, "auth_type is not among the settings: pgbouncer_client_networks"),
        ({"settings": {"server_check_query": "select 1\nadmin_users = x"}}, "line break"),
        ({"settings": {"query_wait_timeout": 20}}, "Set it to 30 or more"),
        ({"settings": {"server_login_retry": 15}}, "Set it to 1 or less"),
        ({"settings": {"max_client_conn": 5000}}, "pgbouncer_open_files allows 4096"),
        ({"client_tls": {"certificate": "", "key": ""}}, "which needs pgbouncer_client_tls_certificate"),
        ({"client_tls": {"key": ""}}, "belong together"),
        ({"client_tls": {"mode": "verify-full"}}, "needs pgbouncer_client_tls_ca"),
        ({"server_tls": {"ca": ""}}, "needs pgbouncer_server_tls_ca"),
        ({"auth_user": 'a"; DROP'}, "give a plain name"),
        ({"users": [], "auth": "userlist"}, "pgbouncer_users is empty"),
    ],
)
def test_what_cannot_end_well_is_refused_with_what_to_do(choices, words):
    problems = plan(**choices)["problems"]
    assert [problem for problem in problems if words in problem], problems
    assert len(problems) == 1


def test_waiting_for_ever_outlasts_every_pause():
    assert plan(settings={"query_wait_timeout": 0})["problems"] == []


def test_setting_that_is_gone_is_refused():
    assert plan(settings={"suspend_timeout": 5}, version="1.25.2")["problems"] == []
    (problem,) = plan(settings={"suspend_timeout": 5}, version="1.26.1")["problems"]
    assert "1.26 has no setting suspend_timeout any more" in problem


def test_sizes_that_a_version_lacks_are_left_out_with_a_note():
    result = plan(version="1.18.0")
    assert "max_prepared_statements" not in files(result)["pgbouncer.ini"]
    assert result["notes"] == ["PgBouncer 1.18 does not know max_prepared_statements (1.21 does): it is left out."]


@pytest.mark.parametrize(("version", "words"), [("1.14.0", "older than 1.15"), ("1.30.0", None)])
def test_versions_outside_of_those_tested_are_refused_or_noted(version, words):
    result = plan(version=version)
    assert [words in problem for problem in result["problems"][:1]] == ([True] if words else [])
    assert ("newer than 1.26" in "".join(result["notes"])) == (words is None)


def test_instances_need_names_and_ports_of_their_own():
    problems = plan({"name": "a"}, {"name": "a"}, {"name": "tls", "listen_port": 1})["problems"]
    assert any("the name a" in problem for problem in problems)
    assert any("the port 6432" in problem for problem in problems)
    assert any("'tls' is no name" in problem for problem in problems)
    assert plan({"name": "a"}, {"name": "b", "listen_port": 6433})["problems"] == []


def test_port_of_somebody_else_is_refused_and_that_of_the_instance_itself_is_not():
    (problem,) = plan(state={"listening": [6432]})["problems"]
    assert "something else listens on port 6432" in problem
    running = {"listening": [6432], "active": ["main"], "current": {"main": "listen_port = 6432\n"}}
    assert plan(state=running)["problems"] == []
    (problem,) = plan({"name": "other"}, state=running)["problems"]
    assert "belongs to instance main" in problem


def test_service_of_the_distribution_with_its_own_configuration_is_refused():
    (problem,) = plan(state={"foreign": True, "listening": [6432]})["problems"]
    assert "systemctl disable --now pgbouncer.service" in problem


@pytest.mark.parametrize(
    ("stdout", "paused"),
    [
        ("name|host|paused|disabled\nlive|db|0|0\n(1 row)\nkey|value\nactive|yes\npaused|no\nsuspended|no", False),
        ("name|host|paused|disabled\nlive|db|1|0\n(1 row)", True),
        ("name|host|paused|disabled\nlive|db|0|0\n(1 row)\nkey|value\nactive|no\npaused|yes\nsuspended|no", True),
        ("", False),
    ],
)
def test_nothing_is_reloaded_while_a_swap_pauses(stdout, paused):
    state = {"active": ["main"], "current": {"main": "listen_port = 6432\n"}, "listening": [6432]}
    (console,) = plan(state=state)["consoles"]
    assert {"--host=/run/pgbouncer/main", "--port=6432", "--username=pgbouncer"} <= set(console["argv"])
    problems = plan(state={**state, "consoles": [{"item": console, "stdout": stdout}]})["problems"]
    assert bool(problems) == paused
    assert all("main is paused" in problem for problem in problems)


def said(side: str, *, pair: str = "KEY", after: str = "Nov 20 00:00:00 2030 GMT", rc: int = 0) -> list[dict[str, Any]]:
    text = "-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n"
    dates = "notBefore=Nov  2 00:00:00 2025 GMT\nnotAfter=%s\n" % after
    certificate = {"rc": 0, "stdout": text % "KEY" + dates, "stderr": ""}
    key = {"rc": rc, "stdout": text % pair, "stderr": "Could not read key\nmore" if rc else ""}
    return [{"item": {"side": side, "what": what}, **out} for what, out in (("certificate", certificate), ("key", key))]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({}, None),
        ({"pair": "OTHER"}, "does not belong to key /c/pooler.key"),
        ({"after": "Nov  1 00:00:00 2026 GMT"}, "expired on Nov  1 00:00:00 2026 GMT"),
        ({"rc": 1}, "openssl cannot read /c/pooler.key: Could not read key"),
    ],
)
def test_certificates_are_judged_before_anything_is_touched(output, words):
    state = {"openssl": said("client_tls", **output) + said("server_tls"), "now": "2026-11-20T22:15:00+00:00"}
    problems = plan(state=state)["problems"]
    assert ([words in problem for problem in problems]) == ([] if words is None else [True])


def test_missing_tls_files_are_named_and_not_read():
    result = plan(state={"missing": ["/c/auth.key"]})
    assert result["problems"] == ["/c/auth.key does not exist."]
    assert {command["side"] for command in result["openssl"]} == {"client_tls"}


def test_plan_tells_which_files_are_not_there_as_planned():
    first = plan()
    assert first["differing"] == ["/etc/pgbouncer/main/%s" % name for name in files(first)]


START = "/etc/pgbouncer/main/start.ini"
MAIN = "/etc/pgbouncer/main/pgbouncer.ini"


@pytest.mark.parametrize(
    ("times", "unit_time", "predicted", "action"),
    [
        ({"started": 10, START: 5, MAIN: 5}, 5, [], None),
        ({"started": 10, START: 5, MAIN: 11}, 5, [], "reload"),
        ({"started": 10, "read": 12, START: 5, MAIN: 11}, 5, [], None),
        ({"started": 10, "read": 12, START: 11, MAIN: 11}, 5, [], "restart"),
        ({"started": 10, START: 5, MAIN: 5}, 11, [], "restart"),
        ({"started": 10, START: 5, MAIN: 5}, 5, [MAIN], "reload"),
        ({"started": 10, START: 5, MAIN: 5}, 5, [START], "restart"),
        ({START: 5, MAIN: 5}, 5, [], "restart"),
    ],
)
def test_marks_tell_who_has_not_read_its_files(times, unit_time, predicted, action):
    times = {("/run/pgbouncer/main/" + k if "/" not in k else k): v for k, v in times.items()}
    actions = pgbouncer_actions(plan()["instances"], times=times, unit_time=unit_time, predicted=predicted)
    assert actions["restart"] == (["main"] if action == "restart" else [])
    assert actions["reload"] == (["main"] if action == "reload" else [])
    assert bool(actions["reasons"]) == (action == "restart")


def test_instances_that_were_just_started_have_read_everything():
    actions = pgbouncer_actions(plan()["instances"], times={START: 5}, unit_time=5, starting=["main"])
    assert actions == {"restart": [], "reload": [], "reasons": []}


def test_tables_of_settings_agree():
    assert set(AT_START) <= set(SINCE)
    assert set(GONE_IN) <= set(SINCE)
    assert set(FIXED) <= set(SINCE)


def test_console_is_open_to_one_user_of_one_network_over_tls_and_to_nobody_else() -> None:
    console = {"console_user": "holdfast_console", "console_networks": ["10.0.9.7/32"]}
    planned = plan(state={"console_secret": SECRET}, **console)
    files = planned["instances"][0]["files"]
    rules = [line for line in files["hba.conf"].splitlines() if not line.startswith("#")]
    assert planned["problems"] == []
    assert rules[:2] == [
        'hostssl pgbouncer "holdfast_console" 10.0.9.7/32 scram-sha-256',
        "host pgbouncer all 0.0.0.0/0 reject",
    ]
    assert settings(files["pgbouncer.ini"] + files["start.ini"])["admin_users"] == "holdfast_console"
    assert '"holdfast_console" "%s"' % SECRET in files["userlist.txt"]
    assert "admin_users" not in plan()["instances"][0]["files"]["pgbouncer.ini"]


@pytest.mark.parametrize(
    ("choices", "secret", "words"),
    [
        ({"console_networks": ["10.0.9.0/24"]}, "", "pgbouncer_console_user is empty"),
        ({"console_user": "c", "console_networks": ["10.0.9.0/24"]}, "", "needs pgbouncer_console_password"),
        ({"console_user": "c"}, SECRET, "pgbouncer_console_networks is empty"),
        ({"console_user": "c", "console_networks": ["db1"]}, SECRET, "'db1' is no network"),
        ({"console_user": "rently_app", "console_networks": ["10.0.9.0/24"]}, SECRET, "another meaning"),
        ({"console_user": "pgbouncer", "console_networks": ["10.0.9.0/24"]}, SECRET, "another meaning"),
        (
            {"console_user": "c", "console_networks": ["10.0.9.0/24"], "client_tls": {"mode": "prefer"}},
            SECRET,
            "over TLS only",
        ),
    ],
)
def test_console_that_nobody_could_use_or_anybody_is_refused(choices: dict[str, Any], secret: str, words: str) -> None:
    problems = plan(state={"console_secret": secret}, **choices)["problems"]
    assert any(words in problem for problem in problems), problems
