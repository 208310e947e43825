# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all benchmarks need: the server, what was measured, and pairs of runs side by side."""

from __future__ import annotations

import contextlib
import pathlib
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from tests.support.server import TestServer


@dataclass
class Bench:
    """The server, a scratch directory and what was measured."""

    server: TestServer
    scratch: pathlib.Path
    results_dir: pathlib.Path
    runs: int
    results: list[dict[str, Any]] = field(default_factory=list)
    tasks: int = 0

    def note(self, text: str) -> None:
        """Say what goes on."""
        print("  " + text, flush=True)

    def record(
        self,
        name: str,
        *,
        value: float,
        unit: str,
        against: float | None = None,
        bar: float | None = None,
        ratios: Sequence[float] = (),
        runs: int = 1,
    ) -> None:
        """Keep one result.

        The ``bar`` limits the median of the ``ratios`` when there are any, else the value; without one, the number is
        there to be known. ``runs`` says how many a value comes from that is not compared run by run.
        """
        ratio = statistics.median(ratios) if ratios else None
        measured = value if ratio is None else ratio
        self.results.append(
            {
                "name": name,
                "value": round(value, 3),
                "unit": unit,
                "against": None if against is None else round(against, 3),
                "ratio": None if ratio is None else round(ratio, 3),
                "bar": bar,
                "within_bar": None if bar is None else measured <= bar,
                "runs": len(ratios) or runs,
            }
        )

    def pairs(
        self, name: str, ours: Callable[[], float], theirs: Callable[[], float], *, unit: str, bar: float
    ) -> None:
        """Run both sides in turn and record medians and the median ratio."""
        mine, plain = [], []
        for number in range(self.runs):
            plain.append(theirs())
            mine.append(ours())
            self.note("%s, run %d: %.2f %s against %.2f" % (name, number + 1, mine[-1], unit, plain[-1]))
        self.record(
            name,
            value=statistics.median(mine),
            unit=unit,
            against=statistics.median(plain),
            bar=bar,
            ratios=[a / b for a, b in zip(mine, plain)],
        )

    @contextlib.contextmanager
    def environment(self) -> Iterator[dict[str, str]]:
        """The environment of a plain client program for this server."""
        server = self.server.server
        with server.client_environment() as environment:
            environment.update(PGHOST=str(server.host), PGPORT=str(server.port), PGUSER=str(server.user))
            yield environment

    def run(self, program: str, *arguments: str, stdout: Any = subprocess.DEVNULL) -> None:
        """Run one of PostgreSQL's own programs to its end."""
        with self.environment() as environment:
            subprocess.run([str(self.server.bin_dir / program), *arguments], env=environment, check=True, stdout=stdout)


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that ``work`` took."""
    started = time.monotonic()
    work()
    return time.monotonic() - started
