"""A client of a service in this process."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tenantry import TenantRegistry
from tenantry.admin import create_admin_app
from tenantry.tenancy.api_keys import Scope


@pytest.fixture
async def client(registry: TenantRegistry) -> AsyncIterator[httpx.AsyncClient]:
    """A client, with a key that may do everything, of a service in this process."""
    _, key = await registry.keys.create(scopes=(Scope.ADMIN,))
    transport = httpx.ASGITransport(create_admin_app(registry))
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as opened:
        yield opened
