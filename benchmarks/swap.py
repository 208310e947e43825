# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swaps under load: the module pg_swap and a plain loop in turn, while pgbench writes down when each transaction ended.

docs/benchmarks.md describes what is measured, and why so.
"""

from __future__ import annotations

import bisect
import contextlib
import csv
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg2 import sql

from benchmarks.measure import Bench
from tests.support.pgbouncer import ADMIN, ADMIN_PASSWORD, TestPooler
from tests.support.server import TestServer, distribution_bin_dir

ROOT = pathlib.Path(__file__).resolve().parents[1]

CLIENTS = 20
ROUNDS = 20
LIVE = "rently_lending"

#: What the role pgbouncer sets.
POOL_SIZE = 25

#: How long clients run undisturbed before each swap.
QUIET_S = 0.4

#: How much later than a moment a transaction that was under way then may have ended.
LONGEST_S = 10.0

#: A round is not begun when less than this is left of the load.
ROUND_S = 3.0

#: Runs a module as Ansible does on the host where it is to work; the controller is elsewhere.
RUN_MODULE = """
import importlib, sys
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.stdin.buffer.read(), "legacy"
importlib.import_module("ansible_collections.holdfast.postgres.plugins.modules." + sys.argv[1]).main()
"""


@dataclass(frozen=True)
class Transaction:
    """A client's transaction: when the client was free to begin it, when it began, and when it had its result."""

    free: float
    began: float
    ended: float


@dataclass
class Round:
    """One swap: when PAUSE was sent, on the clock of the clients, and what was seen."""

    mode: str
    who: str
    paused_at: float
    reported_s: float
    clients_s: float = 0.0
    longest_s: float = 0.0
    quiet_s: float = 0.0

    @property
    def difference(self) -> float:
        """By which part what was reported differs from what the clients saw."""
        return abs(self.reported_s / self.clients_s - 1)


@dataclass
class Load:
    """What pgbench did in one mode."""

    mode: str
    rounds: list[Round] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    failed: int = 0

    def of(self, who: str) -> list[Round]:
        """The rounds of one side."""
        return [entry for entry in self.rounds if entry.who == who]


