# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command lines, tables of contents and the judgement of both, without a server."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import (
    Relation,
    compression_argument,
    dump_command,
    globals_command,
    missing_entries,
    parse_toc,
    predict_bytes,
    sequence_ranges,
    session_server,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import ClientPrograms
from tests.support.archives import write_archive


@pytest.fixture
def programs(tmp_path):
    """Client programs of version 16 that are not there to be run."""
    for name in ("pg_dump", "pg_dumpall", "pg_restore"):
        (tmp_path / name).touch(0o755)
    return ClientPrograms(bin_dir=str(tmp_path), version=160014)


DUMP = {
    "conninfo": "dbname='a b'",
    "target": "/b/data",
    "compression": "gzip:3",
    "jobs": 4,
    "snapshot": "00000003-0000001B-1",
    "lock_wait_s": 5,
}


def test_directory_format_is_dumped_by_several_jobs(programs):
    assert dump_command(programs, dump_format="directory", **DUMP) == [
        programs.bin_dir + "/pg_dump",
        "--dbname=dbname='a b'",
        "--no-password",
        "--format=directory",
        "--file=/b/data",
        "--compress=gzip:3",
        "--jobs=4",
        "--snapshot=00000003-0000001B-1",
        "--lock-wait-timeout=5000",
        "--no-sync",
    ]


def test_custom_format_has_one_job(programs):
    assert not [word for word in dump_command(programs, dump_format="custom", **DUMP) if word.startswith("--jobs")]


def test_globals_never_hold_passwords(programs):
    command = globals_command(programs, conninfo="host='h'", database="a=b", target="/b/globals.sql")
    assert {"--globals-only", "--no-role-passwords", "--no-password", "--database=dbname='a=b'"} <= set(command)


@pytest.mark.parametrize(
    ("compression", "version", "expected"),
    [
        ("gzip:3", 180000, "gzip:3"),
        ("none", 160000, "none"),
        ("zstd:3", 160000, "zstd:3"),
        ("gzip:3", 150012, "3"),
        ("gzip", 150012, "6"),
        ("none", 130000, "0"),
    ],
)
def test_compression_is_told_as_each_version_wants_it(compression, version, expected):
    assert compression_argument(compression, client_version=version) == expected


def test_sessions_have_a_name_and_no_limits_that_their_server_knows():
    given = Server(host="h", connect_params={"options": "-c work_mem=1MB", "application_name": "x"})
    options = {
        version: session_server(given, version=version, application_name="n", settings={"a": "b c\\"}).connect_params
        for version in (130000, 140000, 180000)
    }
    assert options[130000]["application_name"] == "n"
    assert options[130000]["options"].startswith("-c work_mem=1MB -c statement_timeout=0 ")
    assert options[130000]["options"].endswith("-c a=b\\ c\\\\")
    assert ["idle_session_timeout" in options[v]["options"] for v in options] == [False, True, True]
    assert ["transaction_timeout" in options[v]["options"] for v in options] == [False, False, True]


# --- tables of contents ---

# As versions 13 to 18 print them; names are not quoted, and newlines in them are blanks.
LISTING = """;
; Archive created at 2026-11-20 22:15:00 UTC
;     dbname: rently
;     TOC Entries: 12
;
; Selected TOC Entries:
;
7; 2615 16385 SCHEMA - strange " schema holdfast_owner
218; 1259 16390 TABLE lending a table TABLE DATA x postgres
219; 1259 16391 VIEW lending active postgres
220; 1259 16392 MATERIALIZED VIEW lending ages postgres
221; 1259 16393 TABLE lending payment postgres
3412; 0 16390 TABLE DATA lending a table TABLE DATA x postgres
3413; 0 0 SEQUENCE SET lending s postgres
3414; 0 16392 MATERIALIZED VIEW DATA lending ages postgres
3260; 2606 16400 CONSTRAINT lending loan pkey postgres
"""


def relation(oid: int, kind: str = "r", persistence: str = "p") -> Relation:
    """A relation known by its OID."""
    return Relation(oid, "lending", "t%d" % oid, kind, persistence, True)


def test_objects_are_found_by_oid_whatever_their_names_say():
    entries = parse_toc(LISTING)
    assert len(entries) == 9
    assert [entry.oid for entry in entries if entry.is_a("TABLE DATA")] == [16390]
    whole = [relation(16390), relation(16391, "v"), relation(16392, "m"), relation(16393, "p")]
    assert missing_entries(whole, entries) == []


def test_what_the_dump_lacks_is_named():
    entries = parse_toc(LISTING)
    assert missing_entries([relation(16393)], entries) == ["the data of lending.t16393"]
    assert missing_entries([relation(9, "v")], entries) == ["the definition of lending.t9"]
    assert missing_entries([relation(9)], []) == ["the definition of lending.t9", "the data of lending.t9"]


def test_a_standby_need_not_have_dumped_unlogged_rows():
    entries = parse_toc(LISTING)
    assert missing_entries([relation(16393, persistence="u")], entries, standby=True) == []
    assert missing_entries([relation(16393, persistence="u")], entries) == ["the data of lending.t16393"]


def test_listing_that_is_none_is_an_error():
    with pytest.raises(HoldfastError) as caught:
        parse_toc("Segmentation fault")
    assert caught.value.code == "archive_corrupt"


# --- sequences and sizes ---


def test_sequences_carry_the_values_around_the_dump():
    facts = {"type": "bigint"}
    before = {"a": {"last_value": 1, "is_called": False, **facts}, "gone": {"last_value": 3, "is_called": True}}
    after = {"a": {"last_value": 9, "is_called": True, **facts}, "new": {"last_value": 1, "is_called": False}}
    assert sequence_ranges(before, after) == {
        "a": {"last_value": 1, "is_called": False, "last_value_max": 9, "is_called_max": True, "type": "bigint"},
        "gone": {"last_value": 3, "is_called": True},
        "new": {"last_value": 1, "is_called": False, "last_value_max": 1, "is_called_max": False},
    }


def test_size_is_predicted_from_the_newest_archive_with_a_margin(tmp_path):
    first = {"path": str(tmp_path), "database": "rently", "database_bytes": 10_000}
    assert predict_bytes(**first, compression="gzip:3") == 6000
    assert predict_bytes(**first, compression="none") == 12000
    path = write_archive(tmp_path, database="rently", database_bytes=1_000_000)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert predict_bytes(**first, compression="gzip:6") == int(10_000 * 1.25 * size / 1_000_000)
    assert predict_bytes(**first, compression="none") == 12000
