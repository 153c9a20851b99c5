"""Two registries on one data directory: one owns the tenant, and the other forwards its calls to it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registries import config
from tenantry import TenantHandle, TenantRegistry


@dataclass(frozen=True)
class Pair:
    """The owner of the tenant ``acme``, another registry of the same directory, and the tenant's handles in both."""

    owner: TenantRegistry
    other: TenantRegistry
    own: TenantHandle
    forwarded: TenantHandle


@asynccontextmanager
async def open_pair(
    data_dir: Path, *, of_other: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Pair]:
    """Open two registries with these settings, with the tenant ``acme`` and its table ``notes`` in the first.

    Args:
        data_dir: Their directory.
        of_other: More settings of the second.
        settings: Settings of both.
    """
    async with (
        TenantRegistry(config(data_dir, **settings)) as owner,
        TenantRegistry(config(data_dir, **settings, **(of_other or {}))) as other,
    ):
        await owner.create("acme")
        own = owner.tenant("acme")
        await own.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text ANY)")
        yield Pair(owner, other, own, other.tenant("acme"))


async def texts(tenant: TenantHandle) -> list[Any]:
    """Return the texts of the tenant's notes."""
    return [row.text for row in await tenant.fetch_all("SELECT text FROM notes ORDER BY id")]
