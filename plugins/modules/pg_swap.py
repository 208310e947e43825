#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a side database the live one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_swap
short_description: Make a side database the live one by exchanging names
version_added: 0.1.0
description:
  - Renames the live database to a retired one and a side database to the live one, in one transaction. Nothing is
    copied or dropped, so it takes milliseconds at any size, and a crash leaves the old pair of names or the new one.
  - Everything is examined before anything is touched. Then the clients of O(poolers) are made to wait, new connections
    to both databases are refused, sessions get O(drain_timeout) seconds to leave, the names are exchanged, and
    everybody goes on. Clients of poolers notice nothing but the wait. On any error nothing is renamed and everybody
    goes on as before.
  - While anybody waits, a process of its own is on guard. When the task is killed or stopped, it ends the task's
    session on the server, allows connections and resumes the poolers, at the latest when O(max_pause) is over.
  - A run that was killed together with that process is recognised by the next one with the same options, which undoes
    what it left and goes on, or finds that it was done already; RV(resumed) says which.
  - Rolling a swap back is another swap, with the retired database as O(replacement).
  - In check mode everything is examined and nothing is changed, nor is anybody kept out.
extends_documentation_fragment:
  - holdfast.postgres.connection
  - holdfast.postgres.poolers
options:
  database:
    description: The live database, by the name that clients connect to.
    type: str
    required: true
  replacement:
    description: The side database that becomes live.
    type: str
    required: true
  replacement_oid:
    description:
      - The OID that the replacement was recorded with. A database of that name with another OID is refused.
      - With it, a swap that has happened already is recognised for certain.
    type: int
  expected:
    description:
      - What the replacement's own history of migrations must say, so that a side database that somebody has migrated
        since it was recorded does not become live. Otherwise the swap is refused with V(swap_blocked) and names both.
      - It is read before anybody waits, on a connection to the replacement. What is left out or empty is not asked.
      - The rows are not compared. Where that is worth its time, compare fingerprints with
        M(holdfast.postgres.pg_fingerprint_info) before.
    type: dict
    default: {}
    suboptions:
      schema_version:
        description: The version of the migration that was completed last.
        type: str
        default: ""
      without_deployment:
        description: The id of a deployment none of whose migrations may be in it, such as the one that is undone.
        type: str
        default: ""
      history_table:
        description: The table with the history, qualified and quoted as in SQL.
        type: str
        default: public.schema_version
  confirm:
    description: Must be exactly the name in O(database), else nothing is touched.
    type: str
  retired_name:
    description:
      - The new name of the live database, at most 63 bytes.
      - By default the live name, shortened where needed, with C(_retired_) and the time in UTC.
      - With it, running the same task again after success changes nothing.
    type: str
  drain_timeout:
    description: How many seconds sessions in either database have to leave by themselves.
    type: float
    default: 5
  terminate:
    description: Whether to terminate the sessions that have not left by then.
    type: bool
    default: false
  max_pause:
    description:
      - The most seconds that clients may be kept waiting or refused, whatever happens. When they are over before the
        names are exchanged, nothing is renamed.
      - Where a pooler turns waiting clients away sooner (C(query_wait_timeout)), four fifths of that time count.
    type: float
    default: 15
  pause_timeout:
    description:
      - How many seconds clients of O(poolers) may wait in one attempt to pause them. C(PAUSE) waits for transactions,
        and everybody else waits meanwhile.
    type: float
    default: 2
  pause_attempts:
    description:
      - How many attempts to pause there are, within O(max_pause). When a transaction does not end, all poolers are
        resumed for a moment before the next one. In the end the task is refused, and names the client.
    type: int
    default: 3
  keep_direct_clients_out:
    description:
      - Whether to refuse new connections while sessions drain. Without it, clients that connect all the time can make
        the swap fail, but nobody notices a swap that fails.
    type: bool
    default: true
  carry_over:
    description:
      - Whether the replacement takes over what is kept by OID as the live database has it - owner, privileges, settings
        of the database and of roles in it, comment, connection limit and security labels.
    type: bool
    default: true
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Undo the release without failing a client of the two poolers
  holdfast.postgres.pg_swap:
    database: rently_lending
    replacement: rently_lending_before_2_0
    confirm: rently_lending
    poolers:
      - {name: one, host: pooler1.example.org, user: deployer, ssl_mode: verify-full, ca_cert: /etc/ssl/ca.crt}
      - {name: two, host: pooler2.example.org, user: deployer, ssl_mode: verify-full, ca_cert: /etc/ssl/ca.crt}

- name: Let the copy from before the release serve again
  holdfast.postgres.pg_swap:
    database: rently_lending
    replacement: rently_lending_before_2_0
    retired_name: rently_lending_failed_2_0
    confirm: rently_lending
    terminate: true

- name: Change one's mind
  holdfast.postgres.pg_swap:
    database: rently_lending
    replacement: rently_lending_failed_2_0
    retired_name: rently_lending_before_2_0
    confirm: rently_lending
    terminate: true
"""

RETURN = r"""
live:
  description: The name of the live database.
  returned: success
  type: str
