# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an undo leaves behind is counted exactly, whatever clients write meanwhile, or called not known."""

from __future__ import annotations

import csv
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.difference import Deadline
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.export import file_name
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.writes import open_sides, writes_report
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.modules import run_module
from tests.support.retired import Undo, undo
from tests.support.server import TestServer

PAYMENTS = """
CREATE TABLE payment (id int PRIMARY KEY, v text, n numeric(10,2));
INSERT INTO payment SELECT g, 'v' || g, g FROM generate_series(1, 1000) g;
CREATE TABLE untouched (id int PRIMARY KEY);
INSERT INTO untouched SELECT generate_series(1, 10);
CREATE TABLE loose (a int, b text);
INSERT INTO loose SELECT g % 10, 'x' FROM generate_series(1, 100) g;
"""

CHANGES = """
INSERT INTO payment SELECT g, 'new', 1 FROM generate_series(2001, 2100) g;
UPDATE payment SET v = 'changed' WHERE id <= 5;
DELETE FROM payment WHERE id IN (11, 12);
UPDATE payment SET id = 5000 WHERE id = 13;
INSERT INTO loose VALUES (1, 'x'), (99, 'new'), (99, 'new');
DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose WHERE a = 3);
"""

LEFT = {"public.payment": (101, 5, 0, 3), "public.loose": (3, 0, 0, 1)}

# As seen by clients of the version that serves.
CLIENTS = """
INSERT INTO payment SELECT g, 'client', 1 FROM generate_series(3001, 3050) g;
INSERT INTO payment VALUES (2001, 'new', 1), (2002, 'client', 1);
UPDATE payment SET v = 'client' WHERE id IN (5, 100);
DELETE FROM payment WHERE id = 200;
INSERT INTO loose VALUES (50, 'client');
"""


@pytest.fixture
def payments(pg18: TestServer) -> Iterator[Undo]:
    """A clone kept, nothing written yet."""
    with undo(pg18, PAYMENTS) as pair:
        pair.keep_rollback_point()
        yield pair


