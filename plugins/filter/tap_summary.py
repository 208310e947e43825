# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: how recorded runs of tests went lately."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tap_summary
short_description: Say how recorded runs of tests went lately, by category
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns the averages of each category of pgTAP tests over the runs that the role tap has recorded.
options:
  _input:
    description: Deployments with their steps, as M(holdfast.postgres.deployment) lists them.
    type: list
    elements: dict
    required: true
  hours:
    description: How far back to look.
    type: float
    default: 24
"""

EXAMPLES = r"""
- name: Say how tests went
  ansible.builtin.debug:
    msg: "{{ (ledger.deployments | holdfast.postgres.tap_summary(hours=24)).text }}"
"""

RETURN = r"""
_value:
  description:
    - A mapping with C(categories), rows with C(category), C(executions), C(planned_tests), C(failed_tests),
      C(avg_success_rate), C(avg_duration_s), C(first_execution) and C(last_execution), and C(text), a list of lines.
  type: dict
"""

from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.plugin_utils._tap_summary import tap_summary


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"tap_summary": tap_summary}
