"""The catalog on each back end: the tests of this folder run on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from catalogs import CatalogDatabase, PostgresCatalog, SQLiteCatalog
from tenantry import RegistryConfig, TenantRegistry
from tenants import HANG_SECONDS


@pytest.fixture(params=["sqlite", "postgres"])
def catalog_database(request: pytest.FixtureRequest, data_dir: Path) -> CatalogDatabase:
    """The database of the catalog, on each back end in turn."""
    if request.param == "sqlite":
        return SQLiteCatalog(data_dir)
    return PostgresCatalog(request.getfixturevalue("postgres_database"))


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


@pytest.fixture
def other_settings(config: RegistryConfig, catalog_database: CatalogDatabase) -> dict[str, Any]:
    """The arguments of `other_process`, for a registry with the same catalog in another process."""
    return {"data_dir": config.data_dir, "default_backend": "sqlite", **catalog_database.settings}
