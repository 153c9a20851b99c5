"""What every test has: asyncio underneath, a quiet structlog, and a registry on a fresh directory."""

import asyncio
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from buckets import s3_server
from certificates import make_certificate
from engine_rig import needed_engine
from engines import ENGINES, using_engine
from measuring import measure_this_process_only, unmeasured
from postgres_processes import PostgresProcess
from postgres_servers import SERVERS, Database, PostgresServer, PostgresServers, private_server, url_of
from stores import MakePack
from tenantry import RegistryConfig, Schema, TenantRegistry
from tenantry.config import Engine
from tenantry.eventlog import EventLog
from tenantry.storage.sqlite.statements.execution import known_texts
from tenants import HANG_SECONDS, write_pack

# No test asserts wall-clock time: on a busy machine neither an example nor making one is slow because of the code.
settings.register_profile("tenantry", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tenantry")


MEMORY = Path("/dev/shm")
"""A file system in memory on Linux."""

FILES_BYTES_MAX = 4 * 2**30
GARBAGE_OBJECTS_MAX = 10_000

LONGEST = (
    "test_servers",
    *("test_schemathesis", "test_crashes", "test_conformance", "test_move_postgres", "test_backend"),
    *("test_console", "test_round_trips", "test_isolation", "test_postgres_registry", "test_catalog_move"),
    *("test_catalog_statements", "test_restores", "test_standalone_postgres", "test_roles"),
    *("test_answers", "test_commands", "test_serve"),
    *(
        "test_power_failure",
        "test_errors",
        "test_surroundings",
        "test_tenants",
        "test_service_documentation",
    ),
    *("test_rules", "test_queries", "test_foreign", "test_manifest", "test_documentation", "test_scrape"),
    *(
        "test_fleet_pages",
        "test_fleet_work",
        "test_failing_calls",
        "test_batch",
        "test_strangers",
        "test_integrations",
    ),
    *(
        "test_idempotency",
        "test_public",
        "test_bundle",
        "test_admin_audit",
        "test_storage_owner",
        "test_replace_file",
    ),
    *("test_ids", "test_models", "test_fleet", "test_registry", "test_life_of_tenants"),
    "test_company_runtime",
)
"""The files that take the most time, the longest first."""

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what runs in the background so; the processes that tests start and interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Put the tests' files into memory, where there is enough of it: most of what tests wait for is the disk.

    Nothing that they prove depends on it. ``PYTEST_DEBUG_TEMPROOT`` or ``--basetemp`` puts them elsewhere.
    """
    if config.option.basetemp is None and is_large_enough(MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: otherwise one process would run them when the others have no files left."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish() -> None:
    """Exempt all tests and modules from garbage collection: they stay, and each full collection would visit them.

    What tests make is little, and is collected less often than of a program that runs for days.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MAX)


def is_large_enough(directory: Path) -> bool:
    """Return whether a directory is there to be written to, and has space for all files of a run."""
    return os.access(directory, os.W_OK) and shutil.disk_usage(directory).free >= FILES_BYTES_MAX


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory for the test; on a disk if it is marked with ``disk``."""
    if request.node.get_closest_marker("disk") is None:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="tenantry-test-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio: aiosqlite knows no other."""
    return "asyncio"


@pytest.fixture(autouse=True, scope="session")
def _other_processes_are_not_measured() -> None:
    """Measure the coverage of those other processes only that a test asks for."""
    measure_this_process_only()


@pytest.fixture(autouse=True, scope="module")
def _unmeasured_modules_are_not_measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Measure no coverage in a module that is marked with ``unmeasured``."""
    if request.node.get_closest_marker("unmeasured") is None:
        yield
        return
    with unmeasured():
        yield


@pytest.fixture(autouse=True)
def _no_known_texts() -> None:
    """Forget the SQL texts of earlier tests: the first statement with a text runs in Python, whichever tests ran before."""
    known_texts.clear()


@pytest.fixture(autouse=True)
def _fresh_structlog() -> Iterator[None]:
    """Leave structlog unconfigured, as a host that does not use it has it."""
    structlog.reset_defaults()
    EventLog.is_quiet = False
    yield
    structlog.reset_defaults()
    EventLog.is_quiet = False


@pytest.fixture(params=ENGINES)
def each_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine in turn, which is the default of registries and of standalone back ends during the test.

    Where the engine in C cannot be used, its half is skipped, or fails if ``CI`` is set.
    """
    if request.param == "native":
        needed_engine()
    with using_engine(request.param):
        yield request.param


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """The URL of an S3 server: each test makes a bucket of its own."""
    with s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[PostgresServers]:
    """The PostgreSQL servers of this run of the tests, by their names."""
    with PostgresServers() as servers:
        yield servers


@pytest.fixture(scope="session")
def postgres_server(postgres_servers: PostgresServers) -> PostgresServer:
    """A server of the newest version."""
    return postgres_servers.server()


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[Database]:
    """An empty database on a server of the newest version."""
    with postgres_server.database() as database:
        yield database


@pytest.fixture(scope="session", params=SERVERS)
def each_postgres_server(request: pytest.FixtureRequest, postgres_servers: PostgresServers) -> PostgresServer:
    """Each of the servers in turn: the versions, and one of them through a pooler."""
    return postgres_servers.server(request.param)


@pytest.fixture
def each_postgres_database(each_postgres_server: PostgresServer) -> Iterator[Database]:
    """An empty database on each of the servers in turn."""
    with each_postgres_server.database() as database:
        yield database


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture(scope="session")
def empty_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory without tenants, to be copied: to make a catalog takes twice as long as to open it."""

    async def make(data_dir: Path) -> None:
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)):
            pass

    data_dir = tmp_path_factory.mktemp("empty") / "data"
    asyncio.run(make(data_dir))
    return data_dir


@pytest.fixture
async def registry(data_dir: Path, empty_data_dir: Path) -> AsyncIterator[TenantRegistry]:
    """An open registry with a small pool."""
    shutil.copytree(empty_data_dir, data_dir)
    # A busy machine may need long for what a test does inside a transaction.
    config = RegistryConfig(
        data_dir=data_dir,
        open_tenants_max=4,
        call_timeout_seconds=HANG_SECONDS,
        transaction_timeout_seconds=HANG_SECONDS,
    )
    async with TenantRegistry(config) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgres"])
async def each_registry(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[TenantRegistry]:
    """An open registry whose tenants are files, and one whose tenants are on a PostgreSQL server."""
    databases = {}
    if request.param == "postgres":
        databases["server"] = request.getfixturevalue("postgres_database").url
    config = RegistryConfig(
        data_dir=data_dir,
        databases=databases,
        default_backend="server" if databases else None,
        call_timeout_seconds=HANG_SECONDS,
        transaction_timeout_seconds=HANG_SECONDS,
    )
    async with TenantRegistry(config) as opened:
        yield opened


@pytest.fixture
def make_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> MakePack:
    """Return what makes a schema pack of these migrations."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(*migrations: str, name: str = "pack", postgres: Sequence[str] = ()) -> Schema:
        package = f"pack_{abs(hash(request.node.nodeid))}_{len(made)}"
        made.append(write_pack(tmp_path, package, *migrations, postgres=postgres))
        return Schema(name=name, package=package)

    return make


@pytest.fixture
def own_server() -> Iterator[PostgresProcess]:
    """A PostgreSQL server that the test may stop."""
    with private_server() as server:
        server.start()
        yield server


@pytest.fixture
def own_database(own_server: PostgresProcess) -> Iterator[Database]:
    """A database on the server that the test may stop."""
    with PostgresServer(url_of(own_server)).database() as database:
        yield database
