# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives on disk, without a server."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.archives import STRANGE_NAME, flip_bit, manifest, seal_as, write_archive

UTC = datetime.timezone.utc


# --- names ---


@pytest.mark.parametrize("name", ["rently_lending", "crm-2", "a.b", "UPPER", "0"])
def test_simple_database_names_are_directory_names(name):
    assert archives.directory_name(name) == name


@pytest.mark.parametrize(
    "name",
    [".", "..", "...", "-rf", "a/b", "/", "../x", "%2E", "%", "~root", "a b", "é" * 31, "\n", STRANGE_NAME, ".lock"],
)
def test_any_database_name_becomes_one_harmless_directory_name_and_comes_back(name):
    directory = archives.directory_name(name)
    assert "/" not in directory and directory[0] not in "-.~"
    assert directory.isascii() and directory.isprintable() and " " not in directory
    assert len(directory) <= 255
    assert archives.database_name(directory) == name


@pytest.mark.parametrize("directory", ["%2e%2e", "a b", ".hidden", "lost+found", "-x", ""])
def test_directories_that_no_database_has_are_not_taken_for_one(directory):
    assert archives.database_name(directory) is None


@pytest.mark.parametrize(
    "archive_id", ["", "..", ".x", "a/b", "-x", "x.partial", "x.removing", "a b", "x" * 101, "a\n"]
)
def test_ids_that_cannot_name_an_archive_are_refused(archive_id):
    with pytest.raises(HoldfastError) as caught:
        archives.check_id(archive_id)
    assert caught.value.code == "option_invalid"


def test_new_ids_are_in_utc():
    moment = datetime.datetime(2026, 11, 21, 0, 15, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    assert archives.new_id(moment, "7f3a99") == "20261120T221500Z-7f3a"


def test_times_keep_their_zone_and_read_back():
    moment = datetime.datetime(2026, 11, 21, 0, 15, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    assert archives.format_time(moment) == "2026-11-20T22:15:00.000000Z"
    assert archives.parse_time(archives.format_time(moment)) == moment


# --- the manifest ---


def test_manifest_reads_back_equal():
    before = manifest(database=STRANGE_NAME, warnings=["x"], fingerprint={"sequences": {"a": [1, True]}})
    after = archives.Manifest.decoded(before.encoded())
    assert after.encoded() == before.encoded()
    assert after.database == STRANGE_NAME


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "not JSON"), (b"\xff\xfe", "not JSON"), (b"[]", "not a JSON object"), (b"{}", "lacks id, database")],
)
def test_manifest_that_cannot_be_read_says_why(content, complaint):
    with pytest.raises(ValueError, match=complaint):
        archives.Manifest.decoded(content)


# --- verification ---


def test_archive_as_written_is_good_private_and_checkable_by_hand(tmp_path):
    path = write_archive(tmp_path)
    state = archives.examine(str(path), archive_id=path.name, database="rently_lending")
    assert (state.status, state.reason) == ("good", None)
    assert state.bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.rglob("*") if file.is_file()}
    assert modes == {0o600}
    assert {stat.S_IMODE(d.stat().st_mode) for d in (path, path / "data", path.parent)} == {0o700}
    subprocess.run(["sha256sum", "--check", "manifest.sha256"], cwd=path, check=True, capture_output=True)


