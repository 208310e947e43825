#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove archives that no rule keeps."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_backup_prune
short_description: Remove archives that no rule of retention keeps
version_added: 0.1.0
description:
  - Looks at the archives of each database on its own, and keeps an archive when any of the rules wants it.
  - The newest good archive of a database is never removed, whatever the rules say, and nothing is removed before the
    newest one that stays has been read and found good.
  - An archive ceases to be one in a single step, so that a crash leaves no half archive under a good name. One that is
    being restored from is kept. What killed runs left behind is removed.
  - No server is needed; the connection options are accepted so that C(module_defaults) can set them for all modules.
  - Supports check mode, which lists what would be kept and removed.
options:
  path:
    description:
      - Directory that holds the archives of all databases.
    type: path
    required: true
  database:
    description:
      - Only archives of this database.
    type: str
  keep_last:
    description:
      - How many of the newest archives to keep.
    type: int
    default: 0
  keep_daily:
    description:
      - For how many days that have an archive to keep the newest one. Days are those of UTC.
    type: int
    default: 0
  keep_weekly:
    description:
      - For how many weeks that have an archive to keep the newest one. Weeks begin on Monday.
    type: int
    default: 0
  keep_monthly:
    description:
      - For how many months that have an archive to keep the newest one.
    type: int
    default: 0
  max_age_days:
    description:
      - Keep every archive that is not older than this; older ones stay only if another rule keeps them.
    type: float
  protect:
    description:
      - Ids of archives to keep in any case, such as those that a live deployment would roll back to.
    type: list
    elements: str
    default: []
  remove_corrupt:
    description:
      - Whether corrupt archives are removed too. Without it they are kept for an investigation.
      - A directory that holds anything but the files of an archive is kept in any case.
    type: bool
    default: false
  verify:
    description:
      - How much to read first. V(checksums) reads every archive, so that no rule counts one that is corrupt. V(none)
        reads only the newest of each database that stays, until a good one is found.
    type: str
    choices: [none, checksums]
    default: checksums
extends_documentation_fragment:
  - holdfast.postgres.connection
seealso:
  - module: holdfast.postgres.pg_backup_info
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Keep thirty days, then one archive a month for a year
  holdfast.postgres.pg_backup_prune:
    path: /var/backups/holdfast
    max_age_days: 30
    keep_last: 7
    keep_monthly: 12
"""

RETURN = r"""
kept:
  description: What stays, newest first within a database.
  returned: success
  type: list
  elements: dict
  contains: &decision
    path:
      description: Directory of the archive.
      type: str
      returned: always
    id:
      description: Name of that directory.
      type: str
      returned: always
    database:
      description: Name of the database.
      type: str
      returned: always
    status:
      description: As M(holdfast.postgres.pg_backup_info) says.
      type: str
      returned: always
    snapshot_at:
      description: When the snapshot was taken, in UTC; null when no manifest says.
      type: str
      returned: always
    bytes:
      description: Size of all files.
      type: int
      returned: always
    reasons:
      description: Why it stays or goes.
      type: list
      elements: str
      returned: always
removed:
  description: What was removed, or would be in check mode, newest first within a database.
  returned: success
  type: list
  elements: dict
  contains: *decision
freed_bytes:
  description: Size of what was removed.
  returned: success
  type: int
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

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.retention import Policy, prune
from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "path": {"type": "path", "required": True},
            "database": {"type": "str"},
            "keep_last": {"type": "int", "default": 0},
            "keep_daily": {"type": "int", "default": 0},
            "keep_weekly": {"type": "int", "default": 0},
            "keep_monthly": {"type": "int", "default": 0},
            "max_age_days": {"type": "float"},
            "protect": {"type": "list", "elements": "str", "default": []},
            "remove_corrupt": {"type": "bool", "default": False},
            "verify": {"type": "str", "choices": ["none", "checksums"], "default": "checksums"},
        },
        supports_check_mode=True,
    )
    params = module.params
    with failures_reported(module):
        result = prune(
            path=params["path"],
            database=params["database"] or None,
            policy=Policy(
                keep_last=params["keep_last"],
                keep_daily=params["keep_daily"],
                keep_weekly=params["keep_weekly"],
                keep_monthly=params["keep_monthly"],
                max_age_days=params["max_age_days"],
                protect=frozenset(params["protect"]),
                remove_corrupt=params["remove_corrupt"],
            ),
            verify=params["verify"],
            check=module.check_mode,
        )
        module.exit_json(**result)


if __name__ == "__main__":
    main()
