"""A call that another owner of the database has fenced off ran nowhere, so it is repeated through a fresh opening."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from channels import CALL_TIMEOUT_SECONDS, Bench, results
from registries import config
from tenantry import (
    CallTimeoutError,
    TenantClosed,
    TenantOwnedElsewhereError,
    TenantRegistry,
    TenantState,
    TenantSuspendedError,
    TransactionClosedError,
)
from tenantry.clock import SystemClock
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Fetch, Statement
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.actors.limiter import FairLimiter
from tenantry.tenancy.actors.transaction import TransactionSession
from tenants import Recorder, database_path, in_virtual_time, make_message, query, stored_contents

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_engine")]

FENCED = TenantOwnedElsewhereError("'acme' is open elsewhere", tenant_id="acme", pid=1, host="here")


@pytest.fixture
async def registry(data_dir: Path) -> AsyncIterator[TenantRegistry]:
    """A registry with a tenant that has written, so that its store knows its own epoch."""
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message("before"))
        yield registry


def fence(registry: TenantRegistry) -> None:
    """Raise the epoch in the tenant's database, as the next owner of a lost lock does."""
    path = database_path(registry.config.data_dir, "acme")
    query(path, "UPDATE tenantry_owner SET epoch = epoch + 1, owner = 'another'")


async def test_a_fenced_write_is_repeated(registry: TenantRegistry):
    """Every caller of the batch is answered by the new opening, and each write is kept once and in order."""
    hook = Recorder()
    registry.add_hook(hook)
    fence(registry)
    acme = registry.tenant("acme")
    await asyncio.gather(*(acme.messages.save(make_message(f"m{number:02}")) for number in range(20)))
    assert stored_contents(registry.config.data_dir, "acme") == [
        "before",
        *(f"m{number:02}" for number in range(20)),
    ]
    assert [event.reason for event in hook.of(TenantClosed, tenant_id="acme")] == ["failed"]
    assert (await registry.get("acme")).state is TenantState.ACTIVE


async def test_a_fenced_keyed_write_is_repeated(registry: TenantRegistry):
    """A write with a key, too: its repetition with the same key is known afterwards."""
    acme, message = registry.tenant("acme"), make_message("once")
    fence(registry)
    await acme.idempotent("key").messages.save(message)
    fence(registry)
    await acme.idempotent("key").messages.save(message)
    assert stored_contents(registry.config.data_dir, "acme") == ["before", "once"]


async def test_a_fenced_transaction_begins_again(registry: TenantRegistry):
    """A transaction that could not begin has done nothing, so it begins on the new opening."""
    fence(registry)
    async with registry.tenant("acme").transaction() as tx:
        await tx.messages.save(make_message("inside"))
    assert stored_contents(registry.config.data_dir, "acme") == ["before", "inside"]


async def test_the_record_is_read_again(registry: TenantRegistry):
    """The repeated call is refused if the process that fenced the tenant has also suspended the tenant."""
    fence(registry)
    query(registry.config.data_dir / "catalog.db", "UPDATE tenants SET state = 'suspended'")
    with pytest.raises(TenantSuspendedError):
        await registry.tenant("acme").messages.save(make_message("late"))
    assert stored_contents(registry.config.data_dir, "acme") == ["before"]


async def test_an_owner_that_stays_is_named(registry: TenantRegistry):
    """If the other owner keeps the tenant and takes no calls of others, the caller gets the error of the opening."""
    (database_path(registry.config.data_dir, "acme").parent / "lock").unlink()
    async with TenantRegistry(config(registry.config.data_dir, forwarding=False)) as other:
        await other.tenant("acme").messages.save(make_message("theirs"))
        with pytest.raises(TenantOwnedElsewhereError, match="in another registry of this process"):
            await registry.tenant("acme").messages.save(make_message("ours"))
    await registry.tenant("acme").messages.save(make_message("ours"))
    assert stored_contents(registry.config.data_dir, "acme") == ["before", "theirs", "ours"]


async def test_repetitions_end_at_the_deadline(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A tenant that is fenced off again and again costs a caller one call timeout."""
    async with TenantRegistry(
        config(
            data_dir,
            call_timeout_seconds=0.5,
            transaction_timeout_seconds=0.5,
            pool_wait_timeout_seconds=0.5,
        )
    ) as registry:
        await registry.create("acme")
        opener = registry._parts.pool._opener

        async def open_fenced(tenant_id: Any, **how: bool) -> Any:
            actor = await opener(tenant_id, **how)
            await actor.write((Statement("touch", "DELETE FROM messages", (), Fetch.NONE),))
            fence(registry)
            return actor

        monkeypatch.setattr(registry._parts.pool, "_opener", open_fenced)
        await registry._parts.pool.close_tenant("acme", "idle")
        with pytest.raises(CallTimeoutError, match="the call had no effect") as caught:
            await registry.tenant("acme").messages.save(make_message("never"))
        assert not caught.value.was_started
    assert stored_contents(data_dir, "acme") == []


@in_virtual_time
async def test_a_fenced_call_keeps_its_deadline():
    """What ran nowhere tells its caller until when it may be repeated; other errors reach the caller as they are."""
    bench = Bench()
    bench.channel._on_error = lambda error: error is FENCED
    started = asyncio.get_running_loop().time()
    tasks = await bench.share("a", "b")
    other = TenantSuspendedError("suspended", tenant_id="acme", state="suspended")
    await bench.run.finish(FENCED, other)
    fenced, refused = await results(tasks)
    assert isinstance(fenced, ChannelClosedError)
    assert fenced.until_seconds == started + CALL_TIMEOUT_SECONDS
    assert refused is other


class TakenTransaction:
    """A transaction on a server that another process has fenced off."""

    is_open = True

    async def write(self, _: object) -> TenantOwnedElsewhereError:
        """Return the refusal of a unit."""
        return FENCED

    async def commit(self) -> None:
        """Refuse the commit."""
        raise FENCED

    async def rollback(self) -> None:
        """End the transaction."""
        self.is_open = False


@pytest.mark.parametrize("step", ["write", "commit"])
async def test_a_transaction_that_is_taken_over_ends(step: str):
    """Its earlier calls cannot be repeated for the caller, so the caller is told to open a new one."""
    taken = TakenTransaction()
    session = TransactionSession(
        taken,  # type: ignore[arg-type]  # it is never read from
        timeout_seconds=CALL_TIMEOUT_SECONDS,
        limiter=FairLimiter(1),
        tenant_id="acme",
        backend="fake",
        dialect="fake",
        clock=SystemClock(),
        report=Recorder(),
        log=EventLog(),
        admit=lambda _: None,
        on_error=lambda error: error is FENCED,
    )
    statement = Statement("save", "INSERT INTO t VALUES (1)")
    with pytest.raises(TransactionClosedError, match="another process has taken the tenant over") as caught:
        await (session.write(statement) if step == "write" else session.commit())
    assert caught.value.__cause__ is FENCED
    with pytest.raises(TransactionClosedError):
        await session.write(statement)
    await session.rollback()
    assert not taken.is_open
