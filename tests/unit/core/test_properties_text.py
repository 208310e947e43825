# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Database properties without a server: lists of identifiers, order of grants, masking, statements by version."""

from __future__ import annotations

import pytest
from psycopg2 import sql

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import (
    DatabaseProperties,
    _grant_key,
    create_database_sql,
    in_order_of_grantors,
    property_differences,
    split_identifier_list,
)

PLAIN = DatabaseProperties(owner="app", encoding="UTF8", locale_provider="libc", collate="C", ctype="C")


def with_(**changes) -> DatabaseProperties:
    return DatabaseProperties.from_dict({**PLAIN.as_dict(), **changes})


def text(composed: sql.Composable) -> str:
    """The statement, with the identifiers quoted as the driver would for plain names."""
    if isinstance(composed, sql.Composed):
        return "".join(map(text, composed.seq))
    if isinstance(composed, sql.Identifier):
        return '"%s"' % composed.string
    return str(composed.string) if isinstance(composed, sql.SQL) else repr(composed.wrapped)


@pytest.mark.parametrize(
    ("stored", "elements"),
    [
        ('"$user", public', ["$user", "public"]),
        ('"We,ird ""q"" name"', ['We,ird "q" name']),
        ('""', [""]),
        ("a,b", ["a", "b"]),
        ("", []),
        ('a "b"', []),
        ('"open', []),
    ],
)
def test_a_stored_list_of_identifiers_is_split_or_refused(stored, elements):
    assert split_identifier_list(stored) == elements


def test_grants_come_after_the_grants_that_allow_them():
    first, second, third = ("b", "owner", "CONNECT"), ("c", "b", "CONNECT"), ("a", "c", "CONNECT")
    assert in_order_of_grantors([third, second, first], owner="owner") == [first, second, third]
    assert in_order_of_grantors([second], owner="owner") == [second], "b has its grant already"


def test_a_circle_of_grants_does_not_loop():
    circle = [("a", "b", "CONNECT"), ("b", "a", "CONNECT")]
    assert in_order_of_grantors(circle, owner="owner") == circle


def test_a_privilege_that_is_none_never_becomes_a_statement():
    with pytest.raises(HoldfastError) as failure:
        _grant_key({"grantee": "a", "grantor": "b", "privilege": "ALL; DROP DATABASE x", "grantable": False})
    assert failure.value.code == "option_invalid"


def test_differences_mask_secrets_and_may_leave_properties_out():
    other = with_(settings={"app.jwt_secret": "hush", "work_mem": "8MB"}, allow_connections=False)
    differences = property_differences(PLAIN, other, ignore=("allow_connections",))
    assert differences == [
        {"property": "settings", "before": {}, "after": {"app.jwt_secret": "********", "work_mem": "8MB"}}
    ]


def test_a_changed_secret_is_a_difference_though_it_is_masked():
    before, after = with_(settings={"app.secret": "a"}), with_(settings={"app.secret": "b"})
    assert [d["property"] for d in property_differences(before, after)] == ["settings"]


def test_the_order_of_the_acl_and_unknown_keys_do_not_matter():
    grants = [
        {"grantee": name, "grantor": "app", "privilege": "CONNECT", "grantable": False} for name in ("b", "a", "")
    ]
    assert with_(acl=grants, of_the_future=1) == with_(acl=list(reversed(grants)))


@pytest.mark.parametrize(
    ("changes", "version", "expected", "absent"),
    [
        ({}, 130000, "LC_COLLATE 'C'", "LOCALE_PROVIDER"),
        ({}, 180000, "LOCALE_PROVIDER libc", "LOCALE 'C'"),
        ({"locale_provider": "icu", "locale": "de", "icu_rules": "&a<b"}, 160000, "ICU_RULES '&a<b'", "BUILTIN"),
        ({"locale_provider": "builtin", "locale": "C.UTF-8"}, 170000, "BUILTIN_LOCALE 'C.UTF-8'", "ICU"),
        ({"tablespace": "fast"}, 180000, 'TABLESPACE "fast"', "STRATEGY"),
        ({}, 180000, "ENCODING 'UTF8'", "TABLESPACE"),
    ],
)
def test_creation_states_what_the_version_knows(changes, version, expected, absent):
    statement = text(create_database_sql(database="d", properties=with_(**changes), server_version=version))
    assert expected in statement
    assert absent not in statement


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"locale_provider": "icu", "locale": "de"}, 140000),
        ({"locale_provider": "icu", "locale": "de", "icu_rules": "&a<b"}, 150000),
        ({"locale_provider": "builtin", "locale": "C"}, 160000),
        ({"locale_provider": "of the future"}, 180000),
    ],
)
def test_a_locale_that_the_version_cannot_have_is_refused(changes, version):
    with pytest.raises(HoldfastError) as failure:
        create_database_sql(database="d", properties=with_(**changes), server_version=version)
    assert failure.value.code == "unsupported"


def test_a_copy_of_a_template_states_only_owner_and_strategy():
    statement = create_database_sql(
        database="d", properties=with_(tablespace="fast"), server_version=150000, template="s", strategy="file_copy"
    )
    assert text(statement) == """CREATE DATABASE "d" TEMPLATE "s" OWNER "app" STRATEGY 'file_copy'"""
