"""The pool over scripted actors: tenants that lifecycle operations hold closed."""

import asyncio

from pools import PREEMPT_AFTER_SECONDS, WAIT_TIMEOUT_SECONDS, A, B, Bench, Holding
from tenantry.errors import (
    PersistenceConnectionError,
    PoolExhaustedError,
    RegistryClosedError,
    TenantBusyError,
)
from tenantry.events import PoolWaited, TenantClosed
from tenantry.ids import TenantId
from tenants import in_virtual_time, settle


async def hold(bench: Bench, tenant_id: TenantId) -> Holding:
    """Begin to hold a tenant closed."""
    holding = Holding(bench, tenant_id)
    await settle()
    return holding


@in_virtual_time
async def test_a_held_tenant_is_closed_and_its_callers_wait():
    """Its calls are finished first; who asks meanwhile waits, and is served when it is let go; nobody else notices."""
    bench = Bench(places=2)
    lease = await bench.lease(A)
    holding = await hold(bench, A)
    assert (holding.has_it, list(bench.actors.closing)) == (False, [A])
    [early] = await bench.ask(A)
    await bench.actors.finish(A)
    assert holding.has_it
    assert repr(bench.pool) == bench.places(0, waiting=1)
    await bench.release(lease)
    [late] = await bench.ask(A)
    assert (await bench.lease(B)).entry.tenant_id == B
    assert repr(bench.pool) == bench.places(1, waiting=2)
    assert bench.actors.opened == [A, B]
    await holding.end()
    assert repr(bench.pool) == bench.places(2, opening=1)
    await bench.actors.finish(A)
    assert [task.result().entry.tenant_id for task in (early, late)] == [A, A]
    assert bench.hook.of(TenantClosed) == [TenantClosed(A, "fake", "state", 0.0)]


@in_virtual_time
async def test_a_tenant_that_is_closed_is_held_at_once():
    """Nothing is to be closed, and without callers nothing is opened afterwards."""
    bench = Bench()
    holding = await hold(bench, A)
    assert holding.has_it
    await holding.end()
    assert (bench.actors.opened, repr(bench.pool)) == ([], bench.places(0))


@in_virtual_time
async def test_a_tenant_that_opens_is_held_afterwards():
    """Those for whom it opened have it, and what they began is finished before it is held."""
    bench = Bench()
    [task] = await bench.ask(A)
    holding = await hold(bench, A)
    [late] = await bench.ask(A)
    await bench.actors.finish(A)
    assert [t.result().entry.tenant_id for t in (task, late)] == [A, A]
    assert (holding.has_it, list(bench.actors.closing)) == (False, [A])
    await bench.actors.finish(A)
    assert holding.has_it
    await holding.end()


@in_virtual_time
async def test_a_tenant_that_cannot_be_opened_is_held_all_the_same():
    """Those who waited for the opening hear why it failed; whoever works on its files needs no open tenant."""
    bench = Bench()
    [task] = await bench.ask(A)
    holding = await hold(bench, A)
    await bench.actors.fail(A, PersistenceConnectionError("no"))
    assert isinstance(task.exception(), PersistenceConnectionError)
    assert holding.has_it
    await holding.end()


@in_virtual_time
async def test_a_tenant_that_closes_is_held_afterwards():
    """A closing that was begun is waited for, and who queued behind it waits on."""
    bench = Bench(places=1)
    await bench.release(await bench.lease(A))
    [other] = await bench.ask(B)
    assert list(bench.actors.closing) == [A]
    holding = await hold(bench, A)
    [behind] = await bench.ask(A)
    await bench.actors.finish(A)
    assert holding.has_it
    await bench.actors.finish(B)
    await bench.release(other.result())
    assert (list(bench.actors.closing), behind.done()) == ([], False)
    await holding.end()
    await bench.actors.finish(B)
    await bench.actors.finish(A)
    assert behind.result().entry.tenant_id == A


