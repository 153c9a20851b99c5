"""The registry on real files: several processes on one data directory."""

# tests look at files in between; nobody waits for them

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing

from others import Other, other_process
from registries import config, make_tenant
from tenantry import TenantRegistry, TenantState
from tenantry.errors import (
    TenantDeletedError,
    TenantExistsError,
    TenantNotFoundError,
    TenantOwnedElsewhereError,
    TenantSuspendedError,
)
from tenantry.events import (
    TenantClosed,
)
from tenantry.files.lock_file import LockFile
from tenants import (
    Recorder,
    database_path,
    make_message,
    python,
    query,
)


@pytest.fixture
def other(data_dir: Path) -> Iterator[Other]:
    """A registry on the same data directory in another process."""
    with other_process(data_dir) as process:
        yield process


class TestProcesses:
    """Several processes on one data directory."""

    async def test_a_tenant_is_open_in_one_process(self, registry: TenantRegistry, other: Other):
        """Without forwarding, the others are told which process has it; after kill -9 of that one, the next works at once."""
        await registry.create("acme")
        await registry.aclose()
        assert other.do("save", "acme", "theirs") == "ok"
        async with TenantRegistry(registry.config.model_copy(update={"forwarding": False})) as mine:
            with pytest.raises(
                TenantOwnedElsewhereError,
                match=f"'acme' is open in process {other.pid} on .*: forwarding is off in this process",
            ) as caught:
                await mine.tenant("acme").messages.save(make_message())
            assert (caught.value.tenant_id, caught.value.pid, caught.value.host) == (
                "acme",
                other.pid,
                os.uname().nodename,
            )
            assert caught.value.is_retryable
            await mine.create("globex")
            outcome = await other.ask("save", "globex")
            assert outcome == {"error": "TenantOwnedElsewhereError", "pid": os.getpid()}
            other.kill()
            await mine.tenant("acme").messages.save(make_message("ours"))
            history = await mine.tenant("acme").messages.get_history("general")
            assert {message.content for message in history} == {"theirs", "ours"}

    async def test_what_two_processes_write(self, registry: TenantRegistry, other: Other):
        """One has the tenant open, and the calls of both reach it; after kill -9 of that one, the other works at once."""
        await registry.create("acme")
        await registry.aclose()
        assert other.do("save", "acme", "theirs") == "ok"
        async with TenantRegistry(registry.config) as mine:
            await mine.tenant("acme").messages.save(make_message("ours"))
            assert mine.statistics().pool.open_tenants == 0
            other.kill()
            await mine.tenant("acme").messages.save(make_message("later"))
            history = await mine.tenant("acme").messages.get_history("general")
            assert {message.content for message in history} == {"theirs", "ours", "later"}

    async def test_two_registries_of_one_process(self, registry: TenantRegistry):
        """The lock keeps a second registry of the same process off too, unless it forwards."""
        await registry.create("acme")
        async with TenantRegistry(registry.config.model_copy(update={"forwarding": False})) as second:
            with pytest.raises(TenantOwnedElsewhereError) as caught:
                await second.tenant("acme").messages.get_history("general")
            assert caught.value.pid == os.getpid()
            assert (await second.get("acme")).state is TenantState.ACTIVE

    async def test_another_process_suspends_an_open_tenant(self, data_dir: Path, other: Other):
        """What another process did to a tenant is noticed while it is open here: it is closed, and its calls are refused."""
        hook = Recorder()
        async with TenantRegistry(
            config(data_dir, catalog_poll_interval_seconds=1.0), hooks=[hook]
        ) as registry:
            for tenant_id in ("acme", "globex"):
                await registry.create(tenant_id)
            assert await other.ask("suspend", "acme") == "ok"
            assert hook.of(TenantClosed, tenant_id="acme", reason="state")
            with pytest.raises(TenantSuspendedError):
                await registry.tenant("acme").messages.save(make_message())
            assert registry.tenant("globex").statistics() is not None
            assert hook.of(TenantClosed) == hook.of(TenantClosed, tenant_id="acme")
            assert await other.ask("resume", "acme") == "ok"
            await registry.tenant("acme").messages.save(make_message())

    async def test_a_closed_tenant_is_looked_up_before_it_opens(self, registry: TenantRegistry, other: Other):
        """A tenant that is not open here needs no waiting at all: the next call sees what the other process did."""
        await registry.create("acme")
        await registry.suspend("acme")
        assert other.do("resume", "acme") == "ok"
        assert other.do("delete", "acme") == "ok"
        with pytest.raises(TenantDeletedError):
            await registry.tenant("acme").messages.save(make_message())

    async def test_two_processes_create_one_tenant(self, registry: TenantRegistry, other: Other):
        """One of them makes it; to the other it exists."""
        assert other.do("create", "acme") == "ok"
        with pytest.raises(TenantExistsError):
            await registry.create("acme")

    @pytest.mark.parametrize(
        "moment",
        [
            "type(event).__name__ == 'BatchFinished' and event.calls[0].operation == 'catalog.insert'",
            "type(event).__name__ == 'StoreConnected' and event.tenant_id == 'acme'",
            "type(event).__name__ == 'StoreMigrated' and event.tenant_id == 'acme'",
            "type(event).__name__ == 'TenantOpened'",
        ],
        ids=["inserted", "connected", "migrated", "opened"],
    )
    async def test_a_killed_create_is_finished_by_the_next(self, data_dir: Path, moment: str):
        """A process killed at any moment of a create leaves a tenant that the next registry finishes."""
        script = f"""
import asyncio, os, signal, sys
from tenantry import RegistryConfig, TenantRegistry

def kill(event):
    if {moment}:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with TenantRegistry(RegistryConfig(data_dir=sys.argv[1], open_tenants_max=4), hooks=[kill]) as registry:
        await registry.create("acme", display_name="Acme")
        print("not killed")

asyncio.run(main())
"""
        with python(script, data_dir) as process:
            output, _ = process.communicate()
        assert (process.returncode, output) == (-signal.SIGKILL, "")
        [(state,)] = query(data_dir / "catalog.db", "SELECT state FROM tenants")
        assert state == "provisioning"
        async with TenantRegistry(config(data_dir)) as registry:
            tenant = await registry.get("acme")
            assert (tenant.state, tenant.display_name) == (TenantState.ACTIVE, "Acme")
            await registry.tenant("acme").messages.save(make_message())

    async def test_a_tenant_that_cannot_be_finished_does_not_stop_the_start(self, data_dir: Path):
        """A half-made tenant whose file is damaged is left as it is, and logged; the registry opens for everyone else."""
        await make_tenant(data_dir)
        query(data_dir / "catalog.db", "UPDATE tenants SET state = 'provisioning'")
        database_path(data_dir, "acme").write_bytes(b"no database " * 500)
        with structlog.testing.capture_logs() as logs:
            async with TenantRegistry(config(data_dir)) as registry:
                await registry.create("globex")
                with pytest.raises(TenantNotFoundError):
                    await registry.tenant("acme").messages.save(make_message())
        [failure] = [log for log in logs if log.get("action") == "reconcile"]
        assert (failure["event"], failure["tenant_id"]) == ("tenantry.lifecycle.failed", "acme")

    async def test_a_tenant_that_another_process_is_making_is_left_to_it(self, data_dir: Path):
        """What is half made and locked belongs to whoever makes it."""
        await make_tenant(data_dir)
        query(data_dir / "catalog.db", "UPDATE tenants SET state = 'provisioning'")
        [(uid,)] = query(data_dir / "catalog.db", "SELECT uid FROM tenants")
        lock = LockFile(data_dir / "operations" / uid)
        lock.acquire()
        try:
            async with TenantRegistry(config(data_dir)) as second:
                assert (await second.get("acme")).state is TenantState.PROVISIONING
        finally:
            lock.remove()
