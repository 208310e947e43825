# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing the files of a report, each of which is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Mapping

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

DIRECTORY_MODE = 0o750
FILE_MODE = 0o640


def write_report(*, path: str, files: Mapping[str, str], latest: str | None = None, check_mode: bool = False) -> bool:
    """Write ``files`` (content by name) to the directory ``path``; return whether anything changed.

    Check mode writes nothing, and says whether it would. ``latest`` is the name of a symbolic link beside the directory
    that is made to point at it, in one step. Raises `HoldfastError` with the code ``option_invalid``,
    ``destination_unwritable`` or ``destination_full``.
    """
    for name in [*files, *([latest] if latest else [])]:
        if name != os.path.basename(name) or name in ("", ".", ".."):
            raise HoldfastError(
                code="option_invalid",
                msg="%r is not the name of a file within the report's directory." % name,
                hint="Give plain file names, without a slash.",
            )
    if check_mode:
        _require_writable(path)
        return _would_change(path, files, latest)
    try:
        os.makedirs(path, mode=DIRECTORY_MODE, exist_ok=True)
        changed = [_write(path, name, content.encode("utf-8")) for name, content in files.items()]
        changed.append(bool(latest) and _point(path, str(latest)))
    except OSError as exc:
        raise _refused(path, exc) from exc
    return any(changed)


def _refused(path: str, exc: OSError) -> HoldfastError:
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
    return HoldfastError(
        code="destination_full" if full else "destination_unwritable",
        msg="The report cannot be written to %s: %s." % (path, exc.strerror),
        hint="Make room there, or let this user write there, or name another directory; then run it again.",
    )


def _require_writable(path: str) -> None:
    """Raise `HoldfastError` unless this user may write to the directory, or make it."""
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise _refused(path, OSError(errno.ENOTDIR, "%s is not a directory" % place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise _refused(path, OSError(errno.EACCES, "this user may not write to %s" % place))


def _would_change(path: str, files: Mapping[str, str], latest: str | None) -> bool:
    link = os.path.join(os.path.dirname(os.path.abspath(path)), latest or "")
    return bool(
        not os.path.isdir(path)
        or any(not _holds(os.path.join(path, name), content.encode("utf-8")) for name, content in files.items())
        or (latest and not _points(link, os.path.basename(os.path.abspath(path))))
    )


def _holds(path: str, content: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read() == content
    except OSError:
        return False


def _points(link: str, target: str) -> bool:
    return os.path.islink(link) and os.readlink(link) == target


def _write(directory: str, name: str, content: bytes) -> bool:
    path = os.path.join(directory, name)
    if _holds(path, content):
        return False
    descriptor, draft = tempfile.mkstemp(dir=directory, prefix=".draft-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, FILE_MODE)
            os.fsync(descriptor)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    return True


def _point(path: str, latest: str) -> bool:
    """Make the link ``latest`` beside the directory ``path`` point at it."""
    parent, target = os.path.split(os.path.abspath(path))
    link = os.path.join(parent, latest)
    if _points(link, target):
        return False
    draft = os.path.join(parent, ".%s-%d" % (latest, os.getpid()))
    os.symlink(target, draft)
    try:
        os.replace(draft, link)
    except BaseException:
        os.unlink(draft)
        raise
    return True
