#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take an archive of one database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_backup
short_description: Take an archive of one database, with proofs
version_added: 0.1.0
description:
  - Dumps one database in parallel, and fingerprints it and reads its properties from the same snapshot, so that the
    manifest describes exactly what the dump holds. Every file is synced and has its SHA-256 in the manifest.
  - The archive appears at C(path/database/id) in one step when everything is on stable storage, and not at all
    otherwise; whatever fails or is interrupted leaves nothing behind. What a killed run left is removed by the next.
  - In the name of the database's directory, whatever a file name or a shell would trip over is percent-encoded.
  - pg_dump's exit code and its table of contents, compared with the catalog, must both be right; an empty or truncated
    dump cannot become an archive.
  - It runs beside applications as pg_dump does, waiting for no row lock. Whoever wants to change a table's definition
    waits for its end.
  - Supports check mode, which connects and examines everything that is examined before anything is written, and
    predicts the size.
options:
  database:
    description:
      - Name of the database.
    type: str
    required: true
  path:
    description:
      - Directory on this host that holds the archives of all databases. It is made if need be, for this user alone.
    type: path
    required: true
  id:
    description:
      - Name of the archive. Without it, a name from the time in UTC, such as V(20261120T221500Z-7f3a).
      - Nothing is done when an archive with this id exists and every byte of it is good.
    type: str
  deployment_id:
    description:
      - Deployment that the archive is taken for, as it is to stand in the manifest.
    type: str
  schema_version:
    description:
      - Version of the application's schema, as it is to stand in the manifest.
    type: str
  format:
    description:
      - Format of pg_dump. V(directory) dumps several tables at once; V(custom) is one file and one job.
    type: str
    choices: [directory, custom]
    default: directory
  jobs:
    description:
      - How many tables to dump at once, and to fingerprint at once beside that. Without it, the number of processors,
        at most 4.
    type: int
  compression:
    description:
      - V(auto), V(none), or V(gzip), V(lz4) or V(zstd), with a level if wanted, as in V(gzip:6).
      - V(auto) is V(zstd:3) where this build of pg_dump has it, else V(gzip:3). What is asked for and not built in is
        replaced by V(gzip:3), with a warning.
    type: str
    default: auto
  bin_dir:
    description:
      - Directory of the client programs. Without it, the ones nearest to the server's version and not older are taken
        from E(PATH) and the usual directories.
    type: path
  include_globals:
    description:
      - Whether roles, memberships and tablespaces are written to C(globals.sql), without passwords.
      - When privileges do not suffice for that, the archive is taken without it, with a warning.
    type: bool
    default: true
  min_free_bytes:
    description:
      - What must stay free on the volume of O(path) beyond the predicted size of the archive.
      - The prediction is the database's size times what the newest archive of it took per byte, with a quarter
        on top; without an earlier archive, 0.6 of the database's size, and 1.2 with O(compression=none).
    type: int
    default: 0
  lock_wait_s:
    description:
      - For how many seconds to wait for tables that others have locked exclusively, before anything is read.
    type: float
    default: 60
extends_documentation_fragment:
  - holdfast.postgres.connection
seealso:
  - module: holdfast.postgres.pg_backup_info
  - module: holdfast.postgres.pg_restore
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Take an archive before a deployment
  holdfast.postgres.pg_backup:
    database: rently_lending
    path: /var/backups/holdfast
    id: "{{ deployment_id }}"
    deployment_id: "{{ deployment_id }}"

- name: Take a nightly archive in one file, and keep 20 GB free
  holdfast.postgres.pg_backup:
    database: rently_lending
    path: /var/backups/holdfast
    format: custom
    min_free_bytes: 20000000000
"""

RETURN = r"""
archive:
  description: The archive that was taken, that was there, or, in check mode, that would be taken.
  returned: success
  type: dict
  contains:
    path:
      description: Directory of the archive.
      type: str
      returned: always
    id:
      description: Name of the archive.
      type: str
      returned: always
    database:
      description: Name of the database.
      type: str
      returned: always
    status:
      description: Always V(good).
      type: str
      returned: not in check mode
    reason:
      description: Always null.
      type: str
      returned: not in check mode
    bytes:
      description: Size of all files.
      type: int
      returned: not in check mode
    format:
      description: Format of the dump, V(directory) or V(custom).
      type: str
      returned: always
    compression:
      description: Compression of the dump, such as V(gzip:3).
      type: str
      returned: always
    snapshot_at:
      description: When the snapshot was taken, in UTC.
      type: str
      returned: not in check mode
    lsn:
      description: Position in the write-ahead log at the snapshot.
      type: str
      returned: not in check mode
    rows:
      description: Number of rows in all tables.
      type: int
      returned: not in check mode
    tables:
      description: Number of tables that hold rows of their own, so without partitioned ones.
      type: int
      returned: not in check mode
    deployment_id:
      description: As given.
      type: str
      returned: always
    schema_version:
      description: As given.
      type: str
      returned: always
    server_version:
      description: Version of the server, such as 180003 for 18.3.
      type: int
      returned: always
    client_version:
      description: Version of pg_dump, in the same form.
      type: int
      returned: always
    database_bytes:
      description: Size of the database on the server.
      type: int
      returned: always
    duration_s:
      description: Seconds for everything.
      type: float
      returned: not in check mode
    dump_s:
      description: Seconds for pg_dump.
      type: float
      returned: not in check mode
    fingerprint_s:
      description: Seconds for the fingerprint, which is taken beside the dump.
      type: float
      returned: not in check mode
    warnings:
      description: What pg_dump warned of, and what else an operator should know; it is kept in the manifest.
      type: list
      elements: str
      returned: always
    predicted_bytes:
      description: Expected size of the archive.
      type: int
      returned: in check mode
    free_bytes:
      description: What is free on the volume of O(path).
      type: int
      returned: in check mode
code:
  description: Stable word for the failure.
  returned: failure
  type: str
  sample: destination_full
hint:
  description: The next step.
  returned: failure
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import take_archive
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
            "path": {"type": "path", "required": True},
            "id": {"type": "str"},
            "deployment_id": {"type": "str"},
            "schema_version": {"type": "str"},
            "format": {"type": "str", "choices": ["directory", "custom"], "default": "directory"},
            "jobs": {"type": "int"},
            "compression": {"type": "str", "default": "auto"},
            "bin_dir": {"type": "path"},
            "include_globals": {"type": "bool", "default": True},
            "min_free_bytes": {"type": "int", "default": 0},
            "lock_wait_s": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params
    with failures_reported(module):
        result = take_archive(
            server=server_from(params),
            database=params["database"],
            path=params["path"],
            environment=dict(os.environ),
            archive_id=params["id"] or None,
            deployment_id=params["deployment_id"] or None,
            schema_version=params["schema_version"] or None,
            dump_format=params["format"],
            jobs=params["jobs"],
            compression=params["compression"],
            bin_dir=params["bin_dir"] or None,
            include_globals=params["include_globals"],
            min_free_bytes=params["min_free_bytes"],
            lock_wait_s=params["lock_wait_s"],
            check=module.check_mode,
        )
        for warning in result["archive"]["warnings"] if result["changed"] else []:
            module.warn(warning)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
