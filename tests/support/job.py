# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job on a test server: the playbooks as an operator runs them, against the sample lending platform."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import (
    compare_fingerprints,
    take_fingerprint,
)
from tests.support.modules import ROOT, run_playbook
from tests.support.server import TestServer

EXAMPLE = ROOT / "examples" / "rently"


class Job:
    """One inventory of its own: a server, a live database, directories for archives and reports."""

    def __init__(self, server: TestServer, directory: pathlib.Path, *, database: str = "rently_lending") -> None:
        self.server = server
        self.database = database
        self.directory = directory
        self.inventory = directory / "inventory.json"
        self.write_inventory()

    def write_inventory(self, **variables: Any) -> None:
        """Write the inventory, with ``variables`` on top of the usual ones."""
        suites = EXAMPLE / "suites"
        content = {
            "holdfast": {
                "hosts": {
                    "here": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
                },
                "vars": {
                    "holdfast_login": self.server.login,
                    "holdfast_database": self.database,
                    "holdfast_bin_dir": str(self.server.bin_dir),
                    "holdfast_backup_dir": str(self.directory / "backups"),
                    "holdfast_report_dir": str(self.directory / "reports"),
                    "migrate_directories": [str(EXAMPLE / "migrations")],
                    "migrate_role": "rently_owner",
                    # A rehearsal has tests of its own.
                    "rehearse_mode": "off",
                    "preflight_suites": [str(suites / "pre.yml")],
                    "verify_suites": [str(suites / "post.yml"), str(suites / "data_quality.yml")],
                    "rollback_suites": [str(suites / "emergency.yml")],
                    **variables,
                },
            }
        }
        self.inventory.touch(mode=0o600)
        self.inventory.write_text(json.dumps(content), encoding="utf-8")

    def play(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the playbooks."""
        return run_playbook(ROOT / "playbooks" / (name + ".yml"), *arguments, inventory=self.inventory)

    def set_up(self, *, rows: int = 2000) -> None:
        """Create the sample at version 1."""
        completed = run_playbook(
            EXAMPLE / "setup.yml",
            "-e",
            json.dumps({"rently_rows": rows, "rently_database": self.database}),
            inventory=self.inventory,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr

    def report(self) -> dict[str, Any]:
        """The newest report."""
        path = self.directory / "reports" / "latest" / "report.json"
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def version(self, database: str | None = None) -> str:
        """The schema version that serves."""
        query = "SELECT version FROM public.schema_version ORDER BY applied_at DESC LIMIT 1"
        return str(self.server.execute(query, database=database or self.database)[0][0])

    def fingerprint(self, database: str | None = None) -> Any:
        """The fingerprint of the live (or another) database."""
        return take_fingerprint(server=self.server.server, database=database or self.database)

    def differences(self, before: Any, after: Any) -> list[Any]:
        """What differs between two fingerprints."""
        return compare_fingerprints(before, after)


def changed(completed: subprocess.CompletedProcess[str]) -> int:
    """The number of changed tasks, as the recap says."""
    found = re.search(r"changed=(\d+)", completed.stdout)
    assert found, completed.stdout + completed.stderr
    return int(found.group(1))
