# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints against real servers: equal after a dump and restore, and different after any single change."""

from __future__ import annotations

import json
import subprocess
import threading

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import (
    Fingerprint,
    compare_fingerprints,
    read_sequences,
    take_fingerprint,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.modules import run_module
from tests.support.nasty import create_nasty_database
from tests.support.server import TestServer, eventually

SERVERS = ["pg18", "pg16", "pg_distribution"]


def fingerprint(server: TestServer, database: str, **options) -> Fingerprint:
    return take_fingerprint(server=server.server, database=database, **options)


def named(differences) -> set[tuple[str, str]]:
    return {(difference["object"], difference["kind"]) for difference in differences}


def copy_through_dump(
    source: TestServer, database: str, target: TestServer, copy: str, directory, *options: str
) -> None:
    """Dump with the target's programs and restore into a new database."""
    target.create_database(copy)
    path = str(directory / "dump")
    with source.server.client_environment() as environment:
        for argv in (
            ["pg_dump", "-Fc", "-f", path, "--dbname=" + source.server.conninfo(database)],
            ["pg_restore", "--exit-on-error", *options, "--dbname=" + target.server.conninfo(copy), path],
        ):
            subprocess.run([str(target.bin_dir / argv[0]), *argv[1:]], env=environment, check=True)


@pytest.fixture(params=SERVERS, scope="module")
def server(request) -> TestServer:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def pair(server, tmp_path_factory):
    """A nasty database and its restored copy on the same server."""
    source, copy = 'na\'sty "one" = 100%', "nasty copy"
    create_nasty_database(server, source)
    copy_through_dump(server, source, server, copy, tmp_path_factory.mktemp("dump"))
    yield source, copy
    server.drop_database(source)
    server.drop_database(copy)


def test_a_restored_database_equals_its_source(server, pair):
    before, after = (fingerprint(server, name) for name in pair)
    assert compare_fingerprints(before, after) == []
    assert before.tables['"We ird"."Ta.ble %s"'].rows == 4
    assert before.tables["public.nothing"].rows == 2
    assert before.tables["public.base"].rows == 1, "children count on their own"
    assert "public.ledger" not in before.tables, "its partitions do"
    assert before.materialized_views["public.later_totals"].populated is False
    assert set(before.large_objects) == {"4711", "4712", "4713", "4714"}
    assert Fingerprint.from_dict(json.loads(json.dumps(before.as_dict()))) == before


def test_each_large_object_has_the_hash_of_its_content(server, pair):
    expected = dict(
        server.execute(
            "SELECT oid::text, encode(sha256(lo_get(oid)), 'hex') FROM pg_largeobject_metadata", database=pair[0]
        )
    )
    assert fingerprint(server, pair[0]).large_objects == expected


# What is changed, and what must be named: nothing more, nothing less.
CHANGES = [
    # Rows
    ("INSERT INTO empty VALUES (1)", {("table public.empty", "rows")}),
    ("UPDATE base SET b = 'Base'", {("table public.derived", "hash"), ("table public.base", "hash")}),
    ("UPDATE ONLY base SET b = 'BASE'", {("table public.base", "hash")}),
    ("INSERT INTO nothing DEFAULT VALUES", {("table public.nothing", "rows")}),
    ("UPDATE scratch SET v = CASE v WHEN 'x' THEN 'y' ELSE 'x' END", {("table public.scratch", "hash")}),
    (
        "UPDATE ledger SET at = '2023-01-01' WHERE id = 1",
        {("table public.ledger_2024", "rows"), ("table public.ledger_rest_0", "rows")},
    ),
    ('UPDATE "We ird"."Ta.ble %s" SET "%(x)s" = 2 WHERE ctid = \'(0,1)\'', {('table "We ird"."Ta.ble %s"', "hash")}),
    # Sequences and large objects
    ("SELECT nextval('plain_seq')", {("sequence public.plain_seq", "sequence")}),
    ("SELECT setval('scratch_id_seq', 1)", {("sequence public.scratch_id_seq", "sequence")}),
    ("ALTER SEQUENCE plain_seq CACHE 6", {("sequence public.plain_seq", "sequence")}),
    ("ALTER SEQUENCE scratch_id_seq OWNED BY NONE", {("sequence public.scratch_id_seq", "sequence")}),
    ("COMMENT ON SEQUENCE plain_seq IS 'up'", {("sequence public.plain_seq", "object")}),
    ("SELECT lo_put(4713, 5900000, 'x')", {("large object 4713", "large_object")}),
    ("SELECT lo_put(4711, 0, 'S')", {("large object 4711", "large_object")}),
    ("SELECT lo_unlink(4712)", {("large object 4712", "missing")}),
    ("SELECT lo_from_bytea(4799, 'new')", {("large object 4799", "unexpected")}),
    ("COMMENT ON LARGE OBJECT 4711 IS NULL", {("large object 4711", "object")}),
    ('REVOKE SELECT ON LARGE OBJECT 4711 FROM "na""sty\\reader"', {("large object 4711", "object")}),
    # Ownership, grants, comments
    ('ALTER SCHEMA "We ird" OWNER TO postgres', {('schema "We ird"', "object")}),
    (
        "ALTER TABLE party OWNER TO postgres",
        {("table public.party", "object"), ("sequence public.party_number_seq", "object")},
    ),
    ('REVOKE UPDATE (name) ON party FROM "na""sty\\reader"', {("table public.party", "object")}),
    ("REVOKE GRANT OPTION FOR SELECT ON party FROM nasty_granter CASCADE", {("table public.party", "object")}),
    ("GRANT SELECT ON party_view TO PUBLIC", {("view public.party_view", "object")}),
    (
        'GRANT EXECUTE ON FUNCTION "We ird"."to_%s" TO PUBLIC',
        {('function "We ird"."to_%s"(public.status, VARIADIC x integer[])', "object")},
    ),
    ("COMMENT ON COLUMN party.name IS 'other'", {("table public.party", "object")}),
    ("COMMENT ON TABLE party IS NULL", {("table public.party", "object")}),
    ("GRANT USAGE ON TYPE status TO PUBLIC", {("enum public.status", "object")}),
    (
        'ALTER DEFAULT PRIVILEGES FOR ROLE "nasty owner" GRANT EXECUTE ON FUNCTIONS TO PUBLIC',
        {('default privileges of "nasty owner" on functions', "missing")},
    ),
    # Structure
    ("ALTER TABLE party ALTER name DROP NOT NULL", {("table public.party", "object")}),
    ("ALTER TABLE scratch ALTER v TYPE varchar(41)", {("table public.scratch", "object")}),
    ("ALTER TABLE party ALTER state DROP DEFAULT", {("table public.party", "object")}),
    ("ALTER TABLE party ALTER number SET GENERATED BY DEFAULT", {("table public.party", "object")}),
    ("ALTER TABLE party ALTER kind SET STATISTICS 100", {("table public.party", "object")}),
    ("ALTER TABLE party NO FORCE ROW LEVEL SECURITY", {("table public.party", "object")}),
    (
        "ALTER TABLE party REPLICA IDENTITY FULL",
        {("table public.party", "object"), ("index public.party_number", "object")},
    ),
    ("ALTER TABLE party RESET (fillfactor)", {("table public.party", "object")}),
    (
        "ALTER TABLE scratch SET LOGGED",
        {("table public.scratch", "object")},
    ),
    ('ALTER POLICY "only own" ON party TO PUBLIC', {('policy "only own" on public.party', "object")}),
    ("ALTER TABLE party ENABLE TRIGGER checked", {("trigger checked on public.party", "object")}),
    (
        "ALTER TABLE base VALIDATE CONSTRAINT later",
        {("constraint later on public.base", "object"), ("constraint later on public.derived", "object")},
    ),
    ("ALTER TABLE party DROP CONSTRAINT known_kind", {("constraint known_kind on public.party", "missing")}),
    (
        "ALTER TABLE entry ALTER CONSTRAINT to_ledger INITIALLY DEFERRED",
        {("constraint to_ledger on public.entry", "object")},
    ),
    ("ALTER DOMAIN label DROP CONSTRAINT short", {("constraint short on public.label", "missing")}),
    ("ALTER DOMAIN cents DROP DEFAULT", {("domain public.cents", "object")}),
    (
        "ALTER TYPE status RENAME VALUE 'zeta' TO 'eta'",
        {("enum public.status", "object"), ("table public.party", "hash")},
    ),
    ("ALTER TYPE status ADD VALUE 'last'", {("enum public.status", "object")}),
    ('DROP INDEX "by Name"', {('index public."by Name"', "missing")}),
    ("ALTER INDEX totals_kind SET (fillfactor = 50)", {("index public.totals_kind", "object")}),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'party_number'::regclass",
        {("index public.party_number", "missing"), ("invalid index public.party_number", "unexpected")},
    ),
    ("ALTER FUNCTION touch() SECURITY DEFINER", {("function public.touch()", "object")}),
    (
        "CREATE OR REPLACE FUNCTION noop2() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
        {("function public.noop2()", "object")},
    ),
    ("ALTER FUNCTION touch() SET work_mem = '1MB'", {("function public.touch()", "object")}),
    ("ALTER EVENT TRIGGER watcher ENABLE", {("event trigger watcher", "object")}),
    ("ALTER PUBLICATION feed DROP TABLE party", {("publication feed", "object")}),
    ("DROP STATISTICS party_stats", {("statistics public.party_stats", "missing")}),
    ("ALTER TABLE empty DISABLE RULE quiet", {("rule quiet on public.empty", "object")}),
    ('DROP CAST ("We ird".pair AS text)', {('cast ("We ird".pair as text)', "missing")}),
    ("DROP AGGREGATE total (numeric)", {("aggregate public.total(numeric)", "missing")}),
    ("CREATE EXTENSION IF NOT EXISTS plpgsql", set()),
    ("REFRESH MATERIALIZED VIEW later_totals", {("materialized view public.later_totals", "populated")}),
    (
        "DROP MATERIALIZED VIEW totals",
        {("materialized view public.totals", "missing"), ("index public.totals_kind", "missing")},
    ),
    (
        "ALTER TABLE ledger DETACH PARTITION ledger_2024",
        {
            ("table public.ledger_2024", "object"),
            ("index public.ledger_2024_pkey", "object"),
            ("index public.ledger_2024_amount_idx", "object"),
            ("constraint ledger_party on public.ledger_2024", "unexpected"),
        },
    ),
    (
        "DROP TABLE booking",
        {
            ("table public.booking", "missing"),
            ("index public.booking_during_excl", "missing"),
            ("constraint booking_during_excl on public.booking", "missing"),
        },
    ),
    ("CREATE TABLE extra ()", {("table public.extra", "unexpected")}),
]