live_oid:
  description: OID of the database that is live now.
  returned: success
  type: int
retired:
  description: The name of the former live database; null when an earlier run chose it and it cannot be told.
  returned: success
  type: str
retired_oid:
  description: OID of the former live database.
  returned: success
  type: int
stall_ms:
  description:
    - The longest time in milliseconds for which clients waited, as RV(stall_source) has it. Null when nothing was
      exchanged.
  returned: success
  type: float
stall_source:
  description:
    - V(clients) when it is the longest wait of all clients by the pooler's own account, until they had a server again;
      V(probe) when a client of this task's own waited longer; V(console) when neither can tell, from C(PAUSE) to the
      answer to C(RESUME); V(server) without poolers, from the moment that connections were refused until the names
      were exchanged.
  returned: success
  type: str
poolers:
  description: What each pooler did, in the order of O(poolers).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: What it is called.
      type: str
    console:
      description: Where its console is.
      type: str
    databases:
      description: The names that were paused.
      type: list
      elements: str
    attempts:
      description: How many attempts to pause it took.
      type: int
    clients_waiting:
      description: How many clients waited at the end of the pause.
      type: int
    paused_at:
      description:
        - When C(PAUSE) was sent, in the last attempt, by the clock of the host that runs the task. With it, the stall
          can be found in the logs of clients.
      type: str
    stall_ms:
      description: The longest time that one of them waited, in milliseconds.
      type: float
    stall_source:
      description: V(clients), V(probe) or V(console), as in RV(stall_source).
      type: str
    error:
      description: Why it could not be resumed; null when it was.
      type: str
    probe_error:
      description: What went wrong with the probe; null when nothing did.
      type: str
terminated:
  description:
    - The sessions that were terminated, as in RV(holdfast.postgres.pg_database_info#module:databases[].sessions).
  returned: success
  type: list
  elements: dict
sessions:
  description: In check mode, the sessions that would have to leave.
  returned: success
  type: list
  elements: dict
carried_over:
  description: The statements that made the replacement's properties those of the live database; secrets are masked.
  returned: success
  type: list
  elements: str
resumed:
  description:
    - V(undone) when an interrupted run had left databases closed or poolers paused, and they were opened and resumed
      before this one began; V(already_swapped) when there was nothing else to do; else null.
  returned: success
  type: str
resumed_poolers:
  description: The poolers that were found paused, and were resumed.
  returned: success
  type: list
  elements: str
duration_s:
  description: How long it all took.
  returned: success
  type: float
code:
  description:
    - V(confirm_required), V(swap_blocked) with RV(ignore:blockers), V(database_in_use) with RV(ignore:sessions),
      V(pause_refused) with RV(ignore:refusals) as in M(holdfast.postgres.pgbouncer), V(connection_failed), V(timeout),
      V(target_exists), V(database_not_found), V(database_invalid), V(permission_denied),
      V(operation_running) or another stable word.
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
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.identity import Expected
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import Poolers
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler_options import (
    poolers_argument_spec,
    poolers_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.swap import SwapRequest, swap_databases


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            **poolers_argument_spec(),
            "database": {"type": "str", "required": True},
            "replacement": {"type": "str", "required": True},
            "replacement_oid": {"type": "int"},
            "expected": {
                "type": "dict",
                "default": {},
                "options": {
                    "schema_version": {"type": "str", "default": ""},
                    "without_deployment": {"type": "str", "default": ""},
                    "history_table": {"type": "str", "default": "public.schema_version"},
                },
            },
            "confirm": {"type": "str"},
            "retired_name": {"type": "str"},
            "drain_timeout": {"type": "float", "default": 5},
            "terminate": {"type": "bool", "default": False},
            "max_pause": {"type": "float", "default": 15},
            "pause_timeout": {"type": "float", "default": 2},
            "pause_attempts": {"type": "int", "default": 3},
            "keep_direct_clients_out": {"type": "bool", "default": True},
            "carry_over": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    options = module.params
    request = SwapRequest(
        live=options["database"],
        replacement=options["replacement"],
        replacement_oid=options["replacement_oid"],
        expected=Expected(**{name: value for name, value in options["expected"].items() if value}),
        confirm=options["confirm"],
        retired_name=options["retired_name"] or None,
        drain_timeout_s=options["drain_timeout"],
        terminate=options["terminate"],
        max_pause_s=options["max_pause"],
        keep_direct_clients_out=options["keep_direct_clients_out"],
        carry_over=options["carry_over"],
    )
    with failures_reported(module), signals_raised():
        poolers = Poolers(
            poolers_from(options),
            database=request.live,
            attempts=options["pause_attempts"],
            attempt_timeout_s=options["pause_timeout"],
        )
        result = swap_databases(
            server=server_from(options),
            request=request,
            check_mode=module.check_mode,
            poolers=poolers if poolers.addresses else None,
            guarded=True,
        )
    for pooler in result["poolers"]:
        if pooler["error"]:
            module.warn("Pooler %(name)s at %(console)s could not be resumed: %(error)s" % pooler)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
