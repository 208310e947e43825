# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing schemas: everything that means something is told by name, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.schema_report import schema_report
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.archives import STRANGE_NAME
from tests.support.modules import run_module
from tests.support.server import TestServer

LOANS = """
CREATE TYPE state AS ENUM ('open', 'closed');
CREATE TABLE loan (id bigserial PRIMARY KEY, status varchar(9) CHECK (status IN ('good', 'late')), note text);
CREATE INDEX loan_status ON loan (status);
CREATE FUNCTION said() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
--
-- Name: nothing; Type: TABLE; Schema: public; Owner: nobody
--

  RETURN 'it''s -- fine';
END $$;
CREATE VIEW late AS SELECT id, 'a' || E'\\\\n' AS text FROM loan WHERE status = 'late';
COMMENT ON TABLE loan IS 'what is owed';
"""


@pytest.fixture
def loans(pg18: TestServer, database: str) -> str:
    """A small database."""
    pg18.execute(LOANS, database=database)
    return database


@pytest.fixture
def other(pg18: TestServer) -> Iterator[str]:
    """A database with a hostile name."""
    yield pg18.create_database(STRANGE_NAME)
    pg18.drop_database(STRANGE_NAME)


def report(server: TestServer, database: str, **options: Any) -> dict[str, Any]:
    return schema_report(
        server=server.server, database=database, environment=dict(os.environ), bin_dir=str(server.bin_dir), **options
    )


def kinds(found: dict[str, Any]) -> dict[str, str]:
    return {difference["object"]: difference["kind"] for difference in found["differences"]}


def test_equal_schemas_are_equal_in_whatever_order_they_were_made(pg18: TestServer, loans: str, other: str) -> None:
    pg18.execute("CREATE TABLE zebra (); CREATE TABLE ape ()", database=loans)
    pg18.execute("CREATE TABLE ape (); CREATE TABLE zebra ();" + LOANS, database=other)
    found = report(pg18, other, compare_with=loans)
    assert found["differences"] == [] and found["equal"]
    assert found["sha256"] == report(pg18, loans)["sha256"]


def test_whatever_differs_is_named_with_both_definitions_and_a_diff(pg18: TestServer, loans: str) -> None:
    before = report(pg18, loans, full=True)["schema"]
    pg18.execute(
        "ALTER TABLE loan ALTER note SET NOT NULL; DROP INDEX loan_status; CREATE TABLE extra (n int);"
        "COMMENT ON TABLE loan IS 'what is lent'; CREATE INDEX loan_note ON loan (note);"
        "GRANT SELECT ON loan TO PUBLIC;"
        "CREATE OR REPLACE FUNCTION said() RETURNS text LANGUAGE sql AS 'SELECT ''x'''",
        database=loans,
    )
    found = report(pg18, loans, reference=before)
    assert kinds(found) == {
        "table public.loan": "changed",
        "index public.loan_status": "missing",
        "index public.loan_note": "unexpected",
        "table public.extra": "unexpected",
        "comment public.TABLE loan": "changed",
        "acl public.TABLE loan": "unexpected",
        "function public.said()": "changed",
    }
    assert not found["equal"]
    table = next(d for d in found["differences"] if d["object"] == "table public.loan")
    assert "\n-    note text," in table["diff"] and "\n+    note text NOT NULL," in table["diff"]
    assert "note text," in table["before"] and "NOT NULL" in table["after"]
    assert table["message"] == "The table public.loan differs."


def test_column_that_comes_back_at_the_end_is_another_order_and_no_other_table(pg18: TestServer, loans: str) -> None:
    before = report(pg18, loans, full=True)["schema"]
    pg18.execute(
        "ALTER TABLE loan DROP status CASCADE;"
        "ALTER TABLE loan ADD status varchar(9) CHECK (status IN ('good', 'late'))",
        database=loans,
    )
    pg18.execute("CREATE INDEX loan_status ON loan (status)", database=loans)
    found = report(pg18, loans, reference=before)
    assert kinds(found) == {"table public.loan": "column_order", "view public.late": "missing"}


