# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the options that module_utils/_core/argspec.py defines."""

from __future__ import annotations


class ModuleDocFragment:
    """Connection options, the same for every module of the collection."""

    DOCUMENTATION = r"""
options:
  login_host:
    description:
      - Host name or address of the server. A value that begins with a slash is the directory of its Unix socket.
      - Without it, E(PGHOST) counts, then libpq's default.
    type: str
  login_port:
    description:
      - Port of the server. Without it, E(PGPORT) counts, then 5432.
    type: int
  login_user:
    description:
      - Role to log in as. Without it, E(PGUSER) counts.
    type: str
    default: postgres
  login_password:
    description:
      - Password of the role. Without it, E(PGPASSWORD) counts, then libpq's password file.
      - It reaches client programs in a file that only this user can read, never on a command line.
    type: str
  login_unix_socket:
    description:
      - Directory of the server's Unix socket; it takes precedence over O(login_host).
    type: path
  ssl_mode:
    description:
      - Whether and how TLS is used. Without it, E(PGSSLMODE) counts, then V(prefer).
    type: str
    choices: [allow, disable, prefer, require, verify-ca, verify-full]
  ca_cert:
    description:
      - File of the certificate authorities that the server's certificate must come from. Fallback E(PGSSLROOTCERT).
    type: path
    aliases: [ssl_rootcert]
  ssl_cert:
    description:
      - File of the client's certificate. Fallback E(PGSSLCERT).
    type: path
  ssl_key:
    description:
      - File of the client's private key. Fallback E(PGSSLKEY).
    type: path
  connect_params:
    description:
      - Any further libpq parameters, by their libpq names.
    type: dict
    default: {}
  maintenance_db:
    description:
      - The third database to connect to while others are created, copied or renamed.
    type: str
    default: postgres
requirements:
  - psycopg2 2.9 or newer on the host that runs the module
notes:
  - Failures carry RV(ignore:code), a stable word, and RV(ignore:hint), the next step; every code is listed in the
    page "error codes" of the collection's documentation.
"""
