# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lint asks the live catalog what migrations would do, and tells it with tables and rows."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import lint
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


def findings(server: TestServer, database: str, **files: str) -> list[Finding]:
    """Findings of our own rules; files by names such as ``v1_up``. A step down that does nothing is added."""
    texts = {}
    for name, text in files.items():
        version, _sign, step = name.partition("_")
        texts["/m/%s_x.%s.sql" % (version, step)] = text
    for path in list(texts):
        texts.setdefault(path.replace(".up.", ".down."), "SELECT 1;")
    found = migrations([SourceFile(path, text.encode()) for path, text in texts.items()])
    subjects = [Subject.from_dict(subject.as_dict()) for subject in lint.examine(found)]
    answer = catalog_findings(server=server.server, database=database, subjects=subjects)
    return list(answer["findings"])


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def rows(finding: Finding) -> dict[str, Any]:
    return {table["table"]: table["rows"] for table in finding.tables}


EMPTIED = {
    "public.party": 10,
    "public.loan": 7,
    "public.payment": 5,
    '"A b"."q""t"': 2,
    "public.event_2025": 2,
    'public."event 2026%"': 2,
}


def test_show(pg18: TestServer, live: str) -> None:
    for text in (
        "TRUNCATE party CASCADE",
        "DROP TABLE party CASCADE",
        "DROP TYPE mood CASCADE",
        'DROP SCHEMA "A b" CASCADE',
        "DROP VIEW names CASCADE",
        "ALTER TABLE party DROP COLUMN name CASCADE",
        "DROP OWNED BY postgres CASCADE",
        "ALTER TABLE loan DROP CONSTRAINT loan_pkey CASCADE",
        "DROP FUNCTION moody CASCADE",
        "DROP FUNCTION moody(mood) CASCADE",
        "DROP TABLE nothing CASCADE",
        "DROP TABLE names CASCADE",
        "DROP VIEW names_of_names CASCADE",
        "TRUNCATE bystander CASCADE",
        "TRUNCATE event_2025 CASCADE",
        "ALTER TABLE party ALTER name TYPE varchar(10), ALTER nick TYPE varchar, ALTER amount TYPE numeric(12,2), ADD x timestamptz DEFAULT clock_timestamp(), ADD y timestamptz DEFAULT now()",
        "UPDATE party SET name = ''",
        "DELETE FROM party",
        "DELETE FROM empty",
        "TRUNCATE empty",
        "TRUNCATE ONLY party",
        "DROP TABLE diary; ALTER TABLE party DROP nick",
        "DO $$BEGIN TRUNCATE party CASCADE; END$$",
        'CREATE TABLE n (p int REFERENCES "A b"."q""t"); TRUNCATE "A b"."q""t" CASCADE',
        'SET search_path = "A b"; TRUNCATE "q""t" CASCADE',
        "VACUUM FULL",
        "-- holdfast: no-transaction\nVACUUM FULL party; CLUSTER",
        "ALTER TABLE party SET UNLOGGED",
    ):
        print("##", text)
        for f in findings(pg18, live, v1_up=text):
            print("  ", f.rule, f.at_most, f.line, f.message, "|", f.objects)
