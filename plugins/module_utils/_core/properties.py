# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What PostgreSQL keeps by a database's OID, and what is therefore lost by a dump or a rename unless carried over."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import check_name, only_row
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.masking import (
    MASK,
    SECRET_PARAMETER,
    mask_properties,
)

try:
    import psycopg2
    from psycopg2 import errorcodes, sql
except ImportError:  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

#: What `apply_properties` carries over; the rest is fixed when a database is created, or is a state and not a property.
CARRIED = ("owner", "acl", "settings", "role_settings", "comment", "connection_limit", "security_labels")

#: Privileges on databases (https://www.postgresql.org/docs/current/ddl-priv.html).
PRIVILEGES = ("CONNECT", "CREATE", "TEMPORARY")

#: Parameters whose stored value is a list of quoted identifiers (GUC_LIST_QUOTE): given as one literal, a value would
#: be quoted again as a whole. pg_dump carries the same list (variable_is_guc_list_quote in its dumputils.c);
#: extensions cannot define more of them.
LIST_QUOTE_PARAMETERS = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)

# The columns of pg_database that came with a version: (first version, expression, expression before it).
VERSIONED_COLUMNS = {
    "locale_provider": [
        (150000, "CASE datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END"),
        (0, "'libc'"),
    ],
    "locale": [(170000, "datlocale"), (150000, "daticulocale"), (0, "NULL::text")],
    "icu_rules": [(160000, "daticurules"), (0, "NULL::text")],
    "collation_version": [(150000, "datcollversion"), (0, "NULL::text")],
}

READ_DATABASE = """
SELECT pg_catalog.pg_get_userbyid(datdba) AS owner,
       pg_catalog.pg_encoding_to_char(encoding) AS encoding,
       {locale_provider} AS locale_provider,
       datcollate::text AS collate,
       datctype::text AS ctype,
       {locale} AS locale,
       {icu_rules} AS icu_rules,
       {collation_version} AS collation_version,
       pg_catalog.shobj_description(d.oid, 'pg_database') AS comment,
       datconnlimit AS connection_limit,
       datallowconn AS allow_connections,
       datistemplate AS is_template,
       spcname::text AS tablespace,
       d.oid
  FROM pg_catalog.pg_database d
  JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
 WHERE datname = %s
"""

READ_ACL = """
SELECT CASE a.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END AS grantee,
       pg_catalog.pg_get_userbyid(a.grantor)::text AS grantor,
       a.privilege_type AS privilege,
       a.is_grantable AS grantable
  FROM pg_catalog.pg_database d,
       pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
 WHERE d.datname = %s
"""

READ_SETTINGS = """
SELECT CASE s.setrole WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(s.setrole)::text END, s.setconfig
  FROM pg_catalog.pg_db_role_setting s
 WHERE s.setdatabase = %s
 ORDER BY 1
"""

READ_SECURITY_LABELS = """
SELECT provider, label FROM pg_catalog.pg_shseclabel
 WHERE classoid = 'pg_catalog.pg_database'::pg_catalog.regclass AND objoid = %s
 ORDER BY provider
"""