def batches(changes):
    """Group changes that touch different objects, so that one fingerprint tells all of a group apart."""
    groups: list[tuple[list[str], set[tuple[str, str]]]] = []
    for statement, expected in changes:
        touched = {name for name, _kind in expected}
        if not groups or touched & {name for name, _kind in groups[-1][1]}:
            groups.append(([], set()))
        groups[-1][0].append(statement)
        groups[-1][1].update(expected)
    return groups


def test_every_single_change_is_noticed_and_named(server, pair):
    copy = pair[1]
    before = fingerprint(server, copy)
    wrong = []
    for statements, expected in batches(CHANGES):
        for statement in statements:
            server.execute(statement, database=copy)
        after = fingerprint(server, copy)
        differences = compare_fingerprints(before, after)
        if named(differences) != expected:
            wrong.append((sorted(named(differences) ^ expected), [d["message"] for d in differences]))
        assert all(d["object"] in d["message"] for d in differences)
        before = after
    assert not wrong, "\n".join(map(str, wrong))


# The same number of rows each time, and values that some comparison or hash function takes for equal.
DIFFERENT = {
    "numeric_scale": ("numeric", "1.0", "1.00"),
    "numeric_bound": ("numeric(14,2)", "1.00", "1.01"),
    "numeric_nan": ("numeric", "'NaN'", "NULL"),
    "interval": ("interval", "'1 month'", "'30 days'"),
    "interval_day": ("interval", "'1 day'", "'24 hours'"),
    "float_zero": ("double precision", "'0'", "'-0'"),
    "real_zero": ("real", "'0'", "'-0'"),
    "float_last_bit": ("double precision", "0.1", "0.10000000000000002"),
    "float_nan": ("double precision", "'NaN'", "'infinity'"),
    "jsonb_scale": ("jsonb", "'{\"a\": 1.0}'", "'{\"a\": 1.00}'"),
    "json_blank": ("json", "'{\"a\":1}'", "'{\"a\": 1}'"),
    "bpchar_blank": ("bpchar", "'a'", "'a '"),
    "char": ("char(3)", "'a'", "'b'"),
    "null_or_empty": ("text", "NULL", "''"),
    "null_or_word": ("text", "NULL", "'NULL'"),
    "null_or_zero": ("integer", "NULL", "0"),
    "null_or_false": ("boolean", "NULL", "false"),
    "boolean": ("boolean", "true", "false"),
    "bigint_fold": ("bigint", "0", "4294967297"),
    "bigint_sign": ("bigint", "5", "-6"),
    "time_zone": ("timetz", "'12:00+02'", "'11:00+01'"),
    "timestamp": ("timestamptz", "'2020-01-01 00:00:00.000001+00'", "'2020-01-01 00:00:00.000002+00'"),
    "date_infinity": ("date", "'infinity'", "'-infinity'"),
    "date_null": ("date", "'infinity'", "NULL"),
    "array_bounds": ("integer[]", "'[0:1]={1,2}'", "'{1,2}'"),
    "array_null": ("text[]", "ARRAY[NULL]::text[]", "ARRAY['NULL']"),
    "array_scale": ("numeric[]", "ARRAY[1.0]", "ARRAY[1.00]"),
    "array_empty": ("integer[]", "'{}'", "NULL"),
    "range_scale": ("numrange", "'[1.0,2)'", "'[1.00,2)'"),
    "composite_scale": ("couple", "ROW(1.0, NULL)", "ROW(1.00, NULL)"),
    "composite_null": ("couple", "NULL", "ROW(NULL, NULL)"),
    "composite_lossy_cast": ("lossy", "ROW(1)", "ROW(2)"),
    "domain_scale": ("free", "1.0", "1.00"),
    "domain_interval": ("spell", "'1 month'", "'30 days'"),
    "bytes": ("bytea", "'\\x00ff'", "'\\xff00'"),
    "inet": ("inet", "'10.0.0.1/8'", "'10.0.0.1/9'"),
    "point": ("point", "'(0,0)'", "'(-0,0)'"),
    "regclass": ("regclass", "'pg_class'", "'pg_type'"),
    "enum": ("mood", "'ok'", "'bad'"),
    "money": ("money", "'1.00'", "'1.01'"),
}
SETUP = """
CREATE TYPE couple AS (a numeric, b text);
CREATE TYPE lossy AS (a numeric);
CREATE FUNCTION lose(lossy) RETURNS text LANGUAGE sql AS 'SELECT ''lost''::text';
CREATE CAST (lossy AS text) WITH FUNCTION lose(lossy);
CREATE DOMAIN free AS numeric;
CREATE DOMAIN spell AS interval;
CREATE TYPE mood AS ENUM ({labels});
CREATE TABLE columns_swapped (a text, b text, c bigint, d bigint);
INSERT INTO columns_swapped VALUES {columns};
CREATE TABLE rows_exchange_values (a text, b text);
INSERT INTO rows_exchange_values SELECT i::text, {partner}::text FROM generate_series(0, 9) i;
CREATE TABLE numbers_exchanged (a bigint, b bigint);
INSERT INTO numbers_exchanged SELECT i, {partner} FROM generate_series(0, 9) i;
CREATE TABLE duplicates (a text);
INSERT INTO duplicates VALUES {duplicates};
CREATE TABLE first_of_two (a integer);
CREATE TABLE second_of_two (a integer);
INSERT INTO {one} VALUES (1);
INSERT INTO {other} VALUES (2);
"""
LEFT = {
    "labels": "'ok', 'bad'",
    "columns": "('x', 'y', 1, 2)",
    "partner": "i",
    "duplicates": "('a'), ('a'), ('b'), ('b')",
    "one": "first_of_two",
    "other": "second_of_two",
}
RIGHT = {
    "labels": "'bad', 'ok'",
    "columns": "('y', 'x', 2, 1)",
    "partner": "(i # 1)",
    "duplicates": "('a'), ('a'), ('a'), ('a')",
    "one": "second_of_two",
    "other": "first_of_two",
}


