# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases that a restore was building when it was killed: how they are recognised."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: Under this name a database is being built.
BUILDING = re.compile(r"\.restoring-([0-9a-f]{8})\Z")

#: How the comment of a database that is being built begins.
MARK = "holdfast.postgres pg_restore:"

#: First key of the session-level advisory lock, held in the maintenance database while the number is in use.
BUILD_LOCK = 0x48465242

LEFT_BEHIND = """
SELECT datname::text, pg_catalog.shobj_description(oid, 'pg_database')
  FROM pg_catalog.pg_database
 WHERE datname ~ '\\.restoring-[0-9a-f]{8}$'
 ORDER BY 1
"""

HAS_OBJECTS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)
"""


def lock_number(number: int) -> int:
    """Return the second key of the lock for the number in a name, as PostgreSQL takes it."""
    return number - (1 << 32) if number >= 1 << 31 else number


def abandoned_restores(*, connection: Connection, server: Server) -> Iterator[str]:
    """Yield the name of each database that a killed restore was building; its number is locked until the next one.

    Such a database has a name like ours, nobody holds the advisory lock of the number in it, and it has either our
    comment or, when its run was killed before that, neither comment nor any object.
    """
    with connection.cursor() as cursor:
        cursor.execute(LEFT_BEHIND)
        found = cursor.fetchall()
        for name, comment in found:
            match = BUILDING.search(name)
            if match is None or not (comment or MARK).startswith(MARK):
                continue
            key = (BUILD_LOCK, lock_number(int(match.group(1), 16)))
            cursor.execute("SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", key)
            if not only_row(cursor)[0]:
                continue
            try:
                if comment is not None or _is_empty(server, name):
                    yield name
            finally:
                cursor.execute("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", key)


def _is_empty(server: Server, database: str) -> bool:
    """Return whether nothing was made in a database; what cannot be looked into counts as somebody's."""
    try:
        with server.session(database) as connection, connection.cursor() as cursor:
            cursor.execute(HAS_OBJECTS)
            return not only_row(cursor)[0]
    except (HoldfastError, psycopg2.Error):
        return False
