# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role postgres is asked for: every cluster with all that its files say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.postgres.plugins.plugin_utils._hba import hba_lines, ident_line
from ansible_collections.holdfast.postgres.plugins.plugin_utils._tuning import postgres_tuning, size_bytes

# Extensions in the server's own package on Debian (which holds contrib since PostgreSQL 10).
_CONTRIB = """
amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance file_fdw fuzzystrmatch
hstore insert_username intagg intarray isn lo ltree moddatetime pageinspect pg_buffercache pg_freespacemap pg_prewarm
pg_stat_statements pg_surgery pg_trgm pg_visibility pg_walinspect pgcrypto pgrowlocks pgstattuple plpgsql postgres_fdw
refint seg sslinfo tablefunc tcn tsm_system_rows tsm_system_time unaccent uuid-ossp xml2
"""
CONTRIB = frozenset(_CONTRIB.split())
PACKAGES = {
    "hll": "postgresql-%s-hll",
    "hypopg": "postgresql-%s-hypopg",
    "pg_cron": "postgresql-%s-cron",
    "pg_partman": "postgresql-%s-partman",
    "pg_repack": "postgresql-%s-repack",
    "pgaudit": "postgresql-%s-pgaudit",
    "pgtap": "postgresql-%s-pgtap",
    "plperl": "postgresql-plperl-%s",
    "plpython3u": "postgresql-plpython3-%s",
    "postgis": "postgresql-%s-postgis-3",
    "vector": "postgresql-%s-pgvector",
}
PRELOADED = {"pg_cron": "pg_cron", "pg_stat_statements": "pg_stat_statements", "pgaudit": "pgaudit"}
# A standby refuses to start, or stops replaying, when one of these is lower than on its primary (hot-standby.html).
FLOORS = {
    "max_connections": "max_connections",
    "max_worker_processes": "max_worker_processes",
    "max_wal_senders": "max_wal_senders",
    "max_prepared_xacts": "max_prepared_transactions",
    "max_locks_per_xact": "max_locks_per_transaction",
}
_KEYS = """
access data_dir databases encoding ident listen_addresses locale max_connections name port privileges roles settings
version
"""
KEYS = frozenset(_KEYS.split())


