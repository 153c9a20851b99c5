"""A registry on PostgreSQL whose connections are all held, or whose copies fail in the middle."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from operators import contents
from postgres_processes import PostgresProcess
from postgres_servers import Database, private_server, url_of
from registries import config
from tenantry import (
    Fetch,
    PersistenceConnectionError,
    Statement,
    StorageFullError,
    TenantRegistry,
    TenantState,
)
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.eventlog import EventLog
from tenantry.storage.artifacts import FilledFile
from tenantry.storage.backends import make_backends
from tenants import HANG_SECONDS, make_message, until

pytestmark = pytest.mark.anyio

TENANTS = ("acme", "globex")
SLOW = Statement("test.slow", "SELECT 1 FROM pg_sleep(?::float8)", (10 * HANG_SECONDS,), Fetch.ONE)


@asynccontextmanager
async def every_connection_held(registry: TenantRegistry) -> AsyncIterator[None]:
    """Hold both connections during the block with statements that go on and on."""
    statements = [
        asyncio.create_task(registry.tenant(tenant_id)._session.read(SLOW)) for tenant_id in TENANTS
    ]
    await until(lambda: in_use(registry) == len(TENANTS))
    try:
        yield
    finally:
        for statement in statements:
            statement.cancel()
        await asyncio.gather(*statements, return_exceptions=True)


def in_use(registry: TenantRegistry) -> int:
    """Return the number of connections that tenants' calls use."""
    return registry.statistics().connections["postgres"].in_use


@pytest.fixture
async def registry(data_dir: Path, postgres_database: Database) -> AsyncIterator[TenantRegistry]:
    """A registry with two connections for three tenants, which are open."""
    url = f"{postgres_database.url}&tenantry_connections_max=2"
    async with TenantRegistry(config(data_dir, database=url)) as registry:
        for tenant_id in (*TENANTS, "quiet"):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).messages.save(make_message("before"))
        yield registry


async def test_operators_are_served_while_tenants_hold_every_connection(registry: TenantRegistry):
    """Who sees that tenants hold every connection can suspend one, and readiness stays."""
    async with asyncio.timeout(HANG_SECONDS), every_connection_held(registry):
        await registry.check_catalog()
        assert (await registry.suspend("quiet", reason="test")).state is TenantState.SUSPENDED
        assert (await registry.get("acme")).state is TenantState.ACTIVE
        assert in_use(registry) == len(TENANTS)
    assert await contents(registry.tenant("acme")) == ["before"]


async def test_open_transactions_leave_connections_for_other_tenants(registry: TenantRegistry):
    """A caller that does something else in a transaction holds up no other tenant; the next transaction waits for its end."""
    began, may_end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with registry.tenant("globex").transaction() as transaction:
            began.set()
            await may_end.wait()
            await transaction.messages.save(make_message("second"))

    async with asyncio.timeout(HANG_SECONDS):
        async with registry.tenant("acme").transaction() as transaction:
            await transaction.messages.save(make_message("first"))
            second = asyncio.create_task(hold())
            for number in range(3):
                await registry.tenant("quiet").messages.save(make_message(str(number)))
            assert await contents(registry.tenant("acme")) == ["before"]
            assert not began.is_set()
        may_end.set()
        await second
    assert await contents(registry.tenant("acme")) == ["before", "first"]
    assert await contents(registry.tenant("globex")) == ["before", "second"]
    assert await contents(registry.tenant("quiet")) == ["0", "1", "2", "before"]


async def test_a_copy_whose_file_cannot_be_written_ends(
    registry: TenantRegistry, monkeypatch: pytest.MonkeyPatch
):
    """The copy ends with the error although the server is still sending rows; the next copy works."""

    def fill(_: FilledFile, table: str, _names: Sequence[str], rows: Iterator[tuple[object, ...]]) -> None:
        if table == "messages":
            assert next(rows)
            raise StorageFullError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(FilledFile, "fill", fill)
        with pytest.raises(StorageFullError, match="the disk is full"):
            await registry.snapshots.create("acme")
    assert (await registry.snapshots.create("acme")).tenant_id == "acme"


@contextmanager
def stopped(server: PostgresProcess) -> Iterator[None]:
    """Stop all processes of the server during the block, so that it neither answers nor ends a connection."""
    postmaster = psutil.Process(server.pid)
    # A stopped postmaster starts no more processes; one that it has started may end.
    postmaster.suspend()
    processes = [postmaster, *postmaster.children()]
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def test_a_server_that_does_not_answer_hides_no_other_report(data_dir: Path):
    """Operators who ask for all back ends get the others' reports, and the name of the one that is silent."""
    with private_server() as server:
        server.start()
        settings = config(data_dir, databases={"east": url_of(server)})
        backends = make_backends(settings, (COMPANY,), clock=SystemClock(), log=EventLog())
        await backends.open()
        try:
            async with asyncio.timeout(HANG_SECONDS):
                with stopped(server):
                    files, east = await backends.reports(seconds_max=1.0)
        finally:
            await backends.aclose()
    assert files.report is not None
    assert (east.name, east.report) == ("east", None)
    assert isinstance(east.error, PersistenceConnectionError)
    assert "east" in str(east.error)
