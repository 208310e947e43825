# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows that an undo left behind come forward, or are listed with the reason why not; none is unsaid."""

from __future__ import annotations

import csv
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.carry import carry_forward
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.sequences import reserve_sequences
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from tests.support.job import EXAMPLE, Job
from tests.support.modules import run_module
from tests.support.retired import Undo, undo
from tests.support.server import TestServer, embedded_bin_dir, eventually

LENDING = """
CREATE TABLE party (id bigserial PRIMARY KEY, name text NOT NULL);
CREATE TABLE payment (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    party_id bigint NOT NULL REFERENCES party,
    amount numeric(14,2) CONSTRAINT amount_positive CHECK (amount > 0),
    reference varchar(20) UNIQUE,
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED
);
INSERT INTO party (name) SELECT 'party ' || g FROM generate_series(1, 20) g;
INSERT INTO payment (party_id, amount, reference) SELECT g % 20 + 1, g, 'old ' || g FROM generate_series(1, 200) g;
"""


def carry(pair: Undo, *tables: str, **options: Any) -> dict[str, Any]:
    options.setdefault("since", pair.since)
    return carry_forward(
        server=pair.server.server, database=pair.live, retired=pair.retired, tables=list(tables), **options
    )


def rejected(result: dict[str, Any]) -> dict[Any, str]:
    """Reason by key, of tables with one key column."""
    return {next(iter(row["key"].values())): row["reason"] for row in result["rejected"]}


def rows(pair: Undo, query: str, database: str | None = None) -> list[tuple[Any, ...]]:
    return pair.server.execute(query, database=database or pair.live)


@pytest.fixture
def lending(pg18: TestServer) -> Iterator[Undo]:
    """A clone kept, nothing written yet."""
    with undo(pg18, LENDING) as pair:
        pair.keep_rollback_point()
        yield pair


def test_module_carries_parents_first_and_a_second_time_nothing(lending: Undo, tmp_path: pathlib.Path) -> None:
    lending.write(
        "INSERT INTO party (name) VALUES ('new');"
        "INSERT INTO payment (party_id, amount, reference) SELECT 21, g, 'new ' || g FROM generate_series(1, 30) g;"
        "UPDATE party SET name = 'changed' WHERE id = 1; DELETE FROM payment WHERE id = 5"
    )
    lending.exchange()
    arguments = {
        **lending.server.login,
        "database": lending.live,
        "retired": lending.retired,
        "tables": ["payment", "public.party"],
        "since": lending.since,
        "path": str(tmp_path),
    }
    predicted = run_module("pg_carry_forward", arguments, check=True)
    assert predicted["changed"] and predicted["rows"] == 31, predicted
    assert rows(lending, "SELECT count(*) FROM payment") == [(200,)]
    result = run_module("pg_carry_forward", arguments)
    assert result["changed"] and result["rows"] == 31 and result["verified"]
    assert result["rejected"] == result["refused"] == [] and result["rejected_file"] is None
    assert {row["table"]: row["rows"] for row in result["carried"]} == {"public.party": 1, "public.payment": 30}
    new = "SELECT * FROM payment WHERE id > 200 ORDER BY id"
    assert rows(lending, new) == rows(lending, new, lending.retired) and len(rows(lending, new)) == 30
    # What was changed or deleted is not touched.
    assert rows(lending, "SELECT name FROM party WHERE id = 1") == [("party 1",)]
    assert rows(lending, "SELECT count(*) FROM payment WHERE id = 5") == [(1,)]
    # Keys that were carried are not given out again.
    lending.write("INSERT INTO payment (party_id, amount) VALUES (21, 1); INSERT INTO party (name) VALUES ('next')")
    for check in (True, False):
        again = run_module("pg_carry_forward", arguments, check=check)
        assert not again["changed"] and again["rows"] == 0 and again["rejected"] == []


