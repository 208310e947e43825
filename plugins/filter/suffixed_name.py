# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: a name for a side database."""

from __future__ import annotations

DOCUMENTATION = r"""
name: suffixed_name
short_description: Append a suffix to a database name, within PostgreSQL's 63 bytes
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns the name with the suffix appended. Where the result would exceed 63 bytes, the name is shortened at a
    character boundary, so that the suffix stays whole.
options:
  _input:
    description: The name.
    type: str
    required: true
  suffix:
    description: What to append.
    type: str
    required: true
positional: _input, suffix
"""

EXAMPLES = r"""
- name: Name the clone that an undo would use
  ansible.builtin.debug:
    msg: "{{ 'rently_lending' | holdfast.postgres.suffixed_name('_before_20261120T221500Z-7f3a') }}"
"""

RETURN = r"""
_value:
  description: A name of at most 63 bytes.
  type: str
"""

from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import suffixed_name


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"suffixed_name": suffixed_name}
