"""The connection of this process to another process, which owns tenants: sends calls and waits for their answers."""

import asyncio
import contextvars
import itertools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from tenantry.eventlog import EventLog
from tenantry.events import NO_ANSWER
from tenantry.tenancy.peers.connections import messages
from tenantry.tenancy.peers.connections.frames import CALL_NUMBERS, FrameConnection
from tenantry.tenancy.peers.connections.message_spin import MessageSpin
from tenantry.tenancy.peers.connections.messages import (
    Answer,
    Cancel,
    Done,
    Failed,
    Hello,
    NotOwner,
    Ping,
    UnitsDone,
    Welcome,
)
from tenantry.tenancy.peers.connections.sent_errors import unpack_error

PEER_REFUSED: Final = "tenantry.peer.refused"

ANSWER_GRACE_SECONDS: Final = 0.25
"""The time after a call's deadline in which the owner's own answer may still arrive: only the owner knows whether the call had begun."""

_FRAMES_PER_STEP: Final = 64
_HELLO_CALL: Final = 0
_CANCEL: Final = messages.encode(Cancel())
_PING: Final = messages.encode(Ping())


class ConnectionEndedError(Exception):
    """The connection ended before the answer arrived. The call may have run."""

    outcome = "owner_lost"


class NoAnswerError(Exception):
    """The deadline of the call passed without an answer.

    Attributes:
        was_started: Whether the call was sent, and therefore may have taken effect.
    """

    outcome = NO_ANSWER

    def __init__(self, *, was_started: bool) -> None:
        super().__init__(was_started)
        self.was_started = was_started


class NotOwnerError(Exception):
    """The other process does not have the tenant open. The call ran nowhere."""

    outcome = "not_owner"


class _Waiting(NamedTuple):
    future: "asyncio.Future[Any]"
    until_seconds: float


