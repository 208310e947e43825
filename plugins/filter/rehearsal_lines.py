# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: a rehearsal in a few lines."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rehearsal_lines
short_description: Say in a few lines what a rehearsal has shown
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns lines of text for a terminal.
options:
  _input:
    description: The record, as P(holdfast.postgres.rehearsal_record#filter) returns it.
    type: dict
    required: true
  statements:
    description: Whether every statement gets a line with its time, rows and locks.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Say what the rehearsal has shown
  ansible.builtin.debug:
    msg: "{{ record | holdfast.postgres.rehearsal_lines }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.plugin_utils._rehearsal import rehearsal_lines


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"rehearsal_lines": rehearsal_lines}
