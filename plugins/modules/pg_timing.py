#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure named queries and compare them with a baseline."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_timing
short_description: Measure named queries, and tell which became slower
version_added: 0.1.0
description:
  - Measures the queries of YAML files against one database, compares them with an earlier measurement, and fails when
    one became slower by more than O(critical_percent). The page "baselines and regressions" of the collection's
    documentation describes the files.
  - Each query is run O(warm_up_runs) times without and O(runs) times with a clock, by
    C(EXPLAIN (ANALYZE, BUFFERS, TIMING OFF)), in a transaction that is read only and rolled back. A query that writes
    is refused. Rounds are interleaved, so that what disturbs the machine for a while disturbs all queries.
  - A difference counts only when it exceeds the spread of both measurements and what a slower machine explains, and
    when two more measurements confirm it.
  - Changes nothing. Check mode measures nothing - the server only plans the queries, which tells whether they would
    run.
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  database:
    description: The database to ask.
    type: str
    required: true
  queries:
    description:
      - Files of named queries on the controller, or directories (then every C(.yml) and C(.yaml) file in them).
      - A relative path is looked for like O(ansible.builtin.copy#module:src), in the role's files first.
      - At least one is required.
    type: list
    elements: str
  documents:
    description:
      - What O(queries) hold, as the action plugin reads them. Not for playbooks.
    type: list
    elements: dict
    default: []
  parameters:
    description:
      - Values in place of the defaults that files state under C(parameters).
      - They are bound by the driver. A name that no file states is refused.
    type: dict
    default: {}
  measure:
    description: Whether queries are run. Otherwise they are only planned, as in check mode.
    type: bool
    default: true
  runs:
    description: How often each query is measured.
    type: int
    default: 15
  warm_up_runs:
    description: How often each query is run before that, so that caches are warm.
    type: int
    default: 2
  timeout_s:
    description: The time limit in seconds for one run of a query that does not state its own.
    type: float
    default: 10
  total_timeout_s:
    description:
      - The time limit in seconds for all queries together. What was measured until then is compared.
      - A query that had no turn fails the task, unless O(fail_on=never).
    type: float
    default: 120
  baseline:
    description:
      - What to compare with - RV(ignore:active.measurement) of M(holdfast.postgres.timing_baseline), or the result of
        this module from an earlier task. Without it, queries are only measured.
    type: dict
  info_percent:
    description: By how many percent a query may become slower before that is a regression of level V(info).
    type: float
    default: 10
  warning_percent:
    description: The same for the level V(warning).
    type: float
    default: 20
  critical_percent:
    description: The same for the level V(critical).
    type: float
    default: 50
  min_difference_ms:
    description: A difference of fewer milliseconds never counts.
    type: float
    default: 0.1
  workload:
    description: Whether to read pg_stat_statements as well, where the database has that extension.
    type: bool
    default: true
  workload_before:
    description: RV(workload) of an earlier task; then RV(workload_change) tells what got slower since.
    type: dict
  fail_on:
    description: From which level on a regression fails the task.
    type: str
    choices: [critical, warning, info, never]
    default: critical
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Measure before a change
  holdfast.postgres.pg_timing:
    database: rently_lending
    queries: [timings/lending.yml]
    fail_on: never
  register: before

- name: See that nothing became slower
  holdfast.postgres.pg_timing:
    database: rently_lending
    queries: [timings/lending.yml]
    baseline: "{{ before }}"
    workload_before: "{{ before.workload }}"
"""

RETURN = r"""
timings:
  description: One entry for each query, in the order of the files. Also returned when something became worse.
  type: list
  elements: dict
  returned: when the files could be read and the database reached
  contains:
    group:
      description: Name of the set of queries that the file is.
      type: str
    name:
      description: Name of the query.
      type: str
    description:
      description: What the file says about it.
      type: str
    file:
      description: The file on the controller.
      type: str
    line:
      description: Line of the query in its file.
      type: int
    digest:
      description: Changes with the SQL and its parameters. Only equal ones are compared.
      type: str
    limit_ms:
      description: The longest time that the file allows, null when it states none.
      type: float
    status:
      description: V(measured), V(failed), V(timed_out), or V(not_measured) in check mode and when time was over.
      type: str
    message:
      description: Why it was not measured.
      type: str
    runs:
      description: How often it was measured.
      type: int
    samples_ms:
      description: Each time, of planning and execution together.
      type: list
      elements: float
    median_ms:
      description: The median of these. This and what follows is null for a query that was not measured.
      type: float
    p95_ms:
      description: The time that 95 % of the runs stayed below.
      type: float
    q1_ms:
      description: The first quartile.
      type: float
    q3_ms:
      description: The third quartile.
      type: float
    spread_ms:
      description: The distance of the two.
      type: float
    min_ms:
      description: The shortest time.
      type: float
    max_ms:
      description: The longest time.
      type: float
    planning_ms:
      description: How much of the median run was planning.
      type: float
    rows:
      description: How many rows it returned.
      type: int
    buffers:
      description: Pages of 8 kB in the median run - C(hit), C(read), C(dirtied), C(temp_read), C(temp_written).
      type: dict
    plan:
      description: The plan of the median run - its C(digest), the C(indexes) that it uses, and a short C(text).
      type: dict
regressions:
  description: What became worse, the worst first.
  type: list
  elements: dict
  returned: with RV(timings)
  contains:
    group:
      description: Name of the set.
      type: str
    name:
      description: Name of the query.
      type: str
    file:
      description: The file on the controller.
      type: str
    line:
      description: Line of the query in its file.
      type: int
    kind:
      description:
        - V(slower); V(limit), above its C(limit_ms); V(failed) and V(timed_out) for a query that does not run any more;
          V(plan), another plan that took no longer, a V(warning) when it looks at many more pages, else V(info).
      type: str
    level:
      description: V(info), V(warning) or V(critical).
      type: str
    message:
      description: One sentence with the numbers.
      type: str
    ratio:
      description: The median now by the median then, the slowness of the machine taken out.
      type: float
    baseline_ms:
      description: The median in the baseline.
      type: float
    current_ms:
      description: The median now.
      type: float
    plan_changed:
      description: Whether nodes or indexes differ.
      type: bool
    plan_before:
      description: The plan in the baseline, as in RV(timings[].plan).
      type: dict
    plan_now:
      description: The plan now.
      type: dict
not_compared:
  description: Queries without a counterpart in O(baseline), each with C(group), C(name), C(reason).
  type: list
  elements: dict
  returned: with RV(timings)
reference:
  description:
    - A computation without any table, measured like a query in the same rounds. It tells a slower machine from slower
      queries.
  type: dict
  returned: with RV(timings)
workload:
  description:
    - A reading of pg_stat_statements - C(available), C(reason), C(stats_reset), and C(statements) by queryid with
      C(calls), C(total_ms) and C(query). Null without O(workload).
  type: dict
  returned: with RV(timings)
workload_change:
  description:
    - What ran since O(workload_before) - C(compared), C(reason), C(calls), C(total_ms), C(new_statements), and
      C(slower), the statements whose mean got worse, each with C(queryid), C(query), C(calls), C(mean_before_ms),
      C(mean_since_ms), C(added_ms). It only informs.
  type: dict
  returned: with RV(timings)
database:
  description: The database that was asked.
  type: str
  returned: with RV(timings)
measured_at:
  description: When, in UTC.
  type: str
  returned: with RV(timings)
server_version:
  description: Version of the server, such as 180003.
  type: int
  returned: with RV(timings)
duration_s:
  description: How long all took together.
  type: float
  returned: with RV(timings)
summary:
  description: One sentence with the numbers.
  type: str
  returned: with RV(timings)
code:
  description: V(timing_regressed), V(timeout), V(suite_invalid) with its file and line, or another stable word.
  type: str
  returned: failure
"""

from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.comparison import Thresholds
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.timing import (
    FAIL_ON,
    Measuring,
    time_queries,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "database": {"type": "str", "required": True},
            "queries": {"type": "list", "elements": "str"},
            "documents": {"type": "list", "elements": "dict", "default": []},
            "parameters": {"type": "dict", "default": {}},
            "measure": {"type": "bool", "default": True},
            "runs": {"type": "int", "default": 15},
            "warm_up_runs": {"type": "int", "default": 2},
            "timeout_s": {"type": "float", "default": 10},
            "total_timeout_s": {"type": "float", "default": 120},
            "baseline": {"type": "dict"},
            "info_percent": {"type": "float", "default": 10},
            "warning_percent": {"type": "float", "default": 20},
            "critical_percent": {"type": "float", "default": 50},
            "min_difference_ms": {"type": "float", "default": 0.1},
            "workload": {"type": "bool", "default": True},
            "workload_before": {"type": "dict"},
            "fail_on": {"type": "str", "choices": list(FAIL_ON), "default": "critical"},
        },
        supports_check_mode=True,
    )
    options = module.params
    with failures_reported(module):
        result = time_queries(
            server=server_from(options),
            database=options["database"],
            documents=options["documents"],
            now=datetime.now(timezone.utc),
            parameters=options["parameters"],
            measuring=Measuring(
                runs=options["runs"],
                warm_up_runs=options["warm_up_runs"],
                timeout_s=options["timeout_s"],
                total_timeout_s=options["total_timeout_s"],
            ),
            thresholds=Thresholds(
                info_percent=options["info_percent"],
                warning_percent=options["warning_percent"],
                critical_percent=options["critical_percent"],
                min_difference_ms=options["min_difference_ms"],
            ),
            baseline=options["baseline"],
            workload=options["workload"],
            workload_before=options["workload_before"],
            execute=options["measure"] and not module.check_mode,
            fail_on=options["fail_on"],
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
