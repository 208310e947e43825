# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hundred swaps under load, with somebody killed at a random moment, and the same command once more.

Half of the moments are spread evenly over the time that a swap takes, the others come within milliseconds of a step of
the protocol, since most of that time goes by before anybody waits. The seed makes parties, steps and delays the same
again; what the machine does meanwhile is never the same.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable

import pytest

from tests.support.kills import (
    GENERATIONS,
    LIVE,
    STEPS,
    Bench,
    Client,
    Follower,
    Module,
    Playbook,
    Stage,
    alive,
    descendants,
    going_on,
    kill_all,
    marked,
)
from tests.support.server import embedded_bin_dir, eventually

#: Who is killed, and in how many of 200 rounds.
PARTIES = {
    "module": 60,
    "module and its guard": 20,
    "ansible-playbook": 20,
    "PgBouncer": 30,
    "backend of the swap": 20,
    "any process of the server": 20,
    "postmaster": 20,
    "session of the swap, terminated": 10,
}

#: Whose death no client may notice but by waiting.
UNNOTICED = ("module", "module and its guard", "ansible-playbook", "session of the swap, terminated")

MAX_PAUSE_S = 5.0

#: How long after a step the kill comes, on the average.
SOON_S = 0.003


@dataclass
class Tally:
    """What came of the rounds of one party."""

    rounds: int = 0
    finished: int = 0
    undone: int = 0
    commits: int = 0
    failures: int = 0
    longest_wait_s: float = 0.0
    reached: Counter[str] = field(default_factory=Counter)

    def row(self, party: str, seed: int) -> dict[str, Any]:
        """The row of the table."""
        return {
            "fault": party,
            "rounds": self.rounds,
            "finished": self.finished,
            "undone": self.undone,
            "commits": self.commits,
            "failures": self.failures,
            "longest_wait_s": round(self.longest_wait_s, 3),
            "reached": {step: self.reached[step] for step in STEPS},
            "seed": seed,
        }


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage(embedded_bin_dir(18))
    yield stage
    stage.remove()


@pytest.mark.parametrize("party", PARTIES)
def test_swap_survives_the_death_of(
    party: str, stage: Stage, seed: int, rounds: Callable[[int], int], record_property: Callable[[str, object], None]
) -> None:
    tally = Tally()
    dice = random.Random("%d %s" % (seed, party))
    try:
        number = rounds(PARTIES[party])
        lasting_s = undisturbed(stage)
        # Evenly spread in random order, so that a few rounds already reach every part.
        moments = [(i + dice.random()) / number for i in range(number)]
        dice.shuffle(moments)
        for i, moment in enumerate(moments):
            play = Round(stage, party, name="retired_%s" % i, dice=dice, tally=tally)
            play.run(moment=moment, lasting_s=lasting_s)
    finally:
        record_property("row", tally.row(party, seed))


def undisturbed(stage: Stage) -> float:
    """How long a swap takes under load, from its first statement to its last, in the median of three."""
    lasting = []
    with stage.load(reconnect=False) as (clients, _benches):
        going_on(clients)
        for i in range(3):
            module, follower = stage.module(), Follower(stage.server, stage.poolers)
            name = "first_%d" % i
            module.begin(stage.arguments(name))
            assert follower.wait_for("over", timeout_s=20)
            succeeded, said = module.finish()
            assert succeeded, said
            lasting.append(follower.seen["over"] - follower.seen["examining"])
            stage.side = name
    stage.clear()
    return statistics.median(lasting)


