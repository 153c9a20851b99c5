"""What the tests of a tenant's limits share.

Import it by name (``tests/support`` is on pytest's path): ``from limited import save``.
"""

import asyncio
from typing import Any

from tenantry import TenantLimits, TenantRegistry
from tenantry.errors import (
    LimitError,
    StorageFullError,
)
from tenants import (
    HANG_SECONDS,
    make_message,
)

SIZE_MAX = 400_000


async def limit(registry: TenantRegistry, **limits: Any) -> None:
    """Give acme these limits, and no others."""
    await registry.update("acme", limits=TenantLimits(**limits))


async def save(registry: TenantRegistry, content: str = "hello", tenant_id: str = "acme") -> None:
    """Save a message."""
    await registry.tenant(tenant_id).messages.save(make_message(content))


async def save_until_refused(
    registry: TenantRegistry, content: str = "hello"
) -> LimitError | StorageFullError:
    """Save messages of acme until one is refused, and return why."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            try:
                await save(registry, content)
            except (LimitError, StorageFullError) as error:
                return error


async def contents(registry: TenantRegistry) -> list[str]:
    """Return what acme's messages say."""
    return [message.content for message in await registry.tenant("acme").messages.get_history("general")]


async def pragma(registry: TenantRegistry, name: str) -> int:
    """Return what acme's writer is set to."""
    actor = registry._parts.pool.actor("acme")
    assert actor is not None
    row = await actor._store._connections.writer.run(lambda c: c.execute(f"PRAGMA {name}").fetchone())
    return row[0]


def acme_limits(registry: TenantRegistry) -> TenantLimits:
    """Return what the open tenant has."""
    actor = registry._parts.pool.actor("acme")
    assert actor is not None
    assert actor._entry is not None
    return actor._entry.limits
