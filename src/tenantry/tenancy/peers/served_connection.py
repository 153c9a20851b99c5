"""The connection of another process to this one: serves the calls of tenants that this process has open."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tenantry.errors import QueryError, ResultLostError, TenantError, TenantryError, TransactionClosedError
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Statement
from tenantry.storage.plain_results import as_plain
from tenantry.storage.protocol import MarkedRequest
from tenantry.tenancy.actors.actor import SubmittedCall, TenantActor
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.actors.transaction import TransactionSession
from tenantry.tenancy.peers import messages
from tenantry.tenancy.peers.forwarded_tenant import LOOK_UP
from tenantry.tenancy.peers.frames import FrameConnection
from tenantry.tenancy.peers.messages import (
    PROTOCOL_VERSION,
    Begin,
    Cancel,
    Commit,
    Done,
    Hello,
    NotOwner,
    Read,
    Rollback,
    TenantRequest,
    TransactionRead,
    TransactionWrite,
    Welcome,
    Write,
    WriteOnce,
    received,
)
from tenantry.tenancy.peers.sent_errors import pack_error
from tenantry.tenancy.peers.served_tenants import ServedTenants

if TYPE_CHECKING:
    import asyncio

PEER_CONNECTED: Final = "tenantry.peer.connected"
PEER_DISCONNECTED: Final = "tenantry.peer.disconnected"
PEER_BROKEN_OFF: Final = "tenantry.peer.broken_off"

CALLS_MAX: Final = 1_024
"""The largest number of unanswered calls of one process. This process then reads no more of that process's calls."""

FRAMES_PER_STEP: Final = 16
"""The largest number of calls of one process that are taken in one step of the event loop.

With all calls in one step, a flood of forwarded reads multiplied the p99 latency of a quiet tenant by 3, and with 16 by 1.4.
"""

_NOT_OWNER: Final = messages.encode(NotOwner())


