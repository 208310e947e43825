# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives on disk: how they are named, written so that they appear whole or not at all, and told good from corrupt."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import check_name
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

#: The newest layout that this release reads, and the one that it writes.
FORMAT = 1

MANIFEST = "manifest.json"
MANIFEST_SUM = "manifest.sha256"
PROPERTIES = "database.json"
GLOBALS = "globals.sql"
DATA_BY_FORMAT = {"directory": "data", "custom": "data.dump"}
TOP_LEVEL = frozenset({MANIFEST, MANIFEST_SUM, PROPERTIES, GLOBALS, *DATA_BY_FORMAT.values()})

PARTIAL = ".partial"
REMOVING = ".removing"
LOCK = ".lock"

ARCHIVE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
SHA256 = re.compile(r"[0-9a-f]{64}")
BLOCK_BYTES = 1 << 20
#: Why an archive is incomplete and must be left alone.
BEING_WRITTEN = "a backup is writing it"
#: What ``verify`` may be, each including what stands before it.
VERIFY = ("none", "checksums", "toc")


# --- names ---------------------------------------------------------------------------------------------------------


def directory_name(database: str) -> str:
    """Return ``database`` as one name that any file system and any shell glob holds safely.

    Letters, digits and ``_ - . ~`` stay as they are, except ``- . ~`` in front; every other byte of the UTF-8 form
    is percent-encoded. `database_name` is the inverse.
    """
    quoted = urllib.parse.quote(check_name(database), safe="", errors="surrogateescape")
    return "%%%02X%s" % (ord(quoted[0]), quoted[1:]) if quoted[0] in "-.~" else quoted


def database_name(directory: str) -> str | None:
    """Return the database whose archives ``directory`` holds, or None when it is no name of `directory_name`."""
    name = urllib.parse.unquote(directory, errors="surrogateescape")
    try:
        return name if directory_name(name) == directory else None
    except HoldfastError:
        return None


def check_id(archive_id: str) -> str:
    """Return ``archive_id`` when it can name an archive, else raise `HoldfastError` (``option_invalid``)."""
    if not ARCHIVE_ID.fullmatch(archive_id) or archive_id.endswith((PARTIAL, REMOVING)):
        raise HoldfastError(
            code="option_invalid",
            msg="%r cannot name an archive." % archive_id,
            hint="An id has up to 100 letters, digits and . _ + -, begins with a letter or digit, and ends with "
            "neither %s nor %s." % (PARTIAL, REMOVING),
        )
    return archive_id


