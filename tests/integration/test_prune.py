# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_backup_prune as a module; its rules are tested with the engine."""

from __future__ import annotations

import datetime
import json

from tests.support.archives import flip_bit, write_archive
from tests.support.modules import run_module


def test_module_predicts_removes_and_then_has_nothing_to_do(tmp_path):
    start = datetime.datetime(2026, 11, 1, 2, tzinfo=datetime.timezone.utc)
    nights = [write_archive(tmp_path, when=start + datetime.timedelta(days=day)) for day in range(6)]
    flip_bit(nights[5] / "data" / "1.dat.gz", 3)
    arguments = {
        "path": str(tmp_path),
        "keep_last": 2,
        "protect": [nights[0].name],
        # As module_defaults of the group would set them; no server is asked.
        "login_host": "192.0.2.1",
        "login_password": "s3cret-of-nobody",
    }
    predicted = run_module("pg_backup_prune", arguments, check=True)
    assert [path.exists() for path in nights] == [True] * 6
    done = run_module("pg_backup_prune", arguments)
    for answer in (predicted, done):
        assert answer["changed"] is True
        assert [entry["id"] for entry in answer["kept"]] == [nights[n].name for n in (5, 4, 3, 0)]
        assert [entry["id"] for entry in answer["removed"]] == [nights[n].name for n in (2, 1)]
        assert answer["freed_bytes"] == sum(entry["bytes"] for entry in answer["removed"]) > 0
        assert answer["kept"][0]["status"] == "corrupt"
        assert "s3cret-of-nobody" not in json.dumps(answer)
    assert [path.exists() for path in nights] == [True, False, False, True, True, True]
    for check in (True, False):
        again = run_module("pg_backup_prune", arguments, check=check)
        assert (again["changed"], again["removed"], again["freed_bytes"]) == (False, [], 0)


def test_module_without_a_rule_refuses(tmp_path):
    answer = run_module("pg_backup_prune", {"path": str(tmp_path)})
    assert (answer["failed"], answer["code"]) == (True, "option_invalid")
    assert "keep_last" in answer["hint"]
