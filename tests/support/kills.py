# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swaps under load that somebody is killed in: the parties, the clients that keep books, and what went on when."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import psycopg2

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import take_fingerprint
from tests.support.pgbouncer import TestPooler
from tests.support.server import TestServer, distribution_bin_dir, eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]

LIVE = "lending"
GENERATIONS = ("alpha", "beta")

#: The role that swaps; the server logs each of its statements, which tells how far a swap has come.
OPERATOR = "operator"

SCHEMA = """
CREATE TABLE whoami (generation text NOT NULL);
INSERT INTO whoami VALUES ('%(name)s');
CREATE TABLE loan (id int PRIMARY KEY, borrower text NOT NULL, principal numeric NOT NULL);
INSERT INTO loan SELECT i, '%(name)s ' || i, i * 1.5 FROM generate_series(1, 2000) AS i;
CREATE TABLE written (client int, n bigint, PRIMARY KEY (client, n));
"""

#: No client waits for ever for a server that a failed test has left behind.
POOLER_SETTINGS = {"default_pool_size": "10", "query_wait_timeout": "20"}

#: How far a swap can have come, in order.
STEPS = (
    "not begun",
    "examining",
    "arming",
    "pausing",
    "closing",
    "draining",
    "exchanging",
    "committing",
    "resuming",
    "over",
)

# The module as Ansible calls it, but loaded before it is wanted, so that a round does not wait for Python. It can be
# told to stop right before its poolers are told to pause or to resume.
RUN_MODULE = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
from ansible.module_utils import basic
from ansible_collections.holdfast.postgres.plugins.modules import pg_swap
for name in sys.argv[4:]:
    def stopped(*arguments, name=name, original=getattr(pg_swap.Poolers, name), **options):
        setattr(pg_swap.Poolers, name, original)
        os.kill(os.getpid(), signal.SIGSTOP)
        return original(*arguments, **options)
    setattr(pg_swap.Poolers, name, stopped)
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
pg_swap.main()
"""

PGBENCH_SCRIPT = r"""
\set n :n + 1
INSERT INTO written VALUES (:first + :client_id, :n);
"""


class Module:
    """One call of pg_swap in a process of its own, marked by a word in its command line."""

    def __init__(self, mark: str, *stopped_before: str) -> None:
        argv = [sys.executable, "-c", RUN_MODULE, str(ROOT / ".collections"), str(ROOT), mark, *stopped_before]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def begin(self, arguments: dict[str, Any]) -> None:
        """Let it swap."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
        self.process.stdin.close()
        self.process.stdin = None  # communicate() would flush it

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Wait until it has stopped, and let it go on after the block."""
        eventually(lambda: state_of(self.process.pid) == "T", interval_s=0.005)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()

    def finish(self, *, timeout_s: float = 90) -> tuple[bool, str]:
        """Wait for its end; return whether it succeeded and what it said."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode == 0, (out + err).decode("utf-8", "replace")


