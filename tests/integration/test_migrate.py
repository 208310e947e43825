# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations on real servers: whole, or not there, or named up to the statement."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import Script, SourceFile
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.plan import prepare
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import statements
from tests.support.migrations import run

NO_TRANSACTION = "-- holdfast: no-transaction\n"
CURRENT = "SELECT version FROM schema_version ORDER BY applied_at DESC LIMIT 1"
SCHEMA = (
    "SELECT c.relname, a.attname, a.atttypid::regtype::text FROM pg_class AS c"
    " LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0"
    " WHERE c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'schema_version%' ORDER BY 1, 2"
)
BOOKS = {
    "v1.0_book/up.sql": "CREATE TABLE book (id int PRIMARY KEY, title text);\nINSERT INTO book VALUES (1, 'Emma');\n",
    "v1.0_book/down.sql": "DROP TABLE book;\n",
    "v1.0_book/verify.sql": "DO $$ BEGIN ASSERT (SELECT count(*) FROM book) = 1; END $$;\n",
    "v1.9_isbn.up.sql": "ALTER TABLE book ADD isbn text;\nCREATE INDEX book_isbn ON book (isbn);\n",
    "v1.9_isbn.down.sql": "ALTER TABLE book DROP isbn;\n",
    "v1.10_index.up.sql": NO_TRANSACTION + "CREATE INDEX CONCURRENTLY book_title ON book (title);\nVACUUM book;\n",
    "v1.10_index.down.sql": NO_TRANSACTION + "DROP INDEX CONCURRENTLY book_title;\n",
}


