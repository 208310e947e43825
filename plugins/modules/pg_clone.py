#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy a database on its server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_clone
short_description: Copy a database beside itself, with its properties
version_added: 0.1.0
description:
  - Copies a database on the same server with C(CREATE DATABASE ... TEMPLATE), and carries over what that leaves
    behind - owner, privileges, settings of the database and of roles in it, comment, connection limit, security labels.
  - The copy gets its name last, in the same transaction as its properties. So a database under that name is complete,
    and nothing is overwritten; running the task again is refused with V(target_exists).
  - A copy needs a moment without sessions in the source. The task waits for it without disturbing anybody, at most
    O(drain_timeout) seconds. While the server copies, new connections to the source wait.
  - Where PgBouncer holds sessions open, O(poolers) are paused while the server copies. Their clients wait and notice
    nothing else. How long that should take is measured before (RV(expected_s)), and refused above O(max_pause). A
    process of its own resumes them when O(max_pause) is over or this one is killed.
  - What a killed run left is removed by the next run of this module on the server.
  - In check mode nothing is changed. What circumstances forbid is then told by RV(possible) and RV(reason) instead of
    a failure; only wrong names and a standby fail the task.
extends_documentation_fragment:
  - holdfast.postgres.connection
  - holdfast.postgres.poolers
options:
  database:
    description: The database to copy.
    type: str
    required: true
  target:
    description: The name of the copy. It must not exist.
    type: str
    required: true
  strategy:
    description:
      - How the server copies.
      - V(wal_log) writes the copy through the WAL and V(file_copy) copies files between two checkpoints (PostgreSQL 15
        and newer; before, every copy is of files).
      - V(clone) lets the system copy or share files (PostgreSQL 18 and newer), which takes a moment on XFS and Btrfs.
        Where the file system refuses it, files are copied and RV(notices) says so.
      - V(auto) takes V(wal_log) below 64 MiB, else V(clone) where the server can, else V(file_copy).
    type: str
    choices: [auto, wal_log, file_copy, clone]
    default: auto
  drain_timeout:
    description:
      - How many seconds to wait for the sessions in the source to leave. They are never terminated.
      - New connections are not held up longer than this before the copying begins.
    type: float
    default: 5
  max_pause:
    description:
      - The most seconds for which the clients of O(poolers) may wait. A copy that should take longer is refused before
        anybody waits, and one that does is ended.
      - A pooler's C(query_wait_timeout) lowers it to four fifths of that.
    type: float
    default: 15
  earlier:
    description:
      - Earlier copies of this database, newest first, each with C(strategy), C(bytes) and C(copy_s) as this module
        returned them. The slowest of the last five by the same strategy tells how long this copy should take.
      - Without them the volume is written to for a moment, where the task runs on the server's host and may; otherwise
        50 MB a second are assumed.
    type: list
    elements: dict
    default: []
  min_free_bytes:
    description:
      - How much must stay free on the volume of the copy; with it, a volume that cannot be measured is refused.
      - Without it the copy must still fit, where free space can be measured. Room for a full copy counts for every
        strategy.
    type: int
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Keep a copy before the release
  holdfast.postgres.pg_clone:
    database: rently_lending
    target: rently_lending_before_2_0

- name: Keep a copy although PgBouncer is always connected
  holdfast.postgres.pg_clone:
    database: rently_lending
    target: rently_lending_before_2_0
    poolers:
      - host: pooler1.example.org
        user: deployer
    max_pause: 5

- name: Ask whether a copy is possible right now
  holdfast.postgres.pg_clone:
    database: rently_lending
    target: rently_lending_before_2_0
  check_mode: true
  register: prediction
"""

RETURN = r"""
database:
  description: The source.
  returned: success
  type: str
source_oid:
  description: OID of the source.
  returned: success
  type: int
target:
  description: The copy.
  returned: success
  type: str
target_oid:
  description: OID of the copy, by which M(holdfast.postgres.pg_swap) recognises it.
  returned: success, not in check mode
  type: int
strategy:
  description: How it was copied - V(wal_log), V(file_copy) or V(clone).
  returned: success
  type: str
bytes:
  description: Size of the copy, in check mode of the source.
  returned: success
  type: int
free_bytes:
  description: Free space on the volume before the copy; null when it cannot be measured from here.
  returned: success
  type: int
free_reason:
  description: Why free space cannot be measured.
  returned: success
  type: str
expected_s:
  description:
    - For how many seconds the server should copy, and new connections or the clients of O(poolers) wait.
    - It is measured with O(poolers) and in check mode, as RV(expected_from) says.
  returned: success
  type: float
expected_from:
  description:
    - How that is known - V(earlier) copies, files that can be V(shared), a V(probe) of the volume, or V(default).
  returned: success
  type: str
bytes_per_s:
  description: The speed behind it.
  returned: success
  type: int
copy_s:
  description: For how many seconds the server did copy; null in check mode.
  returned: success
  type: float
pause_s:
  description: The longest time in seconds for which the clients of a pooler waited; null when none did.
  returned: success
  type: float
poolers:
  description: What each pooler did, as in RV(holdfast.postgres.pg_swap#module:poolers).
  returned: success
  type: list
  elements: dict
possible:
  description: Whether the copy is possible; V(false) only in check mode.
  returned: success
  type: bool
reason:
  description: What forbids it.
  returned: success
  type: str
blocking_sessions:
  description:
    - The sessions in the source that did not leave, as in
      RV(holdfast.postgres.pg_database_info#module:databases[].sessions).
  returned: success
  type: list
  elements: dict
carried_over:
  description: The statements that gave the copy its properties; secrets are masked.
  returned: success, not in check mode
  type: list
  elements: str
removed:
  description: Unfinished copies of killed runs that were dropped.
  returned: success
  type: list
  elements: str
notices:
  description: What went differently than asked, such as a file system that cannot clone.
  returned: success
  type: list
  elements: str
duration_s:
  description: How long it all took.
  returned: success
  type: float
code:
  description:
    - V(target_exists), V(database_in_use) with RV(ignore:sessions) or RV(ignore:blockers), V(destination_full),
      V(pause_too_long), V(pause_refused) with RV(ignore:refusals), V(timeout), V(connection_failed),
      V(database_not_found), V(database_invalid), V(permission_denied), V(unsupported) or another stable word.
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
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.clone import STRATEGIES, clone_database
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pause_length import Pause
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler_options import (
    poolers_argument_spec,
    poolers_from,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            **poolers_argument_spec(),
            "database": {"type": "str", "required": True},
            "target": {"type": "str", "required": True},
            "strategy": {"type": "str", "choices": list(STRATEGIES), "default": "auto"},
            "drain_timeout": {"type": "float", "default": 5},
            "min_free_bytes": {"type": "int"},
            "max_pause": {"type": "float", "default": 15},
            "earlier": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    with failures_reported(module), signals_raised():
        result = clone_database(
            server=server_from(module.params),
            source=module.params["database"],
            target=module.params["target"],
            strategy=module.params["strategy"],
            drain_timeout_s=module.params["drain_timeout"],
            min_free_bytes=module.params["min_free_bytes"],
            pause=Pause(poolers=poolers_from(module.params), max_pause_s=module.params["max_pause"]),
            earlier=module.params["earlier"],
            check_mode=module.check_mode,
        )
    for pooler in result["poolers"]:
        if pooler["error"]:
            module.warn("Pooler %(name)s at %(console)s could not be resumed: %(error)s" % pooler)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
