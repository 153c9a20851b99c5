"""The pool over scripted actors: tenants in constant use make room for others."""

import asyncio

from pools import PREEMPT_AFTER_SECONDS, A, B, Bench, C, D
from tenantry.events import TenantClosed
from tenantry.ids import TenantId
from tenants import in_virtual_time, settle


@in_virtual_time
async def test_a_tenant_in_constant_use_is_drained_for_a_newcomer():
    """Nobody ever idle: after a while the busy tenant is leased to nobody new, ends what it has, and makes way."""
    bench = Bench(places=1)
    lease = await bench.lease(A)
    [newcomer] = await bench.ask(B)
    await asyncio.sleep(PREEMPT_AFTER_SECONDS / 2)
    again = bench.pool.lease_nowait(A)
    assert again is not None
    assert again.entry is lease.entry
    await asyncio.sleep(PREEMPT_AFTER_SECONDS / 2)
    await settle()
    assert bench.pool.lease_nowait(A) is None
    assert bench.pool.actor(A) is lease.actor
    assert list(bench.pool.tenants()) == [(A, lease.actor)]
    [behind] = await bench.ask(A)
    assert repr(bench.pool) == bench.places(1, waiting=2)
    await bench.release(lease)
    assert list(bench.actors.closing) == []
    await bench.release(lease)
    assert list(bench.actors.closing) == [A]
    await bench.actors.finish(A)
    await bench.actors.finish(B)
    assert newcomer.result().entry.tenant_id == B
    assert bench.hook.of(TenantClosed) == [TenantClosed(A, "fake", "capacity", 0.0)]
    assert (bench.pool.statistics().closed_by_reason["capacity"], bench.pool.statistics().evictions) == (1, 1)
    # And now the other waits, and the newcomer is drained.
    await asyncio.sleep(PREEMPT_AFTER_SECONDS)
    await settle()
    assert bench.pool.lease_nowait(B) is None
    await bench.release(newcomer.result())
    await bench.actors.finish(B)
    await bench.actors.finish(A)
    assert behind.result().entry.tenant_id == A


@in_virtual_time
async def test_one_tenant_is_drained_for_each_that_waits_the_longest_open_first():
    """Ten callers of one tenant need one place; one that closes already counts; who opened last stays longest."""
    bench = Bench(places=3)
    for tenant_id in (A, B, C):
        await bench.lease(tenant_id)
    await bench.ask(*[D] * 4)
    await asyncio.sleep(PREEMPT_AFTER_SECONDS)
    await settle()
    assert [bench.pool.lease_nowait(i) is None for i in (A, B, C)] == [True, False, False]
    await bench.ask(TenantId("e"))
    await asyncio.sleep(PREEMPT_AFTER_SECONDS)
    await settle()
    assert [bench.pool.lease_nowait(i) is None for i in (A, B, C)] == [True, True, False]


@in_virtual_time
async def test_a_tenant_drained_for_nothing_stays_open():
    """When the newcomer has left, or found a place elsewhere, callers that queued for the draining tenant are served."""
    for is_served in (False, True):
        bench = Bench(places=2)
        lease, other = await bench.lease(A), await bench.lease(B)
        [newcomer] = await bench.ask(C)
        await asyncio.sleep(PREEMPT_AFTER_SECONDS)
        tasks = await bench.ask(A, A)
        if is_served:
            await bench.release(other)
        else:
            newcomer.cancel()
            await settle()
        assert [task.result().entry for task in tasks] == [lease.entry] * 2
        assert (lease.entry.lease_count, bench.pool.lease_nowait(A) is None) == (3, False)
        assert bench.pool.statistics().waiters == is_served


@in_virtual_time
async def test_a_call_of_another_process_waits_for_the_end_of_the_draining():
    """It gets a lease as soon as the tenant stays open, and is told that the tenant is closed as soon as it is; it never opens it."""
    for is_served in (False, True):
        bench = Bench(places=1)
        lease = await bench.lease(A)
        [newcomer] = await bench.ask(C)
        await asyncio.sleep(PREEMPT_AFTER_SECONDS)
        forwarded = [asyncio.ensure_future(bench.pool.lease_if_open(A)) for _ in range(2)]
        await settle()
        assert not any(one.done() for one in forwarded)
        if is_served:
            await bench.release(lease)
            await bench.actors.finish(A)
        else:
            newcomer.cancel()
        found = await asyncio.gather(*forwarded)
        assert [one and one.entry for one in found] == ([None] * 2 if is_served else [lease.entry] * 2)


class HeldHere:
    """A transaction of the task that makes it."""

    def __init__(self) -> None:
        self._holder = asyncio.current_task()

    @property
    def encloses_caller(self) -> bool:
        """Whether that task asks."""
        return asyncio.current_task() is self._holder


@in_virtual_time
async def test_a_task_with_a_transaction_is_leased_its_draining_tenant():
    """What was taken in is finished: a read beside its own transaction would wait for itself."""
    bench = Bench(places=1)
    lease = await bench.lease(A)
    lease.entry.transactions.add(HeldHere())
    await bench.ask(B)
    await asyncio.sleep(PREEMPT_AFTER_SECONDS)
    await settle()
    [other] = await bench.ask(A)
    assert not other.done()
    assert (await bench.pool.lease(A)).entry is lease.entry
    await bench.release(lease)
    await bench.release(lease)
    assert list(bench.actors.closing) == [A]


@in_virtual_time
async def test_a_draining_tenant_is_closed_for_another_reason():
    """A suspension does not wait for its leases; its place still goes to the one that it was drained for."""
    bench = Bench(places=1)
    await bench.lease(A)
    [newcomer] = await bench.ask(B)
    await asyncio.sleep(PREEMPT_AFTER_SECONDS)
    await settle()
    closing = asyncio.ensure_future(bench.pool.close_tenant(A, "state"))
    await settle()
    await bench.actors.finish(A)
    await closing
    await bench.actors.finish(B)
    assert newcomer.result().entry.tenant_id == B
    assert [event.reason for event in bench.hook.of(TenantClosed)] == ["state"]
