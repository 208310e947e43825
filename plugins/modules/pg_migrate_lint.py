#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lint migrations."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_migrate_lint
short_description: Tell what migrations would do to a PostgreSQL database, before they run
version_added: 0.1.0
description:
  - Lints migrations that are pending, with the rules of squawk (U(https://squawkhq.com/docs/rules)) for what
    statements alone tell, and with rules of its own for what only the live catalog tells.
  - "The rules of its own: V(truncate-cascade) and V(drop-cascade) say what CASCADE would reach through foreign keys and
    dependencies, with row counts; V(dynamic-cascade) finds such statements in DO blocks and routines;
    V(truncate-table), V(delete-without-where), V(update-without-where) and V(table-rewrite) say how many rows and
    bytes are touched; V(missing-down), V(down-cannot-restore) and V(down-drops-data) say which way back is none;
    V(syntax-error) is what PostgreSQL's own parser refuses."
  - Files are read, and squawk runs, on the controller; the catalog is asked from the managed host. One task does both.
    With O(remote_src) everything happens on the managed host.
  - A comment C(-- holdfast:) C(allow <rule>:) C(<reason>) on the line above a statement lets it pass. The finding is
    still returned, with RV(findings[].allowed) and RV(findings[].reason). Comments C(-- squawk-ignore <rule>) hide
    findings of squawk.
  - Nothing is written, no lock is waited for longer than a second, and check mode makes no difference.
  - Where the Python package C(pglast) is missing, statements are read by their first words alone; then what cascades
    and what lacks a WHERE is still found.
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  database:
    description: The live database.
    type: str
    required: true
  source:
    description: Directories of migrations, as in M(holdfast.postgres.pg_migrate).
    type: list
    elements: path
    default: []
  remote_src:
    description: Whether the directories in O(source) are on the managed host; squawk has to be there, too.
    type: bool
    default: false
  layout:
    description: How the files are named, as in M(holdfast.postgres.pg_migrate).
    type: str
    choices: [auto, directories, golang-migrate, flyway, goose, sqitch]
    default: auto
  include:
    description: Which SQL files to consider, as in M(holdfast.postgres.pg_migrate).
    type: list
    elements: str
    default: []
  prefer:
    description: Dialects in the names of files, as in M(holdfast.postgres.pg_migrate).
    type: list
    elements: str
    default: []
  no_transaction_pattern:
    description: Which files run outside a transaction, as in M(holdfast.postgres.pg_migrate).
    type: str
  placeholders:
    description: Values for Flyway's placeholders, as in M(holdfast.postgres.pg_migrate).
    type: dict
    default: {}
  versions:
    description:
      - The versions to lint, usually RV(holdfast.postgres.pg_migrate#module:pending) of
        M(holdfast.postgres.pg_migrate) with O(holdfast.postgres.pg_migrate#module:state=status).
      - Rules about the catalog take them for what is yet to run, in the order of the files.
    type: list
    elements: str
    required: true
  subjects:
    description: What the action plugin has read in the files. Not for playbooks.
    type: list
    elements: dict
  rules:
    description:
      - "Levels by rule: V(error), V(warning), V(info) or V(off)."
      - Rules of squawk are warnings by default, except for those that the runner makes needless, which are off, and
        matters of taste, which are V(info).
    type: dict
    default: {}
  exclude:
    description: Rules that are off.
    type: list
    elements: str
    default: []
  fail_on:
    description: The least level of a finding that fails the task, unless it is allowed.
    type: str
    choices: [error, warning, never]
    default: error
  squawk:
    description:
      - V(required) fails where squawk is not installed, V(preferred) warns, V(off) does not run it.
    type: str
    choices: [required, preferred, 'off']
    default: preferred
  squawk_path:
    description: The program; by default the one beside Ansible's Python, or on E(PATH).
    type: path
  pg_version:
    description: The version of PostgreSQL that squawk is told, such as V(18.3); by default that of the server.
    type: str
seealso:
  - module: holdfast.postgres.pg_migrate
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: List what is pending
  holdfast.postgres.pg_migrate:
    database: rently_lending
    source: [migrations]
    state: status
  register: migrations

- name: Lint what is pending
  holdfast.postgres.pg_migrate_lint:
    database: rently_lending
    source: [migrations]
    versions: "{{ migrations.pending | map(attribute='version') }}"
    rules:
      ban-drop-column: error
      table-rewrite: error

- name: Show what one migration would do, and stop nothing
  holdfast.postgres.pg_migrate_lint:
    database: rently_lending
    source: [migrations]
    versions: [v2.0.0]
    fail_on: never
  register: lint
"""

RETURN = r"""
findings:
  description: What the rules say, in the order of versions and lines. Also in a failure.
  returned: always
  type: list
  elements: dict
  contains:
    rule:
      description: The rule.
      type: str
      sample: truncate-cascade
    level:
      description: V(error), V(warning) or V(info).
      type: str
    source:
      description: V(holdfast) or V(squawk).
      type: str
    version:
      description: The version of the migration.
      type: str
    path:
      description: The file.
      type: str
    line:
      description: The line in it, from 1.
      type: int
    column:
      description: The column, from 1.
      type: int
    statement:
      description: The first 200 characters of the statement, with passwords masked.
      type: str
    message:
      description: What the statement would do.
      type: str
    advice:
      description: What to do instead.
      type: str
    allowed:
      description: Whether a comment in the file allows it, so that it does not fail the task.
      type: bool
    reason:
      description: The reason that the comment gives.
      type: str
    objects:
      description: What CASCADE drops along, in words.
      type: list
      elements: str
    tables:
      description: The tables that are reached.
      type: list
      elements: dict
      contains:
        table:
          description: Schema and name.
          type: str
        rows:
          description: How many rows it holds; none when nobody knows.
          type: int
        exact:
          description: Whether they were counted, as small tables are; otherwise it is the planner's estimate.
          type: bool
        size_bytes:
          description: Its size with indexes.
          type: int
counts:
  description: How many findings there are of each level, and how many V(allowed) ones beside them.
  returned: always
  type: dict
  sample: {error: 1, warning: 2, info: 0, allowed: 1}
sentences:
  description: Errors and warnings as lines for a log, those that are allowed with their reasons.
  returned: always
  type: list
  elements: str
versions:
  description: The versions that were looked at.
  returned: always
  type: list
  elements: str
server_version:
  description: The version of the server as a number.
  returned: always
  type: int
  sample: 180003
squawk_ran:
  description: Whether squawk looked at the files.
  returned: always
  type: bool
parser:
  description: The parser that read the statements; empty when their words were read.
  returned: always
  type: str
  sample: pglast 8.7
code:
  description: V(lint_failed), or another stable word.
  returned: failure
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import lint
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import AUTO, LAYOUTS


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "database": {"type": "str", "required": True},
            "source": {"type": "list", "elements": "path", "default": []},
            "remote_src": {"type": "bool", "default": False},
            "layout": {"type": "str", "choices": [AUTO, *LAYOUTS], "default": AUTO},
            "include": {"type": "list", "elements": "str", "default": []},
            "prefer": {"type": "list", "elements": "str", "default": []},
            "no_transaction_pattern": {"type": "str"},
            "placeholders": {"type": "dict", "default": {}},
            "versions": {"type": "list", "elements": "str", "required": True},
            "subjects": {"type": "list", "elements": "dict"},
            **lint.OPTIONS,
        },
        supports_check_mode=True,
    )
    options = module.params
    with failures_reported(module):
        server = server_from(options)
        if options["subjects"] is not None:
            result, warnings = lint.catalog_result(
                server=server, database=options["database"], subjects=options["subjects"]
            )
        else:
            result, warnings = lint.lint_directories(
                server=server, database=options["database"], options=options, environment=dict(os.environ)
            )
    for warning in warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
