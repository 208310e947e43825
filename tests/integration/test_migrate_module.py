# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module pg_migrate as a playbook calls it: sources on the controller, check mode, results."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support.modules import run_module, run_playbook

FILES = {
    "1_a/up.sql": "CREATE TABLE a (t text);\nINSERT INTO a VALUES ('{{ 1/0 }} {% raw %} {# é %s \\');\n",
    "1_a/down.sql": "DROP TABLE a;\n",
    "2_{{ x }}'b.up.sql": "-- {{ lookup('pipe', 'false') }} {% raw\nCREATE TABLE b ();\n",
    "2_{{ x }}'b.down.sql": "DROP TABLE b;\n",
    "README.md": "{{",
}


@pytest.fixture
def source(tmp_path):
    """A directory of migrations with hostile names and contents."""
    for name, text in FILES.items():
        path = tmp_path / "migrations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "migrations"


def test_check_run_check_again_run_again_and_back(pg18, database, source):
    arguments = {"database": database, "source": [str(source)], **pg18.login}
    predicted = run_module("pg_migrate", arguments, check=True)
    assert (predicted["changed"], [m["version"] for m in predicted["pending"]]) == (True, ["1", "2"])
    assert predicted["diff"] == {"before": "", "after": "1\n2\n"}
    assert pg18.execute("SELECT to_regclass('schema_version')", database=database) == [(None,)]

    result = run_module("pg_migrate", {**arguments, "deployment_id": "d-1"})
    assert (result["changed"], result["current_version"]) == (True, "2")
    assert result["applied"][1]["description"] == "{{ x }}'b"
    assert pg18.execute("SELECT t FROM a", database=database) == [("{{ 1/0 }} {% raw %} {# é %s \\",)]

    assert run_module("pg_migrate", arguments, check=True)["changed"] is False
    assert run_module("pg_migrate", arguments)["changed"] is False

    reverted = run_module("pg_migrate", {**arguments, "state": "reverted", "target_version": "1"})
    assert (reverted["changed"], [m["version"] for m in reverted["reverted"]]) == (True, ["2"])


def test_failures_say_code_hint_place_and_what_is_done(pg18, database, source):
    (source / "3_c.up.sql").write_text("ALTER ROLE {{ x }} PASSWORD 'geheim';\n")
    result = run_module("pg_migrate", {"database": database, "source": [str(source)], **pg18.login})
    assert (result["failed"], result["changed"], result["code"]) == (True, True, "migration_failed")
    assert [m["version"] for m in result["applied"]] == ["1", "2"]
    assert (result["path"], result["line"], result["column"]) == (str(source / "3_c.up.sql"), 1, 12)
    assert result["statement"] == "ALTER ROLE {{ x }} PASSWORD '********'"
    assert result["hint"]
    assert "geheim" not in json.dumps(result)
    assert "mode" not in result


def test_directories_may_be_on_the_managed_host(pg18, database, source):
    arguments = {"database": database, "source": [str(source)], "remote_src": True, **pg18.login}
    assert run_module("pg_migrate", arguments)["current_version"] == "2"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"source": ["absent"]}, "migration_invalid"),
        ({"state": "reverted"}, "option_invalid"),
    ],
)
def test_bad_options_are_refused(pg18, database, source, changes, code):
    result = run_module("pg_migrate", {"database": database, "source": [str(source)], **pg18.login, **changes})
    assert (result["failed"], result["code"]) == (True, code)
    assert result["hint"]


def test_directory_with_a_broken_migration_is_refused_on_the_controller(pg18, database, source):
    (source / "3_c").mkdir()
    result = run_module("pg_migrate", {"database": database, "source": [str(source)], **pg18.login})
    assert (result["failed"], result["code"], result["path"]) == (True, "migration_invalid", str(source / "3_c"))


def test_a_role_finds_its_own_files_and_connects_by_module_defaults(pg18, database, tmp_path, source):
    role = tmp_path / "roles" / "app"
    (role / "tasks").mkdir(parents=True)
    (role / "files").mkdir()
    source.rename(role / "files" / "migrations")
    task = {"holdfast.postgres.pg_migrate": {"source": "migrations"}, "register": "outcome", "name": "Migrate"}
    show = {"ansible.builtin.debug": {"var": "outcome.current_version"}, "name": "Show"}
    (role / "tasks" / "main.yml").write_text(json.dumps([task, show]))
    play = {
        "name": "Migrate with a role",
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": sys.executable},
        "module_defaults": {"group/holdfast.postgres.all": {"database": database, **pg18.login}},
        "roles": ["app"],
    }
    (tmp_path / "play.json").write_text(json.dumps([play]))
    completed = run_playbook(
        tmp_path / "play.json",
        "-vvv",
        inventory="localhost,",
        environment={"ANSIBLE_ROLES_PATH": str(tmp_path / "roles")},
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert '"outcome.current_version": "2"' in completed.stdout
    # In the record of what was run, and not as an argument of the task.
    assert completed.stdout.count("INSERT INTO a") == 1
    assert pg18.password not in completed.stdout
