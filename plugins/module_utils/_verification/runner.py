# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running checks: read-only, on several connections, all in one snapshot."""

from __future__ import annotations

import contextlib
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, server_version
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.expectation import (
    Outcome,
    Verdict,
    compare_outcomes,
    judge,
    judge_not_worse,
    rows_text,
    show,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.junit import (
    junit_xml,
    refuse_unwritable,
    write_junit,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.proofs import (
    Manifest,
    Proven,
    compare_proofs,
    prove_tables,
    read_manifest,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.suite import (
    MAX_TIMEOUT_S,
    STAGES,
    Check,
    Suite,
    parse_suites,
    select_checks,
    split_statements,
)

try:
    import psycopg2
    import psycopg2.extensions
    from psycopg2 import errorcodes
except ImportError:  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_Answer = TypeVar("_Answer")

MASK = "********"
LONGEST_VALUE = 500
FAIL_ON = ("error", "warning", "never")

# A snapshot can be imported while the transaction that exported it is open, so nothing may end that one early.
KEEP_ALIVE = """
SELECT pg_catalog.set_config(name, '0', false)
  FROM pg_catalog.pg_settings
 WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout',
                'idle_in_transaction_session_timeout', 'idle_session_timeout')
"""

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

EXPORT_SNAPSHOT = "SELECT pg_catalog.pg_export_snapshot()"

#: Classes of errors whose messages quote data: data exceptions, violated constraints, and what functions raise
#: (https://www.postgresql.org/docs/current/errcodes-appendix.html).
CLASSES_WITH_DATA = ("22", "23", "P0")

IMPORT_SNAPSHOT = (
    BEGIN
    + """;
SET TRANSACTION SNAPSHOT %(snapshot)s;
SET LOCAL statement_timeout = %(timeout_ms)s
"""
)

# One execution gives the number of all rows and the first of them, without sending the others.
COUNT_AND_SAMPLE = """
WITH holdfast_check AS MATERIALIZED (
%s
)
SELECT (SELECT pg_catalog.count(*) FROM holdfast_check), holdfast_check.* FROM holdfast_check LIMIT %d
"""

# What can stand in a WITH; SHOW and EXPLAIN return rows as well, but only on their own.
_QUERY = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*(?:SELECT|WITH|VALUES|TABLE|\()", re.IGNORECASE | re.DOTALL)

# Types that arrive as Python values. Everything else arrives as the server's text, which no calendar or
# float range of the client can refuse: infinity, 4713 BC, year 294276.
_NATIVE_TYPES = {
    16: "bool",
    20: "int8",
    21: "int2",
    23: "int4",
    26: "oid",
    700: "float4",
    701: "float8",
    1700: "numeric",
}


@dataclass(frozen=True)
class Limits:
    """How checks are run and how much of their rows is shown."""

    jobs: int = 2
    timeout_s: float = 60
    sample: int = 5
    masked_columns: Collection[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class References:
    """What checks can compare with: an earlier stage, another database of the server, an archive.

    ``earlier`` is ``measured`` of the earlier stage's result, values by suite and check, or None where there was no
    such stage. ``database`` and ``archive``, a path, are empty where there is none.
    """

    earlier: Mapping[str, Mapping[str, Any]] | None = None
    database: str = ""
    archive: str = ""


def check_database(
    *,
    server: Server,
    database: str,
    documents: Sequence[Mapping[str, Any]],
    stage: str = "",
    tags: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    references: References | None = None,
    limits: Limits | None = None,
    fail_on: str = "error",
    junit: str | None = None,
    write_files: bool = True,
) -> dict[str, Any]:
    """Run the checks of parsed suites in ``database`` and return the keys of a module result.

    Raises `HoldfastError`: ``suite_invalid`` or ``option_invalid`` before anything is run, ``check_failed`` with the
    same keys in its details when checks failed that ``fail_on`` counts.
    """
    limits = limits or Limits()
    if limits.jobs < 1 or limits.sample < 0 or not 0.001 <= limits.timeout_s <= MAX_TIMEOUT_S:
        raise HoldfastError(
            code="option_invalid",
            msg="jobs is %d, sample is %d, timeout_s is %s." % (limits.jobs, limits.sample, limits.timeout_s),
            hint="jobs is at least 1, sample at least 0, timeout_s above 0 and at most %d." % MAX_TIMEOUT_S,
        )
    if not documents:
        raise HoldfastError(
            code="option_invalid",
            msg="No suite was given, so nothing would be checked.",
            hint="Name at least one file or directory in suites.",
        )
    if stage and stage not in STAGES:
        raise HoldfastError(
            code="option_invalid",
            msg="The stage %r is unknown." % stage,
            hint="Stages are %s." % ", ".join(STAGES),
        )
    suites = parse_suites(documents, overrides=parameters)
    selected = select_checks(suites, tags, stage, may_be_none=fail_on == "never")
    if junit:
        refuse_unwritable(junit)
    started = time.monotonic()
    results = run_checks(
        server=server, database=database, checks=selected, limits=limits, references=references or References()
    )
    duration_s = round(time.monotonic() - started, 3)
    answer: dict[str, Any] = {"changed": False, "results": results, "duration_s": duration_s, "junit": junit}
    answer["measured"] = _measured(selected, results)
    answer.update(count_results(results))
    answer["summary"] = summarize(answer, database=database)
    if junit and write_files:
        write_junit(junit, junit_xml(results, fail_on=fail_on))
    counted = [result for result in results if result["status"] == "failed" and counts(result, fail_on=fail_on)]
    if counted:
        raise check_failure(counted, answer, database=database)
    return answer


def _measured(checks: Sequence[tuple[Suite, Check]], results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by suite and check what the next stage compares with; every suite of the run is there."""
    measured: dict[str, dict[str, Any]] = {suite.name: {} for suite, _check in checks}
    for (suite, check), result in zip(checks, results):
        if check.expectation.kind == "not_worse" and result["value"] is not None:
            measured[suite.name][check.name] = result["value"]
    return measured


def counts(result: Mapping[str, Any], *, fail_on: str) -> bool:
    """Return whether a failed check with this severity fails the whole task."""
    return result["severity"] in {"error": ("error",), "warning": ("error", "warning"), "never": ()}[fail_on]


def count_results(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the numbers of checks by what they mean: failed (error), warned, noted (info), passed, skipped."""
    failed = [result["severity"] for result in results if result["status"] == "failed"]
    statuses = [result["status"] for result in results]
    return {
        "failed_checks": failed.count("error"),
        "warned_checks": failed.count("warning"),
        "noted_checks": failed.count("info"),
        "passed_checks": statuses.count("passed"),
        "skipped_checks": statuses.count("skipped"),
    }


def summarize(answer: Mapping[str, Any], *, database: str) -> str:
    """Return one sentence with the numbers."""
    parts = ["%d of %d checks passed" % (answer["passed_checks"], len(answer["results"]))]
    parts.extend(
        "%d %s" % (answer[key], word)
        for key, word in (
            ("failed_checks", "failed"),
            ("warned_checks", "gave a warning"),
            ("noted_checks", "gave a notice"),
            ("skipped_checks", "skipped"),
        )
        if answer[key]
    )
    return "Database %s: %s (%.1f s)." % (show(database), ", ".join(parts), answer["duration_s"])


def check_failure(counted: Sequence[Mapping[str, Any]], answer: Mapping[str, Any], *, database: str) -> HoldfastError:
    """Return the error that names the first three checks that did not hold, with their facts."""
    first = ["%s (%s): %s" % (result["name"], result["suite"], result["message"]) for result in counted[:3]]
    more = " And %d more." % (len(counted) - 3) if len(counted) > 3 else ""
    return HoldfastError(
        code="check_failed",
        msg="%d of %d checks did not hold in database %s. %s.%s"
        % (len(counted), len(answer["results"]), show(database), "; ".join(first), more),
        hint="Each result has its sample of rows; mend the data or the check, then run the task again.",
        **answer,
    )


def run_checks(
    *,
    server: Server,
    database: str,
    checks: Sequence[tuple[Suite, Check]],
    limits: Limits,
    references: References | None = None,
) -> list[dict[str, Any]]:
    """Run ``checks`` on ``limits.jobs`` connections in one snapshot and return their results in the same order.

    Each check has its own read-only transaction, so that an error in one says nothing about another. A further
    connection keeps the snapshot. The database of ``references`` has a snapshot and connections of its own, when a
    check asks for it. Raises `HoldfastError` when a server cannot be reached or a snapshot is lost.
    """
    references = references or References()
    # Unlike every other session's, so that checks of sessions can leave out those of this run.
    application_name = "holdfast pg_check %s" % secrets.token_hex(3)
    with contextlib.ExitStack() as keepers:

        def connect(name: str) -> Connection:
            return _connect(server, name, application_name)

        def keep_snapshot(name: str) -> tuple[str, int]:
            keeper = keepers.enter_context(contextlib.closing(connect(name)))
            with keeper.cursor() as cursor:
                cursor.execute(BEGIN)
                cursor.execute(EXPORT_SNAPSHOT)
                return str(cursor.fetchall()[0][0]), server_version(keeper) // 10000

        snapshot, version = keep_snapshot(database)
        snapshots = {database: snapshot}
        sources = {check.expectation.source for _suite, check in checks}
        if references.database and "database" in sources and references.database != database:
            snapshots[references.database] = keep_snapshot(references.database)[0]
        manifest = read_manifest(references.archive) if references.archive and "archive" in sources else None
        run = _Run(
            database=database,
            version=version,
            snapshots=snapshots,
            limits=limits,
            references=references,
            manifest=manifest,
        )
        queue: SimpleQueue[list[int]] = SimpleQueue()
        for positions in _by_question(checks):
            queue.put(positions)
        results: list[dict[str, Any] | None] = [None] * len(checks)

        def work() -> None:
            with contextlib.closing(_Connections(connect)) as connections:
                for positions in _taken(queue):
                    asked = _Asked(max(checks[position][1].expectation.rows_needed for position in positions))
                    for position in positions:
                        results[position] = run.check(*checks[position], connections=connections, asked=asked)

        workers = max(1, min(limits.jobs, len(checks)))
        with ThreadPoolExecutor(max_workers=workers) as pool:
            futures = [pool.submit(work) for number in range(workers)]
            try:
                for future in futures:
                    future.result()
            finally:
                list(_taken(queue))  # after a failure the other connections stop at their next check
    return [result for result in results if result is not None]


def _by_question(checks: Sequence[tuple[Suite, Check]]) -> list[list[int]]:
    """Return the positions of ``checks``, those together that ask the same.

    Suites for different stages share rules. In one snapshot the same query with the same parameters has one answer.
    """
    questions: dict[Any, list[int]] = {}
    for position, (suite, check) in enumerate(checks):
        alone = position if check.tables or check.expectation.kind == "same_as" else None
        parameters = json.dumps(suite.bound(check), sort_keys=True)
        question = (alone, check.sql, parameters, check.timeout_s, check.mask)
        questions.setdefault(question, []).append(position)
    return list(questions.values())


@dataclass
class _Asked:
    """The answer to one question, once there is one; ``rows_needed`` is what the neediest of its checks needs."""

    rows_needed: int
    outcome: Outcome | None = None
    failure: _CheckFailed | None = None


class _Connections:
    """One worker's connections by database, opened when first asked for and again when one was lost."""

    def __init__(self, connect: Callable[[str], Connection]) -> None:
        self._connect = connect
        self._open: dict[str, Connection] = {}

    def to(self, database: str) -> Connection:
        connection = self._open.get(database)
        if connection is None or connection.closed:
            connection = self._open[database] = self._connect(database)
        return connection

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()


def _taken(queue: SimpleQueue[list[int]]) -> Iterator[list[int]]:
    with contextlib.suppress(Empty):
        while True:
            yield queue.get_nowait()


def _connect(server: Server, database: str, application_name: str) -> Connection:
    connection = server.connect(
        database, application_name=application_name, settings={"default_transaction_read_only": "on"}
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(KEEP_ALIVE)
        others = tuple(oid for oid in psycopg2.extensions.string_types if oid not in _NATIVE_TYPES)
        as_text = psycopg2.extensions.new_type(others, "HOLDFAST_TEXT", lambda value, _cursor: value)
        psycopg2.extensions.register_type(as_text, connection)
    except psycopg2.Error:
        connection.close()
        raise
    return connection


@dataclass(frozen=True)
class _Judged:
    """A verdict, how many rows it is about, and those that can be shown."""

    verdict: Verdict
    row_count: int
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class _CheckFailed(Exception):
    """A check's SQL failed; the text says how."""


@dataclass(frozen=True)
class _Run:
    """What all checks of a run share."""

    database: str
    version: int
    snapshots: Mapping[str, str]
    limits: Limits
    references: References
    manifest: Manifest | None

    def check(self, suite: Suite, check: Check, *, connections: _Connections, asked: _Asked) -> dict[str, Any]:
        """Return the result of one check."""
        reason = self._reason_to_skip(check)
        if reason:
            return _result(suite, check, status="skipped", message=reason)
        started = time.monotonic()
        try:
            judged = self._judge(suite, check, connections, asked)
        except _CheckFailed as exc:
            elapsed_ms = (time.monotonic() - started) * 1000
            return _result(suite, check, status="failed", message=str(exc), duration_ms=elapsed_ms, errored=True)
        return self._told(suite, check, judged, duration_ms=(time.monotonic() - started) * 1000)

    def _reason_to_skip(self, check: Check) -> str:
        if check.min_server_version is not None and self.version < check.min_server_version:
            return "needs PostgreSQL %d or newer, the server is %d" % (check.min_server_version, self.version)
        if check.max_server_version is not None and self.version > check.max_server_version:
            return "is for PostgreSQL up to %d, the server is %d" % (check.max_server_version, self.version)
        if check.expectation.source == "database" and not self.references.database:
            return "needs a database to compare with, and none was given"
        if check.expectation.source == "archive" and self.manifest is None:
            return "needs an archive to compare with, and none was given"
        return ""

    def hidden(self, check: Check) -> set[str]:
        """The names of columns whose values nobody may see, without regard to case."""
        return {name.casefold() for name in (*self.limits.masked_columns, *check.mask)}

    def _outcome(self, suite: Suite, check: Check, connections: _Connections, asked: _Asked) -> Outcome:
        """Return what the query returns, as another check has found it where one has."""
        if asked.failure is not None:
            raise asked.failure
        if asked.outcome is None:
            rows_wanted = max(self.limits.sample, asked.rows_needed)
            try:
                asked.outcome = self._transaction(
                    connections, self.database, check, lambda cursor: _ask(cursor, suite, check, rows_wanted)
                )
            except _CheckFailed as exc:
                asked.failure = exc
                raise
        return asked.outcome

    def _judge(self, suite: Suite, check: Check, connections: _Connections, asked: _Asked) -> _Judged:
        expectation = check.expectation
        if check.tables:
            return self._judge_tables(check, connections)
        outcome = self._outcome(suite, check, connections, asked)
        hide = any(column.casefold() in self.hidden(check) for column in outcome.columns)
        if expectation.kind == "same_as":
            there = self._transaction(
                connections,
                self.references.database,
                check,
                lambda cursor: _ask(cursor, suite, check, expectation.rows_needed),
            )
            verdict, differing = compare_outcomes(outcome, there, reference=self.references.database)
            columns = ("found_in", *outcome.columns)
            return _Judged(verdict, outcome.row_count, columns, [(word, *row) for word, row in differing])
        if expectation.kind == "not_worse":
            earlier = self.references.earlier
            verdict = judge_not_worse(
                expectation,
                outcome,
                earlier=None if earlier is None else (earlier.get(suite.name) or {}).get(check.name),
                compared=earlier is not None,
                hide=hide,
            )
        else:
            verdict = judge(expectation, outcome, hide=hide)
        return _Judged(verdict, outcome.row_count, outcome.columns, outcome.rows)

    def _judge_tables(self, check: Check, connections: _Connections) -> _Judged:
        def prove(cursor: Any) -> Proven:
            return prove_tables(cursor, check.tables)

        here = self._transaction(connections, self.database, check, prove)
        if check.expectation.source == "archive" and self.manifest is not None:
            there, reference = self.manifest.proven(here.roots), "archive %s" % self.manifest.name
        else:
            reference = self.references.database
            there = self._transaction(connections, reference, check, prove)
        differences = compare_proofs(here, there, reference=reference)
        count = _tables(len(differences or here.tables))
        if differences:
            verdict = Verdict(False, "%s %s" % (count, "differ" if len(differences) > 1 else "differs"))
        else:
            rows = sum(proof.rows for proof in here.tables.values())
            verdict = Verdict(True, "%s with %s, the same as in %s" % (count, rows_text(rows), reference))
        return _Judged(verdict, len(differences), ("table", "difference"), differences)

    def _transaction(
        self, connections: _Connections, database: str, check: Check, work: Callable[[Any], _Answer]
    ) -> _Answer:
        """Return what ``work`` does with a cursor in the snapshot; raises `_CheckFailed` when that fails."""
        timeout_s = check.timeout_s if check.timeout_s is not None else self.limits.timeout_s
        connection = connections.to(database)
        with connection.cursor() as cursor:
            try:
                values = {"snapshot": self.snapshots[database], "timeout_ms": max(1, math.ceil(timeout_s * 1000))}
                cursor.execute(IMPORT_SNAPSHOT, values)
            except psycopg2.Error as exc:
                raise HoldfastError(
                    code="connection_failed",
                    msg="The snapshot of the checks was lost before %s: %s" % (show(check.name), _primary(exc)),
                    hint="A session of this run was ended from outside: see the server's log. Run the checks again.",
                ) from exc
            started = time.monotonic()
            try:
                return work(cursor)
            except (psycopg2.Error, UnicodeError, HoldfastError) as exc:
                state = getattr(exc, "pgcode", None) or (
                    exc.details.get("sqlstate") if isinstance(exc, HoldfastError) else None
                )
                message = exc.msg if isinstance(exc, HoldfastError) else _primary(exc)
                if state == errorcodes.QUERY_CANCELED and time.monotonic() - started >= timeout_s:
                    message = "did not finish within %g s" % timeout_s
                elif self.hidden(check) and str(state or "").startswith(CLASSES_WITH_DATA):
                    message = "the query failed (%s); the message is hidden, as columns of the check are" % state
                raise _CheckFailed(message) from exc
            finally:
                _roll_back(connection)

    def _told(self, suite: Suite, check: Check, judged: _Judged, *, duration_ms: float) -> dict[str, Any]:
        """Return the result, with a sample of the rows when the check did not hold."""
        verdict = judged.verdict
        hidden = self.hidden(check)
        masked = [column.casefold() in hidden for column in judged.columns]
        sample = []
        if not verdict.passed:
            names = _distinct(judged.columns)
            sample = [
                {name: MASK if hide else jsonable(value) for name, hide, value in zip(names, masked, row)}
                for row in judged.rows[: self.limits.sample]
            ]
        message = verdict.message
        if sample and (check.expectation.kind in ("no_rows", "rows", "same_as") or check.expectation.of == "rows"):
            message += "; first: " + ", ".join("%s %s" % (name, show(value, 80)) for name, value in sample[0].items())
        value = jsonable(verdict.value)
        if value is not None and any(masked) and check.expectation.of == "scalar":
            value = MASK
        return _result(
            suite,
            check,
            status="passed" if verdict.passed else "failed",
            message=message,
            rows=judged.row_count,
            value=value,
            sample=sample,
            duration_ms=duration_ms,
        )


def _tables(count: int) -> str:
    return "%d table%s" % (count, "" if count == 1 else "s")


def _roll_back(connection: Connection) -> None:
    if not connection.closed:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")


def _ask(cursor: Any, suite: Suite, check: Check, rows_wanted: int) -> Outcome:
    """Run the query and return what it says; raises the driver's errors."""
    query = next(iter(split_statements(check.sql)))
    countable = bool(_QUERY.match(query))
    if countable:
        query = COUNT_AND_SAMPLE % (query, max(1, rows_wanted))
    cursor.execute(query, dict(suite.parameters) if suite.parameters else None)
    if cursor.description is None:
        raise psycopg2.ProgrammingError("the statement returns no rows; a check is a query")
    columns = tuple(column.name for column in cursor.description)
    if not countable:
        return Outcome(columns, cursor.rowcount, cursor.fetchmany(max(1, rows_wanted)))
    rows = cursor.fetchall()
    return Outcome(columns[1:], int(rows[0][0]) if rows else 0, [row[1:] for row in rows])


def _primary(exc: Exception) -> str:
    text = getattr(getattr(exc, "diag", None), "message_primary", None) or str(exc)
    return " ".join(text.split())


def _distinct(columns: Sequence[str]) -> list[str]:
    """Return the names with a number added where one repeats, so that none is lost as a key."""
    names: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = "%s_%d" % (column, number)
        names.append(name)
    return names


def jsonable(value: Any) -> Any:
    """Return a value that JSON holds without loss: numeric as text with all its digits, long text shortened."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = format(value, "f") if isinstance(value, Decimal) and value.is_finite() else str(value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


def _result(
    suite: Suite,
    check: Check,
    *,
    status: str,
    message: str,
    rows: int | None = None,
    value: Any = None,
    sample: Sequence[Mapping[str, Any]] = (),
    duration_ms: float = 0,
    errored: bool = False,
) -> dict[str, Any]:
    return {
        "suite": suite.name,
        "name": check.name,
        "description": check.description,
        "severity": check.severity,
        "status": status,
        "errored": errored,
        "message": message,
        "rows": rows,
        "value": value,
        "unit": check.expectation.unit,
        "sample": list(sample),
        "duration_ms": round(duration_ms, 1),
        "tags": list(check.tags),
        "file": suite.file,
        "line": check.line,
    }
