"""The catalog's actor, which is opened and closed with the registry."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar
from weakref import WeakSet

from tenantry.errors import CatalogMovedError, QueryError, RegistryClosedError
from tenantry.forks import left_in_children
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import Request
from tenantry.tenancy.actors.actor import TenantActor
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.catalog.place import check_is_here
from tenantry.tenancy.refusals import forked_error

T = TypeVar("T")

CATALOG_NAME: Final = "(catalog)"  # the catalog's name in events; not a valid tenant id


class CatalogActor(TenantActor):
    """The catalog's actor. After the actor has closed, calls raise `RegistryClosedError`.

    After the catalog was moved to another database, every call raises `CatalogMovedError`.
    """

    _moved: CatalogMovedError | None = None
    _is_forked = False

    async def open(self, *, is_for_write: bool = False) -> None:
        """Open and migrate the database."""
        _open_catalogs.add(self)
        await super().open(is_for_write=is_for_write)

    async def aclose(self, timeout_seconds: float) -> None:
        """Finish the accepted calls and close the database; idempotent."""
        await super().aclose(timeout_seconds)
        _open_catalogs.discard(self)

    def leave_in_child(self) -> None:
        """Let a forked child refuse every call."""
        self._is_forked = True

    async def write(self, request: Request) -> list[Result]:
        """Run the statements as one atomic unit."""
        self._check_usable()
        try:
            with _reraise_as_closed():
                return await super().write(request)
        except QueryError:
            await self.check_is_here()  # the database refuses every write after a move
            raise

    async def read(self, statement: Statement[T]) -> T:
        """Run one read-only statement."""
        self._check_usable()
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

    def _check_usable(self) -> None:
        if self._is_forked:
            raise forked_error()
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


_open_catalogs: Final[WeakSet[CatalogActor]] = left_in_children()
