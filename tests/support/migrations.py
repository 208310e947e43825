# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running migrations from tests: in this process, or in one that a test may kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import Options, SourceFile
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate
from tests.support.modules import ROOT
from tests.support.server import TestServer

#: The layout is found out, and nothing is left out of it.
DETECTED = Options()


def run(
    server: TestServer | Server,
    database: str,
    files: Mapping[str, str],
    *,
    state: str = "applied",
    check: bool = False,
    options: Options = DETECTED,
    **settings: Any,
) -> dict[str, Any]:
    """Migrate with ``files``, texts by names such as ``1_a.up.sql``; return the result of the engine."""
    return migrate(
        server=server if isinstance(server, Server) else server.server,
        database=database,
        files=[SourceFile("/m/" + name, text.encode()) for name, text in files.items()],
        state=state,
        settings=Settings(**{"bin_dir": str(getattr(server, "bin_dir", "")), **settings}),
        check=check,
        options=options,
    )


def start(
    server: TestServer,
    database: str,
    files: Mapping[str, str],
    *,
    options: Options = DETECTED,
    **settings: Any,
) -> subprocess.Popen[str]:
    """Start the same in a process of its own; it prints its result, or ``msg`` when it fails."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=str(ROOT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    json.dump(
        {
            "server": {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password},
            "database": database,
            "files": dict(files),
            "options": asdict(options),
            "settings": {"bin_dir": str(server.bin_dir), **settings},
        },
        process.stdin,
    )
    process.stdin.close()
    process.stdin = None  # so that communicate() leaves it alone
    return process


PROGRAM = """
import sys
sys.path[:0] = [".", ".collections"]
from tests.support.migrations import main
main()
"""


def main() -> None:
    """Do what `start` was told."""
    order = json.load(sys.stdin)
    print("started", flush=True)
    migrate(
        server=Server(**order["server"]),
        database=order["database"],
        files=[SourceFile("/m/" + name, text.encode()) for name, text in order["files"].items()],
        state="applied",
        settings=Settings(**order["settings"]),
        options=Options(**order["options"]),
    )
    print("finished", flush=True)


def runner_sessions(server: TestServer, database: str) -> list[tuple]:
    """The sessions of migration runners on a database."""
    return server.execute(
        "SELECT pid, query FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'holdfast migrate%%'",
        (database,),
    )
