#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell what was written to tables and columns that are about to be dropped, and keep it in files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_new_data_info
short_description: Tell what was written to tables and columns that are about to be dropped, and keep it in files
version_added: 0.1.0
description:
  - An undo by steps down drops the tables and columns that a deployment has brought. This module counts the rows in
    them that were written since, and writes those of what O(discard) names to files.
  - In a column, only values other than its default count.
  - Files are written when O(discard) names everything that holds such rows, and are complete or not there. They are for
    their owner only.
  - Nothing in the database is changed. In check mode, nothing is written either.
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  database:
    description: The database.
    type: str
    required: true
  tables:
    description:
      - Tables, with their schemas and quoted as in SQL where they need it. One that is not there holds nothing.
    type: list
    elements: str
    default: []
  columns:
    description: For each table, a list of columns, written likewise.
    type: dict
    default: {}
  since:
    description:
      - A snapshot as C(pg_current_snapshot()) tells it. Only rows that were written later count.
      - Rows of transactions that ran at that moment may count as well. Without it, all rows do.
    type: str
  discard:
    description:
      - Names among O(tables), or of O(columns) as in V(loan.rate), whose rows may be dropped.
      - The schema C(public) and double quotes may be left out.
    type: list
    elements: str
    default: []
  path:
    description: Directory for the files, made when it is needed.
    type: path
  timeout_s:
    description: The longest time of a query in seconds.
    type: float
    default: 600
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Keep the new events, so that their table can be dropped
  holdfast.postgres.pg_new_data_info:
    database: rently_lending
    tables: [public.collections_event]
    columns:
      public.loan: [status_code]
    discard: [collections_event, loan.status_code]
    path: /var/lib/holdfast/kept
"""

RETURN = r"""
held:
  description: What holds rows that count, with their number.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the table, or of the table and the column.
      type: str
    table:
      description: The table.
      type: str
    column:
      description: The column; null for a table.
      type: str
    rows:
      description: The number of rows.
      type: int
refused:
  description: The names in RV(held) that O(discard) lacks.
  returned: success
  type: list
  elements: str
versions:
  description:
    - For each table that is there a text that is another one as soon as somebody writes to it, for
      O(holdfast.postgres.pg_migrate#module:row_versions).
  returned: success
  type: dict
files:
  description: The files that were written, with C(name), C(path), C(rows), C(bytes) and C(sha256).
  returned: success
  type: list
  elements: dict
directory:
  description: The directory of the files; null when there are none.
  returned: success
  type: str
code:
  description: Stable word for the failure.
  returned: failure
  type: str
  sample: destination_unwritable
hint:
  description: The next step.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.new_data import new_data_report
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
            "tables": {"type": "list", "elements": "str", "default": []},
            "columns": {"type": "dict", "default": {}},
            "since": {"type": "str"},
            "discard": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path"},
            "timeout_s": {"type": "float", "default": 600},
        },
        supports_check_mode=True,
    )
    params = module.params
    with failures_reported(module):
        result = new_data_report(
            server=server_from(params),
            database=params["database"],
            tables=params["tables"],
            columns=params["columns"],
            since=params["since"] or None,
            discard=params["discard"],
            path=params["path"] or None,
            timeout_s=params["timeout_s"],
            check_mode=module.check_mode,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
