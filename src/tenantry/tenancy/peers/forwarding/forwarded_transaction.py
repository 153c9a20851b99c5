"""A transaction on a tenant that another process has open; see `tenantry.tenancy.actors.transaction.TransactionSession`."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from tenantry.errors import CallTimeoutError, TransactionClosedError
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Result, Statement
from tenantry.tenancy.actors.enclosing import EnclosingTransaction
from tenantry.tenancy.peers.connections import messages
from tenantry.tenancy.peers.connections.messages import (
    Commit,
    Rollback,
    TransactionRead,
    TransactionWrite,
    sent,
)
from tenantry.tenancy.peers.connections.owner_connection import (
    ConnectionEndedError,
    NoAnswerError,
    NotOwnerError,
    OwnerConnection,
)
from tenantry.tenancy.peers.forwarding.received_results import read_result, unit_results
from tenantry.tenancy.peers.sent_units import SentUnits

T = TypeVar("T")

_HAS_ENDED: Final = "the transaction has ended: open a new one"
_OWNER_ENDED: Final = "the process that has the tenant open ended or closed the connection, so the transaction was rolled back: open a new transaction"


class TransactionTenant(Protocol):
    """The part of a `ForwardedTenant` that its transactions use."""

    @property
    def uid(self) -> str:
        """The tenant's permanent key."""

    @property
    def dialect(self) -> str:
        """The name of the SQL dialect of the tenant's database."""

    @property
    def connection(self) -> OwnerConnection:
        """The connection to the owner."""

    @property
    def sent_units(self) -> SentUnits:
        """The units that this process has forwarded."""

    def deadline(self) -> float:
        """Return the deadline of a call that begins now."""

    def timed_out(self, what: str, error: NoAnswerError) -> CallTimeoutError:
        """Return the error for a call that the owner did not answer."""

    async def ask(self, operation: str, message: bytes, until_seconds: float) -> Any:
        """Ask the owner, and report the call; see `OwnerConnection.ask`."""

    async def look_up_commit(self, number: int, until_seconds: float) -> None:
        """Return if the transaction with this mark was committed; otherwise raise `TransactionClosedError`."""


class ForwardedTransaction(EnclosingTransaction):
    """Runs repository calls in one transaction of the owner.

    The owner counts the transaction's deadline. If the owner ends before the transaction is committed, the transaction is rolled back, and
    its calls raise `TransactionClosedError`. If the owner ends during the commit, the transaction's mark tells whether it was committed.

    Args:
        number: The number of the call that opened the transaction.
        on_ended: The function that is called once, when the transaction has ended for this process.
    """

    def __init__(
        self,
        tenant: TransactionTenant,
        number: int,
        *,
        log: EventLog,
        on_ended: Callable[["ForwardedTransaction"], None],
    ) -> None:
        super().__init__(log)
        self._tenant = tenant
        self._number = number
        self._on_ended = on_ended

    async def dialect(self) -> str:
        """Return the name of the database's SQL dialect."""
        return self._tenant.dialect

    async def write(self, *statements: Statement) -> list[Result]:
        """Run one unit inside the transaction; see `TransactionSession.write`."""
        self._check_open()
        if not statements:
            return []
        dialect = self._tenant.dialect
        message = TransactionWrite(self._number, [sent(statement, dialect) for statement in statements])
        return unit_results(statements, await self._ask(statements[0].name, messages.encode(message)))

    async def read(self, statement: Statement[T]) -> T:
        """Run one read-only statement inside the transaction; see `TransactionSession.read`."""
        self._check_open()
        message = TransactionRead(self._number, sent(statement, self._tenant.dialect))
        result: T = read_result(statement, await self._ask(statement.name, messages.encode(message)))
        return result

    async def commit(self) -> None:
        """Commit the transaction durably; see `TransactionSession.commit`.

        Raises:
            TransactionClosedError: The transaction was not committed.
            CallTimeoutError: The owner did not answer, and it is not known whether the transaction was committed.
        """
        self._check_open()
        tenant, until = self._tenant, self._tenant.deadline()
        with tenant.sent_units.numbered(tenant.uid) as number:
            message = Commit(self._number, number, tenant.sent_units.answered_to(tenant.uid))
            try:
                await tenant.ask("commit", messages.encode(message), until)
            except ConnectionEndedError:
                await tenant.look_up_commit(number, until)
            except NotOwnerError:
                raise TransactionClosedError(_OWNER_ENDED) from None
            except NoAnswerError as error:
                self.abandon()
                raise tenant.timed_out("the commit", error) from error
            except asyncio.CancelledError:
                # The commit may still wait to be sent: then nothing else would end the transaction.
                self.abandon()
                raise
            finally:
                self._end()

    async def rollback(self) -> None:
        """Roll the transaction back; a no-op if the transaction has ended. A cancelled rollback takes effect too, later."""
        if self._has_ended:
            return
        self._end()
        tenant, message = self._tenant, messages.encode(Rollback(self._number))
        # If the owner has ended, or does not answer, it rolls the transaction back by itself.
        try:
            await tenant.ask("rollback", message, tenant.deadline())
        except (ConnectionEndedError, NotOwnerError, NoAnswerError):
            return
        except asyncio.CancelledError:
            # The rollback may still wait to be sent: then nothing else would end the transaction.
            tenant.connection.tell(message)
            raise

    def abandon(self) -> None:
        """Ask the owner to roll the transaction back, without waiting; a no-op if the transaction has ended."""
        if not self._has_ended:
            self._end()
            self._tenant.connection.tell(messages.encode(Rollback(self._number)))

    async def _ask(self, operation: str, message: bytes) -> Any:
        tenant = self._tenant
        try:
            return await tenant.ask(operation, message, tenant.deadline())
        except (ConnectionEndedError, NotOwnerError):
            self._end()
            raise TransactionClosedError(_OWNER_ENDED) from None
        except NoAnswerError as error:
            self.abandon()
            raise tenant.timed_out("a call of the transaction", error) from error

    def _check_open(self) -> None:
        if self._has_ended:
            raise TransactionClosedError(_HAS_ENDED)
        if self._tenant.connection.is_ended:
            self._end()
            raise TransactionClosedError(_OWNER_ENDED)

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._on_ended(self)
