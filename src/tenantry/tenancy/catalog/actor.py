"""The catalog's actor, which is opened and closed with the registry."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from tenantry.errors import CatalogMovedError, QueryError, RegistryClosedError
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import Request
from tenantry.tenancy.actors.actor import TenantActor
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.catalog.place import check_is_here

T = TypeVar("T")

CATALOG_NAME: Final = "(catalog)"  # the catalog's name in events; not a valid tenant id


class CatalogActor(TenantActor):
    """The catalog's actor. After the actor has closed, calls raise `RegistryClosedError`.

    After the catalog was moved to another database, every call raises `CatalogMovedError`.
    """

    _moved: CatalogMovedError | None = None

    async def write(self, request: Request) -> list[Result]:
        """Run the statements as one atomic unit."""
        self._check_was_not_moved()
        try:
            with _reraise_as_closed():
                return await super().write(request)
        except QueryError:
            await self.check_is_here()  # the database refuses every write after a move
            raise

    async def read(self, statement: Statement[T]) -> T:
        """Run one read-only statement."""
        self._check_was_not_moved()
        with _reraise_as_closed():
            return await super().read(statement)

    async def check_is_here(self) -> None:
        """Raise an error if the catalog was moved to another database; then every later call raises the error too.

        Raises:
            CatalogMovedError: The catalog is in another database.
        """
        try:
            await check_is_here(self)
        except CatalogMovedError as error:
            self._moved = error
            raise

    async def changes_by_others(self) -> int:
        """Return a number that changes after commits of other processes; the call is queued with the reads."""
        with _reraise_as_closed():
            return await self._reads.call_alone("catalog.changes_by_others", self._ask_changes)

    def _check_was_not_moved(self) -> None:
        if self._moved is not None:
            raise self._moved.for_another_caller()

    async def _ask_changes(self, answer: asyncio.Future[int]) -> None:
        async with self._context.limiters.read.permit(CATALOG_NAME):
            changes = await self._store.changes_by_others()
        if not answer.done():  # done already if the deadline has passed
            answer.set_result(changes)


@contextmanager
def _reraise_as_closed() -> Iterator[None]:
    try:
        yield
    except ChannelClosedError as error:
        raise RegistryClosedError("the registry is closed") from error
