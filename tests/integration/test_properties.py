# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is keyed by a database's OID, read from one database and applied to another on real servers."""

from __future__ import annotations

import json
import uuid

import pytest
from psycopg2 import sql

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import (
    CARRIED,
    DatabaseProperties,
    apply_properties,
    create_database,
    missing_roles,
    property_differences,
    read_properties,
)

STATEMENTS = (
    'ALTER DATABASE {d} SET search_path = "$user", public, "We,ird ""q"" name", pg_catalog',
    "ALTER DATABASE {d} SET datestyle = 'iso, dmy'",
    "ALTER DATABASE {d} SET \"my.param\" = 'a=b,''c\\%'",
    "ALTER DATABASE {d} SET work_mem = '8MB'",
    "ALTER DATABASE {d} SET app.jwt_secret = 'hush'",
    "ALTER DATABASE {d} SET session_preload_libraries = 'a b', 'c'",
    "SELECT set_config('search_path', ' pg_catalog,public ', false)",
    "ALTER ROLE {sub} IN DATABASE {d} SET search_path FROM CURRENT",
    "RESET search_path",
    "ALTER ROLE {sub} IN DATABASE {d} SET temp_tablespaces = ''",
    "ALTER ROLE {sub} IN DATABASE {d} SET role = {sub}",
    "REVOKE TEMPORARY ON DATABASE {d} FROM PUBLIC",
    "GRANT CONNECT ON DATABASE {d} TO {chief} WITH GRANT OPTION",
    'GRANT CREATE ON DATABASE {d} TO "PUBLIC"',
    "SET ROLE {chief}",
    "GRANT CONNECT ON DATABASE {d} TO {sub} WITH GRANT OPTION",
    "SET ROLE {sub}",
    'GRANT CONNECT ON DATABASE {d} TO "PUBLIC"',
    "RESET ROLE",
    "COMMENT ON DATABASE {d} IS 'it''s 100% \\ ours\nand old'",
    "ALTER DATABASE {d} CONNECTION LIMIT 7",
)
ROLES = {"owner": "o wner='\"", "chief": "ch%ief-é", "sub": 'su"b\\'}


@pytest.fixture(params=["pg18", "pg16", "pg_distribution"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def names(server):
    """A database with every property set, and the name of one that does not exist yet."""
    existing = {row[0] for row in server.execute("SELECT rolname FROM pg_roles")}
    connection = server.connect()
    source, copy = ('%s we"ird=\\x\n-%%é' % uuid.uuid4().hex[:6] for _ in range(2))
    with connection.cursor() as cursor:
        for name in [*ROLES.values(), "PUBLIC"]:
            if name not in existing:
                cursor.execute(sql.SQL("CREATE ROLE {} CREATEDB").format(sql.Identifier(name)))
        server.create_database(source, owner=ROLES["owner"])
        values = {"d": sql.Identifier(source), **{key: sql.Identifier(name) for key, name in ROLES.items()}}
        for statement in STATEMENTS:
            cursor.execute(sql.SQL(statement).format(**values))
    connection.close()
    yield source, copy
    server.drop_database(source)
    server.drop_database(copy)


def stored_settings(server, database):
    return server.execute(
        "SELECT pg_get_userbyid(setrole), setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase"
        " WHERE datname = %s ORDER BY 1",
        (database,),
    )


def test_a_copy_gets_every_property_byte_for_byte(server, names):
    source, copy = names
    connection = server.connect()
    properties = read_properties(connection=connection, database=source)
    assert DatabaseProperties.from_dict(json.loads(json.dumps(properties.as_dict(), sort_keys=True))) == properties

    create_database(connection=connection, database=copy, properties=properties)
    assert {
        d["property"] for d in property_differences(properties, read_properties(connection=connection, database=copy))
    }
    statements = apply_properties(connection=connection, database=copy, properties=properties)

    assert property_differences(properties, read_properties(connection=connection, database=copy)) == []
    assert stored_settings(server, copy) == stored_settings(server, source)
    assert len(statements) == 16
    assert not any("hush" in statement for statement in statements)
    assert apply_properties(connection=connection, database=copy, properties=properties) == []
    connection.close()


def test_what_is_not_listed_is_reset_in_the_callers_transaction(server, names):
    source, copy = names
    connection = server.connect()
    server.create_database(copy)
    plain = read_properties(connection=connection, database=copy)
    before = read_properties(connection=connection, database=source)
    connection.autocommit = False

    apply_properties(connection=connection, database=source, properties=plain)
    connection.rollback()
    assert read_properties(connection=connection, database=source) == before

    apply_properties(connection=connection, database=source, properties=plain)
    connection.commit()
    after = read_properties(connection=connection, database=source)
    assert [d for d in property_differences(plain, after) if d["property"] in CARRIED] == []
    assert stored_settings(server, source) == []
    connection.close()


def test_a_database_without_a_privilege_of_public_does_not_get_it_back(server, names):
    _source, copy = names
    server.create_database(copy)
    connection = server.connect()
    default = read_properties(connection=connection, database=copy)
    emptied = DatabaseProperties.from_dict({**default.as_dict(), "acl": []})
    apply_properties(connection=connection, database=copy, properties=emptied)
    assert read_properties(connection=connection, database=copy).acl == ()
    assert server.execute("SELECT datacl::text FROM pg_database WHERE datname = %s", (copy,)) == [("{}",)]
    apply_properties(connection=connection, database=copy, properties=default)
    assert read_properties(connection=connection, database=copy) == default
    connection.close()


def test_grants_keep_their_grantor_when_only_the_option_to_grant_is_lost(server, names):
    source, _copy = names
    connection = server.connect()
    before = read_properties(connection=connection, database=source)
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("REVOKE GRANT OPTION FOR CONNECT ON DATABASE {} FROM {} CASCADE").format(
                sql.Identifier(source), sql.Identifier(ROLES["chief"])
            )
        )
    assert read_properties(connection=connection, database=source) != before
    apply_properties(connection=connection, database=source, properties=before)
    assert read_properties(connection=connection, database=source) == before
    connection.close()


def test_missing_roles_are_named_before_anything_changes(server, names):
    source, _copy = names
    connection = server.connect()
    before = read_properties(connection=connection, database=source)
    foreign = DatabaseProperties.from_dict(
        {**before.as_dict(), "owner": "nobody here", "role_settings": {"no'one": {"work_mem": "1MB"}}}
    )
    assert missing_roles(connection=connection, properties=foreign) == ["no'one", "nobody here"]
    with pytest.raises(HoldfastError) as failure:
        apply_properties(connection=connection, database=source, properties=foreign)
    assert failure.value.code == "role_missing"
    assert "no'one, nobody here" in failure.value.msg
    assert read_properties(connection=connection, database=source) == before
    connection.close()


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"collate": "xx_XX.UTF-8", "ctype": "xx_XX.UTF-8"}, "unsupported", "xx_XX"),
        ({"encoding": "NOSUCH"}, "unsupported", "NOSUCH"),
        ({"owner": "nobody here"}, "role_missing", "nobody here"),
        ({"tablespace": "no such space"}, "unsupported", "no such space"),
    ],
)
def test_creation_says_what_this_server_lacks(server, names, change, code, word):
    source, copy = names
    connection = server.connect()
    properties = read_properties(connection=connection, database=source)
    with pytest.raises(HoldfastError) as failure:
        create_database(
            connection=connection,
            database=copy,
            properties=DatabaseProperties.from_dict({**properties.as_dict(), **change}),
        )
    assert failure.value.code == code
    assert word in failure.value.msg
    assert copy not in server.databases()
    connection.close()


