"""What a process remembers of a catalog on a database server: until a poll sees another process's change, or its own write."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from postgres_servers import Database
from tenantry import RegistryConfig, TenantRegistry
from tenantry.clock import SystemClock
from tenantry.eventlog import EventLog
from tenantry.ids import parse_tenant_id
from tenantry.lifecycle import TenantEvent, TenantState
from tenantry.storage.backends import make_backends
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.actors.limiter import Limiters
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.catalog.changes import UNPOLLED_SECONDS_MAX
from tenantry.tenancy.clock_watch import ClockWatch

ACME = parse_tenant_id("acme")


class StillClock(SystemClock):
    """A clock whose monotonic time the test sets."""

    seconds = 1000.0

    def monotonic_seconds(self) -> float:  # type: ignore[override]  # a static method of the class
        """Return the time that the test has set."""
        return self.seconds


class Process:
    """The catalog as one process has it open, and how often it asks the database for a tenant."""

    def __init__(self, config: RegistryConfig) -> None:
        self.clock = StillClock()
        watch = ClockWatch(self.clock, 0.0, lambda _: None, EventLog())
        self.backends = make_backends(config, (), clock=SystemClock(), log=EventLog())
        context = ActorContext(config, Limiters.of(config), self.clock, lambda _: None, watch)
        self.catalog = Catalog(self.backends.catalog, context)
        self.reads = 0
        find = self.catalog.find

        async def counted(tenant_id: object) -> object:
            self.reads += 1
            return await find(tenant_id)  # type: ignore[arg-type]

        self.catalog.find = counted  # type: ignore[assignment,method-assign]

    async def state(self) -> TenantState:
        """Return the tenant's state as a call sees it."""
        return (await self.catalog.get(ACME)).state


@pytest.fixture
async def processes(data_dir: Path, postgres_database: Database) -> AsyncIterator[tuple[Process, Process]]:
    """Two processes with the same catalog, which nobody polls but the test, and a tenant."""
    config = RegistryConfig(data_dir=data_dir, database=postgres_database.url, default_backend="sqlite")
    async with TenantRegistry(config) as registry:
        await registry.create("acme")
    async with AsyncExitStack() as stack:
        both = (Process(config), Process(config))
        for process in both:
            await process.backends.open()
            stack.push_async_callback(process.backends.aclose)
            await process.catalog.open()
            stack.push_async_callback(process.catalog.aclose, 10.0)
            await process.catalog.changes_by_others()
        yield both


async def change(process: Process, event: TenantEvent) -> None:
    """Change the tenant's state in one process."""
    tenant = await process.catalog.find_by_uid((await process.catalog.get(ACME)).uid)
    assert tenant is not None
    await process.catalog.apply(tenant, event)


async def test_an_unchanged_catalog_is_read_once(processes: tuple[Process, Process]):
    """A poll without a change keeps what was read, however many polls there are."""
    process, _ = processes
    for _ in range(5):
        await process.state()
        process.clock.seconds += UNPOLLED_SECONDS_MAX / 2
        await process.catalog.changes_by_others()
    assert process.reads == 1


async def test_another_process_is_seen_by_the_next_poll(processes: tuple[Process, Process]):
    """Until then what was read is used; the change itself is seen at once where it was made."""
    one, two = processes
    assert await two.state() is TenantState.ACTIVE
    await change(one, TenantEvent.SUSPEND)
    assert await one.state() is TenantState.SUSPENDED
    assert await two.state() is TenantState.ACTIVE
    assert (await two.catalog.get_latest(ACME)).state is TenantState.SUSPENDED
    await two.catalog.changes_by_others()
    assert await two.state() is TenantState.SUSPENDED


async def test_another_process_is_seen_within_a_second_without_a_poll(processes: tuple[Process, Process]):
    """If no poll gets through, nothing is remembered for longer, and each call asks the database."""
    one, two = processes
    await two.state()
    await change(one, TenantEvent.SUSPEND)
    two.clock.seconds += UNPOLLED_SECONDS_MAX + 0.001
    reads = two.reads
    for _ in range(3):
        assert await two.state() is TenantState.SUSPENDED
    assert two.reads == reads + 3


async def test_a_revoked_key_is_refused_at_once(data_dir: Path, postgres_database: Database):
    """Keys are remembered by nobody: the next request in any process is refused."""
    config = RegistryConfig(data_dir=data_dir, database=postgres_database.url)
    async with TenantRegistry(config) as one, TenantRegistry(config) as two:
        made = await one.keys.create(name="key")
        assert await two.keys.authenticate(made.token) == made.key
        await one.keys.revoke(made.key.id)
        assert await two.keys.authenticate(made.token) is None