def new_id(now: datetime.datetime, token: str) -> str:
    """Return an id such as ``20261120T221500Z-7f3a``: the time in UTC, then four digits against a tie."""
    return "%s-%s" % (now.astimezone(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ"), token[:4])


# --- the manifest --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Manifest:
    """What an archive holds, from which snapshot, and with which proofs.

    Times are ISO 8601 in UTC; versions are numbers such as 180003; ``files`` maps a path inside the archive, with
    forward slashes, to its ``bytes`` and ``sha256``. Sequences are not transactional: the fingerprint has the values
    from before and from after the dump.
    """

    id: str
    database: str
    snapshot_at: str
    lsn: str
    server_version: int
    client_version: int
    dump_format: str
    compression: str
    files: Mapping[str, Mapping[str, Any]]
    fingerprint: Mapping[str, Any]
    rows: int
    tables: int
    database_bytes: int
    toc_entries: int
    started_at: str
    finished_at: str
    duration_s: float
    dump_s: float
    fingerprint_s: float
    deployment_id: str | None = None
    schema_version: str | None = None
    extensions: Sequence[Mapping[str, str]] = ()
    roles: Sequence[str] = ()
    subscriptions: Sequence[str] = ()
    warnings: Sequence[str] = ()
    format: int = FORMAT

    def encoded(self) -> bytes:
        """Return the content of manifest.json."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode(
            "utf-8", "surrogateescape"
        )

    @classmethod
    def decoded(cls, content: bytes) -> Manifest:
        """Return the manifest in ``content``; raises `ValueError` saying what is wrong with it."""
        try:
            values = json.loads(content.decode("utf-8", "surrogateescape"))
        except ValueError as exc:
            raise ValueError("is not JSON: %s" % exc) from exc
        if not isinstance(values, dict):
            raise ValueError("is not a JSON object")
        lacking = [
            f.name
            for f in fields(cls)
            if f.default is MISSING and f.default_factory is MISSING and f.name not in values
        ]
        if lacking:
            raise ValueError("lacks %s" % ", ".join(lacking))
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    @property
    def data(self) -> str:
        """The name of the dump inside the archive."""
        return DATA_BY_FORMAT[self.dump_format]


def checksum_line(content: bytes) -> bytes:
    """Return the content of manifest.sha256, in the form that ``sha256sum --check`` reads."""
    return ("%s  %s\n" % (hashlib.sha256(content).hexdigest(), MANIFEST)).encode("ascii")


# --- durable files -------------------------------------------------------------------------------------------------


def storage_failure(exc: OSError, path: str) -> HoldfastError:
    """Return the error for a failed system call on ``path``."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return HoldfastError(
            code="destination_full",
            msg="No space is left for %s: %s." % (path, exc.strerror),
            hint="Free space there (pg_backup_prune removes old archives), or choose another path.",
        )
    return HoldfastError(
        code="destination_unwritable",
        msg="Cannot write %s: %s." % (exc.filename or path, exc.strerror),
        hint="Check that the path exists, is a directory of this user, and is on a volume mounted for writing.",
    )


def write_durably(path: str, content: bytes) -> None:
    """Write a new file that only this user can read, and wait until it is on stable storage."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: str) -> None:
    """Wait until the entries of a directory are on stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: str, *, sync: bool = False) -> str:
    """Return the SHA-256 of a file; with ``sync``, wait first until it is on stable storage."""
    digest = hashlib.sha256()
    view = memoryview(bytearray(BLOCK_BYTES))
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        if sync:
            os.fsync(file.fileno())
        while count := file.readinto(view):
            digest.update(view[:count])
    return digest.hexdigest()


def hash_files(paths: Sequence[str], *, sync: bool = False, threads: int | None = None) -> list[str]:
    """Return the SHA-256 of each file, several at once: hashing releases the interpreter's lock."""
    with ThreadPoolExecutor(max_workers=threads or min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda path: hash_file(path, sync=sync), paths))


@dataclass(frozen=True)
class Inventory:
    """What a directory holds, by path inside it: regular files with their sizes, directories, anything else."""

    files: Mapping[str, int]
    directories: Sequence[str]
    others: Sequence[str]


