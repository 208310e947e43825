# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/verify.yml: everything is asked, one table says what holds, and the page of it reads well. One story."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support.browser import CHARTS, READABILITY, TOO_WIDE, Scheme, chromium, opened
from tests.support.job import Job
from tests.support.server import TestServer, distribution_bin_dir

CONTENT = """
CREATE TABLE loan (id int PRIMARY KEY, borrower int NOT NULL, amount numeric NOT NULL, note text);
ALTER TABLE loan ENABLE ROW LEVEL SECURITY;
ALTER TABLE loan FORCE ROW LEVEL SECURITY;
INSERT INTO loan SELECT i, i % 5000, i, repeat('x', 60) FROM generate_series(1, 60000) AS i;
CREATE INDEX loan_borrower ON loan (borrower);
"""
SUITE = """
suite: data_quality
checks:
  - name: amounts are positive
    sql: SELECT id, amount FROM loan WHERE amount <= 0
    expect: no_rows
  - name: most loans have a note
    severity: warning
    sql: SELECT count(*) FROM loan WHERE note IS NULL
    expect: {scalar: {at_most: 10}}
"""
TIMINGS = """
timings: lending
queries:
  - name: loans of a borrower
    sql: SELECT * FROM loan WHERE borrower = 17
  - name: borrowers
    sql: SELECT count(DISTINCT borrower) FROM loan WHERE id < 4000
"""
TEST = """
BEGIN;
SELECT plan(2);
SELECT has_table('loan');
SELECT throws_ok('INSERT INTO loan VALUES (0, NULL, 1, NULL)', '23502');
SELECT * FROM finish();
ROLLBACK;
"""
BREAK = """
DROP INDEX loan_borrower;
UPDATE loan SET amount = -amount WHERE id <= 3;
ALTER TABLE loan NO FORCE ROW LEVEL SECURITY;
ALTER TABLE loan ALTER borrower DROP NOT NULL;
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A database with something of every kind to ask of it."""
    directory = tmp_path_factory.mktemp("verify")
    server = TestServer(distribution_bin_dir())
    server.create_database("lending", CONTENT)
    server.execute("VACUUM ANALYZE loan", database="lending")
    (directory / "suite.yml").write_text(SUITE, encoding="utf-8")
    (directory / "timings.yml").write_text(TIMINGS, encoding="utf-8")
    (directory / "tests" / "unit").mkdir(parents=True)
    (directory / "tests" / "unit" / "loan.sql").write_text(TEST, encoding="utf-8")
    job = Job(server, directory, database="lending")
    inventory(job)
    yield job
    server.remove()


def inventory(job: Job, **variables: Any) -> None:
    usual: dict[str, Any] = {
        "verify_suites": [str(job.directory / "suite.yml")],
        "verify_security": {"row_level_security": {"tables": ["loan"]}, "extensions": ["plpgsql"]},
        "tap_tests": str(job.directory / "tests"),
        "timing_queries": [str(job.directory / "timings.yml")],
        "timing_runs": 9,
        "probe_deadline_s": 0,
        "probe_list": [
            {"name": "the server lets clients in", "tcp": {"host": "127.0.0.1", "port": job.server.port}},
            {"name": "the batch program is there", "command": {"argv": [str(job.directory / "batch")]}},
        ],
    }
    job.write_inventory(**{**usual, **variables})
    program = job.directory / "batch"
    program.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    program.chmod(0o755)


def page(job: Job) -> pathlib.Path:
    return job.directory / "reports" / "latest" / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_without_anything_to_ask_it_fails_and_says_what_to_set(job: Job) -> None:
    nothing: dict[str, Any] = {"verify_suites": [], "verify_security": {}, "tap_tests": ""}
    inventory(job, **nothing, timing_queries=[], probe_list=[])
    completed = job.play("verify")
    inventory(job)
    assert completed.returncode != 0
    assert "Nothing says what lending should hold" in completed.stdout


def test_everything_holds(job: Job) -> None:
    established = job.play("baseline", "-e", "timing_activate=true")
    assert established.returncode == 0, established.stdout
    for _number in range(2):
        completed = job.play("verify")
        assert completed.returncode == 0, completed.stdout
    report = job.report()
    assert (report["deployment"]["kind"], report["deployment"]["status"]) == ("verify", "succeeded")
    assert {step["name"]: step["status"] for step in report["steps"]} == dict.fromkeys(
        ("verify", "tap", "probe", "timing", "report"), "succeeded"
    )
    held = "2 of 2 checks, 2 of 2 probes, 2 of 2 security rules and 2 of 2 test results hold"
    assert held + "; of 2 named queries 2 were measured, and none became worse." in report["summary"]
    # The database is as before: no schema of pgTAP, no clone.
    assert job.server.execute("SELECT count(*) FROM pg_namespace WHERE nspname ~ 'tap'", database="lending") == [(0,)]
    assert set(job.server.databases()) == {"holdfast", "lending", "postgres", "template0", "template1"}


def test_only_what_is_asked_for(job: Job) -> None:
    completed = job.play("verify", "--tags", "probe")
    assert completed.returncode == 0, completed.stdout
    assert {row["source"] for row in job.report()["checks"]} == {"probes"}


