# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the newest deployment can be undone by its steps down, as far as its rehearsal has shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: A swap of names by itself, with Ansible around it: what an undo by clone takes at any size.
SWAP_S = 5.0


@dataclass(frozen=True)
class StepsDown:
    """What the rehearsal of ``deployment_id`` has recorded, or the ``reason`` why it cannot be used."""

    deployment_id: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    snapshot: str | None = None
    reason: str = ""
    refused: bool = False

    @property
    def possible(self) -> bool:
        """Whether the steps down are proven."""
        return not self.reason

    @property
    def lossless(self) -> bool:
        """Whether they also brought every row back that was there before."""
        return self.possible and bool(self.record.get("restores_rows"))

    def plan(self, live: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plan of an undo, as `rollback_plan` does."""
        versions = [str(row["version"]) for row in self.record["versions"]]
        expected_s = SWAP_S + float(self.record.get("down_ms") or 0) / 1000
        gains = self.record.get("gains") or {}
        columns = ["%s.%s" % (table, column) for table, cs in gains.get("columns", {}).items() for column in cs]
        dropped = [*gains.get("tables", []), *columns]
        left_behind = "Rows that were written since stay where they are%s." % (
            ", but for what is in %s" % ", ".join(dropped) if dropped else ""
        )
        rows_lost = self.record.get("rows_lost") or []
        lost = ["%s The steps down do not bring that back." % row["message"] for row in rows_lost]
        sentence = "%s will go back to version %s by the steps down of %s, which are proven, in about %.0f s. %s" % (
            live["name"],
            self.record["before"] if self.record["before"] != "0" else "none",
            ", ".join(reversed(versions)),
            expected_s,
            left_behind,
        )
        return {
            "strategy": "schema",
            "point": None,
            "deployment_id": self.deployment_id,
            "side_database": None,
            "side_oid": None,
            "archive": None,
            "taken_at": None,
            "schema_version": self.record["before"] if self.record["before"] != "0" else None,
            "target_version": self.record["before"],
            "checksums": {str(row["version"]): row["down_checksum"] for row in self.record["versions"]},
            "gains": {"tables": list(gains.get("tables", [])), "columns": dict(gains.get("columns", {}))},
            "snapshot": self.snapshot,
            "expected_s": round(expected_s, 1),
            "writes": None,
            "left_behind": " ".join([left_behind, *lost]),
            "since": None,
            "migrated": None,
            "skipped": [],
            "needs_archives": False,
            "sentence": " ".join([sentence, *lost]),
        }


def steps_down(
    live: Mapping[str, Any],
    deployments: Sequence[Mapping[str, Any]],
    *,
    running: Sequence[str] = (),
    refused: str | None = None,
) -> StepsDown:
    """Return what is known of the steps down of the newest deployment that ``live`` carries by its own history."""
    carried = live.get("deployments")
    if not carried:
        return StepsDown(reason="the history of %s names no deployment whose steps down could be run" % live["name"])
    name = str(carried[0]["id"])
    steps = {step["name"]: step for d in deployments if d.get("id") == name for step in d.get("steps") or ()}
    record = ((steps.get("rehearse") or {}).get("details") or {}).get("rehearsal") or {}
    if refused:
        reason = refused
    elif name in running:
        reason = "deployment %s is recorded as running" % name
    elif not record.get("versions"):
        reason = "deployment %s was not rehearsed" % name
    elif not record.get("proven"):
        unproven = [row for row in record["versions"] if row["down"] != "proven"]
        why = ", ".join("%s: %s" % (row["version"], row["reason"] or row["down"]) for row in unproven)
        reason = "the steps down of deployment %s are not proven (%s)" % (name, why or "not all of it was rehearsed")
    else:
        reason = ""
    snapshot = ((steps.get("migrate") or {}).get("details") or {}).get("snapshot")
    return StepsDown(deployment_id=name, record=record, snapshot=snapshot, reason=reason, refused=bool(refused))
