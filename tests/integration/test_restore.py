# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring archives: equal to the source in everything, or refused and nothing left."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading
import uuid

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives
from ansible_collections.holdfast.postgres.plugins.module_utils._backup import restore
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import take_archive
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import (
    compare_fingerprints,
    take_fingerprint,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.restore import restore_archive
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import (
    property_differences,
    read_properties,
)
from tests.support.archives import STRANGE_NAME, create_everything, flip_bit
from tests.support.modules import run_module
from tests.support.server import PASSWORD, embedded_bin_dir, eventually

ROWS = """
CREATE TABLE loan (id bigserial PRIMARY KEY, note text);
INSERT INTO loan (note) SELECT 'x' || i FROM generate_series(1, 2000) i
"""


def backup(server, database, path, **options):
    """Take an archive and return its path."""
    options.setdefault("bin_dir", str(server.bin_dir))
    taken = take_archive(
        server=server.server, database=database, path=str(path), environment=dict(os.environ), **options
    )
    return pathlib.Path(taken["archive"]["path"])


def restored(server, database, path, **options):
    """Restore the archive at ``path`` and return the engine's answer."""
    options.setdefault("bin_dir", str(server.bin_dir))
    return restore_archive(
        server=server.server, database=database, archive=str(path), environment=dict(os.environ), **options
    )


@pytest.fixture
def archive(pg18, database, tmp_path):
    """An archive of a small database on 18."""
    pg18.execute(ROWS, database=database)
    return backup(pg18, database, tmp_path / "backups")


@pytest.fixture
def side(pg18, pg16, pg_distribution):
    """The name of a side database, which is dropped afterwards; no half-built one may be left on any server."""
    name = "side_" + uuid.uuid4().hex[:8]
    yield name
    for server in (pg18, pg16, pg_distribution):
        server.drop_database(name)
        left = [found for found in server.databases() if ".restoring-" in found]
        for found in left:
            server.drop_database(found)
        assert left == []


# --- equal in everything ---


def answer(server, database, query) -> list[tuple]:
    """The rows of a query in a database that is read-only unless told otherwise."""
    connection = server.connect(database, options="-c default_transaction_read_only=off")
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("fixture", "options"),
    [("pg18", {}), ("pg16", {"dump_format": "custom", "jobs": 1}), ("pg_distribution", {}), ("pg18", {"jobs": 1})],
)
def test_restored_database_equals_its_source_in_everything(request, tmp_path, side, fixture, options):
    server = request.getfixturevalue(fixture)
    create_everything(server, STRANGE_NAME)
    try:
        path = backup(server, STRANGE_NAME, tmp_path, **options)
        name = side + " of " + STRANGE_NAME[:20]
        result = restored(server, name, path, jobs=options.get("jobs"))
        assert (result["verified"], result["differences"], result["warnings"]) == (True, [], [])
        assert result["database"] == name and result["bytes"] > 0
        assert list(result["phases"]) == ["check_s", "create_s", "load_s", "prove_s", "finish_s"]
        prints = [take_fingerprint(server=server.server, database=each) for each in (STRANGE_NAME, name)]
        assert compare_fingerprints(*prints) == []
        assert prints[0].large_objects and len(prints[0].tables) == 9 and len(prints[0].sequences) == 5
        with server.server.session("postgres") as connection:
            before, after = (read_properties(connection=connection, database=each) for each in (STRANGE_NAME, name))
        assert property_differences(before, after) == []
        assert before.comment and before.settings["DateStyle"] and before.role_settings
        assert before.owner == "holdfast_owner" and before.connection_limit == 37
        for query in (
            "SELECT count(*), min(computed_at) > now() - interval '1 hour' FROM lending.ages",
            "SELECT * FROM lending.ages_of_ages",
            "SELECT ispopulated FROM pg_matviews WHERE matviewname = 'unfilled'",
            "SELECT nextval('lending.unowned'), nextval('lending.unused'), nextval('lending.falling')",
            "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
            "SELECT max(id) FROM lending.party",
        ):
            assert answer(server, name, query) == answer(server, STRANGE_NAME, query), query
        assert server.execute("SELECT reltuples FROM pg_class WHERE oid = 'lending.loan'::regclass", database=name) == [
            (500.0,)
        ]
    finally:
        server.drop_database(STRANGE_NAME)
        server.drop_database(side + " of " + STRANGE_NAME[:20])


