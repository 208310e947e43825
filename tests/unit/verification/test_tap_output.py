# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pg_prove 3.36 with Test::Harness 3.42 printed about files of each kind, and the verdict on it."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.tap import (
    Programs,
    find_tests,
    prove_argv,
    session_options,
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

PASSING = """\
t/pass.sql ..
1..4
ok 1 - a \\ # name with hash
not ok 2 - todo test # TODO later
# Failed (TODO) test 2: "todo test"
#         have: 1
#         want: 2
ok 3 # SKIP no data
ok 4
ok
All tests successful.
Files=1, Tests=4,  0 wallclock secs ( 0.02 usr +  0.00 sys =  0.02 CPU)
Result: PASS
"""
PLAN_AT_THE_END = """\
t/noplan.sql ..
ok 1 - first
1..1
ok
All tests successful.
Files=1, Tests=1,  0 wallclock secs ( 0.00 usr  0.01 sys +  0.01 cusr  0.00 csys =  0.02 CPU)
Result: PASS
"""
SKIPPED = """\
t/skipall.sql .. skipped: not on this server
Files=1, Tests=0,  1 wallclock secs ( 0.02 usr  0.00 sys +  0.00 cusr  0.01 csys =  0.03 CPU)
Result: NOTESTS
"""
FAILING = """\
t/fail.sql ..
1..3
not ok 1 - one is two
# Failed test 1: "one is two"
#         have: 1
#         want: 2
ok 2 - fine
not ok 3 - several
# lines
# Failed test 3: "several
# lines"
#         have: a
# b
#         want: c
# Looks like you failed 2 tests of 3
Failed 2/3 subtests

Test Summary Report
-------------------
t/fail.sql (Wstat: 0 Tests: 3 Failed: 2)
  Failed tests:  1, 3
Files=1, Tests=3,  0 wallclock secs ( 0.01 usr +  0.00 sys =  0.01 CPU)
Result: FAIL
"""
DIED = """\
t/died.sql ..
1..3
ok 1 - first
Dubious, test returned 3 (wstat 768, 0x300)
Failed 2/3 subtests

Test Summary Report
-------------------
t/died.sql (Wstat: 768 (exited 3) Tests: 1 Failed: 0)
  Non-zero exit status: 3
  Parse errors: Bad plan.  You planned 3 tests but ran 1.
Files=1, Tests=1,  0 wallclock secs ( 0.02 usr  0.00 sys +  0.01 cusr  0.00 csys =  0.03 CPU)
Result: FAIL
"""
LOST = """\
t/killed.sql ..
1..1
Dubious, test returned 2 (wstat 512, 0x200)
Failed 1/1 subtests

Test Summary Report
-------------------
t/killed.sql (Wstat: 512 (exited 2) Tests: 0 Failed: 0)
  Non-zero exit status: 2
  Parse errors: Bad plan.  You planned 1 tests but ran 0.
Files=1, Tests=0,  0 wallclock secs ( 0.01 usr +  0.00 sys =  0.01 CPU)
Result: FAIL
"""
LOST_STDERR = """\
psql:t/killed.sql:2: FATAL:  terminating connection due to administrator command
psql:t/killed.sql:2: server closed the connection unexpectedly
\tThis probably means the server terminated abnormally
\tbefore or while processing the request.
psql:t/killed.sql:2: error: connection to server was lost
"""
NEVER_CONNECTED = """\
t/died.sql ..
Dubious, test returned 2 (wstat 512, 0x200)
No subtests run

Test Summary Report
-------------------
t/died.sql (Wstat: 512 (exited 2) Tests: 0 Failed: 0)
  Non-zero exit status: 2
  Parse errors: No plan found in TAP output
Files=1, Tests=0,  0 wallclock secs ( 0.01 usr +  0.01 sys =  0.02 CPU)
Result: FAIL
"""
TRUNCATED = """\
t/trunc.sql ..
1..3
ok 1 - first
# Looks like you planned 3 tests but ran 1
Failed 2/3 subtests

Test Summary Report
-------------------
t/trunc.sql (Wstat: 0 Tests: 1 Failed: 0)
  Parse errors: Bad plan.  You planned 3 tests but ran 1.
Files=1, Tests=1,  0 wallclock secs ( 0.02 usr +  0.01 sys =  0.03 CPU)
Result: FAIL
"""
EMPTY = """\
t/empty.sql ..
No subtests run

Test Summary Report
-------------------
t/empty.sql (Wstat: 0 Tests: 0 Failed: 0)
  Parse errors: No plan found in TAP output
Files=1, Tests=0,  0 wallclock secs ( 0.02 usr +  0.00 sys =  0.02 CPU)
Result: FAIL
"""
MORE_THAN_PLANNED = """\
t/more.sql ..
1..1
ok 1 - first
ok 2 - second
# Looks like you planned 1 test but ran 2
All 1 subtests passed

Test Summary Report
-------------------
t/more.sql (Wstat: 0 Tests: 2 Failed: 1)
  Failed test:  2
  Parse errors: Bad plan.  You planned 1 tests but ran 2.
Files=1, Tests=2,  0 wallclock secs ( 0.01 usr  0.00 sys +  0.01 cusr  0.00 csys =  0.02 CPU)
Result: FAIL
"""
OUT_OF_SEQUENCE = """\
t/noise.sql ..
1..2
ok 1 - imposter
ok 1 - real
All 2 subtests passed

Test Summary Report
-------------------
t/noise.sql (Wstat: 0 Tests: 2 Failed: 1)
  Failed test:  1
  Parse errors: Tests out of sequence.  Found (1) but expected (2)
Files=1, Tests=2,  0 wallclock secs ( 0.01 usr +  0.01 sys =  0.02 CPU)
Result: FAIL
"""
BAILED_OUT = """\
Bailout called.  Further testing stopped:  the world ends
t/bail.sql ..
1..2
ok 1 - x
Failed 1/2 subtests

Test Summary Report
-------------------
t/bail.sql (Wstat: 0 Tests: 1 Failed: 0)
  Parse errors: Bad plan.  You planned 2 tests but ran 1.
Files=1, Tests=1,  0 wallclock secs ( 0.00 usr +  0.01 sys =  0.01 CPU)
Result: FAIL
"""
SUBTESTS = """\
t/subtest.sql ..
    # Subtest: t.test_a()
    ok 1 - in
    not ok 2 - in bad
    # Failed test 2: "in bad"
    1..2
    # Looks like you failed 1 tests of 2
not ok 1 - t.test_a
# Failed test 1: "t.test_a"
1..1
# Looks like you failed 1 test of 1
Failed 1/1 subtests

Test Summary Report
-------------------
t/subtest.sql (Wstat: 0 Tests: 1 Failed: 1)
  Failed test:  1
Files=1, Tests=1,  0 wallclock secs ( 0.01 usr +  0.00 sys =  0.01 CPU)
Result: FAIL
"""
ERROR = "psql:t/a b: c.sql:4: ERROR:  division by zero\n"


