"""The pool over scripted actors: anything may happen in any order, and the pool stays right."""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pools import PREEMPT_AFTER_SECONDS, WAIT_TIMEOUT_SECONDS, Bench, Holding, ScriptedActors
from tenantry.errors import (
    PersistenceConnectionError,
    TenantryError,
)
from tenantry.ids import TenantId
from tenants import VirtualLoop

if TYPE_CHECKING:
    from tenantry.tenancy.actors.lease import Lease
    from tenantry.tenancy.actors.pool import ActorPool

pytestmark = pytest.mark.unmeasured


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