@pytest.fixture(params=["pg18", "pg16", "pg_distribution"])
def each_server(request):
    """Every server there is, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def each_database(each_server):
    """An empty database with an awkward name on every server."""
    name = "app 'x\" =%s\\ -é " + uuid.uuid4().hex[:8]
    each_server.create_database(name)
    yield name
    each_server.drop_database(name)


def refused(*arguments, **options) -> HoldfastError:
    with pytest.raises(HoldfastError) as error:
        run(*arguments, **options)
    assert error.value.hint
    return error.value


def rows(server, database, query):
    return server.execute(query, database=database)


def test_apply_again_revert_and_apply_again(each_server, each_database):
    server, database = each_server, each_database
    assert run(server, database, BOOKS, check=True)["changed"] is True
    assert rows(server, database, SCHEMA) == []

    first = run(server, database, BOOKS, deployment_id="d-1")
    assert [m["version"] for m in first["applied"]] == ["v1.0", "v1.9", "v1.10"]
    assert (first["current_version"], first["pending"], first["partial"]) == ("v1.10", [], False)
    assert rows(server, database, CURRENT) == [("v1.10",)]
    whole = rows(server, database, SCHEMA)

    assert run(server, database, BOOKS, check=True)["changed"] is False
    again = run(server, database, BOOKS)
    assert (again["changed"], again["applied"]) == (False, [])

    predicted = run(server, database, BOOKS, state="reverted", target_version="1", check=True)
    assert [m["version"] for m in predicted["reverted"]] == ["v1.10", "v1.9"]
    assert rows(server, database, SCHEMA) == whole
    back = run(server, database, BOOKS, state="reverted", target_version="1")
    assert [m["version"] for m in back["reverted"]] == ["v1.10", "v1.9"]
    assert (back["changed"], back["current_version"]) == (True, "v1.0")
    assert rows(server, database, CURRENT) == [("v1.0",)]
    assert run(server, database, BOOKS, state="reverted", target_version="1")["changed"] is False

    assert run(server, database, BOOKS, state="reverted", target_version="0")["current_version"] is None
    assert rows(server, database, SCHEMA) == []
    run(server, database, BOOKS)
    assert rows(server, database, SCHEMA) == whole


def test_status_lists_history_and_pending(pg18, database):
    run(pg18, database, BOOKS, target_version="1.9", deployment_id="d-1")
    status = run(pg18, database, BOOKS, state="status")
    assert status["changed"] is False
    assert [(e["version"], e["state"], e["deployment_id"]) for e in status["history"]] == [
        ("v1.0", "applied", "d-1"),
        ("v1.9", "applied", "d-1"),
    ]
    assert status["history"][0]["applied_at"] < status["history"][1]["applied_at"]
    (pending,) = status["pending"]
    assert (pending["version"], pending["has_down"], pending["transactional"]) == ("v1.10", True, False)
    assert (status["current_version"], status["target"]) == ("v1.9", "v1.10")


def test_status_of_an_untouched_database_creates_nothing(pg18, database):
    status = run(pg18, database, BOOKS, state="status")
    assert (status["history"], status["current_version"], len(status["pending"])) == ([], None, 3)
    assert rows(pg18, database, "SELECT to_regclass('schema_version')") == [(None,)]


def test_failure_half_way_leaves_the_database_as_it_was(each_server, each_database):
    files = {"1_a.up.sql": "CREATE TABLE a (i int);\n\nINSERT INTO a VALUES (1);\nINSERT INTO b\n  VALUES (1);\n"}
    error = refused(each_server, each_database, files)
    assert error.code == "migration_failed"
    assert {"path": "/m/1_a.up.sql", "line": 4, "column": 13, "sqlstate": "42P01"}.items() <= error.details.items()
    assert error.details["statement"] == "INSERT INTO b\n  VALUES (1)"
    assert "LINE 4: INSERT INTO b" in error.msg
    assert (error.details["applied"], error.details["partial"], error.details["current_version"]) == ([], False, None)
    everything = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert rows(each_server, each_database, everything) == [(0,)]


def test_failure_keeps_the_files_before_it(pg18, database):
    files = {"1_a.up.sql": "CREATE TABLE a ();", "2_b.up.sql": "CREATE TABLE b (); SELECT 1/0;", "3_c.up.sql": ""}
    error = refused(pg18, database, files)
    assert [m["version"] for m in error.details["applied"]] == ["1"]
    assert [m["version"] for m in error.details["pending"]] == ["2", "3"]
    assert (error.details["version"], error.details["current_version"], error.details["changed"]) == ("2", "1", True)
    assert rows(pg18, database, "SELECT to_regclass('a')::text, to_regclass('b')::text") == [("a", None)]
    files["2_b.up.sql"] = "CREATE TABLE b ();"
    assert [m["version"] for m in run(pg18, database, files)["applied"]] == ["2", "3"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("CREATE TABLE a ();\nCOMMIT;", 2),
        ("BEGIN;\nCREATE TABLE a ();\nVACUUM a;\nCOMMIT;", 3),
        ("CREATE TABLE a ();\n\\! x", 2),
    ],
)
def test_file_that_cannot_run_is_refused_before_anything_is_touched(pg18, database, text, line):
    error = refused(pg18, database, {"1_a.up.sql": "CREATE TABLE first ();", "2_b.up.sql": text})
    assert error.code == "migration_invalid"
    assert "/m/2_b.up.sql:%d:" % line in error.msg
    assert rows(pg18, database, "SELECT to_regclass('first')") == [(None,)]


def test_changed_file_is_refused_and_nothing_runs(pg18, database):
    run(pg18, database, {"1_a.up.sql": "SELECT 1;\r\n"})
    assert run(pg18, database, {"1_a.up.sql": "\ufeffSELECT 1;\n"})["changed"] is False
    for state in ("status", "applied"):
        error = refused(pg18, database, {"1_a.up.sql": "SELECT 2;", "2_b.up.sql": "CREATE TABLE b ()"}, state=state)
        assert error.code == "migration_changed"
        assert error.details["current_version"] == "1"
    assert rows(pg18, database, "SELECT to_regclass('b')") == [(None,)]


def test_verification_undoes_the_file_when_it_fails_and_leaves_nothing_when_it_holds(pg18, database):
    files = {
        "1_a/up.sql": "CREATE TABLE a (i int CHECK (i > 0));",
        "1_a/verify.sql": "INSERT INTO a VALUES (1);\nDO $$ BEGIN RAISE EXCEPTION 'a is not good'; END $$;",
    }
    error = refused(pg18, database, files)
    assert (error.details["path"], error.details["line"], error.details["sqlstate"]) == (
        "/m/1_a/verify.sql",
        2,
        "P0001",
    )
    assert "a is not good" in error.msg
    assert rows(pg18, database, "SELECT to_regclass('a')") == [(None,)]
    run(pg18, database, {**files, "1_a/verify.sql": "INSERT INTO a VALUES (1); SELECT i FROM a;"})
    assert rows(pg18, database, "SELECT count(*) FROM a") == [(0,)]


def test_verification_after_a_file_without_transaction_is_repeated_alone(pg18, database):
    files = {
        "1_a/up.sql": NO_TRANSACTION + "CREATE TABLE a (i int); INSERT INTO a VALUES (1);",
        "1_a/verify.sql": "SELECT 1 / count(*) FROM a WHERE i = 2",
    }
    error = refused(pg18, database, files)
    assert error.details["partial"] is True
    assert rows(pg18, database, "SELECT state, statements_done FROM schema_version") == [("partial", 2)]
    pg18.execute("UPDATE a SET i = 2", database=database)
    assert run(pg18, database, files)["partial"] is False
    assert rows(pg18, database, "SELECT i FROM a") == [(2,)]


def test_deferred_constraint_that_fails_at_the_end_undoes_the_file(pg18, database):
    text = "CREATE TABLE a (i int UNIQUE DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO a VALUES (1), (1);"
    error = refused(pg18, database, {"1_a.up.sql": text})
    assert error.details["sqlstate"] == "23505"
    assert "at the end of the transaction" in error.msg
    assert rows(pg18, database, "SELECT to_regclass('a')") == [(None,)]


def test_notices_are_kept_up_to_a_hundred(pg18, database):
    text = "DO $$ BEGIN FOR i IN 1..150 LOOP RAISE NOTICE 'row %', i; END LOOP; END $$; DROP TABLE IF EXISTS x;"
    (applied,) = run(pg18, database, {"1_a.up.sql": text})["applied"]
    assert len(applied["notices"]) == 100
    assert "row 150" in applied["notices"][-2]
    assert "does not exist" in applied["notices"][-1]


def test_nothing_of_one_file_reaches_the_next(pg18, database):
    files = {
        "1_a.up.sql": "CREATE SCHEMA s; SET search_path = s; SET ROLE pg_monitor; RESET ROLE;"
        " CREATE TEMP TABLE t (); SET lock_timeout = 0; SET SESSION AUTHORIZATION pg_monitor;",
        "2_b.up.sql": "CREATE TABLE b AS SELECT current_setting('lock_timeout') AS l, to_regclass('t') AS t,"
        " session_user;",
    }
    run(pg18, database, files)
    assert rows(pg18, database, "SELECT l, t, session_user FROM public.b") == [("2s", None, "postgres")]


def test_objects_belong_to_the_given_role_and_the_history_to_the_login(each_server, each_database):
    each_server.execute("DO $$ BEGIN CREATE ROLE app_owner; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    each_server.execute("GRANT CREATE ON SCHEMA public TO app_owner", database=each_database)
    files = {
        "1_a.up.sql": "CREATE TABLE a (i int);",
        "2_b.up.sql": NO_TRANSACTION
        + "CREATE TABLE b (i int); CREATE INDEX CONCURRENTLY bi ON b (i); CREATE TABLE c ();",
    }
    run(each_server, each_database, files, role="app_owner")
    owners = "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    assert rows(each_server, each_database, owners) == [
        ("a", "app_owner"),
        ("b", "app_owner"),
        ("c", "app_owner"),
        ("schema_version", "postgres"),
    ]
    each_server.execute("DROP OWNED BY app_owner", database=each_database)
    assert refused(each_server, each_database, files, role="nobody'here").code == "role_missing"


def test_owner_without_other_rights_can_migrate(each_server):
    each_server.execute("DROP DATABASE IF EXISTS owned")
    each_server.execute("DROP ROLE IF EXISTS plain_owner")
    each_server.execute("CREATE ROLE plain_owner LOGIN PASSWORD 'x'")
    each_server.create_database("owned", owner="plain_owner")
    server = replace(each_server.server, user="plain_owner", password="x")
    files = [SourceFile("/m/" + name, text.encode()) for name, text in BOOKS.items()]
    result = migrate(server=server, database="owned", files=files, state="applied", settings=Settings())
    assert result["current_version"] == "v1.10"
    assert rows(each_server, "owned", "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'") == [
        ("plain_owner",)
    ]
    each_server.drop_database("owned")


def test_guide_style_history_is_adopted(each_server, each_database):
    each_server.execute(
        "CREATE TABLE schema_version (version varchar(20), description text, applied_at timestamp DEFAULT now());"
        " INSERT INTO schema_version VALUES ('v1.0', 'by hand', now() + interval '1 day'),"
        " ('v1.9', 'too', now() + interval '1 day')",
        database=each_database,
    )
    status = run(each_server, each_database, BOOKS, state="status")
    assert (status["current_version"], len(status["pending"])) == ("v1.9", 1)
    assert len(rows(each_server, each_database, "SELECT * FROM schema_version")[0]) == 3
    files = {**BOOKS, "v1.10_index.up.sql": "CREATE TABLE later ();"}
    assert run(each_server, each_database, files)["current_version"] == "v1.10"
    assert rows(each_server, each_database, CURRENT) == [("v1.10",)]
    assert rows(each_server, each_database, "SELECT checksum IS NULL FROM schema_version ORDER BY version") == [
        (True,),
        (False,),
        (True,),
    ]
    assert run(each_server, each_database, files)["changed"] is False


def test_history_with_numbers_as_versions_is_adopted(pg18, database):
    pg18.execute("CREATE TABLE schema_version (version bigint PRIMARY KEY)", database=database)
    pg18.execute("INSERT INTO schema_version VALUES (1)", database=database)
    files = {"0001_a.up.sql": "SELECT 1/0", "0002_b.up.sql": NO_TRANSACTION + "SELECT 1; SELECT 2"}
    assert run(pg18, database, files)["current_version"] == "0002"
    assert rows(pg18, database, "SELECT version, state FROM schema_version ORDER BY 1") == [(1, None), (2, "applied")]
    assert run(pg18, database, files)["changed"] is False


def test_a_file_that_keeps_a_history_of_its_own_in_the_same_table_is_no_conflict(pg18, database):
    files = {
        "v1_a/up.sql": "CREATE TABLE IF NOT EXISTS schema_version (version text);"
        " INSERT INTO schema_version (version, description, applied_at, state) VALUES ('v1', 'mine', now(), 'x');",
        "v1_a/down.sql": "DELETE FROM schema_version WHERE version = 'v1';",
    }
    run(pg18, database, files)
    assert rows(pg18, database, "SELECT version, description, state FROM schema_version") == [("v1", "a", "applied")]
    assert run(pg18, database, files, state="reverted", target_version="0")["changed"] is True


def test_history_table_may_have_any_name(pg18, database):
    pg18.execute('CREATE SCHEMA "my %s schema"', database=database)
    name = '"my %s schema"."a ""b"""'
    assert run(pg18, database, {"1_a.up.sql": ""}, history_table=name)["changed"] is True
    assert run(pg18, database, {"1_a.up.sql": ""}, history_table=name)["changed"] is False
    assert rows(pg18, database, 'SELECT version FROM "my %s schema"."a ""b"""') == [("1",)]
    pg18.execute("CREATE VIEW v AS SELECT 1 AS x", database=database)
    assert refused(pg18, database, {"1_a.up.sql": ""}, history_table="v").code == "option_invalid"


