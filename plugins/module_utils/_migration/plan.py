# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing files with the history: what is to be run, and every reason not to. Nothing here touches a server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import statements as scanner
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.history import (
    APPLIED,
    PARTIAL,
    REVERTING,
    Entry,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    Key,
    Migration,
    Script,
    invalid,
    is_repeatable,
    version_key,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import Statement

#: Gives a version, as the history or an operator writes it, its place among the others.
VersionKey = Callable[[str], Optional[Key]]

HINT_NO_TRANSACTION = "Put the line '-- holdfast: no-transaction' at the top of the file, or move the statement to one."


@dataclass(frozen=True)
class Prepared:
    """A file that has been read as statements and may be run."""

    script: Script
    statements: tuple[Statement, ...]
    transactional: bool

    def prefix_checksum(self, count: int) -> str:
        """The sha256 of the first ``count`` statements, for telling later whether what was done is still the same."""
        texts = [statement.text for statement in self.statements[:count]]
        return hashlib.sha256(scanner.joined(texts).encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Step:
    """A migration to be run up or down; ``entry`` is its row in the history, if there is one."""

    migration: Migration
    entry: Entry | None
    up: Prepared
    down: Prepared | None
    verify: Prepared | None


def prepare(script: Script, *, step: str) -> Prepared:
    """Return the statements of a file; raises `HoldfastError` (``migration_invalid``) for what cannot be run."""

    def refuse(offset: int, reason: str, hint: str) -> None:
        invalid(script.path, reason, hint, line=scanner.place(script.text, offset)[0])

    if script.problem is not None:
        invalid(script.path, script.problem.reason, script.problem.hint, line=script.problem.line)
    try:
        found = tuple(scanner.statements(script.text))
        directives = [found for found in scanner.directives(script.text) if not scanner.is_allowance(found[1])]
    except scanner.ScanError as exc:
        refuse(exc.offset, exc.message, exc.hint)
        raise AssertionError("refused") from exc
    for offset, words in directives:
        if words != scanner.NO_TRANSACTION or step == "verify":
            refuse(
                offset,
                "'holdfast: %s' is not known here" % words,
                "Known are 'no-transaction' at the top of a step up or down, and 'allow' for the lint.",
            )
    transactional = not directives and script.transactional is not False
    for statement in found:
        control = scanner.transaction_control(statement)
        if control is not None:
            refuse(
                statement.offset,
                "%s is not allowed in a migration" % control,
                "Remove it: each file runs in one transaction already."
                if transactional
                else "Remove it: each statement of this file stands alone. Use a file with a transaction instead.",
            )
        outside = scanner.outside_transaction(statement) if transactional else None
        if outside is not None:
            refuse(
                statement.offset,
                "%s cannot run inside a transaction" % outside,
                HINT_NO_TRANSACTION if step != "verify" else "Remove it: a verification only looks.",
            )
    return Prepared(script=script, statements=found, transactional=transactional)


def _step(migration: Migration, entry: Entry | None) -> Step:
    return Step(
        migration=migration,
        entry=entry,
        up=prepare(migration.up, step="up"),
        down=prepare(migration.down, step="down") if migration.down else None,
        verify=prepare(migration.verify, step="verify") if migration.verify else None,
    )


def plan_up(
    *,
    migrations: Sequence[Migration],
    entries: Sequence[Entry],
    target_version: str | None,
    allow_out_of_order: bool,
    allow_missing: bool,
    key: VersionKey = version_key,
) -> list[Step]:
    """Return what is pending, oldest first, up to and including ``target_version``.

    What runs again whenever it changed comes last, and not while ``target_version`` keeps other migrations pending.
    ``key`` gives versions their places.

    Raises `HoldfastError` with the codes ``migration_missing``, ``migration_changed``, ``migration_out_of_order``,
    ``migration_invalid``, ``migration_failed`` (one is half-way down) and ``option_invalid``.
    """
    recorded = _by_key(entries)
    target = _target(target_version, known={m.key for m in migrations} | set(recorded), key=key)
    for entry in entries:
        if entry.state == REVERTING:
            raise HoldfastError(
                code="migration_failed",
                msg="Migration %s is half-way down: %s of %s statements of its down file are done."
                % (entry.version, entry.statements_done, entry.statements_total),
                hint="Finish it with state=reverted and the version below it as target_version.",
                version=entry.version,
                partial=True,
            )
    if not allow_missing:
        _refuse_missing(migrations, entries)
    refuse_changed(migrations, recorded)
    pending = [m for m in migrations if _is_pending(m, recorded.get(m.key))]
    newest = max((place for place in recorded if not is_repeatable(place)), default=None)
    late = [m for m in pending if m.key not in recorded and newest is not None and m.key < newest]
    if late and not allow_out_of_order:
        raise HoldfastError(
            code="migration_out_of_order",
            msg="%s older than %s, which is applied: %s."
            % (
                "A pending migration is" if len(late) == 1 else "%d pending migrations are" % len(late),
                recorded[newest].version if newest is not None else "",
                ", ".join("%s (%s)" % (m.version, m.up.path) for m in late),
            ),
            hint="Give it a version above the newest, or set allow_out_of_order if the order does not matter.",
            paths=[m.up.path for m in late],
        )
    wanted = [m for m in pending if target is None or m.key <= target]
    if len(wanted) == sum(not m.repeatable for m in pending):
        wanted = pending
    return [_step(m, entry if entry and entry.state == PARTIAL else None) for m, entry in _with(wanted, recorded)]


def _is_pending(migration: Migration, entry: Entry | None) -> bool:
    if entry is None or entry.state == PARTIAL:
        return True
    return migration.repeatable and entry.checksum != migration.up.checksum


def _with(migrations: Sequence[Migration], recorded: Mapping[Key, Entry]) -> list[tuple[Migration, Entry | None]]:
    return [(migration, recorded.get(migration.key)) for migration in migrations]


def plan_down(
    *,
    migrations: Sequence[Migration],
    entries: Sequence[Entry],
    target_version: str | None,
    key: VersionKey = version_key,
) -> list[Step]:
    """Return what is newer than ``target_version``, in the reverse of the order in which it was applied.

    Raises `HoldfastError` with the codes ``option_invalid``, ``migration_irreversible``, ``migration_changed`` and
    ``migration_invalid``.
    """
    if not target_version:
        raise HoldfastError(
            code="option_invalid",
            msg="state=reverted needs target_version, the version that is to be current afterwards.",
            hint='Name a version of the history, or "0" to revert everything.',
        )
    recorded = _by_key(entries)
    target = None if target_version == "0" else _target(target_version, known=set(recorded), key=key)
    known = {migration.key: migration for migration in migrations}
    newer = [e for e in reversed(entries) if e.key is not None and (target is None or e.key > target)]
    if all(is_repeatable(entry.key) for entry in newer):
        newer = []
    # What is half-way stands at the end of time, whatever its row says.
    newer.sort(key=lambda entry: entry.state == APPLIED)
    irreversible = []
    for entry in newer:
        migration = known.get(entry.key or ())
        if migration is None:
            irreversible.append("%s (its files are missing)" % entry.version)
        elif migration.down is None:
            irreversible.append("%s (%s has no down file beside it)" % (entry.version, migration.up.path))
    if target is None:
        irreversible += ["%s (the layout knows no such version)" % e.version for e in entries if e.key is None]
    if irreversible:
        raise HoldfastError(
            code="migration_irreversible",
            msg="Cannot revert to %s, nothing was touched: no way down from %s."
            % (target_version, ", ".join(irreversible)),
            hint="Write the down files, or go back with rollback.yml, which uses a clone or an archive.",
            irreversible=irreversible,
        )
    refuse_changed(migrations, {entry.key: entry for entry in newer if entry.key is not None})
    seen: set[Key] = set()
    steps = []
    for entry in newer:
        if entry.key is not None and entry.key not in seen:
            seen.add(entry.key)
            step = _step(known[entry.key], entry)
            if entry.state == REVERTING and step.down is not None:
                _refuse_changed_prefix(entry, step.down)
            steps.append(step)
    return steps


def _by_key(entries: Sequence[Entry]) -> dict[Key, Entry]:
    return {entry.key: entry for entry in entries if entry.key is not None}


def _target(target_version: str | None, *, known: set[Key], key: VersionKey) -> Key | None:
    if not target_version:
        return None
    place = key(target_version)
    if place is None or place not in known or is_repeatable(place):
        raise HoldfastError(
            code="option_invalid",
            msg="target_version %r is not the version of any migration." % target_version,
            hint="Run the task with state=status to see the versions; quote versions in YAML, 1.10 is the number 1.1.",
        )
    return place


def _refuse_missing(migrations: Sequence[Migration], entries: Sequence[Entry]) -> None:
    known = {migration.key for migration in migrations}
    missing = [entry.version for entry in entries if entry.key not in known]
    if missing:
        raise HoldfastError(
            code="migration_missing",
            msg="The history names %s that no file is there for: %s."
            % ("a migration" if len(missing) == 1 else "%d migrations" % len(missing), ", ".join(missing)),
            hint="Check source: is the checkout older than the database? Set allow_missing if the files are gone"
            " for good.",
            versions=missing,
        )


def refuse_changed(migrations: Sequence[Migration], recorded: Mapping[Key, Entry]) -> None:
    """Raise `HoldfastError` when a file is not the one that the history knows. Rows without checksum are accepted."""
    changed = []
    for migration in migrations:
        entry = recorded.get(migration.key)
        if entry is None or not entry.checksum:
            continue
        if entry.state == PARTIAL:
            _refuse_changed_prefix(entry, prepare(migration.up, step="up"))
        elif entry.state == APPLIED and entry.checksum != migration.up.checksum and not migration.repeatable:
            changed.append((migration, entry.checksum))
    if not changed:
        return
    first, recorded_checksum = changed[0]
    raise HoldfastError(
        code="migration_changed",
        msg="%s changed after it was applied; nothing was run. Recorded checksum %s, file %s.%s"
        % (
            first.up.path,
            recorded_checksum,
            first.up.checksum,
            " So did %s." % ", ".join(m.up.path for m, _checksum in changed[1:]) if changed[1:] else "",
        ),
        hint="Put the file back as it was (version control knows it) and write the change as a new migration.",
        version=first.version,
        path=first.up.path,
        changed_files=[
            {"version": m.version, "path": m.up.path, "recorded": checksum, "found": m.up.checksum}
            for m, checksum in changed
        ],
    )


def _refuse_changed_prefix(entry: Entry, prepared: Prepared) -> None:
    """Raise `HoldfastError` when a file that stopped half-way is no more the same up to where it stopped."""
    done = entry.statements_done or 0
    found = prepared.prefix_checksum(done)
    if not prepared.transactional and done <= len(prepared.statements) and found == entry.checksum:
        return
    raise HoldfastError(
        code="migration_changed",
        msg="%s stopped after statement %d, and what was done is not what the file says now; nothing was run."
        " Recorded checksum of the first %d statements %s, file %s%s."
        % (
            prepared.script.path,
            done,
            done,
            entry.checksum,
            found,
            ", which lost its no-transaction line" if prepared.transactional else "",
        ),
        hint="Put the first %d statements back as they were; those after them may be mended." % done,
        version=entry.version,
        path=prepared.script.path,
        partial=True,
    )
