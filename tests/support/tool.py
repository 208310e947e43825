# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that migrates by itself, as Alembic does, and finds the database by the environment alone.

python tool.py up | down VERSION | status | pending, in a directory with files 1.sql, 2.sql, ...
"""

from __future__ import annotations

import pathlib
import sys

import psycopg2


def main() -> int:
    """Run one command and return the exit code."""
    command, *arguments = sys.argv[1:]
    connection = psycopg2.connect("")
    cursor = connection.cursor()
    newest = len(list(pathlib.Path().glob("[0-9]*.sql")))
    cursor.execute("SELECT to_regclass('tool_version') IS NOT NULL")
    current = 0
    if cursor.fetchone() == (True,):
        cursor.execute("SELECT max(version) FROM tool_version")
        current = cursor.fetchall()[0][0] or 0
    if command == "status":
        print("connected to %s" % connection.info.dbname)
        print("%d (head)" % current if current == newest else "%d" % current)
        return 0
    if command == "pending":
        return 1 if current < newest else 0
    cursor.execute("CREATE TABLE IF NOT EXISTS tool_version (version int)")
    if command == "up":
        for version in range(current + 1, newest + 1):
            print("applying %d" % version, file=sys.stderr)
            cursor.execute(pathlib.Path("%d.sql" % version).read_text(encoding="utf-8"))
            cursor.execute("INSERT INTO tool_version VALUES (%s)", (version,))
            connection.commit()
    else:
        cursor.execute("DELETE FROM tool_version WHERE version > %s", (int(arguments[0]),))
        connection.commit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