def module_process(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a module in a process of its own and return its result."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_MODULE, name],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    if not done.stdout:
        raise RuntimeError("%s ended without a result: %s" % (name, done.stderr[-2000:]))
    return dict(json.loads(done.stdout))


class Pooler(TestPooler):
    """A PgBouncer that logs in to the server by its users' SCRAM secrets, as the role pgbouncer has it.

    With a plain password it would derive the keys for each login anew, one after the other. It learns the keys when a
    user logs in by SCRAM, here once to the database ``keys``. Everybody else is trusted: deriving the keys costs a
    client more than its transaction, and clients that connect for each one would keep the processors busy with that.
    """

    def _write(self) -> None:
        self.settings.update(
            auth_type="hba",
            auth_hba_file=str(self.directory / "hba"),
            default_pool_size=str(POOL_SIZE),
            max_client_conn="200",
        )
        self.databases = {"keys": "dbname=postgres", "*": ""}
        super()._write()
        (self.directory / "hba").write_text(
            "host keys all 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n", encoding="ascii"
        )
        secrets = self.server.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
        users = [("postgres", secrets[0][0]), (ADMIN, "")]
        (self.directory / "users").write_text("".join('"%s" "%s"\n' % user for user in users), encoding="ascii")


class Databases:
    """A live and a side database, whose names go round."""

    def __init__(self, server: TestServer, pooler: TestPooler) -> None:
        self.server = server
        self.pooler = pooler
        self.side, self.retired = "before_2_0", "failed_2_0"

    def swap(self) -> tuple[float, float]:
        """Swap as an operator's task does; returns when PAUSE was sent, and the stall in seconds as reported."""
        done = module_process(
            "pg_swap",
            {
                **self.server.login,
                "database": LIVE,
                "replacement": self.side,
                "retired_name": self.retired,
                "confirm": LIVE,
                "poolers": [
                    {**self.pooler.option, "probe_user": "postgres", "probe_password": self.server.password},
                ],
            },
        )
        if done.get("failed"):
            raise RuntimeError("pg_swap failed: %s" % done["msg"])
        self.side, self.retired = self.retired, self.side
        return datetime.fromisoformat(done["poolers"][0]["paused_at"]).timestamp(), done["stall_ms"] / 1000

    def plain_swap(self) -> tuple[float, float]:
        """Swap as a loop of four statements does, on connections that are there; returns the same."""
        console = self.pooler.connect("pgbouncer", user=ADMIN, password=ADMIN_PASSWORD)
        connection = self.server.connect()
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        names = [sql.Identifier(name) for name in (LIVE, self.retired, self.side)]
        with contextlib.closing(console), contextlib.closing(connection), connection.cursor() as cursor:
            admin = console.cursor()
            paused_at, started = time.time(), time.monotonic()
            admin.execute("PAUSE " + LIVE)
            occupied = True
            while occupied:  # RENAME itself would look every 100 ms only
                cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname IN (%s, %s)", (LIVE, self.side))
                occupied = cursor.fetchall()[0][0] > 0
            connection.autocommit = False
            cursor.execute(rename.format(names[0], names[1]))
            cursor.execute(rename.format(names[2], names[0]))
            connection.commit()
            admin.execute("RESUME " + LIVE)
            stall_s = time.monotonic() - started
        self.side, self.retired = self.retired, self.side
        return paused_at, stall_s

    def committed(self) -> int:
        """How many transactions of pgbench are in both databases together."""
        return sum(
            self.server.execute("SELECT count(*) FROM pgbench_history", (), database=name)[0][0]
            for name in (LIVE, self.side)
        )


def run_load(bench: Bench, databases: Databases, *, mode: str, arguments: Sequence[str], seconds: int) -> Load:
    """Swap in turn, with the module and with the plain loop, while pgbench runs at full speed through the pooler."""
    load = Load(mode)
    logs = pathlib.Path(tempfile.mkdtemp(prefix="pgbench-", dir=bench.scratch))
    before = databases.committed()
    argv = [str(databases.server.bin_dir / "pgbench"), "--no-vacuum", "--builtin=simple-update", *arguments]
    argv += ["--client=%d" % CLIENTS, "--jobs=2", "--time=%d" % seconds]
    argv += ["--log", "--log-prefix=%s" % (logs / "client"), "--host=127.0.0.1", "--username=postgres"]
    process = subprocess.Popen(
        [*argv, "--port=%d" % databases.pooler.port, LIVE],
        env={**os.environ, "PGPASSWORD": databases.server.password},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # see TestPooler
    )
    quiet: list[float] = []
    try:
        end = time.monotonic() + seconds - ROUND_S
        time.sleep(2)
        for number in range(ROUNDS):
            sides = [("ours", databases.swap), ("plain", databases.plain_swap)]
            for who, swap in sides if number % 2 else reversed(sides):
                if process.poll() is not None or time.monotonic() > end:
                    break
                time.sleep(QUIET_S)
                quiet.append(time.time())
                paused_at, reported_s = swap()
                load.rounds.append(Round(mode, who, paused_at, reported_s))
        output, errors = process.communicate()
    finally:
        process.kill()
        process.wait()
    load.transactions = list(read_logs(logs))
    logged = len(load.transactions)
    # A client whose transaction fails stops for good; pgbench says so and exits non-zero. What clients were told is
    # committed must be in one of the two databases.
    stopped = len(re.findall(r"^pgbench: error: client \d+ .*aborted", errors, re.MULTILINE))
    lost = abs(databases.committed() - before - logged)
    load.failed = max(stopped, int(process.returncode != 0)) + lost
    load.failed += next((int(line.split()[4]) for line in output.splitlines() if "failed transactions" in line), 0)
    bench.note(
        "%s: %d transactions, %d per second, %d swaps%s"
        % (
            mode,
            logged,
            logged / seconds,
            len(load.rounds),
            "; pgbench: " + errors.strip()[:300] if process.returncode else "",
        )
    )
    see(load, quiet)
    return load


def read_logs(directory: pathlib.Path) -> Iterator[Transaction]:
    """Every transaction of every client (https://www.postgresql.org/docs/15/pgbench.html, per-transaction logging).

    The latency in the log does not hold the time to connect, but a client that connects for each transaction waits for
    that, too. Between two transactions there is nothing else.
    """
    for path in sorted(directory.iterdir()):
        free: dict[str, float] = {}
        for line in path.read_text(encoding="ascii").splitlines():
            client, _number, latency_us, _script, seconds, microseconds = line.split()[:6]
            ended = int(seconds) + int(microseconds) / 1e6
            began = ended - int(latency_us) / 1e6
            yield Transaction(min(free.get(client, began), began), began, ended)
            free[client] = ended


def see(load: Load, quiet: Sequence[float]) -> None:
    """Say of each round what the clients' own log shows of it.

    Clients waited from PAUSE on, or from when they were free to begin if that was later, until they had their results:
    the stall is the longest such time of all transactions that were under way in it. What a transaction had taken
    before PAUSE was not the swap's doing; nothing else is left out, neither its own work nor the queue after RESUME.
    """
    ordered = sorted(load.transactions, key=lambda transaction: transaction.ended)
    ends = [transaction.ended for transaction in ordered]

    def under_way(start: float, end: float) -> list[Transaction]:
        found = []
        for transaction in itertools.islice(ordered, bisect.bisect_left(ends, start), None):
            if transaction.free < end:
                found.append(transaction)
            elif transaction.ended > end + LONGEST_S:
                break
        return found

    for entry, before in zip(load.rounds, quiet):
        waited = under_way(entry.paused_at, entry.paused_at + entry.reported_s)
        entry.clients_s = max(t.ended - max(t.free, entry.paused_at) for t in waited)
        entry.longest_s = max(t.ended - t.free for t in waited)
        still = under_way(before - entry.reported_s, before)
        entry.quiet_s = max(t.ended - t.free for t in still)


HUGE_PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")

#: Enough for the server's 128 MB of shared buffers and what else it shares, in pages of 2 MB.
PAGES = 120


@contextlib.contextmanager
def huge_pages() -> Iterator[bool]:
    """Have the kernel keep huge pages ready, which a server takes by itself; yields whether it does."""
    before = ""
    try:
        before = HUGE_PAGES.read_text(encoding="ascii")
        HUGE_PAGES.write_text(str(int(before) + PAGES), encoding="ascii")
        yield int(HUGE_PAGES.read_text(encoding="ascii")) >= int(before) + PAGES
    except PermissionError:
        yield False
    finally:
        if before and HUGE_PAGES.read_text(encoding="ascii") != before:
            HUGE_PAGES.write_text(before, encoding="ascii")


def bench_swap(bench: Bench, *, seconds: int) -> None:
    """Swaps under load, with clients that stay connected and with clients that connect for each transaction.

    All of it twice: with the kernel's small pages, and with huge pages where this user may reserve them.
    """
    loads = run_loads(bench, seconds=seconds, suffix="")
    with huge_pages() as reserved:
        if reserved:
            loads += run_loads(bench, seconds=seconds, suffix=", huge pages")
        else:
            bench.note("huge pages: not measured, since this user may not reserve them, or the memory is too scattered")
    for load in loads:
        keep(bench, load)
    write_rounds(bench.results_dir / "swap-rounds.csv", [entry for load in loads for entry in load.rounds])


def run_loads(bench: Bench, *, seconds: int, suffix: str) -> list[Load]:
    """Both modes on a server of their own."""
    server = TestServer(distribution_bin_dir(), root=tempfile.gettempdir())
    try:
        pooler = Pooler(server)
        try:
            pooler.connect("keys").close()
            databases = Databases(server, pooler)
            for name in (LIVE, databases.side):
                server.create_database(name)
                subprocess.run(
                    [
                        str(server.bin_dir / "pgbench"),
                        "--initialize",
                        "--scale=10",
                        "--quiet",
                        "--host=127.0.0.1",
                        "--port=%d" % server.port,
                        "--username=postgres",
                        name,
                    ],
                    env={**os.environ, "PGPASSWORD": server.password},
                    check=True,
                    stderr=subprocess.DEVNULL,
                )
            server.execute("CHECKPOINT")
            return [
                run_load(bench, databases, mode=mode + suffix, arguments=arguments, seconds=seconds)
                for mode, arguments in (("connected", []), ("reconnecting", ["--connect"]))
            ]
        finally:
            pooler.remove()
    finally:
        server.remove()


def milliseconds(values: Sequence[float]) -> float:
    """The median, in milliseconds."""
    return statistics.median(values) * 1000


def keep(bench: Bench, load: Load) -> None:
    """Record what was seen in one mode."""
    ours, plain = load.of("ours"), load.of("plain")
    runs = len(ours)

    def record(name: str, value: float, unit: str, **options: Any) -> None:
        bench.record("swap, %s: %s" % (load.mode, name), value=value, unit=unit, runs=runs, **options)

    record("failed transactions", load.failed, "", bar=0)
    record(
        "stall as reported, median",
        milliseconds([r.reported_s for r in ours]),
        "ms",
        against=milliseconds([r.reported_s for r in plain]),
        bar=60,
    )
    record(
        "stall in the clients' log, median",
        milliseconds([r.clients_s for r in ours]),
        "ms",
        against=milliseconds([r.clients_s for r in plain]),
        bar=60,
    )
    record("stall as reported, worst", max(r.reported_s for r in ours) * 1000, "ms", bar=150)
    record(
        "stall in the clients' log, worst",
        max(r.clients_s for r in ours) * 1000,
        "ms",
        against=max(r.clients_s for r in plain) * 1000,
        bar=150,
    )
    record(
        "longest latency around a swap",
        max(r.longest_s for r in ours) * 1000,
        "ms",
        against=max(r.quiet_s for r in load.rounds) * 1000,
    )
    record("reported against logged, median", 100 * statistics.median(r.difference for r in ours), "%", bar=20)
    bench.note(
        "%s: %d of %d rounds reported within 20 %% of the clients' log"
        % (load.mode, sum(r.difference <= 0.2 for r in ours), runs)
    )


def write_rounds(path: pathlib.Path, rounds: Sequence[Round]) -> None:
    """Write every round for who wants to look."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["mode", "who", "paused_at", "reported_ms", "clients_ms", "longest_ms", "quiet_ms"])
        for r in rounds:
            seen = [round(value * 1000, 1) for value in (r.reported_s, r.clients_s, r.longest_s, r.quiet_s)]
            table.writerow([r.mode, r.who, "%.3f" % r.paused_at, *seen])
