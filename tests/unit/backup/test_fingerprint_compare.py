# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints without a server: what a difference says, what a type is hashed by, what a file must hold."""

from __future__ import annotations

import json

import pytest
from psycopg2 import sql

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.fingerprint import (
    Fingerprint,
    compare_fingerprints,
    read_fingerprint,
    take_fingerprint,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.table_proof import (
    Column,
    Relation,
    TableProof,
    _constant,
    column_hash,
    table_query,
)

SEQUENCE = {"last_value": 5, "is_called": True, "increment": 1}


def text(composed: sql.Composable) -> str:
    if isinstance(composed, sql.Composed):
        return "".join(map(text, composed.seq))
    if isinstance(composed, sql.Identifier):
        return ".".join('"%s"' % name for name in composed.strings)
    return str(composed.string)


def compare(**pairs):
    before = Fingerprint(**{key: value[0] for key, value in pairs.items()})
    after = Fingerprint(**{key: value[1] for key, value in pairs.items()})
    return compare_fingerprints(before, after)


def messages(**pairs) -> list[str]:
    return [difference["message"] for difference in compare(**pairs)]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (TableProof(3, "a"), TableProof(2, "b"), "The table public.loan had 3 rows and has 2 (-1)."),
        (
            TableProof(3, "a"),
            TableProof(3, "b"),
            "The table public.loan has 3 rows as before, but with other values.",
        ),
    ],
)
def test_a_table_that_differs_is_explained(before, after, message):
    assert messages(tables=({"public.loan": before}, {"public.loan": after})) == [message]


def test_a_missing_table_is_named_once_and_with_what_it_had():
    differences = compare(
        tables=({"public.loan": TableProof(3, "a")}, {}),
        objects=({"table public.loan": {"owner": "app"}, "index public.loan_pkey": {}}, {}),
    )
    assert [(d["object"], d["kind"]) for d in differences] == [
        ("table public.loan", "missing"),
        ("index public.loan_pkey", "missing"),
    ]
    assert differences[0]["before"] == {"rows": 3, "hash": "a"}


def test_rows_of_a_materialized_view_are_not_compared_but_whether_it_is_populated_is():
    assert not compare(materialized_views=({"v": TableProof(1, "", True)}, {"v": TableProof(9, "", True)}))
    assert messages(materialized_views=({"v": TableProof(1, "", True)}, {"v": TableProof(0, "", False)})) == [
        "The materialized view v was populated and is not."
    ]


@pytest.mark.parametrize(
    ("before", "after", "agree"),
    [
        ({}, {}, True),
        ({}, {"last_value": 6}, False),
        ({}, {"is_called": False}, False),
        ({"last_value_max": 9}, {"last_value": 9}, True),
        ({"last_value_max": 9}, {"last_value": 5, "is_called": False}, True),
        ({"last_value_max": 9}, {"last_value": 10}, False),
        ({"last_value_max": 9}, {"last_value": 4}, False),
        ({"last_value_max": 1}, {"last_value": 3}, True),  # descending
        ({"last_value_max": 5}, {"is_called": False}, False),
        ({"increment": 2}, {}, False),
    ],
)
def test_a_sequence_agrees_within_the_interval_of_the_dump(before, after, agree):
    differences = compare(sequences=({"s": {**SEQUENCE, **before}}, {"s": {**SEQUENCE, **after}}))
    assert (not differences) is agree


def test_a_sequence_says_the_interval_it_should_be_in():
    assert messages(sequences=({"s": {**SEQUENCE, "last_value_max": 9}}, {"s": {**SEQUENCE, "last_value": 12}})) == [
        "The sequence s differs: its value was between 5 and 9 and is 12."
    ]


