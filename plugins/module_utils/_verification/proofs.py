# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether tables hold exactly what they hold elsewhere: their fingerprints, and those in an archive's manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.table_proof import (
    ALGORITHM,
    PINNED_SETTINGS,
    TableProof,
    read_relation,
    read_relations,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.expectation import rows_text

RESOLVE = """
SELECT wanted, to_regclass(wanted)::oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  FROM unnest(%(tables)s::text[]) AS wanted
  LEFT JOIN pg_class c ON c.oid = to_regclass(wanted)
  LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
"""

# Every table with rows of its own below those that were named: they, their partitions, their inheritance children.
MEMBERS = """
WITH RECURSIVE member (oid) AS (
    SELECT unnest(%(roots)s::oid[])
    UNION
    SELECT i.inhrelid FROM pg_inherits i JOIN member m ON i.inhparent = m.oid
)
SELECT oid FROM member
"""


@dataclass(frozen=True)
class Proven:
    """The fingerprints of tables and of their partitions, by names quoted as in SQL.

    ``roots`` are the quoted names of those that were asked for, ``missing`` those that do not exist.
    """

    tables: Mapping[str, TableProof]
    roots: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What an archive says of tables: their fingerprints, and of which tables they are partitions or children."""

    name: str
    tables: Mapping[str, TableProof]
    parents: Mapping[str, Sequence[str]]

    def proven(self, roots: Sequence[str]) -> Proven:
        """Return the fingerprints of ``roots`` and of what is below them."""

        def below(name: str) -> bool:
            return name in roots or any(below(parent) for parent in self.parents.get(name, ()))

        return Proven({name: proof for name, proof in self.tables.items() if below(name)})


def read_manifest(path: str) -> Manifest:
    """Return the fingerprints of tables in an archive or its manifest; raises `HoldfastError`."""
    file_path = os.path.join(path, "manifest.json") if os.path.isdir(path) else path
    try:
        with open(file_path, encoding="utf-8") as file:
            values = json.load(file)
        fingerprint = values["fingerprint"]
        algorithm = fingerprint["algorithm"]
        tables = {
            str(name): TableProof(rows=int(proof["rows"]), hash=str(proof["hash"]))
            for name, proof in fingerprint["tables"].items()
        }
        parents = {
            str(name)[len("table ") :]: list(facts.get("parents") or ())
            for name, facts in fingerprint["objects"].items()
            if str(name).startswith("table ")
        }
    except OSError as exc:
        raise HoldfastError(
            code="archive_not_found",
            msg="Cannot read the manifest %s: %s" % (file_path, exc.strerror),
            hint="Give an archive's directory, or its manifest.json, on the host that runs the checks.",
        ) from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise HoldfastError(
            code="archive_corrupt",
            msg="%s is no manifest of an archive: %s: %s" % (file_path, type(exc).__name__, exc),
            hint="Give an archive's directory; pg_backup_info lists and verifies archives.",
        ) from exc
    if algorithm != ALGORITHM:
        raise HoldfastError(
            code="unsupported",
            msg="The fingerprints in %s are of the algorithm %r; this release has %s."
            % (file_path, algorithm, ALGORITHM),
            hint="Use the release that wrote the archive, or a newer one.",
        )
    return Manifest(os.path.basename(os.path.dirname(os.path.abspath(file_path))), tables, parents)


def prove_tables(cursor: Any, tables: Sequence[str]) -> Proven:
    """Return the fingerprints of ``tables`` and of their partitions in the open transaction.

    Raises `HoldfastError` for one that cannot be read whole.
    """
    for name, value in PINNED_SETTINGS.items():
        if not name.endswith("_timeout"):  # the time limit of the check stays
            cursor.execute("SELECT pg_catalog.set_config(%s, %s, true)", (name, value))
    cursor.execute(RESOLVE, {"tables": list(tables)})
    found = cursor.fetchall()
    cursor.execute(MEMBERS, {"roots": [oid for _wanted, oid, _name in found if oid is not None]})
    members = {row[0] for row in cursor.fetchall()}
    connection = cursor.connection
    relations = read_relations(connection, only=members)
    return Proven(
        tables={r.name: read_relation(connection, r) for r in relations if r.kind == "r"},
        roots=tuple(name for _wanted, oid, name in found if oid is not None),
        missing=tuple(wanted for wanted, oid, _name in found if oid is None),
    )


def compare_proofs(here: Proven, there: Proven, *, reference: str) -> list[tuple[str, str]]:
    """Return each table that differs, with what is different; one that is not here at all does."""
    differences = [(name, "does not exist") for name in here.missing]
    for name in sorted({*here.tables, *there.tables}):
        mine, other = here.tables.get(name), there.tables.get(name)
        if mine == other:
            continue
        if mine is None or other is None:
            difference = "is only %s" % ("here" if other is None else "in %s" % reference)
        elif mine.rows != other.rows:
            difference = "%s, %d in %s" % (rows_text(mine.rows), other.rows, reference)
        else:
            difference = "other values in as many rows as in %s" % reference
        differences.append((name, difference))
    return differences
