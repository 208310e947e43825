#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run pgTAP tests."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_tap
short_description: Run pgTAP tests through pg_prove, isolated from the live database
version_added: 0.1.0
description:
  - Runs files of pgTAP tests, category by category, and says of each file whether it passed, failed, died, stopped
    before the end of its plan or ran out of time. Tests marked TODO or SKIP are no failures.
  - Tests run in a throw-away clone of O(database), or in O(database) itself with pgTAP in a schema that is dropped
    afterwards. Nothing of pgTAP stays in a database that had not installed it itself.
  - Every object that tests leave behind, in the database or in the cluster, is named.
  - In check mode the programs, the extension and the tests are looked for, and nothing is run.
extends_documentation_fragment:
  - holdfast.postgres.connection
requirements:
  - pg_prove (Debian package C(libtap-parser-sourcehandler-pgtap-perl)) and C(psql) where the module runs
  - pgTAP (Debian package C(postgresql-<major>-pgtap)) on the server
options:
  database:
    description: The database to test.
    type: str
    required: true
  path:
    description:
      - The directory of the tests, on the host that runs the module. Each category is a directory in it.
      - Files that end in C(.sql) or C(.pg) are tests, at any depth; others can be included with C(\ir).
        Programs run in this directory.
    type: path
    required: true
  categories:
    description:
      - Which categories to run, in this order. Those that have no directory are passed over.
      - That no test is found at all is a failure.
    type: list
    elements: str
    default: [unit, security, performance, integration]
  isolation:
    description:
      - V(clone) makes a copy of O(database), with its properties, and drops it afterwards. Nobody may be connected to
        O(database) while it is copied.
      - V(schema) runs the tests in O(database) itself, such as a side database. pgTAP is put into the schema
        C(holdfast_tap) and is removed with it. What tests commit stays, and is named.
    type: str
    choices: [clone, schema]
    default: clone
  jobs:
    description: How many files of a category run side by side.
    type: int
    default: 1
  file_timeout_s:
    description: The time limit in seconds for one file. Its session on the server is ended as well.
    type: float
    default: 60
  timeout_s:
    description: The time limit in seconds for all files together. Files that cannot begin before it are failures.
    type: float
    default: 600
  stop_at_failure:
    description: Do not run the categories that follow one with failures. Their files are failures, as V(not_run).
    type: bool
    default: false
  pg_prove:
    description: Name or path of the program.
    type: str
    default: pg_prove
  bin_dir:
    description: Directory of C(psql), if it is not to be looked for.
    type: path
  junit:
    description:
      - A file to write the results to, as JUnit XML, readable by its owner only. Each test is a case, and so is each
        file as a whole, which fails where the file did and none of its tests.
      - It is a report about the run and does not count as a change.
    type: path
  fail_on:
    description:
      - What fails the task - files that failed, also objects that tests left behind (V(warning)), or nothing.
    type: str
    choices: [error, warning, never]
    default: error
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Test a copy of the database
  holdfast.postgres.pg_tap:
    database: rently_lending
    path: /srv/rently/tests
    jobs: 2
    junit: /var/lib/holdfast/reports/pgtap.xml

- name: Test the side database that was just restored, where clients need not be kept away
  holdfast.postgres.pg_tap:
    database: rently_lending_restored
    path: /srv/rently/tests
    isolation: schema
    categories: [unit, security]
    fail_on: warning