class OwnerConnection(FrameConnection):
    """Sends the calls of this process to one other process.

    Args:
        name: The name of the other process's socket.
        now: The clock of all deadlines.
        on_ended: The function that is called once when the connection has ended.
    """

    def __init__(
        self,
        name: str,
        hello: Hello,
        *,
        now: Callable[[], float],
        on_ended: Callable[["OwnerConnection"], None],
        log: EventLog,
    ) -> None:
        super().__init__(frames_per_step=_FRAMES_PER_STEP)
        self.name = name
        self.welcome: Welcome | None = None
        """What the other process says about itself; set before the first call."""
        self._hello = hello
        self._now = now
        self._on_ended = on_ended
        self._log = log
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = itertools.count()
        self._context = contextvars.Context()  # a new context, because the timer serves all callers
        self._timer: asyncio.TimerHandle | None = None
        self._timer_until_seconds = 0.0
        self._spin = MessageSpin(self._loop, lambda: len(self._waiting) == 1)

    @property
    def is_spinning(self) -> bool:
        """Whether the event loop stays awake for the next answer."""
        return self._spin.is_spinning

    async def wait_idle(self) -> None:
        """Wait until no call waits for its answer."""
        while self._waiting:
            await asyncio.wait([waiting.future for waiting in self._waiting.values()])

    async def greet(self, until_seconds: float) -> None:
        """Introduce this process, and wait for the other process's `Welcome`.

        Raises:
            TenantryError: The other process refuses this one; the message says why.
            NoAnswerError: The other process did not answer in time.
            ConnectionEndedError: The connection ended.
        """
        self.welcome = await self.ask(messages.encode(self._hello), until_seconds, _HELLO_CALL)

    def next_call(self) -> int:
        """Return the number of the next call."""
        return 1 + next(self._numbers) % (CALL_NUMBERS - 1)

    async def ask(self, message: bytes, until_seconds: float, call: int | None = None) -> Any:
        """Send a call and return its result. Cancellation tells the owner to give the call up, which may still take effect.

        Args:
            message: The encoded request.
            until_seconds: The call's deadline.
            call: The number of the call, from `next_call`.

        Raises:
            NoAnswerError: The owner did not answer in time.
            NotOwnerError: The other process does not have the tenant open.
            ConnectionEndedError: The connection ended before the answer arrived.
            TenantryError: The error of the call.
        """
        if self._writable is not None:
            await self._wait_writable_until(until_seconds)
        if call is None:
            call = self.next_call()
        future = self._sent(call, message, until_seconds)
        try:
            return await future
        except asyncio.CancelledError:
            self._give_up(call, future)
            raise

    async def ask_at_length(self, message: bytes, silent_seconds_max: float, call: int | None = None) -> Any:
        """Send a call that may take long, and return its result. The call fails only if the owner's event loop does not run.

        Args:
            message: The encoded request.
            silent_seconds_max: The longest time without a sign of life. The owner is asked for one at half of this time.
            call: The number of the call, from `next_call`.

        Raises:
            NoAnswerError, NotOwnerError, ConnectionEndedError, TenantryError: See `ask`.
        """
        number = self.next_call() if call is None else call
        half_seconds = silent_seconds_max / 2
        future = self._sent(number, message, math.inf)
        try:
            while not (await asyncio.wait([future], timeout=half_seconds))[0]:
                await self.ask(_PING, self._now() + half_seconds)
        except BaseException:
            self._give_up(number, future)
            raise
        return future.result()

    def give_up(self, call: int) -> None:
        """Tell the owner that this process does not need the result or the effect of a call any more."""
        self.send(call, _CANCEL)

    def tell(self, message: bytes) -> None:
        """Send a request whose answer nobody needs."""
        self.send(self.next_call(), message)

    def _sent(self, call: int, message: bytes, until_seconds: float) -> "asyncio.Future[Any]":
        """Send a call, and return the future of its answer."""
        if self._is_ended:
            raise ConnectionEndedError
        is_lone = not self._waiting
        self.send(call, message, is_lone=is_lone)
        # The future is made after the message is sent, so that the owner can begin in the meantime.
        future = self._loop.create_future()
        until_seconds += ANSWER_GRACE_SECONDS
        self._waiting[call] = _Waiting(future, until_seconds)
        if (self._timer is None or until_seconds < self._timer_until_seconds) and until_seconds < math.inf:
            self._set_timer(until_seconds)
        if is_lone:
            self._spin.begin()
        else:
            self._spin.note_other_calls()
        return future

    def _give_up(self, call: int, future: "asyncio.Future[Any]") -> None:
        self._waiting.pop(call, None)
        if future.done() and not future.cancelled():
            future.exception()  # otherwise asyncio would log that nobody has seen the error
        # Even if the answer is here: it may be the answer to a `Begin`, whose transaction nobody would end.
        self.send(call, _CANCEL)

    async def _wait_writable_until(self, until_seconds: float) -> None:
        try:
            async with asyncio.timeout(until_seconds - self._now()):
                await self.wait_writable()
        except TimeoutError as error:
            raise NoAnswerError(was_started=False) from error

    def handle(self, call: int, message: bytearray) -> None:
        """Give an answer to the call that waits for it."""
        try:
            answer = messages.decode_answer(message)
        except (msgspec.DecodeError, ValueError) as error:
            self._break_off(f"it sent an answer that cannot be read ({error})")
            return
        if isinstance(answer, Done) and call != _HELLO_CALL:
            self._set_result(call, answer.result)
            return
        if isinstance(answer, UnitsDone) and _HELLO_CALL not in self._waiting:
            for one in answer.calls:
                self._set_result(one, None)
            return
        waiting = self._waiting.get(call)
        if waiting is None:
            return
        if (call == _HELLO_CALL) is not isinstance(answer, Welcome) and not isinstance(answer, Failed):
            self._break_off(f"it answered a call with {type(answer).__name__}")
            return
        failure = _error_of(answer)
        del self._waiting[call]
        if waiting.future.done():
            return
        if failure is not None:
            waiting.future.set_exception(failure)
        else:
            waiting.future.set_result(answer)

    def _set_result(self, call: int, result: Any) -> None:
        waiting = self._waiting.pop(call, None)
        # Without a future that waits, the caller has given the call up.
        if waiting is not None and not waiting.future.done():
            waiting.future.set_result(result)

    def ended(self) -> None:
        """Let the calls fail whose answers are missing."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_ended(self)
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.future.done():
                one.future.set_exception(ConnectionEndedError())

    def refuse(self, why: str) -> None:
        """Log the reason for which the connection is closed."""
        self._log.warning(PEER_REFUSED, socket_name=self.name, reason=why)

    def _expire(self) -> None:
        """Let the calls fail whose deadlines have passed."""
        self._timer = None
        now = self._now()
        for call, waiting in list(self._waiting.items()):
            if waiting.until_seconds > now:
                continue
            del self._waiting[call]
            self.send(call, _CANCEL)
            if not waiting.future.done():
                waiting.future.set_exception(NoAnswerError(was_started=True))
        until = min((waiting.until_seconds for waiting in self._waiting.values()), default=math.inf)
        if until < math.inf:
            self._set_timer(until)

    def _set_timer(self, until_seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_until_seconds = until_seconds
        delay_seconds = until_seconds - self._now()
        self._timer = self._loop.call_later(delay_seconds, self._expire, context=self._context)


def _error_of(answer: Answer) -> Exception | None:
    if isinstance(answer, Failed):
        return unpack_error(answer)
    return NotOwnerError() if isinstance(answer, NotOwner) else None
