"""Pytest fixtures for the tests of an application: ``pytest_plugins = ["tenantry.testing.fixtures"]`` in ``conftest.py``.

The fixtures are asyncio coroutines. One of two pytest plugins runs the fixtures: anyio's, which is installed with tenantry
(``anyio_mode = "auto"``), or pytest-asyncio (``asyncio_mode = "auto"``).
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tenantry.company import COMPANY
from tenantry.schemas.schema import Schema
from tenantry.tenancy.handle import TenantHandle
from tenantry.tenancy.registry import TenantRegistry
from tenantry.testing.open_registry import open_test_registry

__all__ = ["tenant", "tenant_registry", "tenantry_schemas"]


@pytest.fixture
def tenantry_schemas() -> Sequence[Schema]:
    """The schema packs of `tenant_registry`, by default the built-in pack. Override this fixture in your ``conftest.py``."""
    return (COMPANY,)


@pytest.fixture
async def tenant_registry(
    tmp_path: Path, tenantry_schemas: Sequence[Schema]
) -> AsyncIterator[TenantRegistry]:
    """An open registry without tenants, in the temporary directory of the test."""
    async with open_test_registry(tmp_path, schemas=tenantry_schemas) as registry:
        yield registry


@pytest.fixture
async def tenant(tenant_registry: TenantRegistry) -> TenantHandle:
    """The tenant ``acme`` of `tenant_registry`."""
    await tenant_registry.create("acme")
    return tenant_registry.tenant("acme")