def inventory(root: str) -> Inventory:
    """Walk ``root`` without following symbolic links."""
    files: dict[str, int] = {}
    directories: list[str] = []
    others: list[str] = []

    def walk(inside: str) -> None:
        with os.scandir(os.path.join(root, inside)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = inside + entry.name
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    directories.append(name)
                    walk(name + "/")
                elif stat.S_ISREG(mode):
                    files[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    others.append(name)

    walk("")
    return Inventory(files=files, directories=directories, others=others)


def seal(directory: str) -> dict[str, dict[str, Any]]:
    """Make everything in ``directory`` private and durable; return each file's ``bytes`` and ``sha256`` by its path."""
    found = inventory(directory)
    if found.others:
        raise HoldfastError(
            code="program_failed",
            msg="%s holds %s, which is not a regular file." % (directory, ", ".join(found.others)),
            hint="Nothing but pg_dump may write there; see who did, then take the archive again.",
        )
    for name in found.files:
        os.chmod(os.path.join(directory, name), 0o600)
    for name in found.directories:
        os.chmod(os.path.join(directory, name), 0o700)
    sums = hash_files([os.path.join(directory, name) for name in found.files], sync=True)
    for name in found.directories:
        sync_directory(os.path.join(directory, name))
    return {name: {"bytes": size, "sha256": total} for (name, size), total in zip(found.files.items(), sums)}


# --- writing an archive --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def directory_lock(directory: str) -> Iterator[None]:
    """Keep every other run out of the entries of ``directory`` for a moment."""
    descriptor = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _try_lock(path: str, *, create: bool = False) -> int | None:
    """Return a locked descriptor, or None while another process holds the lock; raises FileNotFoundError."""
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock_path(directory: str, archive_id: str) -> str:
    return os.path.join(directory, ".%s%s" % (archive_id, LOCK))


def prepare_directory(path: str, database: str) -> str:
    """Return the directory for a database's archives below ``path``, made if need be and proven writable."""
    directory = os.path.join(path, directory_name(database))
    try:
        for parent in (path, directory):
            os.makedirs(parent, mode=0o700, exist_ok=True)
        sync_directory(path)
        with directory_lock(directory):
            pass
    except OSError as exc:
        raise storage_failure(exc, directory) from exc
    return directory


def expect_writable(path: str, database: str) -> str:
    """Return the existing directory that `prepare_directory` would write below, or raise as it would."""
    directory = os.path.join(path, directory_name(database))
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if not os.path.isdir(directory):
        raise storage_failure(NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory), path)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise storage_failure(PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory), path)
    return directory


def free_bytes(path: str) -> int:
    """Return how much this user may still write on the volume of ``path``, which exists."""
    volume = os.statvfs(path)
    return volume.f_bavail * volume.f_frsize


@dataclass
class Draft:
    """An archive that is being written: ``<id>.partial``, owned by this process as long as the lock is held."""

    directory: str
    id: str
    lock: int

    @property
    def path(self) -> str:
        """Where the files are written."""
        return os.path.join(self.directory, self.id + PARTIAL)

    @property
    def final_path(self) -> str:
        """Where the archive will appear."""
        return os.path.join(self.directory, self.id)

    def publish(self) -> None:
        """Let the archive appear under its name, in one step that survives a crash."""
        sync_directory(self.path)
        with directory_lock(self.directory):
            if os.path.lexists(self.final_path):
                raise _exists(self.final_path)
            os.rename(self.path, self.final_path)
            sync_directory(self.directory)

    def close(self) -> None:
        """Remove what is still partial and let go of the id."""
        with directory_lock(self.directory):
            if os.path.lexists(self.path):
                _remove_tree(self.path, self.path + REMOVING)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_lock_path(self.directory, self.id))
            os.close(self.lock)


def _remove_tree(path: str, doomed: str) -> None:
    """Remove a directory under another name first: a program that still writes to it finds no place for new files."""
    os.rename(path, doomed)
    sync_directory(os.path.dirname(path))
    shutil.rmtree(doomed)
    sync_directory(os.path.dirname(path))


def _exists(path: str) -> HoldfastError:
    return HoldfastError(
        code="target_exists",
        msg="%s exists already." % path,
        hint="Choose another id, or leave it out.",
    )


@contextlib.contextmanager
def draft(directory: str, archive_id: str, *, owner: Mapping[str, Any]) -> Iterator[Draft]:
    """An empty `Draft` for ``archive_id``, removed at the end of the block unless it was published.

    ``owner`` is kept in the lock file for whoever must clean up after a kill. Raises `HoldfastError` with the code
    ``target_exists`` when the archive exists or another run is writing it.
    """
    with directory_lock(directory):
        final, partial = os.path.join(directory, archive_id), os.path.join(directory, archive_id + PARTIAL)
        if os.path.lexists(final):
            raise _exists(final)
        lock = _try_lock(_lock_path(directory, archive_id), create=True)
        if lock is None or os.path.lexists(partial):
            raise HoldfastError(
                code="target_exists",
                msg="Another run is writing the archive %s." % final,
                hint="Wait for it, or choose another id.",
            )
        os.ftruncate(lock, 0)
        os.write(lock, json.dumps(dict(owner)).encode("utf-8"))
        os.mkdir(partial, 0o700)
    work = Draft(directory=directory, id=archive_id, lock=lock)
    try:
        yield work
    finally:
        work.close()


