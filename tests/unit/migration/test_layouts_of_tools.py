# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Histories of other tools are read as they are, told apart by their names, and refused where they mean more."""

from __future__ import annotations

import pathlib

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.history import Entry
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    Options,
    SourceFile,
    find,
    read_directories,
    version_key,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.plan import plan_down, plan_up, prepare

GOOSE = """-- +goose Up
CREATE TABLE seat (id int);
-- +goose Down
DROP TABLE seat;
"""


def found(files, **options):
    """What files are, by path and text; a list of paths stands for files with one statement."""
    texts = files if isinstance(files, dict) else dict.fromkeys(files, "SELECT 1;")
    return find([SourceFile("/m/" + path, text.encode()) for path, text in texts.items()], Options(**options))


def versions(files, **options):
    return [migration.version for migration in found(files, **options).migrations]


def refused(files, **options) -> HoldfastError:
    with pytest.raises(HoldfastError) as error:
        found(files, **options)
    assert error.value.hint
    return error.value


def write(root: pathlib.Path, files: dict[str, str]) -> str:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return str(root)


# -- which layout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (["1_a/up.sql", "1_a/down.sql"], "directories"),
        (["1_a.up.sql", "1_a.down.sql"], "golang-migrate"),
        (["1_a/up.sql", "2_b.up.sql"], "directories+golang-migrate"),
        (["V1__a.up.sql"], "golang-migrate"),  # as it always was
        (["V1__a.sql", "U1__a.sql", "R__v.sql"], "flyway"),
        ({"1_a.sql": GOOSE}, "goose"),
        ({"sqitch.plan": "a 2026 x <x@y>\n", "deploy/a.sql": "", "verify/1_a.sql": ""}, "sqitch"),
        ([], None),
    ],
)
def test_the_layout_is_told_by_the_names(files, layout):
    assert found(files).layout == layout


def test_files_of_several_layouts_are_refused_with_what_was_seen():
    error = refused(["V1__a.sql", "1_a.up.sql", "2_b.up.sql"])
    assert error.code == "migration_invalid"
    assert "flyway: /m/V1__a.sql" in error.msg
    assert "golang-migrate: /m/1_a.up.sql, /m/2_b.up.sql" in error.msg
    assert "layout" in error.hint


def test_files_of_no_layout_are_refused_with_what_was_seen(tmp_path):
    assert "/m/schema.sql, /m/seed.sql" in refused(["schema.sql", "seed.sql"]).msg
    source = write(tmp_path, {"later/2026/query.sql": ""})
    with pytest.raises(HoldfastError, match=r"later/2026/query\.sql"):
        read_directories([source])


def test_a_layout_that_was_chosen_knows_no_other_names():
    assert refused(["1_a.up.sql"], layout="flyway").code == "migration_invalid"
    assert refused(["V1__a.sql"], layout="directories").code == "migration_invalid"
    assert refused(["1_a.up.sql"], layout="liquibase").code == "option_invalid"


# -- diesel -------------------------------------------------------------------------------------------------------


def test_diesel_writes_versions_with_hyphens():
    names = ["2026-11-21-101500_a/up.sql", "2026-11-21-101500-0001_b/up.sql", "00000000000000_setup/up.sql"]
    assert versions(names) == ["00000000000000", "2026-11-21-101500", "2026-11-21-101500-0001"]
    assert version_key("2026-11-21-101500") == version_key("20261121101500")


# -- flyway -------------------------------------------------------------------------------------------------------


def test_flyway_versions_compare_as_numbers_and_repeatables_come_last_by_name():
    names = ["R__b.sql", "V1_10__c.sql", "V1.9__b.sql", "R__a_view.sql", "V2026.01.02__d.sql", "U1.9__b.sql"]
    source = found(names)
    assert [m.version for m in source.migrations] == ["1.9", "1.10", "2026.01.02", "R__a_view", "R__b"]
    assert [m.description for m in source.migrations][3:] == ["a view", "b"]
    assert source.migrations[0].down.path == "/m/U1.9__b.sql"
    assert source.migrations[1].down is None
    assert source.key("1_10") == source.key("1.10") < source.key("R__a_view")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["U1__a.sql"], "no V file"),
        (["V1__a.sql", "U1__a.sql", "U1.0__b.sql"], "undoes the same version"),
        (["B1__a.sql"], "baseline migration"),
        (["V1__a.sql", "beforeMigrate.sql"], "callback"),
        (["V1__a.sql", "notes.sql"], "not a name"),
        ({"V1__a.sql": "", "V1__a.sql.conf": "shouldExecute=false"}, "'shouldExecute' is not known"),
    ],
)
def test_flyway_files_that_mean_more_are_refused(files, reason):
    error = refused(files)
    assert error.code == "migration_invalid"
    assert reason in error.msg


