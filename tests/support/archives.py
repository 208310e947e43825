# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives and databases for tests: archives without a server, and one database with everything that gets lost."""

from __future__ import annotations

import datetime
import os
import pathlib
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._backup import archive as archives

#: A legal name with everything in it that a shell, libpq, psycopg2's formatting or a path trips over.
STRANGE_NAME = 'we"ird db=1 %s \\ né\n--x'


def manifest(**changed: Any) -> archives.Manifest:
    """A manifest of no files, with whatever a test says about it."""
    values: dict[str, Any] = {
        "id": "20261120T221500Z-7f3a",
        "database": "rently_lending",
        "snapshot_at": "2026-11-20T22:15:00.000000Z",
        "lsn": "0/1234",
        "server_version": 180003,
        "client_version": 180003,
        "dump_format": "directory",
        "compression": "gzip:3",
        "files": {},
        "fingerprint": {},
        "rows": 0,
        "tables": 0,
        "database_bytes": 1000,
        "toc_entries": 0,
        "started_at": "2026-11-20T22:15:00.000000Z",
        "finished_at": "2026-11-20T22:15:01.000000Z",
        "duration_s": 1.0,
        "dump_s": 0.5,
        "fingerprint_s": 0.5,
    }
    return archives.Manifest(**{**values, **changed})


def write_archive(path: pathlib.Path, *, when: datetime.datetime | None = None, **changed: Any) -> pathlib.Path:
    """Write an archive below ``path`` as a backup would, with small files in place of a dump, and return its path."""
    if when is not None:
        changed.setdefault("snapshot_at", archives.format_time(when))
        changed.setdefault("id", archives.new_id(when, "%04x" % (when.microsecond % 0xFFFF)))
    about = manifest(**changed)
    directory = archives.prepare_directory(str(path), about.database)
    with archives.draft(directory, about.id, owner={"pid": os.getpid()}) as draft:
        for name, content in (
            ("data/toc.dat", b"contents"),
            ("data/1.dat.gz", b"rows" * 10000),
            (archives.PROPERTIES, b"{}"),
            (archives.GLOBALS, b"CREATE ROLE lending;\n"),
        ):
            target = pathlib.Path(draft.path, name)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
        seal_as(draft, about)
        draft.publish()
    return pathlib.Path(draft.final_path)


def seal_as(draft: archives.Draft, about: archives.Manifest) -> None:
    """Write the manifest ``about`` with the files that are in ``draft``."""
    values = {name: getattr(about, name) for name in about.__dataclass_fields__}
    content = archives.Manifest(**{**values, "files": archives.seal(draft.path)}).encoded()
    archives.write_durably(os.path.join(draft.path, archives.MANIFEST), content)
    archives.write_durably(os.path.join(draft.path, archives.MANIFEST_SUM), archives.checksum_line(content))


def flip_bit(path: pathlib.Path, position: int) -> None:
    """Flip one bit of a file; negative positions count from its end."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << (position % 8)
    path.write_bytes(bytes(content))


#: Roles of `everything`, with names that must be quoted everywhere.
ROLES = ("holdfast_owner", 'app "rw" %s', "Reader")

EVERYTHING = r"""
CREATE SCHEMA lending AUTHORIZATION holdfast_owner;
CREATE SCHEMA "Strange "" schema % ";
COMMENT ON SCHEMA lending IS E'it''s the "lending" schema\n% \\';
GRANT USAGE ON SCHEMA lending TO "Reader", "app ""rw"" %s";

CREATE TYPE lending.status AS ENUM ('active', 'paid off', 'it''s late');
CREATE DOMAIN lending.amount AS numeric(14,2) CHECK (VALUE >= 0);
CREATE TYPE lending.pair AS (a integer, b text);

SET ROLE holdfast_owner;
CREATE TABLE lending.party (
    id integer GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 5) PRIMARY KEY,
    name varchar(80) NOT NULL COLLATE "C",
    born date, tags text[], details jsonb, raw bytea, pair lending.pair
);
CREATE TABLE lending.loan (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    party_id integer NOT NULL REFERENCES lending.party,
    status lending.status NOT NULL DEFAULT 'active',
    principal lending.amount NOT NULL,
    doubled numeric GENERATED ALWAYS AS (principal * 2) STORED,
    opened_at timestamptz NOT NULL DEFAULT now(),
    EXCLUDE USING btree (id WITH =)
);
RESET ROLE;
CREATE INDEX loan_active ON lending.loan (party_id) WHERE status = 'active';
CREATE INDEX loan_lower ON lending.party (lower(name));
COMMENT ON TABLE lending.loan IS 'Loans';
COMMENT ON COLUMN lending.loan.principal IS 'in 100 % of cases';
GRANT SELECT, INSERT, UPDATE ON lending.loan TO "app ""rw"" %s";
GRANT SELECT (name) ON lending.party TO "Reader";
REVOKE ALL ON TYPE lending.status FROM PUBLIC;

INSERT INTO lending.party (name, born, tags, details, raw, pair)
SELECT 'Party ' || i, CASE WHEN i % 9 = 0 THEN 'infinity' ELSE date '1970-01-01' + i END,
       ARRAY['a', NULL, E'b"\\,\n'],
       jsonb_build_object('n', i, 'x', 1.50), decode(md5(i::text), 'hex'), ROW (i, NULL)::lending.pair
  FROM generate_series(1, 500) i;
INSERT INTO lending.loan (party_id, status, principal, opened_at)
SELECT id, (ENUM_RANGE(NULL::lending.status))[1 + id % 3], id * 1.01, timestamptz '2026-01-01' + id * interval '1 hour'
  FROM lending.party;

