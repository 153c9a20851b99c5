"""Marks that find no space: a disk that is full, or a database at its own limit."""

import asyncio
import contextlib
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

from peers import Pair, open_pair, texts
from stores import small_disk
from tenantry.errors import StorageFullError
from tenantry.limits import TenantLimits
from tenants import until

INSERT = "INSERT INTO notes (text) VALUES (zeroblob(?))"


async def fill(tenant: Any, size: int) -> None:
    """Write rows of this size until there is no more space."""
    with contextlib.suppress(StorageFullError):
        while True:
            await tenant.execute(INSERT, (size,))


async def fill_up(tenant: Any) -> None:
    """Leave space for nothing."""
    for size in (100_000, 10_000, 3_000, 1_000, 100, 10):
        await fill(tenant, size)


class TestDatabaseLimit:
    """A database that has reached ``database_bytes_max``."""

    async def test_a_forwarded_delete(self, data_dir: Path):
        """Deleting needs no more space, also from the process that is not the owner, whose marks have no table yet."""
        async with open_pair(data_dir) as pair:
            await pair.owner.update("acme", limits=TenantLimits(database_bytes_max=500_000))
            await fill_up(pair.own)
            assert await pair.forwarded.execute("DELETE FROM notes WHERE id <= 2") == 2
            await fill_up(pair.own)
            assert await pair.forwarded.execute("DELETE FROM notes WHERE id <= 4") == 2
            await fill_up(pair.forwarded)
            with pytest.raises(StorageFullError, match="database_bytes_max"):
                await pair.forwarded.execute(INSERT, (100_000,))
            size = await pair.own.fetch_value(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
            )
            assert size <= 500_000 + 20 * 4096

    async def test_own_calls_in_the_same_batch(self, data_dir: Path):
        """A forwarded unit whose mark finds no space fails alone: the owner's own units of its batch do not fail with it."""
        async with open_pair(data_dir) as pair:
            await pair.owner.update("acme", limits=TenantLimits(database_bytes_max=500_000))
            await fill_up(pair.own)
            outcomes = await together(
                pair,
                pair.own.execute("UPDATE notes SET text = zeroblob(length(text)) WHERE id = 1"),
                pair.forwarded.fetch_value(
                    "UPDATE notes SET text = text WHERE id = 2 RETURNING zeroblob(900000)"
                ),
                pair.own.execute("UPDATE notes SET text = text WHERE id = 3"),
            )
            assert [outcomes[0], outcomes[2]] == [1, 1]
            assert isinstance(outcomes[1], StorageFullError)


class TestDisk:
    """A disk that is full."""

    async def test_a_forwarded_write(self, tmp_path: Path):
        """The error says so at the caller; reads go on, and writes after there is space again."""
        with small_disk(tmp_path / "disk", "8m") as disk:
            async with open_pair(disk / "data") as pair:
                await texts(pair.forwarded)
                ballast = disk / "ballast"
                with contextlib.suppress(OSError), ballast.open("wb") as file:
                    while True:
                        file.write(bytes(4096))
                        file.flush()
                with pytest.raises(StorageFullError):
                    await fill_for_ever(pair)
                kept = len(await texts(pair.forwarded))
                ballast.unlink()
                await pair.forwarded.execute(INSERT, (10,))
                assert len(await texts(pair.own)) == kept + 1


async def fill_for_ever(pair: Pair) -> None:
    """Write from the other process until that fails."""
    while True:
        await pair.forwarded.execute(INSERT, (50_000,))


async def together(pair: Pair, *calls: Any) -> list[Any]:
    """Run writes in one batch, and return their outcomes."""
    await texts(pair.forwarded)
    async with pair.own.transaction():
        tasks = []
        for number, call in enumerate(calls):
            tasks.append(asyncio.create_task(call, context=Context()))
            await until(
                lambda at=number + 1: bool((s := pair.own.statistics()) and s.write.mailbox_requests >= at)
            )  # type: ignore[misc]
    return await asyncio.gather(*tasks, return_exceptions=True)
