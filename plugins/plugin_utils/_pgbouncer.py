# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration files of PgBouncer 1.15 to 1.26, and what is wrong with the wish for them.

What a version knows and what it reads only at its start comes from ``bouncer_params`` in ``src/main.c`` of PgBouncer
1.15.0 to 1.25.2 and from ``SHOW CONFIG`` of 1.15.0, 1.18.0, 1.24.1 and 1.26.1.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Version = tuple[int, int]

OLDEST: Version = (1, 15)
NEWEST: Version = (1, 26)
#: From this version an auth_query has a database of its own; before, it holds a session of the database that a
#: client asks for, and a rename of that database waits for it.
AUTH_DBNAME: Version = (1, 19)
#: From this version the console tells a pause of everything; before, only the pause of one database.
SHOW_STATE: Version = (1, 19)
#: The last two columns of SHOW DATABASES are paused and disabled in every version.
PAUSED = re.compile(r"\|1\|[01]$|^(?:paused|suspended)\|yes$", re.MULTILINE)
#: From this version a database entry may have any name; before, the parser of the file takes only these characters.
QUOTED_NAMES: Version = (1, 26)
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")
IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
INSTANCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}\Z")
SCRAM = re.compile(r"SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+\Z")

#: The entry of [databases] through which secrets are looked up. No client may use it.
AUTH_ENTRY = "pgbouncer_auth"
CONSOLE = "pgbouncer"
SIDES = ("client_tls", "server_tls")
TLS_FILES = ("certificate", "key", "ca")

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
_AT_EVERY_START = """
    disable_pqexec job_name listen_addr listen_backlog listen_port pidfile pkt_buf resolv_conf so_reuseport
    track_extra_parameters unix_socket_dir unix_socket_group unix_socket_mode user
"""
#: What is read only at a start: in versions before the one named, or in all.
AT_START: dict[str, Version | None] = {
    **dict.fromkeys(_AT_EVERY_START.split()),
    **{name: (1, 16) for name in SINCE if name.startswith(("client_tls_", "server_tls_"))},
    **dict.fromkeys(("default_pool_size", "min_pool_size", "reserve_pool_size"), (1, 16)),
}
#: Settings with variables of their own, or on which the safety of the whole rests.
FIXED = {
    "admin_users": "pgbouncer_console_user says who reaches the console",
    "auth_dbname": "pgbouncer_auth_database",
    "auth_file": "pgbouncer_users",
    "auth_hba_file": "pgbouncer_client_networks and pgbouncer_hba_rules",
    "auth_query": "pgbouncer_auth and pgbouncer_auth_schema",
    "auth_type": "pgbouncer_client_networks and pgbouncer_hba_rules",
    "auth_user": "pgbouncer_auth_user",
    "client_tls_ca_file": "pgbouncer_client_tls_ca",
    "client_tls_cert_file": "pgbouncer_client_tls_certificate",
    "client_tls_key_file": "pgbouncer_client_tls_key",
    "client_tls_protocols": "pgbouncer_tls_protocols",
    "client_tls_sslmode": "pgbouncer_client_tls_mode",
    "listen_addr": "listen_addresses of the instance, or pgbouncer_listen_addresses",
    "listen_port": "listen_port of the instance, or pgbouncer_listen_port",
    "pidfile": "systemd knows the process",
    "server_tls_ca_file": "pgbouncer_server_tls_ca",
    "server_tls_cert_file": "pgbouncer_server_tls_certificate",
    "server_tls_key_file": "pgbouncer_server_tls_key",
    "server_tls_protocols": "pgbouncer_tls_protocols",
    "server_tls_sslmode": "pgbouncer_server_tls_mode",
    "unix_socket_dir": "systemd makes one directory for each instance",
    "unix_socket_mode": "the socket is for its own system user",
    "user": "pgbouncer_system_user",
}
_DATABASE_KEYS_OF_THE_OLDEST = """
    application_name client_encoding connect_query datestyle dbname host max_db_connections pool_mode pool_size port
    reserve_pool timezone
"""
#: Keys of an entry of [databases], with the version that brought them.
DATABASE_KEYS: dict[str, Version] = {
    **dict.fromkeys(_DATABASE_KEYS_OF_THE_OLDEST.split(), OLDEST),
    "min_pool_size": (1, 16),
    "server_lifetime": (1, 23),
    "load_balance_hosts": (1, 24),
    "max_db_client_connections": (1, 24),
    "reserve_pool_size": (1, 24),
    "query_wait_timeout": (1, 26),
}
HEADER = "Managed by Ansible (holdfast.postgres.pgbouncer); changes by hand are overwritten."