def test_creation_never_replaces_a_database(server, names):
    source, _copy = names
    connection = server.connect()
    properties = read_properties(connection=connection, database=source)
    with pytest.raises(HoldfastError) as failure:
        create_database(connection=connection, database=source, properties=properties)
    assert failure.value.code == "target_exists"
    connection.close()


def test_a_locale_of_another_provider_survives_a_copy(pg18):
    connection = pg18.connect()
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE built_in TEMPLATE template0 LOCALE_PROVIDER builtin LOCALE 'C.UTF-8'")
    try:
        properties = read_properties(connection=connection, database="built_in")
        assert (properties.locale_provider, properties.locale) == ("builtin", "C.UTF-8")
        create_database(connection=connection, database="built_in_copy", properties=properties)
        assert read_properties(connection=connection, database="built_in_copy") == properties
    finally:
        connection.close()
        pg18.drop_database("built_in")
        pg18.drop_database("built_in_copy")


def test_an_icu_locale_survives_a_copy(pg_distribution):
    connection = pg_distribution.connect()
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE DATABASE icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk' LOCALE 'C.UTF-8'"
        )
    try:
        properties = read_properties(connection=connection, database="icu")
        assert properties.locale_provider == "icu"
        create_database(connection=connection, database="icu_copy", properties=properties)
        assert read_properties(connection=connection, database="icu_copy") == properties
    finally:
        connection.close()
        pg_distribution.drop_database("icu")
        pg_distribution.drop_database("icu_copy")


def test_a_template_copy_takes_encoding_and_locale_from_the_template(server, names):
    source, copy = names
    connection = server.connect()
    properties = read_properties(connection=connection, database=source)
    statement = create_database(
        connection=connection, database=copy, properties=properties, template=source, strategy="file_copy"
    )
    assert "LC_COLLATE" not in statement
    apply_properties(connection=connection, database=copy, properties=properties)
    assert read_properties(connection=connection, database=copy) == properties
    connection.close()


def test_what_an_interrupted_drop_left_is_never_read(pg18):
    pg18.create_database("half dropped")
    pg18.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half dropped'")
    connection = pg18.connect()
    try:
        with pytest.raises(HoldfastError) as failure:
            read_properties(connection=connection, database="half dropped")
        assert failure.value.code == "database_invalid"
        with pytest.raises(HoldfastError) as failure:
            read_properties(connection=connection, database="no such database")
        assert failure.value.code == "database_not_found"
    finally:
        connection.close()
        pg18.drop_database("half dropped")


def test_an_owner_without_superuser_carries_its_own_properties(server, names):
    source, copy = names
    server.execute('ALTER ROLE "o wner=\'""" LOGIN PASSWORD \'pw\'')
    connection = server.connect(user=ROLES["owner"], password="pw")
    properties = read_properties(connection=connection, database=source)
    plain = DatabaseProperties.from_dict(
        {
            **properties.as_dict(),
            "settings": {name: properties.settings[name] for name in ("search_path", "DateStyle", "work_mem")},
            "role_settings": {},
            "acl": [entry for entry in properties.as_dict()["acl"] if entry["grantor"] == properties.owner],
        }
    )
    create_database(connection=connection, database=copy, properties=plain)
    apply_properties(connection=connection, database=copy, properties=plain)
    assert read_properties(connection=connection, database=copy) == plain
    with pytest.raises(HoldfastError) as failure:
        apply_properties(connection=connection, database=copy, properties=properties)
    assert failure.value.code == "permission_denied"
    connection.close()
