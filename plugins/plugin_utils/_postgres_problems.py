# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What speaks against touching a host, each with what to do."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres import CONTRIB, PACKAGES
from ansible_collections.holdfast.postgres.plugins.plugin_utils._tuning import MB, size_bytes

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
    ``not_after`` as openssl prints them, ``now`` in ISO 8601, ``chain`` or ``error`` with openssl's words, and
    ``identities`` of standbys that are there: ``own`` and ``primary``, the system identifiers.
    """
    found = [_existing(line) for line in state.get("clusters") or [] if line.strip()]
    problems: list[str] = []
    for number, cluster in enumerate(plan):
        problems += _version_problems(cluster, defaults=defaults, packaged=packaged)
        problems += _extension_problems(cluster, defaults=defaults)
        problems += _setting_problems(cluster, defaults=defaults)
        problems += _host_problems(cluster, found=found, state=state, defaults=defaults)
        for other in plan[:number]:
            for key, what in (("id", "version and name"), ("port", "port"), ("data_dir", "data directory")):
                if cluster[key] == other[key]:
                    problems.append(
                        "Clusters %s and %s share the %s %s. Give each its own."
                        % (other["id"], cluster["id"], what, cluster[key])
                    )
    problems += [
        "Role %s: community.postgresql cannot write names with a double quote or a percent sign. Choose another." % name
        for name in defaults["role_names"]
        if re.search('["%]', str(name))
    ]
    problems += memory_problems(plan, facts=facts, defaults=defaults)
    problems += _tls_problems(plan, defaults=defaults, certificate=state.get("certificate") or {})
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
    cron = cluster["extensions"].get("pg_cron", [])
    if len(cron) > 1:
        problems.append(
            "Cluster %s: pg_cron lives in one database of a cluster, and %s ask for it. Keep one."
            % (cluster["id"], " and ".join(cron))
        )
    return problems


def _setting_problems(cluster: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> list[str]:
    problems = [
        "Cluster %s: setting %s is written by the role. Use %s instead of postgres_settings."
        % (cluster["id"], name, MANAGED[name])
        for name in cluster["overrides"]
        if name in MANAGED
    ]
    slot = str(defaults["replication_slot"])
    if cluster["replica"] and not re.match(r"[a-z0-9_]{1,63}\Z", slot):
        problems.append(
            "Cluster %s: %r is no name for the slot of a standby; it has lower-case letters, digits and underscores. "
            "Set postgres_replication_slot." % (cluster["id"], slot)
        )
    if not 1 <= cluster["port"] <= 65535:
        problems.append("Cluster %s: %s is no port." % (cluster["id"], cluster["port"]))
    return problems


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
    if inside:
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
    owners = [item["id"] for item in found if item["port"] == str(cluster["port"])]
    if owners:
        problems.append(
            "Cluster %s: port %s belongs to cluster %s of this host. Choose another port."
            % (cluster["id"], cluster["port"], owners[0])
        )
    elif int(cluster["port"]) in (state.get("listening") or []):
        problems.append(
            "Cluster %s: something else listens on port %s. Stop it, or choose another port."
            % (cluster["id"], cluster["port"])
        )
    return problems


def memory_problems(
    plan: Sequence[Mapping[str, Any]], *, facts: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Compare the memory that all clusters may take with what the host has."""
    memory = (int(defaults["memory_mb"]) or int(facts["memtotal_mb"])) * MB
    total, shares = 0, []
    for cluster in plan:
        settings = cluster["settings"]
        try:
            shared = size_bytes(settings["shared_buffers"], unit="8kB")
            work = size_bytes(settings["work_mem"], unit="kB") * int(settings["max_connections"])
            upkeep = size_bytes(settings["maintenance_work_mem"], unit="kB") * int(
                settings.get("autovacuum_max_workers", 3)
            )
            cache = size_bytes(settings["effective_cache_size"], unit="8kB")
        except ValueError as exc:
            return ["Cluster %s: %s." % (cluster["id"], exc)]
        total += shared + work + upkeep
        shares.append(
            "cluster %s: shared_buffers %d MB, %s connections x work_mem %d MB, autovacuum %d MB"
            % (cluster["id"], shared // MB, settings["max_connections"], work // MB, upkeep // MB)
        )
        if cache > memory:
            shares.append(
                "cluster %s: effective_cache_size %d MB is more than the host has" % (cluster["id"], cache // MB)
            )
            total = max(total, cache)
    if total <= memory:
        return []
    return [
        "The memory settings add up to %d MB, and the host has %d MB (%s). Lower them, or leave them to the role."
        % (total // MB, memory // MB, "; ".join(shares))
    ]


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
        if not defaults.get("tls_ca") and any(re.search(r" cert\b| clientcert=", line) for line in cluster["hba"]):
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
    now = datetime.datetime.fromisoformat(str(certificate["now"]).replace("Z", "+00:00")).replace(tzinfo=None)
    for field, wrong, words in (("not_after", -1, "expired on"), ("not_before", 1, "is not valid before")):
        moment = datetime.datetime.strptime(certificate[field], "%b %d %H:%M:%S %Y GMT")
        if (moment - now).total_seconds() * wrong > 0:
            problems.append("Certificate %s %s %s. Renew it first." % (path, words, certificate[field]))
    if certificate.get("chain"):
        problems.append("Certificate %s is not of the authority in postgres_tls_ca: %s" % (path, certificate["chain"]))
    return problems
