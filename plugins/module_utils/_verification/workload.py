# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all sessions asked, by pg_stat_statements: a reading, and what got slower from one reading to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import server_version
from ansible_collections.holdfast.postgres.plugins.module_utils._core.masking import shown

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import errorcodes, sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

#: Statements that took the most time in all; the others hardly matter to anybody.
MOST_STATEMENTS = 1000
LONGEST_QUERY = 200
#: A mean of fewer calls says little.
FEWEST_CALLS = 10
SLOWER_PERCENT = 20
MIN_DIFFERENCE_MS = 0.1
MOST_SHOWN = 10

EXTENSION = """
SELECT n.nspname
  FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
 WHERE e.extname = 'pg_stat_statements'
"""

# Without those of a measurement. One statement run by two roles, or inside a function and outside, is one for whoever
# waits for it.
STATEMENTS = """
SELECT s.queryid::text, pg_catalog.sum(s.calls)::bigint, pg_catalog.sum(s.total_exec_time),
       pg_catalog.left(pg_catalog.min(s.query), %(characters)s)
  FROM {schema}.pg_stat_statements AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.dbid
 WHERE d.datname = pg_catalog.current_database() AND s.queryid IS NOT NULL AND s.calls > 0
   AND s.query NOT LIKE 'EXPLAIN (%%FORMAT JSON)%%' AND s.query NOT LIKE 'DECLARE holdfast_timing %%'
 GROUP BY s.queryid
 ORDER BY 3 DESC
 LIMIT %(most)s
"""

RESET_AT = "SELECT stats_reset FROM {schema}.pg_stat_statements_info"


def read_workload(connection: Connection) -> dict[str, Any]:
    """Return ``available``, ``reason`` when it is not, ``stats_reset`` and ``statements`` by queryid.

    Each has ``calls``, ``total_ms`` and the beginning of the ``query``, its constants replaced by the server. Expects
    a connection outside of any transaction.
    """
    with connection.cursor() as cursor:
        cursor.execute(EXTENSION)
        row = cursor.fetchone()
        if row is None:
            return _unavailable("the extension pg_stat_statements is not in this database")
        schema = sql.Identifier(row[0])
        try:
            reset = None
            if server_version(connection) >= 140000:
                cursor.execute(sql.SQL(RESET_AT).format(schema=schema))
                reset = cursor.fetchall()[0][0]
            cursor.execute(
                sql.SQL(STATEMENTS).format(schema=schema), {"characters": 20 * LONGEST_QUERY, "most": MOST_STATEMENTS}
            )
            rows = cursor.fetchall()
        except psycopg2.Error as exc:
            if exc.pgcode not in (
                errorcodes.OBJECT_NOT_IN_PREREQUISITE_STATE,
                errorcodes.INSUFFICIENT_PRIVILEGE,
                errorcodes.UNDEFINED_COLUMN,
                errorcodes.UNDEFINED_TABLE,
            ):
                raise
            return _unavailable(" ".join(str(exc.diag.message_primary or exc).split()))
    return {
        "available": True,
        "reason": "",
        "stats_reset": reset.isoformat() if reset else None,
        "statements": {
            queryid: {"calls": calls, "total_ms": round(total, 3), "query": shown(query, characters=LONGEST_QUERY)}
            for queryid, calls, total, query in rows
        },
    }


def _unavailable(reason: str) -> dict[str, Any]:
    return {"available": False, "reason": reason, "stats_reset": None, "statements": {}}


def compare_workload(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the statements that ran since ``before`` did, compared with their means until then.

    Keys: ``compared`` and ``reason``, ``calls`` and ``total_ms`` since then, ``new_statements``, and ``slower``: those
    that were called at least `FEWEST_CALLS` times before and since, those that cost the most additional time first.
    """
    answer: dict[str, Any] = {
        "compared": False,
        "reason": "",
        "calls": 0,
        "total_ms": 0.0,
        "new_statements": 0,
        "slower": [],
    }
    for reading in (before, now):
        if not reading.get("available"):
            return {**answer, "reason": str(reading.get("reason") or "there is no reading to compare with")}
    if before.get("stats_reset") != now.get("stats_reset"):
        return {**answer, "reason": "the statistics were reset in between"}
    answer["compared"] = True
    slower = []
    for queryid, row in now["statements"].items():
        earlier = before["statements"].get(queryid)
        calls = row["calls"] - (earlier or {"calls": 0})["calls"]
        total_ms = row["total_ms"] - (earlier or {"total_ms": 0})["total_ms"]
        if calls <= 0:  # not called, or forgotten and met again in between
            continue
        answer["calls"] += calls
        answer["total_ms"] += total_ms
        if earlier is None:
            answer["new_statements"] += 1
            continue
        then_ms, since_ms = earlier["total_ms"] / earlier["calls"], total_ms / calls
        if (
            min(calls, earlier["calls"]) >= FEWEST_CALLS
            and since_ms > then_ms * (1 + SLOWER_PERCENT / 100)
            and since_ms - then_ms >= MIN_DIFFERENCE_MS
        ):
            slower.append(
                {
                    "queryid": queryid,
                    "query": row["query"],
                    "calls": calls,
                    "mean_before_ms": round(then_ms, 3),
                    "mean_since_ms": round(since_ms, 3),
                    "added_ms": round((since_ms - then_ms) * calls, 3),
                }
            )
    answer["total_ms"] = round(answer["total_ms"], 3)
    answer["slower"] = sorted(slower, key=lambda found: -float(found["added_ms"]))[:MOST_SHOWN]
    return answer
