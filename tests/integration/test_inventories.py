# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventories of the environments: they render, their secrets arrive, and the roles take what they say."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from ansible_collections.holdfast.postgres.plugins.plugin_utils._pgbouncer import pgbouncer_plan
from tests.support.modules import ROOT, run_playbook

ENVIRONMENTS = ["development", "staging", "production"]
GROUPS = {"pg_primary", "pg_replica", "pooler", "app"}
# Neither is a template for anybody, though both look like one.
SECRETS = {
    "app": 'app {{ nobody }} \'pässword\\ "1" $HOME',
    "analytics": "analytics {% if x %} #2",
    "replication": "replication:3",
    "console": "console {{ 4 }}",
}
ROLES = {
    "pg_primary": ["postgres", "host_preflight"],
    "pg_replica": ["postgres", "host_preflight"],
    "pooler": ["pgbouncer", "host_preflight"],
    "app": ["app_environment", "host_preflight"],
    "holdfast": [
        "backup",
        "cleanup",
        "gate",
        "migrate",
        "preflight",
        "probe",
        "rehearse",
        "report",
        "rollback",
        "rollback_point",
        "verify",
    ],
}
ALL_ROLES = {path.name for path in (ROOT / "roles").iterdir()}


@pytest.fixture(scope="module")
def secrets_manager() -> Iterator[dict[str, str]]:
    """The environment of a controller whose AWS is a server on the loopback, with the secrets of production."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = "http://%s:%s" % (host, port)
    credentials = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    client = boto3.client(
        "secretsmanager",
        region_name="eu-central-1",
        endpoint_url=url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    for name, value in SECRETS.items():
        client.create_secret(Name="rently/production/db/" + name, SecretString=value)
    yield {**credentials, "AWS_URL": url}
    server.stop()


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the checkout's inventories, with an encrypted vault in staging as docs/ describes it."""
    directory = tmp_path_factory.mktemp("vault")
    (directory / "inventories").mkdir()
    shutil.copytree(ROOT / "inventories" / "staging", directory / "inventories" / "staging")
    (directory / "examples").symlink_to(ROOT / "examples")
    password = directory / "password"
    password.touch(mode=0o600)
    password.write_text("of the vault\n", encoding="utf-8")
    file = directory / "inventories" / "staging" / "group_vars" / "all" / "vault.yml"
    # Variables of files are templates, unless they say !unsafe; what lookups return never is one.
    lines = ["vault_%s_password: !unsafe %s\n" % (name, json.dumps(value)) for name, value in SECRETS.items()]
    file.write_text("".join(lines), encoding="utf-8")
    program = pathlib.Path(sys.executable).parent / "ansible-vault"
    subprocess.run(
        [str(program), "encrypt", "--vault-password-file", str(password), str(file)],
        check=True,
        capture_output=True,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )
    assert "pässword" not in file.read_text(encoding="utf-8")
    return directory


