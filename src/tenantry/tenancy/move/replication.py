"""Brings the copy of a moving tenant up to date, first while the tenant is open, and at last while its callers wait."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from tenantry.errors import SnapshotError
from tenantry.storage.moves import MovedTable, Pass, Position, follow
from tenantry.storage.protocol import Backend
from tenantry.tenancy.move.plan import check_tables, paired
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.threads import run_in_thread

PASS_SECONDS_MAX: Final = 0.25
"""The duration of a pass after which the callers may wait for one more pass."""

PASSES_MAX: Final = 20
"""The largest number of passes before the switch. If the callers write faster than passes copy, the last pass takes longer."""


class Replication:
    """The original and the copy of a moving tenant.

    Args:
        tenant: The tenant, with its record from before the move.
        source: The back end of the original.
        target: The back end of the copy.
        location: The location of the copy.

    Attributes:
        has_journal: Whether the original may have a journal.
    """

    def __init__(self, tenant: TenantRecord, source: Backend, target: Backend, location: str) -> None:
        self._tenant = tenant
        self._original = source.original(tenant.place)
        self._replica = target.replica(tenant.place._replace(location=location))
        self._ends = {source.name: self._original.connected(), target.name: self._replica.connected()}
        self._tables: Sequence[MovedTable] = ()
        self._pairs: Sequence[tuple[MovedTable, MovedTable]] = ()
        self._position: Position = {}
        self.has_journal = False

    async def install_journal(self) -> None:
        """Install the journal. The caller has exclusive access to the original.

        Raises:
            TenantNotMovableError: A table cannot be moved; the journal must be removed.
        """
        self.has_journal = True
        self._tables = await self._original.install()
        check_tables(self._tenant, self._tables)

    def rows(self, counts: Mapping[str, int]) -> int:
        """Return how many of the counted rows are in tables that move."""
        return sum(counts.get(table.name, 0) for table in self._tables)

    async def prepare_copy(self) -> None:
        """Let the copy, which is at its place now, take the rows of passes.

        Raises:
            TenantNotMovableError: The copy has other tables or columns than the original.
        """
        self._pairs = paired(self._tenant, self._tables, await self._replica.suspend_rules())

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keep a connection to each database during the block; enter this block only once.

        All moves connect in the order of the back ends' names, so that no two moves wait for each other.
        """
        async with AsyncExitStack() as connections:
            for name in sorted(self._ends):
                await connections.enter_async_context(self._ends[name])
            yield

    async def catch_up(self) -> None:
        """Follow the original until a pass is short; then compare the numbers of rows, and follow again. The tenant is open."""
        await self._follow_until_short()
        await self._follow(is_open=True, is_counted=True)
        await self._follow_until_short()

    async def complete(self, *, is_counted: bool) -> None:
        """Copy the last changes, and make the copy as complete as the original. The caller has exclusive access to the original.

        Args:
            is_counted: Whether to compare the numbers of rows.

        Raises:
            SnapshotError: The original's tables were changed during the move, or the copy differs from the original.
        """
        if await self._original.tables() != self._tables:
            raise tables_changed(self._tenant)
        await self._follow(is_open=False, is_counted=is_counted)
        await self._replica.restore_rules(await self._original.sequences(self._tables))

    async def _follow_until_short(self) -> None:
        for _ in range(PASSES_MAX):
            done = await self._follow(is_open=True)
            if done.seconds <= PASS_SECONDS_MAX:
                return

    async def _follow(self, *, is_open: bool, is_counted: bool = False) -> Pass:
        work = partial(
            follow,
            self._original,
            self._replica,
            self._pairs,
            self._position,
            is_open=is_open,
            is_counted=is_counted,
        )
        done = await run_in_thread(work)
        self._position = done.position
        return done


def tables_changed(tenant: TenantRecord) -> SnapshotError:
    """Return the error for a tenant whose tables were changed during its move."""
    return SnapshotError(
        f"the tables of tenant {tenant.id!r} were changed during its move, and the tenant was not moved: try again",
        is_retryable=True,
    )
