# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role postgres writes for each cluster, and what a running server would restart for."""

from __future__ import annotations

import re

import pytest

from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres import (
    control_floors,
    postgres_lines,
    postgres_restarts,
    setting_text,
)
from tests.support.postgres_role import host, plan

# As pg_controldata of PostgreSQL 13 to 18 prints them.
CONTROL = """\
wal_level setting:                    replica
wal_log_hints setting:                off
max_connections setting:              300
max_worker_processes setting:         16
max_wal_senders setting:              20
max_prepared_xacts setting:           5
max_locks_per_xact setting:           64
track_commit_timestamp setting:       off
"""


def test_cluster_without_a_word_is_main_of_the_distribution():
    (cluster,) = plan()
    assert cluster["id"] == "15/main"
    assert cluster["unit"] == "postgresql@15-main.service"
    assert cluster["data_dir"] == "/var/lib/postgresql/15/main"
    assert cluster["conf_dir"] == "/etc/postgresql/15/main"
    assert cluster["packages"] == ["postgresql-15"]
    assert (cluster["port"], cluster["replica"], cluster["encoding"], cluster["locale"]) == (
        5432,
        False,
        "UTF8",
        "C.UTF-8",
    )


def test_clusters_have_their_own_names_ports_directories_and_settings():
    first, second = plan(
        {"name": "main", "settings": {"jit": False}},
        {"name": "reports", "version": 17, "port": 5433, "data_dir": "/srv/pg/reports/", "max_connections": 20},
    )
    assert (second["id"], second["port"], second["data_dir"]) == ("17/reports", 5433, "/srv/pg/reports")
    assert (first["lines"]["jit"], second["lines"].get("jit")) == ("off", None)
    assert (first["lines"]["max_connections"], second["lines"]["max_connections"]) == ("200", "20")
    assert first["lines"]["shared_buffers"] == second["lines"]["shared_buffers"] == "'2048MB'"


def test_cluster_overrides_the_host_which_overrides_the_role():
    (cluster,) = plan({"settings": {"jit": True}}, settings={"jit": False, "work_mem": "64MB"})
    assert (cluster["lines"]["jit"], cluster["lines"]["work_mem"]) == ("on", "'64MB'")


def test_setting_counts_in_whatever_case_it_is_written():
    """PostgreSQL takes TimeZone for timezone, and the last line of a file counts."""
    (cluster,) = plan(settings={"TimeZone": "Europe/Vienna", "Shared_Buffers": "1GB"})
    assert cluster["lines"]["timezone"] == "'Europe/Vienna'"
    assert cluster["lines"]["shared_buffers"] == "'1GB'"
    assert [name for name in cluster["lines"] if name != name.lower()] == []


def test_null_leaves_a_setting_to_postgresql():
    (cluster,) = plan(settings={"shared_buffers": None, "log_statement": None})
    assert not {"shared_buffers", "log_statement"} & set(cluster["lines"])


def test_log_is_fit_for_an_audit():
    (cluster,) = plan()
    expected = {
        "log_connections": "on",
        "log_disconnections": "on",
        "log_statement": "'ddl'",
        "log_min_duration_statement": "'1000ms'",
        "log_lock_waits": "on",
        "log_line_prefix": "'%m [%p] %q%u@%d from %h app %a '",
        "log_timezone": "'UTC'",
    }
    assert {name: cluster["lines"][name] for name in expected} == expected
    assert plan(slow_statement_ms=-1)[0]["lines"]["log_min_duration_statement"] == "'-1ms'"


# TLS


def test_certificates_from_the_controller_lie_beside_the_configuration():
    lines = plan()[0]["lines"]
    assert (lines["ssl"], lines["ssl_min_protocol_version"]) == ("on", "'TLSv1.3'")
    assert lines["ssl_cert_file"] == "'/etc/postgresql/15/main/server.crt'"
    assert lines["ssl_key_file"] == "'/etc/postgresql/15/main/server.key'"
    assert lines["ssl_ca_file"] == "'/etc/postgresql/15/main/ca.crt'"


def test_certificates_on_the_host_stay_where_they_are():
    lines = plan(tls_on_host=True, tls_ca="")[0]["lines"]
    assert (lines["ssl_cert_file"], lines["ssl_key_file"]) == ("'/c/db.crt'", "'/c/db.key'")
    assert "ssl_ca_file" not in lines


def test_without_a_certificate_there_is_no_tls():
    lines = plan(tls_certificate="", tls_key="", tls_ca="")[0]["lines"]
    assert lines["ssl"] == "off"
    assert "ssl_cert_file" not in lines


# Extensions


