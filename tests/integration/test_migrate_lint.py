# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lint asks the live catalog what migrations would do, and tells it with tables and rows."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._migration import lint, reach
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.findings import Finding, Subject
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import SourceFile, migrations
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.rules import catalog_findings
from tests.support.modules import run_module
from tests.support.server import TestServer

SCHEMA = """
CREATE TABLE party (id int PRIMARY KEY, name varchar(20), nick text, amount numeric(10,2));
CREATE TABLE loan (id int PRIMARY KEY, party_id int REFERENCES party);
CREATE TABLE payment (id int PRIMARY KEY, loan_id int REFERENCES loan, paid date);
CREATE SCHEMA "A b";
CREATE TABLE "A b"."q""t" (id int, payment_id int REFERENCES payment);
CREATE TABLE bystander (id int);
CREATE TABLE empty (id int);
CREATE VIEW names AS SELECT id, name FROM party;
CREATE VIEW names_of_names AS SELECT name FROM names;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM loan;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE diary (id int, mood mood);
CREATE FUNCTION moody(mood) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE event (at date, party_id int REFERENCES party) PARTITION BY RANGE (at);
CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE "event 2026%" PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO party SELECT i, 'p' || i, CASE WHEN i <= 3 THEN 'n' END, i FROM generate_series(1, 10) AS i;
INSERT INTO loan SELECT i, i FROM generate_series(1, 7) AS i;
INSERT INTO payment SELECT i, i FROM generate_series(1, 5) AS i;
INSERT INTO "A b"."q""t" VALUES (1, 1), (2, 2);
INSERT INTO event SELECT date '2025-12-30' + i, 1 FROM generate_series(1, 4) AS i;
INSERT INTO diary VALUES (1, 'good');
REFRESH MATERIALIZED VIEW counted;
"""


@pytest.fixture(scope="module")
def live(pg18: TestServer) -> Iterator[str]:
    """A database with tables that refer to each other; the lint does not change it."""
    pg18.create_database("lint_live", SCHEMA)
    yield "lint_live"
    pg18.drop_database("lint_live")


def examined(**files: str) -> list[Subject]:
    """Files by names such as ``v1_up``, as the module gets them. A step down that does nothing is added."""
    texts = {}
    for name, text in files.items():
        version, _sign, step = name.partition("_")
        texts["/m/%s_x.%s.sql" % (version, step)] = text
    for path in list(texts):
        texts.setdefault(path.replace(".up.", ".down."), "SELECT 1;")
    found = migrations([SourceFile(path, text.encode()) for path, text in texts.items()])
    return [Subject.from_dict(subject.as_dict()) for subject in lint.examine(found)]


def findings(server: TestServer, database: str, **files: str) -> list[Finding]:
    """Findings of our own rules about files as in `examined`."""
    answer = catalog_findings(server=server.server, database=database, subjects=examined(**files))
    return list(answer["findings"])


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def rows(finding: Finding) -> dict[str, Any]:
    return {table["table"]: table["rows"] for table in finding.tables}


# TRUNCATE ... CASCADE

EMPTIED = {
    "public.party": 10,
    "public.loan": 7,
    "public.payment": 5,
    '"A b"."q""t"': 2,
    "public.event_2025": 1,
    'public."event 2026%"': 3,
}


@pytest.mark.parametrize(
    "text",
    [
        "TRUNCATE party CASCADE",
        "TRUNCATE TABLE public.party RESTART IDENTITY CASCADE",
        "DO $$ BEGIN TRUNCATE party CASCADE; END $$",
    ],
)
def test_truncate_cascade_names_every_table_and_its_rows(pg18: TestServer, live: str, text: str) -> None:
    finding = only(findings(pg18, live, v1_up=text))
    assert (finding.rule, finding.at_most) == ("truncate-cascade", "error")
    assert rows(finding) == EMPTIED
    assert all(table["exact"] and table["size_bytes"] > 0 for table in finding.tables)
    for table, count in EMPTIED.items():
        assert "%s (%d row" % (table, count) in finding.message
    assert "6 tables with 28 rows: public.party (10 rows), public.loan" in finding.message


def test_truncate_cascade_that_reaches_nothing_else_is_a_warning(pg18: TestServer, live: str) -> None:
    finding = only(findings(pg18, live, v1_up="TRUNCATE bystander CASCADE"))
    assert (finding.at_most, rows(finding)) == ("warning", {"public.bystander": 0})


