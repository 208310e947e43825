# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The suite of the role preflight: silent on a healthy server, and each check fires on its fault."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import uuid

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import Limits, check_database
from ansible_collections.holdfast.postgres.plugins.plugin_utils._suites import read_suite
from tests.support.modules import ROOT
from tests.support.server import TestServer, distribution_bin_dir, eventually

SUITE = ROOT / "roles/preflight/files/suites/server.yml"
DOCUMENT = read_suite(SUITE.read_text(encoding="utf-8"), file="server.yml")
NAMES = [check["name"] for check in DOCUMENT["content"]["checks"]]


def ask(server: TestServer, database: str, *, login=None, **parameters):
    """Return the results that did not pass, by name."""
    answer = check_database(
        server=login or server.server,
        database=database,
        documents=[DOCUMENT],
        parameters=parameters,
        fail_on="never",
        limits=Limits(timeout_s=10),
    )
    for result in answer["results"]:
        assert not result["errored"], result
    return {result["name"]: result for result in answer["results"] if result["status"] == "failed"}


def fires(name: str, server: TestServer, database: str, *, within_s: float = 0, **options):
    """Assert that exactly this check of severity error or warning fires and return its result."""
    assert name in NAMES
    found = ask(server, database, **options)
    if within_s and name not in found:

        def again():
            now = ask(server, database, **options)
            return now if name in now else None

        found = eventually(again, timeout_s=within_s)
    assert name in found, found
    return found.pop(name), found


@contextlib.contextmanager
def session(server: TestServer, database: str, *statements: str, **options):
    connection = server.connect(database, **options)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            yield cursor
    finally:
        connection.close()


@pytest.fixture(params=["pg18", "pg16", "pg_distribution"])
def healthy(request):
    server = request.getfixturevalue(request.param)
    name = "healthy_" + uuid.uuid4().hex[:8]
    server.create_database(
        name,
        "CREATE TABLE loan (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);"
        "CREATE TABLE payment (id bigserial PRIMARY KEY, loan_id int REFERENCES loan, code smallint UNIQUE);"
        "INSERT INTO loan (name) SELECT 'x' FROM generate_series(1, 1000);"
        "INSERT INTO payment (loan_id, code) SELECT n, n FROM generate_series(1, 1000) n; ANALYZE",
    )
    yield server, name
    server.drop_database(name)


def test_silent_on_a_healthy_server(healthy):
    server, name = healthy
    found = ask(server, name)
    # Checksums became the default of initdb with version 18.
    assert set(found) <= {"data checksums are on"}, found


def test_old_transactions(pg18, database):
    with session(pg18, database, "BEGIN", "SELECT 1", application_name="batch 'job'"):
        result, others = fires("no transaction is old", pg18, database, long_transaction_warning_s=0)
        (row,) = result["sample"]
        assert (row["role"], row["application"], row["state"]) == ("postgres", "batch 'job'", "idle in transaction")
        assert (row["query"], row["pid"] > 0) == ("SELECT 1", True)
        assert others == {}
        result, _ = fires("no transaction is very old", pg18, database, long_transaction_error_s=0)
        assert result["severity"] == "error"
        fires("no session is idle in its transaction", pg18, database, idle_in_transaction_s=0)
        assert ask(pg18, database) == {}


def test_session_that_waits_for_a_lock(pg18, database):
    pg18.execute("CREATE TABLE t (id int)", database=database)
    with session(pg18, database, "BEGIN", "LOCK TABLE t") as holder, session(pg18, database) as waiter:
        thread = threading.Thread(target=waiter.execute, args=("SELECT * FROM t",))
        thread.start()
        result, _ = fires("no session waits for a lock", pg18, database, within_s=5)
        assert result["sample"][0]["blocked_by"] == "{%d}" % holder.connection.info.backend_pid
        holder.execute("COMMIT")
        thread.join(timeout=10)


def test_other_dumps_and_deployments(pg18, database):
    name = "no other dump or deployment is running"
    with session(pg18, database, "BEGIN", "SELECT 1", application_name="pg_dump"):
        fires(name, pg18, database)
    with session(pg18, database, "BEGIN", "SELECT 1", application_name="holdfast pg_backup"):
        fires(name, pg18, database)
    with session(pg18, database, "SELECT 1", application_name="holdfast"):
        assert ask(pg18, database) == {}
    # A dump under another name is known by its COPY.
    pg18.execute("CREATE TABLE t (id int, x text)", database=database)
    with session(pg18, database, application_name="nightly") as cursor:
        cursor.execute("BEGIN")

        class Sink:
            def write(self, data):
                if not self.seen:
                    self.seen.append(ask(pg18, database))
                return len(data)

            seen: list = []

        cursor.execute("INSERT INTO t SELECT n, repeat('x', 2000) FROM generate_series(1, 20000) n")
        cursor.copy_expert("COPY public.t (id, x) TO stdout;", Sink())
        assert name in Sink.seen[0]


