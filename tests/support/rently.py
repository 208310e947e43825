# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample lending platform on a test server: its versions, its data, its suites."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import check_database
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite
from tests.support.modules import ROOT
from tests.support.server import TestServer

EXAMPLE = ROOT / "examples" / "rently"
V1 = "migrations/v1.0.0_lending_platform"
V2 = "migrations/v2.0.0_enhanced_collections_and_status_tracking"
BROKEN = "broken/v2.1.0_consolidate_payments"

# As much of the runner's history as the suites read.
HISTORY = """
CREATE TABLE IF NOT EXISTS public.schema_version (
    version text PRIMARY KEY, description text, applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""


def step(server: TestServer, database: str, migration: str, file: str = "up") -> None:
    """Run one file of a migration in one transaction, and keep the history as the runner does."""
    server.execute((EXAMPLE / migration / (file + ".sql")).read_text(encoding="utf-8"), database=database)
    version = pathlib.PurePath(migration).name.partition("_")[0]
    if file == "up":
        server.execute(HISTORY, database=database)
        server.execute("INSERT INTO public.schema_version (version) VALUES (%s)", (version,), database=database)
    elif file == "down":
        server.execute("DELETE FROM public.schema_version WHERE version = %s", (version,), database=database)


def generate(server: TestServer, database: str, *, rows: int = 2000, seed: int = 1) -> subprocess.CompletedProcess[str]:
    """Run the generator as a person does, with the password out of its arguments."""
    dsn = server.server.conninfo(database)
    return subprocess.run(
        [sys.executable, str(EXAMPLE / "generate.py"), "--dsn", dsn, "--rows", str(rows), "--seed", str(seed)],
        env={**os.environ, "PGPASSWORD": server.password},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def run_suite(server: TestServer, database: str, suite: str, **parameters: Any) -> dict[str, dict[str, Any]]:
    """Run one of the example's suites and return the result of each check by its name."""
    path = EXAMPLE / "suites" / (suite + ".yml")
    answer = check_database(
        server=server.server,
        database=database,
        documents=[read_suite(path.read_text(encoding="utf-8"), file=str(path))],
        parameters=parameters,
        fail_on="never",
    )
    return {result["name"]: result for result in answer["results"]}


def not_held(results: dict[str, dict[str, Any]], severity: str = "error") -> set[str]:
    """Return the names of the checks of one severity that did not hold."""
    return {name for name, r in results.items() if r["status"] != "passed" and r["severity"] == severity}


def schema(server: TestServer, database: str) -> str:
    """Return the definitions of everything in the database, as pg_dump writes them."""
    with server.server.client_environment() as environment:
        dumped = subprocess.run(
            [str(server.bin_dir / "pg_dump"), "--schema-only", "--dbname=" + server.server.conninfo(database)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return re.sub(r"(?m)^\\(?:un)?restrict .*$", "", dumped)  # a random key since the minor releases of August 2025


def contents(server: TestServer, database: str) -> dict[str, str]:
    """Return a hash of the rows of each table of version 1."""
    return {
        table: server.execute(
            "SELECT md5(string_agg(t::text, '|' ORDER BY t.id)) FROM public.%s AS t" % table, database=database
        )[0][0]
        for table in ("party", "product", "loan", "payment", "payment_allocation")
    }
