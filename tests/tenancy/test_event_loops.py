"""Event loops: a registry that is closed on another one, or lost without being closed; and loops that are not asyncio's."""

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import PersistenceConnectionError, TenantError, TenantOwnedElsewhereError
from tenantry.storage import PersistenceConfig, SQLiteConfig, create_backend
from tenants import HANG_SECONDS, make_message, open_files, stored_contents

pytestmark = pytest.mark.usefixtures("each_engine")


async def opened(data_dir: Path) -> TenantRegistry:
    """Return a registry that is open, with a tenant open for reading and one that is written to."""
    registry = TenantRegistry(RegistryConfig(data_dir=data_dir))
    await registry.open()
    for tenant_id in ("acme", "globex"):
        if await registry.find(tenant_id) is None:
            await registry.create(tenant_id)
    await registry.tenant("acme").messages.save(make_message("written"))
    await registry.tenant("acme").messages.get_history("general")
    await registry.tenant("globex").messages.get_history("general")
    return registry


def lose(work: Callable[[], object], *told: str) -> None:
    """Lose what the work loses, and have it collected until each of these was warned of.

    A thread may hold what it was given for a moment longer than the caller that waited for it.
    """
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        work()
        until = time.monotonic() + HANG_SECONDS
        while not all(any(text in str(one.message) for one in found) for text in told):
            assert time.monotonic() < until, [str(one.message) for one in found]
            gc.collect()
    assert {one.category for one in found} == {ResourceWarning}


async def test_closed_on_another_loop(data_dir: Path):
    """It is refused at once and nothing is half closed: on its own loop the registry goes on, and closes."""
    registry = await opened(data_dir)
    for call in (registry.aclose, registry.open):
        with pytest.raises(TenantError, match="open on another event loop"):
            await asyncio.to_thread(lambda call=call: asyncio.run(call()))
    await registry.tenant("acme").messages.save(make_message("after"))
    await registry.aclose()
    assert stored_contents(data_dir, "acme") == ["written", "after"]


def test_closed_when_its_loop_has_ended(data_dir: Path):
    """It says so, instead of waiting for what cannot come any more; the tenants are free when the registry is collected."""
    registries = [asyncio.run(opened(data_dir))]
    with pytest.raises(TenantError, match="cannot be closed, because its event loop has ended"):
        asyncio.run(registries[0].aclose())
    lose(
        registries.clear,
        f"the registry of {data_dir} was not closed",
        "acme/tenant.db was",
        "globex/tenant.db was",
    )
    assert open_files(data_dir) == []


def test_a_registry_that_is_lost(data_dir: Path):
    """When it is collected it warns, its files are closed, its threads end, and its tenants can be used by another one."""

    async def use() -> None:
        await opened(data_dir)

    lose(
        lambda: asyncio.run(use()),
        f"the registry of {data_dir} was not closed: use 'async with",
        *(f"{name} was not closed" for name in ("acme/tenant.db", "globex/tenant.db", "catalog.db")),
    )
    assert open_files(data_dir) == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("tenantry")] == []

    async def use_again() -> None:
        registry = await opened(data_dir)
        await registry.aclose()

    asyncio.run(use_again())
    assert stored_contents(data_dir, "acme") == ["written", "written"]


def test_a_backend_that_is_lost(tmp_path: Path):
    """It warns too, and leaves no open file."""

    async def use() -> None:
        path = tmp_path / "company.db"
        backend = create_backend(PersistenceConfig(backend="sqlite", sqlite=SQLiteConfig(path=str(path))))
        await backend.connect()
        await backend.migrate()
        await backend.messages.save(make_message("written"))

    lose(lambda: asyncio.run(use()), "company.db was not closed")
    assert open_files(tmp_path) == []


async def test_a_tenant_of_another_registry_of_this_process(data_dir: Path):
    """Its error says that the owner is here, and not to look for another process."""
    first = await opened(data_dir)
    async with TenantRegistry(RegistryConfig(data_dir=data_dir, forwarding=False)) as second:
        with pytest.raises(TenantOwnedElsewhereError, match="in another registry of this process") as caught:
            await second.tenant("acme").messages.save(make_message())
        assert "in process" not in str(caught.value)
    await first.aclose()


def test_without_asyncio(data_dir: Path):
    """On trio, or without any event loop, the error says that tenantry runs on asyncio; nothing is made on the disk."""
    backend = create_backend(
        PersistenceConfig(backend="sqlite", sqlite=SQLiteConfig(path=str(data_dir / "company.db")))
    )
    for call in (TenantRegistry(RegistryConfig(data_dir=data_dir)).open(), backend.connect()):
        with pytest.raises(PersistenceConnectionError, match="tenantry runs on asyncio"):
            call.send(None)  # the first step that any event loop takes
    assert not data_dir.exists()
