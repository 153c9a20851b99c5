"""Damage that is gone when it is looked at again was the disk's for a moment: nobody is quarantined for it."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from stores import rows, run
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.errors import (
    DatabaseCorruptError,
    PersistenceConnectionError,
    SnapshotError,
    TenantQuarantinedError,
)
from tenantry.events import BatchFinished, StoreConnected, TenantClosed
from tenantry.storage.sqlite.statements import batch
from tenants import Recorder, database_path, make_message, query


class BadDisk:
    """Damages a database, and mends it as soon as somebody has met the damage."""

    def __init__(self, path: Path, event_type: type[Any]) -> None:
        # Kept open: closing a descriptor of a database drops this process's locks on it.
        self._fd = os.open(path, os.O_RDWR)
        self._whole = os.pread(self._fd, 1 << 24, 0)
        self._event_type = event_type
        self.times_left = 1

    def spoil(self, start: int = 0) -> None:
        """Overwrite everything from there on."""
        os.pwrite(self._fd, b"\xa5" * (len(self._whole) - start), start)

    def mend(self) -> None:
        """Put back what was there."""
        os.pwrite(self._fd, self._whole, 0)

    def close(self) -> None:
        """Close the file, when nobody has it open any more."""
        os.close(self._fd)

    def __call__(self, event: object) -> None:
        """Mend it at an event that tells of damage, so many times."""
        if isinstance(event, self._event_type) and _has_failed(event) and self.times_left:
            self.times_left -= 1
            self.mend()


def _has_failed(event: Any) -> bool:
    if isinstance(event, BatchFinished):
        return any(call[1] == "corrupt" for call in event.calls)
    return bool(event.outcome == "corrupt")


async def filled(data_dir: Path) -> Path:
    """Make a tenant with some pages of messages, and return its database."""
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        await registry.create("acme")
        await registry.tenant("acme").messages.save_many([make_message("x" * 1000) for _ in range(100)])
    return database_path(data_dir, "acme")


async def test_while_it_opens(data_dir: Path):
    """The call that opens the tenant is answered, and the log says that the database was found sound."""
    disk = BadDisk(await filled(data_dir), StoreConnected)
    disk.spoil()
    async with TenantRegistry(RegistryConfig(data_dir=data_dir), hooks=[disk]) as registry:
        with structlog.testing.capture_logs() as logs:
            assert len(await registry.tenant("acme").messages.get_history("general", limit=200)) == 100
        assert (await registry.get("acme")).state is TenantState.ACTIVE
    assert [log["tenant_id"] for log in logs if log["event"] == "tenantry.tenant.found_sound"] == ["acme"]
    assert disk.times_left == 0
    disk.close()


async def test_while_it_is_used(data_dir: Path):
    """The call fails, and the tenant goes on; when it fails again within a minute it is quarantined."""
    disk = BadDisk(await filled(data_dir), BatchFinished)
    hook = Recorder()
    async with TenantRegistry(RegistryConfig(data_dir=data_dir), hooks=[disk, hook]) as registry:
        acme = registry.tenant("acme")
        await acme.tasks.get("none")
        disk.spoil(4096)
        with pytest.raises(DatabaseCorruptError):
            await acme.messages.get_history("general")
        await hook.wait_for(TenantClosed, tenant_id="acme", reason="failed")
        assert len(await acme.messages.get_history("general", limit=200)) == 100
        assert (await registry.get("acme")).state is TenantState.ACTIVE
        hook.events.clear()
        disk.times_left = 1
        disk.spoil(4096)
        with pytest.raises(DatabaseCorruptError):
            await acme.messages.save(make_message())
        await hook.wait_for(TenantClosed, tenant_id="acme", reason="failed")
        with pytest.raises(TenantQuarantinedError):
            await acme.messages.save(make_message())
    disk.close()


async def test_a_disk_that_cannot_read(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """While it fails the tenant cannot be opened, and the error says why; when it reads again the tenant serves calls."""
    path = await filled(data_dir)
    disk = BadDisk(path, StoreConnected)
    disk.spoil()
    read = os.read

    def fail(fd: int, size: int) -> bytes:
        if Path(f"/proc/self/fd/{fd}").readlink() == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, size)

    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        with monkeypatch.context() as patched:
            patched.setattr(os, "read", fail)
            with pytest.raises(PersistenceConnectionError, match="the disk failed to read") as caught:
                await registry.tenant("acme").messages.save(make_message())
        assert caught.value.is_retryable
        tenant = await registry.get("acme")
        assert (tenant.state, "the disk failed to read" in (tenant.last_error or "")) == (
            TenantState.ACTIVE,
            True,
        )
        disk.mend()
        await registry.tenant("acme").messages.save(make_message())
    disk.close()


async def test_a_copy_of_a_closed_tenant(data_dir: Path):
    """A snapshot of a tenant that lacks migrations opens it alone: it fails, may be tried again, and sets nobody apart."""
    path = await filled(data_dir)
    query(data_dir / "catalog.db", "UPDATE tenants SET schema_versions = '{}'")
    disk = BadDisk(path, StoreConnected)
    disk.spoil()
    async with TenantRegistry(RegistryConfig(data_dir=data_dir)) as registry:
        with (
            structlog.testing.capture_logs(processors=[_mending(disk)]),
            pytest.raises(SnapshotError, match="for a moment: try again") as caught,
        ):
            await registry.snapshots.create("acme")
        assert caught.value.is_retryable
        assert (await registry.get("acme")).state is TenantState.ACTIVE
        await registry.snapshots.create("acme")
    disk.close()


def _mending(disk: BadDisk) -> Callable[[Any, str, Any], Any]:
    """Mend the disk at the log's line of a connection that failed: a copy that is opened alone emits no event."""

    def process(_: object, __: str, line: Any) -> Any:
        if line["event"] == "persistence.backend.connection_failed":
            disk.mend()
        return line

    return process