def test_clock_that_stands_still_does_not_disturb_the_order(pg18, database):
    run(pg18, database, {"1_a.up.sql": ""})
    pg18.execute("UPDATE schema_version SET applied_at = now() + interval '1 year'", database=database)
    run(pg18, database, {"1_a.up.sql": "", "2_b.up.sql": ""})
    assert rows(pg18, database, CURRENT) == [("2",)]


def test_revert_is_refused_as_a_whole_when_one_step_has_no_way_back(pg18, database):
    files = {**BOOKS, "v2_x.up.sql": "CREATE TABLE x ();"}
    run(pg18, database, files)
    error = refused(pg18, database, files, state="reverted", target_version="1")
    assert error.code == "migration_irreversible"
    assert "v2" in error.msg
    assert rows(pg18, database, CURRENT) == [("v2",)]


def test_down_that_fails_is_undone_and_stays_recorded(pg18, database):
    files = {"1_a.up.sql": "CREATE TABLE a ();", "1_a.down.sql": "DROP TABLE a;\nDROP TABLE b;"}
    run(pg18, database, files)
    error = refused(pg18, database, files, state="reverted", target_version="0")
    assert (error.details["path"], error.details["line"], error.details["current_version"]) == (
        "/m/1_a.down.sql",
        2,
        "1",
    )
    assert rows(pg18, database, "SELECT to_regclass('a')::text") == [("a",)]


