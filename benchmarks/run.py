# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the collection side by side with the plain client programs, in one run and on the same data.

python benchmarks/run.py [archive restore fingerprint checks migrate idle undo swap] [--gb 1.2] [--runs 3] ...

Every value is a median; every ratio is the median of ratios of pairs that ran one after the other, so that a noisy
machine slows both sides. What misses its bar is reported as missed and the exit code is still 0: a benchmark is not a
test. Results go to benchmarks/results/<name>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import take_archive  # noqa: E402
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import take_fingerprint  # noqa: E402
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.restore import restore_archive  # noqa: E402
from benchmarks.checks import bench_checks  # noqa: E402
from benchmarks.measure import Bench, timed  # noqa: E402
from benchmarks.migrate import bench_migrate  # noqa: E402
from benchmarks.swap import bench_swap  # noqa: E402
from tests.support.server import TestServer, embedded_bin_dir  # noqa: E402

NAMES = ["archive", "restore", "fingerprint", "checks", "migrate", "idle", "undo", "swap"]

#: Payments that make a lending database of one gigabyte.
ROWS_PER_GB = 2_500_000
EXAMPLE = ROOT / "examples" / "rently"

#: What clients write between a deployment and its undo.
WRITTEN_ROWS = 1_000
WRITE_PAYMENTS = """
INSERT INTO public.payment (payer_party_id, amount, currency_code, received_at, external_reference)
SELECT payer_party_id, amount, currency_code, now(), 'bench-' || gen_random_uuid()::varchar(30)
  FROM public.payment
 LIMIT %(rows)s
"""
LIVE = "rently_lending"


