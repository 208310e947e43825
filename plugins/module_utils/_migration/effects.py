# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a statement does to objects and rows, as far as its text says: read by PostgreSQL's own parser or by its words.

PostgreSQL's parser comes with the package pglast. Where that is missing, or refuses a statement, the words of the
statement tell what cascades and what empties tables, and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._migration import statements as scanner
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import Statement

try:
    import pglast
    from pglast import ast, enums
    from pglast.stream import RawStream
    from pglast.visitors import Visitor

    PARSER: str | None = "pglast %s" % pglast.__version__.lstrip("v")
    PARSER_MAJOR = int(pglast.get_postgresql_version()[0])
except (ImportError, AttributeError):  # not there, or too old to say which PostgreSQL it comes from
    PARSER = None
    PARSER_MAJOR = 0
    Visitor = object  # type: ignore[misc,assignment]

#: The parts of a name as written and unquoted: table, schema and table, or whatever `pg_get_object_address` takes.
Name = tuple[str, ...]

TRUNCATE = "truncate"
DROP = "drop"
DELETE = "delete"
UPDATE = "update"
FILL = "fill"
CREATE = "create"
REFERENCE = "reference"
#: The table that an ALTER TABLE or CREATE INDEX locks.
TOUCH = "touch"
REWRITE = "rewrite"
ALTER_TYPE = "alter_type"
ADD_COLUMN = "add_column"
#: Something has another name or schema from here on.
RENAME = "rename"
SEARCH_PATH = "search_path"
HIDDEN = "hidden"


@dataclass(frozen=True)
class Effect:
    """One thing that a statement does to ``targets``; the other fields belong to certain kinds."""

    kind: str
    targets: tuple[Name, ...] = ()
    #: The kind of object as `pg_get_object_address` names it: table, table column, schema, ...
    object_type: str = "table"
    cascade: bool = False
    only: tuple[bool, ...] = ()
    where: bool = False
    columns: tuple[str, ...] = ()
    #: Types of the arguments of a routine; None where they are not named.
    arguments: tuple[str, ...] | None = None
    type_name: str = ""
    functions: tuple[str, ...] = ()
    references: tuple[Name, ...] = ()
    #: What the effect follows from, for messages: SET LOGGED, a DO block, ...
    cause: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the effect as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Effect:
        """Return the effect that `as_dict` gave, also after a way through JSON."""
        fields = dict(values)
        for key in ("targets", "references"):
            fields[key] = tuple(tuple(name) for name in fields.get(key, ()))
        for key in ("only", "columns", "functions"):
            fields[key] = tuple(fields.get(key, ()))
        if fields.get("arguments") is not None:
            fields["arguments"] = tuple(fields["arguments"])
        return cls(**fields)


@dataclass(frozen=True)
class Reading:
    """What was read in a statement; ``complaint`` is PostgreSQL's, when its parser refuses the statement."""

    effects: tuple[Effect, ...]
    complaint: str = ""


def read(statement: Statement) -> Reading:
    """Return what a statement does."""
    hidden = tuple(_hidden(statement))
    if PARSER is None:
        return Reading(effects=(*_by_words(statement), *hidden))
    try:
        parsed = pglast.parse_sql(statement.text)
    except (pglast.parser.ParseError, ValueError, RecursionError) as exc:
        return Reading(effects=(*_by_words(statement), *hidden), complaint=str(exc.args[0] if exc.args else exc))
    effects = [effect for raw in parsed for effect in _by_tree(raw.stmt)]
    return Reading(effects=(*effects, *hidden))


def same_name(one: Name, other: Name) -> bool:
    """Whether two names may mean one relation: where one has no schema, that of the other is taken."""
    return one[-1] == other[-1] and (len(one) == 1 or len(other) == 1 or one[-2] == other[-2])


# -- by PostgreSQL's parser ---------------------------------------------------------------------------------------


def _by_tree(node: Any) -> Iterator[Effect]:
    read_node = _READERS.get(type(node).__name__)
    if read_node is not None:
        yield from read_node(node)


def _truncate(node: Any) -> Iterator[Effect]:
    yield Effect(
        kind=TRUNCATE,
        targets=tuple(map(_relation, node.relations)),
        only=tuple(not relation.inh for relation in node.relations),
        cascade=_cascades(node),
    )


