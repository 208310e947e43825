# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are cut into statements where the server would cut them."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import (
    ConcurrentIndex,
    ScanError,
    concurrent_detach,
    concurrent_index,
    directives,
    outside_transaction,
    place,
    sets_session,
    shown,
    split,
    statements,
    transaction_control,
)

CUTS = {
    "two statements": ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
    "no semicolon at the end": ("SELECT 1", ["SELECT 1"]),
    "nothing": ("", []),
    "comments alone": ("-- a;b\n/* c; */\n", []),
    "empty statements": (";; ;SELECT 1;;", ["SELECT 1"]),
    "string": ("SELECT ';'; SELECT 'it''s;'", ["SELECT ';'", "SELECT 'it''s;'"]),
    "backslash in a plain string": (r"SELECT 'a\'; SELECT 2", [r"SELECT 'a\'", "SELECT 2"]),
    "backslash in an escape string": (r"SELECT E'a\';'; SELECT 2", [r"SELECT E'a\';'", "SELECT 2"]),
    "escape string, lower case, after a parenthesis": (r"SELECT (e'\';'); SELECT 2", [r"SELECT (e'\';')", "SELECT 2"]),
    "escape string that goes on in the next line": (
        "SELECT E'a' -- ;'\n  'b\\';'; SELECT 2",
        ["SELECT E'a' -- ;'\n  'b\\';'", "SELECT 2"],
    ),
    "identifier that ends in e": (r"SELECT some'\'; SELECT 2", [r"SELECT some'\'", "SELECT 2"]),
    "unicode, bit and national strings": (
        r"SELECT U&'\0041;', B'01', X'1F', N';'; SELECT 2",
        [r"SELECT U&'\0041;', B'01', X'1F', N';'", "SELECT 2"],
    ),
    "quoted identifier": ('SELECT 1 AS "a;""b;"; SELECT 2', ['SELECT 1 AS "a;""b;"', "SELECT 2"]),
    "dollar quotes": ("SELECT $$ ; ' \" $$; SELECT 2", ["SELECT $$ ; ' \" $$", "SELECT 2"]),
    "named dollar quotes with others inside": (
        "SELECT $a$ ; $$ ; $b$ ; $A$ $a$; SELECT 2",
        ["SELECT $a$ ; $$ ; $b$ ; $A$ $a$", "SELECT 2"],
    ),
    "dollar quote with a name that is not ASCII": ("SELECT $é$;$é$; SELECT 2", ["SELECT $é$;$é$", "SELECT 2"]),
    "dollar in an identifier": ("SELECT a$b$; SELECT c$b$", ["SELECT a$b$", "SELECT c$b$"]),
    "parameter numbers": ("PREPARE p AS SELECT $1; SELECT 2", ["PREPARE p AS SELECT $1", "SELECT 2"]),
    "nested comments": ("SELECT 1 /* a /* ; */ ; */; SELECT 2", ["SELECT 1", "SELECT 2"]),
    "comment after an operator": ("SELECT 1 +/* ; */2; SELECT 3 -- ;\n", ["SELECT 1 +/* ; */2", "SELECT 3"]),
    "quote in a comment": ("SELECT 1 -- don't\n; SELECT 2 /* don't */", ["SELECT 1", "SELECT 2"]),
    "two dashes that close a line comment at a carriage return": (
        "SELECT 1 -- a\r; SELECT 2",
        ["SELECT 1", "SELECT 2"],
    ),
    "comment before a statement": ("-- one;\nSELECT 1", ["SELECT 1"]),
    "parentheses": (
        "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b); SELECT 2",
        ["CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b)", "SELECT 2"],
    ),
    "too many closing parentheses": (")); SELECT 2", ["))", "SELECT 2"]),
    "body in SQL": (
        "CREATE OR REPLACE FUNCTION f(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 3",
        [
            "CREATE OR REPLACE FUNCTION f(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END",
            "SELECT 3",
        ],
    ),
    "body in SQL with CASE": (
        "create procedure p() begin atomic select case when a then case b when 1 then 2 end end; select 4; end;"
        " select 5",
        [
            "create procedure p() begin atomic select case when a then case b when 1 then 2 end end; select 4; end",
            "select 5",
        ],
    ),
    "body in SQL with labels that are keywords": (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end; SELECT t.case FROM t; END; SELECT 3",
        ["CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end; SELECT t.case FROM t; END", "SELECT 3"],
    ),
    "a function with the name begin": (
        "CREATE FUNCTION begin() RETURNS int AS 'x'; SELECT 2",
        ["CREATE FUNCTION begin() RETURNS int AS 'x'", "SELECT 2"],
    ),
    "CASE outside a body": ("SELECT CASE WHEN a THEN b END; SELECT 2", ["SELECT CASE WHEN a THEN b END", "SELECT 2"]),
    "percent and braces": ("SELECT '%s {{ x }}', 5 % 2; SELECT 2", ["SELECT '%s {{ x }}', 5 % 2", "SELECT 2"]),
    "letters that are not ASCII": ("SELECT ä;SELECT \u00a0b", ["SELECT ä", "SELECT \u00a0b"]),
}


