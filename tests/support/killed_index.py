# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A runner that is killed while it builds an index concurrently, and the run after it."""

from __future__ import annotations

from tests.support.migrations import run, runner_sessions, start
from tests.support.server import TestServer, eventually

FILES = {
    "1_rows.up.sql": "CREATE TABLE big AS SELECT i, md5(i::text) AS t FROM generate_series(1, %d) AS i;",
    "2_index.up.sql": "CREATE INDEX CONCURRENTLY IF NOT EXISTS big_t ON big (t);\nCOMMENT ON INDEX big_t IS 'done';",
}
VALIDITY = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('big_t')"


def kill_during_build(server: TestServer, database: str, *, rows: int, held: bool = False) -> dict:
    """Kill the runner once the index is there and not valid; return what the next run says of the file.

    ``held`` keeps the build from its end by a snapshot older than itself, however few the rows are.
    """
    files = {name: text % rows if "%d" in text else text for name, text in FILES.items()}
    run(server, database, files, target_version="1")
    snapshot = server.connect(database)
    snapshot.set_session(isolation_level="REPEATABLE READ", autocommit=not held)
    snapshot.cursor().execute("SELECT")
    process = start(server, database, files)
    try:
        eventually(lambda: server.execute(VALIDITY, database=database) == [(False,)], timeout_s=60, interval_s=0.005)
    finally:
        process.kill()
        process.communicate()
    eventually(lambda: runner_sessions(server, database) == [], timeout_s=60)
    snapshot.close()
    assert server.execute(VALIDITY, database=database) == [(False,)]
    assert server.execute(
        "SELECT state, statements_done, statement_started FROM schema_version WHERE version = '2'", database=database
    ) == [("partial", 0, 1)]
    assert run(server, database, files, state="status")["partial"] is True
    (applied,) = run(server, database, files)["applied"]
    assert server.execute(VALIDITY, database=database) == [(True,)]
    assert run(server, database, files)["changed"] is False
    return dict(applied)
