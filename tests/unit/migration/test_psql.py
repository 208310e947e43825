# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files for psql are read as psql reads them, and refused where they would leave the database or hide an error."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    Options,
    Script,
    SourceFile,
    find,
    read_directories,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.plan import prepare
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.psql import needs_psql, read
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.psql_run import (
    ERROR,
    Part,
    _failure,
    _Real,
    command,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import ScanError, place


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\set a 'x; y' \\\\ SELECT :'a'; SELECT 2", ["SELECT :'a'", "SELECT 2"]),
        ("\\echo SELECT 1;\nSELECT 2;", ["SELECT 2"]),
        ("SELECT 1 AS a \\gset\nSELECT :a \\g\nSELECT 3", ["SELECT 1 AS a", "SELECT :a", "SELECT 3"]),
        ("SELECT 'DROP TABLE x' \\gexec\nSELECT 2", ["SELECT 'DROP TABLE x'", "SELECT 2"]),
        ("SELECT 1\\; SELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("COPY t FROM stdin;\nit's; \\! $x$\n\\.\nSELECT 2;", ["COPY t FROM stdin", "SELECT 2"]),
        ("COPY t FROM stdin; -- rows\na\n\\.\nSELECT 2;", ["COPY t FROM stdin", "SELECT 2"]),
        ("COPY t FROM stdin;\n'", ["COPY t FROM stdin"]),
        ("\\copy t from stdin\nit's\n\\.\nSELECT 2;", ["SELECT 2"]),
        ("COPY t TO STDOUT; SELECT 2;", ["COPY t TO STDOUT", "SELECT 2"]),
        ("SELECT '\\! x', $$\\! y$$ -- \\! z\n/* \\! */;\\q", ["SELECT '\\! x', $$\\! y$$"]),
        ("\\pset format unaligned\n\\timing on\n\\o /dev/null\nSELECT 1", ["SELECT 1"]),
    ],
)
def test_statements_are_those_that_psql_sends(text, found):
    assert needs_psql(text)
    assert [statement.text for statement in read(text).statements] == found


@pytest.mark.parametrize("text", ["SELECT 1; COPY t FROM '/x'", "SELECT 'a\\b', E'\\''", "SELECT 'open", ""])
def test_plain_sql_needs_no_psql(text):
    assert not needs_psql(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("SELECT 1;\n\\! rm x", 2),
        ("\\c other", 1),
        ("\\connect other", 1),
        ("\\cd /", 1),
        ("\\w x", 1),
        ("\\o |cat", 1),
        ("SELECT 1 \\g |cat", 1),
        ("SELECT 1 \\g (format=csv) |cat", 1),
        ("\n\\copy t from program 'cat'", 2),
        ("\\copy t to program 'cat'", 1),
        ("\\copy t to 'x'", 1),
        ("\\copy (select ')' from t) to 'x'", 1),
        ("\\copy t from pstdin", 1),
        ("\\copy t from /etc/passwd", 1),
        ("\\copy", 1),
        ("\\set now `date`", 1),
        ("\\i :file", 1),
        ("\\i /etc/x.sql", 1),
        ("\\set ON_ERROR_STOP off", 1),
        ("\\unset ON_ERROR_STOP", 1),
        ("\\set AUTOCOMMIT off", 1),
        ("\\set SINGLELINE on", 1),
        ("SELECT 1 \\watch", 1),
        ("\\prompt x y", 1),
        ("\\lo_import x", 1),
        ("COPY t FROM stdin; SELECT 1;\n\\.", 1),
        ("\\echo x\nSELECT 'open", 2),
    ],
)
def test_what_leaves_the_database_or_hides_errors_is_refused_with_its_line(text, line):
    with pytest.raises(ScanError) as error:
        read(text)
    assert place(text, error.value.offset)[0] == line
    assert error.value.hint


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("t from data.csv csv header", "data.csv"),
        ('"a b"."c""d" (x, y) from \'a b\'\'s.csv\' with (format csv)', "a b's.csv"),
        ("binary t FROM x", "x"),
    ],
)
def test_files_of_copy_are_found(arguments, name):
    (include,) = read("\\copy " + arguments).includes
    assert (include.name, include.is_sql) == (name, False)


def prepared(text, *, step="up", **beside):
    files = tuple(SourceFile("/m/" + name.replace("__", "/") + ".sql", text.encode()) for name, text in beside.items())
    return prepare(Script("/m/x.sql", text, beside=files), step=step)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\\set a 1\nCREATE TABLE t ();", None),
        ("BEGIN;\n\\set a 1\nCREATE TABLE t ();\nCOMMIT;", None),
        ("BEGIN;\\set a 1\nSELECT 1;COMMIT;BEGIN;SELECT 2;COMMIT;", "transactions of its own"),
        ("\\if :x\nBEGIN;\\endif\nSELECT 1;\nCOMMIT;", "transactions of its own"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE;\\set a 1\nSELECT 1;COMMIT;", "transactions of its own"),
        ("\\set a 1\nVACUUM t;", "VACUUM in line 2 of /m/x.sql"),
        ("-- holdfast: no-transaction\n\\set a 1\n", "says no-transaction"),
        ("\\set a 1\nALTER TYPE e ADD VALUE 'x';INSERT INTO t VALUES ('x');", "enum value"),
        ("\\ir inc.sql", "CREATE INDEX CONCURRENTLY in line 2 of /m/inc.sql"),
    ],
)
def test_one_transaction_where_that_is_possible(text, reason):
    found = prepared(text, inc="\nCREATE INDEX CONCURRENTLY i ON t (a);")
    assert (reason is None and found.reason is None) or reason in found.reason
    assert (len(found.statements), found.groups) == (1, ())


