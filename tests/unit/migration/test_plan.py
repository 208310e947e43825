# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and history are compared: what is pending, what goes back, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.history import (
    Entry,
    History,
    current_version,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    Script,
    SourceFile,
    migrations,
    version_key,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.plan import (
    BEGIN,
    plan_down,
    plan_up,
    prepare,
)

UP = "SELECT %d;"


def files(*versions, down=True, **texts):
    """Migrations with the given versions; ``texts`` such as ``v2="..."`` replace the step up."""
    found = []
    for version in versions:
        text = texts.get("v%s" % version, UP % len(version))
        found.append(SourceFile("/m/%s_x.up.sql" % version, text.encode()))
        if down:
            found.append(SourceFile("/m/%s_x.down.sql" % version, b"SELECT 0;"))
    return migrations(found)


def recorded(*, version, **columns):
    """A row of the history as it is read."""
    return Entry(version=version, key=version_key(version), **columns)


def applied(*versions):
    checksums = {m.version: m.up.checksum for m in files(*versions)}
    return [recorded(version=version, checksum=checksums[version]) for version in versions]


def up(found, entries, **options):
    settings = {"target_version": None, "allow_out_of_order": False, "allow_missing": False, **options}
    return [s.migration.version for s in plan_up(migrations=found, entries=entries, **settings)]


def down(found, entries, target):
    return [s.migration.version for s in plan_down(migrations=found, entries=entries, target_version=target)]


def refused(call, *arguments, **options):
    with pytest.raises(HoldfastError) as error:
        call(*arguments, **options)
    assert error.value.hint
    return error.value


def test_everything_is_pending_without_a_history():
    assert up(files("1", "2", "10"), []) == ["1", "2", "10"]


def test_what_is_applied_is_not_pending_however_its_version_is_written():
    assert up(files("0001", "0002"), [recorded(version="v1.0")]) == ["0002"]


def test_target_version_is_the_last_to_be_applied():
    assert up(files("1", "2", "3"), applied("1"), target_version="v2") == ["2"]
    assert up(files("1", "2", "3"), applied("1", "2", "3"), target_version="2") == []


@pytest.mark.parametrize("target", ["4", "x", "1.1"])
def test_target_version_that_does_not_exist_is_refused(target):
    assert refused(up, files("1", "2"), [], target_version=target).code == "option_invalid"
    assert refused(down, files("1", "2"), applied("1", "2"), target).code == "option_invalid"


def test_changed_file_is_refused_with_both_checksums():
    error = refused(up, files("1", "2", v1="SELECT 9;"), applied("1"))
    assert error.code == "migration_changed"
    assert applied("1")[0].checksum in error.msg
    assert files("1", v1="SELECT 9;")[0].up.checksum in error.msg
    assert error.details["path"] == "/m/1_x.up.sql"


def test_row_without_checksum_is_accepted():
    assert up(files("1", "2", v1="SELECT 9;"), [recorded(version="1")]) == ["2"]


def test_missing_file_is_refused_unless_allowed():
    assert refused(up, files("2"), applied("1")).code == "migration_missing"
    assert up(files("2"), applied("1"), allow_missing=True) == ["2"]
    assert refused(up, files("2"), [recorded(version="baseline")]).code == "migration_missing"


def test_pending_migration_that_is_older_than_the_newest_is_refused_unless_allowed():
    error = refused(up, files("1", "2", "3"), applied("1", "3"))
    assert error.code == "migration_out_of_order"
    assert "/m/2_x.up.sql" in error.msg
    assert up(files("1", "2", "3"), applied("1", "3"), allow_out_of_order=True) == ["2"]


NO_TRANSACTION = "-- holdfast: no-transaction\n"


def stopped(text, done, *, state="partial"):
    """The row of a file without transaction that stopped after ``done`` statements of ``text``."""
    (migration,) = files("1", v1=NO_TRANSACTION + text)
    checksum = prepare(migration.up, step="up").prefix_checksum(done)
    return recorded(version="1", checksum=checksum, state=state, statements_done=done)


def test_file_that_stopped_is_pending_and_may_be_mended_after_where_it_stopped():
    entry = stopped("SELECT 1; SELECT 2; SELECT 3;", 1)
    assert up(files("1", v1=NO_TRANSACTION + "-- better\nSELECT 1; SELECT 20"), [entry]) == ["1"]


