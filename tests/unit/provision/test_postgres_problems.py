# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role postgres refuses before it touches a host, and the words that an operator then reads."""

from __future__ import annotations

import pytest

from tests.support.postgres_role import host, plan, problems

# Lines of pg_lsclusters: version, name, port, status, owner, data directory, log file.
MAIN = "15  main    5432 online postgres /var/lib/postgresql/15/main /var/log/postgresql/postgresql-15-main.log"
COMPLETE = ["/var/lib/postgresql/15/main/PG_VERSION", "/var/lib/postgresql/15/main/global/pg_control"]
THERE = {"clusters": [MAIN], "paths": [*COMPLETE, "/etc/postgresql/15/main/postgresql.conf"]}
STANDBY = {**THERE, "paths": [*THERE["paths"], "/var/lib/postgresql/15/main/standby.signal"]}
SAME = {"15/main": {"own": "7581", "primary": "7581"}}
FOLLOWS = {"primary_host": "db1.internal"}
CERTIFICATE = {
    "error": "",
    "certificate_key": "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----",
    "public_key": "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n",
    "not_before": "Nov  1 00:00:00 2026 GMT",
    "not_after": "Dec 31 23:59:59 2026 GMT",
    "now": "2026-11-20T22:15:00.000001",
    "chain": "",
}


def only_problem(*clusters, **choices):
    (problem,) = problems(*clusters, **choices)
    return problem


def test_bare_host_and_a_host_that_is_provisioned_already_have_none():
    assert problems() == []
    assert problems(state=THERE) == []
    assert problems(state={**STANDBY, "identities": SAME}, **FOLLOWS) == []
    assert problems(state={**THERE, "listening": [5432], "certificate": CERTIFICATE}) == []


def test_all_reasons_are_told_at_once():
    found = problems({"port": 0, "settings": {"port": 1}}, state=THERE, packaged=("17",), tls_key="")
    assert [words in problem for words, problem in zip(("no PostgreSQL 15", "setting port", "no port"), found)] == [
        True,
        True,
        True,
    ]
    assert len(found) == 5


# Ports


def test_changed_port_with_the_old_cluster_still_there():
    assert only_problem({"port": 5499}, state=THERE) == (
        "Cluster 15/main is there with port 5432, and 5499 is asked for: every client would lose it. Name port 5432, "
        "give the new cluster another name, or set postgres_change_port to true to move it."
    )
    assert problems({"port": 5499}, state=THERE, change_port=True) == []


def test_port_is_moved_only_to_a_free_one():
    other = "15 other 5499 online postgres /srv/other /var/log/postgresql/postgresql-15-other.log"
    state = {**THERE, "clusters": [MAIN, other]}
    assert only_problem({"port": 5499}, state=state, change_port=True) == (
        "Cluster 15/main: port 5499 belongs to cluster 15/other of this host. Choose another port."
    )
    assert only_problem({"port": 5499}, state={**THERE, "listening": [5499]}, change_port=True) == (
        "Cluster 15/main: something else listens on port 5499. Stop it, or choose another port."
    )


def test_port_of_somebody_else():
    assert only_problem({"name": "new"}, state=THERE) == (
        "Cluster 15/new: port 5432 belongs to cluster 15/main of this host. Choose another port."
    )
    assert only_problem(state={"listening": [22, 5432]}) == (
        "Cluster 15/main: something else listens on port 5432. Stop it, or choose another port."
    )
    assert only_problem({"port": 65536}) == "Cluster 15/main: 65536 is no port."


def test_new_major_version_does_not_take_the_port_of_the_old_one():
    assert only_problem({"version": "17"}, state=THERE, packaged=("17",)) == (
        "Cluster 17/main: port 5432 belongs to cluster 15/main of this host. Choose another port."
    )


