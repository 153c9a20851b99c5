"""Work 9: give 5,000 tenants a new migration; each round takes the next part of them, each side has files of its own.

tenantry opens each tenant, which migrates it, and closes it again: lock, owner, plan, checksum, catalog. The peer is a loop
over the files that does the migration's own SQL and its row, as durably, and nothing else.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.comparison import Comparison, Sample, Target
from benchmarks.fleet import Fleet, build_fleet
from benchmarks.harness import BenchmarkError, Load, Side, Work, compare
from benchmarks.invoices import INVOICES
from tenantry import RegistryConfig, TenantRegistry
from tenantry.company import COMPANY
from tenantry.ids import parse_tenant_id

_TENANTS, _QUICK_TENANTS = 5_000, 450
_AT_ONCE = 32
_SETTING = "one new migration"
_PEER = "sqlite3 loop over the files"
_RECORD = "INSERT INTO schema_migrations VALUES (?, ?, ?, ?, ?, ?)"

Migrate = Callable[[Fleet, Sequence[str]], Sample]


def _run(load: Load) -> Sequence[Comparison]:
    return [
        compare(_SETTING, [_side("tenantry", _through_registry, load), _side(_PEER, _in_a_loop, load)], load)
    ]


def _side(name: str, migrate: Migrate, load: Load) -> Side:
    count = _QUICK_TENANTS if load.is_quick else _TENANTS
    each = count // load.rounds
    made: list[tuple[Fleet, Iterator[list[str]]]] = []

    def run(directory: Path) -> Sample:  # noqa: ARG001  # the fleet outlives the round
        if not made:
            fleet = build_fleet(load.directory / f"migrate-{migrate.__name__}", count, ())
            made.append((fleet, (list(fleet.tenants[n : n + each]) for n in range(0, count, each))))
        fleet, parts = made[0]
        tenants = next(parts)
        sample = migrate(fleet, tenants)
        _check_migrated(fleet, tenants)
        return sample

    return Side(name, run)


def _through_registry(fleet: Fleet, tenants: Sequence[str]) -> Sample:
    return asyncio.run(_open_each(fleet, tenants))


async def _open_each(fleet: Fleet, tenants: Sequence[str]) -> Sample:
    waiting = iter(tenants)
    latencies: list[float] = []

    async def open_the_next() -> None:
        for tenant in waiting:
            called = time.perf_counter()
            leases.release(await leases.lease(parse_tenant_id(tenant)))
            latencies.append(time.perf_counter() - called)

    started = time.perf_counter()
    async with (
        TenantRegistry(RegistryConfig(data_dir=fleet.data_dir), schemas=[COMPANY, INVOICES]) as registry,
        asyncio.TaskGroup() as group,
    ):
        leases = registry._parts.leases  # noqa: SLF001  # to open a tenant and call nothing
        for _ in range(_AT_ONCE):
            group.create_task(open_the_next())
    # With the closing of those that are still open: so does the loop.
    return Sample.of(latencies, time.perf_counter() - started)


def _in_a_loop(fleet: Fleet, tenants: Sequence[str]) -> Sample:
    latencies: list[float] = []
    started = time.perf_counter()
    for tenant in tenants:
        called = time.perf_counter()
        with closing(sqlite3.connect(fleet.database(tenant), isolation_level=None)) as connection:
            _migrate(connection)
        latencies.append(time.perf_counter() - called)
    return Sample.of(latencies, time.perf_counter() - started)


def _migrate(connection: sqlite3.Connection) -> None:
    (migration,) = INVOICES.migrations("sqlite")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute("BEGIN IMMEDIATE")
    for statement in migration.sql.split(";"):
        connection.execute(statement)
    now = datetime.now(UTC).isoformat()
    row = (migration.schema, migration.version, migration.name, migration.checksum, now, 0.0)
    connection.execute(_RECORD, row)
    connection.execute(f"PRAGMA user_version = {version + 1}")
    connection.execute("COMMIT")


def _check_migrated(fleet: Fleet, tenants: Sequence[str]) -> None:
    query = "SELECT count(*) FROM schema_migrations WHERE schema = 'invoices'"
    for tenant in tenants:
        with closing(sqlite3.connect(fleet.database(tenant))) as connection:
            if connection.execute(query).fetchone() != (1,):
                raise BenchmarkError(f"{tenant} was not migrated")


WORK = Work(
    number="9",
    title="migrate 5,000 tenants (--quick: 450), a part of them in each round",
    run=_run,
    targets=(Target(_SETTING, _PEER, must=0.5, reach=1.0),),
)
