# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads suites where they are kept, on the controller, and hands their contents to the module."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite

SUFFIXES = (".yml", ".yaml")


class ActionModule(ActionBase):
    """Run holdfast.postgres.pg_check with ``documents`` in place of ``suites``."""

    MODULE = "holdfast.postgres.pg_check"
    #: The option that names files on the controller.
    FILES = "suites"

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, or the failure that names file and line."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        suites = arguments.pop(self.FILES, None)
        try:
            if suites:
                arguments["documents"] = [
                    read_suite(self._text(path), file=path) for path in self._files(_names(suites))
                ]
        except HoldfastError as exc:
            return {**result, "failed": True, "changed": False, **exc.as_result()}
        result.update(
            self._execute_module(module_name=self.MODULE, module_args=arguments, task_vars=task_vars, tmp=tmp)
        )
        return result

    def _files(self, names: list[str]) -> list[str]:
        """Return the paths of all suites: files as named, those of directories in the order of their names."""
        files: dict[str, None] = {}
        for name in names:
            try:
                found = self._find_needle("files", name)
            except AnsibleError as exc:
                raise _not_found(name, str(exc)) from exc
            if not os.path.isdir(found):
                files[found] = None
                continue
            members = sorted(
                entry for entry in os.listdir(found) if entry.endswith(SUFFIXES) and not entry.startswith(".")
            )
            if not members:
                raise _not_found(name, "the directory %s holds no file that ends in .yml or .yaml." % found)
            files.update({os.path.join(found, member): None for member in members})
        return list(files)

    def _text(self, path: str) -> str:
        try:
            return str(self._loader.get_text_file_contents(path))
        except AnsibleError as exc:
            raise _not_found(path, str(exc)) from exc


def _names(suites: Any) -> list[str]:
    return [suites] if isinstance(suites, str) else [str(name) for name in suites]


def _not_found(name: str, reason: str) -> HoldfastError:
    return HoldfastError(
        code="suite_invalid",
        msg="The suite %s cannot be read: %s" % (name, reason),
        hint="Paths are of the controller: absolute, or relative to the role's files, the playbook or its files.",
        file=name,
    )
