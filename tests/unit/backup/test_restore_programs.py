# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pg_restore is told, what it says, and what a new owner changes, without a server."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.restore import (
    owned_by,
    restore_command,
    restore_errors,
    without_rows,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import suffixed_name
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import ClientPrograms
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import DatabaseProperties
from ansible_collections.holdfast.postgres.plugins.module_utils._core.unfinished import BUILDING

TIMEOUT = (
    'pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"'
)


def test_command_stops_at_the_first_error_and_leaves_subscriptions_out(tmp_path):
    (tmp_path / "pg_restore").touch(0o755)
    programs = ClientPrograms(bin_dir=str(tmp_path), version=180004)
    command = restore_command(programs, conninfo="dbname='x'", dump="/b/data", jobs=2)
    assert command[1:] == [
        "--dbname=dbname='x'",
        "--no-password",
        "--exit-on-error",
        "--no-subscriptions",
        "--jobs=2",
        "/b/data",
    ]


@pytest.mark.parametrize(
    ("lines", "errors"),
    [
        ([], 0),
        (["pg_restore: warning: something"], 0),
        (
            [TIMEOUT, "Command was: SET transaction_timeout = 0;", "pg_restore: warning: errors ignored on restore: 1"],
            0,
        ),
        ([TIMEOUT, TIMEOUT, TIMEOUT, "pg_restore: warning: errors ignored on restore: 1"], 0),
        ([TIMEOUT, "pg_restore: warning: errors ignored on restore: 2"], 1),
        ([TIMEOUT, "pg_restore: error: could not execute query: ERROR:  x"], 1),
        (["pg_restore: error: a", "pg_restore: error: b"], 2),
    ],
)
def test_only_the_parameter_of_newer_versions_is_passed_over(lines, errors):
    assert len(restore_errors("\n".join(lines))) == errors


def test_name_of_a_database_that_is_being_built_fits_and_is_recognised():
    for name in ("rently", "é" * 31, "x" * 63):
        building = suffixed_name(name, ".restoring-%08x" % 0x7F3A)
        assert len(building.encode()) <= 63
        assert BUILDING.search(building).group(1) == "00007f3a"
    assert BUILDING.search("x.restoring-00007f3a\n") is None


def test_new_owner_takes_the_old_ones_place_in_the_acl():
    def entry(grantee: str, grantor: str, privilege: str = "CONNECT", grantable: bool = False) -> dict:
        return {"grantee": grantee, "grantor": grantor, "privilege": privilege, "grantable": grantable}

    before = DatabaseProperties(
        owner="old",
        encoding="UTF8",
        locale_provider="libc",
        collate="C",
        ctype="C",
        acl=[entry("old", "old"), entry("new", "old", grantable=True), entry("", "old"), entry("r", "r2")],
    )
    after = owned_by(before, "new")
    assert after.owner == "new"
    assert list(after.acl) == [entry("", "new"), entry("new", "new", grantable=True), entry("r", "r2")]


LISTING = """;
; Archive created at 2026-11-20 22:15:00
215; 1259 16387 TABLE public loan postgres
3456; 0 16387 TABLE DATA public loan postgres
3457; 0 16388 TABLE DATA public schema_version postgres
3458; 0 16389 TABLE DATA odd name "quoted postgres
3459; 0 0 SEQUENCE SET public loan_id_seq postgres
3460; 2613 16400 BLOB METADATA - 16400..16401 postgres
3461; 0 0 BLOBS - BLOBS
3301; 2606 16391 CONSTRAINT public loan loan_pkey postgres
"""


def test_rows_of_the_wanted_tables_only_are_restored():
    kept = without_rows(LISTING, rows_of=["schema_version", '"odd"."name ""quoted"'])
    assert [line.split(";")[0] for line in kept.splitlines()[2:]] == ["215", "3457", "3458", "3459", "3301"]
    nothing = without_rows(LISTING, rows_of=[])
    assert "DATA" not in nothing.replace("BLOB METADATA", "") and "BLOB" not in nothing
