# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the schema of a database with pg_dump, also by way of a database into which it was loaded."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import session_server
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.restore import drop_database
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.schema import (
    Schema,
    compare_schemas,
    parse_schema,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    Server,
    check_name,
    server_version,
    suffixed_name,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import (
    ClientPrograms,
    find_client_programs,
    run_program,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.properties import create_database, read_properties
from ansible_collections.holdfast.postgres.plugins.module_utils._core.unfinished import BUILD_LOCK, MARK, lock_number

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:  # reported by connection.require_driver()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
else:
    Connection = Any

APPLICATION_NAME = "holdfast schema"


def schema_command(
    programs: ClientPrograms, *, conninfo: str, target: str, dump_format: str, exclude_tables: Sequence[str]
) -> list[str]:
    """Return the command line of pg_dump for a schema without data, subscriptions and these tables."""
    return [
        programs.path("pg_dump"),
        "--dbname=" + conninfo,
        "--no-password",
        "--schema-only",
        "--no-subscriptions",
        "--format=" + dump_format,
        "--file=" + target,
        "--lock-wait-timeout=60000",
        *("--exclude-table=" + _qualified(table) for table in exclude_tables),
    ]


def _qualified(table: str) -> str:
    """Return a table's name, as SQL writes it, as a pattern of pg_dump; these agree but for the default schema."""
    parts = table.split('"')
    return table if any("." in part for part in parts[::2]) else "public." + table


@dataclass(frozen=True)
class _Reader:
    server: Server
    environment: Mapping[str, str]
    programs: ClientPrograms
    version: int
    exclude_tables: Sequence[str]

    def schema(self, database: str) -> Schema:
        with tempfile.TemporaryDirectory(prefix="holdfast-schema-") as directory:
            path = os.path.join(directory, "schema.sql")
            self.dump(database, path, dump_format="plain")
            with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                return parse_schema(file.read())

    def dump(self, database: str, path: str, *, dump_format: str) -> None:
        steady = session_server(self.server, version=self.version, application_name=APPLICATION_NAME)
        with self.server.client_environment(self.environment) as environment:
            run_program(
                schema_command(
                    self.programs,
                    conninfo=steady.conninfo(database),
                    target=path,
                    dump_format=dump_format,
                    exclude_tables=self.exclude_tables,
                ),
                environment=environment,
            )

    def reloaded(self, database: str) -> Schema:
        """Return the schema as it is after a dump and a load.

        PostgreSQL writes some expressions in another way once it has read back what it wrote, such as
        ``CHECK (status IN ('a', 'b'))`` of a varchar; afterwards it writes the same for ever.
        """
        with tempfile.TemporaryDirectory(prefix="holdfast-schema-") as directory, self._scratch(database) as scratch:
            path = os.path.join(directory, "schema.dump")
            self.dump(database, path, dump_format="custom")
            steady = session_server(self.server, version=self.version, application_name=APPLICATION_NAME)
            with self.server.client_environment(self.environment) as environment:
                run_program(
                    [
                        self.programs.path("pg_restore"),
                        "--dbname=" + steady.conninfo(scratch),
                        "--no-password",
                        *([] if self._offends() else ["--exit-on-error"]),
                        path,
                    ],
                    environment=environment,
                    allowed_exit_codes=(0, 1) if self._offends() else (0,),
                )
            return self.schema(scratch)

    def _offends(self) -> bool:
        """Whether the client sets a parameter that the server does not know, in each session."""
        return self.programs.major >= 17 and self.version < 170000

    @contextlib.contextmanager
    def _scratch(self, database: str) -> Iterator[str]:
        """An empty database like ``database``, dropped at the end; what a kill leaves, the next restore drops."""
        number = secrets.randbits(32)
        name = suffixed_name(database, ".restoring-%08x" % number)
        with self.server.session(self.server.maintenance_db, application_name=APPLICATION_NAME) as maintenance:
            with maintenance.cursor() as cursor:
                cursor.execute("SELECT pg_catalog.pg_advisory_lock(%s, %s)", (BUILD_LOCK, lock_number(number)))
            properties = read_properties(connection=maintenance, database=database)
            create_database(connection=maintenance, database=name, properties=properties, owner=properties.owner)
            try:
                with maintenance.cursor() as cursor:
                    about = sql.Literal("%s the schema of %r; dropped by the next restore" % (MARK, database))
                    cursor.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), about))
                yield name
            finally:
                with contextlib.suppress(psycopg2.Error):  # the next restore drops it
                    drop_database(maintenance, name)


def schema_report(
    *,
    server: Server,
    database: str,
    environment: Mapping[str, str],
    compare_with: str | None = None,
    reference: Mapping[str, Any] | None = None,
    reference_path: str | None = None,
    exclude_tables: Sequence[str] = (),
    reload: bool = False,
    full: bool = False,
    bin_dir: str | None = None,
) -> dict[str, Any]:
    """Return what `pg_schema_info` says: the schema of ``database`` and its differences from a reference, if any.

    The reference is another database of the server, or what an earlier call returned as ``schema``, given or in a file.
    With ``reload``, differences count only where they are there after a load, too; without a reference, the schema is
    that after a load.
    """
    started = time.monotonic()
    check_name(database)
    stored = _read_reference(reference_path) if reference_path else reference
    before = None if stored is None else Schema.from_dict(stored)
    with server.session(database, application_name=APPLICATION_NAME) as connection:
        version = server_version(connection)
    reader = _Reader(
        server=server,
        environment=environment,
        programs=find_client_programs(server_version=version, bin_dir=bin_dir, environment=environment),
        version=version,
        exclude_tables=exclude_tables,
    )
    if compare_with:
        before = reader.schema(check_name(compare_with))
    alone = before is None
    schema = reader.reloaded(database) if reload and alone else reader.schema(database)
    differences = [] if before is None else compare_schemas(before, schema)
    reloaded = reload and (alone or bool(differences))
    if before is not None and reloaded:
        schema = reader.reloaded(database)
        differences = compare_schemas(reader.reloaded(compare_with) if compare_with else before, schema)
    result: dict[str, Any] = {
        "changed": False,
        "database": database,
        "sha256": schema.sha256,
        "objects": len(schema.objects),
        "differences": differences,
        "reloaded": reloaded,
    }
    if before is not None:
        result["equal"] = not differences
    if full:
        result["schema"] = schema.as_dict()
    result["duration_s"] = round(time.monotonic() - started, 3)
    return result


def _read_reference(path: str) -> Any:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return json.load(file)
    except (OSError, ValueError) as exc:
        raise HoldfastError(
            code="option_invalid",
            msg="The schema in %s cannot be read: %s." % (path, exc),
            hint="Give a file with what pg_schema_info returned as schema, with full: true.",
        ) from exc