def test_flyway_versions_that_are_equal_as_numbers_are_refused():
    assert refused(["V1__a.sql", "V1.0__b.sql"]).code == "migration_version_duplicate"


def test_flyway_configuration_of_a_file_says_that_it_runs_outside_a_transaction():
    source = found({"V1__a.sql": "VACUUM;", "V1__a.sql.conf": "# because of VACUUM\nexecuteInTransaction = false\n"})
    assert prepare(source.migrations[0].up, step="up").transactional is False


def test_flyway_placeholders_are_replaced_and_the_checksum_is_that_of_the_file():
    files = {"V1__a.sql": "SELECT '${who}';", "R__v.sql": "SELECT '${who}';"}
    plain = found(files, placeholders={"who": "a"}).migrations
    other = found(files, placeholders={"who": "b"}).migrations
    assert plain[0].up.text == "SELECT 'a';"
    assert plain[0].up.checksum == other[0].up.checksum
    assert plain[1].up.checksum != other[1].up.checksum


def test_flyway_placeholder_without_value_is_refused_when_its_file_is_to_run_and_not_before():
    (migration,) = found({"V1__a.sql": "SELECT 1;\nSELECT '${who}';"}).migrations
    entries = [Entry(version="1", key=(1,), checksum=migration.up.checksum)]
    assert pending([migration], entries) == []
    with pytest.raises(HoldfastError, match=r"V1__a\.sql:2: the placeholder \$\{who\}"):
        pending([migration], [])


def test_flyway_locations_are_searched_to_any_depth(tmp_path):
    source = write(
        tmp_path,
        {"V1__a.sql": "", "v2/V2__b.sql": "", "v3/tables/V3__c.sql": "", "v2/README.md": "", ".old/V4__d.sql": ""},
    )
    assert [m.version for m in find(read_directories([source])).migrations] == ["1", "2", "3"]


def pending(migrations, entries, target=None):
    steps = plan_up(
        migrations=migrations,
        entries=entries,
        target_version=target,
        allow_out_of_order=False,
        allow_missing=False,
        key=found(["V1__a.sql"]).key,
    )
    return [step.migration.version for step in steps]


def rows(migrations, **checksums):
    return [Entry(version=m.version, key=m.key, checksum=checksums.get(m.version, m.up.checksum)) for m in migrations]


def test_repeatable_runs_after_all_versions_and_again_only_when_it_changed():
    migrations = found(["V1__a.sql", "V2__b.sql", "R__v.sql", "R__w.sql"]).migrations
    assert pending(migrations, []) == ["1", "2", "R__v", "R__w"]
    assert pending(migrations, rows(migrations)) == []
    assert pending(migrations, rows(migrations, R__w="other")) == ["R__w"]
    assert pending(migrations, rows([migrations[0], *migrations[2:]])) == ["2"]


def test_repeatable_waits_while_the_target_leaves_versions_pending():
    migrations = found(["V1__a.sql", "V2__b.sql", "R__v.sql"]).migrations
    assert pending(migrations, [], target="1") == ["1"]
    assert pending(migrations, [], target="2") == ["1", "2", "R__v"]


def test_repeatable_is_forgotten_when_versions_below_it_are_reverted():
    migrations = found(["V1__a.sql", "U1__a.sql", "V2__b.sql", "U2__b.sql", "R__v.sql"]).migrations
    key = found(["V1__a.sql"]).key
    entries = rows(migrations)
    steps = plan_down(migrations=migrations, entries=entries, target_version="1", key=key)
    assert [step.migration.version for step in steps] == ["R__v", "2"]
    assert steps[0].down.statements == ()
    assert plan_down(migrations=migrations, entries=entries, target_version="2", key=key) == []


# -- goose --------------------------------------------------------------------------------------------------------


def test_goose_files_are_cut_at_the_annotations_and_keep_their_lines():
    (migration,) = found({"00007_seat.sql": GOOSE}).migrations
    assert (migration.version, migration.description) == ("00007", "seat")
    down = prepare(migration.down, step="down")
    assert [s.text for s in prepare(migration.up, step="up").statements] == ["CREATE TABLE seat (id int)"]
    assert [s.text for s in down.statements] == ["DROP TABLE seat"]
    assert down.script.text.count("\n", 0, down.statements[0].offset) == 3


