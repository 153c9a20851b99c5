"""What the tests of the pool share: scripted actors, and a pool with callers as tasks.

Import it by name (``tests/support`` is on pytest's path): ``from pools import Bench``.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from tenantry.eventlog import EventLog
from tenantry.ids import TenantId
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.actors.pool import PREEMPT_AFTER_SHARE, ActorPool
from tenants import LoopClock, Recorder, settle

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    async def __call__(self, tenant_id: TenantId, *, is_for_write: bool) -> Any:
        assert not is_for_write
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
