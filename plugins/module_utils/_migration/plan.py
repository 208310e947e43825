# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing files with the history: what is to be run, and every reason not to. Nothing here touches a server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Optional

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import psql
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

#: How a transaction begins, unless the file asks for one of another kind.
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"


@dataclass(frozen=True)
class Group:
    """Consecutive statements of a file in one transaction, which ``begin`` opens; without it, one that stands alone."""

    first: int
    statements: tuple[Statement, ...]
    begin: str | None

    @property
    def last(self) -> int:
        """The number of the last statement, counted from 1 in the file."""
        return self.first + len(self.statements) - 1


@dataclass(frozen=True)
class Reading:
    """The statements of a file, or of one that it includes."""

    path: str
    text: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Prepared:
    """A file that has been read as statements and may be run.

    The commands that begin and end the file's own transactions are no statements: they are what ``groups`` says.
    ``reason`` is why it does not run in one transaction, when it does not.

    A file for psql is one statement, and ``for_psql`` what psql gets: the text without a transaction of its own around
    all of it. ``read`` is what is known of the SQL in it and in the files that it includes.
    """

    script: Script
    statements: tuple[Statement, ...]
    groups: tuple[Group, ...]
    reason: str | None = None
    for_psql: str | None = None
    read: tuple[Reading, ...] = ()

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The statements of each file."""
        return self.read or (Reading(self.script.path, self.script.text, self.statements),)

    @property
    def transactional(self) -> bool:
        """Whether the whole file is one transaction."""
        return self.reason is None

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
    if script.problem is not None:
        invalid(script.path, script.problem.reason, script.problem.hint, line=script.problem.line)
    try:
        found = scanner.statements(script.text)
        directives = [each for each in scanner.directives(script.text) if not scanner.is_allowance(each[1])]
    except scanner.NeedsPsql:
        return prepare_for_psql(script, step=step)
    except scanner.ScanError as exc:
        _refuse(script, exc.offset, exc.message, exc.hint)
    _check_directives(script, directives, step=step)
    groups = _groups(script, found, verify=step == "verify")
    statements = tuple(statement for group in groups for statement in group.statements)
    told = directives or script.transactional is False
    reason = "the file says no-transaction" if told else _reason(script, groups)
    if reason is None or step == "verify":
        begin = next((group.begin for group in groups if group.begin is not None), BEGIN)
        return Prepared(script=script, statements=statements, groups=(Group(1, statements, begin),))
    return Prepared(script=script, statements=statements, groups=groups, reason=reason)


def _check_directives(script: Script, directives: Sequence[tuple[int, str]], *, step: str) -> None:
    for offset, words in directives:
        if words != scanner.NO_TRANSACTION or step == "verify":
            _refuse(
                script,
                offset,
                "'holdfast: %s' is not known here" % words,
                "Known are 'no-transaction' at the top of a step up or down, and 'allow' for the lint.",
            )


def prepare_for_psql(script: Script, *, step: str) -> Prepared:
    """Return a file as psql runs it; raises `HoldfastError` (``migration_invalid``) for what is refused."""
    contents = {file.path: file.content.decode("utf-8-sig", "replace") for file in script.beside}
    try:
        files = psql.included(script.text, path=script.path, contents=contents)
    except psql.IncludedScanError as exc:
        place = scanner.place(exc.text, exc.error.offset)[0]
        invalid(exc.path, exc.error.message, exc.error.hint, line=place)
    directives = [each for each in scanner.directives(script.text) if not scanner.is_allowance(each[1])]
    _check_directives(script, directives, step=step)
    text, (main, *others) = script.text, files
    around = _own_transaction(main[1], verify=step == "verify")
    for statement in around:
        blank = re.sub(r"[^\n]", " ", statement.text)
        text = text[: statement.offset] + blank + text[statement.offset + len(statement.text) :]
    inner = [s for s in main[1].statements if s not in around]
    readings = tuple(
        Reading(path, script.text if path == script.path else contents[path], tuple(statements))
        for path, statements in [(main[0], inner), *((path, file.statements) for path, file in others)]
    )
    told = directives or script.transactional is False
    reason = "the file says no-transaction" if told else _reason_for_psql(readings)
    if step == "verify" and reason is not None:
        invalid(script.path, "a verification runs in a transaction: %s" % reason, "Remove it: a verification looks.")
    whole = scanner.joined([script.text, *(file.content.decode("utf-8", "replace") for file in script.beside)])
    return Prepared(
        script=script,
        statements=(Statement(text=whole, offset=0, head=("(psql)",), inside=()),),
        groups=(),
        reason=reason,
        for_psql=script.text if reason is not None else text,
        read=readings,
    )


def _own_transaction(file: psql.File, *, verify: bool) -> list[Statement]:
    """Return BEGIN and COMMIT that stand around all the rest of a file, or nothing."""
    controls = [s for s in file.statements if scanner.transaction_control(s)]
    endings = (*scanner.ENDINGS, "ROLLBACK", "ABORT") if verify else scanner.ENDINGS
    if (
        len(controls) == 2
        and all(control in file.unconditional for control in controls)
        and controls == [file.statements[0], file.statements[-1]]
        and scanner.transaction_control(controls[0]) in scanner.BEGINNINGS
        and scanner.beginning(controls[0]) is None
        and scanner.transaction_control(controls[1]) in endings
        and "CHAIN" not in controls[1].words
    ):
        return controls
    return []


def _reason_for_psql(readings: Sequence[Reading]) -> str | None:
    """Return why psql does not run a file in one transaction, or None when it does."""
    for reading in readings:
        for statement in reading.statements:
            where = "line %d of %s" % (scanner.place(reading.text, statement.offset)[0], reading.path)
            if scanner.transaction_control(statement):
                return "the file has transactions of its own, see %s" % where
            outside = scanner.outside_transaction(statement)
            if outside is not None:
                return "%s in %s cannot run inside a transaction" % (outside, where)
            if scanner.commits_by_itself(statement):
                return "the code in %s ends its transaction by itself" % where
    used = scanner.enum_value_used_later([s for reading in readings for s in reading.statements])
    if used is not None:
        return "an enum value that it adds is used in it, and has to be committed before: %s" % used[0].shown
    return None


def _refuse(script: Script, offset: int, reason: str, hint: str) -> NoReturn:
    invalid(script.path, reason, hint, line=scanner.place(script.text, offset)[0])


def _groups(script: Script, found: Sequence[Statement], *, verify: bool) -> tuple[Group, ...]:
    """Return what a file is for a client that sends it as it is: its own transactions, and each statement between."""
    groups: list[Group] = []
    opened: Statement | None = None
    inside: list[Statement] = []
    number = 1
    for statement in found:
        control = scanner.transaction_control(statement)
        outside = scanner.outside_transaction(statement)
        if control in scanner.BEGINNINGS and opened is None:
            opened, inside = statement, []
        elif (
            opened is not None
            and (control in scanner.ENDINGS or (verify and control in ("ROLLBACK", "ABORT")))
            and "CHAIN" not in statement.words
        ):
            if inside:
                groups.append(Group(number, tuple(inside), scanner.beginning(opened) or BEGIN))
                number += len(inside)
            opened = None
        elif control is not None:
            _refuse(
                script, statement.offset, "%s is not allowed here" % statement.shown, _control_hint(control, opened)
            )
        elif outside is not None and (verify or opened is not None):
            _refuse(
                script,
                statement.offset,
                "%s cannot run inside a transaction" % outside,
                "Remove it: a verification only looks." if verify else "Move it before BEGIN or after COMMIT.",
            )
        elif opened is not None:
            inside.append(statement)
        else:
            groups.append(Group(number, (statement,), None))
            number += 1
    if opened is not None:
        _refuse(
            script,
            opened.offset,
            "%s is not allowed here: no COMMIT follows" % opened.shown,
            "Add COMMIT at the end of the file, or remove both: a file is one transaction by itself.",
        )
    return tuple(groups)


def _control_hint(control: str, opened: Statement | None) -> str:
    if control in ("ROLLBACK", "ABORT"):
        return "Remove it: what is to be undone again is no migration. To go back to a savepoint, name it."
    if control in scanner.BEGINNINGS:
        return "Remove it: a transaction is open there already."
    if control in scanner.ENDINGS and opened is None:
        return "Remove it, or add the BEGIN that it ends; a file without either is one transaction by itself."
    return "Remove it: the history would not be written together with what the file does."


def _reason(script: Script, groups: Sequence[Group]) -> str | None:
    """Return why a file is not one transaction as a whole, or None when it is."""

    def line(statement: Statement) -> int:
        return scanner.place(script.text, statement.offset)[0]

    own = [group for group in groups if group.begin is not None]
    alone = [group.statements[0] for group in groups if group.begin is None]
    for statement in alone:
        outside = scanner.outside_transaction(statement)
        if outside is not None:
            return "%s in line %d cannot run inside a transaction" % (outside, line(statement))
        if scanner.commits_by_itself(statement):
            return "the code in line %d ends its transaction by itself" % line(statement)
    if own and (len(own) > 1 or not all(map(scanner.sets_session, alone))):
        return "the file has transactions of its own, beginning before line %s" % " and line ".join(
            str(line(group.statements[0])) for group in own
        )
    if not own:
        used = scanner.enum_value_used_later(alone)
        if used is not None:
            return "the enum value that line %d adds is used in line %d, and has to be committed before" % (
                line(used[0]),
                line(used[1]),
            )
    return None


def _step(migration: Migration, entry: Entry | None) -> Step:
    up = prepare(migration.up, step="up")
    verify = prepare(migration.verify, step="verify") if migration.verify else None
    if verify is not None and verify.for_psql is not None and up.transactional:
        up = prepare_for_psql(migration.up, step="up")  # both in one transaction
    return Step(
        migration=migration,
        entry=entry,
        up=up,
        down=prepare(migration.down, step="down") if migration.down else None,
        verify=verify,
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
    # A file for psql may be in doubt although it is one transaction: it has committed by itself.
    several = not prepared.transactional or prepared.for_psql is not None
    if several and done <= len(prepared.statements) and found == entry.checksum:
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
            ", which is one transaction now" if prepared.transactional else "",
        ),
        hint="Put the first %d statements back as they were; those after them may be mended." % done,
        version=entry.version,
        path=prepared.script.path,
        partial=True,
    )