def test_values_that_are_equal_but_not_the_same_are_told_apart(server):
    try:
        taken = []
        for index, (database, parts) in enumerate((("left", LEFT), ("right", RIGHT))):
            setup = SETUP.format(**parts)
            for name, (type_name, *values) in DIFFERENT.items():
                setup += "CREATE TABLE %s_ (v %s); INSERT INTO %s_ VALUES (%s);" % (
                    name,
                    type_name,
                    name,
                    values[index],
                )
            server.create_database(database, setup)
            taken.append(fingerprint(server, database))
        differing = {d["object"].split(".", 1)[1] for d in compare_fingerprints(*taken) if d["kind"] == "hash"}
        assert differing == {
            *(name + "_" for name in DIFFERENT),
            "columns_swapped",
            "rows_exchange_values",
            "numbers_exchanged",
            "duplicates",
            "first_of_two",
            "second_of_two",
        }
    finally:
        server.drop_database("left")
        server.drop_database("right")


def test_strings_that_a_collation_or_citext_calls_equal_are_told_apart(pg_distribution):
    try:
        taken = []
        for database, word in (("left", "Case"), ("right", "case")):
            pg_distribution.create_database(
                database,
                """
                CREATE EXTENSION citext; CREATE EXTENSION hstore;
                CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                CREATE DOMAIN blind_text AS text COLLATE blind;
                CREATE TABLE a (v text COLLATE blind); CREATE TABLE b (v citext); CREATE TABLE c (v citext[]);
                CREATE TABLE d (v blind_text); CREATE TABLE e (v varchar(9) COLLATE blind);
                CREATE TABLE f (v char(4) COLLATE blind); CREATE TABLE g (v hstore);
                INSERT INTO a VALUES ('{w}'); INSERT INTO b VALUES ('{w}'); INSERT INTO c VALUES (ARRAY['{w}'::citext]);
                INSERT INTO d VALUES ('{w}'); INSERT INTO e VALUES ('{w}'); INSERT INTO f VALUES ('{w}');
                INSERT INTO g VALUES ('a=>{w}');
                """.replace("{w}", word),
            )
            taken.append(fingerprint(pg_distribution, database))
        assert named(compare_fingerprints(*taken)) == {("table public." + name, "hash") for name in "abcdefg"}
    finally:
        pg_distribution.drop_database("left")
        pg_distribution.drop_database("right")


