# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded server of the local inventory, in a copy of the checkout with an awkward path."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psycopg2
import pytest

from tests.support.server import eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", params=["short", "deep"])
def checkout(request, tmp_path_factory) -> Iterator[pathlib.Path]:
    base = tmp_path_factory.mktemp("checkout")
    path = base / ("checkout" if request.param == "short" else "with spaces, a comma and $igns" + "/deep" * 20)
    script = path / "inventories" / "embedded_server.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "inventories" / "embedded_server.py", script)
    path.parent.chmod(0o700)
    yield path
    run(path, "stop")


def run(checkout: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = checkout / "inventories" / "embedded_server.py"
    environment = {**os.environ, "PGPORT": "1", "PGDATA": "/nonexistent"}
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def connection_facts(checkout: pathlib.Path) -> dict:
    return json.loads((checkout / ".local/server/connection.json").read_text(encoding="utf-8"))


def socket_directory(checkout: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(connection_facts(checkout)["login_unix_socket"])


def postmaster_pid(checkout: pathlib.Path) -> int:
    return int((checkout / ".local/server/data/postmaster.pid").read_text(encoding="utf-8").split()[0])


def test_server_starts_stops_and_tells_where_it_is(checkout):
    before = run(checkout, "dsn", "some database")
    assert (before.returncode, before.stdout) == (1, "")
    assert "make server" in before.stderr

    assert run(checkout, "start").returncode == 0
    address = run(checkout, "dsn", "postgres")
    assert address.stderr == ""
    connection = psycopg2.connect(address.stdout.strip())
    assert connection.server_version // 10000 == 18
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('listen_addresses')")
        assert cursor.fetchone() == ("",)
    connection.close()
    assert socket_directory(checkout).stat().st_mode & 0o077 == 0
    assert run(checkout, "holds", "postgres").returncode == 0
    assert run(checkout, "holds", "some database").returncode == 3

    pid = postmaster_pid(checkout)
    assert run(checkout, "start").returncode == 0
    assert postmaster_pid(checkout) == pid

    assert run(checkout, "stop").returncode == 0
    assert run(checkout, "status").stdout == "not running\n"
    assert run(checkout, "stop").returncode == 0


def test_server_starts_again_after_a_kill(checkout):
    run(checkout, "start")
    os.kill(postmaster_pid(checkout), signal.SIGKILL)
    assert run(checkout, "start").returncode == 0
    assert run(checkout, "holds", "postgres").returncode == 0


def test_server_starts_when_its_old_process_number_is_somebody_elses(checkout):
    run(checkout, "stop")
    stale = checkout / ".local/server/data/postmaster.pid"
    stale.write_text("%d\n%s\n1700000000\n5432\n/nowhere\n\n 1 1\nready\n" % (os.getpid(), stale.parent))
    assert run(checkout, "start").returncode == 0
    assert postmaster_pid(checkout) != os.getpid()


def test_server_gets_a_lost_socket_back(checkout):
    run(checkout, "start")
    for path in socket_directory(checkout).iterdir():
        path.unlink()
    assert run(checkout, "start").returncode == 0
    assert run(checkout, "holds", "postgres").returncode == 0


def test_concurrent_starts_make_one_server(checkout):
    run(checkout, "stop")
    script = str(checkout / "inventories" / "embedded_server.py")
    starts = [
        subprocess.Popen([sys.executable, script, "start"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [start.wait(timeout=120) for start in starts] == [0, 0, 0]
    eventually(lambda: run(checkout, "status").returncode == 0)


def test_directories_above_the_checkout_stay_closed_to_readers(checkout):
    """PostgreSQL refuses root; the account that runs it for root may pass through, and nobody may read."""
    run(checkout, "start")
    data = checkout / ".local/server/data"
    assert checkout.parent.stat().st_mode & 0o066 == 0
    assert data.stat().st_mode & 0o077 == 0
    assert (data.stat().st_uid == os.geteuid()) == (os.geteuid() != 0)


def test_make_help_lists_every_command():
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {line.split()[1] for line in makefile.splitlines() if line.startswith(".PHONY:")}
    assert {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")} == targets
