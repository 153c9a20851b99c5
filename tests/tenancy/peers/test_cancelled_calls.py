"""Forwarded calls that are cancelled at every stage: nothing stays open, and nobody after them waits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from peers import Pair, open_pair, texts
from tenantry import TenantHandle
from tenantry.errors import TransactionClosedError
from tenants import HANG_SECONDS, until

STEPS = range(60)
"""The numbers of steps of the event loop after which a call is cancelled. The calls below take fewer, unless a thread is slow."""


async def _write(tenant: TenantHandle, number: int) -> None:
    await tenant.execute("INSERT INTO notes (text) VALUES (?)", (number,))


async def _write_once(tenant: TenantHandle, number: int) -> None:
    await tenant.idempotent(f"key {number}").execute("INSERT INTO notes (text) VALUES (?)", (number,))


async def _read(tenant: TenantHandle, _: int) -> None:
    await texts(tenant)


async def _transact(tenant: TenantHandle, number: int) -> None:
    async with tenant.transaction() as tx:
        await tx.execute("INSERT INTO notes (text) VALUES (?)", (number,))
        await tx.fetch_value("SELECT count(*) FROM notes")


async def _stream(tenant: TenantHandle, _: int) -> None:
    async for _row in tenant.stream("SELECT id, text FROM notes", key=("id",), chunk_rows=2):
        pass


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two registries. A transaction that nobody ends would keep the tenant's writer for longer than the test takes."""
    async with open_pair(data_dir, handed_over_after_calls=10**6) as opened:
        await opened.own.execute_many("INSERT INTO notes (text) VALUES (?)", [(-1,), (-2,), (-3,)])
        yield opened


async def cancelled_after(steps: int, work: Awaitable[None]) -> None:
    """Run the work for so many steps of the event loop, and cancel it if it has not ended."""
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def check_nothing_is_left(pair: Pair) -> None:
    """Check that the tenant has no call and no transaction, and that neither process remembers any."""
    entry = pair.owner._parts.pool._entries["acme"]  # type: ignore[index]
    peers = pair.owner._parts.peers
    await until(lambda: all(not one._calls and not one._transactions._open for one in peers._accepted))
    await until(lambda: entry.lease_count == 0)
    assert not entry.transactions
    assert not pair.other._parts.leases._forwarding._context.sent_units._unanswered
    assert all(not one._waiting for one in pair.other._parts.peers._owners.values())


@pytest.mark.parametrize(
    "call", [_write, _write_once, _read, _transact, _stream], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("is_new", [False, True], ids=["known owner", "new owner"])
async def test_at_every_step(
    pair: Pair, call: Callable[[TenantHandle, int], Awaitable[None]], *, is_new: bool
):
    """However far a call has come: the next write of each process is served at once, and a call has its effect once or not at all."""
    await texts(pair.forwarded)
    for steps in STEPS:
        if is_new:  # the connection is new too
            for owner in list(pair.other._parts.peers._owners.values()):
                owner.end()
        await cancelled_after(steps, call(pair.forwarded, steps))
        async with asyncio.timeout(HANG_SECONDS / 4):
            await _write(pair.own, 100 + steps)
            await _write(pair.forwarded, 200 + steps)
        await check_nothing_is_left(pair)
    found: list[Any] = await texts(pair.own)
    assert len(found) == len(set(found))
    assert set(found) >= {*range(100, 100 + len(STEPS)), *range(200, 200 + len(STEPS))}


async def test_while_the_commit_waits_to_be_sent(pair: Pair):
    """A commit that was cancelled before it was sent leaves no transaction behind."""
    await texts(pair.forwarded)
    (connection,) = pair.other._parts.peers._owners.values()

    async def transact() -> None:
        async with pair.forwarded.transaction() as tx:
            await tx.execute("INSERT INTO notes (text) VALUES (1)")
            connection.pause_writing()  # as when the owner reads nothing

    task = asyncio.create_task(transact())
    await until(lambda: connection.is_writing_paused)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    connection.resume_writing()
    async with asyncio.timeout(HANG_SECONDS / 4):
        await _write(pair.own, 2)
    await check_nothing_is_left(pair)
    assert await texts(pair.own) == [-1, -2, -3, 2]


async def test_while_the_rollback_waits_to_be_sent(pair: Pair):
    """A rollback that was cancelled before it was sent takes effect later."""
    await texts(pair.forwarded)
    (connection,) = pair.other._parts.peers._owners.values()

    async def transact() -> None:
        async with pair.forwarded.transaction() as tx:
            await tx.execute("INSERT INTO notes (text) VALUES (1)")
            connection.pause_writing()
            raise LookupError

    task = asyncio.create_task(transact())
    await until(lambda: connection.is_writing_paused)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    connection.resume_writing()
    async with asyncio.timeout(HANG_SECONDS / 4):
        await _write(pair.own, 2)
    await check_nothing_is_left(pair)
    assert await texts(pair.own) == [-1, -2, -3, 2]


async def test_all_callers_at_once(pair: Pair):
    """A hundred callers that are cancelled together."""
    tasks = [asyncio.create_task(_transact(pair.forwarded, number)) for number in range(50)]
    tasks += [asyncio.create_task(_write(pair.forwarded, number)) for number in range(50, 100)]
    await until(lambda: any(task.done() for task in tasks))
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(
        one is None or isinstance(one, (asyncio.CancelledError, TransactionClosedError)) for one in outcomes
    )
    async with asyncio.timeout(HANG_SECONDS / 4):
        await _write(pair.own, 100)
        await _write(pair.forwarded, 101)
    await check_nothing_is_left(pair)
    found = await texts(pair.own)
    done = {number for number, outcome in enumerate(outcomes) if outcome is None}
    assert done <= set(found)
    assert len(found) == len(set(found))
