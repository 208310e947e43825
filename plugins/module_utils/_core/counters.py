# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server counts of its own accord, and what it takes to believe it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import only_row, server_version

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

# pg_stat_bgwriter's time changes when the server throws its counters away after a crash; no counter of a database says
# so (pgstat_reset_after_failure in the server's utils/activity/pgstat.c).
READ_CIRCUMSTANCES = """
SELECT d.stats_reset, pg_catalog.pg_postmaster_start_time(), b.stats_reset,
       pg_catalog.current_setting('track_counts')::boolean, pg_catalog.pg_current_snapshot()::text
  FROM pg_catalog.pg_stat_database AS d CROSS JOIN pg_catalog.pg_stat_bgwriter AS b
 WHERE d.datname = pg_catalog.current_database()
"""

READ_WRITE_COUNTERS = """
SELECT pg_catalog.format('%I.%I', s.schemaname, s.relname), s.n_tup_ins, s.n_tup_upd, s.n_tup_del,
       s.relid, pg_catalog.pg_relation_filenode(s.relid)
  FROM pg_catalog.pg_stat_all_tables AS s
 WHERE s.schemaname NOT IN ('pg_catalog', 'information_schema') AND s.schemaname !~ '^pg_(toast|temp_)'
 ORDER BY 1
"""


def read_counters(connection: Connection) -> dict[str, Any]:
    """Return how many rows were inserted, updated and deleted per user table since ``stats_reset``.

    Two readings compare when ``stats_reset``, ``server_started_at``, ``stats_discarded_at`` and the database's OID are
    equal. Other sessions report at most once a second and, while a transaction is open, not at all
    (https://www.postgresql.org/docs/current/monitoring-stats.html), so a reading trails the last writes; a session that
    has ended has reported everything from version 15 on.

    ``snapshot`` tells which transactions had ended by then, ``relations`` has the OID and the file number of each
    table, which say whether a table of that name is still the same and was neither truncated nor rewritten.
    """
    with connection.cursor() as cursor:
        if server_version(connection) >= 150000:
            cursor.execute("SELECT pg_catalog.pg_stat_force_next_flush()")
        cursor.execute(READ_CIRCUMSTANCES)
        reset, started, discarded, counting, snapshot = only_row(cursor)
        cursor.execute(READ_WRITE_COUNTERS)
        rows = cursor.fetchall()
    return {
        "stats_reset": reset.isoformat() if reset else None,
        "server_started_at": started.isoformat(),
        "stats_discarded_at": discarded.isoformat() if discarded else None,
        "counting": counting,
        "snapshot": snapshot,
        "tables": {name: {"inserted": i, "updated": u, "deleted": d} for name, i, u, d, _oid, _file in rows},
        "relations": {name: {"oid": oid, "filenode": filenode} for name, _i, _u, _d, oid, filenode in rows},
    }
