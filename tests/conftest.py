# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that the tests share; each is real, and started by the first test that asks for it."""

from __future__ import annotations

import pathlib
import sys
import uuid
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".collections"))
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402  (the collection must be importable first)

from tests.support.server import TestServer, distribution_bin_dir, embedded_bin_dir  # noqa: E402


def _running(bin_dir: pathlib.Path) -> Iterator[TestServer]:
    server = TestServer(bin_dir)
    yield server
    server.remove()


@pytest.fixture(scope="session")
def pg18() -> Iterator[TestServer]:
    """The embedded server, PostgreSQL 18."""
    yield from _running(embedded_bin_dir(18))


@pytest.fixture(scope="session")
def pg16() -> Iterator[TestServer]:
    """The embedded server, PostgreSQL 16."""
    yield from _running(embedded_bin_dir(16))


@pytest.fixture(scope="session")
def pg_distribution() -> Iterator[TestServer]:
    """The distribution's server, with contrib."""
    yield from _running(distribution_bin_dir())


@pytest.fixture
def database(pg18: TestServer) -> Iterator[str]:
    """The name of an empty database on the embedded 18, dropped afterwards."""
    name = "app_" + uuid.uuid4().hex[:10]
    pg18.create_database(name)
    yield name
    pg18.drop_database(name)
