# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: whether a gate is open."""

from __future__ import annotations

DOCUMENTATION = r"""
name: gate_verdict
short_description: Decide whether a deployment may go on
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Holds what people signed, what machines found, and the time against the items of a gate. It touches nothing.
  - Whatever cannot be read or is not known counts as missing.
options:
  _input:
    description: The gate - items, kinds, people, blackouts and signatures; see the role P(holdfast.postgres.gate#role).
    type: dict
    required: true
  facts:
    description: The run - its kind, stage, time, operator, database, pending migrations and what its stages found.
    type: dict
    required: true
positional: _input, facts
"""

EXAMPLES = r"""
- name: Hold the deployment against its gate
  ansible.builtin.set_fact:
    verdict: "{{ gate | holdfast.postgres.gate_verdict(facts) }}"
"""

RETURN = r"""
_value:
  description: >-
    The verdict: C(ok), C(code), C(kind), C(stage), C(evaluated_at), C(operator), C(target), C(digest), C(window),
    C(items), C(missing) and C(message).
  type: dict
"""

from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.plugin_utils._gate import gate_verdict


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"gate_verdict": gate_verdict}
