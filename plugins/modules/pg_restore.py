#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore an archive into a side database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_restore
short_description: Restore an archive into a side database and prove it
version_added: 0.1.0
description:
  - Creates a database from an archive of M(holdfast.postgres.pg_backup), compares it with the fingerprint in the
    manifest, and gives it the name wanted when it is equal, in one transaction with its owner, grants, settings and
    comment. Nothing with that name exists before.
  - A database that exists is never touched; there is no way to restore over the live one.
  - The archive, the versions, the roles, the extensions and, for a server on this host, the free space are examined
    before anything is created. The half-built database is dropped on any failure; what a killed run left, the next
    run drops.
  - While it is being built, the database has a name that ends in C(.restoring-) and eight digits, and PUBLIC may not
    connect to it.
  - Subscriptions are not restored, with a warning, because a side database must not use the original's slots.
  - Supports check mode, which examines everything that is examined before anything is created.
options:
  database:
    description:
      - Name of the side database to create.
    type: str
    required: true
  archive:
    description:
      - Directory of the archive. Without it, O(path) and O(source_database) say where to choose one.
    type: path
  path:
    description:
      - Directory that holds the archives of all databases.
    type: path
  source_database:
    description:
      - The database whose archive is wanted.
    type: str
  id:
    description:
      - Id of the archive below O(path). Without it, the newest good one is taken.
    type: str
  owner:
    description:
      - Role to own the database instead of the one recorded. What is in the database keeps its owners.
    type: str
  tablespace:
    description:
      - Default tablespace of the database instead of the one recorded.
    type: str
  jobs:
    description:
      - How many tables to load, index and compare at once. Without it, the number of processors, at most 4.
    type: int
  verify:
    description:
      - Whether to compare every table, sequence and large object with the manifest.
    type: bool
    default: true
  checksums:
    description:
      - Whether to read every byte of the archive first. Without it, only the manifest, names and sizes are examined.
    type: bool
    default: true
  rows_of:
    description:
      - Tables, written as in SQL, whose rows are restored; all others are empty, and there are no large objects. An
        empty list restores the schema alone.
      - Objects are compared with the manifest then, and rows are not; RV(verified) is V(false).
      - Without it, everything is restored.
    type: list
    elements: str
  bin_dir:
    description:
      - Directory of the client programs. Without it, the ones nearest to the server's version and not older than
        server and archive are taken from E(PATH) and the usual directories.
    type: path
  keep_on_failure:
    description:
      - Whether to keep the half-built database of a failed run for an investigation; RV(kept_database) names it.
    type: bool
    default: false
  allow_older_server:
    description:
      - Whether to try a server of an older major version than the archive's.
    type: bool
    default: false
extends_documentation_fragment:
  - holdfast.postgres.connection
seealso:
  - module: holdfast.postgres.pg_backup
  - module: holdfast.postgres.pg_swap
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Restore the newest good archive aside
  holdfast.postgres.pg_restore:
    path: /var/backups/holdfast
    source_database: rently_lending
    database: rently_lending_restored

- name: Restore one archive on another server, owned by a role of its own
  holdfast.postgres.pg_restore:
    archive: /mnt/archives/rently_lending/20261120T221500Z-7f3a
    database: rently_analysis
    owner: analysts
"""

RETURN = r"""
database:
  description: Name of the side database.
  returned: success
  type: str
archive:
  description: The archive that was used, with its RV(archive.path), RV(archive.id) and RV(archive.database).
  returned: success
  type: dict
  contains:
    path:
      description: Directory of the archive.
      type: str
      returned: success
    id:
      description: Id in its manifest.
      type: str
      returned: success
    database:
      description: Database that it was taken of.
      type: str
      returned: success
snapshot_at:
  description: When the archive's snapshot was taken, in UTC; whatever was written later is not in the side database.
  returned: success
  type: str
verified:
  description: Whether the database was compared with the manifest and found equal.
  returned: success
  type: bool
differences:
  description: What differs from the manifest, by table; empty on success.
  returned: success, and failure with code C(restore_differs)
  type: list
  elements: dict
rows:
  description: Number of rows in the archive.
  returned: success
  type: int
bytes:
  description: Size of the database on the server; in check mode, the size that the source had.
  returned: success
  type: int
duration_s:
  description: Seconds for everything.
  returned: changed, not in check mode
  type: float
phases:
  description: Seconds for each step, C(check_s), C(create_s), C(load_s), C(prove_s) and C(finish_s).
  returned: changed, not in check mode
  type: dict
kept_database:
  description: Name of the half-built database that was kept.
  returned: failure, when O(keep_on_failure=true)
  type: str
left_behind:
  description: Name of the half-built database that could not be dropped, and why. The next restore drops it.
  returned: failure, when the server could not be reached any more
  type: str
code:
  description: Stable word for the failure.
  returned: failure
  type: str
  sample: restore_differs
hint:
  description: The next step.
  returned: failure
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.restore import restore_archive
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
            "archive": {"type": "path"},
            "path": {"type": "path"},
            "source_database": {"type": "str"},
            "id": {"type": "str"},
            "owner": {"type": "str"},
            "tablespace": {"type": "str"},
            "jobs": {"type": "int"},
            "verify": {"type": "bool", "default": True},
            "checksums": {"type": "bool", "default": True},
            "rows_of": {"type": "list", "elements": "str"},
            "bin_dir": {"type": "path"},
            "keep_on_failure": {"type": "bool", "default": False},
            "allow_older_server": {"type": "bool", "default": False},
        },
        mutually_exclusive=[["archive", "path"], ["archive", "source_database"], ["archive", "id"]],
        required_one_of=[["archive", "path"]],
        required_together=[["path", "source_database"]],
        supports_check_mode=True,
    )
    params = module.params
    with failures_reported(module):
        result = restore_archive(
            server=server_from(params),
            database=params["database"],
            environment=dict(os.environ),
            archive=params["archive"],
            path=params["path"],
            source_database=params["source_database"],
            archive_id=params["id"] or None,
            owner=params["owner"] or None,
            tablespace=params["tablespace"] or None,
            jobs=params["jobs"],
            verify=params["verify"],
            checksums=params["checksums"],
            rows_of=params["rows_of"],
            bin_dir=params["bin_dir"] or None,
            keep_on_failure=params["keep_on_failure"],
            allow_older_server=params["allow_older_server"],
            check=module.check_mode,
        )
        for warning in result.pop("warnings", []):
            module.warn(warning)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
