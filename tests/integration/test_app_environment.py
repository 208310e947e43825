# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an application is told of its database, by the role app_environment."""

from __future__ import annotations

import grp
import json
import os
import pathlib
import pwd
import re
import stat
import subprocess
import sys
from typing import Any

import psycopg2
import pytest
import yaml

from tests.support.modules import run_playbook
from tests.support.server import PASSWORD, TestServer

REPLICA_PASSWORD = "r3plica: {{ x }} \"'$`\\ #"


class Application:
    """A play with the role, for files in a directory of its own."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.dir = directory / "etc"
        self.directory = directory
        (directory / "ca.crt").write_text("an authority\n", encoding="utf-8")
        self.variables: dict[str, Any] = {
            "app_environment_dir": str(self.dir),
            "app_environment_owner": pwd.getpwuid(os.getuid()).pw_name,
            "app_environment_group": grp.getgrgid(os.getgid()).gr_name,
            "app_environment_database": "rently_lending",
            "app_environment_user": "rently_app",
            "app_environment_password": PASSWORD,
            "app_environment_host": "db1.internal",
            "app_environment_pooler_host": "pgbouncer.internal",
            "app_environment_tls_ca": str(directory / "ca.crt"),
        }

    def play(self, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        inventory = self.directory / "inventory.json"
        inventory.touch(mode=0o600)
        # A value with braces is not a template, as it is not when it comes from a lookup.
        values = {
            name: {"__ansible_unsafe": value} if isinstance(value, str) else value
            for name, value in {**self.variables, **variables}.items()
        }
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory.write_text(json.dumps({"app": {"hosts": {"here": host}, "vars": values}}), encoding="utf-8")
        play = {"hosts": "app", "gather_facts": False, "roles": ["holdfast.postgres.app_environment"]}
        path = self.directory / "play.json"
        path.write_text(json.dumps([play]), encoding="utf-8")
        return run_playbook(path, *arguments, inventory=inventory)

    def environment(self) -> dict[str, str]:
        """What a shell has after reading the file."""
        script = 'set -a; . "$1"; exec "$2" -c "import json, os; print(json.dumps(dict(os.environ)))"'
        completed = subprocess.run(
            ["sh", "-c", script, "sh", str(self.dir / "database.env"), sys.executable],
            check=True,
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        return {name: value for name, value in json.loads(completed.stdout).items() if name.startswith("PG")}

    def configuration(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.dir / "database.yml").read_text(encoding="utf-8"))["database"])


@pytest.fixture
def application(tmp_path: pathlib.Path) -> Application:
    return Application(tmp_path)


def recap(completed: subprocess.CompletedProcess[str], word: str) -> int:
    found = re.search(r"%s=(\d+)" % word, completed.stdout)
    assert found, completed.stdout + completed.stderr
    return int(found.group(1))


def test_both_files_say_the_same_to_nobody_but_the_group(application):
    predicted = application.play("--check", "--diff", "-vvv")
    assert recap(predicted, "changed") > 0
    assert not application.dir.exists()
    replica = {
        "app_environment_replica_host": "replica.internal",
        "app_environment_replica_user": "rently_analytics",
        "app_environment_replica_password": REPLICA_PASSWORD,
    }
    completed = application.play("--diff", "-vvv", **replica)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    written = predicted.stdout + predicted.stderr + completed.stdout + completed.stderr
    assert PASSWORD not in written
    assert json.dumps(PASSWORD)[1:-1] not in written
    assert "r3plica" not in written

    assert application.environment() == {
        "PGHOST": "db1.internal",
        "PGPORT": "5432",
        "PGDATABASE": "rently_lending",
        "PGUSER": "rently_app",
        "PGPASSWORD": PASSWORD,
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(application.dir / "ca.crt"),
        "PGBOUNCER_HOST": "pgbouncer.internal",
        "PGBOUNCER_PORT": "6432",
    }
    configuration = application.configuration()
    assert configuration["primary"] == {
        "host": "pgbouncer.internal",
        "port": 6432,
        "database": "rently_lending",
        "username": "rently_app",
        "password": PASSWORD,
        "ssl_mode": "verify-full",
        "ssl_root_cert": str(application.dir / "ca.crt"),
        "pool_size": 20,
        "timeout": 30,
    }
    assert configuration["analytics_replica"]["password"] == REPLICA_PASSWORD
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in application.dir.iterdir()}
    assert modes == {"database.env": 0o640, "database.yml": 0o640, "ca.crt": 0o640}
    assert stat.S_IMODE(application.dir.stat().st_mode) == 0o750

    again = application.play(**replica)
    assert recap(again, "changed") == 0


def test_libpq_connects_with_nothing_but_the_environment(application, pg18: TestServer, monkeypatch):
    completed = application.play(
        app_environment_host="127.0.0.1",
        app_environment_port=pg18.port,
        app_environment_user="postgres",
        app_environment_database="postgres",
        app_environment_pooler_host="",
        app_environment_sslmode="disable",
        app_environment_extra={"PGAPPNAME": 'it\'s "the" $app'},
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    for name, value in application.environment().items():
        monkeypatch.setenv(name, value)
    connection = psycopg2.connect("")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user, current_setting('application_name')")
            assert cursor.fetchone() == ("postgres", 'it\'s "the" $app')
    finally:
        connection.close()
    primary = application.configuration()["primary"]
    assert (primary["host"], primary["port"]) == ("127.0.0.1", pg18.port)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"app_environment_password": ""}, "_password"),
        ({"app_environment_tls_ca": ""}, "app_environment_tls_ca"),
        ({"app_environment_tls_ca": "nowhere.crt"}, "nowhere.crt"),
        ({"app_environment_tls_key": "x.key"}, "only together with its key"),
        ({"app_environment_replica_user": "rently_analytics"}, "for a replica"),
        ({"app_environment_password": "two\nlines"}, "the value of PGPASSWORD holds a line break"),
    ],
)
def test_what_no_application_could_use_is_refused_and_nothing_written(application, variables, words):
    completed = application.play("-vvv", **variables)
    assert completed.returncode != 0
    written = completed.stdout + completed.stderr
    assert PASSWORD not in written
    assert "two\\nlines" not in written
    assert words in written
    assert not application.dir.exists()