def clean_up(directory: str, *, before_removal: Callable[[Mapping[str, Any]], None] | None = None) -> list[str]:
    """Remove what killed runs left in ``directory`` and return the names of what was removed.

    A partial archive is left over when nobody holds its lock: the kernel lets go of the lock of a process that ended,
    however it ended. ``before_removal`` gets what the dead run wrote about itself, to end programs that outlived it.
    """
    removed = []
    with directory_lock(directory):
        names = set(os.listdir(directory))
        for name in sorted(names):
            path = os.path.join(directory, name)
            if name.endswith(REMOVING) and not os.path.islink(path):
                shutil.rmtree(path)
                removed.append(name)
        ids = {name[: -len(PARTIAL)] for name in names if name.endswith(PARTIAL)}
        ids |= {name[1 : -len(LOCK)] for name in names if name.startswith(".") and name.endswith(LOCK) and name != LOCK}
        for archive_id in sorted(ids):
            lock = _try_lock(_lock_path(directory, archive_id), create=True)
            if lock is None:
                continue
            try:
                partial = os.path.join(directory, archive_id + PARTIAL)
                if os.path.isdir(partial) and not os.path.islink(partial):
                    if before_removal is not None:
                        before_removal(_owner(lock))
                    _remove_tree(partial, partial + REMOVING)
                    removed.append(archive_id + PARTIAL)
                os.unlink(_lock_path(directory, archive_id))
            finally:
                os.close(lock)
    return removed


def _owner(lock: int) -> dict[str, Any]:
    try:
        values = json.loads(os.pread(lock, BLOCK_BYTES, 0))
    except ValueError:  # killed before it had written
        return {}
    return values if isinstance(values, dict) else {}