def version_of(text: str) -> Version | None:
    """Return the version in the output of ``pgbouncer --version`` or of ``apt-cache policy``, or None."""
    found = re.search(r"PgBouncer (\d+)\.(\d+)", text) or re.search(r"Candidate: (?:\d+:)?(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def pgbouncer_plan(
    instances: Sequence[Mapping[str, Any]],
    *,
    choices: Mapping[str, Any],
    version: str,
    state: Mapping[str, Any],
    trial_dir: str = "",
) -> dict[str, Any]:
    """Return the files of all instances, and everything that speaks against them.

    `choices` are the variables of the role without their prefix; `version` is what PgBouncer or apt says of itself.
    `state` is what was found, each part missing where nobody could look: ``files`` (sha256 of the files that are there,
    by path), ``current`` (text of ``start.ini`` by instance), ``active`` (instances that run), ``listening``
    (ports), ``foreign`` (whether the service of the distribution runs),
    ``secrets`` (SCRAM secrets of ``users``; None for those that have none), ``console_secret`` (that of the user of the
    console), ``missing`` and ``checksums`` (of the TLS
    files, by path), ``predicted`` (whether those that are missing will be there in a run that is not check mode),
    ``consoles`` and ``openssl`` (results of the plan's commands) and ``now`` (ISO 8601). With `trial_dir` all files
    belong into it, and PgBouncer listens on a socket in there only.

    The plan has ``problems`` and ``notes`` (sentences), ``auth`` (``query`` or ``userlist``), ``version``, ``consoles``
    and ``openssl`` (commands whose output belongs into `state`),
    ``tls_files`` (``source`` on the controller and ``path`` on the host), ``paths`` (of all TLS files on the host, by
    side and kind), ``differing`` (paths of files that are not there as planned) and ``instances``: each with ``name``,
    ``directory``, ``listen_port``, ``socket_dir``, ``files`` (text by name) and ``restart_for`` (settings that are read
    only at a start and differ from ``current``).
    """
    known = version_of(version)
    release = known or NEWEST
    problems: list[str] = []
    notes: list[str] = []
    if release < OLDEST:
        problems.append("PgBouncer %s is older than %s, the oldest that is supported." % (_dot(release), _dot(OLDEST)))
        release = OLDEST
    if release > NEWEST:
        notes.append("PgBouncer %s is newer than %s, the newest that was tested." % (_dot(release), _dot(NEWEST)))
    auth = str(choices["auth"])
    if auth == "auto":
        auth = "query" if release >= AUTH_DBNAME else "userlist"
    secrets = (state.get("secrets") or {}) if auth == "userlist" else {}
    root = trial_dir or str(choices["config_dir"])
    tls_files = _tls_files(choices, root)
    paths = {(item["side"], item["what"]): item["path"] for item in tls_files}
    checksums = state.get("checksums") or {}
    sums = {item["path"]: str(checksums[item["source"]]) for item in tls_files if item["source"] in checksums}
    problems += _access_problems(choices)
    problems += _tls_problems(choices, state)
    if not state.get("predicted"):
        problems += ["%s does not exist." % path for path in state.get("missing") or []]
    problems += _auth_problems(choices, auth=auth, release=release, secrets=secrets)
    problems += _console_problems(choices, str(state.get("console_secret") or ""))
    if not instances:
        problems.append("pgbouncer_instances is empty: name at least one instance.")
    planned = []
    for instance in instances:
        name = str(instance["name"])
        directory = "%s/%s" % (root, name)
        databases = instance.get("databases") or choices["databases"]
        settings = {
            "listen_addr": ",".join(map(str, instance.get("listen_addresses") or choices["listen_addresses"])),
            "listen_port": int(instance.get("listen_port") or choices["port"]),
            "unix_socket_dir": "%s/%s" % (choices["runtime_dir"], name),
            **_shared_settings(choices, auth=auth, release=release, directory=directory, tls_paths=paths),
            **choices["settings"],
            **(instance.get("settings") or {}),
        }
        problems += _instance_problems(instance, choices, release)
        problems += _database_problems(databases, release)
        problems += _swap_problems(name, settings, choices)
        problems += _descriptor_problems(name, settings, databases, choices)
        notes += _notes(name, settings, choices, release)
        if trial_dir:
            settings.update(listen_addr="", unix_socket_dir=directory)
        at_start = {key: value for key, value in settings.items() if _read_at_start(key, release)}
        anytime = {key: value for key, value in settings.items() if key not in at_start}
        start = "; %s\n; What PgBouncer reads only at its start.\n" % HEADER + _lines(at_start, sums)
        entries = [(str(entry.get("name", "")), _entry(entry, choices)) for entry in databases]
        if auth == "query":
            entries.append((AUTH_ENTRY, _entry({"dbname": choices["auth_database"], "pool_size": 2}, choices)))
        current = (state.get("current") or {}).get(name)
        planned.append(
            {
                "name": name,
                "directory": directory,
                "listen_port": settings["listen_port"],
                "socket_dir": settings["unix_socket_dir"],
                "restart_for": [] if current is None else _differing(current, start),
                "files": {
                    "start.ini": start,
                    "pgbouncer.ini": "; %s\n[pgbouncer]\n%%include %s/start.ini\n" % (HEADER, directory)
                    + _lines(anytime, sums)
                    + "\n[databases]\n"
                    + "".join("%s = %s\n" % (_entry_name(key, release), value) for key, value in entries),
                    "hba.conf": _hba(choices),
                    "userlist.txt": _userlist({**secrets, **_console_secret(choices, state)}),
                },
            }
        )
    problems += _host_problems(planned, state)
    for name in sorted(set(state.get("current") or {}) - {plan["name"] for plan in planned}):
        notes.append(
            "Instance %s is on the host and not in pgbouncer_instances; it is left alone. To remove it: systemctl "
            "disable --now pgbouncer@%s, then remove its directory." % (name, name)
        )
    return {
        "problems": list(dict.fromkeys(problems)),
        "notes": list(dict.fromkeys(notes)),
        "auth": auth,
        "version": _dot(release) if known else "",
        "differing": [
            "%s/%s" % (plan["directory"], file)
            for plan in planned
            for file, text in plan["files"].items()
            if (state.get("files") or {}).get("%s/%s" % (plan["directory"], file)) != _sha256(text)
        ],
        "consoles": list(_consoles(choices, state, release)),
        "openssl": list(_openssl(choices, state.get("missing") or [])),
        "paths": {side: {what: paths[side, what] for what in TLS_FILES if (side, what) in paths} for side in SIDES},
        "tls_files": [item for item in tls_files if item["source"] != item["path"]],
        "instances": planned,
    }


