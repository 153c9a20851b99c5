"""The channel of one tenant's reads or writes: a bounded mailbox of calls, and the batches in which the calls run.

Theory of operation. A caller puts a call into the mailbox and waits for its future. An idle channel acquires a permit of the
limiter that all tenants share (`tenantry.tenancy.actors.limiter`). Then the channel passes the waiting calls, up to a limit, to the
store as one batch, and sets their results when the batch ends. During the batch, new calls collect in the mailbox for the next
batch. So batches grow with the latency of the disk, without a timer to tune.

A call is in one of three places until its future is done:

    mailbox   a call that is cancelled or misses its deadline is removed and has no effect
    batch     if a call is cancelled or misses its deadline, the batch continues for the other calls
    answers   the call has ended; its future gets the result in one of the next steps of the event loop (`Answers`)

While no other tenant is active, a call gets its result in the step in which its batch ends.

No task runs between the caller and the store. A single caller starts its batch in its own step of the event loop. Calls that another
process has sent together start theirs in the next step, so that the first one does not run without the others. After a batch of
several calls, or while other calls wait, the next batch starts one step after the results are set. Callers that immediately call
again therefore share the next batch. If the next batch started earlier, the disk would be busier, but the calls would be slower
(measured: 23,000 instead of 39,000 saves/s), because threads would compete for the interpreter lock at every statement. With the engine
in C they do not compete: there a second batch of writes begins beside the first, so that one batch is answered while the other runs,
but only if many calls wait. With fewer, the batches would become small, and each would wait for the disk.

A batch is interrupted if all its callers have stopped waiting: a batch of reads immediately, a batch of writes only after the last
deadline of its calls, because a committed write is better than a write with an unknown effect. A batch continues when its permit
expires. A runaway statement therefore delays only its own tenant, and for at most one call timeout.

The mailbox is a deque, because anyio's memory object streams cannot remove an item from the middle. A single timer for the earliest
deadline serves all calls, because a timer costs more than the other work of a call.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

import anyio

from tenantry.clock import Clock
from tenantry.errors import (
    CallTimeoutError,
    LimitError,
    RegistryClosedError,
    TenantOverloadedError,
    TenantryError,
)
from tenantry.events import BatchFinished, CallRefused, CallSample, Hook
from tenantry.prompt_future import PromptFuture
from tenantry.tenancy.actors.admission import RETRY_AFTER_SECONDS_MIN, Admission, Load
from tenantry.tenancy.actors.answers import ANSWERS_PER_STEP, Answers
from tenantry.tenancy.actors.call_batch import Batch, Call, Item, Outcome, Reply, Runner, as_tenantry_error
from tenantry.tenancy.actors.limiter import FairLimiter, IsReady, Permit
from tenantry.tenancy.refusals import another_loop_error

T = TypeVar("T")

# The weight of the newest batch in the moving average of the time per call.
_SMOOTHING: Final = 0.2


class ChannelClosedError(Exception):
    """The call ran nowhere, because the tenant is closing; the caller must acquire a new lease from the pool.

    Args:
        until_seconds: The deadline of the call, by the clock of the channel; None if the channel never accepted the call.
    """

    def __init__(self, until_seconds: float | None = None) -> None:
        super().__init__()
        self.until_seconds = until_seconds


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """The limits of one channel.

    Attributes:
        requests_max: The largest number of waiting calls.
        batch_requests_max: The largest number of calls in a batch.
        shared_batch_requests_max: The largest number while other tenants are active; see `Store.shared_batch_requests_max`.
        call_timeout_seconds: The time from the acceptance of a call to its deadline.
        workers: The largest number of batches that run at the same time.
        second_batch_requests_min: The number of waiting calls from which a batch begins beside another one.
        is_interrupted_early: Whether to interrupt a batch before its deadlines if no caller waits for its results.
    """

    requests_max: int
    batch_requests_max: int
    shared_batch_requests_max: int
    call_timeout_seconds: float
    workers: int = 1
    second_batch_requests_min: int = 1
    is_interrupted_early: bool = False


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """A channel's counters since it was opened."""

    mailbox_requests: int
    running_requests: int
    calls: int
    batches: int
    refused: int
    timed_out: int


