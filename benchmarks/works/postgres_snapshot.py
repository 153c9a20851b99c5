"""Work 21: a snapshot of one tenant on PostgreSQL among many tenants, against the same among 10."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.harness import Load, Side, Work, compare
from benchmarks.peers.postgres import PostgresServer
from benchmarks.peers.tenantry_postgres import create_tenant, postgres_config
from tenantry import TenantRegistry
from tenantry.testing.conformance.samples import make_message

_FEW = 10
_MANY, _QUICK_MANY = 1_000, 50
_ROWS = 2_000
_SETTING = f"{_ROWS:,} messages, snapshots.create"


def _run(load: Load) -> Sequence[Comparison]:
    many = _QUICK_MANY if load.is_quick else _MANY
    sides = [Side(_name(count), partial(_round, load, count)) for count in (many, _FEW)]
    return [compare(_SETTING, sides, load)]


def _name(count: int) -> str:
    return f"among {count:,} tenants"


def _round(load: Load, tenants: int, directory: Path) -> Sample:
    server = load.once(f"a database with {tenants} tenants", lambda: _database(load, tenants))

    async def take() -> Sample:
        latencies: list[float] = []
        async with TenantRegistry(postgres_config(server, directory)) as registry:
            store = await create_tenant(registry, server, ())
            await store.tenant.messages.save_many([make_message() for _ in range(_ROWS)])
            started = time.perf_counter()
            until = started + load.seconds
            while not latencies or time.perf_counter() < until:
                called = time.perf_counter()
                await registry.snapshots.create(store.tenant.id)
                latencies.append(time.perf_counter() - called)
            seconds = time.perf_counter() - started
            await registry.delete(store.tenant.id)
        return Sample.of(latencies, seconds)

    return load.run(take())


def _database(load: Load, tenants: int) -> PostgresServer:
    """Return a new database of the load's server, in which so many tenants' schemas are."""
    uri = PostgresServer.of(load).uri
    name = f"among_{tenants}"
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    server = PostgresServer(urlsplit(uri)._replace(path=f"/{name}").geturl())
    for _ in range(tenants):
        server.create_tenant(())
    return server


WORK = Work(
    number="21",
    title="a snapshot of one tenant on PostgreSQL among 1,000 tenants (--quick: 50)",
    run=_run,
    targets=(Target(_SETTING, _name(_FEW), must=1.5, measure=Measure.P50),),
)