class FailingConnection(sqlite3.Connection):
    """Says once of each statement with the word that the database is damaged, as SQLite does when a read fails."""

    failing = ""
    failures_left = 0

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # type: ignore[override]
        """Run the statement, or fail."""
        if self.failing and self.failing in sql and self.failures_left:
            self.failures_left -= 1
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            error.sqlite_errorname = "SQLITE_CORRUPT"
            raise error
        return super().execute(sql, *parameters)


@pytest.mark.parametrize("failing", ["'b'", "BEGIN IMMEDIATE", "COMMIT", "SAVEPOINT"])
@pytest.mark.parametrize("failures", [1, 2, 20])
def test_a_write_that_meets_damage(failing: str, failures: int):
    """It runs a second time, alone; nobody's rows are lost or doubled, and only a second failure is its caller's."""
    with sqlite3.connect(":memory:", isolation_level=None, factory=FailingConnection) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.failing, connection.failures_left = failing, failures
        requests = [
            (run("INSERT INTO t VALUES ('a')"),),
            (run("INSERT INTO t VALUES ('b')"),),
            (run("INSERT INTO t VALUES ('c')"), run("INSERT INTO t VALUES ('d')")),
        ]
        outcomes = batch.write_batch(requests, lambda _: None, connection)
        connection.failing = ""
        kept = [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]
    connection.close()
    told = [
        statement.sql[-3]
        for request, outcome in zip(requests, outcomes, strict=True)
        if isinstance(outcome, list)
        for statement in request
    ]
    assert kept == told
    if failures == 1:
        assert kept == ["a", "b", "c", "d"]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_read_that_meets_damage(failures: int):
    """It runs a second time, and only a second failure is its caller's."""
    connection = sqlite3.connect(":memory:", isolation_level=None, factory=FailingConnection)
    statements = [rows("SELECT 1"), rows("SELECT 'b'")]
    connection.failing, connection.failures_left = "'b'", failures
    first, second = batch.read_batch(statements, connection)
    assert first == [(1,)]
    assert isinstance(second, DatabaseCorruptError) is (failures == 2)
    connection.close()
