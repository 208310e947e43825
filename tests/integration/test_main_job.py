# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job from end to end: deploy, deploy again, break, undo. The tests of the first class follow one another."""

from __future__ import annotations

import pathlib
import shutil
import stat
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.job import EXAMPLE, Job, changed
from tests.support.server import TestServer, embedded_bin_dir

STAGES = ["lint", "preflight", "backup", "rehearse", "rollback_point", "migrate", "verify"]


@pytest.fixture(scope="module")
def own_server() -> Iterator[TestServer]:
    """A server of our own, because the ledger and the sample's roles are the server's."""
    server = TestServer(embedded_bin_dir(18))
    yield server
    server.remove()


@pytest.fixture(scope="module")
def job(own_server: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The sample at version 1, not deployed yet."""
    job = Job(own_server, tmp_path_factory.mktemp("job"))
    job.set_up()
    return job


@pytest.fixture(scope="module")
def memory() -> dict[str, Any]:
    """What a test leaves for the next one."""
    return {}


def flip_a_bit(path: pathlib.Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1
    path.write_bytes(content)


class TestStory:
    """One story, in order."""

    def test_check_mode_predicts_and_writes_nothing(self, job: Job) -> None:
        before = job.server.databases()
        completed = job.play("deploy", "--check", "--diff")
        assert completed.returncode == 0, completed.stdout + completed.stderr
        assert "v2.0.0 would be applied" in completed.stdout
        assert job.version() == "v1.0.0"
        assert job.server.databases() == before
        assert not (job.directory / "backups").exists()
        assert not (job.directory / "reports").exists()

    def test_deploy_brings_version_2_and_records_every_stage(self, job: Job, memory: dict[str, Any]) -> None:
        memory["v1"] = job.fingerprint()
        completed = job.play("deploy", "-vvv")
        assert completed.returncode == 0, completed.stdout + completed.stderr
        assert job.version() == "v2.0.0"
        report = job.report()
        assert report["deployment"]["status"] == "succeeded"
        assert report["deployment"]["database"] == job.database
        assert [step["name"] for step in report["steps"]] == [*STAGES, "report"]
        assert {step["name"] for step in report["steps"] if step["status"] != "succeeded"} == {"rehearse"}
        assert all(step["duration_s"] >= 0 for step in report["steps"])
        assert [row["version"] for row in report["migrations"]] == ["v2.0.0"]
        assert report["checks"] and all(
            row["status"] != "failed" or row["severity"] != "error" for row in report["checks"]
        )
        assert report["rollback"] is None
        memory["archive"] = pathlib.Path(report["backup"]["path"])
        assert (memory["archive"] / "manifest.json").exists()
        assert "will be archived to %s" % memory["archive"] in completed.stdout
        for text in (completed.stdout, completed.stderr):
            assert job.server.password not in text
        memory["v2"] = job.fingerprint()

    def test_deploy_again_changes_nothing(self, job: Job) -> None:
        databases = job.server.databases()
        archives = sorted((job.directory / "backups").rglob("manifest.json"))
        completed = job.play("deploy")
        assert completed.returncode == 0, completed.stdout + completed.stderr
        assert changed(completed) == 0
        assert "Nothing was pending" in completed.stdout
        assert job.server.databases() == databases
        assert sorted((job.directory / "backups").rglob("manifest.json")) == archives
        report = job.report()
        assert report["deployment"]["status"] == "succeeded"
        assert {step["name"]: step["status"] for step in report["steps"]} == {
            "lint": "skipped",
            "preflight": "succeeded",
            "backup": "skipped",
            "rehearse": "skipped",
            "rollback_point": "skipped",
            "migrate": "skipped",
            "verify": "succeeded",
            "report": "succeeded",
        }

    def test_broken_deployment_undoes_itself(self, job: Job, memory: dict[str, Any]) -> None:
        completed = job.play("deploy", "-e", "@%s" % (EXAMPLE / "broken.yml"))
        assert completed.returncode != 0
        assert job.version() == "v2.0.0"
        assert job.differences(memory["v2"], job.fingerprint()) == []
        report = job.report()
        assert report["deployment"]["status"] == "rolled_back"
        assert report["failure"]["stage"] == "verify"
        assert report["failure"]["code"] == "check_failed"
        retired = report["rollback"]["retired"]
        assert retired in job.server.databases()
        assert job.version(retired) == "v2.1.0"
        assert "It was undone" in report["summary"]
        left = report["rollback"]["left"]
        # The failed migration deleted allocations; nobody wrote anything else.
        assert left["known"] and [row["table"] for row in left["tables"]] == [
            "public.payment_allocation",
            "public.schema_version",
        ]
        assert left["total"]["deleted"] > 0 and pathlib.Path(left["directory"], "manifest.json").exists()
        assert retired in completed.stdout
        assert "report.html" in completed.stdout

    def test_rollback_without_the_confirmation_is_refused(self, job: Job) -> None:
        databases = job.server.databases()
        for arguments in ([], ["-e", "holdfast_confirm="], ["-e", "holdfast_confirm=rently"]):
            completed = job.play("rollback", *arguments)
            assert completed.returncode != 0
            assert "confirm_required" in completed.stdout
            assert "holdfast_confirm=rently_lending" in completed.stdout
        assert job.server.databases() == databases
        assert job.version() == "v2.0.0"

    def test_rollback_says_what_it_costs_and_brings_version_1_back(self, job: Job, memory: dict[str, Any]) -> None:
        job.server.execute(
            "INSERT INTO payment_allocation SELECT * FROM payment_allocation LIMIT 0;"
            " UPDATE loan SET interest_rate = interest_rate WHERE id IN (SELECT id FROM loan LIMIT 7)",
            database=job.database,
        )
        completed = job.play("rollback", "-e", "holdfast_confirm=rently_lending")
        assert completed.returncode == 0, completed.stdout + completed.stderr
        assert job.version() == "v1.0.0"
        assert job.differences(memory["v1"], job.fingerprint()) == []
        report = job.report()
        assert report["deployment"]["status"] == "succeeded"
        writes = report["rollback"]["writes"]
        assert writes["known"]
        assert writes["tables"]["public.loan"]["updated"] >= 7
        said = completed.stdout.index("Say what the undo will use")
        assert said < completed.stdout.index("Exchange the names")
        assert job.version(report["rollback"]["retired"]) == "v2.0.0"

    def test_nothing_is_left_to_undo_afterwards(self, job: Job) -> None:
        databases = job.server.databases()
        completed = job.play("rollback", "-e", "holdfast_confirm=rently_lending")
        assert completed.returncode != 0
        assert "undone already" in completed.stdout
        assert job.server.databases() == databases

    def test_rollback_from_archive_passes_over_a_corrupt_one(self, job: Job, memory: dict[str, Any]) -> None:
        assert job.play("deploy").returncode == 0
        assert job.version() == "v2.0.0"
        newest = pathlib.Path(job.report()["backup"]["path"])
        largest = max((newest / "data").iterdir(), key=lambda path: path.stat().st_size)
        flip_a_bit(largest, 4711)
        completed = job.play("rollback", "-e", "holdfast_confirm=rently_lending", "-e", "rollback_strategy=archive")
        assert completed.returncode == 0, completed.stdout + completed.stderr
        report = job.report()
        assert report["rollback"]["strategy"] == "archive"
        assert report["rollback"]["verified"] is True
        assert newest.name not in report["rollback"]["used"]
        assert newest.name in completed.stdout
        assert "corrupt" in completed.stdout

    def test_backup_playbook_takes_and_prunes(self, job: Job, memory: dict[str, Any]) -> None:
        keep = [
            "-e",
            '{"backup_keep_last": 1, "backup_keep_daily": 0, "backup_keep_weekly": 0, "backup_keep_monthly": 0,'
            ' "backup_keep_deployments": 1}',
        ]
        assert memory["archive"].exists()
        completed = job.play("backup", *keep)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        assert job.report()["deployment"]["kind"] == "backup"
        assert pathlib.Path(job.report()["backup"]["path"], "manifest.json").exists()
        assert not memory["archive"].exists()

    def test_secrets_are_in_no_report_ledger_or_archive(self, job: Job) -> None:
        password = job.server.password.encode()
        written = [path for path in job.directory.rglob("*") if path.is_file() and path != job.inventory]
        assert any(path.name == "report.html" for path in written)
        for path in written:
            assert password not in path.read_bytes(), path
        rows = job.server.execute(
            "SELECT count(*) FROM holdfast.step WHERE strpos(step::text, %s) > 0",
            (job.server.password,),
            database="holdfast",
        )
        assert rows == [(0,)]

    def test_files_are_for_their_owner_only(self, job: Job) -> None:
        for path in (job.directory / "backups").rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path


def migration(directory: pathlib.Path, version: str, up: str) -> pathlib.Path:
    path = directory / ("%s_test" % version)
    path.mkdir(parents=True)
    (path / "up.sql").write_text(up, encoding="utf-8")
    return directory


@pytest.fixture
def other(own_server: TestServer, tmp_path: pathlib.Path) -> Iterator[Job]:
    """A small database with a hostile name, at version 1."""
    job = Job(own_server, tmp_path, database="we\"ird db='1' %s \\ né")
    migrations = migration(tmp_path / "migrations", "v1", "CREATE TABLE kept AS SELECT 1 AS n")
    job.write_inventory(
        migrate_directories=[str(migrations)],
        preflight_suites=[],
        verify_suites=[],
        rollback_suites=[],
        migrate_role="",
        holdfast_ledger_database="ledger",
    )
    own_server.create_database(job.database)
    yield job
    for name in own_server.databases() - {"postgres", "template0", "template1", "rently_lending", "holdfast"}:
        if not name.startswith("rently"):
            own_server.drop_database(name)


def test_hostile_database_name_deploys_and_rolls_back(other: Job) -> None:
    assert other.play("deploy").returncode == 0, other.play("deploy").stdout
    assert other.version() == "v1"
    completed = other.play("rollback", *CONFIRM)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert other.server.execute("SELECT to_regclass('kept')", database=other.database) == [(None,)]


CONFIRM = ("-e", '{"holdfast_confirm": "we\\"ird db=\'1\' %s \\\\ n\u00e9"}')


def test_sql_that_fails_half_way_changes_nothing_and_is_not_undone(other: Job) -> None:
    assert other.play("deploy").returncode == 0
    first = other.report()["deployment"]["id"]
    oid = other.server.execute("SELECT oid FROM pg_database WHERE datname = %s", (other.database,))
    migration(other.directory / "migrations", "v2", "CREATE TABLE half (n int);\nSELECT 1 / 0;\n")
    completed = other.play("deploy")
    assert completed.returncode != 0
    assert "migration_failed" in other.report()["failure"]["code"]
    assert other.report()["deployment"]["status"] == "failed"
    assert other.report()["failure"]["line"] == 2
    assert "The live database was not changed" in completed.stdout
    assert other.server.execute("SELECT to_regclass('half')", database=other.database) == [(None,)]
    assert other.server.execute("SELECT oid FROM pg_database WHERE datname = %s", (other.database,)) == oid
    # There is nothing of it to undo: what an undo means now is the deployment before.
    completed = other.play("rollback", "--check", *CONFIRM)
    assert "_before_%s" % first in completed.stdout
    assert "Check mode: " in completed.stdout
    assert "was undone" not in completed.stdout


def test_clone_that_somebody_migrated_is_not_swapped_in_unless_it_is_meant(other: Job) -> None:
    assert other.play("deploy").returncode == 0
    migration(other.directory / "migrations", "v2", "CREATE TABLE more (n int)")
    assert other.play("deploy").returncode == 0
    clone = next(name for name in other.server.databases() if name.endswith(other.report()["deployment"]["id"]))
    other.server.execute(
        "INSERT INTO schema_version (version, applied_at, state) VALUES ('v9', now(), 'applied')", database=clone
    )
    completed = other.play("rollback", *CONFIRM)
    assert completed.returncode != 0
    assert other.report()["failure"]["code"] == "swap_blocked"
    assert "newest migration is v9, and the recorded one is v1" in completed.stdout
    assert other.version() == "v2"
    assert other.play("rollback", *CONFIRM, "-e", "rollback_check_replacement=false").returncode == 0
    assert other.version() == "v9"


def test_statements_that_stay_done_are_not_called_unchanged(other: Job) -> None:
    assert other.play("deploy").returncode == 0
    migration(
        other.directory / "migrations",
        "v2",
        "-- holdfast: no-transaction\nCREATE INDEX i ON kept (n);\nSELECT 1 / 0;\n",
    )
    completed = other.play("deploy", "-e", "deploy_on_failure=stop")
    assert completed.returncode != 0
    assert "IT WAS NOT UNDONE" in completed.stdout
    assert "was not changed" not in completed.stdout
    # An answer that a survey leaves empty counts as not given.
    assert other.play("deploy", "-e", "deploy_on_failure=").returncode != 0
    assert other.report()["deployment"]["status"] == "rolled_back"
    assert other.play("rollback", *CONFIRM).returncode == 0
    assert other.server.execute("SELECT to_regclass('i')", database=other.database) == [(None,)]


@pytest.mark.parametrize("selection", [("--tags", "verify"), ("--skip-tags", "preflight,backup")])
def test_failure_counts_whatever_stages_are_selected(other: Job, selection: tuple[str, str]) -> None:
    completed = other.play("deploy", *selection, "-e", '{"verify_suites": ["/nowhere.yml"]}')
    assert completed.returncode != 0
    assert "failed at the stage verify" in completed.stdout
    assert other.report()["deployment"]["status"] in ("failed", "rolled_back")
    databases = other.server.databases()
    assert other.server.execute("SELECT to_regclass('kept')", database=other.database) == [(None,)], databases


def test_mistyped_variable_of_the_undo_is_told_before_anything_changes(other: Job) -> None:
    databases = other.server.databases()
    completed = other.play("deploy", "-e", "rollback_drain_timeout=soon")
    assert completed.returncode != 0
    assert "rollback_drain_timeout" in other.report()["summary"]
    assert other.server.databases() - {"ledger"} == databases - {"ledger"}


def test_report_that_cannot_be_written_is_told_before_anything_changes(other: Job) -> None:
    (other.directory / "file").touch()
    databases = other.server.databases()
    completed = other.play("deploy", "-e", "holdfast_report_dir=%s/file/reports" % other.directory)
    assert completed.returncode != 0
    assert "file is not a directory" in completed.stdout
    assert other.server.databases() == databases


def test_failure_after_an_applied_migration_is_undone_or_left_by_policy(other: Job) -> None:
    assert other.play("deploy").returncode == 0
    migration(other.directory / "migrations", "v2", "CREATE TABLE second (n int)")
    migration(other.directory / "migrations", "v3", "SELECT 1 / 0")
    completed = other.play("deploy", "-e", "deploy_on_failure=stop")
    assert completed.returncode != 0
    assert other.version() == "v2"
    assert "IT WAS NOT UNDONE" in completed.stdout
    shutil.rmtree(other.directory / "migrations" / "v3_test")
    migration(other.directory / "migrations", "v3", "CREATE TABLE third (n int)")
    migration(other.directory / "migrations", "v4", "SELECT 1 / 0")
    completed = other.play("deploy")
    assert completed.returncode != 0
    assert other.report()["deployment"]["status"] == "rolled_back"
    assert other.version() == "v2"


def test_connected_client_makes_the_archive_the_way_back(other: Job) -> None:
    client = other.server.connect(other.database)
    try:
        completed = other.play("deploy", "-e", "rollback_point_drain_timeout=0")
    finally:
        client.close()
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "No clone" in completed.stdout
    completed = other.play("rollback", *CONFIRM)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert other.report()["rollback"]["strategy"] == "archive"
    assert other.server.execute("SELECT to_regclass('kept')", database=other.database) == [(None,)]


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"holdfast_login": {"login_host": "127.0.0.1", "login_port": 1}}, "connection_failed"),
        ({"holdfast_database": "nowhere"}, "database_not_found"),
    ],
)
def test_what_cannot_begin_says_why_and_touches_nothing(other: Job, variables: dict[str, Any], code: str) -> None:
    databases = other.server.databases()
    other.write_inventory(
        migrate_directories=[str(other.directory / "migrations")],
        preflight_suites=[],
        holdfast_ledger_database="ledger",
        **variables,
    )
    completed = other.play("deploy")
    assert completed.returncode != 0
    assert other.report()["failure"]["code"] == code
    assert other.report()["deployment"]["status"] == "failed"
    assert other.server.databases() - {"ledger"} == databases - {"ledger"}


def test_wrong_password_is_refused_and_shown_nowhere(other: Job) -> None:
    login = {**other.server.login, "login_password": "n0t-the-passw0rd"}
    other.write_inventory(holdfast_login=login, migrate_directories=[str(other.directory / "migrations")])
    completed = other.play("deploy", "-vvv")
    assert completed.returncode != 0
    assert other.report()["failure"]["code"] == "authentication_failed"
    written = completed.stdout + completed.stderr + (other.directory / "reports/latest/report.json").read_text()
    assert "n0t-the-passw0rd" not in written
