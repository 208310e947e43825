# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: what speaks against a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: host_findings
short_description: What speaks against a host, and what to know of it
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Compares what the probe of the role P(holdfast.postgres.host_preflight#role) measured with what is asked for.
options:
  _input:
    description: Output of the probe.
    type: dict
    required: true
  facts:
    description: Facts of the host.
    type: dict
    required: true
  wishes:
    description: Variables of the role without their prefix.
    type: dict
    required: true
positional: _input
"""

EXAMPLES = r"""
- name: Say what speaks against this host
  ansible.builtin.debug:
    msg: "{{ (probe | holdfast.postgres.host_findings(facts=ansible_facts, wishes=wishes)).refusals }}"
"""

RETURN = r"""
_value:
  description: Sentences in C(refusals) and C(warnings).
  type: dict
"""

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast.postgres.plugins.plugin_utils._host import host_findings


def _host_findings(*args: Any, **kwargs: Any) -> Any:
    try:
        return host_findings(*args, **kwargs)
    except (KeyError, ValueError) as exc:
        raise AnsibleFilterError("host_findings: %s" % exc) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"host_findings": _host_findings}