def test_a_transaction_around_the_whole_file_is_taken_off_and_lines_stay():
    found = prepared("BEGIN;\n\\set a 1\nCREATE TABLE t ();\nCOMMIT;\n")
    assert found.for_psql == "     ;\n\\set a 1\nCREATE TABLE t ();\n      ;\n"
    verify = prepared("BEGIN;\n\\set a 1\nSELECT 1;\nROLLBACK;\n", step="verify")
    assert verify.transactional


def test_a_verification_that_cannot_be_in_a_transaction_is_refused():
    with pytest.raises(HoldfastError, match="a verification runs in a transaction"):
        prepared("\\set a 1\nVACUUM;", step="verify")


def test_includes_are_read_all_the_way_and_each_file_is_named_where_it_fails():
    found = prepared("\\ir a/b.sql", a__b="\\ir c.sql\nSELECT 1;", a__c="SELECT 2;")
    assert [(r.path, [s.text for s in r.statements]) for r in found.readings] == [
        ("/m/x.sql", []),
        ("/m/a/b.sql", ["SELECT 1"]),
        ("/m/a/c.sql", ["SELECT 2"]),
    ]
    with pytest.raises(HoldfastError) as error:
        prepared("\\ir a/b.sql", a__b="\n\\i c.sql\n", a__c="SELECT 2;")
    assert error.value.msg == "/m/a/b.sql:2: /m/c.sql is not there."
    with pytest.raises(HoldfastError) as error:
        prepared("\\ir a/b.sql", a__b="\n\\! ls\n")
    assert (error.value.details["path"], error.value.details["line"]) == ("/m/a/b.sql", 2)


def test_files_that_include_each_other_are_read_once():
    assert len(prepared("\\ir a.sql", a="\\ir a.sql\n\\ir x.sql").readings) == 2


def test_includes_travel_count_in_the_checksum_and_are_no_migrations(tmp_path):
    texts = {"1_a.up.sql": "\\ir common.sql\n\\copy t from rows.csv\n", "common.sql": "SELECT 1;", "rows.csv": "a\n"}
    texts["2_b.up.sql"] = "\\ir 1_a.up.sql\n"
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    files = read_directories([str(tmp_path)])
    assert [file.path.rpartition("/")[2] for file in files] == ["1_a.up.sql", "2_b.up.sql"]
    assert [f.path.rpartition("/")[2] for f in files[0].beside] == ["common.sql", "rows.csv"]
    before = [migration.up.checksum for migration in find(files, Options()).migrations]
    (tmp_path / "rows.csv").write_text("b\n")
    after = [migration.up.checksum for migration in find(read_directories([str(tmp_path)]), Options()).migrations]
    assert all(a != b for a, b in zip(before, after))


def test_command_line_has_no_secret_and_stops_at_errors():
    argv = command("/bin/psql", conninfo="dbname='x'", paths=["/t/1.sql", "/t/2.sql"])
    assert argv[0] == "/bin/psql"
    assert argv[-3:] == ["--dbname=dbname='x'", "--file=/t/1.sql", "--file=/t/2.sql"]
    assert {"--no-psqlrc", "--set=ON_ERROR_STOP=1", "--no-password"} <= set(argv)


#: What psql of several versions and languages says.
COMPLAINTS = [
    ("psql:/t/files/a.sql:3: ERROR:  22012: division by zero", ("22012", "division by zero", 3)),
    ("psql:/t/files/a.sql:3: FEHLER:  22012: Division durch Null", ("22012", "Division durch Null", 3)),
    ("psql:/t/files/a.sql:2: error: invalid command \\foo", (None, "invalid command \\foo", 2)),
    ("psql:/t/files/a.sql:9: FATAL:  57P01: terminating connection", ("57P01", "terminating connection", 9)),
]


@pytest.mark.parametrize(("line", "expected"), COMPLAINTS)
def test_complaints_are_understood(line, expected):
    assert ERROR.match(line)
    part = Part("", Script("/m/a.sql", ""))
    notice = "psql:/t/files/a.sql:1: NOTICE:  00000: 12: x"
    failed = _failure([notice, line, notice], {"/t/files/a.sql": part}, _Real("/t/files", "/m"), "/t/files", 3)
    assert (failed.pgcode, str(failed), failed.line) == expected
    assert (failed.path, failed.part) == ("/m/a.sql", part)


def test_complaints_without_a_place_are_shown():
    failed = _failure(["psql: error: connection to server failed: x"], {}, _Real("/t/files", "/m"), "/t", 2)
    assert (failed.pgcode, failed.line) == (None, None)
    assert "exit code 2: psql: error: connection to server failed: x" in str(failed)
