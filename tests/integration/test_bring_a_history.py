# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of docs/bring-your-migration-history.md do what the page says, one after the other."""

from __future__ import annotations

import json
import pathlib
import re
import sys
from typing import Any

import pytest
import yaml

from ansible_collections.holdfast.postgres.plugins.module_utils._migration.adoption import flyway_checksum
from ansible_collections.holdfast.postgres.plugins.module_utils._migration.runner import Settings, migrate
from tests.support.histories import HISTORIES, history_files
from tests.support.modules import ROOT, run_playbook

PAGE = ROOT / "docs" / "bring-your-migration-history.md"
BLOCKS = [
    yaml.safe_load(block)
    for block in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
]
TASKS = [task for block in BLOCKS if isinstance(block, list) for task in block]
TAKEN_OVER = "2.6"


def migrated_by_flyway(server: Any, database: str) -> None:
    """Leave a database as Flyway would: the versions up to one of them, and its table."""
    options: dict[str, Any] = {"server": server.server, "database": database, "options": HISTORIES["flyway"][2]}
    files = history_files("flyway")
    rows = migrate(**options, files=files, state="applied", settings=Settings(target_version=TAKEN_OVER))["applied"]
    server.execute(
        "DROP TABLE public.schema_version;"
        " CREATE TABLE public.flyway_schema_history (installed_rank int PRIMARY KEY, version varchar(50),"
        " description varchar(200) NOT NULL, type varchar(20) NOT NULL, script varchar(1000) NOT NULL, checksum int,"
        " installed_by varchar(100) NOT NULL, installed_on timestamp NOT NULL DEFAULT now(),"
        " execution_time int NOT NULL, success boolean NOT NULL)",
        database=database,
    )
    texts = {file.path: file.content.decode() for file in files}
    for rank, row in enumerate(rows, 1):
        server.execute(
            "INSERT INTO flyway_schema_history VALUES (%s, %s, %s, 'SQL', %s, %s, 'app', now(), %s, true)",
            (
                *(rank, row["version"], row["description"], pathlib.Path(row["path"]).name),
                *(flyway_checksum(texts[row["path"]]), row["duration_ms"]),
            ),
            database=database,
        )


def test_tasks_of_the_page_take_a_database_over_and_go_on(pg18, database, tmp_path):
    migrated_by_flyway(pg18, database)
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "migration").symlink_to(ROOT / "tests" / "histories" / "flyway")
    tasks = []
    for number, task in enumerate(TASKS):
        # The task that names a version is for a database without the other table; here it finds another history.
        named = "target_version" in task["holdfast.postgres.pg_migrate"]
        module = {**task["holdfast.postgres.pg_migrate"], "database": database, "bin_dir": str(pg18.bin_dir)}
        tasks.append(
            {
                "name": task["name"],
                "holdfast.postgres.pg_migrate": module,
                "register": "result_%d" % number,
                **({"failed_when": "result_%d.code | default('') != 'history_differs'" % number} if named else {}),
            }
        )
    outcome = tmp_path / "outcome.json"
    results = "{{ dict(range(%d) | zip([%s])) | to_json }}" % (
        len(TASKS),
        ", ".join("result_%d" % number for number in range(len(TASKS))),
    )
    tasks.append({"name": "Keep the results", "ansible.builtin.copy": {"content": results, "dest": str(outcome)}})
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "connection": "local",
        "vars": {"ansible_python_interpreter": sys.executable},
        "module_defaults": {"group/holdfast.postgres.all": pg18.login},
        "tasks": tasks,
    }
    path = tmp_path / "play.json"
    path.write_text(json.dumps([play]))
    completed = run_playbook(path, inventory="localhost,")
    assert completed.returncode == 0, completed.stdout
    look, choose, take, by_version, apply = json.loads(outcome.read_text()).values()
    old = [row["version"] for row in take["recorded"]]
    assert (look["layout"], look["changed"], [row["version"] for row in look["recorded"]]) == ("flyway", False, old)
    assert choose["pending"] == look["pending"]
    assert (take["changed"], old[0], old[-1]) == (True, "1", TAKEN_OVER)
    assert by_version["code"] == "history_differs"
    assert [row["version"] for row in apply["applied"]] == [row["version"] for row in look["pending"]]


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if isinstance(block, dict)], ids=lambda block: str(len(block))
)
def test_variables_of_the_page_are_those_of_the_role(block):
    known = yaml.safe_load((ROOT / "roles" / "migrate" / "defaults" / "main.yml").read_text(encoding="utf-8"))
    assert set(block) <= set(known)
