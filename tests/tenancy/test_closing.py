"""A registry that closes ends whatever runs in its tenants, and leaves none of them locked."""

import asyncio
import gc
import weakref
from pathlib import Path

import pytest

from stores import COUNT_TO_A_BILLION, HANG_SECONDS, reached
from tenantry import RegistryConfig, Schema, TenantHandle, TenantRegistry
from tenantry.company import COMPANY
from tenantry.errors import RegistryClosedError, TransactionClosedError
from tenantry.sql.repository import Repository
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.sqlite.connections.pace import PROCESS
from tenantry.tenancy.actors.actor import TenantActor
from tenants import make_message, write_pack

ENDLESS = f"CREATE TABLE counted AS {COUNT_TO_A_BILLION}"


class Endless(Repository):
    """Runs statements that do not end."""

    async def write_endlessly(self) -> None:
        """Write."""
        await self.write(Statement("test.write", ENDLESS))

    async def read_endlessly(self) -> None:
        """Read."""
        await self.read(Statement("test.read", COUNT_TO_A_BILLION, (), Fetch.ALL))


async def transact(tenant: TenantHandle) -> None:
    """Write in a transaction."""
    async with tenant.transaction() as transaction:
        await transaction.repository(Endless).write_endlessly()


async def look(tenant: TenantHandle) -> None:
    """Have the tenant opened."""
    await tenant.messages.get_history("general")


CALLS = {
    "write": lambda tenant: tenant.repository(Endless).write_endlessly(),
    "read": lambda tenant: tenant.repository(Endless).read_endlessly(),
    "transaction": transact,
    "migration": look,
}


@pytest.mark.parametrize("what", CALLS)
async def test_what_does_not_end(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str):
    """A statement that does not end is interrupted after ``shutdown_timeout_seconds``; its tenant can be opened at once."""
    config = RegistryConfig(data_dir=data_dir, shutdown_timeout_seconds=0.01)
    monkeypatch.syspath_prepend(str(tmp_path))
    schemas = [COMPANY, Schema("endless", write_pack(tmp_path, f"endless_{what}", f"{ENDLESS};"))]
    looks = 0

    def count() -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(type(PROCESS), "give_way", lambda _: count())
    async with TenantRegistry(config) as registry:
        await registry.create("acme")
    async with asyncio.timeout(HANG_SECONDS):
        registry = TenantRegistry(config, schemas=schemas if what == "migration" else [COMPANY])
        await registry.open()
        call = asyncio.ensure_future(CALLS[what](registry.tenant("acme")))
        await reached(lambda: looks > 3)  # it has begun to count
        await registry.aclose()
        with pytest.raises((RegistryClosedError, TransactionClosedError)):
            await call
        async with TenantRegistry(config) as again:
            await again.tenant("acme").messages.save(make_message("afterwards"))


def actors() -> "set[weakref.ref[TenantActor]]":
    """Return all actors in memory."""
    return {weakref.ref(found) for found in gc.get_objects() if isinstance(found, TenantActor)}


@pytest.mark.parametrize("is_written", [False, True], ids=["read", "written"])
async def test_closed_tenant_leaves_the_memory(data_dir: Path, *, is_written: bool):
    """A tenant that gave up its place is not left to the garbage collector, whose runs would take longer than the openings."""
    config = RegistryConfig(data_dir=data_dir, open_tenants_max=1)
    async with TenantRegistry(config) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
        gc.collect()
        gc.disable()
        try:
            await look(registry.tenant("globex"))
            before = actors()
            await look(registry.tenant("acme"))
            if is_written:
                await registry.tenant("acme").messages.save(make_message())
            opened = actors() - before
            assert len(opened) == 1
            await look(registry.tenant("globex"))
            await asyncio.sleep(0)  # the task that closed acme ends
            assert [found() for found in opened] == [None]
        finally:
            gc.enable()
