# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of a retired database as files: each is there whole or not at all, and for its owner only."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.difference import Deadline, copy_out
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.pairs import Table
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
MANIFEST = "manifest.json"
REJECTIONS = "rejected.csv"

#: The first column of a file with rows: how the row came to be left behind.
CHANGE_COLUMN = "holdfast_change"

#: Of a table's name, this much becomes part of a file's.
NAME_CHARACTERS = 80


def file_name(table: str, *, suffix: str = "") -> str:
    """Return a file name for a table's quoted name: any characters, any length, and no two tables the same name."""
    plain = re.sub(r"[^a-z0-9_.]", "_", table)[:NAME_CHARACTERS].lstrip(".") or "table"
    if plain != table:
        plain = "%s-%s" % (plain, hashlib.sha256(table.encode("utf-8", "surrogateescape")).hexdigest()[:12])
    return "%s%s.csv" % (plain, suffix)


class _Sink:
    """A file that knows what was written to it; without a descriptor nothing is kept."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self.digest = hashlib.sha256()
        self.bytes = 0
        self.changed = False

    def write(self, content: bytes) -> int:
        """Write all of it."""
        self.digest.update(content)
        self.bytes += len(content)
        rest = memoryview(content)
        while self._descriptor is not None and rest:
            rest = rest[os.write(self._descriptor, rest) :]
        return len(content)


class Export:
    """The files of one comparison, in the directory ``path``; check mode only finds out what they would be."""

    def __init__(self, retired: Connection, *, path: str, check_mode: bool, deadline: Deadline) -> None:
        self.retired = retired
        self.path = path
        self.check_mode = check_mode
        self.deadline = deadline
        self.files: list[dict[str, Any]] = []
        self.changed = False

    def begin(self) -> None:
        """Make the directory."""
        with explained(self.path):
            if not self.check_mode:
                os.makedirs(os.path.dirname(os.path.abspath(self.path)), mode=0o750, exist_ok=True)
                if not os.path.isdir(self.path):
                    os.mkdir(self.path, DIRECTORY_MODE)
                return
            place = os.path.abspath(self.path)
            while not os.path.lexists(place):
                place = os.path.dirname(place)
            if not os.path.isdir(place):
                raise NotADirectoryError(errno.ENOTDIR, "%s is not a directory" % place)
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "this user may not write to %s" % place)

    def write_table(self, table: Table) -> str:
        """Write all rows of a table that only the retired database has; return the name of the file."""
        rows = sql.SQL("SELECT 'inserted' AS {}, {} FROM ONLY {} AS t").format(
            self._change_column(table), _columns(table), table.identifier
        )
        return self._write_rows(table, rows)

    def write_changes(self, table: Table, changes: str) -> str:
        """Write the rows that the temporary table ``changes`` lists; return the name of the file."""
        rows = sql.SQL("SELECT c.change AS {}, {} FROM pg_temp.{} AS c JOIN ONLY {} AS t ON t.ctid = c.tid").format(
            self._change_column(table), _columns(table), sql.Identifier(changes), table.identifier
        )
        return self._write_rows(table, rows)

    def write_deleted(self, table: Table, keys: IO[bytes], *, rows: int) -> str:
        """Write the file of keys that only the rollback point had; return its name."""

        def copy(sink: _Sink) -> int:
            keys.seek(0)
            shutil.copyfileobj(keys, sink)
            return rows

        return self._write(table, file_name(table.name, suffix=".deleted"), "deleted", copy)

    def _write_rows(self, table: Table, rows: sql.Composable) -> str:
        order = sql.SQL(", ").join(sql.Identifier("t", name) for name in next(iter(table.keys), ()))
        query = sql.SQL("{} ORDER BY {}").format(rows, order) if table.keys else rows

        def copy(sink: _Sink) -> int:
            self.deadline.limit(self.retired)
            with self.deadline.explained():
                return copy_out(self.retired, query, sink, options=sql.SQL("FORMAT csv, HEADER"))

        return self._write(table, file_name(table.name), "rows", copy)

    def _change_column(self, table: Table) -> sql.Composable:
        name = CHANGE_COLUMN
        while name in {column.name for column in table.columns}:
            name += "_"
        return sql.Identifier(name)

    def _write(self, table: Table, name: str, kind: str, produce: Callable[[_Sink], int]) -> str:
        with explained(self.path), self._draft(name) as sink:
            rows = produce(sink)
        self.files.append(
            {
                "table": table.name,
                "kind": kind,
                "name": name,
                "path": os.path.join(self.path, name),
                "rows": rows,
                "bytes": sink.bytes,
                "sha256": sink.digest.hexdigest(),
            }
        )
        return name

    @contextlib.contextmanager
    def _draft(self, name: str) -> Iterator[_Sink]:
        with draft(os.path.join(self.path, name), check_mode=self.check_mode) as sink:
            yield sink
        self.changed |= sink.changed

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest for ``result``, what was found; return the facts of the export."""
        facts = {key: result[key] for key in ("database", "retired", "known", "exact", "total", "tables", "sequences")}
        facts["files"] = [{key: value for key, value in file.items() if key != "path"} for file in self.files]
        content = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        with explained(self.path):
            with self._draft(MANIFEST) as sink:
                sink.write(content.encode("utf-8", "surrogateescape"))
            if self.changed and not self.check_mode:
                _sync_directory(self.path)
        return {"changed": self.changed, "files": self.files, "directory": self.path}

    def abandon(self) -> dict[str, Any]:
        """Return the facts of an export that failed: the files that are whole."""
        return {"changed": self.changed, "files": self.files, "directory": self.path}


