# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading files that only psql understands: their commands, the files that they include, the SQL between.

The rules are those of psql's psqlscan.l and psqlscanslash.l
(https://www.postgresql.org/docs/current/app-psql.html#APP-PSQL-META-COMMANDS).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.statements import (
    NeedsPsql,
    ScanError,
    Statement,
    StatementReader,
    copies_by_client,
    next_token,
    split,
)

#: A command and its arguments, which a backslash outside quotes ends as a line break does.
COMMAND = re.compile(r"\\(?P<name>[^\s\\]+)(?P<arguments>(?:'(?:[^'\\\n]|''|\\[^\n])*'|\"[^\"\n]*\"|[^\\\n])*)")
WHOLE_LINE = re.compile(r"\\(?P<name>copy)\b(?P<arguments>[^\n]*)", re.IGNORECASE)
DATA_END = re.compile(r"^\\\.[ \t]*$", re.MULTILINE)

#: What ends the statement before it as a semicolon does.
SENDING = frozenset(("g", "gx", "gset", "gexec", "gdesc", "crosstabview", "bind_named", "sendpipeline"))

INCLUDING = {"i": False, "include": False, "ir": True, "include_relative": True}

HINT_MIGRATION = "Remove it: a migration runs by itself, in one database, and leaves nothing outside it."
REFUSED = {
    **dict.fromkeys(("!", "cd", "setenv"), "it leaves psql for the shell or changes what psql was started with"),
    **dict.fromkeys(("c", "connect"), "the history would be written to another database"),
    **dict.fromkeys(("e", "edit", "ef", "ev", "password", "prompt"), "nobody is there to answer"),
    **dict.fromkeys(("w", "write", "s"), "it writes a file"),
    **dict.fromkeys(("lo_import", "lo_export"), "it reads or writes a file of the client"),
    **dict.fromkeys(("watch",), "it does not end"),
    **dict.fromkeys(("startpipeline", "endpipeline", "syncpipeline"), "errors in a pipeline come too late"),
}
#: Variables by which a file would go on after an error, or not commit what it has done.
KEPT = {"ON_ERROR_STOP": ("on", "1", "true", "yes", ""), "AUTOCOMMIT": ("on", "1", "true", "yes", "")}
FORBIDDEN = ("SINGLELINE", "SINGLESTEP")

