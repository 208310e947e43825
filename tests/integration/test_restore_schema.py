# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring a schema without its rows."""

from __future__ import annotations

import os
import pathlib

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import take_archive
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.restore import restore_archive
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.schema_report import schema_report
from tests.support.server import TestServer


def test_schema_comes_back_with_the_rows_of_the_history_alone(
    pg18: TestServer, database: str, tmp_path: pathlib.Path
) -> None:
    pg18.execute(
        "CREATE TABLE schema_version (version text); INSERT INTO schema_version VALUES ('v1');"
        "CREATE TABLE loan (id bigserial PRIMARY KEY, note text); INSERT INTO loan (note) VALUES ('x'), ('y');"
        "CREATE MATERIALIZED VIEW notes AS SELECT note FROM loan; SELECT lo_from_bytea(0, 'large')",
        database=database,
    )
    environment = dict(os.environ)
    bin_dir = str(pg18.bin_dir)
    taken = take_archive(
        server=pg18.server, database=database, path=str(tmp_path), environment=environment, bin_dir=bin_dir
    )
    side = database + "_side"
    try:
        result = restore_archive(
            server=pg18.server,
            database=side,
            archive=taken["archive"]["path"],
            environment=environment,
            bin_dir=bin_dir,
            rows_of=["public.schema_version"],
        )
        assert not result["verified"] and result["differences"] == []
        counted = "SELECT (SELECT count(*) FROM loan), (SELECT max(version) FROM schema_version)"
        assert pg18.execute(counted, database=side) == [(0, "v1")]
        assert pg18.execute("SELECT count(*) FROM pg_largeobject_metadata", database=side) == [(0,)]
        compared = schema_report(
            server=pg18.server, database=side, environment=environment, compare_with=database, bin_dir=bin_dir
        )
        assert compared["differences"] == []
    finally:
        pg18.drop_database(side)
