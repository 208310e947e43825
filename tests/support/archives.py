# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives and databases for tests: archives without a server, and one database with everything that gets lost."""

from __future__ import annotations

import datetime
import os
import pathlib
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives

#: A legal name with everything in it that a shell, libpq, psycopg2's formatting or a path trips over.
STRANGE_NAME = 'we"ird db=1 %s \\ né\n--x'


def manifest(**changed: Any) -> archives.Manifest:
    """A manifest of no files, with whatever a test says about it."""
    values: dict[str, Any] = {
        "id": "20261120T221500Z-7f3a",
        "database": "rently_lending",
        "snapshot_at": "2026-11-20T22:15:00.000000Z",
        "lsn": "0/1234",
        "server_version": 180003,
        "client_version": 180003,
        "dump_format": "directory",
        "compression": "gzip:3",
        "files": {},
        "fingerprint": {},
        "rows": 0,
        "tables": 0,
        "database_bytes": 1000,
        "toc_entries": 0,
        "started_at": "2026-11-20T22:15:00.000000Z",
        "finished_at": "2026-11-20T22:15:01.000000Z",
        "duration_s": 1.0,
        "dump_s": 0.5,
        "fingerprint_s": 0.5,
    }
    return archives.Manifest(**{**values, **changed})


def write_archive(path: pathlib.Path, *, when: datetime.datetime | None = None, **changed: Any) -> pathlib.Path:
    """Write an archive below ``path`` as a backup would, with small files in place of a dump, and return its path."""
    if when is not None:
        changed.setdefault("snapshot_at", archives.format_time(when))
        changed.setdefault("id", archives.new_id(when, "%04x" % (when.microsecond % 0xFFFF)))
    about = manifest(**changed)
    directory = archives.prepare_directory(str(path), about.database)
    with archives.draft(directory, about.id, owner={"pid": os.getpid()}) as draft:
        for name, content in (
            ("data/toc.dat", b"contents"),
            ("data/1.dat.gz", b"rows" * 10000),
            (archives.PROPERTIES, b"{}"),
            (archives.GLOBALS, b"CREATE ROLE lending;\n"),
        ):
            target = pathlib.Path(draft.path, name)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
        seal_as(draft, about)
        draft.publish()
    return pathlib.Path(draft.final_path)


def seal_as(draft: archives.Draft, about: archives.Manifest) -> None:
    """Write the manifest ``about`` with the files that are in ``draft``."""
    values = {name: getattr(about, name) for name in about.__dataclass_fields__}
    content = archives.Manifest(**{**values, "files": archives.seal(draft.path)}).encoded()
    archives.write_durably(os.path.join(draft.path, archives.MANIFEST), content)
    archives.write_durably(os.path.join(draft.path, archives.MANIFEST_SUM), archives.checksum_line(content))


def flip_bit(path: pathlib.Path, position: int) -> None:
    """Flip one bit of a file; negative positions count from its end."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << (position % 8)
    path.write_bytes(bytes(content))