def _drop(node: Any) -> Iterator[Effect]:
    kind = _object_type(node.removeType)
    for item in node.objects:
        if isinstance(item, ast.ObjectWithArgs):
            arguments = None if item.args_unspecified else tuple(RawStream()(t) for t in item.objargs or ())
            yield Effect(
                DROP, (_strings(item.objname),), object_type=kind, cascade=_cascades(node), arguments=arguments
            )
        elif isinstance(item, ast.TypeName):
            yield Effect(DROP, (_strings(item.names),), object_type=kind, cascade=_cascades(node))
        else:
            yield Effect(DROP, (_strings(item),), object_type=kind, cascade=_cascades(node))


def _drop_owned(node: Any) -> Iterator[Effect]:
    names = tuple((role.rolename,) for role in node.roles if role.rolename)
    yield Effect(DROP, names, object_type="owned", cascade=_cascades(node))


def _alter_table(node: Any) -> Iterator[Effect]:
    target = _relation(node.relation)
    only = (not node.relation.inh,)
    is_type = node.objtype == enums.ObjectType.OBJECT_TYPE
    yield Effect(TOUCH, (target,))
    for command in node.cmds:
        subtype = enums.AlterTableType(command.subtype).name
        if subtype in ("AT_DropColumn", "AT_DropConstraint"):
            kind = "table column" if subtype == "AT_DropColumn" else "table constraint"
            yield Effect(
                DROP,
                ((*target, command.name),),
                object_type="composite type attribute" if is_type else kind,
                cascade=_cascades(command),
            )
        elif subtype == "AT_AlterColumnType" and not is_type:
            yield Effect(
                ALTER_TYPE,
                (target,),
                only=only,
                columns=(command.name,),
                type_name=RawStream()(command.def_.typeName),
                cause="USING" if _converts(command.def_.raw_default, command.name) else "",
            )
        elif subtype == "AT_AddColumn" and not is_type:
            yield from _add_column(target, only, command.def_)
        elif subtype == "AT_AddConstraint" and command.def_.pktable is not None:
            yield Effect(REFERENCE, (target,), references=(_relation(command.def_.pktable),))
        elif subtype in _REWRITING:
            yield Effect(REWRITE, (target,), only=only, cause=_REWRITING[subtype])


def _converts(expression: Any, column: str) -> bool:
    """Whether a USING is more than the column itself."""
    if expression is None:
        return False
    fields = getattr(expression, "fields", None)
    return fields is None or _strings(fields) != (column,)


def _add_column(target: Name, only: tuple[bool, ...], definition: Any) -> Iterator[Effect]:
    type_name = RawStream()(definition.typeName)
    functions: list[str] = []
    cause = "the serial" if _strings(definition.typeName.names)[-1].lower() in _SERIAL else ""
    for constraint in definition.constraints or ():
        kind = enums.ConstrType(constraint.contype).name
        if kind == "CONSTR_DEFAULT":
            functions += _called(constraint.raw_expr)
        elif kind == "CONSTR_IDENTITY":
            cause = "the identity"
        elif kind == "CONSTR_GENERATED" and getattr(constraint, "generated_kind", "s") != "v":
            cause = "the stored expression"
        elif constraint.pktable is not None:
            yield Effect(REFERENCE, (target,), references=(_relation(constraint.pktable),))
    yield Effect(
        ADD_COLUMN,
        (target,),
        only=only,
        columns=(definition.colname,),
        type_name=type_name,
        functions=tuple(functions),
        cause=cause,
    )


def _index(node: Any) -> Iterator[Effect]:
    yield Effect(TOUCH, (_relation(node.relation),))


def _create_table(node: Any) -> Iterator[Effect]:
    target = _relation(node.relation)
    references = []
    for element in (*(node.tableElts or ()), *(node.constraints or ())):
        for constraint in (element, *(getattr(element, "constraints", None) or ())):
            if getattr(constraint, "pktable", None) is not None:
                references.append(_relation(constraint.pktable))
    yield Effect(CREATE, (target,), references=tuple(references))


def _create_as(node: Any) -> Iterator[Effect]:
    target = _relation(node.into.rel)
    yield Effect(CREATE, (target,))
    if not node.into.skipData:
        yield Effect(FILL, (target,))
    yield from _changes(node)


