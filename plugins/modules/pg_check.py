#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run suites of SQL checks."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_check
short_description: Run suites of SQL checks, read-only and in one snapshot
version_added: 0.1.0
description:
  - Runs the checks of YAML files against one database and says which hold.
    The page "write a suite" of the collection's documentation describes the files.
  - Every check runs in a read-only transaction of its own, and all see one and the same snapshot of the database,
    on O(jobs) connections; one more connection keeps the snapshot. An error in one check does not spoil others.
  - Suites are read and checked for their form on the controller, so that a managed host needs no YAML parser.
    A suite that cannot be understood is refused with file and line before any check runs.
  - Nothing in the database is changed, so check mode runs the same checks. Only the file O(junit) is not written then.
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  database:
    description: The database to check.
    type: str
    required: true
  suites:
    description:
      - Suites on the controller, as files or as directories (then every C(.yml) and C(.yaml) file in them, by name).
      - A relative path is looked for like O(ansible.builtin.copy#module:src), in the role's files first.
      - At least one is required.
    type: list
    elements: str
  documents:
    description:
      - What O(suites) hold, as the action plugin reads them. Not for playbooks.
    type: list
    elements: dict
    default: []
  stage:
    description:
      - Run only checks of this stage and those without C(stages). Empty runs all.
      - A stage for which nothing would be checked is refused, unless O(fail_on=never).
    type: str
    choices: ["", preflight, rehearse, verify, rollback, schedule]
    default: ""
  tags:
    description: Run only checks with one of these tags. A tag that no check has is refused.
    type: list
    elements: str
    default: []
  parameters:
    description:
      - Values in place of the defaults that suites state under C(parameters).
      - They are bound by the driver. A name that no suite states is refused.
    type: dict
    default: {}
  earlier:
    description:
      - RV(measured) of an earlier stage, for checks that expect something to be C(not_worse) than then.
      - Without it, such a check only measures. With it, a check that the earlier stage did not measure does not hold.
    type: dict
  compare_with:
    description:
      - Another database of this server, for checks that expect the C(same_as) there. It has a snapshot of its own.
      - Without it, such checks are skipped.
    type: str
  reference_path:
    description:
      - An archive or its manifest on the host, for checks that expect tables to be the C(same_as) in it.
      - Without it, such checks are skipped.
    type: path
  jobs:
    description: The number of connections that run checks.
    type: int
    default: 2
  timeout_s:
    description: The time limit in seconds for a check that does not state its own.
    type: float
    default: 60
  sample:
    description: The most rows to return of a check that did not hold.
    type: int
    default: 5
  masked_columns:
    description:
      - Columns whose values are hidden in samples, values and messages, whatever their case, besides those under
        C(mask) in a suite or a check.
      - Where columns are masked, messages of the server that quote data are hidden as well.
    type: list
    elements: str
    default: []
  junit:
    description:
      - A file to write the results to, as JUnit XML, readable by its owner only.
      - It is a report about the run and does not count as a change.
    type: path
  fail_on:
    description:
      - Which checks fail the task when they do not hold - those of severity error, warnings as well, or none.
    type: str
    choices: [error, warning, never]
    default: error
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Check the rules of the data
  holdfast.postgres.pg_check:
    database: rently_lending
    suites:
      - suites/data_quality.yml
    parameters:
      tolerance: 0.01
    masked_columns: [iban, email]
    junit: /var/lib/holdfast/reports/data_quality.xml

- name: See how the server is before a deployment, whatever it says
  holdfast.postgres.pg_check:
    database: rently_lending
    suites: [suites]
    tags: [sessions]
    fail_on: never
  register: preflight

- name: See that nothing got worse, and that closed periods are what the archive holds
  holdfast.postgres.pg_check:
    database: rently_lending
    suites: [suites]
    stage: verify
    earlier: "{{ preflight.measured }}"
    reference_path: /var/backups/holdfast/rently_lending/20261120T221500Z-7f3a
"""

RETURN = r"""
results:
  description: One entry for each check, in the order of the files. Also returned when checks failed.
  type: list
  elements: dict
  returned: when the suites could be read and the database reached
  contains:
    suite:
      description: Name of the suite.
      type: str
    name:
      description: Name of the check.
      type: str
    description:
      description: What the suite says about the check.
      type: str
    severity:
      description: V(error), V(warning) or V(info).
      type: str
    status:
      description:
        - V(passed), V(failed) or V(skipped), the last for another server version, or without something to compare with.
      type: str
    errored:
      description: Whether the check failed because its SQL did.
      type: bool
    message:
      description: What was found and what was expected, or the server's message.
      type: str
    rows:
      description: How many rows the query returned in all, null when it did not run.
      type: int
    value:
      description:
        - The value of a scalar, or what C(not_worse) measured. Numbers of type numeric are texts, to keep every digit.
      type: raw
    unit:
      description: The unit of the value, empty when it has none.
      type: str
    sample:
      description: The first rows of a check that did not hold, each with its columns by name.
      type: list
      elements: dict
    duration_ms:
      description: How long the query took; next to nothing when another check had asked the same.
      type: float
    tags:
      description: Tags of the check.
      type: list
      elements: str
    file:
      description: File of the suite on the controller.
      type: str
    line:
      description: Line of the check in its file.
      type: int
measured:
  description: For each suite, what its C(not_worse) checks measured, by their names. O(earlier) of a later stage.
  type: dict
  returned: with RV(results)
  sample: {"continuity": {"no payments are lost": "100000"}}
failed_checks:
  description:
    - How many checks of severity error did not hold.
    - It is not called C(failed), because Ansible keeps that word for the whole task.
  type: int
  returned: with RV(results)
warned_checks:
  description: How many checks of severity warning did not hold.
  type: int
  returned: with RV(results)
noted_checks:
  description: How many checks of severity info did not hold.
  type: int
  returned: with RV(results)
passed_checks:
  description: How many checks held.
  type: int
  returned: with RV(results)
skipped_checks:
  description: How many checks are for another server version.
  type: int
  returned: with RV(results)
summary:
  description: One sentence with these numbers.
  type: str
  returned: with RV(results)
  sample: 'Database "rently_lending": 17 of 18 checks passed, 1 gave a warning (0.4 s).'
duration_s:
  description: How long all checks took together.
  type: float
  returned: with RV(results)
junit:
  description: Path of the JUnit file, null without O(junit).
  type: str
  returned: with RV(results)
code:
  description: V(check_failed), V(suite_invalid) with RV(ignore:file) and RV(ignore:line), or another stable word.
  type: str
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import (
    FAIL_ON,
    Limits,
    References,
    check_database,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.suite import STAGES


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "database": {"type": "str", "required": True},
            "suites": {"type": "list", "elements": "str"},
            "documents": {"type": "list", "elements": "dict", "default": []},
            "stage": {"type": "str", "choices": ["", *STAGES], "default": ""},
            "tags": {"type": "list", "elements": "str", "default": []},
            "parameters": {"type": "dict", "default": {}},
            "earlier": {"type": "dict"},
            "compare_with": {"type": "str"},
            "reference_path": {"type": "path"},
            "jobs": {"type": "int", "default": 2},
            "timeout_s": {"type": "float", "default": 60},
            "sample": {"type": "int", "default": 5},
            "masked_columns": {"type": "list", "elements": "str", "default": []},
            "junit": {"type": "path"},
            "fail_on": {"type": "str", "choices": list(FAIL_ON), "default": "error"},
        },
        supports_check_mode=True,
    )
    options = module.params
    with failures_reported(module):
        result = check_database(
            server=server_from(options),
            database=options["database"],
            documents=options["documents"],
            stage=options["stage"],
            tags=options["tags"],
            parameters=options["parameters"],
            references=References(
                earlier=options["earlier"],
                database=options["compare_with"] or "",
                archive=options["reference_path"] or "",
            ),
            limits=Limits(
                jobs=options["jobs"],
                timeout_s=options["timeout_s"],
                sample=options["sample"],
                masked_columns=options["masked_columns"],
            ),
            fail_on=options["fail_on"],
            junit=options["junit"],
            write_files=not module.check_mode,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
