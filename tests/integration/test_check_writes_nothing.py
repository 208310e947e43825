# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suites write nothing: by the server's own statistics, its transaction ids and its write-ahead log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import (
    Limits,
    References,
    check_database,
)
from tests.support.examples import EXAMPLES, documents
from tests.support.server import TestServer, embedded_bin_dir

TUPLES = """
SELECT d.tup_inserted, d.tup_updated, d.tup_deleted,
       (SELECT sum(t.n_tup_ins + t.n_tup_upd + t.n_tup_del) FROM pg_stat_all_tables AS t)
  FROM pg_stat_database AS d
 WHERE d.datname = current_database()
"""
# The next transaction id: a session that writes anything takes one.
NEXT_ID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
COPY_OF_A_TABLE = {"name": "a table", "tables": ["public.schema_version"], "expect": {"same_as": "database"}}
ROWS_OF_A_TABLE = {"name": "rows", "sql": "TABLE public.schema_version", "expect": {"same_as": "database"}}


@pytest.fixture(scope="module")
def quiet() -> Iterator[TestServer]:
    """A server on which nobody else does anything."""
    server = TestServer(embedded_bin_dir(18), settings={"autovacuum": "off", "checkpoint_timeout": "1h"})
    yield server
    server.remove()


@pytest.mark.parametrize("name", EXAMPLES)
def test_whole_suites_write_nothing(name: str, quiet: TestServer) -> None:
    database = quiet.create_database(name)
    EXAMPLES[name].deploy(quiet, database)
    quiet.execute('CREATE DATABASE "%s_before" TEMPLATE "%s"' % (name, name))
    quiet.execute("VACUUM (ANALYZE, FREEZE)", database=database)

    def facts() -> dict[str, Any]:
        return {
            "tuples": quiet.execute(TUPLES, database=database),
            "tuples of the reference": quiet.execute(TUPLES, database=name + "_before"),
            "next id": quiet.execute(NEXT_ID, database=database),
        }

    facts()  # fills the catalog caches, and prunes pages once
    before = facts()
    copies = {"file": "x.yml", "content": {"suite": "copies", "checks": [COPY_OF_A_TABLE, ROWS_OF_A_TABLE]}}
    answer = check_database(
        server=quiet.server,
        database=database,
        documents=[*documents(name), copies],
        references=References(database=name + "_before"),
        limits=Limits(jobs=3),
        fail_on="never",
    )
    assert answer["failed_checks"] == 0
    assert facts() == before
