"""The one suite on everything that ships: the ways to open SQLite, its engines, and the ways to reach the repositories."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from obstore.store import MemoryStore, S3Store

from buckets import make_bucket
from stores import OPTIONS, make_store, open_backend
from tenantry import RegistryConfig, TenantRegistry
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.eventlog import EventLog
from tenantry.storage.backends import make_backends
from tenantry.storage.objects.cloud import ObstoreStorage
from tenantry.storage.objects.protocol import LocalStorage
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.testing import (
    BACKEND_CHECKS,
    OBJECT_STORAGE_CHECKS,
    REPOSITORY_CHECKS,
    STORE_CHECKS,
    BackendCheck,
    CompanyRepositories,
    MakeBackend,
    ObjectStorageCheck,
    OpenObjectStorage,
    OpenRepositories,
    RepositoryCheck,
    StoreCheck,
    check_backend,
    check_name,
    check_object_storage,
    check_repositories,
    check_store,
)

pytestmark = pytest.mark.unmeasured

ALL_CHECKS = (*STORE_CHECKS, *REPOSITORY_CHECKS, *OBJECT_STORAGE_CHECKS, *BACKEND_CHECKS)


@pytest.fixture(
    params=[
        *("file", "memory", "rollback-journal"),
        *("tenant", "transaction", "forwarded", "forwarded-transaction"),
    ]
)
def open_repositories(request: pytest.FixtureRequest, tmp_path: Path) -> OpenRepositories:
    """Return what opens the repositories; the suite sees no other difference."""
    registry: TenantRegistry | None = None
    if request.param in ("tenant", "transaction", "forwarded", "forwarded-transaction"):
        registry = request.getfixturevalue("registry")

    @asynccontextmanager
    async def in_transaction() -> AsyncIterator[CompanyRepositories]:
        assert registry is not None
        await registry.create("acme")
        async with registry.tenant("acme").transaction() as transaction:
            yield transaction

    @asynccontextmanager
    async def through_tenant() -> AsyncIterator[CompanyRepositories]:
        assert registry is not None
        await registry.create("acme")
        yield registry.tenant("acme")

    @asynccontextmanager
    async def through_another_registry() -> AsyncIterator[CompanyRepositories]:
        assert registry is not None
        await registry.create("acme")
        async with TenantRegistry(registry.config) as other:
            yield other.tenant("acme")

    @asynccontextmanager
    async def in_transaction_of_another_registry() -> AsyncIterator[CompanyRepositories]:
        async with through_another_registry() as forwarded, forwarded.transaction() as transaction:  # type: ignore[attr-defined]
            yield transaction

    ways: dict[str, OpenRepositories] = {
        "file": lambda: open_backend(tmp_path / "company.db"),
        "memory": lambda: open_backend(":memory:"),
        "rollback-journal": lambda: open_backend(tmp_path / "company.db", wal_mode=False),
        "tenant": through_tenant,
        "transaction": in_transaction,
        "forwarded": through_another_registry,
        "forwarded-transaction": in_transaction_of_another_registry,
    }
    return ways[request.param]


@pytest.fixture(params=["directory", "memory", "s3", "s3-prefix"])
def open_object_storage(request: pytest.FixtureRequest, tmp_path: Path) -> OpenObjectStorage:
    """Return what opens an empty object storage of one kind."""
    numbers = itertools.count()
    name = f"bucket-{tmp_path.name.replace('_', '-')}"

    def in_bucket() -> S3Store:
        url, bucket = request.getfixturevalue("s3_url"), f"{name}-{next(numbers)}".lower()
        return make_bucket(url, bucket)

    ways: dict[str, OpenObjectStorage] = {
        "directory": lambda: LocalStorage(tmp_path / f"objects-{next(numbers)}" / "below"),
        "memory": lambda: ObstoreStorage(MemoryStore()),
        "s3": lambda: ObstoreStorage(in_bucket()),
        "s3-prefix": lambda: ObstoreStorage(in_bucket(), "all/of-it"),
    }
    return ways[request.param]


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("make_options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("check", STORE_CHECKS, ids=check_name)
async def test_store(check: StoreCheck, make_options: Callable[[Path], SQLiteOptions], tmp_path: Path):
    """Each way to open SQLite keeps the promise that the check is named after."""
    await check(lambda: make_store(make_options(tmp_path)))


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("check", REPOSITORY_CHECKS, ids=check_name)
async def test_repositories(check: RepositoryCheck, open_repositories: OpenRepositories):
    """The repositories keep it whatever runs their statements."""
    async with open_repositories() as repositories:
        await check(repositories)


@pytest.mark.parametrize("check", OBJECT_STORAGE_CHECKS, ids=check_name)
async def test_object_storage(check: ObjectStorageCheck, open_object_storage: OpenObjectStorage):
    """A directory, a real S3 server and memory keep it alike."""
    await check(open_object_storage())


def make_deployment(directory: Path) -> MakeBackend:
    """Return what makes back ends on one data directory."""
    config = RegistryConfig(data_dir=directory)
    return lambda: make_backends(config, [COMPANY], clock=SystemClock(), log=EventLog()).default


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=check_name)
async def test_backend(check: BackendCheck, tmp_path: Path):
    """SQLite files keep what tenancy relies on in closed databases, copies, restores and locks."""
    await check(make_deployment(tmp_path / "data"), tmp_path)


async def test_the_whole_suite_runs_without_a_test_framework(tmp_path: Path):
    """Users of other frameworks call four functions."""
    numbers = itertools.count()
    await check_backend(lambda: make_deployment(tmp_path / f"data-{next(numbers)}"), tmp_path)
    await check_store(lambda: make_store(SQLiteOptions(path=None, is_read_by_writer=True)))
    await check_repositories(lambda: open_backend(":memory:"))
    await check_object_storage(lambda: ObstoreStorage(MemoryStore()))


@pytest.mark.parametrize("check", ALL_CHECKS, ids=check_name)
def test_every_check_says_what_it_proves(
    check: StoreCheck | RepositoryCheck | ObjectStorageCheck | BackendCheck,
):
    """Names are unique, and a docstring explains each."""
    named = [other for other in ALL_CHECKS if check_name(other) == check_name(check)]
    assert named == [check]
    assert check.__doc__
