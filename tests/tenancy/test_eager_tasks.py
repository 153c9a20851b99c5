"""Task factories of the host: tasks that run their first step where they are made (Python 3.12's eager tasks)."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

from service import Service, ended
from tenantry import RegistryConfig, TenantRegistry
from tenantry.admin.http.operations import Operations, OperationState
from tenantry.clock import SystemClock
from tenants import HANG_SECONDS, make_message, stored_contents


def checked(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], *, context: Context | None = None
) -> "asyncio.Task[Any]":
    """Make a task, and enter its context where it is made, as an eager task does: that fails if it is entered already."""
    if context is not None:
        context.run(lambda: None)
    return asyncio.Task(coroutine, loop=loop, context=context)


FACTORIES = [checked]
if hasattr(asyncio, "eager_task_factory"):
    FACTORIES.append(asyncio.eager_task_factory)


def run_with(factory: Any, work: Callable[[], Awaitable[None]]) -> None:
    """Run the work on an event loop with the factory."""

    async def run() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        async with asyncio.timeout(HANG_SECONDS):
            await work()

    asyncio.run(run())


@pytest.mark.parametrize("factory", FACTORIES)
def test_transactions_of_one_tenant(data_dir: Path, factory: Any):
    """Two that wait for each other, beside writes and reads, are served one after the other; the loop goes on."""

    async def work() -> None:
        async with TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=1)) as registry:
            for tenant_id in ("acme", "globex"):
                await registry.create(tenant_id)
            acme, globex = registry.tenant("acme"), registry.tenant("globex")

            async def transact() -> None:
                async with acme.transaction() as tx:
                    await tx.messages.save(make_message("inside"))

            await asyncio.gather(
                *(transact() for _ in range(4)),
                *(acme.messages.save(make_message("outside")) for _ in range(4)),
                *(globex.messages.save(make_message("beside")) for _ in range(4)),
                *(acme.messages.get_history("general") for _ in range(4)),
            )

    run_with(factory, work)
    assert sorted(stored_contents(data_dir, "acme")) == ["inside"] * 4 + ["outside"] * 4
    assert stored_contents(data_dir, "globex") == ["beside"] * 4


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_service(data_dir: Path, factory: Any):
    """Long work begins, tells its steps and ends; so do the stop of the service and the closing of the registry."""

    async def work() -> None:
        async with (
            TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry,
            Service(registry) as service,
        ):
            admin = await service.caller("admin")
            assert (await admin.post("/v1/tenants", json={"id": "acme"})).status_code == 201
            archived = await ended(admin, await admin.post("/v1/tenants/acme/archive"))
            assert (archived["state"], archived["steps"][0]) == ("succeeded", "begun")

    run_with(factory, work)


@pytest.mark.parametrize("factory", FACTORIES)
def test_work_that_ends_at_once(factory: Any):
    """An operation that has ended before its task was returned is not waited for when the service stops."""

    async def work() -> None:
        operations = Operations(SystemClock())

        async def do_nothing() -> None:
            return None

        begun = operations.start("nothing", None, do_nothing, by="ada")
        await operations.aclose()
        assert operations.get(begun.id).state is OperationState.SUCCEEDED

    run_with(factory, work)