def as_printed(text: str) -> str:
    """The harness ends its headings and some verdicts with a blank, which editors would take away."""
    lines = text.split("\n")
    return "\n".join(
        line + " " if line.endswith((" ..", "subtests", "passed", "subtests run")) else line for line in lines
    )


@pytest.mark.parametrize(
    ("stdout", "exit_code", "stderr", "outcome", "message", "planned", "passed"),
    [
        (PASSING, 0, "", "passed", "4 tests passed, 1 to do, 1 skipped", 4, 4),
        (PLAN_AT_THE_END, 0, "psql:t/noplan.sql:5: NOTICE:  hello\n", "passed", "1 test passed", 1, 1),
        (SKIPPED, 0, "", "skipped", "skipped: not on this server", 0, 0),
        (FAILING, 1, "", "failed", "2 of 3 tests failed: one is two; several", 3, 1),
        (DIED, 1, ERROR, "died", "died after 1 of 3 tests: line 4: ERROR:  division by zero", 3, 1),
        (
            LOST,
            1,
            LOST_STDERR,
            "died",
            "died after 0 of 1 test: line 2: FATAL:  terminating connection due to administrator command",
            1,
            0,
        ),
        (
            NEVER_CONNECTED,
            1,
            'psql: error: connection to server failed: FATAL:  database "x" does not exist\n',
            "died",
            'died after 0 tests: psql: error: connection to server failed: FATAL:  database "x" does not exist',
            1,
            0,
        ),
        (NEVER_CONNECTED, 1, "", "died", "died after 0 tests: psql ended with 2", 1, 0),
        (TRUNCATED, 1, "", "truncated", "stopped after 1 of 3 tests", 3, 1),
        (EMPTY, 1, "", "truncated", "has no plan and ran no test", 1, 0),
        (MORE_THAN_PLANNED, 1, "", "failed", "ran 2 tests, planned 1", 2, 1),
        (OUT_OF_SEQUENCE, 1, "", "failed", "Tests out of sequence.  Found (1) but expected (2)", 3, 2),
        (BAILED_OUT, 255, "", "died", "bailed out after 1 of 2 tests: the world ends", 2, 1),
        (SUBTESTS, 1, "", "failed", "1 of 1 test failed: t.test_a", 1, 0),
        ("", 2, "Can't locate TAP/Harness.pm in @INC\n", "truncated", None, 1, 0),
    ],
)
@pytest.mark.parametrize("blanks", [False, True])
def test_verdict_on_recorded_output(stdout, exit_code, stderr, outcome, message, planned, passed, blanks):
    output = parse_output(as_printed(stdout) if blanks else stdout)
    verdict = judge_output(output, exit_code=exit_code, stderr=stderr)
    assert (verdict.outcome, verdict.planned, verdict.passed) == (outcome, planned, passed)
    assert message is None or verdict.message == message
    assert (verdict.failed == 0) == (verdict.outcome in HARMLESS)


