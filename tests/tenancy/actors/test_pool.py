"""The pool over scripted actors: who is open, who waits, who has to go, and that nothing is ever held in vain.

Time is virtual, and opening and closing take as long as the test says. At the end a state machine asks for tenants,
leaves, opens, fails and closes in every order that hypothesis can think of.
"""

import asyncio

import pytest

from pools import WAIT_TIMEOUT_SECONDS, A, B, Bench, C, D, outcomes
from tenantry.errors import (
    MigrationError,
    PoolExhaustedError,
    TenantError,
)
from tenantry.events import PoolWaited, TenantClosed, TenantOpened
from tenants import VirtualLoop, in_virtual_time, settle, until


@in_virtual_time
async def test_an_open_tenant_is_leased_at_once():
    """Who asks for an open tenant gets it without waiting, as often as anyone likes; the last to leave makes it idle."""
    bench = Bench()
    assert bench.pool.lease_nowait(A) is None
    first = await bench.lease(A)
    second = bench.pool.lease_nowait(A)
    third = await bench.pool.lease(A)
    assert first.entry is second.entry is third.entry
    assert bench.actors.opened == [A]
    assert (bench.pool.actor(A), bench.pool.actor(B)) == (first.actor, None)
    for left in (2, 1, 0):
        await bench.release(first)
        assert first.entry.lease_count == left
        assert bench.pool.statistics().idle_tenants == (left == 0)
    assert repr(bench.pool) == bench.places(1, idle=1)
    again = bench.pool.lease_nowait(A)
    assert again is not None
    assert again.entry is first.entry
    assert repr(bench.pool) == bench.places(1)


@in_virtual_time
async def test_opening_is_single_flight():
    """All who ask for a tenant while it opens share that one opening."""
    bench = Bench()
    tasks = await bench.ask(A, A, A)
    assert repr(bench.pool) == bench.places(1, opening=1)
    assert list(bench.pool.tenants()) == [(A, None)]
    await bench.actors.finish(A)
    [lease, *others] = [task.result() for task in tasks]
    assert all(other.entry is lease.entry for other in others)
    assert (bench.actors.opened, lease.entry.lease_count) == ([A], 3)
    assert list(bench.pool.tenants()) == [(A, lease.actor)]
    assert bench.hook.of(TenantOpened) == [TenantOpened(A, "fake", "ok", 0.0)]


@in_virtual_time
async def test_evicts_the_least_recently_used_idle_tenant():
    """Without a free place the tenant goes that nobody has used for longest; one that is in use never goes."""
    bench = Bench(places=3)
    leases = {tenant_id: await bench.lease(tenant_id) for tenant_id in (A, B, C)}
    await bench.release(leases[B])
    await bench.release(leases[A])
    [task] = await bench.ask(D)
    assert list(bench.actors.closing) == [B]
    assert repr(bench.pool) == bench.places(3, idle=1, closing=1, waiting=1)
    await bench.actors.finish(B)
    await bench.actors.finish(D)
    assert task.result().entry.tenant_id == D
    assert bench.actors.open == [A, C, D]
    statistics = bench.pool.statistics()
    assert (statistics.evictions, statistics.closed_by_reason["capacity"]) == (1, 1)
    assert (statistics.open_tenants, statistics.open_tenants_peak, statistics.opened) == (3, 3, 4)
    assert bench.hook.of(TenantClosed) == [TenantClosed(B, "fake", "capacity", 0.0)]


@in_virtual_time
async def test_using_a_tenant_makes_it_the_last_to_go():
    """Whoever is asked for again moves to the end of the line."""
    bench = Bench()
    for tenant_id in (A, B, A):
        await bench.release(await bench.lease(tenant_id))
    await bench.ask(C)
    assert list(bench.actors.closing) == [B]


@in_virtual_time
async def test_evicts_one_for_each_tenant_that_waits():
    """Ten callers for one tenant need one place: only one tenant has to go for them."""
    bench = Bench(places=3)
    for tenant_id in (A, B, C):
        await bench.release(await bench.lease(tenant_id))
    await bench.ask(*[D] * 5)
    assert list(bench.actors.closing) == [A]
    assert repr(bench.pool) == bench.places(3, idle=2, closing=1, waiting=5)


@in_virtual_time
async def test_waiting_tenants_are_served_in_the_order_they_were_asked_for():
    """First come, first served, by tenant: a caller who joins one that waits already shares its turn."""
    bench = Bench(places=1)
    lease = await bench.lease(A)
    tasks = await bench.ask(B, C, B)
    assert repr(bench.pool) == bench.places(1, waiting=3)
    await bench.release(lease)
    await bench.actors.finish(A)
    assert repr(bench.pool) == bench.places(1, opening=1, waiting=1)
    await bench.actors.finish(B)
    assert [task.done() for task in tasks] == [True, False, True]
    lease = tasks[0].result()
    assert lease.entry.lease_count == 2
    await bench.release(lease)
    await bench.release(lease)
    await bench.actors.finish(B)
    await bench.actors.finish(C)
    assert tasks[1].result().entry.tenant_id == C


