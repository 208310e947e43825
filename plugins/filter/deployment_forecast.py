# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: what a deployment is about to do."""

from __future__ import annotations

DOCUMENTATION = r"""
name: deployment_forecast
short_description: Say what a deployment is about to do, how large it is and how long it took before
version_added: 0.1.0
author: Holdfast maintainers (@holdfast)
description:
  - Returns a paragraph for the operator from what the modules predict in check mode and from the ledger.
options:
  _input:
    description: The archive, as M(holdfast.postgres.pg_backup) predicts it in check mode.
    type: dict
    required: true
  pending:
    description: The pending migrations, as M(holdfast.postgres.pg_migrate) returns them.
    type: list
    elements: dict
    required: true
  clone:
    description: The clone, as M(holdfast.postgres.pg_clone) predicts it in check mode; none where none is wanted.
    type: dict
  deployments:
    description: Earlier deployments, as M(holdfast.postgres.deployment) lists them, newest first.
    type: list
    elements: dict
  restored:
    description: Whether the archive is restored beside the live database instead of a clone.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Say what is about to happen
  ansible.builtin.debug:
    msg: "{{ predicted.archive | holdfast.postgres.deployment_forecast(pending=status.pending) }}"
"""

RETURN = r"""
_value:
  description: A paragraph.
  type: str
"""

from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.plugin_utils._forecast import forecast


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"deployment_forecast": forecast}
