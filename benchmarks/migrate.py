# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a long history costs: a thousand migrations without any statement, applied, and listed again."""

from __future__ import annotations

import statistics
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import read_directories
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate
from benchmarks.measure import Bench, timed

STEPS = 1_000
DATABASE = "long_history"


def bench_migrate(bench: Bench) -> None:
    """A thousand empty migrations, from reading the files to the result."""
    directory = bench.scratch / "migrations"
    directory.mkdir()
    for number in range(1, STEPS + 1):
        (directory / ("%04d_step.up.sql" % number)).touch()

    def run(state: str) -> dict[str, Any]:
        return migrate(
            server=bench.server.server,
            database=DATABASE,
            files=read_directories([str(directory)]),
            state=state,
            settings=Settings(),
        )

    applied: list[float] = []
    listed: list[float] = []
    for number in range(bench.runs):
        bench.server.create_database(DATABASE)
        try:
            applied.append(timed(lambda: run("applied")))
            listed.append(timed(lambda: run("status")))
        finally:
            bench.server.drop_database(DATABASE)
        bench.note("run %d: applied in %.2f s, status in %.3f s" % (number + 1, applied[-1], listed[-1]))
    bench.record("%d empty migrations" % STEPS, value=statistics.median(applied), unit="s", bar=25, runs=bench.runs)
    bench.record(
        "status of a history of %d steps" % STEPS, value=statistics.median(listed), unit="s", bar=1, runs=bench.runs
    )
