# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: what a rehearsal has shown."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rehearsal_record
short_description: Judge a rehearsal from what its tasks returned
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns what the ledger, the report and an undo by steps down need to know of a rehearsal.
options:
  _input:
    description: The plan, as P(holdfast.postgres.rehearsal_plan#filter) returns it.
    type: dict
    required: true
  facts:
    description: What the tasks registered; see the variables of the role.
    type: dict
    required: true
positional: _input, facts
"""

EXAMPLES = r"""
- name: Judge the rehearsal
  ansible.builtin.set_fact:
    record: "{{ plan | holdfast.postgres.rehearsal_record(facts) }}"
"""

RETURN = r"""
_value:
  description: >-
    The record: C(mode), C(notes), C(versions) with durations and statements, C(proven), C(restores_rows), C(rows_lost),
    C(schema_differences), C(gains), C(problem), C(locks), C(up_ms) and C(down_ms).
  type: dict
"""

from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.plugin_utils._rehearsal import rehearsal_record


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"rehearsal_record": rehearsal_record}