class Environment:
    """One inventory, with what its secrets need."""

    def __init__(self, name: str, *, vault: pathlib.Path, aws: dict[str, str]) -> None:
        self.inventory = (vault if name == "staging" else ROOT) / "inventories" / name
        self.arguments = ["--vault-password-file", str(vault / "password")] if name == "staging" else []
        self.variables = {
            "development": {
                "RENTLY_APP_PASSWORD": SECRETS["app"],
                "RENTLY_ANALYTICS_PASSWORD": SECRETS["analytics"],
            },
            "staging": {},
            "production": aws,
        }[name]

    def listed(self) -> dict[str, Any]:
        """What ansible-inventory says; it renders no templates, and looks up no secrets."""
        program = pathlib.Path(sys.executable).parent / "ansible-inventory"
        completed = subprocess.run(
            [str(program), "-i", str(self.inventory), "--list", *self.arguments],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        )
        assert "WARNING" not in completed.stderr
        return dict(json.loads(completed.stdout))

    def render(self, directory: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Write every variable of every host, as roles see it, to <directory>/<host>.json."""
        names = {host: sorted(values) for host, values in self.listed()["_meta"]["hostvars"].items()}
        task = {
            "name": "Render the variables",
            "ansible.builtin.copy": {
                "content": "{{ dict(names | zip(query('ansible.builtin.vars', *names))) | to_json }}",
                "dest": str(directory) + "/{{ inventory_hostname }}.json",
                "mode": "0600",
            },
            "vars": {"names": "{{ all_names[inventory_hostname] }}"},
            "no_log": True,
        }
        play = {
            "hosts": "all",
            "gather_facts": False,
            "connection": "local",
            "vars": {"all_names": names, "ansible_python_interpreter": sys.executable},
            "tasks": [task],
        }
        path = directory / "render.json"
        path.write_text(json.dumps([play]), encoding="utf-8")
        completed = run_playbook(
            path, *self.arguments, *arguments, inventory=self.inventory, environment=self.variables
        )
        written = completed.stdout + completed.stderr
        assert [name for name, value in SECRETS.items() if value in written] == []
        return completed

    def rendered(self, directory: pathlib.Path) -> dict[str, Any]:
        """The variables of every host."""
        completed = self.render(directory)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return {
            host: json.loads((directory / (host + ".json")).read_text(encoding="utf-8"))
            for host in self.listed()["_meta"]["hostvars"]
        }


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest, vault: pathlib.Path, secrets_manager: dict[str, str]) -> Environment:
    return Environment(request.param, vault=vault, aws=secrets_manager)


def options(role: str) -> dict[str, Any]:
    """The variables of a role by its specification."""
    path = ROOT / "roles" / role / "meta" / "argument_specs.yml"
    specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
    return {name: option for spec in specs.values() for name, option in (spec.get("options") or {}).items()}


def without_templates(specification: dict[str, Any]) -> dict[str, Any]:
    """The specification without the defaults that a role's defaults render."""
    return {
        name: {key: value for key, value in option.items() if key != "default" or "{{" not in str(value)}
        for name, option in specification.items()
    }


def test_inventory_has_the_groups_of_every_environment(environment):
    inventory = environment.listed()
    assert set(inventory["all"]["children"]) | set(inventory["holdfast"]["children"]) >= {*GROUPS, "holdfast"}
    assert inventory["holdfast"]["children"] == ["pg_primary"]
    assert len(inventory["pg_primary"]["hosts"]) == 1
    assert all(re.match(r"[a-z0-9.-]+\.internal\Z", host) for host in inventory["_meta"]["hostvars"])


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_variables_of_the_inventory_are_variables_of_the_roles(name):
    known = {option for role in ALL_ROLES for option in options(role)}
    names = {
        variable
        for path in (ROOT / "inventories" / name / "group_vars").rglob("*.yml")
        for variable in yaml.safe_load(path.read_text(encoding="utf-8"))
    }
    owned = {variable for variable in names if variable.startswith(tuple(role + "_" for role in ALL_ROLES))}
    assert sorted(owned - known) == []
    shared = ("holdfast_", "secret_", "secrets_", "network_", "tls_")
    assert {variable for variable in names - owned if not variable.startswith(shared)} <= {"deploy_on_failure"}


def test_secrets_arrive_and_the_roles_take_what_the_inventory_says(environment, tmp_path):
    hosts = environment.rendered(tmp_path)
    inventory = environment.listed()
    (primary,) = (hosts[host] for host in inventory["pg_primary"]["hosts"])
    passwords = {role["name"]: role.get("password") for role in primary["postgres_roles"]}
    assert passwords == {"rently_owner": None, "rently_app": SECRETS["app"], "rently_analytics": SECRETS["analytics"]}
    consoles = {(pooler.get("host"), pooler.get("password")) for pooler in primary["holdfast_poolers"]}
    remote = {(host, SECRETS["console"]) for host in inventory["pooler"]["hosts"]}
    assert consoles == (remote if len(hosts) > 1 else {(None, None)})
    assert {guard["host"] for guard in primary["holdfast_pooler_guards"]} == set(inventory["pooler"]["hosts"])
    for host in inventory["app"]["hosts"]:
        assert hosts[host]["app_environment_password"] == SECRETS["app"]
    for host in inventory.get("pg_replica", {}).get("hosts", []):
        assert hosts[host]["postgres_replication_password"] == SECRETS["replication"]
        assert hosts[host]["postgres_replication_slot"] in primary["postgres_replication_slots"]
        assert hosts[host]["postgres_primary_host"] == inventory["pg_primary"]["hosts"][0]

    given = [
        {
            "role": role,
            "host": host,
            "spec": without_templates(options(role)),
            "given": {name: value for name, value in hosts[host].items() if name in options(role)},
        }
        for group, roles in ROLES.items()
        for host in inventory.get("pg_primary" if group == "holdfast" else group, {}).get("hosts", [])
        for role in roles
    ]
    (tmp_path / "given.json").write_text(json.dumps(given), encoding="utf-8")
    task = {
        "name": "Hold the variables against the specification of the role",
        "ansible.builtin.validate_argument_spec": {
            "argument_spec": "{{ item.spec }}",
            "provided_arguments": "{{ item.given }}",
        },
        "loop": "{{ lookup('ansible.builtin.file', '%s/given.json') | from_json }}" % tmp_path,
        "loop_control": {"label": "{{ item.role }} on {{ item.host }}"},
    }
    path = tmp_path / "validate.json"
    path.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]), encoding="utf-8")
    completed = run_playbook(path, inventory="localhost,")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.count("ok: [localhost] => (item=") == len(given)