def test_difference_that_a_load_removes_is_none(pg18: TestServer, loans: str) -> None:
    """PostgreSQL writes a list of varchars in another way after a restore."""
    restored = report(pg18, loans, full=True, reload=True)
    assert restored["reloaded"]
    databases = pg18.databases()
    assert kinds(report(pg18, loans, reference=restored["schema"])) == {"table public.loan": "changed"}
    assert report(pg18, loans, reference=restored["schema"], reload=True)["equal"]
    assert pg18.databases() == databases
    pg18.execute("ALTER TABLE loan ADD extra int", database=loans)
    assert kinds(report(pg18, loans, reference=restored["schema"], reload=True)) == {"table public.loan": "changed"}


def test_excluded_table_is_left_out_with_all_that_belongs_to_it(pg18: TestServer, loans: str) -> None:
    before = report(pg18, loans, full=True, exclude_tables=['"we ird"', "public.log"])["schema"]
    pg18.execute(
        'CREATE TABLE "we ird" (n int PRIMARY KEY); COMMENT ON TABLE "we ird" IS \'x\';'
        'GRANT SELECT ON "we ird" TO PUBLIC;'
        "CREATE TABLE log (n int); CREATE INDEX ON log (n)",
        database=loans,
    )
    assert report(pg18, loans, reference=before, exclude_tables=['"we ird"', "public.log"])["equal"]
    assert not report(pg18, loans, reference=before, exclude_tables=["log"])["equal"]


def test_secrets_are_compared_and_not_shown(pg_distribution: TestServer) -> None:
    database = pg_distribution.create_database("wrapped")
    try:
        pg_distribution.execute(
            "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;"
            "CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'me', password 'hush-1')",
            database=database,
        )
        before = report(pg_distribution, database, full=True)["schema"]
        assert "hush" not in str(before)
        pg_distribution.execute(
            "ALTER USER MAPPING FOR postgres SERVER far OPTIONS (SET password 'hush-2')", database=database
        )
        found = report(pg_distribution, database, reference=before)
        assert [d["kind"] for d in found["differences"]] == ["changed"]
        assert "hush" not in str(found) and "secret" in found["differences"][0]["diff"]
    finally:
        pg_distribution.drop_database(database)


def test_tablespace_of_a_table_counts_and_that_of_its_neighbour_does_not(pg18: TestServer, loans: str) -> None:
    before = report(pg18, loans, full=True)["schema"]
    place = pg18.directory / "place"
    place.mkdir()
    if pg18.account is not None:
        os.chown(place, pg18.account.pw_uid, pg18.account.pw_gid)
    pg18.execute("CREATE TABLESPACE place LOCATION '%s'" % place)
    pg18.execute("ALTER TABLE loan SET TABLESPACE place", database=loans)
    try:
        found = report(pg18, loans, reference=before)
        assert kinds(found) == {"table public.loan": "changed"}
        assert "SET default_tablespace = place;" in found["differences"][0]["diff"]
    finally:
        pg18.execute("ALTER TABLE loan SET TABLESPACE pg_default", database=loans)
        pg18.execute("DROP TABLESPACE place")


def test_reference_that_is_none_is_refused(pg18: TestServer, loans: str) -> None:
    with pytest.raises(HoldfastError) as failure:
        report(pg18, loans, reference={"objects": ["table"]})
    assert failure.value.code == "option_invalid"
    with pytest.raises(HoldfastError) as failure:
        report(pg18, loans, reference_path="/nowhere.json")
    assert failure.value.code == "option_invalid"


def test_module_pg_schema_info_is_the_same_in_check_mode(pg18: TestServer, loans: str, other: str) -> None:
    arguments = {**pg18.login, "database": loans, "compare_with": other, "bin_dir": str(pg18.bin_dir)}
    results = [run_module("pg_schema_info", arguments, check=check) for check in (True, False)]
    for result in results:
        assert not result["failed"] and not result["changed"] and not result["equal"]
        assert {d["kind"] for d in result["differences"]} == {"unexpected"}
    gone = run_module("pg_schema_info", {**arguments, "database": "nowhere"})
    assert gone["code"] == "database_not_found"