@dataclass(frozen=True)
class DatabaseProperties:
    """A database's properties, with roles and tablespace by name, so that they compare across servers.

    ``acl`` is exploded and sorted, with the built-in default in place of an absent ACL; the grantee of a grant to
    PUBLIC is empty. The values of ``settings`` and ``role_settings`` are the stored text, in the stored order.
    """

    owner: str
    encoding: str
    locale_provider: str
    collate: str
    ctype: str
    locale: str | None = None
    icu_rules: str | None = None
    collation_version: str | None = None
    acl: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    role_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    comment: str | None = None
    connection_limit: int = -1
    allow_connections: bool = True
    is_template: bool = False
    tablespace: str = "pg_default"
    security_labels: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the properties as JSON-able values, in a stable order."""
        return dict(asdict(self), acl=[dict(entry) for entry in self.acl])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatabaseProperties:
        """Return the properties that `as_dict` described; unknown keys, from a newer release, are left out."""
        known = {f.name for f in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        kept["acl"] = _sorted_acl(kept.get("acl") or ())
        return cls(**kept)


def _sorted_acl(entries: Collection[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(
        sorted(
            (dict(entry) for entry in entries),
            key=lambda entry: (entry["grantee"], entry["grantor"], entry["privilege"], entry["grantable"]),
        )
    )


def read_properties(*, connection: Connection, database: str) -> DatabaseProperties:
    """Return the properties of ``database``; the connection may be to any database of the cluster.

    Raises `HoldfastError` with the code ``database_not_found``, or ``database_invalid`` for what an interrupted
    DROP DATABASE left.
    """
    version = int(connection.server_version)
    columns = {
        name: next(expression for first, expression in choices if version >= first)
        for name, choices in VERSIONED_COLUMNS.items()
    }
    with connection.cursor() as cursor:
        cursor.execute(READ_DATABASE.format(**columns), (database,))
        row = cursor.fetchone()
        if row is None or cursor.description is None:
            raise HoldfastError(
                code="database_not_found",
                msg="Database %r does not exist on this server." % database,
                hint="Check the name; pg_database_info lists the databases of this server.",
            )
        values: dict[str, Any] = dict(zip([column.name for column in cursor.description], row))
        oid = values.pop("oid")
        if values["connection_limit"] == -2:
            raise HoldfastError(
                code="database_invalid",
                msg="Database %r is left over from an interrupted DROP DATABASE." % database,
                hint="Finish the drop with DROP DATABASE; nothing in it can be used.",
            )
        values["acl"] = _read_acl(cursor, database)
        cursor.execute(READ_SETTINGS, (oid,))
        by_role = {role: dict(item.split("=", 1) for item in items) for role, items in cursor.fetchall()}
        values["settings"] = by_role.pop("", {})
        values["role_settings"] = by_role
        cursor.execute(READ_SECURITY_LABELS, (oid,))
        values["security_labels"] = dict(cursor.fetchall())
    return DatabaseProperties(**values)


def _read_acl(cursor: Any, database: str) -> tuple[dict[str, Any], ...]:
    cursor.execute(READ_ACL, (database,))
    names = [column.name for column in cursor.description]
    return _sorted_acl([dict(zip(names, row)) for row in cursor.fetchall()])


def property_differences(
    before: DatabaseProperties, after: DatabaseProperties, *, ignore: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return ``[{"property", "before", "after"}]`` for what differs, values of secret parameters masked."""
    first, second = mask_properties(before.as_dict()), mask_properties(after.as_dict())
    return [
        {"property": f.name, "before": first[f.name], "after": second[f.name]}
        for f in fields(DatabaseProperties)
        if f.name not in ignore and getattr(before, f.name) != getattr(after, f.name)
    ]


def missing_roles(*, connection: Connection, properties: DatabaseProperties) -> list[str]:
    """Return the roles that ``properties`` name and this server lacks, sorted."""
    named = {properties.owner, *properties.role_settings}
    for entry in properties.acl:
        named.update((entry["grantee"], entry["grantor"]))
    named.discard("")
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY (%s)", (sorted(named),))
        return sorted(named - {row[0] for row in cursor.fetchall()})