def test_extensions_bring_their_packages_and_what_must_be_preloaded():
    wanted = ["uuid-ossp", "pg_stat_statements", {"name": "pg_cron"}, "pgaudit"]
    (cluster,) = plan(databases=[{"name": "rently_lending", "extensions": wanted}])
    assert cluster["packages"] == ["postgresql-15", "postgresql-15-cron", "postgresql-15-pgaudit"]
    assert cluster["lines"]["shared_preload_libraries"] == "'pg_cron,pg_stat_statements,pgaudit'"
    assert cluster["lines"]["cron.database_name"] == "'rently_lending'"
    assert cluster["lines"]["pgaudit.log"] == "'ddl,role'"


def test_preloaded_libraries_of_the_operator_come_first_with_their_packages():
    """A library that is preloaded and not installed keeps the server from starting."""
    (cluster,) = plan(
        databases=[{"name": "a", "extensions": ["pg_stat_statements"]}],
        settings={"shared_preload_libraries": "pgaudit, auto_explain"},
    )
    assert cluster["lines"]["shared_preload_libraries"] == "'pgaudit,auto_explain,pg_stat_statements'"
    assert cluster["packages"] == ["postgresql-15", "postgresql-15-pgaudit"]


def test_package_of_an_extension_that_the_role_does_not_know():
    (cluster,) = plan(
        databases=[{"name": "a", "extensions": ["timescaledb"]}],
        extension_packages={"timescaledb": "timescaledb-2-postgresql-%s"},
    )
    assert cluster["packages"][1:] == ["timescaledb-2-postgresql-15"]


# Standbys


def test_standby_finds_its_primary_without_a_password_in_its_settings():
    (cluster,) = plan(primary_host="db1.internal", primary_port=5433)
    assert cluster["replica"]
    assert cluster["settings"]["primary_conninfo"] == (
        "host='db1.internal' port='5433' user='holdfast_replication' "
        "passfile='/var/lib/postgresql/replication/15-main.pgpass' application_name='replica1' sslmode='verify-full' "
        "sslrootcert='/var/lib/postgresql/replication/15-main.crt' connect_timeout='10'"
    )
    assert cluster["lines"]["primary_slot_name"] == "'replica1'"


def test_standby_may_not_have_less_than_its_primary():
    (cluster,) = plan({"max_connections": 100}, facts=host(processors=4), primary_host="db1.internal")
    lines = postgres_lines(cluster, CONTROL)
    assert (lines["max_connections"], lines["max_worker_processes"], lines["max_wal_senders"]) == ("300", "16", "20")
    # Not written by the role, and the server's own value would be too low.
    assert lines["max_prepared_transactions"] == "5"
    # Not written by the role, and the server's own value suffices.
    assert "max_locks_per_transaction" not in lines
    assert lines["shared_buffers"] == cluster["lines"]["shared_buffers"]


def test_standby_may_have_more_than_its_primary():
    (cluster,) = plan({"max_connections": "500"}, primary_host="db1.internal")
    assert postgres_lines(cluster, CONTROL)["max_connections"] == "'500'"


def test_primary_gets_its_settings_as_they_are():
    (cluster,) = plan()
    assert postgres_lines(cluster) == cluster["lines"]
    assert control_floors("") == {}


def test_wal_that_a_slot_holds_back_is_limited_where_the_version_can():
    assert plan()[0]["lines"]["max_slot_wal_keep_size"] == "'8GB'"
    assert "max_slot_wal_keep_size" not in plan(version="12")[0]["lines"]


# What cannot be written


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"nmae": "main"}, "postgres_clusters: unknown key nmae; there are access, data_dir, databases"),
        ({"version": "9.6"}, "cluster main: '9.6' is no major version of PostgreSQL; name it in postgres_version"),
        ({"name": "my-cluster"}, "cluster name 'my-cluster': letters, digits, underscores and dots only"),
        ({"name": "../etc"}, "cluster name '../etc'"),
        ({"port": "http"}, "cluster 15/main: 'http' is no port"),
        ({"data_dir": "/"}, "data_dir '/' is no absolute path without spaces"),
        ({"data_dir": "srv/pg"}, "data_dir 'srv/pg' is no absolute path without spaces"),
        ({"data_dir": "/srv/my data"}, "data_dir '/srv/my data' is no absolute path without spaces"),
        ({"listen_addresses": "localhost"}, "listen_addresses: 'localhost' is no list; write [localhost]"),
        ({"databases": None}, "cluster 15/main, databases is no list"),
        ({"databases": ["app"]}, "cluster 15/main, databases: every item is a mapping"),
        ({"databases": [{"owner": "x"}]}, "cluster 15/main, databases: one has no name"),
        ({"databases": [{"name": "app", "extensions": "pgaudit"}]}, "extensions of database app: 'pgaudit' is no list"),
        ({"settings": ["jit"]}, "cluster 15/main: settings are a mapping"),
        ({"settings": {"shared buffers": 1}}, "'shared buffers' is no name of a setting"),
        ({"settings": {"jit": {"on": 1}}}, "setting jit: {'on': 1} is no value"),
        ({"settings": {"cluster_name": "a\nport = 1"}}, "setting cluster_name: a value may not hold a line break"),
        (
            {"settings": {"shared_buffers": "4 gigs"}},
            "cluster 15/main, settings: shared_buffers: '4 gigs' is not a size",
        ),
        ({"max_connections": 0}, "cluster 15/main, settings: max_connections: 0 is no number of connections"),
    ],
)
def test_what_cannot_be_written_is_refused_with_its_place(cluster, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        plan(cluster)


def test_password_of_a_misplaced_role_is_in_no_message():
    with pytest.raises(ValueError, match="roles is no list") as failure:
        plan({"roles": {"name": "rently_app", "password": "pencil"}})
    assert "pencil" not in str(failure.value)


# Spelling


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "on"),
        (False, "off"),
        (5432, "5432"),
        (0.9, "0.9"),
        ("4GB", "'4GB'"),
        ("it's", "'it''s'"),
        ("C:\\x", "'C:\\\\x'"),
        (["a", "b"], "'a,b'"),
        ("", "''"),
    ],
)
def test_values_are_spelled_as_postgresql_reads_them(value, text):
    assert setting_text("a.b", value) == text