def read(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_module_counts_and_keeps_what_was_written(payments: Undo, tmp_path: pathlib.Path) -> None:
    payments.write(
        CHANGES + "CREATE TABLE created (id int PRIMARY KEY, w text); INSERT INTO created VALUES (1, 'ä\"\n')"
    )
    payments.exchange()
    directory = tmp_path / "run" / "writes"
    arguments = {
        **payments.server.login,
        "database": payments.live,
        "retired": payments.retired,
        "since": payments.since,
        "path": str(directory),
    }
    predicted = run_module("pg_writes_info", arguments, check=True)
    assert predicted["changed"] and not directory.exists(), predicted
    result = run_module("pg_writes_info", arguments)
    assert result["changed"] and result["known"] and result["exact"], result
    counts = {r["table"]: (r["inserted"], r["updated"], r["conflicting"], r["deleted"]) for r in result["tables"]}
    assert counts == {**LEFT, "public.created": (1, 0, 0, 0)}
    assert result["total"] == {"inserted": 105, "updated": 5, "conflicting": 0, "deleted": 4}
    assert result["unchanged"] == 1 and result["directory"] == str(directory)
    assert {row["table"]: row["found_in"] for row in result["tables"]}["public.created"] == "retired"
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert directory.stat().st_mode & 0o777 == 0o700
    kept = read(directory / "public.payment.csv")
    assert [row["id"] for row in kept if row["holdfast_change"] == "updated"] == ["1", "2", "3", "4", "5"]
    assert {int(row["id"]) for row in kept if row["holdfast_change"] == "inserted"} == {*range(2001, 2101), 5000}
    assert kept[0] == {"holdfast_change": "updated", "id": "1", "v": "changed", "n": "1.00"}
    assert [row["id"] for row in read(directory / "public.payment.deleted.csv")] == ["11", "12", "13"]
    assert read(directory / "public.loose.deleted.csv") == [{"a": "3", "b": "x"}]
    assert sorted(row["a"] for row in read(directory / "public.loose.csv")) == ["1", "99", "99"]
    assert read(directory / "public.created.csv") == [{"holdfast_change": "inserted", "id": "1", "w": 'ä"\n'}]
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["retired"] == payments.retired and len(manifest["files"]) == 5
    for file in manifest["files"]:
        content = (directory / file["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
    for check in (True, False):
        assert not run_module("pg_writes_info", arguments, check=check)["changed"]


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("version", ["pg16", "pg_distribution"])
def test_versions_and_contents_tell_the_same(version: str, recorded: bool, request: pytest.FixtureRequest) -> None:
    server: TestServer = request.getfixturevalue(version)
    with undo(server, PAYMENTS) as pair:
        pair.keep_rollback_point()
        pair.write(CHANGES)
        pair.exchange()
        assert pair.counts(since=pair.since if recorded else None) == LEFT


def test_what_clients_write_since_is_neither_left_behind_nor_deleted(payments: Undo) -> None:
    payments.write(CHANGES)
    payments.exchange()
    client = payments.server.connect(payments.live)
    with client.cursor() as cursor:
        cursor.execute(CLIENTS)
    found = payments.left()
    counts = {r["table"]: (r["inserted"], r["updated"], r["conflicting"], r["deleted"]) for r in found["tables"]}
    # 2001 is the same in both; 2002 and 5 were written over; 200 was not written in the retired database.
    assert counts == {"public.payment": (99, 4, 2, 3), "public.loose": (3, 0, 0, 1)}
    assert found["known"] and not found["exact"] and all(row["uncertain"] for row in found["tables"])
    # Contents alone cannot tell that 200 was deleted by a client, and say so.
    payment = next(row for row in payments.left(since=None)["tables"] if row["table"] == "public.payment")
    assert payment["by_contents"] and payment["uncertain"] and (payment["inserted"], payment["deleted"]) == (100, 3)
    client.close()


def test_snapshot_from_before_clients_came_makes_it_exact(payments: Undo) -> None:
    payments.write(CHANGES)
    payments.exchange()
    holder = payments.server.connect(payments.live)
    holder.autocommit = False
    with holder.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot()")
        snapshot = cursor.fetchall()[0][0]
        payments.write(CLIENTS + "DELETE FROM payment WHERE id IN (1, 6)")
        for since in (payments.since, None):
            found = payments.left(snapshot=snapshot, since=since)
            assert found["exact"] and payments.counts(snapshot=snapshot, since=since) == LEFT
    holder.close()
    with pytest.raises(HoldfastError) as caught:
        payments.left(snapshot=snapshot)
    assert caught.value.code == "snapshot_lost"


def evidence(pair: Undo, table: str) -> tuple[bool, bool, bool]:
    with open_sides(
        server=pair.server.server,
        serving=pair.live,
        retired=pair.retired,
        since=pair.since,
        deadline=Deadline(30),
    ) as sides:
        found = sides.evidence(table)
        return found.unchanged, found.append_only, found.written is not None


def test_counters_prove_what_did_not_change_and_nothing_else(pg18: TestServer) -> None:
    tables = ("still", "grows", "emptied", "rewritten", "exchanged", "older")
    setup = "".join(
        "CREATE TABLE %s (id int PRIMARY KEY, v int DEFAULT 1); INSERT INTO %s VALUES (1), (2);" % (t, t)
        for t in tables
    )
    with undo(pg18, setup) as pair:
        pair.keep_rollback_point()
        pair.write("INSERT INTO grows VALUES (3)")
        pair.write("BEGIN; TRUNCATE emptied; COMMIT")
        pair.write("ALTER TABLE rewritten ALTER v TYPE bigint USING v + 1")
        pair.write("ALTER TABLE exchanged RENAME TO gone; ALTER TABLE older RENAME TO exchanged; UPDATE gone SET v = 5")
        pair.exchange()
        assert evidence(pair, "public.still") == (True, True, True)
        assert evidence(pair, "public.grows") == (False, True, True)
        assert evidence(pair, "public.emptied")[:2] == (False, False)
        assert evidence(pair, "public.rewritten")[:2] == (False, False)
        assert evidence(pair, "public.exchanged") == (False, False, False)
        assert pair.counts() == {
            "public.grows": (1, 0, 0, 0),
            "public.emptied": (0, 0, 0, 2),
            "public.rewritten": (0, 2, 0, 0),
            "public.gone": (2, 0, 0, 0),
            "public.older": (0, 0, 0, 0),
        }
        pg18.execute("SELECT pg_stat_reset()", database=pair.retired)
        assert evidence(pair, "public.still") == (False, False, True)
        assert pair.counts()["public.grows"] == (1, 0, 0, 0)


def test_rows_of_a_table_without_updates_are_new_whatever_clients_do(payments: Undo) -> None:
    payments.write("INSERT INTO payment SELECT g FROM generate_series(2001, 2003) g")
    payments.exchange()
    client = payments.server.connect(payments.live)
    with client.cursor() as cursor:
        cursor.execute("DELETE FROM payment WHERE id < 10")
    (payment,) = payments.left()["tables"]
    assert (payment["inserted"], payment["deleted"], payment["uncertain"]) == (3, 0, False)
    client.close()


KEYS = """
CREATE TABLE widened (id int PRIMARY KEY, v text);
CREATE TABLE texts (a text COLLATE "C", b text COLLATE "POSIX", v int, PRIMARY KEY (a, b));
CREATE TABLE uniquely (code varchar(10) NOT NULL UNIQUE, v int, w int);
CREATE TABLE lost_key (id int PRIMARY KEY, v int);
CREATE TYPE color AS ENUM ('red', 'green');
CREATE TABLE colors (c color PRIMARY KEY, v json);
CREATE DOMAIN number AS numeric(8,2);
CREATE TABLE numbers (n number PRIMARY KEY, t timestamptz, f float8);
CREATE TABLE retyped (id uuid PRIMARY KEY, v int);
INSERT INTO widened VALUES (1, 'a'), (2, 'b');
INSERT INTO texts VALUES ('a', 'b', 1), (E'\\t\\\\', '', 2);
INSERT INTO uniquely VALUES ('x', 1, 1), ('y', 2, 2);
INSERT INTO lost_key VALUES (1, 1), (2, 2);
INSERT INTO colors VALUES ('red', '{}'), ('green', '{}');
INSERT INTO numbers VALUES (1, 'infinity', 'NaN'), (2.5, '2026-01-01', 0);
INSERT INTO retyped VALUES ('00000000-0000-0000-0000-000000000001', 1), ('00000000-0000-0000-0000-000000000002', 2);
"""


@pytest.mark.parametrize("recorded", [True, False])
def test_keys_of_any_type_also_of_another_type_than_before(pg18: TestServer, recorded: bool) -> None:
    with undo(pg18, KEYS) as pair:
        pair.keep_rollback_point()
        pair.write(
            "ALTER TABLE widened ALTER id TYPE bigint; INSERT INTO widened VALUES (5000000000, 'c');"
            "UPDATE widened SET v = 'z' WHERE id = 2;"
            "UPDATE texts SET v = 3 WHERE b = ''; INSERT INTO texts VALUES ('A', 'b', 1);"
            "DELETE FROM uniquely WHERE code = 'y'; ALTER TABLE uniquely ADD id serial PRIMARY KEY, DROP w;"
            "INSERT INTO uniquely VALUES ('z', 1);"
            "ALTER TABLE lost_key DROP CONSTRAINT lost_key_pkey; INSERT INTO lost_key VALUES (2, 2), (2, 3);"
        )
        pair.write("ALTER TYPE color ADD VALUE 'blue'")
        pair.write(
            "INSERT INTO colors VALUES ('blue', '{}'); DELETE FROM colors WHERE c = 'red';"
            "INSERT INTO numbers VALUES (3, now(), 1); UPDATE numbers SET f = '-0' WHERE n = 2.5;"
            "ALTER TABLE retyped ALTER id TYPE text; UPDATE retyped SET v = 3 WHERE id LIKE '%2'"
        )
        pair.exchange()
        since = pair.since if recorded else None
        assert pair.counts(since=since) == {
            "public.widened": (1, 1, 0, 0),
            "public.texts": (1, 1, 0, 0),
            "public.uniquely": (1, 0, 0, 1),
            "public.lost_key": (2, 0, 0, 0),
            "public.colors": (1, 0, 0, 1),
            "public.numbers": (1, 1, 0, 0),
            "public.retyped": (0, 1, 0, 0),
        }
        found = {row["table"]: row for row in pair.left(since=since)["tables"]}
        assert found["public.uniquely"]["key"] == ["code"] and found["public.lost_key"]["key"] is None
        assert found["public.uniquely"]["columns_only_retired"] == ["id"]


def test_sequences_and_large_objects_are_told(pg18: TestServer) -> None:
    setup = (
        "CREATE TABLE t (id serial); CREATE SEQUENCE same;"
        "SELECT lo_from_bytea(100, 'one'), lo_from_bytea(200, 'two'), lo_from_bytea(300, 'three')"
    )
    with undo(pg18, setup) as pair:
        pair.keep_rollback_point()
        pair.write(
            "INSERT INTO t SELECT FROM generate_series(1, 7); SELECT lo_from_bytea(400, 'four'), lo_unlink(300),"
            " lo_put(200, 0, 'TWO'), lo_put(100, 0, 'one')"
        )
        pair.exchange()
        pair.write("SELECT lo_from_bytea(500, 'client')")
        for since in (pair.since, None):
            found = pair.left(since=since)
            assert found["sequences"] == [{"sequence": "public.t_id_seq", "retired": 7, "serving": 1}]
            assert found["large_objects"] == {
                "inserted": 1,
                "updated": 1,
                "deleted": 1,
                "known": True,
                "reason": None,
            }


def test_database_that_was_altered_since_leaves_deleted_rows_not_known(payments: Undo) -> None:
    payments.write(CHANGES)
    payments.exchange()
    payments.server.execute('ALTER DATABASE "%s" CONNECTION LIMIT 50' % payments.live)
    payments.write(CLIENTS)
    found = {row["table"]: row for row in payments.left()["tables"]}
    assert found["public.payment"]["deleted"] is None and not found["public.payment"]["known"]
    assert "altered" in found["public.payment"]["reason"]


def test_table_that_cannot_be_compared_in_time_is_not_known_and_the_others_are(payments: Undo) -> None:
    payments.write(CHANGES)
    payments.exchange()
    client = payments.server.connect(payments.live)
    client.autocommit = False
    with client.cursor() as cursor:
        cursor.execute("TRUNCATE loose")
    try:
        with pytest.raises(HoldfastError) as caught:
            payments.left(timeout_s=0.5)
        assert caught.value.code == "timeout"
    finally:
        client.rollback()
        client.close()
    role = "few_" + payments.live
    payments.server.execute(
        "CREATE ROLE %s LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA public TO %s; GRANT SELECT ON payment TO %s"
        % (role, role, role),
        database=payments.retired,
    )
    payments.write("GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s" % role)
    try:
        server = payments.server.server.__class__(host="127.0.0.1", port=payments.server.port, user=role, password="x")
        found = writes_report(
            server=server, database=payments.live, retired=payments.retired, since=payments.since, timeout_s=30
        )
        tables = {row["table"]: row for row in found["tables"]}
        assert not found["known"] and "may not read" in tables["public.loose"]["reason"]
        assert tables["public.payment"]["inserted"] == 101
    finally:
        for name in (payments.live, payments.retired):
            payments.server.execute("DROP OWNED BY %s" % role, database=name)
        payments.server.execute("DROP ROLE %s" % role)


def test_names_of_any_kind_become_file_names(pg18: TestServer, tmp_path: pathlib.Path) -> None:
    names = ["../../etc/passwd", "Payment", "payment", "a\nb", "%s", ".hidden", "é" * 31, "x" * 63, "-rf", 'q"q', "CON"]
    setup = "".join('CREATE TABLE "%s" (holdfast_change int PRIMARY KEY);' % name.replace('"', '""') for name in names)
    with undo(pg18, setup) as pair:
        pair.keep_rollback_point()
        insert = "".join('INSERT INTO "%s" VALUES (1);' % name.replace('"', '""') for name in names)
        pair.write(insert)
        pair.exchange()
        found = pair.left(path=str(tmp_path / "writes"))
        files = [file["name"] for file in found["files"]]
        assert len(set(files)) == len(set(map(str.lower, files))) == len(names)
        assert {path.name for path in (tmp_path / "writes").iterdir()} == {*files, "manifest.json"}
        assert list(tmp_path.iterdir()) == [tmp_path / "writes"]
        header = (tmp_path / "writes" / "public.payment.csv").read_text().splitlines()[0]
        assert header == "holdfast_change_,holdfast_change"
    assert file_name('public."payment.deleted"') != file_name("public.payment", suffix=".deleted")


def test_directory_that_cannot_be_written_is_told_with_the_counts(payments: Undo, tmp_path: pathlib.Path) -> None:
    payments.write(CHANGES)
    payments.exchange()
    (tmp_path / "file").touch()
    for check_mode in (True, False):
        with pytest.raises(HoldfastError) as caught:
            payments.left(path=str(tmp_path / "file" / "writes"), check_mode=check_mode)
        assert caught.value.code == "destination_unwritable"
        result = caught.value.as_result()
        assert result["total"]["inserted"] == 104 and result["files"] == []


def test_wrong_names_are_refused(payments: Undo) -> None:
    payments.exchange()
    for options, code in (
        ({"retired": payments.live}, "option_invalid"),
        ({"retired": "nowhere"}, "database_not_found"),
        ({"tables": ["nothing"]}, "option_invalid"),
    ):
        arguments: dict[str, Any] = {"retired": payments.retired, **options}
        with pytest.raises(HoldfastError) as caught:
            writes_report(server=payments.server.server, database=payments.live, **arguments)
        assert caught.value.code == code
    found = payments.left(tables=["payment"])
    assert found["tables"] == [] and found["unchanged"] == 1