class Playbook:
    """The same as a task of a playbook, with everything that ansible-playbook starts."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = directory / "play.json"
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self, arguments: dict[str, Any]) -> None:
        """Start ansible-playbook."""
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": sys.executable},
            "tasks": [{"name": "Swap", "holdfast.postgres.pg_swap": arguments}],
        }
        self.path.touch(mode=0o600)
        self.path.write_text(json.dumps([play]), encoding="utf-8")
        program = pathlib.Path(sys.executable).parent / "ansible-playbook"
        self.process = subprocess.Popen(
            [str(program), "-i", "localhost,", "-c", "local", str(self.path)],
            cwd=str(ROOT),
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def kill(self) -> None:
        """Kill it with everything that it has started."""
        if self.process is not None:
            kill_all([self.process.pid, *descendants(self.process.pid)])

    def finish(self, *, timeout_s: float = 120) -> tuple[bool, str]:
        """Wait for its end; return whether it succeeded and what it said."""
        assert self.process is not None
        out, _err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode == 0, out.decode("utf-8", "replace")


def _stat_of_processes() -> Iterator[tuple[int, int]]:
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    parents = dict(_stat_of_processes())
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        found += level
    return found


def marked(mark: str) -> list[int]:
    """The processes that have a word in their command line; a copy made by fork has it, too."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def kill_all(pids: Iterable[int]) -> None:
    """SIGKILL to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def state_of(pid: int) -> str | None:
    """The state of a process as the system has it (one letter), or None when there is none."""
    try:
        return pathlib.Path("/proc/%d/stat" % pid).read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return None


def alive(pid: int) -> bool:
    """Whether a process runs; one that only has not been waited for does not."""
    return state_of(pid) not in (None, "Z", "X")


class Client:
    """A client that keeps books: what was acknowledged in which database, what failed, how long it waited.

    With ``reconnect`` it connects for each transaction, otherwise only after an error.
    """

    def __init__(self, number: int, connect: Callable[[str], Any], *, reconnect: bool, pace_s: float = 0.004) -> None:
        self.number, self.connect, self.reconnect, self.pace_s = number, connect, reconnect, pace_s
        self.acknowledged: dict[str, set[tuple[int, int]]] = {name: set() for name in GENERATIONS}
        self.unsure: set[tuple[int, int]] = set()
        self.errors: list[str] = []
        self.successes = 0
        self.longest_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection = None
        n = 0
        since = time.monotonic()
        while not self._stop.is_set():
            n += 1
            try:
                connection = connection or self.connect(LIVE)
                with connection.cursor() as cursor:
                    cursor.execute(
                        "INSERT INTO written VALUES (%s, %s) RETURNING (SELECT generation FROM whoami)",
                        (self.number, n),
                    )
                    generation = cursor.fetchone()[0]
                self.acknowledged[generation].add((self.number, n))
                self.successes += 1
                # Errors on the way count as waiting: the client wanted this to be written since then.
                self.longest_s = max(self.longest_s, time.monotonic() - since)
                if self.reconnect:
                    connection.close()
                    connection = None
                self._stop.wait(self.pace_s)
                since = time.monotonic()
            except psycopg2.Error as exc:
                self.errors.append(" ".join(str(exc).split()))
                self.unsure.add((self.number, n))
                if connection is not None:
                    connection.close()
                connection = None
                self._stop.wait(0.02)
        if connection is not None:
            connection.close()

    @property
    def commits(self) -> int:
        """How many transactions were acknowledged."""
        return sum(map(len, self.acknowledged.values()))

    def tell_to_stop(self) -> None:
        """Let it end after its present transaction."""
        self._stop.set()

    def stop(self) -> None:
        """Wait for its end."""
        self._stop.set()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "client %d still waits" % self.number


class Bench:
    """pgbench on one pooler, started again whenever its clients have been disconnected."""

    def __init__(
        self, pooler: TestPooler, directory: pathlib.Path, *, first: int, clients: int, rate: int, reconnect: bool
    ) -> None:
        self.pooler, self.directory, self.first, self.clients = pooler, directory, first, clients
        self.options = ["-R", str(rate), *(["-C"] if reconnect else [])]
        self.acknowledged: set[tuple[int, int]] = set()
        self.errors: list[str] = []
        self.longest_s = 0.0
        self._runs = 0
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            first = self.first + 100 * self._runs
            prefix = self.directory / ("bench-%d" % first)
            self._runs += 1
            with self._lock:
                if self._stop.is_set():
                    return
                self._process = self._start(first, prefix)
            self._take(first, prefix, self._process.communicate()[1])
            self._stop.wait(0.05)

    def _start(self, first: int, prefix: pathlib.Path) -> subprocess.Popen[str]:
        argv = [
            str(distribution_bin_dir() / "pgbench"),
            *("--no-vacuum", "--client", str(self.clients), "--time", "600", "--log", "--log-prefix", str(prefix)),
            *("--file", str(self.directory / "script.sql"), "-D", "n=0", "-D", "first=%d" % first, *self.options),
            *("-h", "127.0.0.1", "-p", str(self.pooler.port), "-U", "postgres", LIVE),
        ]
        return subprocess.Popen(
            argv,
            env={**os.environ, "PGPASSWORD": self.pooler.server.password},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _take(self, first: int, prefix: pathlib.Path, said: str) -> None:
        # One that was refused at its first connection says so once for all of its clients.
        self.errors += [
            line for line in said.splitlines() if re.search(r"aborted in|aborted while|connection to", line)
        ]
        for path in self.directory.glob(prefix.name + ".*"):
            for line in path.read_text(encoding="ascii").splitlines():
                # client, transaction, microseconds since it was due, ..., and how late it began
                fields = line.split()
                self.acknowledged.add((first + int(fields[0]), int(fields[1])))
                self.longest_s = max(self.longest_s, (int(fields[2]) - int(fields[6])) / 1e6)
            path.unlink()

    @property
    def commits(self) -> int:
        """How many transactions were acknowledged."""
        return len(self.acknowledged)

    @property
    def most_unsure(self) -> int:
        """How many transactions at most were written without being acknowledged."""
        return len(self.errors)

    def tell_to_stop(self) -> None:
        """Let it end as if its time were over, which it is told by SIGALRM; its log is complete then."""
        with self._lock:
            self._stop.set()
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGALRM)

    def stop(self) -> None:
        """Wait for its end, which it is forced to when it does not come."""
        self.tell_to_stop()
        self._thread.join(timeout=20)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join(timeout=10)


def going_on(clients: Sequence[Client], *, timeout_s: float = 20) -> None:
    """Wait until every client has been served from now on."""
    before = [client.successes for client in clients]
    eventually(
        # The first answer may be to what was asked before.
        lambda: all(client.successes > count + 1 for client, count in zip(clients, before)),
        timeout_s=timeout_s,
        interval_s=0.005,
    )


class Follower:
    """What the logs of the server and of the poolers say that a swap does, as soon as they say it."""

    def __init__(self, server: TestServer, poolers: list[TestPooler]) -> None:
        # Poolers first: what made the swap talk to them is in the server's log by then.
        self.files = {path: path.stat().st_size for path in [*(pooler.log for pooler in poolers), server.log]}
        self.server_log = server.log
        self.backend: int | None = None
        self.step = STEPS[0]
        self.seen: dict[str, float] = {}
        self._rests = dict.fromkeys(self.files, b"")

    def look(self) -> str:
        """Read on, and return the step that has been reached."""
        resumed = False
        for path, offset in self.files.items():
            with path.open("rb") as file:
                file.seek(offset)
                text = self._rests[path] + file.read()
                self.files[path] = file.tell()
            complete, _newline, self._rests[path] = text.rpartition(b"\n")
            for line in complete.decode("utf-8", "replace").splitlines():
                if path == self.server_log:
                    self._server(line)
                elif "PAUSE '%s' command issued" % LIVE in line:
                    self._reach("pausing")
                elif "RESUME '%s' command issued" % LIVE in line:
                    resumed = True
        if resumed and self.step == "committing":
            self._reach("resuming")
        return self.step

    def _server(self, line: str) -> None:
        # The prefix is pid|role|.
        parts = line.split("|", 2)
        if len(parts) < 3 or parts[1] != OPERATOR:
            return
        pid, statement = int(parts[0]), parts[2].partition("statement: ")[2]
        if self.backend is None:
            self.backend = pid
            self._reach("examining")
        elif pid != self.backend:
            self._reach("arming")
        elif "ALLOW_CONNECTIONS false" in statement:
            self._reach("closing")
        elif statement == "BEGIN" and self.step == "draining":
            self._reach("exchanging")
        elif statement == "COMMIT" and self.step == "closing":
            self._reach("draining")
        elif statement == "COMMIT" and self.step == "exchanging":
            self._reach("committing")
        elif "pg_advisory_unlock_all" in statement and self.step in ("resuming", "committing"):
            self._reach("over")

    def _reach(self, step: str) -> None:
        if STEPS.index(step) > STEPS.index(self.step):
            self.step = step
            self.seen[step] = time.monotonic()

    def wait_for(self, step: str, *, timeout_s: float) -> bool:
        """Wait until a step is reached and return whether it was."""
        deadline = time.monotonic() + timeout_s
        while STEPS.index(self.look()) < STEPS.index(step):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True


class Stage:
    """A server with two databases that differ, PgBouncers before it, and what a round needs."""

    def __init__(self, bin_dir: pathlib.Path, *, poolers: int = 2) -> None:
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-kills-"))
        (self.directory / "script.sql").write_text(PGBENCH_SCRIPT, encoding="utf-8")
        self.mark = "holdfast-round-%d" % os.getpid()
        self.server = TestServer(bin_dir, settings={"log_line_prefix": "%p|%u|"})
        self.poolers: list[TestPooler] = []
        self.modules: list[Module] = []
        try:
            self.server.execute("CREATE ROLE %s SUPERUSER LOGIN PASSWORD 'operator'" % OPERATOR)
            self.server.execute("ALTER ROLE %s SET log_statement = 'all'" % OPERATOR)
            for name, generation in zip((LIVE, "side"), GENERATIONS):
                self.server.create_database(name, SCHEMA % {"name": generation})
            for number in range(poolers):
                self.poolers.append(TestPooler(self.server, name="pooler %d" % number, settings=POOLER_SETTINGS))
            self.side = "side"
            self.oids = {self.oid(LIVE): GENERATIONS[0], self.oid("side"): GENERATIONS[1]}
            self.known = {generation: self.loans(name) for name, generation in zip((LIVE, "side"), GENERATIONS)}
            assert len(set(self.known.values())) == 2
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """End everything, whatever state it is in."""
        for module in self.modules:
            module.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                module.finish(timeout_s=10)
        # Processes on guard would go on trying for a minute.
        kill_all(marked(self.mark))
        for pooler in self.poolers:
            pooler.remove()
        self.forget_postmaster()
        self.server.remove()
        shutil.rmtree(self.directory)

    def module(self, *stopped_before: str) -> Module:
        """A call of pg_swap that has not begun."""
        self.modules = [module for module in self.modules if module.process.poll() is None]
        self.modules.append(Module(self.mark, *stopped_before))
        return self.modules[-1]

    def arguments(self, retired: str, **options: Any) -> dict[str, Any]:
        """The options of the module for the next swap."""
        probe = {"probe_user": "postgres", "probe_password": self.server.password}
        return {
            **self.server.login,
            "login_user": OPERATOR,
            "login_password": "operator",
            "database": LIVE,
            "replacement": self.side,
            "retired_name": retired,
            "confirm": LIVE,
            "poolers": [{**pooler.option, **probe} for pooler in self.poolers],
            **options,
        }

    @contextlib.contextmanager
    def load(self, *, reconnect: bool) -> Iterator[tuple[list[Client], list[Bench]]]:
        """Clients that keep books and pgbench, on every pooler, until the end of the block."""
        clients: list[Client] = []
        benches: list[Bench] = []
        try:
            for number, pooler in enumerate(self.poolers):
                first = 100_000 * (number + 1)
                benches.append(Bench(pooler, self.directory, first=first, clients=4, rate=400, reconnect=reconnect))
                clients += [Client(10 * number + kind, pooler.connect, reconnect=bool(kind)) for kind in (0, 1)]
            yield clients, benches
        finally:
            parties: list[Client | Bench] = [*clients, *benches]
            for party in parties:
                party.tell_to_stop()
            for party in parties:
                party.stop()

    def oid(self, name: str) -> int | None:
        """The OID of a database by name."""
        rows = self.server.execute("SELECT oid FROM pg_database WHERE datname = %s", (name,))
        return rows[0][0] if rows else None

    def loans(self, database: str) -> str:
        """The fingerprint of what no client writes."""
        tables = take_fingerprint(server=self.server.server, database=database).as_dict()["tables"]
        return json.dumps({name: proof for name, proof in tables.items() if not name.endswith("written")})

    def names(self) -> dict[str, str]:
        """The names that the databases have now, by generation."""
        rows = self.server.execute("SELECT oid, datname FROM pg_database")
        return {self.oids[oid]: name for oid, name in rows if oid in self.oids}

    def clear(self) -> None:
        """Forget what clients have written."""
        for name in self.names().values():
            self.server.execute("TRUNCATE written", database=name)

    def written(self, database: str) -> set[tuple[int, int]]:
        """What clients have written to a database."""
        return {(row[0], row[1]) for row in self.server.execute("SELECT client, n FROM written", database=database)}

    @property
    def postmaster(self) -> int:
        """The server's first process."""
        return int((self.server.data / "postmaster.pid").read_text(encoding="utf-8").split()[0])

    def answers(self) -> bool:
        """Whether the server lets somebody in."""
        try:
            self.server.connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def forget_postmaster(self) -> None:
        """Remove the lock files of a postmaster that was killed, but that the system may be slow to forget."""
        locks = [self.server.data / "postmaster.pid", *self.server.directory.glob(".s.PGSQL.*.lock")]
        if locks[0].exists() and not alive(self.postmaster):
            for lock in locks:
                lock.unlink()

    def problems(self, retired: str) -> list[str]:
        """What is not as it has to be after a swap that was completed by its second run."""
        found = []
        rows = self.server.execute(
            "SELECT datname, oid, datallowconn, datconnlimit FROM pg_database"
            " WHERE NOT datistemplate AND datname <> 'postgres'"
        )
        names = {name: oid for name, oid, _allowed, _limit in rows}
        if set(names) != {LIVE, retired} or set(names.values()) != set(self.oids):
            found.append("the databases are %r" % rows)
        found += ["%s refuses connections" % row[0] for row in rows if not row[2] or row[3] != -1]
        marks = self.server.execute("SELECT count(*) FROM pg_db_role_setting WHERE setdatabase <> 0")[0][0]
        if marks:
            found.append("%d marks are left" % marks)
        for pooler in self.poolers:
            found += ["%s is paused in %s" % (name, pooler.name) for name in pooler.paused()]
            connection = pooler.connect(LIVE)
            connection.cursor().execute("SELECT 1")
            connection.close()
        self.server.connect(LIVE).close()
        return found