def pgbouncer_actions(
    instances: Sequence[Mapping[str, Any]],
    *,
    times: Mapping[str, float],
    unit_time: float,
    starting: Sequence[str] = (),
    predicted: Sequence[str] = (),
) -> dict[str, Any]:
    """Return which instances must restart or reload to have read their files, and why.

    Judged by when files were written (`times` by path, `unit_time` for the unit) and by the marks that the unit leaves
    when it starts (``started``) and reloads (``read``), not by what this run changed: a run that was killed between
    the two is made good by the next. `predicted` are paths that check mode would write; `starting` just started.

    The result has ``restart`` and ``reload`` (names) and ``reasons`` (sentences about restarts).
    """
    actions: dict[str, Any] = {"restart": [], "reload": [], "reasons": []}
    for instance in instances:
        name = instance["name"]
        if name in starting:
            continue
        started = times.get(instance["socket_dir"] + "/started", 0)
        read = max(started, times.get(instance["socket_dir"] + "/read", 0))
        start_file = instance["directory"] + "/start.ini"
        paths = ["%s/%s" % (instance["directory"], file) for file in instance["files"]]
        reasons = ["its unit"] if unit_time > started else []
        if start_file in predicted or times.get(start_file, 0) > started:
            reasons += instance["restart_for"] or ["what an earlier run wrote and did not get to"]
        if reasons:
            actions["restart"].append(name)
            actions["reasons"].append("%s restarts for %s." % (name, ", ".join(reasons)))
        elif any(path in predicted or times.get(path, 0) > read for path in paths):
            actions["reload"].append(name)
    return actions


