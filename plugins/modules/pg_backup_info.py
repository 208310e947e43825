#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List and verify archives."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_backup_info
short_description: List archives, verify them and name the newest good one
version_added: 0.1.0
description:
  - Reads the archives that M(holdfast.postgres.pg_backup) wrote, and changes nothing.
  - An archive is corrupt when anything in it is not as it was written, be it one bit of any file, a file that is
    missing or one that was added.
  - No server is needed; the connection options are accepted so that C(module_defaults) can set them for all modules.
  - Supports check mode, in which it does the same.
options:
  path:
    description:
      - Directory that holds the archives of all databases. One that does not exist holds none.
    type: path
    required: true
  database:
    description:
      - Only archives of this database.
    type: str
  id:
    description:
      - Only archives with this id.
    type: str
  verify:
    description:
      - How much to read. V(none) looks at manifests, names and sizes. V(checksums) reads every byte. V(toc) also lets
        pg_restore read the table of contents of each dump.
    type: str
    choices: [none, checksums, toc]
    default: checksums
  bin_dir:
    description:
      - Directory of pg_restore, for O(verify=toc). Without it, one that can read the archive is looked for.
    type: path
extends_documentation_fragment:
  - holdfast.postgres.connection
seealso:
  - module: holdfast.postgres.pg_backup
  - module: holdfast.postgres.pg_backup_prune
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Find the newest archive that is proven good
  holdfast.postgres.pg_backup_info:
    path: /var/backups/holdfast
    database: rently_lending
  register: backups

- name: Fail when it is older than a day
  ansible.builtin.assert:
    that:
      - backups.newest_good is not none
      - backups.newest_good.snapshot_at > yesterday
  vars:
    yesterday: "{{ '%Y-%m-%dT%H:%M:%S' | strftime(now().timestamp() | float - 86400, utc=true) }}"
"""

RETURN = r"""
archives:
  description: The archives, those without a readable manifest first, then from the oldest snapshot to the newest.
  returned: success
  type: list
  elements: dict
  contains:
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
      description:
        - V(good) is proven. V(unverified) shows nothing wrong, but its contents were not read. V(corrupt) is not a
          backup. V(incomplete) was not finished.
      type: str
      returned: always
    reason:
      description: What is wrong, naming the file; null when nothing is.
      type: str
      returned: always
    bytes:
      description: Size of all files.
      type: int
      returned: always
    snapshot_at:
      description: When the snapshot was taken, in UTC.
      type: str
      returned: when the manifest can be read
    lsn:
      description: Position in the write-ahead log at the snapshot.
      type: str
      returned: when the manifest can be read
    rows:
      description: Number of rows in all tables.
      type: int
      returned: when the manifest can be read
    tables:
      description: Number of tables.
      type: int
      returned: when the manifest can be read
    format:
      description: Format of the dump, V(directory) or V(custom).
      type: str
      returned: when the manifest can be read
    compression:
      description: Compression of the dump.
      type: str
      returned: when the manifest can be read
    deployment_id:
      description: Deployment that the archive was taken for.
      type: str
      returned: when the manifest can be read
    schema_version:
      description: Version of the application's schema, as given when it was taken.
      type: str
      returned: when the manifest can be read
    server_version:
      description: Version of the server, such as 180003 for 18.3.
      type: int
      returned: when the manifest can be read
    client_version:
      description: Version of pg_dump, in the same form.
      type: int
      returned: when the manifest can be read
    database_bytes:
      description: Size that the database had on the server.
      type: int
      returned: when the manifest can be read
    duration_s:
      description: Seconds that the backup took.
      type: float
      returned: when the manifest can be read
    dump_s:
      description: Seconds that pg_dump took.
      type: float
      returned: when the manifest can be read
    fingerprint_s:
      description: Seconds that the fingerprint took.
      type: float
      returned: when the manifest can be read
    warnings:
      description: Warnings of that run.
      type: list
      elements: str
      returned: when the manifest can be read
newest_good:
  description:
    - The archive with the youngest snapshot among those of status V(good), or null. Always null with O(verify=none).
  returned: success
  type: dict
code:
  description: Stable word for the failure.
  returned: failure
  type: str
  sample: archive_not_found
hint:
  description: The next step.
  returned: failure
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import describe_archives
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
            "id": {"type": "str"},
            "verify": {"type": "str", "choices": ["none", "checksums", "toc"], "default": "checksums"},
            "bin_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    with failures_reported(module):
        result = describe_archives(
            path=params["path"],
            database=params["database"] or None,
            archive_id=params["id"] or None,
            verify=params["verify"],
            bin_dir=params["bin_dir"] or None,
            environment=dict(os.environ),
        )
        module.exit_json(**result)


if __name__ == "__main__":
    main()