@pytest.mark.parametrize(("text", "expected"), CUTS.values(), ids=CUTS.keys())
def test_statements_are_cut_where_the_server_cuts_them(text, expected):
    assert [statement.text for statement in statements(text)] == expected


@pytest.mark.parametrize("text", [text for text, _expected in CUTS.values()], ids=CUTS.keys())
def test_pieces_give_the_text_back(text):
    assert "".join(piece.text for piece in split(text)) == text
    for statement in statements(text):
        assert text[statement.offset :].startswith(statement.text)


def test_every_cut_of_a_text_ends_or_raises():
    text = "".join(text + ";\n" for text, _expected in CUTS.values())
    for end in range(len(text)):
        try:
            assert "".join(piece.text for piece in split(text[:end])) == text[:end]
        except ScanError as error:
            assert 0 <= error.offset < end


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("SELECT 1;\n\\d t\n", 2, "psql"),
        ("SELECT 1 \\g out.txt", 1, "psql"),
        ("SELECT 1;\nSELECT 'abc\n", 2, "quote"),
        ('\nSELECT "abc', 2, "quote"),
        ("SELECT E'abc\\'", 1, "quote"),
        ("\n\nSELECT $x$ abc $X$", 3, "dollar quote"),
        ("/* /* */", 1, "comment"),
        ("SELECT 1;\nCOPY t (a, b) FROM STDIN;\n1\tit's\n\\.\n", 2, "COPY"),
        ("COPY t FROM stdin WITH (FORMAT csv);\n", 1, "COPY"),
        ("COPY (SELECT 1) TO STDOUT", 1, "COPY"),
    ],
)
def test_what_only_psql_understands_or_never_ends_is_named_with_its_line(text, line, reason):
    with pytest.raises(ScanError, match=reason) as error:
        statements(text)
    assert place(text, error.value.offset)[0] == line
    assert error.value.hint