"""

RETURN = r"""
results:
  description:
    - One entry for each file, in the form of those of M(holdfast.postgres.pg_check), so that
      M(holdfast.postgres.deployment) takes them as checks. The last tells of objects that tests left behind.
    - Empty in check mode.
  type: list
  elements: dict
  returned: when the tests could be run
  contains:
    suite:
      description: The category.
      type: str
    name:
      description: Path of the file below O(path).
      type: str
    severity:
      description: V(error), and V(warning) for objects that were left behind.
      type: str
    status:
      description: V(passed), V(failed) or V(skipped).
      type: str
    outcome:
      description:
        - V(passed), V(skipped), V(failed), V(died), V(truncated), V(timed_out) or V(not_run).
      type: str
    errored:
      description: Whether it failed in another way than by a test that did.
      type: bool
    message:
      description: One sentence.
      type: str
    sample:
      description: The tests that failed, with number, description and diagnostics; or the objects left behind.
      type: list
      elements: dict
    planned_tests:
      description: How many tests were planned, and one for the file itself where it failed and no test did.
      type: int
    passed_tests:
      description: How many of them passed, those to do and those skipped among them.
      type: int
    failed_tests:
      description: How many of them failed or were not run.
      type: int
    todo_tests:
      description: How many are marked TODO.
      type: int
    skipped_tests:
      description: How many are marked SKIP.
      type: int
    duration_ms:
      description: How long the file took.
      type: float
categories:
  description: The numbers of each category that has tests.
  type: list
  elements: dict
  returned: with RV(results)
  contains:
    category:
      description: Its name.
      type: str
    files:
      description: How many files it has.
      type: int
    failed_files:
      description: How many of them failed, in whatever way.
      type: int
    planned_tests:
      description: As in RV(results).
      type: int
    passed_tests:
      description: As in RV(results).
      type: int
    failed_tests:
      description: As in RV(results).
      type: int
    success_rate:
      description: Share of the planned tests that passed, in percent; null where none was planned.
      type: float
    duration_s:
      description: How long its files took, one after the other.
      type: float
planned_tests:
  description: Of all files together.
  type: int
  returned: with RV(results)
passed_tests:
  description: Of all files together.
  type: int
  returned: with RV(results)
failed_tests:
  description: Of all files together.
  type: int
  returned: with RV(results)
success_rate:
  description: Of all files together.
  type: float
  returned: with RV(results)
files:
  description: The files of tests, in the order in which they run.
  type: list
  elements: str
  returned: with RV(results)
left_behind:
  description: Objects that tests left behind, by type and name, in the database and in the cluster.
  type: list
  elements: str
  returned: with RV(results)
duration_s:
  description: How long the run took, the making and dropping of a clone included.
  type: float
  returned: with RV(results)
summary:
  description: One sentence with these numbers.
  type: str
  returned: with RV(results)
  sample: 'Database "rently_lending": 21 of 24 tests in 7 files passed (87.5 %), 1 died (3.2 s).'
junit:
  description: Path of the JUnit file, null without O(junit).
  type: str
  returned: with RV(results)
code:
  description: V(test_failed), V(extension_missing), V(program_not_found), V(database_in_use) or another stable word.
  type: str
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import FAIL_ON
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.tap import (
    CATEGORIES,
    TapLimits,
    run_tests,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.tap_database import ISOLATIONS


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "database": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "categories": {"type": "list", "elements": "str", "default": list(CATEGORIES)},
            "isolation": {"type": "str", "choices": list(ISOLATIONS), "default": "clone"},
            "jobs": {"type": "int", "default": 1},
            "file_timeout_s": {"type": "float", "default": 60},
            "timeout_s": {"type": "float", "default": 600},
            "stop_at_failure": {"type": "bool", "default": False},
            "pg_prove": {"type": "str", "default": "pg_prove"},
            "bin_dir": {"type": "path"},
            "junit": {"type": "path"},
            "fail_on": {"type": "str", "choices": list(FAIL_ON), "default": "error"},
        },
        supports_check_mode=True,
    )
    options = module.params
    with failures_reported(module):
        result = run_tests(
            server=server_from(options),
            database=options["database"],
            path=options["path"],
            categories=options["categories"],
            isolation=options["isolation"],
            limits=TapLimits(
                jobs=options["jobs"],
                file_timeout_s=options["file_timeout_s"],
                timeout_s=options["timeout_s"],
                stop_at_failure=options["stop_at_failure"],
            ),
            pg_prove=options["pg_prove"],
            bin_dir=options["bin_dir"],
            fail_on=options["fail_on"],
            junit=options["junit"],
            predict=module.check_mode,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
