# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations are found among files, ordered by number, and refused when they cannot be understood."""

from __future__ import annotations

import os

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    SourceFile,
    migrations,
    read_directories,
    version_key,
)


def found(*paths: str) -> list[str]:
    return [m.version for m in migrations([SourceFile(path, b"SELECT 1;") for path in paths])]


def refused(*files: SourceFile) -> HoldfastError:
    with pytest.raises(HoldfastError) as error:
        migrations(files)
    return error.value


def test_both_layouts_in_several_directories_are_merged_in_the_order_of_versions():
    assert found("/b/v1.10.0_c.up.sql", "/a/v1.9_b/up.sql", "/a/20240101120000_d/up.sql", "/a/0001_a.up.sql") == [
        "0001",
        "v1.9",
        "v1.10.0",
        "20240101120000",
    ]


@pytest.mark.parametrize(
    ("less", "more"),
    [("1.9", "1.10"), ("9", "10"), ("1", "1.0.1"), ("v2", "v10"), ("1.2.3", "20240101"), ("9" * 30, "1" + "0" * 30)],
)
def test_versions_compare_as_numbers(less, more):
    assert version_key(less) < version_key(more)


@pytest.mark.parametrize(("one", "other"), [("1", "001"), ("1", "v1"), ("1", "1.0.0"), ("V1.02", "1.2"), ("0", "0.0")])
def test_versions_that_are_equal_as_numbers_are_duplicates_and_both_are_named(one, other):
    paths = ["/m/%s_a/up.sql" % one, "/n/%s_b.up.sql" % other]
    error = refused(*(SourceFile(path, b"") for path in paths))
    assert error.code == "migration_version_duplicate"
    assert all(path in error.msg for path in paths)


def test_the_same_name_as_directory_and_as_file_is_a_duplicate():
    error = refused(SourceFile("/m/1_a/up.sql", b""), SourceFile("/m/1_a.up.sql", b""))
    assert error.code == "migration_version_duplicate"


@pytest.mark.parametrize("text", ["", "a", "1.", ".1", "1..2", "1a", "-1", "\u0661", "1 ", "1\n", "v", "9" * 300])
def test_what_is_no_version_has_no_key(text):
    assert version_key(text) is None


@pytest.mark.parametrize(
    "path",
    [
        "/m/init.up.sql",
        "/m/1.up.sql",
        "/m/1_.up.sql",
        "/m/1-name.up.sql",
        "/m/0001_name.sql",
        "/m/beforeMigrate.sql",
        "/m/init/up.sql",
        "/m/1_name/other.sql",
        "/m/1_name.down.sql",
        "/m/1_name.UP.sql",
        "/m/\udcff_name.up.sql",
    ],
)
def test_names_that_cannot_be_understood_are_refused(path):
    assert refused(SourceFile(path, b"SELECT 1")).code == "migration_invalid"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"SELECT 1;\n'\xff'", ":2: the file is not UTF-8"), (b"a\n\nb\x00", ":3: the file holds a NUL")],
)
def test_content_that_is_no_text_is_refused_with_its_line(content, reason):
    error = refused(SourceFile("/m/1_a.up.sql", content))
    assert error.code == "migration_invalid"
    assert reason in error.msg


def test_byte_order_mark_and_line_ends_do_not_change_a_file():
    (plain,) = migrations([SourceFile("/m/1_a.up.sql", "SELECT 'é';\n\n".encode())])
    (windows,) = migrations([SourceFile("/m/1_a.up.sql", b"\xef\xbb\xbf" + "SELECT 'é';\r\n\r\n".encode())])
    assert plain == windows
    assert plain.up.checksum == windows.up.checksum


def test_description_is_the_rest_of_the_name():
    (migration,) = migrations([SourceFile("/m/v1.2__add_Ümläut__and%s{{ x }}/up.sql", b"")])
    assert migration.description == "add Ümläut and%s{{ x }}"


def test_directories_are_read_and_what_is_something_else_is_left_alone(tmp_path):
    for name in ("README.md", ".hidden.sql", "1_a.up.sql~", "notes.txt", "1_a.up.sql", "1_a.down.sql"):
        (tmp_path / name).write_text("SELECT 1;")
    for directory in ("2_b", "docs", ".git"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "README.md").write_text("x")
    (tmp_path / "docs" / "query.sql").write_text("x")
    for name in ("up.sql", "down.sql", "verify.sql", ".up.sql.swp"):
        (tmp_path / "2_b" / name).write_text("SELECT 2;")
    first, second = migrations(read_directories([str(tmp_path) + "/", str(tmp_path)]))
    assert (first.version, first.down is not None, first.verify) == ("1", True, None)
    assert (second.version, second.down is not None, second.verify is not None) == ("2", True, True)


@pytest.mark.parametrize("directory", ["3_c", "v4"])
def test_a_directory_without_up_sql_is_refused(tmp_path, directory):
    (tmp_path / directory).mkdir()
    with pytest.raises(HoldfastError, match=r"has no up\.sql") as error:
        read_directories([str(tmp_path)])
    assert error.value.code == "migration_invalid"


def test_a_directory_with_a_down_alone_is_refused(tmp_path):
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "down.sql").write_text("SELECT 1")
    with pytest.raises(HoldfastError, match=r"has no up\.sql"):
        read_directories([str(tmp_path)])


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(HoldfastError, match="No such file"):
        read_directories([str(tmp_path / "absent")])
    os.symlink("/nowhere", tmp_path / "1_a.up.sql")
    with pytest.raises(HoldfastError, match="not a regular file"):
        read_directories([str(tmp_path)])
    (tmp_path / "1_a.up.sql").unlink()
    os.mkfifo(tmp_path / "1_a.up.sql")
    with pytest.raises(HoldfastError, match="not a regular file"):
        read_directories([str(tmp_path)])


def test_an_empty_directory_holds_nothing(tmp_path):
    assert read_directories([str(tmp_path)]) == []


def test_checksums_are_those_that_histories_have_recorded_since_the_first_version():
    (migration,) = migrations([SourceFile("/m/1_a/up.sql", b"\xef\xbb\xbfSELECT 1;\r\n")])
    assert migration.up.checksum == "b4e0497804e46e0a0b0b8c31975b062152d551bac49c3c2e80932567b4085dcd"