def test_two_clusters_may_share_nothing():
    one, two = {"name": "one", "port": 5501}, {"name": "two", "port": 5502}
    assert problems(one, two) == []
    assert problems(one, {**two, "port": 5501}) == [
        "Clusters 15/one and 15/two share the port 5501. Give each its own."
    ]
    assert problems(one, {**two, "name": "one", "data_dir": "/srv/two"}) == [
        "Clusters 15/one and 15/one share the version and name 15/one. Give each its own."
    ]
    assert problems({**one, "data_dir": "/srv/pg"}, {**two, "data_dir": "/srv//pg/"}) == [
        "Clusters 15/one and 15/two share the data directory /srv/pg. Give each its own."
    ]
    assert problems({**one, "data_dir": "/srv/pg/inner"}, {**two, "data_dir": "/srv/pg"}) == [
        "Cluster 15/one: its data directory /srv/pg/inner lies inside of that of cluster 15/two. Give each its own."
    ]
    assert problems({**one, "data_dir": "/srv/pg"}, {**two, "data_dir": "/srv/pg2"}) == []


# Directories


def test_data_directory_that_is_not_empty():
    state = {"paths": ["/srv/pg/%s" % name for name in ("PG_VERSION", "base", "global", "pg_wal", "pg_xact", "zzz")]}
    assert only_problem({"data_dir": "/srv/pg"}, state=state) == (
        "Cluster 15/main: its data directory /srv/pg is not empty (PG_VERSION, base, global, pg_wal, pg_xact) and "
        "belongs to no cluster of this host. Move it away if anybody may need it, or name another data_dir."
    )


def test_data_directory_that_is_the_root_of_a_file_system():
    assert only_problem({"data_dir": "/srv/pg"}, state={"paths": ["/srv/pg/lost+found"]}) == (
        "Cluster 15/main: its data directory /srv/pg is the root of a file system. Name a directory below it as "
        "data_dir."
    )


def test_data_directory_that_moved():
    moved = {"clusters": [MAIN], "paths": [path.replace("/var/lib/postgresql/15/main", "/srv/pg") for path in COMPLETE]}
    assert only_problem({"data_dir": "/srv/pg"}, state=moved) == (
        "Cluster 15/main lives in /var/lib/postgresql/15/main, not in /srv/pg. Name its own directory; this role moves "
        "no data."
    )


@pytest.mark.parametrize("path", COMPLETE)
def test_half_finished_run_that_left_a_cluster_without_its_data(path):
    state = {**THERE, "paths": [item for item in THERE["paths"] if item != path]}
    assert only_problem(state=state) == (
        "Cluster 15/main: /etc/postgresql/15/main is there, but /var/lib/postgresql/15/main holds no complete cluster; "
        "an earlier run did not finish. If nobody needs it: pg_dropcluster 15 main, then run again."
    )


def test_half_finished_run_that_left_a_configuration_without_a_cluster():
    assert only_problem(state={"paths": ["/etc/postgresql/15/main/conf.d"]}) == (
        "Cluster 15/main: /etc/postgresql/15/main is there without a usable cluster; an earlier run did not finish. "
        "Look into it, move it away, and run again."
    )


# Versions and extensions


def test_version_that_the_distribution_lacks():
    assert only_problem(version="17") == (
        "Cluster 17/main: this distribution has no PostgreSQL 17, but 15. Set postgres_version to that, or "
        "postgres_repository to pgdg."
    )
    assert problems(version="17", repository="pgdg") == []
    assert problems(version="17", packaged=()) == []
    assert only_problem(version="11", repository="pgdg") == (
        "Cluster 11/main: this role knows PostgreSQL 12 and newer. Set postgres_version."
    )


def databases(*names, extensions):
    return {"databases": [{"name": name, "extensions": extensions} for name in names]}


def test_extension_that_nobody_knows():
    assert only_problem(**databases("app", extensions=["pg_crno"])) == (
        "Cluster 15/main: extension pg_crno (database app) is in no package that this role knows. Correct its name, or "
        "name its package in postgres_extension_packages."
    )
    assert problems(**databases("app", extensions=["pg_crno"]), extension_packages={"pg_crno": "x"}) == []
    assert problems(**databases("app", extensions=["uuid-ossp", "pg_stat_statements", "pg_cron", "pgaudit"])) == []


