# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running pgTAP tests through pg_prove: category by category, each file with a time limit, in a database of its own.

Every file has a pg_prove of its own, so that one that hangs can be ended without the others, and jobs run side by
side. What pg_prove says is read by `tap_output`; where tests run is the matter of `tap_database`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.interruption import signals_raised
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import find_client_programs, run_program
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.expectation import show
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.junit import (
    junit_xml,
    refuse_unwritable,
    write_junit,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import FAIL_ON, counts
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.tap_database import (
    EXTENSION,
    ISOLATIONS,
    LeftBehind,
    TestDatabase,
    end_sessions,
    isolated,
    left_behind,
    sessions_gone,
    take_inventory,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.tap_output import (
    HARMLESS,
    Output,
    Verdict,
    judge_output,
    parse_output,
    success_rate,
    without_output,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: In the order of the testing framework, the harmless before the heavy.
CATEGORIES = ("unit", "security", "performance", "integration")

SUFFIXES = (".sql", ".pg")

#: What is kept of the output of one file, in lines.
MAX_LINES = 100_000

MISSING = """
SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = %s)
"""


@dataclass(frozen=True)
class TapLimits:
    """How many files run side by side, and for how long: one file, and all of them together."""

    jobs: int = 1
    file_timeout_s: float = 60
    timeout_s: float = 600
    stop_at_failure: bool = False


@dataclass(frozen=True)
class TestFile:
    """One file of tests: its category, its path below the directory of the tests, and where it is."""

    __test__ = False

    category: str
    name: str
    path: str


@dataclass(frozen=True)
class FileResult:
    """What became of one file."""

    file: TestFile
    verdict: Verdict
    output: Output = field(default_factory=Output)
    duration_s: float = 0.0


@dataclass(frozen=True)
class Programs:
    """The programs that run tests."""

    pg_prove: str
    psql: str


def run_tests(
    *,
    server: Server,
    database: str,
    path: str,
    categories: Sequence[str] = CATEGORIES,
    isolation: str = "clone",
    limits: TapLimits | None = None,
    pg_prove: str = "pg_prove",
    bin_dir: str | None = None,
    fail_on: str = "error",
    junit: str | None = None,
    predict: bool = False,
) -> dict[str, Any]:
    """Run the tests below ``path`` and return the keys of a module result; ``predict`` examines and runs none.

    Raises `HoldfastError`: ``program_not_found`` or ``extension_missing`` naming everything that is to be installed,
    and ``test_failed`` with the same keys in its details when something failed that ``fail_on`` counts.
    """
    limits = limits or TapLimits()
    _check_options(limits, isolation, fail_on)
    files = find_tests(path, categories)
    if junit:
        refuse_unwritable(junit)
    with server.client_environment() as inherited, signals_raised():
        environment = {key: value for key, value in inherited.items() if not key.startswith("HARNESS_")}
        programs = _programs(server, database, pg_prove=pg_prove, bin_dir=bin_dir, environment=environment)
        if predict:
            return _answer(database, [], LeftBehind(), duration_s=0.0, junit=junit, files=files, changed=False)
        started = time.monotonic()
        with isolated(server=server, database=database, isolation=isolation) as where:
            run = _Run(server, where, programs, environment, os.path.abspath(path), limits)
            results, left = run.everything(files)
    changed = bool(left.cluster or (left.local and isolation != "clone"))
    duration_s = time.monotonic() - started
    answer = _answer(database, results, left, duration_s=duration_s, junit=junit, files=files, changed=changed)
    if junit:
        write_junit(junit, junit_xml(junit_cases(results, left), fail_on=fail_on, name="holdfast.postgres.pg_tap"))
    counted = [r for r in answer["results"] if r["status"] == "failed" and counts(r, fail_on=fail_on)]
    if counted:
        raise _failure(counted, answer)
    return answer


def _check_options(limits: TapLimits, isolation: str, fail_on: str) -> None:
    if limits.jobs < 1 or limits.file_timeout_s <= 0 or limits.timeout_s <= 0:
        raise HoldfastError(
            code="option_invalid",
            msg="jobs is %d, file_timeout_s is %g, timeout_s is %g."
            % (limits.jobs, limits.file_timeout_s, limits.timeout_s),
            hint="jobs is at least 1, and both time limits are above 0.",
        )
    for name, value, allowed in (
        ("isolation", isolation, ISOLATIONS),
        ("fail_on", fail_on, FAIL_ON),
    ):
        if value not in allowed:
            raise HoldfastError(
                code="option_invalid",
                msg="%s is %s." % (name, show(value)),
                hint="It is one of %s." % ", ".join(allowed),
            )


def find_tests(path: str, categories: Sequence[str]) -> list[TestFile]:
    """Return the files of tests, in the order of ``categories``, within each by name and below it at any depth.

    Raises `HoldfastError` (``option_invalid``) for a category that is no name of a directory, and when no file is
    found: to run nothing must not pass as success.
    """
    for category in categories:
        if category in ("", ".", "..") or os.path.basename(category) != category:
            raise HoldfastError(
                code="option_invalid",
                msg="The category %s is no name of a directory." % show(category),
                hint="Categories are directories below path, such as unit.",
            )
    found: list[TestFile] = []
    for category in dict.fromkeys(categories):
        members: list[TestFile] = []
        for directory, _directories, names in os.walk(os.path.join(path, category)):
            for name in names:
                if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                    where = os.path.abspath(os.path.join(directory, name))
                    members.append(TestFile(category, os.path.relpath(where, os.path.abspath(path)), where))
        found.extend(sorted(members, key=lambda member: member.name))
    if not found:
        raise HoldfastError(
            code="option_invalid",
            msg="No tests were found: %s has no file that ends in .sql or .pg in %s." % (path, ", ".join(categories)),
            hint="Put tests into directories by category below path, for example %s/unit/loan.sql." % path,
        )
    return found


def prove_argv(*, programs: Programs, conninfo: str, path: str) -> list[str]:
    """Return the command line for one file; passwords are not in it, nor does a shell read it.

    pg_prove takes what follows an equals sign in an option for a further key unless it is escaped.
    """
    return [
        programs.pg_prove,
        "--norc",
        "--nocolor",
        "--verbose",
        "--normalize",
        "--ext",
        os.path.splitext(path)[1].lower(),
        "--psql-bin",
        programs.psql.replace("=", "\\="),
        "--dbname",
        conninfo.replace("=", "\\="),
        path,
    ]


def session_options(search_path: str, given: str = "") -> str:
    """Return the parameter ``options`` of a session that finds pgTAP, added to those that were ``given``."""
    escaped = re.sub(r"([\\\s])", r"\\\1", search_path)
    return " ".join(part for part in (given, "-c search_path=" + escaped) if part)


def _programs(
    server: Server, database: str, *, pg_prove: str, bin_dir: str | None, environment: Mapping[str, str]
) -> Programs:
    found = shutil.which(pg_prove, path=environment.get("PATH"))
    with server.session(database) as connection, connection.cursor() as cursor:
        version = int(connection.server_version)
        cursor.execute(MISSING, (EXTENSION,))
        no_extension = bool(cursor.fetchall()[0][0])
    lacking = []
    if found is None:
        lacking.append("the program %s on this host (package libtap-parser-sourcehandler-pgtap-perl)" % pg_prove)
    if no_extension:
        lacking.append("the extension pgtap on the server (package postgresql-%d-pgtap)" % (version // 10000))
    if found is None or lacking:
        raise HoldfastError(
            code="program_not_found" if found is None else "extension_missing",
            msg="Tests with pgTAP need %s." % " and ".join(lacking),
            hint="Install the packages, which are those of Debian and Ubuntu, then run the task again.",
        )
    programs = find_client_programs(server_version=version, bin_dir=bin_dir, environment=environment, program="psql")
    return Programs(pg_prove=found, psql=programs.path("psql"))


@dataclass(frozen=True)
class _Run:
    """What all files of a run share."""

    server: Server
    where: TestDatabase
    programs: Programs
    environment: Mapping[str, str]
    directory: str
    limits: TapLimits
    application_name: str = field(default_factory=lambda: "holdfast pg_tap %s " % secrets.token_hex(3))

    def everything(self, files: Sequence[TestFile]) -> tuple[list[FileResult], LeftBehind]:
        """Run all files and return their results in order, and what they left."""
        with self.server.session(self.where.name) as watcher:
            before = take_inventory(watcher)
            try:
                results = self._categories(files)
            finally:
                end_sessions(watcher, self.application_name)
            return results, left_behind(watcher, before)

    def _categories(self, files: Sequence[TestFile]) -> list[FileResult]:
        deadline = time.monotonic() + self.limits.timeout_s
        results: list[FileResult] = []
        for category in dict.fromkeys(file.category for file in files):
            members = [file for file in files if file.category == category]
            failed = next((r.file.category for r in results if r.verdict.outcome not in HARMLESS), None)
            if failed is not None and self.limits.stop_at_failure:
                message = "not run, because tests of the category %s failed" % failed
                results.extend(FileResult(file, without_output("not_run", message)) for file in members)
                continue
            results.extend(self._category(members, first=len(results), deadline=deadline))
        return results

    def _category(self, files: Sequence[TestFile], *, first: int, deadline: float) -> list[FileResult]:
        futures: list[Future[FileResult]] = []
        with ThreadPoolExecutor(max_workers=min(self.limits.jobs, len(files))) as pool:
            try:
                for number, file in enumerate(files, start=first):
                    futures.append(pool.submit(self._file, file, number=number, deadline=deadline))
                return [future.result() for future in futures]
            except BaseException:
                # Clients of ended sessions end, so that nobody waits for tests that nobody wants to know of any more.
                for future in futures:
                    future.cancel()
                with self.server.session(self.where.name) as connection:
                    end_sessions(connection, self.application_name)
                raise

    def _file(self, file: TestFile, *, number: int, deadline: float) -> FileResult:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            message = "not run, because the %g s for all tests were over" % self.limits.timeout_s
            return FileResult(file, without_output("not_run", message))
        timeout_s = min(self.limits.file_timeout_s, remaining_s)
        application_name = "%s%d." % (self.application_name, number)
        started = time.monotonic()
        try:
            completed = run_program(
                prove_argv(programs=self.programs, conninfo=self._conninfo(application_name), path=file.path),
                environment=self.environment,
                allowed_exit_codes=range(256),
                timeout_s=timeout_s,
                max_lines=MAX_LINES,
                directory=self.directory,
            )
        except HoldfastError as exc:
            if exc.code != "timeout":
                raise
            self._end(application_name)
            over = "its %g s" % self.limits.file_timeout_s
            if timeout_s < self.limits.file_timeout_s:
                over = "the %g s for all tests" % self.limits.timeout_s
            verdict = without_output("timed_out", "was ended when %s were over" % over)
            return FileResult(file, verdict, duration_s=time.monotonic() - started)
        output = parse_output(completed.stdout)
        verdict = judge_output(output, exit_code=completed.exit_code, stderr=completed.stderr)
        return FileResult(file, verdict, output, completed.duration_s)

    def _conninfo(self, application_name: str) -> str:
        given = str(self.server.connect_params.get("options") or "")
        return self.server.conninfo(
            self.where.name,
            application_name=application_name,
            options=session_options(self.where.search_path, given),
        )

    def _end(self, application_name: str) -> None:
        """End the server process of a file whose client is gone: it may hold locks, and may go on writing."""
        with self.server.session(self.where.name) as connection:
            if not end_sessions(connection, application_name) and not sessions_gone(connection, application_name):
                raise HoldfastError(
                    code="timeout",
                    msg="A test that ran out of time cannot be ended: its session %r stays." % application_name.strip(),
                    hint="See pg_stat_activity for what it waits on; end it before tests run again.",
                )


def _failing(output: Output) -> list[dict[str, Any]]:
    return [
        {"test": test.number, "description": test.description, "diagnostics": list(test.diagnostics)}
        for test in output.tests
        if not test.passed
    ]


def result_of(result: FileResult) -> dict[str, Any]:
    """Return a file's result in the form of those of checks, with its numbers."""
    verdict = result.verdict
    status = {"passed": "passed", "skipped": "skipped"}.get(verdict.outcome, "failed")
    return {
        **_checked(result.file.category, result.file.name, status, verdict.message),
        "errored": verdict.outcome in ("died", "truncated", "timed_out", "not_run"),
        "sample": _failing(result.output),
        "duration_ms": round(result.duration_s * 1000, 1),
        "file": result.file.name,
        "outcome": verdict.outcome,
        "planned_tests": verdict.planned,
        "passed_tests": verdict.passed,
        "failed_tests": verdict.failed,
        "todo_tests": verdict.todo,
        "skipped_tests": verdict.skipped,
    }


def _checked(suite: str, name: str, status: str, message: str, *, severity: str = "error") -> dict[str, Any]:
    return {
        "suite": suite,
        "name": name,
        "description": "",
        "severity": severity,
        "status": status,
        "errored": False,
        "message": message,
        "rows": None,
        "value": None,
        "unit": "",
        "sample": [],
        "duration_ms": 0.0,
        "tags": ["pgtap"],
        "file": "",
        "line": None,
    }


def result_of_left_behind(left: LeftBehind) -> dict[str, Any]:
    """Return what tests left as the result of a check of severity warning."""
    names = left.names
    shown = ", ".join(names[:5]) + (" and %d more" % (len(names) - 5) if len(names) > 5 else "")
    message = "tests left %d object%s behind: %s" % (len(names), "" if len(names) == 1 else "s", shown)
    return {
        **_checked(
            "isolation",
            "tests leave nothing behind",
            "failed" if names else "passed",
            message if names else "nothing",
            severity="warning",
        ),
        "rows": len(names),
        "sample": [{"object": name, "stays": name in left.cluster} for name in names],
    }


def junit_cases(results: Sequence[FileResult], left: LeftBehind) -> list[dict[str, Any]]:
    """Return one case for each test, and one for each file as a whole, which has the file's duration.

    The latter fails where the file did in a way that is no failure of one of its tests.
    """
    cases: list[dict[str, Any]] = []
    for result in results:
        suite = result.file.name
        for test in result.output.tests:
            status = "skipped" if test.directive == "skip" else "passed" if test.passed else "failed"
            message = test.reason if status == "skipped" else test.label
            case = _checked(suite, "%d - %s" % (test.number, test.label), status, message)
            cases.append({**case, "sample": list(test.diagnostics)})
        outcome = result.verdict.outcome
        status = "skipped" if outcome == "skipped" else "passed" if outcome == "passed" else "failed"
        if outcome == "failed" and any(not test.passed for test in result.output.tests):
            status = "passed"
        cases.append(
            {
                **_checked(suite, "the file as a whole", status, result.verdict.message),
                "errored": outcome != "failed",
                "duration_ms": result.duration_s * 1000,
            }
        )
    return [*cases, result_of_left_behind(left)]


def _category_numbers(name: str, results: Sequence[FileResult]) -> dict[str, Any]:
    verdicts = [result.verdict for result in results]
    outcomes = [verdict.outcome for verdict in verdicts]
    return {
        "category": name,
        "files": len(results),
        "failed_files": sum(outcome not in HARMLESS for outcome in outcomes),
        "planned_tests": sum(verdict.planned for verdict in verdicts),
        "passed_tests": sum(verdict.passed for verdict in verdicts),
        "failed_tests": sum(verdict.failed for verdict in verdicts),
        "success_rate": success_rate(verdicts),
        "duration_s": round(sum(result.duration_s for result in results), 3),
    }


def _answer(
    database: str,
    results: Sequence[FileResult],
    left: LeftBehind,
    *,
    duration_s: float,
    junit: str | None,
    files: Sequence[TestFile],
    changed: bool,
) -> dict[str, Any]:
    by_category = [
        _category_numbers(name, [result for result in results if result.file.category == name])
        for name in dict.fromkeys(result.file.category for result in results)
    ]
    numbers = _category_numbers("", results)
    checks = [result_of(result) for result in results]
    answer: dict[str, Any] = {
        "changed": changed,
        "results": [*checks, result_of_left_behind(left)] if results else [],
        "categories": by_category,
        **{key: numbers[key] for key in ("planned_tests", "passed_tests", "failed_tests", "success_rate")},
        "files": [file.name for file in files],
        "left_behind": left.names,
        "duration_s": round(duration_s, 3),
        "junit": junit,
    }
    answer["summary"] = _summary(database, results, answer)
    return answer


def _summary(database: str, results: Sequence[FileResult], answer: Mapping[str, Any]) -> str:
    if not results:
        return "Database %s: %d files of tests would be run." % (show(database), len(answer["files"]))
    outcomes = [result.verdict.outcome for result in results]
    parts = [
        "%d of %d tests in %d files passed%s"
        % (
            answer["passed_tests"],
            answer["planned_tests"],
            len(results),
            "" if answer["success_rate"] is None else " (%g %%)" % answer["success_rate"],
        )
    ]
    for outcome, words in (
        ("failed", "with failures"),
        ("died", "died"),
        ("truncated", "stopped early"),
        ("timed_out", "ran out of time"),
        ("not_run", "not run"),
        ("skipped", "skipped"),
    ):
        if outcome in outcomes:
            parts.append("%d %s" % (outcomes.count(outcome), words))
    if answer["left_behind"]:
        parts.append("%d objects left behind" % len(answer["left_behind"]))
    return "Database %s: %s (%.1f s)." % (show(database), ", ".join(parts), answer["duration_s"])


def _failure(counted: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> HoldfastError:
    first = ["%s: %s" % (result["name"], result["message"]) for result in counted[:3]]
    more = " And %d more." % (len(counted) - 3) if len(counted) > 3 else ""
    return HoldfastError(
        code="test_failed",
        msg="%s %s.%s" % (answer["summary"], "; ".join(first), more),
        hint="Each result has its failing tests with their diagnostics; pg_prove runs one file alone.",
        **answer,
    )
