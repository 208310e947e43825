# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pg_database_info tells about real servers."""

from __future__ import annotations

import uuid

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import databases_info
from tests.support.modules import run_module
from tests.support.server import TestServer, eventually


def test_module_changes_nothing_and_tells_the_same_in_check_mode(pg18: TestServer, database: str) -> None:
    arguments = {**pg18.login, "databases": [database, "no such database"], "write_counters": True}
    results = [run_module("pg_database_info", arguments, check=check) for check in (True, False)]
    for result in results:
        assert not result["failed"] and not result["changed"], result
        assert result["missing"] == ["no such database"]
        (entry,) = result["databases"]
        assert entry["name"] == database and entry["owner"] == "postgres" and entry["encoding"] == "UTF8"
        assert entry["size_bytes"] > 1_000_000 and entry["properties"]["owner"] == "postgres"
        assert entry["rename_blockers"] == [] and entry["write_counters"]["tables"] == {}
        assert result["data_free_bytes"] > 0 and result["data_directory"] == str(pg18.data)
        assert result["server_version"] >= 180000 and result["file_copy_methods"] == ["copy", "clone"]
        assert result["is_standby"] is False


def test_sessions_and_blockers_are_named(pg18: TestServer, database: str) -> None:
    slot, gid = "slot_" + database, "gid of " + database
    pg18.execute("CREATE TABLE t (i int)", database=database)
    pg18.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,), database=database)
    pg18.execute(
        "CREATE SUBSCRIPTION sub_%s CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)" % database,
        database=database,
    )
    connection = pg18.connect(database, application_name="the application")
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO t VALUES (1)")
            cursor.execute("PREPARE TRANSACTION %s", (gid,))
            cursor.execute("BEGIN")
            cursor.execute("SELECT 'ünïcode', %s" % ("'" + "x" * 200 + "'"))
        (entry,) = databases_info(server=pg18.server, databases=[database])["databases"]
        (session,) = entry["sessions"]
        assert session["pid"] == connection.info.backend_pid and session["application_name"] == "the application"
        assert session["state"] == "idle in transaction" and session["transaction_age_s"] >= 0
        assert session["query"].startswith("SELECT 'ünïcode'") and len(session["query"]) == 100
        assert session["backend_type"] == "client backend" and session["client_addr"] == "127.0.0.1"
        assert [(b["kind"], b["name"]) for b in entry["rename_blockers"]] == [
            ("logical_slot", slot),
            ("prepared_transaction", gid),
            ("subscription", "sub_" + database),
            ("session", str(session["pid"])),
        ]
        assert entry["subscriptions"] == ["sub_" + database]
    finally:
        connection.rollback()
        connection.close()
        pg18.execute("ROLLBACK PREPARED %s", (gid,), database=database)
        pg18.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        pg18.execute("ALTER SUBSCRIPTION sub_%s SET (slot_name = NONE)" % database, database=database)
        pg18.execute("DROP SUBSCRIPTION sub_" + database, database=database)


def test_write_counters_follow_the_rows(pg16: TestServer, pg_distribution: TestServer) -> None:
    for server in (pg16, pg_distribution):
        server.create_database(
            "counted", 'CREATE TABLE plain (i int); CREATE SCHEMA "Odd.One"; CREATE TABLE "Odd.One".t ()'
        )
        try:
            first = databases_info(server=server.server, write_counters_of=["counted"])
            assert {d["name"] for d in first["databases"] if "write_counters" in d} == {"counted"}
            server.execute(
                "INSERT INTO plain SELECT generate_series(1, 5); UPDATE plain SET i = 0 WHERE i < 3; DELETE FROM plain"
                " WHERE i = 5",
                database="counted",
            )

            def counters(server: TestServer = server) -> dict:
                (entry,) = databases_info(server=server.server, databases=["counted"], write_counters=True)["databases"]
                return entry["write_counters"]

            expected = {"inserted": 5, "updated": 2, "deleted": 1}
            eventually(lambda wanted=expected: counters()["tables"]["public.plain"] == wanted)
            assert counters()["tables"]['"Odd.One".t'] == {"inserted": 0, "updated": 0, "deleted": 0}
            assert counters()["server_started_at"] == first["server_started_at"]
        finally:
            server.drop_database("counted")


