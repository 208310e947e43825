# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration files of PgBouncer 1.15 to 1.26, and what is wrong with the wish for them.

What a version knows and what it reads only at its start comes from ``bouncer_params`` in ``src/main.c`` of PgBouncer
1.15.0 to 1.25.2 and from ``SHOW CONFIG`` of 1.15.0, 1.18.0, 1.24.1 and 1.26.1.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Version = tuple[int, int]

OLDEST: Version = (1, 15)
NEWEST: Version = (1, 26)
#: From this version an auth_query has a database of its own; before, it holds a session of the database that a
#: client asks for, and a rename of that database waits for it.
AUTH_DBNAME: Version = (1, 19)
#: From this version a database entry may have any name; before, the parser of the file takes only these characters.
QUOTED_NAMES: Version = (1, 26)
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")
IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
INSTANCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}\Z")
SCRAM = re.compile(r"SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+\Z")

#: The entry of [databases] through which secrets are looked up. No client may use it.
AUTH_ENTRY = "pgbouncer_auth"
CONSOLE = "pgbouncer"

_SINCE_THE_OLDEST = """
    admin_users application_name_add_host auth_file auth_hba_file auth_query auth_type auth_user autodb_idle_timeout
    client_idle_timeout client_login_timeout client_tls_ca_file client_tls_cert_file client_tls_ciphers
    client_tls_dheparams client_tls_ecdhcurve client_tls_key_file client_tls_protocols client_tls_sslmode
    default_pool_size disable_pqexec dns_max_ttl dns_nxdomain_ttl dns_zone_check_period idle_transaction_timeout
    ignore_startup_parameters job_name listen_addr listen_backlog listen_port log_connections log_disconnections
    log_pooler_errors log_stats logfile max_client_conn max_db_connections max_packet_size max_user_connections
    min_pool_size pidfile pkt_buf pool_mode query_timeout query_wait_timeout reserve_pool_size reserve_pool_timeout
    resolv_conf sbuf_loopcnt server_check_delay server_check_query server_connect_timeout server_fast_close
    server_idle_timeout server_lifetime server_login_retry server_reset_query server_reset_query_always
    server_round_robin server_tls_ca_file server_tls_cert_file server_tls_ciphers server_tls_key_file
    server_tls_protocols server_tls_sslmode so_reuseport stats_period stats_users suspend_timeout syslog
    syslog_facility syslog_ident tcp_defer_accept tcp_keepalive tcp_keepcnt tcp_keepidle tcp_keepintvl
    tcp_socket_buffer tcp_user_timeout unix_socket_dir unix_socket_group unix_socket_mode user verbose
"""
SINCE: dict[str, Version] = {
    **dict.fromkeys(_SINCE_THE_OLDEST.split(), OLDEST),
    "auth_dbname": (1, 19),
    "auth_ident_file": (1, 23),
    "auth_ldap_options": (1, 25),
    "cancel_wait_timeout": (1, 19),
    "client_tls13_ciphers": (1, 25),
    "login_notify_message": (1, 26),
    "max_db_client_connections": (1, 24),
    "max_prepared_statements": (1, 21),
    "max_user_client_connections": (1, 24),
    "peer_id": (1, 19),
    "pool_idle_timeout": (1, 26),
    "query_wait_notify": (1, 25),
    "scram_iterations": (1, 25),
    "server_tls13_ciphers": (1, 25),
    "track_extra_parameters": (1, 20),
    "transaction_timeout": (1, 25),
}
GONE_IN: dict[str, Version] = {"suspend_timeout": (1, 26)}
#: Read at the start only; a version where that is so only before it, or None for all.
AT_START: dict[str, Version | None] = {
    **dict.fromkeys(
        "disable_pqexec job_name listen_addr listen_backlog listen_port pidfile pkt_buf resolv_conf so_reuseport"
        " track_extra_parameters unix_socket_dir unix_socket_group unix_socket_mode user".split()
    ),
    **{name: (1, 16) for name in SINCE if name.startswith(("client_tls_", "server_tls_"))},
    **dict.fromkeys(("default_pool_size", "min_pool_size", "reserve_pool_size"), (1, 16)),
}
#: Settings with variables of their own, or on which the safety of the whole rests.
FIXED = {
    "admin_users": "nobody but its own system user reaches the console",
    "auth_dbname": "pgbouncer_auth_database",
    "auth_file": "pgbouncer_users",
    "auth_hba_file": "pgbouncer_client_networks and pgbouncer_hba_rules",
    "auth_query": "pgbouncer_auth and pgbouncer_auth_schema",
    "auth_type": "pgbouncer_client_networks and pgbouncer_hba_rules",
    "auth_user": "pgbouncer_auth_user",
    "client_tls_ca_file": "pgbouncer_client_tls_ca_file",
    "client_tls_cert_file": "pgbouncer_client_tls_cert_file",
    "client_tls_key_file": "pgbouncer_client_tls_key_file",
    "client_tls_protocols": "pgbouncer_tls_protocols",
    "client_tls_sslmode": "pgbouncer_client_tls_mode",
    "listen_addr": "listen_addresses of the instance, or pgbouncer_listen_addresses",
    "listen_port": "listen_port of the instance, or pgbouncer_listen_port",
    "pidfile": "systemd knows the process",
    "server_tls_ca_file": "pgbouncer_server_tls_ca_file",
    "server_tls_cert_file": "pgbouncer_server_tls_cert_file",
    "server_tls_key_file": "pgbouncer_server_tls_key_file",
    "server_tls_protocols": "pgbouncer_tls_protocols",
    "server_tls_sslmode": "pgbouncer_server_tls_mode",
    "unix_socket_dir": "systemd makes one directory for each instance",
    "unix_socket_mode": "the socket is for its own system user",
    "user": "pgbouncer_system_user",
}
#: Keys of an entry of [databases], with the version that brought them.
DATABASE_KEYS: dict[str, Version] = {
    **dict.fromkeys(
        "application_name client_encoding connect_query datestyle dbname host max_db_connections pool_mode pool_size"
        " port reserve_pool timezone".split(),
        OLDEST,
    ),
    "max_user_connections": (1, 16),
    "min_pool_size": (1, 16),
    "server_lifetime": (1, 24),
    "load_balance_hosts": (1, 24),
    "max_db_client_connections": (1, 24),
    "reserve_pool_size": (1, 24),
    "query_wait_timeout": (1, 26),
}
INSTANCE_KEYS = {"name", "listen_addresses", "listen_port", "databases", "settings"}