_NAME = r'(?:"(?:[^"]|"")+"|[^\s"().]+)'
COPY = re.compile(
    r"""\s*(?:binary\s+)?(?:%(name)s(?:\.%(name)s)?\s*(?:\([^)]*\))?|(?P<query>\())\s*
        (?(query)(?:'(?:[^']|'')*'|"(?:[^"]|"")*"|[^'"])*\)\s*)
        (?P<way>from|to)\s+(?P<program>program\b\s*)?(?P<file>'(?:[^']|'')*'|[^\s;']+)"""
    % {"name": _NAME},
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Include:
    """A file that a file names: relative to the directory of the migration, or of the file itself."""

    name: str
    offset: int
    relative: bool
    is_sql: bool = True

    def path(self, including: str, *, directory: str) -> str:
        """Return where the file is, when ``including`` names it and ``directory`` is that of the migration."""
        base = posixpath.dirname(including) if self.relative else directory
        return posixpath.normpath(posixpath.join(base, self.name))


@dataclass
class File:
    """What a file is for psql: its SQL statements in order, and the files that it names."""

    statements: list[Statement] = field(default_factory=list)
    includes: list[Include] = field(default_factory=list)
    #: The statements that run whatever the variables are: those outside \\if.
    unconditional: list[Statement] = field(default_factory=list)
    depth: int = 0


def needs_psql(text: str) -> bool:
    """Whether only psql understands ``text``."""
    try:
        split(text)
    except NeedsPsql:
        return True
    except ScanError:
        return False
    return False


def read(text: str) -> File:
    """Return what psql would see in ``text``; raises `ScanError` for what never ends and for what is refused."""
    file = File()
    reader = StatementReader()
    position = 0

    def finish() -> Statement | None:
        nonlocal reader
        statement, reader = reader.finish(text), StatementReader()
        if statement is not None:
            file.statements.append(statement)
            if not file.depth:
                file.unconditional.append(statement)
        return statement

    while position < len(text):
        kind, end = next_token(text, position)
        if kind == "backslash" and text[end : end + 1] == ";":  # two statements that are sent together
            kind, end = "semicolon", end + 1
        if kind == "backslash" and text[end : end + 1] not in (":", "\\"):
            match = WHOLE_LINE.match(text, position) or COMMAND.match(text, position)
            if match is None:
                raise ScanError("a backslash without a command", offset=position, hint="Remove it.")
            name = match.group("name")
            if name in SENDING:
                finish()
            position = _command(file, name, match.group("arguments"), text=text, offset=position, end=match.end())
            continue
        if kind == "backslash":
            end += 1
        elif kind == "semicolon" and not reader.inside_body():
            statement = finish()
            if statement is not None and copies_by_client(statement) and "FROM" in statement.words:
                end = _after_rows(text, end)
        else:
            reader.add(kind, text, position, end)
        position = end
    finish()
    return file


def _command(file: File, name: str, arguments: str, *, text: str, offset: int, end: int) -> int:
    """Take one command; return where the file goes on."""

    def refuse(reason: str, hint: str = HINT_MIGRATION) -> None:
        raise ScanError("\\%s is not for migrations: %s" % (name, reason), offset=offset, hint=hint)

    plain = re.sub(r"'(?:[^'\\]|''|\\.)*'", "''", arguments)
    if name in REFUSED:
        refuse(REFUSED[name])
    if name == "copy":
        return _copy(file, arguments, text=text, offset=offset, end=end)
    if "`" in plain:
        refuse("what stands in backquotes is run by a shell")
    if name in ("o", "out", "g", "gx") and re.search(r"(?:^|[\s)])\|", plain):
        refuse("its output goes to a program")
    if name in INCLUDING:
        written = re.fullmatch(r"\s*(?:'(?P<quoted>(?:[^'\\]|'')+)'|(?P<bare>[^\s':\"\\]+))\s*", arguments)
        if written is None:
            refuse("the name of the file is not written out", "Write the name itself, without variables.")
            return end
        included = (written.group("quoted") or "").replace("''", "'") or written.group("bare")
        if included.startswith(("/", "~")):
            refuse("%s is not relative" % included, "Keep what it includes beside the migration.")
        file.includes.append(Include(included, offset, INCLUDING[name]))
    if name in ("set", "unset"):
        words = arguments.split()
        value = "".join(words[1:]).strip("'").lower()
        wrong = words and words[0] in KEPT and (name == "unset" or value not in KEPT[words[0]])
        if wrong or (words and words[0] in FORBIDDEN):
            refuse("%s stays as it is" % words[0], "Remove it: a file ends at its first error.")
    file.depth += {"if": 1, "endif": -1}.get(name, 0)
    return end


def _copy(file: File, arguments: str, *, text: str, offset: int, end: int) -> int:
    match = COPY.match(arguments)
    hint = "Write it as \\copy table (columns) from 'file', or as COPY ... FROM STDIN with the rows below it."
    if match is None:
        raise ScanError("\\copy cannot be understood", offset=offset, hint=hint)
    name = match.group("file")
    if match.group("program"):
        raise ScanError("\\copy runs a program", offset=offset, hint=hint)
    incoming = match.group("way").lower() == "from"
    if name.lower() in ("stdin", "stdout"):
        return _after_rows(text, end) if incoming else end
    if not incoming or name.lower() in ("pstdin", "pstdout"):
        raise ScanError("\\copy writes a file, or reads what nobody types", offset=offset, hint=hint)
    if name.startswith("'"):
        name = name[1:-1].replace("''", "'")
    if name.startswith(("/", "~")):
        raise ScanError(
            "\\copy reads %s, which is not relative" % name,
            offset=offset,
            hint="Keep the file beside the migration, or let the server read it with COPY.",
        )
    file.includes.append(Include(name, offset, relative=False, is_sql=False))
    return end


def _after_rows(text: str, position: int) -> int:
    """Return the end of the rows that follow a COPY, whose line ends at ``position`` or has a comment behind it."""
    line_end = text.find("\n", position)
    line_end = len(text) if line_end < 0 else line_end
    if text[position:line_end].strip() and not text[position:line_end].lstrip().startswith("--"):
        raise ScanError(
            "something follows COPY ... FROM STDIN in its line",
            offset=position,
            hint="Put it behind the rows, which begin in the next line and end with the line \\.",
        )
    match = DATA_END.search(text, line_end)
    return match.end() if match else len(text)


def included(text: str, *, path: str, contents: Mapping[str, str]) -> list[tuple[str, File]]:
    """Return ``path`` and all files that it includes, with what psql would see in them; each once.

    ``contents`` are texts by path. Raises `MissingInclude`, and `IncludedScanError` for what is refused in one of them.
    """
    directory = posixpath.dirname(path)
    found: dict[str, File] = {}
    waiting = [(path, text)]
    while waiting:
        name, content = waiting.pop()
        try:
            found[name] = read(content)
        except ScanError as exc:
            raise IncludedScanError(name, content, exc) from exc
        for include in found[name].includes:
            target = include.path(name, directory=directory)
            if target not in contents and target != path:
                missing = ScanError(
                    "%s is not there" % target,
                    offset=include.offset,
                    hint="\\i and \\copy look beside the migration, \\ir beside the file that says it.",
                )
                raise IncludedScanError(name, content, missing)
            if include.is_sql and target not in found:
                waiting.append((target, contents.get(target, text)))
    return list(found.items())


class IncludedScanError(Exception):
    """A `ScanError` in one of several files."""

    def __init__(self, path: str, text: str, error: ScanError) -> None:
        super().__init__(error.message)
        self.path = path
        self.text = text
        self.error = error
