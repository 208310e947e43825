# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes in the main job: before anything is touched, after a deployment, after an undo. One story, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.job import EXAMPLE, Job
from tests.support.server import TestServer, embedded_bin_dir
from tests.support.webapp import API_TOKEN, WebApp, running

SUMMARY = "/api/v1/collections/summary"
PROBES = ["-e", "@%s" % (EXAMPLE / "probes.yml")]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """The sample at version 1, on a server of its own."""
    server = TestServer(embedded_bin_dir(18))
    job = Job(server, tmp_path_factory.mktemp("probes"))
    job.set_up(rows=500)
    yield job
    server.remove()


@pytest.fixture
def app(job: Job) -> Iterator[WebApp]:
    """The application in front of the live database, known to the inventory."""
    with running(job.server, job.database) as app:
        job.write_inventory(
            rently_api=app.url,
            rently_api_token=API_TOKEN,
            probe_deadline_s=1,
            # Rows are compared elsewhere.
            rollback_export_writes=False,
        )
        yield app


def probes(report: dict[str, Any], stage: str) -> dict[str, str]:
    """Each probe of a stage, and how it stands."""
    return {
        check["name"]: check["status"]
        for check in report["checks"]
        if check["suite"] == "probes" and check["stage"] == stage
    }


HEALTHY, COUNTED, COLLECTIONS = (
    "the API is healthy",
    "the API counts loans in the database",
    "the collections of version 2 are served",
)


def test_mistyped_probe_is_refused_before_anything_is_touched(job, app):
    completed = job.play(
        "deploy", "-e", '{"probe_list": [{"name": "x", "http": {"url": "%s", "methud": "GET"}}]}' % app.url
    )
    assert completed.returncode != 0
    assert "'methud' is unknown" in completed.stdout
    assert "The live database was not changed" in job.report()["summary"]
    assert job.version() == "v1.0.0" and app.seen == []
    assert not list((job.directory / "backups").rglob("manifest.json"))


def test_probe_that_must_hold_before_stops_the_deployment(job, app):
    must = '{"probe_list": [{"name": "login works", "http": {"url": "%s/api"}, "stages": ["preflight", "verify"]}]}'
    completed = job.play("deploy", "-e", must % app.url)
    assert completed.returncode != 0
    assert "answered 401, expected 200" in completed.stdout
    assert job.report()["failure"]["code"] == "probe_failed" and job.version() == "v1.0.0"
    assert probes(job.report(), "preflight") == {"login works": "failed"}


def test_deployment_is_probed_and_shows_no_token(job, app):
    completed = job.play("deploy", *PROBES, "-vvv")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    report = job.report()
    assert probes(report, "verify") == {HEALTHY: "passed", COUNTED: "passed", COLLECTIONS: "passed"}
    assert [step["name"] for step in report["steps"]][-2:] == ["probe", "report"]
    assert job.version() == "v2.0.0" and {path for _method, path, _headers in app.seen} > {SUMMARY}
    recorded = job.server.execute(
        "SELECT name, status FROM holdfast.check_result WHERE suite = 'probes' AND stage = 'verify'",
        database="holdfast",
    )
    assert dict(recorded) == probes(report, "verify")
    written = completed.stdout + completed.stderr + str(report)
    assert API_TOKEN not in written and COLLECTIONS in written


def test_undo_stands_though_the_application_does_not_answer_and_says_so(job, app):
    app.faults["/health"] = {"status": 503}
    completed = job.play("rollback", *PROBES, "-e", "holdfast_confirm=rently_lending")
    assert job.version() == "v1.0.0"
    report = job.report()
    assert report["deployment"]["status"] == "succeeded" and report["rollback"]["done"]
    assert probes(report, "rollback") == {HEALTHY: "failed", COUNTED: "passed"}
    assert completed.returncode != 0 and "CHECKS FAILED AFTER THE UNDO: %s" % HEALTHY in completed.stdout


def test_failing_probe_undoes_the_deployment(job, app):
    before = job.fingerprint()
    app.faults[SUMMARY] = {"content": b'{"status": "error"}'}
    completed = job.play("deploy", *PROBES)
    assert completed.returncode != 0
    assert 'status is "error", expected "success"' in completed.stdout
    assert job.version() == "v1.0.0" and job.differences(before, job.fingerprint()) == []
    report = job.report()
    assert report["deployment"]["status"] == "rolled_back"
    assert (report["failure"]["stage"], report["failure"]["code"]) == ("probe", "probe_failed")
    assert {step["name"]: step["status"] for step in report["steps"]}["probe"] == "failed"
    assert probes(report, "verify") == {HEALTHY: "passed", COUNTED: "passed", COLLECTIONS: "failed"}
    assert probes(report, "rollback") == {HEALTHY: "passed", COUNTED: "passed"}
