# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests leave behind is found on every version of the server."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._verification.tap_database import (
    left_behind,
    take_inventory,
)

LEAVING = """
CREATE SCHEMA "left % behind";
CREATE TABLE "left % behind".parent (id int PRIMARY KEY, at date) PARTITION BY RANGE (id);
CREATE TABLE "left % behind".child PARTITION OF "left % behind".parent FOR VALUES FROM (1) TO (10);
CREATE TYPE "left % behind".mood AS ENUM ('good', 'bad');
CREATE TRIGGER stays BEFORE UPDATE ON known FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
ALTER TABLE known ADD CONSTRAINT positive CHECK (id > 0);
ALTER TABLE known ALTER COLUMN id SET DEFAULT 7;
CREATE PUBLICATION told FOR TABLE known;
CREATE TEMPORARY TABLE gone (id serial PRIMARY KEY);
SELECT lo_create(4711);
"""


@pytest.mark.parametrize("fixture", ["pg16", "pg18"])
def test_objects_are_named_without_what_belongs_to_them(request, fixture):
    server = request.getfixturevalue(fixture)
    name = server.create_database("tap_inventory", "CREATE TABLE known (id int)")
    connection = server.connect(name)
    try:
        before = take_inventory(connection)
        assert left_behind(connection, before).names == []
        with connection.cursor() as cursor:
            cursor.execute(LEAVING)
        assert left_behind(connection, before).names == [
            "default value for public.known.id",
            "large object 4711",
            "publication told",
            'schema "left % behind"',
            'table "left % behind".parent',
            "table constraint positive on public.known",
            "trigger stays on public.known",
            'type "left % behind".mood',
        ]
    finally:
        connection.close()
        server.drop_database(name)
