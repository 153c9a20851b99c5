"""What every test has: asyncio underneath, a quiet structlog, and a registry on a fresh directory."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from buckets import s3_server
from certificates import make_certificate
from stores import MakePack
from tenantry import RegistryConfig, Schema, TenantRegistry
from tenants import HANG_SECONDS, write_pack

# No test asserts wall-clock time: on a busy machine neither an example nor making one is slow because of the code.
settings.register_profile("tenantry", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tenantry")


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what runs in the background so; the processes that tests start and interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio: aiosqlite knows no other."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _fresh_structlog() -> Iterator[None]:
    """Leave structlog unconfigured, as a host that does not use it has it."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """The URL of an S3 server: each test makes a bucket of its own."""
    with s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
async def registry(data_dir: Path) -> AsyncIterator[TenantRegistry]:
    """An open registry with a small pool."""
    # A busy machine may need long for what a test does inside a transaction.
    config = RegistryConfig(
        data_dir=data_dir,
        open_tenants_max=4,
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

    def make(*migrations: str, name: str = "pack") -> Schema:
        package = f"pack_{abs(hash(request.node.nodeid))}_{len(made)}"
        made.append(write_pack(tmp_path, package, *migrations))
        return Schema(name=name, package=package)

    return make
