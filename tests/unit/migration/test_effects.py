# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements are read for what they do to objects and rows, by PostgreSQL's parser and, without it, by their words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._migration import effects
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.effects import Effect, read, same_name
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import statements


def found(text: str) -> list[dict[str, Any]]:
    """What one statement does, without the fields that are not set."""
    (statement,) = statements(text)
    unset = ((), "", False, None)
    return [
        {key: value for key, value in effect.as_dict().items() if value not in unset}
        for effect in read(statement).effects
        if effect.kind != effects.TOUCH
    ]


def drop(kind: str, *names: str, cascade: bool = True, **more: Any) -> dict[str, Any]:
    return {"kind": "drop", "targets": (names,), "object_type": kind, **({"cascade": True} if cascade else {}), **more}


def on(kind: str, table: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "targets": (tuple(table.split(".")),), "object_type": "table", **more}


#: What is found with the parser and without.
EITHER_WAY = [
    (
        'TRUNCATE party, ONLY a."B c" RESTART IDENTITY CASCADE',
        [{**on("truncate", "party"), "targets": (("party",), ("a", "B c")), "only": (False, True), "cascade": True}],
    ),
    ("truncate table Party * cascade", [on("truncate", "party", only=(False,), cascade=True)]),
    ("TRUNCATE only", [on("truncate", "only", only=(False,))]),
    ("DROP TABLE IF EXISTS a, b.c CASCADE", [drop("table", "a"), drop("table", "b", "c")]),
    ("DROP TABLE a /* x */ cascade -- y", [drop("table", "a")]),
    ("DROP VIEW a", [drop("view", "a", cascade=False)]),
    ("DROP MATERIALIZED VIEW a CASCADE", [drop("materialized view", "a")]),
    ("DROP SCHEMA a CASCADE", [drop("schema", "a")]),
    ("DROP TYPE a.b CASCADE", [drop("type", "a", "b")]),
    ("DROP DOMAIN a CASCADE", [drop("domain", "a")]),
    ("DROP EXTENSION a CASCADE", [drop("extension", "a")]),
    ("DROP OWNED BY a CASCADE", [drop("owned", "a")]),
    (
        "ALTER TABLE a DROP b CASCADE, DROP COLUMN IF EXISTS c CASCADE",
        [drop("table column", "a", "b"), drop("table column", "a", "c")],
    ),
    ("ALTER TABLE IF EXISTS ONLY s.a DROP CONSTRAINT b CASCADE", [drop("table constraint", "s", "a", "b")]),
    ("DELETE FROM ONLY a", [on("delete", "a", only=(True,))]),
    ("DELETE FROM a WHERE true", [on("delete", "a", only=(False,), where=True)]),
    ("CREATE TABLE a (b int)", [on("create", "a")]),
    ("ALTER TABLE a RENAME TO b", None),
    ("SELECT 'TRUNCATE party CASCADE'", []),
    ("COMMENT ON TABLE a IS 'DROP TABLE b CASCADE'", []),
]
PARSED = [
    ("DROP FUNCTION f(int), g CASCADE", [drop("function", "f", arguments=("integer",)), drop("function", "g")]),
    ("DROP TRIGGER t ON s.a CASCADE", [drop("trigger", "s", "a", "t")]),
    ("DROP CAST (int AS text) CASCADE", [drop("cast", "integer", "text")]),
    ("ALTER TYPE a DROP ATTRIBUTE b CASCADE", [drop("composite type attribute", "a", "b")]),
    ("ALTER TABLE a DROP b", [drop("table column", "a", "b", cascade=False)]),
    (
        "ALTER TABLE a ALTER b TYPE varchar(20), ALTER c TYPE int USING c::int, ALTER d TYPE text USING d",
        [
            on("alter_type", "a", only=(False,), columns=("b",), type_name="varchar(20)"),
            on("alter_type", "a", only=(False,), columns=("c",), type_name="integer", cause="USING"),
            on("alter_type", "a", only=(False,), columns=("d",), type_name="text"),
        ],
    ),
    (
        "ALTER TABLE a ADD b timestamptz DEFAULT coalesce(NULL, clock_timestamp())",
        [on("add_column", "a", only=(False,), columns=("b",), type_name="timestamptz", functions=("clock_timestamp",))],
    ),
    (
        "ALTER TABLE a ADD b bigserial",
        [on("add_column", "a", only=(False,), columns=("b",), type_name="bigserial", cause="the serial")],
    ),
    (
        "ALTER TABLE a ADD b int GENERATED ALWAYS AS (c * 2) STORED",
        [on("add_column", "a", only=(False,), columns=("b",), type_name="integer", cause="the stored expression")],
    ),
    ("ALTER TABLE a SET UNLOGGED", [on("rewrite", "a", only=(False,), cause="SET UNLOGGED")]),
    ("ALTER TABLE a SET TABLESPACE b", [on("rewrite", "a", only=(False,), cause="SET TABLESPACE")]),
    ("VACUUM (FULL, ANALYZE) a", [on("rewrite", "a", cause="VACUUM FULL")]),
    ("VACUUM (FULL off) a", []),
    ("VACUUM FULL", [{"kind": "rewrite", "object_type": "table", "cause": "VACUUM FULL"}]),
    ("CLUSTER a USING b", [on("rewrite", "a", cause="CLUSTER")]),
    (
        "CREATE TABLE a (b int REFERENCES c, FOREIGN KEY (b) REFERENCES s.d)",
        [on("create", "a", references=(("c",), ("s", "d")))],
    ),
    ("ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES c", [on("reference", "a", references=(("c",),))]),
    ("CREATE TABLE a AS SELECT 1", [on("create", "a"), on("fill", "a")]),
    ("CREATE TABLE a AS SELECT 1 WITH NO DATA", [on("create", "a")]),
    ("SELECT 1 INTO a", [on("create", "a"), on("fill", "a")]),
    (
        "WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone",
        [on("fill", "b"), on("delete", "a", only=(False,))],
    ),
    ("UPDATE a SET b = 1, c = 2", [on("update", "a", only=(False,), columns=("b", "c"))]),
    ('SET search_path TO a, "B"', [{"kind": "search_path", "object_type": "table", "columns": ("a", "B")}]),
    ("CREATE RULE r AS ON INSERT TO a DO DELETE FROM b", []),
]
HIDING = [
    (
        "DO $$ BEGIN TRUNCATE party CASCADE; END $$",
        [on("truncate", "party", only=(False,), cascade=True, cause="a DO block")],
    ),
    ("DO 'BEGIN DROP TABLE party CASCADE; END'", [drop("table", "party", cause="a DO block")]),
    (
        "DO $$ BEGIN EXECUTE 'TRUNCATE ' || name || ' CASCADE'; END $$",
        [{"kind": "hidden", "object_type": "truncate", "cause": "a DO block"}],
    ),
    (
        "DO $$ BEGIN EXECUTE format($q$DROP TABLE %I CASCADE$q$, name); END $$",
        [{"kind": "hidden", "object_type": "drop", "cause": "a DO block"}],
    ),
    ("DO $$ BEGIN /* TRUNCATE party CASCADE */ NULL; END $$ -- DROP TABLE a CASCADE", []),
    (
        "CREATE OR REPLACE PROCEDURE p() LANGUAGE plpgsql AS $f$ BEGIN TRUNCATE party CASCADE; END $f$",
        [{"kind": "hidden", "object_type": "truncate", "cause": "a routine"}],
    ),
    ("DO $$ ' $$", []),
]


