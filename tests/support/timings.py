# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small table and two named queries about it, measured quickly."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._verification.timing import Measuring, time_queries
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite
from tests.support.server import TestServer

LOANS = """
CREATE TABLE "lo an" AS
SELECT i AS id, i %% 5000 AS borrower, repeat('x', 60) AS note FROM generate_series(1, %d) AS i;
CREATE INDEX "lo an_borrower" ON "lo an" (borrower);
VACUUM ANALYZE "lo an"
"""
QUERIES = """timings: lending
parameters: {borrower: 17, like: "x'%"}
queries:
  - name: Loans of a borrower
    sql: SELECT * FROM "lo an" WHERE borrower = %(borrower)s AND note <> %(like)s
  - name: Borrowers
    sql: SELECT count(DISTINCT borrower) FROM "lo an" WHERE id < 4000
"""
QUICK = Measuring(runs=9, warm_up_runs=1)


@contextlib.contextmanager
def loans_of(server: TestServer) -> Iterator[str]:
    """A database with the table, for the block."""
    name = "timing '%%' " + uuid.uuid4().hex[:6]
    server.create_database(name)
    for statement in (LOANS % 60000).split(";"):
        server.execute(statement.replace("%%", "%"), database=name)
    yield name
    server.drop_database(name)


def take(server: TestServer, database: str, text: str = QUERIES, **options: Any) -> dict[str, Any]:
    """Measure the queries, and compare them as the options say."""
    return time_queries(
        server=server.server,
        database=database,
        documents=[read_suite(text, file="lending.yml")],
        now=datetime.now(timezone.utc),
        **{"measuring": QUICK, **options},
    )
