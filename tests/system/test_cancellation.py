"""Cancellation at every single await of a call: nothing is held afterwards, the next caller works, data is whole or absent.

A call is run again and again, and cancelled at its first await, its second, and so on until it is through: once while it
waits there, and once in the moment in which what it waits for has come.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from itertools import count
from pathlib import Path
from types import coroutine
from typing import Any

import anyio
import pytest

from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.errors import TenantExistsError, TenantryError
from tenants import HANG_SECONDS, make_message, open_files, stored_contents, threads_since, until

pytestmark = [pytest.mark.unmeasured, pytest.mark.usefixtures("each_engine")]

MOMENTS = pytest.mark.parametrize("is_answered", [False, True], ids=["waiting", "answered"])
AWAITS_MAX = 200


class Cancellation:
    """Runs work, and cancels its task at one of its awaits.

    Args:
        number: At which await, from 0.
        is_answered: In the moment in which the awaited future is done, rather than while it is waited for.
    """

    def __init__(self, number: int, *, is_answered: bool) -> None:
        self.was_made = False
        self._number = number
        self._is_answered = is_answered

    @coroutine
    def run(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, None, Any]:
        """Pass on everything between `work` and the event loop but for the one cancellation."""
        error: BaseException | None = None
        for awaits in count():
            try:
                future = work.send(None) if error is None else work.throw(error)
            except StopIteration as stop:
                return stop.value
            if awaits == self._number:
                self._make(future)
            error = None
            try:
                yield future
            except BaseException as thrown:  # noqa: BLE001  # it is passed on
                error = thrown
        return None

    def _make(self, future: "asyncio.Future[Any] | None") -> None:
        task = asyncio.current_task()
        assert task is not None
        self.was_made = True
        if future is not None and self._is_answered:
            future.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()


async def cancel_everywhere(
    work: Callable[[int], Coroutine[Any, Any, Any]],
    check: Callable[[int], Awaitable[None]],
    *,
    is_answered: bool,
) -> int:
    """Run ``work(n)`` cancelled at each of its awaits in turn, and ``check(n)`` after each; return how many there were."""
    for number in range(AWAITS_MAX):
        cancellation = Cancellation(number, is_answered=is_answered)

        async def main(cancellation: Cancellation = cancellation, number: int = number) -> Any:
            return await cancellation.run(work(number))

        task = asyncio.ensure_future(main())
        await asyncio.wait([task], timeout=HANG_SECONDS)
        assert task.done(), f"hangs when it is cancelled at await {number}"
        if not task.cancelled() and task.exception() is not None:
            assert isinstance(task.exception(), TenantryError)
        async with asyncio.timeout(HANG_SECONDS):
            await check(number)
        if not cancellation.was_made:
            return number
    pytest.fail(f"more than {AWAITS_MAX} awaits")


@pytest.fixture
async def small(data_dir: Path) -> AsyncIterator[TenantRegistry]:
    """A registry with two tenants and a place for one; after it, nothing may be left."""
    threads = set(threading.enumerate())
    async with TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=1)) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
        yield registry
    assert (threads_since(threads), open_files(data_dir)) == ([], [])


async def check_nothing_held(registry: TenantRegistry) -> None:
    """Check that no lease, no waiter and no call was forgotten, once what was begun has ended by itself."""

    def is_quiet() -> bool:
        pool = registry.statistics().pool
        actors = [actor for _, actor in registry._parts.pool.tenants()]
        return pool.open_tenants == pool.idle_tenants and all(
            actor is not None and actor.is_idle for actor in actors
        )

    await until(is_quiet)
    assert registry.statistics().pool.waiters == 0


@MOMENTS
async def test_a_write_to_a_closed_tenant(small: TenantRegistry, data_dir: Path, *, is_answered: bool):
    """Cancelled while another tenant is evicted, while its own is opened, and while it writes: it is written or it is not."""
    saved: list[str] = []

    async def work(number: int) -> None:
        await small.tenant("acme").messages.save(make_message(f"m{number}"))
        saved.append(f"m{number}")

    async def check(_: int) -> None:
        await check_nothing_held(small)
        await small.tenant("acme").messages.save(make_message("next"))
        # Takes the place again: the next round has to evict and to open.
        await small.tenant("globex").messages.save(make_message())

    awaits = await cancel_everywhere(work, check, is_answered=is_answered)
    assert awaits > 1
    contents = stored_contents(data_dir, "acme")
    assert contents.count("next") == awaits + 1
    assert set(saved) <= set(contents)
    assert len(set(contents) - {"next"}) == len(contents) - contents.count("next")


@MOMENTS
async def test_a_write_to_an_open_tenant(small: TenantRegistry, data_dir: Path, *, is_answered: bool):
    """Cancelled in the mailbox or in its batch, beside a neighbour who is not."""
    acme = small.tenant("acme")

    async def work(number: int) -> None:
        neighbour = asyncio.ensure_future(acme.messages.save(make_message(f"neighbour {number}")))
        try:
            await acme.messages.save_many([make_message(f"a{number}"), make_message(f"b{number}")])
        finally:
            async with asyncio.timeout(HANG_SECONDS):
                await asyncio.wait([neighbour])

    async def check(number: int) -> None:
        await check_nothing_held(small)
        await acme.messages.save(make_message(f"next {number}"))

    awaits = await cancel_everywhere(work, check, is_answered=is_answered)
    contents = stored_contents(data_dir, "acme")
    for number in range(awaits + 1):
        assert f"neighbour {number}" in contents
        assert contents.count(f"a{number}") == contents.count(f"b{number}") <= 1


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
@MOMENTS
async def test_a_read(small: TenantRegistry, *, is_answered: bool, is_open: bool):
    """Cancelled while the tenant, or its reader, is opened, and while it reads: the next read is right."""
    await small.tenant("acme").messages.save(make_message("kept"))

    async def work(_: int) -> None:
        await small.tenant("acme").messages.get_history("general")

    async def check(_: int) -> None:
        await check_nothing_held(small)
        assert [m.content for m in await small.tenant("acme").messages.get_history("general")] == ["kept"]
        await small.tenant("globex" if not is_open else "acme").messages.save(make_message(channel="other"))

    await cancel_everywhere(work, check, is_answered=is_answered)


@MOMENTS
async def test_a_first_read_cancelled_by_a_scope(data_dir: Path, *, is_answered: bool):
    """A read that is interrupted while its reader is being opened leaves no connection behind."""
    threads = set(threading.enumerate())
    config = RegistryConfig(data_dir=data_dir, open_tenants_max=1)
    async with TenantRegistry(config) as registry:
        await registry.create("acme")
        for yields in range(30):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(registry.tenant("acme").messages.get_history, "general")
                    for _ in range(yields):
                        await asyncio.sleep(0)
                    scope.cancel()
            await check_nothing_held(registry)
            if is_answered:
                assert await registry.tenant("acme").messages.get_history("general") == ()
            await registry.suspend("acme")
            assert len(open_files(data_dir)) == 1
            await registry.resume("acme")
    assert (threads_since(threads), open_files(data_dir)) == ([], [])


@MOMENTS
async def test_a_transaction(small: TenantRegistry, data_dir: Path, *, is_answered: bool):
    """Cancelled at its begin, inside or at its commit: both of its writes are there, or neither; the writer is free."""
    acme = small.tenant("acme")

    async def work(number: int) -> None:
        async with acme.transaction() as tx:
            await tx.messages.save(make_message(f"a{number}"))
            await tx.messages.get_history("general", limit=1)
            await tx.messages.save(make_message(f"b{number}"))

    async def check(number: int) -> None:
        await acme.messages.save(make_message(f"next {number}"))
        await check_nothing_held(small)
        if number % 3 == 0:
            await small.tenant("globex").messages.save(make_message())

    awaits = await cancel_everywhere(work, check, is_answered=is_answered)
    assert awaits > 4
    contents = stored_contents(data_dir, "acme")
    for number in range(awaits + 1):
        assert contents.count(f"a{number}") == contents.count(f"b{number}") <= 1
    assert contents.count(f"a{awaits}") == 1


@MOMENTS
async def test_lifecycle_calls(small: TenantRegistry, *, is_answered: bool):
    """Cancelled while they run they are finished all the same, and can be repeated."""

    async def work(number: int) -> None:
        await small.create(f"new-{number}")
        await small.suspend(f"new-{number}")
        await small.resume(f"new-{number}")

    async def check(number: int) -> None:
        tenant_id = f"new-{number}"
        try:
            await small.create(tenant_id)
        except TenantExistsError:
            await small.resume(tenant_id)
        assert (await small.get(tenant_id)).state is TenantState.ACTIVE
        await small.tenant(tenant_id).messages.save(make_message())
        await check_nothing_held(small)

    await cancel_everywhere(work, check, is_answered=is_answered)


@MOMENTS
async def test_opening_a_registry(data_dir: Path, *, is_answered: bool):
    """Wherever it is cancelled nothing stays open, and a new registry opens."""
    threads = set(threading.enumerate())
    registries: list[TenantRegistry] = []

    async def work(_: int) -> None:
        registries.append(TenantRegistry(RegistryConfig(data_dir=data_dir)))
        await registries[-1].open()

    async def check(_: int) -> None:
        await registries[-1].aclose()
        assert (threads_since(threads), open_files(data_dir)) == ([], [])
        async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
            await registry.list()

    assert await cancel_everywhere(work, check, is_answered=is_answered) > 2


@MOMENTS
async def test_closing_a_registry(data_dir: Path, *, is_answered: bool):
    """Who is cancelled while it closes stops waiting; the closing goes on, and a second call waits for its end."""
    threads = set(threading.enumerate())
    registries: list[TenantRegistry] = []

    async def prepare(number: int) -> None:
        registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
        await registry.open()
        await registry.create(f"t{number}")
        await registry.tenant(f"t{number}").messages.save(make_message())
        registries.append(registry)

    async def work(_: int) -> None:
        await registries[-1].aclose()

    async def check(number: int) -> None:
        await registries[-1].aclose()
        assert (threads_since(threads), open_files(data_dir)) == ([], [])
        await prepare(number)

    await prepare(AWAITS_MAX)
    await cancel_everywhere(work, check, is_answered=is_answered)
    await registries[-1].aclose()


async def test_many_callers_cancelled_at_random(data_dir: Path):
    """Callers of several tenants that come and go at every step leave a pool that serves the next one."""
    threads = set(threading.enumerate())
    async with TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=2)) as registry:
        ids = [f"t{n}" for n in range(5)]
        for tenant_id in ids:
            await registry.create(tenant_id)
        for steps in range(60):
            tasks = []
            for n, tenant_id in enumerate(ids):
                handle = registry.tenant(tenant_id)
                tasks.append(asyncio.ensure_future(handle.messages.save(make_message(f"{steps}-{n}"))))
                tasks.append(asyncio.ensure_future(handle.messages.get_history("general", limit=1)))
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks[steps % 3 :: 3]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(r) for r in results if isinstance(r, BaseException)} <= {asyncio.CancelledError}
        await check_nothing_held(registry)
    for tenant_id in ids:
        contents = stored_contents(data_dir, tenant_id)
        assert len(set(contents)) == len(contents)
    assert (threads_since(threads), open_files(data_dir)) == ([], [])
