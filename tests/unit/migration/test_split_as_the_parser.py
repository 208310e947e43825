# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are cut where PostgreSQL's own parser cuts them (decision 9 says why it does not do so itself)."""

from __future__ import annotations

import pathlib

import pglast
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.psql import needs_psql
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import statements
from tests.support.modules import ROOT

FILES = sorted(
    path
    for directory in ("tests/histories", "examples", "roles")
    for path in (ROOT / directory).rglob("*.sql")
    if not needs_psql(path.read_text(encoding="utf-8"))
)

NASTY = {
    "strings that go on": "SELECT 'a;'\n  'b;'; SELECT E'a\\';' -- ;\n 'b;';",
    "strings of other kinds": "SELECT U&'\\0041;' UESCAPE '!', N';', B'0', X'1F';",
    "backslashes": "SELECT 'a\\'; SELECT E'\\\\'; SELECT E'\\'';",
    "dollar quotes": "SELECT $$;$$, $a$ ; $$ ; $b$ $a$, a$b$ FROM t; SELECT $é$;$é$; SELECT 1$2;",
    "comments": "SELECT 1 /* a /* ; */ ' ; */; SELECT 2 -- ' ;\n; SELECT 3 +/* ; */ 4; SELECT 5--6\n;SELECT 7 - -8;",
    "identifiers": 'SELECT 1 AS "a;""b;", U&"d\\0061t;"; SELECT e.e FROM e;',
    "operators": "SELECT 1 <-> 2, '{}'::jsonb @? '$', a[1:2], b ? 'c', -- x\n !!3; SELECT @-1;",
    "rules": "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b;); SELECT 2;",
    "routines in SQL": (
        "CREATE FUNCTION f(a int) RETURNS int BEGIN ATOMIC SELECT CASE WHEN a > 1 THEN 1 ELSE 2 END; SELECT 2; END;"
        "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); END; SELECT 3;"
    ),
    "routines in text": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END; $$;"
        "DO $x$ BEGIN PERFORM $y$;$y$; END $x$; CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1;';"
    ),
    "names that are keywords": 'SELECT a.end, b AS begin FROM t AS atomic; CREATE TABLE begin ("case" int); SELECT 1;',
    "empty statements": ";;SELECT 1;;; -- end;\n",
    "transactions": "BEGIN; SAVEPOINT a; ROLLBACK TO a; COMMIT AND CHAIN; ROLLBACK; END;",
    "a schema with its objects": "CREATE SCHEMA s CREATE TABLE t (a int) CREATE VIEW v AS SELECT 1; SELECT 2;",
    "line ends": "SELECT 1\r\n;\r\nSELECT '\r\n;';\tSELECT\f3\v;",
    "numbers": "SELECT 1.5e-3, 0x1F, 1_000, .5; SELECT $1;",
}


def same(text: str) -> None:
    try:
        theirs = pglast.split(text, with_parser=True)
    except pglast.parser.ParseError:  # then its scanner, which does not know BEGIN ATOMIC
        theirs = pglast.split(text, with_parser=False)
    ours = [statement.text for statement in statements(text)]
    # The parser leaves comments before a statement to the statement, the scanner's own pieces do not.
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        assert [s.text for s in statements(other)] == [mine]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_of_this_project_are_cut_as_the_parser_cuts_them(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    parsed = [statement.strip() for statement in pglast.split(text, with_parser=True)]
    assert [statement.text for statement in statements(text)] == parsed


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_nasty_texts_are_cut_as_the_servers_scanner_cuts_them(text: str) -> None:
    same(text)


def test_syntax_that_the_parser_does_not_know_yet_is_cut_all_the_same() -> None:
    text = "MERGE NEWLY INTO t; SELECT 1;"
    with pytest.raises(pglast.parser.ParseError):
        pglast.split(text, with_parser=True)
    assert [statement.text for statement in statements(text)] == ["MERGE NEWLY INTO t", "SELECT 1"]
