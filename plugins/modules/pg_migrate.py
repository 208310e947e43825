#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply and revert migrations."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_migrate
short_description: Apply, revert and list migrations of a PostgreSQL database
version_added: 0.1.0
description:
  - Brings a database to a version by running SQL files, and keeps a history of them in the database.
  - A migration is a directory C(<version>_<name>/) with C(up.sql) and, if wanted, C(down.sql) and C(verify.sql), or
    files C(<version>_<name>.up.sql), C(.down.sql) and C(.verify.sql). Versions such as V(0001), V(20240101120000) or
    V(v1.10.0) compare as numbers. Histories of Flyway, goose and Sqitch are run as they are, see O(layout).
  - Each file runs in one transaction together with its row in the history, so it is there whole or not at all,
    whenever the run ends.
  - A file with a statement that cannot run inside a transaction, such as C(CREATE INDEX CONCURRENTLY) or C(VACUUM),
    runs statement by statement, and the history says which of them are done; the next run goes on there.
  - "So does a file that begins with the line C(-- holdfast: no-transaction)."
  - A file with C(BEGIN) and C(COMMIT) of its own keeps its transactions, and the history is written in each of them.
  - A file with commands of psql, such as C(\set), C(\ir) or C(\copy), or with rows after C(COPY ... FROM STDIN),
    is run by psql on the managed host, in one transaction with its row in the history where that is possible.
  - C(verify.sql) runs after C(up.sql) in the same transaction, and what it writes is undone. An error in it, such as
    one of C(RAISE EXCEPTION), undoes the migration too.
  - Every statement waits for locks for O(lock_timeout_ms) at most. A file that could not get one is rolled back and
    tried again.
  - One runner works on a database at a time. Migrations need direct connections and refuse to run through PgBouncer.
  - Check mode connects and compares everything and runs nothing.
  - The page "migrate a database" of the collection's documentation describes the files, the history, locks, and what
    to do after a failure.
extends_documentation_fragment:
  - holdfast.postgres.connection
