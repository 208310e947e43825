# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a side database still is what was recorded, as its own history of migrations tells."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import (
    FIND_HISTORY,
    prepare_session,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2
    from psycopg2 import sql

# A history that was adopted may lack any column but the version; to_jsonb() gives NULL for those. What begins with R__
# is no version, but a migration of Flyway's that runs whenever it changed.
READ_HISTORY = r"""
SELECT r ->> 'version', r ->> 'deployment_id',
       coalesce(r ->> 'state', 'applied') = 'applied' AND r ->> 'version' NOT LIKE 'R\_\_%',
       pg_catalog.rank() OVER (ORDER BY coalesce(r ->> 'state', 'applied') = 'applied' DESC,
                                        r ->> 'version' LIKE 'R\_\_%',
                                        (r ->> 'applied_at')::timestamptz DESC NULLS LAST) = 1
  FROM (SELECT pg_catalog.to_jsonb(h) AS r FROM {history} AS h) AS rows
"""


@dataclass(frozen=True)
class Expected:
    """What the history of a side database must say: the version completed last, and a deployment that is not in it."""

    schema_version: str = ""
    without_deployment: str = ""
    history_table: str = "public.schema_version"


@dataclass(frozen=True)
class Found:
    """What it says: the versions completed last (several, where one moment or none is recorded), all deployments."""

    schema_versions: Sequence[str] = ()
    deployments: Sequence[str] = ()


def require_expected(*, server: Server, database: str, expected: Expected) -> int | None:
    """Raise `HoldfastError` with the code ``swap_blocked`` when ``database`` is not as ``expected``.

    Return the server process that looked, which may need a moment to end; None when there was nothing to look for.
    """
    if not expected.schema_version and not expected.without_deployment:
        return None
    found, pid = _read(server, database, expected.history_table)
    blockers = []
    if expected.schema_version and expected.schema_version not in found.schema_versions:
        blockers.append(
            {
                "kind": "schema_version",
                "name": ", ".join(found.schema_versions),
                "message": "its newest migration is %s, and the recorded one is %s"
                % (", ".join(found.schema_versions) or "none", expected.schema_version),
            }
        )
    if expected.without_deployment in found.deployments:
        blockers.append(
            {
                "kind": "deployment",
                "name": expected.without_deployment,
                "message": "it holds migrations of deployment %s, and was recorded as it was before"
                % expected.without_deployment,
            }
        )
    if blockers:
        raise HoldfastError(
            code="swap_blocked",
            msg="Database %r is not what was recorded, by its history %s: %s."
            % (database, expected.history_table, "; ".join(blocker["message"] for blocker in blockers)),
            hint="Somebody migrated or replaced it. Use another rollback point, such as the archive; if this one is"
            " meant, leave out expected (of the role rollback: rollback_check_replacement=false). Nothing was touched.",
            blockers=blockers,
        )
    return pid


def _read(server: Server, database: str, history_table: str) -> tuple[Found, int]:
    try:
        with server.session(database, application_name="holdfast swap") as connection:
            prepare_session(connection)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_catalog.set_config('search_path', 'public', false)")
                cursor.execute(FIND_HISTORY, (history_table,))
                table = cursor.fetchone()
                rows = []
                if table is not None:
                    cursor.execute(sql.SQL(READ_HISTORY).format(history=sql.Identifier(*table)))
                    rows = cursor.fetchall()
                pid = int(connection.info.backend_pid)
    except psycopg2.Error as exc:
        raise HoldfastError(
            code="query_failed",
            msg="The history %s in database %r cannot be read, so it is not known whether it is what was recorded: %s"
            % (history_table, database, " ".join(str(exc).split())),
            hint="Let this role read it, or leave out expected (of the role rollback:"
            " rollback_check_replacement=false). Nothing was touched.",
        ) from exc
    newest = sorted({str(version) for version, _id, complete, first in rows if complete and first})
    return Found(newest, sorted({name for _version, name, _complete, _first in rows if name})), pid
