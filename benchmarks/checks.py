# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hundred checks over the lending database: how long they take, and that nothing is written."""

from __future__ import annotations

import os
import pathlib
import statistics
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import Limits, check_database
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite
from benchmarks.measure import Bench
from tests.support.modules import ROOT

CHECKS = 200
JOBS = 2
SUITES = [
    *sorted((ROOT / "examples" / "rently" / "suites").glob("*.yml")),
    ROOT / "roles" / "preflight" / "files" / "suites" / "server.yml",
]

#: Rules for the payments of one month, of which the data has 36. Some read an index, some join the allocations.
MONTHLY = {
    "payments have a positive amount": "p.amount <= 0",
    "payments are in a known currency": "p.currency_code NOT IN ('EUR', 'USD', 'GBP')",
    "payments were recorded after they were received": "p.created_at < p.received_at",
    "failed and pending payments are not allocated": """p.status <> 'completed' AND EXISTS
        (SELECT FROM public.payment_allocation AS a WHERE a.payment_id = p.id)""",
}
MONTH = """
SELECT p.id FROM public.payment AS p
 WHERE p.received_at >= timestamptz '{month}-01 00:00:00+00'
   AND p.received_at < timestamptz '{month}-01 00:00:00+00' + interval '1 month'
   AND {broken}
"""

WRITTEN = """
SELECT d.tup_inserted + d.tup_updated + d.tup_deleted,
       (SELECT sum(t.n_tup_ins + t.n_tup_upd + t.n_tup_del)::bigint FROM pg_stat_all_tables AS t),
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint
  FROM pg_stat_database AS d
 WHERE d.datname = current_database()
"""


def suites() -> list[dict[str, Any]]:
    """Return the suites of the example and of the role preflight, filled up to `CHECKS` with rules for months."""
    documents = [read_suite(path.read_text(encoding="utf-8"), file=str(path)) for path in SUITES]
    months = ["%d-%02d" % (year, month) for year in (2023, 2024, 2025) for month in range(1, 13)]
    monthly = [
        {
            "name": "%s: %s" % (month, name),
            "sql": MONTH.format(month=month, broken=broken),
            "expect": "no_rows",
            "severity": "warning",
        }
        for month in months
        for name, broken in MONTHLY.items()
    ]
    room = CHECKS - sum(len(document["content"]["checks"]) for document in documents)
    documents.append({"file": "monthly.yml", "content": {"suite": "monthly", "checks": monthly[:room]}})
    return documents


def bench_checks(bench: Bench, live: str) -> None:
    """Run the checks on two connections, several times, over a copy of the database at version 2."""
    database = live + "_checks"
    bench.server.execute('CREATE DATABASE "%s" TEMPLATE "%s"' % (database, live))
    try:
        # The server's own housekeeping, in any of its databases, would count as written.
        bench.server.execute("ALTER SYSTEM SET autovacuum = off")
        bench.server.execute("SELECT pg_reload_conf()")
        measure(bench, database)
    finally:
        bench.server.execute("ALTER SYSTEM RESET autovacuum")
        bench.server.execute("SELECT pg_reload_conf()")
        bench.server.drop_database(database)


def processor_s(bench: Bench) -> float:
    """Return the processor time of all sessions of the server that have ended (proc(5), cutime and cstime)."""
    pid = int((bench.server.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
    fields = pathlib.Path("/proc/%d/stat" % pid).read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def measure(bench: Bench, database: str) -> None:
    """Bring ``database`` to version 2, run the checks in it and record what was measured."""
    up = next((ROOT / "examples" / "rently" / "migrations").glob("v2.0.0_*")) / "up.sql"
    bench.server.execute(up.read_text(encoding="utf-8"), database=database)
    bench.server.execute(
        "CREATE TABLE public.schema_version (version text PRIMARY KEY, applied_at timestamptz DEFAULT now());"
        " INSERT INTO public.schema_version VALUES ('v2.0.0')",
        database=database,
    )
    bench.server.execute("VACUUM (ANALYZE)", database=database)
    documents = suites()
    elapsed, processor, written = [], [], []
    for number in range(bench.runs):
        before = bench.server.execute(WRITTEN, database=database)[0]
        processor_before = processor_s(bench)
        answer = check_database(
            server=bench.server.server,
            database=database,
            documents=documents,
            limits=Limits(jobs=JOBS),
            fail_on="never",
        )
        after = bench.server.execute(WRITTEN, database=database)[0]
        elapsed.append(answer["duration_s"])
        processor.append(processor_s(bench) - processor_before)
        written.append(sum(later - earlier for earlier, later in zip(before, after)))
        slowest = sorted(answer["results"], key=lambda result: -result["duration_ms"])[:3]
        bench.note(
            "run %d: %s Slowest: %s"
            % (
                number + 1,
                answer["summary"],
                ", ".join("%s (%s) %.1f s" % (r["name"], r["suite"], r["duration_ms"] / 1000) for r in slowest),
            )
        )
    count = len(answer["results"])
    name = "%d checks on %d connections" % (count, JOBS)
    bench.record(name, value=statistics.median(elapsed), unit="s", bar=30, runs=len(elapsed))
    bench.record("%s: processor time" % name, value=statistics.median(processor), unit="s", runs=len(processor))
    bench.record("%s: writes" % name, value=max(written), unit="", bar=0, runs=len(written))
