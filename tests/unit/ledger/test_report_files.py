# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a report (module run_report): whole or not there, private, and the newest one linked."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.report import write_report


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_link_are_written_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "reports" / "d1"
    files = {"report.json": "{}\n", "report.html": "<p>é</p>"}
    assert write_report(path=str(path), files=files, latest="latest") is True
    assert write_report(path=str(path), files=files, latest="latest") is False
    assert (path.parent / "latest" / "report.html").read_text(encoding="utf-8") == "<p>é</p>"
    assert os.readlink(path.parent / "latest") == "d1"
    assert sorted(os.listdir(path)) == ["report.html", "report.json"]
    assert (mode(path), mode(path / "report.json")) == (0o750, 0o640)


def test_check_mode_writes_nothing_and_tells_what_would_change(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "reports" / "d1"
    arguments = {"path": str(path), "files": {"report.json": "{}"}, "latest": "latest"}
    assert write_report(**arguments, check_mode=True) is True
    assert os.listdir(tmp_path) == []
    write_report(**arguments)
    assert write_report(**arguments, check_mode=True) is False
    assert write_report(**{**arguments, "files": {"report.json": "[]"}}, check_mode=True) is True
    (tmp_path / "file").touch()
    with pytest.raises(HoldfastError) as caught:
        write_report(path=str(tmp_path / "file" / "d"), files={}, check_mode=True)
    assert caught.value.code == "destination_unwritable"
    assert "file is not a directory" in caught.value.msg


def test_link_moves_to_the_newest(tmp_path: pathlib.Path) -> None:
    for name in ("d1", "d2"):
        write_report(path=str(tmp_path / name), files={"report.json": name}, latest="latest")
    assert (tmp_path / "latest" / "report.json").read_text() == "d2"
    assert sorted(os.listdir(tmp_path)) == ["d1", "d2", "latest"]


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".", ".."])
def test_names_that_leave_the_directory_are_refused(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(HoldfastError) as caught:
        write_report(path=str(tmp_path / "d"), files={name: "x"})
    assert caught.value.code == "option_invalid"
    assert os.listdir(tmp_path) == []


def test_destination_that_cannot_be_written_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(HoldfastError) as caught:
        write_report(path=str(tmp_path / "file" / "d"), files={"report.json": "x"})
    assert caught.value.code == "destination_unwritable"
    (tmp_path / "latest").mkdir()
    with pytest.raises(HoldfastError) as caught:
        write_report(path=str(tmp_path / "d"), files={"report.json": "x"}, latest="latest")
    assert caught.value.code == "destination_unwritable"
    assert sorted(os.listdir(tmp_path)) == ["d", "file", "latest"]
