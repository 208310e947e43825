# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The four sample applications on a test server: deployed from empty, filled, checked."""

from __future__ import annotations

import functools
import pathlib
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import read_directories
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import Limits, check_database
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite
from tests.support import rently
from tests.support.modules import ROOT
from tests.support.server import TestServer


@dataclass(frozen=True)
class Example:
    """One of the directories of examples, and how many rows its data has in tests."""

    name: str
    rows: int
    # The version that data is generated for; the newest when empty.
    filled_at: str = ""

    @property
    def directory(self) -> pathlib.Path:
        return ROOT / "examples" / self.name

    @property
    def suites(self) -> list[str]:
        return sorted(path.stem for path in (self.directory / "suites").glob("*.yml"))

    def migrate(self, server: TestServer, database: str, state: str = "applied", version: str = "") -> dict[str, Any]:
        """Run the migrations up or down, as pg_migrate does."""
        return migrate(
            server=server.server,
            database=database,
            files=read_directories([str(self.directory / "migrations")]),
            state=state,
            settings=Settings(target_version=version or None),
        )

    def deploy(self, server: TestServer, database: str) -> None:
        """Bring an empty database to the newest version, with data in it."""
        if self.filled_at:
            self.migrate(server, database, version=self.filled_at)
            self.fill(server, database)
            self.migrate(server, database)
        else:
            self.migrate(server, database)
            self.fill(server, database)

    def fill(self, server: TestServer, database: str, *, seed: int = 1) -> None:
        """Generate data, as the example's own page says it."""
        if self.name == "rently":
            made = rently.generate(server, database, rows=self.rows, seed=seed)
            assert made.returncode == 0, made.stderr
            return
        connection = server.connect(database, options="-c generate.rows=%d -c generate.seed=%d" % (self.rows, seed))
        try:
            with connection.cursor() as cursor:  # one message is one transaction
                cursor.execute((self.directory / "data.sql").read_text(encoding="utf-8"))
        finally:
            connection.close()

    def check(self, server: TestServer, database: str, **parameters: Any) -> dict[str, dict[str, Any]]:
        """Run all suites at once and return the results by ``suite: name``."""
        answer = check_database(
            server=server.server,
            database=database,
            documents=documents(self.name),
            parameters=parameters,
            limits=Limits(jobs=1),
            fail_on="never",
        )
        return {"%s: %s" % (result["suite"], result["name"]): result for result in answer["results"]}


@functools.lru_cache
def documents(name: str) -> list[dict[str, Any]]:
    """Return the suites of an example as pg_check takes them."""
    paths = sorted((ROOT / "examples" / name / "suites").glob("*.yml"))
    return [read_suite(path.read_text(encoding="utf-8"), file=str(path)) for path in paths]


EXAMPLES = {
    example.name: example
    for example in (
        Example("rently", 1000, filled_at="v1.0.0"),
        Example("rentguy", 300),
        Example("core_banking", 600),
        Example("crm", 200),
    )
}
