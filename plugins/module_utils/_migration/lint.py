# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Saying before anything runs what migrations would do: squawk's rules, and rules that ask the live catalog.

A lint has parts that may run in different places: `examine` reads files where they are, `catalog_findings` asks the
live database from a host that reaches it, `squawk_findings` runs where squawk is, and `conclude` joins them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import effects, squawk
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import statements as scanner
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.effects import CREATE, TOUCH, Name, same_name
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.findings import (
    DEFAULT_LEVELS,
    ERROR,
    INFO,
    LEVELS,
    OFF,
    WARNING,
    Examined,
    File,
    Finding,
    Subject,
    lower,
    permitted,
    statement_at,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import (
    Migration,
    Script,
    migrations,
    options_from,
    read_directories,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.plan import prepare
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.rules import catalog_findings

FAIL_ON = ("error", "warning", "never")
REQUIRED, PREFERRED = "required", "preferred"

#: Options that are read where squawk runs, be that the controller or the managed host.
OPTIONS: dict[str, dict[str, Any]] = {
    "rules": {"type": "dict", "default": {}},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "fail_on": {"type": "str", "choices": list(FAIL_ON), "default": "error"},
    "squawk": {"type": "str", "choices": [REQUIRED, PREFERRED, OFF], "default": PREFERRED},
    "squawk_path": {"type": "path"},
    "pg_version": {"type": "str"},
}

SHOWN_FINDINGS = 5

#: Commands of psql, which take the rest of their line, and the rows that follow COPY ... FROM STDIN.
PSQL = re.compile(
    r"^[ \t]*\\.*$|^[ \t]*COPY\b[^;]*?\bFROM[ \t]+STDIN\b[^;]*;[^\n]*\n(?:.*\n)*?\\\.[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
ALLOWANCE = re.compile(r"--[ \t]*holdfast[ \t]*:[ \t]*allow[ \t]+([\w-]+(?:[ \t]*,[ \t]*[\w-]+)*)[ \t]*:?(.*)", re.I)


# -- reading files ------------------------------------------------------------------------------------------------


def examine(found: Iterable[Migration]) -> list[Subject]:
    """Return what the files of migrations say they do."""
    return [
        Subject(
            version=migration.version,
            up=_examine(migration.up, step="up"),
            down=_examine(migration.down, step="down") if migration.down else None,
            repeatable=migration.repeatable,
        )
        for migration in found
    ]


def _examine(script: Script, *, step: str) -> File:
    try:
        prepare(script, step=step)
    except HoldfastError as exc:
        complaint = (exc.details.get("line") or 1, 1, "unreadable", exc.msg)
        return File(path=script.path, complaints=(complaint,), allowed=_allowances(script.text))
    text, is_sql = _sql(script.text)
    try:
        pieces = scanner.split(text)
    except scanner.ScanError:
        found = Examined(line=1, column=1, shown="", effects=effects.hidden(text), allowed=_allowances(text))
        return File(path=script.path, statements=(found,), allowed=found.allowed)
    examined: list[Examined] = []
    complaints = []
    begin = 0
    for piece in pieces:
        statement = piece.statement
        if statement is not None:
            reading = effects.read(statement)
            line, column = scanner.place(text, statement.offset)
            # What psql puts in place of its variables is not known here.
            if reading.complaint and is_sql:
                complaints.append((line, column, "syntax-error", reading.complaint))
            allowed = _allowances(text[begin : statement.offset])
            examined.append(Examined(line, column, statement.shown, reading.effects, allowed))
        begin += len(piece.text)
    return File(
        path=script.path,
        statements=tuple(examined),
        complaints=tuple(complaints),
        allowed=examined[0].allowed if examined else _allowances(text),
        is_parsed=is_sql and effects.PARSER is not None,
    )


def _sql(text: str) -> tuple[str, bool]:
    """Return ``text`` with what only psql understands replaced by spaces, and whether there was nothing of it."""
    try:
        scanner.split(text)
    except scanner.ScanError:
        return PSQL.sub(lambda match: re.sub(r"\S", " ", match.group()), text), False
    return text, True


def _allowances(text: str) -> dict[str, str]:
    """Return the reasons of all ``-- holdfast: allow <rules>: <reason>`` in ``text``, by rule."""
    try:
        comments = [text[begin:end] for kind, begin, end in scanner.tokens(text) if kind == "line_comment"]
    except scanner.ScanError:
        comments = text.split("\n")
    matches = filter(None, map(ALLOWANCE.fullmatch, comments))
    return {rule.strip().lower(): match.group(2).strip() for match in matches for rule in match.group(1).split(",")}


# -- squawk -------------------------------------------------------------------------------------------------------


def squawk_findings(
    selected: Sequence[Migration],
    subjects: Sequence[Subject],
    *,
    program: str,
    pg_version: str,
    environment: Mapping[str, str],
) -> tuple[list[Finding], list[str]]:
    """Return what squawk says of steps up, and whether it can read steps down; and warnings about its output."""
    files: list[tuple[Migration, Script, File, str]] = []
    inputs: list[squawk.Input] = []
    for migration, subject in zip(selected, subjects):
        for step, script, file in (("up", migration.up, subject.up), ("down", migration.down, subject.down)):
            if script is not None and file is not None and script.text.strip():
                files.append((migration, script, file, step))
                inputs.append(squawk.Input(text=_sql(script.text)[0], in_transaction=_is_transactional(script, step)))
    new = _touching_new_tables(subjects)
    said, strange = squawk.complaints(inputs, program=program, pg_version=pg_version, environment=environment)
    found: dict[tuple[Any, ...], Finding] = {}
    for complaint in said:
        migration, script, file, step = files[complaint.index]
        if complaint.rule != squawk.SYNTAX_ERROR and step == "down":
            continue  # a way back drops what the way here made
        if complaint.rule == squawk.SYNTAX_ERROR and any(c[2] == "syntax-error" for c in file.complaints):
            continue  # PostgreSQL's own parser has said it
        line, column = complaint.line, _characters(script.text, complaint.line, complaint.column)
        at = statement_at(file, line, column)
        is_new = at is not None and id(at) in new
        finding = Finding(
            rule=complaint.rule,
            level=complaint.level,
            path=file.path,
            line=line,
            column=column,
            statement=at.shown if at else "",
            message=complaint.message + (" This table is new in this run." if is_new else ""),
            advice=complaint.advice,
            version=migration.version,
            source="squawk",
            at_most=INFO if is_new else ERROR,
        )
        if complaint.rule == squawk.SYNTAX_ERROR:
            finding = replace(
                finding,
                at_most=INFO if file.is_parsed else WARNING,
                message="squawk cannot read this%s: %s"
                % (", which PostgreSQL's parser can" if file.is_parsed else "", complaint.message),
                advice="Its rules did not look at the statement; look at it yourself.",
            )
        # Squawk 2 goes on in the middle of what it cannot read, and finds more of it.
        key = (file.path, at.line if at else 0) if complaint.rule == squawk.SYNTAX_ERROR else ()
        found.setdefault((complaint.rule, key or (file.path, line, column)), permitted(finding, at, file))
    return list(found.values()), strange


def _touching_new_tables(subjects: Sequence[Subject]) -> set[int]:
    """Return the ids of the statements that lock only tables which this run has created before, and nobody uses yet.

    Squawk knows tables that the same file creates, but no materialized views, and no other files.
    """
    created: list[Name] = []
    found = set()
    for subject in subjects:
        for statement in subject.up.statements:
            touched = [name for effect in statement.effects if effect.kind == TOUCH for name in effect.targets]
            if touched and all(any(same_name(name, made) for made in created) for name in touched):
                found.add(id(statement))
            created += [name for effect in statement.effects if effect.kind == CREATE for name in effect.targets]
    return found


def _is_transactional(script: Script, step: str) -> bool:
    try:
        return prepare(script, step=step).transactional
    except HoldfastError:
        return True


def _characters(text: str, line: int, column: int) -> int:
    """Return the column in characters of one in bytes; both count from 1."""
    lines = text.split("\n")
    if line > len(lines):
        return column
    return len(lines[line - 1].encode("utf-8")[: column - 1].decode("utf-8", "ignore")) + 1


# -- the result ---------------------------------------------------------------------------------------------------


def checked_rules(rules: Mapping[str, Any]) -> dict[str, str]:
    """Return levels by rule, for YAML that takes ``off`` for a boolean, too. Raises `HoldfastError`."""
    found = {}
    for rule, level in rules.items():
        found[str(rule)] = OFF if level is False else str(level).lower()
        if found[str(rule)] not in LEVELS:
            raise HoldfastError(
                code="option_invalid",
                msg="The level of the rule %s is %r." % (rule, level),
                hint="Levels are error, warning, info and off.",
            )
    return found


def conclude(
    findings: Iterable[Finding], *, rules: Mapping[str, str], exclude: Sequence[str], subjects: Sequence[Subject]
) -> list[dict[str, Any]]:
    """Return findings for a result, each at the level that its rule is given, in the order of versions and lines."""
    levels = {**DEFAULT_LEVELS, **rules, **dict.fromkeys(exclude, OFF)}
    files = [(s.version, file.path) for s in subjects for file in (s.up, s.down) if file is not None]
    places = {file: place for place, file in reversed(list(enumerate(files)))}
    rows = []
    for finding in findings:
        level = lower(levels.get(finding.rule, finding.level), finding.at_most)
        if level != OFF:
            row = replace(finding, level=level).as_dict()
            del row["at_most"]
            rows.append(row)
    return sorted(rows, key=lambda row: (places[row["version"], row["path"]], row["line"], row["column"]))


def chosen(found: Sequence[Migration], versions: Iterable[str]) -> list[Migration]:
    """Return the migrations of these versions, in their order."""
    wanted = set(versions)
    return [migration for migration in found if migration.version in wanted]


def result(
    findings: Iterable[Finding],
    *,
    selected: Sequence[Migration],
    subjects: Sequence[Subject],
    server_version: int,
    options: Mapping[str, Any],
    environment: Mapping[str, str],
) -> tuple[dict[str, Any], list[str]]:
    """Return the module's result from the findings of our rules and those of squawk, and warnings.

    Raises `HoldfastError`, with the result in its details when findings are to stop a deployment.
    """
    rules = checked_rules(options["rules"])
    warnings: list[str] = []
    all_findings = list(findings)
    program = None
    if options["squawk"] != OFF:
        try:
            program = squawk.find_squawk(options["squawk_path"], environment=environment)
        except HoldfastError as exc:
            if options["squawk"] == REQUIRED:
                raise
            warnings.append("%s %s" % (exc.msg, exc.hint))
    if program:
        version = options["pg_version"] or squawk.version_argument(server_version)
        said, strange = squawk_findings(
            selected, subjects, program=program, pg_version=version, environment=environment
        )
        all_findings += said
        warnings += strange
    rows = conclude(all_findings, rules=rules, exclude=options["exclude"], subjects=subjects)
    counts = {level: sum(row["level"] == level and not row["allowed"] for row in rows) for level in LEVELS[:0:-1]}
    counts["allowed"] = sum(row["allowed"] for row in rows)
    answer = {
        "changed": False,
        "findings": rows,
        "counts": counts,
        "sentences": [_sentence(row) for row in rows if row["level"] != INFO],
        "versions": [migration.version for migration in selected],
        "squawk_ran": program is not None,
        "parser": effects.PARSER or "",
        "server_version": server_version,
    }
    error = _stopping(rows, fail_on=options["fail_on"])
    if error is not None:
        error.details = answer
        raise error
    return answer, warnings


def _sentence(finding: Mapping[str, Any]) -> str:
    """Return a finding as a line of a log."""
    said = "%(path)s:%(line)d: %(level)s (%(rule)s): %(message)s" % finding
    return "%s Allowed: %s" % (said, finding["reason"]) if finding["allowed"] else said


def _stopping(findings: Sequence[Mapping[str, Any]], *, fail_on: str) -> HoldfastError | None:
    """Return the error for findings that are to stop a deployment, or None."""
    levels = {"error": (ERROR,), "warning": (ERROR, WARNING), "never": ()}[fail_on]
    stops = [finding for finding in findings if finding["level"] in levels and not finding["allowed"]]
    if not stops:
        return None
    told = [_sentence(finding) for finding in stops[:SHOWN_FINDINGS]]
    more = len(stops) - len(told)
    return HoldfastError(
        code="lint_failed",
        msg="The lint of the pending migrations found %s; nothing was run.\n%s%s"
        % (
            "what must not run" if len(stops) == 1 else "%d things that must not run" % len(stops),
            "\n".join(told),
            "\n... and %d more" % more if more > 0 else "",
        ),
        hint="Mend the migration, or write '-- holdfast: allow <rule>: <reason>' above a statement that is wanted.",
    )


def catalog_result(
    *, server: Server, database: str, subjects: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Return what the action plugin asks of the managed host: ``findings`` of our rules and ``server_version``."""
    found = catalog_findings(server=server, database=database, subjects=[Subject.from_dict(s) for s in subjects])
    findings = [finding.as_dict() for finding in found["findings"]]
    return {"changed": False, "findings": findings, "server_version": found["server_version"]}, []


def lint_directories(
    *, server: Server, database: str, options: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the module's result and warnings where files, squawk and database are reached from one host."""
    layout = options_from(options)
    files = read_directories(options["source"], layout)
    found = chosen(migrations(files, layout), options["versions"])
    subjects = examine(found)
    answer = catalog_findings(server=server, database=database, subjects=subjects)
    return result(
        answer["findings"],
        selected=found,
        subjects=subjects,
        server_version=answer["server_version"],
        options=options,
        environment=environment,
    )
