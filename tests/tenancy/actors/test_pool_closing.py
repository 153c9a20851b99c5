"""The pool over scripted actors: tenants that are closed, by it or by others, and its own end."""

import asyncio

import pytest

from pools import A, B, Bench, C, D, outcomes
from tenantry.errors import (
    PersistenceConnectionError,
    RegistryClosedError,
)
from tenantry.events import TenantClosed
from tenantry.ids import TenantId
from tenants import in_virtual_time, settle


@in_virtual_time
async def test_closes_tenants_that_nobody_used():
    """Idle for longer than the limit: closed. In use, or used since: kept."""
    bench = Bench(places=4, at_once=True)
    await bench.release(await bench.lease(A))
    await bench.lease(B)
    await asyncio.sleep(60)
    await bench.release(await bench.lease(C))
    bench.pool.evict_idle(idle_timeout_seconds=30)
    await settle()
    assert bench.actors.open == [B, C]
    statistics = bench.pool.statistics()
    assert (statistics.closed_by_reason["idle"], statistics.evictions) == (1, 1)


@in_virtual_time
async def test_close_tenant_waits_for_its_end():
    """Who closes a tenant goes on when it is closed, not before; two who do so close it once."""
    bench = Bench()
    lease = await bench.lease(A)
    await bench.release(lease)
    calls = [asyncio.ensure_future(bench.pool.close_tenant(A, "state")) for _ in range(2)]
    await settle()
    assert not any(call.done() for call in calls)
    await bench.actors.finish(A)
    await asyncio.gather(*calls)
    assert bench.hook.of(TenantClosed) == [TenantClosed(A, "fake", "state", 0.0)]
    await bench.pool.close_tenant(A, "state")


@in_virtual_time
async def test_close_tenant_does_not_wait_for_leases():
    """A tenant in use closes too: its actor finishes the calls it has taken in, and leases come back afterwards."""
    bench = Bench()
    lease = await bench.lease(A)
    closing = asyncio.ensure_future(bench.pool.close_tenant(A, "failed"))
    await settle()
    assert bench.pool.lease_nowait(A) is None
    await bench.actors.finish(A)
    await closing
    await bench.release(lease)
    assert repr(bench.pool) == bench.places(0)
    assert (await bench.lease(A)).entry is not lease.entry


@in_virtual_time
async def test_close_tenant_while_it_opens():
    """A tenant that is being opened is opened, then closed; who had asked for it gets it in between."""
    bench = Bench()
    [task] = await bench.ask(A)
    closing = asyncio.ensure_future(bench.pool.close_tenant(A, "state"))
    await settle()
    assert not closing.done()
    await bench.actors.finish(A)
    assert task.done()
    await bench.actors.finish(A)
    await closing
    assert repr(bench.pool) == bench.places(0)


@in_virtual_time
async def test_close_tenant_whose_opening_fails():
    """There is nothing to close then."""
    bench = Bench()
    tasks = await bench.ask(A)
    closing = asyncio.ensure_future(bench.pool.close_tenant(A, "state"))
    await settle()
    await bench.actors.fail(A, PersistenceConnectionError("no"))
    await closing
    assert isinstance((await outcomes(tasks))[0], PersistenceConnectionError)


@in_virtual_time
async def test_cancelling_close_tenant_stops_the_waiting_only():
    """The closing goes on without the one who asked for it."""
    bench = Bench()
    await bench.release(await bench.lease(A))
    closing = asyncio.ensure_future(bench.pool.close_tenant(A, "state"))
    await settle()
    closing.cancel()
    await settle()
    assert repr(bench.pool) == bench.places(1, closing=1)
    await bench.actors.finish(A)
    assert repr(bench.pool) == bench.places(0)


@pytest.mark.parametrize("error", [PersistenceConnectionError("would not close"), RuntimeError("boom")])
@in_virtual_time
async def test_a_failed_close_gives_the_place_back(error: Exception):
    """A tenant that would not close is logged and holds no place: one bad disk must not fill the pool."""
    bench = Bench(places=1)
    await bench.release(await bench.lease(A))
    [task] = await bench.ask(B)
    await bench.actors.fail(A, error)
    await bench.actors.finish(B)
    assert task.result().entry.tenant_id == B
    assert bench.pool.statistics().closed_by_reason["capacity"] == 1


@in_virtual_time
async def test_aclose_in_every_state():
    """Closing sends those who wait away, lets openings end, closes what is open, and waits for what closes already."""
    bench = Bench(places=4)
    in_use = await bench.lease(A)
    await bench.release(await bench.lease(B))
    await bench.release(await bench.lease(C))
    evicting = asyncio.ensure_future(bench.pool.close_tenant(C, "state"))
    opening = await bench.ask(D)
    waiting = await bench.ask(C, TenantId("e"))
    closing = asyncio.ensure_future(bench.pool.aclose())
    await settle()
    for error in await outcomes([*opening, *waiting]):
        assert isinstance(error, RegistryClosedError)
    with pytest.raises(RegistryClosedError) as caught:
        await bench.pool.lease(TenantId("f"))
    assert caught.value.tenant_id == "f"
    assert sorted(bench.actors.closing) == [A, B, C]
    for tenant_id in (D, A, B, C):
        assert not closing.done()
        await bench.actors.finish(tenant_id)
    assert not closing.done()
    await bench.actors.finish(D)
    await closing
    await evicting
    await bench.release(in_use)
    assert repr(bench.pool) == f"{bench.places(0)[:-1]}, closed>"
    assert (bench.actors.open, len(asyncio.all_tasks())) == ([], 1)
    reasons = {event.tenant_id: event.reason for event in bench.hook.of(TenantClosed)}
    assert reasons == {A: "shutdown", B: "shutdown", C: "state", D: "shutdown"}


@in_virtual_time
async def test_aclose_can_be_repeated():
    """Twice, at once or one after the other, and on a pool that was never used."""
    bench = Bench(at_once=True)
    await bench.pool.aclose()
    bench = Bench(at_once=True)
    await bench.release(await bench.lease(A))
    await asyncio.gather(bench.pool.aclose(), bench.pool.aclose())
    await bench.pool.aclose()
    assert bench.actors.open == []
