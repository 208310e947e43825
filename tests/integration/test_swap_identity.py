# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A side database that is not what was recorded does not become live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.identity import Expected
from tests.support.modules import run_module
from tests.support.server import TestServer
from tests.support.switchover import Pair, pair_of_databases, start_engine

HISTORY = """
CREATE TABLE schema_version (version text, applied_at timestamptz, deployment_id text, state text);
INSERT INTO schema_version VALUES ('v1', '2026-01-01', 'd1', 'applied'), ('v2', '2026-02-01', 'd2', NULL),
                                  ('v3', '-infinity', 'd3', 'partial');
"""


@pytest.fixture
def pair(pg18: TestServer) -> Iterator[Pair]:
    with pair_of_databases(pg18) as databases:
        yield databases


def refusal(pair: Pair, **options: Any) -> HoldfastError:
    expected = Expected(**options)
    with pytest.raises(HoldfastError) as caught:
        pair.swap(expected=expected)
    assert pair.untouched()
    return caught.value


def test_module_refuses_a_migrated_replacement_and_names_both_versions(pg18: TestServer, pair: Pair) -> None:
    pg18.execute(HISTORY, database=pair.side)
    arguments = {
        **pg18.login,
        "database": pair.live,
        "replacement": pair.side,
        "retired_name": pair.retired,
        "confirm": pair.live,
        "expected": {"schema_version": "v1", "without_deployment": "d2"},
    }
    for check in (True, False):
        refused = run_module("pg_swap", arguments, check=check)
        assert refused["failed"] and refused["code"] == "swap_blocked"
        assert "newest migration is v2" in refused["msg"] and "recorded one is v1" in refused["msg"]
        assert [blocker["kind"] for blocker in refused["blockers"]] == ["schema_version", "deployment"]
        assert pair.untouched()
    arguments["expected"] = {"schema_version": "v2", "without_deployment": "d4"}
    # The session that looked has left, so nobody needs time for it.
    arguments["drain_timeout"] = 0
    assert run_module("pg_swap", arguments, check=True)["changed"]
    done = run_module("pg_swap", arguments)
    assert done["changed"], done
    assert not run_module("pg_swap", arguments)["changed"]


def test_migration_that_stopped_half_way_counts_as_the_deployments(pg18: TestServer, pair: Pair) -> None:
    pg18.execute(HISTORY, database=pair.side)
    refused = refusal(pair, schema_version="v2", without_deployment="d3")
    assert refused.code == "swap_blocked" and "deployment d3" in refused.msg and "newest" not in refused.msg


def test_migration_that_runs_whenever_it_changed_is_no_version(pg18: TestServer, pair: Pair) -> None:
    pg18.execute(HISTORY, database=pair.side)
    pg18.execute("INSERT INTO schema_version VALUES ('R__views', '2026-03-01', 'd4', 'applied')", database=pair.side)
    refused = refusal(pair, schema_version="R__views", without_deployment="d4")
    assert "newest migration is v2" in refused.msg and "deployment d4" in refused.msg
    assert pair.swap(expected=Expected(schema_version="v2", without_deployment="d9"))["changed"]


def test_replacement_without_a_history_is_not_what_was_recorded(pair: Pair) -> None:
    assert "newest migration is none" in refusal(pair, schema_version="v1").msg
    assert pair.swap(expected=Expected(without_deployment="d1"))["changed"]


def test_adopted_history_under_a_hostile_name_is_read(pg18: TestServer, pair: Pair) -> None:
    pg18.execute(
        'CREATE TABLE "it\'s 100 %s" (version numeric); INSERT INTO "it\'s 100 %s" VALUES (1.10), (0.9)',
        database=pair.side,
    )
    table = 'public."it\'s 100 %s"'
    assert "0.9, 1.10" in refusal(pair, schema_version="2", history_table=table).msg
    assert pair.swap(expected=Expected("1.10", "d1", table))["changed"]


def test_history_that_cannot_be_read_is_told(pg18: TestServer, pair: Pair) -> None:
    pg18.execute("CREATE TABLE schema_version (version text, applied_at text)", database=pair.side)
    pg18.execute("INSERT INTO schema_version VALUES ('v1', 'yesterday evening')", database=pair.side)
    refused = refusal(pair, schema_version="v1")
    assert refused.code == "query_failed" and "yesterday evening" in refused.msg


def test_looking_costs_little_and_not_where_nothing_is_expected(pg18: TestServer, pair: Pair) -> None:
    pg18.execute(HISTORY, database=pair.side)
    started = time.monotonic()
    with pytest.raises(HoldfastError):
        pair.swap(expected=Expected("v1"), check_mode=True)
    assert time.monotonic() - started < 1
    pg18.execute('ALTER DATABASE "%s" ALLOW_CONNECTIONS false' % pair.side)
    assert pair.swap(expected=Expected(), check_mode=True)["changed"]


def test_killed_run_that_left_the_replacement_closed_does_not_hinder_the_next(pg18: TestServer, pair: Pair) -> None:
    pg18.execute(HISTORY, database=pair.side)
    session = pg18.connect(pair.side)
    request = {"live": pair.live, "replacement": pair.side, "confirm": pair.live, "drain_timeout_s": 10}
    process = start_engine(pg18, "swap", request)
    while pair.allows_connections(pair.old_oid):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    session.close()
    expected = Expected("v2", "d4")
    assert pair.swap(expected=expected, check_mode=True)["changed"]
    assert pair.swap(expected=expected)["resumed"] == "undone"
