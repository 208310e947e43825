# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role tap: tests from the controller, recorded, summarized, and failing where a file did."""

from __future__ import annotations

import json
import pathlib
import sys
import uuid

import pytest

from tests.support.modules import run_playbook

PASSING = "BEGIN; SELECT plan(2); SELECT pass('one'); SELECT has_table('loan'); SELECT * FROM finish(); ROLLBACK;\n"
DYING = "BEGIN; SELECT plan(2); SELECT pass('one'); SELECT 1/0; ROLLBACK;\n"


@pytest.fixture
def play(pg_distribution, tmp_path):
    database, ledger = ("tap_%s_%s" % (word, uuid.uuid4().hex[:6]) for word in ("live", "ledger"))
    pg_distribution.create_database(database, "CREATE TABLE loan (id int)")
    tests = tmp_path / "tests"
    for category in ("unit", "integration"):
        (tests / category).mkdir(parents=True)
    (tests / "unit" / "loan.sql").write_text(PASSING, encoding="utf-8")
    deployment = {**pg_distribution.login, "ledger_database": ledger}
    document = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "connection": "local",
            "module_defaults": {
                "group/holdfast.postgres.all": pg_distribution.login,
                "holdfast.postgres.deployment": deployment,
            },
            "vars": {
                "ansible_python_interpreter": sys.executable,
                "holdfast_database": database,
                "tap_tests": str(tests),
            },
            "roles": ["holdfast.postgres.tap"],
        }
    ]
    path = tmp_path / "play.json"
    path.write_text(json.dumps(document), encoding="utf-8")

    def call(*arguments: str):
        return run_playbook(path, *arguments, inventory="localhost,")

    call.tests, call.path = tests, pathlib.Path(path)
    call.rows = lambda sql: pg_distribution.execute(sql, database=ledger)
    call.known = lambda: ledger in pg_distribution.databases()
    yield call
    for name in (database, ledger):
        pg_distribution.drop_database(name)


def test_tests_are_recorded_summarized_and_fail_the_play_after_that(play):
    predicted = play("--check")
    assert predicted.returncode == 0, predicted.stdout
    assert not play.known()

    passed = play()
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "Tests of the last 24 hours:" in passed.stdout
    assert "unit: 1 run, on average 100.00 % passed" in passed.stdout

    (play.tests / "integration" / "dying.sql").write_text(DYING, encoding="utf-8")
    failed = play()
    assert failed.returncode != 0
    assert "integration/dying.sql: died after 1 of 2 tests" in failed.stdout
    assert "unit: 2 runs, on average 100.00 % passed" in failed.stdout
    assert "integration: 1 run, on average 50.00 % passed" in failed.stdout

    assert play.rows("SELECT kind, status FROM holdfast.deployment ORDER BY started_at") == [
        ("verify", "succeeded"),
        ("verify", "failed"),
    ]
    details = "SELECT details ->> 'planned_tests', details ->> 'passed_tests', details ->> 'success_rate'"
    assert play.rows(details + " FROM holdfast.step WHERE name = 'tap' ORDER BY started_at") == [
        ("2", "2", "100.0"),
        ("4", "3", "75.0"),
    ]
    assert ("integration", "integration/dying.sql", "failed") in play.rows(
        "SELECT suite, name, status FROM holdfast.check_result WHERE stage = 'tap'"
    )


def test_tests_that_cannot_be_run_close_their_record(play):
    completed = play("-e", "tap_pg_prove=no-such-program")
    assert completed.returncode != 0
    assert "libtap-parser-sourcehandler-pgtap-perl" in completed.stdout
    assert play.rows("SELECT status FROM holdfast.deployment") == [("failed",)]
