# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks that compare: with an earlier stage, with another database, with an archive; and what they hide."""

from __future__ import annotations

import os
import uuid

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.dump import take_archive
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.runner import (
    Limits,
    References,
    check_database,
)
from tests.support.modules import run_module

LEDGER = """
CREATE TABLE account (id int PRIMARY KEY, email text, balance numeric NOT NULL);
INSERT INTO account SELECT n, 'person' || n || '@example.org', n * 10 FROM generate_series(1, 20) n;
CREATE TABLE entry (month date NOT NULL, account int NOT NULL, amount numeric) PARTITION BY RANGE (month);
CREATE TABLE entry_2025 PARTITION OF entry FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE "Entry 2026" PARTITION OF entry FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO entry SELECT '2025-01-01'::date + n * 3, n % 20 + 1, n FROM generate_series(1, 100) n;
"""


@pytest.fixture
def run(pg18, database):
    pg18.execute(LEDGER, database=database)

    def call(*checks, earlier=None, compare_with=None, archive=None, stage="", limits=None, **keys):
        content = {"suite": "rules", "checks": list(checks), **keys}
        answer = check_database(
            server=pg18.server,
            database=database,
            documents=[{"file": "rules.yml", "lines": {}, "content": content}],
            stage=stage,
            references=References(earlier=earlier, database=compare_with or "", archive=archive or ""),
            limits=limits or Limits(),
            fail_on="never",
        )
        answer["by_name"] = {result["name"]: result for result in answer["results"]}
        return answer

    return call


@pytest.fixture
def before(pg18, database, run):
    """A copy of the database as it is at first."""
    name = "before_" + uuid.uuid4().hex[:8]
    pg18.execute('CREATE DATABASE "%s" TEMPLATE "%s"' % (name, database))
    yield name
    pg18.drop_database(name)


def check(name, sql, expect, **keys):
    return {"name": name, "sql": sql, "expect": expect, **keys}


POOR = check(
    "the poor are not more",
    "SELECT id FROM account WHERE balance < 50",
    {"not_worse": {"of": "rows", "better": "lower"}},
)
MONEY = check("money is not less", "SELECT sum(balance) FROM account", {"not_worse": {"better": "higher"}})


def test_what_one_stage_measured_the_next_one_compares_with(run, pg18, database):
    preflight = run(POOR, MONEY, stage="preflight")
    assert [(r["status"], r["value"]) for r in preflight["results"]] == [("passed", "4"), ("passed", "2100")]

    assert preflight["measured"] == {"rules": {"the poor are not more": "4", "money is not less": "2100"}}

    verify = run(POOR, MONEY, earlier=preflight["measured"], stage="verify")
    assert verify["passed_checks"] == 2, verify

    pg18.execute("UPDATE account SET balance = 1 WHERE id = 20", database=database)
    verify = run(POOR, MONEY, earlier=preflight["measured"])
    assert [r["status"] for r in verify["results"]] == ["failed", "failed"]
    assert verify["by_name"]["the poor are not more"]["message"].startswith("found 5, expected at most 4 (earlier 4)")
    assert len(verify["by_name"]["the poor are not more"]["sample"]) == 5
    assert "found 1901, expected at least 2100" in verify["by_name"]["money is not less"]["message"]


def test_check_that_the_earlier_stage_did_not_run_is_no_success(run):
    (result,) = run(POOR, earlier={"rules": {}})["results"]
    assert result["status"] == "failed"
    assert "did not measure it" in result["message"]


def test_rows_are_compared_with_another_database(run, before, pg18, database):
    balances = check("balances", "SELECT id, balance, email FROM account", {"same_as": "database"}, mask=["email"])
    months = check("months", "SELECT month, sum(amount) FROM entry GROUP BY month", {"same_as": "database"})
    assert run(balances, months, compare_with=before)["passed_checks"] == 2
    pg18.execute("UPDATE account SET balance = 11 WHERE id = 1; DELETE FROM account WHERE id = 2", database=database)
    answer = run(balances, months, compare_with=before)
    result = answer["by_name"]["balances"]
    assert result["message"].startswith("1 row only here, 2 rows only in %s; first: found_in" % before)
    assert sorted((r["found_in"], r["id"], r["balance"], r["email"]) for r in result["sample"]) == [
        ("here", 1, "11", "********"),
        ("reference", 1, "10", "********"),
        ("reference", 2, "20", "********"),
    ]
    assert answer["by_name"]["months"]["status"] == "passed"
    assert "@example.org" not in str(answer)


def test_without_anything_to_compare_with_a_check_is_skipped_and_says_so(run):
    answer = run(
        check("rows", "TABLE account", {"same_as": "database"}),
        {"name": "tables", "tables": ["public.account"], "expect": {"same_as": "archive"}},
    )
    assert answer["skipped_checks"] == 2
    assert "none was given" in answer["by_name"]["rows"]["message"]
    assert "2 skipped" in answer["summary"]


def test_database_to_compare_with_must_exist(run):
    with pytest.raises(HoldfastError) as caught:
        run(check("rows", "TABLE account", {"same_as": "database"}), compare_with="nowhere")
    assert caught.value.code == "database_not_found"


def tables(name, *names, source="database"):
    return {"name": name, "tables": list(names), "expect": {"same_as": source}}


