# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many rounds, from which seed, and the table at the end."""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
from typing import Any, Callable

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

ALL_ROUNDS = 200

COLUMNS = ("fault", "rounds", "finished", "undone", "commits", "failures", "longest_wait_s", "verdict")
TITLES = ("fault", "rounds", "finished", "undone", "commits", "clients' failures", "longest wait", "verdict")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--rounds", type=int, help="how many swaps somebody is killed in (%d)" % ALL_ROUNDS)
    group.addoption("--seed", type=int, help="where the random moments come from (a new one each time)")


def pytest_configure(config: pytest.Config) -> None:
    # A job that is cancelled is told by SIGTERM; then everything that was started is ended as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if config.getoption("seed") is None:
        config.option.seed = int(os.environ.get("HOLDFAST_FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    if config.getoption("rounds") is None:
        config.option.rounds = int(os.environ.get("HOLDFAST_FAULTS_ROUNDS") or ALL_ROUNDS)


def pytest_report_header(config: pytest.Config) -> str:
    return "faults: %d rounds, seed %d" % (config.getoption("rounds"), config.getoption("seed"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Where the random moments come from."""
    return int(request.config.getoption("seed"))


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How many of so many rounds there are."""
    wanted = int(request.config.getoption("rounds"))
    return lambda full: max(1, round(full * wanted / ALL_ROUNDS))


def _row(report: pytest.TestReport) -> dict[str, Any]:
    name = report.location[2].removeprefix("test_").replace("_", " ")
    row: dict[str, Any] = {"fault": name, "rounds": 1, "seconds": round(report.duration, 1)}
    row.update(dict(report.user_properties).get("row", {}))
    row["verdict"] = "as it has to be" if report.passed else "WRONG"
    return row


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [
        report
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.stats.get(outcome, ())
        if report.nodeid.startswith("tests/faults/") and (report.when == "call" or report.failed)
    ]
    if not reports:
        return
    rows = [_row(report) for report in reports]
    rows.sort(key=lambda row: -row["rounds"])
    write = terminalreporter.write_line
    terminalreporter.section("faults, seed %d" % config.getoption("seed"))
    table = [TITLES, *(tuple(_cell(row, column) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    for line in table:
        cells = [c.ljust(w) if i in (0, len(widths) - 1) else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))]
        write("  ".join(cells).rstrip())
    for row in rows:
        if row.get("reached"):
            reached = ", ".join("%s %d" % item for item in row["reached"].items() if item[1])
            write("%s came when the swap was: %s" % (row["fault"], reached))
    path = ROOT / ".local" / "faults.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"seed": config.getoption("seed"), "faults": rows}, indent=2, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )


def _cell(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return "-"
    return "%.2f s" % value if column == "longest_wait_s" else str(value)
