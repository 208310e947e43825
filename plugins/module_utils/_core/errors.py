# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception of the collection, and the stable words that it carries."""

from __future__ import annotations

from typing import Any

#: Every code that a failure can carry, and what it means. Codes are an interface: playbooks test them.
CODES: dict[str, str] = {
    "archive_corrupt": "An archive is truncated, altered or incomplete; it is not a backup.",
    "archive_not_found": "No archive with that path or id, or no good one at all.",
    "authentication_failed": "The server refused the role or its password.",
    "backup_running": "A backup of the database is being taken, and would be in the way.",
    "baseline_not_found": "No baseline of query times with that version in the ledger.",
    "check_failed": "A check of severity error did not hold.",
    "client_too_old": "The client programs are older than the server.",
    "confirm_required": "A destructive action needs the exact name of the live database as confirmation.",
    "connection_failed": "The server cannot be reached or does not answer.",
    "database_in_use": "Other sessions are connected and did not leave in time.",
    "database_invalid": "The database is left over from an interrupted DROP DATABASE and cannot be used.",
    "database_not_found": "No database with that name on this server.",
    "deployment_not_found": "No deployment with that id in the ledger.",
    "deployment_running": "Another deployment of the same live database is running.",
    "destination_full": "Not enough free space for what is about to be written.",
    "destination_unwritable": "The destination cannot be written by this user.",
    "driver_missing": "The Python driver psycopg2 is not installed for this interpreter.",
    "extension_missing": "An extension that is needed is not available on this server.",
    "gate_closed": "An approval, a check or the change window that a gate asks for is missing.",
    "history_differs": "The history of migrations, or the one to be taken over, is not the one that was expected.",
    "interrupted": "A signal ended the run; what it had begun was undone.",
    "ledger_unavailable": "The ledger cannot be reached or written.",
    "library_missing": "A Python library that an option needs is not installed for this interpreter.",
    "lint_failed": "The lint found in a pending migration what is to stop the deployment.",
    "migration_changed": "A migration file changed after it was applied.",
    "migration_failed": "A migration's SQL failed; its file was rolled back or stopped at the named statement.",
    "migration_invalid": "A migration file or directory cannot be understood.",
    "migration_irreversible": "A migration has no step down.",
    "migration_locked": "Another runner is migrating the same database.",
    "migration_missing": "The history names a migration that is not among the files.",
    "migration_out_of_order": "A pending migration is older than the newest applied one.",
    "migration_version_duplicate": "Two migrations carry the same version.",
    "name_invalid": "A name is empty, holds a NUL byte or exceeds 63 bytes.",
    "operation_running": "Another run of the collection is working on the same database.",
    "option_invalid": "An option's value makes no sense.",
    "pause_refused": "A pooler could not make clients wait: a transaction did not end, or it did not answer.",
    "pause_too_long": "Clients would have to wait for longer than they may.",
    "permission_denied": "The role lacks a privilege that this action needs.",
    "probe_failed": "A probe of severity error did not hold: the application does not answer as expected.",
    "program_failed": "A client program ended with an error.",
    "program_not_found": "A client program is not installed where it was looked for.",
    "query_failed": "The server reported an error for a statement of the collection itself.",
    "restore_differs": "The restored database does not equal the archive's manifest.",
    "role_missing": "A role that owns or may use something in the archive does not exist on this server.",
    "rows_differ": "Rows that were carried forward are not equal to those that they were copied from.",
    "rows_written": "Rows were written to what is about to be dropped, after they were looked at.",
    "server_is_standby": "The server is a standby; the action needs the primary.",
    "snapshot_lost": "A snapshot cannot be used, or a table was truncated, rewritten or dropped after it was taken.",
    "suite_invalid": "A suite of checks, or a file of named queries, cannot be understood.",
    "swap_blocked": "Something keyed to the database prevents its renaming.",
    "target_exists": "The target exists already; nothing is overwritten.",
    "test_failed": "A database test failed, died, stopped before the end of its plan or ran out of time.",
    "timeout": "The action did not finish within the time it was given.",
    "timing_regressed": "A named query became slower than it may, changed its plan for the worse, or no longer runs.",
    "unsupported": "This server version or build cannot do what was asked.",
}


class HoldfastError(Exception):
    """A failure that an operator can act on.

    ``msg`` says what happened, where and why; ``hint`` is the next step; ``code`` is one of `CODES`;
    ``details`` are further facts as JSON-able values, returned by the module beside the message.
    """

    def __init__(self, *, code: str, msg: str, hint: str, **details: Any) -> None:
        if code not in CODES:
            raise ValueError("unknown error code: %s" % code)
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.hint = hint
        self.details = details

    def as_result(self) -> dict[str, Any]:
        """Return the failure as the keys of a module result."""
        return dict(self.details, msg=self.msg, code=self.code, hint=self.hint)