@in_virtual_time
async def test_a_caller_of_a_held_tenant_waits_no_longer_than_the_limit():
    """It is told that the tenant is busy, and with what; the next one waits its own time."""
    bench = Bench()
    holding = await hold(bench, A)
    [early] = await bench.ask(A)
    await asyncio.sleep(WAIT_TIMEOUT_SECONDS / 2)
    [late] = await bench.ask(A)
    await asyncio.sleep(WAIT_TIMEOUT_SECONDS / 2)
    await settle()
    error = early.exception()
    assert isinstance(error, TenantBusyError)
    assert (error.tenant_id, error.action, error.is_retryable) == (A, "rename", True)
    assert str(error) == "tenant 'a' is busy with 'rename': try again in 10.00 s"
    assert bench.hook.of(PoolWaited) == [PoolWaited(A, "busy", WAIT_TIMEOUT_SECONDS)]
    assert repr(bench.pool) == bench.places(0, waiting=1)
    await holding.end()
    await bench.actors.finish(A)
    assert late.result().entry.tenant_id == A
    assert bench.pool.statistics().exhausted == 0


@in_virtual_time
async def test_a_caller_of_a_held_tenant_that_leaves():
    """It leaves the queue; with nobody left the tenant is not opened."""
    bench = Bench()
    holding = await hold(bench, A)
    [task] = await bench.ask(A)
    task.cancel()
    await settle()
    assert repr(bench.pool) == bench.places(0)
    await holding.end()
    assert bench.actors.opened == []


@in_virtual_time
async def test_callers_of_a_held_tenant_are_bounded():
    """They count among those that wait for a place."""
    bench = Bench(waiters_max=1)
    await hold(bench, A)
    await bench.ask(A)
    [refused] = await bench.ask(A)
    assert isinstance(refused.exception(), PoolExhaustedError)


@in_virtual_time
async def test_a_tenant_that_waits_for_a_place_is_held():
    """It leaves the queue for places, and a tenant that was to be drained for it stays open; after the hold it queues again."""
    bench = Bench(places=1)
    lease = await bench.lease(A)
    [waiting] = await bench.ask(B)
    await asyncio.sleep(PREEMPT_AFTER_SECONDS)
    await settle()
    assert bench.pool.lease_nowait(A) is None
    holding = await hold(bench, B)
    again = bench.pool.lease_nowait(A)
    assert again is not None
    assert again.entry is lease.entry
    bench.pool.release(lease)
    await holding.end()
    assert bench.pool.lease_nowait(A) is None  # the caller has lost its patience already
    await bench.release(lease)
    await bench.actors.finish(A)
    await bench.actors.finish(B)
    assert waiting.result().entry.tenant_id == B


@in_virtual_time
async def test_holding_that_is_cancelled_while_the_tenant_closes():
    """The closing goes on, and who waited is served after it."""
    bench = Bench()
    await bench.lease(A)
    holding = await hold(bench, A)
    [behind] = await bench.ask(A)
    holding.task.cancel()
    await settle()
    assert list(bench.actors.closing) == [A]
    await bench.actors.finish(A)
    await bench.actors.finish(A)
    assert behind.result().entry.tenant_id == A


@in_virtual_time
async def test_the_pool_closes_while_a_tenant_is_held():
    """Its callers are sent away; the call that holds it ends in its own time, and opens nothing."""
    bench = Bench()
    holding = await hold(bench, A)
    [task] = await bench.ask(A)
    await bench.pool.aclose()
    await settle()
    assert isinstance(task.exception(), RegistryClosedError)
    assert holding.has_it
    await holding.end()
    assert (bench.actors.opened, repr(bench.pool)) == ([], f"{bench.places(0)[:-1]}, closed>")


@in_virtual_time
async def test_the_pool_closes_while_a_tenant_closes_to_be_held():
    """Both wait for the same closing."""
    bench = Bench()
    await bench.lease(A)
    holding = await hold(bench, A)
    closing = asyncio.ensure_future(bench.pool.aclose())
    await settle()
    await bench.actors.finish(A)
    assert (closing.done(), holding.has_it) == (True, True)
    await holding.end()