def test_down_without_transaction_goes_on_where_it_stopped(pg18, database):
    files = {
        "1_a.up.sql": "CREATE TABLE a (i int); CREATE INDEX ai ON a (i);",
        "1_a.down.sql": NO_TRANSACTION + "DROP INDEX CONCURRENTLY ai;\nDROP TABLE b;\nDROP TABLE a;",
    }
    run(pg18, database, files)
    error = refused(pg18, database, files, state="reverted", target_version="0")
    assert (error.details["partial"], error.details["current_version"]) == (True, None)
    assert "1 of 3 statements" in error.msg
    assert refused(pg18, database, files).details["partial"] is True
    files["1_a.down.sql"] = files["1_a.down.sql"].replace("DROP TABLE b", "DROP TABLE IF EXISTS b")
    assert run(pg18, database, files, state="reverted", target_version="0")["changed"] is True
    assert rows(pg18, database, "SELECT to_regclass('a')::text, count(*) FROM schema_version") == [(None, 0)]


def test_file_without_transaction_says_what_is_done_and_goes_on_there(each_server, each_database):
    server, database = each_server, each_database
    text = (
        NO_TRANSACTION
        + "CREATE SCHEMA s;\nSET search_path = s;\nCREATE TABLE a (i int);\nINSERT INTO a VALUES (1), (1);\n"
        "CREATE UNIQUE INDEX CONCURRENTLY a_i ON a (i);\nINSERT INTO a VALUES (3);\n"
    )
    error = refused(server, database, {"1_a.up.sql": text})
    assert {"line": 6, "statement_number": 5, "partial": True, "changed": True}.items() <= error.details.items()
    progress = "SELECT state, statements_done, statements_total FROM public.schema_version"
    assert rows(server, database, progress) == [("partial", 4, 6)]
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    assert rows(server, database, invalid) == [(1,)]

    assert refused(server, database, {"1_a.up.sql": text.replace("(1), (1)", "(1)")}).code == "migration_changed"
    pending = run(server, database, {"1_a.up.sql": text}, check=True)["pending"]
    assert (pending[0]["statements_done"], pending[0]["statements"]) == (4, 6)
    server.execute("DELETE FROM s.a WHERE ctid = '(0,2)'", database=database)
    (applied,) = run(server, database, {"1_a.up.sql": text})["applied"]
    assert any("invalid index s.a_i" in notice for notice in applied["notices"])
    assert rows(server, database, "SELECT i FROM s.a ORDER BY 1") == [(1,), (3,)]
    assert rows(server, database, invalid) == [(0,)]
    assert rows(server, database, progress) == [("applied", 6, 6)]
    assert run(server, database, {"1_a.up.sql": text})["changed"] is False


