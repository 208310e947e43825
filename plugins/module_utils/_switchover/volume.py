# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the copying of a database takes on the server's volume: measured before anybody has to wait for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What counts where nothing was measured; a slow disk of a virtual machine does better.
DEFAULT_BYTES_PER_S = 50e6

#: What is written to measure a volume. It takes a fraction of a second on most, and half a second on slow ones.
PROBE_BYTES = 32 * 1024 * 1024
PROBE_CHUNK = b"\xa5" * (1024 * 1024)

#: A copy is read as well as written.
COPY_SHARE = 0.5

#: Shared files are a few system calls each; a segment has up to 1 GiB.
SHARED_BYTES_PER_S = 5e9

#: What a copy takes besides its bytes: two checkpoints, and many small files that are synced.
OVERHEAD_S = 0.5

#: How many earlier copies are looked at.
EARLIER = 5

# From linux/fs.h: make a file share the blocks of another.
FICLONE = 0x40049409


@dataclass(frozen=True)
class Speed:
    """How fast a database is copied, and how that is known: ``earlier``, ``shared``, ``probe`` or ``default``."""

    bytes_per_s: float
    source: str

    def expected_s(self, size_bytes: int | None) -> float:
        """Return how many seconds a copy of that size should take."""
        return round(OVERHEAD_S + (size_bytes or 0) / self.bytes_per_s, 1)


def choose_speed(
    *,
    strategy: str,
    earlier: Sequence[Mapping[str, Any]] = (),
    shares: bool | None = None,
    writes_bytes_per_s: float | None = None,
) -> Speed:
    """Return how fast a copy by ``strategy`` should be, rather too slow than too fast.

    ``earlier`` are copies of this database, newest first, with ``strategy``, ``bytes`` and ``copy_s``; ``shares`` and
    ``writes_bytes_per_s`` are what `shares_blocks` and `write_speed` found out.
    """
    seen = [copy for copy in earlier if copy.get("strategy") == strategy and copy.get("bytes") and copy.get("copy_s")]
    if seen:
        speeds = [float(c["bytes"]) / max(float(c["copy_s"]) - OVERHEAD_S, 0.1) for c in seen[:EARLIER]]
        return Speed(min(speeds), "earlier")
    if strategy == "clone" and shares:
        return Speed(SHARED_BYTES_PER_S, "shared")
    if writes_bytes_per_s:
        return Speed(writes_bytes_per_s * COPY_SHARE, "probe")
    return Speed(DEFAULT_BYTES_PER_S, "default")


def write_speed(directory: str, *, size_bytes: int = PROBE_BYTES) -> float | None:
    """Return how many bytes a second the volume of ``directory`` takes for good, or None when it cannot be tried.

    The file has no name, so that nothing is left of it even after SIGKILL.
    """
    with contextlib.suppress(OSError), _nameless_file(directory) as descriptor:
        started = time.monotonic()
        for _number in range(size_bytes // len(PROBE_CHUNK)):
            os.write(descriptor, PROBE_CHUNK)
        os.fdatasync(descriptor)
        return size_bytes / max(time.monotonic() - started, 1e-6)
    return None


def shares_blocks(directory: str) -> bool | None:
    """Return whether files in ``directory`` can share blocks, as on XFS and Btrfs; None when it cannot be tried."""
    with contextlib.suppress(OSError), _nameless_file(directory) as source, _nameless_file(directory) as target:
        os.write(source, PROBE_CHUNK[:65536])
        try:
            fcntl.ioctl(target, FICLONE, source)
        except OSError:
            return False
        return True
    return None


@contextlib.contextmanager
def _nameless_file(directory: str) -> Iterator[int]:
    """Open a file without a name in a directory for the block; raises OSError where that cannot be."""
    descriptor = os.open(directory, getattr(os, "O_TMPFILE", 0) | os.O_RDWR, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
