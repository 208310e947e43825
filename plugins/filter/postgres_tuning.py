# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: settings of PostgreSQL that follow from the host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: postgres_tuning
short_description: Settings of PostgreSQL that follow from the host
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns settings for one cluster from the host's memory, processors and kind of disk. What is given in O(overrides)
    stays as it is, and what depends on it follows.
options:
  _input:
    description: Facts of the host, C(ansible_facts) with memory, processors, mounts and devices.
    type: dict
    required: true
  overrides:
    description: Settings that are decided already.
    type: dict
    default: {}
  max_connections:
    description: Connections, where the overrides name none.
    type: int
    default: 200
  memory_mb:
    description: Memory to use, in megabytes; that of the host when 0.
    type: int
    default: 0
  clusters:
    description: How many clusters share the host.
    type: int
    default: 1
  disk:
    description: V(ssd), V(hdd), or V(auto) to ask the facts.
    type: str
    default: auto
  data_dir:
    description: Directory whose disk counts.
    type: str
    default: /var/lib/postgresql
positional: _input, overrides
"""

EXAMPLES = r"""
- name: See what this host would get
  ansible.builtin.debug:
    msg: "{{ ansible_facts | holdfast.postgres.postgres_tuning({'work_mem': '64MB'}) }}"
"""

RETURN = r"""
_value:
  description: Settings by name, sizes with their unit.
  type: dict
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._tuning import postgres_tuning


def _postgres_tuning(*args: Any, **kwargs: Any) -> Any:
    try:
        return postgres_tuning(*args, **kwargs)
    except (KeyError, ValueError) as exc:
        raise AnsibleFilterError("postgres_tuning: %s" % exc) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"postgres_tuning": _postgres_tuning}