def test_invalid_index_is_not_taken_for_the_index(pg18, database):
    pg18.execute("CREATE TABLE a (i int); INSERT INTO a VALUES (1), (1);", database=database)
    with pytest.raises(Exception, match="duplicated"):
        pg18.execute("CREATE UNIQUE INDEX CONCURRENTLY a_i ON a (i)", database=database)
    text = NO_TRANSACTION + "CREATE INDEX CONCURRENTLY IF NOT EXISTS a_i ON a (i)"
    run(pg18, database, {"1_a.up.sql": text})
    assert rows(pg18, database, "SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = 'a_i'::regclass") == [
        (True, False)
    ]


def test_code_that_commits_by_itself_runs_in_a_file_without_transaction(each_server, each_database):
    text = (
        NO_TRANSACTION + "CREATE TABLE a (i int);\n"
        "CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..3 LOOP INSERT INTO a VALUES (i); COMMIT;"
        " END LOOP; END $$;\nCALL fill();\nDO $$ BEGIN INSERT INTO a VALUES (4); COMMIT; END $$;\n"
        "DO $$ BEGIN INSERT INTO a VALUES (5); END $$;"
    )
    run(each_server, each_database, {"1_a.up.sql": text})
    assert rows(each_server, each_database, "SELECT array_agg(i) FROM a") == [([1, 2, 3, 4, 5],)]


def in_doubt(server, database, text, number):
    """Make database and history look as after a kill at the end of statement ``number``."""
    found = statements(text)
    with pytest.raises(HoldfastError):
        stopping = ["SELECT 1"] * (number - 1) + ["SELECT 1/0"]
        run(server, database, {"1_a.up.sql": NO_TRANSACTION + ";".join(stopping)})
    for statement in found[:number]:
        server.execute(statement.text, database=database)
    checksum = prepare(Script("x", text), step="up").prefix_checksum(number - 1)
    server.execute(
        "UPDATE schema_version SET checksum = %s, statement_started = %s", (checksum, number), database=database
    )


