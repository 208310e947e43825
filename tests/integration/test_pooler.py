# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pausing real PgBouncers, all or none, and being refused by name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import (
    Console,
    PoolerAddress,
    connected,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import read_sessions
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import paused
from tests.support.pgbouncer import ADMIN, TestPooler, poolers_running, transaction_open
from tests.support.server import TestServer, eventually, unprivileged_user

NASTY_NAMES = ["we\"ird na'me", "with space", "100 % %s", "-c x=y", "new\nline \\ 数据", "x" * 63, "UPPER"]


@pytest.fixture(scope="module")
def poolers(pg18: TestServer) -> Iterator[list[TestPooler]]:
    with poolers_running(pg18, "one", "two", "three") as running:
        yield running


@pytest.fixture
def pooler(poolers: list[TestPooler]) -> TestPooler:
    return poolers[0]


def test_clients_wait_during_the_block_and_fail_nothing(poolers: list[TestPooler], database: str) -> None:
    clients = [pooler.connect(database) for pooler in poolers]
    answers: list[float] = []

    def ask(client: object) -> None:
        with client.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute("SELECT 1")
        answers.append(time.monotonic())

    with paused([pooler.address(probe=True) for pooler in poolers], database, timeout_s=5) as group:
        assert all(pooler.paused() == {database} for pooler in poolers)
        threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert answers == []
    for thread in threads:
        thread.join()
    assert len(answers) == 3 and not any(pooler.paused() for pooler in poolers)
    for facts, pooler in zip(group.facts, poolers):
        assert (facts["name"], facts["databases"], facts["attempts"]) == (pooler.name, [database], 1)
        assert facts["stall_source"] in ("probe", "clients") and 300 <= facts["stall_ms"] < 2000
        assert facts["clients_waiting"] == 2 and facts["error"] is None and facts["probe_error"] is None


