# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role postgres is asked for: every cluster with all that its files say."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.postgres.plugins.plugin_utils._hba import hba_lines, ident_line, listed
from ansible_collections.holdfast.postgres.plugins.plugin_utils._tuning import postgres_tuning, size_bytes

# Extensions in the server's own package on Debian (which holds contrib since PostgreSQL 10).
_CONTRIB = """
amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance file_fdw fuzzystrmatch
hstore insert_username intagg intarray isn lo ltree moddatetime old_snapshot pageinspect pg_buffercache
pg_freespacemap pg_logicalinspect pg_prewarm pg_stat_statements pg_surgery pg_trgm pg_visibility pg_walinspect
pgcrypto pgrowlocks pgstattuple plpgsql postgres_fdw refint seg sslinfo tablefunc tcn tsm_system_rows tsm_system_time
unaccent uuid-ossp xml2
"""
CONTRIB = frozenset(_CONTRIB.split())
# Those of them that not every version has: from, and up to.
CONTRIB_IN = {
    "old_snapshot": (14, 16),
    "pg_surgery": (14, 99),
    "pg_walinspect": (15, 99),
    "pg_logicalinspect": (18, 99),
}
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
    given = listed(clusters, "postgres_clusters")
    return [
        _cluster(_mapping(item, "postgres_clusters"), facts=facts, defaults=defaults, count=len(given))
        for item in given
    ]


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
    where = "cluster %s/%s" % (version, name)
    data_dir = posixpath.normpath(str(given.get("data_dir") or "/var/lib/postgresql/%s/%s" % (version, name)))
    if not re.match(r"/[^\s/]", data_dir) or re.search(r"\s", data_dir):
        # pg_lsclusters, which says what is there, prints columns.
        raise ValueError("%s: data_dir %r is no absolute path without spaces" % (where, given["data_dir"]))
    conf_dir = "/etc/postgresql/%s/%s" % (version, name)

    def own(key: str) -> list[Any]:
        return listed(given.get(key, defaults[key]), "%s, %s" % (where, key))

    for key in ("roles", "privileges"):
        listed(given.get(key, []), "%s, %s" % (where, key))
    databases = [_mapping(item, where + ", databases", needs="name") for item in own("databases")]
    addresses = [str(item) for item in own("listen_addresses")]
    plan: dict[str, Any] = {
        "id": "%s/%s" % (version, name),
        "version": version,
        "name": name,
        "port": _port(defaults["port"] if given.get("port") in (None, "") else given["port"], where),
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
        "extensions": _extensions(databases, where),
        "databases": [str(item["name"]) for item in databases],
    }
    sources = listed(defaults.get("replication_sources") or [], "postgres_replication_sources")
    standbys = {"databases": ["replication"], "users": [defaults["replication_role"]], "sources": sources}
    plan["access"] = own("access")
    plan["hba"] = hba_lines(plan["access"], standbys=standbys if sources else None)
    plan["ident"] = [ident_line(entry) for entry in own("ident")]
    maps = {str(entry["map"]) for entry in own("ident")}
    for rule in plan["access"]:
        if rule.get("map") and str(rule["map"]) not in maps:
            raise ValueError("%s, access: map %s is not in postgres_ident" % (where, rule["map"]))
    # PostgreSQL takes names in any case, and the last line of a file counts.
    overrides = {
        str(name).lower(): value
        for settings in (defaults["settings"], given.get("settings") or {})
        for name, value in _settings(settings, where).items()
    }
    if given.get("max_connections") is not None:
        overrides["max_connections"] = given["max_connections"]
    try:
        tuned = postgres_tuning(
            facts,
            {key: value for key, value in overrides.items() if value is not None},
            max_connections=defaults["max_connections"],
            memory_mb=int(defaults["memory_mb"]),
            clusters=count,
            disk=str(defaults["disk"]),
            data_dir=data_dir,
        )
    except ValueError as exc:
        raise ValueError("%s, settings: %s" % (where, exc)) from None
    plan["overrides"] = sorted(overrides)
    settings = {**_base_settings(plan, defaults), **tuned}
    # A null leaves a setting to PostgreSQL.
    plan["settings"] = {name: value for name, value in settings.items() if overrides.get(name, value) is not None}
    libraries = _libraries(overrides.get("shared_preload_libraries"))
    libraries += [
        PRELOADED[item] for item in plan["extensions"] if item in PRELOADED and PRELOADED[item] not in libraries
    ]
    plan["settings"]["shared_preload_libraries"] = ",".join(libraries)
    packages = {**PACKAGES, **defaults["extension_packages"]}
    # A library that is preloaded must be there, or the server does not start.
    wanted = [*plan["extensions"], *(name for name in libraries if name not in plan["extensions"])]
    plan["packages"] = ["postgresql-" + version]
    plan["packages"] += [packages[name].replace("%s", version) for name in wanted if name in packages]
    plan["lines"] = {name: setting_text(name, value) for name, value in sorted(plan["settings"].items())}
    return plan


def _mapping(value: Any, where: str, *, needs: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("%s: every item is a mapping, such as {name: main}" % where)
    if needs and not value.get(needs):
        raise ValueError("%s: one has no %s" % (where, needs))
    return dict(value)


def _settings(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("%s: settings are a mapping of names to values" % where)
    return value


def _port(value: Any, where: str) -> int:
    if not re.match(r"[0-9]+\Z", str(value)):
        raise ValueError("%s: %r is no port" % (where, value))
    return int(value)


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
    if int(plan["version"]) >= 13:
        settings["max_slot_wal_keep_size"] = defaults["max_slot_wal_keep_size"]
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


def _extensions(databases: Iterable[Mapping[str, Any]], where: str) -> dict[str, list[str]]:
    """Return the databases of every extension that is asked for."""
    found: dict[str, list[str]] = {}
    for database in databases:
        place = "%s, extensions of database %s" % (where, database["name"])
        for item in listed(database.get("extensions") or [], place):
            name = _mapping(item, place, needs="name")["name"] if isinstance(item, Mapping) else item
            found.setdefault(str(name), []).append(str(database["name"]))
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
    if isinstance(value, Mapping):
        raise ValueError("setting %s: %r is no value" % (name, dict(value)))
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


# What pg_settings.unit says, in the smallest unit of its kind.
_TIMES = {"us": 1, "ms": 1000, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_TIME = re.compile(r"\s*(-?[0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|min|h|d)?\s*\Z")


_SWITCH = {"on": "on", "true": "on", "yes": "on", "1": "on", "off": "off", "false": "off", "no": "off", "0": "off"}


def _same(row: Mapping[str, Any], text: str) -> bool:
    wanted = text[1:-1].replace("''", "'").replace("\\\\", "\\") if text.startswith("'") else text
    setting, unit = str(row["setting"]), str(row.get("unit") or "")
    if row["vartype"] in ("bool", "enum"):
        return _SWITCH.get(wanted.lower(), wanted.lower()) == setting.lower()
    if row["vartype"] in ("integer", "real") and wanted != setting:
        steps = _steps(wanted, unit)
        return steps is not None and steps == _steps(setting, unit)
    return wanted == setting


def _steps(text: str, unit: str) -> float | None:
    """Return a number in whole steps of its unit, to which PostgreSQL rounds; None for what is no number."""
    try:
        if unit.endswith("B"):
            return round(size_bytes(text, unit=unit) / size_bytes("1", unit=unit))
        time = _TIME.match(text) if unit in _TIMES else None
        if time:
            return round(float(time.group(1)) * _TIMES[time.group(2) or unit] / _TIMES[unit])
        return float(text)
    except ValueError:
        return None