def test_statement_in_doubt_is_recognised_as_done(pg18, database):
    text = NO_TRANSACTION + "CREATE TABLE a (i int);CREATE INDEX CONCURRENTLY a_i ON a (i);CREATE TABLE b ()"
    in_doubt(pg18, database, text, 2)
    assert run(pg18, database, {"1_a.up.sql": text})["current_version"] == "1"
    name = "db_" + uuid.uuid4().hex
    text = NO_TRANSACTION + "DROP INDEX CONCURRENTLY a_i;CREATE DATABASE %s" % name
    pg18.execute("DELETE FROM schema_version", database=database)
    in_doubt(pg18, database, text, 2)
    assert run(pg18, database, {"1_a.up.sql": text})["current_version"] == "1"
    pg18.drop_database(name)


def test_call_in_doubt_is_left_to_the_operator_with_the_two_ways_out(pg18, database):
    text = NO_TRANSACTION + "CREATE TABLE a (i int);DO 'BEGIN INSERT INTO a VALUES (1), (2); COMMIT; END'"
    in_doubt(pg18, database, text, 2)
    error = refused(pg18, database, {"1_a.up.sql": text})
    assert error.code == "migration_failed"
    assert "statement_started" in error.hint
    pg18.execute("UPDATE schema_version SET statement_started = NULL", database=database)
    pg18.execute("DELETE FROM a", database=database)
    run(pg18, database, {"1_a.up.sql": text})
    assert rows(pg18, database, "SELECT count(*) FROM a") == [(2,)]


@pytest.mark.parametrize(
    "text", ["SET client_encoding = 'LATIN1'; SELECT 'é'", "SET standard_conforming_strings = off;"]
)
def test_settings_that_change_how_the_file_is_read_are_refused(pg16, text):
    pg16.create_database("settings")
    try:
        for head in ("", NO_TRANSACTION):
            assert refused(pg16, "settings", {"1_a.up.sql": head + text}).code == "migration_failed"
            assert run(pg16, "settings", {"1_a.up.sql": head}, check=True)["current_version"] is None
            pg16.execute("DROP TABLE IF EXISTS schema_version", database="settings")
    finally:
        pg16.drop_database("settings")


def test_passwords_in_a_failing_statement_are_masked(pg18, database):
    text = "ALTER ROLE nobody_here PASSWORD 'geheim';"
    error = refused(pg18, database, {"1_a.up.sql": text})
    assert "geheim" not in str(error.as_result())
    text = "DO $$ BEGIN EXECUTE 'ALTER ROLE nobody_here PASSWORD ''geheim'''; END $$"
    assert "geheim" not in str(refused(pg18, database, {"1_a.up.sql": text}).as_result())


def test_enum_value_that_is_used_in_the_same_file_is_committed_before(pg18, database):
    text = "CREATE TYPE e AS ENUM ('a');"
    run(pg18, database, {"1_a.up.sql": text})
    files = {"1_a.up.sql": text, "2_b.up.sql": "ALTER TYPE e ADD VALUE 'b'; SELECT 'b'::e;"}
    (applied,) = run(pg18, database, files)["applied"]
    assert (applied["transactional"], "enum value" in applied["transactional_reason"]) == (False, True)
    files["3_c.up.sql"] = "DO $$ BEGIN EXECUTE 'ALTER TYPE e ADD VALUE ' || quote_literal('c'); END $$; SELECT 'c'::e;"
    assert "no-transaction" in refused(pg18, database, files).hint


def test_file_with_its_own_transaction_is_one_with_the_history(pg18, database):
    files = {
        "1_a.up.sql": "BEGIN;\nCREATE TABLE a ();\nCOMMIT;",
        "2_b.up.sql": "BEGIN; CREATE TABLE b (); SELECT 1/0; END",
    }
    error = refused(pg18, database, files)
    assert error.details["applied"][0]["transactional"] is True
    assert "The file was rolled back" in error.msg
    assert rows(pg18, database, "SELECT to_regclass('a')::text, to_regclass('b')") == [("a", None)]
    assert rows(pg18, database, "SELECT version, statements_total FROM schema_version") == [("1", 1)]


