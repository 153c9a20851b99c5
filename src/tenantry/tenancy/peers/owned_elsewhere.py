"""A tenant that another process has open, for operators' work: asks the owner to close, copy, check or count it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import gethostname
from typing import Any

import msgspec

from tenantry.errors import PersistenceConnectionError, TenantOwnedElsewhereError
from tenantry.files.lock_file import Holder
from tenantry.storage.protocol import Place
from tenantry.tenancy.actors.actor import ActorStatistics
from tenantry.tenancy.peers.connections import messages
from tenantry.tenancy.peers.connections.messages import (
    Check,
    Copy,
    OperatorRequest,
    Refresh,
    Release,
    Statistics,
)
from tenantry.tenancy.peers.connections.owner_connection import (
    ConnectionEndedError,
    NoAnswerError,
    NotOwnerError,
    OwnerConnection,
)


class NotOwnedThereError(Exception):
    """The process does not have the tenant open any more, and has done nothing."""


class OwnedElsewhere:
    """Asks the owner of one tenant.

    No request has a deadline of its own: the owner takes as long as it takes for its own operators. An owner that gives no sign of life
    for `silent_seconds_max` does not answer. If a request is cancelled, the owner gives the work up.

    Every method raises these errors:

        NotOwnedThereError: The process does not have the tenant open any more.
        TenantOwnedElsewhereError: The owner does not answer.
        PersistenceConnectionError: The owner ended.

    Args:
        scratch: The folder ``scratch`` of the data directory.
    """

    def __init__(
        self,
        place: Place,
        owner: Holder,
        connection: OwnerConnection,
        scratch: Path,
        silent_seconds_max: float,
    ) -> None:
        self._place = place
        self._owner = owner
        self._connection = connection
        self._scratch = scratch
        self._silent_seconds_max = silent_seconds_max

    async def copy_to(self, path: Path) -> None:
        """Let the owner write a consistent copy into a new file below the scratch directory; see `TenantActor.copy_to`."""
        await self._ask(Copy(*self._names, str(path.relative_to(self._scratch))))

    async def check_integrity(self, *, is_thorough: bool = False) -> None:
        """Let the owner check the database; see `TenantActor.check_integrity`."""
        await self._ask(Check(*self._names, is_thorough))

    async def refresh(self) -> None:
        """Let the owner apply the tenant's record of the catalog; see `TenantActor.apply_record`."""
        await self._ask(Refresh(*self._names))

    async def statistics(self) -> ActorStatistics | None:
        """Return the owner's counters; None if the owner's release counts something else."""
        counted = await self._ask(Statistics(*self._names))
        try:
            return msgspec.convert(counted, ActorStatistics)
        except msgspec.ValidationError:
            return None

    @asynccontextmanager
    async def released(self, action: str) -> AsyncIterator[None]:
        """Let the owner finish the tenant's calls and close it; its callers there wait during the block."""
        call = self._connection.next_call()
        try:
            await self._ask(Release(*self._names, action), call)
            yield
        finally:
            self._connection.give_up(call)

    @property
    def _names(self) -> tuple[str, str]:
        return self._place.tenant_id, self._place.uid

    async def _ask(self, request: OperatorRequest | Release, call: int | None = None) -> Any:
        message = messages.encode(request)
        try:
            return await self._connection.ask_at_length(message, self._silent_seconds_max, call)
        except NotOwnerError:
            raise NotOwnedThereError from None
        except NoAnswerError as error:
            raise not_answered(self._place.tenant_id, self._owner) from error
        except ConnectionEndedError:
            raise PersistenceConnectionError(
                f"{_named(self._owner)}, which had tenant {self._place.tenant_id!r} open, ended during the work: try again"
            ) from None


def owned_elsewhere(place: Place, owner: Holder) -> TenantOwnedElsewhereError:
    """Return the error for a tenant whose owner is known from its lock file."""
    return TenantOwnedElsewhereError(
        f"tenant {place.tenant_id!r} is open in {_named(owner)}: close the tenant there",
        tenant_id=place.tenant_id,
        pid=owner.pid,
        host=owner.host,
        socket_name=owner.socket_name,
    )


def not_usable(refused: TenantOwnedElsewhereError, why: str) -> TenantOwnedElsewhereError:
    """Return the error for a tenant whose owner cannot serve this process; `why` says what to do."""
    owner = _named(Holder(refused.pid, refused.host, refused.socket_name))
    return TenantOwnedElsewhereError(
        f"tenant {refused.tenant_id!r} is open in {owner}, and this process cannot use it there: {why}",
        tenant_id=refused.tenant_id,
        pid=refused.pid,
        host=refused.host,
    )


def not_answered(tenant_id: str, owner: Holder) -> TenantOwnedElsewhereError:
    """Return the error for an owner that gives no sign of life."""
    return TenantOwnedElsewhereError(
        f"tenant {tenant_id!r} is open in {_named(owner)}, which does not answer: it may be stopped or overloaded; "
        "let it continue or end it, and try again",
        tenant_id=tenant_id,
        pid=owner.pid,
        host=owner.host,
    )


def _named(owner: Holder) -> str:
    if owner.pid == os.getpid() and owner.host in {None, gethostname()}:
        return "another registry of this process"
    return f"process {owner.pid or 'unknown'} on {owner.host or 'this host'}"
