# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a swap needs of whatever makes clients wait, and of whatever lets them go on in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import Activity, Target


class Poolers(Protocol):
    """Everything that can make the clients of the live database wait; see `pooler.Poolers`."""

    @property
    def targets(self) -> Sequence[Target]:
        """Return what is paused, for the process that is on guard."""

    @property
    def left_paused(self) -> Sequence[str]:
        """Return the names of those that were found paused and have not been resumed."""

    @property
    def turned_away_s(self) -> float:
        """Return after how many seconds clients that wait are turned away."""

    @property
    def facts(self) -> Sequence[Mapping[str, Any]]:
        """Return the facts for ``poolers[]`` as of now."""

    def open(self) -> None:
        """Connect; raises `HoldfastError` when one of them is of no use."""

    def prepare(self) -> None:
        """Do everything that can be done before clients wait."""

    def pause(self, *, timeout_s: float, activity: Activity | None = None) -> None:
        """Make clients wait, all or none, within the time; raises `HoldfastError` when one refuses."""

    def resume(self) -> None:
        """Let clients go on, whether they wait or not; never raises."""

    def measure(self) -> None:
        """See for how long they waited, once they can go on; never raises."""

    def close(self) -> None:
        """Close the connections."""


class DeadManSwitch(Protocol):
    """Something that lets clients go on when this process does not."""

    def arm(self, *, timeout_s: float) -> None:
        """From now on do so when this process ends, or after the time."""

    def fired(self) -> bool:
        """Return whether clients were let go on because of the time."""

    def disarm(self) -> None:
        """Do nothing any more, armed or not."""

    def leave_armed(self) -> None:
        """Do it now."""


class NoPoolers:
    """What there is to do where clients connect directly."""

    targets: Sequence[Target] = ()
    left_paused: Sequence[str] = ()
    turned_away_s: float = math.inf
    facts: Sequence[Mapping[str, Any]] = ()

    def open(self) -> None:
        """Connect to nothing."""

    prepare = close = open

    def pause(self, *, timeout_s: float, activity: Activity | None = None) -> None:
        """Pause nothing."""

    def resume(self) -> None:
        """Resume nothing."""

    measure = resume
