# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What speaks against touching a host, each with what to do."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres import (
    CONTRIB,
    CONTRIB_IN,
    PACKAGES,
    setting_text,
)
from ansible_collections.holdfast.postgres.plugins.plugin_utils._tuning import (
    MB,
    SIZES,
    connection_count,
    setting_bytes,
    size_bytes,
)

OLDEST = 12
SOCKET_DIRECTORY = "/var/run/postgresql"
_SLOT = re.compile(r"[a-z0-9_]{1,63}\Z")

# What the role writes itself, so that a second place cannot contradict it.
MANAGED = {
    "port": "port",
    "data_directory": "data_dir",
    "hba_file": "access",
    "ident_file": "ident",
    "listen_addresses": "listen_addresses",
    "ssl": "postgres_tls_certificate",
    "ssl_cert_file": "postgres_tls_certificate",
    "ssl_key_file": "postgres_tls_key",
    "ssl_ca_file": "postgres_tls_ca",
    "primary_conninfo": "postgres_primary_host",
    "primary_slot_name": "postgres_replication_slot",
}


def postgres_problems(
    plan: Sequence[Mapping[str, Any]],
    *,
    facts: Mapping[str, Any],
    defaults: Mapping[str, Any],
    packaged: Sequence[str],
    state: Mapping[str, Any],
) -> list[str]:
    """Return every reason not to touch the host, each with what to do; empty when there is none.

    `packaged` are the versions that the repository holds, empty when unknown. `state` is what was found on the host:
    ``clusters`` (lines of ``pg_lsclusters``), ``paths`` (files in the directories of the plan), ``listening`` (ports),
    and ``certificate`` where one is named: ``certificate_key`` and ``public_key`` as PEM, ``not_before`` and
    ``not_after`` as openssl prints them, ``now`` in ISO 8601, ``chain`` or ``error`` with openssl's words, and maybe
    ``key_owner`` and ``key_mode`` of a key that stays where it is; and ``identities`` of standbys that are there:
    ``own`` and ``primary``, the system identifiers.
    """
    found = [_existing(line) for line in state.get("clusters") or [] if line.strip()]
    problems: list[str] = []
    for number, cluster in enumerate(plan):
        problems += _version_problems(cluster, defaults=defaults, packaged=packaged)
        problems += _extension_problems(cluster, defaults=defaults)
        problems += _setting_problems(cluster)
        problems += _host_problems(cluster, found=found, state=state, defaults=defaults)
        for other in plan[:number]:
            problems += _shared_problems(cluster, other)
    names = [("Role", name) for name in defaults["role_names"]]
    names += [("Database", name) for cluster in plan for name in cluster["databases"]]
    problems += [
        "%s %s: community.postgresql cannot write names with a double quote or a percent sign. Choose another."
        % (what, name)
        for what, name in names
        if re.search('["%]', str(name))
    ]
    problems += _replication_problems(plan, defaults=defaults)
    problems += memory_problems(plan, facts=facts, defaults=defaults)
    problems += _tls_problems(plan, defaults=defaults, certificate=state.get("certificate") or {})
    return problems