def test_prepared_transaction(pg18, database):
    with session(pg18, database, "BEGIN", "CREATE TABLE t ()", "PREPARE TRANSACTION 'it''s one'"):
        pass
    try:
        result, _ = fires("no prepared transaction is open", pg18, database)
        assert result["sample"][0]["gid"] == "it's one"
        assert ask(pg18, "postgres") == {}
    finally:
        pg18.execute("ROLLBACK PREPARED 'it''s one'", database=database)


def test_invalid_index(pg18, database):
    pg18.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (1)", database=database)
    with pytest.raises(Exception, match="could not create unique index"):
        pg18.execute('CREATE UNIQUE INDEX CONCURRENTLY "an index" ON t (id)', database=database)
    result, _ = fires("every index is valid", pg18, database)
    assert [(row["index"], row["table"]) for row in result["sample"]] == [('"an index"', "t")]


def test_missing_extension(pg_distribution):
    name = pg_distribution.create_database("extensions_" + uuid.uuid4().hex[:8])
    try:
        wanted = ["pg_stat_statements", "plpgsql", "no such 'thing'"]
        result, _ = fires(
            "required extensions are present or available", pg_distribution, name, required_extensions=wanted
        )
        assert result["sample"] == [{"extension": "no such 'thing'"}]
    finally:
        pg_distribution.drop_database(name)


def test_collation_versions(pg_distribution):
    name = pg_distribution.create_database(
        "collations_" + uuid.uuid4().hex[:8],
        """
        CREATE COLLATION used (provider = icu, locale = 'de');
        CREATE COLLATION unused (provider = icu, locale = 'sv');
        CREATE TABLE t (name text COLLATE used);
        """,
    )
    try:
        pg_distribution.execute("UPDATE pg_collation SET collversion = '0' WHERE collprovider = 'i'", database=name)
        result, _ = fires("used collations have the version of the operating system", pg_distribution, name)
        assert [row["collation"] for row in result["sample"]] == ["used"]
        pg_distribution.execute("UPDATE pg_database SET datcollversion = '0' WHERE datname = %s", (name,))
        result, _ = fires("the database has the collation version of the operating system", pg_distribution, name)
        assert result["sample"][0]["recorded"] == "0"
    finally:
        pg_distribution.drop_database(name)


def test_database_that_takes_no_connections(pg18, database):
    pg18.execute('ALTER DATABASE "%s" CONNECTION LIMIT 0' % database)
    fires("the database accepts connections", pg18, database)


def test_database_left_from_an_interrupted_drop(pg18, database):
    name = pg18.create_database("half_dropped_" + uuid.uuid4().hex[:8])
    pg18.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", (name,))
    try:
        result, _ = fires("no database is left from an interrupted drop", pg18, database)
        assert result["sample"] == [{"database": name}]
    finally:
        pg18.drop_database(name)


def test_read_only_database(pg18, database):
    pg18.execute('ALTER DATABASE "%s" SET default_transaction_read_only = on' % database)
    fires("the database takes writes by default", pg18, database)


def test_role_without_sight_of_other_sessions(pg18, database):
    from dataclasses import replace

    role = "blind_" + uuid.uuid4().hex[:8]
    pg18.execute('CREATE ROLE "%s" LOGIN PASSWORD %%s' % role, (pg18.password,))
    try:
        fires("the role sees all sessions", pg18, database, login=replace(pg18.server, user=role))
        pg18.execute('GRANT pg_read_all_stats TO "%s"' % role)
        assert ask(pg18, database, login=replace(pg18.server, user=role)) == {}
    finally:
        pg18.execute('DROP ROLE "%s"' % role)


def test_connections(pg18, database):
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(session(pg18, database))
        result, _ = fires("enough connections are free", pg18, database, connections_warning_percent=8)
        row = result["sample"][0]
        assert (row["usable"], row["used"] >= 5) == (57, True)
        fires("connections are not used up", pg18, database, connections_error_percent=8)


def test_active_sessions(pg18, database):
    with session(pg18, database) as busy:
        thread = threading.Thread(target=busy.execute, args=("SELECT pg_sleep(2)",))
        thread.start()
        fires("few sessions are active", pg18, database, active_sessions=1, within_s=2)
        thread.join()


def test_ages(pg18, database):
    for _ in range(3):
        pg18.execute("SELECT txid_current()", database=database)
    # Thresholds of nothing: a real server of this age would take weeks.
    fires("no database is old in transaction ids", pg18, database, xid_age_warning=3)
    fires("no database is near the wraparound of transaction ids", pg18, database, xid_age_error=3)
    fires("no database is old in multixacts", pg18, database, multixact_age_warning=0)
    fires("no database is near the wraparound of multixacts", pg18, database, multixact_age_error=0)


