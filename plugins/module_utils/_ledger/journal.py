# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a deployment as lines of JSON, for the time in which the ledger's database cannot be reached."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

SUFFIX = ".jsonl"
IMPORTED = ".imported"


@dataclass(frozen=True)
class JournalFile:
    """The records of one file, in order, and what of it could not be read."""

    path: str
    records: Sequence[dict[str, Any]]
    damaged_lines: Sequence[int]


def journal_path(directory: str, deployment_id: str) -> str:
    """Return the file of one deployment."""
    return os.path.join(directory, deployment_id + SUFFIX)


def append(directory: str, record: Mapping[str, Any]) -> str:
    """Add one record durably and return the file's path; raises `HoldfastError` (``destination_unwritable``).

    The line is written at once and on disk before the call returns; of a line that did not fit, nothing stays.
    """
    path = journal_path(directory, str(record["deployment_id"]))
    line = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with _locked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as descriptor:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes and os.pread(descriptor, 1, size_bytes - 1) != b"\n":
                line = b"\n" + line  # a line torn by a crash stays alone
            try:
                written = os.write(descriptor, line)
                if written != len(line):
                    raise OSError(0, "only %d of %d bytes fitted" % (written, len(line)))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size_bytes)
                raise
        _sync_directory(directory)
    except OSError as exc:
        raise HoldfastError(
            code="destination_unwritable",
            msg="Cannot write the journal %s: %s" % (path, exc.strerror),
            hint="Name a directory in journal_dir that this user can write, on a disk with free space.",
        ) from exc
    return path


def read(path: str) -> JournalFile:
    """Return what a journal holds. A line that is not a record is counted and left out."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return _parse(path, file.read())


def _parse(path: str, text: str) -> JournalFile:
    records: list[dict[str, Any]] = []
    damaged: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            damaged.append(number)
            continue
        if isinstance(record, dict) and all(record.get(key) for key in ("uuid", "at", "state", "deployment_id")):
            records.append(record)
        else:
            damaged.append(number)
    return JournalFile(path, records, damaged)


def pending(directory: str | None) -> list[str]:
    """Return the journals that wait for their import, oldest deployment first."""
    if not directory or not os.path.isdir(directory):
        return []
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(SUFFIX)]


@contextlib.contextmanager
def taken_in(path: str) -> Iterator[JournalFile]:
    """Give the records of a journal to the block, nobody else writing meanwhile, and retire the file after it.

    When the block raises, the file stays as it is.
    """
    with _locked(path, os.O_RDWR) as descriptor:
        size_bytes = os.fstat(descriptor).st_size
        yield _parse(path, os.pread(descriptor, size_bytes, 0).decode("utf-8", "replace"))
        target, number = path + IMPORTED, 1
        while os.path.exists(target):
            number += 1
            target = "%s%s.%d" % (path, IMPORTED, number)
        os.rename(path, target)
        _sync_directory(os.path.dirname(path))


@contextlib.contextmanager
def _locked(path: str, flags: int) -> Iterator[int]:
    """The file's descriptor, locked; opened anew when an import retired the file while we waited for the lock."""
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                current = os.stat(path).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                current = False
            if current:
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
