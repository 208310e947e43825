# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking archives: what is in them, what is refused, and what is left behind when a run does not end well."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives
from ansible_collections.holdfast.postgres.plugins.module_utils._backup import dump
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import describe_archives, take_archive
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.archives import STRANGE_NAME, create_everything
from tests.support.modules import run_module
from tests.support.server import PASSWORD, eventually

ROWS = """
CREATE TABLE loan (id bigserial PRIMARY KEY, note text);
INSERT INTO loan (note) SELECT 'x' || i FROM generate_series(1, %d) i
"""


def backup(server, database, path, **options):
    """Take an archive with this server's own client programs and return the engine's answer."""
    options.setdefault("bin_dir", str(server.bin_dir))
    return take_archive(
        server=server.server, database=database, path=str(path), environment=dict(os.environ), **options
    )


def content(path: pathlib.Path) -> set[str]:
    """What a directory holds, but for lock files."""
    return {entry for entry in os.listdir(path) if not entry.startswith(".")} if path.exists() else set()


def impostor(tmp_path: pathlib.Path, server, script: str) -> str:
    """A bin_dir whose pg_dump is a shell script; ``@REAL@`` in it stands for the real one."""
    directory = tmp_path / "impostor"
    directory.mkdir()
    for program in ("pg_restore", "pg_dumpall"):
        (directory / program).symlink_to(server.bin_dir / program)
    real = str(server.bin_dir / "pg_dump")
    (directory / "pg_dump").write_text(
        '#!/bin/sh\ncase "$1" in --version|--compress=*) exec %s "$@" ;; esac\n%s\n'
        % (real, script.replace("@REAL@", real))
    )
    (directory / "pg_dump").chmod(0o755)
    return str(directory)


def test_module_predicts_takes_and_leaves_an_archive_alone(pg18, database, tmp_path):
    pg18.execute(ROWS % 1000, database=database)
    arguments = {
        **pg18.login,
        "database": database,
        "path": str(tmp_path / "new" / "backups"),
        "id": "20261120T221500Z-7f3a",
        "deployment_id": "d-1",
        "schema_version": "v1.0.0",
        "bin_dir": str(pg18.bin_dir),
    }
    predicted = run_module("pg_backup", arguments, check=True)
    assert predicted["changed"] is True and predicted["archive"]["predicted_bytes"] > 0
    assert not (tmp_path / "new").exists()
    taken = run_module("pg_backup", arguments)
    assert taken["changed"] is True and taken["archive"]["status"] == "good"
    assert taken["archive"]["path"] == predicted["archive"]["path"]
    assert (taken["archive"]["rows"], taken["archive"]["tables"]) == (1000, 1)
    assert (taken["archive"]["deployment_id"], taken["archive"]["schema_version"]) == ("d-1", "v1.0.0")
    for check in (True, False):
        again = run_module("pg_backup", arguments, check=check)
        assert again["changed"] is False
        assert again["archive"] == taken["archive"]
    listed = run_module("pg_backup_info", {"path": arguments["path"], "verify": "toc", "bin_dir": arguments["bin_dir"]})
    assert listed["changed"] is False
    assert listed["newest_good"] == taken["archive"]
    assert PASSWORD not in json.dumps([predicted, taken, listed])


@pytest.mark.parametrize("dump_format", ["directory", "custom"])
def test_archive_is_private_whole_and_named_safely_for_any_database(pg18, tmp_path, dump_format):
    create_everything(pg18, STRANGE_NAME)
    try:
        taken = backup(pg18, STRANGE_NAME, tmp_path, dump_format=dump_format)["archive"]
    finally:
        pg18.drop_database(STRANGE_NAME)
    path = pathlib.Path(taken["path"])
    assert taken["database"] == STRANGE_NAME
    assert path.parent.parent == tmp_path
    assert content(path) == {*archives.TOP_LEVEL} - {"data" if dump_format == "custom" else "data.dump"}
    for entry in [path, *path.rglob("*")]:
        assert stat.S_IMODE(entry.stat().st_mode) == (0o700 if entry.is_dir() else 0o600), entry
    manifest = archives.Manifest.decoded((path / "manifest.json").read_bytes())
    assert {"holdfast_owner", "Reader", 'app "rw" %s'} <= set(manifest.roles)
    assert manifest.lsn and manifest.snapshot_at.endswith("Z")
    assert manifest.warnings == []
    roles = (path / "globals.sql").read_text()
    assert "holdfast_owner" in roles and "SCRAM-SHA-256" not in roles
    stored = b"".join(file.read_bytes() for file in path.rglob("*.json"))
    assert PASSWORD.encode() not in stored
    listed = describe_archives(
        path=str(tmp_path), environment=dict(os.environ), verify="toc", bin_dir=str(pg18.bin_dir)
    )
    assert listed["newest_good"]["path"] == taken["path"]