def test_every_failure_is_found_told_and_recorded(job: Job) -> None:
    job.server.execute(BREAK, database="lending")
    (job.directory / "batch").unlink()
    completed = job.play("verify")
    assert completed.returncode != 0
    report = job.report()
    assert report["deployment"]["status"] == "failed"
    failures = [report["failure"], *report["further_failures"]]
    assert [failure["stage"] for failure in failures] == ["verify", "tap", "probe", "timing"]
    assert {step["name"]: step["status"] for step in report["steps"]} == {
        **dict.fromkeys(("verify", "tap", "probe", "timing"), "failed"),
        "report": "succeeded",
    }
    assert "lending DOES NOT HOLD: at the stage verify," in report["summary"]
    table = completed.stdout[completed.stdout.index("Say what holds and what does not") :]
    for line in (
        "FAILED   checks: data_quality (verify)                        1 of 2 hold",
        "  amounts are positive",
        "FAILED   security rules: security (verify)",
        "FAILED   test results: unit (tap)",
        "FAILED   probes: probes (verify)                              1 of 2 hold",
        "FAILED   query times: loans of a borrower",
        "ok       query times: borrowers",
    ):
        assert line in table, table
    recorded = job.server.execute(
        "SELECT stage, suite, name FROM holdfast.check_result WHERE status = 'failed' ORDER BY ordinal",
        database="holdfast",
    )
    assert {("verify", "data_quality", "amounts are positive"), ("tap", "unit", "unit/loan.sql")} <= set(recorded)
    assert {(stage, suite) for stage, suite, _name in recorded} == {
        *(("verify", suite) for suite in ("data_quality", "security", "probes")),
        ("tap", "unit"),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_page_draws_its_charts_asks_nobody_and_reads_well(
    job: Job, browser: Browser, width: int, scheme: Scheme
) -> None:
    with opened(browser, page(job), width=width, scheme=scheme) as (shown, seen):
        assert seen["complaints"] == []
        assert seen["requests"] == [page(job).as_uri()]
        charts = shown.evaluate(CHARTS)
        assert len(charts) == 2
        for chart in charts:
            assert chart["width"] >= 150 and chart["height"] >= 30
            assert [shape["kind"] for shape in chart["shapes"]] == ["rect", "line", "polyline", "circle"]
            assert all(shape["inside"] for shape in chart["shapes"]), chart
            for shape in chart["shapes"][1:]:
                assert shape["width"] > 1 and {shape["fill"], shape["stroke"]} - {"none", "rgb(0, 0, 0)"}
        texts = shown.evaluate(READABILITY)
        assert len(texts) > 50
        assert [text for text in texts if text["contrast"] < 4.5 or text["size"] < 12] == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate(TOO_WIDE) == []
        for words in ("Plan before", "Plan now", "Seq Scan on loan", "And at the stage timing", "amounts are positive"):
            assert shown.get_by_text(words).first.is_visible(), words


def test_document_for_machines_has_the_history_of_each_query(job: Job) -> None:
    (slower, other) = json.loads((page(job).parent / "report.json").read_text(encoding="utf-8"))["timings"]["timings"]
    assert len(slower["history"]) == len(other["history"]) == 2
    assert slower["level"] == "critical" and slower["baseline_ms"] < slower["median_ms"]


def test_tests_that_fail_on_the_rehearsed_copy_stop_a_deployment(job: Job, tmp_path: pathlib.Path) -> None:
    server = job.server
    server.create_database("shop", "CREATE TABLE loan (borrower int NOT NULL)")
    migration = tmp_path / "migrations" / "v1_forget_it"
    migration.mkdir(parents=True)
    (migration / "up.sql").write_text("ALTER TABLE loan ALTER borrower DROP NOT NULL;\n", encoding="utf-8")
    (migration / "down.sql").write_text("ALTER TABLE loan ALTER borrower SET NOT NULL;\n", encoding="utf-8")
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "loan.sql").write_text(
        "BEGIN; SELECT plan(1); SELECT col_not_null('loan', 'borrower'); SELECT * FROM finish(); ROLLBACK;\n",
        encoding="utf-8",
    )
    shop = Job(server, tmp_path, database="shop")
    shop.write_inventory(
        migrate_directories=[str(tmp_path / "migrations")],
        migrate_role="",
        migrate_lint=False,
        rehearse_mode="full",
        tap_tests=str(tmp_path / "tests"),
        **{key: [] for key in ("preflight_suites", "verify_suites", "rollback_suites")},
    )
    completed = shop.play("deploy")
    assert completed.returncode != 0, completed.stdout
    report = shop.report()
    assert report["failure"]["stage"] == "tap" and "unit/loan.sql: 1 of 1 test failed" in report["failure"]["msg"]
    assert "The live database was not changed" in report["summary"]
    steps = {step["name"]: step["status"] for step in report["steps"]}
    assert (steps["rehearse"], steps["tap"], steps["migrate"]) == ("failed", "failed", "skipped")
    still = "SELECT attnotnull FROM pg_attribute WHERE attname = 'borrower'"
    assert server.execute(still, database="shop") == [(True,)]
    assert [name for name in server.databases() if name.startswith("shop")] == ["shop"]

    passing = shop.play("deploy", "-e", "tap_tests=%s" % (job.directory / "tests"), "-e", "rehearse_mode=off")
    assert passing.returncode == 0, passing.stdout
    assert "were not run: they need a rehearsal" in passing.stdout
