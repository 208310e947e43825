# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which names of a pooler lead to a database, and whether this user may pause them."""

from __future__ import annotations

import contextlib

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.console import (
    Console,
    Entry,
    PoolerAddress,
    argument,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.gate import NOT_PAUSED, one_line

with contextlib.suppress(ImportError):  # reported by connection.require_driver()
    import psycopg2


def require_admin(console: Console) -> None:
    """Raise `HoldfastError` when the user may look only (stats_users)."""
    try:
        console.command("RESUME pgbouncer")  # is never paused
    except psycopg2.Error as exc:
        if "admin access needed" in str(exc):
            raise HoldfastError(
                code="permission_denied",
                msg="Pooler %s: user %s may not pause or resume." % (console.address.name, console.address.server.user),
                hint="Add it to admin_users of this PgBouncer and reload it.",
                pooler=console.address.name,
            ) from exc
        if not any(text in str(exc) for text in NOT_PAUSED):
            raise broken(console.address, exc) from exc


def broken(address: PoolerAddress, exc: Exception) -> HoldfastError:
    """Return the error for what a console said that nobody expected."""
    return HoldfastError(
        code="connection_failed",
        msg="Pooler %s at %s: %s" % (address.name, address.where, one_line(exc)),
        hint="Look at the log of this PgBouncer.",
        pooler=address.name,
    )


def entries_to(console: Console, database: str) -> list[Entry]:
    """Return the pooler's databases that lead to ``database``.

    By default that is every entry for a database of this name, whatever the host: how a pooler calls the server cannot
    be compared from here, and one entry too many only waits, too. A wildcard's entry exists once somebody has asked for
    it, so the live name is asked for (RECONNECT registers it and does nothing else to one without servers).
    """
    wanted = console.address.databases or [database]
    entries = {entry.name: entry for entry in console.entries()}
    for name in wanted:
        if name not in entries:
            entries.update(_asked_of_wildcard(console, name))
    if console.address.databases:
        found = [entries[name] for name in wanted if name in entries]
        missing = [name for name in wanted if name not in entries]
    else:
        found = [entry for entry in entries.values() if entry.database == database]
        missing = [] if found else [database]
    if missing:
        raise HoldfastError(
            code="database_not_found",
            msg="Pooler %s at %s has no database %s%s; it has %s."
            % (
                console.address.name,
                console.address.where,
                "" if console.address.databases else "that leads to ",
                ", ".join(map(repr, missing)),
                ", ".join("%r (to %r)" % (entry.name, entry.database) for entry in entries.values()) or "none",
            ),
            hint="Name the pooler's databases with the option databases of the pooler, or leave this pooler out.",
            pooler=console.address.name,
        )
    return found


def _asked_of_wildcard(console: Console, name: str) -> dict[str, Entry]:
    """Return the entry that a wildcard makes for ``name``, if there is a wildcard."""
    # PgBouncer hides such an entry from SHOW while nobody is connected, after a third of a second at most.
    for _attempt in range(3):
        try:
            console.command("RECONNECT " + argument(name))
        except psycopg2.Error as exc:
            if "no such database" in str(exc):
                return {}
            raise broken(console.address, exc) from exc
        found = {entry.name: entry for entry in console.entries() if entry.name == name}
        if found:
            return found
    return {}
