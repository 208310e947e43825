# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who counts as being in a database, and how the others are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.clone import choose_strategy
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import Session
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.drain import in_use

CLIENT = Session(
    pid=4711,
    database_oid=16384,
    database="app",
    user="reporting",
    application_name="nightly",
    client_addr="10.0.0.7",
    state="idle in transaction",
    backend_type="client backend",
    backend_start=None,
    transaction_age_s=93.4,
    query_age_s=12.0,
    query="SELECT 1",
)


@pytest.mark.parametrize(
    ("facts", "yields"),
    [
        ({}, False),
        ({"backend_type": "walsender"}, False),
        ({"backend_type": "parallel worker"}, False),
        ({"backend_type": "logical replication worker"}, False),
        ({"backend_type": "pg_cron"}, False),
        ({"backend_type": "autovacuum worker", "user": None}, True),
        # Without pg_read_all_stats the kind is hidden.
        ({"backend_type": None}, False),
        ({"backend_type": None, "user": None}, True),
        ({"backend_type": None, "user": None, "database_oid": None, "state": "starting"}, False),
    ],
)
def test_only_autovacuum_workers_need_not_leave(facts: dict[str, Any], yields: bool) -> None:
    assert replace(CLIENT, **facts).yields is yields


def test_message_names_each_session_with_what_it_does() -> None:
    error = in_use([CLIENT, replace(CLIENT, pid=4712, application_name="", state=None)], waited_s=5)
    assert error.code == "database_in_use"
    assert error.msg == (
        "2 sessions did not leave within 5.0 s: pid 4711 (user reporting, application nightly, from 10.0.0.7, "
        "idle in transaction for 93 s) in database 'app'; "
        "pid 4712 (user reporting, from 10.0.0.7) in database 'app'"
    )
    assert error.details["sessions"][0]["transaction_age_s"] == 93.4


def test_message_about_many_sessions_stays_readable() -> None:
    error = in_use([replace(CLIENT, pid=pid) for pid in range(1, 31)], waited_s=5)
    assert "pid 20 " in error.msg and "pid 21 " not in error.msg and error.msg.endswith("; and 10 more")
    assert len(error.details["sessions"]) == 30


@pytest.mark.parametrize(
    ("version", "size_bytes", "methods", "strategy"),
    [
        (130022, 10**9, ["copy"], "file_copy"),
        (150014, 10**9, ["copy"], "file_copy"),
        (150014, 10**6, ["copy"], "wal_log"),
        (150014, None, ["copy"], "file_copy"),
        (180004, 10**9, ["copy"], "file_copy"),
        (180004, 10**9, ["copy", "clone"], "clone"),
        (180004, 10**6, ["copy", "clone"], "wal_log"),
    ],
)
def test_automatic_strategy(version: int, size_bytes: int | None, methods: list[str], strategy: str) -> None:
    assert choose_strategy(version=version, size_bytes=size_bytes, methods=methods) == strategy