def _create_view(node: Any) -> Iterator[Effect]:
    yield Effect(CREATE, (_relation(node.view),), object_type="view")


def _create_schema(node: Any) -> Iterator[Effect]:
    if node.schemaname:
        yield Effect(CREATE, ((node.schemaname,),), object_type="schema")
    for element in node.schemaElts or ():
        yield from _by_tree(element)


def _vacuum(node: Any) -> Iterator[Effect]:
    options = {option.defname: option for option in node.options or ()}
    full = options.get("full")
    if not node.is_vacuumcmd or full is None or _is_off(full):
        return
    targets = tuple(_relation(rel.relation) for rel in node.rels or () if rel.relation)
    yield Effect(REWRITE, targets, cause="VACUUM FULL")


def _is_off(option: Any) -> bool:
    value = getattr(option.arg, "sval", getattr(option.arg, "ival", getattr(option.arg, "boolval", None)))
    return str(value).lower() in ("off", "false", "0")


def _cluster(node: Any) -> Iterator[Effect]:
    yield Effect(REWRITE, (_relation(node.relation),) if node.relation else (), cause="CLUSTER")


def _set(node: Any) -> Iterator[Effect]:
    if (node.name or "").lower() == "search_path" and node.args:
        yield Effect(SEARCH_PATH, columns=tuple(str(getattr(arg.val, "sval", "")) for arg in node.args))


def _copy(node: Any) -> Iterator[Effect]:
    if node.is_from and node.relation is not None:
        yield Effect(FILL, (_relation(node.relation),))


def _rename(node: Any) -> Iterator[Effect]:
    relation = getattr(node, "relation", None)
    yield Effect(RENAME, (_relation(relation),) if relation is not None else ())


def _select(node: Any) -> Iterator[Effect]:
    if node.intoClause is not None:
        yield from (Effect(kind, (_relation(node.intoClause.rel),)) for kind in (CREATE, FILL))
    yield from _changes(node)


def _changes(node: Any) -> Iterator[Effect]:
    """Return what a query changes, also in its WITH clauses."""
    visitor = _Changes()
    visitor(node)
    yield from visitor.found


class _Changes(Visitor):
    """Collects INSERT, UPDATE, DELETE and MERGE anywhere in a query."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Effect] = []

    def visit_InsertStmt(self, _ancestors: Any, node: Any) -> None:
        """Take an INSERT."""
        columns = tuple(target.name for target in node.cols or ())
        self.found.append(Effect(FILL, (_relation(node.relation),), columns=columns))

    def visit_MergeStmt(self, _ancestors: Any, node: Any) -> None:
        """Take a MERGE."""
        self.found.append(Effect(FILL, (_relation(node.relation),)))

    def visit_UpdateStmt(self, _ancestors: Any, node: Any) -> None:
        """Take an UPDATE."""
        self.found.append(
            Effect(
                UPDATE,
                (_relation(node.relation),),
                only=(not node.relation.inh,),
                where=node.whereClause is not None,
                columns=tuple(target.name for target in node.targetList or ()),
            )
        )

    def visit_DeleteStmt(self, _ancestors: Any, node: Any) -> None:
        """Take a DELETE."""
        self.found.append(
            Effect(
                DELETE,
                (_relation(node.relation),),
                only=(not node.relation.inh,),
                where=node.whereClause is not None,
            )
        )


class _Calls(Visitor):
    """Collects the functions that an expression calls."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def visit_FuncCall(self, _ancestors: Any, node: Any) -> None:
        """Take a call."""
        self.found.append(_strings(node.funcname)[-1])


def _called(expression: Any) -> list[str]:
    visitor = _Calls()
    visitor(expression)
    return visitor.found


def _relation(node: Any) -> Name:
    return (node.schemaname, node.relname) if node.schemaname else (node.relname,)


def _strings(node: Any) -> Name:
    """Return the parts of a name; what is none, such as the types of a cast, as it is written in SQL."""
    parts = node if isinstance(node, (tuple, list)) else (node,)
    return tuple(part.sval if hasattr(part, "sval") else RawStream()(part) for part in parts)


def _cascades(node: Any) -> bool:
    return bool(node.behavior == enums.DropBehavior.DROP_CASCADE)


def _object_type(number: Any) -> str:
    word = str(enums.ObjectType(number).name)[len("OBJECT_") :].lower()
    return {"matview": "materialized view", "foreign_table": "foreign table"}.get(word, word.replace("_", " "))