def test_names_are_looked_up_as_the_file_sets_its_search_path(pg18: TestServer, live: str) -> None:
    text = 'SET LOCAL search_path = "A b", pg_catalog; TRUNCATE "q""t" CASCADE'
    first, second = findings(pg18, live, v1_up=text, v2_up='TRUNCATE "q""t" CASCADE')
    assert rows(first) == {'"A b"."q""t"': 2}
    assert "is not in the live database" in second.message


def test_tables_that_the_run_creates_are_reached_too(pg18: TestServer, live: str) -> None:
    found = findings(
        pg18,
        live,
        v1_up='CREATE TABLE comment_on (id int PRIMARY KEY, payment_id int REFERENCES "A b"."q""t");'
        "ALTER TABLE bystander ADD FOREIGN KEY (id) REFERENCES comment_on;",
        v2_up='TRUNCATE "A b"."q""t" CASCADE',
    )
    finding = only(found)
    assert rows(finding) == {'"A b"."q""t"': 2, "public.bystander": 0}
    assert "comment_on, which this run creates, too" in finding.message and finding.at_most == "error"


def test_a_target_that_the_run_creates_is_said_to_be_unknown(pg18: TestServer, live: str) -> None:
    finding = only(findings(pg18, live, v1_up="CREATE TABLE new (id int)", v2_up="TRUNCATE new CASCADE"))
    assert "new is not in the live database yet: v1 creates it" in finding.message and finding.at_most == "error"


def test_a_table_that_was_renamed_before_is_an_error_still(pg18: TestServer, live: str) -> None:
    found = findings(pg18, live, v1_up="ALTER TABLE party RENAME TO person", v2_up="DROP TABLE person CASCADE")
    assert [(f.rule, f.at_most) for f in found] == [("drop-cascade", "error")]


# DROP ... CASCADE


@pytest.mark.parametrize(
    ("text", "objects", "tables"),
    [
        (
            "DROP TABLE party CASCADE",
            [
                "constraint event_party_id_fkey on table event",
                "constraint loan_party_id_fkey on table loan",
                "view names",
                "view names_of_names",
            ],
            {"public.party": 10},
        ),
        ("DROP VIEW names CASCADE", ["view names_of_names"], {}),
        ("ALTER TABLE party DROP COLUMN name CASCADE", ["view names", "view names_of_names"], {"public.party": 10}),
        (
            "ALTER TABLE loan DROP CONSTRAINT loan_pkey CASCADE",
            ["constraint payment_loan_id_fkey on table payment"],
            {},
        ),
        ("DROP TYPE mood CASCADE", ["column mood of table diary", "function moody(mood)"], {"public.diary": 1}),
        ('DROP SCHEMA "A b" CASCADE', ['table "A b"."q""t"'], {'"A b"."q""t"': 2}),
        (
            "DROP TABLE loan CASCADE",
            ["constraint payment_loan_id_fkey on table payment", "materialized view counted"],
            {"public.loan": 7, "public.counted": 1},
        ),
    ],
)
def test_drop_cascade_names_what_goes_along(
    pg18: TestServer, live: str, text: str, objects: list[str], tables: dict[str, int]
) -> None:
    finding = only([f for f in findings(pg18, live, v1_up=text) if f.rule == "drop-cascade"])
    assert list(finding.objects) == objects
    assert rows(finding) == tables
    assert finding.at_most == "error"
    assert all(part in finding.message for part in objects)


@pytest.mark.parametrize(
    "text",
    [
        "DROP VIEW names_of_names CASCADE",
        "DROP FUNCTION moody CASCADE",
        "DROP FUNCTION moody(mood) CASCADE",
        "DROP TABLE IF EXISTS nothing CASCADE",
        "DROP SCHEMA IF EXISTS nothing CASCADE",
        "ALTER TABLE nothing DROP x CASCADE",
        "DROP OPERATOR CLASS IF EXISTS x USING btree CASCADE",
    ],
)
def test_drop_cascade_that_takes_nothing_along_is_a_warning(pg18: TestServer, live: str, text: str) -> None:
    finding = only(findings(pg18, live, v1_up=text))
    assert (finding.rule, finding.at_most, finding.objects) == ("drop-cascade", "warning", ())