def test_module_predicts_restores_and_refuses_to_restore_again(pg18, database, archive, side):
    arguments = {
        **pg18.login,
        "path": str(archive.parent.parent),
        "source_database": database,
        "database": side,
        "bin_dir": str(pg18.bin_dir),
    }
    predicted = run_module("pg_restore", arguments, check=True)
    assert (predicted["changed"], predicted["verified"]) == (True, False)
    assert side not in pg18.databases()
    result = run_module("pg_restore", arguments)
    assert (result["changed"], result["verified"], result["differences"]) == (True, True, [])
    assert (result["archive"]["path"], result["rows"]) == (str(archive), 2000)
    for check in (True, False):
        again = run_module("pg_restore", arguments, check=check)
        assert (again["failed"], again["code"]) == (True, "target_exists")
    assert PASSWORD not in json.dumps([predicted, result, again])
    assert pg18.execute("SELECT count(*) FROM loan", database=side) == [(2000,)]


def test_writes_during_the_backup_do_not_keep_it_from_being_proven(pg18, database, tmp_path, side):
    pg18.execute(ROWS + "; CREATE SEQUENCE lone; CREATE SEQUENCE back INCREMENT -1", database=database)
    stop = threading.Event()

    def write() -> None:
        connection = pg18.connect(database)
        with connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("INSERT INTO loan (note) VALUES ('late'); SELECT nextval('lone'), nextval('back')")
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        path = backup(pg18, database, tmp_path)
    finally:
        stop.set()
        writer.join()
    manifest = archives.Manifest.decoded((path / "manifest.json").read_bytes())
    lone = manifest.fingerprint["sequences"]["public.lone"]
    assert lone["last_value"] < lone["last_value_max"], "nobody wrote during the backup"
    assert restored(pg18, side, path)["verified"] is True


def test_empty_database_restores(pg18, database, tmp_path, side):
    assert restored(pg18, side, backup(pg18, database, tmp_path))["verified"] is True


def test_one_archive_restores_as_often_as_wanted(pg18, archive, side):
    try:
        first = restored(pg18, side, archive)
        second = restored(pg18, side + "_2", archive)
    finally:
        pg18.drop_database(side + "_2")
    assert first["verified"] and second["verified"]


def test_archive_of_an_older_server_restores_on_a_newer_one(pg16, pg18, tmp_path, side):
    pg16.create_database(side, ROWS)
    path = backup(pg16, side, tmp_path)
    assert restored(pg18, side, path)["verified"] is True


def test_archive_of_a_newer_server_is_refused_by_an_older_one_unless_told(pg16, archive, side):
    with pytest.raises(HoldfastError) as caught:
        restored(pg16, side, archive, bin_dir=str(embedded_bin_dir(18)))
    assert caught.value.code == "unsupported"
    assert restored(pg16, side, archive, bin_dir=str(embedded_bin_dir(18)), allow_older_server=True)["verified"] is True


def test_newer_client_programs_serve_an_older_server(pg_distribution, tmp_path, side):
    """From 17 on pg_restore sets a parameter that older servers do not know; that error alone is passed over."""
    pg_distribution.create_database(side + "_source", ROWS)
    newer = str(embedded_bin_dir(18))
    try:
        path = backup(pg_distribution, side + "_source", tmp_path, bin_dir=newer)
        assert restored(pg_distribution, side, path, bin_dir=newer, jobs=2)["verified"] is True
        with pytest.raises(HoldfastError) as caught:
            restored(pg_distribution, side + "_3", path)
        assert caught.value.code == "client_too_old"
    finally:
        pg_distribution.drop_database(side + "_source")


def test_owner_can_be_another(pg18, database, archive, side):
    pg18.execute("DO $$ BEGIN CREATE ROLE analysts; EXCEPTION WHEN duplicate_object THEN END $$")
    assert restored(pg18, side, archive, owner="analysts")["verified"] is True
    assert pg18.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", (side,)) == [
        ("analysts",)
    ]


# --- refused before anything is created ---


def test_existing_target_is_never_touched(pg18, database, archive, side):
    pg18.create_database(side, "CREATE TABLE precious (id int)")
    for check in (True, False):
        with pytest.raises(HoldfastError) as caught:
            restored(pg18, side, archive, check=check)
        assert caught.value.code == "target_exists"
    assert pg18.execute("SELECT count(*) FROM precious", database=side) == [(0,)]


