# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the option that module_utils/_switchover/pooler_options.py defines."""

from __future__ import annotations


class ModuleDocFragment:
    """The PgBouncer processes in front of a database, the same for every module that talks to them."""

    DOCUMENTATION = r"""
options:
  poolers:
    description:
      - The admin consoles of every PgBouncer process in front of the server, as the host that runs the module reaches
        them. Each process has its own, also those that share a port (C(so_reuseport)).
      - They have nothing to do with the options C(login_host) and so on, which are the server's.
    type: list
    elements: dict
    suboptions:
      name:
        description: What to call it in messages. By default where it is, and the port.
        type: str
      host:
        description: Host name or address. A value that begins with a slash is the directory of its Unix socket.
        type: str
      unix_socket:
        description: Directory of its Unix socket (C(unix_socket_dir)); it takes precedence over O(poolers[].host).
        type: path
      port:
        description: Its C(listen_port).
        type: int
        default: 6432
      user:
        description:
          - A user among its C(admin_users); to look only, C(stats_users) is enough.
          - By the Unix socket, C(pgbouncer) is let in without a password when the system user is the one that
            PgBouncer runs as.
        type: str
        default: pgbouncer
      password:
        description: The user's password.
        type: str
      passfile:
        description: A file with the password, in libpq's format, in place of O(poolers[].password).
        type: path
      ssl_mode:
        description: Whether and how TLS is used. Without it E(PGSSLMODE) counts, then V(prefer).
        type: str
        choices: [allow, disable, prefer, require, verify-ca, verify-full]
      ca_cert:
        description: File of the certificate authorities that the pooler's certificate must come from.
        type: path
      ssl_cert:
        description: File of the certificate of O(poolers[].user).
        type: path
      ssl_key:
        description: File of its key.
        type: path
      databases:
        description:
          - The names in this pooler that count, as C(SHOW DATABASES) lists them.
          - By default all that lead to a database of the name that the task is about, on whatever host. A wildcard
            (C(*)) is recognised when it sends clients to the database that they ask for.
        type: list
        elements: str
        default: []
      probe_user:
        description:
          - An ordinary user of the database. With it, a connection is held open through the pooler and asks C(SELECT 1)
            while clients wait, so that a stall is also measured by a client of the task's own; without it, only by the
            pooler's account of its clients. A pool in session mode is never probed.
        type: str
      probe_password:
        description: Its password; O(poolers[].passfile) and the certificate count for it, too.
        type: str
"""
