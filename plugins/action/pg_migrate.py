# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads migrations where they are kept, on the controller, and hands their contents to the module."""

from __future__ import annotations

import base64
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    SourceFile,
    options_from,
    read_directories,
)


class ActionModule(ActionBase):
    """Run holdfast.postgres.pg_migrate with ``files`` read from ``source``."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, or the failure that names the directory or file."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            if not boolean(arguments.get("remote_src", False), strict=False):
                directories = [self._directory(path) for path in _paths(arguments.get("source"))]
                arguments["files"] = [_argument(f) for f in read_directories(directories, options_from(arguments))]
        except HoldfastError as exc:
            return {**result, "failed": True, "changed": False, "applied": [], **exc.as_result()}
        result.update(
            self._execute_module(
                module_name="holdfast.postgres.pg_migrate", module_args=arguments, task_vars=task_vars, tmp=tmp
            )
        )
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


def _paths(source: Any) -> list[str]:
    if source is None:
        return []
    return [part.strip() for part in source.split(",")] if isinstance(source, str) else [str(path) for path in source]


def _argument(file: SourceFile) -> dict[str, Any]:
    # Base64 keeps every byte, and nothing in it can be taken for a template.
    argument: dict[str, Any] = {"path": file.path, "content": base64.b64encode(file.content).decode("ascii")}
    return {**argument, "beside": [_argument(each) for each in file.beside]} if file.beside else argument