def test_extension_that_the_version_lacks():
    assert only_problem(**databases("app", extensions=["pg_walinspect"]), version="13", packaged=("13",)) == (
        "Cluster 13/main: PostgreSQL 13 has no extension pg_walinspect. Leave it out."
    )
    assert len(problems(**databases("app", extensions=["old_snapshot"]), version="17", packaged=("17",))) == 1
    assert problems(**databases("app", extensions=["old_snapshot", "pg_walinspect"])) == []


def test_pg_cron_in_two_databases():
    assert only_problem(**databases("app", "reports", extensions=["pg_cron"])) == (
        "Cluster 15/main: pg_cron lives in one database of a cluster, and app and reports ask for it. Keep one."
    )


# Memory


def test_memory_above_the_host():
    assert only_problem(settings={"shared_buffers": "900GB"}) == (
        "The memory settings add up to 924872 MB, and the host has 16384 MB (cluster 15/main: shared_buffers 921600 "
        "MB, 200 connections x work_mem 200 MB, autovacuum 3072 MB). Lower them, or leave shared_buffers to the role."
    )


def test_memory_of_every_connection_counts():
    problem = only_problem(settings={"work_mem": "128MB"})
    assert "200 connections x work_mem 25600 MB" in problem
    assert problem.endswith("Lower them, or leave work_mem to the role.")


def test_memory_of_autovacuum_counts():
    assert "autovacuum 12288 MB" in only_problem(settings={"maintenance_work_mem": "4GB"})
    assert problems(settings={"maintenance_work_mem": "4GB", "autovacuum_work_mem": "256MB"}) == []
    assert "autovacuum 10240 MB" in only_problem(settings={"autovacuum_max_workers": 10})


def test_more_connections_than_a_small_host_can_serve():
    assert only_problem(facts=host(1024), max_connections=1000).endswith(
        "cluster 15/main: shared_buffers 256 MB, 1000 connections x work_mem 1000 MB, autovacuum 192 MB). Lower "
        "max_connections, or have more memory."
    )


def test_two_clusters_that_only_together_exceed_the_host():
    one, two = {"name": "one", "port": 5501}, {"name": "two", "port": 5502}
    assert problems(one, two) == []
    greedy = {"settings": {"shared_buffers": "7GB"}}
    assert problems({**one, **greedy}) == []
    problem = only_problem({**one, **greedy}, {**two, **greedy})
    assert "cluster 15/one" in problem
    assert "cluster 15/two" in problem


def test_cache_beyond_the_host():
    assert only_problem(settings={"effective_cache_size": "64GB"}) == (
        "Cluster 15/main: effective_cache_size is 65536 MB, and the host has 16384 MB. Lower it, or leave it to the "
        "role."
    )


def test_memory_that_is_named_is_the_limit_and_may_not_exceed_the_host():
    assert only_problem(memory_mb=32768) == (
        "postgres_memory_mb is 32768, and the host has 16384 MB. Lower it, or leave it to the role."
    )
    assert "and postgres_memory_mb is 2048 (" in only_problem(memory_mb=2048, settings={"shared_buffers": "3GB"})
    assert problems(memory_mb=2048) == []


def test_settings_that_are_left_to_postgresql_count_with_its_own_values():
    names = ("shared_buffers", "work_mem", "maintenance_work_mem", "effective_cache_size", "max_connections")
    assert problems(settings=dict.fromkeys(names)) == []
    # 4 GB is what PostgreSQL says of the cache by itself, and nobody's wish.
    assert problems(settings={"effective_cache_size": None}, facts=host(1024)) == []


