# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Undoing a deployment by steps down that were proven, without losing a row that nobody gave up."""

from __future__ import annotations

import csv
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.new_data import new_data_report
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.layouts import SourceFile
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate
from tests.support.modules import run_module
from tests.support.rehearsal import migration, small_job, write_inventory
from tests.support.server import TestServer, embedded_bin_dir

UP = "CREATE TABLE event (id int PRIMARY KEY, note text);\nALTER TABLE loan ADD rate numeric NOT NULL DEFAULT 1;\n"
DOWN = "ALTER TABLE loan DROP rate;\nDROP TABLE event;\n"


def test_proven_steps_down_undo_a_deployment_and_keep_what_was_written(tmp_path: pathlib.Path) -> None:
    server = TestServer(embedded_bin_dir(18))
    try:
        job = small_job(server, tmp_path)
        path = migration(job, "v1", UP, DOWN)
        write_inventory(job, rollback_point_strategy="archive")
        before = job.fingerprint()
        assert job.play("deploy").returncode == 0
        assert job.report()["rehearsal"]["proven"]
        for statement in (
            "INSERT INTO event VALUES (1, 'called'), (2, 'paid')",
            "UPDATE loan SET rate = 2 WHERE id <= 3",
            "UPDATE loan SET note = 'seen' WHERE id = 4",
            "INSERT INTO loan (status, note) VALUES ('late', 'new')",
        ):
            server.execute(statement, database="bank")
        confirm = ("-e", "holdfast_confirm=bank")
        schema = (*confirm, "-e", "rollback_strategy=schema")
        present = job.fingerprint()

        refused = job.play("rollback", *schema)
        assert refused.returncode != 0
        said = " ".join(refused.stdout.split())
        assert "public.event (2 rows), public.loan.rate (3 rows)" in said and "rollback_discard" in said
        predicted = job.play("rollback", "--check", *confirm)
        assert predicted.returncode == 0, predicted.stdout
        assert "from the archive" in predicted.stdout and "would drop rows" in predicted.stdout

        (path / "down.sql").write_text(DOWN + "SELECT 1;\n", encoding="utf-8")
        assert "are not those that the rehearsal" in " ".join(job.play("rollback", *schema).stdout.split())
        (path / "down.sql").write_text(DOWN, encoding="utf-8")
        assert job.differences(present, job.fingerprint()) == []

        done = job.play("rollback", *schema, "-e", '{"rollback_discard": ["event", "loan.rate"]}')
        assert done.returncode == 0, done.stdout + done.stderr
        differences = {d["object"]: d["message"] for d in job.differences(before, job.fingerprint())}
        assert set(differences) == {
            "table public.loan", "sequence public.loan_id_seq", "table public.schema_version",
            *(name for name in differences if "schema_version" in name),
        }  # fmt: skip
        assert "had 500 rows and has 501" in differences["table public.loan"]
        report = job.report()
        assert report["deployment"]["status"] == "succeeded" and report["rollback"]["strategy"] == "schema"
        assert report["rollback"]["done"] and "undone by the steps down of v1" in report["summary"]
        files = {file["name"]: file for file in report["rollback"]["discarded"]}
        assert {name: file["rows"] for name, file in files.items()} == {"public.event": 2, "public.loan.rate": 501}
        with open(files["public.event"]["path"], encoding="utf-8", newline="") as file:
            assert list(csv.DictReader(file)) == [{"id": "1", "note": "called"}, {"id": "2", "note": "paid"}]
        assert "no deployment" in job.play("rollback", *schema).stdout
    finally:
        server.remove()


@pytest.fixture
def events(pg18: TestServer, database: str) -> Iterator[str]:
    pg18.execute("CREATE TABLE event (n int, note json, made timestamptz DEFAULT now())", database=database)
    yield database


def look(server: TestServer, database: str, **options: Any) -> dict[str, Any]:
    options.setdefault("tables", ["public.event"])
    return new_data_report(server=server.server, database=database, columns=options.pop("columns", {}), **options)


def held(result: dict[str, Any]) -> dict[str, int]:
    return {row["name"]: row["rows"] for row in result["held"]}


