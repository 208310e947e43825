# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules behind what an undo leaves behind: transaction ids, keys, orders, halving, names of files."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Sequence

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._backup.carry import Failure, insert_what_fits
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.difference import Deadline, XidRange
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.export import draft, explained, file_name
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.order import ForeignKey, order_by_foreign_keys
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.pairs import (
    Table,
    TableColumn,
    key_type,
    make_pair,
    resolve_tables,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._backup.sequences import ahead_of
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.table_proof import Column


def text(composable: object) -> str:
    return str(composable)


class TestTransactionIds:
    def test_short_ranges_are_listed_and_long_ones_computed(self) -> None:
        assert "{7,8,9}" in text(XidRange(7, 10).holds(version=180000))
        assert "ANY" not in text(XidRange(7, 10).holds(version=130000))
        assert "ANY" not in text(XidRange(7, 100_000).holds(version=180000))

    def test_ids_that_come_again_keep_their_place_in_the_range(self) -> None:
        full = (5 << 32) - 2
        assert "{4294967294,4294967295,0,1}" in text(XidRange(full, full + 4).holds(version=180000))
        computed = text(XidRange(full, full + 100_000).holds(version=180000))
        assert "4294967294" in computed and "100000" in computed

    def test_range_that_32_bits_cannot_tell_is_not_used(self) -> None:
        assert XidRange(10, 10 + (1 << 31) - 1).usable
        assert not XidRange(10, 10 + (1 << 31)).usable

    def test_empty_range_holds_nothing(self) -> None:
        assert "{}" in text(XidRange(10, 10).holds(version=180000))


def test_deadline_has_a_message_when_it_is_over() -> None:
    moments = iter([0.0, 0.5, 2.0])
    deadline = Deadline(1, clock=lambda: next(moments))
    assert deadline.left_ms() == 500
    with pytest.raises(HoldfastError) as caught:
        deadline.left_ms()
    assert caught.value.code == "timeout" and "1 s" in caught.value.msg


def column(name: str, type_name: str = "int4", *, generated: bool = False) -> TableColumn:
    return TableColumn(
        Column(name=name, type_name=type_name),
        declared=type_name,
        not_null=True,
        generated=generated,
        default=None,
        collation=None,
    )


def table(*columns: TableColumn, keys: Sequence[Sequence[str]] = (), name: str = "t") -> Table:
    return Table(
        oid=1,
        schema="public",
        table=name,
        name="public." + name,
        size_bytes=0,
        columns=columns,
        keys=tuple(map(tuple, keys)),
        obstacle=None,
    )


class TestPairs:
    def test_first_key_that_both_have_is_taken_whatever_its_order(self) -> None:
        columns = (column("a"), column("b"), column("c"))
        serving = table(*columns, keys=[["a"], ["b", "c"]])
        retired = table(*columns, keys=[["c", "b"]])
        assert make_pair(retired, serving).key == ("b", "c")
        assert make_pair(table(*columns), serving).key == ()

    def test_key_needs_its_columns_on_both_sides(self) -> None:
        serving = table(column("a"), column("b"), keys=[["a"]])
        assert make_pair(table(column("b"), keys=[["a"]]), serving).key == ()

    def test_computed_columns_are_not_compared_and_order_of_columns_does_not_matter(self) -> None:
        serving = table(column("a"), column("twice", generated=True), column("b"))
        retired = table(column("b"), column("new"), column("twice", generated=True), column("a"))
        assert [theirs.name for _mine, theirs in make_pair(retired, serving).columns] == ["a", "b"]

    @pytest.mark.parametrize(
        ("mine", "theirs", "expected"),
        [
            ("int4", "int4", "int4"),
            ("int8", "int4", "int8"),
            ("text", "varchar", None),
            ("uuid", "text", None),
            ("", "", None),
            ("", "int4", None),
        ],
    )
    def test_key_columns_are_copied_by_a_type_that_indexes_know(
        self, mine: str, theirs: str, expected: str | None
    ) -> None:
        assert key_type(column("k", mine), column("k", theirs)) == expected

    def test_names_of_tables_may_be_given_as_people_write_them(self) -> None:
        known = {
            "public.payment": table(name="payment"),
            'public."Odd, one"': table(name="Odd, one"),
        }
        assert resolve_tables(["payment", "public.payment", "Odd, one", 'public."Odd, one"', "x"], known=known) == (
            ["public.payment", 'public."Odd, one"'],
            ["x"],
        )


def key(name: str, child: int, *parents: int, deferrable: bool = False) -> ForeignKey:
    return ForeignKey(name, "public", child, deferrable, parents, "p", ("a",), ("a",))


class TestOrder:
    def test_parents_come_before_children(self) -> None:
        keys = [key("a", 1, 2), key("b", 2, 3), key("self", 2, 2), key("elsewhere", 3, 99)]
        for tables in itertools.permutations([1, 2, 3]):
            groups, deferred, impossible = order_by_foreign_keys(tables, keys)
            assert groups == [[3], [2], [1]] and deferred == impossible == []

    def test_circle_with_a_deferrable_key_is_one_group_in_the_order_of_the_others(self) -> None:
        keys = [key("hen_egg", 1, 2, deferrable=True), key("egg_hen", 2, 1), key("nest", 3, 2)]
        groups, deferred, impossible = order_by_foreign_keys([3, 2, 1], keys)
        assert groups == [[1, 2], [3]] and impossible == []
        assert [k.name for k in deferred] == ["hen_egg"]

    def test_circle_without_one_is_named(self) -> None:
        keys = [key("ab", 1, 2), key("bc", 2, 3), key("ca", 3, 1), key("other", 4, 1)]
        assert [k.name for k in order_by_foreign_keys([1, 2, 3, 4], keys)[2]] == ["ab", "bc", "ca"]

    def test_partitions_of_a_parent_come_first(self) -> None:
        assert order_by_foreign_keys([1, 2, 3], [key("to_partitions", 1, 9, 2, 3)])[0] == [[2], [3], [1]]


class TestHalving:
    @pytest.mark.parametrize("bad", [set(), {0}, {99}, {3, 4, 50}, set(range(100))])
    def test_finds_each_row_that_is_refused_and_inserts_the_others_once(self, bad: set[int]) -> None:
        inserted: list[int] = []

        def insert(rows: Sequence[int]) -> Failure | None:
            refused = bad & set(rows)
            if refused:
                return Failure("%d is bad" % min(refused))
            inserted.extend(rows)
            return None

        found = insert_what_fits(list(range(100)), insert)
        assert [(n, failure.reason) for n, failure in found] == [(n, "%d is bad" % n) for n in sorted(bad)]
        assert inserted == [n for n in range(100) if n not in bad]

    def test_needs_few_statements_for_few_bad_rows(self) -> None:
        statements = 0

        def insert(rows: Sequence[int]) -> Failure | None:
            nonlocal statements
            statements += 1
            return Failure("bad") if any(n % 200 == 0 for n in rows) else None

        assert len(insert_what_fits(list(range(1, 10_001)), insert)) == 50
        assert statements < 1000


class TestSequences:
    FACTS = {"last_value": 100, "increment": 1, "minimum": 1, "maximum": 1000, "is_called": True}

    @pytest.mark.parametrize(
        ("live", "side", "margin", "expected"),
        [
            ({}, {"last_value": 50}, 10, 110),
            ({}, {"last_value": 110}, 10, None),
            ({}, {"last_value": 50}, 0, 100),
            ({}, {}, 0, None),
            ({"last_value": 995}, {}, 10, 1000),
            ({"last_value": 5000}, {}, 10, 1000),
            ({"last_value": -10}, {"increment": -2, "minimum": -1000, "maximum": -1, "last_value": -1}, 5, -20),
            ({"last_value": -10}, {"increment": -2, "minimum": -1000, "maximum": -1, "last_value": -20}, 5, None),
            ({"last_value": -999}, {"increment": -2, "minimum": -1000, "maximum": -1, "last_value": -1}, 5, -1000),
        ],
    )
    def test_are_moved_ahead_within_their_bounds_and_never_back(
        self, live: dict[str, int], side: dict[str, int], margin: int, expected: int | None
    ) -> None:
        assert ahead_of({**self.FACTS, **live}, {**self.FACTS, **side}, margin=margin) == expected


class TestFiles:
    def test_plain_names_stay_and_others_become_safe_and_different(self) -> None:
        assert file_name("public.payment") == "public.payment.csv"
        assert file_name("public.payment", suffix=".deleted") == "public.payment.deleted.csv"
        names = ['public."../../etc/passwd"', 'public."a\nb"', 'public."a b"', 'public."a_b"', 'public."A B"', "." * 9]
        files = [file_name(name) for name in [*names, 'public."%s"' % ("x" * 500), 'public."%s"' % ("x" * 501)]]
        assert len(set(files)) == len(files)
        for name in files:
            assert name == os.path.basename(name) and not name.startswith((".", "-")) and len(name) < 120

    def test_half_written_file_is_removed_and_the_one_before_stays(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "rows.csv"
        with draft(str(path)) as sink:
            sink.write(b"first")
        assert sink.changed and path.read_bytes() == b"first"
        with pytest.raises(RuntimeError), draft(str(path)) as sink:
            sink.write(b"half")
            raise RuntimeError
        assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["rows.csv"]
        with draft(str(path)) as sink:
            sink.write(b"first")
        assert not sink.changed

    def test_leftover_of_a_killed_run_is_replaced(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / ".rows.csv.partial").write_bytes(b"left")
        with draft(str(tmp_path / "rows.csv")) as sink:
            sink.write(b"new")
        assert os.listdir(tmp_path) == ["rows.csv"]

    def test_full_disk_has_its_own_code(self) -> None:
        with pytest.raises(HoldfastError) as caught, explained("/somewhere"):
            raise OSError(28, "No space left on device")
        assert caught.value.code == "destination_full" and "The retired database has it" in caught.value.msg