def test_one_flipped_bit_anywhere_is_refused_and_another_archive_is_chosen(pg18, database, archive, side):
    older = backup(pg18, database, archive.parent.parent)
    older, newer = archive, older
    for file in [file for file in newer.rglob("*") if file.is_file()]:
        for position in (0, file.stat().st_size // 2, -1):
            flip_bit(file, position)
            with pytest.raises(HoldfastError) as caught:
                restored(pg18, side, newer)
            assert caught.value.code == "archive_corrupt" and file.name in caught.value.msg
            flip_bit(file, position)
    flip_bit(newer / "data" / "toc.dat", 99)
    result = restore_archive(
        server=pg18.server,
        database=side,
        path=str(archive.parent.parent),
        source_database=database,
        environment=dict(os.environ),
        bin_dir=str(pg18.bin_dir),
    )
    assert result["archive"]["path"] == str(older)
    assert "data/toc.dat" in result["warnings"][0]


def test_missing_roles_are_named(pg18, pg16, tmp_path, side):
    role = "only on 16 " + uuid.uuid4().hex[:6]
    pg16.execute('CREATE ROLE "%s"' % role)
    pg16.create_database(side, ROWS + '; ALTER TABLE loan OWNER TO "%s"' % role)
    path = backup(pg16, side, tmp_path)
    for check in (True, False):
        with pytest.raises(HoldfastError) as caught:
            restored(pg18, side, path, check=check)
        assert caught.value.code == "role_missing"
        assert caught.value.details["roles"] == [role]
        assert "globals.sql" in caught.value.hint


def test_missing_extensions_are_named(pg_distribution, pg18, tmp_path, side):
    pg_distribution.create_database(side, "CREATE EXTENSION citext; CREATE TABLE person (name citext)")
    path = backup(pg_distribution, side, tmp_path)
    with pytest.raises(HoldfastError) as caught:
        restored(pg18, side, path)
    assert caught.value.code == "extension_missing"
    assert caught.value.details["extensions"] == ["citext"]
    pg_distribution.drop_database(side)
    assert restored(pg_distribution, side, path)["verified"] is True


# --- failing on the way ---


def forge(path: pathlib.Path, **changed: object) -> None:
    """Rewrite a manifest so that the archive is good and wrong."""
    manifest = archives.Manifest.decoded((path / "manifest.json").read_bytes())
    content = dataclasses.replace(manifest, **changed).encoded()
    (path / "manifest.json").write_bytes(content)
    (path / "manifest.sha256").write_bytes(archives.checksum_line(content))


def forged_fingerprint(path: pathlib.Path) -> dict:
    """A fingerprint with one row more than there is."""
    fingerprint = json.loads((path / "manifest.json").read_bytes())["fingerprint"]
    fingerprint["tables"]["public.loan"]["rows"] += 1
    return fingerprint


def test_difference_is_named_and_the_database_dropped(pg18, archive, side):
    forge(archive, fingerprint=forged_fingerprint(archive))
    with pytest.raises(HoldfastError) as caught:
        restored(pg18, side, archive)
    assert caught.value.code == "restore_differs"
    [difference] = caught.value.details["differences"]
    assert difference["object"] == "table public.loan"
    assert "public.loan had 2001 rows and has 2000" in caught.value.msg
    assert side not in pg18.databases()


def test_half_built_database_is_kept_when_wanted(pg18, archive, side):
    forge(archive, fingerprint=forged_fingerprint(archive))
    with pytest.raises(HoldfastError) as caught:
        restored(pg18, side, archive, keep_on_failure=True)
    kept = caught.value.details["kept_database"]
    assert kept.startswith(side) and side not in pg18.databases()
    assert pg18.execute("SELECT count(*) FROM loan", database=kept) == [(2000,)]
    pg18.drop_database(kept)


def test_failing_pg_restore_leaves_nothing(pg18, database, tmp_path, side):
    pg18.execute("CREATE VIEW v AS SELECT 1 AS one", database=database)
    path = backup(pg18, database, tmp_path)
    dump = path / "data" / "toc.dat"
    dump.write_bytes(dump.read_bytes().replace(b"SELECT 1 AS", b"SELECT x AS"))
    forge(path, files=_sealed(path))
    with pytest.raises(HoldfastError) as caught:
        restored(pg18, side, path)
    assert caught.value.code == "program_failed"
    assert 'column "x" does not exist' in caught.value.msg
    assert side not in pg18.databases()


def _sealed(path: pathlib.Path) -> dict:
    sealed = archives.seal(str(path))
    return {name: facts for name, facts in sealed.items() if not name.startswith("manifest")}


def test_nobody_gets_in_before_it_is_proven(pg18, archive, side, monkeypatch):
    pg18.execute("DO $$ BEGIN CREATE ROLE visitor LOGIN PASSWORD 'v'; EXCEPTION WHEN duplicate_object THEN END $$")
    refused = []
    prove = restore._prove

    def look(plan, phases):
        try:
            pg18.connect(plan.building, user="visitor", password="v").close()
        except psycopg2.OperationalError as exc:
            refused.append(str(exc))
        return prove(plan, phases)

    monkeypatch.setattr(restore, "_prove", look)
    monitor = []

    def stay(plan, phases):
        monitor.append(pg18.connect(plan.building))
        return look(plan, phases)

    monkeypatch.setattr(restore, "_prove", stay)
    assert restored(pg18, side, archive)["verified"] is True
    assert "permission denied for database" in refused[0]
    pg18.connect(side, user="visitor", password="v").close()
    monitor[0].close()


RUN = """
import os, sys
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.restore import restore_archive
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
port, database, path, bin_dir = sys.argv[1:]
password = os.environ.pop("TEST_PASSWORD")
restore_archive(
    server=Server(host="127.0.0.1", port=int(port), user="postgres", password=password),
    database=database, archive=path, environment=dict(os.environ), bin_dir=bin_dir,
)
"""


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_what_an_ended_restore_left_is_dropped(pg18, database, archive, tmp_path, side, end):
    slow = tmp_path / "bin"
    slow.mkdir()
    (slow / "pg_restore").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec %s/pg_restore --version\n'
        'exec %s/psql -X -q "$1" -c "CREATE TABLE half (a int); SELECT pg_sleep(60)"\n' % (pg18.bin_dir, pg18.bin_dir)
    )
    (slow / "pg_restore").chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(pg18.port), side, str(archive), str(slow)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TEST_PASSWORD": PASSWORD},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(
            lambda: pg18.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%half (a int)%pg_sleep(60)%'"
                " AND datname LIKE '%.restoring-%'"
            )[0][0],
            timeout_s=20,
        )
        with pytest.raises(HoldfastError) as caught:
            restored(pg18, side, archive)
        assert caught.value.code == "target_exists" and "Another run" in caught.value.msg
        getattr(process, end)()
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    if end == "terminate":
        assert "The run was ended by SIGTERM." in stderr
        assert not [name for name in pg18.databases() if ".restoring-" in name]
    else:
        assert [name for name in pg18.databases() if name.startswith(side + ".restoring-")]
    foreign = [
        pg18.create_database("not ours.restoring-0000000%d" % number, "CREATE TABLE t (a int)") for number in (1, 2)
    ]
    pg18.execute("COMMENT ON DATABASE \"%s\" IS 'precious'" % foreign[0])
    try:
        eventually(lambda: not pg18.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")[0][0])
        result = restored(pg18, side, archive)
        assert set(foreign) <= pg18.databases()
    finally:
        for name in foreign:
            pg18.drop_database(name)
    assert result["verified"] is True
    assert bool([w for w in result["warnings"] if "left half-built" in w]) == (end == "kill")
    assert not [name for name in pg18.databases() if ".restoring-" in name]


def test_server_that_is_lost_on_the_way_is_told_and_the_next_restore_cleans_up(pg18, archive, side, monkeypatch):
    prove = restore._prove

    def lose(plan, phases):
        pg18.stop("immediate")
        return prove(plan, phases)

    monkeypatch.setattr(restore, "_prove", lose)
    try:
        with pytest.raises(HoldfastError) as caught:
            restored(pg18, side, archive)
    finally:
        pg18.start()
    monkeypatch.undo()
    assert caught.value.code == "connection_failed"
    assert caught.value.details["left_behind"].startswith(side + ".restoring-")
    result = restored(pg18, side, archive)
    assert result["verified"] is True
    assert "left half-built" in result["warnings"][0]