def test_open_transaction_makes_all_resume_and_its_client_is_named(
    pg18: TestServer, poolers: list[TestPooler], database: str
) -> None:
    server = pg18.connect()
    other = pg18.create_database(database + "_other")
    started = time.monotonic()
    with (
        transaction_open(poolers[1], database, application_name="nightly report"),
        transaction_open(poolers[1], other),
        pytest.raises(HoldfastError) as refusal,
        paused(
            [pooler.address() for pooler in poolers],
            database,
            timeout_s=5,
            attempts=2,
            attempt_timeout_s=0.3,
            activity=lambda pids: read_sessions(connection=server, oids=(), pids=pids),
        ),
    ):
        pytest.fail("nobody waits")
    assert time.monotonic() - started < 2
    assert not any(pooler.paused() for pooler in poolers)
    assert refusal.value.code == "pause_refused"
    for fact in (
        "pooler two",
        repr(database),
        "nightly report",
        "user postgres",
        "idle in transaction",
        "a long story",
    ):
        assert fact in refusal.value.msg
    (entry,) = refusal.value.details["refusals"]
    (client,) = entry["clients"]
    assert client["server_pid"] and client["transaction_age_s"] > 0 and client["client_addr"] == "127.0.0.1"
    pg18.drop_database(other)


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_any_name_that_the_console_takes_is_paused(pg18: TestServer, pooler: TestPooler, name: str) -> None:
    pg18.create_database(name)
    try:
        # An entry made by a wildcard is shown while somebody is connected.
        client = pooler.connect(name)
        with paused([pooler.address()], name, timeout_s=5):
            assert pooler.paused() == {name}
        assert not pooler.paused()
        with client.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            assert cursor.fetchone() == (name,)
        client.close()
    finally:
        pooler.ask("RECONNECT")
        pg18.drop_database(name)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def test_console_over_tls_with_a_client_certificate(pg18: TestServer, tmp_path: pathlib.Path, database: str) -> None:
    authority = ["-CA", str(tmp_path / "ca.crt"), "-CAkey", str(tmp_path / "ca.key"), "-CAcreateserial"]
    new = ["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    ca = ["-keyout", str(tmp_path / "ca.key"), "-out", str(tmp_path / "ca.crt")]
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=test authority", *ca)
    (tmp_path / "san").write_text("subjectAltName=IP:127.0.0.1", encoding="ascii")
    for name, subject in (("server", "127.0.0.1"), ("client", ADMIN)):
        key, request, certificate = (str(tmp_path / (name + end)) for end in (".key", ".csr", ".crt"))
        openssl(*new, "-subj", "/CN=" + subject, "-keyout", key, "-out", request)
        extensions = ["-extfile", str(tmp_path / "san")]
        openssl("x509", "-req", "-days", "2", "-in", request, *authority, *extensions, "-out", certificate)
    settings = {"client_tls_sslmode": "verify-full", "auth_type": "hba"}
    files = {"auth_hba_file": "hba", "client_tls_ca_file": "ca.crt"}
    files.update(client_tls_cert_file="server.crt", client_tls_key_file="server.key")
    with scratch_files(tmp_path) as directory:
        (directory / "hba").write_text("hostssl all %s 127.0.0.1/32 cert\n" % ADMIN, encoding="ascii")
        settings.update({name: str(directory / file) for name, file in files.items()})
        pooler = TestPooler(pg18, name="tls", settings=settings, ready=False)
        try:
            certified = Server(
                host="127.0.0.1",
                port=pooler.port,
                user=ADMIN,
                ssl_mode="verify-full",
                ca_cert=str(tmp_path / "ca.crt"),
                ssl_cert=str(tmp_path / "client.crt"),
                ssl_key=str(tmp_path / "client.key"),
            )
            eventually(lambda: reachable(pooler, certified))
            with paused([PoolerAddress("tls", certified)], database, timeout_s=5) as group:
                assert group.facts[0]["databases"] == [database]
            with pytest.raises(HoldfastError) as refusal, paused([pooler.address()], database, timeout_s=5):
                pytest.fail("somebody without a certificate was let in")
            assert refusal.value.code in ("connection_failed", "authentication_failed")
        finally:
            pooler.remove()


def test_console_by_unix_socket(pg18: TestServer, pooler: TestPooler, database: str) -> None:
    by_socket = dataclasses.replace(pooler.console, host=str(pooler.directory))
    with paused([PoolerAddress("socket", by_socket)], database, timeout_s=5) as group:
        assert group.facts[0]["console"] == "%s:%d" % (pooler.directory, pooler.port)


def reachable(pooler: TestPooler, server: Server) -> bool:
    console = Console(PoolerAddress(pooler.name, server))
    try:
        connected([console], timeout_s=2)
    except HoldfastError:
        return False
    console.close()
    return True


@contextlib.contextmanager
def scratch_files(source: pathlib.Path) -> Iterator[pathlib.Path]:
    """Copies of files that the pooler's user can read."""
    account = unprivileged_user()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-tls-"))
    for path in source.iterdir():
        shutil.copy(path, directory)
    try:
        if account is not None:
            for path in (directory, *directory.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        yield directory
    finally:
        shutil.rmtree(directory)


def test_transaction_in_a_session_mode_pool_is_explained(pg18: TestServer, database: str) -> None:
    with poolers_running(pg18, "sessions", settings={"pool_mode": "session"}) as (pooler,):
        client = pooler.connect(database)
        with client.cursor() as cursor:
            cursor.execute("SELECT 1")
        with (
            pytest.raises(HoldfastError, match="session mode"),
            paused([pooler.address(probe=True)], database, timeout_s=5, attempts=1, attempt_timeout_s=0.2),
        ):
            pytest.fail("a client that holds its server cannot be made to wait")
        client.close()
        with paused([pooler.address(probe=True)], database, timeout_s=5) as group:
            pass
        assert group.facts[0]["stall_source"] == "console"


def test_guardian_of_a_pause_resumes_when_its_time_is_up_and_calls_what_comes_before(
    poolers: list[TestPooler], database: str, tmp_path: pathlib.Path
) -> None:
    clients = [pooler.connect(database) for pooler in poolers]
    called = tmp_path / "called"
    with paused(
        [pooler.address() for pooler in poolers],
        database,
        timeout_s=5,
        max_pause_s=0.5,
        before_resume=called.touch,
    ):
        assert all(pooler.paused() == {database} for pooler in poolers)
        eventually(lambda: not any(pooler.paused() for pooler in poolers), timeout_s=2)
        assert called.exists()
    for client in clients:
        client.close()
