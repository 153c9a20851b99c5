"""A tenant that another process has open: sends the calls of this process to the owner."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenantry.errors import CallTimeoutError, QueryError, TenantError
from tenantry.eventlog import EventLog
from tenantry.events import CallForwarded, Hook
from tenantry.sql.statements import Result, Statement
from tenantry.storage.protocol import LOOK_UP, MarkedRequest, Request
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.peers.connections import messages
from tenantry.tenancy.peers.connections.messages import Begin, Read, Write, WriteOnce, sent
from tenantry.tenancy.peers.connections.owner_connection import (
    ConnectionEndedError,
    NoAnswerError,
    NotOwnerError,
    OwnerConnection,
)
from tenantry.tenancy.peers.forwarding.forwarded_transaction import ForwardedTransaction
from tenantry.tenancy.peers.forwarding.received_results import read_result, unit_results
from tenantry.tenancy.peers.sent_units import SentUnits

if TYPE_CHECKING:
    from tenantry.tenancy.actors.actor import TenantActor

T = TypeVar("T")

Again = Callable[["TenantActor | ForwardedTenant", float], Awaitable[list[Result]]]
"""Sends a unit again to an owner of the tenant, of this process or of another, with the unit's deadline.

Raises what the owner raises, and `ConnectionEndedError` if that owner is lost too.
"""

Repeat = Callable[["ForwardedTenant", Again, float], Awaitable[list[Result]]]
"""Sends a unit again to the tenant's present owner, until the unit's deadline."""


@dataclass(frozen=True, slots=True)
class ForwardedContext:
    """What all forwarded tenants of a registry share.

    Attributes:
        repeat: Sends a unit again whose owner was lost.
        forget: Forgets a tenant that its owner does not have open any more.
        is_full: Tells whether this process has no place for another tenant.
    """

    sent_units: SentUnits
    call_timeout_seconds: float
    now: Callable[[], float]
    report: Hook
    repeat: Repeat
    forget: Callable[["ForwardedTenant"], None]
    is_full: Callable[[], bool]


class ForwardedTenant:
    """A tenant of another process, with the methods of `TenantActor` that callers use.

    No state of the tenant is kept here: the owner checks the tenant's state and limits, and counts its metrics.

    Args:
        uid: The tenant's permanent key. The owner refuses a call if the id belongs to another tenant now.
    """

    dialect: Final = "sqlite"

    def __init__(
        self,
        tenant_id: str,
        uid: str,
        backend: str,
        connection: OwnerConnection,
        context: ForwardedContext,
        *,
        log: EventLog,
    ) -> None:
        self.tenant_id = tenant_id
        self.uid = uid
        self.connection = connection
        self._backend = backend
        self._context = context
        self._log = log
        self._transactions: set[ForwardedTransaction] = set()

    @property
    def sent_units(self) -> SentUnits:
        """The units that this process has forwarded."""
        return self._context.sent_units

    def deadline(self) -> float:
        """Return the deadline of a call that begins now."""
        return self._context.now() + self._context.call_timeout_seconds

    async def write(self, request: Request) -> list[Result]:
        """Run one unit at the owner; see `TenantActor.write`. If the owner is lost, find out whether the unit was committed."""
        self._check_is_outside("write")
        context = self._context
        until = context.now() + context.call_timeout_seconds
        with context.sent_units.numbered(self.uid) as number:
            message = Write(
                self.tenant_id,
                self.uid,
                context.call_timeout_seconds,
                number,
                context.sent_units.answered_to(self.uid),
                False,
                False,
                [sent(statement, self.dialect) for statement in request],
                context.is_full(),
            )
            try:
                results = await self._ask(request[0].name, messages.encode(message), until)
            except ConnectionEndedError:
                again = partial(self._write_again, request, number, is_look_up=False)
                return await context.repeat(self, again, until)
            return unit_results(request, results)

    async def write_marked(self, request: MarkedRequest, until_seconds: float) -> list[Result]:
        """Send one unit again, and return its results like `write`.

        Raises:
            ConnectionEndedError: The owner was lost, and the unit may have been committed.
            ChannelClosedError: The owner does not have the tenant open any more, and the unit ran nowhere.
            CallTimeoutError, TenantError, PersistenceError: See `TenantActor.write`.
        """
        message = Write(
            self.tenant_id,
            self.uid,
            until_seconds - self._context.now(),
            request.number,
            request.answered_to,
            request.is_repeated,
            request.is_look_up,
            [sent(statement, self.dialect) for statement in request],
            self._context.is_full(),
        )
        return unit_results(
            request, await self._ask(request[0].name, messages.encode(message), until_seconds)
        )

    async def write_once(self, statements: Request, key: str, payload_hash: bytes) -> list[Result]:
        """Run one unit with an idempotency key at the owner; see `TenantActor.write_once`."""
        self._check_is_outside("write")
        until = self.deadline()
        try:
            return await self.write_keyed(statements, key, payload_hash, until)
        except ConnectionEndedError:
            again = partial(self._write_keyed_again, statements, key, payload_hash)
            return await self._context.repeat(self, again, until)

    async def write_keyed(
        self, statements: Request, key: str, payload_hash: bytes, until_seconds: float
    ) -> list[Result]:
        """Run one unit with an idempotency key at the owner. Raises like `write_marked`."""
        message = WriteOnce(
            self.tenant_id,
            self.uid,
            until_seconds - self._context.now(),
            key,
            payload_hash,
            [sent(statement, self.dialect) for statement in statements],
            self._context.is_full(),
        )
        return unit_results(
            statements, await self._ask(statements[0].name, messages.encode(message), until_seconds)
        )

    async def _write_again(
        self,
        request: Request,
        number: int,
        actor: "TenantActor | ForwardedTenant",
        until_seconds: float,
        *,
        is_look_up: bool,
    ) -> list[Result]:
        if actor.dialect != self.dialect:
            # A move takes no marks with it, so the unit could run twice.
            raise TenantError("the tenant was moved to another back end", tenant_id=self.tenant_id)
        repeated = MarkedRequest(
            request,
            sender=self.sent_units.token,
            number=number,
            answered_to=self.sent_units.answered_to(self.uid),
            is_repeated=True,
            is_look_up=is_look_up,
        )
        if isinstance(actor, ForwardedTenant):
            return await actor.write_marked(repeated, until_seconds)
        return await actor.write(repeated)

    @staticmethod
    async def _write_keyed_again(
        statements: Request,
        key: str,
        payload_hash: bytes,
        actor: "TenantActor | ForwardedTenant",
        until_seconds: float,
    ) -> list[Result]:
        if isinstance(actor, ForwardedTenant):
            return await actor.write_keyed(statements, key, payload_hash, until_seconds)
        return await actor.write_once(statements, key, payload_hash)

    async def read(self, statement: Statement[T]) -> T:
        """Run one read-only statement at the owner; see `TenantActor.read`."""
        until = self.deadline()
        message = Read(
            self.tenant_id,
            self.uid,
            self._context.call_timeout_seconds,
            sent(statement, self.dialect),
            self._context.is_full(),
        )
        answer = await self._ask(statement.name, messages.encode(message), until, is_repeatable=True)
        result: T = read_result(statement, answer)
        return result

    async def begin(self) -> ForwardedTransaction:
        """Open a transaction at the owner; see `TenantActor.begin`."""
        self._check_is_outside("transaction")
        call = self.connection.next_call()
        message = messages.encode(Begin(self.tenant_id, self.uid))
        await self._ask("transaction", message, self.deadline(), call, is_repeatable=True)
        transaction = ForwardedTransaction(self, call, log=self._log, on_ended=self._transactions.discard)
        self._transactions.add(transaction)
        return transaction

    async def look_up_commit(self, number: int, until_seconds: float) -> None:
        """Return if the transaction with this mark was committed, after the connection was lost.

        Raises:
            TransactionClosedError: The transaction was not committed.
            CallTimeoutError: It is not known whether the transaction was committed.
        """
        look_up = partial(self._write_again, (LOOK_UP,), number, is_look_up=True)
        await self._context.repeat(self, look_up, until_seconds)

    def timed_out(self, what: str, error: NoAnswerError) -> CallTimeoutError:
        """Return the error for a call that the owner did not answer."""
        timeout = self._context.call_timeout_seconds
        effect = "may or may not have taken effect" if error.was_started else "was not sent and has no effect"
        return CallTimeoutError(
            f"the process that has tenant {self.tenant_id!r} open did not answer {what} within call_timeout_seconds "
            f"({timeout:g}): the call {effect}",
            tenant_id=self.tenant_id,
            timeout_seconds=timeout,
            was_started=error.was_started,
        )

    async def ask(self, operation: str, message: bytes, until_seconds: float, call: int | None = None) -> Any:
        """Ask the owner, and report the event `CallForwarded`. See `OwnerConnection.ask`."""
        started_seconds, outcome = self._context.now(), "error"
        try:
            result = await self.connection.ask(message, until_seconds, call)
            outcome = "ok"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            outcome = getattr(error, "outcome", outcome)
            raise
        finally:
            seconds = self._context.now() - started_seconds
            self._context.report(CallForwarded(self.tenant_id, self._backend, operation, outcome, seconds))
        return result

    async def _ask(
        self,
        operation: str,
        message: bytes,
        until_seconds: float,
        call: int | None = None,
        *,
        is_repeatable: bool = False,
    ) -> Any:
        """Ask the owner. If the owner is lost, a call that the caller may repeat raises `ChannelClosedError`."""
        try:
            return await self.ask(operation, message, until_seconds, call)
        except NotOwnerError:
            self._context.forget(self)
            raise ChannelClosedError(until_seconds) from None
        except ConnectionEndedError:
            self._context.forget(self)
            if is_repeatable:
                raise ChannelClosedError(until_seconds) from None
            raise
        except NoAnswerError as error:
            raise self.timed_out(operation, error) from error

    def _check_is_outside(self, what: str) -> None:
        """Refuse a call inside an open transaction, because the call would wait for that transaction to end."""
        if self._transactions and any(one.encloses_caller for one in self._transactions):
            raise QueryError(
                f"this call is made inside an open transaction of tenant {self.tenant_id!r}, and a {what} outside the transaction would "
                "wait until the transaction ends: use the transaction's repositories (tx.…), or call after that"
            )
