# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sequences across an undo: the version before must not give out keys that rows to be carried forward have already."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import read_sequences
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.pairs import read_tables, resolve_tables
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._core.table_proof import PINNED_SETTINGS

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

# Those of serial and identity columns, and those that a default names.
SEQUENCES_OF_TABLES = """
SELECT DISTINCT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(s.relname), n.nspname, s.relname
  FROM (SELECT d.objid AS sequence, d.refobjid AS relation FROM pg_catalog.pg_depend AS d
         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
           AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
        UNION ALL
        SELECT d.refobjid, a.adrelid FROM pg_catalog.pg_depend AS d
          JOIN pg_catalog.pg_attrdef AS a ON a.oid = d.objid
         WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
           AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) AS used
  JOIN pg_catalog.pg_class AS s ON s.oid = used.sequence AND s.relkind = 'S'
  JOIN pg_catalog.pg_namespace AS n ON n.oid = s.relnamespace
  -- A partition takes its keys from the sequence of the table that it is part of.
  JOIN (SELECT c.oid, coalesce(p.relid, c.oid) AS relation FROM pg_catalog.pg_class AS c
          LEFT JOIN LATERAL pg_catalog.pg_partition_ancestors(c.oid) AS p ON true
         WHERE c.oid = ANY (%s::oid[])) AS wanted ON wanted.relation = used.relation
 ORDER BY 1
"""

#: Up to this distance a sequence is advanced value by value, which no client's own use of it can undo.
MAX_STEPS = 1_000_000


def reserve_sequences(
    *,
    server: Server,
    database: str,
    side: str,
    tables: Sequence[str],
    margin: int = 10_000,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Move the sequences of ``tables`` in ``side`` ahead of those in the live ``database`` by ``margin`` values.

    For a side database that is about to serve: the keys that the live database has given out, and gives out until
    clients are paused, are then not given out again. ``tables`` may be ``["all"]``. Return ``sequences[]``, each with
    its value ``before`` and ``after`` and that of the ``live`` database, ``missing`` tables, and ``changed``.
    """
    with server.session(database, application_name="holdfast reserve", settings=PINNED_SETTINGS) as live:
        known = read_tables(live)
        found, missing = (sorted(known), []) if "all" in tables else resolve_tables(tables, known=known)
        names = _sequences_of(live, [known[name].oid for name in found])
        wanted = {name: facts for name, facts in read_sequences(live).items() if name in names}
    moved = []
    with server.session(side, application_name="holdfast reserve", settings=PINNED_SETTINGS) as connection:
        existing = read_sequences(connection)
        for name, facts in wanted.items():
            if name not in existing:
                continue
            target = ahead_of(facts, existing[name], margin=margin)
            if target is None:
                continue
            if not check_mode:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT setval(%s::regclass, %s, true)", (name, target))
            moved.append(
                {
                    "sequence": name,
                    "live": facts["last_value"],
                    "before": existing[name]["last_value"],
                    "after": target,
                }
            )
    return {"changed": bool(moved), "sequences": moved, "missing": missing}


def ahead_of(live: Mapping[str, Any], side: Mapping[str, Any], *, margin: int) -> int | None:
    """Return the value that the sequence ``side`` should have, or None when it has passed it already.

    It stays within the bounds of the sequence; one that counts down is moved down.
    """
    step = int(side["increment"])
    target = int(live["last_value"]) + margin * step
    target = min(target, int(side["maximum"])) if step > 0 else max(target, int(side["minimum"]))
    target = max(target, int(side["minimum"])) if step > 0 else min(target, int(side["maximum"]))
    passed = int(side["last_value"]) >= target if step > 0 else int(side["last_value"]) <= target
    return None if passed else target


def _sequences_of(connection: Connection, tables: Sequence[int]) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(SEQUENCES_OF_TABLES, (list(tables),))
        return {row[0] for row in cursor.fetchall()}


def catch_up(*, retired: Connection, serving: Connection, tables: Sequence[str]) -> list[dict[str, Any]]:
    """Advance the sequences of ``tables`` that are behind those of the retired database, and return which."""
    known = read_tables(retired)
    names = _sequences_of(retired, [known[name].oid for name in tables])
    mine, theirs = read_sequences(retired), read_sequences(serving)
    moved = []
    for name in sorted(names & set(mine) & set(theirs)):
        target = ahead_of(mine[name], theirs[name], margin=0)
        if target is None:
            continue
        steps = (target - int(theirs[name]["last_value"])) // int(theirs[name]["increment"]) + 1
        with serving.cursor() as cursor:
            if steps <= MAX_STEPS:
                cursor.execute(
                    "SELECT pg_catalog.max(pg_catalog.nextval(%s::pg_catalog.regclass))"
                    " FROM pg_catalog.generate_series(1, %s)",
                    (name, steps),
                )
            else:
                cursor.execute("SELECT pg_catalog.setval(%s::pg_catalog.regclass, %s, true)", (name, target))
            after = int(only_row(cursor)[0])
        moved.append({"sequence": name, "before": theirs[name]["last_value"], "after": after})
    return moved
