# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads migrations and runs squawk on the controller, and has the module ask the live catalog on the managed host."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import lint
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.findings import OFF, finding_from
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    Migration,
    migrations,
    options_from,
    read_directories,
)

MODULE = "holdfast.postgres.pg_migrate_lint"


class ActionModule(ActionBase):
    """Run holdfast.postgres.pg_migrate_lint on what was read from ``source``."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result joined with what squawk says."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if boolean(arguments.get("remote_src", False), strict=False):
            return {**result, **self._execute_module(MODULE, module_args=arguments, task_vars=task_vars, tmp=tmp)}
        try:
            options = _options(arguments)
            layout = options_from(arguments)
            directories = [self._directory(path) for path in _words(arguments.get("source"))]
            found = migrations(read_directories(directories, layout), layout)
            return {
                **result,
                **self._lint(arguments, options, lint.chosen(found, _words(arguments.get("versions"))), task_vars, tmp),
            }
        except HoldfastError as exc:
            return {**result, "failed": True, "changed": False, "findings": [], **exc.as_result()}

    def _lint(
        self,
        arguments: dict[str, Any],
        options: dict[str, Any],
        chosen: Sequence[Migration],
        task_vars: Any,
        tmp: Any,
    ) -> dict[str, Any]:
        subjects = lint.examine(chosen)
        arguments["subjects"] = [subject.as_dict() for subject in subjects]
        answer = self._execute_module(MODULE, module_args=arguments, task_vars=task_vars, tmp=tmp)
        if answer.get("failed"):
            return {**answer, "findings": []}
        result, warnings = lint.result(
            map(finding_from, answer["findings"]),
            selected=chosen,
            subjects=subjects,
            server_version=answer["server_version"],
            options=options,
            environment=dict(os.environ),
        )
        for warning in warnings:
            Display().warning(warning)
        return result

    def _directory(self, path: str) -> str:
        try:
            return str(self._find_needle("files", path))
        except AnsibleError as exc:
            raise HoldfastError(
                code="migration_invalid",
                msg="The directory of migrations %s was not found: %s" % (path, " ".join(str(exc).split())),
                hint="Paths are of the controller: absolute, or relative to the role's files, the playbook or its"
                " files. Set remote_src for directories of the managed host.",
                path=path,
            ) from exc


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are read here, checked and with their defaults."""
    given = {key: arguments[key] for key in lint.OPTIONS if arguments.get(key) is not None}
    if given.get("squawk") is False:  # off, as YAML reads it
        given["squawk"] = OFF
    checked = ArgumentSpecValidator(lint.OPTIONS).validate(given)
    if checked.error_messages:
        raise HoldfastError(
            code="option_invalid", msg="; ".join(checked.error_messages) + ".", hint="See ansible-doc of the module."
        )
    return dict(checked.validated_parameters)


def _words(value: Any) -> list[str]:
    """Return a list as the module would read it."""
    if value is None:
        return []
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else [str(item) for item in value]
