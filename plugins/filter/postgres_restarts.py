# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: settings that need a restart."""

from __future__ import annotations

DOCUMENTATION = r"""
name: postgres_restarts
short_description: Settings that a running server takes only after a restart
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Compares settings as they are written with those of a running server, and returns the names that differ.
options:
  _input:
    description: Rows of C(pg_settings) whose context is C(postmaster), with name, setting, unit and vartype.
    type: list
    elements: dict
    required: true
  lines:
    description: Settings, as P(holdfast.postgres.postgres_lines#filter) returns them.
    type: dict
    required: true
positional: _input, lines
"""

EXAMPLES = r"""
- name: Predict a restart
  ansible.builtin.debug:
    msg: "{{ rows | holdfast.postgres.postgres_restarts(plan[0] | holdfast.postgres.postgres_lines) }}"
"""

RETURN = r"""
_value:
  description: Names of settings, sorted.
  type: list
  elements: str
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres import postgres_restarts


def _postgres_restarts(*args: Any, **kwargs: Any) -> Any:
    try:
        return postgres_restarts(*args, **kwargs)
    except (KeyError, ValueError) as exc:
        raise AnsibleFilterError("postgres_restarts: %s" % exc) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"postgres_restarts": _postgres_restarts}
