# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans as EXPLAIN (FORMAT JSON) gives them: a short text to read, a digest to compare, and what was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.masking import shown

# What makes two plans the same. Costs, rows, times and numbers of workers change from run to run.
IDENTIFYING = (
    "Node Type",
    "Parent Relationship",
    "Subplan Name",
    "Strategy",
    "Partial Mode",
    "Join Type",
    "Command",
    "Scan Direction",
    "Relation Name",
    "Index Name",
    "CTE Name",
    "Function Name",
)
CONDITIONS = ("Index Cond", "Recheck Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter")
BUFFERS = {
    "hit": "Shared Hit Blocks",
    "read": "Shared Read Blocks",
    "dirtied": "Shared Dirtied Blocks",
    "temp_read": "Temp Read Blocks",
    "temp_written": "Temp Written Blocks",
}
LONGEST_CONDITION = 120
#: Partitions may be many; a person reads the first lines.
LONGEST_TEXT = 60


def nodes(plan: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the nodes of a plan with their depths, from the top down."""
    yield depth, plan
    for child in plan.get("Plans") or ():
        yield from nodes(child, depth + 1)


def digest(plan: Mapping[str, Any]) -> str:
    """Return a word that is equal for plans of the same nodes on the same relations by the same indexes."""
    shape = [[depth, *(node.get(key) for key in IDENTIFYING)] for depth, node in nodes(plan)]
    return hashlib.sha256(json.dumps(shape).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def indexes(plan: Mapping[str, Any]) -> list[str]:
    """Return the names of the indexes that a plan uses, sorted."""
    return sorted({str(node["Index Name"]) for _depth, node in nodes(plan) if node.get("Index Name")})


def text(plan: Mapping[str, Any]) -> str:
    """Return the plan as a person reads it: a line for each node, with its conditions and the rows it gave."""
    lines = []
    for depth, node in nodes(plan):
        lines.append("%s%s" % ("" if not depth else "  " * depth + "-> ", _title(node)))
        for name in CONDITIONS:
            if node.get(name):
                condition = shown(str(node[name]), characters=LONGEST_CONDITION)
                lines.append("%s%s: %s" % ("  " * depth + "     ", name, condition))
    if len(lines) > LONGEST_TEXT:
        lines = [*lines[:LONGEST_TEXT], "... and %d more lines" % (len(lines) - LONGEST_TEXT)]
    return "\n".join(lines)


def buffers(plan: Mapping[str, Any]) -> dict[str, int]:
    """Return the pages of 8 kB that a plan touched in all; those of nodes below are in those of the top one."""
    return {name: int(plan.get(key) or 0) for name, key in BUFFERS.items()}


def touched(pages: Mapping[str, Any]) -> int:
    """Return how many pages were looked at, wherever they came from: what caches and other sessions cannot change."""
    return int(pages.get("hit") or 0) + int(pages.get("read") or 0) + int(pages.get("temp_read") or 0)


def _title(node: Mapping[str, Any]) -> str:
    words = [str(node.get("Node Type"))]
    if node.get("Join Type") not in (None, "Inner"):
        words.append(str(node["Join Type"]))
    if node.get("Index Name"):
        words.append("using %s" % node["Index Name"])
    for key in ("Relation Name", "CTE Name", "Function Name"):
        if node.get(key):
            words.append("on %s" % node[key])
    loops = int(node.get("Actual Loops") or 0)
    if "Actual Rows" not in node:
        return " ".join(words)
    facts = ["never run"] if not loops else ["rows %g" % float(node["Actual Rows"])]
    if loops > 1:
        facts.append("loops %d" % loops)
    if node.get("Rows Removed by Filter"):
        facts.append("removed by filter %g" % float(node["Rows Removed by Filter"]))
    return "%s (%s)" % (" ".join(words), ", ".join(facts))
