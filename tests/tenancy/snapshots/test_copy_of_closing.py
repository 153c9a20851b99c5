"""A copy of a tenant that closes at this moment."""

import asyncio
from pathlib import Path

from tenantry import TenantRegistry, TenantState
from tenants import make_message, say, until


async def test_a_snapshot_of_a_tenant_that_is_being_suspended(registry: TenantRegistry, data_dir: Path):
    """A suspended tenant stays open until the calls that were accepted have ended: a snapshot waits for that, and has their writes."""
    await registry.create("acme")
    await say(registry, "acme", "one")
    scratch = data_dir / "scratch"
    async with registry.tenant("acme").transaction() as transaction:
        await transaction.messages.save(make_message("two"))
        suspending = asyncio.ensure_future(registry.suspend("acme"))
        while (await registry.get("acme")).state is not TenantState.SUSPENDED:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0)
        taking = asyncio.ensure_future(registry.snapshots.create("acme"))
        await until(lambda: taking.done() or (scratch.exists() and any(scratch.iterdir())))
    await suspending
    assert (await taking).row_counts["messages"] == 2
