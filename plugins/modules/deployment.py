#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the record of deployments."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment
short_description: Keep the record of deployments in the ledger
version_added: 0.1.0
description:
  - Opens, records and closes deployments in the ledger, and lists them with their rollback points.
  - The ledger is a small database of its own, made on first use and owned by the role that makes it, because a
    record inside the live database would vanish with a rollback. A database that holds anything else is refused.
  - While the ledger cannot be reached or written, the record goes as lines of JSON to O(journal_dir), with a warning,
    and the task succeeds. The next call that reaches the ledger imports it, exactly once.
  - Values in O(details) under keys such as C(password), C(secret) or C(token) are masked before they are stored.
  - A record tells of the run and is no change of what the run manages. RV(ignore:changed) is therefore true only when
    the database or the tables of the ledger were made or upgraded.
  - Check mode stores nothing and returns what would be. A deployment that only check mode opened is not in the
    ledger, so check mode accepts further records for any id.
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  state:
    description:
      - V(opened) begins a deployment. Repeating it for one that is still running changes nothing.
      - V(recorded) adds to it. Everything that is given is stored in one call.
      - V(closed) adds likewise and ends it with O(status).
      - V(listed) returns deployments and rollback points, newest first.
    type: str
    choices: [opened, recorded, closed, listed]
    required: true
  deployment_id:
    description:
      - Which deployment. V(opened) makes an id such as V(20261120T221500Z-7f3a) when there is none.
      - Required for V(recorded) and V(closed). With V(listed), the one deployment with everything that was recorded.
      - Letters, digits, dots, underscores and dashes, since it names files as well.
    type: str
  live_database:
    description:
      - The database that applications connect to. Required for V(opened).
      - With V(listed), only its deployments and rollback points.
    type: str
  kind:
    description: What the deployment does.
    type: str
    choices: [deploy, rollback, backup, restore, verify, cleanup]
    default: deploy
  status:
    description: How the deployment ended. Required for V(closed), and without meaning otherwise.
    type: str
    choices: [succeeded, failed, rolled_back, stopped]
  summary:
    description: One paragraph for people.
    type: str
  operator:
    description: Who runs it.
    type: str
  controller:
    description: The host or job runner that it runs from.
    type: str
  details:
    description: Further facts, added to those that are stored.
    type: dict
  step:
    description: One step. A step that is recorded again under its name replaces what is stored of it.
    type: dict
    suboptions: &step
      name:
        description: Name of the step.
        type: str
        required: true
      status:
        description: How it stands.
        type: str
        choices: [running, succeeded, failed, skipped, rolled_back, stopped]
        default: succeeded
      started_at:
        description: When it began, in ISO 8601. A time without an offset is UTC.
        type: str
      finished_at:
        description: When it ended. Without it and O(step.duration_s), a step that does not run ended now.
        type: str
      duration_s:
        description: How long it took in seconds, otherwise the difference of the two times.
        type: float
      details:
        description: Further facts.
        type: dict
  steps:
    description: Several steps.
    type: list
    elements: dict
    suboptions: *step
  checks:
    description:
      - Results of M(holdfast.postgres.pg_check), stored with the name of O(step) as their stage.
      - The same check may be recorded several times, before and after a change.
    type: list
    elements: dict
  migrations:
    description: What M(holdfast.postgres.pg_migrate) returned of each migration. Each needs a C(version).
    type: list
    elements: dict
  rollback_point:
    description:
      - What an undo will use. One of a kind is kept for each deployment; recording it again adds what is given.
    type: dict
    suboptions:
      kind:
        description: What it is.
        type: str
        choices: [clone, archive]
        required: true
      deployment_id:
        description: The deployment that it undoes, if not O(deployment_id). An undo tells thus which point it used.
        type: str
      state:
        description:
          - Whether an undo can use it. V(unneeded) says that the deployment failed before it changed anything; with
            one of its points, all points of the deployment are passed over.
        type: str
        choices: [available, used, unneeded, removed]
        default: available
      live_database:
        description: The live database, if not O(live_database).
        type: str
      live_oid:
        description: OID of the live database when the point was taken.
        type: int
      side_database:
        description: Name of the clone.
        type: str
      side_oid:
        description: OID of the clone.
        type: int
      archive_path:
        description: Path of the archive.
        type: str
      archive_id:
        description: Id of the archive.
        type: str
      taken_at:
        description: When it was taken, in ISO 8601, otherwise now.
        type: str
      schema_version:
        description: Version of the schema that it holds.
        type: str
      bytes:
        description: Its size in bytes.
        type: int
      expected_undo_s:
        description: How long an undo should take in seconds.
        type: float
      write_counters:
        description: The server's counters of written rows when it was taken, to tell what an undo leaves behind.
        type: dict
  alert:
    description: Something that people were told.
    type: dict
    suboptions:
      level:
        description: How urgent it is.
        type: str
        choices: [info, warning, critical]
        default: warning
      text:
        description: What was told.
        type: str
        required: true
      details:
        description: Further facts.
        type: dict
  incident:
    description: Something that went wrong and needs people.
    type: dict
    suboptions:
      id:
        description: Its id in the ledger, to change it later. Without it, a new one.
        type: str
      title:
        description: One line that says what is wrong.
        type: str
        required: true
      severity:
        description: The word for its severity.
        type: str
        default: major
      status:
        description: Whether it is settled.
        type: str
        choices: [open, closed]
        default: open
      details:
        description: Further facts.
        type: dict
  ledger_database:
    description: Name of the ledger's database.
    type: str
    default: holdfast
  journal_dir:
    description:
      - Directory for the records that the ledger cannot take, made with mode 0700 when it is needed.
      - Without it, a ledger that cannot be used fails the task.
    type: path
  must_record:
    description:
      - Fail where neither the ledger nor O(journal_dir) takes the record, or knows the deployment.
      - Without it, the task warns and succeeds, and nothing is recorded. It is for emergencies.
    type: bool
    default: true
  exclusive:
    description: Refuse to open a deployment while another of the same live database is running.
    type: bool
    default: false
  stale_after_s:
    description:
      - With O(exclusive), a deployment that has been running for longer than this does not count - its run is dead.
    type: float
    default: 21600
  limit:
    description: The most deployments to list. Rollback points are always listed completely.
    type: int
    default: 20
  listed:
    description:
      - With V(opened), return what V(listed) would as well, so that an emergency asks the ledger once.
    type: bool
    default: false
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Open a deployment
  holdfast.postgres.deployment:
    state: opened
    live_database: rently_lending
    journal_dir: /var/backups/holdfast/ledger
  register: opened