def test_goose_annotations_may_have_any_case():
    text = """-- +GOOSE no transaction
-- +goose UP
-- +goose statementbegin
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; SELECT 2 $$;
-- +Goose StatementEnd
--+goose down
DROP FUNCTION f();
"""
    (migration,) = found({"1_f.sql": text}).migrations
    up, down = prepare(migration.up, step="up"), prepare(migration.down, step="down")
    assert (up.transactional, down.transactional) == (False, False)
    assert (len(up.statements), len(down.statements)) == (1, 1)


def test_goose_files_that_are_empty_or_without_a_way_down_are_migrations():
    empty, up = found({"1_empty.sql": "\n", "2_up.sql": "-- a note\n-- +goose Up\nSELECT 1;\n"}).migrations
    assert prepare(empty.up, step="up").statements == prepare(empty.down, step="down").statements == ()
    assert up.down is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("SELECT 1;\n", 1),
        ("-- only a comment\n", 1),
        ("SELECT 1;\n-- +goose Up\n", 1),
        ("-- +goose Down\nSELECT 1;\n", 1),
        ("-- +goose Up\n-- +goose Up\n", 2),
        ("-- +goose Up\n-- +goose Down\n-- +goose Down\n", 3),
        ("-- +goose Up\n  -- +goose Down\n", 2),
        ("-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n", 2),
        ("-- +goose Up\n-- +goose StatementEnd\n", 2),
        ("-- +goose StatementBegin\n-- +goose Up\n", 1),
        ("-- +goose Up\n-- +goose Sideways\n", 2),
    ],
)
def test_goose_files_that_goose_would_not_read_are_refused_with_the_line(text, line):
    assert "/m/1_a.sql:%d:" % line in refused({"1_a.sql": text}, layout="goose").msg


def test_goose_files_with_variables_of_the_environment_are_refused_when_they_are_to_run():
    (migration,) = found({"1_a.sql": "-- +goose Up\n-- +goose ENVSUB ON\nSELECT '${HOME}';\n"}).migrations
    with pytest.raises(HoldfastError, match="environment"):
        prepare(migration.up, step="up")


def test_goose_migrations_in_go_are_refused(tmp_path):
    source = write(tmp_path, {"1_a.sql": GOOSE, "2_b.go": "package migrations", "2_b_test.go": "package migrations"})
    with pytest.raises(HoldfastError, match=r"2_b\.go: a migration in Go"):
        find(read_directories([source]))


# -- sqitch -------------------------------------------------------------------------------------------------------

PLAN = """%syntax-version=1.0.0
%project=shop

appschema 2026-01-01T10:00:00Z Ada <ada@example.org> # Add schema
ticket [appschema] 2026-01-02T10:00:00Z Ada <ada@example.org> # Tickets: seats & prices
fn/price [ticket shop:appschema !refund] 2026-01-03T10:00:00Z Ada <ada@example.org>
@v1.0 2026-01-04T10:00:00Z Ada <ada@example.org> # First release

# reworked
ticket [ticket@v1.0 @v1.0] 2026-01-05T10:00:00Z Ada <ada@example.org> # Again
"""
SQITCH = {
    "sqitch.plan": PLAN,
    "deploy/appschema.sql": "CREATE SCHEMA shop;",
    "deploy/ticket@v1.0.sql": "CREATE TABLE shop.ticket ();",
    "deploy/ticket.sql": "ALTER TABLE shop.ticket ADD id int;",
    "deploy/fn/price.sql": "",
    "revert/appschema.sql": "DROP SCHEMA shop;",
    "revert/ticket@v1.0.sql": "DROP TABLE shop.ticket;",
    "revert/ticket.sql": "ALTER TABLE shop.ticket DROP id;",
    "verify/ticket.sql": "SELECT id FROM shop.ticket WHERE false;",
}


def test_sqitch_runs_in_the_order_of_the_plan_with_reworked_changes_by_their_tags():
    source = found(SQITCH)
    assert [m.version for m in source.migrations] == ["appschema", "ticket", "fn/price", "ticket (2)"]
    assert [m.up.path for m in source.migrations][1::2] == ["/m/deploy/ticket@v1.0.sql", "/m/deploy/ticket.sql"]
    assert [m.down is not None for m in source.migrations] == [True, True, False, True]
    assert [m.verify is not None for m in source.migrations] == [False, False, False, True]
    assert source.migrations[1].description == "Tickets: seats & prices"
    assert source.key("@v1.0") == source.key("fn/price") == (3,)
    assert source.key("unknown") is None


