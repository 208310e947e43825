# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database with one of everything that is easily lost, and values that are equal without being the same."""

from __future__ import annotations

from psycopg2 import sql

from tests.support.server import TestServer

ROLES = ("nasty owner", 'na"sty\\reader', "nasty_granter")

FIRST = """
CREATE TYPE status AS ENUM ('zeta', 'open', 'closed');
ALTER TYPE status ADD VALUE 'between' BEFORE 'closed';
"""
EVERYWHERE = r"""
CREATE SCHEMA "We ird" AUTHORIZATION "nasty owner";
COMMENT ON SCHEMA "We ird" IS 'it''s 100% ours';
GRANT USAGE ON SCHEMA "We ird" TO "na""sty\reader";

CREATE TYPE "We ird".pair AS (a numeric, "b c" status);
CREATE DOMAIN cents AS numeric(14,2) NOT NULL DEFAULT 0 CHECK (VALUE >= 0);
CREATE DOMAIN label AS varchar(40) COLLATE "C" CONSTRAINT short CHECK (length(VALUE) < 30);
CREATE DOMAIN sublabel AS label;
CREATE TYPE tariff AS RANGE (subtype = numeric);
COMMENT ON TYPE status IS 'state';
REVOKE USAGE ON TYPE status FROM PUBLIC;

CREATE FUNCTION "We ird"."to_%s"(status, VARIADIC x integer[] DEFAULT '{1}') RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, "We ird" AS 'SELECT $1::text';
REVOKE EXECUTE ON FUNCTION "We ird"."to_%s" FROM PUBLIC;
CREATE PROCEDURE noop() LANGUAGE plpgsql AS 'BEGIN NULL; END';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION noop2() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION add_up(numeric, numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
CREATE AGGREGATE total (numeric) (SFUNC = add_up, STYPE = numeric, INITCOND = '0');
CREATE OPERATOR public.<+> (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = add_up);
CREATE FUNCTION lossy("We ird".pair) RETURNS text LANGUAGE sql AS 'SELECT ''always the same''::text';
CREATE CAST ("We ird".pair AS text) WITH FUNCTION lossy("We ird".pair);

CREATE TABLE party (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    gone text,
    name varchar(40) NOT NULL CHECK (name <> ''),
    kind varchar(10) CONSTRAINT known_kind CHECK (kind IN ('person', 'company')),
    state status DEFAULT 'open',
    balance cents,
    rate numeric,
    score double precision,
    currency char(3),
    loose bpchar,
    blob bytea,
    doc jsonb,
    raw json,
    born date,
    since timestamptz,
    local timestamp,
    at time,
    at_tz timetz,
    span interval,
    place point,
    address inet,
    tags text[],
    states status[],
    extra "We ird".pair,
    fees tariff,
    relation regclass,
    number integer GENERATED ALWAYS AS IDENTITY (START 7 INCREMENT 3),
    doubled numeric GENERATED ALWAYS AS (rate * 2) STORED,
    title sublabel,
    flag boolean,
    big bigint,
    small smallint,
    single real,
    price money,
    search tsvector,
    bits varbit
);
INSERT INTO party (name, kind, state, balance, rate, score, currency, loose, blob, doc, raw, born, since, local, at,
                   at_tz, span, place, address, tags, states, extra, fees, relation, title, flag, big, small, single,
                   price, search, bits)
SELECT 'name ' || i, CASE i % 3 WHEN 0 THEN 'person' WHEN 1 THEN 'company' END, (enum_range(NULL::status))[1 + i % 4],
       i * 1.25, CASE WHEN i % 2 = 0 THEN 1.0 ELSE 1.00 END, CASE WHEN i % 5 = 0 THEN 'NaN' ELSE i / 7.0 END, 'EUR',
       'x' || repeat(' ', i % 3), decode(repeat('ff00', i), 'hex'), jsonb_build_object('a', 1.00, 'b', i), '{"a" :  1}',
       CASE WHEN i = 3 THEN 'infinity' WHEN i = 4 THEN '-infinity' ELSE date '2020-02-29' + i END,
       timestamptz '2020-03-29 00:59:59.999999+00' + i * interval '1 hour', timestamp 'infinity', time '23:59:59.99',
       timetz '12:00:00+02', CASE WHEN i % 2 = 0 THEN interval '1 month' ELSE interval '30 days' END, point(i, -0.0),
       inet '10.0.0.1/8', ARRAY['a,b', NULL, '"', 'NULL'], ARRAY['open'::status, NULL], ROW(1.0, 'zeta')::"We ird".pair,
       tariff(i, i + 1), 'party'::regclass, 'title', i % 2 = 0, i * 5000000000, i, i / 3.0, i::money,
       to_tsvector('simple', 'a b ' || i), B'101'
  FROM generate_series(1, 50) i;
INSERT INTO party (name, flag) VALUES ('same', NULL);
ALTER TABLE party DROP COLUMN gone;
ALTER TABLE party OWNER TO "nasty owner";
COMMENT ON TABLE party IS 'people "and" companies';
COMMENT ON COLUMN party.name IS 'as in the ''register''';
GRANT SELECT ON party TO nasty_granter WITH GRANT OPTION;
SET ROLE nasty_granter;
GRANT SELECT ON party TO "na""sty\reader";
RESET ROLE;
GRANT UPDATE (name, kind) ON party TO "na""sty\reader";
ALTER TABLE party ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY "only own" ON party AS RESTRICTIVE FOR SELECT TO "na""sty\reader" USING (flag);
CREATE INDEX "by Name" ON party (lower(name) COLLATE "C" DESC NULLS LAST) INCLUDE (kind) WITH (fillfactor = 70)
    WHERE flag;
CREATE UNIQUE INDEX party_number ON party (number);
ALTER TABLE party REPLICA IDENTITY USING INDEX party_number;
ALTER TABLE party CLUSTER ON party_pkey;
ALTER TABLE party ALTER COLUMN kind SET STATISTICS 500, ALTER COLUMN name SET STORAGE EXTERNAL;
ALTER TABLE party SET (autovacuum_enabled = false, fillfactor = 90);
CREATE STATISTICS party_stats (dependencies) ON kind, currency FROM party;
CREATE TRIGGER touched BEFORE UPDATE OF name ON party FOR EACH ROW WHEN (OLD.name <> NEW.name)
    EXECUTE FUNCTION touch('a', 'b');
ALTER TABLE party ENABLE ALWAYS TRIGGER touched;
CREATE CONSTRAINT TRIGGER checked AFTER INSERT ON party DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION touch();
ALTER TABLE party DISABLE TRIGGER checked;

CREATE TABLE "We ird"."Ta.ble %s" ("%(x)s" integer, "t" text, "quo""te" text);
INSERT INTO "We ird"."Ta.ble %s" VALUES (1, 'a', NULL), (1, 'a', NULL), (NULL, NULL, NULL), (NULL, NULL, NULL);
CREATE TABLE nothing ();
INSERT INTO nothing DEFAULT VALUES;
INSERT INTO nothing DEFAULT VALUES;
CREATE UNLOGGED TABLE scratch (id serial PRIMARY KEY, v text);
INSERT INTO scratch (v) VALUES ('x'), ('y');
CREATE TABLE empty (a integer);

CREATE TABLE ledger (id bigint, at date NOT NULL, party uuid, amount numeric(14,2), PRIMARY KEY (id, at))
    PARTITION BY RANGE (at);
CREATE TABLE ledger_2024 PARTITION OF ledger FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE ledger_rest PARTITION OF ledger DEFAULT PARTITION BY HASH (id);
CREATE TABLE ledger_rest_0 PARTITION OF ledger_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE ledger_rest_1 PARTITION OF ledger_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO ledger SELECT i, date '2024-12-01' + i, NULL, i FROM generate_series(1, 60) i;
ALTER TABLE ledger ADD CONSTRAINT ledger_party FOREIGN KEY (party) REFERENCES party ON DELETE SET NULL;
CREATE INDEX ON ledger (amount);
CREATE TABLE entry (id integer, ledger_id bigint, at date,
    CONSTRAINT to_ledger FOREIGN KEY (ledger_id, at) REFERENCES ledger (id, at) DEFERRABLE);
CREATE TABLE base (a integer NOT NULL, b text);
CREATE TABLE derived (c text) INHERITS (base);
INSERT INTO base VALUES (1, 'base');
INSERT INTO derived VALUES (2, 'derived', 'c');
ALTER TABLE base ADD CONSTRAINT later CHECK (a < 100) NOT VALID;
CREATE TABLE booking (room integer, during tsrange, EXCLUDE USING gist (during WITH &&));
CREATE RULE quiet AS ON DELETE TO empty DO INSTEAD NOTHING;

CREATE VIEW party_view WITH (security_barrier) AS SELECT id, name, state FROM party WHERE kind IN ('person', 'company');
GRANT SELECT ON party_view TO "na""sty\reader";
CREATE MATERIALIZED VIEW totals AS SELECT kind, count(*) AS n FROM party GROUP BY kind;
CREATE UNIQUE INDEX totals_kind ON totals (kind);
CREATE MATERIALIZED VIEW later_totals AS SELECT 1 AS one WITH NO DATA;

CREATE SEQUENCE plain_seq AS integer INCREMENT -3 MINVALUE -1000 MAXVALUE 100 START 50 CACHE 5 CYCLE;
SELECT setval('plain_seq', 20, false);
SELECT nextval('scratch_id_seq') FROM generate_series(1, 9);
GRANT USAGE ON SEQUENCE plain_seq TO "na""sty\reader";
COMMENT ON SEQUENCE plain_seq IS 'down';

CREATE COLLATION plain (provider = libc, locale = 'C');
CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
ALTER DEFAULT PRIVILEGES FOR ROLE "nasty owner" IN SCHEMA "We ird" GRANT SELECT ON TABLES TO "na""sty\reader";
ALTER DEFAULT PRIVILEGES FOR ROLE "nasty owner" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE PUBLICATION feed FOR TABLE ledger_2024, party WITH (publish = 'insert');
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN NULL; END';
CREATE EVENT TRIGGER watcher ON ddl_command_end WHEN TAG IN ('DROP TABLE', 'CREATE TABLE') EXECUTE FUNCTION watch();
ALTER EVENT TRIGGER watcher DISABLE;

SELECT lo_from_bytea(4711, 'small');
SELECT lo_from_bytea(4712, '');
SELECT lo_from_bytea(4713, decode(repeat('00ff10', 2000000), 'hex'));
SELECT lo_put(4714, 5000000, 'sparse') FROM (SELECT lo_create(4714)) x;
GRANT SELECT ON LARGE OBJECT 4711 TO "na""sty\reader";
COMMENT ON LARGE OBJECT 4711 IS 'a scan';
ALTER LARGE OBJECT 4713 OWNER TO "nasty owner";
"""