def _dot(version: Version) -> str:
    return "%d.%d" % version


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_at_start(name: str, release: Version) -> bool:
    if name not in AT_START:
        return False
    before = AT_START[name]
    return before is None or release < before


# What speaks against it


def _access_problems(choices: Mapping[str, Any]) -> Iterator[str]:
    if not choices["server_host"]:
        yield "pgbouncer_server_host is empty: name the server, or put a host into the group pg_primary."
    if not choices["client_networks"] and not choices["hba_rules"]:
        yield (
            "pgbouncer_client_networks is empty, so every login would be rejected: name the networks of the "
            "application, such as 10.0.1.0/24."
        )
    for network in choices["client_networks"]:
        try:
            ipaddress.ip_network(str(network))
        except ValueError as exc:
            yield "pgbouncer_client_networks: %s. It takes networks, not names of hosts." % exc
    for rule in map(str, choices["hba_rules"]):
        words = rule.split()
        if "\n" in rule or words[:1] not in (["local"], ["host"], ["hostssl"], ["hostnossl"]):
            yield "pgbouncer_hba_rules: %r is no rule; one begins with hostssl, host, hostnossl or local." % rule
        elif words[-1] in ("trust", "password"):
            whom = "anybody" if words[-1] == "trust" else "passwords in plain text"
            yield "pgbouncer_hba_rules: %r would take %s. Use scram-sha-256, cert, peer or reject." % (rule, whom)


