# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environment files: what a shell reads is what went in."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ansible_collections.holdfast.postgres.plugins.plugin_utils._environment import environment_file

AWKWARD = "s3 cret'\"\\$HOME `id` $(id) \\n #;= ünï %s !! \t{{ x }}"


@pytest.mark.parametrize("value", [AWKWARD, "\\", '"', "$", " both sides ", "a\\", "!"])
def test_shell_reads_every_value_as_it_was(tmp_path, value):
    path = tmp_path / "database.env"
    path.write_text(environment_file({"PGPASSWORD": value}), encoding="utf-8")
    script = 'set -a; . "$1"; exec "$2" -c "import json, os; print(json.dumps(os.environ[\'PGPASSWORD\']))"'
    completed = subprocess.run(
        ["sh", "-c", script, "sh", str(path), sys.executable], check=True, capture_output=True, text=True
    )
    assert json.loads(completed.stdout) == value


def test_empty_values_are_left_out_and_numbers_written():
    assert environment_file({"PGHOST": "db1", "PGSSLCERT": "", "PGPORT": 5432, "X": None}) == (
        'PGHOST="db1"\nPGPORT="5432"\n'
    )


@pytest.mark.parametrize(("name", "value"), [("PGPASSWORD", "a\nB=c"), ("PGPASSWORD", "a\0b"), ("A B", "c"), ("", "c")])
def test_what_a_line_cannot_hold_is_refused_without_showing_it(name, value):
    with pytest.raises(ValueError) as refusal:
        environment_file({name: value})
    assert "B=c" not in str(refusal.value)
