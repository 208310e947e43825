# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that modules share, and the one place where a failure becomes a module's answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule, env_fallback

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import SECRET_PARAMETERS, Server
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

try:
    from psycopg2 import Error as DriverError
    from psycopg2 import errorcodes
except ImportError:  # reported by connection.require_driver()

    class DriverError(Exception):  # type: ignore[no-redef]
        """Stands for the driver's exception where the driver is missing, so that nothing is caught."""


def connection_argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the doc fragment ``holdfast.postgres.connection``."""
    return {
        "login_host": {"type": "str", "fallback": (env_fallback, ["PGHOST"])},
        "login_port": {"type": "int", "fallback": (env_fallback, ["PGPORT"])},
        "login_user": {"type": "str", "default": "postgres", "fallback": (env_fallback, ["PGUSER"])},
        "login_password": {"type": "str", "no_log": True, "fallback": (env_fallback, ["PGPASSWORD"])},
        "login_unix_socket": {"type": "path"},
        "ssl_mode": {
            "type": "str",
            "choices": ["allow", "disable", "prefer", "require", "verify-ca", "verify-full"],
            "fallback": (env_fallback, ["PGSSLMODE"]),
        },
        "ca_cert": {"type": "path", "aliases": ["ssl_rootcert"], "fallback": (env_fallback, ["PGSSLROOTCERT"])},
        "ssl_cert": {"type": "path", "fallback": (env_fallback, ["PGSSLCERT"])},
        "ssl_key": {"type": "path", "fallback": (env_fallback, ["PGSSLKEY"])},
        "connect_params": {"type": "dict", "default": {}},
        "maintenance_db": {"type": "str", "default": "postgres"},
    }


def server_from(params: Mapping[str, Any]) -> Server:
    """Return the server that the connection options of a module name."""
    return Server(
        host=params["login_unix_socket"] or params["login_host"] or None,
        port=params["login_port"],
        user=params["login_user"] or None,
        password=params["login_password"] or None,
        ssl_mode=params["ssl_mode"],
        ca_cert=params["ca_cert"],
        ssl_cert=params["ssl_cert"],
        ssl_key=params["ssl_key"],
        connect_params={key: str(value) for key, value in (params["connect_params"] or {}).items()},
        maintenance_db=params["maintenance_db"],
    )


@contextlib.contextmanager
def failures_reported(module: AnsibleModule) -> Iterator[None]:
    """End the module with ``msg``, ``code`` and ``hint`` when the block raises `HoldfastError` or a driver error.

    Secrets among ``connect_params`` are masked in whatever the module answers, as ``login_password`` is.
    """
    given = module.params.get("connect_params") or {}
    module.no_log_values.update(str(given[name]) for name in SECRET_PARAMETERS if given.get(name))
    try:
        yield
    except HoldfastError as exc:
        _fail(module, exc)
    except DriverError as exc:
        _fail(module, driver_failure(exc))


def _fail(module: AnsibleModule, error: HoldfastError) -> NoReturn:
    result = error.as_result()
    message = result.pop("msg")
    module.fail_json(msg=message, **result)
    raise AssertionError("fail_json returned")


def driver_failure(exc: Exception) -> HoldfastError:
    """Return the error for an exception of the driver that nothing nearer to its cause has explained."""
    sqlstate = getattr(exc, "pgcode", None)
    message = " ".join(str(getattr(getattr(exc, "diag", None), "message_primary", None) or exc).split())
    if sqlstate == errorcodes.INSUFFICIENT_PRIVILEGE:
        return HoldfastError(
            code="permission_denied",
            msg="The server refused a statement: %s" % message,
            hint="Connect as a role with the privilege, usually the owner of the database or a superuser.",
            sqlstate=sqlstate,
        )
    if sqlstate is None:
        return HoldfastError(
            code="connection_failed",
            msg="The connection to the server was lost: %s" % message,
            hint="See the server's log for the reason, then run the task again.",
        )
    return HoldfastError(
        code="query_failed",
        msg="The server reported %s: %s" % (sqlstate, message),
        hint="See the server's log for the statement; run with -vvv for the traceback of the module.",
        sqlstate=sqlstate,
    )
