"""What the tests of lifecycle calls share.

Import it by name (``tests/support`` is on pytest's path): ``from operators import bring_to``.
"""

# tests look at files in between; nobody waits for them

import json
from pathlib import Path
from typing import Any

from tenantry import (
    RegistryConfig,
    TenantHandle,
    TenantRegistry,
    TenantState,
)
from tenants import (
    make_message,
    tenant_files,
)

WAYS_TO_A_STATE = {
    TenantState.ACTIVE: [],
    TenantState.SUSPENDED: ["suspend"],
    TenantState.ARCHIVED: ["archive"],
    TenantState.QUARANTINED: ["quarantine"],
    TenantState.DELETED: ["delete"],
}


# Of a call that only a newer tenantry knows.
INTENT = json.dumps({"action": "transmogrify", "arguments": {}, "begun_at": "2026-01-01T00:00:00Z"})


def config(data_dir: Path, **fields: Any) -> RegistryConfig:
    """Return settings for a small pool."""
    return RegistryConfig(data_dir=data_dir, **{"open_tenants_max": 4, **fields})


async def bring_to(registry: TenantRegistry, state: TenantState, tenant_id: str = "acme") -> None:
    """Make a tenant with one message, and bring it into a state."""
    await registry.create(tenant_id)
    await registry.tenant(tenant_id).messages.save(make_message(f"of {tenant_id}"))
    for action in WAYS_TO_A_STATE[state]:
        keywords = {"reason": "odd"} if action == "quarantine" else {}
        await getattr(registry, action)(tenant_id, **keywords)


async def contents(handle: TenantHandle) -> list[str]:
    """Return what a tenant's messages say."""
    return sorted(message.content for message in await handle.messages.get_history("general"))


def files_of(data_dir: Path, tenant_id: str) -> set[str]:
    """Return the names of the files in the directory of this name."""
    return {path.name for path in tenant_files(data_dir) if path.parent.name == tenant_id}


def spoil(path: Path) -> None:
    """Overwrite everything of a closed database but its first page."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
