#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep baselines of query times in the ledger."""

from __future__ import annotations

DOCUMENTATION = r"""
module: timing_baseline
short_description: Keep baselines of query times in the ledger
version_added: 0.1.0
description:
  - Keeps what M(holdfast.postgres.pg_timing) measured as a version of the baseline of one environment and one database.
    Nothing becomes the baseline by itself - a version is established, and then it is activated.
  - At most one version is active. Deployments are compared with it.
  - The page "baselines and regressions" of the collection's documentation describes when to establish a new one.
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  state:
    description:
      - V(established) stores O(measurement) as the next version. The same measurement is stored once.
      - V(activated) makes one version the active one, V(deactivated) leaves none active.
      - V(listed) changes nothing.
    type: str
    choices: [established, activated, deactivated, listed]
    required: true
  live_database:
    description: Name of the live database whose queries were measured.
    type: str
    required: true
  environment:
    description: The environment. Times of a test host do not tell what production should take.
    type: str
    default: default
  measurement:
    description: What M(holdfast.postgres.pg_timing) returned. Every query must have been measured.
    type: dict
  activate:
    description: Whether O(state=established) activates the version as well.
    type: bool
    default: false
  version:
    description: The version that O(state=activated) is about; the newest when left out.
    type: int
  operator:
    description: Who does it.
    type: str
  deployment_id:
    description: The run in which it was measured.
    type: str
  note:
    description: Why, in a few words.
    type: str
  ledger_database:
    description: Name of the ledger's database, which is made when it is not there.
    type: str
    default: holdfast
  must_read:
    description:
      - Whether O(state=listed) fails when the ledger cannot be reached. Otherwise it warns, and no baseline is known.
    type: bool
    default: true
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Measure
  holdfast.postgres.pg_timing:
    database: rently_lending
    queries: [timings/lending.yml]
    runs: 50
  register: measured

- name: Make this the baseline of production
  holdfast.postgres.timing_baseline:
    state: established
    activate: true
    environment: production
    live_database: rently_lending
    measurement: "{{ measured }}"
    note: after the new indexes of version 2

- name: Return to the first one
  holdfast.postgres.timing_baseline:
    state: activated
    environment: production
    live_database: rently_lending
    version: 1
"""

RETURN = r"""
active:
  description: The active version, null when there is none.
  type: dict
  returned: success
  contains: &baseline
    environment:
      description: The environment.
      type: str
    database:
      description: The live database.
      type: str
    version:
      description: Number of the version, from 1 on.
      type: int
    active:
      description: Whether it is the active one.
      type: bool
    established_at:
      description: When it was stored, in UTC.
      type: str
    established_by:
      description: Who did that.
      type: str
    activated_at:
      description: When it was activated last, null for never.
      type: str
    activated_by:
      description: Who did that.
      type: str
    deployment_id:
      description: The run in which it was measured.
      type: str
    note:
      description: Why.
      type: str
    measurement:
      description: What to pass to O(holdfast.postgres.pg_timing#module:baseline). Only in RV(active).
      type: dict
baselines:
  description: All versions, newest first, each with C(measured_at) and the number of its C(queries).
  type: list
  elements: dict
  returned: success
  contains: *baseline
code:
  description: V(baseline_not_found), V(ledger_unavailable), V(option_invalid) or another stable word.
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
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.baseline import STATES, keep_baseline


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "state": {"type": "str", "choices": list(STATES), "required": True},
            "live_database": {"type": "str", "required": True},
            "environment": {"type": "str", "default": "default"},
            "measurement": {"type": "dict"},
            "activate": {"type": "bool", "default": False},
            "version": {"type": "int"},
            "operator": {"type": "str"},
            "deployment_id": {"type": "str"},
            "note": {"type": "str"},
            "ledger_database": {"type": "str", "default": "holdfast"},
            "must_read": {"type": "bool", "default": True},
        },
        required_if=[("state", "established", ["measurement"])],
        supports_check_mode=True,
    )
    with failures_reported(module):
        result = keep_baseline(
            module.params,
            server=server_from(module.params),
            now=datetime.now(timezone.utc),
            check_mode=module.check_mode,
        )
        for warning in result.pop("warnings"):
            module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
