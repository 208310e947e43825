# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Saying what a deployment is about to do, how large it is and how long it took before, while nothing has begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNITS = ("bytes", "kB", "MB", "GB", "TB")


def forecast(
    archive: Mapping[str, Any],
    *,
    pending: Sequence[Mapping[str, Any]],
    clone: Mapping[str, Any] | None = None,
    deployments: Sequence[Mapping[str, Any]] = (),
    restored: bool = False,
) -> str:
    """Return what is about to happen, as a paragraph.

    ``archive`` is what pg_backup predicts in check mode, ``clone`` what pg_clone predicts (None: no clone is wanted),
    ``restored`` whether the archive is restored beside the live database instead, ``pending`` what pg_migrate lists,
    ``deployments`` those of the ledger with their steps, newest first.
    """
    sentences = [
        "%s (%s) will be archived to %s: about %s, %s free%s."
        % (
            archive.get("database"),
            size(archive.get("database_bytes")),
            archive.get("path"),
            size(archive.get("predicted_bytes")),
            size(archive.get("free_bytes")),
            _before(deployments, "backup"),
        )
    ]
    if clone and clone.get("possible"):
        taken = _before(deployments, "rollback_point")
        wait = "; clients wait about %s meanwhile" % duration(clone["expected_s"]) if clone.get("expected_s") else ""
        sentences.append(
            "Then it will be cloned: %s by %s%s%s." % (size(clone["bytes"]), clone["strategy"], wait, taken)
        )
    elif restored:
        taken = _before(deployments, "rollback_point")
        sentences.append("Then the archive will be restored beside it, so that an undo takes seconds%s." % taken)
    else:
        reason = " (%s)" % str(clone.get("reason")).rstrip(".") if clone else ""
        sentences.append("There will be no clone%s: an undo would restore the archive." % reason)
    versions = ", ".join(str(row["version"]) for row in pending)
    sentences.append("Then %s will be applied." % (versions or "nothing"))
    return " ".join(sentences)


def _before(deployments: Sequence[Mapping[str, Any]], stage: str) -> str:
    """Return how long the stage took when it last succeeded."""
    for deployment in deployments:
        for step in deployment.get("steps") or ():
            if step["name"] == stage and step["status"] == "succeeded" and step.get("duration_s") is not None:
                return "; the last time it took %s" % duration(step["duration_s"])
    return ""


def size(count: float | None) -> str:
    """Return a number of bytes for people, such as ``1.2 GB``."""
    if count is None:
        return "an unknown size"
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return "%.*f %s" % (1 if power and count < 100 else 0, count, UNITS[power])


def duration(seconds: float) -> str:
    """Return a number of seconds for people, such as ``3.9 s`` or ``1 h 05 min``."""
    if seconds < 100:
        return "%.1f s" % seconds
    minutes = round(seconds / 60)
    return "%d min" % minutes if minutes < 60 else "%d h %02d min" % divmod(minutes, 60)
