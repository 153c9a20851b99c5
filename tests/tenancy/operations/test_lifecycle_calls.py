"""Lifecycle calls that have to open a tenant, that the file system refuses, or whose caller leaves."""

# tests look at files in between; nobody waits for them

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from operators import INTENT, bring_to, config, contents
from others import other_process
from tenantry import (
    TenantRegistry,
    TenantState,
)
from tenantry.errors import (
    ConstraintViolationError,
    PersistenceConnectionError,
    TenantBusyError,
    TenantExistsError,
    TenantNotFoundError,
    TenantQuarantinedError,
    TenantSuspendedError,
)
from tenantry.events import (
    OperationEnded,
    OperationStepped,
    StoreConnected,
)
from tenantry.files import lock_file
from tenantry.storage.sqlite.database_files.ownership import FileOwnership
from tenants import (
    Recorder,
    make_message,
    open_files,
    query,
    stored_contents,
    until,
)

SWAP = [("acme", "tmp"), ("globex", "acme"), ("tmp", "globex")]


# Refuses what makes a tenant active, as long as it is there: a catalog that cannot be written at the worst moment.
REFUSE_ACTIVE = """
CREATE TRIGGER refuse BEFORE UPDATE ON tenants WHEN new.state = 'active' AND new.intent IS NULL BEGIN
    SELECT RAISE(ABORT, 'refused');
END
"""


@contextmanager
def refused_activations(data_dir: Path) -> Iterator[None]:
    """Keep the catalog from calling any tenant active."""
    query(data_dir / "catalog.db", REFUSE_ACTIVE)
    yield
    query(data_dir / "catalog.db", "DROP TRIGGER refuse")