def test_only_what_was_written_since_the_snapshot_counts(pg18: TestServer, events: str) -> None:
    pg18.execute("INSERT INTO event VALUES (1, '{}')", database=events)
    (snapshot,) = pg18.execute("SELECT pg_current_snapshot()::text", database=events)[0]
    assert held(look(pg18, events)) == {"public.event": 1}
    assert held(look(pg18, events, since=snapshot)) == {}
    pg18.execute("INSERT INTO event VALUES (2), (3)", database=events)
    assert held(look(pg18, events, since=snapshot)) == {"public.event": 2}
    columns = {"public.event": ["n", "note", "made", "gone"], "public.gone": ["x"]}
    found = look(pg18, events, since=snapshot, tables=["public.gone"], columns=columns)
    # What a default gives at another time than now is taken for somebody's.
    assert held(found) == {"public.event.n": 2, "public.event.made": 2}
    assert found["refused"] == ["public.event.n", "public.event.made"]


def revert(server: TestServer, database: str, versions: dict[str, str], *, down: str = "DROP TABLE event") -> Any:
    files = [
        SourceFile(path="m/v1_x/up.sql", content=b"SELECT 1"),
        SourceFile(path="m/v1_x/down.sql", content=down.encode()),
    ]
    settings = Settings(target_version="0", row_versions=versions)
    apply = Settings()
    if not server.execute("SELECT to_regclass('schema_version')", database=database)[0][0]:
        migrate(server=server.server, database=database, files=files, state="applied", settings=apply)
    return migrate(server=server.server, database=database, files=files, state="reverted", settings=settings)


@pytest.mark.parametrize("write", ["INSERT INTO event VALUES (2)", "UPDATE event SET n = n", "DELETE FROM event"])
def test_step_down_is_refused_when_rows_were_written_after_they_were_kept(
    pg18: TestServer, events: str, write: str
) -> None:
    pg18.execute("INSERT INTO event VALUES (1)", database=events)
    versions = look(pg18, events)["versions"]
    pg18.execute(write, database=events)
    with pytest.raises(HoldfastError) as failure:
        revert(pg18, events, versions)
    assert failure.value.code == "rows_written" and "public.event" in failure.value.msg
    assert pg18.execute("SELECT to_regclass('event')", database=events)[0][0]
    assert revert(pg18, events, look(pg18, events)["versions"])["reverted"]
    assert not pg18.execute("SELECT to_regclass('event')", database=events)[0][0]


def test_writer_waits_while_the_step_down_looks_and_finds_its_table_gone(pg18: TestServer, events: str) -> None:
    versions = look(pg18, events)["versions"]
    errors: list[str] = []

    def insert() -> None:
        try:
            for n in range(2000):
                pg18.execute("INSERT INTO event VALUES (%s)", (n,), database=events)
        except psycopg2.Error as exc:
            errors.append(str(exc))

    # Whoever comes first: either the step is refused, or nothing of the writer is in what was dropped.
    writer = threading.Thread(target=insert)
    writer.start()
    try:
        revert(pg18, events, versions, down="SELECT pg_sleep(0.3); DROP TABLE event")
        assert errors or writer.is_alive()
    except HoldfastError as exc:
        assert exc.code == "rows_written"
        pg18.execute("DROP TABLE event", database=events)
    writer.join()
    assert errors and "does not exist" in errors[0]


def test_step_down_outside_of_a_transaction_cannot_be_guarded(pg18: TestServer, events: str) -> None:
    versions = look(pg18, events)["versions"]
    with pytest.raises(HoldfastError) as failure:
        revert(pg18, events, versions, down="-- holdfast: no-transaction\nDROP TABLE event")
    assert failure.value.code == "unsupported"


def test_module_pg_new_data_info_keeps_rows_once_and_writes_nothing_in_check_mode(
    pg18: TestServer, events: str, tmp_path: pathlib.Path
) -> None:
    pg18.execute("INSERT INTO event VALUES (1)", database=events)
    path = tmp_path / "kept"
    arguments = {**pg18.login, "database": events, "tables": ["public.event"], "discard": ["event"], "path": str(path)}
    assert run_module("pg_new_data_info", arguments, check=True)["changed"] and not path.exists()
    first = run_module("pg_new_data_info", arguments)
    assert first["changed"] and first["files"][0]["rows"] == 1 and first["refused"] == []
    assert not run_module("pg_new_data_info", arguments)["changed"]
    (file,) = path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600 and path.stat().st_mode & 0o777 == 0o700