def postgres_plan(
    clusters: Sequence[Mapping[str, Any]], *, facts: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return every cluster with all that its files say; no password is in it.

    `defaults` are the role's variables without their prefix. Raises `ValueError` for what cannot be written at all.
    """
    return [_cluster(dict(given), facts=facts, defaults=defaults, count=len(clusters)) for given in clusters]


def _cluster(
    given: dict[str, Any], *, facts: Mapping[str, Any], defaults: Mapping[str, Any], count: int
) -> dict[str, Any]:
    unknown = sorted(set(given) - KEYS)
    if unknown:
        raise ValueError(
            "postgres_clusters: unknown key %s; there are %s" % (", ".join(unknown), ", ".join(sorted(KEYS)))
        )
    version, name = str(given.get("version") or defaults["version"]), str(given.get("name") or "main")
    if not re.match(r"[0-9]+\Z", version):
        raise ValueError(
            "cluster %s: %r is no major version of PostgreSQL; name it in postgres_version" % (name, version)
        )
    if not re.match(r"[A-Za-z0-9_][A-Za-z0-9_.]*\Z", name):
        # A dash would be taken for the end of the version in the unit's name.
        raise ValueError("cluster name %r: letters, digits, underscores and dots only" % name)
    data_dir = str(given.get("data_dir") or "/var/lib/postgresql/%s/%s" % (version, name)).rstrip("/")
    conf_dir = "/etc/postgresql/%s/%s" % (version, name)
    databases = [dict(item) for item in given.get("databases", defaults["databases"])]
    addresses = [str(item) for item in given.get("listen_addresses", defaults["listen_addresses"])]
    plan: dict[str, Any] = {
        "id": "%s/%s" % (version, name),
        "version": version,
        "name": name,
        "port": int(given.get("port") or defaults["port"]),
        "data_dir": data_dir,
        "conf_dir": conf_dir,
        "unit": "postgresql@%s-%s.service" % (version, name),
        "bin_dir": "/usr/lib/postgresql/%s/bin" % version,
        # Where a standby keeps what it logs in to its primary with; it is there before the cluster is.
        "login_file": "/var/lib/postgresql/replication/%s-%s" % (version, name),
        "encoding": str(given.get("encoding") or defaults["encoding"]),
        "locale": str(given.get("locale") or defaults["locale"]),
        "listen_addresses": addresses,
        "replica": bool(defaults.get("primary_host")),
        "tls": bool(defaults.get("tls_certificate")),
        "extensions": _extensions(databases),
        "databases": [str(item["name"]) for item in databases],
    }
    packages = {**PACKAGES, **defaults["extension_packages"]}
    plan["packages"] = ["postgresql-" + version]
    plan["packages"] += [packages[item].replace("%s", version) for item in plan["extensions"] if item in packages]
    access = [dict(rule) for rule in given.get("access", defaults["access"])]
    sources = list(defaults.get("replication_sources") or [])
    if sources:
        replication = {"databases": ["replication"], "users": [defaults["replication_role"]], "sources": sources}
        access.insert(0, replication)
    plan["access"] = access
    plan["hba"] = hba_lines(access)
    plan["ident"] = [ident_line(entry) for entry in given.get("ident", defaults["ident"])]
    overrides = {**defaults["settings"], **given.get("settings", {})}
    if given.get("max_connections"):
        overrides["max_connections"] = given["max_connections"]
    tuned = postgres_tuning(
        facts,
        {key: value for key, value in overrides.items() if value is not None},
        max_connections=int(defaults["max_connections"]),
        memory_mb=int(defaults["memory_mb"]),
        clusters=count,
        disk=str(defaults["disk"]),
        data_dir=data_dir,
    )
    plan["overrides"] = sorted(overrides)
    settings = {**_base_settings(plan, defaults), **tuned}
    # A null leaves a setting to PostgreSQL.
    plan["settings"] = {name: value for name, value in settings.items() if overrides.get(name, value) is not None}
    libraries = _libraries(overrides.get("shared_preload_libraries"))
    libraries += [
        PRELOADED[item] for item in plan["extensions"] if item in PRELOADED and PRELOADED[item] not in libraries
    ]
    plan["settings"]["shared_preload_libraries"] = ",".join(libraries)
    plan["lines"] = {name: setting_text(name, value) for name, value in sorted(plan["settings"].items())}
    return plan


def _base_settings(plan: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What every cluster gets: the network, TLS, passwords, replication, and a log fit for an audit."""
    conf_dir = plan["conf_dir"]
    settings: dict[str, Any] = {
        "port": plan["port"],
        "listen_addresses": ",".join(plan["listen_addresses"]),
        "password_encryption": "scram-sha-256",
        "ssl": plan["tls"],
        "wal_level": "replica",
        "max_wal_senders": 10,
        "max_replication_slots": 10,
        "max_slot_wal_keep_size": defaults["max_slot_wal_keep_size"],
        "hot_standby": True,
        "log_timezone": "UTC",
        "timezone": "UTC",
        # %q ends the prefix for processes without a session.
        "log_line_prefix": "%m [%p] %q%u@%d from %h app %a ",
        "log_connections": True,
        "log_disconnections": True,
        "log_statement": "ddl",
        "log_min_duration_statement": "%dms" % int(defaults["slow_statement_ms"]),
        "log_lock_waits": True,
        "log_checkpoints": True,
        "log_temp_files": "10MB",
        "log_autovacuum_min_duration": "1s",
        "log_replication_commands": True,
    }
    if plan["tls"]:
        on_host = bool(defaults["tls_on_host"])
        settings["ssl_cert_file"] = defaults["tls_certificate"] if on_host else conf_dir + "/server.crt"
        settings["ssl_key_file"] = defaults["tls_key"] if on_host else conf_dir + "/server.key"
        settings["ssl_min_protocol_version"] = defaults["tls_min_version"]
        if defaults.get("tls_ca"):
            settings["ssl_ca_file"] = defaults["tls_ca"] if on_host else conf_dir + "/ca.crt"
    if plan["locale"].split(".")[0] in ("C", "POSIX"):
        # What initdb chooses for these locales; a copied standby has no file of initdb's.
        settings["default_text_search_config"] = "pg_catalog.english"
    if plan["replica"]:
        settings["primary_conninfo"] = conninfo(plan, defaults)
        settings["primary_slot_name"] = defaults["replication_slot"]
        # Reports run for minutes; replay waits that long for them, and the primary's vacuum never does.
        settings["max_standby_streaming_delay"] = "5min"
    if "pgaudit" in plan["extensions"]:
        settings["pgaudit.log"] = "ddl,role"
        settings["pgaudit.log_catalog"] = False
    if "pg_cron" in plan["extensions"]:
        settings["cron.database_name"] = plan["extensions"]["pg_cron"][0]
        # Jobs need no login of their own, so pg_hba stays closed for them.
        settings["cron.use_background_workers"] = True
    return settings


def conninfo(plan: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return how a standby finds its primary. The password is in a file that only the server reads."""
    parts = {
        "host": defaults["primary_host"],
        "port": defaults["primary_port"],
        "user": defaults["replication_role"],
        "passfile": plan["login_file"] + ".pgpass",
        "application_name": defaults["replication_slot"],
        "sslmode": defaults["replication_sslmode"],
        # Without a certificate of the authority there is nothing to compare the primary's with.
        "sslrootcert": plan["login_file"] + ".crt" if defaults.get("tls_ca") else "",
        "connect_timeout": 10,
    }
    return " ".join(
        "%s='%s'" % (key, str(value).replace("\\", "\\\\").replace("'", "\\'"))
        for key, value in parts.items()
        if value != ""
    )


def _extensions(databases: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the databases of every extension that is asked for."""
    found: dict[str, list[str]] = {}
    for database in databases:
        for item in database.get("extensions") or []:
            name = str(item["name"] if isinstance(item, Mapping) else item)
            found.setdefault(name, []).append(str(database["name"]))
    return dict(sorted(found.items()))


def _libraries(value: Any) -> list[str]:
    items = value if isinstance(value, (list, tuple)) else str(value or "").split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def setting_text(name: str, value: Any) -> str:
    """Spell one value for postgresql.conf; quotes and backslashes are doubled (config-setting.html)."""
    if not re.match(r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)*\Z", name):
        raise ValueError("%r is no name of a setting" % name)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return str(value)
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if "\n" in text or "\r" in text:
        raise ValueError("setting %s: a value may not hold a line break" % name)
    return "'%s'" % text.replace("\\", "\\\\").replace("'", "''")


# Standby


def control_floors(text: str) -> dict[str, int]:
    """Return the settings that a standby may not undercut, from the output of ``pg_controldata``."""
    found = dict(re.findall(r"^(\w+) setting: +([0-9]+)$", str(text), flags=re.MULTILINE))
    return {name: int(found[label]) for label, name in FLOORS.items() if label in found}


def postgres_lines(cluster: Mapping[str, Any], control: str = "") -> dict[str, str]:
    """Return the settings of a cluster as they are written, none below what `control` says that a standby needs."""
    lines = dict(cluster["lines"])
    for name, floor in control_floors(control).items():
        if int(cluster["settings"].get(name, 0)) < floor and (name in cluster["settings"] or _DEFAULTS[name] < floor):
            lines[name] = str(floor)
    return dict(sorted(lines.items()))


_DEFAULTS = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}


# Restarts


def postgres_restarts(rows: Iterable[Mapping[str, Any]], lines: Mapping[str, str]) -> list[str]:
    """Return the settings among `lines` that a running server would take only after a restart.

    `rows` are those of ``pg_settings`` whose context is ``postmaster``: ``name``, ``setting``, ``unit``, ``vartype``.
    """
    return sorted(row["name"] for row in rows if row["name"] in lines and not _same(row, lines[row["name"]]))


def _same(row: Mapping[str, Any], text: str) -> bool:
    wanted = text[1:-1].replace("''", "'").replace("\\\\", "\\") if text.startswith("'") else text
    setting, unit = str(row["setting"]), str(row.get("unit") or "")
    if row["vartype"] == "bool":
        return (wanted.lower() in ("on", "true", "yes", "1")) == (setting == "on")
    if row["vartype"] in ("integer", "real"):
        if not unit or not re.search(r"B\Z", unit):
            return wanted == setting or (not unit and _number(wanted) == _number(setting))
        try:
            return size_bytes(wanted, unit=unit) == size_bytes(setting, unit=unit)
        except ValueError:
            return wanted == setting
    return wanted == setting


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
