# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing times: what counts as slower, what is noise, and what a plan tells beside it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._verification import explain
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.comparison import (
    Thresholds,
    judge_timings,
    quantile,
    statistics,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.workload import compare_workload

STEADY = [10.0, 10.1, 10.2, 10.1, 10.0, 10.3, 10.1]
SEQ = {"Node Type": "Seq Scan", "Relation Name": "loan", "Actual Rows": 3, "Actual Loops": 1, "Filter": "(id = 7)"}
INDEX = {"Node Type": "Index Scan", "Relation Name": "loan", "Index Name": "loan_id", "Scan Direction": "Forward"}


def timing(samples: list[float], *, plan: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    plan = plan or {**SEQ, "Shared Hit Blocks": 10}
    return {
        "group": "lending",
        "name": "q",
        "file": "x.yml",
        "line": 2,
        "digest": "d",
        "limit_ms": None,
        "status": "measured",
        "message": "",
        "runs": len(samples),
        "plan": {"digest": explain.digest(plan), "indexes": explain.indexes(plan), "text": explain.text(plan)},
        "buffers": explain.buffers(plan),
        **(statistics(samples) if samples else {}),
        **keys,
    }


def judge(now: dict[str, Any], then: dict[str, Any] | None, **references: list[float]) -> list[dict[str, Any]]:
    baseline = None
    if then is not None:
        baseline = {"timings": [then], "reference": statistics(references.get("machine_then", [3.0]))}
    reference = statistics(references.get("machine_now", [3.0]))
    return judge_timings([now], baseline=baseline, reference=reference, thresholds=Thresholds())


def scaled(factor: float) -> list[float]:
    return [value * factor for value in STEADY]


def test_quantiles_are_interpolated():
    assert quantile([4, 1, 3, 2], 0.5) == 2.5
    assert quantile([7], 0.95) == 7
    assert statistics([1, 2, 3, 4, 5])["spread_ms"] == 2


@pytest.mark.parametrize(
    ("factor", "level"),
    [(0.5, None), (1.08, None), (1.15, "info"), (1.3, "warning"), (1.45, "warning"), (5, "critical")],
)
def test_levels_are_those_of_10_20_and_50_percent(factor: float, level: str | None):
    found = judge(timing(scaled(factor)), timing(STEADY))
    assert [row["level"] for row in found] == ([level] if level else [])


def test_difference_within_the_spread_of_both_is_noise():
    wide = [10.0, 14.0, 18.0, 22.0, 26.0, 30.0, 34.0]
    assert judge(timing([value * 1.6 for value in wide]), timing(wide)) == []


def test_slower_machine_excuses_and_a_quicker_one_does_not_accuse():
    assert judge(timing(scaled(2)), timing(STEADY), machine_now=[6.0], machine_then=[3.0]) == []
    assert judge(timing(STEADY), timing(STEADY), machine_now=[3.0], machine_then=[6.0]) == []
    (found,) = judge(timing(scaled(10)), timing(STEADY), machine_now=[6.0], machine_then=[3.0])
    assert (found["level"], found["ratio"]) == ("critical", 5.0)
    assert "2.00 times slower" in found["message"]


def test_difference_of_microseconds_does_not_count():
    assert judge(timing([0.05] * 9), timing([0.02] * 9)) == []


def test_one_sample_counts_when_it_is_slower_than_all():
    assert [row["level"] for row in judge(timing([40.0]), timing(STEADY))] == ["critical"]
    assert judge(timing([10.2]), timing(STEADY)) == []


def test_lost_index_is_named_with_both_plans():
    (found,) = judge(timing(scaled(5)), timing(STEADY, plan=INDEX))
    assert found["kind"] == "slower" and found["plan_changed"]
    assert "no longer uses loan_id" in found["message"]
    assert found["plan_before"]["text"].startswith("Index Scan using loan_id on loan")
    assert found["plan_now"]["text"] == "Seq Scan on loan (rows 3)\n     Filter: (id = 7)"


def test_other_plan_that_took_no_longer_warns_only_when_it_reads_many_more_pages():
    before = timing(STEADY, plan={**INDEX, "Shared Hit Blocks": 4})
    few, many = ({**SEQ, "Shared Hit Blocks": pages} for pages in (20, 400))
    assert [(row["kind"], row["level"]) for row in judge(timing(STEADY, plan=few), before)] == [("plan", "info")]
    assert [(row["kind"], row["level"]) for row in judge(timing(STEADY, plan=many), before)] == [("plan", "warning")]


def test_times_rows_and_workers_do_not_change_a_plan():
    other = {**SEQ, "Actual Rows": 99, "Total Cost": 3.5, "Workers Launched": 1, "Filter": "(id = 8)"}
    assert explain.digest(SEQ) == explain.digest(other) != explain.digest({**SEQ, "Plans": [INDEX]})


def test_query_that_no_longer_runs_is_critical_unless_it_did_not_before():
    broken = timing([], status="failed", message='relation "loan" does not exist', plan=None)
    late = timing([], status="timed_out", message="did not finish within 1 s")
    assert [row["level"] for row in judge(broken, timing(STEADY))] == ["critical"]
    assert [row["level"] for row in judge(broken, None)] == ["critical"]
    assert [row["level"] for row in judge(late, broken)] == ["info"]


def test_other_question_is_not_compared():
    assert judge(timing(scaled(9), digest="other"), timing(STEADY)) == []


def test_limit_counts_without_a_baseline():
    (found,) = judge(timing(STEADY, limit_ms=5.0), None)
    assert (found["kind"], found["level"]) == ("limit", "critical")
    assert judge(timing(STEADY, limit_ms=50.0), None) == []


def test_same_distribution_with_heavy_tails_is_at_most_a_notice():
    chance = random.Random(1)

    def noisy() -> list[float]:
        return [10 * chance.choice((1, 1, 1, 1.05, 1.3, 3)) * chance.uniform(0.98, 1.02) for _ in range(15)]

    found = [row for _ in range(500) for row in judge(timing(noisy()), timing(noisy()))]
    assert len(found) <= 2 and {row["level"] for row in found} <= {"info"}


# The whole workload


def reading(**statements: tuple[int, float]) -> dict[str, Any]:
    rows = {key: {"calls": calls, "total_ms": ms, "query": "SELECT " + key} for key, (calls, ms) in statements.items()}
    return {"available": True, "reason": "", "stats_reset": "t", "statements": rows}


def test_workload_names_what_got_slower_by_what_it_costs():
    before = reading(a=(100, 100), b=(100, 100), c=(100, 100), rare=(3, 3))
    now = reading(a=(200, 300), b=(1100, 2600), c=(200, 200), rare=(9, 900), new=(5, 5))
    change = compare_workload(before, now)
    assert (change["compared"], change["calls"], change["new_statements"]) == (True, 1211, 1)
    assert [(row["queryid"], row["mean_before_ms"], row["mean_since_ms"]) for row in change["slower"]] == [
        ("b", 1.0, 2.5),
        ("a", 1.0, 2.0),
    ]


def test_workload_is_not_compared_across_a_reset_or_without_the_extension():
    assert "reset" in compare_workload(reading(), {**reading(), "stats_reset": "u"})["reason"]
    missing = {"available": False, "reason": "not there", "stats_reset": None, "statements": {}}
    assert compare_workload(missing, reading())["reason"] == "not there"


def test_statement_that_was_forgotten_and_met_again_is_left_out():
    assert compare_workload(reading(a=(100, 100)), reading(a=(5, 500)))["calls"] == 0