# Settings


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("port", "port"),
        ("Data_Directory", "data_dir"),
        ("hba_file", "access"),
        ("listen_addresses", "listen_addresses"),
        ("ssl", "postgres_tls_certificate"),
        ("primary_conninfo", "postgres_primary_host"),
    ],
)
def test_setting_that_has_a_variable_of_its_own(name, instead):
    assert only_problem(settings={name: "x"}) == (
        "Cluster 15/main: setting %s is written by the role. Use %s instead of postgres_settings."
        % (name.lower(), instead)
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"superuser_reserved_connections": 200},
            "max_connections is 200, and 200 of them are reserved; the server would not start. Raise max_connections.",
        ),
        ({"superuser_reserved_connections": 3, "reserved_connections": 197}, "200 of them are reserved"),
        (
            {"wal_level": "minimal"},
            "wal_level minimal suits neither standbys nor archiving; the server would not start.",
        ),
        ({"wal_level": "minimal", "max_wal_senders": 0, "archive_mode": True}, "suits neither standbys nor archiving"),
        ({"max_wal_size": "16MB"}, "max_wal_size is 16MB, and a server starts with 32MB or more."),
        ({"min_wal_size": 31}, "min_wal_size is 31, and a server starts with 32MB or more."),
        ({"min_wal_size": "x"}, "min_wal_size: 'x' is not a size"),
        ({"max_wal_senders": "ten"}, "max_wal_senders: 'ten' is no whole number."),
        ({"unix_socket_directories": "/tmp"}, "unix_socket_directories must hold /var/run/postgresql, where the role"),
    ],
)
def test_settings_that_would_keep_the_server_from_starting(settings, words):
    problem = only_problem(settings=settings)
    assert problem.startswith("Cluster 15/main: ")
    assert words in problem


@pytest.mark.parametrize(
    "settings",
    [
        {"wal_level": "minimal", "max_wal_senders": 0},
        {"wal_level": "logical", "archive_mode": "on"},
        {"min_wal_size": 32, "max_wal_size": "64MB"},
        {"unix_socket_directories": "/var/run/postgresql, /tmp"},
        {"unix_socket_directories": ["/tmp", "/var/run/postgresql"]},
    ],
)
def test_unusual_settings_that_do_no_harm(settings):
    assert problems(settings=settings) == []


# Names


@pytest.mark.parametrize("name", ['say "hi"', "100%"])
def test_names_that_the_modules_cannot_write(name):
    words = "community.postgresql cannot write names with a double quote or a percent sign. Choose another."
    assert only_problem(role_names=[name]) == "Role %s: %s" % (name, words)
    assert only_problem(databases=[{"name": name}]) == "Database %s: %s" % (name, words)
    assert problems(role_names=["it's", "ж, =\\"], databases=[{"name": "it's"}]) == []


# Standbys


def test_standby_of_another_cluster():
    identities = {"15/main": {"own": "7581", "primary": "9999"}}
    assert only_problem(state={**STANDBY, "identities": identities}, **FOLLOWS) == (
        "Cluster 15/main: /var/lib/postgresql/15/main is a standby of another cluster (system identifier 7581, and the "
        "primary db1.internal has 9999), and nothing is overwritten. If nobody needs it: pg_dropcluster --stop 15 "
        "main, then run again."
    )


def test_promoted_standby_is_not_overwritten():
    assert only_problem(state=THERE, **FOLLOWS) == (
        "Cluster 15/main: /var/lib/postgresql/15/main holds a cluster that is no standby, such as a promoted one, and "
        "nothing is overwritten. If nobody needs it: pg_dropcluster --stop 15 main, then run again."
    )


def test_standby_is_never_promoted():
    assert only_problem(state=STANDBY) == (
        "Cluster 15/main is a standby, and a primary is asked for. Promotion is never automatic: pg_ctlcluster 15 main "
        "promote, when the old primary is surely gone."
    )


def test_whole_copy_that_was_not_adopted_yet_is_gone_on_with():
    copied = {"paths": [*COMPLETE, "/var/lib/postgresql/15/main/standby.signal"]}
    assert problems(state={**copied, "identities": SAME}, **FOLLOWS) == []
    other = {"15/main": {"own": "7581", "primary": "9999"}}
    assert "is not empty" in only_problem(state={**copied, "identities": other}, **FOLLOWS)
    assert "is not empty" in only_problem(state=copied, **FOLLOWS)


