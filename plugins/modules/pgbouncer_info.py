#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell what PgBouncers say of themselves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_info
short_description: Tell what PgBouncers have - pools, clients, servers, databases, statistics, configuration
version_added: 0.1.0
description:
  - Asks the admin consoles of PgBouncer 1.15 and newer, and changes nothing.
  - Rows are as the version at hand has them, with keys in lower case and numbers as numbers, so that a column which a
    version does not have is not there.
  - It does not connect to the server and has no connection options, so it is not in the action group C(all).
extends_documentation_fragment:
  - holdfast.postgres.poolers
options:
  poolers:
    required: true
  show:
    description: What to tell.
    type: list
    elements: str
    choices: [clients, config, databases, lists, pools, servers, stats]
    default: [clients, config, databases, lists, pools, servers, stats]
requirements:
  - psycopg2 2.9 or newer on the host that runs the module
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: See how many clients wait
  holdfast.postgres.pgbouncer_info:
    poolers:
      - {name: main, unix_socket: /run/pgbouncer/main}
    show: [pools]
  register: waiting
  become: true
  become_user: postgres
"""

RETURN = r"""
poolers:
  description: What each pooler says, in the order given.
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
    version:
      description: Its version.
      type: str
      sample: 1.18.0
    clients:
      description: Rows of C(SHOW CLIENTS).
      type: list
      elements: dict
    config:
      description: Values of C(SHOW CONFIG) by name.
      type: dict
    databases:
      description: Rows of C(SHOW DATABASES). V(1) as C(paused) means paused, or about to be.
      type: list
      elements: dict
    lists:
      description: Numbers of C(SHOW LISTS) by name.
      type: dict
    pools:
      description: Rows of C(SHOW POOLS).
      type: list
      elements: dict
    servers:
      description: Rows of C(SHOW SERVERS).
      type: list
      elements: dict
    stats:
      description: Rows of C(SHOW STATS).
      type: list
      elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import failures_reported
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.administration import SUBJECTS, show
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler_options import (
    poolers_argument_spec,
    poolers_from,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **poolers_argument_spec(required=True),
            "show": {"type": "list", "elements": "str", "choices": list(SUBJECTS), "default": list(SUBJECTS)},
        },
        supports_check_mode=True,
    )
    with failures_reported(module):
        found = show(poolers_from(module.params), subjects=module.params["show"])
    module.exit_json(changed=False, poolers=found)


if __name__ == "__main__":
    main()