def create_lending(bench: Bench, name: str, gb: float) -> int:
    """Create a lending database at version 1 of about ``gb`` gigabytes; returns its size in bytes."""
    rows = int(gb * ROWS_PER_GB)
    up = next((EXAMPLE / "migrations").glob("v1.0.0_*")) / "up.sql"
    bench.server.create_database(name, up.read_text(encoding="utf-8"))
    with bench.environment() as environment:
        subprocess.run(
            [sys.executable, str(EXAMPLE / "generate.py"), "--dsn", "dbname=%s" % name, "--rows", str(rows)],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    bench.server.execute("VACUUM (ANALYZE)", database=name)
    size = int(bench.server.execute("SELECT pg_database_size(%s)", (name,))[0][0])
    bench.note("%s holds %d payments in %.2f GB" % (name, rows, size / 1e9))
    return size


def plain_dump(bench: Bench, name: str) -> pathlib.Path:
    """Take a backup as the plain sequence of client commands does it: dump, list, checksum."""
    path = bench.scratch / "plain.backup"
    path.unlink(missing_ok=True)
    bench.run("pg_dump", "--format=custom", "--compress=9", "--file=%s" % path, name)
    bench.run("pg_restore", "--list", str(path))
    subprocess.run(["sha256sum", str(path)], check=True, stdout=subprocess.DEVNULL)
    return path


def archive(bench: Bench) -> dict[str, Any]:
    """Take an archive with proofs."""
    return take_archive(
        server=bench.server.server,
        database=LIVE,
        path=str(bench.scratch / "archives"),
        environment=dict(os.environ),
        bin_dir=str(bench.server.bin_dir),
    )["archive"]


def bench_archive(bench: Bench) -> None:
    """Archive with proofs against dump, list and checksum."""
    sizes: list[tuple[int, int]] = []
    taken: list[dict[str, Any]] = []

    def ours() -> float:
        elapsed = timed(lambda: taken.append(archive(bench)))
        sizes.append((int(taken[-1]["bytes"]), (bench.scratch / "plain.backup").stat().st_size))
        return elapsed

    bench.pairs("archive with proofs: time", ours, lambda: timed(lambda: plain_dump(bench, LIVE)), unit="s", bar=0.35)
    bench.record(
        "archive with proofs: size",
        value=sizes[-1][0] / 1e6,
        unit="MB",
        against=sizes[-1][1] / 1e6,
        bar=1.10,
        ratios=[a / b for a, b in sizes],
    )
    bench.note(
        "compression %s, fingerprint %.1f s beside a dump of %.1f s"
        % (taken[-1]["compression"], taken[-1]["fingerprint_s"], taken[-1]["dump_s"])
    )


def bench_restore(bench: Bench) -> None:
    """Side restore with proof against pg_restore into a fresh database with one job."""
    ours_from = archive(bench)
    plain_from = plain_dump(bench, LIVE)

    def plain() -> float:
        bench.server.create_database("plain_restore")
        try:
            return timed(lambda: bench.run("pg_restore", "--dbname=plain_restore", str(plain_from)))
        finally:
            bench.server.drop_database("plain_restore")

    def ours() -> float:
        try:
            return timed(
                lambda: restore_archive(
                    server=bench.server.server,
                    database="side_restore",
                    environment=dict(os.environ),
                    archive=ours_from["path"],
                    bin_dir=str(bench.server.bin_dir),
                )
            )
        finally:
            bench.server.drop_database("side_restore")

    bench.pairs("side restore with proof", ours, plain, unit="s", bar=0.80)


def bench_fingerprint(bench: Bench) -> None:
    """Fingerprint against count(*) over the same tables."""
    tables = [
        row[0]
        for row in bench.server.execute(
            "SELECT format('%%I.%%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public'",
            (),
            database=LIVE,
        )
    ]
    connection = bench.server.connect(LIVE)

    def count() -> None:
        with connection.cursor() as cursor:
            for table in tables:
                cursor.execute("SELECT count(*) FROM " + table)
                cursor.fetchall()

    try:
        count()
        bench.pairs(
            "fingerprint",
            lambda: timed(lambda: take_fingerprint(server=bench.server.server, database=LIVE)),
            lambda: timed(count),
            unit="s",
            bar=2.5,
        )
    finally:
        connection.close()


def playbook(bench: Bench, name: str, *arguments: str) -> float:
    """Run one of the playbooks as an operator does and return the seconds of the whole command."""
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "holdfast_hosts": "all",
        "holdfast_login": bench.server.login,
        "holdfast_database": LIVE,
        "holdfast_bin_dir": str(bench.server.bin_dir),
        "holdfast_backup_dir": str(bench.scratch / "archives"),
        "holdfast_report_dir": str(bench.scratch / "reports"),
        "migrate_directories": [str(EXAMPLE / "migrations")],
        "rollback_suites": [str(EXAMPLE / "suites" / "emergency.yml")],
    }
    path = bench.scratch / "variables.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(variables), encoding="utf-8")
    argv = [
        str(pathlib.Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        "localhost,",
        "-e",
        "@%s" % path,
        str(ROOT / "playbooks" / ("%s.yml" % name)),
        *arguments,
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    started = time.monotonic()
    done = subprocess.run(argv, cwd=str(ROOT), env=environment, capture_output=True, text=True, check=False)
    elapsed = time.monotonic() - started
    if done.returncode:
        raise RuntimeError("%s.yml failed:\n%s" % (name, done.stdout[-4000:] + done.stderr[-2000:]))
    bench.tasks = done.stdout.count("\nTASK [")
    return elapsed


def plain_undo(bench: Bench) -> None:
    """Undo by snapshot, restore and rename, as a guide made of client commands does it."""
    snapshot = bench.scratch / "snapshot.backup"
    bench.run("pg_dump", "--format=custom", "--compress=9", "--file=%s" % snapshot, LIVE)
    bench.server.create_database("plain_undo")
    bench.run("pg_restore", "--dbname=plain_undo", str(bench.scratch / "before.backup"))
    bench.server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (LIVE,))
    bench.server.execute('ALTER DATABASE "%s" RENAME TO plain_failed' % LIVE)
    bench.server.execute('ALTER DATABASE plain_undo RENAME TO "%s"' % LIVE)
    bench.server.drop_database("plain_failed")


def write_payments(bench: Bench) -> None:
    """Write what clients would between a deployment and its undo, which the undo then finds and keeps in files."""
    bench.server.execute(WRITE_PAYMENTS, {"rows": WRITTEN_ROWS}, database=LIVE)


def kept_rows(bench: Bench) -> int:
    """How many rows the newest undo has kept in the file of the payments."""
    files = (bench.scratch / "reports").glob("*/writes/public.payment.csv")
    newest = max(files, key=lambda path: path.stat().st_mtime)
    with newest.open(encoding="utf-8") as file:
        return sum(1 for _ in file) - 1


def bench_undo(bench: Bench, sizes_gb: list[float], *, against_gb: float) -> None:
    """The whole undo command at several sizes, with the stage that keeps what was written since."""
    for gb in sizes_gb:
        bench.server.drop_database(LIVE)
        create_lending(bench, LIVE, gb)
        adopt_version_1(bench)
        elapsed = []
        for number in range(bench.runs):
            playbook(bench, "deploy", "--tags", "rollback_point,migrate")
            write_payments(bench)
            elapsed.append(playbook(bench, "rollback", "-e", "holdfast_confirm=%s" % LIVE))
            bench.note(
                "undo of %s GB, run %d: %.2f s, %d of %d payments kept in a file"
                % (gb, number + 1, elapsed[-1], kept_rows(bench), WRITTEN_ROWS)
            )
            for name in bench.server.databases():
                if "_retired_" in name:
                    bench.server.drop_database(name)
        plain = None
        if gb <= against_gb:
            bench.run(
                "pg_dump", "--format=custom", "--compress=1", "--file=%s" % (bench.scratch / "before.backup"), LIVE
            )
            plain = timed(lambda: plain_undo(bench))
            bench.note("undo of %s GB by snapshot, restore and rename: %.2f s" % (gb, plain))
        bench.record(
            "undo of %s GB, whole command" % gb,
            value=statistics.median(elapsed),
            unit="s",
            against=plain,
            bar=6,
            runs=len(elapsed),
        )


def adopt_version_1(bench: Bench) -> None:
    """Record version 1 as applied, since its SQL was run without the runner."""
    bench.server.execute(
        "CREATE TABLE public.schema_version (version text PRIMARY KEY, description text, applied_at timestamptz);"
        " INSERT INTO public.schema_version VALUES ('v1.0.0', 'lending_platform', now())",
        database=LIVE,
    )


def bench_idle(bench: Bench) -> None:
    """deploy.yml with nothing pending against 0.3 s for each of its tasks."""
    if LIVE not in bench.server.databases():
        create_lending(bench, LIVE, 0.04)
    if not bench.server.execute("SELECT to_regclass('public.schema_version')", database=LIVE)[0][0]:
        adopt_version_1(bench)
    playbook(bench, "deploy")
    elapsed = [playbook(bench, "deploy") for _ in range(bench.runs)]
    bench.record(
        "deploy.yml with nothing pending",
        value=statistics.median(elapsed),
        unit="s",
        against=0.3 * bench.tasks,
        bar=20,
        runs=len(elapsed),
    )


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as people read them."""
    verdicts = {True: "within the bar", False: "MISSED", None: ""}
    lines = ["%-52s %12s %12s %8s %8s" % ("work", "value", "against", "ratio", "bar")]
    for row in results:
        lines.append(
            "%-52s %9.2f %-2s %12s %8s %8s  %s"
            % (
                row["name"],
                row["value"],
                row["unit"],
                "-" if row["against"] is None else "%.2f" % row["against"],
                "-" if row["ratio"] is None else "%.2f" % row["ratio"],
                "-" if row["bar"] is None else row["bar"],
                verdicts[row["within_bar"]],
            )
        )
    return "\n".join(lines)


def main() -> None:
    """Run the benchmarks that were named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="name", help="some of " + ", ".join(NAMES))
    parser.add_argument("--gb", type=float, default=1.2, help="size of the lending database (default 1.2)")
    parser.add_argument("--undo-gb", default="0.1,1,4", help="sizes for the undo (default 0.1,1,4)")
    parser.add_argument(
        "--undo-against-gb",
        type=float,
        default=1,
        help="up to which size the undo is compared with a restore, which takes minutes (default 1)",
    )
    parser.add_argument(
        "--swap-seconds", type=int, default=70, help="for how long clients run in each mode (default 70)"
    )
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    directory = ROOT / "benchmarks" / "results"
    directory.mkdir(exist_ok=True)
    server = TestServer(
        embedded_bin_dir(18),
        root=tempfile.gettempdir(),
        # As initdb leaves it, but with room for the load between two checkpoints.
        settings={
            "shared_buffers": "128MB",
            "max_wal_size": "8GB",
            "wal_level": "replica",
            "checkpoint_timeout": "15min",
        },
    )
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=os.environ.get("TMPDIR")))
    machine = {
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "server": 18,
        "lending_gb": options.gb,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    everything: list[dict[str, Any]] = []
    try:
        bench = Bench(server=server, scratch=scratch, results_dir=directory, runs=options.runs)
        if {"archive", "restore", "fingerprint", "checks"} & set(options.names):
            create_lending(bench, LIVE, options.gb)
        for name in options.names:
            print("%s:" % name, flush=True)
            bench.results = []
            if name == "undo":
                sizes = [float(size) for size in options.undo_gb.split(",")]
                bench_undo(bench, sizes, against_gb=options.undo_against_gb)
            elif name == "checks":
                bench_checks(bench, LIVE)
            elif name == "swap":
                bench_swap(bench, seconds=options.swap_seconds)
            else:
                {
                    "archive": bench_archive,
                    "restore": bench_restore,
                    "fingerprint": bench_fingerprint,
                    "migrate": bench_migrate,
                    "idle": bench_idle,
                }[name](bench)
            (directory / ("%s.json" % name)).write_text(
                json.dumps({"machine": machine, "results": bench.results}, indent=2) + "\n", encoding="utf-8"
            )
            everything.extend(bench.results)
    finally:
        server.remove()
        shutil.rmtree(scratch)
    print("\n" + table(everything))


if __name__ == "__main__":
    main()
