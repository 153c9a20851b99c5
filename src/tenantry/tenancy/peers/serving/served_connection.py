"""The connection of another process to this one: serves the calls of tenants that this process has open."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tenantry.errors import TenantError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Statement
from tenantry.tenancy.actors.call_batch import as_tenantry_error
from tenantry.tenancy.actors.channel import ChannelClosedError
from tenantry.tenancy.actors.lease import Lease
from tenantry.tenancy.peers.connections import messages
from tenantry.tenancy.peers.connections.frames import FrameConnection
from tenantry.tenancy.peers.connections.messages import (
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    PROTOCOL_VERSION,
    Cancel,
    Done,
    Hello,
    Measure,
    OperatorRequest,
    Ping,
    Read,
    Release,
    SentMeasurements,
    TenantRequest,
    TransactionRequest,
    TransactionWrite,
    Welcome,
    Write,
    WriteOnce,
)
from tenantry.tenancy.peers.serving.answers import Answers
from tenantry.tenancy.peers.serving.peer_limits import PeerLimits
from tenantry.tenancy.peers.serving.running_calls import RunningCalls
from tenantry.tenancy.peers.serving.sent_results import encode_error
from tenantry.tenancy.peers.serving.served_call import ServedCall
from tenantry.tenancy.peers.serving.served_operations import ServedOperations
from tenantry.tenancy.peers.serving.served_tenants import ServedTenants
from tenantry.tenancy.peers.serving.served_transactions import ServedTransactions

if TYPE_CHECKING:
    import asyncio

PEER_CONNECTED: Final = "tenantry.peer.connected"
PEER_DISCONNECTED: Final = "tenantry.peer.disconnected"
PEER_BROKEN_OFF: Final = "tenantry.peer.broken_off"

_DONE: Final = messages.encode(Done(None))


class ServedConnection(FrameConnection):
    """Serves the calls of one other process.

    Args:
        measure: Returns the numbers of this registry, for another process's metrics.
        on_greeted: The function that is called when the other process has introduced itself. Older connections of the same process end
            there, before any call of this connection is handled: a call that is repeated here must not run while its first attempt
            still waits unread on an older connection.
        on_ended: The function that is called once when the connection has ended.
    """

    def __init__(
        self,
        tenants: ServedTenants,
        operations: ServedOperations,
        welcome: Welcome,
        limits: PeerLimits,
        *,
        measure: Callable[[], bytes],
        on_greeted: Callable[["ServedConnection"], None],
        on_ended: Callable[["ServedConnection"], None],
        log: EventLog,
    ) -> None:
        super().__init__(frames_per_step=limits.frames_per_step)
        self._message_bytes_max = HELLO_BYTES_MAX
        self.hello: Hello | None = None
        """What the other process says about itself; None until it has introduced itself."""
        self._tenants = tenants
        self._operations = operations
        self._welcome = welcome
        self._measure = measure
        self._on_greeted = on_greeted
        self._on_ended = on_ended
        self._log = log
        self._limits = limits
        self._calls = RunningCalls(limits.calls_max, self._hold_or_read)
        self._transactions = ServedTransactions(tenants, transactions_max=limits.transactions_max)
        self._answers = Answers(self, self._calls, tenants, unread_bytes_max=limits.unread_bytes_max)
        # Until the other process must have sent or read something.
        self._patience: asyncio.TimerHandle | None = None

    def handle(self, call: int, message: bytearray) -> None:
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
            self._give_up(call)
        elif isinstance(request, Measure):
            self.send(call, messages.encode(SentMeasurements(self._measure())))
        elif call in self._calls or call in self._transactions:
            self._break_off(f"it used the number {call} for two calls at the same time")
        elif isinstance(request, (Write, Read, WriteOnce)):
            self._begin(call, request)
        elif isinstance(request, Ping):
            self.send(call, _DONE)
        elif isinstance(request, Release):
            self._calls.start(call, self._release(call, request))
        else:
            self._calls.start(call, self._answered(call, request))

    def connection_made(self, transport: "asyncio.BaseTransport") -> None:
        """Wait for the other process's `Hello`."""
        super().connection_made(transport)
        if not self.is_ended:
            seconds = self._limits.hello_seconds_max
            self._expect_within(seconds, f"it did not introduce itself within {seconds:g} s")

    def pause_writing(self) -> None:
        """Read no more calls while the other process does not read its answers; after a while, end the connection."""
        super().pause_writing()
        seconds = self._limits.unread_seconds_max
        self._expect_within(seconds, f"it did not read its answers within {seconds:g} s")
        self._hold_or_read()

    def resume_writing(self) -> None:
        """Read calls again."""
        super().resume_writing()
        if not self.is_ended:
            self._stop_waiting()
            self._hold_or_read()

    def ended(self) -> None:
        """Give up the calls and transactions of the other process."""
        self._stop_waiting()
        self._calls.give_up_all()
        self._transactions.abandon_all()
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
            self.send(call, encode_error(refusal))
            return
        self._stop_waiting()
        self._message_bytes_max = FRAME_BYTES_MAX
        self.hello = hello
        self._on_greeted(self)
        self._log.info(PEER_CONNECTED, pid=hello.pid, version=hello.version)
        self.send(call, messages.encode(self._welcome))

    def _begin(self, call: int, request: TenantRequest) -> None:
        """Put a call into its tenant's mailbox at once if the tenant is open."""
        named = (request.tenant_id, request.uid)
        lease = self._tenants.lease_nowait(*named) or self._transactions.lease_inside(*named)
        if lease is None:
            self._calls.start(call, self._begin_later(call, request))
        else:
            self._submit(call, request, lease)

    async def _begin_later(self, call: int, request: TenantRequest) -> None:
        lease = await self._tenants.lease(request.tenant_id, request.uid)
        self._calls.remove(call)
        if lease is None:
            self._answers.send_not_owner(call)
        else:
            self._submit(call, request, lease)

    def _submit(self, call: int, request: TenantRequest, lease: Lease) -> None:
        assert self.hello is not None
        served = ServedCall(call, lease, is_full=request.is_full, on_done=self._on_done)
        try:
            served.submitted = self._tenants.submit(
                lease.actor, request, self.hello.token, served, is_followed=self._is_followed
            )
        except ChannelClosedError:
            self._tenants.release(lease)
            self._calls.start(call, self._answer_not_owner(call, lease))
        except TenantryError as error:
            self._tenants.release(lease)
            self._answers.send_error(call, error)
        else:
            self._calls.add(call, served)

    def _on_done(self, served: ServedCall, result: Any, error: Exception | None) -> None:
        try:
            self._answer(served, result, error)
        except Exception as unexpected:  # noqa: BLE001  # the other calls of the batch still wait for their answers
            self._break_off(f"its call could not be answered ({unexpected!r})")

    def _answer(self, served: ServedCall, result: Any, error: Exception | None) -> None:
        # The answer is sent first, so that the other process continues while this process does the rest.
        try:
            if served.cancelled():
                self._calls.remove(served.number)
                self._tenants.count_answer("cancelled")
            elif error is None:
                submitted = served.submitted.call
                is_unit = not isinstance(submitted.request, Statement)
                self._answers.send_result(served.number, result, submitted.operation, is_unit=is_unit)
            elif isinstance(error, ChannelClosedError):
                self._calls.remove(served.number)
                self._calls.start(served.number, self._answer_not_owner(served.number, served.lease))
            else:
                self._answers.send_error(
                    served.number, as_tenantry_error(error, served.submitted.call.operation)
                )
        finally:
            self._tenants.release(served.lease)
        if error is None and not served.cancelled():
            self._tenants.count(served.lease, is_kept=served.is_full)

    async def _answer_not_owner(self, call: int, lease: Lease) -> None:
        """Answer only when the tenant has closed: until then the other process could not open it, and would ask here again."""
        await lease.entry.closed.wait()
        self._answers.send_not_owner(call)

    async def _release(self, call: int, request: Release) -> None:
        """Close the tenant, and keep it closed until the other process gives the call up."""
        try:
            async with self._operations.released(request):
                self.send(call, _DONE)
                await self._loop.create_future()
        except ChannelClosedError:
            self._answers.send_not_owner(call)
        except Exception as error:  # noqa: BLE001  # the other process waits for an answer
            self._answers.send_error(call, as_tenantry_error(error, "Release"))

    async def _answered(self, call: int, request: TransactionRequest | OperatorRequest) -> None:
        """Do the work of a call, and answer with its result or error."""
        try:
            if isinstance(request, OperatorRequest):
                result = await self._operations.run(request)
            else:
                assert self.hello is not None
                result = await self._transactions.run(call, request, self.hello.token)
        except ChannelClosedError:
            self._answers.send_not_owner(call)
        except Exception as error:  # noqa: BLE001  # the caller waits for an answer
            self._answers.send_error(call, as_tenantry_error(error, type(request).__name__))
        else:
            self._answers.send_result(
                call, result, type(request).__name__, is_unit=isinstance(request, TransactionWrite)
            )

    def _give_up(self, call: int) -> None:
        """Give a call up, and roll back the transaction that the call opened."""
        self._calls.give_up(call)
        self._transactions.abandon(call)

    def _hold_or_read(self) -> None:
        self.hold_reading(is_held=self._calls.is_full or self.is_writing_paused)

    def _expect_within(self, seconds: float, otherwise: str) -> None:
        self._stop_waiting()
        self._patience = self._loop.call_later(seconds, self._break_off, otherwise)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
