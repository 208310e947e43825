# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployment lints what is pending before anything else acts, and stops on what must not run."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.support.job import EXAMPLE, Job
from tests.support.server import TestServer, embedded_bin_dir

TABLES = ("party", "loan", "payment", "payment_allocation")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """The sample at version 1 on a server of its own, because the ledger is the server's."""
    server = TestServer(embedded_bin_dir(18))
    try:
        job = Job(server, tmp_path_factory.mktemp("job"))
        job.set_up(rows=200)
        yield job
    finally:
        server.remove()


def with_migration(job: Job, name: str, up: str, **variables: object) -> None:
    """Have the job deploy the sample and one migration more."""
    directory = job.directory / name
    step = directory / "v2.1.0_start_anew"
    step.mkdir(parents=True, exist_ok=True)
    (step / "up.sql").write_text(up, encoding="utf-8")
    (step / "down.sql").write_text("SELECT 1;\n", encoding="utf-8")
    job.write_inventory(migrate_directories=[str(EXAMPLE / "migrations"), str(directory)], **variables)


@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_truncate_cascade_is_stopped_before_anything_runs(job: Job, arguments: tuple[str, ...]) -> None:
    with_migration(job, "bad", "TRUNCATE party CASCADE;\n")
    counts = {t: job.server.execute("SELECT count(*) FROM " + t, database=job.database)[0][0] for t in TABLES}
    databases = job.server.databases()
    completed = job.play("deploy", *arguments)
    assert completed.returncode != 0
    said = " ".join(completed.stdout.split())
    assert "failed at the stage lint" in said
    for table, count in counts.items():
        assert "public.%s (%s row" % (table, format(count, ",")) in said
    for table in ("collections_event", "loan_status_history"):
        assert "public.%s, which this run creates, too" % table in said
    assert job.version() == "v1.0.0"
    assert not (job.directory / "backups").exists()
    if arguments:
        assert job.server.databases() == databases
        return
    report = job.report()
    assert report["deployment"]["status"] == "failed"
    assert (report["failure"]["stage"], report["failure"]["code"]) == ("lint", "lint_failed")
    assert {step["name"]: step["status"] for step in report["steps"]}["backup"] == "skipped"
    found = [f for f in report["lint"]["findings"] if f["level"] == "error"]
    assert [f["rule"] for f in found] == ["truncate-cascade"]
    assert {t["table"]: t["rows"] for t in found[0]["tables"]} == {"public." + t: n for t, n in counts.items()}
    kept = job.server.execute("SELECT details FROM holdfast.step WHERE name = 'lint'", database="holdfast")
    assert kept[-1][0]["counts"]["error"] == 1


def test_what_is_allowed_goes_on_with_its_reason(job: Job) -> None:
    with_migration(
        job,
        "good",
        "-- holdfast: allow truncate-cascade: the sample begins anew\nTRUNCATE product CASCADE;\n",
        # As strict as in production: the sample passes.
        **strict(),
    )
    completed = job.play("deploy", "--check")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "Allowed: the sample begins anew" in completed.stdout
    assert "v2.1.0 would be applied" in completed.stdout


def strict() -> dict[str, object]:
    """How inventories/production lints."""
    import yaml

    text = pathlib.Path(EXAMPLE.parents[1] / "inventories/production/group_vars/holdfast.yml").read_text("utf-8")
    return {key: value for key, value in yaml.safe_load(text).items() if key.startswith("migrate_lint")}