HEADER = "Managed by Ansible (holdfast.postgres.pgbouncer); changes by hand are overwritten."


def version_of(text: str) -> Version | None:
    """Return the version in the output of ``pgbouncer --version`` or of ``apt-cache policy``, or None."""
    found = re.search(r"PgBouncer (\d+)\.(\d+)", text) or re.search(r"Candidate: (?:\d+:)?(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def pgbouncer_plan(
    instances: Sequence[Mapping[str, Any]],
    *,
    wish: Mapping[str, Any],
    version: str,
    current: Mapping[str, str] | None = None,
    secrets: Mapping[str, str | None] | None = None,
    checksums: Mapping[str, str] | None = None,
    trial_dir: str = "",
) -> dict[str, Any]:
    """Return the files of all instances, and everything that speaks against them.

    ``wish`` has what the instances share (see vars/main.yml of the role); ``version`` is what PgBouncer or apt says of
    itself; ``current`` the text of each ``start.ini`` that is there, by instance; ``secrets`` the SCRAM secrets of
    ``wish.users`` (None where the server has none), or None as a whole when nobody could ask; ``checksums`` those of
    the TLS files, by path: they become comments, so that a renewed certificate is noticed. With ``trial_dir`` the files
    belong in that directory and let PgBouncer listen on a socket there and nowhere else.

    The plan has ``problems`` and ``notes`` (sentences), ``auth`` (``query`` or ``userlist``), ``version`` and
    ``instances``: each with ``name``, ``listen_port``, ``socket_dir``, ``files`` (by name), ``restart_for`` (settings
    that PgBouncer reads only at its start and that differ from ``current``) and ``descriptors`` (files it may open).
    """
    known = version_of(version)
    release = known or NEWEST
    problems: list[str] = []
    notes: list[str] = []
    if release < OLDEST:
        problems.append("PgBouncer %s is older than %s, the oldest version that is supported." % (_dot(release), "1.15"))
    if release > NEWEST:
        notes.append("PgBouncer %s is newer than %s, the newest version that was tested." % (_dot(release), "1.26"))
    auth = _auth(wish, release, problems)
    problems += _shared_problems(wish, auth=auth, secrets=secrets)
    planned = []
    for instance in instances:
        name = str(instance.get("name", ""))
        settings, left_out = _settings(instance, wish, auth=auth, release=release, trial_dir=trial_dir)
        notes += ["PgBouncer %s does not know %s yet; it is left out." % (_dot(release), n) for n in left_out]
        problems += _instance_problems(instance, wish, settings, release)
        at_start = {k: v for k, v in settings.items() if _read_at_start(k, release)}
        anytime = {k: v for k, v in settings.items() if k not in at_start}
        databases = _databases(instance, wish, auth=auth)
        before = _parsed(current[name]) if current and name in current else None
        planned.append(
            {
                "name": name,
                "listen_port": settings["listen_port"],
                "socket_dir": settings["unix_socket_dir"],
                "restart_for": [] if before is None else sorted(_differing(before, at_start, checksums or {})),
                "descriptors": _descriptors(settings, databases),
                "files": {
                    "start.ini": _start_file(at_start, checksums or {}),
                    "pgbouncer.ini": _main_file(
                        anytime, databases, release, checksums or {}, trial_dir or _directory(wish, name)
                    ),
                    "hba.conf": _hba_file(wish),
                    "userlist.txt": _userlist(secrets or {} if auth == "userlist" else {}),
                },
            }
        )
    problems += _clashes(planned)
    for plan in planned:
        if plan["descriptors"] > int(wish["open_files"]):
            problems.append(
                "Instance %s may need %d open files, and pgbouncer_open_files is %s: raise it, or lower the sizes."
                % (plan["name"], plan["descriptors"], wish["open_files"])
            )
    if not planned:
        problems.append("pgbouncer_instances is empty: name at least one instance.")
    return {
        "problems": list(dict.fromkeys(problems)),
        "notes": list(dict.fromkeys(notes)),
        "auth": auth,
        "version": _dot(release) if known else "",
        "instances": planned,
    }