_SERIAL = ("serial", "bigserial", "smallserial", "serial2", "serial4", "serial8")
_REWRITING = {
    "AT_SetLogged": "SET LOGGED",
    "AT_SetUnLogged": "SET UNLOGGED",
    "AT_SetAccessMethod": "SET ACCESS METHOD",
    "AT_SetTableSpace": "SET TABLESPACE",
}
_READERS = {
    "TruncateStmt": _truncate,
    "DropStmt": _drop,
    "DropOwnedStmt": _drop_owned,
    "AlterTableStmt": _alter_table,
    "CreateStmt": _create_table,
    "IndexStmt": _index,
    "CreateTableAsStmt": _create_as,
    "ViewStmt": _create_view,
    "CreateSchemaStmt": _create_schema,
    "VacuumStmt": _vacuum,
    "ClusterStmt": _cluster,
    "VariableSetStmt": _set,
    "CopyStmt": _copy,
    "InsertStmt": _changes,
    "UpdateStmt": _changes,
    "DeleteStmt": _changes,
    "MergeStmt": _changes,
    "SelectStmt": _select,
    "RenameStmt": _rename,
    "AlterObjectSchemaStmt": _rename,
}


# -- by words -----------------------------------------------------------------------------------------------------

_DROPPED = re.compile(
    r"DROP (?P<type>MATERIALIZED VIEW|FOREIGN TABLE|TABLE|VIEW|SCHEMA|TYPE|DOMAIN|SEQUENCE|INDEX|EXTENSION|OWNED BY)"
)
_NAMELESS = (",", "*", ";")
#: At the end of the text, since the words of a long statement do not reach that far.
_ENDS_IN_CASCADE = re.compile(r"\bCASCADE\Z", re.IGNORECASE)


def _by_words(statement: Statement) -> Iterator[Effect]:
    head, words = list(statement.head), list(statement.words)
    cascade = _ENDS_IN_CASCADE.search(statement.text) is not None
    if words[:1] == ["TRUNCATE"]:
        yield replace(_truncate_by_words(head[1:], words[1:]), cascade=cascade)
    elif words[:1] == ["DROP"]:
        match = _DROPPED.match(" ".join(words[:3]))
        if match is None:
            yield Effect(DROP, (), object_type=" ".join(words[1:2]).lower(), cascade=cascade)
            return
        kind = match.group("type").lower()
        begin = len(kind.split()) + 1
        targets = tuple(_names(head[begin:], words[begin:], skip=("IF", "EXISTS", "CONCURRENTLY")))
        for target in targets:
            yield Effect(DROP, (target,), object_type="owned" if kind == "owned by" else kind, cascade=cascade)
    elif words[:1] == ["ALTER"] and "RENAME" in words:
        yield Effect(RENAME)
    elif words[:2] == ["ALTER", "TABLE"]:
        yield from _alter_by_words(head[2:], words[2:])
    elif words[:2] == ["DELETE", "FROM"] or words[:1] == ["UPDATE"]:
        begin = 2 if words[0] == "DELETE" else 1
        targets = tuple(_names(head[begin : begin + 6], words[begin : begin + 6], skip=("ONLY",)))[:1]
        # A long statement may have its WHERE further on.
        where = "WHERE" in words or len(words) >= scanner.HEAD_TOKENS
        yield Effect(DELETE if words[0] == "DELETE" else UPDATE, targets, only=("ONLY" in words[:3],), where=where)
    elif words[:1] == ["CREATE"] and words[1:2] == ["TABLE"]:
        yield Effect(CREATE, tuple(_names(head[2:8], words[2:8], skip=("IF", "NOT", "EXISTS")))[:1])


def _truncate_by_words(head: list[str], words: list[str]) -> Effect:
    while words and words[-1] in ("CASCADE", "RESTRICT", "IDENTITY", "RESTART", "CONTINUE"):
        head.pop()
        words.pop()
    targets, only = [], []
    for begin, end in _parts(words):
        part = words[begin:end]
        targets += list(_names(head[begin:end], part, skip=("TABLE", "ONLY")))[:1]
        only.append("ONLY" in part[:2] and len(part) > 1)
    return Effect(TRUNCATE, tuple(targets), only=tuple(only))


