"""Gives leases of tenants, of this process or of others, and finds the next owner of a tenant whose owner was lost."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import anyio

from tenantry.errors import (
    CallTimeoutError,
    DatabaseCorruptError,
    PersistenceConnectionError,
    PersistenceError,
    QueryError,
    TenantBusyError,
    TenantError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.events import Hook, PoolWaited
from tenantry.files.lock_file import Holder
from tenantry.ids import TenantId
from tenantry.sql.statements import Result
from tenantry.storage.backends import Backends
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.actors.lease import EntryState, Lease, PoolEntry
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.catalog.catalog import Catalog
from tenantry.tenancy.opening.tenant_opener import check_opens
from tenantry.tenancy.peers.connections.owner_connection import (
    ConnectionEndedError,
    NoAnswerError,
    OwnerConnection,
)
from tenantry.tenancy.peers.forwarding.denials import LOOKS_SECONDS, Denials
from tenantry.tenancy.peers.forwarding.forwarded_tenant import Again, ForwardedContext, ForwardedTenant
from tenantry.tenancy.peers.owned_elsewhere import not_answered, not_usable, owned_elsewhere
from tenantry.tenancy.peers.peers import Peers
from tenantry.tenancy.peers.sent_units import SentUnits
from tenantry.tenancy.refusals import another_loop_error

if TYPE_CHECKING:
    from tenantry.tenancy.actors.actor import TenantActor

FORWARDED_MAX: Final = 16_384
"""The largest number of tenants of other processes that a registry remembers. They use no files and no connections of their own."""

UNREACHABLE_SECONDS_MAX: Final = 1.0
"""The longest wait for an owner that holds a tenant's lock but does not listen: it is opening, closing, or about to die."""

_UNREACHABLE: Final = "its socket takes no connections, so it is starting, ending or overloaded, or the socket was removed (see 'tenantry doctor')"
_OFF: Final = (
    "forwarding is off in this process: switch it on here (TENANTRY_FORWARDING), or close the tenant there"
)

_FIRST_ATTEMPT_UNKNOWN: Final = (TenantError, PersistenceConnectionError, DatabaseCorruptError)
"""The errors of a repeated unit after which it is not known whether the first attempt was committed. With other errors the unit ran."""


