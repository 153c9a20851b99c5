"""What the tests of the registry share.

Import it by name (``tests/support`` is on pytest's path): ``from registries import config``.
"""

# tests look at files in between; nobody waits for them

from pathlib import Path
from typing import Any

from tenantry import RegistryConfig, TenantRegistry
from tenantry.storage.sqlite.backend import SQLiteBackend
from tenantry.storage.sqlite.limits import SQLiteLimits
from tenants import (
    make_message,
)

INVOICES = """
from tenantry import Fetch, Repository, Statement

class InvoiceRepository(Repository):
    async def add(self, number, amount):
        statement = Statement("invoices.add", "INSERT INTO invoices VALUES (?, ?)", (number, amount))
        await self.write(statement, number=number)

    async def total(self):
        statement = Statement("invoices.total", "SELECT sum(amount) FROM invoices", (), Fetch.ONE)
        return (await self.read(statement))[0]
"""


INVOICES_SQL = "CREATE TABLE invoices (number TEXT PRIMARY KEY, amount INTEGER NOT NULL) STRICT;"


def config(data_dir: Path, **fields: Any) -> RegistryConfig:
    """Return settings for a small pool."""
    return RegistryConfig(data_dir=data_dir, **{"open_tenants_max": 4, **fields})


def limited(registry: TenantRegistry, limits: SQLiteLimits) -> TenantRegistry:
    """Give other limits to the work on closed databases of a registry, and return the registry."""
    backend = registry._parts.backends.default
    assert isinstance(backend, SQLiteBackend)
    backend._limits = backend._preparation._limits = limits
    return registry


async def make_tenant(data_dir: Path, tenant_id: str = "acme", **fields: Any) -> None:
    """Make a tenant with one message in it, and close everything."""
    async with TenantRegistry(config(data_dir, **fields)) as registry:
        await registry.create(tenant_id)
        await registry.tenant(tenant_id).messages.save(make_message("first"))
