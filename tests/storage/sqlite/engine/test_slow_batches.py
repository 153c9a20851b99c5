"""A statement that would run for minutes in a batch of the engine: it holds up no other tenant, and ends when it is given up.

The registry has one thread for reads and one for writes, so such a statement would hold up every other tenant if its thread were not
replaced.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine_rig import needed_engine
from python_batches import counted_batches
from stores import reached
from tenantry import RegistryConfig, TenantHandle, TenantRegistry
from tenantry.errors import CallTimeoutError
from tenants import HANG_SECONDS, make_message

COUNT = (
    "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
    "SELECT COUNT(*) FROM numbers"
)
STATEMENTS = {"read": COUNT, "write": f"UPDATE messages SET content = ({COUNT})"}
MILLIONS, BILLION = 5 * 10**6, 10**9
SERVED = 5

KINDS = pytest.mark.parametrize("kind", STATEMENTS)


def threads() -> int:
    """Return how many threads run the statements of this process."""
    return sum(thread.name.startswith("tenantry ") for thread in threading.enumerate())


async def run_until(tenant: TenantHandle, kind: str, number: int) -> Any:
    """Run the statement, which counts so far."""
    call = tenant.fetch_value if kind == "read" else tenant.execute
    return await call(STATEMENTS[kind], (number,))


@asynccontextmanager
async def two_tenants(data_dir: Path, **settings: float) -> AsyncIterator[TenantRegistry]:
    """Open two tenants whose next calls run on the engine."""
    needed_engine()
    config = RegistryConfig(data_dir=data_dir, engine="native", read_threads=1, write_threads=1, **settings)
    async with TenantRegistry(config) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            tenant = registry.tenant(tenant_id)
            for kind in STATEMENTS:
                await serve(tenant)
                await run_until(tenant, kind, 1)
        with counted_batches() as in_python:
            yield registry
        assert in_python == []


async def serve(tenant: TenantHandle) -> None:
    """Make a write and a read."""
    await tenant.messages.save(make_message())
    assert await tenant.messages.get_history("general")


async def test_others_are_served_while_a_read_runs(data_dir: Path):
    """The other tenant reads and writes again and again. The read ends when its caller gives it up, and its thread with it."""
    async with two_tenants(data_dir, call_timeout_seconds=HANG_SECONDS) as registry:
        before = threads()
        endless = asyncio.ensure_future(run_until(registry.tenant("acme"), "read", BILLION))
        await reached(lambda: threads() == before + 1)
        for _ in range(SERVED):
            await serve(registry.tenant("globex"))
        assert not endless.done()
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        await reached(lambda: threads() == before)
        await serve(registry.tenant("acme"))


async def test_others_are_served_while_a_write_runs(data_dir: Path):
    """A write is not given up with its caller, so this one ends after a second or two; its thread was replaced before."""
    async with two_tenants(data_dir, call_timeout_seconds=HANG_SECONDS) as registry:
        before = threads()
        long = asyncio.ensure_future(run_until(registry.tenant("acme"), "write", MILLIONS))
        await reached(lambda: threads() == before + 1)
        for _ in range(SERVED):
            await serve(registry.tenant("globex"))
        assert await long
        await reached(lambda: threads() == before)
        assert (await registry.tenant("acme").messages.get_history("general"))[0].content == str(MILLIONS)


@KINDS
async def test_it_ends_at_its_deadline(data_dir: Path, kind: str):
    """The caller gets the error of a deadline, and the statement's thread is free."""
    async with two_tenants(data_dir, call_timeout_seconds=1) as registry:
        before = threads()
        with pytest.raises(CallTimeoutError):
            await run_until(registry.tenant("acme"), kind, BILLION)
        await reached(lambda: threads() == before)
