# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: the files of PgBouncer's instances, and what speaks against them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pgbouncer_plan
short_description: Files of PgBouncer's instances, and what speaks against them
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Works out the configuration of every instance for the version of PgBouncer that is there, and compares it with the
    host. It touches nothing.
options:
  _input:
    description: Instances, as the role P(holdfast.postgres.pgbouncer#role) takes them.
    type: list
    elements: dict
    required: true
  choices:
    description: Variables of the role without their prefix.
    type: dict
    required: true
  version:
    description: What C(pgbouncer --version) or C(apt-cache policy pgbouncer) says; the newest known version when empty.
    type: str
    required: true
  state:
    description: What was found on the host and on the server.
    type: dict
    required: true
  trial_dir:
    description: Directory for files with which PgBouncer starts beside the real one, reachable in there only.
    type: str
    default: ""
positional: _input
"""

EXAMPLES = r"""
- name: Work out the configuration
  ansible.builtin.set_fact:
    plan: "{{ instances | holdfast.postgres.pgbouncer_plan(choices=choices, version='PgBouncer 1.18.0', state={}) }}"
"""

RETURN = r"""
_value:
  description:
    - C(problems) and C(notes) are sentences, C(auth) is V(query) or V(userlist),
      C(instances) have their files, C(tls_files) say where certificates and keys go.
  type: dict
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._pgbouncer import pgbouncer_plan


def _pgbouncer_plan(*args: Any, **kwargs: Any) -> Any:
    try:
        return pgbouncer_plan(*args, **kwargs)
    except (KeyError, ValueError) as exc:
        raise AnsibleFilterError("pgbouncer_plan: %s" % exc) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"pgbouncer_plan": _pgbouncer_plan}