def test_what_does_not_change_the_data_does_not_change_the_hash(server):
    """Order of rows, dropped columns, nullability and enum OIDs leave no trace in a table's hash."""
    left = """
        CREATE TYPE mood AS ENUM ('ok', 'bad');
        CREATE TABLE t (a integer NOT NULL, b text NOT NULL, m mood);
        INSERT INTO t SELECT i, 'v' || i, 'ok' FROM generate_series(1, 500) i;
    """
    right = """
        CREATE TYPE other AS ENUM ('x', 'y', 'z'); CREATE TYPE mood AS ENUM ('ok', 'bad');
        CREATE TABLE t (z text DEFAULT 'gone', a integer, y text, b text, m mood);
        INSERT INTO t SELECT 'z', i, 'y', 'v' || i, 'ok' FROM generate_series(500, 1, -1) i;
        ALTER TABLE t DROP COLUMN z; ALTER TABLE t DROP COLUMN y;
        DELETE FROM t WHERE a < 100; INSERT INTO t SELECT i, 'v' || i, 'ok' FROM generate_series(1, 99) i;
    """
    try:
        server.create_database("left", left)
        server.create_database("right", right)
        server.execute(
            "ALTER DATABASE \"right\" SET datestyle = 'German'; ALTER DATABASE \"right\" SET timezone = 'Asia/Tokyo'"
        )
        before, after = fingerprint(server, "left", jobs=1), fingerprint(server, "right", jobs=4)
        assert before.tables == after.tables
    finally:
        server.drop_database("left")
        server.drop_database("right")


