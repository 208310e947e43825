# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: what an undo will use and cost."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollback_plan
short_description: Choose what an undo will use, and say what it will cost
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Joins what the ledger knows (rollback points), what the server has (databases) and what the backup directory holds
    (archives) into one plan. It touches nothing.
options:
  _input:
    description: The live database, as M(holdfast.postgres.pg_database_info) returns it with its write counters.
    type: dict
    required: true
  databases:
    description: All databases of the server, as M(holdfast.postgres.pg_database_info) returns them.
    type: list
    elements: dict
    required: true
  rollback_points:
    description: Rollback points, newest first, as M(holdfast.postgres.deployment) returns them.
    type: list
    elements: dict
    required: true
  strategy:
    description: V(auto), V(clone), V(schema) or V(archive).
    type: str
    default: auto
  side_database:
    description: A database to use, whatever the ledger says.
    type: str
  archive:
    description: Path of an archive to use, whatever the ledger says.
    type: str
  deployments:
    description: Deployments of the ledger with their steps, newest first, which tell whether steps down are proven.
    type: list
    elements: dict
  schema_refused:
    description: Why the steps down cannot be used, if somebody has found that out.
    type: str
  archives:
    description: Archives, as M(holdfast.postgres.pg_backup_info) returns them, or nothing when nobody looked yet.
    type: list
    elements: dict
"""

EXAMPLES = r"""
- name: Choose what the undo will use
  ansible.builtin.set_fact:
    plan: >-
      {{ live | holdfast.postgres.rollback_plan(databases=found.databases, rollback_points=ledger.rollback_points) }}
"""

RETURN = r"""
_value:
  description: >-
    The plan: C(strategy), C(side_database), C(archive), C(expected_s), C(writes), C(skipped), C(needs_archives) and
    C(sentence).
  type: dict
"""

from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.plugin_utils._rollback_plan import rollback_plan


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"rollback_plan": rollback_plan}
