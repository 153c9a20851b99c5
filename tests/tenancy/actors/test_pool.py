"""The pool over scripted actors: who is open, who waits, who has to go, and that nothing is ever held in vain.

Time is virtual, and opening and closing take as long as the test says. At the end a state machine asks for tenants,
leaves, opens, fails and closes in every order that hypothesis can think of.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tenantry.errors import (
    MigrationError,
    PersistenceConnectionError,
    PoolExhaustedError,
    RegistryClosedError,
    TenantBusyError,
    TenantError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.events import PoolWaited, TenantClosed, TenantOpened
from tenantry.ids import TenantId
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.actors.pool import PREEMPT_AFTER_SHARE, ActorPool
from tenants import LoopClock, Recorder, VirtualLoop, in_virtual_time, settle, until

WAIT_TIMEOUT_SECONDS = 10.0
CLOSE_TIMEOUT_SECONDS = 5.0
PREEMPT_AFTER_SECONDS = WAIT_TIMEOUT_SECONDS * PREEMPT_AFTER_SHARE
A, B, C, D = map(TenantId, "abcd")


class NoLog(EventLog):
    """Keeps failures that are made on purpose off the terminal."""

    def warning(self, event: str, **data: object) -> None:
        """Write nothing."""


class FakeActor:
    """An open tenant without a database; it closes when the test says so."""

    backend = "fake"

    def __init__(self, tenant_id: str, actors: "ScriptedActors") -> None:
        self.tenant_id = tenant_id
        self._actors = actors

    async def aclose(self, timeout_seconds: float) -> None:
        assert timeout_seconds == CLOSE_TIMEOUT_SECONDS
        try:
            await self._actors.wait(self._actors.closing, self.tenant_id)
        finally:
            self._actors.open.remove(self.tenant_id)


class ScriptedActors:
    """Opens and closes tenants when the test says so, and notices two actors for one tenant at once."""

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once
        self.opening: dict[str, asyncio.Future[None]] = {}
        self.closing: dict[str, asyncio.Future[None]] = {}
        self.open: list[str] = []
        self.opened: list[str] = []

    async def __call__(self, tenant_id: TenantId) -> Any:
        assert tenant_id not in self.opening
        assert tenant_id not in self.open
        await self.wait(self.opening, tenant_id)
        self.open.append(tenant_id)
        self.opened.append(tenant_id)
        return FakeActor(tenant_id, self)

    async def wait(self, waiting: "dict[str, asyncio.Future[None]]", tenant_id: str) -> None:
        """Go on at once, or when the test calls `finish` or `fail`."""
        if self.at_once:
            return
        waiting[tenant_id] = asyncio.get_running_loop().create_future()
        try:
            await waiting[tenant_id]
        finally:
            del waiting[tenant_id]

    async def finish(self, tenant_id: str) -> None:
        """Let the tenant's opening or closing succeed."""
        (self.opening.get(tenant_id) or self.closing[tenant_id]).set_result(None)
        await settle()

    async def fail(self, tenant_id: str, error: Exception) -> None:
        """Let the tenant's opening or closing fail."""
        (self.opening.get(tenant_id) or self.closing[tenant_id]).set_exception(error)
        await settle()


class Bench:
    """A pool with everything around it, and callers as tasks."""

    def __init__(self, *, places: int = 2, waiters_max: int = 10, at_once: bool = False) -> None:
        self.actors = ScriptedActors(at_once=at_once)
        self.hook = Recorder()
        self.pool = ActorPool(
            self.actors,
            open_tenants_max=places,
            waiters_max=waiters_max,
            wait_timeout_seconds=WAIT_TIMEOUT_SECONDS,
            close_timeout_seconds=CLOSE_TIMEOUT_SECONDS,
            clock=LoopClock(),
            report=self.hook,
            log=NoLog(),
        )

    async def ask(self, *tenant_ids: TenantId) -> "list[asyncio.Task[Lease]]":
        """Ask for a lease on each, and return the tasks once everybody waits."""
        tasks = [asyncio.ensure_future(self.pool.lease(tenant_id)) for tenant_id in tenant_ids]
        await settle()
        return tasks

    async def lease(self, tenant_id: TenantId) -> Lease:
        """Return a lease on a tenant, whose opening succeeds if it is not open."""
        [task] = await self.ask(tenant_id)
        if tenant_id in self.actors.opening:
            await self.actors.finish(tenant_id)
        return task.result()

    async def release(self, lease: Lease) -> None:
        """Give a lease back and wait for what follows."""
        self.pool.release(lease)
        await settle()

    def places(
        self, taken: int, *, idle: int = 0, opening: int = 0, closing: int = 0, waiting: int = 0
    ) -> str:
        """Return the sentence that the pool says about itself in this state."""
        return (
            f"<ActorPool: {taken} of {self.pool.statistics().open_tenants_max} places taken ({idle} idle, {opening} "
            f"opening, {closing} closing), {waiting} callers waiting>"
        )