class Forwarding:
    """Gives a lease of each tenant: of its actor, or of the connection to the process that has the tenant open.

    A tenant goes through these states here. The lock of the tenant decides; what this process remembers is only the way to the owner.

        lock free                              this process opens the tenant
        lock held, the owner answers           the tenant's calls are forwarded
        lock held, nobody listens (yet)        look again, for at most `UNREACHABLE_SECONDS_MAX`
        forwarded, and the connection ended    forgotten: the next call begins at the lock
        forwarded, and the owner has closed it forgotten

    Args:
        is_wanted: Whether to forward calls; if not, a tenant of another process is refused. See `RegistryConfig.forwarding`.
    """

    def __init__(
        self,
        pool: ActorPool,
        peers: Peers,
        sent_units: SentUnits,
        catalog: Catalog,
        backends: Backends,
        *,
        is_wanted: bool,
        call_timeout_seconds: float,
        now: Callable[[], float],
        report: Hook,
        log: EventLog,
    ) -> None:
        self._pool = pool
        self._peers = peers
        self._is_wanted = is_wanted
        self._catalog = catalog
        self._backends = backends
        self._call_timeout_seconds = call_timeout_seconds
        self._now = now
        self._report = report
        self._log = log
        self._context = ForwardedContext(
            sent_units,
            call_timeout_seconds,
            now,
            report,
            self._repeat,
            self._forget,
            lambda: pool.is_full,
        )
        self._entries: OrderedDict[TenantId, PoolEntry] = OrderedDict()
        self._denials = Denials(now, denials_max=FORWARDED_MAX, repeated_seconds_max=UNREACHABLE_SECONDS_MAX)

    @property
    def tenants(self) -> int:
        """The number of tenants that another process is known to have open."""
        return len(self._entries)

    def lease_nowait(self, tenant_id: TenantId) -> Lease | None:
        """Return a lease if another process is known to have the tenant open.

        Raises:
            TenantError: The caller runs on another event loop than earlier callers.
        """
        entry = self._entries.get(tenant_id)
        if entry is None:
            return None
        connection = _forwarded(entry).connection
        if connection.is_ended:
            del self._entries[tenant_id]
            return None
        if not connection.is_on_this_loop:
            raise another_loop_error(tenant_id)
        self._entries.move_to_end(tenant_id)
        return Lease(entry)

    def close(self) -> None:
        """Forget all tenants, because the registry accepts no more calls; calls that were sent still get their answers."""
        self._entries.clear()

    async def lease(self, tenant_id: TenantId, *, is_for_write: bool = False) -> Lease:
        """Return a lease; open the tenant here unless another process has it open. See `ActorPool.lease`.

        Raises:
            TenantOwnedElsewhereError: Another process has the tenant open, and takes no calls of this process.
            CallTimeoutError: The owner does not answer.
        """
        interval_seconds, interval_seconds_max = LOOKS_SECONDS
        started_seconds = self._now()
        until: float | None = None
        while True:
            try:
                return await self._lease_without_place(tenant_id) or await self._pool.lease(
                    tenant_id, is_for_write=is_for_write
                )
            except TenantOwnedElsewhereError as refused:
                if not self._peers.is_reachable(refused.socket_name):
                    raise
                await self._denials.wait(tenant_id)
                try:
                    lease = await self._forwarded_lease(tenant_id, refused)
                    if lease is not None:
                        return lease
                    until = self._now() + UNREACHABLE_SECONDS_MAX if until is None else until
                    if self._now() >= until:
                        raise not_usable(refused, _UNREACHABLE) from refused
                except TenantryError as error:
                    # The pool reports no wait that ends at an owner with a socket, because most of these calls are forwarded.
                    self._report(PoolWaited(tenant_id, error.outcome, self._now() - started_seconds))
                    raise
            await anyio.sleep(interval_seconds)
            interval_seconds = min(2 * interval_seconds, interval_seconds_max)

    async def _lease_without_place(self, tenant_id: TenantId) -> Lease | None:
        """Return a lease of another process's tenant if the pool is full; None if the tenant needs a place here.

        The pool would close one of its tenants only to find that the lock is held, or would refuse the caller.
        """
        if not self._is_wanted or not self._pool.is_full or self._pool.has(tenant_id):
            return None
        if not self._peers.may_have_others():
            return None  # reading the lock file takes a thread, which would be most of the cost of an opening
        tenant = await self._catalog.get(tenant_id)
        backend = self._backends.find(tenant.backend)
        owner = None if backend is None else await backend.owner(tenant.place)
        if owner is None or not self._peers.is_reachable(owner.socket_name):
            return None
        return await self._forwarded_lease(tenant_id, owned_elsewhere(tenant.place, owner))

    async def _forwarded_lease(self, tenant_id: TenantId, refused: TenantOwnedElsewhereError) -> Lease | None:
        """Return a lease of the tenant of another process; None if that process is not there any more, or not yet."""
        if refused.socket_name is None:
            raise refused
        if not self._is_wanted:
            raise not_usable(refused, _OFF) from refused
        try:
            connection = await self._peers.connection_to(refused.socket_name)
            if connection is None:
                return None
            self._peers.check_schemas(connection)
        except NoAnswerError as error:
            owner = Holder(refused.pid, refused.host, refused.socket_name)
            raise CallTimeoutError(
                str(not_answered(tenant_id, owner)),
                tenant_id=tenant_id,
                timeout_seconds=self._call_timeout_seconds,
                was_started=False,
            ) from error
        except TenantError as error:
            raise not_usable(refused, str(error)) from error
        tenant = await self._catalog.get(tenant_id)
        try:
            check_opens(tenant)
        except TenantBusyError:
            return None  # the tenant's next opening here waits for the operation
        # Another caller may have been here first. All callers need the same tenant, which knows the transactions that are open.
        return self.lease_nowait(tenant_id) or self._remember(
            tenant_id, tenant.uid, tenant.backend, connection
        )

    def _remember(self, tenant_id: TenantId, uid: str, backend: str, connection: OwnerConnection) -> Lease:
        entry = PoolEntry(tenant_id, deque())
        entry.state = EntryState.FORWARDED
        log = self._log.bind(tenant_id=tenant_id)
        # Callers use only the methods that both kinds of actors have.
        entry.actor = cast(
            "TenantActor", ForwardedTenant(tenant_id, uid, backend, connection, self._context, log=log)
        )
        self._entries[tenant_id] = entry
        if len(self._entries) > FORWARDED_MAX:
            self._entries.popitem(last=False)
        return Lease(entry)

    def _forget(self, forwarded: ForwardedTenant) -> None:
        tenant_id = TenantId(forwarded.tenant_id)
        entry = self._entries.get(tenant_id)
        if entry is not None and _forwarded(entry) is forwarded:
            del self._entries[tenant_id]
            self._denials.note(tenant_id)

    async def _repeat(self, lost: ForwardedTenant, again: Again, until_seconds: float) -> list[Result]:
        """Send a unit whose owner was lost to the tenant's present owner, again until it succeeds or the deadline passes.

        Raises:
            CallTimeoutError: It is not known whether the unit was committed.
            PersistenceError: The unit failed, and has no effect.
        """
        tenant_id = TenantId(lost.tenant_id)
        why = "no other process has opened the tenant in time"
        while self._now() < until_seconds:
            try:
                with anyio.fail_after(until_seconds - self._now()):
                    return await self._repeated(lost, again, until_seconds)
            except (ChannelClosedError, ConnectionEndedError):
                continue
            except TimeoutError:
                break
            except _FIRST_ATTEMPT_UNKNOWN as error:
                if not error.is_retryable:
                    raise self._unknown(tenant_id, str(error)) from error
                why = str(error)
                retry_seconds = error.retry_after_seconds or LOOKS_SECONDS[1]
                await anyio.sleep(min(retry_seconds, max(until_seconds - self._now(), 0.0)))
        raise self._unknown(tenant_id, why)

    async def _repeated(self, lost: ForwardedTenant, again: Again, until_seconds: float) -> list[Result]:
        tenant_id = TenantId(lost.tenant_id)
        try:
            lease = self._pool.lease_nowait(tenant_id) or self.lease_nowait(tenant_id)
            lease = lease or await self.lease(tenant_id)
        except PersistenceError as error:
            # The tenant could not be opened, which says nothing about the unit.
            raise _not_opened(tenant_id, error) from error
        try:
            if lease.actor.uid != lost.uid:
                raise TenantError("the tenant was renamed or purged", tenant_id=tenant_id)
            return await again(lease.actor, until_seconds)
        except QueryError as error:
            if not error.is_retryable:
                raise
            # A database that was busy, full or could not be read may have failed before the owner looked for the mark.
            raise _not_opened(tenant_id, error) from error
        finally:
            self._pool.release(lease)

    def _unknown(self, tenant_id: TenantId, why: str) -> CallTimeoutError:
        return CallTimeoutError(
            f"the process that had tenant {tenant_id!r} open ended during the call, and it is not known whether the call took effect "
            f"({why})",
            tenant_id=tenant_id,
            timeout_seconds=self._call_timeout_seconds,
            was_started=True,
        )


def _forwarded(entry: PoolEntry) -> ForwardedTenant:
    return cast("ForwardedTenant", entry.actor)


def _not_opened(tenant_id: TenantId, error: PersistenceError) -> TenantError:
    not_opened = TenantError(str(error), tenant_id=tenant_id)
    not_opened.is_retryable = error.is_retryable
    return not_opened
