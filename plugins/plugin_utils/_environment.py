# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environment files that a POSIX shell and systemd read alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def environment_file(variables: Mapping[str, Any]) -> str:
    """Return one ``NAME="value"`` line for each variable, in order; None and empty values are left out.

    Inside of double quotes both readers take a backslash before ``\\``, ``"``, ``$`` and a backtick away, and nothing
    else (POSIX, 2.2.3; systemd.exec(5), EnvironmentFile=). Raises `ValueError` for what such a line cannot hold; the
    message names the variable and never its value.
    """
    lines = []
    for name, value in variables.items():
        text = "" if value is None else str(value)
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", str(name)):
            raise ValueError("%r is no name of an environment variable" % name)
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text):
            raise ValueError("the value of %s holds a line break or another control character" % name)
        if text:
            lines.append('%s="%s"\n' % (name, re.sub(r'([\\"$`])', r"\\\1", text)))
    return "".join(lines)
