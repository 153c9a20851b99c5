"""The transactions that another process has opened on tenants of this process."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from tenantry.errors import TenantOverloadedError, TransactionClosedError
from tenantry.storage.protocol import LOOK_UP, MarkedRequest
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.actors.lease import EntryState, Lease
from tenantry.tenancy.actors.transaction import TransactionSession
from tenantry.tenancy.peers.connections.messages import (
    Begin,
    Commit,
    Rollback,
    TransactionRead,
    TransactionRequest,
    TransactionWrite,
    received,
    received_statement,
)
from tenantry.tenancy.peers.serving.served_tenants import ServedTenants

ENDED_LOOKS_SECONDS: Final = 1.0
"""The interval at which the leases of transactions are released that have ended at their deadline."""


class _ServedTransaction:
    """An open transaction; its tenant stays open as long as the transaction has the lease."""

    __slots__ = ("lease", "session")

    def __init__(self, session: TransactionSession, lease: Lease) -> None:
        self.session = session
        self.lease: Lease | None = lease


class ServedTransactions:
    """The transactions of one connection, each with the number of the call that opened it.

    Args:
        transactions_max: See `PeerLimits`.
    """

    def __init__(self, tenants: ServedTenants, *, transactions_max: int) -> None:
        self._tenants = tenants
        self._transactions_max = transactions_max
        self._open: dict[int, _ServedTransaction] = {}
        self._looks: asyncio.TimerHandle | None = None
        self._beginning = 0  # transactions that wait for their tenants
        self._is_ended = False

    def __contains__(self, number: object) -> bool:
        """Return whether a transaction has this number."""
        return number in self._open

    async def run(self, call: int, request: TransactionRequest, sender: bytes) -> Any:
        """Do the work of a call, and return its result.

        Args:
            call: The number of the call; the number of the transaction that it opens.
            request: The call.
            sender: The token of the other process, for the mark of a commit.

        Raises:
            ChannelClosedError, TransactionClosedError, TenantError, PersistenceError: The errors of the methods below, and of the
                transaction's calls.
        """
        match request:
            case Begin():
                await self.begin(call, request)
            case TransactionWrite():
                return await self.session(request.transaction).write(*received(request.statements))
            case TransactionRead():
                return await self.session(request.transaction).read(received_statement(request.statement))
            case Commit():
                await self.commit(sender, request)
            case Rollback():
                await self.rollback(request.transaction)
        return None

    async def begin(self, number: int, request: Begin) -> None:
        """Open a transaction.

        Raises:
            ChannelClosedError: The tenant is closed here.
            TenantOverloadedError: The other process has too many transactions.
        """
        if self._beginning + len(self._open) >= self._transactions_max:
            raise _too_many(request.tenant_id, self._transactions_max)
        self._beginning += 1
        try:
            session, lease = await self._begun(request)
        finally:
            self._beginning -= 1
        lease.entry.transactions.add(session)
        self._open[number] = _ServedTransaction(session, lease)
        if self._is_ended:
            self.abandon(number)
        elif self._looks is None:
            self._look_later()

    async def _begun(self, request: Begin) -> tuple[TransactionSession, Lease]:
        lease = await self._tenants.lease(request.tenant_id, request.uid)
        if lease is None:
            raise ChannelClosedError
        try:
            session = await lease.actor.begin(is_forwarded=True)
        except ChannelClosedError:
            self._tenants.release(lease)
            await lease.entry.closed.wait()
            raise
        except BaseException:
            self._tenants.release(lease)
            raise
        lease.actor.count_forwarded()
        return session, lease

    def session(self, number: int) -> TransactionSession:
        """Return an open transaction.

        Raises:
            TransactionClosedError: No open transaction has this number.
        """
        found = self._open.get(number)
        if found is None:
            raise TransactionClosedError("the transaction has ended: open a new one")
        return found.session

    async def commit(self, sender: bytes, request: Commit) -> None:
        """Commit a transaction together with its mark; see `TransactionSession.commit`."""
        mark = MarkedRequest(
            (LOOK_UP,), sender=sender, number=request.number, answered_to=request.answered_to
        )
        await self._ended_by(request.transaction, lambda session: session.commit(mark))

    async def rollback(self, number: int) -> None:
        """Roll a transaction back; a no-op if it has ended."""
        if number in self._open:
            await self._ended_by(number, TransactionSession.rollback)

    def abandon(self, number: int) -> None:
        """Let a transaction roll back, without waiting; a no-op if it has ended."""
        found = self._open.pop(number, None)
        if found is not None:
            self._end(found)

    def abandon_all(self) -> None:
        """Let all transactions roll back, and each transaction that is opened after this."""
        self._is_ended = True
        if self._looks is not None:
            self._looks.cancel()
        for number in list(self._open):
            self.abandon(number)

    def lease_inside(self, tenant_id: str, uid: str) -> Lease | None:
        """Return a lease of a draining tenant in which the other process has a transaction open; None otherwise.

        The tenant drains until the transaction ends, and the transaction may wait for this call.
        """
        for found in self._open.values():
            lease = found.lease
            if lease is not None and lease.entry.tenant_id == tenant_id and lease.actor.uid == uid:
                return Lease(lease.entry) if lease.entry.state is EntryState.DRAINING else None
        return None

    async def _ended_by(
        self, number: int, end: Callable[[TransactionSession], Coroutine[Any, Any, None]]
    ) -> None:
        session = self.session(number)
        found = self._open.pop(number)
        try:
            await end(session)
        finally:
            self._end(found)

    def _end(self, found: _ServedTransaction) -> None:
        found.session.abandon()
        self._release(found)

    def _release(self, found: _ServedTransaction) -> None:
        lease, found.lease = found.lease, None
        if lease is not None:
            lease.entry.transactions.discard(found.session)
            self._tenants.release(lease)

    def _look_later(self) -> None:
        self._looks = asyncio.get_running_loop().call_later(ENDED_LOOKS_SECONDS, self._release_ended)

    def _release_ended(self) -> None:
        """Release the tenants of transactions that have ended at their deadline, although the other process does not end them."""
        self._looks = None
        for found in self._open.values():
            if found.session.has_ended:
                self._release(found)
        if self._open:
            self._look_later()


def _too_many(tenant_id: str, transactions_max: int) -> TenantOverloadedError:
    return TenantOverloadedError(
        f"this process has {transactions_max} transactions open at the process that has tenant {tenant_id!r} open: end some first",
        tenant_id=tenant_id,
        limit="transactions_max",
        limit_value=transactions_max,
        retry_after_seconds=ENDED_LOOKS_SECONDS,
    )
