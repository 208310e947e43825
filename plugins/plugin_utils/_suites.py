# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suite files read on the controller: YAML with the line of every key, so that managed hosts need no YAML parser."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import yaml

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError


class SuiteLoader(yaml.SafeLoader):
    """The core rules of YAML 1.2: ``no`` and ``2026-01-31`` are text, and a number keeps all its digits."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float | str:
    text = loader.construct_scalar(node)
    value = float(text)
    # A float that would lose digits travels as text; comparisons read a number from it exactly.
    return value if Decimal(repr(value)) == Decimal(text) else text


_INT = "(?:0|[1-9][0-9]*)"
_EXPONENT = "[eE][-+]?[0-9]+"
for _tag, _pattern, _first in (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?%s" % _INT, "-+0123456789"),
    ("float", r"[-+]?(?:%s?\.[0-9]+(?:%s)?|%s%s)" % (_INT, _EXPONENT, _INT, _EXPONENT), "-+.0123456789"),
):
    SuiteLoader.add_implicit_resolver("tag:yaml.org,2002:" + _tag, re.compile(r"(?:%s)\Z" % _pattern), list(_first))
SuiteLoader.add_constructor("tag:yaml.org,2002:float", _number)


def read_suite(text: str, *, file: str) -> dict[str, Any]:
    """Return ``{"file", "content", "lines"}`` for one file, as module_utils/_verification/suite.py takes it.

    Raises `HoldfastError` (``suite_invalid``) with file and line for what is not YAML, for several documents, repeated
    keys, and values that JSON does not have.
    """
    lines: dict[str, int] = {}
    try:
        loader = SuiteLoader(str(text))
        try:
            node = loader.get_single_node()
            if node is None:
                raise _refusal(file, 1, "the file is empty.")
            _survey(node, (), (), lines, file)
            content = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        problem = " ".join(part for part in (exc.context, exc.problem) if part)
        raise _refusal(file, mark.line + 1 if mark else None, "this is not YAML: %s." % problem) from exc
    except yaml.YAMLError as exc:
        raise _refusal(file, None, "this is not YAML: %s." % " ".join(str(exc).split())) from exc
    return {"file": file, "content": content, "lines": lines}


def _survey(
    node: yaml.Node, path: tuple[str, ...], around: tuple[yaml.Node, ...], lines: dict[str, int], file: str
) -> None:
    """Note the line of everything below ``node``, and refuse what would be lost or changed on the way."""
    line = node.start_mark.line + 1
    if node in around:
        raise _refusal(file, line, "an alias stands inside what it repeats.")
    lines.setdefault("/".join(path), line)
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _survey(item, (*path, str(position)), (*around, node), lines, file)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            key_line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise _refusal(file, key_line, "a key must be text; put it in quotes.")
            if key.value in seen:
                raise _refusal(file, key_line, "the key %r stands twice in one mapping." % key.value)
            seen.add(key.value)
            lines["/".join((*path, key.value))] = key_line
            _survey(value, (*path, key.value), (*around, node), lines, file)
    elif node.tag.startswith("tag:yaml.org,2002:") and node.tag.rsplit(":", 1)[1] in ("binary", "timestamp"):
        raise _refusal(file, line, "the tag %s has no meaning in a suite." % node.tag)


def _refusal(file: str, line: int | None, problem: str) -> HoldfastError:
    return HoldfastError(
        code="suite_invalid",
        msg="%s%s: %s" % (file, "" if line is None else ", line %d" % line, problem),
        hint="Mend the file; the page 'write a suite' of the documentation shows its form.",
        file=file,
        line=line,
    )
