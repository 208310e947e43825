# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times of unchanged code on a machine whose noise changes: whatever is reported is a false alarm."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest

from tests.support.server import TestServer
from tests.support.timings import loans_of, take


@pytest.fixture
def loans(pg18: TestServer) -> Iterator[str]:
    with loans_of(pg18) as name:
        yield name


def _keep_busy() -> None:
    while True:
        sum(range(10000))


def test_unchanged_code_on_a_noisy_machine_has_no_regression_in_20_of_20_repeats(pg18: TestServer, loans: str):
    """Every other measurement has a busy process for each processor beside it, the baseline as well as what follows."""
    found = []
    busy: list[multiprocessing.Process] = []
    try:
        for repeat in range(20):
            before = take(pg18, loans)
            if repeat % 2:
                for process in busy:
                    process.kill()
                    process.join()
                busy.clear()
            else:
                busy = [multiprocessing.Process(target=_keep_busy, daemon=True) for _ in range(2)]
                for process in busy:
                    process.start()
            found += take(pg18, loans, baseline=before, fail_on="never")["regressions"]
    finally:
        for process in busy:
            process.kill()
            process.join()
    assert [(row["kind"], row["level"], row["message"]) for row in found] == []