@pytest.mark.parametrize("text", [NO_TRANSACTION + "SELECT 10; SELECT 2;", NO_TRANSACTION, "SELECT 1; SELECT 2;"])
def test_file_that_stopped_may_not_change_before_where_it_stopped(text):
    error = refused(up, files("1", v1=text), [stopped("SELECT 1; SELECT 2;", 1)])
    assert error.code == "migration_changed"
    assert error.details["partial"] is True


def test_nothing_goes_up_while_something_is_half_way_down():
    error = refused(up, files("1", "2"), [stopped("SELECT 1;", 0, state="reverting")])
    assert error.code == "migration_failed"
    assert error.details["partial"] is True


def test_reverting_goes_back_in_the_reverse_of_the_order_of_application():
    found = files("1", "2", "3", "10")
    assert down(found, applied("1", "2", "3", "10"), "2") == ["10", "3"]
    assert down(found, applied("1", "3", "2"), "1") == ["2", "3"]
    assert down(found, applied("1", "2"), "0") == ["2", "1"]
    assert down(found, applied("1", "2"), "2") == []


@pytest.mark.parametrize("target", [None, ""])
def test_reverting_needs_a_target(target):
    assert refused(down, files("1"), applied("1"), target).code == "option_invalid"


def test_all_migrations_without_a_way_back_are_named():
    found = [*files("1"), *files("2", "3", down=False)]
    error = refused(down, found, [*applied("1", "2", "3"), recorded(version="4")], "0")
    assert error.code == "migration_irreversible"
    assert all(name in error.msg for name in ("2 (/m/2_x.up.sql", "3 (/m/3_x.up.sql", "4 (its files are missing"))
    assert "1 (" not in error.msg


def test_reverting_refuses_a_changed_file():
    assert refused(down, files("1", v1="SELECT 9;"), applied("1"), "0").code == "migration_changed"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("SELECT 1;\n\nCOMMIT;", 3, "COMMIT is not allowed"),
        ("SELECT 1;\nBEGIN;\nSELECT 2;", 2, "BEGIN is not allowed here: no COMMIT follows"),
        ("BEGIN;\nSTART TRANSACTION;\nCOMMIT;", 2, "START TRANSACTION is not allowed"),
        ("BEGIN;\nSELECT 1;\nROLLBACK;", 3, "ROLLBACK is not allowed"),
        ("BEGIN;\nSELECT 1;\nCOMMIT AND CHAIN;\nCOMMIT;", 3, "COMMIT AND CHAIN is not allowed"),
        ("BEGIN;\nSELECT 1;\nPREPARE TRANSACTION 'x';", 3, "PREPARE TRANSACTION 'x' is not allowed"),
        ("COMMIT;\nBEGIN;", 1, "COMMIT is not allowed"),
        (NO_TRANSACTION + "BEGIN;", 2, "BEGIN is not allowed"),
        ("BEGIN;\nCREATE INDEX CONCURRENTLY i ON t (a);\nEND;", 2, "cannot run inside a transaction"),
        ("-- holdfast: no-transactions\nSELECT 1", 1, "not known"),
        ("SELECT 1;\n\\i other.sql", 2, "/m/other.sql is not there"),
        ("SELECT 'a;\n", 1, "quote"),
    ],
)
def test_files_that_cannot_run_are_refused_with_their_line(text, line, reason):
    error = refused(up, files("1", v1=text), [])
    assert error.code == "migration_invalid"
    assert error.msg.startswith("/m/1_x.up.sql:%d: " % line)
    assert (error.details["path"], error.details["line"]) == ("/m/1_x.up.sql", line)
    assert reason in error.msg


def prepared(text, *, step="up"):
    return prepare(Script("x.sql", text), step=step)