@in_virtual_time
async def test_too_many_callers_wait():
    """One more than may wait is sent away at once, told which limit it was and when to come back."""
    bench = Bench(places=1, waiters_max=2)
    await bench.lease(A)
    await bench.ask(B, C)
    with pytest.raises(
        PoolExhaustedError, match=r"1 open tenants has no place for tenant 'd' \(pool_waiters_max is 2\)"
    ) as caught:
        await bench.pool.lease(D)
    error = caught.value
    assert (error.tenant_id, error.limit, error.limit_value) == (D, "pool_waiters_max", 2)
    assert 0 < error.retry_after_seconds <= WAIT_TIMEOUT_SECONDS
    assert "or raise open_tenants_max" in str(error)
    assert bench.pool.statistics().exhausted == 1
    assert PoolWaited(D, "pool_exhausted", 0.0) in bench.hook.events
    # Neither who asks for an open tenant nor who joins one that opens waits for a place.
    assert (await bench.pool.lease(A)).entry.tenant_id == A


@in_virtual_time
async def test_joining_an_opening_needs_no_place_to_wait():
    """The limit is for those without a place: any number may wait for one opening."""
    bench = Bench(places=1, waiters_max=1)
    tasks = await bench.ask(*[A] * 5)
    await bench.actors.finish(A)
    assert len({task.result().entry for task in tasks}) == 1


@in_virtual_time
async def test_a_caller_waits_no_longer_than_the_limit():
    """Who had no place in time is sent away; who came later is not sent away with it."""
    bench = Bench(places=1)
    lease = await bench.lease(A)
    loop = asyncio.get_running_loop()
    [early] = await bench.ask(B)
    await asyncio.sleep(4)
    [late] = await bench.ask(B)
    [error] = await outcomes([early])
    assert isinstance(error, PoolExhaustedError)
    assert (error.limit, error.limit_value) == ("pool_wait_timeout_seconds", WAIT_TIMEOUT_SECONDS)
    assert loop.time() == pytest.approx(WAIT_TIMEOUT_SECONDS)
    assert repr(bench.pool) == bench.places(1, waiting=1)
    assert PoolWaited(B, "pool_exhausted", WAIT_TIMEOUT_SECONDS) in bench.hook.events
    await bench.release(lease)
    await bench.actors.finish(A)
    await bench.actors.finish(B)
    assert late.result().entry.tenant_id == B


@in_virtual_time
async def test_the_wait_that_is_advised_follows_from_the_rate():
    """When places come free every two seconds, the advice is about that much for each tenant in line."""
    bench = Bench(places=1, waiters_max=1)
    for tenant_id in (A, B, A, B, A, B, A, B, A, B, A, B, A, B, A, B):
        await asyncio.sleep(2)
        [task] = await bench.ask(tenant_id)
        for name in (*bench.actors.closing, tenant_id):
            await bench.actors.finish(name)
        lease = await task
        bench.pool.release(lease)
    assert bench.pool.lease_nowait(B)
    await bench.ask(C)
    with pytest.raises(PoolExhaustedError) as caught:
        await bench.pool.lease(D)
    assert caught.value.retry_after_seconds == pytest.approx(2 * 2, rel=0.1)


@in_virtual_time
async def test_an_opening_is_not_given_up_at_the_limit():
    """The limit is on the wait for a place; who has one waits for its opening."""
    bench = Bench()
    [task] = await bench.ask(A)
    await asyncio.sleep(2 * WAIT_TIMEOUT_SECONDS)
    assert not task.done()
    await bench.actors.finish(A)
    assert task.result().entry.tenant_id == A


@in_virtual_time
async def test_a_failed_opening_reaches_everyone_who_waits():
    """Each waiting caller gets an instance of its own; the place is free again, and the next one may try."""
    bench = Bench(places=1)
    tasks = await bench.ask(A, A)
    other = await bench.ask(B)
    cause = OSError(5, "I/O error")
    failure = MigrationError("step 2 failed", schema="company", version=2)
    failure.__cause__ = cause
    await bench.actors.fail(A, failure)
    first, second = await outcomes(tasks)
    for error in (first, second):
        assert isinstance(error, MigrationError)
        assert (str(error), error.schema, error.version) == ("step 2 failed", "company", 2)
        assert error.__cause__ is cause
    assert first is not second
    assert bench.hook.of(TenantOpened) == [TenantOpened(A, "none", "migration", 0.0)]
    assert PoolWaited(A, "migration", 0.0) in bench.hook.events
    await bench.actors.finish(B)
    assert other[0].result().entry.tenant_id == B
    await bench.release(other[0].result())
    [again] = await bench.ask(A)
    await bench.actors.finish(B)
    await bench.actors.finish(A)
    assert again.result().entry.tenant_id == A


@in_virtual_time
async def test_an_opening_that_fails_unexpectedly_is_one_of_ours():
    """Whatever an opener raises, callers see only tenantry's tree, with the cause attached."""
    bench = Bench()
    tasks = await bench.ask(A)
    boom = RuntimeError("boom")
    await bench.actors.fail(A, boom)
    [error] = await outcomes(tasks)
    assert type(error) is TenantError
    assert (error.tenant_id, error.__cause__) == (A, boom)
    assert repr(bench.pool) == bench.places(0)


