# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading JUnit files as job runners do: against a schema, with totals that add up."""

from __future__ import annotations

import pathlib
from typing import Any

from lxml import etree

SCHEMA = etree.XMLSchema(etree.parse(pathlib.Path(__file__).with_suffix(".xsd")))


def read_junit(path: pathlib.Path) -> Any:
    """Return the root element of a valid file."""
    root = etree.parse(path).getroot()
    SCHEMA.assertValid(root)
    for suite in root:
        cases = list(suite)
        found = {
            "tests": len(cases),
            **{
                "%ss" % tag if tag != "skipped" else tag: sum(case.find(tag) is not None for case in cases)
                for tag in ("failure", "error", "skipped")
            },
        }
        assert {key: int(suite.get(key)) for key in found} == found, suite.get("name")
    return root