def _dot(version: Version) -> str:
    return "%d.%d" % version


def _read_at_start(name: str, release: Version) -> bool:
    return name in AT_START and (AT_START[name] is None or release < (AT_START[name] or OLDEST))


def _directory(wish: Mapping[str, Any], name: str) -> str:
    return "%s/%s" % (wish["config_dir"], name)


def _auth(wish: Mapping[str, Any], release: Version, problems: list[str]) -> str:
    auth = str(wish["auth"])
    if auth == "auto":
        return "query" if release >= AUTH_DBNAME else "userlist"
    if auth == "query" and release < AUTH_DBNAME:
        problems.append(
            "pgbouncer_auth is query, but PgBouncer %s has no auth_dbname (1.19 has): its look-ups would hold sessions"
            " of the live database, and a swap of names would wait for them. Set pgbouncer_auth to userlist or auto,"
            " and name the roles in pgbouncer_users." % _dot(release)
        )
    return auth


def _shared_problems(
    wish: Mapping[str, Any], *, auth: str, secrets: Mapping[str, str | None] | None
) -> Iterable[str]:
    tls = wish["client_tls"]["mode"] != "disable"
    if not wish["client_networks"] and not wish["hba_rules"]:
        yield (
            "pgbouncer_client_networks is empty, so every login would be rejected: name the application's networks,"
            " such as 10.0.1.0/24."
        )
    for network in wish["client_networks"]:
        try:
            ipaddress.ip_network(str(network))
        except ValueError as exc:
            yield "pgbouncer_client_networks: %s. Names of hosts cannot be used here." % exc
    for rule in wish["hba_rules"]:
        if "\n" in str(rule) or str(rule).split()[:1] not in (["host"], ["hostssl"], ["hostnossl"], ["local"]):
            yield "pgbouncer_hba_rules: %r is no rule; it begins with hostssl, host, hostnossl or local." % rule
        elif str(rule).split()[-1] == "trust":
            yield "pgbouncer_hba_rules: %r lets anybody in without a password." % rule
    for side in ("client_tls", "server_tls"):
        problem = _tls_problem(side, wish[side])
        if problem:
            yield problem
    for name in ("user", "database_entry_host"):
        if re.search(r"[\s']", str(wish["auth_options"].get(name, ""))):
            yield "pgbouncer_auth_%s must have neither spaces nor quotes." % name
    if auth == "query":
        for name in ("user", "schema"):
            if not IDENTIFIER.match(str(wish["auth_options"][name])):
                yield "pgbouncer_auth_%s is %r; give a plain name (a-z, 0-9, _)." % (name, wish["auth_options"][name])
        if not wish["server_tls"]["cert_file"] and not str(wish["auth_options"]["host"]).startswith("/"):
            yield (
                "pgbouncer_auth is query and pgbouncer_server_tls_cert_file is empty: PgBouncer could log in as %s only"
                " with a plain-text password on disk. Give it a client certificate with that name, or set pgbouncer_auth"
                " to userlist and name the roles in pgbouncer_users." % wish["auth_options"]["user"]
            )
    elif not wish["users"]:
        yield "pgbouncer_users is empty: without auth_query, only roles that are named there can log in."
    if auth == "userlist":
        for role, secret in (secrets or {}).items():
            if re.search(r"[\r\n]", role):
                yield "pgbouncer_users: %r has a line break." % role
            if secret is None or not SCRAM.match(secret):
                yield (
                    "The server holds no SCRAM secret for role %s: it is missing there, has no password, or its password"
                    " was set while password_encryption was md5. Set its password again." % role
                )
    if wish["replication_of_auth"] and not tls:
        yield "never"


def _tls_problem(side: str, tls: Mapping[str, Any]) -> str | None:
    return None


def _settings(*args: Any, **kwargs: Any) -> Any: ...
