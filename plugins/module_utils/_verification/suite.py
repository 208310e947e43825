# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suites of checks: what a parsed YAML file must look like, and refusals that name file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.expectation import (
    Expectation,
    parse_expectation,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.place import Place, kind_of

SEVERITIES = ("error", "warning", "info")
#: When a check is run; without stages, always.
STAGES = ("preflight", "rehearse", "verify", "rollback", "schedule")
SUITE_KEYS = ("suite", "description", "parameters", "stages", "mask", "checks")
CHECK_KEYS = (
    "name",
    "description",
    "severity",
    "stages",
    "tags",
    "mask",
    "timeout_s",
    "min_server_version",
    "max_server_version",
    "sql",
    "tables",
    "expect",
)
MAX_TIMEOUT_S = 86_400

# The lexical structure of SQL, as far as needed to find a semicolon that ends a statement
# (https://www.postgresql.org/docs/current/sql-syntax-lexical.html).
_LEXEME = re.compile(
    r"""
      --[^\n]*
    | /\* | \*/
    | \b[eE]'(?:[^'\\]|\\.|'')*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
    | ;
    """,
    re.VERBOSE | re.DOTALL,
)
_PERCENT = re.compile(r"%(?:%|\((?P<name>[^()]*)\)s|.?)", re.DOTALL)


@dataclass(frozen=True)
class Check:
    """One query, or tables, and what is expected; versions are major versions, both inclusive."""

    name: str
    sql: str
    expectation: Expectation
    tables: tuple[str, ...] = ()
    description: str = ""
    severity: str = "error"
    stages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    timeout_s: float | None = None
    min_server_version: int | None = None
    max_server_version: int | None = None
    line: int | None = None


@dataclass(frozen=True)
class Suite:
    """The checks of one file. Without parameters a percent sign in SQL is a percent sign."""

    name: str
    file: str
    checks: tuple[Check, ...]
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def bound(self, check: Check) -> dict[str, Any] | None:
        """Return the parameters that a check's SQL uses, or None in a suite without any."""
        if not self.parameters:
            return None
        names = {match.group("name") for match in _PERCENT.finditer(check.sql)}
        return {name: value for name, value in self.parameters.items() if name in names}


def parse_suites(documents: Sequence[Mapping[str, Any]], *, overrides: Mapping[str, Any] | None = None) -> list[Suite]:
    """Return the suites of parsed files, with ``overrides`` in place of the parameters' defaults.

    A document has ``file``, ``content`` (what the YAML said) and ``lines`` (see `Place`). Raises `HoldfastError`
    with the code ``suite_invalid``, or ``option_invalid`` for an override that no suite knows.
    """
    overrides = overrides or {}
    suites: list[Suite] = []
    for document in documents:
        place = Place(str(document.get("file") or "suite"), document.get("lines") or {})
        suite = parse_suite(document.get("content"), place, overrides=overrides)
        for other in suites:
            if other.name == suite.name:
                raise place.at("suite").refusal(
                    "the suite %r is also in %s." % (suite.name, other.file), hint="Give each suite a name of its own."
                )
        suites.append(suite)
    known = {name for suite in suites for name in suite.parameters}
    for name, value in overrides.items():
        if name not in known:
            raise HoldfastError(
                code="option_invalid",
                msg="The parameter %r is in none of the suites." % name,
                hint="Parameters of these suites: %s." % (", ".join(sorted(known)) or "none"),
            )
        if not bindable(value):
            raise HoldfastError(
                code="option_invalid",
                msg="The parameter %r is %s; the driver binds a single value or a list." % (name, kind_of(value)),
                hint="Give a number, a text, a boolean or a list of them.",
            )
    return suites


def parse_suite(content: Any, place: Place, *, overrides: Mapping[str, Any] | None = None) -> Suite:
    """Return the suite of one file; raises `HoldfastError` (``suite_invalid``)."""
    mapping = place.mapping(content, what="the suite", allowed=SUITE_KEYS)
    file_name = re.sub(r"\.(ya?ml|json)$", "", re.split(r"[/\\]", place.file)[-1])
    name = parse_text(mapping, "suite", place, default=file_name)
    parameters = parse_parameters(mapping.get("parameters"), place.at("parameters"))
    checks_place = place.at("checks")
    entries = mapping.get("checks")
    if not isinstance(entries, list) or not entries:
        raise checks_place.refusal("the suite %r has no checks." % name, hint="List at least one under checks:.")
    checks: list[Check] = []
    lines: dict[str, int | None] = {}
    stages, mask = _stages(mapping, place), _words(mapping, "mask", place, example="email")
    for position, entry in enumerate(entries):
        check = _parse_check(entry, checks_place.at(position), parameters=parameters)
        check = replace(check, stages=check.stages or stages, mask=(*mask, *check.mask))
        if check.name in lines:
            first = lines[check.name]
            raise checks_place.at(position, "name").refusal(
                "two checks are named %r%s." % (check.name, "" if first is None else " (the first in line %d)" % first),
                hint="Give each check a name of its own; results and history are kept by name.",
            )
        lines[check.name] = check.line
        checks.append(check)
    overridden = {key: value for key, value in (overrides or {}).items() if key in parameters}
    return Suite(
        name=name,
        file=place.file,
        checks=tuple(checks),
        description=parse_text(mapping, "description", place, default=""),
        parameters={**parameters, **overridden},
    )


