# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role postgres writes, read by real servers."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess

import pytest

from ansible_collections.holdfast.postgres.plugins.plugin_utils._hba import hba_lines
from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres import setting_text
from ansible_collections.holdfast.postgres.plugins.plugin_utils._scram import scram_secret, secret_with
from tests.support.postgres_role import plan

PASSWORDS = [
    "pencil",
    "with 'quotes' \"and\" \\ %s $1",
    " spaces ",
    "пароль",
    "e\u0301\u00aa\u2168",
    "I\u00adX",
    "\u00a0\u2003",
    "\u00ad",
    "\u0627\u0628",
    "\u06271\u0628",
    "\u0627a",
    "\u0627\u00aa1",
    "\u00e9\u0007",
    "\ufdd0\u00e9",
    "\U0001f511",
    "x" * 200,
]


@pytest.mark.parametrize("password", PASSWORDS, ids=ascii)
def test_secret_is_the_one_that_the_server_would_store(pg18, password):
    """With the salt that the server chose, the secret is the server's own."""
    connection = pg18.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("CREATE ROLE scram_probe LOGIN PASSWORD %s", (password,))
            cursor.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram_probe'")
            (stored,) = cursor.fetchone()
            cursor.execute("ROLLBACK")
    finally:
        connection.close()
    salt = base64.b64decode(stored.split(":")[1].split("$")[0])
    assert secret_with(password, salt) == stored


def test_server_takes_the_secret_and_lets_the_password_in(pg18):
    for password in PASSWORDS:
        pg18.execute("CREATE ROLE scram_login LOGIN PASSWORD %s", (scram_secret(password, "scram_login"),))
        try:
            pg18.connect(user="scram_login", password=password).close()
        finally:
            pg18.execute("DROP ROLE scram_login")


@contextlib.contextmanager
def hba_file(server, lines):
    """The server's file with these lines, which the server does not load."""
    path = server.data / "pg_hba.conf"
    before = path.read_bytes()
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield
    finally:
        path.write_bytes(before)


def test_names_in_rules_are_the_names_that_the_server_reads(pg18):
    names = ["plain", "with space", "a,b", 'say "hi"', '"', "#comment", "@file", "All", "ж'%=\\", "a" * 63]
    access = [{"type": "host", "databases": names, "users": names, "sources": ["10.0.0.0/8", "fd00::/8", "samenet"]}]
    words = ["all", "sameuser", "samerole", "replication"]
    access += [{"type": "host", "databases": words, "users": ["all", "+staff"], "sources": ["db_1.internal"]}]
    access += [{"type": "local", "databases": ["+staff"], "users": ["postgres"], "map": "a map"}]
    with hba_file(pg18, hba_lines(access)):
        rows = pg18.execute("SELECT database, user_name, address, auth_method, options, error FROM pg_hba_file_rules")
    assert [row[5] for row in rows] == [None] * len(rows)
    assert [row[:3] for row in rows[2:5]] == [
        (names, names, "10.0.0.0"),
        (names, names, "fd00::"),
        (names, names, "samenet"),
    ]
    assert rows[5][:3] == (words, ["all", "+staff"], "db_1.internal")
    assert rows[6][:5] == (["+staff"], ["postgres"], None, "peer", ["map=a map"])
    assert [(row[0], row[1], row[3]) for row in rows[-4:]] == [
        (["all"], ["all"], "reject"),
        (["replication"], ["all"], "reject"),
        (["all"], ["all"], "reject"),
        (["replication"], ["all"], "reject"),
    ]


def read_by(server, lines, name):
    """What the server's program says about one setting of a file with these lines; it fails for a wrong file."""
    path = server.directory / "probe.conf"
    path.write_text("".join("%s = %s\n" % item for item in lines.items()), encoding="utf-8")
    path.chmod(0o644)
    account = server.account
    done = subprocess.run(
        [str(server.bin_dir / "postgres"), "-C", name, "-D", str(server.data), "-c", "config_file=%s" % path],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        check=False,
        capture_output=True,
        text=True,
        **({} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


@pytest.mark.parametrize(("fixture", "version"), [("pg_distribution", "15"), ("pg16", "16"), ("pg18", "18")])
def test_every_version_reads_every_setting(request, fixture, version):
    server = request.getfixturevalue(fixture)
    # The embedded servers are built without TLS.
    (cluster,) = plan(
        {"name": "main", "version": version, "port": 5599},
        tls_certificate="",
        tls_key="",
        tls_ca="",
        primary_host="db1.internal",
        databases=[{"name": "app", "extensions": ["pg_stat_statements", "pgaudit", "pg_cron"]}],
    )
    # What the server's own postgresql.auto.conf says wins, so these are settings that it does not have.
    assert read_by(server, cluster["lines"], "work_mem") == "20480"
    assert read_by(server, cluster["lines"], "log_line_prefix") == "%m [%p] %q%u@%d from %h app %a "
    assert read_by(server, cluster["lines"], "primary_conninfo") == cluster["settings"]["primary_conninfo"]


@pytest.mark.parametrize(
    "value", ["it's", "back\\slash\\", 'say "hi" # no comment', "a\ttab", "ж%=", "", " "], ids=ascii
)
def test_values_reach_the_server_as_they_are(pg18, value):
    assert read_by(pg18, {"holdfast.probe": setting_text("holdfast.probe", value)}, "holdfast.probe") == value
