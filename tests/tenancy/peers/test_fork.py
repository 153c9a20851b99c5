"""Forks of a process that has a registry open: the child can use nothing of its parent, and disturbs neither it nor others."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from forking import CLOSED, FORWARDED, OWN, READ, forking
from postgres_servers import Database
from registries import config
from tenantry import TenantRegistry
from tenantry.errors import CallTimeoutError
from tenantry.storage.sqlite.database_files.database_file import log_of
from tenants import (
    HANG_SECONDS,
    database_path,
    history,
    make_message,
    read_json,
    read_line,
    say,
    stored_contents,
    until,
)

pytestmark = pytest.mark.unmeasured


@pytest.fixture
async def registry(data_dir: Path) -> AsyncIterator[TenantRegistry]:
    """A registry with four tenants, which are closed."""
    async with TenantRegistry(config(data_dir)) as made:
        for name in (OWN, READ, FORWARDED, CLOSED):
            await made.create(name)
    async with TenantRegistry(config(data_dir, call_timeout_seconds=HANG_SECONDS)) as opened:
        yield opened


def sockets_of(data_dir: Path) -> list[Path]:
    """Return the sockets of the processes that have the directory open."""
    return [path for path in (data_dir / "peers").iterdir() if path.is_socket()]


@pytest.mark.parametrize("way", ["beside the loop", "in the loop"])
async def test_a_child_is_refused_at_once(registry: TenantRegistry, data_dir: Path, way: str):
    """Each call in the child raises an error that says what to do; the parent goes on as if it had never forked."""
    await say(registry, FORWARDED, "first")
    with forking(way, data_dir) as process:
        output, errors = await asyncio.to_thread(process.communicate)
    assert (process.returncode, errors) == (0, "")
    for call, outcome in json.loads(output).items():
        assert outcome.startswith("RegistryClosedError: this process was forked"), (call, outcome)
        assert "open a registry in each process after the fork" in outcome
    assert await history(registry, FORWARDED) == ["first", "before", "after"]
    assert stored_contents(data_dir, OWN) == ["before", "begun", "ended", "after"]
    assert stored_contents(data_dir, READ) == stored_contents(data_dir, CLOSED) == ["after"]
    # The parent closed its tenants properly.
    for name in (OWN, READ, CLOSED):
        assert not log_of(database_path(data_dir, name)).exists()
        await registry.snapshots.create(name)  # a snapshot checks the whole database


@pytest.mark.parametrize("is_hooked", ["yes", "no"])
async def test_the_owner_forks_and_dies(registry: TenantRegistry, data_dir: Path, is_hooked: str):
    """Other processes go on at once, though the child lives; without the hook they wait for the child to their deadlines."""
    with forking("wait", data_dir, is_hooked) as owner:
        assert await asyncio.to_thread(read_line, owner) == "open"
        async with TenantRegistry(
            config(data_dir, call_timeout_seconds=HANG_SECONDS if is_hooked == "yes" else 1.0)
        ) as other:
            await say(other, OWN, "forwarded")
            assert owner.stdin is not None
            owner.stdin.write("\n")
            owner.stdin.flush()
            child = int(await asyncio.to_thread(read_line, owner))
            try:
                owner.kill()
                await asyncio.to_thread(owner.wait)
                if is_hooked == "yes":
                    await say(other, OWN, "after")
                    assert await history(other, OWN) == ["before", "forwarded", "after"]
                else:
                    with pytest.raises(CallTimeoutError):
                        await say(other, OWN, "after")
                os.kill(child, 0)  # it lives
            finally:
                os.kill(child, signal.SIGKILL)


async def test_a_forwarding_process_forks_and_dies(registry: TenantRegistry, data_dir: Path):
    """Its open transaction is rolled back, though the child lives, and the owner's next write does not wait for the child."""
    await say(registry, OWN, "first")
    with forking("in a transaction", data_dir) as other:
        child = int(await asyncio.to_thread(read_line, other))
        try:
            other.kill()
            await asyncio.to_thread(other.wait)
            await registry.tenant(OWN).messages.save(make_message("next"))
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)
    assert await history(registry, OWN) == ["first", "next"]


async def test_a_registry_that_opens_after_the_fork(registry: TenantRegistry, data_dir: Path):
    """An object that was made before the fork is opened in each child: each has a socket and numbers of its own."""
    await say(registry, FORWARDED, "first")
    with forking("in children", data_dir) as process:
        assert process.stdin is not None
        for expected in ("open", "said"):
            assert [await asyncio.to_thread(read_line, process) for _ in range(2)] == [expected] * 2
            if expected == "open":
                assert len(sockets_of(data_dir)) == 3
                # With a common token, the second would count as the first that connects again.
                assert registry._parts.peers.counts() == (0, 2)
            process.stdin.write("go")
            process.stdin.flush()
        output, errors = await asyncio.to_thread(process.communicate)
    assert (process.returncode, output, errors) == (0, "done\n", "")
    said = [f"{name} {number}" for name in ("first", "second") for number in range(100)]
    assert sorted(await history(registry, FORWARDED)) == sorted(
        ["first", "first opens", "second opens", *said]
    )
    assert sorted(stored_contents(data_dir, OWN)) == sorted(["first opens", *said])
    assert sorted(stored_contents(data_dir, READ)) == sorted(["second opens", *said])


@pytest.mark.parametrize("when", ["open", "closed"])
async def test_a_child_opens_the_same_directory(registry: TenantRegistry, data_dir: Path, when: str):
    """A child cannot open files that its parent had open at the fork, because SQLite would not lock them; closed files it can."""
    await registry.aclose()
    with forking("again", data_dir, when) as process:
        outcome = await asyncio.to_thread(read_json, process)
        _, errors = await asyncio.to_thread(process.communicate)
    assert (process.returncode, errors) == (0, "")
    if when == "open":
        assert outcome.startswith("PersistenceConnectionError: ")
        assert "was open when this process was forked" in outcome
        assert "fork before a registry opens" in outcome
    assert stored_contents(data_dir, OWN) == ["of the parent", *["of the child"] * (when == "closed")]


async def test_a_fork_with_tenants_on_postgresql(data_dir: Path, postgres_database: Database):
    """A child that ends leaves the parent's sessions alone; the server ends the sessions when the parent dies, though a child lives."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(postgres_database.url, autocommit=True) as server:

        def sessions() -> int:
            [(found,)] = server.execute(query).fetchall()
            return int(found)

        with forking("on a server", data_dir, postgres_database.url) as process:
            assert (await asyncio.to_thread(read_line, process)).startswith("RegistryClosedError: ")
            child = int(await asyncio.to_thread(read_line, process))
            try:
                assert sessions() > 0
                process.kill()
                await asyncio.to_thread(process.wait)
                await until(lambda: sessions() == 0)
                os.kill(child, 0)
            finally:
                os.kill(child, signal.SIGKILL)
        [(messages,)] = server.execute(f"SELECT count(*) FROM {schema_of(server)}.messages").fetchall()
    assert messages == 2


def schema_of(server: psycopg.Connection) -> str:
    """Return the schema of the only tenant."""
    query = "SELECT table_schema FROM information_schema.tables WHERE table_name = 'messages'"
    [(name,)] = server.execute(query).fetchall()
    return str(name)
