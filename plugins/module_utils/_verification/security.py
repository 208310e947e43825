# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a database is as guarded as it is declared to be: read from the catalogs, in one read-only transaction.

Each rule returns what violates it as pairs of an object and what is wrong with it. What the role may not read is said
to be unknown instead of being passed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server, only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._core.entry import Entry
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import split_identifier_list
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.junit import (
    junit_xml,
    refuse_unwritable,
    write_junit,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import (
    check_failure,
    count_results,
    counts,
    summarize,
)

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2

#: Keys of the expectations. A rule that is not named is not checked.
RULES = (
    "row_level_security",
    "policies",
    "roles",
    "public_grants",
    "security_definer",
    "password_hashes",
    "tls",
    "extensions",
)
SEVERITIES = ("error", "warning", "info")
COMMANDS = {"r": "select", "a": "insert", "w": "update", "d": "delete", "*": "all"}
ROLE_ATTRIBUTES = {
    "superuser": "rolsuper",
    "bypassrls": "rolbypassrls",
    "createrole": "rolcreaterole",
    "createdb": "rolcreatedb",
    "replication": "rolreplication",
}
GRANT_KINDS = ("databases", "schemas", "tables", "functions")
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

#: Nobody listens between a client and a server on one host.
LOOPBACK = ("127.0.0.0/8", "::1/128")

SAMPLE = 20

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

# What an extension brought is the extension's affair.
NOT_OF_AN_EXTENSION = """
NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
             WHERE e.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass AND e.objid = {oid} AND e.deptype = 'e')
"""
OWN_SCHEMA = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"

NAMED_TABLES = """
SELECT wanted, quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind::text, c.relrowsecurity,
       c.relforcerowsecurity
  FROM unnest(%(tables)s::text[]) AS wanted
  LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(wanted)
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""

TABLES_OF_SCHEMAS = (
    """
SELECT pg_catalog.format('schema %%I', wanted), quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       c.relkind::text, c.relrowsecurity, c.relforcerowsecurity
  FROM unnest(%(schemas)s::text[]) AS wanted
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = wanted
  LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
   AND """
    + NOT_OF_AN_EXTENSION.format(catalog="pg_class", oid="c.oid")
    + " WHERE n.oid IS NULL OR c.oid IS NOT NULL"
)

POLICIES = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), p.polname::text, p.polpermissive, p.polcmd::text,
       ARRAY (SELECT CASE r WHEN 0 THEN 'public' ELSE pg_catalog.pg_get_userbyid(r)::text END
                FROM unnest(p.polroles) AS r ORDER BY 1),
       pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
       c.relrowsecurity
  FROM pg_catalog.pg_policy p
  JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1, 2
"""

# A superuser has every attribute anyway; one that is allowed is not named for each of them.
ROLES_WITH = """
SELECT rolname::text FROM pg_catalog.pg_roles
 WHERE {attribute} AND rolname <> ALL (%(allowed)s::text[])
   AND NOT (rolsuper AND rolname = ANY (%(superusers)s::text[]))
 ORDER BY 1
"""

GRANTS = {
    "databases": """
SELECT a.privilege_type || ' ' || pg_catalog.quote_ident(d.datname)
  FROM pg_catalog.pg_database d,
       pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
 WHERE a.grantee = 0 AND d.datname = pg_catalog.current_database()
""",
    "schemas": """
SELECT a.privilege_type || ' ' || pg_catalog.quote_ident(n.nspname)
  FROM pg_catalog.pg_namespace n,
       pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) a
 WHERE a.grantee = 0 AND {own_schema} AND """
    + NOT_OF_AN_EXTENSION.format(catalog="pg_namespace", oid="n.oid"),
    "tables": """
SELECT a.privilege_type || ' ' || pg_catalog.format('%I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
       pg_catalog.aclexplode(c.relacl) a
 WHERE a.grantee = 0 AND {own_schema} AND """
    + NOT_OF_AN_EXTENSION.format(catalog="pg_class", oid="c.oid")
    + """
UNION ALL
SELECT a.privilege_type || ' ' || pg_catalog.format('%I.%I(%I)', n.nspname, c.relname, t.attname)
  FROM pg_catalog.pg_attribute t
  JOIN pg_catalog.pg_class c ON c.oid = t.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
       pg_catalog.aclexplode(t.attacl) a
 WHERE a.grantee = 0 AND NOT t.attisdropped AND {own_schema} AND """
    + NOT_OF_AN_EXTENSION.format(catalog="pg_class", oid="c.oid"),
    "functions": """
SELECT a.privilege_type || ' '
       || pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.oidvectortypes(p.proargtypes))
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace,
       pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
 WHERE a.grantee = 0 AND p.prosecdef AND {own_schema} AND """
    + NOT_OF_AN_EXTENSION.format(catalog="pg_proc", oid="p.oid"),
}

DEFINER_FUNCTIONS = """
SELECT pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.oidvectortypes(p.proargtypes)),
       (SELECT substr(c, length('search_path=') + 1) FROM unnest(p.proconfig) AS c
         WHERE pg_catalog.starts_with(c, 'search_path='))
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.prosecdef AND {own_schema} AND {own}
 ORDER BY 1
"""

OPEN_SCHEMAS = """
SELECT nspname::text FROM pg_catalog.pg_namespace WHERE pg_catalog.has_schema_privilege('public', oid, 'CREATE')
"""

MAY_READ_HASHES = "SELECT pg_catalog.has_column_privilege('pg_catalog.pg_authid', 'rolpassword', 'SELECT')"

OTHER_HASHES = """
SELECT rolname::text, CASE WHEN rolpassword ~ '^md5[0-9a-f]{32}$' THEN 'md5' ELSE 'of an unknown kind' END
  FROM pg_catalog.pg_authid
 WHERE rolpassword IS NOT NULL AND NOT pg_catalog.starts_with(rolpassword, 'SCRAM-SHA-256$')
 ORDER BY 1
"""

MAY_READ_SESSIONS = "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')"

CLIENTS = """
SELECT coalesce(a.usename, '?')::text, pg_catalog.host(a.client_addr), s.ssl, s.version, pg_catalog.count(*)
  FROM pg_catalog.pg_stat_activity a
  JOIN pg_catalog.pg_stat_ssl s USING (pid)
 WHERE a.client_addr IS NOT NULL
   AND NOT a.client_addr <<= ANY (%(addresses)s::inet[])
   AND coalesce(a.usename <> ALL (%(users)s::text[]), true)
 GROUP BY 1, 2, 3, 4
 ORDER BY 1, 2, 3, 4
"""

EXTENSIONS = "SELECT extname::text, extversion FROM pg_catalog.pg_extension ORDER BY 1"


@dataclass(frozen=True)
class Violation:
    """Something that is not as declared."""

    object: str
    problem: str


@dataclass(frozen=True)
class Finding:
    """What violates a rule, and why that is not known where it is not."""

    violations: tuple[Violation, ...] = ()
    unknown: str = ""


@dataclass(frozen=True)
class Rule:
    """One question: its key in the expectations, the sentence that should hold, and how to find what violates it."""

    key: str
    name: str
    find: Callable[[Any], Finding]


@dataclass(frozen=True)
class Policy:
    """A policy of row-level security as declared or as found."""

    table: str
    name: str
    permissive: bool
    command: str
    roles: tuple[str, ...]
    using: str
    with_check: str

    @property
    def label(self) -> str:
        """The policy as messages name it."""
        return "policy %s on %s" % (self.name, self.table)


def check_security(
    *,
    server: Server,
    database: str,
    expectations: Mapping[str, Any],
    fail_on: str = "error",
    junit: str | None = None,
    write_files: bool = True,
) -> dict[str, Any]:
    """Compare the database with ``expectations`` and return the keys of a module result, shaped as those of checks.

    Raises `HoldfastError`: ``option_invalid`` before anything is read, ``check_failed`` with the same keys in its
    details when rules are violated that ``fail_on`` counts.
    """
    entry = Entry(expectations, where="expectations", keys=(*RULES, "severity"))
    severities = _severities(entry)
    rules = parse_rules(entry)
    if junit:
        refuse_unwritable(junit)
    started = time.monotonic()
    results = []
    with server.session(database) as connection, connection.cursor() as cursor:
        cursor.execute(BEGIN)
        for rule in rules:
            results.append(_result(cursor, rule, severity=severities.get(rule.key, "error")))
        cursor.execute("ROLLBACK")
    answer: dict[str, Any] = {
        "changed": False,
        "results": results,
        "duration_s": round(time.monotonic() - started, 3),
        "junit": junit,
        **count_results(results),
    }
    answer["summary"] = summarize(answer, database=database)
    if junit and write_files:
        write_junit(junit, junit_xml(results, fail_on=fail_on, name="holdfast.postgres.pg_security_check"))
    counted = [result for result in results if result["status"] == "failed" and counts(result, fail_on=fail_on)]
    if counted:
        raise check_failure(counted, answer, database=database)
    return answer


def _severities(entry: Entry) -> dict[str, str]:
    own = Entry(entry.given.get("severity", {}), where="expectations, severity", keys=RULES)
    return {key: own.choice(key, SEVERITIES) for key in own.given}


def parse_rules(entry: Entry) -> list[Rule]:
    """Return the rules that the expectations name, in the order of `RULES`; raises `HoldfastError`."""
    parsers: Mapping[str, Callable[[Entry], list[Rule]]] = {
        "row_level_security": _row_level_security,
        "policies": _policies,
        "roles": _roles,
        "public_grants": _public_grants,
        "security_definer": _security_definer,
        "password_hashes": _password_hashes,
        "tls": _tls,
        "extensions": _extensions,
    }
    rules = [rule for key in RULES if key in entry.given for rule in parsers[key](entry)]
    if not rules:
        raise HoldfastError(
            code="option_invalid",
            msg="The expectations name no rule, so nothing would be checked.",
            hint="Rules are %s." % ", ".join(RULES),
        )
    return rules


def _inner(entry: Entry, key: str, keys: Sequence[str]) -> Entry:
    return Entry(entry.given[key], where="%s, %s" % (entry.where, key), keys=keys)


def _found(violations: Sequence[Violation]) -> Finding:
    return Finding(tuple(violations))


# Row-level security


def _row_level_security(entry: Entry) -> list[Rule]:
    inner = _inner(entry, "row_level_security", ("tables", "schemas", "exempt", "forced"))
    tables, schemas, exempt = (inner.texts(key) for key in ("tables", "schemas", "exempt"))
    forced = inner.flag("forced", True)
    if not tables and not schemas:
        raise inner.refusal("tables", "neither tables nor schemas are named.")

    def find(cursor: Any) -> Finding:
        cursor.execute(NAMED_TABLES, {"tables": list(exempt)})
        exempted = {row[1] for row in cursor.fetchall() if row[1] is not None}
        cursor.execute(NAMED_TABLES, {"tables": list(tables)})
        rows = cursor.fetchall()
        cursor.execute(TABLES_OF_SCHEMAS, {"schemas": list(schemas)})
        rows += cursor.fetchall()
        violations: dict[str, Violation] = {}
        for wanted, name, kind, enabled, is_forced in rows:
            if name in exempted:
                continue
            if name is None or kind is None:
                violations[wanted] = Violation(wanted, "does not exist")
            elif kind not in ("r", "p"):
                violations[name] = Violation(name, "is no table")
            elif not enabled:
                violations[name] = Violation(name, "row-level security is not enabled")
            elif forced and not is_forced:
                violations[name] = Violation(name, "row-level security is not forced, so its owner sees every row")
        return _found([violations[name] for name in sorted(violations)])

    return [Rule("row_level_security", "row-level security is %s" % ("forced" if forced else "enabled"), find)]


def _policies(entry: Entry) -> list[Rule]:
    declared = []
    for position, given in enumerate(entry.entries("policies"), start=1):
        inner = Entry(
            given,
            where="%s, policy %d" % (entry.where, position),
            keys=("table", "name", "command", "roles", "permissive", "using", "with_check"),
        )
        declared.append(
            Policy(
                table=inner.text("table"),
                name=inner.text("name"),
                permissive=inner.flag("permissive", True),
                command=inner.choice("command", tuple(COMMANDS.values()), "all"),
                roles=tuple(sorted(inner.texts("roles"))) or ("public",),
                using=inner.text("using", ""),
                with_check=inner.text("with_check", ""),
            )
        )

    def find(cursor: Any) -> Finding:
        cursor.execute(NAMED_TABLES, {"tables": list(dict.fromkeys(policy.table for policy in declared))})
        names = {row[0]: row[1] for row in cursor.fetchall()}
        # Expressions are shown with the names of schemas, whatever the search path of the role.
        cursor.execute("SELECT pg_catalog.set_config('search_path', '', true)")
        cursor.execute(POLICIES)
        found, sleeping = {}, []
        for table, name, permissive, command, roles, using, with_check, enabled in cursor.fetchall():
            policy = Policy(
                table, name, permissive, COMMANDS[command], tuple(sorted(roles)), using or "", with_check or ""
            )
            found[table, name] = policy
            if not enabled:
                sleeping.append(Violation(policy.label, "has no effect, as row-level security is not enabled"))
        violations = []
        wanted = {}
        for policy in declared:
            if names.get(policy.table) is None:
                violations.append(Violation(policy.label, "the table does not exist"))
            else:
                wanted[names[policy.table], policy.name] = policy
        return _found([*violations, *compare_policies(wanted, found), *sleeping])

    return [Rule("policies", "policies are as declared", find)]


def compare_policies(
    declared: Mapping[tuple[str, str], Policy], found: Mapping[tuple[str, str], Policy]
) -> list[Violation]:
    """Return what differs between policies by table and name: missing, not declared, and each unequal attribute."""
    violations = []
    for key in sorted({*declared, *found}):
        wanted, actual = declared.get(key), found.get(key)
        if wanted is None and actual is not None:
            violations.append(Violation(actual.label, "is not declared"))
        elif actual is None and wanted is not None:
            violations.append(Violation(wanted.label, "is missing"))
        elif wanted is not None and actual is not None:
            pairs = (
                ("the command", wanted.command, actual.command),
                ("it", _kind(wanted), _kind(actual)),
                ("the roles", ", ".join(wanted.roles), ", ".join(actual.roles)),
                ("USING", normalized(wanted.using), normalized(actual.using)),
                ("WITH CHECK", normalized(wanted.with_check), normalized(actual.with_check)),
            )
            differences = [
                "%s is %s, declared %s" % (word, there or "absent", here or "absent")
                for word, here, there in pairs
                if here != there
            ]
            violations.extend(Violation(actual.label, difference) for difference in differences)
    return violations


def _kind(policy: Policy) -> str:
    return "permissive" if policy.permissive else "restrictive"


def normalized(expression: str) -> str:
    """Return an expression with white space outside quotes made single and without parentheses around the whole."""
    parts, quote, blank = [], "", False
    for character in expression.strip():
        if not quote and character.isspace():
            blank = True
            continue
        if blank:
            parts.append(" ")
            blank = False
        parts.append(character)
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
    text = "".join(parts)
    return normalized(text[1:-1]) if _enclosed(text) else text


def _enclosed(text: str) -> bool:
    """Whether the first parenthesis is closed by the last character."""
    if not text.startswith("(") or not text.endswith(")"):
        return False
    depth, quote = 0, ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "()":
            depth += 1 if character == "(" else -1
            if not depth and position < len(text) - 1:
                return False
    return depth == 0 and not quote


# Roles and grants


def _roles(entry: Entry) -> list[Rule]:
    inner = _inner(entry, "roles", tuple(ROLE_ATTRIBUTES))
    superusers = inner.texts("superuser")

    def rule(attribute: str, allowed: Sequence[str]) -> Rule:
        def find(cursor: Any) -> Finding:
            cursor.execute(
                ROLES_WITH.format(attribute=ROLE_ATTRIBUTES[attribute]),
                {"allowed": list(allowed), "superusers": [] if attribute == "superuser" else list(superusers)},
            )
            return _found([Violation("role " + row[0], "has %s" % attribute.upper()) for row in cursor.fetchall()])

        return Rule("roles", "only listed roles have %s" % attribute, find)

    return [rule(attribute, inner.texts(attribute)) for attribute in ROLE_ATTRIBUTES if attribute in inner.given]


def _public_grants(entry: Entry) -> list[Rule]:
    inner = _inner(entry, "public_grants", GRANT_KINDS)

    def rule(kind: str, allowed: Sequence[str]) -> Rule:
        def find(cursor: Any) -> Finding:
            cursor.execute(GRANTS[kind].format(own_schema=OWN_SCHEMA))
            grants = sorted({str(row[0]) for row in cursor.fetchall()} - set(allowed))
            return _found([Violation(grant, "is granted to PUBLIC") for grant in grants])

        what = "functions of security definer" if kind == "functions" else kind
        return Rule("public_grants", "PUBLIC has only listed privileges on %s" % what, find)

    return [rule(kind, inner.texts(kind)) for kind in GRANT_KINDS if kind in inner.given]


def _security_definer(entry: Entry) -> list[Rule]:
    inner = _inner(entry, "security_definer", ("exempt", "pg_temp_last"))
    exempt, temp_last = set(inner.texts("exempt")), inner.flag("pg_temp_last", True)

    def find(cursor: Any) -> Finding:
        cursor.execute(OPEN_SCHEMAS)
        writable = {str(row[0]) for row in cursor.fetchall()}
        own = NOT_OF_AN_EXTENSION.format(catalog="pg_proc", oid="p.oid")
        cursor.execute(DEFINER_FUNCTIONS.format(own_schema=OWN_SCHEMA, own=own))
        violations = []
        for name, path in cursor.fetchall():
            problem = search_path_problem(path, open_schemas=writable, temp_last=temp_last)
            if problem and name not in exempt:
                violations.append(Violation(name, problem))
        return _found(violations)

    return [Rule("security_definer", "functions of security definer have a safe search_path", find)]


def search_path_problem(path: str | None, *, open_schemas: set[str], temp_last: bool) -> str:
    """Return what is wrong with the search path of a SECURITY DEFINER function, empty when nothing is.

    An empty path is safe, as every name must say its schema then; otherwise pg_temp is searched first unless it is
    named (https://www.postgresql.org/docs/current/sql-createfunction.html#SQL-CREATEFUNCTION-SECURITY).
    """
    if path is None:
        return "has no search_path of its own, so its caller chooses what it calls"
    schemas = [schema for schema in split_identifier_list(path) if schema]
    if "$user" in schemas:
        return 'its search_path has "$user", which depends on who runs it'
    opened = [schema for schema in schemas if schema in open_schemas and schema != "pg_temp"]
    if opened:
        return "its search_path has %s, where PUBLIC may create objects" % ", ".join(opened)
    if temp_last and schemas and schemas[-1] != "pg_temp":
        return "its search_path does not end with pg_temp, so temporary tables of its caller are found first"
    return ""


# Passwords, connections, extensions


def _password_hashes(entry: Entry) -> list[Rule]:
    exempt = set(_inner(entry, "password_hashes", ("exempt",)).texts("exempt"))

    def find(cursor: Any) -> Finding:
        cursor.execute(MAY_READ_HASHES)
        if not only_row(cursor)[0]:
            return Finding(unknown="the role may not read password hashes in pg_authid")
        cursor.execute(OTHER_HASHES)
        rows = [row for row in cursor.fetchall() if row[0] not in exempt]
        return _found([Violation("role " + name, "its password hash is %s" % kind) for name, kind in rows])

    return [Rule("password_hashes", "password hashes are SCRAM-SHA-256", find)]


def _tls(entry: Entry) -> list[Rule]:
    inner = _inner(entry, "tls", ("min_version", "addresses_without", "roles_without"))
    lowest = inner.choice("min_version", TLS_VERSIONS, "TLSv1.2")
    addresses = inner.texts("addresses_without") if "addresses_without" in inner.given else LOOPBACK
    users = inner.texts("roles_without")

    def find(cursor: Any) -> Finding:
        cursor.execute(MAY_READ_SESSIONS)
        if not only_row(cursor)[0]:
            return Finding(unknown="the role may not see the connections of others: it lacks pg_read_all_stats")
        cursor.execute(CLIENTS, {"addresses": list(addresses), "users": list(users)})
        violations = []
        for user, address, encrypted, version, number in cursor.fetchall():
            problem = "connects without TLS"
            if encrypted:
                if version in TLS_VERSIONS and TLS_VERSIONS.index(version) >= TLS_VERSIONS.index(lowest):
                    continue
                problem = "connects with %s" % version
            violations.append(Violation("role %s from %s" % (user, address), "%s (sessions: %d)" % (problem, number)))
        return _found(violations)

    return [Rule("tls", "clients use %s or newer" % lowest, find)]


def _extensions(entry: Entry) -> list[Rule]:
    allowed = set(entry.texts("extensions"))

    def find(cursor: Any) -> Finding:
        cursor.execute(EXTENSIONS)
        return _found(
            [
                Violation("extension " + name, "version %s is installed and not listed" % version)
                for name, version in cursor.fetchall()
                if name not in allowed
            ]
        )

    return [Rule("extensions", "only listed extensions are installed", find)]


def _result(cursor: Any, rule: Rule, *, severity: str) -> dict[str, Any]:
    """Return the result of one rule, in the form of those of checks."""
    started = time.monotonic()
    cursor.execute("SAVEPOINT rule")
    errored = False
    try:
        finding = rule.find(cursor)
        violations = finding.violations
        status = "skipped" if finding.unknown else "failed" if violations else "passed"
        message = "not known: %s" % finding.unknown if finding.unknown else _message(violations)
    except psycopg2.Error as exc:
        if cursor.connection.closed:
            raise
        violations, status, errored = (), "failed", True
        message = " ".join(str(exc.diag.message_primary or exc).split())
    cursor.execute("ROLLBACK TO SAVEPOINT rule")
    return {
        "suite": "security",
        "name": rule.name,
        "description": "",
        "severity": severity,
        "status": status,
        "errored": errored,
        "message": message,
        "rows": None if errored or status == "skipped" else len(violations),
        "value": None,
        "unit": "",
        "sample": [{"object": found.object, "problem": found.problem} for found in violations[:SAMPLE]],
        "duration_ms": round((time.monotonic() - started) * 1000, 1),
        "tags": ["security", rule.key],
        "file": "",
        "line": None,
    }


def _message(violations: Sequence[Violation]) -> str:
    if not violations:
        return "as declared"
    first = "; ".join("%s %s" % (found.object, found.problem) for found in violations[:3])
    count = "%d violation%s" % (len(violations), "" if len(violations) == 1 else "s")
    return "%s: %s%s" % (count, first, "; ..." if len(violations) > 3 else "")
