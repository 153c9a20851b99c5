"""What goes wrong under an open tenant: a damaged file, an owner that was replaced, a close that fails, a write that hangs."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from service import Service
from stores import small_disk
from tenantry import RegistryConfig, Repository, Statement, TenantRegistry, TenantState
from tenantry.errors import (
    DatabaseCorruptError,
    DataDirectoryError,
    MalformedRowError,
    RegistryClosedError,
    StorageFullError,
    TenantOwnedElsewhereError,
    TenantQuarantinedError,
)
from tenantry.events import BatchFinished, TenantClosed
from tenantry.storage.sqlite.connections.connection import JobConnection
from tenants import (
    HANG_SECONDS,
    Recorder,
    database_path,
    make_message,
    open_files,
    query,
    stored_contents,
    threads_since,
    until,
)


class Blocking(Repository):
    """Writes through a SQL function of the test's own, which takes as long as the test likes."""

    async def wait(self) -> None:
        """Occupy the writer."""
        statement = Statement("test.wait", "INSERT INTO notes SELECT block()")
        await self.write(statement)


def config(data_dir: Path, **fields: Any) -> RegistryConfig:
    """Return settings for a small pool."""
    return RegistryConfig(data_dir=data_dir, **{"open_tenants_max": 4, **fields})


async def add_block(
    registry: TenantRegistry, data_dir: Path, tenant_id: str, block: Callable[[], int]
) -> None:
    """Give an open tenant's writer the function ``block()``, which runs on its thread."""
    query(database_path(data_dir, tenant_id), "CREATE TABLE IF NOT EXISTS notes (x)")
    actor = registry._parts.pool.actor(tenant_id)
    assert actor is not None
    writer = actor._store._connections.writer
    await writer.run(lambda connection: connection.create_function("block", 0, block))


def spoil(path: Path) -> int:
    """Overwrite everything of a database but its first page, and return a descriptor to close when nobody has it open."""
    fd = os.open(path, os.O_WRONLY)
    size = os.fstat(fd).st_size
    os.pwrite(fd, b"\xa5" * (size - 4096), 4096)
    return fd


@pytest.mark.parametrize("way", ["read", "write", "transaction"])
async def test_a_file_that_is_damaged_while_open(data_dir: Path, way: str):
    """The tenant is quarantined with the reason and closed; nobody else notices, and later calls say what happened."""
    hook = Recorder()
    async with TenantRegistry(config(data_dir)) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).messages.save_many(
                [make_message("x" * 1000) for _ in range(200)]
            )
    async with TenantRegistry(config(data_dir), hooks=[hook]) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.tenant(tenant_id).tasks.get("none")
        fd = spoil(database_path(data_dir, "acme"))
        with pytest.raises(DatabaseCorruptError) as caught:
            await use(registry, "acme", way)
        assert caught.value.code is not None
        await hook.wait_for(TenantClosed, tenant_id="acme", reason="failed")
        with pytest.raises(TenantQuarantinedError) as refused:
            await registry.tenant("acme").messages.save(make_message())
        tenant = await registry.get("acme")
        assert (tenant.state, tenant.reason) == (TenantState.QUARANTINED, refused.value.reason)
        await registry.tenant("globex").messages.save(make_message())
        assert registry.tenant("globex").statistics() is not None
    os.close(fd)
    assert len(stored_contents(data_dir, "globex")) == 201
    assert open_files(data_dir) == []


def failures(logs: list[Any]) -> list[str]:
    """Return what the log says of why tenants could not go on."""
    return [log["error_type"] for log in logs if log["event"] == "tenantry.tenant.failed"]


async def test_a_damaged_tenant_that_was_suspended_meanwhile(data_dir: Path):
    """When the catalog does not allow to set it apart, that is logged, and the tenant is closed all the same."""
    hook = Recorder()
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
        await registry.tenant("acme").messages.save_many([make_message("x" * 1000) for _ in range(200)])
    async with TenantRegistry(config(data_dir), hooks=[hook]) as registry:
        await registry.tenant("acme").tasks.get("none")
        fd = spoil(database_path(data_dir, "acme"))
        query(data_dir / "catalog.db", "UPDATE tenants SET state = 'suspended'")
        with structlog.testing.capture_logs() as logs:
            with pytest.raises(DatabaseCorruptError):
                await use(registry, "acme", "read")
            await hook.wait_for(TenantClosed, tenant_id="acme")
            await until(lambda: len(failures(logs)) > 1)
        assert failures(logs) == ["DatabaseCorruptError", "TenantSuspendedError"]
        assert (await registry.get("acme")).state is TenantState.SUSPENDED
    os.close(fd)


