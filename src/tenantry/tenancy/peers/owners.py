"""Finds the processes that own tenants, for operators' work on tenants that this process does not own.

A call of a tenant is forwarded (`tenantry.tenancy.peers.forwarding.forwarding`). An operation either needs the database for itself, and then the
owner closes the tenant for as long as the operation needs it; or the owner does the work, such as a copy.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from tenantry.errors import (
    PersistenceConnectionError,
    PoolExhaustedError,
    TenantError,
    TenantOwnedElsewhereError,
)
from tenantry.files.lock_file import Holder
from tenantry.storage.backends import Backends
from tenantry.storage.protocol import Backend, Capability, ClosedDatabase, Place
from tenantry.tenancy.actors.actor import ActorStatistics
from tenantry.tenancy.peers.connections.owner_connection import NoAnswerError
from tenantry.tenancy.peers.owned_elsewhere import NotOwnedThereError, OwnedElsewhere, not_answered
from tenantry.tenancy.peers.peers import Peers
from tenantry.tenancy.tenant_record import TenantRecord

T = TypeVar("T")

OWNERS_ASKED_MAX: Final = 3
"""The largest number of owners that one operation asks to close a tenant. Each of them opened the tenant after the last one closed it."""

STATISTICS_SECONDS_MAX: Final = 1.0
"""The longest wait for the counters of an owner. Whoever looks at many tenants must not wait long for a process that is stopped."""

_LOOK_AGAIN_SECONDS: Final = 0.01
_LOCK_LOOKS_SECONDS: Final = 0.05
"""The interval of the looks at a tenant's lock while its owner closes the tenant."""

_LOOKS_MAX: Final = 100
"""The largest number of looks at the lock of a tenant whose owner does not listen, or does not have the tenant open any more."""