class Round:
    """One swap in which one party is killed, and everything that must hold afterwards."""

    def __init__(self, stage: Stage, party: str, *, name: str, dice: random.Random, tally: Tally) -> None:
        self.stage, self.party, self.name, self.dice, self.tally = stage, party, name, dice, tally
        self.story: list[str] = []

    def run(self, *, moment: float, lasting_s: float) -> None:
        """Play it and count it; fails with the whole story when something is not as it has to be."""
        reconnect = self.dice.random() < 0.5
        try:
            with self.stage.load(reconnect=reconnect) as (clients, benches):
                self._play(clients, moment, lasting_s)
            self._check_books(clients, benches)
        except Exception as exc:
            raise AssertionError("round %d: %s\n%s" % (self.tally.rounds, exc, "\n".join(self.story))) from exc
        self.tally.rounds += 1
        self.stage.side = self.name
        self.stage.clear()

    def _command(self) -> Module | Playbook:
        return Playbook(self.stage.directory) if self.party == "ansible-playbook" else self.stage.module()

    def _play(self, clients: list[Client], moment: float, lasting_s: float) -> None:
        stage = self.stage
        old, new = stage.oids, stage.oid(stage.side)
        first, second = self._command(), self._command()
        going_on(clients)
        follower = Follower(stage.server, stage.poolers)
        arguments = stage.arguments(self.name, max_pause=MAX_PAUSE_S)
        first.begin(arguments)
        try:
            self._wait(follower, first, moment, lasting_s)
            step = follower.step
            self.story.append("%s is killed when the swap is %s" % (self.party, step))
            self._kill(follower, first)
            self.tally.reached[step] += 1
            self._recover()
            succeeded, said = first.finish()
            self.story.append("first run %s: %s" % ("succeeded" if succeeded else "did not succeed", said))
        finally:
            first.kill()
        # At once, while those on guard are at work, or when everybody has noticed.
        if self.party != "module and its guard" and self.dice.random() < 0.5:
            going_on(clients)
        finished = stage.oid(LIVE) == new
        second.begin(arguments)
        succeeded, said = second.finish()
        self.story.append("second run %s: %s" % ("succeeded" if succeeded else "FAILED", said))
        assert succeeded, "the second run failed"
        going_on(clients)
        problems = stage.problems(self.name)
        assert stage.oid(LIVE) == new and not problems, problems
        assert set(old) == set(stage.oids)
        self.tally.finished += finished
        self.tally.undone += not finished

    def _wait(self, follower: Follower, first: Module | Playbook, moment: float, lasting_s: float) -> None:
        """Wait for the moment."""
        begun = time.monotonic()
        if self.party == "ansible-playbook" and self.dice.random() < 0.1:
            time.sleep(self.dice.random())  # before its module runs
            follower.look()
            return
        follower.wait_for("examining", timeout_s=30)
        self.story.append("first statement after %.3f s" % (time.monotonic() - begun))
        if self.dice.random() < 0.5:
            time.sleep(moment * lasting_s * 1.1)
        else:
            # The steps from the arming on, as evenly as the others.
            steps = STEPS[2:-1]
            step = steps[int(moment * len(steps))]
            follower.wait_for(step, timeout_s=2)
            time.sleep(min(self.dice.expovariate(1 / SOON_S), 10 * SOON_S))
        follower.look()

    def _kill(self, follower: Follower, first: Module | Playbook) -> None:
        stage, party = self.stage, self.party
        if party in ("module", "ansible-playbook"):
            first.kill()
        elif party == "module and its guard":
            assert isinstance(first, Module)
            waiting = {module.process.pid for module in stage.modules if module is not first}
            kill_all(pid for pid in marked(stage.mark) if pid not in waiting)
        elif party == "PgBouncer":
            self.pooler = self.dice.choice(stage.poolers)
            self.pooler.kill()
        elif party == "postmaster":
            self.orphans = descendants(stage.postmaster)
            os.kill(stage.postmaster, signal.SIGKILL)
        else:
            assert follower.backend is not None
            victim = follower.backend
            if party == "any process of the server":
                victim = self.dice.choice(sorted(descendants(stage.postmaster)))
            with contextlib.suppress(ProcessLookupError):  # the swap was over
                os.kill(victim, signal.SIGTERM if "terminated" in party else signal.SIGKILL)

    def _recover(self) -> None:
        """What a service manager does."""
        if self.party == "PgBouncer":
            time.sleep(self.dice.random() * 0.3)
            self.pooler.start()
        elif self.party == "postmaster":
            time.sleep(self.dice.random() * 0.3)
            # Its children notice by themselves.
            eventually(lambda: not any(alive(orphan) for orphan in self.orphans))
            self.stage.forget_postmaster()
            self.stage.server.start()
        eventually(self.stage.answers, timeout_s=30)

    def _check_books(self, clients: list[Client], benches: list[Bench]) -> None:
        """Compare what clients were told with what the databases hold."""
        stage = self.stage
        names = stage.names()
        held = {generation: stage.written(names[generation]) for generation in GENERATIONS}
        assert not held["alpha"] & held["beta"], "written twice"
        everything = held["alpha"] | held["beta"]
        for client in clients:
            for generation in GENERATIONS:
                missing = client.acknowledged[generation] - held[generation]
                assert not missing, "%s lost %r of client %d" % (generation, sorted(missing)[:5], client.number)
        acknowledged = {row for client in clients for rows in client.acknowledged.values() for row in rows}
        self.tally.commits += sum(party.commits for party in (*clients, *benches))
        by_bench = {row for bench in benches for row in bench.acknowledged}
        assert by_bench <= everything, "lost %r of pgbench" % sorted(by_bench - everything)[:5]
        unsure = {row for client in clients for row in client.unsure}
        surplus = everything - acknowledged - by_bench - unsure
        assert len(surplus) <= sum(bench.most_unsure for bench in benches), "nobody wrote %r" % sorted(surplus)[:5]
        for generation, name in names.items():
            assert stage.loans(name) == stage.known[generation], "%s is not what it was" % generation
        errors = [error for party in (*clients, *benches) for error in party.errors]
        self.tally.failures += len(errors)
        waits = [party.longest_s for party in (*clients, *benches)]
        self.tally.longest_wait_s = max(self.tally.longest_wait_s, *waits)
        if self.party in UNNOTICED:
            assert all(bench.acknowledged for bench in benches)
            assert not errors, errors[:5]
            assert max(waits) < MAX_PAUSE_S, waits
