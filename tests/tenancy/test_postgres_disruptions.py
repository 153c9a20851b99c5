"""A registry on PostgreSQL while its server crashes and comes back: callers, the catalog and lifecycle calls see no error."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import disruptions
from disruptions import Disruptor, Entry, Load, Write
from postgres_processes import PoolerProcess, PostgresProcess
from postgres_servers import Database, PostgresServer, private_replica, private_server, socket_url, url_of
from tenantry import PostgresConfig, RegistryConfig, TenantRegistry
from tenants import HANG_SECONDS, make_message

TENANTS = ("acme", "globex")


@asynccontextmanager
async def registries(url: str, directory: Path, *, count: int = 2) -> AsyncIterator[list[TenantRegistry]]:
    """Give registries on one database, as several processes have them, with two tenants."""
    async with AsyncExitStack() as stack:
        opened = []
        for number in range(count):
            config = RegistryConfig(
                data_dir=directory / f"process-{number}",
                database=PostgresConfig(url=url),
                call_timeout_seconds=HANG_SECONDS,
            )
            opened.append(await stack.enter_async_context(TenantRegistry(config)))
            if number == 0:
                for tenant_id in TENANTS:
                    await opened[0].create(tenant_id)
        yield opened


def write_of(registry: TenantRegistry, tenant_id: str) -> Write:
    """Return what saves each row as a message of its own, all at the same time, and reads them again."""

    async def write(rows: Sequence[Entry]) -> Sequence[Any]:
        messages = registry.tenant(tenant_id).messages
        channel = "{} {}".format(*rows[0])
        made = [make_message(f"{caller} {number}", channel=channel) for caller, number in rows]
        outcomes = await asyncio.gather(*(messages.save(one) for one in made), return_exceptions=True)
        assert {one.id for one in await messages.get_history(channel)} == {one.id for one in made}
        return outcomes

    return write


def stored(url: str) -> list[Entry]:
    """Return the rows of all tenants' messages."""
    rows: list[Entry] = []
    with psycopg.connect(url) as connection:
        for tenant_id in TENANTS:
            found = connection.execute(f"SELECT content FROM tenant_{tenant_id}.messages".encode()).fetchall()
            rows += [(int(content.split()[0]), int(content.split()[1])) for (content,) in found]
    return rows


async def disrupt(happening: Disruptor, url: str, database: Database, directory: Path, *, times: int) -> None:
    """Disrupt the server of two registries that write to two tenants.

    Args:
        happening: What happens to the server.
        url: The URL of the registries.
        database: The database.
        directory: A directory for the registries' files.
        times: How many crashes of one process, immediate restarts and fast restarts there are; twice as many terminations.
    """
    kinds = {
        "terminate": happening.terminate_all,
        "kill -9": happening.kill_one,
        "immediate": lambda: happening.restart("immediate"),
        "fast": lambda: happening.restart("fast"),
    }
    pauses = dict.fromkeys(kinds, 0.0)
    async with registries(url, directory) as opened:
        load = Load([write_of(registry, tenant) for registry in opened for tenant in TENANTS])
        async with load.running():
            for kind in [*kinds, "terminate"] * times:
                await load.progress()
                load.forget_pauses()
                await kinds[kind]()
                await load.progress()
                pauses[kind] = max(pauses[kind], load.longest_pause_seconds)
        verdict = load.verdict(stored(database.direct_url))
    disruptions.check(verdict)
    print(  # noqa: T201  # the figures of a soak
        f"{5 * times} disruptions of a registry, {verdict.acknowledged} rows, longest pauses in seconds: {pauses}"
    )


async def test_disruptions(own_server: PostgresProcess, own_database: Database, tmp_path: Path):
    """Connections are terminated, a process is killed, and the server is restarted, under load."""
    await disrupt(Disruptor(own_server, own_database), own_database.url, own_database, tmp_path, times=1)


@pytest.mark.soak
@pytest.mark.parametrize("version", [15, 16, 18])
async def test_many_disruptions(version: int, tmp_path: Path):
    """Twenty disruptions of each version."""
    with private_server(version) as server:
        server.start()
        with PostgresServer(url_of(server)).database() as database:
            await disrupt(Disruptor(server, database), database.url, database, tmp_path, times=4)


@pytest.mark.soak
async def test_many_disruptions_behind_a_pooler(
    own_server: PostgresProcess, own_database: Database, tmp_path: Path
):
    """Twenty disruptions behind PgBouncer in transaction mode, with a role for each tenant."""
    name = psycopg.conninfo.conninfo_to_dict(own_database.direct_url)["dbname"]
    with PoolerProcess(own_server.socket_directory) as pooler:
        pooler.start()
        url = socket_url(pooler.directory, pooler.port, database=str(name))
        options = "&tenantry_pooled=true&tenantry_roles=true"
        await disrupt(Disruptor(own_server, own_database), url + options, own_database, tmp_path, times=4)


async def test_failover(own_server: PostgresProcess, tmp_path: Path):
    """The primary crashes, and its synchronous replica takes over: the registries find it, and it has everything."""
    with private_replica(own_server, "second") as replica:
        replica.start()
        with psycopg.connect(url_of(own_server), autocommit=True) as connection:
            await disruptions.make_synchronous(connection, "second")
        async with registries(url_of(own_server, replica), tmp_path) as opened:
            load = Load([write_of(registry, tenant) for registry in opened for tenant in TENANTS])
            async with load.running():
                await load.progress()
                load.forget_pauses()
                own_server.stop("immediate")
                replica.promote()
                await load.progress(10)
            await opened[0].create("after")
            verdict = load.verdict(stored(url_of(replica)))
    disruptions.check(verdict)
    print(  # noqa: T201  # the figures of a soak
        f"failover of a registry, {verdict.acknowledged} rows, longest pause in seconds: {load.longest_pause_seconds:.2f}"
    )