class Owners:
    """Reaches the owners of tenants.

    Args:
        silent_seconds_max: The time after which an owner that gives no sign of life counts as one that does not answer.
    """

    def __init__(
        self,
        peers: Peers,
        backends: Backends,
        data_dir: Path,
        *,
        silent_seconds_max: float,
    ) -> None:
        self._peers = peers
        self._backends = backends
        self._scratch = data_dir / "scratch"
        self._silent_seconds_max = silent_seconds_max

    async def find(self, tenant: TenantRecord) -> OwnedElsewhere | None:
        """Return the tenant at its owner; None if no other process has the tenant open, or if its owner cannot be reached."""
        backend = self._backends.find(tenant.backend)
        owner = None if backend is None else await backend.owner(tenant.place)
        return None if owner is None else await self._reached(tenant.place, owner)

    async def do(
        self,
        tenant: TenantRecord,
        here: Callable[[], Awaitable[T]],
        there: Callable[[OwnedElsewhere], Awaitable[T]],
    ) -> T:
        """Do some work here, which opens the tenant; or let the owner do the work if another process has the tenant open.

        Raises:
            TenantOwnedElsewhereError: Another process has the tenant open, and cannot be reached or does not answer.
            PersistenceConnectionError: The owner ended during the work: try again.
            TenantError, PersistenceError: The errors of the work.
        """
        looks_left = _LOOKS_MAX
        while True:
            try:
                return await here()
            except TenantOwnedElsewhereError as refused:
                owner = Holder(refused.pid, refused.host, refused.socket_name)
                if owner.socket_name is None or not looks_left:
                    raise
                owned = await self._reached(tenant.place, owner)
            except PoolExhaustedError:
                # The owner needs no place here.
                owned = await self.find(tenant) if looks_left else None
                if owned is None:
                    raise
            if owned is not None:
                with suppress(NotOwnedThereError):
                    return await there(owned)
            # The owner is opening or closing the tenant, or is about to die.
            looks_left -= 1
            await anyio.sleep(_LOOK_AGAIN_SECONDS)

    async def close(self, tenant: TenantRecord, action: str) -> None:
        """Let the owner finish the tenant's calls and close the tenant. The caller has changed the record, so that nobody opens it again.

        Nothing is done if no process has the tenant open, or if its owner cannot be reached; that owner follows the catalog.

        Raises:
            TenantOwnedElsewhereError: The owner does not answer. It closes the tenant when it continues; call again to wait for that.
        """
        async with AsyncExitStack() as held:
            owned = await self.find(tenant)
            if owned is not None:
                await self._hold(held, owned, action)

    async def refresh(self, tenant: TenantRecord) -> None:
        """Let the owner apply the tenant's record, which the caller has changed. An owner that cannot be reached follows the catalog.

        Raises:
            TenantOwnedElsewhereError: The owner does not answer. It applies the record when it continues.
            PersistenceError: The owner could not apply the record; call again.
        """
        owned = await self.find(tenant)
        if owned is not None:
            with suppress(NotOwnedThereError):
                await owned.refresh()

    async def statistics(self, tenant: TenantRecord) -> ActorStatistics | None:
        """Return the owner's counters of the tenant; None if no other process has it open, or if its owner does not answer soon."""
        with (
            suppress(NotOwnedThereError, TenantOwnedElsewhereError, PersistenceConnectionError),
            anyio.move_on_after(STATISTICS_SECONDS_MAX),
        ):
            owned = await self.find(tenant)
            return None if owned is None else await owned.statistics()
        return None

    @asynccontextmanager
    async def exclusive(
        self, backend: Backend, place: Place, action: str, *, is_waited_for: bool = True
    ) -> AsyncIterator[ClosedDatabase]:
        """Hold the lock of a tenant's database during the block; the owner closes the tenant, and its callers wait there.

        See `Backend.exclusive` for the arguments and the errors.
        """
        closed: ClosedDatabase | None = None
        asked: set[str | None] = {None}
        is_last = Capability.SHARED in backend.capabilities
        async with AsyncExitStack() as held:
            while closed is None:
                attempt = backend.exclusive(place, is_waited_for=is_waited_for and is_last)
                try:
                    closed = await held.enter_async_context(attempt)
                except TenantOwnedElsewhereError as refused:
                    if is_last:
                        raise
                    owner = Holder(refused.pid, refused.host, refused.socket_name)
                    is_last = not await self._hold_new(held, backend, place, owner, action, asked)
            yield closed

    async def take_over(self, tenant: TenantRecord, action: str, opening: Callable[[], Awaitable[T]]) -> T:
        """Open the tenant in this process; an owner closes the tenant first, and its callers wait until the tenant is open here.

        Args:
            tenant: The tenant.
            action: The name of the operation, for errors.
            opening: The function that opens the tenant.

        Raises:
            TenantOwnedElsewhereError: The owner cannot be reached or does not answer.
            TenantError, PersistenceError: The errors of the opening.
        """
        asked: set[str | None] = {None}
        async with AsyncExitStack() as held:
            while True:
                try:
                    return await opening()
                except TenantOwnedElsewhereError as refused:
                    owner = Holder(refused.pid, refused.host, refused.socket_name)
                    backend = self._backends.of(tenant.backend)
                    if not await self._hold_new(held, backend, tenant.place, owner, action, asked):
                        raise

    async def _hold_new(
        self,
        held: AsyncExitStack,
        backend: Backend,
        place: Place,
        owner: Holder,
        action: str,
        asked: set[str | None],
    ) -> bool:
        """Let an owner that was not asked yet close the tenant; return whether the lock may be free now."""
        if owner.socket_name in asked or len(asked) > OWNERS_ASKED_MAX:
            return False
        asked.add(owner.socket_name)
        owned = await self._reached(place, owner)
        if owned is not None:
            await self._hold_while_owned(backend, place, owner, self._hold(held, owned, action))
        return True

    @staticmethod
    async def _hold_while_owned(
        backend: Backend, place: Place, owner: Holder, holding: Coroutine[Any, Any, None]
    ) -> None:
        """Wait until the owner has closed the tenant, or does not hold the lock any more.

        An owner that has just found this operation gives the lock back, and its opening waits for the end of this operation. The owner
        answers only after that opening.
        """
        task = asyncio.ensure_future(holding)
        try:
            while not (await asyncio.wait([task], timeout=_LOCK_LOOKS_SECONDS))[0]:
                if await backend.owner(place) != owner:
                    break
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _hold(self, held: AsyncExitStack, owned: OwnedElsewhere, action: str) -> None:
        """Let the owner close the tenant, and keep it closed until `held` is closed."""
        try:
            await held.enter_async_context(owned.released(action))
        except (NotOwnedThereError, PersistenceConnectionError):
            return  # the owner has closed the tenant, or has ended

    async def _reached(self, place: Place, owner: Holder) -> OwnedElsewhere | None:
        """Return the tenant at its owner; None if the owner does not listen, or runs a release that this process cannot talk to."""
        if owner.socket_name is None:
            return None
        try:
            connection = await self._peers.connection_to(owner.socket_name)
        except NoAnswerError as error:
            raise not_answered(place.tenant_id, owner) from error
        except TenantError:
            return None
        if connection is None:
            return None
        return OwnedElsewhere(place, owner, connection, self._scratch, self._silent_seconds_max)