CREATE TABLE lending.payment (paid_on date NOT NULL, loan_id uuid NOT NULL, amount numeric)
 PARTITION BY RANGE (paid_on);
CREATE TABLE lending.payment_2025 PARTITION OF lending.payment FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE lending."payment 2026" PARTITION OF lending.payment FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE lending.payment_rest PARTITION OF lending.payment DEFAULT;
CREATE INDEX ON lending.payment (loan_id);
INSERT INTO lending.payment SELECT date '2025-06-01' + i, gen_random_uuid(), i * 0.1 FROM generate_series(1, 800) i;

CREATE TABLE "Strange "" schema % "."table with
newline; -- ""quotes"" too" ("select" integer, "a b" text, dropped text, "%s" real);
ALTER TABLE "Strange "" schema % "."table with
newline; -- ""quotes"" too" DROP COLUMN dropped;
INSERT INTO "Strange "" schema % "."table with
newline; -- ""quotes"" too" VALUES (1, E'\\N', 0.1), (2, NULL, '-0'), (2, NULL, 'NaN'), (2, '', '-Infinity');

CREATE UNLOGGED TABLE lending.cache (key text PRIMARY KEY, value text);
INSERT INTO lending.cache SELECT i::text, repeat('x', i) FROM generate_series(1, 50) i;
CREATE TABLE lending.no_columns ();
INSERT INTO lending.no_columns DEFAULT VALUES;
CREATE TABLE lending.empty (id bigint);

CREATE VIEW lending.active AS SELECT * FROM lending.loan WHERE status IN ('active', 'it''s late');
CREATE MATERIALIZED VIEW lending.ages AS SELECT id, now() AS computed_at FROM lending.loan;
CREATE MATERIALIZED VIEW lending.ages_of_ages AS SELECT count(*) FROM lending.ages;
CREATE MATERIALIZED VIEW lending.unfilled AS SELECT 1 AS one WITH NO DATA;
CREATE UNIQUE INDEX ON lending.ages (id);

CREATE SEQUENCE lending.unowned START 7 INCREMENT 3 CACHE 1;
SELECT nextval('lending.unowned') FROM generate_series(1, 4);
CREATE SEQUENCE lending.unused START 42;
CREATE SEQUENCE lending.falling INCREMENT -2;
SELECT nextval('lending.falling') FROM generate_series(1, 3);
CREATE SEQUENCE lending.owned OWNED BY lending.empty.id;

CREATE FUNCTION lending.touch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = lending AS
$$ BEGIN NEW.opened_at := NEW.opened_at; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON lending.loan FOR EACH ROW EXECUTE FUNCTION lending.touch();
CREATE TRIGGER disabled BEFORE UPDATE ON lending.loan FOR EACH ROW EXECUTE FUNCTION lending.touch();
ALTER TABLE lending.loan DISABLE TRIGGER disabled;
ALTER TABLE lending.loan ENABLE ROW LEVEL SECURITY;
ALTER TABLE lending.loan FORCE ROW LEVEL SECURITY;
CREATE POLICY "own % loans" ON lending.loan FOR SELECT TO "Reader" USING (status <> 'paid off');
CREATE RULE quiet AS ON DELETE TO lending.cache DO INSTEAD NOTHING;

ALTER DEFAULT PRIVILEGES FOR ROLE holdfast_owner IN SCHEMA lending GRANT SELECT ON TABLES TO "Reader";
ALTER DEFAULT PRIVILEGES FOR ROLE holdfast_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE STATISTICS lending.loan_stats (dependencies) ON party_id, status FROM lending.loan;

SELECT lo_from_bytea(4711, decode(repeat('00ff', 5000), 'hex'));
SELECT lo_from_bytea(4712, '');
ALTER LARGE OBJECT 4711 OWNER TO holdfast_owner;
GRANT SELECT ON LARGE OBJECT 4711 TO "Reader";
COMMENT ON LARGE OBJECT 4711 IS 'signed contract';
"""

PROPERTIES = r"""
GRANT CONNECT ON DATABASE {name} TO "Reader" WITH GRANT OPTION;
REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC;
GRANT TEMPORARY ON DATABASE {name} TO "app ""rw"" %s";
ALTER DATABASE {name} SET search_path = lending, "$user", "Strange "" schema % ";
ALTER DATABASE {name} SET statement_timeout = '45min';
ALTER DATABASE {name} SET default_transaction_read_only = on;
ALTER DATABASE {name} SET datestyle = 'German';
ALTER ROLE "app ""rw"" %s" IN DATABASE {name} SET application_name = E'it''s 100 % \\ ours';
ALTER DATABASE {name} CONNECTION LIMIT 37;
COMMENT ON DATABASE {name} IS E'The "live" one: 100 %\nof it''s \\ loans';
"""


def create_everything(server: Any, name: str) -> str:
    """Create a database with everything that a careless backup loses, and return its name."""
    from psycopg2 import sql

    existing = {row[0] for row in server.execute("SELECT rolname FROM pg_catalog.pg_roles")}
    connection = server.connect()
    try:
        with connection.cursor() as cursor:
            for role in set(ROLES) - existing:
                cursor.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    finally:
        connection.close()
    server.create_database(name, EVERYTHING, owner=ROLES[0])
    connection = server.connect()
    try:
        with connection.cursor() as cursor:
            for statement in PROPERTIES.strip().split(";\n"):
                quoted = sql.Identifier(name).as_string(connection)
                cursor.execute(statement.rstrip(";\n").replace("{name}", quoted))
    finally:
        connection.close()
    return name