class ServedConnection(FrameConnection):
    """Serves the calls of one other process.

    Args:
        on_greeted: The function that is called when the other process has introduced itself. Older connections of the same process end
            there, before any call of this connection is handled: a call that is repeated here must not run while its first attempt
            still waits unread on an older connection.
        on_ended: The function that is called once when the connection has ended.
    """

    def __init__(
        self,
        tenants: ServedTenants,
        welcome: Welcome,
        *,
        on_greeted: Callable[["ServedConnection"], None],
        on_ended: Callable[["ServedConnection"], None],
        log: EventLog,
    ) -> None:
        super().__init__(frames_per_step=FRAMES_PER_STEP)
        self.hello: Hello | None = None
        """What the other process says about itself; None until it has introduced itself."""
        self._tenants = tenants
        self._welcome = welcome
        self._on_greeted = on_greeted
        self._on_ended = on_ended
        self._log = log
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._transactions: dict[int, tuple[TransactionSession, Lease]] = {}

    def handle(self, call: int, message: bytes) -> None:
        """Begin a call of the other process."""
        try:
            request = messages.decode_request(message)
        except (msgspec.DecodeError, ValueError) as error:
            self._break_off(f"it sent a call that cannot be read ({error})")
            return
        if isinstance(request, Hello):
            self._greet(call, request)
        elif self.hello is None:
            self._break_off("it sent a call before it introduced itself")
        elif isinstance(request, Cancel):
            if (running := self._calls.get(call)) is not None:
                running.cancel()
        elif call in self._calls or call in self._transactions:
            self._break_off(f"it used the number {call} for two calls at the same time")
        elif isinstance(request, (Write, Read, WriteOnce)):
            self._begin(call, request)
        else:
            self._start(call, self._answered(call, request))

    def ended(self) -> None:
        """Give up the calls and transactions of the other process."""
        for running in list(self._calls.values()):
            running.cancel()
        transactions, self._transactions = self._transactions, {}
        for session, lease in transactions.values():
            session.abandon()
            self._tenants.release(lease)
        if self.hello is not None:
            self._log.info(PEER_DISCONNECTED, pid=self.hello.pid)
        self._on_ended(self)

    def refuse(self, why: str) -> None:
        """Log the reason for which the connection is closed."""
        pid = None if self.hello is None else self.hello.pid
        self._log.warning(PEER_BROKEN_OFF, pid=pid, reason=why)

    def _greet(self, call: int, hello: Hello) -> None:
        if self.hello is not None:
            self._break_off("it introduced itself twice")
            return
        if hello.protocol != PROTOCOL_VERSION:
            refusal = TenantError(
                f"process {self._welcome.pid} runs tenantry {self._welcome.version} and speaks version {PROTOCOL_VERSION} of the protocol "
                f"between processes, but process {hello.pid} with tenantry {hello.version} speaks version {hello.protocol}: run the same "
                "release in all processes"
            )
            self.send(call, messages.encode(pack_error(refusal)))
            return
        self.hello = hello
        self._on_greeted(self)
        self._log.info(PEER_CONNECTED, pid=hello.pid, version=hello.version)
        self.send(call, messages.encode(self._welcome))

    def _begin(self, call: int, request: TenantRequest) -> None:
        """Put a call into its tenant's mailbox at once if the tenant is open."""
        lease = self._tenants.lease_nowait(request.tenant_id, request.uid)
        if lease is None:
            self._start(call, self._begin_later(call, request))
        else:
            self._submit(call, request, lease)

    async def _begin_later(self, call: int, request: TenantRequest) -> None:
        lease = await self._tenants.lease(request.tenant_id, request.uid)
        self._remove(call)
        if lease is None:
            self.send(call, _NOT_OWNER)
        else:
            self._submit(call, request, lease)

    def _submit(self, call: int, request: TenantRequest, lease: Lease) -> None:
        try:
            submitted = self._submitted(lease.actor, request)
        except ChannelClosedError:
            self._tenants.release(lease)
            self._start(call, self._answer_not_owner(call, lease))
        except TenantryError as error:
            self._tenants.release(lease)
            self.send(call, messages.encode(pack_error(error)))
        else:
            self._add(call, submitted.result)
            submitted.result.add_done_callback(partial(self._answer, call, lease, submitted))

    def _submitted(self, actor: TenantActor, request: TenantRequest) -> SubmittedCall:
        waited_seconds = self._tenants.waited_seconds(request.remaining_seconds)
        if isinstance(request, Read):
            return actor.submit_read(Statement(*request.statement), waited_seconds)
        statements = received(request.statements)
        if isinstance(request, WriteOnce):
            return actor.submit_write_once(statements, request.key, request.payload_hash, waited_seconds)
        assert self.hello is not None
        marked = MarkedRequest(
            statements,
            sender=self.hello.token,
            number=request.number,
            answered_to=request.answered_to,
            is_repeated=request.is_repeated,
            is_look_up=request.is_look_up,
        )
        return actor.submit_write(marked, waited_seconds)

    def _answer(
        self, call: int, lease: Lease, submitted: SubmittedCall, future: "asyncio.Future[Any]"
    ) -> None:
        self._tenants.release(lease)
        self._remove(call)
        if future.cancelled():
            submitted.take_back()
            return
        error = future.exception()
        if error is None:
            is_unit = isinstance(submitted.call.request, tuple) and not isinstance(
                submitted.call.request, Statement
            )
            self._send_result(call, future.result(), submitted.call.operation, is_unit=is_unit)
            self._tenants.count(lease)
        elif isinstance(error, ChannelClosedError):
            self._start(call, self._answer_not_owner(call, lease))
        else:
            self.send(call, messages.encode(pack_error(_as_tenantry_error(error))))

    async def _answer_not_owner(self, call: int, lease: Lease) -> None:
        """Answer only when the tenant has closed: until then the other process could not open it, and would ask here again."""
        await lease.entry.closed.wait()
        self.send(call, _NOT_OWNER)

    def _send_result(self, call: int, result: Any, operation: str, *, is_unit: bool) -> None:
        try:
            plain = [as_plain(one) for one in result] if is_unit else as_plain(result)
            answer = messages.encode(Done(plain))
        except QueryError as error:
            # A read has no effect, so its caller can repeat it; a unit is committed.
            kind = ResultLostError if is_unit else QueryError
            unsent = kind(f"{operation} was done, but its result cannot be sent: {error}")
            answer = messages.encode(pack_error(unsent))
        self.send(call, answer)

    async def _answered(self, call: int, request: messages.Request) -> None:
        """Do the work of a call, and answer with its result or error."""
        try:
            result = await self._run(call, request)
        except ChannelClosedError:
            self.send(call, _NOT_OWNER)
        except TenantryError as error:
            self.send(call, messages.encode(pack_error(error)))
        else:
            self._send_result(
                call, result, type(request).__name__, is_unit=isinstance(request, TransactionWrite)
            )

    async def _run(self, call: int, request: messages.Request) -> Any:
        match request:
            case Begin():
                await self._open_transaction(call, request)
                return None
            case TransactionWrite():
                return await self._session(request.transaction).write(*received(request.statements))
            case TransactionRead():
                return await self._session(request.transaction).read(Statement(*request.statement))
            case Commit():
                await self._commit(request)
            case Rollback():
                if request.transaction in self._transactions:
                    await self._end_transaction(request.transaction, TransactionSession.rollback)
        return None

    async def _open_transaction(self, call: int, request: Begin) -> None:
        lease = await self._tenants.lease(request.tenant_id, request.uid)
        if lease is None:
            raise ChannelClosedError
        try:
            session = await lease.actor.begin()
        except ChannelClosedError:
            self._tenants.release(lease)
            await lease.entry.closed.wait()
            raise
        except BaseException:
            self._tenants.release(lease)
            raise
        if self.is_ended:
            session.abandon()
            self._tenants.release(lease)
            return
        lease.actor.count_forwarded()
        self._transactions[call] = (session, lease)

    def _session(self, transaction: int) -> TransactionSession:
        found = self._transactions.get(transaction)
        if found is None:
            raise TransactionClosedError("the transaction has ended: open a new one")
        return found[0]

    async def _commit(self, request: Commit) -> None:
        assert self.hello is not None
        mark = MarkedRequest(
            (LOOK_UP,),
            sender=self.hello.token,
            number=request.number,
            answered_to=request.answered_to,
        )
        await self._end_transaction(request.transaction, lambda session: session.commit(mark))

    async def _end_transaction(
        self, transaction: int, end: Callable[[TransactionSession], Coroutine[Any, Any, None]]
    ) -> None:
        session = self._session(transaction)
        _, lease = self._transactions.pop(transaction)
        try:
            await end(session)
        finally:
            session.abandon()
            self._tenants.release(lease)

    def _start(self, call: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._add(call, task)
        task.add_done_callback(partial(self._forget, call))

    def _forget(self, call: int, task: "asyncio.Future[Any]") -> None:
        if self._calls.get(call) is task:
            self._remove(call)

    def _add(self, call: int, running: "asyncio.Future[Any]") -> None:
        self._calls[call] = running
        if len(self._calls) == CALLS_MAX:
            self.hold_reading(is_held=True)

    def _remove(self, call: int) -> None:
        self._calls.pop(call, None)
        if len(self._calls) == CALLS_MAX // 2:
            self.hold_reading(is_held=False)


def _as_tenantry_error(error: BaseException) -> TenantryError:
    return error if isinstance(error, TenantryError) else QueryError(repr(error), code=type(error).__name__)