def _shared_problems(cluster: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Compare two clusters of the plan."""
    problems = [
        "Clusters %s and %s share the %s %s. Give each its own." % (other["id"], cluster["id"], what, cluster[key])
        for key, what in (("id", "version and name"), ("port", "port"), ("data_dir", "data directory"))
        if cluster[key] == other[key]
    ]
    for inner, outer in ((cluster, other), (other, cluster)):
        if inner["data_dir"].startswith(outer["data_dir"] + "/"):
            problems.append(
                "Cluster %s: its data directory %s lies inside of that of cluster %s. Give each its own."
                % (inner["id"], inner["data_dir"], outer["id"])
            )
    return problems


def _replication_problems(plan: Sequence[Mapping[str, Any]], *, defaults: Mapping[str, Any]) -> list[str]:
    problems = []
    # Whether there is a password, and not which; nothing is said where nobody told.
    secret = bool(defaults.get("replication_secret", True))
    if defaults.get("primary_host"):
        slot = str(defaults["replication_slot"])
        slots = [(slot, "Set postgres_replication_slot.")]
        if len(plan) > 1:
            problems.append(
                "Clusters %s would follow one primary by one slot, %s. A host has one standby."
                % (" and ".join(cluster["id"] for cluster in plan), slot)
            )
        if not secret:
            problems.append("A standby logs in to its primary with a password. Set postgres_replication_password.")
    else:
        slots = [(str(slot), "Correct postgres_replication_slots.") for slot in defaults.get("replication_slots") or []]
        if defaults.get("replication_sources") and not secret:
            problems.append(
                "Standbys may come from postgres_replication_sources, and their role %s would have no password. Set "
                "postgres_replication_password." % defaults["replication_role"]
            )
    problems += [
        "%r is no name for the slot of a standby; it has lower-case letters, digits and underscores, 63 at most. %s"
        % (slot, remedy)
        for slot, remedy in slots
        if not _SLOT.match(slot)
    ]
    return problems


def _directories(state: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in state.get("paths") or []:
        directory, _slash, name = str(path).rpartition("/")
        found.setdefault(directory, []).append(name)
    return found


def _existing(line: str) -> dict[str, str]:
    version, name, port, status, owner, data_dir = line.split()[:6]
    return {"id": version + "/" + name, "port": port, "status": status, "owner": owner, "data_dir": data_dir}


def _version_problems(cluster: Mapping[str, Any], *, defaults: Mapping[str, Any], packaged: Sequence[str]) -> list[str]:
    if defaults["repository"] != "distribution" and int(cluster["version"]) < OLDEST:
        return ["Cluster %s: this role knows PostgreSQL %d and newer. Set postgres_version." % (cluster["id"], OLDEST)]
    if not packaged or cluster["version"] in map(str, packaged) or defaults["repository"] != "distribution":
        return []
    return [
        "Cluster %(id)s: this distribution has no PostgreSQL %(version)s, but %%s. "
        "Set postgres_version to that, or postgres_repository to pgdg." % cluster % ", ".join(map(str, packaged))
    ]


def _extension_problems(cluster: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> list[str]:
    known = {*CONTRIB, *PACKAGES, *defaults["extension_packages"]}
    problems = [
        "Cluster %s: extension %s (database %s) is in no package that this role knows. Correct its name, or name its "
        "package in postgres_extension_packages." % (cluster["id"], name, ", ".join(databases))
        for name, databases in cluster["extensions"].items()
        if name not in known
    ]
    for name, (first, last) in CONTRIB_IN.items():
        if name in cluster["extensions"] and not first <= int(cluster["version"]) <= last:
            problems.append(
                "Cluster %s: PostgreSQL %s has no extension %s. Leave it out."
                % (cluster["id"], cluster["version"], name)
            )
    cron = cluster["extensions"].get("pg_cron", [])
    if len(cron) > 1:
        problems.append(
            "Cluster %s: pg_cron lives in one database of a cluster, and %s ask for it. Keep one."
            % (cluster["id"], " and ".join(cron))
        )
    return problems


def _setting_problems(cluster: Mapping[str, Any]) -> list[str]:
    problems = [
        "Cluster %s: setting %s is written by the role. Use %s instead of postgres_settings."
        % (cluster["id"], name, MANAGED[name])
        for name in cluster["overrides"]
        if name in MANAGED
    ]
    if not 1 <= cluster["port"] <= 65535:
        problems.append("Cluster %s: %s is no port." % (cluster["id"], cluster["port"]))
    try:
        words = list(_start_problems(cluster["settings"]))
    except ValueError as exc:
        words = ["%s." % exc]
    return problems + ["Cluster %s: %s" % (cluster["id"], item) for item in words]


def _start_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """Say which settings, each right by itself, together keep a server from starting or the role from reaching it."""
    connections = connection_count(settings.get("max_connections", 100))
    reserved = _whole(settings, "superuser_reserved_connections", 3) + _whole(settings, "reserved_connections", 0)
    senders = _whole(settings, "max_wal_senders", 10)
    if reserved >= connections:
        yield (
            "max_connections is %d, and %d of them are reserved; the server would not start. Raise max_connections."
            % (connections, reserved)
        )
    archiving = setting_text("archive_mode", settings.get("archive_mode", "off")).strip("'") != "off"
    if settings.get("wal_level") == "minimal" and (senders > 0 or archiving):
        yield (
            "wal_level minimal suits neither standbys nor archiving; the server would not start. Set max_wal_senders "
            "to 0 and archive_mode to off with it, or leave wal_level to the role."
        )
    for name in ("max_wal_size", "min_wal_size"):
        if setting_bytes(settings, name) < 32 * MB:
            yield "%s is %s, and a server starts with 32MB or more." % (name, settings[name])
    directories = settings.get("unix_socket_directories", SOCKET_DIRECTORY)
    if SOCKET_DIRECTORY not in re.split(r"\s*,\s*", setting_text("unix_socket_directories", directories).strip("'")):
        yield "unix_socket_directories must hold %s, where the role logs in." % SOCKET_DIRECTORY


def _whole(settings: Mapping[str, Any], name: str, default: int) -> int:
    value = str(settings.get(name, default)).strip()
    if not re.match(r"-?[0-9]+\Z", value):
        raise ValueError("%s: %r is no whole number" % (name, value))
    return int(value)


def _host_problems(
    cluster: Mapping[str, Any],
    *,
    found: Sequence[Mapping[str, str]],
    state: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> list[str]:
    """Compare one cluster with what is on the host."""
    own = next((item for item in found if item["id"] == cluster["id"]), None)
    directories = _directories(state)
    identity = (state.get("identities") or {}).get(cluster["id"]) or {}
    inside = directories.get(cluster["data_dir"]) or []
    if own is None:
        # A whole copy of the right primary that was not adopted yet: the next run goes on with it.
        copied = "standby.signal" in inside and identity and identity["own"] == identity["primary"]
        return _new_cluster_problems(cluster, found=found, state=state, inside=[] if copied else inside)
    problems = []
    if own["data_dir"] != cluster["data_dir"]:
        problems.append(
            "Cluster %s lives in %s, not in %s. Name its own directory; this role moves no data."
            % (cluster["id"], own["data_dir"], cluster["data_dir"])
        )
    if own["port"] != str(cluster["port"]) and not defaults["change_port"]:
        problems.append(
            "Cluster %s is there with port %s, and %s is asked for: every client would lose it. Name port %s, give the "
            "new cluster another name, or set postgres_change_port to true to move it."
            % (cluster["id"], own["port"], cluster["port"], own["port"])
        )
    elif own["port"] != str(cluster["port"]):
        problems += _port_problems(cluster, found=found, state=state)
    # pg_control is written last by initdb, and PG_VERSION is what pg_ctlcluster asks for.
    if "PG_VERSION" not in inside or "pg_control" not in directories.get(cluster["data_dir"] + "/global", []):
        problems.append(
            "Cluster %s: %s is there, but %s holds no complete cluster; an earlier run did not finish. If nobody needs "
            "it: pg_dropcluster %s %s, then run again."
            % (cluster["id"], cluster["conf_dir"], cluster["data_dir"], cluster["version"], cluster["name"])
        )
    elif cluster["replica"] and "standby.signal" not in inside:
        problems.append(
            "Cluster %s: %s holds a cluster that is no standby, such as a promoted one, and nothing is overwritten. If "
            "nobody needs it: pg_dropcluster --stop %s %s, then run again."
            % (cluster["id"], cluster["data_dir"], cluster["version"], cluster["name"])
        )
    elif cluster["replica"] and identity.get("own") != identity.get("primary"):
        problems.append(
            "Cluster %s: %s is a standby of another cluster (system identifier %s, and the primary %s has %s), and "
            "nothing is overwritten. If nobody needs it: pg_dropcluster --stop %s %s, then run again."
            % (
                cluster["id"],
                cluster["data_dir"],
                identity.get("own"),
                defaults["primary_host"],
                identity.get("primary"),
                cluster["version"],
                cluster["name"],
            )
        )
    elif not cluster["replica"] and "standby.signal" in inside:
        problems.append(
            "Cluster %s is a standby, and a primary is asked for. Promotion is never automatic: pg_ctlcluster %s %s "
            "promote, when the old primary is surely gone." % (cluster["id"], cluster["version"], cluster["name"])
        )
    return problems


def _new_cluster_problems(
    cluster: Mapping[str, Any], *, found: Sequence[Mapping[str, str]], state: Mapping[str, Any], inside: Sequence[str]
) -> list[str]:
    problems = []
    if list(inside) == ["lost+found"]:
        problems.append(
            "Cluster %s: its data directory %s is the root of a file system. Name a directory below it as data_dir."
            % (cluster["id"], cluster["data_dir"])
        )
    elif inside:
        problems.append(
            "Cluster %s: its data directory %s is not empty (%s) and belongs to no cluster of this host. Move it away "
            "if anybody may need it, or name another data_dir."
            % (cluster["id"], cluster["data_dir"], ", ".join(sorted(inside)[:5]))
        )
    if cluster["conf_dir"] in _directories(state):
        problems.append(
            "Cluster %s: %s is there without a usable cluster; an earlier run did not finish. Look into it, move it "
            "away, and run again." % (cluster["id"], cluster["conf_dir"])
        )
    return problems + _port_problems(cluster, found=found, state=state)


def _port_problems(
    cluster: Mapping[str, Any], *, found: Sequence[Mapping[str, str]], state: Mapping[str, Any]
) -> list[str]:
    owners = [item["id"] for item in found if item["port"] == str(cluster["port"])]
    if owners:
        return [
            "Cluster %s: port %s belongs to cluster %s of this host. Choose another port."
            % (cluster["id"], cluster["port"], owners[0])
        ]
    if int(cluster["port"]) in (state.get("listening") or []):
        return [
            "Cluster %s: something else listens on port %s. Stop it, or choose another port."
            % (cluster["id"], cluster["port"])
        ]
    return []


def memory_problems(
    plan: Sequence[Mapping[str, Any]], *, facts: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Compare the memory that all clusters may take with what the host has."""
    host_mb, planned_mb = int(facts["memtotal_mb"]), int(defaults["memory_mb"])
    if not 0 <= planned_mb <= host_mb:
        return [
            "postgres_memory_mb is %d, and the host has %d MB. Lower it, or leave it to the role."
            % (planned_mb, host_mb)
        ]
    memory = (planned_mb or host_mb) * MB
    limit = "postgres_memory_mb is %d" % planned_mb if planned_mb else "the host has %d MB" % host_mb
    total, shares, problems = 0, [], []
    for cluster in plan:
        settings = cluster["settings"]
        try:
            shared = setting_bytes(settings, "shared_buffers")
            connections = connection_count(settings.get("max_connections", 100))
            work = setting_bytes(settings, "work_mem") * connections
            upkeep = _upkeep_bytes(settings)
            cache = setting_bytes(settings, "effective_cache_size")
        except ValueError as exc:
            return ["Cluster %s: %s." % (cluster["id"], exc)]
        total += shared + work + upkeep
        shares.append(
            "cluster %s: shared_buffers %d MB, %s connections x work_mem %d MB, autovacuum %d MB"
            % (cluster["id"], shared // MB, connections, work // MB, upkeep // MB)
        )
        # It takes no memory, and is a mistake only where somebody chose it.
        if cache > memory and "effective_cache_size" in cluster["overrides"] and "effective_cache_size" in settings:
            problems.append(
                "Cluster %s: effective_cache_size is %d MB, and %s. Lower it, or leave it to the role."
                % (cluster["id"], cache // MB, limit)
            )
    if total > memory:
        chosen = sorted({name for cluster in plan for name in cluster["overrides"] if name in SIZES})
        problems.insert(
            0,
            "The memory settings add up to %d MB, and %s (%s). %s"
            % (
                total // MB,
                limit,
                "; ".join(shares),
                "Lower them, or leave %s to the role." % ", ".join(chosen)
                if chosen
                else "Lower max_connections, or have more memory.",
            ),
        )
    return problems


def _upkeep_bytes(settings: Mapping[str, Any]) -> int:
    """Return what all workers of autovacuum may take together."""
    each = setting_bytes(settings, "maintenance_work_mem")
    own = str(settings.get("autovacuum_work_mem", "-1")).strip()
    if own != "-1":
        each = size_bytes(own, unit="kB")
    return each * _whole(settings, "autovacuum_max_workers", 3)


def _tls_problems(
    plan: Sequence[Mapping[str, Any]], *, defaults: Mapping[str, Any], certificate: Mapping[str, Any]
) -> list[str]:
    problems = []
    path, key = defaults.get("tls_certificate") or "", defaults.get("tls_key") or ""
    for cluster in plan:
        outside = [item for item in cluster["listen_addresses"] if item not in ("localhost", "127.0.0.1", "::1", "")]
        if not path and (outside or any(line.startswith("hostssl ") for line in cluster["hba"])):
            problems.append(
                "Cluster %s: clients come over the network, and there is no certificate. Set postgres_tls_certificate "
                "and postgres_tls_key." % cluster["id"]
            )
        certified = any(
            rule.get("method") == "cert" or str(rule.get("client_certificate") or "none") != "none"
            for rule in cluster["access"]
        )
        if certified and not defaults.get("tls_ca"):
            problems.append(
                "Cluster %s: client certificates are asked for, and no authority is named. Set postgres_tls_ca."
                % cluster["id"]
            )
    if bool(path) != bool(key):
        problems.append("A certificate needs its key: set both postgres_tls_certificate and postgres_tls_key.")
    if path and key:
        if certificate.get("error"):
            problems.append("Certificate %s with key %s: %s" % (path, key, certificate["error"]))
        elif certificate:
            problems += _certificate_problems(path, key, certificate)
    return problems


def _certificate_problems(path: str, key: str, certificate: Mapping[str, Any]) -> list[str]:
    problems = []
    if certificate["certificate_key"].strip() != certificate["public_key"].strip():
        problems.append(
            "Certificate %s does not belong to key %s. Name the pair that was issued together." % (path, key)
        )
    mode, owner = int(str(certificate.get("key_mode") or "0600"), 8), str(certificate.get("key_owner") or "postgres")
    # What the server itself demands before it starts (ssl-tcp.html).
    if owner not in ("root", "postgres") or mode & (0o037 if owner == "root" else 0o077):
        problems.append(
            "Key %s belongs to %s with mode %04o, and PostgreSQL would not start with it. Make it 0600 of postgres, or "
            "0640 of root with group ssl-cert." % (key, owner, mode)
        )
    now = datetime.datetime.fromisoformat(str(certificate["now"]).replace("Z", "+00:00")).replace(tzinfo=None)
    for field, wrong, words in (("not_after", -1, "expired on"), ("not_before", 1, "is not valid before")):
        moment = datetime.datetime.strptime(certificate[field], "%b %d %H:%M:%S %Y GMT")
        if (moment - now).total_seconds() * wrong > 0:
            problems.append("Certificate %s %s %s. Renew it first." % (path, words, certificate[field]))
    if certificate.get("chain"):
        problems.append("Certificate %s is not of the authority in postgres_tls_ca: %s" % (path, certificate["chain"]))
    return problems