@pytest.mark.parametrize("text", ["DROP TABLE names CASCADE", "DROP OWNED BY postgres CASCADE"])
def test_drop_cascade_whose_reach_cannot_be_told_is_an_error(pg18: TestServer, live: str, text: str) -> None:
    finding = only(findings(pg18, live, v1_up=text))
    assert (finding.rule, finding.at_most) == ("drop-cascade", "error")
    assert "cannot be told" in finding.message


def test_drop_owned_counts_what_a_role_owns(pg18: TestServer, live: str) -> None:
    pg18.execute("CREATE ROLE lint_owner; ALTER TABLE diary OWNER TO lint_owner", database=live)
    try:
        finding = only(findings(pg18, live, v1_up="DROP OWNED BY lint_owner CASCADE"))
        assert rows(finding) == {"public.diary": 1}
    finally:
        pg18.execute("ALTER TABLE diary OWNER TO postgres; DROP ROLE lint_owner", database=live)


def test_members_of_an_extension_go_with_it(pg_distribution: TestServer) -> None:
    name = "lint_extension"
    pg_distribution.create_database(name, "CREATE EXTENSION citext; CREATE TABLE t (id int, c citext)")
    try:
        finding = only(findings(pg_distribution, name, v1_up="DROP EXTENSION citext CASCADE"))
        assert "column c of table t" in finding.objects and rows(finding) == {"public.t": 0}
        assert [o for o in finding.objects if "citext" in o and not o.startswith("column ")] == []
    finally:
        pg_distribution.drop_database(name)


@pytest.mark.parametrize(
    "text",
    [
        "DO $$ BEGIN EXECUTE 'TRUNCATE ' || 'party' || ' CASCADE'; END $$",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN DROP TABLE party CASCADE; END'",
    ],
)
def test_what_hides_in_code_is_a_warning_that_cannot_know(pg18: TestServer, live: str, text: str) -> None:
    finding = only(findings(pg18, live, v1_up=text))
    assert finding.rule == "dynamic-cascade" and "cannot be known" in finding.message


# Rows and bytes


@pytest.mark.parametrize(
    ("text", "rule", "tables"),
    [
        ("TRUNCATE ONLY party", "truncate-table", {"public.party": 10}),
        ("DELETE FROM party", "delete-without-where", {"public.party": 10}),
        ("DELETE FROM event", "delete-without-where", {"public.event_2025": 1, 'public."event 2026%"': 3}),
        ("UPDATE party SET name = ''", "update-without-where", {"public.party": 10}),
        ("ALTER TABLE party ALTER name TYPE varchar(10)", "table-rewrite", {"public.party": 10}),
        ("ALTER TABLE party ALTER id TYPE bigint", "table-rewrite", {"public.party": 10}),
        ("ALTER TABLE party ALTER nick TYPE text USING upper(nick)", "table-rewrite", {"public.party": 10}),
        ("ALTER TABLE party ADD x float DEFAULT random()", "table-rewrite", {"public.party": 10}),
        ("ALTER TABLE party ADD x int GENERATED ALWAYS AS IDENTITY", "table-rewrite", {"public.party": 10}),
        ("ALTER TABLE event SET UNLOGGED", "table-rewrite", {"public.event_2025": 1, 'public."event 2026%"': 3}),
        ("-- holdfast: no-transaction\nVACUUM FULL party", "table-rewrite", {"public.party": 10}),
        ("-- holdfast: no-transaction\nVACUUM FULL", "table-rewrite", {}),
    ],
)
def test_what_touches_every_row_says_how_many(
    pg18: TestServer, live: str, text: str, rule: str, tables: dict[str, int]
) -> None:
    finding = only(findings(pg18, live, v1_up=text))
    assert (finding.rule, rows(finding)) == (rule, tables)
    assert finding.at_most == ("info" if rule == "table-rewrite" and tables else "error")


@pytest.mark.parametrize(
    "text",
    [
        "TRUNCATE empty",
        "DELETE FROM empty",
        "DELETE FROM party WHERE id = 1",
        "UPDATE empty SET id = 1",
        "ALTER TABLE empty ALTER id TYPE bigint",
        "ALTER TABLE party ALTER name TYPE varchar(50), ALTER nick TYPE varchar, ALTER amount TYPE numeric(12,2)",
        "ALTER TABLE party ADD x timestamptz DEFAULT now(), ADD y int DEFAULT 1, ADD z int",
        "CREATE TABLE new (id int); INSERT INTO new VALUES (1); DELETE FROM new; ALTER TABLE new ALTER id TYPE bigint",
        "ALTER TABLE nothing ALTER id TYPE bigint",
    ],
)
def test_what_touches_no_row_is_not_told(pg18: TestServer, live: str, text: str) -> None:
    assert findings(pg18, live, v1_up=text) == []


