#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the schema of a database, or compare it with another one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_schema_info
short_description: Read the schema of a database, or compare it with another or an earlier one
version_added: 0.1.0
description:
  - Takes the schema apart into its objects, as C(pg_dump) writes them, and names each that differs from a reference,
    with the statements before and after and a unified diff.
  - What differs from dump to dump without meaning anything does not count - comments of C(pg_dump), settings of the
    session, random keys and the order of objects. Owners, grants, comments of objects, tablespaces and the order of
    columns do.
  - Subscriptions are left out, as from restored databases.
  - Secrets in statements are masked in results, and compared nevertheless.
  - Changes nothing in O(database). Supports check mode, in which it does the same.
options:
  database:
    description: The database to read.
    type: str
    required: true
  compare_with:
    description: Another database on the same server, as the reference that O(database) is compared with.
    type: str
  reference:
    description: What an earlier run returned as RV(schema), as the reference.
    type: dict
  reference_path:
    description: A file with the same as JSON, on the host that runs the module.
    type: path
  exclude_tables:
    description: Tables to leave out with all that belongs to them, written as in SQL; the default schema is C(public).
    type: list
    elements: str
    default: []
  reload:
    description:
      - Whether a difference must be there after the schema was loaded into a scratch database and read again. Without a
        reference, RV(schema) is the one after such a load.
      - PostgreSQL writes some expressions in another way once it has read back what it wrote; a restored database, and
        one in which a statement of a file has run, may differ in nothing but this.
      - It is done only where something differs, and takes about as long as a restore without rows.
    type: bool
    default: false
  full:
    description: Whether to return RV(schema), which grows with the number of objects.
    type: bool
    default: false
  bin_dir:
    description:
      - Directory of the client programs. Without it, the ones nearest to the server's version and not older are taken
        from E(PATH) and the usual directories.
    type: path
extends_documentation_fragment:
  - holdfast.postgres.connection
seealso:
  - module: holdfast.postgres.pg_fingerprint_info
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Keep the schema as it is
  holdfast.postgres.pg_schema_info:
    database: rently_lending_copy
    full: true
  register: before

- name: See whether it is the same again
  holdfast.postgres.pg_schema_info:
    database: rently_lending_copy
    reference: "{{ before.schema }}"
    exclude_tables: [public.schema_version]
    reload: true
  register: comparison

- name: Show what differs
  ansible.builtin.debug:
    msg: "{{ comparison.differences | map(attribute='diff') }}"
  when: not comparison.equal
"""

RETURN = r"""
database:
  description: The database that was read.
  returned: success
  type: str
sha256:
  description: One sum for the whole schema, equal when the schemas are.
  returned: success
  type: str
objects:
  description: Number of objects.
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
      description: What differs, such as V(table public.loan). Names are not quoted, as in comments of C(pg_dump).
      type: str
    kind:
      description:
        - V(missing), V(unexpected), V(changed), or V(column_order) for a table whose columns are the same in another
          order.
      type: str
    before:
      description: The statements that make it in the reference.
      type: str
    after:
      description: The statements that make it in the database.
      type: str
    diff:
      description: A unified diff of the two, at most 200 lines.
      type: str
    message:
      description: The difference in one sentence.
      type: str
reloaded:
  description: Whether the schema was loaded into a scratch database and read again.
  returned: success
  type: bool
schema:
  description: The schema, as a later run takes it in O(reference).
  returned: with O(full=true)
  type: dict
  contains:
    sha256:
      description: The same as RV(sha256).
      type: str
    objects:
      description: For each object its C(text) and C(sha256).
      type: dict
duration_s:
  description: Seconds that reading and comparing took.
  returned: success
  type: float
code:
  description: Stable word for the failure.
  returned: failure
  type: str
  sample: program_not_found
hint:
  description: The next step.
  returned: failure
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.schema_report import schema_report
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
            "reference_path": {"type": "path"},
            "exclude_tables": {"type": "list", "elements": "str", "default": []},
            "reload": {"type": "bool", "default": False},
            "full": {"type": "bool", "default": False},
            "bin_dir": {"type": "path"},
        },
        mutually_exclusive=[("compare_with", "reference", "reference_path")],
        supports_check_mode=True,
    )
    params = module.params
    with failures_reported(module):
        result = schema_report(
            server=server_from(params),
            database=params["database"],
            environment=dict(os.environ),
            compare_with=params["compare_with"] or None,
            reference=params["reference"],
            reference_path=params["reference_path"],
            exclude_tables=params["exclude_tables"],
            reload=params["reload"],
            full=params["full"],
            bin_dir=params["bin_dir"] or None,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