options:
  database:
    description: The database to migrate.
    type: str
    required: true
  layout:
    description:
      - How the files are named and what belongs together. RV(layout) tells what was found.
      - V(auto) goes by the names, and refuses files of several layouts. The first two may be mixed.
      - V(directories), as of Diesel, C(<version>_<name>/up.sql) with C(down.sql) and C(verify.sql).
      - V(golang-migrate), C(<version>_<name>.up.sql) with C(.down.sql) and C(.verify.sql).
      - V(flyway), C(V1.2__name.sql) with C(U1.2__name.sql), and C(R__name.sql), which runs after all others and again
        whenever it changed.
      - V(goose), C(<version>_<name>.sql) with lines C(-- +goose Up) and C(-- +goose Down).
      - V(sqitch), the changes of C(sqitch.plan) in its order, with files in C(deploy), C(revert) and C(verify).
      - V(command), a program that migrates by itself, such as Alembic, Rails or Django, see O(commands).
    type: str
    choices: [auto, directories, golang-migrate, flyway, goose, sqitch, command]
    default: auto
  commands:
    description:
      - How to run the program of O(layout=command), on the managed host and without a shell. V({target_version}) in an
        argument stands for O(target_version).
      - It finds the database by the variables of libpq, C(PGHOST), C(PGDATABASE), C(PGPASSFILE) and the others.
        The time-outs and O(role) are in C(PGOPTIONS).
      - C(changed) tells whether the output of C(status) is another one afterwards. While the program runs, and after
        it has failed, the history has a row that says so.
    type: dict
    suboptions:
      up:
        description: The program and its arguments that apply what is pending.
        type: list
        elements: str
        default: []
      down:
        description: The program and its arguments that go back to O(target_version).
        type: list
        elements: str
        default: []
      status:
        description:
          - The program and its arguments that print what the database has, the version in the last line.
          - It only looks, also in check mode, and prints the same as long as nothing is migrated.
        type: list
        elements: str
        required: true
      pending:
        description:
          - The program and its arguments that exit with 0 when nothing is pending, and with another code otherwise.
          - Without it, something may always be pending.
        type: list
        elements: str
        default: []
      chdir:
        description: The directory to run in.
        type: path
      timeout_s:
        description: The longest time of each of them in seconds; no limit by default.
        type: int
  include:
    description:
      - Which SQL files to consider; all by default.
      - A pattern is the end of a name when it begins with a dot, such as V(.postgres.sql); a regular expression after
        V(~); otherwise a glob, of the path below O(source) if it has a slash.
    type: list
    elements: str
    default: []
  prefer:
    description:
      - Dialects, such as V(postgres), that files may have in their names, as C(0001_x.up.postgres.sql) has.
      - Of files that are the same step the first one of this list counts, then one without dialect. A step that is
        there for other database systems alone is refused.
    type: list
    elements: str
    default: []
  no_transaction_pattern:
    description:
      - Which files run outside a transaction, beside those that say so themselves. A pattern as in O(include).
      - The mark of a pattern such as V(.notx.sql) is no part of the migration's name.
    type: str
  placeholders:
    description: Values for Flyway's placeholders C(${name}). A file with another placeholder is refused.
    type: dict
    default: {}
  source:
    description:
      - Directories of migrations, which are merged.
      - They are on the controller, relative paths as for O(ansible.builtin.copy#module:src), unless O(remote_src).
    type: list
    elements: path
    default: []
  remote_src:
    description: Whether the directories in O(source) are on the managed host.
    type: bool
    default: false
  files:
    description: What O(source) holds, as the action plugin reads it. Not for playbooks.
    type: list
    elements: dict
    suboptions:
      path:
        description: Where the file was read.
        type: str
        required: true
      content:
        description: Its content in Base64.
        type: str
        required: true
      beside:
        description: What it includes or loads by commands of psql.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description: Where the file was read.
            type: str
            required: true
          content:
            description: Its content in Base64.
            type: str
            required: true
  state:
    description:
      - V(applied) runs what is pending.
      - V(reverted) runs the steps down of what is newer than O(target_version), newest first.
      - V(status) lists what is applied and pending. It fails where V(applied) would refuse to begin.
      - V(baseline) records as applied, without running it, what a database had before this history began, by
        O(target_version) or O(adopt). It changes nothing when all of that is recorded, and fails when something else
        is.
    type: str
    choices: [applied, baseline, reverted, status]
    default: applied
  target_version:
    description:
      - The version to stop at. Quote it, since YAML reads 1.10 as the number 1.1.
      - With O(state=applied), the newest version by default; migrations above it stay as they are.
      - With O(state=reverted) it is required, and V(0) reverts everything.
      - With O(state=baseline), the newest version that the database has.
    type: str
  adopt:
    description:
      - The history of another tool that has migrated this database, to begin this history with. The name of its table,
        with a schema if it is in several, or V(auto) for the only one of V(flyway_schema_history),
        V(schema_migrations) of golang-migrate or Rails, V(goose_db_version), V(__diesel_schema_migrations) and
        V(sqitch.changes).
      - It is refused while a version in it is dirty or failed, and when its versions, or the checksums that Flyway and
        Sqitch keep, are not those of the files. O(allow_missing) and O(allow_out_of_order) apply.
      - With O(state=applied) and O(state=status) it matters while the history is empty. Without it they refuse a
        database that has such a table with rows in it; V(none) says that it has nothing to do with these files.
    type: str
  history_table:
    description:
      - The table of the history, with its schema. It is created by the first migration.
      - A table with at least C(version) that somebody else has made is adopted; columns that it lacks are added.
    type: str
    default: public.schema_version
  deployment_id:
    description: Kept in the history beside each migration.
    type: str
  lock_timeout_ms:
    description: The longest wait of a statement for a lock, in milliseconds; V(0) for no limit.
    type: int
    default: 2000
  lock_retries:
    description:
      - How often to try again what could not get a lock or met a deadlock.
      - The pauses begin at half a second and double.
      - A file with a transaction is tried again as a whole, otherwise the statement.
    type: int
    default: 5
  statement_timeout_ms:
    description: The longest time of a statement, in milliseconds; V(0) for no limit.
    type: int
    default: 0
  idle_in_transaction_session_timeout_ms:
    description: The longest time between two statements of a file, in milliseconds; V(0) for no limit.
    type: int
    default: 0
  max_blocking_s:
    description:
      - The longest time in seconds for which a migration may make any other session wait; V(0) for no limit.
      - A statement that takes longer with somebody waiting for it, or behind it, is cancelled and the migration fails.
        Only the session of the migration is cancelled; nobody else's.
    type: float
    default: 0
  row_versions:
    description:
      - With O(state=reverted), RV(holdfast.postgres.pg_new_data_info#module:versions) of tables that must not have been
        written to since. Each step looks at them again while writers wait, and is refused with the code
        V(rows_written) when they were.
      - Steps outside of one transaction are refused then.
    type: dict
  allow_out_of_order:
    description: Whether to apply migrations that are older than the newest applied one.
    type: bool
    default: false
  allow_missing:
    description: Whether to accept versions in the history for which there are no files.
    type: bool
    default: false
  role:
    description: A role to switch to before the files run, so that new objects belong to it.
    type: str
  bin_dir:
    description:
      - The directory that holds psql, for files with commands of psql.
      - By default the version of the server is looked for in the usual directories and in C(PATH); a newer one serves
        too.
    type: path
  allow_during_backup:
    description:
      - Whether to run while C(pg_dump), C(pg_dumpall) or M(holdfast.postgres.pg_backup) reads the database.
      - Its locks stand in the way of most changes of tables until it ends, and what waits for them blocks everybody.
    type: bool
    default: false
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Apply the pending migrations
  holdfast.postgres.pg_migrate:
    database: rently_lending
    source: [migrations]

- name: Show what is pending
  holdfast.postgres.pg_migrate:
    database: rently_lending
    source: [migrations]
    state: status
  register: migrations

- name: Apply what Alembic has pending
  holdfast.postgres.pg_migrate:
    database: rently_lending
    layout: command
    commands:
      up: [alembic, upgrade, head]
      down: [alembic, downgrade, "{target_version}"]
      status: [alembic, current]
      pending: [alembic, current, --check-heads]
      chdir: /srv/rently

- name: Take over a database that Flyway has migrated
  holdfast.postgres.pg_migrate:
    database: rently_lending
    source: [db/migration]
    state: baseline
    adopt: flyway_schema_history

- name: Go back to version 1
  holdfast.postgres.pg_migrate:
    database: rently_lending
    source: [migrations]
    state: reverted
    target_version: v1.0.0
"""

RETURN = r"""
applied:
  description: The migrations that were applied, in order. In a failure, those before it.
  returned: always
  type: list
  elements: dict
  contains:
    version:
      description: The version as in the file's name.
      type: str
    description:
      description: The rest of the file's name.
      type: str
    path:
      description: The file.
      type: str
    duration_ms:
      description: How long it took, with waits and retries.
      type: int
    statements:
      description: How many statements the file has.
      type: int
    transactional:
      description: Whether it ran in one transaction.
      type: bool
    transactional_reason:
      description: Why it did not, when it did not.
      type: str
    records:
      description: What each statement did, in their order. Of one that was tried again, the last time.
      type: list
      elements: dict
      contains:
        number:
          description: Its number in the file, from 1. Commands that begin or end a transaction are not counted.
          type: int
        line:
          description: Its line.
          type: int
        statement:
          description: Its first 200 characters, with passwords masked.
          type: str
        duration_ms:
          description: How long it took, with waits for locks.
          type: int
        rows:
          description: How many rows it wrote or returned; none for a statement that counts no rows.
          type: int
        lock_wait_ms:
          description: How long it waited for locks, in all attempts.
          type: int
        attempts:
          description: How often it was tried.
          type: int
        locks:
          description: The strongest lock that it took on each table, view or sequence that others could see, by name.
          type: dict
          sample: {public.loan: ShareRowExclusiveLock}
        strongest_lock:
          description: The strongest of them.
          type: str
        blocked_sessions:
          description: The most sessions that were seen waiting at one time for it, or behind it.
          type: int
        blocked_ms:
          description: The longest time that one of them had waited.
          type: int
        progress:
          description: What the server last said of its progress, for index builds, C(COPY), C(VACUUM) and C(CLUSTER).
          type: dict
    notices:
      description: The last 100 notices of the server.
      type: list
      elements: str
    lock_waits:
      description: Each attempt that could not get a lock.
      type: list
      elements: dict
      contains:
        attempt:
          description: The number of the attempt, from 1.
          type: int
        statement:
          description: The number of the statement in its file.
          type: int
        line:
          description: Its line.
          type: int
        waited_ms:
          description: How long the attempt took.
          type: int
        sqlstate:
          description: The server's code, V(55P03) for a lock time-out and V(40P01) for a deadlock.
          type: str
        lock:
          description: The mode of the lock that was waited for.
          type: str
        object:
          description: The table that it was waited for, or the kind of object.
          type: str
        blockers:
          description: The sessions that held it, the oldest transaction first.
          type: list
          elements: dict
          contains:
            pid:
              description: The process id; V(0) for a prepared transaction.
              type: int
            user:
              description: The role.
              type: str
            application:
              description: The application_name.
              type: str
            state:
              description: The state, such as V(idle in transaction).
              type: str
            transaction_age_s:
              description: How long its transaction had lasted.
              type: float
            query:
              description: The beginning of its current or last statement.
              type: str
recorded:
  description: What was recorded as applied without being run, in order. In check mode what would be.
  returned: always
  type: list
  elements: dict
  contains:
    version:
      description: The version as in the file's name.
      type: str
    description:
      description: What it is.
      type: str
    path:
      description: The file of the step up.
      type: str
reverted:
  description: The migrations that were reverted, in that order, as in RV(applied). In check mode those that would be.
  returned: always
  type: list
  elements: dict
pending:
  description: The migrations that are still to be applied, in order. In check mode those that would be.
  returned: always
  type: list
  elements: dict
  contains:
    version:
      description: The version as in the file's name.
      type: str
    description:
      description: The rest of the file's name.
      type: str
    path:
      description: The file of the step up.
      type: str
    checksum:
      description: The sha256 of this file.
      type: str
    has_down:
      description: Whether there is a step down.
      type: bool
    repeatable:
      description: Whether it runs again whenever its file changes.
      type: bool
    has_verify:
      description: Whether there is a verification.
      type: bool
    transactional:
      description: Whether it runs in one transaction.
      type: bool
    transactional_reason:
      description: Why it does not, when it does not.
      type: str
    statements:
      description: How many statements it has.
      type: int
    statements_done:
      description: How many of them an earlier run has done, for a file without transaction that stopped half-way.
      type: int
    down_checksum:
      description: The sha256 of the step down; none when there is none.
      type: str
    beyond_database:
      description:
        - Statements up, down or of the verification that change more than this database, such as C(CREATE ROLE) or
          C(ALTER SYSTEM), with their C(path), C(line), C(command) and C(statement). A copy is no place to try them.
      type: list
      elements: dict
history:
  description: The rows of the history in the order in which they were applied.
  returned: O(state=status)
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: str
    description:
      description: What it is.
      type: str
    applied_at:
      description: When it was applied, in UTC; none while it is not complete.
      type: str
    checksum:
      description:
        - The sha256 of the file, or of the statements that are done when RV(history[].state) is not V(applied).
      type: str
    down_checksum:
      description: The sha256 of the step down.
      type: str
    duration_ms:
      description: How long it took.
      type: int
    deployment_id:
      description: The deployment that applied it.
      type: str
    applied_by:
      description: The role that applied it.
      type: str
    state:
      description: V(applied), V(partial) half-way up, or V(reverting) half-way down.
      type: str
    statements_done:
      description: How many statements are done.
      type: int
    statements_total:
      description: How many statements the file has.
      type: int
layout:
  description: The layout of the files, such as V(flyway) or V(directories+golang-migrate); none without files.
  returned: always
  type: str
  sample: golang-migrate
program_status:
  description: What the program of O(layout=command) says about the database afterwards, by line.
  returned: O(layout=command)
  type: list
  elements: str
current_version:
  description: The version that was applied last and is complete; none when there is none.
  returned: always
  type: str
  sample: v2.0.0
target:
  description: The version that was asked for, or the newest among the files.
  returned: always
  type: str
partial:
  description: Whether a file without transaction has stopped half-way.
  returned: always
  type: bool
version:
  description: The migration that failed.
  returned: when a migration fails
  type: str
description:
  description: What the migration that failed is.
  returned: when a migration fails
  type: str
path:
  description: The file that failed.
  returned: when a migration fails or cannot be understood
  type: str
line:
  description: The line in it.
  returned: when a statement fails
  type: int
column:
  description: The column, when the server tells one.
  returned: when a statement fails
  type: int
statement:
  description: The first 200 characters of the statement, with passwords masked.
  returned: when a statement fails
  type: str
statement_number:
  description: Its number in the file, from 1.
  returned: when a statement fails
  type: int
sqlstate:
  description: The server's error code.
  returned: when a statement fails
  type: str
transactional:
  description: Whether the file that failed runs in one transaction.
  returned: when a migration fails
  type: bool
transactional_reason:
  description: Why it does not, when it does not.
  returned: when a migration fails
  type: str
records:
  description: As RV(applied[].records), for the statements of the migration that failed which ran.
  returned: when a migration fails
  type: list
  elements: dict
lock_waits:
  description: As RV(applied[].lock_waits), for the migration that failed.
  returned: when a migration fails
  type: list
  elements: dict
notices:
  description: As RV(applied[].notices), for the migration that failed.
  returned: when a migration fails
  type: list
  elements: str
"""

import base64
import binascii
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import (
    connection_argument_spec,
    failures_reported,
    server_from,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.command import Commands
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    AUTO,
    COMMAND,
    LAYOUTS,
    Options,
    SourceFile,
    options_from,
    read_directories,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate

SETTINGS = (
    "target_version",
    "history_table",
    "deployment_id",
    "lock_timeout_ms",
    "lock_retries",
    "statement_timeout_ms",
    "idle_in_transaction_session_timeout_ms",
    "max_blocking_s",
    "row_versions",
    "allow_out_of_order",
    "allow_missing",
    "role",
    "adopt",
    "bin_dir",
    "allow_during_backup",
)


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the module."""
    return {
        "database": {"type": "str", "required": True},
        "layout": {"type": "str", "choices": [AUTO, *LAYOUTS, COMMAND], "default": AUTO},
        "commands": {
            "type": "dict",
            "options": {
                **{name: {"type": "list", "elements": "str", "default": []} for name in ("up", "down", "pending")},
                "status": {"type": "list", "elements": "str", "required": True},
                "chdir": {"type": "path"},
                "timeout_s": {"type": "int"},
            },
        },
        "include": {"type": "list", "elements": "str", "default": []},
        "prefer": {"type": "list", "elements": "str", "default": []},
        "no_transaction_pattern": {"type": "str"},
        "placeholders": {"type": "dict", "default": {}},
        "source": {"type": "list", "elements": "path", "default": []},
        "remote_src": {"type": "bool", "default": False},
        "files": {
            "type": "list",
            "elements": "dict",
            "options": {
                "path": {"type": "str", "required": True},
                # A migration may set a password; in Base64 it is never taken for a part of the output.
                "content": {"type": "str", "required": True, "no_log": True},
                "beside": {
                    "type": "list",
                    "elements": "dict",
                    "default": [],
                    "options": {
                        "path": {"type": "str", "required": True},
                        "content": {"type": "str", "required": True, "no_log": True},
                    },
                },
            },
        },
        "state": {"type": "str", "choices": ["applied", "baseline", "reverted", "status"], "default": "applied"},
        "target_version": {"type": "str"},
        "adopt": {"type": "str"},
        "history_table": {"type": "str", "default": "public.schema_version"},
        "deployment_id": {"type": "str"},
        "lock_timeout_ms": {"type": "int", "default": 2000},
        "lock_retries": {"type": "int", "default": 5},
        "statement_timeout_ms": {"type": "int", "default": 0},
        "idle_in_transaction_session_timeout_ms": {"type": "int", "default": 0},
        "row_versions": {"type": "dict"},
        "max_blocking_s": {"type": "float", "default": 0},
        "allow_out_of_order": {"type": "bool", "default": False},
        "allow_missing": {"type": "bool", "default": False},
        "role": {"type": "str"},
        "bin_dir": {"type": "path"},
        "allow_during_backup": {"type": "bool", "default": False},
    }


def files_from(params: dict[str, Any], options: Options) -> list[SourceFile]:
    """Return the files of the directories, read here or by the action plugin."""
    if params["remote_src"] or params["files"] is None:
        return read_directories(params["source"], options)
    try:
        return [
            replace(_source_file(file), beside=tuple(map(_source_file, file["beside"]))) for file in params["files"]
        ]
    except binascii.Error as exc:
        raise HoldfastError(
            code="option_invalid",
            msg="The option files is not what the action plugin makes of source: %s." % exc,
            hint="Set source; files is not for playbooks.",
        ) from exc


def _source_file(file: dict[str, Any]) -> SourceFile:
    return SourceFile(path=file["path"], content=base64.b64decode(file["content"]))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**connection_argument_spec(), **argument_spec()}, supports_check_mode=True)
    module.add_path_info = lambda result: result  # RV(path) names a file of the controller
    with failures_reported(module):
        options = options_from(module.params)
        result = migrate(
            server=server_from(module.params),
            database=module.params["database"],
            files=files_from(module.params, options),
            options=options,
            commands=Commands(**(module.params["commands"] or {})),
            state=module.params["state"],
            settings=Settings(**{name: module.params[name] for name in SETTINGS}),
            check=module.check_mode,
        )
        versions = result.pop("versions")
        result["diff"] = {side: "".join(version + "\n" for version in versions[side]) for side in versions}
        module.exit_json(**result)


if __name__ == "__main__":
    main()
