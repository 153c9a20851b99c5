"""Copies of tenants that stop or begin to serve calls at this moment."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tenantry import Schema, TenantRegistry, TenantState
from tenantry.storage import artifacts
from tenants import history, make_message, say, until


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


async def test_a_call_of_a_tenant_that_is_resumed_during_its_snapshot(
    registry: TenantRegistry, monkeypatch: pytest.MonkeyPatch
):
    """The call waits for the end of the copy; the tenant is not said to be open elsewhere."""
    await registry.create("acme")
    await say(registry, "acme", "one")
    await registry.suspend("acme")
    gate, has_begun, check = asyncio.Event(), asyncio.Event(), artifacts.check

    async def check_later(path: Path, schemas: Sequence[Schema]) -> artifacts.DatabaseReport:
        has_begun.set()
        await gate.wait()
        return await check(path, schemas)

    monkeypatch.setattr(artifacts, "check", check_later)
    taking = asyncio.ensure_future(registry.snapshots.create("acme"))
    await has_begun.wait()
    await registry.resume("acme")
    writing = asyncio.ensure_future(say(registry, "acme", "two"))
    holds = registry._parts.pool._holds
    await until(lambda: writing.done() or any(hold.waiters for hold in holds.values()))
    gate.set()
    await writing
    assert (await taking).row_counts["messages"] == 1
    assert await history(registry, "acme") == ["one", "two"]
