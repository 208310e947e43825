# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The samples by playbook: one from empty to current as its page says, and what a deployment must not lose."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.examples import EXAMPLES
from tests.support.job import Job
from tests.support.modules import ROOT, run_playbook
from tests.support.server import TestServer, embedded_bin_dir

CONTINUITY = """\
suite: continuity
checks:
  - name: no payments are lost
    sql: SELECT count(*) FROM payment
    expect: {not_worse: {better: higher}}
  - name: no more payments without an allocation than before
    sql: SELECT id FROM payment p WHERE NOT EXISTS (SELECT FROM payment_allocation WHERE payment_id = p.id)
    expect: {not_worse: {of: rows, better: lower}}
  - name: the money of each loan is what it was
    stages: [verify]
    sql: SELECT loan_id, sum(allocated_amount) FROM payment_allocation GROUP BY loan_id
    expect: {same_as: database}
  - name: products are what the archive holds
    stages: [verify]
    tables: [public.product, public.payment]
    expect: {same_as: archive}
"""


@pytest.fixture(scope="module")
def own() -> Iterator[TestServer]:
    """A server of our own, because the sample creates roles."""
    server = TestServer(embedded_bin_dir(18))
    yield server
    server.remove()


def deploy(server: TestServer, directory: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inventory = directory / "hosts.json"
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    variables = {
        "holdfast_login": server.login,
        "holdfast_bin_dir": str(server.bin_dir),
        "holdfast_backup_dir": str(directory / "backups"),
        "holdfast_report_dir": str(directory / "reports"),
    }
    inventory.touch(mode=0o600)
    inventory.write_text(json.dumps({"holdfast": {"hosts": {"here": host}, "vars": variables}}), encoding="utf-8")
    return run_playbook(ROOT / "playbooks" / "deploy.yml", *arguments, inventory=inventory)


def test_empty_database_becomes_the_newest_version_by_playbook(own: TestServer, tmp_path: pathlib.Path) -> None:
    own.create_database("crm")
    variables = ("-e", "@" + str(EXAMPLES["crm"].directory / "variables.yml"))
    first = deploy(own, tmp_path, *variables)
    assert first.returncode == 0, first.stdout + first.stderr
    EXAMPLES["crm"].fill(own, "crm")
    again = deploy(own, tmp_path, *variables)
    assert again.returncode == 0, again.stdout + again.stderr
    report = json.loads((tmp_path / "reports" / "latest" / "report.json").read_text(encoding="utf-8"))
    suites = {(check["suite"], check["status"]) for check in report["checks"]}
    assert {("pre", "passed"), ("security", "passed"), ("post", "passed"), ("data_quality", "passed")} <= suites

    # A fault of the database that nobody has deployed is found by the next run all the same.
    own.execute("ALTER TABLE contacts DISABLE ROW LEVEL SECURITY", database="crm")
    broken = deploy(own, tmp_path, *variables)
    assert broken.returncode != 0
    assert "Row-level security is on for each table (security)" in broken.stdout
    found = json.loads((tmp_path / "reports" / "latest" / "report.json").read_text(encoding="utf-8"))["checks"]
    rules = {check["name"]: check["status"] for check in found if check["source"] == "security rules"}
    assert len(rules) == 6 and list(rules.values()).count("failed") == 2, rules


def test_what_preflight_measured_the_clone_and_the_archive_reach_the_checks(
    own: TestServer, tmp_path: pathlib.Path
) -> None:
    suite = tmp_path / "continuity.yml"
    suite.write_text(CONTINUITY, encoding="utf-8")
    job = Job(own, tmp_path)
    job.set_up()
    job.write_inventory(preflight_suites=[str(suite)], verify_suites=[str(suite)])
    played = job.play("deploy")
    assert played.returncode == 0, played.stdout + played.stderr
    messages = {
        check["name"]: check["message"]
        for check in job.report()["checks"]
        if check["suite"] == "continuity" and check["stage"] == "verify"
    }
    assert messages["no payments are lost"] == "found 2000, expected at least 2000 (earlier 2000)"
    assert "the same as in rently_lending_" in messages["the money of each loan is what it was"]
    assert "the same as in archive 20" in messages["products are what the archive holds"]
    assert len(messages) == 4