def test_rows_that_the_version_before_refuses_are_listed_one_by_one(lending: Undo, tmp_path: pathlib.Path) -> None:
    lending.write(
        "ALTER TABLE payment DROP CONSTRAINT amount_positive, ALTER reference TYPE text;"
        "ALTER TABLE payment ADD channel text, ADD state text NOT NULL DEFAULT 'booked';"
        "ALTER TABLE party ALTER name DROP NOT NULL;"
        "INSERT INTO party (name) VALUES (NULL), ('fine');"
        "INSERT INTO payment (party_id, amount, reference, channel, state) VALUES"
        " (1, -1, 'negative', 'web', 'booked'), (21, 1, 'parent refused', NULL, 'booked'),"
        " (22, 1, 'fine', 'web', 'open'), (1, 1, 'twenty-one characters', NULL, 'booked'),"
        " (1, 1, 'taken', NULL, 'booked')"
    )
    lending.exchange()
    lending.write(
        "INSERT INTO payment (id, party_id, amount, reference) OVERRIDING SYSTEM VALUE VALUES (900, 1, 1, 'taken')"
    )
    result = carry(lending, "all", path=str(tmp_path))
    assert {row["table"]: (row["rows"], row["rejected"]) for row in result["carried"]} == {
        "public.party": (1, 1),
        "public.payment": (1, 4),
    }
    payment = next(row for row in result["carried"] if row["table"] == "public.payment")
    assert payment["columns_left"] == {"channel": 2, "state": 1}
    found = {(row["table"], row["key"]["id"]): row for row in result["rejected"]}
    assert set(found) == {
        ("public.party", 21),
        ("public.payment", 201),
        ("public.payment", 202),
        ("public.payment", 204),
        ("public.payment", 205),
    }
    assert "amount_positive" in found["public.payment", 201]["reason"]
    assert found["public.payment", 202]["constraint"] == "payment_party_id_fkey"
    assert "too long" in found["public.payment", 204]["reason"]
    assert found["public.payment", 205]["detail"] == "Key (reference)=(taken) already exists."
    # What the server says in detail of a whole row is in the file alone.
    assert found["public.payment", 201]["detail"] is None
    with pathlib.Path(result["rejected_file"]).open(encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == result["rejected_total"] == 5 and any("negative" in row["detail"] for row in listed)
    assert pathlib.Path(result["rejected_file"]).stat().st_mode & 0o777 == 0o600
    # Everything is still where it was.
    assert rows(lending, "SELECT count(*) FROM payment WHERE id > 200", lending.retired) == [(5,)]


def test_nothing_is_carried_where_the_list_of_refused_rows_cannot_be_kept(
    lending: Undo, tmp_path: pathlib.Path
) -> None:
    lending.write(
        "ALTER TABLE payment DROP CONSTRAINT amount_positive;"
        "INSERT INTO payment (party_id, amount) VALUES (1, -1), (1, 1)"
    )
    lending.exchange()
    (tmp_path / "file").touch()
    with pytest.raises(HoldfastError) as refusal:
        carry(lending, "payment", path=str(tmp_path / "file" / "writes"))
    assert refusal.value.code == "destination_unwritable"
    assert rows(lending, "SELECT count(*) FROM payment WHERE id > 200") == [(0,)]
    assert carry(lending, "payment", path=str(tmp_path))["rows"] == 1


def test_key_that_clients_took_since_is_a_rejection_and_sequences_that_were_reserved_prevent_it(lending: Undo) -> None:
    reserve = {
        "server": lending.server.server,
        "database": lending.live,
        "side": lending.side,
        "tables": ["payment", "nowhere"],
        "margin": 50,
    }
    lending.write("INSERT INTO payment (party_id, amount) SELECT 1, g FROM generate_series(1, 10) g")
    predicted = reserve_sequences(**reserve, check_mode=True)
    moved = reserve_sequences(**reserve)
    assert predicted == moved and moved["changed"] and moved["missing"] == ["nowhere"]
    assert moved["sequences"] == [{"sequence": "public.payment_id_seq", "live": 210, "before": 200, "after": 260}]
    assert not reserve_sequences(**reserve)["changed"]
    lending.write("INSERT INTO party (name) VALUES ('left behind')")
    lending.exchange()
    lending.write("INSERT INTO payment (party_id, amount) VALUES (1, 7); INSERT INTO party (name) VALUES ('client')")
    result = carry(lending, "payment", "party")
    assert {row["table"]: row["rows"] for row in result["carried"]} == {"public.payment": 10}
    assert "another row under this key" in rejected(result)[21]
    assert rows(lending, "SELECT id FROM payment WHERE amount = 7 AND id > 200 ORDER BY id") == [(207,), (261,)]
    assert rows(lending, "SELECT name FROM party WHERE id = 21") == [("client",)]


CIRCLES = """
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree);
CREATE TABLE hen (id int PRIMARY KEY, egg int);
CREATE TABLE egg (id int PRIMARY KEY, hen int REFERENCES hen);
ALTER TABLE hen ADD CONSTRAINT hen_egg FOREIGN KEY (egg) REFERENCES egg DEFERRABLE;
CREATE TABLE cat (id int PRIMARY KEY, dog int);
CREATE TABLE dog (id int PRIMARY KEY, cat int REFERENCES cat);
ALTER TABLE cat ADD CONSTRAINT cat_dog FOREIGN KEY (dog) REFERENCES dog;
"""


def test_foreign_keys_in_circles_hold_or_are_refused_by_name(pg18: TestServer) -> None:
    with undo(pg18, CIRCLES) as pair:
        pair.keep_rollback_point()
        pair.write(
            "ALTER TABLE tree DROP CONSTRAINT tree_parent_fkey; ALTER TABLE egg DROP CONSTRAINT egg_hen_fkey;"
            "INSERT INTO tree VALUES (1, 2), (2, 3), (3, NULL), (4, 99), (5, 4);"
            "BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO hen VALUES (1, 1), (2, 2), (3, 3);"
            "INSERT INTO egg VALUES (1, 2), (2, 1), (3, 77); COMMIT; INSERT INTO cat VALUES (1, NULL);"
            "INSERT INTO dog VALUES (1, 1)"
        )
        pair.exchange()
        result = carry(pair, "tree", "hen", "egg")
        assert {row["table"]: row["rows"] for row in result["carried"]} == {
            "public.tree": 3,
            "public.hen": 2,
            "public.egg": 2,
        }
        assert {(row["table"], row["key"]["id"]) for row in result["rejected"]} == {
            ("public.tree", 4),
            ("public.tree", 5),
            ("public.egg", 3),
            ("public.hen", 3),
        }
        with pytest.raises(HoldfastError) as caught:
            carry(pair, "cat", "dog")
        assert "cat_dog" in caught.value.msg and caught.value.details["tables"] == ["public.cat", "public.dog"]
        assert rows(pair, "SELECT count(*) FROM dog") == [(0,)]


TRIGGERED = """
CREATE TABLE stamped (id int PRIMARY KEY, note text);
CREATE TABLE quiet (id int PRIMARY KEY, note text);
CREATE TABLE altered_later (id int PRIMARY KEY, note text);
CREATE TABLE audit (id serial PRIMARY KEY, what text);
CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO audit (what) VALUES (TG_TABLE_NAME || NEW.id); RETURN NEW; END $$;
CREATE FUNCTION alter_it() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.note = 'drop' THEN RETURN NULL; END IF; NEW.note = upper(NEW.note); RETURN NEW; END $$;
CREATE FUNCTION alter_it_later() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN UPDATE altered_later SET note = 'x' WHERE id = NEW.id; RETURN NULL; END $$;
CREATE TRIGGER t BEFORE INSERT ON stamped FOR EACH ROW EXECUTE FUNCTION alter_it();
CREATE TRIGGER t AFTER INSERT ON quiet FOR EACH ROW EXECUTE FUNCTION note_it();
CREATE TRIGGER t AFTER INSERT ON altered_later FOR EACH ROW EXECUTE FUNCTION alter_it_later();
"""


def test_triggers_fire_and_a_row_that_they_would_change_is_refused(pg18: TestServer) -> None:
    with undo(pg18, TRIGGERED) as pair:
        pair.keep_rollback_point()
        pair.write(
            "DROP TRIGGER t ON stamped; DROP TRIGGER t ON quiet; DROP TRIGGER t ON altered_later;"
            "INSERT INTO stamped VALUES (1, 'UPPER'), (2, 'lower'), (3, 'drop'); INSERT INTO quiet VALUES (1, 'a')"
        )
        pair.exchange()
        result = carry(pair, "stamped", "quiet")
        assert {row["table"]: row["rows"] for row in result["carried"]} == {"public.stamped": 1, "public.quiet": 1}
        assert "would change it" in rejected(result)[2] and "keeps it out" in rejected(result)[3]
        assert rows(pair, "SELECT what FROM audit") == [("quiet1",)]
        pair.server.execute("INSERT INTO altered_later VALUES (1, 'a')", database=pair.retired)
        with pytest.raises(HoldfastError) as caught:
            carry(pair, "altered_later")
        assert caught.value.code == "rows_differ" and rows(pair, "SELECT * FROM altered_later") == []


SHAPES = """
CREATE TYPE mood AS ENUM ('fine', 'bad');
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE TABLE "We""ird Täble" ("Key %s" text COLLATE "C" PRIMARY KEY, m mood, d small, j jsonb, b bytea, c char(5),
    bits bit(5), f float8, x text[], gone int);
CREATE TABLE measured (day date, value numeric(10,2), PRIMARY KEY (day, value)) PARTITION BY RANGE (day);
CREATE TABLE measured_1 PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE measured_2 PARTITION OF measured FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
CREATE TABLE loose (a int, b text);
CREATE TABLE schema_version (version text PRIMARY KEY);
INSERT INTO loose VALUES (1, 'x');
"""


def test_types_names_partitions_and_tables_without_a_key(pg_distribution: TestServer) -> None:
    with undo(pg_distribution, SHAPES) as pair:
        pair.keep_rollback_point()
        pair.write(
            "ALTER TYPE mood ADD VALUE 'odd'; ALTER DOMAIN small DROP CONSTRAINT small_check;"
            'ALTER TABLE "We""ird Täble" DROP gone; ALTER TABLE measured ALTER value TYPE numeric(12,4);'
        )
        pair.write(
            'INSERT INTO "We""ird Täble" ("Key %s", m, d, j, b, c, bits, f, x) VALUES'
            " (E'tab\\t nl\\n \\\\N', 'fine', 1, '{\"a\": [1.0, null]}', '\\x00ff5c', 'ab', B'10101', 'NaN',"
            "  '{a,NULL,\"\"}'), ('enum', 'odd', 1, '1', '', '', '00000', 0, '{}'),"
            " ('domain', 'fine', 100, '1', '', '', '00000', 0, '{}'),"
            " ('', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);"
            "INSERT INTO measured VALUES ('2026-02-01', 1.5), ('2026-08-01', 1.2345), ('2026-08-02', 2);"
            "INSERT INTO loose VALUES (1, 'x'), (1, 'x'), (2, NULL); INSERT INTO schema_version VALUES ('v2');"
            "CREATE TABLE created (a int); INSERT INTO created VALUES (1)"
        )
        pair.exchange()
        result = carry(pair, "all", exclude=["schema_version"])
        weird = 'public."We""ird Täble"'
        assert {row["table"]: row["rows"] for row in result["carried"]} == {
            weird: 2,
            "public.measured_1": 1,
            "public.measured_2": 1,
            "public.loose": 3,
        }
        assert next(row for row in result["carried"] if row["table"] == weird)["columns_defaulted"] == ["gone"]
        found = {json.dumps(row["key"], sort_keys=True): row["reason"] for row in result["rejected"]}
        assert "mood" in found['{"Key %s": "enum"}'] and "small" in found['{"Key %s": "domain"}']
        assert any("1.2345" in key and "would change it" in reason for key, reason in found.items()), found
        assert len(found) == 3 and result["refused"] == []
        query = "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM loose t"
        assert rows(pair, query) == rows(pair, query, pair.retired)
        same = (
            'SELECT "Key %%s", m::text, d, j, b, c, bits, f::text, x FROM "We""ird Täble" WHERE m = \'fine\' AND d = 1'
        )
        same = same.replace("%%", "%")
        assert rows(pair, same) == rows(pair, same, pair.retired) != []
        assert rows(pair, "SELECT * FROM schema_version") == []
        named = carry(pair, "created", "schema_version", "measured", exclude=["schema_version"])
        assert {row["table"] for row in named["refused"]} == {"public.created", "public.schema_version"}
        assert not named["changed"]
        with pytest.raises(HoldfastError) as caught:
            carry(pair, "public.nothing")
        assert caught.value.code == "option_invalid" and "public.nothing" in caught.value.msg


def test_row_whose_key_a_client_holds_is_waited_for_and_then_refused(lending: Undo) -> None:
    lending.write("INSERT INTO payment (party_id, amount, reference) VALUES (1, 1, 'held'), (1, 2, 'free')")
    lending.exchange()
    client = lending.server.connect(lending.live)
    client.autocommit = False
    with client.cursor() as cursor:
        cursor.execute("INSERT INTO payment (party_id, amount, reference) VALUES (1, 9, 'held')")
    try:
        result = carry(lending, "payment")
    finally:
        client.rollback()
        client.close()
    # The client had the key of the first row in hand as well.
    assert result["rows"] == 1 and result["rejected"][0]["sqlstate"] == "55P03"
    # Once it has let go, the row comes forward.
    assert carry(lending, "payment")["rows"] == 1


def test_contents_alone_do_not_say_what_clients_deleted_so_such_rows_are_not_carried(lending: Undo) -> None:
    lending.write("INSERT INTO payment (party_id, amount) VALUES (1, 1)")
    lending.exchange()
    lending.write("DELETE FROM payment WHERE id = 7")
    result = carry(lending, "payment", since=None)
    assert result["refused"][0]["table"] == "public.payment" and "deleted" in result["refused"][0]["reason"]
    assert not result["changed"]
    result = carry(lending, "payment")
    assert result["rows"] == 1
    assert rows(lending, "SELECT count(*) FROM payment WHERE id = 7") == [(0,)]


def test_clients_that_write_meanwhile_lose_nothing_and_get_no_key_twice(lending: Undo) -> None:
    lending.write(
        "INSERT INTO payment (party_id, amount, reference) SELECT 1, g, 'r ' || g FROM generate_series(1, 5000) g"
    )
    reserve_sequences(server=lending.server.server, database=lending.live, side=lending.side, tables=["payment"])
    lending.exchange()
    stop, written, failures = threading.Event(), [], []

    def client() -> None:
        connection = lending.server.connect(lending.live)
        with connection.cursor() as cursor:
            while not stop.is_set():
                try:
                    cursor.execute("INSERT INTO payment (party_id, amount) VALUES (2, 1) RETURNING id")
                    written.append(cursor.fetchone()[0])
                    cursor.execute("UPDATE payment SET amount = amount + 1 WHERE id = %s", (len(written) % 200 + 1,))
                    cursor.execute("DELETE FROM payment WHERE id = %s", (len(written) % 50 + 1,))
                except psycopg2.Error as exc:
                    failures.append(str(exc))
        connection.close()

    threads = [threading.Thread(target=client) for _number in range(3)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(written) > 50)
        result = carry(lending, "payment")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == [] and result["rows"] == 5000 and result["rejected"] == [] and result["verified"]
    present = {row[0] for row in rows(lending, "SELECT id FROM payment")}
    assert present >= {*range(201, 5201), *written} and len(set(written)) == len(written)
    # What clients have deleted stays deleted.
    assert not present & set(range(1, 51)) or len(written) < 50


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """The sample, deployed to a version that takes refunds as negative payments and knows their channel."""
    server = TestServer(embedded_bin_dir(18))
    directory = tmp_path_factory.mktemp("carry")
    migration = directory / "migrations" / "v3.0.0_refunds"
    migration.mkdir(parents=True)
    (migration / "up.sql").write_text(
        "ALTER TABLE public.payment DROP CONSTRAINT payment_amount_positive, ADD COLUMN channel text;\n",
        encoding="utf-8",
    )
    job = Job(server, directory)
    job.write_inventory(
        migrate_directories=[str(EXAMPLE / "migrations"), str(directory / "migrations")],
        verify_suites=[],
        preflight_suites=[],
    )
    job.set_up()
    completed = job.play("deploy")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    yield job
    server.remove()


PAYMENTS = """
INSERT INTO payment (payer_party_id, amount, currency_code, received_at, status, external_reference, channel)
SELECT (SELECT id FROM party ORDER BY id LIMIT 1 OFFSET g % 20), CASE WHEN g % 200 = 0 THEN -g ELSE g END, 'EUR',
       now(), 'completed', 'after the migration ' || g, 'web'
  FROM generate_series(1, 10000) g
"""
COLUMNS = "id, payer_party_id, amount, currency_code, received_at, status, external_reference, created_at"


def test_ten_thousand_payments_survive_an_undo_and_fifty_are_lost_from_nowhere(job: Job) -> None:
    job.server.execute(PAYMENTS, database=job.database)
    completed = job.play(
        "rollback",
        "-e",
        "holdfast_confirm=rently_lending",
        "-e",
        json.dumps({"rollback_carry_forward": ["public.payment"]}),
    )
    report = job.report()
    # Fifty rows wait for a person, so the command does not end as if there were nothing to do.
    assert completed.returncode != 0 and "50 ROWS WERE REFUSED" in completed.stdout, completed.stdout
    assert report["deployment"]["status"] == "succeeded" and job.version() == "v1.0.0"
    retired = report["rollback"]["retired"]
    query = "SELECT %s FROM payment WHERE external_reference LIKE 'after%%' AND amount > 0 ORDER BY id" % COLUMNS
    written = job.server.execute(query, database=retired)
    assert len(written) == 9950
    assert job.server.execute(query, database=job.database) == written
    carried, left = report["rollback"]["carried"], report["rollback"]["left"]
    assert carried["rows"] == 9950 and carried["verified"] and carried["rejected_total"] == 50
    assert carried["tables"][0]["columns_left"] == {"channel": 10000}
    refused = "SELECT id::text FROM payment WHERE amount < 0"
    keys = {row[0] for row in job.server.execute(refused, database=retired)}
    assert len(keys) == 50
    assert {row["key"]["id"] for row in carried["rejected"]} == keys
    assert all("payment_amount_positive" in row["reason"] for row in carried["rejected"])
    payment = next(row for row in left["tables"] if row["table"] == "public.payment")
    assert (payment["inserted"], payment["updated"], payment["deleted"]) == (10000, 0, 0) and left["known"]
    directory = pathlib.Path(left["directory"])
    with (directory / payment["file"]).open(encoding="utf-8") as file:
        kept = list(csv.DictReader(file))
    assert len(kept) == 10000 and {row["id"] for row in kept if row["amount"].startswith("-")} == keys
    assert {row["holdfast_change"] for row in kept} == {"inserted"}
    assert directory.parent == job.directory / "reports" / report["deployment"]["id"]
    # What the migration created is kept, too, and its history is not carried.
    assert {row["table"] for row in left["tables"]} >= {"public.loan_status_history", "public.schema_version"}
    page = (directory.parent / "report.html").read_text(encoding="utf-8")
    assert "payment_amount_positive" in page and "public.payment.csv" in page


def test_names_that_are_no_table_and_files_that_cannot_be_written_do_not_hold_up_an_undo(job: Job) -> None:
    assert job.play("deploy").returncode == 0
    (job.directory / "file").touch()
    completed = job.play(
        "rollback",
        "-e",
        "holdfast_confirm=rently_lending",
        "-e",
        "rollback_carry_forward=payments",
        "-e",
        "rollback_writes_dir=%s/file/writes" % job.directory,
    )
    assert completed.returncode != 0 and job.version() == "v1.0.0"
    assert "NOTHING WAS CARRIED FORWARD: Neither database has a table payments." in completed.stdout
    assert "IS NOT ALL KEPT IN FILES" in completed.stdout
    rollback = job.report()["rollback"]
    assert rollback["done"] and rollback["carried"]["problem"] and rollback["left"]["problem"]
    assert any(row["table"] == "public.schema_version" for row in rollback["left"]["tables"])


def test_role_that_may_not_insert_is_told_once_and_not_for_each_row(lending: Undo) -> None:
    lending.write("INSERT INTO payment (party_id, amount) VALUES (1, 1)")
    lending.exchange()
    role = "reader_" + lending.live
    lending.server.execute("CREATE ROLE %s LOGIN PASSWORD 'x'; GRANT pg_read_all_data TO %s" % (role, role))
    try:
        server = lending.server.server.__class__(host="127.0.0.1", port=lending.server.port, user=role, password="x")
        result = carry_forward(
            server=server,
            database=lending.live,
            retired=lending.retired,
            tables=["payment"],
            since=lending.since,
        )
        assert not result["changed"] and "permission denied" in result["refused"][0]["reason"]
    finally:
        lending.server.execute("DROP ROLE %s" % role)