- name: Record a step with the checks that it made
  holdfast.postgres.deployment:
    state: recorded
    deployment_id: "{{ opened.deployment.id }}"
    journal_dir: /var/backups/holdfast/ledger
    step:
      name: verify
      started_at: "{{ verify_started_at }}"
    checks: "{{ verify_result.results }}"

- name: Close it
  holdfast.postgres.deployment:
    state: closed
    deployment_id: "{{ opened.deployment.id }}"
    journal_dir: /var/backups/holdfast/ledger
    status: succeeded
    summary: Version 2.0.0 serves.

- name: List what could be undone, and how
  holdfast.postgres.deployment:
    state: listed
    live_database: rently_lending
  register: ledger
"""

RETURN = r"""
deployment:
  description:
    - The deployment as it stands. Null when several were listed.
    - Times are ISO 8601 in UTC, with microseconds.
  type: dict
  returned: success
  contains: &deployment
    id:
      description: Its id.
      type: str
    database:
      description: The live database.
      type: str
    kind:
      description: What it does.
      type: str
    status:
      description: V(running), or how it ended.
      type: str
    started_at:
      description: When it was opened.
      type: str
    finished_at:
      description: When it was closed, null while it runs.
      type: str
    duration_s:
      description: Seconds between the two.
      type: float
    operator:
      description: Who runs it.
      type: str
    controller:
      description: Where it runs from.
      type: str
    summary:
      description: One paragraph for people.
      type: str
    details:
      description: Further facts.
      type: dict
    steps:
      description:
        - Its steps in order, each with C(name), C(status), C(started_at), C(finished_at), C(duration_s), C(details).
      type: list
      elements: dict
    checks:
      description:
        - Results of checks as they were recorded, each with its C(stage).
        - This and what follows is returned only when the deployment is closed, or listed by its id.
      type: list
      elements: dict
    migrations:
      description: Migrations as they were recorded, those values without a name of their own in C(details).
      type: list
      elements: dict
    rollback_points:
      description: Rollback points of this deployment, as in RV(rollback_points).
      type: list
      elements: dict
    alerts:
      description: Alerts, each with C(level), C(text), C(raised_at), C(details).
      type: list
      elements: dict
    incidents:
      description: Incidents, each with C(id), C(title), C(severity), C(status), C(opened_at), C(closed_at), C(details).
      type: list
      elements: dict
