# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session that is named as an obstacle is named with its query, and without the secret in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import psycopg2
import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.database import databases_info
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.pooler import Poolers
from tests.support.pgbouncer import poolers_running
from tests.support.server import TestServer
from tests.support.switchover import Pair, pair_of_databases

SECRET = "tr3asure"


@pytest.fixture
def pair(pg18: TestServer) -> Iterator[Pair]:
    with pair_of_databases(pg18) as databases:
        yield databases


@contextlib.contextmanager
def setting_a_password(connection: psycopg2.extensions.connection) -> Iterator[None]:
    with contextlib.closing(connection):
        connection.autocommit = False
        with connection.cursor() as cursor:
            # Shown is the beginning of a query; the secret is cut in two there.
            cursor.execute("/* %s */ ALTER ROLE postgres PASSWORD '%s'" % ("x" * 60, SECRET))
        yield
        connection.rollback()


def said(refusal: HoldfastError) -> str:
    text = json.dumps(refusal.as_result())
    assert "ALTER ROLE postgres PASSWORD" in text
    return text


def test_direct_session(pg18: TestServer, pair: Pair) -> None:
    with setting_a_password(pg18.connect(pair.live)):
        with pytest.raises(HoldfastError) as refusal:
            pair.swap(drain_timeout_s=0.1)
        told = databases_info(server=pg18.server, databases=[pair.live])
    assert SECRET[:4] not in said(refusal.value)
    assert "ALTER ROLE" in json.dumps(told) and SECRET[:4] not in json.dumps(told)


def test_client_of_a_pooler(pg18: TestServer, pair: Pair) -> None:
    with (
        poolers_running(pg18, "one") as (pooler,),
        setting_a_password(pooler.connect(pair.live)),
        pytest.raises(HoldfastError) as refusal,
    ):
        addresses = [pooler.address()]
        pair.swap(poolers=Poolers(addresses, database=pair.live, attempts=1, attempt_timeout_s=0.3))
    assert refusal.value.code == "pause_refused"
    assert SECRET[:4] not in said(refusal.value)
