#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Insert rows that an undo left behind into the database that serves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_carry_forward
short_description: Insert rows that an undo left behind into the database that serves
version_added: 0.1.0
description:
  - Inserts the rows that only the retired database has into the database that serves, parents before children, in one
    transaction, and compares them with the originals before it commits. Rows that the retired database changed or
    deleted are not carried; they are counted by M(holdfast.postgres.pg_writes_info).
  - No constraint is switched off. A row that the serving database refuses is listed with its key and the reason, and
    stays in the retired database; a row whose parent was refused is refused by its foreign key.
  - The triggers of the serving database fire, as for any other client. A row that a trigger would change or keep out is
    refused, because it would not be equal to the original.
  - Only the columns that both tables have are carried. Keys are kept, also those of identity columns; what the
    serving database computes by itself it computes anew.
  - Running it again inserts nothing twice, because rows that are there already do not differ.
  - Changes nothing in the retired database. Supports check mode, in which everything is done and rolled back, so that
    it tells exactly which rows would be refused.
options:
  state:
    description:
      - V(carried) carries rows after an undo.
      - V(reserved) is for the moment before an undo. It moves the sequences of O(tables) in O(side), the database that
        is about to serve, ahead of those of O(database), so that clients do not get keys that rows to be carried have.
    type: str
    choices: [carried, reserved]
    default: carried
  database:
    description:
      - The database that serves.
    type: str
    required: true
  retired:
    description:
      - The database that served before the undo; for O(state=carried).
    type: str
  side:
    description:
      - The database that is about to serve; for O(state=reserved).
    type: str
  tables:
    description:
      - The tables to carry, such as V(public.payment); a partitioned table stands for its partitions. V(all) means
        every table that both databases have.
      - What a migration itself has inserted into these tables is carried, too.
    type: list
    elements: str
    required: true
  exclude:
    description:
      - Tables that are never carried, such as the history of the migrations.
    type: list
    elements: str
    default: [public.schema_version]
  since:
    description:
      - As for M(holdfast.postgres.pg_writes_info). Without it, and without O(snapshot), tables whose rows clients may
        have deleted since the exchange of the names are refused.
    type: dict
  snapshot:
    description:
      - As for M(holdfast.postgres.pg_writes_info).
    type: str
  path:
    description:
      - Directory for C(rejected.csv), the list of all rows that could not be carried.
    type: path
  margin:
    description:
      - By how many values sequences are moved ahead, for the keys that are given out until clients are paused.
    type: int
    default: 10000
  timeout_s:
    description:
      - Seconds for all of it. When they are over, nothing was carried.
    type: int
    default: 600
extends_documentation_fragment:
  - holdfast.postgres.connection
seealso:
  - module: holdfast.postgres.pg_writes_info
  - module: holdfast.postgres.pg_swap
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Bring the payments back that were made since the deployment
  holdfast.postgres.pg_carry_forward:
    database: rently_lending
    retired: rently_lending_retired_20261120T221500Z-7f3a
    tables: [public.payment, public.payment_allocation]
    path: /var/lib/holdfast/reports/20261120T221500Z-7f3a/writes
  register: carried

- name: Show what could not be carried
  ansible.builtin.debug:
    msg: "{{ carried.rejected }}"
  when: carried.rejected_total > 0
"""

RETURN = r"""
rows:
  description: Number of rows that were carried.
  returned: with O(state=carried)
  type: int
verified:
  description: Whether all of them are equal to the originals, in number and by hash, over the columns that both have.
  returned: with O(state=carried)
  type: bool
carried:
  description: The tables with rows to carry.
  returned: with O(state=carried)
  type: list
  elements: dict
  contains:
    table:
      description: The table, quoted as in SQL.
      type: str
    rows:
      description: Number of rows that were carried.
      type: int
    rejected:
      description: Number of rows that were refused.
      type: int
    columns_left:
      description:
        - For each column that only the retired table has, how many of its rows have another value than the default.
      type: dict
    columns_defaulted:
      description: Columns that only the serving table has; the rows have their defaults there.
      type: list
      elements: str
rejected:
  description: The rows that were refused, at most 1000 of them.
  returned: with O(state=carried)
  type: list
  elements: dict
  contains:
    table:
      description: The table, quoted as in SQL.
      type: str
    key:
      description: The key of the row, or its place (V(ctid)) in the retired table when it has no key.
      type: dict
    reason:
      description: Why it was refused.
      type: str
    sqlstate:
      description: The server's code for it; null when it was not the server that refused.
      type: str
    constraint:
      description: The constraint that it breaks, if any.
      type: str
    detail:
      description: What else the server said, unless that would be the whole row.
      type: str
rejected_total:
  description: Number of rows that were refused.
  returned: with O(state=carried)
  type: int
rejected_file:
  description: The file that lists all of them; null without O(path).
  returned: with O(state=carried)
  type: str
refused:
  description: Tables of which no row was carried, each with V(table), V(rows) (null when not known) and V(reason).
  returned: with O(state=carried)
  type: list
  elements: dict
sequences:
  description: Sequences that were moved ahead, each with V(sequence), V(before) and V(after).
  returned: success
  type: list
  elements: dict
missing:
  description: Names in O(tables) that no table of the live database has.
  returned: with O(state=reserved)
  type: list
  elements: str
duration_s:
  description: Seconds that it took.
  returned: with O(state=carried)
  type: float
code:
  description: Stable word for the failure.
  returned: failure
  type: str
  sample: option_invalid
hint:
  description: The next step.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.carry import carry_forward
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.sequences import reserve_sequences
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
            "state": {"type": "str", "choices": ["carried", "reserved"], "default": "carried"},
            "database": {"type": "str", "required": True},
            "retired": {"type": "str"},
            "side": {"type": "str"},
            "tables": {"type": "list", "elements": "str", "required": True},
            "exclude": {"type": "list", "elements": "str", "default": ["public.schema_version"]},
            "since": {"type": "dict"},
            "snapshot": {"type": "str"},
            "path": {"type": "path"},
            "margin": {"type": "int", "default": 10000},
            "timeout_s": {"type": "int", "default": 600},
        },
        required_if=[("state", "carried", ["retired"]), ("state", "reserved", ["side"])],
        supports_check_mode=True,
    )
    params = module.params
    with failures_reported(module):
        if params["state"] == "reserved":
            result = reserve_sequences(
                server=server_from(params),
                database=params["database"],
                side=params["side"],
                tables=params["tables"],
                margin=params["margin"],
                check_mode=module.check_mode,
            )
        else:
            result = carry_forward(
                server=server_from(params),
                database=params["database"],
                retired=params["retired"],
                tables=params["tables"],
                exclude=params["exclude"],
                since=params["since"] or None,
                snapshot=params["snapshot"] or None,
                path=params["path"] or None,
                timeout_s=params["timeout_s"],
                check_mode=module.check_mode,
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
