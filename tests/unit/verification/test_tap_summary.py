# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The summary of the last hours, from what the ledger holds."""

from __future__ import annotations

from datetime import datetime, timezone

from ansible_collections.holdfast.postgres.plugins.plugin_utils._tap_summary import tap_summary

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)


def category(name, rate, duration_s, planned=10, failed=0):
    return {
        "category": name,
        "success_rate": rate,
        "duration_s": duration_s,
        "planned_tests": planned,
        "failed_tests": failed,
    }


def run(began, *categories, name="tap"):
    step = {
        "name": name,
        "started_at": began,
        "finished_at": began[:17] + "30.000000Z",
        "details": {"categories": list(categories)},
    }
    return {"started_at": began, "steps": [{"name": "verify", "details": {}}, step]}


def test_categories_are_averaged_over_the_runs_of_the_last_day():
    summary = tap_summary(
        [
            run(
                "2026-11-21T11:00:00.000000Z", category("unit", 100.0, 2.0), category("security", None, 0.5, planned=0)
            ),
            run("2026-11-20T12:00:01.000000Z", category("unit", 75.5, 3.0, failed=2)),
            run("2026-11-20T11:59:59.000000Z", category("unit", 0.0, 100.0)),
            run("2026-11-21T10:00:00.000000Z", category("unit", 0.0, 100.0), name="verify"),
            {"started_at": "2026-11-21T11:30:00.000000Z", "steps": []},
        ],
        now=NOW,
    )
    security, unit = summary["categories"]
    assert unit == {
        "category": "unit",
        "executions": 2,
        "planned_tests": 20,
        "failed_tests": 2,
        "avg_success_rate": 87.75,
        "avg_duration_s": 2.5,
        "first_execution": "2026-11-20T12:00:01.000000Z",
        "last_execution": "2026-11-21T11:00:30.000000Z",
    }
    assert (security["executions"], security["avg_success_rate"]) == (1, None)
    assert summary["text"] == [
        "Tests of the last 24 hours:",
        "security: 1 run, on average none planned in 0.50 s, last at 2026-11-21T11:00:30Z",
        "unit: 2 runs, on average 87.75 % passed in 2.50 s, last at 2026-11-21T11:00:30Z",
    ]


def test_no_run_is_said_to_be_none():
    assert tap_summary([], hours=2, now=NOW)["text"] == ["No run of tests is recorded of the last 2 hours."]
