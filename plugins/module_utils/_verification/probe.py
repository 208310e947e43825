# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking an application whether it works: again and again until it does, or until one deadline for all probes."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ansible_collections.holdfast.postgres.plugins.module_utils._core.connection import (
    connect_failure,
    require_driver,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._core.process import (
    find_client_programs,
    last_complaint,
    run_program,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._core.waiting import wait_until
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.probe_plan import (
    Command,
    Libpq,
    Probe,
    Tcp,
    parse_logins,
    parse_probes,
)
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.web import (
    MASK,
    Http,
    Secrets,
    Web,
    WebError,
    masked_excerpt,
    search,
)

try:
    import psycopg2
    import psycopg2.extensions
    from psycopg2 import Error as DriverError
except ImportError:  # reported by connection.require_driver()

    class DriverError(Exception):  # type: ignore[no-redef]
        """Stands for the driver's exception where the driver is missing, so that nothing is caught."""


FAIL_ON = ("error", "warning", "never")
LONGEST_VALUE = 200
#: The suite under which the ledger and the report list probes.
SUITE = "probes"
#: What pg_isready means by its exit code (https://www.postgresql.org/docs/current/app-pg-isready.html).
NOT_READY = {1: "the server is starting up and rejects connections", 2: "nobody answers", 3: "no attempt was made"}
_SECRET_PATH = re.compile(r"secret|passw|token|key|credential", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """What one attempt brought: whether it is as expected, and the sentence that says so."""

    ok: bool
    message: str
    status: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Asker:
    """Everything that an attempt needs."""

    web: Web
    secrets: Secrets
    environment: Mapping[str, str]
    bin_dir: str | None = None

    def attempt(self, probe: Probe, *, timeout_s: float) -> Reply:
        """Ask once; whatever goes wrong is a reply."""
        try:
            reply = self._ask(probe, timeout_s=timeout_s)
        except WebError as exc:
            reply = Reply(False, "%s." % exc)
        except HoldfastError as exc:
            reply = Reply(False, exc.msg, status=exc.details.get("exit_code"))
        except DriverError as exc:
            reply = Reply(False, "The server refused a query: %s." % " ".join(str(exc).split()).rstrip("."))
        limit_ms = probe.max_latency_ms
        if reply.ok and limit_ms is not None and reply.latency_ms is not None and reply.latency_ms > limit_ms:
            message = "It is right, but took %.0f ms; at most %.0f are allowed." % (reply.latency_ms, limit_ms)
            reply = Reply(False, message, reply.status, reply.latency_ms)
        return Reply(reply.ok, self.secrets.hide(reply.message), reply.status, reply.latency_ms)

    def _ask(self, probe: Probe, *, timeout_s: float) -> Reply:
        target = probe.target
        if isinstance(target, Http):
            return self._ask_http(probe, target, timeout_s=timeout_s)
        started = time.monotonic()
        if isinstance(target, Command):
            return self._run(probe, target, timeout_s=timeout_s)
        if isinstance(target, Tcp):
            try:
                socket.create_connection((target.host, target.port), timeout=timeout_s).close()
            except (OSError, UnicodeError) as exc:
                reason = getattr(exc, "strerror", None) or exc
                return Reply(False, "%s port %d cannot be reached: %s." % (target.host, target.port, reason))
            done = "%s port %d is open." % (target.host, target.port)
        elif target.login:
            value = log_in(target, ends_at=started + timeout_s)
            done = "Role %s logged in to %s." % (target.server.user or "(default)", target.database)
            if probe.value is not None and not same(value, probe.value):
                message = "%s, but %s." % (done.rstrip("."), _difference("the value", value, probe.value, self.secrets))
                return Reply(False, message, latency_ms=_since(started))
        else:
            return self._is_ready(target, timeout_s=timeout_s)
        return Reply(True, done, latency_ms=_since(started))

    def _ask_http(self, probe: Probe, target: Http, *, timeout_s: float) -> Reply:
        answer = self.web.ask(target, timeout_s=timeout_s)
        told = "%s answered %d" % (target.shown, answer.status)

        def reply(ok: bool, message: str) -> Reply:
            return Reply(ok, message, answer.status, answer.latency_ms)

        if answer.status not in probe.statuses:
            words = masked_excerpt(self.secrets.hide(answer.text())) if answer.status >= 400 else ""
            wanted = " or ".join(map(str, probe.statuses))
            return reply(False, "%s, expected %s%s." % (told, wanted, ": " + words.rstrip(".") if words else ""))
        if probe.text and probe.text not in answer.text():
            return reply(False, "%s, but without the text %r." % (told, probe.text))
        if probe.paths:
            try:
                document = answer.json()
            except ValueError:
                return reply(False, "%s, but not with JSON." % told)
            for path, wanted_value in probe.paths.items():
                found = search(path, document)
                if not same(found, wanted_value):
                    return reply(False, "%s, but %s." % (told, _difference(path, found, wanted_value, self.secrets)))
        return reply(True, "%s." % told)

    def _run(self, probe: Probe, target: Command, *, timeout_s: float) -> Reply:
        environment = {**self.environment, **target.environment, **target.secret_environment}
        completed = run_program(
            target.argv, environment=environment, allowed_exit_codes=range(-64, 256), timeout_s=timeout_s
        )
        took_ms = round(completed.duration_s * 1000, 1)
        told = "%s ended with %d" % (target.argv[0], completed.exit_code)
        if completed.exit_code not in probe.statuses:
            # A secret that the cut would halve must be gone before.
            words = self.secrets.hide(last_complaint(completed.stderr))[:LONGEST_VALUE]
            message = "%s, expected %s: %s" % (told, " or ".join(map(str, probe.statuses)), words)
            return Reply(False, message, completed.exit_code, took_ms)
        if probe.text and probe.text not in completed.stdout:
            return Reply(False, "%s, but without the text %r." % (told, probe.text), completed.exit_code, took_ms)
        return Reply(True, "%s." % told, completed.exit_code, took_ms)

    def _is_ready(self, target: Libpq, *, timeout_s: float) -> Reply:
        programs = find_client_programs(
            server_version=0, bin_dir=self.bin_dir, environment=self.environment, program="pg_isready"
        )
        # Without a user of its own, pg_isready would take the name of whoever asks; nobody is logged in anyway.
        conninfo = target.server.conninfo(target.database)
        argv = [
            programs.path("pg_isready"),
            "--quiet",
            "--timeout=%d" % max(1, round(timeout_s)),
            "--dbname=" + conninfo,
        ]
        completed = run_program(
            argv, environment=self.environment, allowed_exit_codes=(0, 1, 2, 3), timeout_s=timeout_s + 5
        )
        where = "%s port %d" % (target.server.host or "The local socket", target.server.port or 5432)
        took_ms = round(completed.duration_s * 1000, 1)
        if completed.exit_code:
            return Reply(False, "%s: %s." % (where, NOT_READY[completed.exit_code]), completed.exit_code, took_ms)
        return Reply(True, "%s accepts connections." % where, 0, took_ms)


def log_in(target: Libpq, *, ends_at: float) -> Any:
    """Return the first value of the query of a role that logs in; raises `HoldfastError`.

    ``ends_at`` is of the monotonic clock: a pooler that is paused lets clients in and then answers nothing, and no
    parameter of libpq limits that.
    """
    require_driver()
    server, database = target.server, target.database
    parameters: dict[str, Any] = server.parameters(database, application_name="holdfast")
    if server.password is not None:
        parameters["password"] = server.password
    try:
        connection = psycopg2.connect(**parameters, async_=1)
        with contextlib.closing(connection):
            _await(connection, ends_at=ends_at)
            with connection.cursor() as cursor:
                cursor.execute(target.query)
                _await(connection, ends_at=ends_at)
                row = cursor.fetchone() if cursor.description else None
    except psycopg2.OperationalError as exc:
        raise connect_failure(str(exc), database=database, server=server) from exc
    return row[0] if row else None


def _await(connection: Any, *, ends_at: float) -> None:
    ready = {psycopg2.extensions.POLL_READ: select.POLLIN, psycopg2.extensions.POLL_WRITE: select.POLLOUT}
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        waiting = select.poll()
        waiting.register(connection.fileno(), ready[state])
        remaining_s = ends_at - time.monotonic()
        if remaining_s <= 0 or not waiting.poll(remaining_s * 1000):
            raise HoldfastError(
                code="timeout",
                msg="The server, or the pooler in front of it, did not answer in time.",
                hint="See whether the pooler is paused, or the server too busy.",
            )


def _since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)


def same(found: Any, wanted: Any) -> bool:
    """Return whether two JSON values are equal; true is not 1, as it is for Python."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in found)
    if isinstance(found, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(found == wanted)


def _difference(path: str, found: Any, wanted: Any, secrets: Secrets) -> str:
    def shown(value: Any) -> str:
        # A secret that the cut would halve must be gone before.
        text = secrets.hide(json.dumps(value, ensure_ascii=False, default=str))
        return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."

    if _SECRET_PATH.search(path):
        return "%s is %s and not as expected" % (path, "nothing" if found is None else MASK)
    return "%s is %s, expected %s" % (path, shown(found), shown(wanted))


def run_probes(
    probes: Sequence[Probe],
    *,
    attempt: Callable[..., Reply],
    deadline_s: float,
    interval_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[dict[str, Any]]:
    """Ask all probes in their order, then those again that did not hold, until all do or the deadline is over.

    One deadline for all: an application that does not come up is found out once, not once for each probe. Each is
    asked at least once. Returns for each ``name``, ``kind``, ``severity``, ``ok``, ``status``, ``latency_ms``,
    ``attempts`` and ``message``.
    """
    ends_at = clock() + deadline_s
    attempts = [0] * len(probes)
    replies: list[Reply] = [Reply(False, "It was not asked.")] * len(probes)

    def all_hold() -> bool:
        for position, probe in enumerate(probes):
            if attempts[position] and (replies[position].ok or not probe.retry):
                continue
            # What is asked when the time is up must not take long any more.
            timeout_s = min(probe.timeout_s, max(ends_at - clock(), 1.0))
            replies[position] = attempt(probe, timeout_s=timeout_s)
            attempts[position] += 1
        return all(reply.ok or not probe.retry for probe, reply in zip(probes, replies))

    wait_until(all_hold, timeout_s=deadline_s, interval_s=interval_s, clock=clock, sleep=sleep)
    return [
        {
            "name": probe.name,
            "kind": probe.kind,
            "severity": probe.severity,
            "ok": reply.ok,
            "status": reply.status,
            "latency_ms": reply.latency_ms,
            "attempts": count,
            "message": reply.message,
        }
        for probe, reply, count in zip(probes, replies, attempts)
    ]


def probe_application(
    *,
    probes: Any,
    logins: Any,
    stage: str,
    environment: Mapping[str, str],
    deadline_s: float = 30,
    interval_s: float = 1,
    fail_on: str = "error",
    validate_certs: bool = True,
    ca_cert: str | None = None,
    use_proxy: bool = True,
    bin_dir: str | None = None,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Ask the probes of a stage and return the keys of a module result.

    Check mode asks only what is sure to change nothing. Raises `HoldfastError`: ``option_invalid`` or
    ``library_missing`` before anything is asked, ``probe_failed`` with the same keys in its details.
    """
    if not 0 <= deadline_s <= 86_400 or not 0.01 <= interval_s <= 3600:
        raise HoldfastError(
            code="option_invalid",
            msg="deadline_s is %s, interval_s is %s." % (deadline_s, interval_s),
            hint="deadline_s is from 0 to 86400, interval_s from 0.01 to 3600.",
        )
    known = parse_logins(logins)
    chosen = [probe for probe in parse_probes(probes, logins=known) if stage in probe.stages]
    secrets = Secrets()
    for probe in chosen:
        secrets.add(_secrets_of(probe))
    try:
        web = Web(known, secrets=secrets, validate_certs=validate_certs, ca_cert=ca_cert, use_proxy=use_proxy)
    except OSError as exc:
        raise HoldfastError(
            code="option_invalid",
            msg="The certificates in %s cannot be used: %s." % (ca_cert, exc.strerror or exc),
            hint="ca_cert is a file with certificates in PEM on the host that asks.",
        ) from exc
    asker = Asker(web=web, secrets=secrets, environment=environment, bin_dir=bin_dir)
    asked = [probe for probe in chosen if probe.looks_only or not check_mode]
    started = time.monotonic()
    results = run_probes(asked, attempt=asker.attempt, deadline_s=deadline_s, interval_s=interval_s)
    duration_s = round(time.monotonic() - started, 3)
    return judged(results, stage=stage, left_out=len(chosen) - len(asked), duration_s=duration_s, fail_on=fail_on)


def _secrets_of(probe: Probe) -> list[str]:
    target = probe.target
    if isinstance(target, Http):
        return list(target.secret_headers.values())
    if isinstance(target, Libpq):
        return [target.server.password or ""]
    return list(target.secret_environment.values()) if isinstance(target, Command) else []


def judged(
    results: Sequence[Mapping[str, Any]], *, stage: str, left_out: int = 0, duration_s: float, fail_on: str
) -> dict[str, Any]:
    """Return the keys of a module result; raises `HoldfastError` (``probe_failed``) with the same."""
    broken = [row for row in results if not row["ok"]]
    failed = [row for row in broken if row["severity"] == "error"]
    parts = ["%d of %d probes hold" % (len(results) - len(broken), len(results))]
    if len(broken) > len(failed):
        parts.append("%d of severity warning not" % (len(broken) - len(failed)))
    if left_out:
        parts.append("%d left out by check mode" % left_out)
    answer: dict[str, Any] = {
        "changed": False,
        "probes": list(results),
        "checks": [as_check(row, stage=stage) for row in results],
        "failed_probes": len(failed),
        "warned_probes": len(broken) - len(failed),
        "duration_s": duration_s,
        "summary": "%s (%.1f s)." % (", ".join(parts), duration_s),
    }
    counted = {"error": failed, "warning": broken, "never": []}[fail_on]
    if not counted:
        return answer
    raise HoldfastError(
        code="probe_failed",
        msg="%s Failed: %s"
        % (answer["summary"], " ".join("%s - %s" % (row["name"], _sentence(row["message"])) for row in counted)),
        hint="See the application's own log for what it did at that time; message says what each probe was told.",
        **{key: value for key, value in answer.items() if key != "changed"},
    )


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def as_check(row: Mapping[str, Any], *, stage: str) -> dict[str, Any]:
    """Return a probe's result in the form of a check's, for the ledger and the report."""
    return {
        "stage": stage,
        "suite": SUITE,
        "name": row["name"],
        "severity": row["severity"],
        "status": "passed" if row["ok"] else "failed",
        "errored": False,
        "message": row["message"],
        "rows": None,
        "value": row["status"],
        "sample": [],
        "tags": [row["kind"]],
        "duration_ms": row["latency_ms"],
    }
