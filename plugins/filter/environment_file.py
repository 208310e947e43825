# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: an environment file from variables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: environment_file
short_description: An environment file that a shell and systemd read alike
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns one quoted line for each variable, so that C(EnvironmentFile=) of systemd and C(. file) of a POSIX shell
    both arrive at the same value, whatever characters it has. Empty values are left out.
options:
  _input:
    description: Values by name.
    type: dict
    required: true
positional: _input
"""

EXAMPLES = r"""
- name: Tell the application where its database is
  ansible.builtin.copy:
    dest: /etc/holdfast/database.env
    content: "{{ {'PGHOST': 'db1.internal', 'PGPORT': 5432} | holdfast.postgres.environment_file }}"
    mode: "0640"
"""

RETURN = r"""
_value:
  description: The content of the file.
  type: str
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._environment import environment_file


def _environment_file(variables: Any) -> str:
    try:
        return environment_file(variables)
    except ValueError as exc:
        raise AnsibleFilterError("environment_file: %s" % exc) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"environment_file": _environment_file}