def groups(text, *, step="up"):
    return [(group.first, group.last, group.begin) for group in prepared(text, step=step).groups]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE a ();",
        "BEGIN; CREATE TABLE a (); COMMIT;",
        "-- about\nstart transaction;\nCREATE TABLE a ();\nend;",
        "SET search_path = app; BEGIN WORK; CREATE TABLE a (); COMMIT TRANSACTION; RESET search_path;",
        "ALTER TYPE mood ADD VALUE 'glad'; SELECT 'sad'::mood;",
        "CREATE TYPE Mood AS ENUM (); ALTER TYPE mood ADD VALUE 'glad'; SELECT 'glad'::mood;",
        "BEGIN; COMMIT;",
        "",
        "DO $$ BEGIN RAISE NOTICE 'COMMIT;'; /* COMMIT; */ END $$",
    ],
)
def test_file_that_can_be_one_transaction_is_one(text):
    file = prepared(text)
    assert (file.transactional, file.reason, len(file.groups)) == (True, None, 1)
    assert file.groups[0].begin == BEGIN
    assert not [s for s in file.statements if s.words[0] in ("BEGIN", "COMMIT", "START", "END")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SELECT 1;\nVACUUM t", "VACUUM in line 2"),
        ("CREATE INDEX CONCURRENTLY i ON t (a);", "CREATE INDEX CONCURRENTLY in line 1"),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p;", "CREATE SUBSCRIPTION in line 1"),
        ("ALTER TYPE mood ADD VALUE 'glad';\n\nUPDATE t SET m = 'glad';", "line 1 adds is used in line 3"),
        ("ALTER TYPE app.\"Mood\" ADD VALUE IF NOT EXISTS 'it''s';SELECT $$'it''s'$$", "enum value"),
        ("DO $$ BEGIN LOOP -- on\n COMMIT; END LOOP; END $$", "ends its transaction by itself"),
        ("BEGIN; SELECT 1; COMMIT;\nBEGIN;\nSELECT 2; COMMIT", "transactions of its own"),
        ("BEGIN; SELECT 1; COMMIT;\nSELECT 2;", "transactions of its own"),
        (NO_TRANSACTION + "SELECT 1", "says no-transaction"),
    ],
)
def test_file_that_cannot_be_one_transaction_says_why(text, reason):
    file = prepared(text)
    assert not file.transactional
    assert reason in file.reason


def test_file_is_cut_into_its_own_transactions_and_the_statements_between():
    text = "SELECT 1; BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 2; SELECT 3; COMMIT; VACUUM; BEGIN; SELECT 5; END;"
    assert groups(text) == [
        (1, 1, None),
        (2, 3, "BEGIN ISOLATION LEVEL SERIALIZABLE"),
        (4, 4, None),
        (5, 5, BEGIN),
    ]
    assert groups("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT") == [
        (1, 1, "BEGIN ISOLATION LEVEL SERIALIZABLE")
    ]


def test_verification_may_be_written_as_a_transaction_that_is_undone():
    assert groups("BEGIN; SELECT 1; ROLLBACK;", step="verify") == [(1, 1, BEGIN)]


def test_file_that_stopped_at_a_statement_may_go_on_without_its_directive():
    entry = stopped("VACUUM t; SELECT 2;", 1)
    assert up(files("1", v1="VACUUM t; SELECT 3;"), [entry]) == ["1"]


def test_steps_down_and_verifications_of_pending_migrations_are_examined_too():
    for name, text in (("down", b"COMMIT"), ("verify", b"VACUUM"), ("verify", b"-- holdfast: no-transaction\n")):
        found = migrations([SourceFile("/m/1_x/up.sql", b""), SourceFile("/m/1_x/%s.sql" % name, text)])
        assert refused(up, found, []).code == "migration_invalid"


@pytest.mark.parametrize(
    ("name", "schema", "table"),
    [
        ("public.schema_version", "public", "schema_version"),
        ("Schema_Version", "public", "schema_version"),
        ('"My Schema"."a.""b"', "My Schema", 'a."b'),
        ("ä.ö", "ä", "ö"),
    ],
)
def test_history_table_is_named_as_in_sql(name, schema, table):
    history = History(name)
    assert (history.schema, history.table) == (schema, table)


@pytest.mark.parametrize("name", ["", "a.b.c", "a b", '"a', "a.", ".a", 'a"b"'])
def test_what_is_no_table_name_is_refused(name):
    assert refused(History, name).code == "option_invalid"


def test_current_version_is_the_last_complete_one():
    assert current_version([]) is None
    entries = [recorded(version="1"), recorded(version="2"), recorded(version="3", state="partial")]
    assert current_version(entries) == "2"


def test_what_the_lint_is_told_does_not_concern_the_runner():
    prepared = prepare(
        Script(path="/m/1_a.up.sql", text="-- holdfast: allow drop-cascade: wanted\nDROP TABLE a CASCADE"), step="up"
    )
    assert prepared.transactional
    both = "-- holdfast: no-transaction\n-- holdfast: allow truncate-table\nVACUUM"
    assert not prepare(Script(path="/m/1_a.up.sql", text=both), step="up").transactional
