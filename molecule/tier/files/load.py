#!/usr/bin/python3
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that work through every pooler until they are told to stop: load.py RESULT POOLER...

Half of them keep their connection, half connect anew for each transaction; none ever tries one again. SIGTERM ends
them; then RESULT (JSON) has the number of transactions, every failure with its message, and the longest latency in
milliseconds. Credentials come from libpq's environment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import psycopg2

CLIENTS_PER_POOLER = 4

stop = threading.Event()
lock = threading.Lock()
result = {"transactions": 0, "longest_ms": 0.0, "failures": []}


def work(pooler: str, number: int) -> None:
    """Write and read, over and over."""
    connection = None
    while not stop.is_set():
        started = time.monotonic()
        try:
            if connection is None:
                connection = psycopg2.connect(host=pooler, port=6432)
            with connection, connection.cursor() as cursor:
                cursor.execute("UPDATE public.load_test SET writes = writes + 1 WHERE client = %s", (number,))
                cursor.execute("SELECT count(*) FROM public.product")
            if number % 2:
                connection.close()
                connection = None
            failure = None
        except psycopg2.Error as exc:
            failure = "%s: %s" % (time.strftime("%H:%M:%S"), str(exc).strip())
            connection = None
        latency_ms = (time.monotonic() - started) * 1000
        with lock:
            result["transactions"] += failure is None
            result["longest_ms"] = max(result["longest_ms"], latency_ms)
            if failure is not None:
                result["failures"].append(failure)
        stop.wait(0.01)


def main() -> None:
    """Run until SIGTERM."""
    path, poolers = sys.argv[1], sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threads = [
        threading.Thread(target=work, args=(pooler, index * CLIENTS_PER_POOLER + client))
        for index, pooler in enumerate(poolers)
        for client in range(CLIENTS_PER_POOLER)
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(0.2):
        pass
    for thread in threads:
        thread.join()
    with open(path + ".partial", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.rename(path + ".partial", path)


if __name__ == "__main__":
    main()