def test_tables_are_compared_by_fingerprint_with_all_their_partitions(run, before, pg18, database, tmp_path):
    archive = take_archive(
        server=pg18.server,
        database=database,
        path=str(tmp_path),
        environment=dict(os.environ),
        bin_dir=str(pg18.bin_dir),
    )["archive"]["path"]
    checks = [
        tables("accounts", "public.account"),
        tables("entries", "public.entry"),
        tables("accounts of the archive", "PUBLIC.Account", source="archive"),
        tables("entries of the archive", "public.entry", source="archive"),
    ]

    def outcome():
        return run(*checks, compare_with=before, archive=archive)

    answer = outcome()
    assert answer["passed_checks"] == 4, answer["results"]
    assert answer["by_name"]["entries"]["message"] == "2 tables with 100 rows, the same as in %s" % before

    pg18.execute("UPDATE account SET balance = balance + 1 WHERE id = 1", database=database)
    pg18.execute("DELETE FROM entry WHERE amount = 7", database=database)
    answer = outcome()
    assert answer["passed_checks"] == 0
    for name in ("accounts", "accounts of the archive"):
        (row,) = answer["by_name"][name]["sample"]
        assert row["table"] == "public.account"
        assert row["difference"].startswith("other values in as many rows as in")
    (row,) = answer["by_name"]["entries of the archive"]["sample"]
    assert (row["table"], row["difference"].partition(" in")[0]) == ("public.entry_2025", "99 rows, 100")

    pg18.execute('DROP TABLE "Entry 2026"', database=database)
    for name in ("entries", "entries of the archive"):
        sample = outcome()["by_name"][name]["sample"]
        assert [row["table"] for row in sample] == ['public."Entry 2026"', "public.entry_2025"]

    pg18.execute("ALTER TABLE account RENAME TO gone", database=database)
    for name in ("accounts", "accounts of the archive"):
        result = outcome()["by_name"][name]
        assert result["status"] == "failed"
        assert result["sample"][0]["difference"] == "does not exist"


def test_archive_that_is_none_is_refused_before_any_check(run, tmp_path):
    with pytest.raises(HoldfastError) as caught:
        run(tables("accounts", "public.account", source="archive"), archive=str(tmp_path))
    assert caught.value.code == "archive_not_found"
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(HoldfastError) as caught:
        run(tables("accounts", "public.account", source="archive"), archive=str(tmp_path))
    assert caught.value.code == "archive_corrupt"


def test_stages_select_checks(run):
    always = check("always", "SELECT 1", {"scalar": {"equals": 1}})
    before_only = check("before", "SELECT 1", {"scalar": {"equals": 1}}, stages=["preflight"])
    after_only = check("after", "SELECT 1", {"scalar": {"equals": 1}}, stages=["verify", "rollback"])
    suite = [always, before_only, after_only]
    assert list(run(*suite, stage="preflight")["by_name"]) == ["always", "before"]
    assert list(run(*suite, stage="rollback")["by_name"]) == ["always", "after"]
    assert list(run(*suite)["by_name"]) == ["always", "before", "after"]
    # What the suite says holds for checks that do not say it themselves.
    assert list(run(*suite, stage="schedule", stages=["schedule"])["by_name"]) == ["always"]
    assert run(before_only, stage="verify")["results"] == []


def test_to_check_nothing_is_refused(pg18, database):
    content = {"checks": [check("before", "SELECT 1", "no_rows", stages=["preflight"])]}
    for stage in ("verify", "verified"):
        with pytest.raises(HoldfastError) as caught:
            check_database(
                server=pg18.server,
                database=database,
                documents=[{"file": "rules.yml", "lines": {}, "content": content}],
                stage=stage,
            )
        assert caught.value.code == "option_invalid"


def test_masks_of_suite_and_check_hide_values_and_messages_that_quote_them(run):
    answer = run(
        check("rows", "SELECT id, email, balance FROM account", "no_rows", mask=["Balance"]),
        check("cast", "SELECT email::int FROM account", "no_rows"),
        check("typo", "SELECT nothing FROM account", "no_rows"),
        check("scalar", "SELECT max(email) AS email FROM account", {"scalar": {"equals": "x"}}),
        mask=["email"],
    )
    assert "@example.org" not in str(answer)
    assert answer["by_name"]["rows"]["sample"][0] == {"id": 1, "email": "********", "balance": "********"}
    assert "22P02" in answer["by_name"]["cast"]["message"]
    assert answer["by_name"]["typo"]["message"] == 'column "nothing" does not exist'


def test_module_takes_stage_earlier_results_and_references(pg18, database, before, tmp_path):
    pg18.execute("UPDATE account SET balance = 1 WHERE id = 20", database=database)
    suite = tmp_path / "rules.yml"
    suite.write_text(
        """\
checks:
  - {name: before, stages: [preflight], sql: SELECT 1, expect: no_rows}
  - name: the poor are not more
    sql: SELECT id FROM account WHERE balance < 50
    expect: {not_worse: {of: rows, better: lower}}
  - {name: balances, sql: "SELECT id, balance FROM account", expect: {same_as: database}}
""",
        encoding="utf-8",
    )
    arguments = {
        **pg18.login,
        "database": database,
        "suites": [str(suite)],
        "stage": "verify",
        "compare_with": before,
        "earlier": {"rules": {"the poor are not more": "4"}},
    }
    for checked in (True, False):
        answer = run_module("pg_check", arguments, check=checked)
        assert (answer["failed"], answer["changed"], answer["code"]) == (True, False, "check_failed")
        assert [(r["name"], r["status"]) for r in answer["results"]] == [
            ("the poor are not more", "failed"),
            ("balances", "failed"),
        ]
