"""What the tests of fleet jobs share: many tenants, a schema that they do not have yet, and functions that can be held.

Import it by name (``tests`` is on pytest's path): ``from fleets import make_fleet``.
"""

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenantry import RegistryConfig, TenantHandle, TenantRegistry
from tenantry.tenancy.catalog.audit import principal_of
from tenantry.tenancy.fleet.fleet import Fleet
from tenantry.tenancy.fleet.job import FleetResult
from tenantry.tenancy.fleet.limits import FLEET_LIMITS, FleetLimits
from tenants import HANG_SECONDS, database_path, make_message, query

INVOICES_SQL = "CREATE TABLE invoices (number TEXT PRIMARY KEY, amount INTEGER NOT NULL) STRICT;"
_CREATED_AT_ONCE = 50


def fleet_config(data_dir: Path, **fields: Any) -> RegistryConfig:
    """Return settings for a small pool that notices others soon."""
    return RegistryConfig(
        data_dir=data_dir, **{"open_tenants_max": 16, "catalog_poll_interval_seconds": 0.02, **fields}
    )


def limited(registry: TenantRegistry, limits: FleetLimits) -> TenantRegistry:
    """Give other limits to the fleet jobs of a registry that has not opened yet, and return the registry."""
    fleet = registry.fleet
    tools = replace(fleet._tools, limits=limits)
    Fleet.__init__(fleet, tools, check_open=fleet._check_open, log=fleet._runner._log)
    return registry


def tenant_ids(count: int) -> list[str]:
    """Return so many ids, in order."""
    return [f"t-{number:05}" for number in range(count)]


async def make_fleet(data_dir: Path, count: int, *, failing: Sequence[str] = ()) -> list[str]:
    """Create so many tenants without invoices, and give the failing ones a table that the migration collides with."""
    ids = tenant_ids(count)
    async with TenantRegistry(fleet_config(data_dir)) as registry:
        for start in range(0, count, _CREATED_AT_ONCE):
            await asyncio.gather(*map(registry.create, ids[start : start + _CREATED_AT_ONCE]))
    for tenant_id in failing:
        query(database_path(data_dir, tenant_id), "CREATE TABLE invoices (mine)")
    return ids


def add_entries(data_dir: Path, count: int) -> list[str]:
    """Add so many tenants to the catalog of a data directory that has one: entries only, without any files."""
    ids = tenant_ids(count)
    with closing(sqlite3.connect(data_dir / "catalog.db")) as catalog:
        catalog.row_factory = sqlite3.Row
        # Unlike SELECT *, table_info leaves out the generated column, which takes no value.
        names = [name for (name,) in catalog.execute("SELECT name FROM pragma_table_info('tenants')")]
        entry = dict(catalog.execute(f"SELECT {', '.join(names)} FROM tenants LIMIT 1").fetchone())
        places = ", ".join(f":{name}" for name in entry)
        catalog.executemany(
            f"INSERT INTO tenants ({', '.join(entry)}) VALUES ({places})",
            ({**entry, "id": i, "location": i, "uid": uuid.uuid4().hex} for i in ids),
        )
        catalog.commit()
    return ids


def job_rows(data_dir: Path, columns: str) -> dict[str, tuple[Any, ...]]:
    """Return columns of the tenants that have an outcome in the only job there is, read without tenantry."""
    sql = f"SELECT tenant_id, {columns} FROM fleet_results WHERE outcome IS NOT NULL"
    return {tenant_id: tuple(values) for tenant_id, *values in query(data_dir / "catalog.db", sql)}


def nested(levels: int) -> list[Any]:
    """Return lists in lists, so many."""
    made: list[Any] = []
    for _ in range(levels - 1):
        made = [made]
    return made


class Held:
    """A fleet function that begins and then waits, each time it is called, until it is let go."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.at_once = self.at_once_peak = 0
        self._tickets = 0.0
        self._changed = asyncio.Condition()

    async def __call__(self, tenant: TenantHandle, arguments: dict[str, Any]) -> None:
        """Begin, wait, and fail for the tenants that the arguments name."""
        async with self._changed:
            self.order.append(tenant.id)
            self.at_once += 1
            self.at_once_peak = max(self.at_once_peak, self.at_once)
            self._changed.notify_all()
            try:
                await self._changed.wait_for(lambda: self._tickets > 0)
            finally:
                self.at_once -= 1
            self._tickets -= 1
        if tenant.id in arguments.get("failing", ()):
            raise ValueError(f"{tenant.id} fails")

    async def begun(self, count: int) -> None:
        """Wait until it was called so often."""
        async with asyncio.timeout(HANG_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.order) >= count)

    async def let_go(self, count: float = float("inf")) -> None:
        """Let so many calls end, of those that wait and those to come."""
        async with self._changed:
            self._tickets += count
            self._changed.notify_all()


class FakeSnapshots:
    """Takes snapshots in name only."""

    def __init__(self) -> None:
        self.created: list[tuple[str, str]] = []
        self.restored: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def given_to(self, registry: TenantRegistry) -> None:
        """Let the registry's jobs use it."""
        work = registry.fleet._work
        work._tools = replace(work._tools, snapshots=self)

    async def create(self, tenant_id: str, *, trigger: str, by: str) -> Any:
        """Note it."""
        assert by == principal_of(None)
        self.created.append((tenant_id, trigger))
        return type("Snapshot", (), {"id": f"snapshot-{len(self.created)}"})

    async def restore(self, tenant_id: str, snapshot_id: str, *, migrate: bool, by: str) -> None:
        """Note it, and fail if that is asked for."""
        assert not migrate
        assert by == principal_of(None)
        self.restored.append((tenant_id, snapshot_id))
        if self.error is not None:
            raise self.error


async def save(tenant: TenantHandle, arguments: dict[str, Any]) -> None:
    """Leave a message behind for each time that it is called."""
    await tenant.messages.save(make_message(arguments.get("text", "called")))


def fail_with(error: Exception) -> Any:
    """Return a function that fails for every tenant."""

    async def fail(_: TenantHandle, __: dict[str, Any]) -> None:
        raise error

    return fail


@asynccontextmanager
async def holding(
    data_dir: Path, held: Held, *, limits: FleetLimits = FLEET_LIMITS, **fields: Any
) -> AsyncIterator[TenantRegistry]:
    """Open a registry that knows the function ``held``."""
    registry = limited(TenantRegistry(fleet_config(data_dir, **fields)), limits)
    registry.fleet.register("held", held)
    async with registry:
        yield registry


async def all_results(registry: TenantRegistry, job_id: str, outcome: str | None = None) -> list[FleetResult]:
    """Return every result, page by page."""
    found: list[FleetResult] = []
    cursor = None
    while True:
        page = await registry.fleet.results(job_id, outcome=outcome, limit=7, cursor=cursor)
        found += page
        cursor = page.next_cursor
        if cursor is None:
            return found


async def reached(registry: TenantRegistry, job_id: str, **counts: int) -> None:
    """Wait until the job's progress has these counts."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            progress = await registry.fleet.progress(job_id)
            if all(getattr(progress, name) == count for name, count in counts.items()):
                return


async def paused_job(registry: TenantRegistry, kind: str, **options: Any) -> str:
    """Start a job and pause it before its first tenant; return its id."""
    places = registry.fleet._runner._places
    async with AsyncExitStack() as taken:
        while not places.locked():
            await taken.enter_async_context(places)
        job = await registry.fleet.start(kind, **options)
        await registry.fleet.pause(job.id)
    progress = await registry.fleet.wait(job.id)
    assert progress.left == progress.total
    return job.id