def test_large_tables_are_estimated(pg18: TestServer, live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pg18.execute("CREATE TABLE large AS SELECT generate_series(1, 1000) AS id", database=live)
    try:
        monkeypatch.setattr(reach, "COUNTED_BYTES", 8192)
        finding = only(findings(pg18, live, v1_up="DELETE FROM large"))
        assert rows(finding) == {"public.large": None} and "rows unknown" in finding.message
        pg18.execute("ANALYZE large", database=live)
        finding = only(findings(pg18, live, v1_up="DELETE FROM large"))
        assert rows(finding) == {"public.large": 1000} and "about 1,000 rows" in finding.message
        assert finding.tables[0]["exact"] is False
    finally:
        pg18.execute("DROP TABLE large", database=live)


def test_a_table_that_somebody_has_locked_is_not_waited_for(pg18: TestServer, live: str) -> None:
    with pg18.server.session(live, autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE party IN ACCESS EXCLUSIVE MODE")
        begun = time.monotonic()
        truncated, dropped = (
            only([f for f in findings(pg18, live, v1_up=text) if "cascade" in f.rule])
            for text in ("TRUNCATE party CASCADE", "DROP TABLE party CASCADE")
        )
        assert time.monotonic() - begun < 8
    assert rows(truncated).keys() == EMPTIED.keys() and rows(truncated)["public.party"] is None
    assert dropped.at_most == "error" and "cannot be told" in dropped.message


def test_a_role_without_rights_on_tables_gets_estimates(pg18: TestServer, live: str) -> None:
    pg18.execute("CREATE ROLE lint_reader LOGIN PASSWORD 'x'")
    try:
        reader = replace(pg18.server, user="lint_reader", password="x")
        subjects = examined(v1_up="TRUNCATE party CASCADE")
        answer = catalog_findings(server=reader, database=live, subjects=subjects)
        finding = only(answer["findings"])
        assert rows(finding).keys() == EMPTIED.keys() and not any(table["exact"] for table in finding.tables)
    finally:
        pg18.execute("DROP ROLE lint_reader")


# The way back


@pytest.mark.parametrize(
    ("up", "down", "expected"),
    [
        ("DROP TABLE diary", "CREATE TABLE diary (id int)", ["down-cannot-restore"]),
        ("ALTER TABLE party DROP nick", "ALTER TABLE party ADD nick text", ["down-cannot-restore"]),
        ("DROP TABLE empty", "CREATE TABLE empty (id int)", []),
        ("DROP VIEW names_of_names", "SELECT 1", []),
        (
            "CREATE TABLE old AS SELECT * FROM diary; DROP TABLE diary",
            "CREATE TABLE diary (id int, mood mood); INSERT INTO diary SELECT * FROM old",
            [],
        ),
        (
            "ALTER TABLE party ADD label text; UPDATE party SET label = name WHERE true",
            "ALTER TABLE party DROP label",
            ["down-drops-data"],
        ),
        ("ALTER TABLE party ADD label text", "ALTER TABLE party DROP label", []),
        ("CREATE TABLE copy AS SELECT 1", "DROP TABLE public.copy", ["down-drops-data"]),
        ("CREATE TABLE copy (id int)", "DROP TABLE copy", []),
        ("SELECT 1", "", ["missing-down"]),
        ("SELECT 1", "-- nothing\n", ["missing-down"]),
        ("SELECT 1", "DROP TABLE party CASCADE", ["drop-cascade"]),
    ],
)
def test_ways_back_that_are_none_are_told(pg18: TestServer, live: str, up: str, down: str, expected: list[str]) -> None:
    found = findings(pg18, live, v1_up=up, v1_down=down)
    assert [f.rule for f in found] == expected
    assert all(f.at_most == "warning" for f in found if f.path.endswith(".down.sql"))


def test_column_that_goes_says_how_many_values(pg18: TestServer, live: str) -> None:
    finding = only(findings(pg18, live, v1_up="ALTER TABLE party DROP nick"))
    assert "Column party.nick goes with its data (3 values)" in finding.message


def test_syntax_is_that_of_the_server(pg18: TestServer, pg16: TestServer, live: str) -> None:
    finding = only(findings(pg18, live, v1_up="SELECT 1;\n SELECT FROM WHERE;"))
    assert (finding.rule, finding.line, finding.column, finding.at_most) == ("syntax-error", 2, 2, "error")


@pytest.mark.parametrize("server_name", ["pg16", "pg_distribution"])
def test_older_servers_are_asked_the_same(server_name: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(server_name)
    server.create_database("lint_older", SCHEMA)
    try:
        truncated, dropped, rewritten = findings(
            server,
            "lint_older",
            v1_up="TRUNCATE party CASCADE",
            v2_up="DROP TYPE mood CASCADE",
            v3_up="ALTER TABLE party ALTER name TYPE varchar(10), ALTER amount TYPE numeric(12,2)",
        )
        assert rows(truncated) == EMPTIED
        assert list(dropped.objects) == ["column mood of table diary", "function moody(mood)"]
        assert rows(rewritten) == {"public.party": 10}
    finally:
        server.drop_database("lint_older")


# The module


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    """A history whose second step is not what anybody wants."""
    for name, text in {
        "1_a/up.sql": "CREATE TABLE a (id int);\n",
        "1_a/down.sql": "DROP TABLE a;\n",
        "2_{{ x }}'b/up.sql": "-- {{ 1/0 }}\nTRUNCATE party CASCADE;\nCREATE INDEX i ON loan (party_id);\n",
        "2_{{ x }}'b/down.sql": "DROP INDEX i;\n",
        "3_c/up.sql": "-- holdfast: allow truncate-cascade: the test data begins anew\nTRUNCATE loan CASCADE;\n",
        "3_c/down.sql": "SELECT 1;\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("remote_src", [False, True])
def test_module_fails_with_every_finding_and_changes_nothing(
    pg18: TestServer, live: str, source: pathlib.Path, remote_src: bool
) -> None:
    arguments = {"database": live, "source": [str(source)], "remote_src": remote_src, **pg18.login}
    before = pg18.execute("SELECT count(*) FROM party", database=live)
    for check in (True, False):
        outcome = run_module("pg_migrate_lint", {**arguments, "versions": ["2", "3"]}, check=check)
        assert (outcome["failed"], outcome["changed"], outcome["code"]) == (True, False, "lint_failed")
        assert "public.party (10 rows)" in outcome["msg"] and "allow <rule>" in outcome["hint"]
        assert [(f["version"], f["rule"], f["allowed"], f["reason"]) for f in outcome["findings"]] == [
            ("2", "truncate-cascade", False, ""),
            ("2", "require-concurrent-index-creation", False, ""),
            ("3", "truncate-cascade", True, "the test data begins anew"),
        ]
        assert outcome["counts"] == {"error": 1, "warning": 1, "info": 0, "allowed": 1}
    assert pg18.execute("SELECT count(*) FROM party", database=live) == before


def test_module_passes_what_is_allowed_and_what_nobody_wants_to_be_told(
    pg18: TestServer, live: str, source: pathlib.Path
) -> None:
    arguments = {"database": live, "source": [str(source)], **pg18.login}
    outcome = run_module("pg_migrate_lint", {**arguments, "versions": ["3"], "squawk": False})
    assert (outcome["failed"], outcome["changed"], outcome["squawk_ran"]) == (False, False, False)
    assert outcome["counts"]["allowed"] == 1 and "Allowed: the test data begins anew" in outcome["sentences"][0]
    rules = {"truncate-cascade": False, "require-concurrent-index-creation": "info", "prefer-bigint-over-int": False}
    outcome = run_module("pg_migrate_lint", {**arguments, "versions": ["1", "2"], "rules": rules, "fail_on": "warning"})
    assert (outcome["failed"], outcome["counts"]["info"], outcome["parser"][:6]) == (False, 1, "pglast")


def test_module_refuses_options_and_servers_that_make_no_sense(
    pg18: TestServer, live: str, source: pathlib.Path
) -> None:
    arguments = {"database": live, "source": [str(source)], "versions": ["1"], **pg18.login}
    for wrong, code in (
        ({"fail_on": "sometimes"}, "option_invalid"),
        ({"database": "nothing"}, "database_not_found"),
    ):
        outcome = run_module("pg_migrate_lint", {**arguments, **wrong})
        assert (outcome["failed"], outcome["code"]) == (True, code), outcome
