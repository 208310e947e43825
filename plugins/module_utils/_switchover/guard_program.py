# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that watches a pooler on its own host and resumes what stays paused for too long.

It runs without the collection, as what systemd-run is given, so it uses nothing but Python 3.9 and psycopg2.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

with contextlib.suppress(ImportError):  # reported by main()
    import psycopg2

INTERVAL_S = 0.25


def names_of(rows: list[dict[str, Any]], *, database: str, names: list[str]) -> dict[str, bool]:
    """Return for each name that counts whether it is paused, by the rows of SHOW DATABASES."""
    return {
        row["name"]: str(row["paused"]) == "1"
        for row in rows
        if (row["name"] in names if names else database in (row["name"], row["database"]))
    }


def overdue(states: dict[str, bool], since: dict[str, float], *, now: float, limit_s: float) -> list[str]:
    """Return the names that have been paused for the time, and remember in ``since`` when each was seen paused."""
    for name in list(since):
        if not states.get(name):
            del since[name]
    for name, paused in states.items():
        if paused:
            since.setdefault(name, now)
    return [name for name, first in since.items() if now - first >= limit_s]


def argument(name: str) -> str:
    """Return a name as PgBouncer's parser takes it; short enough without quotes, if it has to be."""
    return name if name.isascii() and name.replace("_", "a").isalnum() else '"%s"' % name.replace('"', '""')


def notify_ready(path: str | None) -> None:
    """Tell systemd that the watch has begun (sd_notify)."""
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + path[1:] if path.startswith("@") else path)
            channel.send(b"READY=1")


def told(stream: TextIO, text: str) -> None:
    """Write a line to the journal."""
    stream.write(text + "\n")
    stream.flush()


class Watch:
    """One connection to the console, opened again when it is lost."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.connection: Any = None
        self.since: dict[str, float] = {}

    def look(self) -> None:
        """Look once, and resume what is due."""
        if self.connection is None:
            self.connection = psycopg2.connect(**self.config["conninfo"])
            self.connection.autocommit = True
        with self.connection.cursor() as cursor:
            cursor.execute("SHOW DATABASES")
            columns = [column[0] for column in cursor.description]
            rows = [dict(zip(columns, row)) for row in cursor.fetchall()]
            states = names_of(rows, database=self.config["database"], names=self.config["names"])
            now = time.monotonic()
            for name in overdue(states, self.since, now=now, limit_s=self.config["limit_s"]):
                cursor.execute("RESUME " + argument(name))
                told(sys.stdout, "resumed %r, which was paused for %.1f s" % (name, now - self.since.pop(name)))

    def lost(self) -> None:
        """Close the connection, whatever state it is in; how long something was paused is remembered."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def main(encoded: str, environment: Mapping[str, str]) -> None:
    """Watch until the lifetime is over and nothing is paused any more; with no lifetime, look once."""
    if "psycopg2" not in globals():
        raise SystemExit("%s has no psycopg2; install python3-psycopg2" % sys.executable)
    config = json.loads(base64.b64decode(encoded))
    watch = Watch(config)
    end = time.monotonic() + config["lifetime_s"]
    watch.look()  # without a console there is nothing to begin
    notify_ready(environment.get("NOTIFY_SOCKET"))
    while time.monotonic() < end or (config["lifetime_s"] and watch.since):
        time.sleep(INTERVAL_S)
        try:
            watch.look()
        except psycopg2.Error as exc:
            told(sys.stderr, " ".join(str(exc).split()))
            watch.lost()
