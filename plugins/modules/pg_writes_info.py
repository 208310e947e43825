#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell what an undo left behind in the retired database, and keep it in files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_writes_info
short_description: Tell exactly what an undo left behind, and keep it in files
version_added: 0.1.0
description:
  - Compares a database that an undo retired with the one that serves in its place and says, for each table, which rows
    only the retired one has, which differ, and which only the rollback point had. With O(path) it writes these rows to
    CSV files.
  - What clients write to the serving database after the exchange of the names is told apart from what the rollback
    point held, so it runs while they work, at any time after the undo. It takes no lock that a client would notice, but
    for statements that alter tables, which wait until their table was compared.
  - Rows are told apart over the columns that the table has in both databases, by its primary key or by another unique
    key without nulls; rows of tables without one are counted.
  - Changes neither database. Supports check mode, in which no file is written; V(changed) says whether one would be.
options:
  database:
    description:
      - The database that serves.
    type: str
    required: true
  retired:
    description:
      - The database that served before the undo. Nobody should write to it any more.
    type: str
    required: true
  since:
    description:
      - The reading of RV(holdfast.postgres.pg_database_info#module:databases[].write_counters) of the retired database
        from before its rollback point was taken. With it, tables that did not change are not read, and of the others
        only rows that were written since are compared.
      - Without it, all contents of both databases are read, and a row that a client deleted since the exchange of the
        names cannot be told from one that only the retired database ever had; see RV(tables[].uncertain).
      - It must come from that very database (its OID), not from an ancestor of it.
    type: dict
  migrated:
    description:
      - Such a reading from the end of the migration. A table that the migration created and that nobody has written to
        since is then told (RV(tables[].by_migration)), and becomes a file only when it is small.
    type: dict
  snapshot:
    description:
      - A snapshot of the serving database that was exported (C(pg_export_snapshot())) when the names were exchanged and
        before clients came in. With it, nothing that clients did since can be in the way of an exact answer.
    type: str
  tables:
    description:
      - Compare only these, such as V(public.payment). Empty means all.
    type: list
    elements: str
    default: []
  path:
    description:
      - Directory for the files, on the host that runs the module. Without it, nothing is written.
      - Directory and files are for their owner only. A file is there whole or not at all; C(manifest.json) has the
        number of rows, the size and the SHA-256 of each.
    type: path
  timeout_s:
    description:
      - Seconds for comparing and writing. Tables that were not compared by then are listed as not known, tables that
        were not written by then make the module fail.
    type: int
    default: 60
extends_documentation_fragment:
  - holdfast.postgres.connection
seealso:
  - module: holdfast.postgres.pg_carry_forward
  - module: holdfast.postgres.pg_swap
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Keep what was written since the rollback point
  holdfast.postgres.pg_writes_info:
    database: rently_lending
    retired: rently_lending_retired_20261120T221500Z-7f3a
    path: /var/lib/holdfast/reports/20261120T221500Z-7f3a/writes
  register: left

- name: Show what was left behind
  ansible.builtin.debug:
    msg: "{{ left.total.inserted }} rows inserted, {{ left.total.updated }} changed, {{ left.total.deleted }} deleted"
"""

RETURN = r"""
database:
  description: The database that serves.
  returned: success
  type: str
retired:
  description: The database that was compared with it.
  returned: success
  type: str
known:
  description: Whether every count is known.
  returned: success
  type: bool
exact:
  description:
    - Whether nobody can have changed or deleted a row of the serving database between the exchange of the names and the
      comparison. Where that is false, a row that was changed in the retired database and deleted in the other one since
      is counted as inserted, and rows that clients have changed are left out of RV(tables[].deleted).
  returned: success
  type: bool
tables:
  description: The tables that have something to say; those that did not change are left out.
  returned: success
  type: list
  elements: dict
  contains:
    table:
      description: The table, quoted as in SQL.
      type: str
    found_in:
      description: V(both), V(retired) (the migration created it) or V(serving) (it dropped or renamed it).
      type: str
    key:
      description: The columns that rows were told apart by; null where the table has no key.
      type: list
      elements: str
    inserted:
      description: Rows whose key only the retired database has.
      type: int
    updated:
      description: Rows that both have, with other values.
      type: int
    conflicting:
      description: Rows that differ from what clients have written under their key since the exchange of the names.
      type: int
    deleted:
      description: Rows that only the rollback point had.
      type: int
    known:
      description: Whether all four are known.
      type: bool
    reason:
      description: Why they are not; null otherwise.
      type: str
    by_contents:
      description: Whether all contents had to be compared, because nothing told which rows were written since.
      type: bool
    uncertain:
      description:
        - Whether a row that clients have deleted since the exchange of the names may be counted as inserted. It never
          is where RV(exact) is true, or where no row of the table was updated since the rollback point.
      type: bool
    by_migration:
      description: Whether the migration created the table and nobody has written to it since.
      type: bool
    columns_only_retired:
      description: Columns that only the retired table has. They are in the file, and were not compared.
      type: list
      elements: str
    file:
      description: Name of the file with its rows; the column C(holdfast_change) says what happened to each.
      type: str
    deleted_file:
      description: Name of the file with the keys (or rows, without a key) that only the rollback point had.
      type: str
total:
  description: The sums of what is known, V(inserted), V(updated), V(conflicting) and V(deleted).
  returned: success
  type: dict
unchanged:
  description: Number of tables without a difference.
  returned: success
  type: int
sequences:
  description: Sequences with different values, each with V(sequence), V(retired) and V(serving).
  returned: success
  type: list
  elements: dict
large_objects:
  description: Large objects, V(inserted), V(updated) and V(deleted), with V(known) and V(reason).
  returned: success
  type: dict
directory:
  description: The directory of the files; null when nothing was written.
  returned: success
  type: str
files:
  description:
    - The files, each with V(table), V(kind) (V(rows) or V(deleted)), V(name), V(path), V(rows), V(bytes) and V(sha256).
  returned: success
  type: list
  elements: dict
duration_s:
  description: Seconds that it took.
  returned: success
  type: float
code:
  description: Stable word for the failure. Where files could not be written, everything above is returned, too.
  returned: failure
  type: str
  sample: destination_full
hint:
  description: The next step.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.writes import writes_report
from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "database": {"type": "str", "required": True},
            "retired": {"type": "str", "required": True},
            "since": {"type": "dict"},
            "migrated": {"type": "dict"},
            "snapshot": {"type": "str"},
            "tables": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path"},
            "timeout_s": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params
    with failures_reported(module):
        result = writes_report(
            server=server_from(params),
            database=params["database"],
            retired=params["retired"],
            since=params["since"] or None,
            migrated=params["migrated"] or None,
            snapshot=params["snapshot"] or None,
            tables=params["tables"],
            path=params["path"] or None,
            timeout_s=params["timeout_s"],
            check_mode=module.check_mode,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
