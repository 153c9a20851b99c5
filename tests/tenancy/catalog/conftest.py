"""The catalog on each back end: the tests of this folder run on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from catalogs import CatalogDatabase, PostgresCatalog, SQLiteCatalog
from postgres_servers import Database
from tenantry import RegistryConfig, TenantRegistry
from tenants import HANG_SECONDS


@pytest.fixture(params=["sqlite", "postgres"])
def catalog_database(request: pytest.FixtureRequest, data_dir: Path) -> CatalogDatabase:
    """The database of the catalog, on each back end in turn."""
    if request.param == "sqlite":
        return SQLiteCatalog(data_dir)
    database: Database = request.getfixturevalue("postgres_database")
    return PostgresCatalog(database)


@pytest.fixture
def config(catalog_database: CatalogDatabase, data_dir: Path) -> RegistryConfig:
    """Settings for a small pool. The tenants are files on either back end, because only the catalog is tested."""
    return RegistryConfig(
        data_dir=data_dir,
        open_tenants_max=4,
        default_backend="sqlite",
        call_timeout_seconds=HANG_SECONDS,
        transaction_timeout_seconds=HANG_SECONDS,
        **catalog_database.settings,
    )


@pytest.fixture
async def registry(config: RegistryConfig) -> AsyncIterator[TenantRegistry]:
    """An open registry whose catalog is on each back end in turn."""
    async with TenantRegistry(config) as opened:
        yield opened