async def outcomes(tasks: "Sequence[asyncio.Task[Lease]]") -> list[Any]:
    """Return each task's lease or error."""
    return await asyncio.gather(*tasks, return_exceptions=True)


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
        PoolExhaustedError, match=r"no place among the 1 open tenants for 'd' \(pool_waiters_max is 2\)"
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


class Holding:
    """A lifecycle operation that holds a tenant closed, until it is told to end."""

    def __init__(self, bench: Bench, tenant_id: TenantId) -> None:
        self.has_it = False
        self._end = asyncio.Event()
        self.task = asyncio.ensure_future(self._hold(bench.pool, tenant_id))

    async def _hold(self, pool: ActorPool, tenant_id: TenantId) -> None:
        async with pool.held(tenant_id, "rename"):
            self.has_it = True
            await self._end.wait()
        self.has_it = False

    async def end(self) -> None:
        """Let the tenant go."""
        self._end.set()
        await settle()


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


class PoolMachine(RuleBasedStateMachine):
    """Asks, leaves, opens, fails and closes in any order, and looks at the pool whenever nothing can go on by itself."""

    tenant_ids = st.sampled_from([TenantId(f"t{n}") for n in range(5)])
    numbers = st.integers(0, 100)

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._note_failure)
        self.failures: list[dict[str, Any]] = []
        self.asking: list[tuple[TenantId, asyncio.Task[Lease]]] = []
        self.asked_seconds: dict[asyncio.Task[Lease], float] = {}
        self.leases: list[Lease] = []
        self.closing: list[asyncio.Task[None]] = []
        self.holding: dict[TenantId, Holding] = {}

    def _note_failure(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def run(self, work: Awaitable[Any]) -> Any:
        """Run `work` to its end, everything that follows from it, and take in what callers were given."""
        result = self.loop.run_until_complete(work)
        self.loop.run_until_settled()
        for tenant_id, task in list(self.asking):
            if task.done():
                self.asking.remove((tenant_id, task))
                if not task.cancelled() and (error := task.exception()) is not None:
                    assert isinstance(error, TenantryError)
                elif not task.cancelled():
                    assert task.result().entry.tenant_id == tenant_id
                    self.leases.append(task.result())
        return result

    def start(self, work: Awaitable[Any]) -> "asyncio.Task[Any]":
        """Run `work` in a task until everybody waits."""
        task = self.loop.create_task(work)
        self.run(asyncio.sleep(0))
        return task

    @initialize(places=st.integers(1, 3), waiters_max=st.integers(1, 4))
    def make(self, places: int, waiters_max: int) -> None:
        async def build() -> Bench:
            return Bench(places=places, waiters_max=waiters_max)

        self.bench = self.run(build())
        self.pool: ActorPool = self.bench.pool
        self.actors: ScriptedActors = self.bench.actors

    @rule(tenant_id=tenant_ids)
    def ask(self, tenant_id: TenantId) -> None:
        task = self.loop.create_task(self.pool.lease(tenant_id))
        self.asking.append((tenant_id, task))
        self.asked_seconds[task] = self.loop.time()
        self.run(asyncio.sleep(0))

    @rule(tenant_id=tenant_ids, other=tenant_ids)
    def ask_for_two_and_leave_at_once(self, tenant_id: TenantId, other: TenantId) -> None:
        async def ask_and_cancel() -> None:
            tasks = [self.loop.create_task(self.pool.lease(name)) for name in (tenant_id, other)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            self.asking += zip((tenant_id, other), tasks, strict=True)
            self.asked_seconds.update(dict.fromkeys(tasks, self.loop.time()))

        self.run(ask_and_cancel())

    @precondition(lambda self: self.asking)
    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        self.asking[number % len(self.asking)][1].cancel()
        self.run(asyncio.sleep(0))

    @precondition(lambda self: self.actors.opening)
    @rule(number=numbers, is_cancelled=st.booleans())
    def finish_open(self, number: int, *, is_cancelled: bool) -> None:
        tenant_id = sorted(self.actors.opening)[number % len(self.actors.opening)]
        self.actors.opening[tenant_id].set_result(None)
        if is_cancelled:  # in the very moment in which they would be handed their lease
            for name, task in self.asking:
                if name == tenant_id:
                    self.loop.call_soon(task.cancel)
        self.run(asyncio.sleep(0))

    @precondition(lambda self: self.actors.opening)
    @rule(number=numbers, error=st.sampled_from([PersistenceConnectionError("no"), RuntimeError("boom")]))
    def fail_open(self, number: int, error: Exception) -> None:
        tenant_id = sorted(self.actors.opening)[number % len(self.actors.opening)]
        self.actors.opening[tenant_id].set_exception(error)
        self.run(asyncio.sleep(0))

    @precondition(lambda self: self.leases)
    @rule(number=numbers)
    def release(self, number: int) -> None:
        lease = self.leases.pop(number % len(self.leases))

        async def give_back() -> None:
            self.pool.release(lease)

        self.run(give_back())

    @precondition(lambda self: self.actors.closing)
    @rule(number=numbers, is_failing=st.booleans())
    def finish_close(self, number: int, *, is_failing: bool) -> None:
        tenant_id = sorted(self.actors.closing)[number % len(self.actors.closing)]
        if is_failing:
            self.actors.closing[tenant_id].set_exception(PersistenceConnectionError("would not close"))
        else:
            self.actors.closing[tenant_id].set_result(None)
        self.run(asyncio.sleep(0))

    @rule(tenant_id=tenant_ids)
    def close_tenant(self, tenant_id: TenantId) -> None:
        self.closing.append(self.start(self.pool.close_tenant(tenant_id, "state")))

    @rule(tenant_id=tenant_ids)
    def hold(self, tenant_id: TenantId) -> None:
        async def begin() -> None:
            if tenant_id not in self.holding:
                self.holding[tenant_id] = Holding(self.bench, tenant_id)

        self.run(begin())

    @precondition(lambda self: self.holding)
    @rule(number=numbers)
    def let_go(self, number: int) -> None:
        """End a lifecycle operation, unless it waits for the tenant still."""
        tenant_id = sorted(self.holding)[number % len(self.holding)]
        if self.holding[tenant_id].has_it:
            self.run(self.holding.pop(tenant_id).end())

    @precondition(lambda self: self.holding)
    @rule(number=numbers)
    def cancel_hold(self, number: int) -> None:
        self.holding.pop(sorted(self.holding)[number % len(self.holding)]).task.cancel()
        self.run(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0.0, 1.0, WAIT_TIMEOUT_SECONDS]))
    def evict_idle(self, seconds: float) -> None:
        async def evict() -> None:
            self.pool.evict_idle(seconds)

        self.run(evict())

    @rule(seconds=st.sampled_from([1.0, PREEMPT_AFTER_SECONDS, WAIT_TIMEOUT_SECONDS]))
    def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)
        self.run(asyncio.sleep(0))

    @rule()
    def aclose(self) -> None:
        self.closing.append(self.start(self.pool.aclose()))

    @invariant()
    def places_are_bounded(self) -> None:
        """Never more than `open_tenants_max` hold a place, whatever they are doing."""
        statistics = self.pool.statistics()
        assert statistics.open_tenants <= statistics.open_tenants_max
        assert statistics.open_tenants == len(self.actors.open) + len(self.actors.opening)

    @invariant()
    def one_actor_for_each_tenant(self) -> None:
        """What is open or opening has a place, and no tenant is there twice."""
        tenants = [*self.actors.open, *self.actors.opening]
        assert len(tenants) == len(set(tenants))
        assert {tenant_id for tenant_id, _ in self.pool.tenants()} == set(tenants)

    @invariant()
    def leases_are_those_that_callers_hold(self) -> None:
        """A lease is counted once for each caller that holds it; without one the tenant is idle."""
        for entry in self.pool._entries.values():
            assert entry.lease_count == sum(lease.entry is entry for lease in self.leases)
        idle = {
            i
            for i, actor in self.pool.tenants()
            if actor is not None and not self.pool._entries[i].lease_count
        }
        assert {entry.tenant_id for entry in self.pool._idle} == idle

    @invariant()
    def waiters_are_those_without_a_place(self) -> None:
        """The number of callers that wait is that of the callers whose tenant neither opens nor is open."""
        waiting = [tenant_id for tenant_id, _ in self.asking if tenant_id not in self.actors.opening]
        assert self.pool.statistics().waiters == len(waiting)

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """Whoever waits, waits for something that happens: an opening, a closing, or the release of a tenant in use."""
        statistics = self.pool.statistics()
        queued = {tenant_id for tenant_id, _ in self.queued()}
        if queued:
            assert statistics.open_tenants == statistics.open_tenants_max
            assert not statistics.idle_tenants or len(self.actors.closing) >= len(queued)

    def queued(self) -> "list[tuple[TenantId, asyncio.Task[Lease]]]":
        """Return who waits for a place that somebody else has."""
        return [
            (tenant_id, task)
            for tenant_id, task in self.asking
            if not self.pool.has(tenant_id) and tenant_id not in self.holding
        ]

    @invariant()
    def held_tenants_are_closed(self) -> None:
        """Whoever holds a tenant has it for itself, as soon as it is closed."""
        for tenant_id, holding in self.holding.items():
            assert holding.has_it is not self.pool.has(tenant_id)

    @invariant()
    def drains_for_those_who_wait_long(self) -> None:
        """For each tenant that has waited for long one is drained or closes, as far as there are any; none is drained for nothing."""
        patient_since = self.loop.time() - PREEMPT_AFTER_SECONDS
        impatient = {i for i, task in self.queued() if self.asked_seconds[task] <= patient_since}
        states = [entry.state.value for entry in self.pool._entries.values()]
        leaving = states.count("draining") + states.count("closing")
        if "draining" in states:
            assert leaving <= len(impatient)
        if "open" in states:
            assert leaving >= len(impatient)

    @invariant()
    def draining_tenants_are_in_use(self) -> None:
        """A tenant that is drained has leases to wait for: with the last of them it closes."""
        draining = {i for i, entry in self.pool._entries.items() if entry.state.value == "draining"}
        assert set(self.pool._draining) == draining
        assert all(self.pool._entries[i].lease_count for i in draining)

    @invariant()
    def nothing_failed_behind_the_scenes(self) -> None:
        """No task of the pool's own has died."""
        assert self.failures == []

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            self.loop.close()
            return
        closing = self.start(self.pool.aclose())
        for holding in self.holding.values():
            self.run(holding.end())
        while self.actors.opening or self.actors.closing:
            for waiting in (self.actors.opening, self.actors.closing):
                for future in list(waiting.values()):
                    future.set_result(None)
            self.run(asyncio.sleep(0))
        assert closing.done()
        assert all(task.done() for task in self.closing)
        assert self.asking == []
        statistics = self.pool.statistics()
        assert (statistics.open_tenants, statistics.idle_tenants, statistics.waiters) == (0, 0, 0)
        assert (self.actors.open, asyncio.all_tasks(self.loop)) == ([], set())
        assert (len(self.pool._queue), self.pool._draining, self.pool._closing) == (0, {}, 0)
        assert self.pool._holds == {}
        self.nothing_failed_behind_the_scenes()
        self.loop.close()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
