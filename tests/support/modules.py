# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running modules and playbooks as Ansible runs them, from tests."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_module(name: str, arguments: dict[str, Any], *, check: bool = False, diff: bool = False) -> dict[str, Any]:
    """Run one module through Ansible (action plugin included) and return its result, with ``failed`` always set."""
    with tempfile.TemporaryDirectory(prefix="holdfast-run-") as directory:
        play = [
            {
                "hosts": "localhost",
                "gather_facts": False,
                "connection": "local",
                "vars": {"ansible_python_interpreter": sys.executable},
                "tasks": [
                    {
                        "name": "Run the module",
                        "holdfast.postgres." + name: arguments,
                        "register": "outcome",
                        "ignore_errors": True,
                    },
                    {
                        "name": "Keep its result",
                        "ansible.builtin.copy": {
                            "content": "{{ outcome | to_json }}",
                            "dest": directory + "/result.json",
                            "mode": "0600",
                        },
                        "check_mode": False,
                        "no_log": True,
                    },
                ],
            }
        ]
        path = pathlib.Path(directory) / "play.json"
        path.write_text(json.dumps(play), encoding="utf-8")
        completed = run_playbook(
            path, *(["--check"] if check else []), *(["--diff"] if diff else []), inventory="localhost,"
        )
        result_path = pathlib.Path(directory) / "result.json"
        assert result_path.exists(), completed.stdout + completed.stderr
        result = json.loads(result_path.read_text(encoding="utf-8"))
    result.setdefault("failed", False)
    return dict(result)


def run_playbook(
    path: pathlib.Path,
    *arguments: str,
    inventory: str | pathlib.Path | None = None,
    environment: dict[str, str] | None = None,
    timeout_s: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook from the checkout and return what it did, whatever its exit code."""
    program = pathlib.Path(sys.executable).parent / "ansible-playbook"
    argv = [str(program), *(["-i", str(inventory)] if inventory else []), str(path), *arguments]
    return subprocess.run(
        argv,
        cwd=str(ROOT),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_NOCOLOR": "1",
            **(environment or {}),
        },
    )