def test_closed_and_invalid_databases_are_described(pg18: TestServer, database: str) -> None:
    pg18.execute("UPDATE pg_database SET datallowconn = false WHERE datname = %s", (database,))
    (entry,) = databases_info(server=pg18.server, databases=[database], write_counters=True)["databases"]
    assert entry["allow_connections"] is False and entry["write_counters"] is None
    assert "does not allow connections" in entry["write_counters_reason"]
    pg18.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", (database,))
    (entry,) = databases_info(server=pg18.server, databases=[database])["databases"]
    assert entry["invalid"] and entry["properties"] is None and entry["size_bytes"] is None
    pg18.execute("UPDATE pg_database SET datconnlimit = -1, datallowconn = true WHERE datname = %s", (database,))


def test_role_with_few_rights_gets_what_it_may_know(pg18: TestServer, database: str) -> None:
    role = "reader_" + uuid.uuid4().hex[:8]
    pg18.execute("CREATE ROLE %s LOGIN PASSWORD 'x'" % role)
    pg18.execute('REVOKE CONNECT ON DATABASE "%s" FROM PUBLIC' % database)
    session = pg18.connect(database)
    server = Server(host="127.0.0.1", port=pg18.port, user=role, password="x")
    result = databases_info(server=server, databases=[database], write_counters=True)
    (entry,) = result["databases"]
    assert entry["size_bytes"] is None and result["data_directory"] is None and result["data_free_bytes"] is None
    assert "pg_read_all_settings" in result["data_free_reason"]
    assert entry["write_counters"] is None and "permission denied" in entry["write_counters_reason"]
    assert [s["pid"] for s in entry["sessions"]] == [session.info.backend_pid]
    assert [b["kind"] for b in entry["rename_blockers"]] == ["session"]
    session.close()
    pg18.execute("DROP ROLE " + role)


def test_secrets_in_settings_are_masked(pg18: TestServer, database: str) -> None:
    pg18.execute("ALTER DATABASE \"%s\" SET app.secret_key = 'hunter2'" % database)
    (entry,) = databases_info(server=pg18.server, databases=[database])["databases"]
    assert entry["properties"]["settings"] == {"app.secret_key": "********"}


def test_deployments_are_those_that_the_history_names(pg18: TestServer, database: str) -> None:
    def deployments(table: str = "public.schema_version") -> object:
        result = databases_info(server=pg18.server, write_counters_of=[database], history_table=table)
        entries = {entry["name"]: entry for entry in result["databases"]}
        assert [name for name, entry in entries.items() if "deployments" in entry] == [database]
        return entries[database]["deployments"]

    assert deployments() is None
    pg18.execute(
        "CREATE TABLE schema_version (version text, deployment_id text, applied_at timestamptz);"
        'CREATE TABLE "Odd ""%s" (version text)',
        database=database,
    )
    assert deployments() is None  # a table without a row has lost its history, or never had one
    pg18.execute(
        "INSERT INTO schema_version VALUES ('1', NULL, '2026-01-01'), ('2', 'd1', '2026-01-02'),"
        " ('3', 'd2', '2026-01-03 01:00+01'), ('4', 'd2', '2026-01-04'), ('5', 'd3', '-infinity')",
        database=database,
    )
    assert deployments() == [
        {"id": "d3", "applied_at": None},
        {"id": "d2", "applied_at": "2026-01-03T00:00:00.000000Z"},
        {"id": "d1", "applied_at": "2026-01-02T00:00:00.000000Z"},
    ]
    assert deployments("schema_version") == deployments()
    for table in ('"Odd ""%s"', "no.such", "no table", "a.b.c.d"):
        assert deployments(table) is None
    pg18.execute("DELETE FROM schema_version WHERE deployment_id IS NOT NULL", database=database)
    assert deployments() == []
