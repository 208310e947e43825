# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The suites of the sample applications: all of them hold, and for each rule there is a fault that it catches.

The faults are data: ``example_faults/<example>.yml``. Each has SQL that breaks a rule, around constraints where it has
to, and names the checks that must catch it; of the checks of severity error it names all.
"""

from __future__ import annotations

import functools
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import check_database
from tests.support.examples import EXAMPLES, Example, documents
from tests.support.rently import schema
from tests.support.server import TestServer

DIRECTORY = pathlib.Path(__file__).parent / "example_faults"
FAULTS: dict[str, list[dict[str, Any]]] = {
    name: yaml.safe_load((DIRECTORY / (name + ".yml")).read_text(encoding="utf-8")) for name in EXAMPLES
}
# What no SQL in one database can break.
UNBREAKABLE = {
    "pre: The server answers and its version is supported",
    "pre: The version of the server is supported",
    "post: The server answers",
    "data_quality: Whoever checks sees the rows of every workspace",  # a test of its own, below
}


@pytest.fixture(scope="module")
def deployed(pg18: TestServer) -> Iterator[Any]:
    """The database of an example, deployed from empty and filled, made when first asked for."""
    prefix = uuid.uuid4().hex[:8]

    @functools.lru_cache
    def make(name: str) -> str:
        database = pg18.create_database("%s_%s" % (name, prefix))
        EXAMPLES[name].deploy(pg18, database)
        return database

    yield make
    for name in EXAMPLES:
        pg18.drop_database("%s_%s" % (name, prefix))


def not_held(results: dict[str, dict[str, Any]], *severities: str) -> dict[str, str]:
    return {
        name: result["message"]
        for name, result in results.items()
        if result["severity"] in severities and result["status"] != "passed"
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_suites_hold_after_a_deployment_from_empty(name: str, pg18: TestServer, deployed: Any) -> None:
    results = EXAMPLES[name].check(pg18, deployed(name))
    assert not_held(results, "error") == {}
    assert len(results) >= 45


@pytest.mark.parametrize("server_name", ["pg16", "pg_distribution"])
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=lambda example: example.name)
def test_suites_hold_on_other_servers(example: Example, server_name: str, request: pytest.FixtureRequest) -> None:
    server: TestServer = request.getfixturevalue(server_name)
    database = server.create_database("%s_%s" % (example.name, uuid.uuid4().hex[:8]))
    try:
        example.deploy(server, database)
        assert not_held(example.check(server, database), "error") == {}
    finally:
        server.drop_database(database)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=lambda example: example.name)
def test_migrations_lead_down_to_nothing_and_up_again(example: Example, pg18: TestServer, database: str) -> None:
    example.migrate(pg18, database)
    newest = schema(pg18, database)
    assert example.migrate(pg18, database)["applied"] == []
    assert example.migrate(pg18, database, "reverted", "0")["reverted"]
    assert pg18.execute(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
        " AND relname <> 'schema_version'",
        database=database,
    ) == [(0,)]
    example.migrate(pg18, database)
    assert schema(pg18, database) == newest


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "rently"])
def test_same_seed_gives_the_same_rows_and_filled_tables_are_refused(
    name: str, pg18: TestServer, deployed: Any, database: str
) -> None:
    example = EXAMPLES[name]
    example.migrate(pg18, database)
    example.fill(pg18, database)
    assert contents(pg18, database) == contents(pg18, deployed(name))
    with pytest.raises(Exception, match="holds rows"):
        example.fill(pg18, database, seed=2)


def contents(server: TestServer, database: str) -> dict[str, Any]:
    tables = server.execute(
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'schema_version'",
        database=database,
    )
    return {
        table: server.execute(
            "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM %s AS t" % table, database=database
        )
        for (table,) in tables
    }


@pytest.mark.parametrize(
    ("name", "fault"),
    [pytest.param(name, fault, id="%s: %s" % (name, fault["fault"])) for name in FAULTS for fault in FAULTS[name]],
)
def test_fault_is_caught_by_the_checks_that_it_names(
    name: str, fault: dict[str, Any], pg18: TestServer, deployed: Any
) -> None:
    database = "fault_" + uuid.uuid4().hex[:12]
    pg18.execute('CREATE DATABASE "%s" TEMPLATE "%s"' % (database, deployed(name)))
    try:
        pg18.execute(fault["sql"], database=database)
        results = EXAMPLES[name].check(pg18, database)
    finally:
        if "undo" in fault:
            pg18.execute(fault["undo"], database=database)
        pg18.drop_database(database)
    caught_by = set(fault["caught_by"])
    assert caught_by <= set(results), "there is no such check"
    assert {check for check in caught_by if results[check]["status"] != "failed"} == set()
    assert set(not_held(results, "error")) - caught_by == set()


def test_there_is_a_fault_for_every_rule() -> None:
    assert sum(len(faults) for faults in FAULTS.values()) >= 150
    missing = {}
    for name in EXAMPLES:
        rules = {
            "%s: %s" % (document["content"]["suite"], check["name"])
            for document in documents(name)
            for check in document["content"]["checks"]
            if check.get("severity", "error") == "error"
        }
        caught = {check for fault in FAULTS[name] for check in fault["caught_by"]}
        missing[name] = sorted(rules - caught - UNBREAKABLE)
    assert missing == {name: [] for name in EXAMPLES}


def test_role_that_row_level_security_binds_is_not_deceived(pg18: TestServer, deployed: Any) -> None:
    """To it every table is empty, so that every rule about rows would hold."""
    role, database = "reader_" + uuid.uuid4().hex[:8], deployed("crm")
    pg18.execute(
        "CREATE ROLE %s LOGIN PASSWORD 'x'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s" % (role, role),
        database=database,
    )
    try:
        answer = check_database(
            server=Server(host="127.0.0.1", port=pg18.port, user=role, password="x"),
            database=database,
            documents=[d for d in documents("crm") if d["content"]["suite"] == "data_quality"],
            fail_on="never",
        )
    finally:
        pg18.execute("DROP OWNED BY %s; DROP ROLE %s" % (role, role), database=database)
    failed = [result["name"] for result in answer["results"] if result["status"] != "passed"]
    assert failed == ["Whoever checks sees the rows of every workspace"]
