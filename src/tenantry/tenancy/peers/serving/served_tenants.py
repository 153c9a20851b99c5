"""The tenants of this process, as other processes use them."""

from typing import Final

from tenantry.ids import TenantId
from tenantry.storage.protocol import MarkedRequest
from tenantry.tenancy.actors.actor import SubmittedCall, TenantActor
from tenantry.tenancy.actors.call_batch import Reply
from tenantry.tenancy.actors.idempotency import check_key
from tenantry.tenancy.actors.lease import EntryState, Lease
from tenantry.tenancy.actors.pool import ActorPool
from tenantry.tenancy.peers.connections.messages import (
    Read,
    TenantRequest,
    WriteOnce,
    received,
    received_statement,
)

HANDED_OVER: Final = "handed_over"
"""The reason for closing a tenant that only other processes use."""


class ServedTenants:
    """Gives leases of open tenants to calls of other processes, and hands tenants over that only other processes use.

    Args:
        handed_over_after_calls: See `RegistryConfig.handed_over_after_calls`.
    """

    def __init__(self, pool: ActorPool, *, call_timeout_seconds: float, handed_over_after_calls: int) -> None:
        self._pool = pool
        self._call_timeout_seconds = call_timeout_seconds
        self._handed_over_after_calls = handed_over_after_calls
        self._answered: dict[str, int] = {}

    @property
    def answered_calls(self) -> dict[str, int]:
        """The number of answers to calls of other processes, by outcome."""
        return dict(self._answered)

    def count_answer(self, outcome: str) -> None:
        """Count an answer to a call of another process. No event is reported, because the tenant's batches already report the call."""
        self._answered[outcome] = self._answered.get(outcome, 0) + 1

    def lease_nowait(self, tenant_id: str, uid: str) -> Lease | None:
        """Return a lease if this process has the tenant open now; None otherwise."""
        return self._of_uid(self._pool.lease_nowait(TenantId(tenant_id)), uid)

    async def lease(self, tenant_id: str, uid: str) -> Lease | None:
        """Return a lease if this process has the tenant open, or is about to; None when the tenant is closed here."""
        return self._of_uid(await self._pool.lease_if_open(TenantId(tenant_id)), uid)

    def release(self, lease: Lease) -> None:
        """Release a lease."""
        self._pool.release(lease)

    def submit(
        self, actor: TenantActor, request: TenantRequest, sender: bytes, reply: Reply, *, is_followed: bool
    ) -> SubmittedCall:
        """Put a call of another process into the tenant's mailbox.

        Args:
            actor: The tenant's actor.
            request: The call.
            sender: The token of the other process, for the call's mark.
            reply: What the call's result is given to.
            is_followed: Whether the other process has sent more messages, which may be calls for the same batch.

        Raises:
            ChannelClosedError: The tenant is closing, and the call ran nowhere.
            TenantError, QueryError: The call is refused.
        """
        # The call has waited in the other process.
        timeout_seconds = self._call_timeout_seconds
        waited_seconds = timeout_seconds - request.remaining_seconds
        if (
            not 0.0 <= waited_seconds <= timeout_seconds
        ):  # the other process has another timeout, or sent nonsense
            waited_seconds = timeout_seconds if waited_seconds > timeout_seconds else 0.0
        if isinstance(request, Read):
            statement = received_statement(request.statement)
            return actor.submit_read(statement, reply, waited_seconds, is_followed=is_followed)
        statements = received(request.statements)
        if isinstance(request, WriteOnce):
            key = check_key(request.key)
            return actor.submit_write_once(
                statements, key, request.payload_hash, reply, waited_seconds, is_followed=is_followed
            )
        marked = MarkedRequest(
            statements,
            sender=sender,
            number=request.number,
            answered_to=request.answered_to,
            is_repeated=request.is_repeated,
            is_look_up=request.is_look_up,
        )
        return actor.submit_write(marked, reply, waited_seconds, is_followed=is_followed)

    def count(self, lease: Lease, *, is_kept: bool = False) -> None:
        """Count a forwarded call; close the tenant after enough of them, so that a process that uses the tenant becomes its owner.

        Args:
            lease: The lease of the tenant.
            is_kept: Whether the tenant stays open here, because the caller's process has no place for it.
        """
        entry = lease.entry
        if (
            lease.actor.count_forwarded() >= self._handed_over_after_calls
            and not is_kept
            and entry.state is EntryState.OPEN
            and not entry.transactions
            and not lease.actor.is_copied_or_checked
        ):
            self._pool.start_closing(entry.tenant_id, HANDED_OVER)

    def _of_uid(self, lease: Lease | None, uid: str) -> Lease | None:
        if lease is None or lease.actor.uid == uid:
            return lease
        self._pool.release(lease)
        return None