def test_hashes_are_the_same_on_every_version(pg16, pg18, pg_distribution, tmp_path):
    name = "nasty older"
    create_nasty_database(pg_distribution, name)
    pg_distribution.execute(
        "DROP TABLE contributed, blindly; DROP EXTENSION citext; DROP EXTENSION hstore; DROP COLLATION blind",
        database=name,
    )
    try:
        before = fingerprint(pg_distribution, name)
        for number, newer in enumerate((pg16, pg18)):
            (tmp_path / str(number)).mkdir()
            create_roles(newer)
            copy_through_dump(pg_distribution, name, newer, name, tmp_path / str(number))
            after = fingerprint(newer, name)
            assert compare_fingerprints(before, after) == []
            newer.drop_database(name)
    finally:
        pg_distribution.drop_database(name)


def create_roles(server: TestServer) -> None:
    create_nasty_database(server, "for its roles")
    server.drop_database("for its roles")


def test_relations_that_the_role_cannot_read_whole_are_named_first(server, pair):
    server.execute("DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN PASSWORD 'pw'")
    limited = Server(host="127.0.0.1", port=server.port, user="limited", password="pw")
    try:
        with pytest.raises(HoldfastError) as failure:
            take_fingerprint(server=limited, database=pair[0])
        assert failure.value.code == "permission_denied"
        assert '"We ird"."Ta.ble %s"' in failure.value.details["relations"]
        assert "public.party" in failure.value.msg
        server.execute("GRANT pg_read_all_data TO limited")
        with pytest.raises(HoldfastError) as failure:
            take_fingerprint(server=limited, database=pair[0])
        assert failure.value.details["relations"] == ["public.party"]
        assert "row-level security" in failure.value.msg
        server.execute("ALTER ROLE limited BYPASSRLS")
        with pytest.raises(HoldfastError) as failure:
            take_fingerprint(server=limited, database=pair[0])
        assert failure.value.code == "permission_denied"
        assert "large object" in failure.value.msg
    finally:
        server.execute("DROP OWNED BY limited; DROP ROLE limited")