@in_virtual_time
async def test_a_cancelled_caller_leaves_the_queue():
    """Who gives up waiting for a place costs nobody anything: the place goes to the next."""
    bench = Bench(places=1)
    lease = await bench.lease(A)
    gone, stays = await bench.ask(B, C)
    gone.cancel()
    await settle()
    assert repr(bench.pool) == bench.places(1, waiting=1)
    assert PoolWaited(B, "cancelled", 0.0) in bench.hook.events
    await bench.release(lease)
    await bench.actors.finish(A)
    assert list(bench.actors.opening) == [C]
    await bench.actors.finish(C)
    assert stays.result().entry.tenant_id == C


@in_virtual_time
async def test_a_caller_cancelled_while_its_tenant_opens_leaves_an_idle_tenant():
    """The opening goes on: the tenant is open, idle, and can be evicted."""
    bench = Bench(places=1)
    [gone] = await bench.ask(A)
    gone.cancel()
    await settle()
    await bench.actors.finish(A)
    assert repr(bench.pool) == bench.places(1, idle=1)
    lease = bench.pool.lease_nowait(A)
    assert lease is not None
    assert lease.entry.lease_count == 1


@in_virtual_time
async def test_a_lease_that_comes_in_the_moment_of_cancellation_is_given_back():
    """A caller that is cancelled when its lease is there already does not keep it."""
    bench = Bench()
    [task] = await bench.ask(A)
    bench.actors.opening[A].set_result(None)
    await until(lambda: bench.pool.statistics().opened == 1)
    task.cancel()
    await settle()
    assert task.cancelled()
    assert repr(bench.pool) == bench.places(1, idle=1)


@in_virtual_time
async def test_a_caller_cancelled_in_the_moment_of_failure_is_cancelled():
    """An error that nobody waits for any more is not raised anywhere."""
    bench = Bench()
    [task] = await bench.ask(A)
    bench.actors.opening[A].set_exception(MigrationError("no"))
    await until(lambda: not bench.pool.has(A))
    task.cancel()
    await settle()
    assert task.done()
    assert repr(bench.pool) == bench.places(0)


@in_virtual_time
async def test_a_caller_sent_away_and_cancelled_at_once_is_out():
    """Whatever two things happen to a caller in one moment, the count of those who wait stays right."""
    bench = Bench(places=1)
    lease = await bench.lease(A)
    [task] = await bench.ask(B)
    loop = asyncio.get_running_loop()
    loop.call_at(WAIT_TIMEOUT_SECONDS, task.cancel)
    loop.call_at(WAIT_TIMEOUT_SECONDS, bench.pool.release, lease)
    await asyncio.sleep(WAIT_TIMEOUT_SECONDS + 1)
    assert task.done()
    assert bench.pool.statistics().waiters == 0
    for tenant_id in (*bench.actors.closing, *bench.actors.opening):
        await bench.actors.finish(tenant_id)


@in_virtual_time
async def test_who_asks_for_a_closing_tenant_waits_for_the_end_of_it():
    """There are never two writers on one file: an evicted tenant opens again only when it is closed."""
    bench = Bench(places=2)
    await bench.release(await bench.lease(A))
    await bench.lease(B)
    await bench.ask(C)
    [again] = await bench.ask(A)
    assert (list(bench.actors.closing), list(bench.actors.opening)) == ([A], [])
    assert repr(bench.pool) == bench.places(2, closing=1, waiting=2)
    await bench.actors.finish(A)
    # C asked first.
    assert list(bench.actors.opening) == [C]
    await bench.actors.finish(C)
    assert not again.done()


@in_virtual_time
async def test_a_closing_tenant_that_is_asked_for_opens_again():
    """The place that it leaves is its own again when nobody else waits."""
    bench = Bench(places=1)
    await bench.release(await bench.lease(A))
    closing = asyncio.ensure_future(bench.pool.close_tenant(A, "state"))
    await settle()
    tasks = await bench.ask(A, A)
    tasks[0].cancel()
    await bench.actors.finish(A)
    await bench.actors.finish(A)
    assert tasks[1].result().entry.tenant_id == A
    await closing
    assert bench.actors.opened == [A, A]


def test_a_call_from_another_loop_is_refused():
    """Its future could never be answered: it is told so, whether the tenant is open or has to be opened."""
    home, other = VirtualLoop(), VirtualLoop()

    async def start() -> Bench:
        bench = Bench()
        await bench.lease(A)
        return bench

    async def ask(bench: Bench) -> None:
        for tenant_id in (A, B):
            with pytest.raises(TenantError, match="the registry belongs to another event loop") as caught:
                await bench.pool.lease(tenant_id)
            assert caught.value.tenant_id == tenant_id

    bench = home.run_until_complete(start())
    other.run_until_complete(ask(bench))
    assert repr(bench.pool) == bench.places(1)
    for loop in (home, other):
        loop.close()
