# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: the SCRAM secret of a password."""

from __future__ import annotations

DOCUMENTATION = r"""
name: scram_secret
short_description: The SCRAM secret that PostgreSQL stores for a password
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns the secret that a role's C(rolpassword) and a userlist of PgBouncer hold, so that the password itself
    appears neither in a statement, nor in a log, nor on a disk.
  - The same role and password always give the same secret. A SCRAM secret is returned as it is.
options:
  _input:
    description: The password.
    type: str
    required: true
  role:
    description: Name of the role.
    type: str
    required: true
positional: _input, role
"""

EXAMPLES = r"""
- name: Keep the pooler's own login without a password on disk
  ansible.builtin.copy:
    dest: /etc/pgbouncer/userlist.txt
    content: '"pgbouncer" "{{ pooler_password | holdfast.postgres.scram_secret("pgbouncer") }}"'
    mode: "0640"
  no_log: true
"""

RETURN = r"""
_value:
  description: The secret, C(SCRAM-SHA-256$4096:...).
  type: str
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._scram import scram_secret


def _scram_secret(password: str, role: str) -> str:
    try:
        return scram_secret(password, role)
    except ValueError as exc:
        raise AnsibleFilterError(str(exc)) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"scram_secret": _scram_secret}