def test_tests_carry_their_directives_and_diagnostics():
    tests = parse_output(PASSING).tests
    assert [(t.number, t.ok, t.directive, t.reason) for t in tests] == [
        (1, True, "", ""),
        (2, False, "todo", "later"),
        (3, True, "skip", "no data"),
        (4, True, "", ""),
    ]
    assert tests[0].description == "a \\ # name with hash"
    assert parse_output(FAILING).tests[0].diagnostics == (
        '# Failed test 1: "one is two"',
        "#         have: 1",
        "#         want: 2",
    )


def test_success_rate_counts_what_was_not_run_as_not_passed():
    verdicts = [
        judge_output(parse_output(PASSING), exit_code=0),
        judge_output(parse_output(TRUNCATED), exit_code=1),
        without_output("timed_out", "was ended"),
    ]
    assert success_rate(verdicts) == 62.5
    assert success_rate([Verdict("skipped", "")]) is None
    assert success_rate([judge_output(Output(), exit_code=1)]) == 0.0


def test_command_line_is_for_one_file_and_keeps_equals_signs():
    argv = prove_argv(
        programs=Programs(pg_prove="/usr/bin/pg_prove", psql="/opt/a=b/psql"),
        conninfo="dbname='a\\\\=b' user='tester'",
        path="/srv/tests/unit/-x = y.PG",
    )
    assert argv == [
        "/usr/bin/pg_prove",
        "--norc",
        "--nocolor",
        "--verbose",
        "--normalize",
        "--ext",
        ".pg",
        "--psql-bin",
        "/opt/a\\=b/psql",
        "--dbname",
        "dbname\\='a\\\\\\=b' user\\='tester'",
        "/srv/tests/unit/-x = y.PG",
    ]


def test_session_options_escape_the_search_path():
    assert session_options('"$user", public, "a\\b"') == '-c search_path="$user",\\ public,\\ "a\\\\b"'
    assert session_options("tap", "-c work_mem=1MB") == "-c work_mem=1MB -c search_path=tap"


@pytest.mark.parametrize("category", ["", "..", "unit/deep", "."])
def test_category_is_the_name_of_a_directory(tmp_path, category):
    with pytest.raises(HoldfastError, match="no name of a directory"):
        find_tests(str(tmp_path), [category])