async def test_a_close_that_fails(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A tenant that will not close is logged and keeps its lock; everybody else is closed, and the registry too."""
    aclose = JobConnection.aclose

    async def fail_for_acme(connection: JobConnection, *arguments: Any) -> None:
        _, _, path = await connection.run(lambda c: c.execute("PRAGMA database_list").fetchone())
        if "/acme/" in path:
            raise sqlite3.OperationalError("disk I/O error")
        await aclose(connection, *arguments)

    async with TenantRegistry(config(data_dir)) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).messages.save(make_message(tenant_id))
        actor = registry._parts.pool.actor("acme")
        assert actor is not None
        monkeypatch.setattr(JobConnection, "aclose", fail_for_acme)
        with structlog.testing.capture_logs() as logs:
            await registry.aclose()
    [failure] = [log for log in logs if log["event"] == "tenantry.tenant.close_failed"]
    assert (failure["tenant_id"], failure["error_type"]) == ("acme", "PersistenceConnectionError")
    assert {path for path in open_files(data_dir) if "/acme/" not in path} == set()
    async with TenantRegistry(config(data_dir)) as second:
        with pytest.raises(TenantOwnedElsewhereError) as caught:
            await second.tenant("acme").messages.save(make_message())
        assert caught.value.pid == os.getpid()
        await second.tenant("globex").messages.save(make_message())
    monkeypatch.undo()
    await actor._store.disconnect()
    assert stored_contents(data_dir, "acme") == ["acme"]


async def test_a_write_that_hangs_is_abandoned(data_dir: Path):
    """Closing waits for it so long and no longer: its caller is told that it may be done, its lock is kept, others close."""
    started, go_on = threading.Event(), threading.Event()

    def block() -> int:
        started.set()
        assert go_on.wait(HANG_SECONDS)
        return 1

    threads = set(threading.enumerate())
    registry = TenantRegistry(config(data_dir, shutdown_timeout_seconds=0.05))
    await registry.open()
    for tenant_id in ("acme", "globex"):
        await registry.create(tenant_id)
    await add_block(registry, data_dir, "acme", block)
    acme, globex = registry.tenant("acme"), registry.tenant("globex")
    hanging = asyncio.ensure_future(acme.repository(Blocking).wait())
    await until(started.is_set)
    behind = asyncio.ensure_future(acme.messages.save(make_message("behind")))
    # A hanging neighbour holds nobody up.
    await globex.messages.save(make_message("globex"))
    assert await acme.messages.get_history("general") == ()
    with structlog.testing.capture_logs() as logs:
        await registry.aclose()
    with pytest.raises(RegistryClosedError, match="the call may or may not have taken effect"):
        await hanging
    with pytest.raises(RegistryClosedError, match="the call had not started and has no effect"):
        await behind
    [abandoned] = [log for log in logs if log["event"] == "tenantry.actor.abandoned"]
    assert (abandoned["tenant_id"], abandoned["timeout_seconds"]) == ("acme", 0.05)
    assert stored_contents(data_dir, "globex") == ["globex"]
    async with TenantRegistry(registry.config) as second:
        with pytest.raises(TenantOwnedElsewhereError):
            await second.tenant("acme").messages.save(make_message())
    go_on.set()
    # What was left closes by itself once the write has ended, and then the tenant can be opened again.
    await until(lambda: (threads_since(threads), open_files(data_dir)) == ([], []))
    async with TenantRegistry(registry.config) as third:
        assert await third.tenant("acme").messages.get_history("general") == ()
    # It was interrupted, so that it ended when it could.
    assert query(database_path(data_dir, "acme"), "SELECT x FROM notes") == []
    assert stored_contents(data_dir, "acme") == []


async def test_a_statement_that_hangs_in_a_transaction(data_dir: Path):
    """The close does not wait for it either, nor does it take the transaction for ended."""
    started, go_on = threading.Event(), threading.Event()

    def block() -> int:
        started.set()
        assert go_on.wait(HANG_SECONDS)
        return 1

    registry = TenantRegistry(config(data_dir, shutdown_timeout_seconds=0.05))
    await registry.open()
    await registry.create("acme")
    await add_block(registry, data_dir, "acme", block)
    actor = registry._parts.pool.actor("acme")

    async def work() -> None:
        async with registry.tenant("acme").transaction() as tx:
            await tx.repository(Blocking).wait()

    task = asyncio.ensure_future(work())
    await until(started.is_set)
    with structlog.testing.capture_logs() as logs:
        await registry.aclose()
    assert [log["tenant_id"] for log in logs if log["event"] == "tenantry.actor.abandoned"] == ["acme"]
    go_on.set()
    await asyncio.wait([task], timeout=HANG_SECONDS)
    assert task.done()
    task.exception()
    await actor._store.disconnect()
    assert open_files(data_dir) == []


async def test_a_catalog_that_fails_for_a_while(data_dir: Path):
    """The maintenance says so and tries again: afterwards the counts are right, and tenants were served all the time."""
    hook = Recorder()
    with structlog.testing.capture_logs() as logs:
        async with TenantRegistry(
            config(data_dir, catalog_poll_interval_seconds=0.01), hooks=[hook]
        ) as registry:
            await registry.create("acme")
            query(data_dir / "catalog.db", "ALTER TABLE tenant_states RENAME TO gone")
            await wait_for_states(hook, "error")
            await registry.tenant("acme").messages.save(make_message())
            hook.events.clear()
            query(data_dir / "catalog.db", "ALTER TABLE gone RENAME TO tenant_states")
            await wait_for_states(hook, "ok")
            assert registry.statistics().tenants[TenantState.ACTIVE] == 1
    assert "tenantry.registry.maintenance_failed" in {log["event"] for log in logs}


async def use(registry: TenantRegistry, tenant_id: str, way: str) -> None:
    """Read, write or open a transaction."""
    handle = registry.tenant(tenant_id)
    if way == "read":
        await handle.messages.get_history("general")
    elif way == "write":
        await handle.messages.save(make_message())
    else:
        async with handle.transaction() as tx:
            await tx.messages.save(make_message())


async def wait_for_states(hook: Recorder, outcome: str) -> None:
    """Wait until the catalog was asked for its counts with this outcome."""
    await until(
        lambda: any(
            call[:2] == ("catalog.states", outcome)
            for batch in hook.of(BatchFinished)
            for call in batch.calls
        )
    )
    # What follows from the answer happens in the next rounds of the loop.
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_opening_that_cannot_be_noted(data_dir: Path):
    """A catalog that cannot be written does not fail an opening that went well, and nothing of the tenant leaks."""
    threads = set(threading.enumerate())
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
    query(data_dir / "catalog.db", "UPDATE tenants SET schema_versions = '{}'")
    query(
        data_dir / "catalog.db",
        "CREATE TRIGGER refuse BEFORE UPDATE ON tenants BEGIN SELECT RAISE(ABORT, 'refused'); END",
    )
    with structlog.testing.capture_logs() as logs:
        async with TenantRegistry(config(data_dir)) as registry:
            assert await registry.tenant("acme").messages.get_history("general") == ()
    assert [log["tenant_id"] for log in logs if log["event"] == "tenantry.tenant.not_noted"] == ["acme"]
    assert (threads_since(threads), open_files(data_dir)) == ([], [])


async def test_a_catalog_entry_of_a_newer_tenantry(data_dir: Path):
    """An entry that cannot be read is said to be that; everybody else is served, and closing leaves nothing."""
    threads = set(threading.enumerate())
    registry = TenantRegistry(config(data_dir, catalog_poll_interval_seconds=0.01))
    await registry.open()
    for tenant_id in ("acme", "globex"):
        await registry.create(tenant_id)
    with structlog.testing.capture_logs() as logs:
        query(data_dir / "catalog.db", "UPDATE tenants SET state = 'hibernated' WHERE id = 'globex'")
        with pytest.raises(MalformedRowError, match="'globex'"):
            await registry.list()
        await until(lambda: any(log["event"] == "tenantry.registry.maintenance_failed" for log in logs))
        await registry.tenant("acme").messages.save(make_message())
        await registry.aclose()
    assert (threads_since(threads), open_files(data_dir)) == ([], [])


class _BrokenLogger:
    """A log whose pipe has been closed."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def write(*_: object, **__: object) -> None:
            raise BrokenPipeError(name)

        return write


async def test_a_log_that_cannot_be_written(data_dir: Path):
    """The work goes on: calls are answered, places come free, and the registry closes."""
    structlog.configure(
        logger_factory=lambda *_: _BrokenLogger(), wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    async with TenantRegistry(config(data_dir, open_tenants_max=1)) as registry:
        for tenant_id in ("acme", "globex"):
            await registry.create(tenant_id)
            await registry.tenant(tenant_id).messages.save(make_message())
        assert len(await registry.tenant("acme").messages.get_history("general")) == 1
    assert open_files(data_dir) == []


async def test_a_directory_that_the_catalog_does_not_know(data_dir: Path):
    """After an old catalog was put back, creating the tenant anew is refused, and what lies there is not touched."""
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message())
    before = database_path(data_dir, "acme").read_bytes()
    query(data_dir / "catalog.db", "DELETE FROM tenants")
    async with TenantRegistry(config(data_dir)) as registry:
        with pytest.raises(DataDirectoryError, match="restore the catalog"):
            await registry.create("acme")
        assert await registry.list() == ()
    assert database_path(data_dir, "acme").read_bytes() == before


async def test_a_catalog_that_is_lost(data_dir: Path):
    """Where there are tenants nobody begins anew with none, and the copy that is put back knows them."""
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
    catalog = (data_dir / "catalog.db").read_bytes()
    (data_dir / "catalog.db").unlink()
    with pytest.raises(DataDirectoryError, match="put the newest copy"):
        await TenantRegistry(config(data_dir)).open()
    assert not (data_dir / "catalog.db").exists()
    (data_dir / "catalog.db").write_bytes(catalog)
    async with TenantRegistry(config(data_dir)) as registry:
        assert (await registry.get("acme")).state is TenantState.ACTIVE


async def test_a_full_disk(tmp_path: Path):
    """What would write says that there is no space and leaves no lock; what reads goes on, also the first list ever."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        async with TenantRegistry(config(disk / "data")) as registry, Service(registry) as service:
            await registry.create("acme")
            admin = await service.caller("admin")
            fill(disk)
            for call in (
                registry.create("globex"),
                registry.archive("acme"),
                registry.fleet.start("check"),
                registry.snapshots.create("acme"),
                registry.export("acme", tmp_path / "acme.tar.gz"),
            ):
                with pytest.raises(StorageFullError, match="free space"):
                    await call
            assert list((disk / "data" / "operations").iterdir()) == []
            for path in ("/v1/tenants", "/v1/audit", "/v1/tenants/acme"):
                assert (await admin.get(path)).status_code == 200
            (disk / "ballast").unlink()
            await registry.create("globex")


def fill(disk: Path) -> None:
    """Leave no space on a small disk."""
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


@pytest.mark.parametrize(
    "state", ["closed", "open for reading", "open for writing", "left by a process that was killed"]
)
async def test_reads_on_a_full_disk(tmp_path: Path, state: str):
    """Reads go on in whatever state the tenant is, also after a write that was refused; when there is space, so do writes."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        path = database_path(disk / "data", "acme")
        async with TenantRegistry(config(disk / "data")) as registry:
            await registry.create("acme")
            await registry.tenant("acme").messages.save(make_message("before"))
        if state == "left by a process that was killed":
            # It did not say that it released the lock.
            (path.parent / "lock").write_bytes(b" " * 128)
        async with TenantRegistry(config(disk / "data")) as registry:
            messages = registry.tenant("acme").messages
            if state == "open for reading":
                await messages.get_history("general")
            if state == "open for writing":
                await messages.save(make_message("before"))
            fill(disk)
            for _ in range(2):
                history = await asyncio.gather(*(messages.get_history("general") for _ in range(3)))
                assert {message.content for found in history for message in found} == {"before"}
                refused, *history = await asyncio.gather(
                    messages.save(make_message("refused")),
                    *(messages.get_history("general") for _ in range(3)),
                    return_exceptions=True,
                )
                assert isinstance(refused, StorageFullError)
                assert "free space on the disk" in str(refused)
                assert [found for found in history if isinstance(found, BaseException)] == []
            (disk / "ballast").unlink()
            await messages.save(make_message("after"))
            assert (await messages.get_history("general"))[0].content == "after"
        assert "refused" not in stored_contents(disk / "data", "acme")


async def test_a_disk_without_inodes(tmp_path: Path):
    """SQLite says only that it cannot open a file; the error says what is missing, and reads go on."""
    with small_disk(tmp_path / "disk", "4m,nr_inodes=40") as disk:
        async with TenantRegistry(config(disk / "data")) as registry:
            await registry.create("acme")
        async with TenantRegistry(config(disk / "data")) as registry:
            messages = registry.tenant("acme").messages
            files = [disk / f"{number}" for number in range(40)]
            with suppress(OSError):
                for file in files:
                    file.touch()
            for _ in range(2):
                assert await messages.get_history("general") == ()
                with pytest.raises(StorageFullError, match="inodes"):
                    await messages.save(make_message())
            for file in files:
                file.unlink(missing_ok=True)
            await messages.save(make_message())
