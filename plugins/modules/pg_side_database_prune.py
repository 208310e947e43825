#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drop the side databases that nobody needs any more."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_side_database_prune
short_description: Drop the side databases of a live database that nobody needs any more
version_added: 0.1.0
description:
  - Looks at the databases that deployments and undos have left beside the live one, by their names -
    C(<live>_before_<id>), C(<live>_retired_<id>), C(<live>_restored_<id>) and C(<live>_rehearsal_<id>), also where the
    live name was shortened to fit 63 bytes. Databases with other names are never touched.
  - A side database is dropped when it is older than O(keep_days), is not among the newest O(keep_last) of its kind, and
    no deployment needs it. The newest clone is never dropped, nor the newest of a deployment that the live database
    carries by its own history of migrations, nor that of a run which is recorded as running.
  - The database of a rehearsal is dropped whatever its age, once its run is not recorded as running.
  - Every doubt keeps it, and RV(kept) says why - a ledger that cannot be read, an OID other than the recorded one, an
    unknown age, sessions, prepared transactions, replication slots, subscriptions, missing rights.
  - While nobody is in it and nobody can come, a side database is looked at once more, closed and renamed, in one
    transaction; only then it is dropped. The live database is never touched.
  - What interrupted drops, and killed clones, restores and cleanups have left on the server is removed first.
  - In check mode nothing is dropped; RV(removed) and RV(freed_bytes) say what would be. It needs no O(confirm).
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  database:
    description: The live database, by the name that clients connect to.
    type: str
    required: true
  confirm:
    description: Must be exactly the name in O(database), else nothing is touched.
    type: str
  keep_days:
    description: How many days every side database is kept, by the time in its name and in the ledger.
    type: float
    default: 14
  keep_last:
    description:
      - How many of the newest clones, and of the newest retired databases, are kept whatever their age.
      - One clone is always kept. Restored databases are only kept by age, since their archive can be restored again.
    type: int
    default: 1
  history_table:
    description: The table in which M(holdfast.postgres.pg_migrate) keeps the history of the live database.
    type: str
    default: public.schema_version
  rollback_points:
    description:
      - The rollback points of the ledger, as RV(holdfast.postgres.deployment#module:rollback_points) has them.
      - Without it and O(deployments), the ledger counts as unreadable, and everything that is whole is kept.
    type: list
    elements: dict
  deployments:
    description: All deployments of the ledger, as RV(holdfast.postgres.deployment#module:deployments) has them.
    type: list
    elements: dict
  deployment_id:
    description:
      - Drop only the clone of this deployment, at once, because the deployment failed before it changed anything.
      - It is kept where the history of the live database names the deployment after all.
    type: str
  side_oid:
    description: With O(deployment_id), the OID of that clone. A database of its name with another OID is kept.
    type: int
  rehearsals:
    description:
      - Look only at databases of rehearsals, that of O(deployment_id) or all of them, and drop them at once.
      - One that somebody is connected to is kept.
    type: bool
    default: false
seealso:
  - module: holdfast.postgres.pg_clone
  - module: holdfast.postgres.pg_swap
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: List what the ledger knows
  holdfast.postgres.deployment:
    state: listed
    limit: 10000
  register: ledger

- name: Drop what is older than a month
  holdfast.postgres.pg_side_database_prune:
    database: rently_lending
    confirm: rently_lending
    keep_days: 30
    rollback_points: "{{ ledger.rollback_points }}"
    deployments: "{{ ledger.deployments }}"
"""

RETURN = r"""
database:
  description: The live database.
  returned: success
  type: str
removed:
  description: What was dropped, or would be in check mode, in that order.
  returned: success
  type: list
  elements: dict
  contains: &decision
    name:
      description: The name.
      type: str
    oid:
      description: The OID.
      type: int
    kind:
      description: V(clone), V(retired), V(restored), V(rehearsal), or V(unfinished) for what a killed run has left.
      type: str
    deployment_id:
      description: The id of the run in its name; null for what is unfinished.
      type: str
    made_at:
      description: When it was made, as far as that is known.
      type: str
    bytes:
      description: The size on disk; null when the role may not know it, or the database is invalid.
      type: int
    reason:
      description: Why it goes or stays.
      type: str
kept:
  description: The side databases that stay, the oldest first.
  returned: success
  type: list
  elements: dict
  contains: *decision
freed_bytes:
  description:
    - The size of what was dropped. Files that the file system shares with a clone free less.
  returned: success
  type: int
duration_s:
  description: How long it took.
  returned: success
  type: float
code:
  description:
    - V(confirm_required), V(database_not_found), V(database_invalid), V(server_is_standby) or another stable word.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.interruption import signals_raised
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.prune import prune_side_databases
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.retention import Policy


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "database": {"type": "str", "required": True},
            "confirm": {"type": "str"},
            "keep_days": {"type": "float", "default": 14},
            "keep_last": {"type": "int", "default": 1},
            "history_table": {"type": "str", "default": "public.schema_version"},
            "rollback_points": {"type": "list", "elements": "dict"},
            "deployments": {"type": "list", "elements": "dict"},
            "deployment_id": {"type": "str"},
            "side_oid": {"type": "int"},
            "rehearsals": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    options = module.params
    named = (options["deployment_id"] or None, options["side_oid"])
    with failures_reported(module), signals_raised():
        result = prune_side_databases(
            server=server_from(options),
            live=options["database"],
            policy=Policy(keep_days=options["keep_days"], keep_last=options["keep_last"]),
            history_table=options["history_table"],
            confirm=options["confirm"] or None,
            points=options["rollback_points"],
            runs=options["deployments"],
            needless=(named[0], named[1]) if named[0] and not options["rehearsals"] else None,
            rehearsals=named if options["rehearsals"] else None,
            check_mode=module.check_mode,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
