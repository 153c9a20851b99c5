"""The suite of `Store` on every PostgreSQL server, and through a pooler in transaction mode."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from postgres_servers import Database, PostgresServer
from postgres_stores import open_stores
from tenantry import RegistryConfig, TenantHandle, TenantRegistry
from tenantry.testing import (
    REPOSITORY_CHECKS,
    STORE_CHECKS,
    RepositoryCheck,
    StoreCheck,
    check_name,
)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def database(each_postgres_server: PostgresServer) -> Iterator[Database]:
    """A database for all checks; each check has its own tenant."""
    with each_postgres_server.database() as database:
        yield database


@pytest.mark.parametrize("check", STORE_CHECKS, ids=check_name)
async def test_store(check: StoreCheck, database: Database):
    """PostgreSQL keeps the promise that the check is named after."""
    async with open_stores(database) as stores:
        await check(stores.make)


@asynccontextmanager
async def open_tenant(directory: Path, database: Database) -> AsyncIterator[TenantHandle]:
    """Open a registry on a database that other tests use too, and create a tenant."""
    async with TenantRegistry(RegistryConfig(data_dir=directory, database=database.url)) as registry:
        tenant_id = f"tenant-{next(_numbers)}"
        await registry.create(tenant_id)
        yield registry.tenant(tenant_id)


@pytest.mark.parametrize("check", REPOSITORY_CHECKS, ids=check_name)
async def test_repositories(check: RepositoryCheck, tmp_path: Path, database: Database):
    """The repositories of a tenant keep it on every server."""
    async with open_tenant(tmp_path, database) as tenant:
        await check(tenant)


@pytest.fixture(scope="module")
def newest_database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database on a server of the newest version."""
    with postgres_server.database() as database:
        yield database


@pytest.mark.parametrize("check", REPOSITORY_CHECKS, ids=check_name)
async def test_repositories_in_a_transaction(
    check: RepositoryCheck, tmp_path: Path, newest_database: Database
):
    """The repositories of a transaction over several calls keep it too."""
    async with open_tenant(tmp_path, newest_database) as tenant, tenant.transaction() as transaction:
        await check(transaction)