def create_database_sql(
    *,
    database: str,
    properties: DatabaseProperties,
    server_version: int,
    template: str = "template0",
    owner: str | None = None,
    tablespace: str | None = None,
    strategy: str | None = None,
    connection_limit: int | None = None,
    allow_connections: bool | None = None,
) -> sql.Composed:
    """Return CREATE DATABASE with the encoding, locale, provider, owner and tablespace of ``properties``.

    Encoding, locale and tablespace are stated for template0 only: a copy of another template has that template's.
    Raises `HoldfastError` with the code ``unsupported`` when this server version has no such locale provider.
    """
    options: list[tuple[str, sql.Composable]] = [
        ("TEMPLATE", sql.Identifier(check_name(template))),
        ("OWNER", sql.Identifier(owner or properties.owner)),
    ]
    if template == "template0":
        options += _locale_options(database, properties, server_version)
    # Naming even the default tablespace asks for a privilege that owners of databases seldom have.
    if tablespace is None and template == "template0" and properties.tablespace != "pg_default":
        tablespace = properties.tablespace
    if tablespace is not None:
        options.append(("TABLESPACE", sql.Identifier(tablespace)))
    if strategy is not None and server_version >= 150000:
        options.append(("STRATEGY", sql.Literal(strategy)))
    if connection_limit is not None:
        options.append(("CONNECTION LIMIT", sql.Literal(connection_limit)))
    if allow_connections is not None:
        options.append(("ALLOW_CONNECTIONS", sql.Literal(allow_connections)))
    return sql.SQL("CREATE DATABASE {} {}").format(
        sql.Identifier(check_name(database)),
        sql.SQL(" ").join(sql.SQL("%s {}" % keyword).format(value) for keyword, value in options),
    )


def _locale_options(
    database: str, properties: DatabaseProperties, server_version: int
) -> list[tuple[str, sql.Composable]]:
    provider = properties.locale_provider
    needed = {"libc": 0, "icu": 150000, "builtin": 170000}.get(provider)
    if needed is None or server_version < needed or (properties.icu_rules and server_version < 160000):
        raise HoldfastError(
            code="unsupported",
            msg="Database %r needs the locale provider %s%s, which PostgreSQL %d does not know."
            % (database, provider, " with rules" if properties.icu_rules else "", server_version // 10000),
            hint="Use a server of the version that the original ran on, or newer.",
            server_version=server_version,
        )
    options: list[tuple[str, sql.Composable]] = [
        ("ENCODING", sql.Literal(properties.encoding)),
        ("LC_COLLATE", sql.Literal(properties.collate)),
        ("LC_CTYPE", sql.Literal(properties.ctype)),
    ]
    if server_version >= 150000:
        options.append(("LOCALE_PROVIDER", sql.SQL(provider)))
    if provider != "libc":
        options.append((provider.upper() + "_LOCALE", sql.Literal(properties.locale)))
    if properties.icu_rules:
        options.append(("ICU_RULES", sql.Literal(properties.icu_rules)))
    return options


def create_database(
    *,
    connection: Connection,
    database: str,
    properties: DatabaseProperties,
    template: str = "template0",
    owner: str | None = None,
    tablespace: str | None = None,
    strategy: str | None = None,
    connection_limit: int | None = None,
    allow_connections: bool | None = None,
) -> str:
    """Create ``database`` as `create_database_sql` says, on an autocommit connection, and return the statement.

    Only what is fixed at creation is set; `apply_properties` does the rest. Raises `HoldfastError` with the code
    ``target_exists``, ``role_missing``, ``unsupported`` (no such locale or tablespace here), ``database_in_use``
    (the template has other sessions), ``permission_denied`` or ``destination_full``.
    """
    statement = create_database_sql(
        database=database,
        properties=properties,
        server_version=int(connection.server_version),
        template=template,
        owner=owner,
        tablespace=tablespace,
        strategy=strategy,
        connection_limit=connection_limit,
        allow_connections=allow_connections,
    )
    text = statement.as_string(connection)
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement)
        except psycopg2.Error as exc:
            raise _creation_failure(exc, database=database, template=template, properties=properties) from exc
    return str(text)


