"""Callers of one tenant in several registries that write while operators work on the tenant.

Import it by name (``tests/support`` is on pytest's path): ``from callers import working``.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tenantry import TenantHandle
from tenants import until

CALLERS = 3
"""The number of callers of each handle."""


class Callers:
    """Callers that write notes, each until it is stopped or gets an error of the expected types.

    Attributes:
        kept: The number of writes that were acknowledged.
        refused: The expected errors.
    """

    def __init__(self, tenants: Sequence[TenantHandle], expected: tuple[type[Exception], ...]) -> None:
        self.kept = 0
        self.refused: list[Exception] = []
        self._expected = expected
        self._is_stopped = False
        self._tasks = [asyncio.create_task(self._run(tenant)) for tenant in tenants for _ in range(CALLERS)]

    async def more(self) -> None:
        """Wait until some more writes were acknowledged."""
        at = self.kept
        await until(lambda: self.kept > at + 20)

    async def all_refused(self) -> None:
        """Wait until every caller has got an expected error."""
        await asyncio.gather(*self._tasks)
        assert len(self.refused) == len(self._tasks)

    async def stop(self) -> None:
        """Stop the callers; an error that is not expected is raised."""
        self._is_stopped = True
        await asyncio.gather(*self._tasks)

    async def _run(self, tenant: TenantHandle) -> None:
        while not self._is_stopped:
            try:
                await tenant.execute("INSERT INTO notes (text) VALUES ('x')")
            except self._expected as error:
                self.refused.append(error)
                return
            self.kept += 1


@asynccontextmanager
async def working(
    *tenants: TenantHandle, expected: tuple[type[Exception], ...] = ()
) -> AsyncIterator[Callers]:
    """Let callers of each handle write during the block."""
    callers = Callers(tenants, expected)
    try:
        await callers.more()
        yield callers
    finally:
        await callers.stop()
