"""Work 19: 200 tenants on PostgreSQL with one caller each, so that no batch has more than one call; 16 connections on each side."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import asyncpg

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.harness import Caller, Load, Side, Work, check_rows, compare, measure
from benchmarks.peers import CompanyStore
from benchmarks.peers.message_row import message_builder
from benchmarks.peers.postgres import AsyncpgStore, PostgresServer
from benchmarks.peers.tenantry_postgres import create_tenant, postgres_config
from tenantry import TenantRegistry

_TENANTS, _QUICK_TENANTS = 200, 20
_CONNECTIONS = 16
_SETTING = f"1 caller each, {_CONNECTIONS} connections, save"
_SUBJECT, _PEER = "tenantry on PostgreSQL", "asyncpg"


class _OpenTenants(Protocol):
    def __call__(self, load: Load, directory: Path, count: int) -> AsyncIterator[Sequence[CompanyStore]]: ...


def _run(load: Load) -> Sequence[Comparison]:
    opened = {_SUBJECT: _open_tenantry, _PEER: _open_asyncpg}
    return [
        compare(_SETTING, [Side(name, partial(_round, load, open_)) for name, open_ in opened.items()], load)
    ]


def _round(load: Load, open_tenants: _OpenTenants, directory: Path) -> Sample:
    async def save() -> Sample:
        async with asynccontextmanager(open_tenants)(
            load, directory, _QUICK_TENANTS if load.is_quick else _TENANTS
        ) as stores:
            for store in stores:
                await store.save(message_builder()())
            measured = await measure([Caller(message_builder(), store.save) for store in stores], load)
        stored = sum(store.stored_messages() for store in stores)
        check_rows(stored, measured.answered + len(stores), measured.failed)
        return measured.sample(None)

    return load.run(save())


async def _open_tenantry(load: Load, directory: Path, count: int) -> AsyncIterator[Sequence[CompanyStore]]:
    server = PostgresServer.of(load)
    config = postgres_config(server, directory, connections_max=_CONNECTIONS)
    async with TenantRegistry(config.model_copy(update={"open_tenants_max": count})) as registry:
        yield [await create_tenant(registry, server, ()) for _ in range(count)]


async def _open_asyncpg(load: Load, directory: Path, count: int) -> AsyncIterator[Sequence[CompanyStore]]:  # noqa: ARG001  # its directory is the server's
    server = PostgresServer.of(load)
    async with asyncpg.create_pool(server.uri, min_size=_CONNECTIONS, max_size=_CONNECTIONS) as pool:
        yield [AsyncpgStore(server, server.create_tenant(()), pool) for _ in range(count)]


WORK = Work(
    number="19",
    title="200 tenants on PostgreSQL (--quick: 20), one caller each, messages.save",
    run=_run,
    targets=(
        Target(_SETTING, _PEER, must=0.75),
        Target(_SETTING, _PEER, must=1, measure=Measure.P99),
    ),
)