def _creation_failure(
    exc: psycopg2.Error, *, database: str, template: str, properties: DatabaseProperties
) -> HoldfastError:
    reason = _primary_message(exc)
    code, hint = {
        errorcodes.DUPLICATE_DATABASE: ("target_exists", "Choose another name; nothing is overwritten."),
        errorcodes.OBJECT_IN_USE: ("database_in_use", "End the sessions in the template, or try again."),
        errorcodes.INSUFFICIENT_PRIVILEGE: (
            "permission_denied",
            "Connect as a superuser, or as a role with CREATEDB that is a member of the owner.",
        ),
        errorcodes.DISK_FULL: ("destination_full", "Free space on the server's volume, then run the task again."),
        errorcodes.WRONG_OBJECT_TYPE: (
            "unsupported",
            "Install the locale %s on the server (locale-gen), or restore where it exists." % properties.collate,
        ),
    }.get(exc.pgcode or "", ("query_failed", "See the server's log for the statement."))
    if exc.pgcode == errorcodes.UNDEFINED_OBJECT:
        code, hint = (
            ("role_missing", "Create the role, or restore the archive's globals.sql first.")
            if "role" in reason
            else ("unsupported", "Create the tablespace %s first, or name another." % properties.tablespace)
        )
    elif "locale" in reason or "collation" in reason or "encoding" in reason:
        code = "unsupported"
        hint = "Install the locale on the server (locale-gen, or a build with ICU), or restore where it exists."
    return HoldfastError(
        code=code,
        msg="Cannot create database %r from %s (encoding %s, provider %s, collate %s, ctype %s, locale %s): %s"
        % (
            database,
            template,
            properties.encoding,
            properties.locale_provider,
            properties.collate,
            properties.ctype,
            properties.locale,
            reason,
        ),
        hint=hint,
        sqlstate=exc.pgcode,
    )


def _primary_message(exc: psycopg2.Error) -> str:
    return " ".join(str(exc.diag.message_primary or exc).split())


def apply_properties(
    *,
    connection: Connection,
    database: str,
    properties: DatabaseProperties,
    current: DatabaseProperties | None = None,
) -> list[str]:
    """Make what `CARRIED` names of ``database`` equal to ``properties`` and return the statements that did it.

    ``current`` is what `read_properties` said, if the caller has just asked. Values of secret parameters are masked
    in the returned statements. The statements join the caller's transaction; on an autocommit connection each
    commits on its own, and running the function again completes what an error interrupted.

    A grant by another role than the owner is made as that role (SET ROLE), because GRANT has no other way to say
    it; where the session may not become that role, or that role is a superuser or a member of the owner by now,
    the grant is recorded as the owner's and the difference stays visible.

    Raises `HoldfastError` with the code ``role_missing`` before the first statement, ``permission_denied``, or
    ``query_failed`` naming what was refused.
    """
    if current is None:
        current = read_properties(connection=connection, database=database)
    if all(getattr(properties, name) == getattr(current, name) for name in CARRIED):
        return []
    missing = missing_roles(connection=connection, properties=properties)
    if missing:
        raise HoldfastError(
            code="role_missing",
            msg="Database %r needs roles that this server lacks: %s." % (database, ", ".join(missing)),
            hint="Create them, or restore the archive's globals.sql first; nothing was changed.",
            roles=missing,
        )
    work = _Statements(connection=connection, database=check_name(database))
    target = sql.Identifier(database)
    if properties.owner != current.owner:
        work.run("owner", sql.SQL("ALTER DATABASE {} OWNER TO {}").format(target, sql.Identifier(properties.owner)))
    work.apply_acl(properties)
    work.apply_settings(sql.SQL("ALTER DATABASE {}").format(target), properties.settings, current.settings)
    for role in sorted({*properties.role_settings, *current.role_settings}):
        work.apply_settings(
            sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(role), target),
            properties.role_settings.get(role, {}),
            current.role_settings.get(role, {}),
        )
    if properties.comment != current.comment:
        work.run("comment", sql.SQL("COMMENT ON DATABASE {} IS {}").format(target, sql.Literal(properties.comment)))
    if properties.connection_limit != current.connection_limit:
        work.run(
            "connection limit",
            sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(target, sql.Literal(properties.connection_limit)),
        )
    for provider in sorted({*properties.security_labels, *current.security_labels}):
        label = properties.security_labels.get(provider)
        if label != current.security_labels.get(provider):
            work.run(
                "security label",
                sql.SQL("SECURITY LABEL FOR {} ON DATABASE {} IS {}").format(
                    sql.Identifier(provider), target, sql.Literal(label)
                ),
            )
    return work.done