def parse_parameters(value: Any, place: Place) -> dict[str, Any]:
    """Return the parameters of a file with their defaults; raises `HoldfastError` (``suite_invalid``)."""
    if value is None:
        return {}
    parameters = place.mapping(value, what="parameters")
    for name, default in parameters.items():
        if not re.fullmatch(r"[^\W\d]\w*", name):
            raise place.at(name).refusal(
                "%r cannot name a parameter." % name, hint="Use letters, digits and underscores."
            )
        if not bindable(default):
            raise place.at(name).refusal(
                "the parameter %r is %s." % (name, kind_of(default)),
                hint="Give a number, a text, a boolean or a list of them.",
            )
    return parameters


def bindable(value: Any) -> bool:
    """Return whether the driver can bind a value to a parameter: a single value, or a flat list."""
    if isinstance(value, list):
        return not any(isinstance(item, (list, dict)) or not bindable(item) for item in value)
    return not isinstance(value, dict) and not (isinstance(value, str) and "\x00" in value)


def _parse_check(value: Any, place: Place, *, parameters: Mapping[str, Any]) -> Check:
    mapping = place.mapping(value, what="a check", allowed=CHECK_KEYS)
    name = parse_text(mapping, "name", place)
    severity = mapping.get("severity", "error")
    if severity not in SEVERITIES:
        raise place.at("severity").refusal(
            "the severity %r of the check %r is unknown." % (severity, name),
            hint="An error fails the task, a warning is reported, an info is noted.",
            allowed=SEVERITIES,
        )
    if "expect" not in mapping:
        raise place.refusal(
            "the check %r does not say what it expects." % name,
            hint="Add expect: no_rows, or a condition on rows, scalar or set.",
        )
    expectation = parse_expectation(mapping["expect"], place.at("expect"))
    tables = _words(mapping, "tables", place, example="public.loan")
    if tables:
        _refuse_bad_tables(mapping, expectation, place)
    else:
        refuse_bad_sql(parse_text(mapping, "sql", place), place.at("sql"), parameters=parameters)
        if expectation.source == "archive":
            raise place.at("expect").refusal(
                "an archive answers no query; its manifest knows the fingerprints of tables.",
                hint="Write tables: [public.loan] in place of sql.",
            )
    lowest, highest = (_version(mapping, key, place) for key in ("min_server_version", "max_server_version"))
    if lowest is not None and highest is not None and lowest > highest:
        raise place.at("max_server_version").refusal(
            "no server is both at least %d and at most %d." % (lowest, highest), hint="Exchange the two versions."
        )
    return Check(
        name=name,
        sql="" if tables else parse_text(mapping, "sql", place),
        tables=tables,
        expectation=expectation,
        description=parse_text(mapping, "description", place, default=""),
        severity=severity,
        stages=_stages(mapping, place),
        tags=_words(mapping, "tags", place, example="integrity, money"),
        mask=_words(mapping, "mask", place, example="email"),
        timeout_s=parse_timeout(mapping, place),
        min_server_version=lowest,
        max_server_version=highest,
        line=place.line,
    )


def _refuse_bad_tables(mapping: Mapping[str, Any], expectation: Expectation, place: Place) -> None:
    if "sql" in mapping:
        raise place.at("tables").refusal(
            "a check has either sql or tables.", hint="Remove one, or write a check for each."
        )
    if expectation.kind != "same_as":
        raise place.at("expect").refusal(
            "tables can only be the same as elsewhere.", hint="Write expect: {same_as: archive}.", allowed=["same_as"]
        )


def parse_text(mapping: Mapping[str, Any], key: str, place: Place, *, default: str | None = None) -> str:
    """Return the text under ``key``, or ``default`` where it is missing; raises `HoldfastError` (``suite_invalid``)."""
    value = mapping.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, str) and value.strip() and "\x00" not in value:
        return value.strip()
    problem = "%s is %s" % (
        key,
        "missing" if key not in mapping else "empty" if value in (None, "") else kind_of(value),
    )
    if isinstance(value, str) and "\x00" in value:
        problem = "%s holds a NUL character" % key
    elif isinstance(value, str):
        problem = "%s is empty" % key
    raise place.at(key).refusal(problem + ".", hint="Write a text for %s." % key)


