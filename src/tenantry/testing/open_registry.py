"""A registry for the tests of an application."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tenantry.company import COMPANY
from tenantry.config import RegistryConfig
from tenantry.schema import Schema
from tenantry.tenancy.registry import TenantRegistry

# A small pool closes tenants in between, as a busy one does. No test has to survive a power failure.
_SETTINGS: Final[dict[str, Any]] = {"open_tenants_max": 8, "durability": "normal"}


@asynccontextmanager
async def open_test_registry(
    directory: Path, *, schemas: Sequence[Schema] = (COMPANY,), **settings: Any
) -> AsyncIterator[TenantRegistry]:
    """Open a registry for a test, with a small pool and without waiting for the disk.

    For example, as a fixture of pytest::

        @pytest.fixture
        async def registry(tmp_path):
            async with open_test_registry(tmp_path, schemas=[NOTES]) as registry:
                yield registry

    Args:
        directory: The data directory is made in it; a registry that is opened there again finds the same tenants.
        schemas: The packs of the tenants.
        settings: Settings of `RegistryConfig` that the test needs otherwise.
    """
    config = RegistryConfig(**{"data_dir": directory / "tenantry-data", **_SETTINGS, **settings})
    async with TenantRegistry(config, schemas=schemas) as registry:
        yield registry
