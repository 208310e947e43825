# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: settings as they are written."""

from __future__ import annotations

DOCUMENTATION = r"""
name: postgres_lines
short_description: Settings of a cluster as postgresql.conf spells them
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns the settings of one cluster, none of them below what a standby needs to follow its primary.
options:
  _input:
    description: A cluster, as P(holdfast.postgres.postgres_plan#filter) returns it.
    type: dict
    required: true
  control:
    description: Output of C(pg_controldata) of a standby; empty otherwise.
    type: str
    default: ""
positional: _input, control
"""

EXAMPLES = r"""
- name: See the settings of the first cluster
  ansible.builtin.debug:
    msg: "{{ plan[0] | holdfast.postgres.postgres_lines }}"
"""

RETURN = r"""
_value:
  description: Spelled values by name.
  type: dict
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres import postgres_lines


def _postgres_lines(*args: Any, **kwargs: Any) -> Any:
    try:
        return postgres_lines(*args, **kwargs)
    except (KeyError, ValueError) as exc:
        raise AnsibleFilterError("postgres_lines: %s" % exc) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"postgres_lines": _postgres_lines}