@pytest.mark.parametrize(("text", "expected"), [*EITHER_WAY, *PARSED, *HIDING], ids=lambda value: str(value)[:50])
def test_statements_are_read_by_the_parser(text, expected):
    assert effects.PARSER
    assert expected in (None, found(text))


@pytest.mark.parametrize(("text", "expected"), [*EITHER_WAY, *HIDING], ids=lambda value: str(value)[:50])
def test_statements_are_read_by_their_words_where_there_is_no_parser(monkeypatch, text, expected):
    monkeypatch.setattr(effects, "PARSER", None)
    assert expected in (None, found(text))


@pytest.mark.parametrize("parser", [True, False])
def test_a_name_that_changes_is_known(monkeypatch, parser):
    if not parser:
        monkeypatch.setattr(effects, "PARSER", None)
    for text in ("ALTER TABLE a RENAME TO b", "ALTER SCHEMA a RENAME TO b"):
        assert [effect["kind"] for effect in found(text)] == ["rename"]


def test_cascade_of_a_long_statement_is_found_by_words(monkeypatch):
    monkeypatch.setattr(effects, "PARSER", None)
    names = ", ".join("table_%d" % number for number in range(500))
    assert found("TRUNCATE %s CASCADE" % names)[0]["cascade"]
    assert all(effect["cascade"] for effect in found("DROP TABLE %s CASCADE" % names))


@pytest.mark.parametrize(
    "text",
    [
        "TRUNCATE",
        "DROP",
        "DROP TABLE",
        "ALTER TABLE",
        "DELETE FROM",
        "UPDATE",
        "DROP a . CASCADE",
        "ALTER TABLE a DROP",
        "CREATE TABLE",
        "DROP TABLE , CASCADE",
    ],
)
def test_what_is_no_sql_is_no_obstacle(monkeypatch, text):
    (statement,) = statements(text)
    assert "syntax error" in read(statement).complaint
    monkeypatch.setattr(effects, "PARSER", None)
    assert read(statement).complaint == ""


def test_effects_survive_the_way_to_another_host():
    for text, _expected in [*EITHER_WAY, *PARSED, *HIDING]:
        for effect in read(statements(text)[0]).effects:
            assert Effect.from_dict(json.loads(json.dumps(effect.as_dict()))) == effect


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("a",), ("a",), True),
        (("public", "a"), ("a",), True),
        (("public", "a"), ("public", "a"), True),
        (("public", "a"), ("x", "a"), False),
        (("a",), ("b",), False),
    ],
)
def test_names_without_a_schema_may_be_of_any(one, other, expected):
    assert same_name(one, other) is expected
