# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every file of its kind, checked over the whole checkout."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import CODES

ROOT = pathlib.Path(__file__).resolve().parents[3]
PLUGINS = ROOT / "plugins"
MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))
ROLES = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/tasks/main.yml"))
PACKAGE = "ansible_collections.holdfast.postgres.plugins."
HEADER = """\
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""


def checkout_files() -> list[pathlib.Path]:
    """Every file of the checkout that git does not ignore, committed or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and ".collections" not in path.parts]


FILES = checkout_files()
PYTHON = [path for path in FILES if path.suffix == ".py" and path.stat().st_size]


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def load(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# Python


def test_every_python_file_carries_the_licence_header():
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in PYTHON}
    assert [name for name, text in texts.items() if not re.sub(r"\A#!.*\n", "", text).startswith(HEADER)] == []


def test_plugins_parse_as_python_3_9_and_postpone_annotations():
    wrong = []
    for path in PYTHON:
        if PLUGINS in path.parents:
            text = path.read_text(encoding="utf-8")
            ast.parse(text, filename=name_of(path), feature_version=(3, 9))
            if "from __future__ import annotations" not in text:
                wrong.append(name_of(path))
    assert wrong == []


def imports_of(path: pathlib.Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "%s imports relatively" % name_of(path)
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PLUGINS).parts
    return ".".join(parts[:2]) if parts[0] == "module_utils" else parts[0]


@pytest.mark.parametrize("path", [p for p in PYTHON if PLUGINS in p.parents], ids=lambda p: str(p.relative_to(PLUGINS)))
def test_arrows_between_rooms_point_one_way(path):
    """modules -> an area of module_utils -> _core; areas never import each other."""
    room = room_of(path)
    targets = {
        room_of(PLUGINS.joinpath(*imported[len(PACKAGE) :].split(".")))
        for imported in imports_of(path)
        if imported.startswith(PACKAGE)
    } - {room}
    areas = {target for target in targets if target.startswith("module_utils.") and target != "module_utils._core"}
    if room.startswith("module_utils."):
        assert targets <= {"module_utils._core"}
    elif room == "modules":
        assert targets <= areas | {"module_utils._core"}
        assert len(areas) <= 1, "a module makes calls into one area"
    else:
        assert "modules" not in targets


def test_area_files_leave_process_state_to_the_module_layer():
    """Functions take connections, runners and environments as arguments; only `_core` may look around."""
    found = []
    for path in PYTHON:
        if (PLUGINS / "module_utils") in path.parents and "_core" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
                    found.append("%s:%d" % (name_of(path), node.lineno))
                if isinstance(node, ast.ImportFrom) and node.module == "ansible.module_utils.basic":
                    found.append("%s:%d" % (name_of(path), node.lineno))
    assert found == []


# Error codes


def codes_raised() -> Iterator[tuple[str, str]]:
    """Every constant that is passed as ``code=``, with its place."""
    for path in PYTHON:
        if PLUGINS not in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            for keyword in node.keywords:
                if keyword.arg != "code":
                    continue
                value = keyword.value
                for part in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.value, "%s:%d" % (name_of(path), node.lineno)


def test_every_raised_code_is_a_known_one():
    assert [(code, place) for code, place in codes_raised() if code not in CODES] == []


def test_every_known_code_is_raised_somewhere():
    errors = PLUGINS / "module_utils" / "_core" / "errors.py"
    constants = {
        node.value
        for path in PYTHON
        if PLUGINS in path.parents and path != errors
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted(set(CODES) - constants) == []


def test_codes_are_sorted():
    assert list(CODES) == sorted(CODES)


# Modules and roles


def test_every_module_that_connects_is_in_the_action_group_and_nothing_else_is():
    groups = load(ROOT / "meta" / "runtime.yml")["action_groups"]
    modules = {name: (ROOT / "plugins" / "modules" / (name + ".py")).read_text(encoding="utf-8") for name in MODULES}
    assert groups["all"] == [name for name in MODULES if "holdfast.postgres.connection" in modules[name]]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_named_by_a_test(name):
    tests = (path for path in FILES if path.parts[len(ROOT.parts)] in ("tests", "molecule") and path.suffix != ".pyc")
    assert any(
        re.search(r"\b%s\b" % name, path.read_text(encoding="utf-8", errors="replace"))
        for path in tests
        if path != pathlib.Path(__file__)
    )


@pytest.mark.parametrize("role", ROLES)
def test_role_variables_are_specified_with_their_defaults(role):
    directory = ROOT / "roles" / role
    for name in ("README.md", "defaults/main.yml", "meta/main.yml"):
        assert (directory / name).is_file(), "roles/%s lacks %s" % (role, name)
    defaults = load(directory / "defaults" / "main.yml") or {}
    specs = load(directory / "meta" / "argument_specs.yml")["argument_specs"]
    options = {name: option for spec in specs.values() for name, option in (spec.get("options") or {}).items()}
    readme = (directory / "README.md").read_text(encoding="utf-8")

    assert [name for name in options if not name.startswith((role + "_", "holdfast_"))] == []
    # A failed validation repeats the specification with its defaults rendered, so no default may lead to a secret.
    secret = {name for name, option in options.items() if option.get("no_log") and "{{" in str(defaults.get(name))}
    assert {name for name in secret if "default" in options[name]} == set()
    known = {name: value for name, value in defaults.items() if name not in secret}
    assert {name: option["default"] for name, option in options.items() if "default" in option} == known
    own = {name: option for name, option in options.items() if name.startswith(role + "_") and name not in secret}
    assert [name for name, option in own.items() if option.get("required", False) == ("default" in option)] == []
    assert [name for name, option in options.items() if not option.get("type") or not option.get("description")] == []
    assert [name for name, value in defaults.items() if not agrees(value, options[name]["type"])] == []
    assert [name for name in options if "`%s`" % name not in readme] == []


def agrees(value: object, kind: str) -> bool:
    """Whether a default is of the type that its specification names; templates are not evaluated here."""
    if isinstance(value, str) and "{{" in value:
        return True
    types = {"str": str, "path": str, "bool": bool, "int": int, "float": (int, float), "list": list, "dict": dict}
    return isinstance(value, types[kind]) and (kind == "bool") == isinstance(value, bool)


@pytest.mark.parametrize("word", ["ignore_errors", "failed_when: false", "shell:", "vars_prompt", "builtin.pause:"])
def test_roles_and_playbooks_hide_no_failure_and_never_prompt(word):
    places = [
        "%s:%d" % (name_of(path), number)
        for path in FILES
        if path.suffix == ".yml" and path.parts[len(ROOT.parts)] in ("roles", "playbooks")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if word in line.split("#")[0]
    ]
    assert places == []


def test_no_file_names_a_path_of_somebodys_machine():
    path_of_a_machine = re.compile(r"(?<![\w.~$}/-])/(?:home|root|work|Users)/\w|file:/{3}\w")
    places = [
        "%s: %s" % (name_of(path), match.group(0))
        for path in FILES
        if path != pathlib.Path(__file__) and path.name != "LICENSE"
        for match in path_of_a_machine.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert places == []
