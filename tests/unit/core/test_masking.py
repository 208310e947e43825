# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of others do not appear in what is shown."""

from __future__ import annotations

import time

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.masking import mask_secrets, shown


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ALTER ROLE a PASSWORD 'geheim' LOGIN", "LOGIN"),
        ("alter role a password e'geheim\\'geheim' login", "login"),
        ("ALTER ROLE a ENCRYPTED PASSWORD 'ge''geheim' LOGIN", "LOGIN"),
        ("ALTER ROLE a PASSWORD $x$geheim$x$ LOGIN", "LOGIN"),
        ("ALTER ROLE a PASSWORD /* it's */ 'geheim' LOGIN", "LOGIN"),
        ("CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'b', password 'geheim')", "'b'"),
        ("CREATE SUBSCRIPTION s CONNECTION 'host=h password=geheim dbname=d'", "dbname=d"),
        ("ALTER ROLE a PASSWORD 'geheim", "ALTER ROLE a"),
        ("SET app.jwt_secret = 'geheim'; SELECT 1", "SELECT 1"),
        ("ALTER ROLE a SET \"app.api_key\" TO 'geheim'", "ALTER ROLE a"),
        ("SELECT set_config('app.token', E'ge\\'heim geheim', true)", ", true)"),
        ("SELECT dblink('postgresql://app:geheim@db.example.org/app')", "@db.example.org/app"),
        ("DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''geheim'''; END $$", "EXECUTE"),
    ],
)
def test_passwords_are_masked(text, kept):
    assert "geheim" not in shown(text, characters=200)
    assert kept in shown(text, characters=200)


def test_masking_keeps_the_lines():
    text = "ALTER ROLE a PASSWORD 'one\ntwo'\nLOGIN"
    assert mask_secrets(text).split("\n")[2] == "LOGIN"


@pytest.mark.parametrize(
    "text",
    [
        "SELECT password FROM users WHERE name = 'a'",
        "SELECT t.key, t.value FROM settings AS t WHERE t.name = 'a'",
        "SET app.tenant = 'a'",
        "SELECT 'see https://example.org:8080/a'",
        "SELECT n.nspname = 'public', token FROM n",
    ],
)
def test_what_is_no_secret_stays(text):
    assert mask_secrets(text) == text


def test_secret_that_is_cut_off_is_masked_before_the_text_is_cut():
    text = "/* %s */ ALTER ROLE a PASSWORD 'geheim" % ("x" * 60)
    assert "gehe" not in shown(text, characters=100, ellipsis="")


def test_large_statements_are_masked_in_reasonable_time():
    started = time.monotonic()
    mask_secrets("INSERT INTO t (password) VALUES ('%s')" % ("aGVsbG8" * 150_000))
    mask_secrets("-- password\n" + "INSERT INTO a.b VALUES ('x', 1);\n" * 30_000)
    mask_secrets("password " + "/*" * 1000)
    assert time.monotonic() - started < 5
