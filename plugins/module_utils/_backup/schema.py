# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A schema as pg_dump writes it, taken apart into objects, so that two of them can be compared by name.

What differs from dump to dump without meaning anything is left out: comments of pg_dump itself, settings of the
session, the random key of ``\\restrict``, and the order, which follows OIDs where names and dependencies leave it open.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.masking import mask_secrets

#: Strings, quoted names and bodies, in which nothing is a comment; then what pg_dump writes around the objects.
TOKEN = re.compile(
    r"""(?<!\w)[Ee]'(?:[^'\\]|''|\\.)*'
      | '(?:[^']|'')*'
      | "(?:[^"]|"")*"
      | (?P<dollar>\$(?:[^\W\d]\w*)?\$).*?(?P=dollar)
      | ^--\n--\ Name:\ (?P<name>[^\n]*);\ Type:\ (?P<kind>[^;\n]*);\ Schema:\ (?P<schema>[^\n]*?);\ Owner:[^\n]*\n--\n
      | ^SET\ (?P<parameter>default_tablespace|default_table_access_method)\ =\ (?P<value>[^\n]*);\n
      | (?P<noise>^--[^\n]*\n? | ^\\(?:un)?restrict[ ][^\n]*\n?)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)

#: Kinds of objects to which pg_dump gives a tablespace, and an access method, by a setting of the session.
SETTINGS_OF = {
    "default_tablespace": ("TABLE", "INDEX", "MATERIALIZED VIEW", "CONSTRAINT"),
    "default_table_access_method": ("TABLE", "MATERIALIZED VIEW"),
}
USUAL = {"default_tablespace": "''", "default_table_access_method": "heap"}

#: Of a difference, this many lines are shown.
SHOWN_LINES = 200


@dataclass(frozen=True)
class SchemaObject:
    """The statements that make one object, secrets masked, and the sha256 of the same with secrets."""

    text: str
    sha256: str


@dataclass(frozen=True)
class Schema:
    """Objects by what they are called, such as ``table public.loan``; names are not quoted, as pg_dump has them."""

    objects: Mapping[str, SchemaObject] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """One sum for everything."""
        digest = hashlib.sha256()
        for name, found in sorted(self.objects.items()):
            digest.update(("%s\0%s\0" % (name, found.sha256)).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return the schema as JSON-able values."""
        objects = {name: {"text": o.text, "sha256": o.sha256} for name, o in sorted(self.objects.items())}
        return {"sha256": self.sha256, "objects": objects}

    @classmethod
    def from_dict(cls, values: Any) -> Schema:
        """Return the schema that `as_dict` described; raises `HoldfastError` (``option_invalid``) when it is none."""
        try:
            objects = {name: SchemaObject(str(o["text"]), str(o["sha256"])) for name, o in values["objects"].items()}
        except (KeyError, TypeError, AttributeError) as exc:
            raise HoldfastError(
                code="option_invalid",
                msg="The reference is not a schema: %s: %s" % (type(exc).__name__, exc),
                hint="Give what pg_schema_info returned as schema, with full: true.",
            ) from exc
        return cls(objects)


def parse_schema(dump: str) -> Schema:
    """Return the objects of a plain dump of a schema."""
    found: list[tuple[str, list[str]]] = []
    preamble: list[str] = []
    text = preamble
    settings = dict(USUAL)
    position = 0
    for match in TOKEN.finditer(dump):
        if not (match["kind"] or match["parameter"] or match["noise"]):
            continue
        text.append(dump[position : match.start()])
        position = match.end()
        if match["parameter"]:
            settings[match["parameter"]] = match["value"]
        elif match["kind"]:
            text = [
                "SET %s = %s;\n" % (name, value)
                for name, value in settings.items()
                if match["kind"] in SETTINGS_OF[name] and value != USUAL[name]
            ]
            found.append((_label(match["kind"], match["schema"], match["name"]), text))
    text.append(dump[position:])
    texts: dict[str, list[str]] = {}
    for label, parts in found:
        texts.setdefault(label, []).append("".join(parts).strip() + "\n")
    # Objects of one name, such as grants of several kinds, count as one.
    return Schema({label: _object("\n".join(sorted(several))) for label, several in texts.items()})


def _label(kind: str, schema: str, name: str) -> str:
    return "%s %s%s" % (kind.lower(), "" if schema == "-" else schema + ".", name)


def _object(text: str) -> SchemaObject:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return SchemaObject(text=mask_secrets(text), sha256=digest)


def compare_schemas(before: Schema, after: Schema) -> list[dict[str, Any]]:
    """Return what of ``before`` is different in ``after``, an empty list when nothing is.

    Each difference has ``object``, ``kind`` (``missing``, ``unexpected``, ``changed``, or ``column_order`` for a table
    whose columns are the same in another order), ``before`` and ``after`` (the statements, or None), ``diff`` (a
    unified diff) and ``message``, a sentence.
    """
    differences = []
    for name in sorted({*before.objects, *after.objects}):
        old, new = before.objects.get(name), after.objects.get(name)
        if old is None or new is None:
            kind, message = ("unexpected", "was not there before") if old is None else ("missing", "is missing")
        elif old.sha256 == new.sha256:
            continue
        elif name.startswith("table ") and _same_lines(old.text, new.text):
            kind, message = "column_order", "has its columns in another order"
        else:
            kind, message = "changed", "differs"
        differences.append(
            {
                "object": name,
                "kind": kind,
                "before": old.text if old else None,
                "after": new.text if new else None,
                "diff": _diff(name, old, new),
                "message": "The %s %s." % (name, message),
            }
        )
    return differences


def _same_lines(old: str, new: str) -> bool:
    """Whether two CREATE TABLE differ in nothing but the order of lines; pg_dump writes one for each column."""
    mine, theirs = (sorted(line.rstrip(",") for line in text.splitlines()) for text in (old, new))
    return old != new and mine == theirs


def _diff(name: str, old: SchemaObject | None, new: SchemaObject | None) -> str:
    lines = list(
        difflib.unified_diff(
            old.text.splitlines() if old else [],
            new.text.splitlines() if new else [],
            "before: %s" % name,
            "after: %s" % name,
            lineterm="",
        )
    )
    if not lines:
        return "A secret in the %s differs." % name
    if len(lines) > SHOWN_LINES:
        lines[SHOWN_LINES:] = ["... and %d more lines" % (len(lines) - SHOWN_LINES)]
    return "\n".join(lines)