class _Statements:
    """Statements on one database, run and remembered in order."""

    def __init__(self, *, connection: Connection, database: str) -> None:
        self.connection = connection
        self.database = database
        self.done: list[str] = []

    def run(self, what: str, statement: sql.Composable, *, shown: sql.Composable | None = None) -> None:
        """Run ``statement`` and remember it, or ``shown`` in its place; ``what`` names it in an error."""
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(statement)
            except psycopg2.Error as exc:
                denied = exc.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE
                raise HoldfastError(
                    code="permission_denied" if denied else "query_failed",
                    msg="Cannot set the %s of database %r: %s" % (what, self.database, _primary_message(exc)),
                    hint="Connect as a superuser, or as a member of the owner with CREATEDB."
                    if denied
                    else "Mend the %s where it was read from, or see the server's log for the statement." % what,
                    sqlstate=exc.pgcode,
                ) from exc
        self.done.append((shown or statement).as_string(self.connection))

    def apply_settings(self, alter: sql.Composable, wanted: Mapping[str, str], existing: Mapping[str, str]) -> None:
        """Make the parameters of one database, or of one role in it, equal to ``wanted``."""
        for name in existing:
            if name not in wanted:
                self.run("parameter " + name, sql.SQL("{} RESET {}").format(alter, sql.Identifier(name)))
        for name, value in wanted.items():
            if existing.get(name) != value:
                self._set(alter, name, value)

    def _set(self, alter: sql.Composable, name: str, value: str) -> None:
        parameter = sql.Identifier(name)
        if name.lower() not in LIST_QUOTE_PARAMETERS:
            setting = sql.SQL("{} SET {} TO {}")
            shown = sql.Literal(MASK if SECRET_PARAMETER.search(name) else value)
            self.run(
                "parameter " + name,
                setting.format(alter, parameter, sql.Literal(value)),
                shown=setting.format(alter, parameter, shown),
            )
            return
        elements = split_identifier_list(value)
        if elements and self._as_stored(elements) == value:
            literals = sql.SQL(", ").join(map(sql.Literal, elements))
            self.run("parameter " + name, sql.SQL("{} SET {} TO {}").format(alter, parameter, literals))
            return
        # A text that no list of literals produces (it was stored FROM CURRENT after set_config) is stored that way.
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_setting(%s)", (name,))
            row = only_row(cursor)
            cursor.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
            try:
                self.run("parameter " + name, sql.SQL("{} SET {} FROM CURRENT").format(alter, parameter))
            finally:
                with contextlib.suppress(psycopg2.errors.InFailedSqlTransaction):
                    cursor.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, row[0]))

    def _as_stored(self, elements: list[str]) -> str:
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(e), ', ' ORDER BY n)"
                " FROM pg_catalog.unnest(%s::text[]) WITH ORDINALITY AS u (e, n)",
                (elements,),
            )
            row = only_row(cursor)
            return str(row[0])

    def apply_acl(self, properties: DatabaseProperties) -> None:
        """Revoke what is not listed, PUBLIC's defaults included, then grant what is missing."""
        owner = properties.owner
        wanted = {_grant_key(entry): bool(entry["grantable"]) for entry in properties.acl}
        # Revoking may cascade to grants that are wanted; the state is read again before granting.
        for key, grantable in sorted(self._acl().items(), key=lambda item: item[0][1] == owner):
            if key not in wanted:
                self._revoke(key, owner=owner, option_only=False)
            elif grantable and not wanted[key]:
                self._revoke(key, owner=owner, option_only=True)
        existing = self._acl()
        absent = [key for key in wanted if key not in existing or (wanted[key] and not existing[key])]
        for key in in_order_of_grantors(absent, owner=owner):
            self._grant(key, owner=owner, grantable=wanted[key])

    def _acl(self) -> dict[tuple[str, str, str], bool]:
        with self.connection.cursor() as cursor:
            return {_grant_key(entry): entry["grantable"] for entry in _read_acl(cursor, self.database)}

    def _grant(self, key: tuple[str, str, str], *, owner: str, grantable: bool) -> None:
        grantee, grantor, privilege = key
        statement = sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
            sql.SQL(privilege),
            sql.Identifier(self.database),
            sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC"),
            sql.SQL(" WITH GRANT OPTION" if grantable else ""),
        )
        with self._acting_as(grantor, owner=owner):
            self.run("privileges", statement)

    def _revoke(self, key: tuple[str, str, str], *, owner: str, option_only: bool) -> None:
        grantee, grantor, privilege = key
        statement = sql.SQL("REVOKE {}{} ON DATABASE {} FROM {} CASCADE").format(
            sql.SQL("GRANT OPTION FOR " if option_only else ""),
            sql.SQL(privilege),
            sql.Identifier(self.database),
            sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC"),
        )
        with self._acting_as(grantor, owner=owner):
            self.run("privileges", statement)

    @contextlib.contextmanager
    def _acting_as(self, grantor: str, *, owner: str) -> Iterator[None]:
        if grantor == owner or not self._may_become(grantor):
            yield
            return
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_setting('role')")
            row = only_row(cursor)
            cursor.execute("SELECT pg_catalog.set_config('role', %s, false)", (grantor,))
            try:
                yield
            finally:
                with contextlib.suppress(psycopg2.errors.InFailedSqlTransaction):
                    cursor.execute("SELECT pg_catalog.set_config('role', %s, false)", (row[0],))

    def _may_become(self, role: str) -> bool:
        privilege = "SET" if self.connection.server_version >= 160000 else "MEMBER"
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.pg_has_role(session_user, %s, %s)", (role, privilege))
            row = cursor.fetchone()
            return bool(row and row[0])


