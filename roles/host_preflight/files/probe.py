# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure what the facts of a host do not say, and print it as JSON: disks, fsync, clock, kernel settings, listeners.

It runs on the host with its own Python, so it needs nothing but the standard library. Arguments: the number of writes
to time, then the paths whose disks count; the first is where writes are timed. It leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import statistics
import sys
import tempfile
import time
from typing import Any

KERNEL = (
    "vm.overcommit_memory",
    "vm.overcommit_ratio",
    "vm.swappiness",
    "vm.nr_hugepages",
    "vm.dirty_background_ratio",
    "vm.dirty_background_bytes",
    "vm.zone_reclaim_mode",
)
BLOCK = 8192


def existing(path: str) -> str:
    """Return the path, or the nearest directory above it that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path.rstrip("/")) or "/"
    return path


def disk(path: str) -> dict[str, Any]:
    """Return the size and the free space of the file system that holds, or will hold, `path`."""
    found = os.statvfs(existing(path))
    return {
        "path": path,
        "size_bytes": found.f_blocks * found.f_frsize,
        "free_bytes": found.f_bavail * found.f_frsize,
        "free_inodes": found.f_favail,
    }


def fsync(path: str, writes: int) -> dict[str, float]:
    """Return how long one write of a WAL page lasts until it is on the disk, in milliseconds."""
    times = []
    with tempfile.NamedTemporaryFile(dir=existing(path), prefix=".holdfast-fsync-") as file:
        file.write(bytes(BLOCK * 16))
        file.flush()
        os.fsync(file.fileno())
        for number in range(writes):
            started = time.monotonic()
            os.pwrite(file.fileno(), os.urandom(BLOCK), BLOCK * (number % 16))
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - started) * 1000)
    times.sort()
    return {
        "median_ms": round(statistics.median(times), 3),
        "p99_ms": round(times[min(len(times) - 1, len(times) * 99 // 100)], 3),
        "max_ms": round(times[-1], 3),
    }


def clock() -> dict[str, Any]:
    """Return whether the kernel's clock is disciplined, and its estimated error; see adjtimex(2)."""
    # modes, offset, freq, maxerror, esterror, status: the rest is only room for what the kernel writes.
    buffer = (ctypes.c_long * 64)()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(buffer))
    if state < 0:
        return {"synchronized": None, "error": os.strerror(ctypes.get_errno())}
    status = ctypes.c_int.from_buffer(buffer, 5 * ctypes.sizeof(ctypes.c_long)).value
    return {"synchronized": not status & 0x40, "max_error_ms": round(buffer[3] / 1000, 3)}


def kernel() -> dict[str, str]:
    """Return kernel settings by name; what this kernel does not have is left out."""
    values = {}
    for name in KERNEL:
        text = read("/proc/sys/" + name.replace(".", "/"))
        if text is not None:
            values[name] = text
    pages = read("/sys/kernel/mm/transparent_hugepage/enabled")
    if pages is not None:
        values["transparent_hugepage"] = (re.findall(r"\[(\w+)\]", pages) or [pages])[0]
    return values


def read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def listeners() -> list[dict[str, Any]]:
    """Return every TCP port that something listens on, with the names of its processes as far as they are visible."""
    inodes: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read(table) or "").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                inodes[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    names: dict[int, set[str]] = {port: set() for port in inodes.values()}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(entry.path) for entry in os.scandir("/proc/%s/fd" % process)]
        except OSError:
            continue
        for link in links:
            port = inodes.get(link[8:-1]) if link.startswith("socket:[") else None
            if port is not None:
                names[port].add(read("/proc/%s/comm" % process) or "")
    return [{"port": port, "processes": sorted(filter(None, found))} for port, found in sorted(names.items())]


def main() -> None:
    """Print everything."""
    writes, paths = int(sys.argv[1]), sys.argv[2:]
    print(
        json.dumps(
            {
                "disks": [disk(path) for path in paths],
                "fsync": fsync(paths[0], writes) if writes and paths else {},
                "clock": clock(),
                "kernel": kernel(),
                "listeners": listeners(),
            }
        )
    )


if __name__ == "__main__":
    main()