def test_an_exported_snapshot_hides_what_came_after(pg18, database):
    pg18.execute("CREATE TABLE t (a integer); INSERT INTO t VALUES (1)", database=database)
    exporter = pg18.connect(database)
    exporter.set_session(isolation_level="REPEATABLE READ", autocommit=False)
    with exporter.cursor() as cursor:
        cursor.execute("SELECT pg_export_snapshot()")
        snapshot = cursor.fetchone()[0]
        before = fingerprint(pg18, database, snapshot=snapshot)
        pg18.execute("INSERT INTO t VALUES (2); CREATE TABLE later ()", database=database)
        assert compare_fingerprints(before, fingerprint(pg18, database, snapshot=snapshot)) == []
        assert len(compare_fingerprints(before, fingerprint(pg18, database))) == 2
        pg18.execute("TRUNCATE t", database=database)
        with pytest.raises(HoldfastError) as failure:
            fingerprint(pg18, database, snapshot=snapshot)
        assert failure.value.code == "snapshot_lost"
        assert "table public.t was truncated or rewritten" in failure.value.msg
        pg18.execute("DROP TABLE t", database=database)
        with pytest.raises(HoldfastError) as failure:
            fingerprint(pg18, database, snapshot=snapshot)
        assert failure.value.code == "snapshot_lost"
    exporter.close()
    with pytest.raises(HoldfastError) as failure:
        fingerprint(pg18, database, snapshot=snapshot)
    assert failure.value.code == "snapshot_lost"


