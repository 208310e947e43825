# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pg_prove says about one file of tests, and the verdict on it.

The input is that of ``pg_prove --verbose --normalize`` for a single file: the Test Anything Protocol with every test
numbered, between the lines of the harness itself (https://testanything.org/tap-specification.html).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: How the run of a file can end. Only the first two are no failures.
OUTCOMES = ("passed", "skipped", "failed", "died", "truncated", "timed_out", "not_run")
HARMLESS = OUTCOMES[:2]

_TEST = re.compile(
    r"(?P<ok>ok|not ok) (?P<number>\d+)(?: - (?P<description>.*?))?(?: # (?P<directive>TODO|SKIP)\b ?(?P<why>.*))?"
)
_PLAN = re.compile(r"1\.\.(?P<count>\d+)\b.*")
_SKIPPED_FILE = re.compile(r".* \.+ skipped(?:: (?P<why>.*)|: ?)?")
_BAILED_OUT = re.compile(r"Bailout called\.\s+Further testing stopped:\s*(?P<why>.*)")

# The harness's own verdict stands alone on its line; a test's line has its number in normalized output.
_VERDICT = re.compile(
    r"ok|Dubious, test returned \d+.*|Failed \d+/\d+ subtests\s*|All \d+ subtests passed\s*|No subtests run\s*"
)
_EXIT = re.compile(r"\s*Non-zero (?P<kind>exit|wait) status: (?P<status>\d+)")
_PARSE_ERROR = re.compile(r"\s*Parse errors: (?P<why>.*)")
_COMPLAINT = re.compile(r"psql:(?P<file>.*):(?P<line>\d+): (?P<why>(?:ERROR|FATAL|PANIC|error):.*)", re.DOTALL)

#: How many lines of diagnostics of a failed test are kept, and how many characters of each.
MAX_DIAGNOSTICS = 20
LONGEST_LINE = 500


@dataclass(frozen=True)
class Test:
    """One line of a test; ``directive`` is ``todo``, ``skip`` or empty, ``diagnostics`` what the file said of it."""

    __test__ = False

    number: int
    ok: bool
    description: str = ""
    directive: str = ""
    reason: str = ""
    diagnostics: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it is no failure: what is to be done, or was skipped, is none."""
        return self.ok or bool(self.directive)

    @property
    def label(self) -> str:
        """The test as messages name it."""
        return self.description or "test %d" % self.number


@dataclass(frozen=True)
class Output:
    """What one file said. ``plan`` is None without one, ``skipped`` and ``bailed_out`` are reasons, None without."""

    plan: int | None = None
    tests: tuple[Test, ...] = ()
    skipped: str | None = None
    bailed_out: str | None = None
    exit_code: int = 0
    parse_error: str = ""


@dataclass(frozen=True)
class Verdict:
    """How a file ended, the sentence that says so, and its numbers.

    ``planned`` counts what was to be run, and one more where the file failed although each of its tests passed, so
    that ``failed`` is 0 exactly for an outcome of `HARMLESS`.
    """

    outcome: str
    message: str
    planned: int = 0
    passed: int = 0
    todo: int = 0
    skipped: int = 0

    @property
    def failed(self) -> int:
        """How many of the planned tests failed or were not run."""
        return self.planned - self.passed


def parse_output(stdout: str) -> Output:
    """Return what the harness printed about its one file."""
    lines = stdout.split("\n")
    end = next((n for n in range(len(lines) - 1, -1, -1) if _VERDICT.fullmatch(lines[n])), len(lines))
    plan: int | None = None
    skipped = bailed_out = None
    tests: list[Test] = []
    remarks: list[list[str]] = []
    for line in lines[:end]:
        test, planned = _TEST.fullmatch(line), _PLAN.fullmatch(line)
        bailed, whole = _BAILED_OUT.fullmatch(line), _SKIPPED_FILE.fullmatch(line)
        if test is not None:
            directive = (test.group("directive") or "").lower()
            tests.append(
                Test(
                    number=int(test.group("number")),
                    ok=test.group("ok") == "ok",
                    description=test.group("description") or "",
                    directive=directive,
                    reason=test.group("why") or "",
                )
            )
            remarks.append([])
        elif planned is not None:
            plan = int(planned.group("count"))
        elif bailed is not None:
            bailed_out = bailed.group("why")
        elif whole is not None and not tests and plan is None:
            skipped = whole.group("why") or ""
        elif line.startswith("#") and remarks and len(remarks[-1]) < MAX_DIAGNOSTICS:
            remarks[-1].append(line[:LONGEST_LINE])
    exit_code, parse_error = 0, ""
    for line in lines[end:]:
        status, wrong = _EXIT.fullmatch(line), _PARSE_ERROR.fullmatch(line)
        if status is not None:
            number = int(status.group("status"))
            exit_code = number if status.group("kind") == "exit" else -number
        elif wrong is not None:
            parse_error = wrong.group("why")
    return Output(
        plan=plan,
        tests=tuple(
            Test(t.number, t.ok, t.description, t.directive, t.reason, tuple(said)) for t, said in zip(tests, remarks)
        ),
        skipped=skipped,
        bailed_out=bailed_out,
        exit_code=exit_code,
        parse_error=parse_error,
    )


def complaint(stderr: str) -> str:
    """Return the error with which psql ended, with the line of the file; empty when it said none."""
    for line in stderr.split("\n"):
        match = _COMPLAINT.fullmatch(line)
        if match is not None:
            return "line %s: %s" % (match.group("line"), match.group("why"))
    lines = [line.strip() for line in stderr.split("\n") if line.strip()]
    return lines[-1] if lines else ""


def judge_output(output: Output, *, exit_code: int, stderr: str = "") -> Verdict:
    """Return the verdict; ``exit_code`` is that of pg_prove itself, which has the last word on success."""
    outcome, message = (
        _ended(output, exit_code=exit_code, stderr=stderr)
        or _stopped_early(output, stderr=stderr)
        or _failed(output, exit_code=exit_code, stderr=stderr)
        or ("passed", _passed(output))
    )
    within = output.tests if output.plan is None else output.tests[: output.plan]
    passed = sum(test.passed for test in within)
    planned = max(output.plan or 0, len(output.tests))
    if outcome not in HARMLESS and passed == planned:
        planned += 1
    directives = [test.directive for test in output.tests]
    return Verdict(
        outcome,
        message,
        planned=planned,
        passed=passed,
        todo=directives.count("todo"),
        skipped=directives.count("skip"),
    )


def _ended(output: Output, *, exit_code: int, stderr: str) -> tuple[str, str] | None:
    """Return how the file ended where psql or the file itself broke it off, or skipped it as a whole."""
    ran = _tests(len(output.tests)) if output.plan is None else "%d of %s" % (len(output.tests), _tests(output.plan))
    if output.bailed_out is not None:
        return "died", "bailed out after %s: %s" % (ran, output.bailed_out or "no reason given")
    if output.exit_code:
        return "died", "died after %s: %s" % (ran, complaint(stderr) or "psql ended with %d" % output.exit_code)
    if exit_code == 0 and not output.tests and (output.skipped is not None or output.plan == 0):
        return "skipped", "skipped: %s" % (output.skipped or "the plan is empty")
    return None


def _stopped_early(output: Output, *, stderr: str) -> tuple[str, str] | None:
    ran, failed = len(output.tests), sum(not test.passed for test in output.tests)
    if output.plan is None and not ran:
        return "truncated", "has no plan and ran no test" + _said(stderr)
    if output.plan is not None and ran >= output.plan:
        return None
    wanted = "%s without a plan" % _tests(ran) if output.plan is None else "%d of %s" % (ran, _tests(output.plan))
    return "truncated", "stopped after %s%s" % (wanted, ", %d of them failed" % failed if failed else "")


def _failed(output: Output, *, exit_code: int, stderr: str) -> tuple[str, str] | None:
    ran = _tests(len(output.tests))
    failed = [test for test in output.tests if not test.passed]
    if failed:
        names = "; ".join(test.label for test in failed[:3]) + ("; ..." if len(failed) > 3 else "")
        return "failed", "%d of %s failed: %s" % (len(failed), ran, names)
    if output.plan is not None and len(output.tests) > output.plan:
        return "failed", "ran %s, planned %d" % (ran, output.plan)
    if exit_code:
        return "failed", output.parse_error or "pg_prove ended with %d%s" % (exit_code, _said(stderr))
    return None


def _passed(output: Output) -> str:
    directives = [test.directive for test in output.tests]
    parts = ["%s passed" % _tests(len(output.tests))]
    for directive, words in (("todo", "to do"), ("skip", "skipped")):
        if directive in directives:
            parts.append("%d %s" % (directives.count(directive), words))
    return ", ".join(parts)


def without_output(outcome: str, message: str) -> Verdict:
    """Return the verdict on a file that was ended, or never begun, so that nothing is known of its tests."""
    return Verdict(outcome, message, planned=1)


def success_rate(verdicts: Sequence[Verdict]) -> float | None:
    """Return the share of planned tests that passed, in percent; None where none was planned."""
    planned = sum(verdict.planned for verdict in verdicts)
    return round(100 * sum(verdict.passed for verdict in verdicts) / planned, 2) if planned else None


def _tests(count: int | None) -> str:
    return "%d test%s" % (count or 0, "" if count == 1 else "s")


def _said(stderr: str) -> str:
    said = complaint(stderr)
    return ": " + said if said else ""
