#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprint a database, or compare it with another or with an archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_fingerprint_info
short_description: Fingerprint a database, or compare it with another one or with an archive
version_added: 0.1.0
description:
  - Reads every table of one database in one snapshot and returns, for each, the number of rows and a hash of their
    values that does not depend on their order.
  - Reads sequences, large objects and the attributes of all other objects too, and names what differs from a
    reference when there is one.
  - Changes nothing. Supports check mode, in which it does the same.
options:
  database:
    description:
      - The database to fingerprint.
    type: str
    required: true
  compare_with:
    description:
      - Another database on the same server, as the reference that O(database) is compared with.
      - Each of the two is read in a snapshot of its own, so writing to them in between is a difference.
    type: str
  reference:
    description: What an earlier run returned as RV(fingerprint), as the reference that O(database) is compared with.
    type: dict
  reference_path:
    description:
      - A file on the host that runs the module, as the reference that O(database) is compared with. It is an archive's
        directory, its C(manifest.json), or a file with what an earlier run returned as RV(fingerprint).
    type: path
    aliases: [manifest]
  jobs:
    description:
      - Number of connections that read tables at a time, the largest table first. One more reads the rest.
    type: int
    default: 2
  full:
    description:
      - Whether to return RV(fingerprint), which grows with the number of objects.
    type: bool
    default: false
extends_documentation_fragment:
  - holdfast.postgres.connection
seealso:
  - module: holdfast.postgres.pg_backup
  - module: holdfast.postgres.pg_restore
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Compare the restored database with the live one
  holdfast.postgres.pg_fingerprint_info:
    database: rently_lending_restored
    compare_with: rently_lending
  register: comparison

- name: Show what differs
  ansible.builtin.debug:
    msg: "{{ comparison.differences | map(attribute='message') }}"
  when: not comparison.equal

- name: Compare the live database with an archive
  holdfast.postgres.pg_fingerprint_info:
    database: rently_lending
    reference_path: /var/backups/holdfast/rently_lending/20261120T221500Z-7f3a
"""

RETURN = r"""
database:
  description: The database that was read.
  returned: success
  type: str
algorithm:
  description: How rows were hashed. Hashes of the same algorithm compare across servers of version 13 to 18.
  returned: success
  type: str
  sample: typed-1
tables:
  description: For each table, by its quoted name, C(rows) and C(hash). Each leaf partition is a table.
  returned: success
  type: dict
  sample: {"public.loan": {"rows": 42, "hash": "fffffffffffffffe251863b985e9026d"}}
materialized_views:
  description: For each materialized view, by its quoted name, C(rows) and whether it is C(populated).
  returned: success
  type: dict
sequences:
  description: For each sequence, by its quoted name, C(last_value), C(is_called) and its definition.
  returned: success
  type: dict
large_objects:
  description: Number of large objects, each of which was read and hashed.
  returned: success
  type: int
objects:
  description: Number of other objects whose attributes were read, such as tables with their columns and grants.
  returned: success
  type: int
rows:
  description: Number of rows in all tables.
  returned: success
  type: int
equal:
  description: Whether nothing differs from the reference.
  returned: with O(compare_with), O(reference) or O(reference_path)
  type: bool
differences:
  description: What of the reference is different in the database; empty without a reference.
  returned: success
  type: list
  elements: dict
  contains:
    object:
      description: What differs, such as V(table public.loan).
      type: str
      returned: always
    kind:
      description:
        - How it differs. V(rows) is another number of rows, V(hash) other values in as many rows, V(object) other
          attributes.
        - One of V(rows), V(hash), V(missing), V(unexpected), V(populated), V(sequence), V(large_object), V(object).
      type: str
      returned: always
    before:
      description: What the reference has.
      type: raw
      returned: always
    after:
      description: What the database has.
      type: raw
      returned: always
    message:
      description: The difference in one sentence.
      type: str
      returned: always
fingerprint:
  description: The whole fingerprint, to be written to a file and compared later.
  returned: with O(full=true)
  type: dict
duration_s:
  description: Seconds that reading and comparing took.
  returned: success
  type: float
code:
  description: Stable word for the failure.
  returned: failure
  type: str
  sample: permission_denied
hint:
  description: The next step.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import fingerprint_report
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
            "compare_with": {"type": "str"},
            "reference": {"type": "dict"},
            "reference_path": {"type": "path", "aliases": ["manifest"]},
            "jobs": {"type": "int", "default": 2},
            "full": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("compare_with", "reference", "reference_path")],
        supports_check_mode=True,
    )
    with failures_reported(module):
        result = fingerprint_report(
            server=server_from(module.params),
            database=module.params["database"],
            compare_with=module.params["compare_with"] or None,
            reference=module.params["reference"],
            reference_path=module.params["reference_path"] or None,
            jobs=module.params["jobs"],
            full=module.params["full"],
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
