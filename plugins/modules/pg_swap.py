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
  - Everything is examined before anything is touched. Then new connections to both databases are refused, sessions
    get O(drain_timeout) seconds to leave, and the names are exchanged. On any error nothing is renamed and connections
    are allowed as before.
  - A run that was killed is recognised by the next one with the same options, which undoes what it left and goes on,
    or finds that it was done already; RV(resumed) says which.
  - Rolling a swap back is another swap, with the retired database as O(replacement).
  - In check mode everything is examined and nothing is changed, nor is anybody kept out.
extends_documentation_fragment:
  - holdfast.postgres.connection
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
    type: float
    default: 15
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
    - Milliseconds from the moment that new sessions were kept out (or the first pooler was told to pause) until the
      names were exchanged and everybody could go on. Null when nothing was exchanged.
  returned: success
  type: float
poolers:
  description: What each pooler did.
  returned: success
  type: list
  elements: dict
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
    - V(undone) when an interrupted run had left databases closed, and they were opened before this one began;
      V(already_swapped) when there was nothing to do; else null.
  returned: success
  type: str
duration_s:
  description: How long it all took.
  returned: success
  type: float
code:
  description:
    - V(confirm_required), V(swap_blocked) with RV(ignore:blockers), V(database_in_use) with RV(ignore:sessions),
      V(timeout), V(target_exists), V(database_not_found), V(database_invalid), V(permission_denied),
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
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.swap import SwapRequest, swap_databases


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "database": {"type": "str", "required": True},
            "replacement": {"type": "str", "required": True},
            "replacement_oid": {"type": "int"},
            "confirm": {"type": "str"},
            "retired_name": {"type": "str"},
            "drain_timeout": {"type": "float", "default": 5},
            "terminate": {"type": "bool", "default": False},
            "max_pause": {"type": "float", "default": 15},
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
        confirm=options["confirm"],
        retired_name=options["retired_name"] or None,
        drain_timeout_s=options["drain_timeout"],
        terminate=options["terminate"],
        max_pause_s=options["max_pause"],
        keep_direct_clients_out=options["keep_direct_clients_out"],
        carry_over=options["carry_over"],
    )
    with failures_reported(module), signals_raised():
        result = swap_databases(
            server=server_from(options),
            request=request,
            check_mode=module.check_mode,
            guarded=True,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