@contextlib.contextmanager
def in_use(path: str) -> Iterator[None]:
    """Keep `remove_archive` away from an archive while it is being read."""
    descriptor = os.open(os.path.join(path, MANIFEST), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def remove_archive(path: str) -> bool:
    """Remove an archive, and return False instead while somebody reads it.

    It ceases to be an archive in one step, so that a crash leaves no half archive under a good name.
    """
    directory = os.path.dirname(path)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            manifest = os.open(os.path.join(path, MANIFEST), os.O_RDONLY | os.O_NOFOLLOW)
            stack.callback(os.close, manifest)
            try:
                fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        try:
            with directory_lock(directory):
                _remove_tree(path, path + REMOVING)
        except OSError as exc:
            raise storage_failure(exc, path) from exc
    return True


# --- reading archives ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArchiveState:
    """What is known about one archive.

    ``status`` is ``good`` (proven), ``unverified`` (nothing wrong was seen, but contents were not read), ``corrupt``
    or ``incomplete`` (a run that did not finish, or is not finished); ``reason`` says what is wrong and where.
    """

    path: str
    id: str
    database: str | None
    status: str
    reason: str | None = None
    manifest: Manifest | None = None
    bytes: int = 0

    @property
    def snapshot_at(self) -> datetime.datetime | None:
        """When the archive's snapshot was taken, by its manifest."""
        return None if self.manifest is None else parse_time(self.manifest.snapshot_at)

    def as_dict(self) -> dict[str, Any]:
        """Return the state and what the manifest says about it, as JSON-able values."""
        return {
            "path": self.path,
            "id": self.id,
            "database": self.database,
            "status": self.status,
            "reason": self.reason,
            "bytes": self.bytes,
            **({} if self.manifest is None else archive_facts(self.manifest)),
        }


def archive_facts(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest says about its archive, without the lists of files and fingerprints."""
    return {
        "format": manifest.dump_format,
        **{
            name: getattr(manifest, name)
            for name in (
                "deployment_id",
                "schema_version",
                "snapshot_at",
                "lsn",
                "rows",
                "tables",
                "compression",
                "database_bytes",
                "server_version",
                "client_version",
                "duration_s",
                "dump_s",
                "fingerprint_s",
            )
        },
        "warnings": list(manifest.warnings),
    }


def parse_time(text: str) -> datetime.datetime:
    """Return an ISO 8601 time with its zone; Python before 3.11 reads no ``Z``."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def format_time(moment: datetime.datetime) -> str:
    """Return a time as ISO 8601 in UTC with microseconds."""
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


#: Stands for the time of an archive whose manifest does not tell it.
BEGINNING = datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)


class _Corrupt(Exception):
    """Why an archive is corrupt, in words that name the file."""


def examine(
    path: str,
    *,
    verify: str = "checksums",
    archive_id: str | None = None,
    database: str | None = None,
    read_toc: Callable[[str, Manifest], str | None] | None = None,
) -> ArchiveState:
    """Return the state of the archive in the directory ``path``.

    ``verify`` is one of `VERIFY`: V(none) looks at the manifest and at names and sizes, V(checksums) reads every byte,
    V(toc) asks ``read_toc`` as well, which returns what is wrong with the dump or None. ``archive_id`` and
    ``database`` are what the manifest must name.
    """
    name = os.path.basename(path)
    manifest: Manifest | None = None
    size = 0
    try:
        found = _look(path)
        size = sum(found.files.values())
        manifest = _read_manifest(path, found)
        if manifest.format > FORMAT:
            reason = "%s has format %d, which needs a newer release of this collection" % (MANIFEST, manifest.format)
            return ArchiveState(path, name, manifest.database, "unverified", reason, None, size)
        _expect_named(manifest, archive_id=archive_id, database=database)
        _expect_files(manifest, found)
        if verify == "none":
            return ArchiveState(path, name, manifest.database, "unverified", None, manifest, size)
        _expect_sums(path, manifest)
        if verify == "toc" and read_toc is not None:
            complaint = read_toc(path, manifest)
            if complaint is not None:
                raise _Corrupt(complaint)
    except _Corrupt as exc:
        owner = manifest.database if manifest is not None else database
        return ArchiveState(path, name, database or owner, "corrupt", str(exc), manifest, size)
    return ArchiveState(path, name, manifest.database, "good", None, manifest, size)


def _look(path: str) -> Inventory:
    try:
        found = inventory(path)
    except OSError as exc:
        raise _Corrupt("%s cannot be read: %s" % (exc.filename or path, exc.strerror)) from exc
    if found.others:
        raise _Corrupt("%s is not a regular file" % ", ".join(found.others))
    return found


def _content(path: str, name: str, found: Inventory) -> bytes:
    if name not in found.files:
        raise _Corrupt("%s is missing" % name)
    try:
        with open(os.open(os.path.join(path, name), os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read()
    except OSError as exc:
        raise _Corrupt("%s cannot be read: %s" % (name, exc.strerror)) from exc


def _read_manifest(path: str, found: Inventory) -> Manifest:
    content = _content(path, MANIFEST, found)
    if _content(path, MANIFEST_SUM, found) != checksum_line(content):
        raise _Corrupt("%s does not have the SHA-256 that %s names" % (MANIFEST, MANIFEST_SUM))
    try:
        manifest = Manifest.decoded(content)
        if manifest.format <= FORMAT:
            _expect_sane(manifest)
    except (ValueError, TypeError, AttributeError, KeyError) as exc:
        raise _Corrupt("%s %s" % (MANIFEST, exc)) from exc
    return manifest


def _expect_sane(manifest: Manifest) -> None:
    """Raise `ValueError` when a manifest says what this collection never writes, such as a path out of the archive."""
    parse_time(manifest.snapshot_at)
    if manifest.dump_format not in DATA_BY_FORMAT:
        raise ValueError("names an unknown format %r" % manifest.dump_format)
    for name, facts in manifest.files.items():
        parts = name.split("/")
        if name.startswith("/") or not all(parts) or {".", ".."} & set(parts) or parts[0] not in TOP_LEVEL:
            raise ValueError("names %r, which is no file of an archive" % name)
        if not isinstance(facts["bytes"], int) or not SHA256.fullmatch(facts["sha256"]):
            raise ValueError("has no size and SHA-256 of %s" % name)


def _expect_named(manifest: Manifest, *, archive_id: str | None, database: str | None) -> None:
    if database is not None and manifest.database != database:
        raise _Corrupt("%s is of database %r, not of %r" % (MANIFEST, manifest.database, database))
    if archive_id is not None and manifest.id != archive_id:
        raise _Corrupt("%s is of archive %s, not of %s" % (MANIFEST, manifest.id, archive_id))


def _expect_files(manifest: Manifest, found: Inventory) -> None:
    present = {name: size for name, size in found.files.items() if name not in (MANIFEST, MANIFEST_SUM)}
    missing = sorted(set(manifest.files) - set(present))
    if missing:
        raise _Corrupt("%s is missing" % ", ".join(missing))
    extra = sorted(set(present) - set(manifest.files))
    directories = {name.rsplit("/", depth)[0] for name in manifest.files for depth in range(1, name.count("/") + 1)}
    extra += sorted(set(found.directories) - directories)
    if extra:
        raise _Corrupt("%s is not in %s" % (", ".join(extra), MANIFEST))
    for name, size in sorted(present.items()):
        if size != manifest.files[name]["bytes"]:
            raise _Corrupt("%s has %d bytes instead of %d" % (name, size, manifest.files[name]["bytes"]))


def _expect_sums(path: str, manifest: Manifest) -> None:
    names = sorted(manifest.files)
    try:
        sums = hash_files([os.path.join(path, name) for name in names])
    except OSError as exc:
        raise _Corrupt("%s cannot be read: %s" % (exc.filename or path, exc.strerror)) from exc
    wrong = [name for name, total in zip(names, sums) if total != manifest.files[name]["sha256"]]
    if wrong:
        raise _Corrupt("%s does not have the SHA-256 that %s names" % (", ".join(wrong), MANIFEST))


@dataclass(frozen=True)
class Listing:
    """The archives below one path, oldest first; those of which no time is known stand in front."""

    archives: Sequence[ArchiveState] = field(default_factory=tuple)

    @property
    def newest_good(self) -> ArchiveState | None:
        """The good archive with the youngest snapshot."""
        good = [archive for archive in self.archives if archive.status == "good"]
        return good[-1] if good else None


def list_archives(
    path: str,
    *,
    database: str | None = None,
    archive_id: str | None = None,
    verify: str = "checksums",
    read_toc: Callable[[str, Manifest], str | None] | None = None,
) -> Listing:
    """Return the archives below ``path``, those of one database or with one id if told.

    Symbolic links beside archives are passed over. A path that does not exist holds no archives. Raises
    `HoldfastError` with the code ``archive_not_found`` when ``path`` cannot be listed.
    """
    if archive_id is not None:
        check_id(archive_id)
    states = []
    for directory, owner in _database_directories(path, database):
        for name in _subdirectories(directory):
            if archive_id is not None and name not in (archive_id, archive_id + PARTIAL):
                continue
            entry = os.path.join(directory, name)
            if name.endswith((PARTIAL, REMOVING)):
                states.append(_unfinished(entry, name, owner))
            elif ARCHIVE_ID.fullmatch(name):
                states.append(examine(entry, verify=verify, archive_id=name, database=owner, read_toc=read_toc))
    return Listing(tuple(sorted(states, key=lambda state: (state.snapshot_at or BEGINNING, state.path))))


def _database_directories(path: str, database: str | None) -> list[tuple[str, str]]:
    if database is not None:
        directory = os.path.join(path, directory_name(database))
        return [(directory, database)] if os.path.isdir(directory) else []
    found = []
    for name in _subdirectories(path):
        owner = database_name(name)
        if owner is not None:
            found.append((os.path.join(path, name), owner))
    return found


def _subdirectories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise HoldfastError(
            code="archive_not_found",
            msg="Cannot list archives in %s: %s." % (path, exc.strerror),
            hint="Check the path, and read it as the user that writes the archives.",
        ) from exc


def _unfinished(path: str, name: str, database: str) -> ArchiveState:
    size = 0
    with contextlib.suppress(OSError):  # it may end or go at any moment
        size = sum(inventory(path).files.values())
    if name.endswith(REMOVING):
        return ArchiveState(path, name, database, "incomplete", "its removal did not finish", bytes=size)
    archive_id = name[: -len(PARTIAL)]
    running = False
    with contextlib.suppress(OSError):
        lock = _try_lock(_lock_path(os.path.dirname(path), archive_id))
        running = lock is None
        if lock is not None:
            os.close(lock)
    reason = BEING_WRITTEN if running else "the backup that wrote it was killed"
    return ArchiveState(path, name, database, "incomplete", reason, bytes=size)


def select_archive(
    *,
    archive: str | None = None,
    path: str | None = None,
    database: str | None = None,
    archive_id: str | None = None,
    verify: str = "checksums",
) -> tuple[ArchiveState, list[str]]:
    """Return one archive fit to restore from, and a sentence for each newer one that is not.

    It is the directory ``archive``, or below ``path`` the one of ``database`` with the id, or the newest good one.
    Raises `HoldfastError` with the code ``archive_corrupt`` or ``archive_not_found``.
    """
    if archive is not None:
        archive = os.path.abspath(archive)
        if not os.path.isdir(archive):
            raise HoldfastError(
                code="archive_not_found",
                msg="There is no archive at %s." % archive,
                hint="pg_backup_info lists the archives below a path.",
            )
        return _expect_good(examine(archive, verify=verify)), []
    if path is None or database is None:
        raise HoldfastError(
            code="option_invalid",
            msg="Nothing says which archive to use.",
            hint="Set archive, or path and source_database.",
        )
    states = list_archives(path, database=database, archive_id=archive_id, verify="none").archives
    warnings: list[str] = []
    for state in reversed([state for state in states if not state.id.endswith((PARTIAL, REMOVING))]):
        proven = examine(state.path, verify=verify, archive_id=state.id, database=database)
        if archive_id is not None:
            return _expect_good(proven), []
        if proven.status in ("good", "unverified") and proven.manifest is not None:
            return proven, warnings
        warnings.append("The archive %s was passed over: it is %s: %s." % (proven.path, proven.status, proven.reason))
    raise HoldfastError(
        code="archive_not_found",
        msg="There is no %s of database %r below %s.%s"
        % (
            "archive " + archive_id if archive_id else "good archive",
            database,
            path,
            "".join(" " + w for w in warnings),
        ),
        hint="pg_backup_info lists what is there and why it is not good.",
    )


def _expect_good(state: ArchiveState) -> ArchiveState:
    manifest_of(state)
    return state


def manifest_of(state: ArchiveState) -> Manifest:
    """Return the manifest of an archive that nothing speaks against; raises ``archive_corrupt`` otherwise."""
    if state.status not in ("good", "unverified") or state.manifest is None:
        raise HoldfastError(
            code="archive_corrupt",
            msg="The archive %s is %s: %s." % (state.path, state.status, state.reason),
            hint="Use another archive; pg_backup_info with verify: checksums names the good ones.",
            path=state.path,
            reason=state.reason,
        )
    return state.manifest


def is_archive_like(path: str) -> bool:
    """Whether a corrupt directory holds nothing but what an archive could hold, so that it may be removed as one."""
    names = set(os.listdir(path))
    return bool(names & TOP_LEVEL) and names <= TOP_LEVEL