FROM_14 = """
CREATE FUNCTION standard_body(a integer) RETURNS integer LANGUAGE sql RETURN a + 1;
CREATE TABLE many (r tariff, m int4multirange);
INSERT INTO many VALUES ('[1.0,1.00)', '{[1,3),[5,6)}');
"""
FROM_15 = "CREATE TABLE nulls (a integer UNIQUE NULLS NOT DISTINCT); INSERT INTO nulls VALUES (NULL);"
FROM_18 = """
CREATE TABLE virtual (a integer, inverse integer GENERATED ALWAYS AS (10 / a) VIRTUAL);
INSERT INTO virtual VALUES (0), (5);
CREATE TABLE maybe (a integer, CONSTRAINT kept CHECK (a > 0) NOT ENFORCED);
INSERT INTO maybe VALUES (NULL), (-1);
ALTER TABLE maybe ADD CONSTRAINT there NOT NULL a NOT VALID;
"""
WITH_ICU = """
CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE blindly (v text COLLATE blind);
INSERT INTO blindly VALUES ('Case'), ('case'), ('CASE');
"""
WITH_CONTRIB = """
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE TABLE contributed (h hstore, c citext);
INSERT INTO contributed VALUES ('a=>1,b=>NULL', 'Case'), ('', 'case');
"""


def create_nasty_database(server: TestServer, name: str) -> str:
    """Create the database, with whatever this server's version and extensions allow, and return its name."""
    have = {row[0] for row in server.execute("SELECT rolname FROM pg_roles")}
    connection = server.connect()
    with connection.cursor() as cursor:
        for role in ROLES:
            if role not in have:
                cursor.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        cursor.execute("SELECT current_setting('server_version_num')::integer")
        version = cursor.fetchone()[0]
        cursor.execute("SELECT count(*) FROM pg_available_extensions WHERE name IN ('hstore', 'citext')")
        contrib = cursor.fetchone()[0] == 2
        cursor.execute("SELECT count(*) FROM pg_collation WHERE collname = 'und-x-icu'")
        icu = cursor.fetchone()[0] == 1
    connection.close()
    server.create_database(name)
    parts = [FIRST, EVERYWHERE, FROM_14 if version >= 140000 else "", FROM_15 if version >= 150000 else ""]
    parts += [FROM_18 if version >= 180000 else "", WITH_ICU if icu else "", WITH_CONTRIB if contrib else ""]
    for part in parts:
        if part:
            server.execute(part, database=name)
    return name