def _grant_key(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    if entry["privilege"] not in PRIVILEGES:  # it becomes a keyword of a statement
        raise HoldfastError(
            code="option_invalid",
            msg="%r is no privilege on a database." % (entry["privilege"],),
            hint="The properties were altered or come from a newer release; use that release.",
        )
    return entry["grantee"], entry["grantor"], entry["privilege"]


def in_order_of_grantors(grants: Collection[tuple[str, str, str]], *, owner: str) -> list[tuple[str, str, str]]:
    """Return ``(grantee, grantor, privilege)`` so that each grantor has its own grant before it grants."""
    remaining = sorted(grants)
    ordered: list[tuple[str, str, str]] = []
    while remaining:
        waiting_for = {(grantee, privilege) for grantee, _grantor, privilege in remaining}
        ready = [g for g in remaining if g[1] == owner or (g[1], g[2]) not in waiting_for]
        # Without one that is ready the grants form a circle, which no server lets happen; the server will say so.
        ordered += ready or remaining
        remaining = [g for g in remaining if g not in ready] if ready else []
    return ordered


def split_identifier_list(value: str) -> list[str]:
    """Return the elements of a stored list of identifiers, unquoted: ``"$user", public`` gives ``$user, public``.

    The result is empty when the text is not such a list.
    """
    elements: list[str] = []
    position = 0
    pattern = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",\s]+))\s*(,|$)')
    while position < len(value):
        match = pattern.match(value, position)
        if match is None:
            return []
        quoted, plain, _separator = match.groups()
        elements.append(plain if quoted is None else quoted.replace('""', '"'))
        position = match.end()
    return elements