@contextlib.contextmanager
def draft(path: str, *, check_mode: bool = False) -> Iterator[_Sink]:
    """A file that gets its name when the block has succeeded, unless the file of that name holds the same.

    In check mode nothing is written, and only the sink knows whether it would be.
    """
    if check_mode:
        sink = _Sink(None)
        yield sink
        sink.changed = _digest(path) != sink.digest.hexdigest()
        return
    partial = os.path.join(os.path.dirname(path), ".%s.partial" % os.path.basename(path))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        sink = _Sink(descriptor)
        yield sink
        sink.changed = _digest(path) != sink.digest.hexdigest()
        if sink.changed:
            os.fsync(descriptor)
            os.replace(partial, path)
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn what the operating system says about writing to the directory into `HoldfastError`."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        raise HoldfastError(
            code="destination_full" if full else "destination_unwritable",
            msg="What was written since the rollback point cannot be kept in %s: %s. The retired database has it."
            % (path, exc.strerror or exc),
            hint="Make room or let this user write there, then run pg_writes_info again with another path.",
        ) from exc


def write_rejections(path: str, rejected: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows that could not be carried forward to a file in the directory ``path``; return its path."""
    name = os.path.join(path, REJECTIONS)
    with explained(path):
        os.makedirs(path, mode=DIRECTORY_MODE, exist_ok=True)
        with draft(name) as sink:
            text = io.StringIO()
            writer = csv.DictWriter(text, ("table", "key", "reason", "sqlstate", "constraint", "detail"))
            writer.writeheader()
            for row in rejected:
                writer.writerow({**row, "key": json.dumps(row["key"], ensure_ascii=False)})
            sink.write(text.getvalue().encode("utf-8", "surrogateescape"))
        _sync_directory(path)
    return name


def _columns(table: Table) -> sql.Composable:
    names: Sequence[str] = [column.name for column in table.columns]
    return sql.SQL(", ").join(sql.Identifier("t", name) for name in names) if names else sql.SQL("NULL")


def _digest(path: str) -> str | None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while True:
                chunk = file.read(1 << 20)
                if not chunk:
                    return digest.hexdigest()
                digest.update(chunk)
    except FileNotFoundError:
        return None


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