def _words(
    mapping: Mapping[str, Any], key: str, place: Place, *, example: str, allowed: Sequence[str] = ()
) -> tuple[str, ...]:
    value = mapping.get(key)
    if value is None:
        return ()
    inside = place.at(key)
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise inside.refusal("%s are a list of words." % key, hint="Write %s: [%s]." % (key, example))
    for position, word in enumerate(value):
        if allowed and word not in allowed:
            raise inside.at(position).refusal(
                "%r is none of the %s." % (word, key), hint="Write %s: [%s]." % (key, example), allowed=allowed
            )
    return tuple(value)


def _stages(mapping: Mapping[str, Any], place: Place) -> tuple[str, ...]:
    return _words(mapping, "stages", place, example="preflight, verify", allowed=STAGES)


def parse_timeout(mapping: Mapping[str, Any], place: Place) -> float | None:
    """Return the time limit under ``timeout_s``, if any; raises `HoldfastError` (``suite_invalid``)."""
    value = mapping.get("timeout_s")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.001 <= value <= MAX_TIMEOUT_S:
        raise place.at("timeout_s").refusal(
            "timeout_s is a number of seconds, at most %d." % MAX_TIMEOUT_S, hint="Write for example timeout_s: 30."
        )
    return float(value)


def _version(mapping: Mapping[str, Any], key: str, place: Place) -> int | None:
    value = mapping.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 10 <= value <= 99):
        raise place.at(key).refusal("%s is a major version." % key, hint="Write for example %s: 15." % key)
    return value


def refuse_bad_sql(sql: str, place: Place, *, parameters: Mapping[str, Any]) -> None:
    """Raise `HoldfastError` (``suite_invalid``) unless this is one statement that uses only these parameters."""
    statements = list(split_statements(sql))
    if not statements:
        raise place.refusal("the SQL holds no statement.", hint="Write one query.")
    if len(statements) > 1:
        raise place.refusal(
            "the SQL holds %d statements." % len(statements),
            hint="Write one query per check; join several questions with UNION ALL.",
        )
    if not parameters:
        return
    for match in _PERCENT.finditer(sql):
        name = match.group("name")
        if name is not None and name not in parameters:
            raise place.refusal(
                "the SQL uses the parameter %r, which the suite does not have." % name,
                hint="Add it under parameters:.",
                allowed=parameters,
            )
        if name is None and match.group() != "%%":
            raise place.refusal(
                "a single percent sign stands before %r." % sql[match.start() + 1 : match.start() + 11],
                hint="In a suite with parameters write %% for a percent sign, and %(name)s for a parameter.",
            )


def split_statements(sql: str) -> Iterable[str]:
    """Yield the statements of ``sql`` without the semicolons that end them; comments alone are none.

    Quotes, dollar quotes and nested comments are understood, as the server reads them with
    standard_conforming_strings on.
    """
    start = position = depth = 0
    solid = []  # what of the statement is neither comment nor white space
    while True:
        match = _LEXEME.search(sql, position) if not depth else re.compile(r"/\*|\*/").search(sql, position)
        end = len(sql) if match is None else match.start()
        if not depth:
            solid.append(sql[position:end])
        lexeme = "" if match is None else match.group()
        if match is None or (lexeme == ";" and not depth):
            if "".join(solid).strip():
                yield sql[start:end].strip()
            if match is None:
                return
            start, solid = match.end(), []
        elif lexeme == "/*":
            depth += 1
        elif lexeme == "*/":
            depth -= 1 if depth else 0
        elif not lexeme.startswith("--"):
            solid.append(lexeme)
        position = match.end()


def select_checks(
    suites: Sequence[Suite], tags: Sequence[str], stage: str = "", *, may_be_none: bool = False
) -> list[tuple[Suite, Check]]:
    """Return the checks in order, those of ``stage`` and with one of ``tags`` when these are given.

    Raises `HoldfastError` (``option_invalid``) for a tag that no check has, and when none is left unless there
    ``may_be_none``: to check nothing must not pass as success.
    """
    known = {tag for suite in suites for check in suite.checks for tag in check.tags}
    for tag in tags:
        if tag not in known:
            raise HoldfastError(
                code="option_invalid",
                msg="No check of these suites has the tag %r." % tag,
                hint="Tags of these suites: %s." % (", ".join(sorted(known)) or "none"),
            )
    selected = [
        (suite, check)
        for suite in suites
        for check in suite.checks
        if (not tags or any(tag in check.tags for tag in tags))
        and (not stage or not check.stages or stage in check.stages)
    ]
    if not selected and not may_be_none:
        raise HoldfastError(
            code="option_invalid",
            msg="No check of these suites is for the stage %s%s, so nothing would be checked."
            % (stage, " with one of these tags" if tags else ""),
            hint="Add the stage to a check's stages, or name other suites.",
        )
    return selected