def test_empty_database_makes_a_good_archive(pg18, database, tmp_path):
    taken = backup(pg18, database, tmp_path)["archive"]
    assert (taken["rows"], taken["tables"], taken["status"]) == (0, 0, "good")
    assert archives.examine(taken["path"]).status == "good"


def test_archive_holds_the_snapshot_although_writers_go_on(pg18, database, tmp_path):
    pg18.execute(ROWS % 20000, database=database)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            pg18.execute("INSERT INTO loan (note) SELECT 'late' FROM generate_series(1, 50)", database=database)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        eventually(lambda: pg18.execute("SELECT count(*) FROM loan", database=database)[0][0] > 20000)
        taken = backup(pg18, database, tmp_path)["archive"]
    finally:
        stop.set()
        writer.join()
    assert 20000 < taken["rows"] < pg18.execute("SELECT count(*) FROM loan", database=database)[0][0] + 1


def test_two_backups_at_once_do_not_harm_each_other(pg18, database, tmp_path):
    pg18.execute(ROWS % 5000, database=database)
    taken: list[dict] = []
    threads = [threading.Thread(target=lambda: taken.append(backup(pg18, database, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 2
    listed = archives.list_archives(str(tmp_path))
    assert [state.status for state in listed.archives] == ["good", "good"]


# --- refusals: each with a code, each leaving nothing behind ---


def refusal(caught) -> HoldfastError:
    """The error, after a look at its manners."""
    error = caught.value
    assert error.hint and PASSWORD not in error.msg + error.hint + json.dumps(error.details, default=str)
    return error


def test_missing_database_is_refused(pg18, tmp_path):
    with pytest.raises(HoldfastError) as caught:
        backup(pg18, "no such = database", tmp_path)
    assert refusal(caught).code == "database_not_found"
    assert content(tmp_path) == set()


def test_destination_that_cannot_be_written_is_refused_before_anything(pg18, database, tmp_path):
    (tmp_path / "file").touch()
    for check in (True, False):
        with pytest.raises(HoldfastError) as caught:
            backup(pg18, database, tmp_path / "file" / "backups", check=check)
        assert refusal(caught).code == "destination_unwritable"


def test_destination_without_room_is_refused_before_anything(pg18, database, tmp_path):
    for check in (True, False):
        with pytest.raises(HoldfastError) as caught:
            backup(pg18, database, tmp_path, min_free_bytes=1 << 60, check=check)
        error = refusal(caught)
        assert error.code == "destination_full" and error.details["free_bytes"] > 0
    assert content(tmp_path) == set()


def test_client_older_than_the_server_is_refused_before_anything(pg18, pg16, database, tmp_path):
    for check in (True, False):
        with pytest.raises(HoldfastError) as caught:
            backup(pg18, database, tmp_path, bin_dir=str(pg16.bin_dir), check=check)
        assert refusal(caught).code == "client_too_old"
    assert content(tmp_path) == set()


IMPOSTORS = {
    # The last --file= is the target; an archive of nothing, made by the real program.
    "dumps nothing": ('@REAL@ "$@" --exclude-schema=*', "archive_corrupt"),
    "leaves out data": ('@REAL@ "$@" --exclude-table-data=loan', "archive_corrupt"),
    "leaves out a table": ('@REAL@ "$@" --exclude-table=loan', "archive_corrupt"),
    "writes nothing": ("exit 0", "program_failed"),
    "fails late": ('@REAL@ "$@"; echo "pg_dump: error: it broke" >&2; exit 1', "program_failed"),
    "runs full": (
        'echo "pg_dump: error: could not write to output file: No space left on device" >&2; exit 1',
        "destination_full",
    ),
}


@pytest.mark.parametrize("what", IMPOSTORS)
def test_dump_that_is_not_whole_never_becomes_an_archive(pg18, database, tmp_path, what):
    script, code = IMPOSTORS[what]
    pg18.execute(ROWS % 10, database=database)
    with pytest.raises(HoldfastError) as caught:
        backup(pg18, database, tmp_path / "backups", bin_dir=impostor(tmp_path, pg18, script))
    assert refusal(caught).code == code
    assert content(tmp_path / "backups" / database) == set()


def test_archive_that_exists_and_is_corrupt_is_not_taken_for_good(pg18, database, tmp_path):
    taken = backup(pg18, database, tmp_path, archive_id="a")["archive"]
    os.truncate(taken["path"] + "/data/toc.dat", 10)
    with pytest.raises(HoldfastError) as caught:
        backup(pg18, database, tmp_path, archive_id="a")
    assert refusal(caught).code == "archive_corrupt"
    assert "data/toc.dat has 10 bytes" in caught.value.msg


def test_table_that_stays_locked_is_named_with_its_holder(pg18, database, tmp_path):
    pg18.execute(ROWS % 10, database=database)
    holder = pg18.connect(database, application_name="reorganizer")
    try:
        holder.autocommit = False
        holder.cursor().execute("LOCK TABLE loan IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(HoldfastError) as caught:
            backup(pg18, database, tmp_path, lock_wait_s=0.3)
    finally:
        holder.close()
    assert refusal(caught).code == "timeout"
    assert "reorganizer" in caught.value.msg
    assert content(tmp_path / database) == set()


def test_truncation_during_the_backup_waits_for_it(pg18, database, tmp_path, monkeypatch):
    """TRUNCATE is not transactional for older snapshots: it must not get between snapshot, dump and fingerprint."""
    monkeypatch.setattr(dump, "QUEUED_LOCK_WAIT_S", 1)
    pg18.execute(ROWS % 3000, database=database)
    truncation = threading.Thread(
        target=lambda: pg18.execute("TRUNCATE loan", database=database),
    )
    script = 'sleep 0.7; exec @REAL@ "$@"'
    taking: list[dict] = []
    thread = threading.Thread(
        target=lambda: taking.append(backup(pg18, database, tmp_path / "b", bin_dir=impostor(tmp_path, pg18, script)))
    )
    thread.start()
    eventually(
        lambda: pg18.execute(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE a.application_name LIKE 'holdfast backup %' AND l.mode = 'AccessShareLock'"
            " AND l.relation = (SELECT 'loan'::regclass)",
            database=database,
        )[0][0]
    )
    truncation.start()
    thread.join(timeout=60)
    truncation.join(timeout=10)
    assert not thread.is_alive()
    taken = taking[0]["archive"]
    # Either the dump came first, or it was given up, and the archive is of the empty table: never half of each.
    manifest = archives.Manifest.decoded(pathlib.Path(taken["path"], "manifest.json").read_bytes())
    assert taken["rows"] in (0, 3000)
    assert (taken["rows"] == 0) == any("given up" in warning for warning in manifest.warnings)


def test_globals_that_cannot_be_read_are_a_warning(pg18, database, tmp_path):
    directory = pathlib.Path(impostor(tmp_path, pg18, 'exec @REAL@ "$@"'))
    (directory / "pg_dumpall").unlink()
    (directory / "pg_dumpall").write_text("#!/bin/sh\necho 'pg_dumpall: error: permission denied' >&2\nexit 1\n")
    (directory / "pg_dumpall").chmod(0o755)
    taken = backup(pg18, database, tmp_path / "backups", bin_dir=str(directory))["archive"]
    assert taken["status"] == "good"
    assert "globals.sql is not in the archive" in taken["warnings"][0]
    assert "permission denied" in taken["warnings"][0]


def test_compression_that_is_not_built_in_is_replaced_with_a_notice(pg18, database, tmp_path):
    taken = backup(pg18, database, tmp_path, compression="zstd:9")["archive"]
    assert taken["compression"] == "gzip:3"
    assert "without zstd:9" in taken["warnings"][0]


@pytest.mark.parametrize("compression", ["none", "gzip:1"])
def test_compression_is_what_was_asked_for(pg18, database, tmp_path, compression):
    pg18.execute(ROWS % 10, database=database)
    taken = backup(pg18, database, tmp_path, compression=compression)["archive"]
    assert (taken["compression"], taken["warnings"]) == (compression, [])


# --- ends that nobody planned ---

RUN = """
import os, sys
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import take_archive
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
port, password, database, path, bin_dir = sys.argv[1:]
password = os.environ.pop("TEST_PASSWORD")
take_archive(
    server=Server(host="127.0.0.1", port=int(port), user="postgres", password=password),
    database=database, path=path, environment=dict(os.environ), bin_dir=bin_dir,
)
"""


def start_backup(server, database, path, bin_dir) -> subprocess.Popen:
    """A backup in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(server.port), "-", database, str(path), str(bin_dir)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TEST_PASSWORD": PASSWORD},
        stderr=subprocess.PIPE,
        text=True,
    )


def dumps_running(server) -> int:
    """Sessions of backups."""
    return server.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast backup %'")[0][0]


@pytest.fixture
def slow_bin_dir(pg18, tmp_path):
    """A pg_dump that has written part of its output and goes on for a minute, with a session on the server."""
    return impostor(
        tmp_path,
        pg18,
        'for a in "$@"; do case $a in --file=*) t=${a#--file=};; --dbname=*) d=${a#--dbname=};; esac; done\n'
        'mkdir "$t"; echo half > "$t/1.dat.gz"\n'
        "exec %s/psql -X -q --dbname=\"$d\" -c 'SELECT pg_sleep(60)'" % pg18.bin_dir,
    )


def test_killed_run_leaves_nothing_that_counts_and_the_next_cleans_up(pg18, database, tmp_path, slow_bin_dir):
    pg18.execute(ROWS % 10, database=database)
    path = tmp_path / "backups"
    process = start_backup(pg18, database, path, slow_bin_dir)
    eventually(lambda: list(path.glob("*/*.partial/data/1.dat.gz")), timeout_s=20)
    [running] = archives.list_archives(str(path)).archives
    assert (running.status, running.reason) == ("incomplete", archives.BEING_WRITTEN)
    beside = backup(pg18, database, path, archive_id="beside")["archive"]
    assert beside["warnings"] == []
    process.kill()
    process.wait()
    assert dumps_running(pg18) > 0
    listed = archives.list_archives(str(path))
    assert sorted(state.status for state in listed.archives) == ["good", "incomplete"]
    assert listed.newest_good.id == "beside"
    taken = backup(pg18, database, path, archive_id="next")["archive"]
    assert [w for w in taken["warnings"] if ".partial of a run that was killed was removed" in w]
    assert content(path / database) == {"beside", "next"}
    assert set(os.listdir(path / database)) == {"beside", "next", archives.LOCK}
    eventually(lambda: dumps_running(pg18) == 0)


def test_terminated_run_undoes_what_it_began(pg18, database, tmp_path, slow_bin_dir):
    path = tmp_path / "backups"
    process = start_backup(pg18, database, path, slow_bin_dir)
    eventually(lambda: list(path.glob("*/*.partial/data/1.dat.gz")), timeout_s=20)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert "HoldfastError: The run was ended by SIGTERM." in stderr
    assert set(os.listdir(path / database)) == {archives.LOCK}
    eventually(lambda: dumps_running(pg18) == 0)


def test_password_is_in_no_command_line_while_a_dump_runs(pg18, database, tmp_path):
    pg18.execute(ROWS % 50000, database=database)
    seen: set[bytes] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(entry.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        backup(pg18, database, tmp_path, dump_format="custom", compression="gzip:9")
        time.sleep(0.05)
    finally:
        stop.set()
        watcher.join()
    dumps = [line for line in seen if b"pg_dump\0" in line and database.encode() in line]
    assert dumps, "the watcher never saw pg_dump"
    assert not [line for line in seen if PASSWORD.encode() in line]