def _alter_by_words(head: list[str], words: list[str]) -> Iterator[Effect]:
    targets = list(_names(head[:8], words[:8], skip=("IF", "EXISTS", "ONLY")))[:1]
    for begin, end in _parts(words):
        part = words[begin:end]
        for position, word in enumerate(part):
            if word != "DROP" or part[-1] != "CASCADE":
                continue
            rest = begin + position + 1
            kind = "table constraint" if words[rest : rest + 1] == ["CONSTRAINT"] else "table column"
            names = _names(head[rest:end], words[rest:end], skip=("COLUMN", "CONSTRAINT", "IF", "EXISTS"))
            yield Effect(
                DROP, tuple((*targets[0], *name) for name in names if targets)[:1], object_type=kind, cascade=True
            )


def _parts(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Return the stretches between commas."""
    begin = 0
    for position, word in enumerate([*words, ","]):
        if word == ",":
            yield begin, position
            begin = position + 1


def _names(head: Sequence[str], words: Sequence[str], *, skip: Iterable[str]) -> Iterator[Name]:
    """Return the names in a list such as ``IF EXISTS a.b, "c" CASCADE``, one of each stretch between commas."""
    for begin, end in _parts(words):
        position = begin
        while position < end - 1 and words[position] in skip:
            position += 1
        if position >= end or words[position] in _NAMELESS:
            continue
        name = [scanner.identifier(head[position])]
        while position + 2 < end and words[position + 1] == ".":
            name.append(scanner.identifier(head[position + 2]))
            position += 2
        yield tuple(name)


# -- in bodies ----------------------------------------------------------------------------------------------------

_CASCADE = re.compile(r"\b(TRUNCATE|DROP)\b[^;]*?\bCASCADE\b", re.IGNORECASE)
_BODY = re.compile(r"(?P<quote>\$(?:[A-Za-z_]\w*)?\$)(?P<text>.*?)(?P=quote)|'(?P<plain>(?:[^']|'')*)'", re.DOTALL)


def _hidden(statement: Statement) -> Iterator[Effect]:
    """Return what a DO block or a routine's body would truncate or drop with CASCADE.

    What a DO block says plainly runs now, and is returned as itself. What is put together at run time, and what a
    routine does when somebody calls it, nobody can know.
    """
    words = statement.words
    if words[:1] == ("DO",):
        routine = ""
    elif words[:1] == ("CREATE",) and {"FUNCTION", "PROCEDURE"} & set(words[1:4]):
        routine = "a routine"
    else:
        return
    for body in _BODY.finditer(statement.text):
        text = body.group("text") if body.group("text") is not None else body.group("plain").replace("''", "'")
        code = _without_comments_and_strings(text)
        for match in _CASCADE.finditer(_without_comments(text)):
            said = match.group()
            plain = code[match.start() : match.end()].strip() == said
            effects = _plain(said) if plain and not routine else []
            if effects:
                yield from (replace(effect, cause="a DO block") for effect in effects)
            else:
                yield Effect(HIDDEN, object_type=match.group(1).lower(), cause=routine or "a DO block")


def hidden(text: str) -> tuple[Effect, ...]:
    """Return what a text that cannot be split into statements would truncate or drop with CASCADE somewhere."""
    found = _CASCADE.finditer(_without_comments(text))
    return tuple(Effect(HIDDEN, object_type=match.group(1).lower(), cause="a file for psql") for match in found)


def _plain(text: str) -> list[Effect]:
    try:
        found = scanner.statements(text)
    except scanner.ScanError:
        return []
    effects = [effect for statement in found for effect in read(statement).effects]
    return [effect for effect in effects if effect.cascade and effect.targets]


def _without_comments(text: str) -> str:
    return _blanked(text, ("line_comment", "block_comment"))


def _without_comments_and_strings(text: str) -> str:
    return _blanked(text, ("line_comment", "block_comment", "string", "dollar"))


def _blanked(text: str, kinds: Sequence[str]) -> str:
    """Return ``text`` with tokens of certain kinds replaced by spaces; as it is where it cannot be read."""
    blanked = list(text)
    try:
        for kind, begin, end in scanner.tokens(text):
            if kind in kinds:
                blanked[begin:end] = " " * (end - begin)
    except scanner.ScanError:
        return text
    return "".join(blanked)
