# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: clusters of a host, complete."""

from __future__ import annotations

DOCUMENTATION = r"""
name: postgres_plan
short_description: Clusters of a host with all that their files say
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns for every cluster its paths, its unit, its settings as they are written, and the lines of C(pg_hba.conf) and
    C(pg_ident.conf). No password is in it. The role P(holdfast.postgres.postgres#role) works from this.
  - Fails on what cannot be written, such as an authentication method that is not strict.
options:
  _input:
    description: The clusters, as O(holdfast.postgres.postgres#role:postgres_clusters) describes them.
    type: list
    elements: dict
    required: true
  facts:
    description: Facts of the host.
    type: dict
    required: true
  defaults:
    description: Variables of the role without their prefix, for what a cluster does not name.
    type: dict
    required: true
positional: _input
"""

EXAMPLES = r"""
- name: Work out the clusters of this host
  ansible.builtin.set_fact:
    plan: "{{ postgres_clusters | holdfast.postgres.postgres_plan(facts=ansible_facts, defaults=postgres_choices) }}"
"""

RETURN = r"""
_value:
  description: >-
    Per cluster C(id), C(version), C(name), C(port), C(data_dir), C(conf_dir), C(bin_dir), C(unit), C(encoding),
    C(locale), C(replica), C(tls), C(extensions), C(settings), C(lines), C(hba), C(ident), among others.
  type: list
  elements: dict
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres import postgres_plan


def _postgres_plan(*args: Any, **kwargs: Any) -> Any:
    try:
        return postgres_plan(*args, **kwargs)
    except (KeyError, ValueError) as exc:
        raise AnsibleFilterError("postgres_plan: %s" % exc) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"postgres_plan": _postgres_plan}
