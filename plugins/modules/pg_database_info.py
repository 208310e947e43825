#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Describe the databases of a server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_database_info
short_description: Describe the databases of a server, and what keeps them from being renamed
version_added: 0.1.0
description:
  - Returns what is kept by a database's OID (owner, privileges, both kinds of settings, comment, limits), its size,
    its sessions, and whatever stands in the way of a new name - sessions, prepared transactions, logical replication
    slots and subscriptions.
  - Nothing is changed, so check mode does the same.
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  databases:
    description:
      - The databases to describe; by default all of them but the templates.
      - A name that no database has does not fail the task; it is returned in RV(missing).
    type: list
    elements: str
  write_counters:
    description:
      - Also count the rows written per table, which takes a connection into each of the databases.
    type: bool
    default: false
  write_counters_of:
    description:
      - Count the rows written in these databases only. They are among those that are described.
    type: list
    elements: str
    default: []
  history_table:
    description:
      - The table in which M(holdfast.postgres.pg_migrate) keeps the history of a database. With it, the deployments
        that the history names are told for each database whose writes are counted.
    type: str
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: See who is connected to the lending database
  holdfast.postgres.pg_database_info:
    databases: [rently_lending]
  register: lending

- name: Refuse a maintenance window while something prevents a swap
  ansible.builtin.assert:
    that: lending.databases[0].rename_blockers | rejectattr('kind', 'equalto', 'session') | length == 0
    fail_msg: "{{ lending.databases[0].rename_blockers | map(attribute='message') | join('; ') }}"
"""

RETURN = r"""
databases:
  description: One entry for each database, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name.
      type: str
    oid:
      description: The OID, which a renamed database keeps.
      type: int
    owner:
      description: The owning role.
      type: str
    encoding:
      description: The encoding.
      type: str
    connection_limit:
      description: The limit of connections; -1 for none, -2 for an invalid database.
      type: int
    allow_connections:
      description: Whether anybody may connect.
      type: bool
    is_template:
      description: Whether it is a template.
      type: bool
    invalid:
      description: Whether an interrupted C(DROP DATABASE) left it; it can then only be dropped.
      type: bool
    size_bytes:
      description: The size on disk; null when the role may not know, or the database is invalid.
      type: int
    properties:
      description:
        - Everything that is kept by the database's OID, and its locale. Null for an invalid database.
        - The values of customized parameters whose names speak of secrets are masked.
      type: dict
    sessions:
      description: Who is connected, as far as the role may know.
      type: list
      elements: dict
      contains:
        pid:
          description: The server process.
          type: int
        database:
          description: The database.
          type: str
        user:
          description: The role, null for background processes.
          type: str
        application_name:
          description: What the client calls itself.
          type: str
        client_addr:
          description: The client's address, null on the Unix socket.
          type: str
        state:
          description: Such as C(active), C(idle) or C(idle in transaction).
          type: str
        backend_type:
          description: Such as C(client backend), C(walsender) or C(autovacuum worker).
          type: str
        transaction_age_s:
          description: Age of the open transaction in seconds.
          type: float
        query_age_s:
          description: Seconds since the last query began.
          type: float
        query:
          description: The first 100 characters of that query.
          type: str
    subscriptions:
      description: Names of the subscriptions in the database.
      type: list
      elements: str
    rename_blockers:
      description: What must leave or be removed before the database can be renamed.
      type: list
      elements: dict
      contains:
        kind:
          description: V(session), V(prepared_transaction), V(logical_slot) or V(subscription).
          type: str
        name:
          description: The pid, the global identifier, the slot or the subscription.
          type: str
        message:
          description: One phrase that names it, whose it is and how old.
          type: str
    write_counters:
      description:
        - Rows written since V(stats_reset), as the server counted them, with V(stats_reset), V(server_started_at) and
          V(tables), each V(schema.table) with V(inserted), V(updated) and V(deleted). Null where nobody can connect.
        - Two readings compare when the first two, V(stats_discarded_at) and the OID are the same. Sessions report
          their last writes with a delay of about a second, and open transactions not at all.
        - With V(snapshot), the transactions that had ended, V(relations), each V(schema.table) with its V(oid) and
          V(filenode), and whether the server is V(counting) at all, an undo can tell what was written since.
      type: dict
      returned: with O(write_counters) or O(write_counters_of)
    write_counters_reason:
      description: Why the writes could not be counted.
      type: str
      returned: when they could not
    deployments:
      description:
        - The deployments whose migrations the database holds, the newest first, each with its V(id) and with
          V(applied_at), when its first migration was complete.
        - Null when there is no history to go by - no such table, an empty one, or one that the role cannot read.
      type: list
      elements: dict
      returned: with O(history_table), where the writes are counted
missing:
  description: The names in O(databases) that no database has.
  returned: success
  type: list
  elements: str
server_version:
  description: The server's version as a number.
  returned: success
  type: int
  sample: 180003
is_standby:
  description: Whether the server is in recovery.
  returned: success
  type: bool
server_started_at:
  description: When the server was started.
  returned: success
  type: str
data_directory:
  description: The server's data directory; null when the role may not know it.
  returned: success
  type: str
data_free_bytes:
  description: Free space on its volume; null when it cannot be measured from here.
  returned: success
  type: int
data_free_reason:
  description: Why it cannot be measured.
  returned: success
  type: str
file_copy_methods:
  description: How the server can copy files; V(clone) shares them on file systems that can.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import databases_info


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "databases": {"type": "list", "elements": "str"},
            "write_counters": {"type": "bool", "default": False},
            "write_counters_of": {"type": "list", "elements": "str", "default": []},
            "history_table": {"type": "str"},
        },
        supports_check_mode=True,
    )
    with failures_reported(module):
        result = databases_info(
            server=server_from(module.params),
            databases=module.params["databases"],
            write_counters=module.params["write_counters"],
            write_counters_of=module.params["write_counters_of"],
            history_table=module.params["history_table"] or None,
        )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
