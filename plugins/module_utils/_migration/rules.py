# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that ask the live catalog, which a linter of statements cannot: what would be reached, and how much of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._migration import effects
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.effects import Effect, Name, same_name
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.findings import (
    DEFAULT_LEVELS,
    ERROR,
    HOW_TO_ALLOW,
    INFO,
    WARNING,
    Examined,
    File,
    Finding,
    Subject,
    lower,
    permitted,
    statement_at,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.reach import (
    APPLICATION_NAME,
    SETTINGS,
    Catalog,
    Reach,
    Table,
    Unknown,
    size,
)

try:
    from psycopg2 import Error as DriverError
except ImportError:  # reported by connection.require_driver()

    class DriverError(Exception):  # type: ignore[no-redef]
        """Stands for the driver's exception where the driver is missing."""


#: Rewriting a table up to this size is over before anybody notices.
SMALL_TABLE_BYTES = 10 * 1024 * 1024
SHOWN_ITEMS = 20


def catalog_findings(*, server: Server, database: str, subjects: Sequence[Subject]) -> dict[str, Any]:
    """Return ``findings`` of our own rules, as `Finding`, and ``server_version``; nothing is written or waited for.

    Raises `HoldfastError` when the database cannot be reached.
    """
    with server.session(database, application_name=APPLICATION_NAME, settings=SETTINGS) as connection:
        catalog = Catalog(connection)
        rules = _Rules(catalog)
        findings = [finding for subject in subjects for finding in rules.of(subject)]
        return {"findings": findings, "server_version": catalog.server_version}


class _Rules:
    """Our rules, over the migrations of one run in their order: each sees what those before it will have made."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.created: list[tuple[Name, str]] = []
        self.references: list[tuple[Name, tuple[Name, ...]]] = []
        self.renamed = False
        self.subject: Subject
        self.file: File
        self.at: Examined | None = None
        self.found: list[Finding] = []

    def of(self, subject: Subject) -> list[Finding]:
        """Return the findings of one migration."""
        self.found = []
        self.subject = subject
        for file in (subject.up, subject.down):
            if file is None:
                continue
            self.file = file
            self.catalog.use_search_path(None)
            self._complaints()
            for statement in file.statements:
                self.at = statement
                for effect in statement.effects:
                    self._apply(effect)
        self.file, self.at = subject.up, None
        self._missing_down()
        return self.found

    @property
    def _is_down(self) -> bool:
        return self.file is self.subject.down

    def _say(self, rule: str, message: str, advice: str, **more: Any) -> None:
        at = self.at
        if self._is_down and rule != "syntax-error":
            more["at_most"] = lower(more.get("at_most", ERROR), WARNING)
        finding = Finding(
            rule=rule,
            level=DEFAULT_LEVELS[rule],
            path=self.file.path,
            line=at.line if at else 1,
            column=at.column if at else 1,
            statement=at.shown if at else "",
            message=message,
            advice=advice,
            version=self.subject.version,
            **more,
        )
        self.found.append(permitted(finding, at, self.file))

    def _complaints(self) -> None:
        self.at = None
        for line, column, rule, text in self.file.complaints:
            newer = self.catalog.server_version // 10000 > effects.PARSER_MAJOR and rule == "syntax-error"
            self.at = statement_at(self.file, line, column)
            self._say(
                rule,
                "PostgreSQL's parser refuses this: %s" % text if rule == "syntax-error" else text,
                "Mend the file."
                if not newer
                else "The parser is older than the server, which may know better; look at the statement.",
                at_most=WARNING if newer else ERROR,
            )
        self.at = None

    def _missing_down(self) -> None:
        down = self.subject.down
        if self.subject.repeatable or (down is not None and (down.statements or down.complaints)):
            return
        self._say(
            "missing-down",
            "There is no step down%s." % ("" if down is None else ": its file holds no statement"),
            "Write one, so that an undo by schema is possible; otherwise the way back is the clone or the archive.",
        )

    # -- effects ----------------------------------------------------------------------------------------------------

    def _apply(self, effect: Effect) -> None:
        handler = {
            effects.TRUNCATE: self._truncate,
            effects.DROP: self._drop,
            effects.DELETE: self._changes_all,
            effects.UPDATE: self._changes_all,
            effects.REWRITE: self._rewrite,
            effects.ALTER_TYPE: self._alter_type,
            effects.ADD_COLUMN: self._add_column,
            effects.HIDDEN: self._hidden,
        }.get(effect.kind)
        if effect.kind == effects.SEARCH_PATH:
            self.catalog.use_search_path(effect.columns)
        elif effect.kind == effects.RENAME:
            self.renamed = True
        elif effect.kind == effects.CREATE and not self._is_down:
            self.created += [(name, self.subject.version) for name in effect.targets]
        if effect.references and not self._is_down:
            self.references += [(name, effect.references) for name in effect.targets]
        if handler is None:
            return
        try:
            handler(effect)
        except (Unknown, DriverError) as exc:
            if getattr(exc, "pgcode", "") is None:
                raise  # the connection broke
            self._cannot_tell(effect, " ".join(str(exc).split()))

    def _cannot_tell(self, effect: Effect, reason: str) -> None:
        cascades = {effects.TRUNCATE: "truncate-cascade", effects.DROP: "drop-cascade"}
        if effect.cascade and effect.kind in cascades:
            rule = cascades[effect.kind]
            self._say(rule, "%s; what it reaches cannot be told: %s." % (_what(effect), reason), HOW_TO_ALLOW % rule)

    def _missing(self, names: Iterable[Name]) -> str:
        """Return what is to be said of names that the live database does not have."""
        parts = []
        for name in names:
            version = next((version for made, version in self.created if same_name(made, name)), None)
            parts.append(
                "%s is not in the live database yet: %s creates it, and what depends on it then is not known"
                % (_written(name), version)
                if version
                else "%s is not in the live database" % _written(name)
            )
        return "".join("; " + part for part in parts)

    def _is_new(self, name: Name) -> bool:
        return any(same_name(made, name) for made, _version in self.created)

    def _truncate(self, effect: Effect) -> None:
        found, missing = self._resolved(effect)
        named = set(found)
        if not effect.cascade:
            self._tables_say(
                "truncate-table",
                "TRUNCATE%s empties" % _cause(effect),
                named,
                "Keep what is needed of it in another table first; no step down brings it back.",
            )
            return
        reached, created = self._truncated(named)
        tables = self.catalog.tables(reached)
        beyond = [table for table in tables if table.oid not in named]
        message = "TRUNCATE ... CASCADE%s would empty %s%s%s" % (
            _cause(effect),
            _told(tables),
            "".join("; %s, which this run creates, too" % _written(name) for name in created),
            self._missing(missing),
        )
        self._say(
            "truncate-cascade",
            message + ("." if missing or created or beyond else "; no other table refers to it."),
            "Name every table that is to be emptied, without CASCADE. " + HOW_TO_ALLOW % "truncate-cascade",
            tables=tuple(table.as_dict() for table in tables),
            at_most=ERROR if beyond or created or missing or not effect.targets else WARNING,
        )

    def _truncated(self, named: Iterable[int]) -> tuple[set[int], list[Name]]:
        """Return what TRUNCATE ... CASCADE empties: tables of the catalog, and tables that this run creates before."""
        oids = set(self.catalog.truncated(named))
        created: list[Name] = []
        while True:
            names = [*self.catalog.names(oids), *created]
            new = [
                child
                for child, parents in self.references
                if any(same_name(parent, name) for parent in parents for name in names)
                and not any(same_name(child, name) for name in names)
            ]
            if not new:
                return oids, created
            oid = self.catalog.relation(new[0])
            if oid is None:
                created.append(new[0])
            else:
                oids = set(self.catalog.truncated([*oids, oid]))

    def _resolved(self, effect: Effect) -> tuple[list[int], list[Name]]:
        """Return the tables that an effect names, with their heirs, and the names that there are not."""
        found: list[int] = []
        missing = []
        for index, name in enumerate(effect.targets):
            oid = self.catalog.relation(name)
            if oid is None:
                missing.append(name)
            elif effect.only[index : index + 1] == (True,):
                found.append(oid)
            else:
                found += self.catalog.heirs([oid])
        return list(dict.fromkeys(found)), missing

    def _drop(self, effect: Effect) -> None:
        if not self._is_down:
            self._cannot_restore(effect)
        else:
            self._drops_filled(effect)
        if not effect.cascade:
            return
        found, missing = [], []
        for name in effect.targets:
            objects = self.catalog.objects(effect.object_type, name, effect.arguments)
            found += objects
            if not objects:
                missing.append(name)
        reach = self.catalog.dropped(found) if found else Reach(objects=(), tables=())
        absent = missing and not self.renamed and not any(self._is_new(name) for name in missing)
        harmless = bool(effect.targets) and not reach.objects and (not missing or absent)
        self._say(
            "drop-cascade",
            "%s would also drop %s%s%s."
            % (
                _what(effect),
                _listed(reach.objects, "object") if reach.objects else "nothing else that is there now",
                "; data is in " + _told(reach.tables) if reach.tables else "",
                self._missing(missing),
            ),
            "Drop each object by its name, without CASCADE. " + HOW_TO_ALLOW % "drop-cascade",
            objects=reach.objects,
            tables=tuple(table.as_dict() for table in reach.tables),
            at_most=WARNING if harmless else ERROR,
        )

    def _cannot_restore(self, effect: Effect) -> None:
        """Say when a step up drops what holds rows, and the step down does not fill it again."""
        if effect.object_type not in ("table", "table column"):
            return
        for name in effect.targets:
            column = name[-1] if effect.object_type == "table column" else None
            table_name = name[:-1] if column is not None else name
            oid = self.catalog.relation(table_name)
            if oid is None or self._filled_by(self.subject.down, table_name, column):
                continue
            tables = self.catalog.tables(self.catalog.heirs([oid]))
            values = [self.catalog.values(table.oid, column) for table in tables] if column is not None else [None]
            if all(table.is_empty for table in tables) or all(value == 0 for value in values):
                continue
            known = sum(value or 0 for value in values) if None not in values else None
            self._say(
                "down-cannot-restore",
                "%s %s goes with its data (%s), which no step down can bring back."
                % (
                    "Column" if column is not None else "Table",
                    _written(name),
                    "%s values" % format(known, ",") if known is not None else _told(tables),
                ),
                "Stop using it in one deployment and drop it in a later one, or keep a copy that the step down reads. "
                + HOW_TO_ALLOW % "down-cannot-restore",
                tables=tuple(table.as_dict() for table in tables),
            )

    def _drops_filled(self, effect: Effect) -> None:
        """Say when a step down drops what the step up has made and filled."""
        if effect.object_type not in ("table", "table column"):
            return
        for name in effect.targets:
            column = name[-1] if effect.object_type == "table column" else None
            table = name[:-1] if column is not None else name
            if self._made_by(self.subject.up, table, column) and self._filled_by(self.subject.up, table, column):
                self._say(
                    "down-drops-data",
                    "%s drops %s, which the step up fills: going up again fills it anew, but whatever is written in"
                    " between is lost." % ("The step down", _written(name)),
                    "Undo such a migration soon, or by the clone. " + HOW_TO_ALLOW % "down-drops-data",
                )

    @staticmethod
    def _made_by(file: File, table: Name, column: str | None) -> bool:
        kind = effects.CREATE if column is None else effects.ADD_COLUMN
        return any(
            effect.kind == kind
            and any(same_name(target, table) for target in effect.targets)
            and (column is None or column in effect.columns)
            for statement in file.statements
            for effect in statement.effects
        )

    @staticmethod
    def _filled_by(file: File | None, table: Name, column: str | None) -> bool:
        return file is not None and any(
            effect.kind in (effects.FILL, effects.UPDATE)
            and any(same_name(target, table) for target in effect.targets)
            and (column is None or column in effect.columns)
            for statement in file.statements
            for effect in statement.effects
        )

    def _changes_all(self, effect: Effect) -> None:
        if effect.where:
            return
        found, _missing = self._resolved(effect)
        if effect.kind == effects.DELETE:
            self._tables_say(
                "delete-without-where",
                "DELETE without WHERE%s removes every row of" % _cause(effect),
                found,
                "Say which rows go. " + HOW_TO_ALLOW % "delete-without-where",
            )
        else:
            self._tables_say(
                "update-without-where",
                "UPDATE without WHERE%s writes every row anew and locks it until the migration ends:" % _cause(effect),
                found,
                "Fill in batches in a file without transaction, or say which rows need it. "
                + HOW_TO_ALLOW % "update-without-where",
            )

    def _tables_say(self, rule: str, doing: str, oids: Iterable[int], advice: str) -> None:
        """Report what is done to all rows of tables, unless they are empty."""
        tables = [table for table in self.catalog.tables(oids) if not table.is_empty]
        if tables:
            self._say(
                rule,
                "%s %s." % (doing, _told(tables)),
                advice,
                tables=tuple(table.as_dict() for table in tables),
            )

    def _rewrite(self, effect: Effect) -> None:
        if not effect.targets:
            self._say(
                "table-rewrite",
                "%s without a table writes many tables of the database anew." % effect.cause,
                "Name the tables. " + HOW_TO_ALLOW % "table-rewrite",
            )
            return
        self._rewrites(effect, effect.cause)

    def _alter_type(self, effect: Effect) -> None:
        column = effect.columns[0]
        oid = self.catalog.relation(effect.targets[0])
        if oid is None:
            return
        if effect.cause or self.catalog.type_change_rewrites(oid, column, effect.type_name):
            self._rewrites(effect, "Column %s as %s" % (column, effect.type_name))

    def _add_column(self, effect: Effect) -> None:
        volatile = self.catalog.volatile(effect.functions) if effect.functions else []
        if volatile:
            cause = "the default %s()" % volatile[0]
        elif effect.cause:
            cause = effect.cause
        elif effect.type_name and self.catalog.constrained_domain(effect.type_name):
            cause = "the domain %s" % effect.type_name
        else:
            return
        self._rewrites(effect, "A new column %s with %s" % (effect.columns[0], cause))

    def _rewrites(self, effect: Effect, cause: str) -> None:
        found, _missing = self._resolved(effect)
        tables = [table for table in self.catalog.tables(found) if not table.is_empty]
        if not tables:
            return
        total = sum(table.size_bytes or 0 for table in tables)
        self._say(
            "table-rewrite",
            "%s writes the table anew, under a lock that keeps readers out: %s, %s with indexes."
            % (cause, _told(tables), size(total)),
            "Add a new column, fill it in batches and exchange the names later, or choose a quiet hour. "
            + HOW_TO_ALLOW % "table-rewrite",
            tables=tuple(table.as_dict() for table in tables),
            at_most=INFO if total <= SMALL_TABLE_BYTES else ERROR,
        )

    def _hidden(self, effect: Effect) -> None:
        self._say(
            "dynamic-cascade",
            "%s ... CASCADE in %s: %s, and what it would reach cannot be known."
            % (
                effect.object_type.upper(),
                effect.cause,
                _HIDDEN[effect.cause],
            ),
            "Write the statement plainly in the migration. " + HOW_TO_ALLOW % "dynamic-cascade",
        )


_HIDDEN = {
    "a DO block": "its text is put together when it runs",
    "a routine": "whoever calls it runs it",
    "a file for psql": "its statements cannot be told apart",
}


def _what(effect: Effect) -> str:
    if effect.kind == effects.TRUNCATE:
        return "TRUNCATE ... CASCADE" + _cause(effect)
    kind = {"owned": "OWNED BY", "table column": "COLUMN", "table constraint": "CONSTRAINT"}.get(
        effect.object_type, effect.object_type.upper()
    )
    return "DROP %s %s CASCADE%s" % (kind, ", ".join(map(_written, effect.targets)) or "...", _cause(effect))


def _cause(effect: Effect) -> str:
    return " in %s" % effect.cause if effect.cause else ""


def _written(name: Name) -> str:
    return ".".join(part if re.fullmatch(r"[a-z_][a-z0-9_$]*", part) else '"%s"' % part for part in name)


def _told(tables: Sequence[Table]) -> str:
    """Return how many tables and rows there are, and the tables, those first that hold most."""
    if len(tables) < 2:
        return _listed(map(str, tables), "table")
    known = sum(table.rows or 0 for table in tables)
    sure = "" if all(table.exact for table in tables) else "about "
    if any(table.rows is None for table in tables):
        sure = "at least "
    most_first = sorted(tables, key=lambda table: (table.rows is not None, -(table.rows or 0), table.name))
    return _listed(map(str, most_first), "table", " with %s%s rows" % (sure, format(known, ",")))


def _listed(items: Iterable[str], what: str, more_of: str = "") -> str:
    """Return such as ``3 tables: a, b, c``, with ``more_of`` before the colon."""
    all_items = list(items)
    left = len(all_items) - SHOWN_ITEMS
    text = ", ".join(all_items[:SHOWN_ITEMS]) + (" and %d more" % left if left > 0 else "")
    plural = "" if len(all_items) == 1 else "s"
    return "%d %s%s%s%s" % (len(all_items), what, plural, more_of, ": " + text if text else "")
