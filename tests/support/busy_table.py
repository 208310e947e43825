# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A table that others use while it is migrated: somebody who reads for long, and many who read for a moment."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from tests.support.server import TestServer


@contextlib.contextmanager
def reader(server: TestServer, database: str, *, seconds: float) -> Iterator[int]:
    """A transaction that has read table a and stays open for a while, in a thread; yields its pid."""
    connection = server.connect(database, application_name="slow report")
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM a")
    timer = threading.Timer(seconds, connection.rollback)
    timer.start()
    try:
        yield connection.info.backend_pid
    finally:
        timer.join()
        connection.close()


@contextlib.contextmanager
def probes(server: TestServer, database: str) -> Iterator[list[float]]:
    """Sessions that read table a every 20 ms; yields the list of their latencies in seconds."""
    latencies: list[float] = []
    stop = threading.Event()

    def probe() -> None:
        connection = server.connect(database)
        with connection.cursor() as cursor:
            while not stop.is_set():
                begun = time.monotonic()
                cursor.execute("SELECT count(*) FROM a")
                latencies.append(time.monotonic() - begun)
                time.sleep(0.02)
        connection.close()

    threads = [threading.Thread(target=probe) for _number in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield latencies
    finally:
        stop.set()
        for thread in threads:
            thread.join()