def test_standbys_need_a_password_a_slot_and_a_host_each():
    assert only_problem(**FOLLOWS, replication_secret=False) == (
        "A standby logs in to its primary with a password. Set postgres_replication_password."
    )
    assert only_problem(replication_sources=["10.0.0.0/8"], replication_secret=False) == (
        "Standbys may come from postgres_replication_sources, and their role holdfast_replication would have no "
        "password. Set postgres_replication_password."
    )
    words = "is no name for the slot of a standby; it has lower-case letters, digits and underscores, 63 at most."
    assert only_problem(**FOLLOWS, replication_slot="db-2") == "'db-2' %s Set postgres_replication_slot." % words
    assert only_problem(replication_slots=["ok", "DB2"]) == "'DB2' %s Correct postgres_replication_slots." % words
    assert only_problem({"name": "one"}, {"name": "two", "port": 5502}, **FOLLOWS) == (
        "Clusters 15/one and 15/two would follow one primary by one slot, replica1. A host has one standby."
    )


# Certificates


def certificate(**changes):
    return {"state": {"certificate": {**CERTIFICATE, **changes}}}


def test_certificate_that_does_not_match_its_key():
    assert only_problem(**certificate(public_key="another")) == (
        "Certificate /c/db.crt does not belong to key /c/db.key. Name the pair that was issued together."
    )


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ("2027-01-01T00:00:00", "expired on Dec 31 23:59:59 2026 GMT. Renew it first."),
        ("2026-10-31T23:59:59.999999", "is not valid before Nov  1 00:00:00 2026 GMT. Renew it first."),
    ],
)
def test_certificate_that_has_expired_or_is_not_valid_yet(now, words):
    assert only_problem(**certificate(now=now)) == "Certificate /c/db.crt " + words


def test_certificate_of_another_authority():
    assert only_problem(**certificate(chain="error 20: unable to get local issuer certificate")) == (
        "Certificate /c/db.crt is not of the authority in postgres_tls_ca: error 20: unable to get local issuer "
        "certificate"
    )


def test_certificate_that_cannot_be_read():
    assert only_problem(**certificate(error="Can't open /c/db.crt")) == (
        "Certificate /c/db.crt with key /c/db.key: Can't open /c/db.crt"
    )


def test_certificate_without_its_key():
    assert only_problem(tls_key="") == (
        "A certificate needs its key: set both postgres_tls_certificate and postgres_tls_key."
    )


@pytest.mark.parametrize(
    ("owner", "mode", "fits"),
    [
        ("postgres", "0600", True),
        ("postgres", "0400", True),
        ("root", "0640", True),
        ("postgres", "0640", False),
        ("root", "0644", False),
        ("root", "0660", False),
        ("www-data", "0600", False),
    ],
)
def test_key_that_the_server_would_not_start_with(owner, mode, fits):
    found = problems(**certificate(key_owner=owner, key_mode=mode))
    assert found == (
        []
        if fits
        else [
            "Key /c/db.key belongs to %s with mode %s, and PostgreSQL would not start with it. Make it 0600 of "
            "postgres, or 0640 of root with group ssl-cert." % (owner, mode)
        ]
    )


NO_TLS = {"tls_certificate": "", "tls_key": "", "tls_ca": ""}
RULE = {"databases": ["app"], "users": ["app"], "sources": ["10.0.0.0/8"]}


def test_network_without_a_certificate():
    words = (
        "Cluster 15/main: clients come over the network, and there is no certificate. Set postgres_tls_certificate and "
        "postgres_tls_key."
    )
    assert only_problem(listen_addresses=["*"], **NO_TLS) == words
    assert only_problem(access=[RULE], **NO_TLS) == words
    assert problems(listen_addresses=["localhost", "127.0.0.1", "::1"], **NO_TLS) == []


@pytest.mark.parametrize("changes", [{"method": "cert"}, {"client_certificate": "verify-ca"}])
def test_client_certificates_without_an_authority(changes):
    assert only_problem(access=[{**RULE, **changes}], tls_ca="") == (
        "Cluster 15/main: client certificates are asked for, and no authority is named. Set postgres_tls_ca."
    )
    assert problems(access=[{**RULE, "users": ["a cert b"]}], tls_ca="") == []


def test_nothing_is_said_of_passwords():
    assert "pencil" not in str(plan({"roles": [{"name": "app", "password": "pencil"}]}))
