# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: what of a deployment is to be rehearsed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rehearsal_plan
short_description: Choose what of a deployment is to be rehearsed, and how
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Decides between a rehearsal on all rows, one of the schema alone and none, and which steps down can be tried. It
    touches nothing.
options:
  _input:
    description: The pending migrations, as M(holdfast.postgres.pg_migrate) returns them.
    type: list
    elements: dict
    required: true
  mode:
    description: What is wanted, V(full), V(schema) or V(off).
    type: str
    default: full
  archive:
    description: The archive of the deployment, as M(holdfast.postgres.pg_backup) returns it.
    type: dict
  layout:
    description: The layout of the migrations. A program of its own is not rehearsed.
    type: str
  max_bytes:
    description: The largest database to rehearse with its rows; no limit when V(0).
    type: int
    default: 0
  time_budget_s:
    description: The longest restore, in seconds, for a rehearsal with rows; no limit when V(0).
    type: float
    default: 0
  deployments:
    description: Deployments of the ledger with their steps, newest first, which tell how long it took before.
    type: list
    elements: dict
"""

EXAMPLES = r"""
- name: Choose what is to be rehearsed
  ansible.builtin.set_fact:
    plan: "{{ status.pending | holdfast.postgres.rehearsal_plan(archive=backup.archive, max_bytes=50000000000) }}"
"""

RETURN = r"""
_value:
  description: >-
    The plan: C(mode), C(notes), C(versions), C(target), C(base), C(tries_downs), C(whole) and C(expected_s).
  type: dict
"""

from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.plugin_utils._rehearsal import rehearsal_plan


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"rehearsal_plan": rehearsal_plan}