def test_a_table_is_locked_only_while_it_is_read(pg18, database):
    pg18.execute(
        "CREATE TABLE a (x integer); CREATE TABLE b (x integer); CREATE TABLE c (x integer)", database=database
    )
    locks = []

    def progress(done: int, total: int, _name: str) -> None:
        if done == total:
            locks.extend(
                pg18.execute(
                    "SELECT 1 FROM pg_locks WHERE relation IN ('a'::regclass, 'b'::regclass, 'c'::regclass)",
                    database=database,
                )
            )

    assert len(fingerprint(pg18, database, jobs=1, on_progress=progress).tables) == 3
    assert locks == []


def test_a_reader_that_loses_its_connection_ends_the_whole(pg18, database):
    pg18.execute(
        "CREATE TABLE slow AS SELECT n, a FROM generate_series(1, 30) n,"
        " (SELECT array_agg(i * 0.1) AS a FROM generate_series(1, 300000) i) x; CREATE TABLE quick (a integer)",
        database=database,
    )
    outcome: list[HoldfastError] = []

    def run() -> None:
        with pytest.raises(HoldfastError) as failure:
            fingerprint(pg18, database)
        outcome.append(failure.value)

    thread = threading.Thread(target=run)
    thread.start()
    reader = eventually(
        lambda: pg18.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND state = 'active' AND query LIKE %s",
            (database, "SELECT count%slow%"),
        ),
        interval_s=0.01,
    )
    pg18.execute("SELECT pg_terminate_backend(%s)", reader[0])
    thread.join(timeout=20)
    assert [(error.code, error.details["relation"]) for error in outcome] == [("connection_failed", "public.slow")]
    eventually(lambda: not pg18.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", (database,)))


def test_an_interruption_ends_every_reader(pg18, database):
    pg18.execute("CREATE TABLE a (x integer); CREATE TABLE b (x integer)", database=database)

    def interrupt(_done: int, _total: int, _name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fingerprint(pg18, database, on_progress=interrupt)
    eventually(lambda: not pg18.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", (database,)))


def test_sequences_read_on_any_session_have_the_same_names(server, pair):
    expected = fingerprint(server, pair[0]).sequences
    connection = server.connect(pair[0], options="-c search_path=public,pg_catalog")
    assert read_sequences(connection) == expected
    connection.close()


def test_many_large_objects_and_sequences_take_few_queries(pg18, database):
    pg18.execute("SELECT lo_from_bytea(100000 + i, i::text::bytea) FROM generate_series(1, 1200) i", database=database)
    pg18.execute(
        "DO $$BEGIN FOR i IN 1..250 LOOP EXECUTE format('CREATE SEQUENCE s%s START %s', i, i); END LOOP; END$$",
        database=database,
    )
    taken = fingerprint(pg18, database)
    assert len(taken.large_objects) == 1200
    assert {facts["last_value"] for facts in taken.sequences.values()} == set(range(1, 251))


def test_the_module_names_what_differs_and_changes_nothing(pg18, database, tmp_path):
    pg18.execute(
        "CREATE TABLE loan (id integer); INSERT INTO loan VALUES (1), (2); SELECT lo_from_bytea(0, 'x')",
        database=database,
    )
    pg18.execute('CREATE DATABASE "mod copy" TEMPLATE "%s"' % database)
    try:
        arguments = {**pg18.login, "database": "mod copy", "compare_with": database}
        for check in (True, False):
            result = run_module("pg_fingerprint_info", arguments, check=check)
            assert not result["failed"], result
            assert (result["changed"], result["equal"], result["differences"]) == (False, True, [])
            assert result["tables"]["public.loan"]["rows"] == 2
            assert (result["rows"], result["large_objects"]) == (2, 1)
            assert "fingerprint" not in result

        full = run_module("pg_fingerprint_info", {**pg18.login, "database": database, "full": True})
        assert "equal" not in full
        path = tmp_path / "before.json"
        path.write_text(json.dumps(full["fingerprint"]), encoding="utf-8")
        pg18.execute("DELETE FROM loan WHERE id = 2", database="mod copy")
        result = run_module("pg_fingerprint_info", {**pg18.login, "database": "mod copy", "reference_path": str(path)})
        assert (result["changed"], result["equal"]) == (False, False)
        assert [d["message"] for d in result["differences"]] == ["The table public.loan had 2 rows and has 1 (-1)."]
    finally:
        pg18.drop_database("mod copy")


def test_the_module_says_which_database_or_file_is_not_there(pg18, tmp_path):
    result = run_module("pg_fingerprint_info", {**pg18.login, "database": "no such database"})
    assert (result["failed"], result["code"]) == (True, "database_not_found")
    result = run_module(
        "pg_fingerprint_info", {**pg18.login, "database": "postgres", "reference_path": str(tmp_path / "none")}
    )
    assert (result["failed"], result["code"]) == (True, "archive_not_found")


#: Definitions that differ in what PostgreSQL enforces or publishes, and what a difference is told of.
TWINS = {
    "table public.p": (
        "CREATE TABLE p (a int, b int) PARTITION BY RANGE (a)",
        "CREATE TABLE p (a int, b int) PARTITION BY RANGE (b)",
    ),
    "table public.q": (
        "CREATE TABLE q (a text) PARTITION BY LIST (a)",
        'CREATE TABLE q (a text) PARTITION BY LIST (a COLLATE "C")',
    ),
    "constraint f on public.child": (
        "CREATE TABLE child (x int, y int, CONSTRAINT f FOREIGN KEY (x, y) REFERENCES parent ON DELETE SET NULL (x))",
        "CREATE TABLE child (x int, y int, CONSTRAINT f FOREIGN KEY (x, y) REFERENCES parent ON DELETE SET NULL (y))",
    ),
    "constraint e on public.booked": (
        "CREATE TABLE booked (r int4range, CONSTRAINT e EXCLUDE USING gist (r WITH &&))",
        "CREATE TABLE booked (r int4range, CONSTRAINT e EXCLUDE USING gist (r WITH =))",
    ),
    "table public.late": (
        "CREATE TABLE late (a int); ALTER TABLE late ADD NOT NULL a NOT VALID",
        "CREATE TABLE late (a int); ALTER TABLE late ADD NOT NULL a",
    ),
    "publication columns": (
        "CREATE PUBLICATION columns FOR TABLE parent (x, y)",
        "CREATE PUBLICATION columns FOR TABLE parent (x, y, z)",
    ),
    "schemas of publication whole": (
        "CREATE PUBLICATION whole FOR TABLES IN SCHEMA public",
        "CREATE PUBLICATION whole FOR TABLES IN SCHEMA other",
    ),
}


def test_definitions_that_differ_in_what_is_enforced_are_told_apart_and_survive_a_restore(pg18, database, tmp_path):
    base = "CREATE SCHEMA other; CREATE TABLE parent (x int, y int, z int, PRIMARY KEY (x, y));"
    twin, restored = database + "_twin", database + "_restored"
    pg18.execute(base + ";".join(one for one, _other in TWINS.values()), database=database)
    pg18.create_database(twin, base + ";".join(other for _one, other in TWINS.values()))
    try:
        copy_through_dump(pg18, database, pg18, restored, tmp_path)
        before = fingerprint(pg18, database)
        assert compare_fingerprints(before, fingerprint(pg18, restored)) == []
        differences = compare_fingerprints(before, fingerprint(pg18, twin))
        assert {d["object"] for d in differences} == set(TWINS)
    finally:
        pg18.drop_database(twin)
        pg18.drop_database(restored)


def test_version_that_the_server_keeps_with_a_column_is_no_difference_and_options_of_people_are(pg18, database):
    pg18.execute("CREATE TABLE measured (a int, b int)", database=database)
    before = fingerprint(pg18, database)
    # As servers from November 2026 on write it; no statement of a user can.
    pg18.execute(
        "UPDATE pg_attribute SET attoptions = '{pg_attver=81108280}'"
        " WHERE attrelid = 'measured'::regclass AND attname = 'a'",
        database=database,
    )
    assert compare_fingerprints(before, fingerprint(pg18, database)) == []
    pg18.execute("ALTER TABLE measured ALTER COLUMN b SET (n_distinct = 7)", database=database)
    assert named(compare_fingerprints(before, fingerprint(pg18, database))) == {("table public.measured", "object")}
