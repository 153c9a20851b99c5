"""Operations on a tenant that another registry has open, while callers of both work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from peers import Pair, open_pair, texts
from tenantry import TenantRegistry
from tenantry.errors import (
    StorageFullError,
    TenantDeletedError,
    TenantNotFoundError,
    TenantStateError,
    TenantSuspendedError,
)
from tenantry.limits import TenantLimits
from tenants import database_path, until

POLL_SECONDS = 1.0
"""The longest that is allowed: what an owner does at once, it does because it was asked."""


@pytest.fixture
async def pair(data_dir: Path) -> AsyncIterator[Pair]:
    """Two registries; the first has ``acme`` open."""
    async with open_pair(data_dir, catalog_poll_interval_seconds=POLL_SECONDS) as opened:
        yield opened


class Callers:
    """Writes and reads of both registries that run at the same time; errors of these kinds end a caller."""

    def __init__(self, pair: Pair, expected: tuple[type[Exception], ...]) -> None:
        self._pair = pair
        self._expected = expected
        self._is_stopped = False
        self.kept = 0
        self.refused: list[Exception] = []

    async def run(self, tenant: Any) -> None:
        while not self._is_stopped:
            try:
                await tenant.execute("INSERT INTO notes (text) VALUES ('x')")
            except self._expected as error:
                self.refused.append(error)
                return
            self.kept += 1

    async def more(self) -> None:
        """Wait until some more writes were acknowledged."""
        at = self.kept
        await until(lambda: self.kept > at + 20)

    def stop(self) -> None:
        self._is_stopped = True


@asynccontextmanager
async def working(pair: Pair, *expected: type[Exception]) -> AsyncIterator[Callers]:
    """Let four callers of each registry write during the block."""
    callers = Callers(pair, expected)
    tasks = [
        asyncio.create_task(callers.run(tenant)) for tenant in (pair.own, pair.forwarded) for _ in range(4)
    ]
    try:
        await callers.more()
        yield callers
    finally:
        callers.stop()
        await asyncio.gather(*tasks)


def is_open_at(registry: TenantRegistry) -> bool:
    """Return whether the registry has a tenant open."""
    return registry.statistics().pool.open_tenants > 0


class TestClosing:
    """Operations for which the owner closes the tenant."""

    @pytest.mark.parametrize(
        ("action", "error"),
        [("suspend", TenantSuspendedError), ("delete", TenantDeletedError), ("archive", TenantStateError)],
    )
    async def test_the_owner_has_closed_it_when_the_call_returns(
        self, pair: Pair, action: str, error: type[Exception]
    ):
        """The callers of both are refused, and every write that was acknowledged before is there."""
        async with working(pair, error) as callers:
            await getattr(pair.other, action)("acme")
            assert not is_open_at(pair.owner)
            kept = callers.kept
            await until(lambda: len(callers.refused) == 8)
            assert callers.kept == kept
        await getattr(pair.other, {"suspend": "resume", "delete": "undelete"}.get(action, "unarchive"))(
            "acme"
        )
        assert len(await texts(pair.own)) == kept

    async def test_quarantine_and_repair(self, pair: Pair):
        """A repair opens the tenant in the registry that repairs it, and the other registry forwards."""
        await pair.other.quarantine("acme", reason="odd")
        assert not is_open_at(pair.owner)
        await pair.other.repair("acme")
        assert is_open_at(pair.other)
        assert await texts(pair.own) == []
        assert not is_open_at(pair.owner)

    async def test_purge(self, pair: Pair):
        """A tenant that is open elsewhere is purged."""
        await texts(pair.own)
        async with working(pair, TenantNotFoundError, TenantDeletedError):
            await pair.other.delete("acme")
            await pair.other.purge("acme", force=True)
        assert not database_path(pair.owner.config.data_dir, "acme").parent.exists()

    async def test_rename(self, pair: Pair):
        """The callers of the old id wait until it belongs to no tenant, and those of the new id are served."""
        async with working(pair, TenantNotFoundError) as callers:
            await pair.other.rename("acme", "globex")
            await until(lambda: len(callers.refused) == 8)
        assert len(await texts(pair.owner.tenant("globex"))) == callers.kept

    async def test_a_restore(self, pair: Pair):
        """Callers wait during the exchange, without an error, and find the restored state."""
        await pair.own.execute("INSERT INTO notes (text) VALUES ('before')")
        snapshot = await pair.other.snapshots.create("acme")
        await pair.other.snapshots.list("acme")
        async with working(pair) as callers:
            await pair.other.snapshots.restore("acme", snapshot.id)
            at_restore = callers.kept
            await callers.more()
        found = await texts(pair.own)
        assert found[0] == "before"
        assert 20 < len(found) - 1 <= callers.kept
        assert at_restore < callers.kept
        await pair.other.snapshots.undo_restore("acme")
        assert len(await texts(pair.forwarded)) > 20


class TestWithoutClosing:
    """Operations that the owner does for the others, while it serves."""

    async def test_a_snapshot(self, pair: Pair):
        """The owner copies the tenant, and stays its owner."""
        async with working(pair) as callers:
            snapshot = await pair.other.snapshots.create("acme")
            await callers.more()
        assert snapshot.row_counts["notes"] >= 20
        assert is_open_at(pair.owner)
        assert not is_open_at(pair.other)

    async def test_an_export_and_a_clone(self, pair: Pair, tmp_path: Path):
        """Both come from the owner's copy."""
        async with working(pair) as callers:
            manifest = await pair.other.export("acme", tmp_path / "acme.tar")
            await pair.other.clone("acme", "copy")
            await callers.more()
        assert manifest.row_counts["notes"] >= 20
        assert len(await texts(pair.other.tenant("copy"))) >= 20

    async def test_limits(self, pair: Pair):
        """Changed limits are in effect at the owner when the call returns."""
        await texts(pair.own)
        await pair.other.update("acme", limits=TenantLimits(database_bytes_max=1_000_000))
        with pytest.raises(StorageFullError):
            await pair.own.execute("INSERT INTO notes (text) VALUES (zeroblob(2000000))")
        await pair.other.update("acme", limits=TenantLimits())
        await pair.own.execute("INSERT INTO notes (text) VALUES (zeroblob(2000000))")

    async def test_statistics(self, pair: Pair):
        """The counters are those of the owner."""
        await texts(pair.own)
        found = (await pair.other.tenant_statistics("acme")).actor
        assert found is not None
        assert found == pair.own.statistics()
        await pair.other.suspend("acme")
        assert (await pair.other.tenant_statistics("acme")).actor is None
