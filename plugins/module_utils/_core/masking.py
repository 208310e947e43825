# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hiding the secrets of others in what is shown: in statements, in sessions' queries, in settings of databases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "********"

#: Customized parameters are where applications keep secrets; their values do not appear in results.
SECRET_PARAMETER = re.compile(r"\..*(secret|passw|token|key|credential)|(secret|passw|token|credential).*\.", re.I)

LITERAL = r"""(?:''[^']+'' | (?:e|u&)?'(?:[^'\\]|''|\\.)*(?:'|\Z) | \$(?P<%s>\w*)\$.*?(?:\$(?P=%s)\$|\Z))"""
SECRET = re.compile(
    r"""(?P<before>\bpassword\b (?:[\s"=]|/\*.*?\*/|--[^\n]*\n)*) (?P<literal>{password})
      | (?P<set>(?<![\w".]) (?=[\w".]*(?:secret|passw|token|key|credential)) [\w"]+\.[\w".]+ '? \s*(?:=|,|\bto\b)\s*)
        (?P<value>{parameter})
      | (?P<assigned>\bpassword\s*=\s*) [^\s'";]+
      | (?P<address>\b\w+://[^\s:/@']*:) [^\s@/']+ (?=@)""".format(
        password=LITERAL % ("tag", "tag"), parameter=LITERAL % ("other", "other")
    ),
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
#: What a text holds at least in which `SECRET` finds something; most hold none of it.
TRACE = re.compile(r"secret|passw|token|key|credential|://", re.IGNORECASE)

#: How much of a text is looked at for every character that is shown of it.
LOOKED_AT = 20


def mask_secrets(text: str) -> str:
    """Return a statement with what follows PASSWORD, secret parameters and the passwords of addresses replaced.

    Line breaks in a literal stay, so that places in the text do. A text that breaks off in a literal is masked to its
    end.
    """

    def masked(match: re.Match[str]) -> str:
        plain = match.group("assigned") or match.group("address")
        if plain:
            return plain + MASK
        literal = match.group("literal") or match.group("value")
        return "%s'%s'%s" % (match.group("before") or match.group("set"), MASK, "\n" * literal.count("\n"))

    return SECRET.sub(masked, text) if TRACE.search(text) else text


def shown(text: str, *, characters: int, ellipsis: str = "...") -> str:
    """Return at most the first ``characters`` of a statement, secrets masked; ``ellipsis`` follows what was cut."""
    masked = mask_secrets(text[: LOOKED_AT * characters])
    return masked if len(masked) <= characters else masked[:characters] + ellipsis


def mask_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return parameters of a database or a role with the values of secret ones replaced."""
    return {name: MASK if SECRET_PARAMETER.search(name) else value for name, value in settings.items()}


def mask_properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return `DatabaseProperties.as_dict` with the values of secret parameters replaced."""
    return dict(
        properties,
        settings=mask_settings(properties["settings"]),
        role_settings={role: mask_settings(settings) for role, settings in properties["role_settings"].items()},
    )
