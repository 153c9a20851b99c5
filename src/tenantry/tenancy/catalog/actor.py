"""The catalog's own actor: it is opened and closed with the registry."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tenantry.errors import RegistryClosedError
from tenantry.statements import Result, Statement
from tenantry.storage.protocol import Request
from tenantry.tenancy.actors.actor import TenantActor
from tenantry.tenancy.actors.channel import Call, ChannelClosedError

CATALOG_NAME: Final = "(catalog)"  # in events, where no tenant can be named so


class CatalogActor(TenantActor):
    """The catalog's actor. It is not reopened: after it closed, calls raise `RegistryClosedError`."""

    async def write(self, request: Request) -> list[Result]:
        """Run one unit."""
        with _reraise_as_closed():
            return await super().write(request)

    async def read(self, statement: Statement) -> Result:
        """Run one reading statement."""
        with _reraise_as_closed():
            return await super().read(statement)

    async def changes_by_others(self) -> int:
        """Return the store's number of changes by others, in its turn among the reads; see `Store.changes_by_others`."""
        with _reraise_as_closed():
            changes: int = await self._reads.call("catalog.changes_by_others", None, alone=self._ask_changes)
            return changes

    async def _ask_changes(self, call: Call) -> None:
        async with self._context.limiters.read.permit(CATALOG_NAME):
            changes = await self._store.changes_by_others()
        if not call.future.done():  # its deadline may have passed
            call.future.set_result(changes)


@contextmanager
def _reraise_as_closed() -> Iterator[None]:
    try:
        yield
    except ChannelClosedError as error:
        raise RegistryClosedError("the registry is closed") from error
