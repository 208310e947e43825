#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the clients of PgBouncers wait, and let them go on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer
short_description: Pause, resume and guard a database in every PgBouncer
version_added: 0.1.0
description:
  - Talks to the admin consoles of PgBouncer 1.15 and newer. One database is paused, never all of them.
  - Pausing is all or none. Each attempt has a limit; when one pooler does not get there, all are resumed, and the next
    attempt begins after a moment in which clients go on. The refusal names the clients whose transactions stay open.
  - Before each attempt the task waits until no server connection of the database is logging in, because C(PAUSE) would
    close it and PgBouncer would then turn clients away.
  - A task that pauses ends, and leaves the database paused. Use V(guarded) before, so that clients go on whatever dies;
    M(holdfast.postgres.pg_swap) and M(holdfast.postgres.pg_clone) pause and resume by themselves and need neither.
  - In check mode it connects, finds the databases and tells what would change.
extends_documentation_fragment:
  - holdfast.postgres.connection
  - holdfast.postgres.poolers
options:
  poolers:
    required: true
  database:
    description:
      - The database on the server. Every name in a pooler that leads to it is meant.
      - Required, except for V(reloaded), which knows none, and V(reconnected), which takes all without it.
    type: str
  state:
    description:
      - V(paused) makes new transactions wait and returns when none runs any more. Where that is so, nothing changes.
      - V(resumed) lets clients go on. Where nobody is paused, nothing changes.
      - V(reloaded) reads the configuration again. It is refused while a database is paused.
      - V(reconnected) closes each server connection when its client releases it.
      - V(killed) disconnects all clients and servers at once, and leaves the database paused. It needs O(confirm).
      - V(guarded) starts a transient systemd unit on the host that runs the module, which must be the pooler's own. The
        unit resumes the database whenever it has been paused for nearly O(max_pause), and ends after O(lifetime). It
        needs root, and on the host C(python3) with psycopg2. A unit with at least half of its lifetime left is no
        change.
      - V(unguarded) removes the unit.
    type: str
    required: true
    choices: [paused, resumed, reloaded, reconnected, killed, guarded, unguarded]
  confirm:
    description: For V(killed), must be exactly the name in O(database).
    type: str
  timeout:
    description: How many seconds clients may wait in one attempt to pause.
    type: float
    default: 2
  attempts:
    description: How many attempts to pause there are.
    type: int
    default: 3
  max_pause:
    description: For V(guarded), the most seconds that clients may wait.
    type: float
    default: 15
  lifetime:
    description: For V(guarded), after how many seconds the unit ends by itself.
    type: int
    default: 900
  system_user:
    description:
      - For V(guarded), the user that the unit runs as. By the Unix socket that is the one PgBouncer runs as.
      - The unit is given no password, since everybody on the host could read it; a O(poolers[].passfile) serves.
    type: str
  python:
    description: For V(guarded), the interpreter that has psycopg2.
    type: path
    default: /usr/bin/python3
notes:
  - The connection options are the server's. They are used only when a pause is refused, to say what the clients do that
    it waited for; without a server that answers, the refusal says less.
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Have somebody resume if everything else dies, on each pooler's own host
  holdfast.postgres.pgbouncer:
    poolers:
      - unix_socket: /run/pgbouncer/main
    database: rently_lending
    state: guarded
    system_user: postgres
  become: true

- name: Make clients of every pooler wait
  holdfast.postgres.pgbouncer:
    poolers:
      - {name: one, host: pooler1.example.org, user: deployer, ssl_mode: verify-full, ca_cert: /etc/ssl/ca.crt}
      - {name: two, host: pooler2.example.org, user: deployer, ssl_mode: verify-full, ca_cert: /etc/ssl/ca.crt}
    database: rently_lending
    state: paused

- name: Let them go on
  holdfast.postgres.pgbouncer:
    poolers:
      - {name: one, host: pooler1.example.org, user: deployer, ssl_mode: verify-full, ca_cert: /etc/ssl/ca.crt}
      - {name: two, host: pooler2.example.org, user: deployer, ssl_mode: verify-full, ca_cert: /etc/ssl/ca.crt}
    database: rently_lending
    state: resumed
"""

RETURN = r"""
poolers:
  description: What was found and done, for each pooler in the order given.
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
    changed:
      description: Whether this pooler was changed.
      type: bool
    databases:
      description: The names in this pooler that lead to the database; not for V(guarded) and V(unguarded).
      type: list
      elements: str
    paused:
      description: For V(paused), V(resumed) and V(killed), whether the database is paused now.
      type: bool
    attempts:
      description: For V(paused), how many attempts it took.
      type: int
    guarded:
      description: For V(guarded) and V(unguarded), whether a unit is on guard.
      type: bool
    unit:
      description: For V(guarded) and V(unguarded), the name of the unit.
      type: str
code:
  description:
    - V(pause_refused) with RV(ignore:refusals), V(connection_failed), V(authentication_failed), V(permission_denied),
      V(database_not_found), V(confirm_required), V(operation_running), V(unsupported) or another stable word.
  returned: failure
  type: str
refusals:
  description:
    - For each pooler that did not pause, RV(ignore:pooler), RV(ignore:console), RV(ignore:databases), RV(ignore:reason)
      and RV(ignore:clients). Each client has C(user), C(client_addr), C(client_port), C(application_name),
      C(connected_at), C(server_pid), C(state), C(transaction_age_s), C(query_age_s) and the beginning of its C(query).
  returned: when a pause was refused
  type: list
  elements: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.interruption import signals_raised
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.administration import (
    PoolerRequest,
    set_state,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler_options import (
    poolers_argument_spec,
    poolers_from,
)

STATES = ["paused", "resumed", "reloaded", "reconnected", "killed", "guarded", "unguarded"]
NEEDS_DATABASE = ("paused", "resumed", "killed", "guarded", "unguarded")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            **poolers_argument_spec(required=True),
            "database": {"type": "str"},
            "state": {"type": "str", "required": True, "choices": STATES},
            "confirm": {"type": "str"},
            "timeout": {"type": "float", "default": 2},
            "attempts": {"type": "int", "default": 3},
            "max_pause": {"type": "float", "default": 15},
            "lifetime": {"type": "int", "default": 900},
            "system_user": {"type": "str"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        required_if=[("state", state, ["database"]) for state in NEEDS_DATABASE],
        supports_check_mode=True,
    )
    options = module.params
    with failures_reported(module), signals_raised():
        request = PoolerRequest(
            poolers=poolers_from(options),
            state=options["state"],
            database=options["database"] or None,
            confirm=options["confirm"],
            timeout_s=options["timeout"],
            attempts=options["attempts"],
            max_pause_s=options["max_pause"],
            lifetime_s=options["lifetime"],
            system_user=options["system_user"] or None,
            python=options["python"],
        )
        result = set_state(
            request, server=server_from(options), environment=dict(os.environ), check_mode=module.check_mode
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
