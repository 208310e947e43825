# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of PostgreSQL that follow from the host: its memory, its processors, its kind of disk."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

MB = 1024**2
GB = 1024**3
_UNITS = {"": 1, "B": 1, "kB": 1024, "MB": MB, "GB": GB, "TB": 1024 * GB}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(B|kB|MB|GB|TB)?\s*\Z")


def size_bytes(value: Any, *, unit: str = "") -> int:
    """Return the bytes that a memory setting means; a bare number counts in `unit`, such as ``8kB``.

    The spelling is PostgreSQL's (config-setting.html): ``kB``, ``MB`` and so on, case-sensitive.
    """
    match = _SIZE.match(str(value))
    if not match:
        raise ValueError("%r is not a size; PostgreSQL knows B, kB, MB, GB and TB" % (value,))
    number, named = match.groups()
    if named:
        return int(float(number) * _UNITS[named])
    name = unit.lstrip("0123456789")
    blocks = unit[: len(unit) - len(name)]
    return int(float(number) * int(blocks or 1) * _UNITS[name])


# The unit of a bare number (pg_settings.unit), and PostgreSQL's own value.
SIZES = {
    "shared_buffers": ("8kB", "128MB"),
    "work_mem": ("kB", "4MB"),
    "maintenance_work_mem": ("kB", "64MB"),
    "effective_cache_size": ("8kB", "4GB"),
    "max_wal_size": ("MB", "1GB"),
    "min_wal_size": ("MB", "80MB"),
}


def setting_bytes(settings: Mapping[str, Any], name: str, default: str = "") -> int:
    """Return the bytes of one of `SIZES` among `settings`, or of PostgreSQL's own value when it is not there."""
    unit, own = SIZES[name]
    try:
        return size_bytes(settings.get(name, default or own), unit=unit)
    except ValueError as exc:
        raise ValueError("%s: %s" % (name, exc)) from None


def connection_count(value: Any) -> int:
    """Return `max_connections` as a number."""
    if not re.match(r"\s*[1-9][0-9]*\s*\Z", str(value)):
        raise ValueError("max_connections: %r is no number of connections" % (value,))
    return int(value)


def as_size(value: float) -> str:
    """Spell bytes as PostgreSQL reads them, rounded down to whole megabytes (kilobytes below one)."""
    return "%dMB" % (value // MB) if value >= MB else "%dkB" % (value // 1024)


def postgres_tuning(
    facts: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    max_connections: int = 200,
    memory_mb: int = 0,
    clusters: int = 1,
    disk: str = "auto",
    data_dir: str = "/var/lib/postgresql",
) -> dict[str, Any]:
    """Return settings for one cluster of this host, `overrides` included; what depends on them follows them.

    `facts` are Ansible's (``memtotal_mb``, ``processor_vcpus``, ``mounts``, ``devices``). Clusters of one host share
    its memory equally. A host with 16 GB, eight processors and an SSD gets what the deployment guides name: 4GB
    shared_buffers, 12GB effective_cache_size, 1GB maintenance_work_mem, 20MB work_mem, 2GB max_wal_size.

    Raises `ValueError` for an override that is no number or no size.
    """
    given = dict(overrides or {})
    memory = (memory_mb or int(facts["memtotal_mb"])) * MB // max(1, clusters)
    processors = max(1, int(facts.get("processor_vcpus") or facts.get("processor_nproc") or 1))
    solid = disk == "ssd" or (disk == "auto" and not rotates(facts, data_dir))
    connections = connection_count(given.get("max_connections", max_connections))
    # Beyond 16 GB the operating system's cache serves better than PostgreSQL's own.
    shared = setting_bytes(given, "shared_buffers", as_size(min(memory // 4, 16 * GB)))
    gather = min(4, math.ceil(processors / 2))
    wal = setting_bytes(given, "max_wal_size", as_size(min(max(shared // 2, GB), 16 * GB)))
    tuned: dict[str, Any] = {
        "max_connections": connections,
        "shared_buffers": as_size(shared),
        "effective_cache_size": as_size(max(memory * 3 // 4, shared)),
        "maintenance_work_mem": as_size(min(max(memory // 16, 16 * MB), 2 * GB)),
        # Every connection may sort in a few nodes at once.
        "work_mem": as_size(max((memory - shared) // (3 * connections), MB)),
        "wal_buffers": as_size(min(max(shared * 3 // 100, 64 * 1024), 16 * MB)),
        "max_wal_size": as_size(wal),
        # Two segments of WAL are the least that a server starts with.
        "min_wal_size": as_size(max(wal // 2, 32 * MB)),
        "checkpoint_completion_target": 0.9,
        "random_page_cost": 1.1 if solid else 4,
        "effective_io_concurrency": 200 if solid else 2,
        "max_worker_processes": max(8, processors),
        "max_parallel_workers": processors,
        "max_parallel_workers_per_gather": gather,
        "max_parallel_maintenance_workers": gather,
    }
    return {**tuned, **given}


def rotates(facts: Mapping[str, Any], path: str) -> bool:
    """Whether the disk below `path` says that it rotates; virtual disks often do. Unknown disks count as solid."""
    mounts = [m for m in facts.get("mounts") or [] if _holds(str(m.get("mount", "")), path)]
    device = max(mounts, key=lambda mount: len(mount["mount"])).get("device", "") if mounts else ""
    disks = {
        name: disk
        for name, disk in (facts.get("devices") or {}).items()
        if str(disk.get("rotational", "")) in ("0", "1") and not re.match(r"loop|ram|sr|fd|zram|nbd", name)
    }
    below = [
        disk
        for name, disk in disks.items()
        if device in ("/dev/" + name, *("/dev/" + part for part in disk.get("partitions") or {}))
        or device.rsplit("/", 1)[-1] in ((disk.get("links") or {}).get("ids") or [])
        or any(device.rsplit("/", 1)[-1] in str(holder) for holder in disk.get("holders") or [] if device)
    ]
    # A mapped device is not in the list: then the slowest disk of the host decides.
    return any(str(disk["rotational"]) == "1" for disk in below or disks.values())


def _holds(mount: str, path: str) -> bool:
    return bool(mount) and (path == mount or path.startswith(mount.rstrip("/") + "/"))