def test_attributes_say_what_was_lost_and_gained():
    assert messages(
        objects=(
            {"schema app": {"owner": "a", "acl": ["x=USAGE/a", "y=USAGE/a"], "comment": "old"}},
            {"schema app": {"owner": "b", "acl": ["y=USAGE/a", "z=USAGE/a"]}},
        )
    ) == [
        "The schema app differs: acl lost x=USAGE/a and gained z=USAGE/a; comment was old and is absent; "
        "owner was a and is b."
    ]
    assert messages(objects=({"table t": {"columns": ["a", "b"]}}, {"table t": {"columns": ["b", "a"]}})) == [
        "The table t differs: columns are in another order."
    ]


def test_an_invalid_index_may_vanish_but_not_appear():
    invalid = {"invalid index public.i": {"unique": True}}
    assert not compare(objects=(invalid, {}))
    assert messages(objects=({}, invalid)) == ["The invalid index public.i was not there before."]


def test_fingerprints_of_different_algorithms_are_not_compared():
    with pytest.raises(HoldfastError) as failure:
        compare_fingerprints(Fingerprint(), Fingerprint(algorithm="typed-9"))
    assert failure.value.code == "unsupported"


def test_an_unknown_algorithm_is_refused_before_connecting():
    with pytest.raises(HoldfastError) as failure:
        take_fingerprint(server=Server(host="nowhere.invalid"), database="d", algorithm="typed-9")
    assert failure.value.code == "unsupported"


@pytest.mark.parametrize(
    ("column", "function"),
    [
        (Column("c", "uuid"), "uuid_hash_extended"),
        (Column("c", "numeric", typmod=917510), "hash_numeric_extended"),
        (Column("c", "numeric"), "::text"),
        (Column("c", "interval"), "::text"),
        (Column("c", "jsonb"), "::text"),
        (Column("c", "bpchar", typmod=7), "hashbpcharextended"),
        (Column("c", "bpchar"), "format("),
        (Column("c", "text"), 'hashtextextended("t"."c" COLLATE "C"'),
        (Column("c", "bytea"), "sha256"),
        (Column("c", "", type_kind="e"), "::text"),
        (Column("c", "", type_kind="c", text_function=True), "format("),
        (Column("c", "point", text_function=True), "format("),
    ],
)
def test_a_type_is_hashed_natively_only_where_that_is_exact(column, function):
    assert function in text(column_hash(column, position=0, server_version=180000))


def test_each_position_has_constants_of_its_own():
    constants = [_constant(number) for number in range(-1700, 1700)]
    assert len(set(constants)) == len(constants)
    assert all(0 < constant < 1 << 62 for constant in constants)


def test_only_the_table_itself_is_read_and_names_are_quoted():
    relation = Relation(1, "s", "t%", 's."t%"', "r", True, (Column("a%b", "int4"),))
    query = text(table_query(relation, server_version=160000))
    assert 'FROM ONLY "s"."t%" AS t' in query
    assert '"t"."a%b"' in query


def test_a_table_without_columns_has_rows_all_the_same():
    query = text(table_query(Relation(1, "s", "t", "s.t", "r", True), server_version=160000))
    assert query == 'SELECT count(*), sum(hashint4extended(0, 0::bigint)) FROM ONLY "s"."t" AS t'


def test_a_manifest_gives_each_sequence_its_interval(tmp_path):
    fingerprint = Fingerprint(tables={"public.t": TableProof(1, "a")}, sequences={"s": SEQUENCE})
    manifest = {
        "fingerprint": fingerprint.as_dict(),
        "sequences_before": {"s": {**SEQUENCE, "last_value": 4}},
        "sequences_after": {"s": {**SEQUENCE, "last_value": 8}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    read = read_fingerprint(str(tmp_path))
    assert read.tables == fingerprint.tables
    assert read.sequences["s"] == {**SEQUENCE, "last_value": 4, "last_value_max": 8}


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"fingerprint": 1}', '{"algorithm": "typed-1", "tables": {"t": 1}}']
)
def test_a_file_that_is_no_fingerprint_is_refused(tmp_path, content):
    path = tmp_path / "f.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(HoldfastError) as failure:
        read_fingerprint(str(path))
    assert failure.value.code == "option_invalid"
