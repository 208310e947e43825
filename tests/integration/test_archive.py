# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at real archives: one bit anywhere, and what only pg_restore can tell."""

from __future__ import annotations

import os
import pathlib

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import describe_archives, take_archive
from tests.support.archives import flip_bit
from tests.support.modules import run_module

ROWS = """
CREATE TABLE loan (id int PRIMARY KEY, note text);
INSERT INTO loan SELECT i, md5(i::text) FROM generate_series(1, 3000) i
"""


def backup(server, database, path, **options) -> pathlib.Path:
    """Take an archive and return its path."""
    taken = take_archive(
        server=server.server,
        database=database,
        path=str(path),
        environment=dict(os.environ),
        bin_dir=str(server.bin_dir),
        **options,
    )
    return pathlib.Path(taken["archive"]["path"])


def looked_at(server, path, **options) -> dict:
    """What pg_backup_info's engine says."""
    options.setdefault("bin_dir", str(server.bin_dir))
    return describe_archives(path=str(path), environment=dict(os.environ), **options)


@pytest.mark.parametrize("dump_format", ["directory", "custom"])
def test_one_bit_anywhere_makes_an_archive_corrupt(pg18, database, tmp_path, dump_format):
    pg18.execute(ROWS, database=database)
    path = backup(pg18, database, tmp_path, dump_format=dump_format)
    assert [a["status"] for a in looked_at(pg18, tmp_path)["archives"]] == ["good"]
    files = [file for file in path.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"manifest.json", "manifest.sha256", "database.json", "globals.sql"}
    for file in files:
        size = file.stat().st_size
        for position in [*range(0, size, max(1, size // 12)), size - 1]:
            flip_bit(file, position)
            answer = looked_at(pg18, tmp_path)
            assert answer["archives"][0]["status"] == "corrupt", (file, position)
            assert file.name in answer["archives"][0]["reason"]
            assert answer["newest_good"] is None
            flip_bit(file, position)
    assert looked_at(pg18, tmp_path)["newest_good"]["path"] == str(path)


def test_dump_that_was_never_one_is_found_by_its_table_of_contents(pg18, database, tmp_path):
    """Checksums tell what changed since the archive was written; this was wrong before."""
    pg18.execute(ROWS, database=database)
    path = backup(pg18, database, tmp_path)
    (path / "data" / "toc.dat").write_bytes(b"PGDMP and then nothing")
    manifest = archives.Manifest.decoded((path / "manifest.json").read_bytes())
    files = {name: facts for name, facts in archives.seal(str(path)).items() if not name.startswith("manifest")}
    content = archives.Manifest(**{**vars(manifest), "files": files}).encoded()
    (path / "manifest.json").write_bytes(content)
    (path / "manifest.sha256").write_bytes(archives.checksum_line(content))
    assert looked_at(pg18, tmp_path)["archives"][0]["status"] == "good"
    told = looked_at(pg18, tmp_path, verify="toc")["archives"][0]
    assert told["status"] == "corrupt"
    assert "table of contents" in told["reason"]


def test_module_names_the_newest_good_archive_and_what_is_wrong_with_others(pg18, database, tmp_path):
    pg18.execute(ROWS, database=database)
    older, newer = (backup(pg18, database, tmp_path) for _ in range(2))
    flip_bit(newer / "globals.sql", 7)
    (tmp_path / database / "left.partial").mkdir()
    arguments = {"path": str(tmp_path), "database": database, "verify": "toc", "bin_dir": str(pg18.bin_dir)}
    for check in (True, False):
        answer = run_module("pg_backup_info", arguments, check=check)
        assert answer["changed"] is False
        assert [a["status"] for a in answer["archives"]] == ["incomplete", "good", "corrupt"]
        assert answer["archives"][2]["reason"] == "globals.sql does not have the SHA-256 that manifest.json names"
        assert answer["newest_good"]["path"] == str(older)
        assert answer["newest_good"]["rows"] == 3000
    nothing = run_module("pg_backup_info", {"path": str(tmp_path / "nowhere")})
    assert (nothing["archives"], nothing["newest_good"]) == ([], None)