class Channel(Generic[Item, Outcome]):
    """A bounded mailbox and its batches. A request is an `Item`, and its result is an `Outcome`.

    Args:
        limiter: The limiter of concurrent batches, which the channels of all tenants share.
        is_ready: Whether a batch should get its permit now; see `FairLimiter.acquire`.
        on_error: The function that is called with the error of each call; the actor decides whether the tenant can continue. The
            function returns whether the call ran nowhere and is to be repeated on another actor of the tenant.
    """

    def __init__(
        self,
        name: str,
        *,
        tenant_id: str,
        backend: str,
        run: Runner[Item, Outcome],
        limits: ChannelLimits,
        limiter: FairLimiter,
        is_ready: IsReady,
        clock: Clock,
        report: Hook,
        on_error: Callable[[TenantryError], bool],
    ) -> None:
        self._name = name
        self._tenant_id = tenant_id
        self._backend = backend
        self._run = run
        self._limits = limits
        self._limiter = limiter
        self._is_ready = is_ready
        self._now = clock.monotonic_seconds
        self._report = report
        self._on_error = on_error
        self._mailbox: deque[Call[Item]] = deque()
        self._batches: list[Batch[Item, Outcome]] = []
        self._answers: Answers[Item, Outcome] = Answers()
        self._answers_later = False  # in the next step of the event loop
        # The workers that wait for a permit, run a batch, or wait until enough of its answers are given.
        self._busy = 0
        self._answering = 0  # of these, the workers that wait for answers
        self._advances_later = False  # in the next step of the event loop
        self._drained: asyncio.Event | None = None  # created by `aclose`
        # A batch must not run in the context of the caller that starts the batch, because it also runs other callers' requests.
        self._context = contextvars.Context()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the event loop of the first call
        self._is_closing = False
        self._seconds_per_call = 0.0
        self._calls = self._batch_count = self._refused = self._timed_out = 0
        self.admission: Admission | None = None
        """Checks the tenant's own limits before a call is accepted; None if the tenant has no limits."""

    @property
    def is_idle(self) -> bool:
        """Whether no call waits or runs."""
        return not self._mailbox and not self._batches and not self._answers

    @property
    def calls(self) -> int:
        """The number of calls that were accepted."""
        return self._calls

    def load(self) -> Load:
        """Return the number of calls that have no answer yet, and the seconds that these calls will take."""
        # A batch is removed one step of the event loop after its end.
        running = sum(len(batch.calls) for batch in self._batches if not batch.running.done())
        calls = len(self._mailbox) + running + len(self._answers)
        return Load(calls, calls * self._seconds_per_call)

    def statistics(self) -> ChannelStatistics:
        """Return the counters."""
        return ChannelStatistics(
            mailbox_requests=len(self._mailbox),
            running_requests=sum(len(batch.calls) for batch in self._batches),
            calls=self._calls,
            batches=self._batch_count,
            refused=self._refused,
            timed_out=self._timed_out,
        )

    async def call(self, operation: str, request: Item) -> Outcome:
        """Put a request into the mailbox and return its result.

        Cancellation removes a waiting request. A request in a batch continues, and only its result is lost.

        Raises:
            ChannelClosedError: The channel is closing, or another process has taken the tenant over; the request ran nowhere.
            TenantOverloadedError: The mailbox is full, or too many of the tenant's calls are in flight.
            TenantRateLimitedError: The tenant has used up its calls per second.
            CallTimeoutError: The deadline passed.
            TenantError: The caller runs on another event loop than earlier callers.
            TenantryError: The request failed.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call = self.submit(operation, request, future)
        try:
            result = await future
        except asyncio.CancelledError:
            self.take_back(call)
            raise
        return result

    async def call_alone(
        self,
        operation: str,
        run: Callable[[asyncio.Future[T]], Awaitable[None]],
        on_lost: Callable[[T], None] | None = None,
    ) -> T:
        """Run a function in the order of the requests, without a batch. Raises like `call`.

        Args:
            operation: The call's name in metrics.
            run: The function to run, which must set the result of the future that it gets. The function occupies a worker.
            on_lost: The function that receives the result if the caller was cancelled after the result was ready.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        call = self.submit(operation, None, future, partial(run, future))
        try:
            result = await future
        except asyncio.CancelledError:
            if not future.done() or future.cancelled():
                self.take_back(call)
            elif on_lost is not None and future.exception() is None:
                on_lost(future.result())
            raise
        return result

    async def aclose(self, timeout_seconds: float) -> bool:
        """Refuse new calls and finish the accepted calls; idempotent.

        Args:
            timeout_seconds: The time after which waiting calls are refused and running batches are interrupted.

        Returns:
            Whether all calls ended in time; if not, a batch may still be running on its thread.
        """
        self._is_closing = True
        self._advance()  # calls were accepted whose batch was to begin in the next step
        if self._busy:
            self._drained = self._drained or asyncio.Event()
            with anyio.move_on_after(timeout_seconds):
                await self._drained.wait()
        is_drained = not self._busy
        self._answers.give(self._fail_or_repeat)
        while self._mailbox:
            self._fail_closed(self._mailbox.popleft(), "the call had not started and has no effect")
        for batch in self._batches:
            for call in batch.calls:
                self._fail_closed(call, "the call may or may not have taken effect")
            # Interrupt the batch now: after the channel has closed, nothing would end a runaway statement.
            batch.running.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return is_drained

    def submit(
        self,
        operation: str,
        request: Item | None,
        reply: Reply,
        alone: Callable[[], Awaitable[None]] | None = None,
        *,
        waited_seconds: float = 0.0,
        is_followed: bool = False,
    ) -> Call[Item]:
        """Put a request into the mailbox without waiting. Raises like `call`, except for the errors of the request itself.

        Args:
            operation: The call's name in metrics.
            request: The request; None if `alone` is given.
            reply: What the result is given to.
            alone: The function that runs the call without a batch.
            waited_seconds: The time that the call has waited elsewhere, which counts towards its deadline.
            is_followed: Whether more calls come in this step of the event loop. The batch begins after the step, with all of them.

        Returns:
            The call. The caller passes a call that it gives up to `take_back`.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._adopt(loop)
        if self._is_closing:
            raise ChannelClosedError
        if len(self._mailbox) >= self._limits.requests_max:
            raise self._overloaded(operation)
        if self.admission is not None:
            # Admission is the last check, because a call that is refused for another reason must take no token.
            self._admit(operation, self.admission.admit)
        call = Call(operation, request, self._now() - waited_seconds, reply, alone)
        self._mailbox.append(call)
        self._calls += 1
        if self._timer is None or waited_seconds:
            self._set_timer_before(self._limits.call_timeout_seconds - waited_seconds)
        if self._busy < self._limits.workers:
            if not is_followed:
                self._advance()
            elif not self._advances_later:
                self._advances_later = True
                loop.call_soon(self._advance_later, context=self._context)
        return call

    def admit_inside(self, operation: str) -> None:
        """Admit a call inside the open transaction; such a call bypasses the mailbox."""
        if self.admission is not None:
            self._admit(operation, self.admission.admit_inside)

    def _admit(self, operation: str, admit: Callable[[], None]) -> None:
        try:
            admit()
        except LimitError as error:
            self._refused += 1
            self._refuse(operation, error, 0.0)
            raise

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            raise another_loop_error(self._tenant_id, self._loop)
        self._loop = loop

    def take_back(self, call: Call[Item]) -> None:
        """Remove a waiting call whose caller has gone; interrupt a batch of reads that nobody waits for."""
        try:
            self._mailbox.remove(call)
        except ValueError:
            if self._limits.is_interrupted_early:
                for batch in self._batches:
                    batch.interrupt_if_abandoned()

    def _advance_later(self) -> None:
        self._advances_later = False
        self._advance()

    def _advance(self) -> None:
        """Acquire a permit for each free worker while calls wait; a call that runs alone acquires its own permit."""
        while self._mailbox and self._busy < self._limits.workers:
            if self._busy and not self._may_begin_beside():
                return
            self._busy += 1
            if self._mailbox[0].alone is not None:
                self._run_alone(self._mailbox.popleft())
            else:
                self._limiter.acquire(self._tenant_id, self._begin_batch, self._is_ready)

    def _may_begin_beside(self) -> bool:
        """Return whether a batch may begin beside the batches that run. A call that runs alone is alone."""
        requests_min = self._limits.second_batch_requests_min
        return requests_min <= 1 or (
            len(self._mailbox) >= requests_min
            and self._mailbox[0].alone is None
            and len(self._batches) == self._busy  # none waits for its permit
            and all(batch.permit is not None for batch in self._batches)
            # Other tenants need the permit more than this tenant needs a second batch.
            and not self._limiter.is_shared_with(self._tenant_id)
        )

    def _begin_batch(self, permit: Permit) -> None:
        # Take the calls only now: calls that arrived during the wait for the permit share the batch.
        calls = self._take(permit.is_shared)
        if not calls:
            permit.release()
            self._leave()
            return
        batch: Batch[Item, Outcome] = Batch(calls, self._now(), permit)
        self._batches.append(batch)
        requests: list[Any] = [call.request for call in calls]  # calls in a batch always have a request
        batch.running = running = self._begun(requests)
        finish = partial(self._finish_batch, batch)
        if isinstance(running, PromptFuture):
            running.call_at_end(finish)
        else:
            running.add_done_callback(finish, context=self._context)

    def _begun(self, requests: list[Item]) -> "asyncio.Future[Any]":
        try:
            running = self._run(requests)
        except Exception as error:  # noqa: BLE001  # each call of the batch gets the error
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed
        if asyncio.isfuture(running):
            return running
        loop = asyncio.get_running_loop()
        return loop.create_task(running, context=self._context.copy())  # type: ignore[arg-type]

    def _finish_batch(self, batch: Batch[Item, Outcome], _: object) -> None:
        self._batches.remove(batch)
        finished_seconds = self._now()
        if batch.permit is not None:
            batch.permit.release()
            self._answer(batch, batch.permit, finished_seconds)
        if self._answers:
            self._answering += 1
        elif self._mailbox or len(batch.calls) > 1:
            # The next batch starts after the callers of this batch have continued, so their new calls share the next batch.
            asyncio.get_running_loop().call_soon(self._leave, context=self._context)
        else:
            self._leave()

    def _leave(self) -> None:
        """Free a worker for the next batch."""
        self._busy -= 1
        self._advance()
        self._note_drained()

    def _note_drained(self) -> None:
        if self._drained is not None and not self._busy:
            self._drained.set()

    def _take(self, is_shared: bool) -> list[Call[Item]]:  # noqa: FBT001
        mailbox, requests_max = self._mailbox, self._limits.batch_requests_max
        if is_shared:
            requests_max = min(requests_max, self._limits.shared_batch_requests_max)
        batch: list[Call[Item]] = []
        while mailbox and len(batch) < requests_max and mailbox[0].alone is None:
            batch.append(mailbox.popleft())
        return batch

    def _run_alone(self, call: Call[Item]) -> None:
        batch: Batch[Item, Outcome] = Batch([call], self._now())
        self._batches.append(batch)
        loop = asyncio.get_running_loop()
        batch.running = loop.create_task(self._alone(call), context=self._context.copy())
        batch.running.add_done_callback(partial(self._finish_batch, batch), context=self._context)

    async def _alone(self, call: Call[Item]) -> None:
        try:
            assert call.alone is not None
            await call.alone()
        except Exception as error:  # noqa: BLE001  # the error of a call must not end the channel
            self._fail_or_repeat(call, as_tenantry_error(error, call.operation))

    def _answer(self, batch: Batch[Item, Outcome], permit: Permit, finished_seconds: float) -> None:
        """Give the batch's answers, or the first of them, and report the batch."""
        calls, outcomes = batch.calls, batch.outcomes()
        samples: list[CallSample] = []
        for call, outcome in zip(calls, outcomes, strict=False):
            has_timed_out = call.reply.done() and not call.reply.cancelled()
            if not has_timed_out:  # the timeout was reported before
                label = outcome.outcome if isinstance(outcome, TenantryError) else "ok"
                samples.append(CallSample(call.operation, label, call.submitted_seconds))
        self._answers.add(calls, outcomes)
        if not permit.is_shared:
            self._answers.give(self._fail_or_repeat)
        elif not self._answers_later:
            self._answer_some()
        self._batch_count += 1
        seconds_per_call = (finished_seconds - batch.started_seconds) / len(calls)
        self._seconds_per_call += _SMOOTHING * (seconds_per_call - self._seconds_per_call)
        if samples:
            named = (self._tenant_id, self._backend, self._name)
            self._report(BatchFinished(*named, samples, batch.started_seconds, finished_seconds))

    def _answer_some(self) -> None:
        """Give a few answers, and free the workers whose next batch has enough calls; see `tenantry.tenancy.actors.answers`."""
        self._answers.give(self._fail_or_repeat, answers_max=ANSWERS_PER_STEP)
        loop = asyncio.get_running_loop()
        while self._answering and len(self._mailbox) >= len(self._answers):
            self._answering -= 1
            loop.call_soon(self._leave, context=self._context)
        self._answers_later = len(self._answers) > 0
        if self._answers_later:
            loop.call_soon(self._answer_some, context=self._context)

    def _expire(self) -> None:
        """Fail calls whose deadline has passed, interrupt batches whose deadlines have all passed, and set the timer again."""
        self._timer = None
        timeout = self._limits.call_timeout_seconds
        now = self._now()
        running = [call for batch in self._batches for call in batch.calls]
        left_seconds = timeout
        for call in (*running, *self._mailbox.copy()):
            remaining = call.submitted_seconds + timeout - now
            # Cancelled calls keep their deadlines, because their batch may contain a runaway statement.
            if remaining > 0:
                left_seconds = min(left_seconds, remaining)
            elif not call.reply.done():
                self._time_out(call)
        for batch in self._batches:
            if max(call.submitted_seconds for call in batch.calls) + timeout <= now:
                batch.interrupt_if_abandoned()
        if not self.is_idle:
            self._set_timer(left_seconds)

    def _set_timer_before(self, seconds: float) -> None:
        """Set the timer, unless it is set for an earlier deadline."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._set_timer(seconds)

    def _set_timer(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._expire, context=self._context)

    def _time_out(self, call: Call[Item]) -> None:
        was_started = call not in self._mailbox
        if not was_started:
            self._mailbox.remove(call)
        self._timed_out += 1
        timeout = self._limits.call_timeout_seconds
        what = "may or may not have taken effect" if was_started else "had not started and has no effect"
        error = CallTimeoutError(
            f"{call.operation} of tenant {self._tenant_id!r} took longer than call_timeout_seconds ({timeout:g}): the call "
            f"{what}",
            tenant_id=self._tenant_id,
            timeout_seconds=timeout,
            was_started=was_started,
        )
        self._fail(call, error)
        self._refuse(call.operation, error, self._now() - call.submitted_seconds)

    def _overloaded(self, operation: str) -> TenantOverloadedError:
        self._refused += 1
        depth = len(self._mailbox)
        retry_after_seconds = max(depth * self._seconds_per_call, RETRY_AFTER_SECONDS_MIN)
        error = TenantOverloadedError(
            f"tenant {self._tenant_id!r} has {depth} calls waiting to {self._name}, the limit of mailbox_requests_max: "
            f"try again in {retry_after_seconds:.3f} s",
            tenant_id=self._tenant_id,
            limit="mailbox_requests_max",
            limit_value=self._limits.requests_max,
            retry_after_seconds=retry_after_seconds,
        )
        self._refuse(operation, error, 0.0)
        return error

    def _refuse(self, operation: str, error: TenantryError, seconds: float) -> None:
        self._report(CallRefused(self._tenant_id, self._backend, operation, error.outcome, seconds))

    def _fail_closed(self, call: Call[Item], effect: str) -> None:
        self._fail(
            call,
            RegistryClosedError(
                f"the registry was closed during {call.operation}: {effect}", tenant_id=self._tenant_id
            ),
        )

    def _fail_or_repeat(self, call: Call[Any], error: TenantryError) -> None:
        """Fail the call with its error, or with `ChannelClosedError` if the caller is to repeat the call on another actor."""
        if self._on_error(error):
            self._fail(call, ChannelClosedError(call.submitted_seconds + self._limits.call_timeout_seconds))
        else:
            self._fail(call, error)

    @staticmethod
    def _fail(call: Call[Any], error: TenantryError | ChannelClosedError) -> None:
        if not call.reply.done():
            call.reply.set_exception(error)
