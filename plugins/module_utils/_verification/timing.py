# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measuring named queries, read-only and within a time limit, and telling which became slower than a baseline says."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, server_version
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification import explain
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.comparison import (
    LEVELS,
    Thresholds,
    judge_timings,
    statistics,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.queries import Query, parse_queries
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.suite import MAX_TIMEOUT_S
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.workload import (
    compare_workload,
    read_workload,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import errorcodes

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

FAIL_ON = (*reversed(LEVELS), "never")

#: How often what seemed slower is measured anew. A disturbance of some seconds seldom comes every time.
CONFIRMATIONS = 2

BEGIN = "BEGIN READ ONLY; SET LOCAL statement_timeout = %(timeout_ms)s"

# TIMING OFF, because a clock that is read twice for every row and node costs more than many a query.
MEASURE = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON)\n"
LOOK = "EXPLAIN (FORMAT JSON)\n"

# Refuses what EXPLAIN would let pass in a transaction that is read only: SELECT INTO. Plans the query, and no more.
REFUSE_INTO = "DECLARE holdfast_timing NO SCROLL CURSOR FOR\n"
# syntax_error (which INTO is here), and feature_not_supported for what writes in a WITH: the file is to be mended.
NO_CURSOR = ("42601", "0A000")

# The same work for the processor wherever and whenever it runs: tells a slower machine from a slower query.
REFERENCE = Query(
    group="",
    name="reference",
    sql="SELECT pg_catalog.sum(i) FROM pg_catalog.generate_series(1, 10000) AS i",
    file="",
)


@dataclass(frozen=True)
class Measuring:
    """How often queries are measured, and for how long at most."""

    runs: int = 15
    warm_up_runs: int = 2
    timeout_s: float = 10
    total_timeout_s: float = 120

    def __post_init__(self) -> None:
        if self.runs < 1 or self.warm_up_runs < 0 or not 0.001 <= self.timeout_s <= MAX_TIMEOUT_S:
            raise HoldfastError(
                code="option_invalid",
                msg="runs is %d, warm_up_runs is %d, timeout_s is %s." % (self.runs, self.warm_up_runs, self.timeout_s),
                hint="runs is at least 1, warm_up_runs at least 0, timeout_s above 0 and at most %d." % MAX_TIMEOUT_S,
            )
        if not 0.001 <= self.total_timeout_s <= MAX_TIMEOUT_S:
            raise HoldfastError(
                code="option_invalid",
                msg="total_timeout_s is %s." % self.total_timeout_s,
                hint="It is above 0 and at most %d." % MAX_TIMEOUT_S,
            )


@dataclass
class _Measured:
    """What is known of one query so far."""

    query: Query
    samples: list[tuple[float, float, Mapping[str, Any]]] = field(default_factory=list)
    status: str = "not_measured"
    message: str = ""
    examined: bool = False

    @property
    def goes_on(self) -> bool:
        return self.status not in ("failed", "timed_out")

    def as_result(self) -> dict[str, Any]:
        """Return the entry of the module's ``timings``."""
        query = self.query
        result: dict[str, Any] = {
            "group": query.group,
            "name": query.name,
            "description": query.description,
            "file": query.file,
            "line": query.line,
            "digest": query.digest,
            "limit_ms": query.limit_ms,
            "status": self.status,
            "message": self.message,
            "runs": len(self.samples),
            "samples_ms": [round(taken, 3) for taken, _planning, _plan in self.samples],
            **dict.fromkeys(("median_ms", "p95_ms", "q1_ms", "q3_ms", "spread_ms", "min_ms", "max_ms")),
            "planning_ms": None,
            "rows": None,
            "buffers": None,
            "plan": None,
        }
        if not self.samples:
            return result
        result.update(statistics(result["samples_ms"]))
        ordered = sorted(self.samples, key=lambda sample: sample[0])
        _taken, planning_ms, plan = ordered[(len(ordered) - 1) // 2]
        result.update(
            planning_ms=round(planning_ms, 3),
            rows=int(plan.get("Actual Rows") or 0),
            buffers=explain.buffers(plan),
            plan={"digest": explain.digest(plan), "indexes": explain.indexes(plan), "text": explain.text(plan)},
        )
        return result


class _Stopwatch:
    """One connection, and the time that is left for everything."""

    def __init__(self, connection: Connection, measuring: Measuring, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._measuring = measuring
        self._clock = clock
        self._deadline = clock() + measuring.total_timeout_s

    def left_s(self) -> float:
        return self._deadline - self._clock()

    def take(self, measured: _Measured, *, keep: bool, explain_only: bool = False) -> None:
        """Run a query once in a transaction of its own, and note its time unless it is only to be warm."""
        query = measured.query
        own_limit_s = query.timeout_s if query.timeout_s is not None else self._measuring.timeout_s
        limit_s = max(0.001, min(own_limit_s, self.left_s()))
        with self._connection.cursor() as cursor:
            cursor.execute(BEGIN, {"timeout_ms": math.ceil(limit_s * 1000)})
            values = dict(query.parameters) if query.bound else None
            started = self._clock()
            try:
                if not measured.examined:
                    cursor.execute(REFUSE_INTO + query.sql, values)
                    measured.examined = True
                cursor.execute((LOOK if explain_only else MEASURE) + query.sql, values)
                document = cursor.fetchall()[0][0][0]
            except (psycopg2.Error, UnicodeError) as exc:
                if self._connection.closed:
                    raise
                self._note_failure(measured, exc, over=self._clock() - started >= limit_s, own_limit_s=own_limit_s)
                return
            finally:
                if not self._connection.closed:
                    cursor.execute("ROLLBACK")
        if keep and not explain_only:
            planning_ms = float(document["Planning Time"])
            measured.samples.append((planning_ms + float(document["Execution Time"]), planning_ms, document["Plan"]))
            measured.status, measured.message = "measured", ""

    def _note_failure(self, measured: _Measured, exc: Exception, *, over: bool, own_limit_s: float) -> None:
        state = getattr(exc, "pgcode", None)
        text = " ".join((getattr(getattr(exc, "diag", None), "message_primary", None) or str(exc)).split())
        if state == errorcodes.READ_ONLY_SQL_TRANSACTION or (not measured.examined and state in NO_CURSOR):
            raise measured.query.refusal(
                "cannot be measured: %s." % text.rstrip("."),
                hint="Measure one SELECT that changes nothing; sequences, locks on rows and INTO are changes.",
            ) from exc
        if state == errorcodes.QUERY_CANCELED and over:
            if self.left_s() <= 0:
                return  # not the query's fault: the time for all of them is over
            measured.status, measured.message = "timed_out", "did not finish within %g s" % own_limit_s
        else:
            measured.status, measured.message = "failed", text


def measure(
    *,
    connection: Connection,
    queries: Sequence[Query],
    measuring: Measuring,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the timings of the queries and that of the reference, each as `_Measured.as_result` says.

    Rounds are interleaved (A B C A B C), so that what disturbs the machine for a while disturbs all of them. A query
    that failed or ran into its limit is not run again. When ``measuring.total_timeout_s`` is over, what was not run has
    the status ``not_measured``. Raises `HoldfastError` (``suite_invalid``) for a query that writes.
    """
    watch = _Stopwatch(connection, measuring, clock)
    reference = _Measured(REFERENCE)
    measured = [_Measured(query) for query in queries]
    for number in range(measuring.warm_up_runs + measuring.runs):
        for entry in (reference, *measured):
            if watch.left_s() > 0 and entry.goes_on:
                watch.take(entry, keep=number >= measuring.warm_up_runs)
    for entry in measured:
        if entry.status == "not_measured":
            entry.message = "the time for all queries, %g s, was over before" % measuring.total_timeout_s
    return [entry.as_result() for entry in measured], reference.as_result()


def validate(*, connection: Connection, queries: Sequence[Query], measuring: Measuring) -> list[dict[str, Any]]:
    """Return entries without times: whether the server understands each query. Nothing is executed."""
    watch = _Stopwatch(connection, measuring, time.monotonic)
    measured = [_Measured(query) for query in queries]
    for entry in measured:
        if watch.left_s() > 0:
            watch.take(entry, keep=False, explain_only=True)
    return [entry.as_result() for entry in measured]


def time_queries(
    *,
    server: Server,
    database: str,
    documents: Sequence[Mapping[str, Any]],
    now: datetime,
    parameters: Mapping[str, Any] | None = None,
    measuring: Measuring | None = None,
    thresholds: Thresholds | None = None,
    baseline: Mapping[str, Any] | None = None,
    workload: bool = True,
    workload_before: Mapping[str, Any] | None = None,
    execute: bool = True,
    fail_on: str = "critical",
) -> dict[str, Any]:
    """Measure the queries of parsed files in ``database`` and return the keys of a module result.

    Without ``execute`` the server only plans the queries. Raises `HoldfastError`: ``suite_invalid`` or
    ``option_invalid`` before anything is measured, ``timeout`` when a query had no turn, ``timing_regressed`` with the
    same keys in its details when something became worse that ``fail_on`` counts.
    """
    measuring = measuring or Measuring()
    thresholds = thresholds or Thresholds()
    _refuse_bad_thresholds(thresholds)
    queries = parse_queries(documents, overrides=parameters)
    if not queries:
        raise HoldfastError(
            code="option_invalid",
            msg="No file of queries was given, so nothing would be measured.",
            hint="Name at least one file or directory in queries.",
        )
    baseline = baseline if baseline and baseline.get("timings") else None
    started = time.monotonic()
    with server.session(
        database, application_name="holdfast pg_timing", settings={"default_transaction_read_only": "on"}
    ) as connection:
        answer: dict[str, Any] = {
            "changed": False,
            "database": database,
            "measured_at": now.isoformat(),
            "server_version": server_version(connection),
        }
        if execute:
            timings, reference = measure(connection=connection, queries=queries, measuring=measuring)
        else:
            timings, reference = validate(connection=connection, queries=queries, measuring=measuring), {}
        regressions = judge_timings(timings, baseline=baseline, reference=reference, thresholds=thresholds)
        for _confirmation in range(CONFIRMATIONS if execute else 0):
            regressions = _confirmed(
                regressions,
                connection=connection,
                queries=queries,
                measuring=measuring,
                left_s=measuring.total_timeout_s - (time.monotonic() - started),
                baseline=baseline,
                thresholds=thresholds,
            )
        reading = read_workload(connection) if workload else None
    answer.update(timings=timings, reference=reference, regressions=regressions, workload=reading)
    answer["workload_change"] = compare_workload(workload_before, reading) if reading and workload_before else None
    answer["not_compared"] = _not_compared(timings, baseline)
    answer["duration_s"] = round(time.monotonic() - started, 3)
    answer["summary"] = _summarize(answer, baseline, database=database)
    _fail(answer, fail_on=fail_on, execute=execute)
    return answer


def _refuse_bad_thresholds(thresholds: Thresholds) -> None:
    percents = (thresholds.info_percent, thresholds.warning_percent, thresholds.critical_percent)
    if percents[0] < 0 or list(percents) != sorted(percents) or thresholds.min_difference_ms < 0:
        raise HoldfastError(
            code="option_invalid",
            msg="The levels are %g, %g and %g percent, the smallest difference is %g ms."
            % (*percents, thresholds.min_difference_ms),
            hint="The percentages of info, warning and critical are not negative and do not fall.",
        )


def _confirmed(
    regressions: Sequence[Mapping[str, Any]],
    *,
    connection: Connection,
    queries: Sequence[Query],
    measuring: Measuring,
    left_s: float,
    baseline: Mapping[str, Any] | None,
    thresholds: Thresholds,
) -> list[dict[str, Any]]:
    """Return the regressions that stand when what seemed slower is measured once more, at the lower of both levels.

    Without time left they all stand.
    """
    suspects = {(row["group"], row["name"]) for row in regressions if row["kind"] in ("slower", "limit")}
    again = {}
    if suspects and left_s > 0:
        timings, reference = measure(
            connection=connection,
            queries=[query for query in queries if query.key in suspects],
            measuring=Measuring(measuring.runs, 0, measuring.timeout_s, max(0.001, left_s)),
        )
        seen = {(row["group"], row["name"]) for row in timings if row["status"] != "not_measured"}
        judged = judge_timings(timings, baseline=baseline, reference=reference, thresholds=thresholds)
        again = {key: next((row for row in judged if (row["group"], row["name"]) == key), None) for key in seen}
    kept = []
    for row in regressions:
        key = (row["group"], row["name"])
        second = again.get(key, row)
        if key not in suspects:
            kept.append(dict(row))
        elif second is not None:
            kept.append(dict(min(row, second, key=lambda found: LEVELS.index(found["level"]))))
    return kept


def _not_compared(timings: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Return which queries have nothing to be compared with, and why; empty without a baseline."""
    if baseline is None:
        return []
    earlier = {(row["group"], row["name"]): row for row in baseline["timings"]}
    found = []
    for row in timings:
        then = earlier.pop((row["group"], row["name"]), None)
        if then is None:
            reason = "not in the baseline"
        elif then.get("digest") != row["digest"]:
            reason = "its SQL or its parameters are not those of the baseline"
        elif then.get("status") != "measured":
            reason = "not measured in the baseline: %s" % then.get("message")
        else:
            continue
        found.append({"group": row["group"], "name": row["name"], "reason": reason})
    found.extend(
        {"group": str(group), "name": str(name), "reason": "only in the baseline"} for group, name in sorted(earlier)
    )
    return found


def _summarize(answer: Mapping[str, Any], baseline: Mapping[str, Any] | None, *, database: str) -> str:
    """Return one sentence with the numbers."""
    timings = answer["timings"]
    parts = ["%d of %d queries measured" % (sum(row["status"] == "measured" for row in timings), len(timings))]
    for level in reversed(LEVELS):
        count = sum(row["level"] == level for row in answer["regressions"])
        if count:
            parts.append("%d %s" % (count, level))
    if baseline is None:
        parts.append("nothing to compare with")
    elif not answer["regressions"]:
        parts.append("none worse than the baseline")
    return 'Database "%s": %s (%.1f s).' % (database, ", ".join(parts), answer["duration_s"])


def _fail(answer: Mapping[str, Any], *, fail_on: str, execute: bool) -> None:
    if fail_on == "never":
        return
    counted = [row for row in answer["regressions"] if LEVELS.index(row["level"]) >= LEVELS.index(fail_on)]
    if counted:
        first = ["%s (%s): %s" % (row["name"], row["group"], row["message"]) for row in counted[:3]]
        more = " And %d more." % (len(counted) - 3) if len(counted) > 3 else ""
        raise HoldfastError(
            code="timing_regressed",
            msg="%d of %d queries became worse in database %r. %s.%s"
            % (len(counted), len(answer["timings"]), answer["database"], "; ".join(first), more),
            hint="Each regression has the plan before and now. When the new times are right, establish a new baseline.",
            **answer,
        )
    late = [row["name"] for row in answer["timings"] if row["status"] == "not_measured"]
    if execute and late:
        raise HoldfastError(
            code="timeout",
            msg="%d of %d queries had no turn within the time for all of them: %s."
            % (len(late), len(answer["timings"]), ", ".join(map(repr, late[:5]))),
            hint="Raise total_timeout_s, or lower runs or timeout_s.",
            **answer,
        )
