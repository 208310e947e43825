# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: what PgBouncer's instances must do to have read their files."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pgbouncer_actions
short_description: Instances of PgBouncer that must restart or reload to have read their files
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Compares when files were written with when each instance was started and last read them.
options:
  _input:
    description: The C(instances) of P(holdfast.postgres.pgbouncer_plan#filter).
    type: list
    elements: dict
    required: true
  times:
    description: When files were modified, by path, in seconds.
    type: dict
    required: true
  unit_time:
    description: When the unit was modified, in seconds.
    type: float
    required: true
  starting:
    description: Names of instances that were started just now.
    type: list
    elements: str
    default: []
  predicted:
    description: Paths of files that check mode would write.
    type: list
    elements: str
    default: []
positional: _input
"""

EXAMPLES = r"""
- name: Say who restarts
  ansible.builtin.debug:
    msg: "{{ (plan.instances | holdfast.postgres.pgbouncer_actions(times=times, unit_time=0)).reasons }}"
"""

RETURN = r"""
_value:
  description: C(restart) and C(reload) are names of instances, C(reasons) are sentences about restarts.
  type: dict
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._pgbouncer import pgbouncer_actions


def _pgbouncer_actions(*args: Any, **kwargs: Any) -> Any:
    try:
        return pgbouncer_actions(*args, **kwargs)
    except (KeyError, ValueError) as exc:
        raise AnsibleFilterError("pgbouncer_actions: %s" % exc) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"pgbouncer_actions": _pgbouncer_actions}