# Restarts: rows as pg_settings has them


def row(name, setting, vartype="integer", unit=None):
    return {"name": name, "setting": setting, "vartype": vartype, "unit": unit}


@pytest.mark.parametrize(
    ("running", "value"),
    [
        (row("shared_buffers", "524288", unit="8kB"), "4GB"),
        (row("shared_buffers", "524288", unit="8kB"), 524288),
        (row("shared_buffers", "524288", unit="8kB"), "4096MB"),
        # PostgreSQL rounds to whole pages.
        (row("wal_buffers", "12", unit="8kB"), "100kB"),
        (row("track_activity_query_size", "1024", unit="B"), "1kB"),
        (row("old_snapshot_threshold", "60", unit="min"), "1h"),
        (row("old_snapshot_threshold", "-1", unit="min"), -1),
        (row("max_connections", "200"), 200),
        (row("max_connections", "200"), "200"),
        (row("max_connections", "200"), " 200 "),
        (row("autovacuum_freeze_max_age", "200000000"), "2e8"),
        (row("hot_standby", "on", "bool"), True),
        (row("hot_standby", "on", "bool"), "TRUE"),
        (row("ssl", "off", "bool"), False),
        (row("huge_pages", "try", "enum"), "TRY"),
        (row("huge_pages", "on", "enum"), True),
        (row("wal_level", "replica", "enum"), "replica"),
        (row("shared_preload_libraries", "a,b", "string"), "a,b"),
        (row("cluster_name", "it's \\ here", "string"), "it's \\ here"),
    ],
)
def test_setting_that_runs_already_asks_for_no_restart(running, value):
    assert postgres_restarts([running], {running["name"]: setting_text(running["name"], value)}) == []


@pytest.mark.parametrize(
    ("running", "value"),
    [
        (row("shared_buffers", "524288", unit="8kB"), "4097MB"),
        (row("shared_buffers", "524288", unit="8kB"), 4096),
        (row("wal_buffers", "-1", unit="8kB"), "16MB"),
        (row("max_connections", "200"), 201),
        (row("hot_standby", "on", "bool"), False),
        (row("huge_pages", "try", "enum"), False),
        (row("huge_pages", "try", "enum"), True),
        (row("wal_level", "replica", "enum"), "logical"),
        (row("shared_preload_libraries", "a,b", "string"), "b,a"),
        (row("cluster_name", "a", "string"), "A"),
        (row("old_snapshot_threshold", "60", unit="min"), "60s"),
    ],
)
def test_setting_that_differs_asks_for_a_restart(running, value):
    name = running["name"]
    assert postgres_restarts([running], {name: setting_text(name, value)}) == [name]


def test_settings_that_nobody_wrote_ask_for_nothing_and_the_others_are_sorted():
    running = [row("port", "5432"), row("max_connections", "100"), row("max_wal_senders", "10")]
    assert postgres_restarts(running, {"max_connections": "200", "port": "5433"}) == ["max_connections", "port"]


def test_second_run_asks_for_no_restart():
    (cluster,) = plan()
    running = [
        row("max_connections", "200"),
        row("shared_buffers", "524288", unit="8kB"),
        row("wal_buffers", "2048", unit="8kB"),
        row("max_worker_processes", "8"),
        row("port", "5432"),
        row("listen_addresses", "localhost", "string"),
        row("wal_level", "replica", "enum"),
        row("hot_standby", "on", "bool"),
        row("shared_preload_libraries", "", "string"),
    ]
    assert {item["name"] for item in running} <= set(cluster["lines"])
    assert postgres_restarts(running, cluster["lines"]) == []
