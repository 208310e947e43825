# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantities with units: those of PostgreSQL's settings, and the percent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

#: Units by dimension, with their size in the first one. Bytes count by 1024, as in PostgreSQL
#: (https://www.postgresql.org/docs/current/config-setting.html).
DIMENSIONS: Mapping[str, Mapping[str, Decimal]] = {
    "time": {
        "us": Decimal(1),
        "ms": Decimal(1_000),
        "s": Decimal(1_000_000),
        "min": Decimal(60_000_000),
        "h": Decimal(3_600_000_000),
        "d": Decimal(86_400_000_000),
    },
    "size": {unit: Decimal(1024) ** power for power, unit in enumerate(("B", "kB", "MB", "GB", "TB"))},
    "share": {"%": Decimal(1)},
}
UNITS = tuple(unit for units in DIMENSIONS.values() for unit in units)

_QUANTITY = re.compile(r"\s*([-+]?[0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|min|h|d|B|kB|MB|GB|TB|%)\s*")

# How the server prints an interval in its default style (https://www.postgresql.org/docs/current/datatype-datetime.html).
_INTERVAL = re.compile(
    r"(?:(?P<years>[-+]?\d+) years? ?)?(?:(?P<mons>[-+]?\d+) mons? ?)?(?:(?P<days>[-+]?\d+) days? ?)?"
    r"(?:(?P<sign>[-+])?(?P<h>\d+):(?P<min>\d\d):(?P<s>\d\d(?:\.\d+)?))?"
)
# As extract(epoch FROM ...) counts them.
_DAYS = {"years": Decimal("365.25"), "mons": Decimal(30), "days": Decimal(1)}


def dimension_of(unit: str) -> Mapping[str, Decimal]:
    """Return the units that measure the same thing as ``unit``."""
    return next(units for units in DIMENSIONS.values() if unit in units)


def parse_quantity(text: str, unit: str) -> Decimal | None:
    """Return what a text such as ``10 GB`` is in ``unit``; None when it is no quantity of that dimension."""
    match = _QUANTITY.fullmatch(text)
    units = dimension_of(unit)
    if match is None or match.group(2) not in units:
        return None
    return Decimal(match.group(1)) * units[match.group(2)] / units[unit]


def parse_interval(text: str, unit: str) -> Decimal | None:
    """Return what an interval, as the server prints it, is in ``unit``; None when it is none or is no duration."""
    match = _INTERVAL.fullmatch(text)
    units = dimension_of(unit)
    if match is None or not text or "s" not in units:
        return None
    total = sum((Decimal(match.group(part) or 0) * days * units["d"] for part, days in _DAYS.items()), Decimal(0))
    clock = sum((Decimal(match.group(part) or 0) * units[part] for part in ("h", "min", "s")), Decimal(0))
    return (total + (-clock if match.group("sign") == "-" else clock)) / units[unit]


def show_quantity(number: Any, unit: str) -> str:
    """Return a number of ``unit`` with the largest unit in which it is at least 1, such as "1.5 GB"."""
    units = dimension_of(unit)
    base = Decimal(number) * units[unit]
    chosen = max((u for u in units if abs(base) >= units[u]), key=lambda u: units[u], default=unit)
    value = (base / units[chosen]).quantize(Decimal("0.001"))
    return "%s %s" % (format(value, "f").rstrip("0").rstrip("."), chosen)
