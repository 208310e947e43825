# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report says of the rows that an undo left behind, kept in files and carried forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]

#: As many tables and rows are named in a sentence.
NAMED = 5


def left_behind(facts: Facts) -> dict[str, Any] | None:
    """Return what pg_writes_info found after the undo, or None where it was not asked.

    Keys: ``known``, ``exact``, ``total``, ``tables``, ``files`` (names), ``directory``, ``sequences``,
    ``large_objects``, and ``problem``, why it is not all kept, or None.
    """
    writes = facts.get("writes") or {}
    failure = facts.get("writes_failure")
    if not failure and "tables" not in writes:
        return None
    found = {key: writes.get(key) for key in ("known", "exact", "total", "directory", "large_objects")}
    found["known"] = bool(found["known"])
    for key in ("tables", "sequences"):
        found[key] = writes.get(key) or []
    found["files"] = [str(file["name"]) for file in writes.get("files") or []]
    found["problem"] = (failure or {}).get("msg") or None
    return found


def carried_forward(facts: Facts) -> dict[str, Any] | None:
    """Return what pg_carry_forward did, or None where it was not asked.

    Keys: ``rows``, ``verified``, ``tables``, ``rejected``, ``rejected_total``, ``rejected_file``, ``refused``,
    ``sequences`` and ``problem``, why nothing was carried, or None.
    """
    carried = facts.get("carried") or {}
    failure = facts.get("carry_failure")
    if not failure and "carried" not in carried:
        return None
    reserved = (facts.get("reserved") or {}).get("sequences") or []
    return {
        "rows": carried.get("rows") or 0,
        "verified": bool(carried.get("verified")),
        "tables": carried.get("carried") or [],
        "rejected": carried.get("rejected") or [],
        "rejected_total": carried.get("rejected_total") or 0,
        "rejected_file": carried.get("rejected_file"),
        "refused": carried.get("refused") or [],
        "sequences": [*reserved, *(carried.get("sequences") or [])],
        "problem": (failure or {}).get("msg") or None,
    }


def writes_sentences(rollback: Facts, facts: Facts) -> tuple[list[str], list[str]]:
    """Return what to say, and what of it somebody has to look after: then the run does not end well."""
    said: list[str] = []
    problems: list[str] = []
    left, carried = rollback.get("left"), rollback.get("carried")
    if left is None:
        said.append(str(rollback["left_behind"]))
    else:
        said += _exactly(left) if left["total"] is not None else [str(rollback["left_behind"])]
        unknown = ["%s (%s)" % (row["table"], row["reason"]) for row in left["tables"] if not row["known"]]
        objects = left["large_objects"] or {}
        if objects.get("known") is False:
            unknown.append("large objects (%s)" % objects.get("reason"))
        if unknown:
            problems.append("NOT KNOWN IS WHAT WAS LEFT BEHIND IN %s." % _some(unknown))
        if left["problem"]:
            problems.append("WHAT WAS LEFT BEHIND IS NOT ALL KEPT IN FILES: %s." % left["problem"].rstrip("."))
    if carried is not None:
        problems += _carry_problems(carried)
        if not carried["problem"]:
            said.append(_carried(carried))
    if facts.get("reserve_failure"):
        problems.append(
            "KEYS MAY HAVE BEEN GIVEN OUT TWICE, because no sequence was moved ahead: %s."
            % str(facts["reserve_failure"]).rstrip(".")
        )
    return said, problems


def _exactly(left: Facts) -> list[str]:
    tables = [row for row in left["tables"] if row["found_in"] != "serving"]
    total = left["total"]
    if not tables:
        return ["Nothing was left behind."]
    counts = "%d inserted, %d changed and %d deleted rows" % (total["inserted"], total["updated"], total["deleted"])
    if total["conflicting"]:
        counts += ", and %d that clients have written over since," % total["conflicting"]
    sentences = ["Left behind in the retired database: %s in %s." % (counts, _some([row["table"] for row in tables]))]
    if left["files"] and not left["problem"]:
        sentences.append("They are kept in %s." % left["directory"])
    return sentences


def _carried(carried: Facts) -> str:
    if not carried["tables"]:
        return "There was nothing to carry forward."
    return "Carried forward: %d rows into %s%s." % (
        carried["rows"],
        _some([row["table"] for row in carried["tables"]]),
        ", equal to the originals" if carried["verified"] else "",
    )


def _carry_problems(carried: Facts) -> list[str]:
    problems = []
    if carried["problem"]:
        problems.append("NOTHING WAS CARRIED FORWARD: %s." % carried["problem"].rstrip("."))
    if carried["rejected_total"]:
        where = carried["rejected_file"] or "the report"
        problems.append(
            "%d ROWS WERE REFUSED by the version that serves, the first because: %s. They are listed in %s."
            % (carried["rejected_total"], str(carried["rejected"][0]["reason"]).rstrip("."), where)
        )
    for row in carried["refused"]:
        problems.append("NO ROW OF %s WAS CARRIED FORWARD: %s." % (row["table"], row["reason"]))
    return problems


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else "%s and %d more" % (shown, len(names) - NAMED)
