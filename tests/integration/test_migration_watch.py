# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a migration does to everybody else: told of each statement, and ended when it is too much."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.migrations import run
from tests.support.server import TestServer

TABLES = """
CREATE TABLE loan (id int PRIMARY KEY, amount numeric);
CREATE TABLE payment (id int PRIMARY KEY, loan int);
INSERT INTO loan SELECT n, n FROM generate_series(1, 1000) AS n;
"""


@pytest.fixture(params=["pg18", "pg16"])
def server(request: pytest.FixtureRequest) -> TestServer:
    return request.getfixturevalue(str(request.param))  # type: ignore[no-any-return]


@pytest.fixture
def bank(server: TestServer) -> Iterator[str]:
    name = "bank_watched"
    server.create_database(name, TABLES)
    yield name
    server.drop_database(name)


@dataclass
class Reader:
    """A client that reads the loans all the time, and remembers the longest it had to wait."""

    longest_s: float = 0.0
    errors: list[str] = field(default_factory=list)


@contextlib.contextmanager
def reading(server: TestServer, database: str) -> Iterator[Reader]:
    reader, stop = Reader(), threading.Event()
    connection = server.connect(database, application_name="counter")

    def read() -> None:
        with connection.cursor() as cursor:
            while not stop.wait(0.02):
                begun = time.monotonic()
                try:
                    cursor.execute("SELECT count(*) FROM loan")
                except psycopg2.Error as exc:
                    reader.errors.append(str(exc))
                reader.longest_s = max(reader.longest_s, time.monotonic() - begun)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield reader
    finally:
        stop.set()
        thread.join()
        connection.close()


def test_each_statement_tells_its_locks_and_who_waited(server: TestServer, bank: str) -> None:
    file = """
    ALTER TABLE payment ADD FOREIGN KEY (loan) REFERENCES loan;
    ALTER TABLE loan ADD COLUMN note text;
    SELECT pg_sleep(1.2);
    CREATE TABLE fresh (id int);
    """
    with reading(server, bank) as reader:
        (applied,) = run(server, bank, {"1_a.up.sql": file})["applied"]
    key, column, sleep, fresh = applied["records"]
    assert key["locks"] == {"public.loan": "ShareRowExclusiveLock", "public.payment": "ShareRowExclusiveLock"}
    assert (column["locks"], column["strongest_lock"]) == (
        {"public.loan": "AccessExclusiveLock"},
        "AccessExclusiveLock",
    )
    # The lock is the one of the statement before, and the wait is seen while this one runs.
    assert (sleep["locks"], sleep["strongest_lock"]) == ({}, None)
    assert sleep["blocked_sessions"] == 1 and 800 <= sleep["blocked_ms"] <= 1500
    assert fresh["locks"] == {}
    assert reader.longest_s > 1 and not reader.errors


def test_statement_that_makes_others_wait_too_long_is_cancelled_alone(server: TestServer, bank: str) -> None:
    file = "ALTER TABLE loan ADD COLUMN note text; UPDATE loan SET note = pg_sleep(0.05)::text;"
    with reading(server, bank) as reader:
        begun = time.monotonic()
        with pytest.raises(HoldfastError) as failure:
            run(server, bank, {"1_a.up.sql": file}, max_blocking_s=0.5)
        lasted_s = time.monotonic() - begun
    assert failure.value.code == "migration_failed"
    for words in ("statement 2 of 2", "made 1 session wait", "longer than max_blocking_s (0.5)", "'counter'"):
        assert words in failure.value.msg
    assert "max_blocking_s" in str(failure.value.hint)
    # Half a second, and what one look takes; nobody else was touched.
    assert 0.5 < reader.longest_s < 1.5 and lasted_s < 5 and not reader.errors
    columns = server.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'loan'::regclass AND attname = 'note'", (), database=bank
    )
    assert columns == [(0,)] and not failure.value.details["partial"]
    # Nobody waits: then it may take as long as it likes.
    assert run(server, bank, {"1_a.up.sql": file.replace("0.05", "0.002")}, max_blocking_s=0.5)["applied"]


def test_who_queues_behind_a_waiting_migration_counts_too(server: TestServer, bank: str) -> None:
    report = server.connect(bank, application_name="long report")
    report.autocommit = False
    with report.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM loan")
    ending = threading.Timer(1.5, report.rollback)
    ending.start()
    with reading(server, bank):
        file = "ALTER TABLE loan ADD COLUMN note text;"
        (applied,) = run(server, bank, {"1_a.up.sql": file}, lock_timeout_ms=600)["applied"]
    ending.join()
    report.close()
    (record,) = applied["records"]
    assert record["attempts"] > 1 and record["blocked_sessions"] == 1 and 300 <= record["blocked_ms"] <= 1000
    assert record["lock_wait_ms"] >= 600
    blockers = [blocker["application"] for wait in applied["lock_waits"] for blocker in wait["blockers"]]
    assert set(blockers) == {"long report"} and applied["lock_waits"][0]["object"] == "loan"


def test_statement_outside_a_transaction_is_watched_as_well(server: TestServer, bank: str) -> None:
    writer = server.connect(bank)
    writer.autocommit = False
    with writer.cursor() as cursor:
        cursor.execute("UPDATE loan SET amount = 0 WHERE id = 1")
    ending = threading.Timer(0.7, writer.rollback)
    ending.start()
    file = "CREATE INDEX CONCURRENTLY loan_amount ON loan (amount);"
    (applied,) = run(server, bank, {"1_a.up.sql": file})["applied"]
    ending.join()
    writer.close()
    (record,) = applied["records"]
    assert record["locks"] == {"public.loan": "ShareUpdateExclusiveLock"}
    assert record["lock_wait_ms"] >= 300 and record["blocked_sessions"] == 0


def test_role_that_sees_nobody_s_activity_sees_who_waits(server: TestServer, bank: str) -> None:
    server.execute("CREATE ROLE watched_owner LOGIN PASSWORD 'watched'")
    try:
        server.execute(
            "ALTER TABLE loan OWNER TO watched_owner; GRANT CREATE ON SCHEMA public TO watched_owner", (), database=bank
        )
        owner = replace(server.server, user="watched_owner", password="watched")
        file = "ALTER TABLE loan ADD COLUMN note text; SELECT pg_sleep(5);"
        with reading(server, bank) as reader, pytest.raises(HoldfastError) as failure:
            run(owner, bank, {"1_a.up.sql": file}, max_blocking_s=0.5)
        assert "made 1 session wait" in failure.value.msg and reader.longest_s < 1.5
    finally:
        server.execute("REASSIGN OWNED BY watched_owner TO postgres; DROP OWNED BY watched_owner", (), database=bank)
        server.execute("DROP ROLE watched_owner")


def test_long_build_tells_its_progress_when_it_is_cancelled(server: TestServer, bank: str) -> None:
    file = """
    CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_catalog.pg_sleep(0.005); RETURN $1; END $$;
    CREATE INDEX loan_slow ON loan (slow(id));
    """
    with pytest.raises(HoldfastError) as failure:
        run(server, bank, {"1_a.up.sql": file}, statement_timeout_ms=2500)
    _function, build = failure.value.details["records"]
    assert build["progress"]["command"] == "CREATE INDEX" and build["progress"]["total"] > 0