class TestOpeningForACall:
    """A tenant that its own lifecycle operation opens, before the catalog says that it serves anybody."""

    async def test_a_create_that_cannot_be_written_down(self, data_dir: Path):
        """The catalog fails after the tenant was opened, and somebody used it meanwhile: what was acknowledged stays."""
        async with TenantRegistry(config(data_dir)) as registry:
            saving: list[asyncio.Future[None]] = []

            def save(event: object) -> None:
                if isinstance(event, StoreConnected) and event.tenant_id == "acme" and not saving:
                    call = registry.tenant("acme").messages.save(make_message("meanwhile"))
                    saving.append(asyncio.ensure_future(call))

            registry.add_hook(save)
            with refused_activations(data_dir):
                with pytest.raises(ConstraintViolationError, match="refused"):
                    await registry.create("acme")
                await asyncio.gather(*saving)
                assert open_files(data_dir) == [str(data_dir / "catalog.db")]
                with pytest.raises(TenantNotFoundError):
                    await contents(registry.tenant("acme"))
            with pytest.raises(TenantExistsError):  # which finishes it
                await registry.create("acme")
            assert await contents(registry.tenant("acme")) == ["meanwhile"]

    async def test_a_repair_that_cannot_be_written_down(self, data_dir: Path):
        """The catalog fails after the tenant was opened: it does not stay open while the catalog says quarantined."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.QUARANTINED)
            with refused_activations(data_dir):
                with pytest.raises(ConstraintViolationError, match="refused"):
                    await registry.repair("acme")
                assert open_files(data_dir) == [str(data_dir / "catalog.db")]
                with pytest.raises(TenantQuarantinedError, match="odd"):
                    await contents(registry.tenant("acme"))
            assert (await registry.repair("acme")).state is TenantState.ACTIVE
            assert await contents(registry.tenant("acme")) == ["of acme"]

    @pytest.mark.parametrize("way", ["swapped", "suspended", "under way", "renamed"])
    async def test_the_catalog_changes_while_a_tenant_opens(self, data_dir: Path, way: str):
        """What another process decided between the look and the lock holds: the wrong tenant is never served by an id."""
        changes = {
            "swapped": [f"UPDATE tenants SET id = '{new}' WHERE id = '{old}'" for old, new in SWAP],
            "suspended": ["UPDATE tenants SET state = 'suspended' WHERE id = 'acme'"],
            "under way": [f"UPDATE tenants SET intent = '{INTENT}' WHERE id = 'acme'"],
            "renamed": ["UPDATE tenants SET id = 'umbrella' WHERE id = 'acme'"],
        }
        refusal = {"suspended": TenantSuspendedError, "renamed": TenantNotFoundError}.get(
            way, TenantBusyError
        )
        async with TenantRegistry(config(data_dir)) as registry:
            for tenant_id in ("acme", "globex"):
                await bring_to(registry, TenantState.ACTIVE, tenant_id)

        def change(event: object) -> None:
            if isinstance(event, StoreConnected) and event.tenant_id == "acme" and changes[way]:
                for sql in changes[way]:
                    query(data_dir / "catalog.db", sql)
                changes[way] = []

        async with TenantRegistry(config(data_dir), hooks=[change]) as registry:
            with pytest.raises(refusal):
                await registry.tenant("acme").messages.save(make_message("mine"))
            assert open_files(data_dir) == [str(data_dir / "catalog.db")]
            if way == "swapped":
                assert await contents(registry.tenant("acme")) == ["of globex"]
        assert stored_contents(data_dir, "acme") == ["of acme"]


class TestWhatTheSystemRefuses:
    """A file system that fails is one of our errors, audited, and no call is left half done."""

    async def test_an_operation_cannot_be_locked(self, registry: TenantRegistry, data_dir: Path):
        """Without its lock no call of several steps begins."""
        await bring_to(registry, TenantState.ACTIVE)
        before = await registry.get("acme")
        (data_dir / "operations").rmdir()
        (data_dir / "operations").touch()
        with pytest.raises(PersistenceConnectionError, match="cannot lock"):
            await registry.archive("acme")
        assert await registry.get("acme") == before
        await registry._runner.reconcile()
        (data_dir / "operations").unlink()
        (data_dir / "operations").mkdir()
        assert (await registry.archive("acme")).state is TenantState.ARCHIVED

    async def test_something_else_fails(self, registry: TenantRegistry, monkeypatch: pytest.MonkeyPatch):
        """No error of the system's leaves a lifecycle operation as it is, and the audit has its row."""
        await bring_to(registry, TenantState.ACTIVE)

        def fail(*_: object) -> None:
            raise PermissionError(13, "not permitted")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "exists", fail)
            with pytest.raises(PersistenceConnectionError, match=r"tenant 'acme' failed: .*not permitted"):
                await registry.rename("acme", "umbrella")
        [entry, *_] = await registry.audit.list()
        assert (entry.action, entry.outcome) == ("rename", "connection")
        assert await contents(registry.tenant("acme")) == ["of acme"]

    async def test_an_audit_that_cannot_be_written(self, registry: TenantRegistry, data_dir: Path):
        """The caller of a refused call hears why it was refused; a call that is to take effect takes none without its row."""
        await bring_to(registry, TenantState.ACTIVE)
        query(
            data_dir / "catalog.db",
            "CREATE TRIGGER refuse BEFORE INSERT ON admin_audit BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )
        with pytest.raises(TenantNotFoundError):
            await registry.suspend("nobody")
        with pytest.raises(ConstraintViolationError):
            await registry.suspend("acme")
        assert await contents(registry.tenant("acme")) == ["of acme"]


class TestAnOpenTransaction:
    """Operations on a tenant while a transaction of it is open."""

    async def test_a_request_that_changes_nothing(self, registry: TenantRegistry):
        """A repeated resume does not wait for the transaction, which may be its own caller's."""
        await registry.create("acme")
        async with registry.tenant("acme").transaction() as tx:
            await tx.messages.save(make_message("one"))
            async with asyncio.timeout(5):
                await registry.resume("acme")
        assert await contents(registry.tenant("acme")) == ["one"]


class TestCancellation:
    """Callers that leave, and a registry that closes, while lifecycle operations are under way."""

    @pytest.mark.parametrize("action", ["archive", "rename"])
    async def test_a_cancelled_call_is_finished(self, registry: TenantRegistry, action: str):
        """The call goes on without its caller, and leaves nothing half done."""
        await bring_to(registry, TenantState.ACTIVE)
        hook = Recorder()
        registry.add_hook(hook)
        call = {"archive": partial(registry.archive, "acme"), "rename": partial(registry.rename, "acme", "b")}
        calling = asyncio.ensure_future(call[action]())
        await hook.wait_for(OperationStepped, step="begun")
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await hook.wait_for(OperationEnded, action=action, outcome="ok")
        assert {tenant.intent for tenant in await registry.list()} == {None}

    async def test_closing_waits_for_operations(self, data_dir: Path):
        """A registry that closes while a tenant is archived and another renamed leaves both done, and nothing locked."""
        hook = Recorder()
        registry = TenantRegistry(config(data_dir), hooks=[hook])
        async with registry:
            for tenant_id in ("acme", "globex"):
                await bring_to(registry, TenantState.ACTIVE, tenant_id)
            calls = [
                asyncio.ensure_future(call)
                for call in (registry.archive("acme"), registry.rename("globex", "umbrella"))
            ]
            await hook.wait_for(OperationStepped, step="begun")
        assert [(await call).intent for call in calls] == [None, None]
        assert open_files(data_dir) == []
        assert list((data_dir / "operations").iterdir()) == []
        found = query(data_dir / "catalog.db", "SELECT id, state FROM tenants ORDER BY id")
        assert found == [("acme", "archived"), ("umbrella", "active")]

    @pytest.mark.parametrize("held", ["operation", "tenant"])
    async def test_cancelled_while_it_takes_a_lock(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, held: str
    ):
        """A registry whose opening is cancelled while a leftover call's lock is taken gives that lock back."""
        async with TenantRegistry(config(data_dir)) as registry:
            await bring_to(registry, TenantState.SUSPENDED)
        with other_process(data_dir) as other:
            assert other.do("archive", "acme", stop_at="begun") == "stopped"
            other.kill()
        kind = lock_file.LockFile if held == "operation" else FileOwnership
        acquire, is_taken, go = kind.acquire, threading.Event(), threading.Event()

        def acquire_slowly(self: Any, **keywords: Any) -> Any:
            result = acquire(self, **keywords)
            is_sweep = "may_make" in keywords
            if held == "tenant" or (self.path.parent.name == "operations" and not is_sweep):
                is_taken.set()
                assert go.wait(60)
            return result

        with monkeypatch.context() as patched:
            patched.setattr(kind, "acquire", acquire_slowly)
            opening = asyncio.ensure_future(TenantRegistry(config(data_dir)).open())
            await until(is_taken.is_set)
            opening.cancel()
            await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await opening
        assert open_files(data_dir) == []
        async with TenantRegistry(config(data_dir)) as registry:
            assert (await registry.get("acme")).state is TenantState.ARCHIVED