def test_a_change_keeps_its_version_when_it_is_reworked_later():
    before = {**SQITCH, "sqitch.plan": PLAN[: PLAN.index("# reworked")]}
    before["deploy/ticket.sql"] = before.pop("deploy/ticket@v1.0.sql")
    first = found(before).migrations[1]
    later = found(SQITCH).migrations[1]
    assert (first.version, first.up.checksum) == (later.version, later.up.checksum)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("other 2026 Ada <a@b>", "deploy/other.sql is not there"),
        ("appschema [later] 2026 Ada <a@b>", "later is not before the change"),
        ("x [appschema @v9] 2026 Ada <a@b>", "@v9 is not before the change"),
        ("x [!ticket] 2026 Ada <a@b>", "!ticket conflicts"),
        ("x [billing:invoice] 2026 Ada <a@b>", "another project"),
        ("ticket 2026 Ada <a@b>", "without a tag between"),
        ("@v1.0 2026 Ada <a@b>", "twice"),
        ("[x]", "neither a change nor a tag"),
    ],
)
def test_sqitch_plans_that_do_not_hold_are_refused_with_the_line(line, reason):
    error = refused({**SQITCH, "sqitch.plan": PLAN + line + "\n"})
    assert error.code == "migration_invalid"
    assert "/m/sqitch.plan:11: " in error.msg
    assert reason in error.msg


def test_sqitch_directories_in_other_places_are_refused():
    configuration = '[core]\n\tengine = pg\n\tplan_file = sqitch.plan\n[engine "pg"]\n\tdeploy_dir = up\n'
    error = refused({**SQITCH, "sqitch.conf": configuration})
    assert "/m/sqitch.conf:5: deploy_dir" in error.msg


def test_sqitch_files_are_read_from_its_directories_alone(tmp_path):
    source = write(tmp_path, {**SQITCH, "docs/1_x.sql": "", "query.sql": "", "sqitch.conf": "[core]\n\tengine = pg\n"})
    assert len(find(read_directories([source])).migrations) == 4


# -- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [".postgres.sql", "*.postgres.sql", r"~\.postgres\.sql$", "0*_a.*.postgres.sql"])
def test_include_takes_suffixes_globs_and_regular_expressions(tmp_path, pattern):
    source = write(tmp_path, {"01_a.up.postgres.sql": "", "01_a.up.mysql.sql": "", "seed.sql": ""})
    options = Options(include=(pattern,), prefer=("postgres",))
    assert [m.version for m in find(read_directories([source], options), options).migrations] == ["01"]


def test_include_may_name_directories_below_the_source(tmp_path):
    source = write(tmp_path, {"common/V1__a.sql": "", "mysql/V2__b.sql": "", "postgresql/V2__b.sql": ""})
    options = Options(include=("common/*", "postgresql/*"))
    assert [m.version for m in find(read_directories([source], options), options).migrations] == ["1", "2"]


def test_include_that_is_no_regular_expression_is_refused(tmp_path):
    with pytest.raises(HoldfastError, match="no regular expression") as error:
        read_directories([str(tmp_path)], Options(include=("~(",)))
    assert error.value.code == "option_invalid"


def test_prefer_chooses_among_the_files_of_a_step():
    names = ["1_a.up.sql", "1_a.up.pg.sql", "1_a.mysql.up.sql", "2_b/up.sql", "2_b/up.sqlite.sql", "2_b/down.pg.sql"]
    first, second = found(names, prefer=["postgres", "pg"]).migrations
    assert (first.up.path, first.description) == ("/m/1_a.up.pg.sql", "a")
    assert (second.up.path, second.down.path) == ("/m/2_b/up.sql", "/m/2_b/down.pg.sql")


def test_prefer_refuses_a_step_that_is_there_for_others_alone():
    error = refused(["1_a.up.sql", "2_b.up.mysql.sql"], prefer=["postgres"])
    assert "2_b.up.mysql.sql: it is for mysql" in error.msg


@pytest.mark.parametrize("name", ["1_a.notx.up.sql", "1_a.up.notx.sql"])
def test_no_transaction_pattern_marks_files_and_is_no_part_of_the_name(name):
    (migration,) = found({name: "VACUUM;"}, no_transaction_pattern=".notx.sql").migrations
    assert migration.description == "a"
    assert prepare(migration.up, step="up").transactional is False


def test_no_transaction_pattern_may_be_a_regular_expression():
    one, other = found(["V1__a.sql", "V2__concurrently_b.sql"], no_transaction_pattern="~__concurrently_").migrations
    assert prepare(one.up, step="up").transactional is True
    assert prepare(other.up, step="up").transactional is False


def test_two_files_that_become_the_same_step_are_refused():
    error = refused(["1_a.up.sql", "1_a.up.notx.sql"], no_transaction_pattern=".notx.sql")
    assert "is the same step" in error.msg
