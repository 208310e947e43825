# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutting a file into statements as PostgreSQL's own scanner reads it, and saying what kind each one is.

The rules are those of the server's scan.l and of psql's psqlscan.l, with ``standard_conforming_strings`` on
(https://www.postgresql.org/docs/current/sql-syntax-lexical.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ansible_collections.holdfast.postgres.plugins.module_utils._core import masking

_SPACE = " \\t\\n\\r\\f\\v"
_LETTER = "A-Za-z_\u0080-\U0010ffff"

TOKEN = re.compile(
    r"""
      (?P<space>[%(space)s]+)
    | (?P<line_comment>--[^\n\r]*)
    | (?P<block_comment>/\*)
    | (?P<string>
          # Parts of a string that are separated by a line break are one string, with the rules of its first part.
          [eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'
              (?:(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:[%(space)s]|--[^\n\r]*[\n\r])*'[^'\\]*(?:(?:\\.|'')[^'\\]*)*')*
        | '[^']*(?:''[^']*)*')
    | (?P<quoted>"[^"]*(?:""[^"]*)*")
    | (?P<dollar>\$(?:[%(letter)s][%(letter)s0-9]*)?\$)
    | (?P<unterminated>[eE]?'|")
    | (?P<word>[%(letter)s][%(letter)s0-9$]*)
    | (?P<number>[0-9]+(?:\.[0-9]+)*|\$[0-9]+)
    | (?P<semicolon>;)
    | (?P<open>\()
    | (?P<close>\))
    | (?P<backslash>\\)
    | (?P<other>[^%(letter)s0-9%(space)s'"$\\;()/.,-]+|.)
    """
    % {"space": _SPACE, "letter": _LETTER},
    re.VERBOSE | re.DOTALL,
)
BLOCK_COMMENT_EDGE = re.compile(r"/\*|\*/")
DIRECTIVE = re.compile(r"--[ \t]*holdfast[ \t]*:(.*)", re.IGNORECASE)
NO_TRANSACTION = "no-transaction"
ALLOW = "allow"

CREATE_CONCURRENTLY = re.compile(r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY\b")

#: As many tokens of a statement as are needed to tell its kind.
HEAD_TOKENS = 64
SHOWN_CHARACTERS = 200


class ScanError(Exception):
    """A place in a file that cannot be run, by character offset."""

    def __init__(self, message: str, *, offset: int, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.hint = hint


class NeedsPsql(ScanError):
    """A place that only psql understands."""


@dataclass(frozen=True)
class Statement:
    """One statement of a file: ``text`` without its semicolon and without the comments before it."""

    text: str
    offset: int
    #: The first words, names and signs outside parentheses, as written; each group of parentheses is one ``(``.
    head: tuple[str, ...]
    #: The first words inside the first parentheses.
    inside: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """`head` in upper case, names in double quotes as they are."""
        return tuple(token if token.startswith('"') else _upper(token) for token in self.head)

    @property
    def shown(self) -> str:
        """The beginning of the statement, fit for messages."""
        return shown(self.text)


class Piece(NamedTuple):
    """A stretch of a file up to and including a semicolon; pieces joined give the file back."""

    text: str
    statement: Statement | None


@dataclass(frozen=True)
class ConcurrentIndex:
    """What ``CREATE INDEX CONCURRENTLY`` names, both as written; ``name`` is empty when the server chooses it."""

    name: str
    table: str


@dataclass(frozen=True)
class ConcurrentDetach:
    """What ``ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY`` names, both as written."""

    table: str
    partition: str


def split(text: str) -> list[Piece]:
    """Return the pieces of ``text``; raises `ScanError` for what only psql understands or what never ends."""
    pieces: list[Piece] = []
    begin = 0
    reader = StatementReader()
    position = 0
    size = len(text)
    while position < size:
        kind, end = next_token(text, position)
        if kind == "backslash":
            raise NeedsPsql(
                "a command of psql (%s) is not SQL"
                % text[position : position + 20].split("\n", maxsplit=1)[0].rstrip(),
                offset=position,
                hint="Write it as SQL.",
            )
        if kind == "semicolon" and not reader.inside_body():
            pieces.append(Piece(text[begin:end], _sent(reader.finish(text))))
            reader = StatementReader()
            begin = end
        else:
            reader.add(kind, text, position, end)
        position = end
    if begin < size:
        pieces.append(Piece(text[begin:], _sent(reader.finish(text))))
    return pieces


def next_token(text: str, position: int) -> tuple[str, int]:
    """Return kind and end of the token at ``position``; raises `ScanError` for what never ends."""
    match = _token(text, position)
    kind = str(match.lastgroup)
    if kind == "block_comment":
        return kind, _block_comment_end(text, position)
    if kind == "dollar":
        return kind, _dollar_quote_end(text, match)
    if kind == "unterminated":
        raise ScanError(
            "a quote is opened that nothing closes",
            offset=position,
            hint="Close the %s; the whole rest of the file was read as its content." % match.group()[-1],
        )
    return kind, match.end()


def _sent(statement: Statement | None) -> Statement | None:
    """Return the statement, unless the rows that follow it would have to be read, too."""
    if statement is not None and copies_by_client(statement):
        raise NeedsPsql(
            "COPY from or to the client is for psql", offset=statement.offset, hint="Use INSERT, or a file for psql."
        )
    return statement


def statements(text: str) -> list[Statement]:
    """Return the statements of ``text`` in order; comments and empty statements are none."""
    return [piece.statement for piece in split(text) if piece.statement is not None]


class StatementReader:
    """The statement that is being read, token by token."""

    def __init__(self) -> None:
        self.begin = -1
        self.end = -1
        self.depth = 0
        self.body_depth = 0
        self.head: list[str] = []
        self.inside: list[str] = []
        self.groups = 0
        self.routine: bool | None = None
        self.last = ""

    def inside_body(self) -> bool:
        """Whether a semicolon here belongs to the statement."""
        return self.depth > 0 or self.body_depth > 0

    def add(self, kind: str, text: str, begin: int, end: int) -> None:
        """Take one token of ``text``."""
        if kind in ("space", "line_comment", "block_comment"):
            return
        token = "$" if kind == "dollar" else text[begin:end]
        if self.begin < 0:
            self.begin = begin
        self.end = end
        if kind == "close" and self.depth:
            self.depth -= 1
        elif self.depth == 0:
            if kind == "word":
                self._follow_body(_upper(token))
            if len(self.head) < HEAD_TOKENS:
                self.head.append(token)
        elif self.groups == 1 and kind == "word" and len(self.inside) < HEAD_TOKENS:
            self.inside.append(_upper(token))
        if kind == "open":
            self.depth += 1
            self.groups += self.depth == 1
        self.last = _upper(token) if kind == "word" else token

    def _follow_body(self, word: str) -> None:
        """Count ``BEGIN ATOMIC ... END`` of a routine, with the ``CASE ... END`` in it."""
        if word not in ("ATOMIC", "CASE", "END") or not self._is_routine():
            return
        if word == "ATOMIC":
            if self.last == "BEGIN":
                self.body_depth += 1
        elif self.body_depth and self.last not in ("AS", "."):  # otherwise it is a column's label
            self.body_depth += 1 if word == "CASE" else -1

    def _is_routine(self) -> bool:
        if self.routine is None:
            words = [_upper(token) for token in self.head[:4]]
            if words[1:3] == ["OR", "REPLACE"]:
                del words[1:3]
            self.routine = words[:1] == ["CREATE"] and words[1:2] in (["FUNCTION"], ["PROCEDURE"])
        return self.routine

    def finish(self, text: str) -> Statement | None:
        """Return the statement, or None when there was nothing."""
        if self.begin < 0:
            return None
        return Statement(
            text=text[self.begin : self.end], offset=self.begin, head=tuple(self.head), inside=tuple(self.inside)
        )


_COPY_BY_CLIENT = (("FROM", "STDIN"), ("FROM", "STDOUT"), ("TO", "STDOUT"), ("TO", "STDIN"))


def copies_by_client(statement: Statement) -> bool:
    """Whether the statement is a COPY whose rows come from the client or go to it."""
    words = statement.words
    return words[:1] == ("COPY",) and any(pair in _COPY_BY_CLIENT for pair in zip(words, words[1:]))


def _block_comment_end(text: str, begin: int) -> int:
    """Return the end of a comment, in which comments nest."""
    depth = 0
    for edge in BLOCK_COMMENT_EDGE.finditer(text, begin):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    raise ScanError(
        "a comment is opened that nothing closes",
        offset=begin,
        hint="Close it with */; comments nest, so each /* inside needs its own.",
    )


def _dollar_quote_end(text: str, match: re.Match[str]) -> int:
    end = text.find(match.group(), match.end())
    if end < 0:
        raise ScanError(
            "a dollar quote %s is opened that nothing closes" % match.group(),
            offset=match.start(),
            hint="Close it with %s, written exactly so." % match.group(),
        )
    return end + len(match.group())


def _token(text: str, position: int) -> re.Match[str]:
    match = TOKEN.match(text, position)
    if match is None:
        raise AssertionError("the scanner knows no token at offset %d" % position)
    return match


def tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """Return kind, begin and end of each token; comments and dollar quotes are one token each.

    Raises `ScanError` for what never ends.
    """
    position = 0
    while position < len(text):
        match = _token(text, position)
        end = match.end()
        if match.lastgroup == "block_comment":
            end = _block_comment_end(text, position)
        elif match.lastgroup == "dollar":
            end = _dollar_quote_end(text, match)
        yield str(match.lastgroup), position, end
        position = end


def directives(text: str) -> list[tuple[int, str]]:
    """Return ``-- holdfast: ...`` lines before the first statement, as offset and lower-case words."""
    found = []
    position = 0
    while position < len(text):
        match = _token(text, position)
        if match.lastgroup == "line_comment":
            directive = DIRECTIVE.fullmatch(match.group())
            if directive is not None:
                found.append((position, " ".join(directive.group(1).lower().split())))
        elif match.lastgroup == "block_comment":
            position = _block_comment_end(text, position)
            continue
        elif match.lastgroup not in ("space", "semicolon"):
            break
        position = match.end()
    return found


def is_allowance(words: str) -> bool:
    """Whether a directive tells the lint what is wanted, which does not concern the runner."""
    return words.partition(" ")[0] == ALLOW


def transaction_control(statement: Statement) -> str | None:
    """Return the command by which a statement begins or ends a transaction, or None.

    Savepoints are none: they stay inside the file's transaction.
    """
    words = statement.words
    first = words[0]
    if first in ("BEGIN", "COMMIT", "END", "ABORT", "ROLLBACK"):
        if first == "ROLLBACK" and "TO" in words[1:3]:
            return None
        return None if words[1:2] == ("PREPARED",) else first
    if words[:2] in (("START", "TRANSACTION"), ("PREPARE", "TRANSACTION")):
        return " ".join(words[:2])
    return None


BEGINNINGS = ("BEGIN", "START TRANSACTION")
ENDINGS = ("COMMIT", "END")


def beginning(statement: Statement) -> str | None:
    """Return the text of a BEGIN that asks for a transaction of some kind, or None when it names none."""
    return statement.text if set(statement.words) - {"BEGIN", "START", "WORK", "TRANSACTION"} else None


def enum_value_used_later(statements: Sequence[Statement]) -> tuple[Statement, Statement] | None:
    """Return the first ``ALTER TYPE ... ADD VALUE`` whose value a later statement writes out, and that statement.

    A value may be used in the transaction that adds it only when that transaction has made the type
    (https://www.postgresql.org/docs/current/sql-altertype.html, Notes).
    """
    made = set()
    for number, statement in enumerate(statements):
        words = statement.words
        if words[:2] == ("CREATE", "TYPE"):
            made.add(_qualified(statement.head[2:]))
        if words[:2] != ("ALTER", "TYPE") or not {"ADD", "VALUE"} <= set(words[2:8]):
            continue
        value = next((token for token in statement.head if token.endswith("'")), "")
        if not value or _qualified(statement.head[2:]) in made:
            continue
        written = value[value.index("'") :]
        for later in statements[number + 1 :]:
            if written in later.text and not _adds_value(later):
                return statement, later
    return None


def _adds_value(statement: Statement) -> bool:
    return statement.words[:2] == ("ALTER", "TYPE") and "VALUE" in statement.words[2:8]


def _qualified(head: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of the name that ``head`` begins with."""
    parts = [identifier(head[0])] if head else []
    while len(head) > 2 and head[1] == ".":
        head = head[2:]
        parts.append(identifier(head[0]))
    return tuple(parts)


def outside_transaction(statement: Statement) -> str | None:
    """Return the command that the server refuses inside a transaction block, or None.

    The list follows the calls of PreventInTransactionBlock in PostgreSQL 13 to 18. Some commands are refused for
    certain targets only, such as REINDEX of a partitioned table; those the server reports.
    """
    words = [word if word != "(" else "( %s" % " ".join(statement.inside) for word in statement.words]
    match = OUTSIDE_TRANSACTION.match(" ".join(words))
    return match.group("command") if match else None


OUTSIDE_TRANSACTION = re.compile(
    r"""(?P<command>
        CREATE[ ](?:UNIQUE[ ])?INDEX[ ]CONCURRENTLY
      | DROP[ ]INDEX[ ]CONCURRENTLY
      | REINDEX[ ](?:\w+[ ]|\([ ](?:\w+[ ])*)CONCURRENTLY
      | REINDEX[ ](?:\([ ](?:\w+[ ])*)?(?:SCHEMA|DATABASE|SYSTEM)
      | VACUUM
      | CLUSTER(?=(?:[ ]VERBOSE|[ ]\([ ]\w*)?$)
      | (?:CREATE|DROP)[ ](?:DATABASE|TABLESPACE)
      | ALTER[ ]SYSTEM
      | CREATE[ ]SUBSCRIPTION(?!.*[ ](?:CREATE_SLOT|CONNECT)[ ](?:FALSE|OFF)(?:[ ]|$))
      | DROP[ ]SUBSCRIPTION
      | ALTER[ ]SUBSCRIPTION[ ](?:"(?:[^"]|"")*"|\S+)[ ](?:REFRESH|(?:SET|ADD|DROP)[ ]PUBLICATION)
      | ALTER[ ]DATABASE[ ](?:"(?:[^"]|"")*"|\S+)[ ]SET[ ]TABLESPACE
      | ALTER[ ]TABLE[ ](?:.*[ ])?DETACH[ ]PARTITION[ ].*[ ]CONCURRENTLY$
      | DISCARD[ ]ALL
      | (?:COMMIT|ROLLBACK)[ ]PREPARED
    )(?![^ ])""",
    re.VERBOSE | re.DOTALL,
)


def may_control_transactions(statement: Statement) -> bool:
    """Whether the statement runs code that can commit by itself, which it may do outside a transaction block only."""
    return statement.words[0] in ("CALL", "DO")


def commits_by_itself(statement: Statement) -> bool:
    """Whether the statement is a DO whose code writes out COMMIT or ROLLBACK, so that no transaction may hold it."""
    if statement.words[0] != "DO":
        return False
    text = COMMENT.sub(" ", statement.text)
    for match in BODY_COMMIT.finditer(text):
        before = text[: match.start()].rstrip().upper()
        if before.endswith((";", "$", *BEFORE_COMMAND)):
            return True
    return False


COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
BODY_COMMIT = re.compile(r"\b(?:COMMIT|ROLLBACK)\s*(?:AND\s+(?:NO\s+)?CHAIN\s*)?;", re.IGNORECASE)
BEFORE_COMMAND = ("BEGIN", "THEN", "ELSE", "LOOP")


def sets_session(statement: Statement) -> bool:
    """Whether the statement's effect is a setting of the session, so that a resumed run needs it again."""
    words = statement.words
    if words[0] == "SELECT":
        return "SET_CONFIG" in words[1:4] and "FROM" not in words
    return words[0] in ("SET", "RESET") and words[1:2] not in (("LOCAL",), ("TRANSACTION",), ("CONSTRAINTS",))


def concurrent_index(statement: Statement) -> ConcurrentIndex | None:
    """Return what a ``CREATE INDEX CONCURRENTLY`` names, or None for any other statement."""
    if not CREATE_CONCURRENTLY.match(" ".join(statement.words[:4])):
        return None
    head = statement.head + ("",) * 6
    words = statement.words + ("",) * 6
    position = words.index("CONCURRENTLY") + 1
    if words[position : position + 3] == ("IF", "NOT", "EXISTS"):
        position += 3
    name = ""
    if words[position] != "ON":
        name = head[position]
        position += 1
    position += 1 + (words[position + 1] == "ONLY")
    table = head[position]
    while head[position + 1 : position + 2] == (".",):
        table += "." + head[position + 2]
        position += 2
    return ConcurrentIndex(name=identifier(name), table=table)


def concurrent_detach(statement: Statement) -> ConcurrentDetach | None:
    """Return what an ``ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY`` names, or None for any other statement."""
    words, head = statement.words, statement.head
    pair = ("DETACH", "PARTITION")
    at = next((i for i in range(3, len(words) - 2) if words[i : i + 2] == pair), 0)
    if words[:2] != ("ALTER", "TABLE") or not at or words[-1] != "CONCURRENTLY":
        return None
    begin = 4 if words[2:4] == ("IF", "EXISTS") else 2
    begin += words[begin] == "ONLY"
    return ConcurrentDetach(table="".join(head[begin:at]).rstrip("*"), partition="".join(head[at + 2 : -1]))


def identifier(written: str) -> str:
    """Return the name that ``written`` stands for: unquoted, or folded to lower case."""
    if written.startswith('"'):
        return written[1:-1].replace('""', '"')
    return "".join(c.lower() if c.isascii() else c for c in written)


def place(text: str, offset: int) -> tuple[int, int]:
    """Return line and column of a character offset, both counted from 1."""
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


def shown(text: str) -> str:
    """Return at most the first 200 characters of ``text``, secrets masked."""
    return masking.shown(text, characters=SHOWN_CHARACTERS)


def _upper(token: str) -> str:
    return token.upper() if token.isascii() else token


def joined(texts: Sequence[str]) -> str:
    """Return statements as one text that no other sequence of statements gives, for a checksum."""
    return "\x00".join(texts)