@pytest.mark.parametrize(
    ("sql", "object_name", "percent"),
    [
        ("CREATE TABLE t (id serial); SELECT setval('t_id_seq', 2000000000)", "sequence t_id_seq", "93.1"),
        (
            "CREATE TABLE t (id smallint GENERATED ALWAYS AS IDENTITY); SELECT setval('t_id_seq', 32000)",
            "sequence t_id_seq",
            "97.7",
        ),
        # A sequence of bigint that feeds an integer column, by its default or by its owner.
        (
            "CREATE SEQUENCE s; CREATE TABLE t (id int DEFAULT nextval('s')); SELECT setval('s', 2000000000)",
            "sequence s",
            "93.1",
        ),
        (
            "CREATE TABLE t (id int); CREATE SEQUENCE s OWNED BY t.id; SELECT setval('s', 2000000000)",
            "sequence s",
            "93.1",
        ),
        ("CREATE SEQUENCE s MAXVALUE 100; SELECT setval('s', 95)", "sequence s", "94.9"),
        ("CREATE SEQUENCE s INCREMENT -1 MINVALUE -100; SELECT setval('s', -95)", "sequence s", "94.9"),
        (
            "CREATE TABLE t (id int PRIMARY KEY);"
            "INSERT INTO t SELECT n FROM generate_series(2000000000, 2000000500) n; ANALYZE t",
            "column public.t.id",
            "93.1",
        ),
        # The key is wide, but what refers to it is not.
        (
            "CREATE TABLE p (id bigint PRIMARY KEY); CREATE TABLE t (p_id int REFERENCES p);"
            "INSERT INTO p VALUES (2000000000); INSERT INTO t VALUES (2000000000), (2000000000); ANALYZE t",
            "column public.t.p_id",
            "93.1",
        ),
    ],
)
def test_keys_near_their_end(pg18, database, sql, object_name, percent):
    pg18.execute(sql, database=database)
    for name in ("no sequence or integer key is nearing its end", "no sequence or integer key is at its end"):
        result, _ = fires(name, pg18, database)
        assert [(row["object"], row["percent"]) for row in result["sample"]] == [(object_name, percent)]


def test_keys_with_room_and_cycles_are_silent(pg18, database):
    pg18.execute(
        "CREATE SEQUENCE cycles MAXVALUE 100 CYCLE; SELECT setval('cycles', 99);"
        "CREATE SEQUENCE wide; SELECT setval('wide', 5000000000);"
        "CREATE SEQUENCE short MINVALUE 1 MAXVALUE 2; SELECT nextval('short');"
        "CREATE TABLE t (id serial PRIMARY KEY, n int); SELECT setval('t_id_seq', 1500000000);"
        "INSERT INTO t (n) SELECT 2000000000 FROM generate_series(1, 10); ANALYZE t",
        database=database,
    )
    assert ask(pg18, database) == {}


def test_autovacuum_against_wraparound(pg18, database):
    """A table that must be frozen, and a vacuum of it that takes its time."""
    pg18.execute(
        """
        CREATE TABLE t (id int, x text) WITH (autovacuum_freeze_max_age = 100000, autovacuum_vacuum_cost_delay = 100,
                                              autovacuum_vacuum_cost_limit = 1);
        INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n;
        CREATE UNLOGGED TABLE burnt (n int);
        """,
        database=database,
    )
    pg18.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    pg18.execute("SELECT pg_reload_conf()")
    try:
        pg18.execute(
            "DO $$ BEGIN FOR i IN 1..101000 LOOP BEGIN INSERT INTO burnt VALUES (i); EXCEPTION WHEN division_by_zero"
            " THEN NULL; END; END LOOP; END $$",
            database=database,
        )
        result, _ = fires("autovacuum does not guard against wraparound right now", pg18, database, within_s=20)
        assert "public.t" in result["sample"][0]["query"]
    finally:
        pg18.execute("ALTER SYSTEM RESET autovacuum_naptime")
        pg18.execute("SELECT pg_reload_conf()")


def test_standby_and_careless_settings():
    server = TestServer(distribution_bin_dir(), settings={"fsync": "off", "full_page_writes": "off"})
    try:
        result, others = fires("commits survive a crash", server, "postgres")
        assert [row["name"] for row in result["sample"]] == ["fsync", "full_page_writes"]
        assert others["data checksums are on"]["severity"] == "info"
        server.stop()
        pathlib.Path(server.data, "standby.signal").touch()
        server.start()
        fires("the server is not a standby", server, "postgres")
    finally:
        server.remove()


def test_unknown_threshold_is_refused(pg18, database):
    with pytest.raises(HoldfastError) as caught:
        ask(pg18, database, long_transaction_s=5)
    assert caught.value.code == "option_invalid"


def test_every_check_of_the_suite_has_its_fault_here():
    """A check that was never seen firing is no check."""
    source = pathlib.Path(__file__).read_text(encoding="utf-8")
    assert [name for name in NAMES if source.count('"%s"' % name) == 0] == []