def test_file_with_several_transactions_goes_on_after_the_last_that_is_whole(each_server, each_database):
    server, database = each_server, each_database
    text = (
        "SET search_path = s, public;\nBEGIN;\nCREATE SCHEMA s;\nCREATE TABLE a (i int);\nCOMMIT;\n"
        "CREATE INDEX CONCURRENTLY a_i ON a (i);\n"
        "BEGIN ISOLATION LEVEL SERIALIZABLE;\nINSERT INTO a VALUES (1);\nINSERT INTO a SELECT 1/0;\nCOMMIT;\n"
        "VACUUM a;\n"
    )
    error = refused(server, database, {"1_a.up.sql": text})
    assert {"line": 9, "statement_number": 6, "partial": True, "transactional": False}.items() <= error.details.items()
    assert "4 of 7 statements" in error.msg
    assert [r["number"] for r in error.details["records"]] == [1, 2, 3, 4, 5, 6]
    progress = "SELECT state, statements_done, statements_total FROM public.schema_version"
    assert rows(server, database, progress) == [("partial", 4, 7)]
    assert rows(server, database, "SELECT count(*) FROM s.a") == [(0,)]
    mended = text.replace("1/0", "2")
    run(server, database, {"1_a.up.sql": mended})
    assert rows(server, database, "SELECT i FROM s.a ORDER BY 1") == [(1,), (2,)]
    assert rows(server, database, progress) == [("applied", 7, 7)]
    assert run(server, database, {"1_a.up.sql": mended})["changed"] is False


def test_non_transactional_file_needs_no_directive(pg18, database):
    files = {"1_a.up.sql": "CREATE TABLE a (i int);\nCREATE INDEX CONCURRENTLY ON a (i);\nVACUUM a;"}
    (pending,) = run(pg18, database, files, check=True)["pending"]
    assert (pending["transactional"], pending["transactional_reason"]) == (
        False,
        "CREATE INDEX CONCURRENTLY in line 2 cannot run inside a transaction",
    )
    (applied,) = run(pg18, database, files)["applied"]
    assert applied["transactional"] is False


def test_each_statement_is_recorded_with_its_time_and_rows(pg18, database):
    text = "CREATE TABLE a (i int);\n\nINSERT INTO a SELECT generate_series(1, 7);\nSELECT pg_sleep(0.2);"
    (applied,) = run(pg18, database, {"1_a.up.sql": text, "1_a.down.sql": "DROP TABLE a"})["applied"]
    create, insert, sleep = applied["records"]
    assert (create["number"], create["line"], create["statement"], create["rows"]) == (
        1,
        1,
        "CREATE TABLE a (i int)",
        None,
    )
    assert (insert["number"], insert["line"], insert["rows"], insert["attempts"]) == (2, 3, 7, 1)
    assert 200 <= sleep["duration_ms"] < 1000
    (reverted,) = run(
        pg18, database, {"1_a.up.sql": text, "1_a.down.sql": "DROP TABLE a"}, state="reverted", target_version="0"
    )["reverted"]
    assert [r["statement"] for r in reverted["records"]] == ["DROP TABLE a"]


def test_out_of_order_migration_becomes_the_current_one(pg18, database):
    files = {"1_a.up.sql": "", "3_c.up.sql": ""}
    run(pg18, database, files)
    files["2_b.up.sql"] = ""
    assert refused(pg18, database, files).code == "migration_out_of_order"
    assert run(pg18, database, files, allow_out_of_order=True)["current_version"] == "2"
    assert rows(pg18, database, CURRENT) == [("2",)]


def test_options_out_of_range_are_refused(pg18, database):
    for name in ("lock_retries", "lock_timeout_ms", "statement_timeout_ms"):
        assert refused(pg18, database, {"1_a.up.sql": ""}, **{name: -1}).code == "option_invalid"


def test_statement_timeout_stops_a_statement(pg18, database):
    error = refused(pg18, database, {"1_a.up.sql": "SELECT pg_sleep(5)"}, statement_timeout_ms=200)
    assert error.details["sqlstate"] == "57014"


def test_a_thousand_empty_migrations_are_quick(pg18, database):
    files = {"%04d_empty.up.sql" % number: "-- nothing yet\n" for number in range(1, 1001)}
    begun = time.monotonic()
    assert len(run(pg18, database, files)["applied"]) == 1000
    applied = time.monotonic()
    assert len(run(pg18, database, files, state="status")["history"]) == 1000
    assert (applied - begun < 25, time.monotonic() - applied < 1) == (True, True)
    assert rows(pg18, database, CURRENT) == [("1000",)]
