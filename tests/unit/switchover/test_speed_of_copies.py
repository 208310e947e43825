# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a database is copied, and how long that should take."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.clone import choose_strategy
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pause_length import (
    PoolersSeen,
    pause_too_long,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.volume import (
    DEFAULT_BYTES_PER_S,
    Speed,
    choose_speed,
    shares_blocks,
    write_speed,
)

MB = 1_000_000


@pytest.mark.parametrize(
    ("version", "size_bytes", "methods", "strategy"),
    [
        (180000, 10 * MB, ["copy", "clone"], "wal_log"),
        (180000, 100 * MB, ["copy", "clone"], "clone"),
        (180000, 100 * MB, ["copy"], "file_copy"),
        (180000, None, ["copy", "clone"], "clone"),
        (170000, 10 * MB, ["copy"], "wal_log"),
        (170000, 100 * MB, ["copy"], "file_copy"),
        (140000, 10 * MB, ["copy"], "file_copy"),
    ],
)
def test_strategy_follows_version_size_and_platform(
    version: int, size_bytes: int | None, methods: list[str], strategy: str
) -> None:
    assert choose_strategy(version=version, size_bytes=size_bytes, methods=methods) == strategy


def copy(strategy: str, megabytes: int, seconds: float) -> dict[str, Any]:
    return {"strategy": strategy, "bytes": megabytes * MB, "copy_s": seconds}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"strategy": "file_copy"}, Speed(DEFAULT_BYTES_PER_S, "default")),
        ({"strategy": "file_copy", "writes_bytes_per_s": 400 * MB}, Speed(200 * MB, "probe")),
        ({"strategy": "file_copy", "shares": True, "writes_bytes_per_s": 400 * MB}, Speed(200 * MB, "probe")),
        ({"strategy": "clone", "shares": True}, Speed(5000 * MB, "shared")),
        ({"strategy": "clone", "shares": False, "writes_bytes_per_s": 400 * MB}, Speed(200 * MB, "probe")),
        # The slowest of the last five, of the same strategy, without what every copy takes.
        (
            {
                "strategy": "file_copy",
                "writes_bytes_per_s": 400 * MB,
                "earlier": [
                    copy("wal_log", 10, 9),
                    copy("file_copy", 1000, 10.5),
                    copy("file_copy", 1000, 5.5),
                    {"strategy": "file_copy", "bytes": None, "copy_s": 3},
                    {"strategy": "file_copy"},
                    *[copy("file_copy", 1000, 2.5)] * 3,
                    copy("file_copy", 1000, 100),
                ],
            },
            Speed(100 * MB, "earlier"),
        ),
    ],
)
def test_speed_is_what_is_known_best(facts: dict[str, Any], expected: Speed) -> None:
    assert choose_speed(**facts) == expected


def test_expectation_counts_what_every_copy_takes() -> None:
    assert Speed(100 * MB, "probe").expected_s(1000 * MB) == 10.5
    assert Speed(100 * MB, "probe").expected_s(None) == 0.5


def test_volume_is_measured_and_nothing_is_left_there(tmp_path: pathlib.Path) -> None:
    speed = write_speed(str(tmp_path), size_bytes=2 * 1024 * 1024)
    assert speed is not None and speed > 1000
    assert shares_blocks(str(tmp_path)) in (True, False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("directory", ["/proc", "/nowhere/at/all"])
def test_volume_that_cannot_be_written_is_not_measured(directory: str) -> None:
    assert write_speed(directory) is None and shares_blocks(directory) is None


def test_refusal_names_numbers_and_a_pooler_that_is_less_patient() -> None:
    facts: dict[str, Any] = {"size_bytes": 4000 * MB, "speed": Speed(100 * MB, "probe"), "expected_s": 40.5}
    error = pause_too_long("bank", seen=PoolersSeen(15, turned_away_s=120), **facts)
    for word in ("40.5 s", "4000000000 bytes", "'bank'", "100 MB", "15 s"):
        assert word in error.msg, error.msg
    assert "query_wait_timeout" not in error.msg
    error = pause_too_long("bank", seen=PoolersSeen(8, turned_away_s=10), **facts)
    assert "after 10 s (query_wait_timeout)" in error.msg and "query_wait_timeout" in error.hint
