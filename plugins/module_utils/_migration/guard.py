# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Letting no step down drop rows that were written after they were looked at and exported."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.row_versions import find_table, row_versions

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    from psycopg2 import sql

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor
else:
    Cursor = Any

# Who writes waits from here on, who reads does not. The statements of the file ask for more.
LOCK = "LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE"


class RowGuard:
    """What `row_versions` told of tables, by their names quoted as in SQL, and must still tell."""

    def __init__(self, versions: Mapping[str, str]) -> None:
        self.versions = dict(versions)
        self._within: dict[str, str] = {}

    def check(self, cursor: Cursor) -> None:
        """Keep writers out until the transaction ends; raises `HoldfastError` (``rows_written``) for earlier ones."""
        for name, expected in self.versions.items():
            table = find_table(cursor, name)
            if table is None:
                continue
            cursor.execute(sql.SQL(LOCK).format(table))
            if row_versions(cursor, table) != expected:
                raise HoldfastError(
                    code="rows_written",
                    msg="Rows of %s were written after they were looked at; nothing of this step was done." % name,
                    hint="Stop what writes to it, the new version of the application usually, then run it again.",
                    table=name,
                )

    def renew(self, cursor: Cursor) -> None:
        """Take what the step itself has written for given; it counts once `committed` is called."""
        self._within = {}
        for name in self.versions:
            table = find_table(cursor, name)
            if table is not None:
                self._within[name] = row_versions(cursor, table)

    def committed(self) -> None:
        """Remember what `renew` found."""
        self.versions = self._within
