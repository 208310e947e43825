# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Histories as teams have them run up, are no change again, and go down and up again to the same schema."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import SourceFile
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate
from tests.support.histories import HISTORIES, history_files, schema_of


def run(server: Any, database: str, name: str, *, state: str = "applied", check: bool = False, **settings: Any):
    return migrate(
        server=server.server,
        database=database,
        files=history_files(name),
        options=HISTORIES[name][2],
        state=state,
        settings=Settings(bin_dir=str(server.bin_dir), **settings),
        check=check,
    )


@pytest.mark.parametrize("version", ["pg18", "pg_distribution"])
@pytest.mark.parametrize("name", HISTORIES)
def test_history_goes_up_and_down_and_up_again_to_the_same_schema(request, version, name):
    layout, count, _options = HISTORIES[name]
    server = request.getfixturevalue(version)
    database = "history_" + name
    server.create_database(database)
    try:
        empty = schema_of(server, database)
        predicted = run(server, database, name, check=True)
        done = run(server, database, name)
        assert (done["layout"], len(done["applied"]), done["pending"]) == (layout, count, [])
        assert [row["version"] for row in predicted["pending"]] == [row["version"] for row in done["applied"]]
        full = schema_of(server, database)
        assert full != empty
        for check in (True, False):
            assert run(server, database, name, check=check)["changed"] is False
        back = run(server, database, name, state="reverted", target_version="0")
        assert len(back["reverted"]) == count
        assert schema_of(server, database) == empty
        assert run(server, database, name)["applied"] != []
        assert schema_of(server, database) == full
    finally:
        server.drop_database(database)


def test_a_history_stops_and_goes_on_at_any_version(pg18, database):
    files = history_files("flyway")
    versions = ["1.2", "1.11", "2.1", "2026.11.20"]
    for version in versions:
        done = run(pg18, database, "flyway", target_version=version)
        assert (done["current_version"], done["target"]) == (version, version)
        assert not any(row["version"].startswith("R__") for row in done["applied"])
    done = run(pg18, database, "flyway")
    assert [row["version"] for row in done["applied"]][-2:] == ["R__Occupancy_view", "R__Revenue_view"]
    changed = [
        SourceFile(file.path, file.content.replace(b"AS spaces", b"AS all_spaces"))
        if "R__Occupancy" in file.path
        else file
        for file in files
    ]
    pg18.execute("DROP VIEW parking.revenue, parking.occupancy", database=database)
    again = migrate(
        server=pg18.server,
        database=database,
        files=changed,
        options=HISTORIES["flyway"][2],
        state="applied",
        settings=Settings(bin_dir=str(pg18.bin_dir)),
    )
    assert [row["version"] for row in again["applied"]] == ["R__Occupancy_view"]
    assert again["current_version"] == "2026.11.24"


def test_a_thousand_migrations_apply_in_seconds_and_their_status_is_told_at_once(pg18, database):
    # The measurement is benchmarks/run.py migrate; these limits leave room for a machine that does other things too.
    files = [SourceFile("/m/%04d_step.up.sql" % number, b"") for number in range(1, 1001)]
    options: dict[str, Any] = {"server": pg18.server, "database": database, "files": files, "settings": Settings()}
    begun = time.monotonic()
    assert len(migrate(**options, state="applied")["applied"]) == 1000
    applied_s = time.monotonic() - begun
    begun = time.monotonic()
    assert migrate(**options, state="status")["pending"] == []
    status_s = time.monotonic() - begun
    assert applied_s < 75
    assert status_s < 3