def _tls_problems(choices: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[str]:
    for side in SIDES:
        tls = choices[side]
        mode, variable = tls["mode"], "pgbouncer_%s_" % side
        if mode == "disable":
            continue
        if side == "client_tls" and not tls["certificate"]:
            yield "%smode is %s, which needs %scertificate and %skey." % (variable, mode, variable, variable)
        if bool(tls["certificate"]) != bool(tls["key"]):
            yield "%scertificate and %skey belong together: give both or none." % (variable, variable)
        if mode.startswith("verify-") and not tls["ca"]:
            yield "%smode is %s, which needs %sca." % (variable, mode, variable)
        said = {item["item"]["what"]: item for item in state.get("openssl") or [] if item["item"]["side"] == side}
        if said:
            yield from _certificate_problems(tls, said["certificate"], said["key"], now=str(state["now"]))


def _openssl(choices: Mapping[str, Any], missing: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The commands that show what is public of each certificate and its key."""
    for side in SIDES:
        tls = choices[side]
        if tls["mode"] != "disable" and all(tls[what] and tls[what] not in missing for what in ("certificate", "key")):
            show = ["-noout", "-pubkey", "-startdate", "-enddate"]
            yield {"side": side, "what": "certificate", "argv": ["openssl", "x509", "-in", tls["certificate"], *show]}
            # A key that asks for a passphrase is answered with an empty one.
            show = ["-pubout", "-passin", "pass:"]
            yield {"side": side, "what": "key", "argv": ["openssl", "pkey", "-in", tls["key"], *show]}


def _certificate_problems(
    tls: Mapping[str, Any], certificate: Mapping[str, Any], key: Mapping[str, Any], *, now: str
) -> Iterator[str]:
    """Judge a pair by what openssl printed about each."""
    path = tls["certificate"]
    for name, said in ((path, certificate), (tls["key"], key)):
        if said["rc"] != 0:
            yield "openssl cannot read %s: %s" % (name, (said["stderr"].splitlines() or ["no reason given"])[0])
    if certificate["rc"] != 0 or key["rc"] != 0:
        return
    if key["stdout"].strip() not in certificate["stdout"]:
        yield "Certificate %s does not belong to key %s. Name the pair that was issued together." % (path, tls["key"])
    today = datetime.datetime.fromisoformat(now.replace("Z", "+00:00")).replace(tzinfo=None)
    for field, sign, words in (("notAfter", -1, "expired on"), ("notBefore", 1, "is not valid before")):
        date = re.findall(field + "=(.*)", certificate["stdout"])[0]
        moment = datetime.datetime.strptime(date, "%b %d %H:%M:%S %Y GMT")
        if (moment - today).total_seconds() * sign > 0:
            yield "Certificate %s %s %s. Renew it first." % (path, words, date)


def _auth_problems(
    choices: Mapping[str, Any], *, auth: str, release: Version, secrets: Mapping[str, str | None]
) -> Iterator[str]:
    if auth == "query":
        if release < AUTH_DBNAME:
            yield (
                "pgbouncer_auth is query, but PgBouncer %s has no auth_dbname (%s has): its look-ups would hold "
                "sessions of the live database, and a swap of names would wait for them. Set pgbouncer_auth to "
                "userlist and name the roles in pgbouncer_users." % (_dot(release), _dot(AUTH_DBNAME))
            )
        for name in ("user", "schema"):
            if not IDENTIFIER.match(str(choices["auth_" + name])):
                yield "pgbouncer_auth_%s is %r; give a plain name (a-z, 0-9, _)." % (name, choices["auth_" + name])
        if not choices["server_tls"]["certificate"] and not str(choices["server_host"]).startswith("/"):
            yield (
                "pgbouncer_auth is query and pgbouncer_server_tls_certificate is empty: PgBouncer could log in as %s "
                "only with a plain-text password on disk. Give it a client certificate of that name, or set "
                "pgbouncer_auth to userlist and name the roles in pgbouncer_users." % choices["auth_user"]
            )
        return
    if not choices["users"]:
        yield (
            "pgbouncer_users is empty, and without auth_query (PgBouncer %s, pgbouncer_auth %s) only the roles that it "
            "names can log in." % (_dot(release), choices["auth"])
        )
    for role, secret in secrets.items():
        if "\n" in role:
            yield "pgbouncer_users: %r has a line break." % role
        if secret is None or not SCRAM.match(secret):
            yield (
                "The server holds no SCRAM secret for role %r: it is missing there, has no password, or its password "
                "was set while password_encryption was md5. Create the role, or set its password again." % role
            )


def _console_problems(choices: Mapping[str, Any], secret: str) -> Iterator[str]:
    user, networks = str(choices["console_user"]), choices["console_networks"]
    if not user:
        if networks or secret:
            yield "pgbouncer_console_user is empty: name who may log in to the console, or give it no networks."
        return
    if user == CONSOLE or user in choices["users"] or user == choices["auth_user"] or "\n" in user:
        yield (
            "pgbouncer_console_user: %r has another meaning already; choose a name that only the console knows." % user
        )
    if not secret:
        yield "pgbouncer_console_user %r needs pgbouncer_console_password." % user
    if not networks:
        yield ("pgbouncer_console_networks is empty: name the networks from which %r may log in to the console." % user)
    if choices["client_tls"]["mode"] in ("disable", "allow", "prefer"):
        yield "The console is reached from other hosts over TLS only; set pgbouncer_client_tls_mode to require or more."
    for network in networks:
        try:
            ipaddress.ip_network(str(network))
        except ValueError:
            yield "pgbouncer_console_networks: %r is no network in CIDR notation." % network


def _instance_problems(instance: Mapping[str, Any], choices: Mapping[str, Any], release: Version) -> Iterator[str]:
    name = str(instance["name"])
    if not INSTANCE.match(name) or name == "tls":
        yield "pgbouncer_instances: %r is no name for an instance (a-z, 0-9, _ and -, at most 31; not tls)." % name
    for setting, value in {**choices["settings"], **(instance.get("settings") or {})}.items():
        if setting not in SINCE:
            words = "PgBouncer has no setting %s." % setting
        elif setting in FIXED:
            words = "%s is not among the settings: %s." % (setting, FIXED[setting])
        elif release < SINCE[setting]:
            words = "PgBouncer %s has no setting %s; %s has." % (_dot(release), setting, _dot(SINCE[setting]))
        elif release >= GONE_IN.get(setting, (9, 9)):
            words = "PgBouncer %s has no setting %s any more." % (_dot(release), setting)
        elif "\n" in str(value):
            words = "the value of %s has a line break." % setting
        else:
            continue
        yield "Instance %s: %s" % (name, words)


def _database_problems(databases: Sequence[Mapping[str, Any]], release: Version) -> Iterator[str]:
    names = [str(entry.get("name", "")) for entry in databases]
    if not names:
        yield "pgbouncer_databases is empty: name the databases that clients may use."
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "pgbouncer_databases names %r twice." % name
    for name, entry in zip(names, databases):
        if name in (CONSOLE, AUTH_ENTRY):
            yield "pgbouncer_databases: the name %s is taken by PgBouncer itself." % name
        elif name == "*":
            yield "pgbouncer_databases: * would let clients into every database, retired ones too; name them."
        elif not PLAIN_NAME.match(name) and (release < QUOTED_NAMES or not name or re.search(r"['\n]", name)):
            yield (
                "pgbouncer_databases: PgBouncer %s takes no entry named %r. Give it a name of letters, digits, dot, "
                "dash and underscore, and the real name as dbname." % (_dot(release), name)
            )
        for key, value in entry.items():
            if key in ("user", "password"):
                yield "pgbouncer_databases, %s: no %s here; clients log in as themselves." % (name, key)
            elif key != "name" and release < DATABASE_KEYS.get(key, (9, 9)):
                yield "pgbouncer_databases, %s: PgBouncer %s knows no %s there." % (name, _dot(release), key)
            elif str(value) == "" or "\n" in str(value):
                yield "pgbouncer_databases, %s: %s is empty or has a line break." % (name, key)


def _swap_problems(name: str, settings: Mapping[str, Any], choices: Mapping[str, Any]) -> Iterator[str]:
    """What a swap of names relies on: clients outlast its pause, and servers are back at once after it."""
    pause = float(choices["max_pause_s"])
    wait, retry = (_seconds(settings[key]) for key in ("query_wait_timeout", "server_login_retry"))
    if wait is not None and 0 < wait < 2 * pause:
        yield (
            "Instance %s: query_wait_timeout is %g s, and a swap may pause for %g s: clients that wait would be "
            "disconnected. Set it to %g or more." % (name, wait, pause, 2 * pause)
        )
    if retry is not None and retry > 1:
        yield (
            "Instance %s: server_login_retry is %g s: clients would wait that long after a pause that interrupts a "
            "login of PgBouncer. Set it to 1 or less." % (name, retry)
        )


def _seconds(value: Any) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None  # PgBouncer itself refuses it in the trial


def _descriptor_problems(
    name: str, settings: Mapping[str, Any], databases: Sequence[Mapping[str, Any]], choices: Mapping[str, Any]
) -> Iterator[str]:
    """Compare the sizes with the limit of the unit, counted as check_limits() in PgBouncer's main.c does."""
    try:
        pools = sum(int(entry.get("pool_size", settings["default_pool_size"])) for entry in databases)
        needed = int(settings["max_client_conn"]) + pools * max(1, len(choices["users"])) + 64
    except ValueError:
        return
    if needed > int(choices["open_files"]):
        yield (
            "Instance %s may open %d files, and pgbouncer_open_files allows %s: raise it, or lower max_client_conn or "
            "the pool sizes." % (name, needed, choices["open_files"])
        )


def _host_problems(planned: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> Iterator[str]:
    for key, what in (("name", "name"), ("listen_port", "port")):
        values = [plan[key] for plan in planned]
        for value in sorted({value for value in values if values.count(value) > 1}, key=str):
            yield "pgbouncer_instances has two instances with the %s %s." % (what, value)
    if state.get("foreign"):
        yield (
            "pgbouncer.service of the distribution runs with a configuration of its own. Move what it serves to an "
            "instance of this role, then: systemctl disable --now pgbouncer.service"
        )
    active = list(state.get("active") or [])
    ports = {name: _value(text, "listen_port") for name, text in (state.get("current") or {}).items() if name in active}
    for plan in planned:
        own = plan["name"] in active and ports.get(plan["name"]) == str(plan["listen_port"])
        others = [name for name, port in ports.items() if name != plan["name"] and port == str(plan["listen_port"])]
        if others:
            yield "Instance %s: port %s belongs to instance %s, which runs." % (
                plan["name"],
                plan["listen_port"],
                others[0],
            )
        elif not own and not state.get("foreign") and plan["listen_port"] in (state.get("listening") or []):
            yield "Instance %s: something else listens on port %s. Stop it, or choose another port." % (
                plan["name"],
                plan["listen_port"],
            )
    for said in state.get("consoles") or []:
        if not PAUSED.search(said["stdout"]):
            continue
        yield (
            "Instance %s is paused: a swap is under way, and a reload now would break new clients. Wait for it; if "
            "none runs, RESUME on its console." % said["item"]["name"]
        )


def _consoles(choices: Mapping[str, Any], state: Mapping[str, Any], release: Version) -> Iterator[dict[str, Any]]:
    """The commands that ask each instance that runs what is paused."""
    questions = ["SHOW DATABASES", *(["SHOW STATE"] if release >= SHOW_STATE else [])]
    for name in state.get("active") or []:
        port = _value(state["current"][name], "listen_port")
        argv = ["runuser", "--user=%s" % choices["system_user"], "--", "psql", "--no-psqlrc", "--no-align"]
        argv += ["--host=%s/%s" % (choices["runtime_dir"], name), "--port=%s" % port]
        argv += ["--username=pgbouncer", "--dbname=pgbouncer", *("--command=%s" % text for text in questions)]
        yield {"name": name, "argv": argv}


def _value(text: str, setting: str) -> str:
    found = re.search(r"^%s = (.*)$" % setting, text, flags=re.MULTILINE)
    return found.group(1) if found else ""


def _notes(name: str, settings: Mapping[str, Any], choices: Mapping[str, Any], release: Version) -> Iterator[str]:
    for setting in choices["sizes"]:
        if release < SINCE[setting]:
            yield "PgBouncer %s does not know %s (%s does): it is left out." % (
                _dot(release),
                setting,
                _dot(SINCE[setting]),
            )
    if settings["pool_mode"] == "session":
        yield "Instance %s pools sessions: the pause of a swap waits until its clients disconnect." % name


# The files


def _tls_files(choices: Mapping[str, Any], root: str) -> list[dict[str, Any]]:
    """List the TLS files with their place on the host."""
    return [
        {
            "side": side,
            "what": what,
            "source": str(choices[side][what]),
            "path": str(choices[side][what]) if choices["tls_on_host"] else "%s/tls/%s.%s" % (root, side, what),
        }
        for side in SIDES
        for what in TLS_FILES
        if choices[side]["mode"] != "disable" and choices[side][what]
    ]


def _shared_settings(
    choices: Mapping[str, Any],
    *,
    auth: str,
    release: Version,
    directory: str,
    tls_paths: Mapping[tuple[str, str], str],
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "unix_socket_mode": "0700",
        "auth_type": "hba",
        "auth_hba_file": directory + "/hba.conf",
        "auth_file": directory + "/userlist.txt",
    }
    if choices["console_user"]:
        settings["admin_users"] = choices["console_user"]
    if auth == "query":
        settings["auth_user"] = choices["auth_user"]
        # Names with their schema and no operator: nothing in it depends on anybody's search_path.
        settings["auth_query"] = "SELECT user_name, secret FROM %s.lookup($1)" % choices["auth_schema"]  # noqa: S608
        settings["auth_dbname"] = AUTH_ENTRY
    for side in SIDES:
        settings[side + "_sslmode"] = choices[side]["mode"]
        if choices[side]["mode"] != "disable":
            settings[side + "_protocols"] = ",".join(choices["tls_protocols"])
        for what, setting in zip(TLS_FILES, ("_cert_file", "_key_file", "_ca_file")):
            if (side, what) in tls_paths:
                settings[side + setting] = tls_paths[side, what]
    return {**settings, **{name: value for name, value in choices["sizes"].items() if release >= SINCE[name]}}


def _lines(settings: Mapping[str, Any], sums: Mapping[str, str]) -> str:
    """Lines of the file; the checksum of a file is a comment, so that a renewed certificate is a change."""
    lines = []
    for name in sorted(settings):
        value = settings[name]
        lines.append("%s = %s\n" % (name, int(value) if isinstance(value, bool) else value))
        if str(value) in sums:
            lines.append("; %s holds sha256:%s\n" % (name, sums[str(value)]))
    return "".join(lines)


def _differing(before: str, after: str) -> list[str]:
    """Return the settings that differ between two texts; a renewed file counts as its setting."""
    pairs = (set(re.findall(r"^(?:; )?(\w+) (?:=|holds) ?(.*)$", text, flags=re.MULTILINE)) for text in (before, after))
    return sorted({name for name, _value in set.symmetric_difference(*pairs)})


def _entry(entry: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    values = {"host": choices["server_host"], "port": choices["server_port"], "dbname": entry.get("name"), **entry}
    return " ".join("%s=%s" % (key, _quoted(value)) for key, value in values.items() if key != "name")


def _quoted(value: Any) -> str:
    """A value of a connection string, as cstr_get_value() in PgBouncer's loader.c reads it."""
    text = str(value)
    return text if re.match(r"[A-Za-z0-9_.:/,-]+\Z", text) else "'%s'" % text.replace("'", "''")


def _entry_name(name: str, release: Version) -> str:
    return name if PLAIN_NAME.match(name) or release < QUOTED_NAMES else "'%s'" % name


def _hba(choices: Mapping[str, Any]) -> str:
    kind = "host" if choices["client_tls"]["mode"] == "disable" else "hostssl"
    lines = ["# %s" % HEADER, "# The first rule that matches decides; where none does, the login is rejected."]
    lines += [
        "hostssl %s %s %s scram-sha-256" % (CONSOLE, _hba_name(choices["console_user"]), _network(network))
        for network in choices["console_networks"]
        if choices["console_user"]
    ]
    for name in (CONSOLE, AUTH_ENTRY):
        lines += ["host %s all %s reject" % (name, everywhere) for everywhere in ("0.0.0.0/0", "::/0")]
    lines += ["%s all all %s scram-sha-256" % (kind, _network(network)) for network in choices["client_networks"]]
    return "\n".join([*lines, *map(str, choices["hba_rules"])]) + "\n"


def _hba_name(name: Any) -> str:
    return '"%s"' % str(name).replace('"', '""')


def _console_secret(choices: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, str]:
    user, secret = str(choices["console_user"]), str(state.get("console_secret") or "")
    return {user: secret} if user and secret else {}


def _network(network: Any) -> str:
    """A network with its mask, which PgBouncer demands; what is none is left for the refusal to name."""
    try:
        return str(ipaddress.ip_network(str(network)))
    except ValueError:
        return str(network)


def _userlist(secrets: Mapping[str, str | None]) -> str:
    pairs = ((role, secrets[role] or "") for role in sorted(secrets))
    return "".join('"%s" "%s"\n' % (role.replace('"', '""'), secret) for role, secret in pairs)
