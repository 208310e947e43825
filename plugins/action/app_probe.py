# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuses probes that cannot be understood on the controller, where no value of them is shown, and then asks them."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.probe_plan import (
    parse_logins,
    parse_probes,
)


class ActionModule(ActionBase):
    """Run holdfast.postgres.app_probe.

    A module that is given an unknown key repeats all its arguments at -vvv, and knows a secret only where it expects
    one; so a mistyped key must not reach it.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, or the refusal."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            parse_probes(arguments.get("probes"), logins=parse_logins(arguments.get("logins")))
        except HoldfastError as exc:
            if exc.code != "library_missing":  # the host that asks may have it
                return {**result, "failed": True, "changed": False, **exc.as_result()}
        result.update(
            self._execute_module(
                module_name="holdfast.postgres.app_probe", module_args=arguments, task_vars=task_vars, tmp=tmp
            )
        )
        return result