def test_copy_from_a_file_of_the_server_is_a_statement():
    assert len(statements("COPY t FROM '/data/stdin.csv'; COPY t (stdin) FROM PROGRAM 'cat'")) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX CONCURRENTLY"),
        ("create unique index /* x */ concurrently if not exists i on t (a)", "CREATE UNIQUE INDEX CONCURRENTLY"),
        ("CREATE INDEX i ON t (concurrently)", None),
        ('CREATE INDEX "CONCURRENTLY" ON t (a)', None),
        ("DROP INDEX CONCURRENTLY IF EXISTS i", "DROP INDEX CONCURRENTLY"),
        ("DROP INDEX i", None),
        ("REINDEX TABLE CONCURRENTLY t", "REINDEX TABLE CONCURRENTLY"),
        ("REINDEX (VERBOSE, CONCURRENTLY) INDEX i", "REINDEX ( VERBOSE CONCURRENTLY"),
        ("REINDEX (VERBOSE) SCHEMA s", "REINDEX ( VERBOSE SCHEMA"),
        ("REINDEX DATABASE d", "REINDEX DATABASE"),
        ("REINDEX TABLE t", None),
        ("VACUUM", "VACUUM"),
        ("VACUUM (ANALYZE, FULL) t", "VACUUM"),
        ("ANALYZE t", None),
        ("CLUSTER", "CLUSTER"),
        ("CLUSTER (VERBOSE)", "CLUSTER"),
        ("CLUSTER t USING i", None),
        ("CREATE DATABASE d", "CREATE DATABASE"),
        ("DROP DATABASE d", "DROP DATABASE"),
        ("CREATE TABLESPACE s LOCATION '/x'", "CREATE TABLESPACE"),
        ("ALTER SYSTEM SET work_mem = '1MB'", "ALTER SYSTEM"),
        ('ALTER DATABASE "a b" SET TABLESPACE s', 'ALTER DATABASE "a b" SET TABLESPACE'),
        ("ALTER DATABASE d SET work_mem = '1MB'", None),
        (
            "ALTER TABLE a.p DETACH PARTITION a.c CONCURRENTLY",
            "ALTER TABLE A . P DETACH PARTITION A . C CONCURRENTLY",
        ),
        ("ALTER TABLE p DETACH PARTITION c", None),
        ("DISCARD ALL", "DISCARD ALL"),
        ("DROP SUBSCRIPTION s", "DROP SUBSCRIPTION"),
        ("ALTER SUBSCRIPTION s REFRESH PUBLICATION", "ALTER SUBSCRIPTION S REFRESH"),
        ("ALTER SUBSCRIPTION s DISABLE", None),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (create_slot = true)", "CREATE SUBSCRIPTION"),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (enabled = false, connect = false)", None),
        ("COMMIT PREPARED 'x'", "COMMIT PREPARED"),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", None),
        ("CREATE DATABASES_TABLE", None),
        (")", None),
    ],
)
def test_statements_that_cannot_run_in_a_transaction_are_known(text, expected):
    (statement,) = statements(text)
    assert outside_transaction(statement) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BEGIN", "BEGIN"),
        ("begin work", "BEGIN"),
        ("START TRANSACTION READ ONLY", "START TRANSACTION"),
        ("COMMIT", "COMMIT"),
        ("COMMIT AND CHAIN", "COMMIT"),
        ("END", "END"),
        ("ROLLBACK", "ROLLBACK"),
        ("ABORT", "ABORT"),
        ("PREPARE TRANSACTION 'x'", "PREPARE TRANSACTION"),
        ("ROLLBACK TO SAVEPOINT a", None),
        ("ROLLBACK WORK TO a", None),
        ("SAVEPOINT a", None),
        ("ROLLBACK PREPARED 'x'", None),
        ("PREPARE p AS SELECT 1", None),
        ("DO $$ BEGIN COMMIT; END $$", None),
    ],
)
def test_transaction_control_is_known(text, expected):
    (statement,) = statements(text)
    assert transaction_control(statement) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CREATE INDEX CONCURRENTLY I_a ON t (a)", ConcurrentIndex("i_a", "t")),
        ('CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "I ""a" ON ONLY s."T" (a)', ConcurrentIndex('I "a', 's."T"')),
        ("CREATE INDEX CONCURRENTLY ON s.t USING gin (a)", ConcurrentIndex("", "s.t")),
        ("CREATE INDEX CONCURRENTLY", ConcurrentIndex("", "")),
        ("CREATE INDEX i ON t (a)", None),
    ],
)
def test_the_name_of_an_index_that_is_built_concurrently_is_found(text, expected):
    (statement,) = statements(text)
    found = concurrent_index(statement)
    assert found == expected or (text.endswith("CONCURRENTLY") and found is not None and found.table == "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SET search_path = app", True),
        ("SET ROLE app", True),
        ("RESET ALL", True),
        ("SELECT pg_catalog.set_config('search_path', '', false)", True),
        ("SELECT set_config('a.b', 'c', false)", True),
        ("SET LOCAL search_path = app", False),
        ("SET CONSTRAINTS ALL DEFERRED", False),
        ("SELECT set_config(a, b, false) FROM t", False),
        ("UPDATE t SET a = 1", False),
    ],
)
def test_session_settings_are_known(text, expected):
    (statement,) = statements(text)
    assert sets_session(statement) is expected


def test_directives_are_read_from_the_head_of_a_file_only():
    text = "\n/* about */ -- Holdfast:  No-Transaction \n--holdfast: other\nSELECT 1; -- holdfast: late"
    assert [words for _offset, words in directives(text)] == ["no-transaction", "other"]


def test_at_most_200_characters_are_shown():
    assert len(shown("SELECT " + "x" * 10_000)) == 203


def test_a_large_file_is_read_in_reasonable_time():
    text = "INSERT INTO t VALUES (1, 'some text', E'x\\'y', $$z$$);\n" * 40_000
    assert len(statements(text)) == 40_000


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("ALTER TABLE p DETACH PARTITION c CONCURRENTLY", ("p", "c")),
        ('alter table if exists only a . "P x" * detach partition "B".c concurrently', ('a."P x"', '"B".c')),
        ("ALTER TABLE p DETACH PARTITION c", None),
        ("ALTER TABLE p DETACH PARTITION c FINALIZE", None),
        ('ALTER TABLE "DETACH" ADD concurrently int', None),
    ],
)
def test_what_a_concurrent_detachment_names(sql, named):
    (statement,) = statements(sql)
    found = concurrent_detach(statement)
    assert (found and (found.table, found.partition)) == named
