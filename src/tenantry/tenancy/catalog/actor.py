"""The catalog's own actor: it is opened and closed with the registry."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from tenantry.errors import RegistryClosedError
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import Request
from tenantry.tenancy.actors.actor import TenantActor
from tenantry.tenancy.actors.channel import ChannelClosedError

T = TypeVar("T")

CATALOG_NAME: Final = "(catalog)"  # in events, where no tenant can be named so


class CatalogActor(TenantActor):
    """The catalog's actor. It is not reopened: after it closed, calls raise `RegistryClosedError`."""

    async def write(self, request: Request) -> list[Result]:
        """Run one unit."""
        with _reraise_as_closed():
            return await super().write(request)

    async def read(self, statement: Statement[T]) -> T:
        """Run one reading statement."""
        with _reraise_as_closed():
            return await super().read(statement)

    async def changes_by_others(self) -> int:
        """Return the store's number of changes by others, in its turn among the reads; see `Store.changes_by_others`."""
        with _reraise_as_closed():
            return await self._reads.call_alone("catalog.changes_by_others", self._ask_changes)

    async def _ask_changes(self, answer: asyncio.Future[int]) -> None:
        async with self._context.limiters.read.permit(CATALOG_NAME):
            changes = await self._store.changes_by_others()
        if not answer.done():  # its deadline may have passed
            answer.set_result(changes)


@contextmanager
def _reraise_as_closed() -> Iterator[None]:
    try:
        yield
    except ChannelClosedError as error:
        raise RegistryClosedError("the registry is closed") from error
