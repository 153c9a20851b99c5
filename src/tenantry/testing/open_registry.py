"""A registry for the tests of an application."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tenantry.company import COMPANY
from tenantry.config import RegistryConfig
from tenantry.schemas.schema import Schema
from tenantry.tenancy.registry import TenantRegistry

# A small pool closes tenants during a test, like a busy pool in production. A test's data need not survive a power failure.
_SETTINGS: Final[dict[str, Any]] = {"open_tenants_max": 8, "durability": "normal"}


@asynccontextmanager
async def open_test_registry(
    directory: Path, *, schemas: Sequence[Schema] = (COMPANY,), **settings: Any
) -> AsyncIterator[TenantRegistry]:
    """Open a registry for a test; the registry has a small pool, and its commits do not wait for the disk.

    An example as a pytest fixture::

        @pytest.fixture
        async def registry(tmp_path):
            async with open_test_registry(tmp_path, schemas=[NOTES]) as registry:
                yield registry

    Args:
        directory: The parent of the data directory. A later registry in the same directory finds the same tenants.
        schemas: The schema packs of the tenants.
        settings: Settings of `RegistryConfig` that replace the defaults of this function.
    """
    config = RegistryConfig(**{"data_dir": directory / "tenantry-data", **_SETTINGS, **settings})
    async with TenantRegistry(config, schemas=schemas) as registry:
        yield registry
