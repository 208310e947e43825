# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: the report of a run."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report_document
short_description: Join what the stages of a run returned into its report
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns the document that the role P(holdfast.postgres.report#role) writes as JSON and as a page.
options:
  _input:
    description: The record of the run, as M(holdfast.postgres.deployment) returns it.
    type: dict
    required: true
  facts:
    description: What the stages registered; see the role's variables.
    type: dict
    required: true
positional: _input, facts
"""

EXAMPLES = r"""
- name: Build the report
  ansible.builtin.set_fact:
    document: "{{ closed.deployment | holdfast.postgres.report_document(facts) }}"
"""

RETURN = r"""
_value:
  description: >-
    The report: C(deployment), C(steps), C(backup), C(lint), C(rehearsal), C(migrations), C(checks), C(timings),
    C(rollback), C(gate), C(failure), C(further_failures), C(versions), C(table), C(summary) and C(ok), and what the
    ledger has not heard of yet: C(steps_to_record), C(checks_to_record) and C(point_to_record).
  type: dict
"""

from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.plugin_utils._report import report_document


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"report_document": report_document}