@pytest.mark.parametrize("version", ["1.15.0", "1.18.0", "1.24.1", "1.26.1"])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_poolers_of_every_version_are_planned_without_a_complaint(name, version):
    files = [ROOT / "inventories" / name / "group_vars" / file for file in ("pooler.yml", "all/main.yml")]
    values = {k: v for file in files for k, v in yaml.safe_load(file.read_text(encoding="utf-8")).items()}
    defaults = yaml.safe_load((ROOT / "roles/pgbouncer/defaults/main.yml").read_text(encoding="utf-8"))
    wanted = {name[len("pgbouncer_") :]: value for name, value in {**defaults, **values}.items() if "pgbouncer" in name}
    sides = {
        side: {what: wanted["%s_%s" % (side, what)] for what in ("mode", "certificate", "key", "ca")}
        for side in ("client_tls", "server_tls")
    }
    sizes = ("pool_mode", "max_client_conn", "default_pool_size", "max_prepared_statements")
    plan = pgbouncer_plan(
        wanted["instances"],
        version="PgBouncer " + version,
        state={"console_secret": "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy" if wanted["console_user"] else ""},
        choices={
            **wanted,
            **sides,
            "config_dir": "/etc/pgbouncer",
            "runtime_dir": "/run/pgbouncer",
            "sizes": {
                **{name: wanted[name] for name in sizes},
                "query_wait_timeout": wanted["query_wait_timeout_s"],
                "server_login_retry": wanted["server_login_retry_s"],
            },
            "client_networks": [values["network_application"]],
            "databases": [{"name": values["holdfast_database"]}],
            "max_pause_s": 15,
            "console_networks": [values["network_databases"]] if wanted["console_user"] else [],
        },
    )
    assert plan["problems"] == []


def test_secret_that_is_not_in_secrets_manager_stops_the_play(vault, secrets_manager, tmp_path):
    environment = Environment("production", vault=vault, aws=secrets_manager)
    completed = environment.render(tmp_path, "-e", "secrets_region=eu-west-1")
    assert completed.returncode != 0


def test_secret_that_is_not_in_the_environment_says_which(vault, secrets_manager, tmp_path):
    environment = Environment("development", vault=vault, aws=secrets_manager)
    del environment.variables["RENTLY_APP_PASSWORD"]
    task = {"ansible.builtin.debug": {"var": "secret_app_password"}}
    play = [{"hosts": "all", "gather_facts": False, "tasks": [task]}]
    path = tmp_path / "ask.json"
    path.write_text(json.dumps(play), encoding="utf-8")
    completed = run_playbook(path, inventory=environment.inventory, environment=environment.variables)
    assert "Set RENTLY_APP_PASSWORD." in completed.stdout + completed.stderr


def test_vault_without_its_password_stops_the_play(vault, secrets_manager, tmp_path):
    environment = Environment("staging", vault=vault, aws=secrets_manager)
    environment.arguments = []
    with pytest.raises(subprocess.CalledProcessError) as failure:
        environment.listed()
    assert "vault" in failure.value.stderr.lower()
