# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: what speaks against touching a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: postgres_problems
short_description: Reasons not to touch a host
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Compares planned clusters with the host and with each other, and returns every reason to refuse with what to do.
options:
  _input:
    description: Clusters, as P(holdfast.postgres.postgres_plan#filter) returns them.
    type: list
    elements: dict
    required: true
  facts:
    description: Facts of the host.
    type: dict
    required: true
  defaults:
    description: Variables of the role without their prefix.
    type: dict
    required: true
  packaged:
    description: Versions that the distribution holds; nothing is said about versions when empty.
    type: list
    elements: str
    required: true
  state:
    description: What was found on the host, in C(clusters), C(paths), C(listening), C(certificate) and C(identities).
    type: dict
    required: true
positional: _input
"""

EXAMPLES = r"""
- name: List what speaks against it
  ansible.builtin.debug:
    msg: >-
      {{ plan | holdfast.postgres.postgres_problems(facts=ansible_facts, defaults=choices, packaged=['15'], state={}) }}
"""

RETURN = r"""
_value:
  description: Sentences; empty when nothing speaks against it.
  type: list
  elements: str
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres_problems import postgres_problems


def _postgres_problems(*args: Any, **kwargs: Any) -> Any:
    try:
        return postgres_problems(*args, **kwargs)
    except (KeyError, ValueError) as exc:
        raise AnsibleFilterError("postgres_problems: %s" % exc) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"postgres_problems": _postgres_problems}