def test_every_single_flipped_bit_makes_an_archive_corrupt_and_names_the_file(tmp_path):
    path = write_archive(tmp_path)
    for file in [file for file in path.rglob("*") if file.is_file()]:
        size = file.stat().st_size
        for position in {*range(0, size, max(1, size // 23)), size - 1}:
            flip_bit(file, position)
            state = archives.examine(str(path), archive_id=path.name, database="rently_lending")
            assert state.status == "corrupt", (file, position)
            assert file.name in (state.reason or "")
            flip_bit(file, position)
    assert archives.examine(str(path)).status == "good"


def _without_data(path: pathlib.Path) -> None:
    shutil.rmtree(path / "data")


DAMAGE = {
    "truncated": (lambda path: os.truncate(path / "data/1.dat.gz", 39999), "data/1.dat.gz has 39999 bytes instead of"),
    "longer": (lambda path: os.truncate(path / "data/1.dat.gz", 40001), "data/1.dat.gz has 40001 bytes instead of"),
    "file missing": (lambda path: (path / "data/toc.dat").unlink(), "data/toc.dat is missing"),
    "directory missing": (_without_data, "data/1.dat.gz, data/toc.dat is missing"),
    "manifest missing": (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
    "checksum missing": (lambda path: (path / "manifest.sha256").unlink(), "manifest.sha256 is missing"),
    "globals missing": (lambda path: (path / "globals.sql").unlink(), "globals.sql is missing"),
    "file added": (lambda path: (path / "data/extra").touch(), "data/extra is not in manifest.json"),
    "hidden file added": (lambda path: (path / ".x").touch(), ".x is not in manifest.json"),
    "directory added": (lambda path: (path / "more").mkdir(), "more is not in manifest.json"),
    "link added": (lambda path: (path / "link").symlink_to("/etc/passwd"), "link is not a regular file"),
    "pipe added": (lambda path: os.mkfifo(path / "pipe"), "pipe is not a regular file"),
    "manifest empty": (
        lambda path: (path / "manifest.json").write_bytes(b""),
        "manifest.json does not have the SHA-256",
    ),
}


@pytest.mark.parametrize("verify", ["none", "checksums"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_named(tmp_path, damage, verify):
    path = write_archive(tmp_path)
    harm, reason = DAMAGE[damage]
    harm(path)
    state = archives.examine(str(path), verify=verify)
    assert state.status == "corrupt"
    assert reason in state.reason


def test_file_replaced_by_a_link_to_an_equal_file_is_corrupt(tmp_path):
    path = write_archive(tmp_path)
    shutil.move(path / "data/1.dat.gz", tmp_path / "elsewhere")
    (path / "data/1.dat.gz").symlink_to(tmp_path / "elsewhere")
    assert archives.examine(str(path)).reason == "data/1.dat.gz is not a regular file"


def _rewrite(path: pathlib.Path, **changed: object) -> None:
    values = {**json.loads((path / "manifest.json").read_bytes()), **changed}
    content = json.dumps(values).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "manifest.sha256").write_bytes(archives.checksum_line(content))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "data/../../x", "data//x", "other", "./data", ""])
def test_manifest_that_names_files_outside_is_corrupt(tmp_path, name):
    path = write_archive(tmp_path)
    _rewrite(path, files={name: {"bytes": 1, "sha256": "0" * 64}})
    state = archives.examine(str(path))
    assert state.status == "corrupt"
    assert "no file of an archive" in state.reason


@pytest.mark.parametrize(
    "changed",
    [
        {"snapshot_at": "yesterday"},
        {"dump_format": "plain"},
        {"files": []},
        {"files": {"data/toc.dat": {}}},
        {"files": {"data/toc.dat": {"bytes": "8", "sha256": "0" * 64}}},
        {"files": {"data/toc.dat": None}},
    ],
)
def test_manifest_that_no_backup_writes_is_corrupt(tmp_path, changed):
    path = write_archive(tmp_path)
    _rewrite(path, **changed)
    assert archives.examine(str(path)).status == "corrupt"


def test_archive_of_a_newer_release_is_neither_good_nor_corrupt(tmp_path):
    path = write_archive(tmp_path, format=archives.FORMAT + 1)
    listing = archives.list_archives(str(tmp_path))
    assert [state.status for state in listing.archives] == ["unverified"]
    assert "newer release" in listing.archives[0].reason
    assert listing.newest_good is None
    with pytest.raises(HoldfastError) as caught:
        archives.select_archive(archive=str(path))
    assert caught.value.code == "archive_corrupt"


def test_archive_under_another_database_or_id_is_corrupt(tmp_path):
    path = write_archive(tmp_path)
    shutil.copytree(path, tmp_path / "crm" / path.name)
    shutil.copytree(path, path.with_name("renamed"))
    by_path = {state.path: state for state in archives.list_archives(str(tmp_path)).archives}
    assert by_path[str(path)].status == "good"
    assert "is of database 'rently_lending', not of 'crm'" in by_path[str(tmp_path / "crm" / path.name)].reason
    assert "not of renamed" in by_path[str(path.with_name("renamed"))].reason


def test_what_pg_restore_finds_wrong_counts_only_when_asked(tmp_path):
    path = write_archive(tmp_path)
    broken = {"read_toc": lambda archive, about: "data has 0 entries instead of 4"}
    assert archives.examine(str(path), verify="checksums", **broken).status == "good"
    assert archives.examine(str(path), verify="toc", **broken).reason == "data has 0 entries instead of 4"


# --- listing and choosing ---


def test_newest_good_goes_by_the_snapshot_and_never_by_file_times(tmp_path):
    start = datetime.datetime(2026, 11, 1, tzinfo=UTC)
    paths = [write_archive(tmp_path, when=start + datetime.timedelta(days=day)) for day in (2, 0, 1)]
    for age, path in enumerate(paths):
        os.utime(path, (age * 1000, age * 1000))
        os.utime(path / "manifest.json", (age * 1000, age * 1000))
    listing = archives.list_archives(str(tmp_path))
    assert [state.path for state in listing.archives] == [str(paths[1]), str(paths[2]), str(paths[0])]
    assert listing.newest_good.path == str(paths[0])
    flip_bit(paths[0] / "globals.sql", 3)
    assert archives.list_archives(str(tmp_path)).newest_good.path == str(paths[2])


def test_nothing_is_called_newest_good_unread(tmp_path):
    write_archive(tmp_path)
    listing = archives.list_archives(str(tmp_path), verify="none")
    assert [state.status for state in listing.archives] == ["unverified"]
    assert listing.newest_good is None


def test_path_that_does_not_exist_holds_no_archives_and_a_file_is_none(tmp_path):
    assert archives.list_archives(str(tmp_path / "nowhere")).archives == ()
    (tmp_path / "file").touch()
    with pytest.raises(HoldfastError) as caught:
        archives.list_archives(str(tmp_path / "file"))
    assert caught.value.code == "archive_not_found"


def test_unfinished_ones_are_listed_as_incomplete_and_never_chosen(tmp_path):
    path = write_archive(tmp_path)
    (path.parent / "old.partial").mkdir()
    (path.parent / "older.removing").mkdir()
    with archives.draft(str(path.parent), "running", owner={}):
        states = {state.id: state for state in archives.list_archives(str(tmp_path)).archives}
    assert states["old.partial"].status == states["older.removing"].status == "incomplete"
    assert states["old.partial"].reason == "the backup that wrote it was killed"
    assert states["running.partial"].reason == archives.BEING_WRITTEN
    chosen, _ = archives.select_archive(path=str(tmp_path), database="rently_lending")
    assert chosen.path == str(path)


def test_choice_passes_over_corrupt_ones_and_says_so(tmp_path):
    start = datetime.datetime(2026, 11, 1, tzinfo=UTC)
    older, newer = (write_archive(tmp_path, when=start + datetime.timedelta(days=day)) for day in (0, 1))
    flip_bit(newer / "data/1.dat.gz", 17)
    chosen, warnings = archives.select_archive(path=str(tmp_path), database="rently_lending")
    assert chosen.path == str(older)
    assert len(warnings) == 1 and "data/1.dat.gz" in warnings[0]
    with pytest.raises(HoldfastError) as caught:
        archives.select_archive(path=str(tmp_path), database="rently_lending", archive_id=newer.name)
    assert caught.value.code == "archive_corrupt"
    flip_bit(older / "manifest.sha256", 0)
    with pytest.raises(HoldfastError) as caught:
        archives.select_archive(path=str(tmp_path), database="rently_lending")
    assert caught.value.code == "archive_not_found"


def test_archive_that_was_copied_elsewhere_can_be_chosen_by_its_path(tmp_path):
    copied = shutil.copytree(write_archive(tmp_path / "a"), tmp_path / "copied")
    chosen, _ = archives.select_archive(archive=str(copied))
    assert chosen.status == "good"
    with pytest.raises(HoldfastError) as caught:
        archives.select_archive(archive=str(tmp_path / "nowhere"))
    assert caught.value.code == "archive_not_found"


# --- writing ---


def test_failure_leaves_nothing_behind(tmp_path):
    directory = archives.prepare_directory(str(tmp_path), "app")
    with contextlib.suppress(KeyError), archives.draft(directory, "one", owner={}) as draft:
        pathlib.Path(draft.path, "data.dump").write_bytes(b"x")
        raise KeyError
    assert set(os.listdir(directory)) <= {archives.LOCK}


def test_an_existing_archive_is_never_replaced(tmp_path):
    path = write_archive(tmp_path)
    with pytest.raises(HoldfastError) as caught, archives.draft(str(path.parent), path.name, owner={}):
        pass
    assert caught.value.code == "target_exists"
    assert archives.examine(str(path)).status == "good"


def test_two_runs_with_one_id_do_not_share_a_directory(tmp_path):
    directory = archives.prepare_directory(str(tmp_path), "rently_lending")
    with archives.draft(directory, "one", owner={}) as first:
        with pytest.raises(HoldfastError) as caught, archives.draft(directory, "one", owner={}):
            pass
        assert caught.value.code == "target_exists"
        assert archives.clean_up(directory) == []
        seal_as(first, manifest(id="one"))
        first.publish()
    assert set(os.listdir(directory)) == {archives.LOCK, "one"}


KILLED_RUN = """
import os, signal, sys
from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive
with archive.draft(sys.argv[1], "dead", owner={"application_name": "x"}) as draft:
    open(os.path.join(draft.path, "data.dump"), "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_is_removed_and_its_owner_told(tmp_path):
    directory = archives.prepare_directory(str(tmp_path), "app")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", KILLED_RUN, directory], check=False, env=environment)
    assert "dead.partial" in os.listdir(directory)
    owners = []
    assert archives.clean_up(directory, before_removal=owners.append) == ["dead.partial"]
    assert owners == [{"application_name": "x"}]
    assert set(os.listdir(directory)) == {archives.LOCK}


def test_removal_that_a_crash_interrupted_is_finished(tmp_path):
    path = write_archive(tmp_path)
    os.rename(path, str(path) + archives.REMOVING)
    assert archives.clean_up(str(path.parent)) == [path.name + archives.REMOVING]
    assert set(os.listdir(path.parent)) == {archives.LOCK}


def test_archive_that_is_being_read_is_not_removed(tmp_path):
    path = write_archive(tmp_path)
    with archives.in_use(str(path)):
        assert archives.remove_archive(str(path)) is False
        assert archives.examine(str(path)).status == "good"
    assert archives.remove_archive(str(path)) is True
    assert not path.exists()


def test_destination_below_a_file_is_unwritable(tmp_path):
    (tmp_path / "file").touch()
    for attempt in (archives.expect_writable, archives.prepare_directory):
        with pytest.raises(HoldfastError) as caught:
            attempt(str(tmp_path / "file" / "backups"), "app")
        assert caught.value.code == "destination_unwritable"
        assert str(tmp_path / "file") in caught.value.msg


def test_a_full_volume_has_a_code_of_its_own():
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert archives.storage_failure(OSError(number, "full"), "/x").code == "destination_full"
    assert archives.storage_failure(OSError(errno.EROFS, "read-only"), "/x").code == "destination_unwritable"
