# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of named queries: what a parsed YAML file must look like, with refusals that name file, line and key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.place import Place, kind_of
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.suite import (
    bindable,
    parse_parameters,
    parse_text,
    parse_timeout,
    refuse_bad_sql,
    split_statements,
)

FILE_KEYS = ("timings", "description", "parameters", "queries")
QUERY_KEYS = ("name", "description", "timeout_s", "limit_ms", "sql")

_READS = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*(?:SELECT|WITH|VALUES|TABLE)\b", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r"%\(([^()]*)\)s")


@dataclass(frozen=True)
class Query:
    """One named query; ``group`` is the name of its file's set, ``parameters`` are those that its SQL uses.

    ``bound`` says whether the file has parameters at all: without any, a percent sign in SQL is a percent sign.
    """

    group: str
    name: str
    sql: str
    file: str
    line: int | None = None
    description: str = ""
    timeout_s: float | None = None
    limit_ms: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    bound: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What a query is known by from one measurement to the next."""
        return (self.group, self.name)

    @property
    def digest(self) -> str:
        """Changes with the SQL and with the parameters: times of different questions do not compare."""
        asked = json.dumps([" ".join(self.sql.split()), self.parameters], sort_keys=True, default=str)
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def refusal(self, problem: str, *, hint: str) -> HoldfastError:
        """Return the error that says what is wrong with this query, with file and line."""
        lines = {} if self.line is None else {"": self.line}
        return Place(self.file, lines).refusal("the query %r %s" % (self.name, problem), hint=hint)


def parse_queries(
    documents: Sequence[Mapping[str, Any]], *, overrides: Mapping[str, Any] | None = None
) -> tuple[Query, ...]:
    """Return the queries of parsed files in order, with ``overrides`` in place of the parameters' defaults.

    A document has ``file``, ``content`` (what the YAML said) and ``lines`` (see `Place`). Raises `HoldfastError`:
    ``suite_invalid``, or ``option_invalid`` for an override that no file knows.
    """
    overrides = overrides or {}
    queries: list[Query] = []
    groups: dict[str, str] = {}
    known: set[str] = set()
    for document in documents:
        place = Place(str(document.get("file") or "timings"), document.get("lines") or {})
        mapping = place.mapping(document.get("content"), what="a file of queries", allowed=FILE_KEYS)
        file_name = re.sub(r"\.(ya?ml|json)$", "", re.split(r"[/\\]", place.file)[-1])
        group = parse_text(mapping, "timings", place, default=file_name)
        parse_text(mapping, "description", place, default="")
        if group in groups:
            raise place.at("timings").refusal(
                "the set %r is also in %s." % (group, groups[group]), hint="Give each file's set a name of its own."
            )
        groups[group] = place.file
        parameters = parse_parameters(mapping.get("parameters"), place.at("parameters"))
        known.update(parameters)
        parameters.update({name: value for name, value in overrides.items() if name in parameters})
        queries.extend(_parse_entries(mapping, place, group=group, parameters=parameters))
    for name, value in overrides.items():
        if name not in known:
            raise HoldfastError(
                code="option_invalid",
                msg="The parameter %r is in none of the files of queries." % name,
                hint="Parameters of these files: %s." % (", ".join(sorted(known)) or "none"),
            )
        if not bindable(value):
            raise HoldfastError(
                code="option_invalid",
                msg="The parameter %r is %s; the driver binds a single value or a list." % (name, kind_of(value)),
                hint="Give a number, a text, a boolean or a list of them.",
            )
    return tuple(queries)


def _parse_entries(
    mapping: Mapping[str, Any], place: Place, *, group: str, parameters: Mapping[str, Any]
) -> list[Query]:
    entries = mapping.get("queries")
    if not isinstance(entries, list) or not entries:
        raise place.at("queries").refusal("the set %r has no queries." % group, hint="List at least one.")
    queries: list[Query] = []
    lines: dict[str, int | None] = {}
    for position, entry in enumerate(entries):
        query = _parse_query(entry, place.at("queries", position), group=group, parameters=parameters)
        if query.name in lines:
            first = lines[query.name]
            raise place.at("queries", position, "name").refusal(
                "two queries are named %r%s."
                % (query.name, "" if first is None else " (the first in line %d)" % first),
                hint="Give each query a name of its own; baselines are kept by name.",
            )
        lines[query.name] = query.line
        queries.append(query)
    return queries


def _parse_query(value: Any, place: Place, *, group: str, parameters: Mapping[str, Any]) -> Query:
    mapping = place.mapping(value, what="a query", allowed=QUERY_KEYS)
    name = parse_text(mapping, "name", place)
    sql = parse_text(mapping, "sql", place)
    refuse_bad_sql(sql, place.at("sql"), parameters=parameters)
    statement = next(iter(split_statements(sql)))
    if not _READS.match(statement):
        raise place.at("sql").refusal(
            "the query %r is not a SELECT." % name,
            hint="Only what reads is measured: write a SELECT, WITH, VALUES or TABLE.",
        )
    limit_ms = mapping.get("limit_ms")
    if limit_ms is not None and (isinstance(limit_ms, bool) or not isinstance(limit_ms, (int, float)) or limit_ms <= 0):
        raise place.at("limit_ms").refusal("limit_ms is a number above 0.", hint="Write for example limit_ms: 45.")
    return Query(
        group=group,
        name=name,
        sql=statement,
        file=place.file,
        line=place.line,
        description=parse_text(mapping, "description", place, default=""),
        timeout_s=parse_timeout(mapping, place),
        limit_ms=None if limit_ms is None else float(limit_ms),
        parameters={used: parameters[used] for used in _PARAMETER.findall(statement) if used in parameters},
        bound=bool(parameters),
    )
