"""An admin API on a registry of the test's own."""

from collections.abc import AsyncIterator
from typing import Any

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


@pytest.fixture
async def acme(admin: httpx.AsyncClient) -> dict[str, Any]:
    """A tenant, as it was answered."""
    response = await admin.post("/v1/tenants", json={"id": "acme", "display_name": "Acme Ltd."})
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created
