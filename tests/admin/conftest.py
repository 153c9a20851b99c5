"""An admin API on a registry of the test's own."""

from collections.abc import AsyncIterator

import httpx
import pytest

from service import Service
from tenantry import TenantRegistry


@pytest.fixture
async def service(registry: TenantRegistry) -> AsyncIterator[Service]:
    """The API, without a network."""
    async with Service(registry) as running:
        yield running


@pytest.fixture
async def admin(service: Service) -> httpx.AsyncClient:
    """A client that may do everything."""
    return await service.caller("admin")
