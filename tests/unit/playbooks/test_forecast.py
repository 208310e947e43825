# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said before a deployment begins."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.plugin_utils._forecast import duration, forecast, size

ARCHIVE = {
    "database": "bank",
    "path": "/b/bank/d2",
    "database_bytes": 1_200_000_000,
    "predicted_bytes": 310_000_000,
    "free_bytes": 55_000_000_000,
}
PENDING = [{"version": "v2"}, {"version": "v3"}]


def run(**steps: Any) -> dict[str, Any]:
    return {"steps": [{"name": n, "status": s, "duration_s": d} for n, (s, d) in steps.items()]}


def test_forecast_has_sizes_free_space_and_the_times_of_the_last_success() -> None:
    clone = {"possible": True, "bytes": 1_200_000_000, "strategy": "file_copy"}
    deployments = [run(backup=("failed", 9.0)), run(backup=("succeeded", 34.0), rollback_point=("succeeded", 240.0))]
    assert forecast(ARCHIVE, pending=PENDING, clone=clone, deployments=deployments) == (
        "bank (1.2 GB) will be archived to /b/bank/d2: about 310 MB, 55.0 GB free; the last time it took 34.0 s. "
        "Then it will be cloned: 1.2 GB by file_copy; the last time it took 4 min. Then v2, v3 will be applied."
    )


def test_forecast_says_how_long_clients_wait_and_when_nobody_does() -> None:
    clone = {"possible": True, "bytes": 1_200_000_000, "strategy": "file_copy", "expected_s": 6.5}
    said = forecast(ARCHIVE, pending=PENDING, clone=clone)
    assert "cloned: 1.2 GB by file_copy; clients wait about 6.5 s meanwhile." in said
    said = forecast(ARCHIVE, pending=PENDING, restored=True, deployments=[run(rollback_point=("succeeded", 9.0))])
    assert "restored beside it, so that an undo takes seconds; the last time it took 9.0 s." in said


def test_impossible_clone_is_told_before_the_archive_is_taken() -> None:
    clone = {"possible": False, "reason": "2 sessions stay.", "bytes": 1, "strategy": "wal_log"}
    assert "There will be no clone (2 sessions stay): an undo would restore the archive." in (
        forecast(ARCHIVE, pending=PENDING, clone=clone)
    )
    assert "There will be no clone: an undo would restore the archive." in forecast(ARCHIVE, pending=PENDING)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "an unknown size"), (0, "0 bytes"), (9541311, "9.5 MB"), (2e15, "2000 TB")]
)
def test_sizes_are_for_people(value: float | None, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(("value", "text"), [(3.86, "3.9 s"), (240, "4 min"), (3900, "1 h 05 min")])
def test_durations_are_for_people(value: float, text: str) -> None:
    assert duration(value) == text
