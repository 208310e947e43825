#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that a database is guarded as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_security_check
short_description: Check that a database is guarded as declared
version_added: 0.1.0
description:
  - Compares a database with expectations about row-level security, policies, roles, grants to PUBLIC, functions of
    security definer, password hashes, TLS and extensions, and names everything that differs.
  - Reads catalogs in one read-only transaction, so check mode does the same, but for the file O(junit).
  - A rule whose facts the login role may not read is V(skipped) and says so.
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  database:
    description: The database to check.
    type: str
    required: true
  expectations:
    description:
      - What is expected. A rule that is not named is not checked; at least one is required.
      - Tables and functions are named as in SQL, C(schema.name), with quotes where SQL needs them; roles and extensions
        without quotes.
    type: dict
    required: true
    suboptions:
      row_level_security:
        description:
          - C(tables), and all tables of C(schemas) but those C(exempt), have row-level security enabled and, unless
            C(forced) is false, forced for their owner as well.
        type: dict
      policies:
        description:
          - Every policy in the database. Each has C(table) and C(name), and may have C(command) (V(all), V(select),
            V(insert), V(update), V(delete)), C(roles) (V(public) by default), C(permissive) (true by default),
            C(using) and C(with_check).
          - Expressions are compared with what the server shows, with names of schemas; white space and parentheses
            around the whole do not count.
          - A policy that is missing, that is not declared, or that differs in one attribute is named, and so is one
            on a table where row-level security is not enabled.
        type: list
        elements: dict
      roles:
        description:
          - For each of C(superuser), C(bypassrls), C(createrole), C(createdb) and C(replication) that is named, the
            roles that may have the attribute. Superusers that are listed need not be listed for the others.
        type: dict
      public_grants:
        description:
          - For each of C(databases) (the one that is checked), C(schemas), C(tables) and C(functions) (those of
            security definer) that is named, what PUBLIC may do, such as C(CONNECT rently_lending) or
            C(SELECT public.country).
        type: dict
      security_definer:
        description:
          - Functions of security definer, but those C(exempt) such as C(public.touch(integer)), have a search_path of
            their own, without C($user) and without schemas where PUBLIC may create objects. Unless it is empty, it ends
            with C(pg_temp); C(pg_temp_last) false does without that.
        type: dict
      password_hashes:
        description: Every role with a password, but those C(exempt), has it as SCRAM-SHA-256.
        type: dict
      tls:
        description:
          - Every client that is connected by TCP uses TLS of at least C(min_version) (V(TLSv1.2) by default), but those
            from C(addresses_without) (the loopback by default) and those of C(roles_without).
        type: dict
      extensions:
        description: The extensions that may be installed.
        type: list
        elements: str
      severity:
        description: For a rule by its key, V(error) (the default), V(warning) or V(info).
        type: dict
  junit:
    description:
      - A file to write the results to, as JUnit XML, readable by its owner only.
      - It is a report about the run and does not count as a change.
    type: path
  fail_on:
    description:
      - Which rules fail the task when they are violated - those of severity error, warnings as well, or none.
    type: str
    choices: [error, warning, never]
    default: error
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Check that the database is guarded as declared
  holdfast.postgres.pg_security_check:
    database: crm
    expectations: "{{ lookup('ansible.builtin.file', 'security.yml') | from_yaml }}"

- name: See which roles and extensions there are beyond those that are known
  holdfast.postgres.pg_security_check:
    database: crm
    expectations:
      roles:
        superuser: [postgres]
        bypassrls: []
        createrole: [deployer]
      extensions: [plpgsql, pgcrypto]
      severity:
        extensions: warning
    fail_on: never
"""

RETURN = r"""
results:
  description:
    - One entry for each rule, in the form of those of M(holdfast.postgres.pg_check), so that
      M(holdfast.postgres.deployment) takes them as checks. Also returned when rules are violated.
  type: list
  elements: dict
  returned: when the expectations could be read and the database reached
  contains:
    suite:
      description: Always V(security).
      type: str
    name:
      description: The sentence that should hold.
      type: str
    severity:
      description: V(error), V(warning) or V(info).
      type: str
    status:
      description: V(passed), V(failed) or V(skipped), the last where the role may not read the facts.
      type: str
    errored:
      description: Whether the facts could not be read because of an error.
      type: bool
    message:
      description: The first violations, or the server's message.
      type: str
    rows:
      description: How many violations there are, null when that is not known.
      type: int
    sample:
      description: The first 20 violations, each with C(object) and C(problem).
      type: list
      elements: dict
    duration_ms:
      description: How long it took.
      type: float
    tags:
      description: V(security) and the key of the rule.
      type: list
      elements: str
failed_checks:
  description: How many rules of severity error are violated.
  type: int
  returned: with RV(results)
warned_checks:
  description: How many rules of severity warning are violated.
  type: int
  returned: with RV(results)
noted_checks:
  description: How many rules of severity info are violated.
  type: int
  returned: with RV(results)
passed_checks:
  description: How many rules hold.
  type: int
  returned: with RV(results)
skipped_checks:
  description: Of how many rules it is not known.
  type: int
  returned: with RV(results)
summary:
  description: One sentence with these numbers.
  type: str
  returned: with RV(results)
  sample: 'Database "crm": 9 of 10 checks passed, 1 failed (0.1 s).'
duration_s:
  description: How long all rules took together.
  type: float
  returned: with RV(results)
junit:
  description: Path of the JUnit file, null without O(junit).
  type: str
  returned: with RV(results)
code:
  description: V(check_failed), V(option_invalid), or another stable word.
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
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.security import check_security


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "database": {"type": "str", "required": True},
            "expectations": {
                "type": "dict",
                "required": True,
                "options": {
                    "row_level_security": {"type": "dict"},
                    "policies": {"type": "list", "elements": "dict"},
                    "roles": {"type": "dict"},
                    "public_grants": {"type": "dict"},
                    "security_definer": {"type": "dict"},
                    "password_hashes": {"type": "dict", "no_log": False},
                    "tls": {"type": "dict"},
                    "extensions": {"type": "list", "elements": "str"},
                    "severity": {"type": "dict"},
                },
            },
            "junit": {"type": "path"},
            "fail_on": {"type": "str", "choices": list(FAIL_ON), "default": "error"},
        },
        supports_check_mode=True,
    )
    options = module.params
    with failures_reported(module):
        result = check_security(
            server=server_from(options),
            database=options["database"],
            expectations=options["expectations"],
            fail_on=options["fail_on"],
            junit=options["junit"],
            write_files=not module.check_mode,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