deployments:
  description: Deployments, newest first, at most O(limit).
  type: list
  elements: dict
  returned: when O(state=listed) or O(listed)
  contains: *deployment
rollback_points:
  description:
    - All rollback points of O(live_database), newest first, with the keys of O(rollback_point).
      C(deployment_id) is always that of the deployment that the point undoes.
  type: list
  elements: dict
  returned: when O(state=listed) or O(listed)
ledger:
  description: Where the record is, V(database) or V(journal), or V(nowhere) without O(must_record).
  type: str
  returned: success
imported_records:
  description: How many records of journals this call imported.
  type: int
  returned: success
code:
  description:
    - V(deployment_not_found), V(deployment_running), V(target_exists), V(ledger_unavailable) or another stable word.
  type: str
  returned: failure
"""

from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.ledger import record_deployment
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.record import (
    ALERT_LEVELS,
    FINAL_STATUSES,
    INCIDENT_STATUSES,
    KINDS,
    ROLLBACK_POINT_KINDS,
    ROLLBACK_POINT_STATES,
    STATES,
    STEP_STATUSES,
)

STEP_OPTIONS = {
    "name": {"type": "str", "required": True},
    "status": {"type": "str", "choices": list(STEP_STATUSES), "default": "succeeded"},
    "started_at": {"type": "str"},
    "finished_at": {"type": "str"},
    "duration_s": {"type": "float"},
    "details": {"type": "dict"},
}

ROLLBACK_POINT_OPTIONS = {
    "kind": {"type": "str", "choices": list(ROLLBACK_POINT_KINDS), "required": True},
    "deployment_id": {"type": "str"},
    "state": {"type": "str", "choices": list(ROLLBACK_POINT_STATES), "default": "available"},
    "live_database": {"type": "str"},
    "live_oid": {"type": "int"},
    "side_database": {"type": "str"},
    "side_oid": {"type": "int"},
    "archive_path": {"type": "str"},
    "archive_id": {"type": "str"},
    "taken_at": {"type": "str"},
    "schema_version": {"type": "str"},
    "bytes": {"type": "int"},
    "expected_undo_s": {"type": "float"},
    "write_counters": {"type": "dict"},
}

ALERT_OPTIONS = {
    "level": {"type": "str", "choices": list(ALERT_LEVELS), "default": "warning"},
    "text": {"type": "str", "required": True},
    "details": {"type": "dict"},
}

INCIDENT_OPTIONS = {
    "id": {"type": "str"},
    "title": {"type": "str", "required": True},
    "severity": {"type": "str", "default": "major"},
    "status": {"type": "str", "choices": list(INCIDENT_STATUSES), "default": "open"},
    "details": {"type": "dict"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "state": {"type": "str", "choices": list(STATES), "required": True},
            "deployment_id": {"type": "str"},
            "live_database": {"type": "str"},
            "kind": {"type": "str", "choices": list(KINDS), "default": "deploy"},
            "status": {"type": "str", "choices": list(FINAL_STATUSES)},
            "summary": {"type": "str"},
            "operator": {"type": "str"},
            "controller": {"type": "str"},
            "details": {"type": "dict"},
            "step": {"type": "dict", "options": STEP_OPTIONS},
            "steps": {"type": "list", "elements": "dict", "options": STEP_OPTIONS},
            "checks": {"type": "list", "elements": "dict"},
            "migrations": {"type": "list", "elements": "dict"},
            "rollback_point": {"type": "dict", "options": ROLLBACK_POINT_OPTIONS},
            "alert": {"type": "dict", "options": ALERT_OPTIONS},
            "incident": {"type": "dict", "options": INCIDENT_OPTIONS},
            "ledger_database": {"type": "str", "default": "holdfast"},
            "journal_dir": {"type": "path"},
            "must_record": {"type": "bool", "default": True},
            "exclusive": {"type": "bool", "default": False},
            "stale_after_s": {"type": "float", "default": 21600},
            "limit": {"type": "int", "default": 20},
            "listed": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    with failures_reported(module):
        result = record_deployment(
            module.params,
            server=server_from(module.params),
            now=datetime.now(timezone.utc),
            check_mode=module.check_mode,
        )
        for warning in result.pop("warnings"):
            module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
