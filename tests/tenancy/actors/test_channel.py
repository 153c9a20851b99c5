"""The channel over a scripted runner: who runs with whom, who is sent away, and what a caller that leaves takes along.

Time is virtual, so what the tests say about it is exact, and a call that nobody would ever answer fails its test.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from tenantry.errors import (
    CallTimeoutError,
    DatabaseCorruptError,
    DuplicateRecordError,
    QueryError,
    RegistryClosedError,
    TenantError,
    TenantOverloadedError,
    TenantryError,
)
from tenantry.events import BatchFinished, CallRefused, CallSample
from tenantry.tenancy.actors.channel import (
    SHARED_BATCH_REQUESTS_MAX,
    Channel,
    ChannelClosedError,
    ChannelLimits,
    ChannelStatistics,
)
from tenantry.tenancy.actors.limiter import ALONE_SECONDS, PERMIT_SECONDS, FairLimiter
from tenants import LoopClock, Recorder, VirtualLoop, in_virtual_time, settle, until

CALL_TIMEOUT_SECONDS = 30.0


class ScriptedRunner:
    """Keeps each batch until the test answers it."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.interrupted: list[list[Any]] = []
        self._running: deque[asyncio.Future[Any]] = deque()

    async def __call__(self, requests: Sequence[Any]) -> list[Any]:
        batch = list(requests)
        self.batches.append(batch)
        answer = asyncio.get_running_loop().create_future()
        self._running.append(answer)
        try:
            outcomes: list[Any] | None = await answer
        except asyncio.CancelledError:
            self._running.remove(answer)
            self.interrupted.append(batch)
            raise
        return [f"did {request}" for request in requests] if outcomes is None else outcomes

    async def finish(self, *outcomes: Any) -> None:
        """Answer the batch that has run longest; every request did well unless the outcomes are given."""
        self._running.popleft().set_result(list(outcomes) or None)
        await settle()

    async def fail(self, error: Exception) -> None:
        """Raise out of the batch that has run longest."""
        self._running.popleft().set_exception(error)
        await settle()

    @property
    def running(self) -> int:
        """How many batches have no answer yet."""
        return len(self._running)


class Bench:
    """A channel with everything around it, and calls as tasks."""

    def __init__(
        self,
        *,
        requests_max: int = 100,
        batch_requests_max: int = 10,
        workers: int = 1,
        is_interrupted_early: bool = False,
        limiter: FairLimiter | None = None,
        name: str = "write",
        tenant_id: str = "acme",
    ) -> None:
        self.run = ScriptedRunner()
        self.hook = Recorder()
        self.errors: list[TenantryError] = []
        self.channel = Channel(
            name,
            tenant_id=tenant_id,
            backend="fake",
            run=self.run,
            limits=ChannelLimits(
                requests_max,
                batch_requests_max,
                CALL_TIMEOUT_SECONDS,
                workers,
                is_interrupted_early=is_interrupted_early,
            ),
            limiter=limiter or FairLimiter(8),
            clock=LoopClock(),
            report=self.hook,
            on_error=self.errors.append,
        )

    async def call(self, *requests: Any) -> "list[asyncio.Task[Any]]":
        """Start a call for each request and return their tasks once everybody waits."""
        tasks = [asyncio.ensure_future(self.channel.call(f"op.{request}", request)) for request in requests]
        await settle()
        return tasks

    async def share(self, *requests: Any) -> "list[asyncio.Task[Any]]":
        """Start a call for each request, all in one batch: they gather behind a first one, which is answered."""
        await self.call("first")
        tasks = await self.call(*requests)
        await self.run.finish()
        return tasks

    @property
    def statistics(self) -> ChannelStatistics:
        """The channel's counters."""
        return self.channel.statistics()


async def results(tasks: "Sequence[asyncio.Future[Any]]") -> list[Any]:
    """Return each task's result or error."""
    return await asyncio.gather(*tasks, return_exceptions=True)


@in_virtual_time
async def test_answers_each_caller_with_its_own_outcome():
    """Callers that share a batch get what is theirs: a result, or an error that is nobody else's."""
    bench = Bench()
    duplicate = DuplicateRecordError("b exists already", record_id="b")
    tasks = await bench.share("a", "b", "c")
    await bench.run.finish("did a", duplicate, "did c")
    assert await results(tasks) == ["did a", duplicate, "did c"]
    assert bench.run.batches == [["first"], ["a", "b", "c"]]
    assert bench.errors == [duplicate]


@in_virtual_time
async def test_what_waits_shares_the_next_batch_in_order():
    """While a batch runs the next one gathers; it is bounded, and nobody overtakes."""
    bench = Bench(batch_requests_max=3)
    tasks = await bench.call(0)
    tasks += await bench.call(1, 2, 3, 4, 5)
    assert bench.run.batches == [[0]]
    assert (bench.statistics.running_requests, bench.statistics.mailbox_requests) == (1, 5)
    await bench.run.finish()
    assert bench.run.batches == [[0], [1, 2, 3]]
    await bench.run.finish()
    await bench.run.finish()
    assert bench.run.batches == [[0], [1, 2, 3], [4, 5]]
    assert await results(tasks) == [f"did {n}" for n in range(6)]
    assert bench.statistics == ChannelStatistics(0, 0, calls=6, batches=3, refused=0, timed_out=0)
    assert bench.channel.is_idle


@in_virtual_time
async def test_one_who_comes_alone_does_not_wait_for_company():
    """The first call begins at once; those that come with it share the next batch."""
    bench = Bench()
    await bench.call("a", "b", "c")
    assert bench.run.batches == [["a"]]
    await bench.run.finish()
    assert bench.run.batches == [["a"], ["b", "c"]]
    await bench.run.finish()


@in_virtual_time
async def test_those_who_call_again_share_the_next_batch_too():
    """Callers that were answered together and call again at once are together again, and not the first of them alone."""
    bench = Bench()

    async def call_twice(name: str) -> None:
        await bench.channel.call("op", f"{name}1")
        await bench.channel.call("op", f"{name}2")

    await bench.call("first")
    tasks = [asyncio.ensure_future(call_twice(name)) for name in ("a", "b")]
    await settle()
    for _ in range(3):
        await bench.run.finish()
    assert bench.run.batches == [["first"], ["a1", "b1"], ["a2", "b2"]]
    await results(tasks)


@in_virtual_time
async def test_what_comes_while_waiting_at_the_gate_shares_the_batch():
    """A tenant that waits for a permit uses the time: its batch is taken from the mailbox only with the permit."""
    limiter = FairLimiter(1)
    busy, waiting = Bench(limiter=limiter), Bench(limiter=limiter)
    first = await busy.call("x")
    tasks = await waiting.call("a")
    tasks += await waiting.call("b")
    assert waiting.run.batches == []
    assert not waiting.channel.is_idle
    await busy.run.finish()
    assert waiting.run.batches == [["a", "b"]]
    await waiting.run.finish()
    assert await results(first + tasks) == ["did x", "did a", "did b"]


@in_virtual_time
async def test_tenants_take_turns_at_the_gate():
    """A tenant with much to do goes to the end of the line after each batch; a quiet one waits for one batch."""
    limiter = FairLimiter(1)
    noisy, quiet = Bench(limiter=limiter, batch_requests_max=1), Bench(limiter=limiter)
    tasks = await noisy.call(1, 2, 3)
    tasks += await quiet.call("q")
    await noisy.run.finish()
    assert (noisy.run.batches, quiet.run.batches) == ([[1]], [["q"]])
    await quiet.run.finish()
    assert noisy.run.batches == [[1], [2]]
    await noisy.run.finish()
    await noisy.run.finish()
    assert len(await results(tasks)) == 4


@in_virtual_time
async def test_batches_are_smaller_beside_other_tenants():
    """A tenant that is alone fills its batches; while another is at work too it takes smaller ones."""
    limiter = FairLimiter(2)
    flood, quiet = (
        Bench(limiter=limiter, batch_requests_max=64, tenant_id=name) for name in ("flood", "quiet")
    )

    async def batch_size() -> int:
        tasks = await flood.share(*range(100))
        size = len(flood.run.batches[-1])
        while flood.run.running:
            await flood.run.finish()
        await results(tasks)
        return size

    assert await batch_size() == 64
    [task] = await quiet.call("now and then")
    await quiet.run.finish()
    assert await task == "did now and then"
    assert await batch_size() == SHARED_BATCH_REQUESTS_MAX < 64
    await asyncio.sleep(ALONE_SECONDS)
    assert await batch_size() == 64


@in_virtual_time
async def test_a_turn_at_the_gate_whose_callers_left_is_given_back():
    """Callers may all leave while their channel waits for a permit: no empty batch runs, and the permit is free again."""
    limiter = FairLimiter(1)
    busy, left = Bench(limiter=limiter), Bench(limiter=limiter)
    await busy.call("x")
    [gone] = await left.call("a")
    gone.cancel()
    await settle()
    await busy.run.finish()
    assert left.run.batches == []
    assert not limiter.is_full
    [task] = await left.call("b")
    await left.run.finish()
    assert await task == "did b"


@in_virtual_time
async def test_a_full_mailbox_refuses_with_a_computed_wait():
    """At the limit the call is refused at once; how long to wait follows from what calls took lately."""
    bench = Bench(requests_max=3)
    await bench.call(0)
    await asyncio.sleep(2)
    await bench.run.finish()
    await bench.call(1)
    waiting = await bench.call(2, 3, 4)
    with pytest.raises(TenantOverloadedError, match="'acme' has 3 calls waiting to write") as caught:
        await bench.channel.call("op.5", 5)
    error = caught.value
    assert (error.tenant_id, error.limit, error.limit_value) == ("acme", "mailbox_requests_max", 3)
    # One batch of one call took two seconds; a fifth of that is what the average knows of it.
    assert error.retry_after_seconds == pytest.approx(3 * 0.2 * 2)
    assert bench.hook.of(CallRefused) == [CallRefused("acme", "fake", "op.5", "overloaded", 0.0)]
    assert bench.statistics.refused == 1
    await bench.run.finish()
    await bench.run.finish()
    assert await results(waiting) == ["did 2", "did 3", "did 4"]


@in_virtual_time
async def test_a_wait_is_never_nothing():
    """Before anything was measured the advice is still not to come back at once."""
    bench = Bench(requests_max=1)
    tasks = await bench.call(0)
    tasks += await bench.call(1)
    with pytest.raises(TenantOverloadedError) as caught:
        await bench.channel.call("op", 2)
    assert caught.value.retry_after_seconds > 0
    await bench.run.finish()
    await bench.run.finish()
    await results(tasks)


@in_virtual_time
async def test_cancelled_in_the_mailbox_is_taken_out():
    """A caller that leaves while its call waits takes the call along; its neighbours do not notice."""
    bench = Bench()
    tasks = await bench.call(0)
    tasks += await bench.call(1, 2, 3)
    tasks[2].cancel()
    await settle()
    assert bench.statistics.mailbox_requests == 2
    await bench.run.finish()
    await bench.run.finish()
    assert bench.run.batches == [[0], [1, 3]]
    assert tasks[2].cancelled()
    assert await results([tasks[0], tasks[1], tasks[3]]) == ["did 0", "did 1", "did 3"]


@in_virtual_time
async def test_cancelled_while_running_loses_only_the_reply():
    """A write that was begun is finished, though nobody waits for it any more; the worker goes on."""
    bench = Bench()
    tasks = await bench.share("a", "b")
    for task in tasks:
        task.cancel()
    await settle()
    assert bench.run.running == 1
    assert bench.run.interrupted == []
    await bench.run.finish("did a", QueryError("b failed"))
    assert all(task.cancelled() for task in tasks)
    [task] = await bench.call("c")
    await bench.run.finish()
    assert await task == "did c"


@in_virtual_time
async def test_a_reply_that_comes_in_the_moment_of_cancellation_is_dropped():
    """A caller that is cancelled when its answer is there already is cancelled all the same; nobody trips over it."""
    bench = Bench()
    lost: list[Any] = []

    task = asyncio.ensure_future(bench.channel.call("op", "a"))
    await settle()
    bench.run._running.popleft().set_result(["did a"])
    await until(lambda: bench.channel.is_idle)
    task.cancel()
    assert await results([task]) != ["did a"]

    async def reply(future: asyncio.Future[Any]) -> None:
        future.set_result("did alone")
        task.cancel()

    async def fail(future: asyncio.Future[Any]) -> None:
        future.set_exception(QueryError("failed alone"))
        task.cancel()

    # A lost result is passed on; where nobody asked for it, or it is an error, there is nothing to pass on.
    for run, on_lost in ((reply, lost.append), (reply, None), (fail, lost.append)):
        task = asyncio.ensure_future(bench.channel.call_alone("op", run, on_lost=on_lost))
        [result] = await results([task])
        assert isinstance(result, asyncio.CancelledError)
    assert lost == ["did alone"]


@in_virtual_time
async def test_a_deadline_in_the_mailbox_has_no_effect():
    """A call that waited too long was never begun, says so, and is not run later."""
    bench = Bench()
    end = asyncio.Event()

    async def hold(_: asyncio.Future[Any]) -> None:
        await end.wait()

    running = [asyncio.ensure_future(bench.channel.call_alone("op.a", hold))]
    await asyncio.sleep(20)
    waiting = await bench.call("b")
    await asyncio.sleep(15)
    [error] = await results(running)
    assert isinstance(error, CallTimeoutError)
    assert error.was_started
    assert not waiting[0].done()
    await asyncio.sleep(CALL_TIMEOUT_SECONDS - 15)
    [error] = await results(waiting)
    assert isinstance(error, CallTimeoutError)
    assert not error.was_started
    assert (error.tenant_id, error.timeout_seconds) == ("acme", CALL_TIMEOUT_SECONDS)
    assert "op.b of tenant 'acme' took longer than call_timeout_seconds (30): it was not begun" in str(error)
    end.set()
    await settle()
    assert bench.run.batches == []
    assert bench.statistics.timed_out == 2
    assert bench.hook.of(CallRefused) == [
        CallRefused("acme", "fake", "op.a", "timeout", CALL_TIMEOUT_SECONDS),
        CallRefused("acme", "fake", "op.b", "timeout", CALL_TIMEOUT_SECONDS),
    ]


@in_virtual_time
async def test_a_deadline_in_the_batch_says_that_it_may_be_done():
    """A write that is running cannot be taken back: its caller is told so, and the batch goes on for the others."""
    bench = Bench()
    await bench.call("busy")
    [early] = await bench.call("early")
    await asyncio.sleep(10)
    [late] = await bench.call("late")
    await bench.run.finish()
    with pytest.raises(CallTimeoutError, match="it may or may not have been done") as caught:
        await early
    assert caught.value.was_started
    assert asyncio.get_running_loop().time() == pytest.approx(CALL_TIMEOUT_SECONDS)
    assert (bench.run.running, bench.run.interrupted) == (1, [])
    await bench.run.finish()
    assert await late == "did late"


@in_virtual_time
async def test_a_write_that_runs_away_is_interrupted_at_its_last_deadline():
    """When the last of its callers has timed out a write stops, or it would keep its tenant's writer for ever."""
    bench = Bench()
    await bench.call("busy")
    tasks = await bench.call("early")
    await asyncio.sleep(10)
    tasks += await bench.call("late")
    await bench.run.finish()
    errors = await results(tasks)
    assert [type(error) for error in errors] == [CallTimeoutError, CallTimeoutError]
    await settle()
    assert bench.run.interrupted == [["early", "late"]]
    assert bench.channel.is_idle
    [task] = await bench.call("next")
    await bench.run.finish()
    assert await task == "did next"


@in_virtual_time
async def test_a_write_whose_callers_were_cancelled_has_until_its_deadline():
    """Cancelled callers alone do not stop a write, nor does another call's deadline: only its own does."""
    bench = Bench()
    [before] = await bench.call("before")
    await asyncio.sleep(10)
    [cancelled] = await bench.call("a")
    [waiting] = await bench.call("b")
    waiting.cancel()
    await bench.run.finish()
    assert await before == "did before"
    cancelled.cancel()
    await settle()
    # The timer was set for the first call's deadline.
    await asyncio.sleep(CALL_TIMEOUT_SECONDS - 10 + 1)
    assert (bench.run.running, bench.run.interrupted) == (1, [])
    await asyncio.sleep(10)
    assert bench.run.interrupted == [["a"]]
    assert bench.channel.is_idle


@in_virtual_time
async def test_a_batch_that_takes_longer_than_a_turn_gives_its_place_back():
    """Other tenants wait for one permit and not for a slow batch; the permit is released once, however the batch ends."""
    limiter = FairLimiter(1)
    slow, quick = Bench(limiter=limiter), Bench(limiter=limiter)
    slow_tasks = await slow.call("slow")
    quick_tasks = await quick.call("quick")
    assert quick.run.batches == []
    await asyncio.sleep(PERMIT_SECONDS)
    await settle()
    assert (slow.run.running, quick.run.batches) == (1, [["quick"]])
    await quick.run.finish()
    await slow.run.finish()
    assert await results(slow_tasks + quick_tasks) == ["did slow", "did quick"]
    assert not limiter.is_full
    limiter.acquire("acme", lambda _: None)
    assert limiter.is_full


@in_virtual_time
async def test_one_timer_looks_after_all_turns():
    """However many permits expire while others wait, the event loop has one timer of the limiter and not more and more."""
    limiter = FairLimiter(4)
    for n in range(100):
        limiter.acquire(f"tenant {n}", lambda _: None)
    loop = asyncio.get_running_loop()
    for _ in range(10):
        await asyncio.sleep(PERMIT_SECONDS)
        await settle()
        timers = [timer for timer in loop._scheduled if not timer.cancelled() and "_expire" in repr(timer)]
        assert len(timers) == 1


@in_virtual_time
async def test_a_batch_within_its_turn_gives_its_place_back_at_once():
    """The timer of a released permit does not release one that another tenant holds by then."""
    limiter = FairLimiter(1)
    first, second, third = (Bench(limiter=limiter) for _ in range(3))
    for bench in (first, second, third):
        await bench.call("x")
    await asyncio.sleep(PERMIT_SECONDS / 2)
    await first.run.finish()
    await asyncio.sleep(PERMIT_SECONDS / 2)
    assert (second.run.running, third.run.batches) == (1, [])
    await second.run.finish()
    await third.run.finish()


def test_a_call_from_another_loop_is_refused():
    """Its future could never be answered: it is told so, instead of waiting for ever."""
    home, other = VirtualLoop(), VirtualLoop()

    async def start() -> tuple[Bench, Any]:
        bench = Bench()
        return bench, (await bench.call("a"))[0]

    async def call(bench: Bench) -> None:
        with pytest.raises(TenantError, match="the registry belongs to another event loop") as caught:
            await bench.channel.call("op", "b")
        assert caught.value.tenant_id == "acme"

    async def finish(bench: Bench, task: "asyncio.Task[Any]") -> None:
        await bench.run.finish()
        assert await task == "did a"
        assert await bench.channel.aclose(timeout_seconds=5)

    bench, task = home.run_until_complete(start())
    other.run_until_complete(call(bench))
    home.run_until_complete(finish(bench, task))
    for loop in (home, other):
        loop.close()


@in_virtual_time
async def test_one_timer_serves_every_deadline():
    """Each call is answered at its own deadline, though one timer is set for all of them."""
    bench = Bench()
    await bench.call("busy")
    ends: dict[str, float] = {}
    loop = asyncio.get_running_loop()

    async def wait(name: str) -> None:
        with pytest.raises(CallTimeoutError):
            await bench.channel.call("op", name)
        ends[name] = loop.time()

    tasks = []
    starts = {"a": 0.0, "b": 7.0, "c": 29.0, "d": 31.0}
    for name, at in starts.items():
        await asyncio.sleep(at - loop.time())
        tasks.append(asyncio.ensure_future(wait(name)))
    await asyncio.gather(*tasks)
    assert ends == {name: pytest.approx(at + CALL_TIMEOUT_SECONDS) for name, at in starts.items()}


@in_virtual_time
async def test_a_reading_batch_without_callers_is_interrupted():
    """When everybody who shared a read has gone, cancelled or past the deadline, its work stops."""
    bench = Bench(is_interrupted_early=True, name="read")
    tasks = await bench.share("a", "b")
    tasks[0].cancel()
    await settle()
    assert bench.run.interrupted == []
    tasks[1].cancel()
    await settle()
    assert bench.run.interrupted == [["a", "b"]]
    assert bench.channel.is_idle
    [task] = await bench.call("c")
    with pytest.raises(CallTimeoutError):
        await task
    await settle()
    assert bench.run.interrupted == [["a", "b"], ["c"]]
    [task] = await bench.call("d")
    await bench.run.finish()
    assert await task == "did d"


@in_virtual_time
async def test_a_reading_batch_goes_on_for_the_one_who_stayed():
    """One impatient caller does not take the answer from another."""
    bench = Bench(is_interrupted_early=True)
    tasks = await bench.share("a", "b")
    tasks[0].cancel()
    await settle()
    await bench.run.finish()
    assert await tasks[1] == "did b"


@in_virtual_time
async def test_readers_run_side_by_side():
    """With several workers so many batches run at once, and no more."""
    bench = Bench(workers=2, batch_requests_max=1)
    tasks = await bench.call("a", "b", "c")
    assert bench.run.batches == [["a"], ["b"]]
    assert bench.statistics.running_requests == 2
    await bench.run.finish()
    assert bench.run.batches == [["a"], ["b"], ["c"]]
    await bench.run.finish()
    await bench.run.finish()
    assert await results(tasks) == ["did a", "did b", "did c"]
    # Both sleep now; one is woken, and the other stays asleep.
    [task] = await bench.call("d")
    await bench.run.finish()
    assert await task == "did d"


@in_virtual_time
async def test_a_call_alone_keeps_its_place():
    """A transaction has the channel to itself, in its place among the writes: neither before nor after its turn."""
    bench = Bench()
    order: list[str] = []
    go_on = asyncio.Event()

    async def hold(future: asyncio.Future[Any]) -> None:
        order.append("began")
        future.set_result("session")
        await go_on.wait()
        order.append("ended")

    first = await bench.call("a")
    alone = asyncio.ensure_future(bench.channel.call_alone("transaction", hold))
    second = await bench.call("b", "c")
    assert order == []
    await bench.run.finish()
    assert await alone == "session"
    assert (order, bench.run.batches) == (["began"], [["a"]])
    assert not bench.channel.is_idle
    go_on.set()
    await settle()
    assert (order, bench.run.batches) == (["began", "ended"], [["a"], ["b", "c"]])
    await bench.run.finish()
    assert await results(first + second) == ["did a", "did b", "did c"]


@in_virtual_time
async def test_a_batch_ends_before_a_call_alone():
    """What waits behind a transaction does not join the batch in front of it."""
    bench = Bench()
    started = asyncio.Event()

    async def hold(future: asyncio.Future[Any]) -> None:
        started.set()
        future.set_result(None)

    tasks = await bench.call("a")
    tasks += await bench.call("b")
    tasks.append(asyncio.ensure_future(bench.channel.call_alone("transaction", hold)))
    tasks += await bench.call("c")
    await bench.run.finish()
    assert (bench.run.batches, started.is_set()) == ([["a"], ["b"]], False)
    await bench.run.finish()
    assert started.is_set()
    await bench.run.finish()
    assert await results(tasks) == ["did a", "did b", None, "did c"]


@pytest.mark.parametrize("error", [QueryError("no"), DatabaseCorruptError("torn"), RuntimeError("boom")])
@in_virtual_time
async def test_a_call_alone_that_fails_fails_alone(error: Exception):
    """A transaction that cannot be begun raises from its own call, is judged like any failure, and ends nothing."""
    bench = Bench()

    async def hold(_: asyncio.Future[Any]) -> None:
        raise error

    with pytest.raises(TenantryError, match=str(error.args[0])) as caught:
        await bench.channel.call_alone("transaction", hold)
    assert bench.errors == [caught.value]
    [task] = await bench.call("a")
    await bench.run.finish()
    assert await task == "did a"


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), OSError(5, "I/O error"), QueryError("disk", code="X")]
)
@in_virtual_time
async def test_the_worker_survives_a_runner_that_raises(error: Exception):
    """A batch that fails as a whole fails each of its callers, with an instance of their own; the next batch runs."""
    bench = Bench()
    tasks = await bench.share("a", "b")
    await bench.run.fail(error)
    first, second = await results(tasks)
    assert isinstance(first, QueryError)
    assert isinstance(second, QueryError)
    assert first is not second
    if isinstance(error, QueryError):
        assert (str(first), first.code) == ("disk", "X")
    else:
        assert first.code == type(error).__name__
        assert first.__cause__ is error
        assert str(first).startswith("op.a: ")
        assert str(second).startswith("op.b: ")
    [task] = await bench.call("c")
    await bench.run.finish()
    assert await task == "did c"


@in_virtual_time
async def test_the_errors_of_the_whole_tenant_are_passed_on():
    """The actor hears of every failed outcome, to judge whether the tenant can go on."""
    bench = Bench()
    corrupt = DatabaseCorruptError("torn page")
    tasks = await bench.share("a", "b")
    await bench.run.finish("did a", corrupt)
    await results(tasks)
    assert bench.errors == [corrupt]


@in_virtual_time
async def test_each_batch_is_reported_once():
    """The event of a batch has every call's own time and outcome, and the batch's beginning and end."""
    bench = Bench()
    running = await bench.call("a")
    await asyncio.sleep(1)
    waiting = await bench.call("b")
    await asyncio.sleep(2)
    waiting += await bench.call("c")
    await bench.run.finish()
    await asyncio.sleep(4)
    await bench.run.finish("did b", DuplicateRecordError("c exists"))
    await results(running + waiting)
    assert bench.hook.of(BatchFinished) == [
        BatchFinished("acme", "fake", "write", [CallSample("op.a", "ok", 0)], 0, 3),
        BatchFinished(
            *("acme", "fake", "write"),
            [CallSample("op.b", "ok", 1), CallSample("op.c", "duplicate", 3)],
            3,
            7,
        ),
    ]


@in_virtual_time
async def test_aclose_finishes_what_was_taken_in():
    """Closing refuses new calls at once, runs what waits to its end, and then the workers are gone."""
    bench = Bench(batch_requests_max=1)
    tasks = await bench.call("a", "b")
    closing = asyncio.ensure_future(bench.channel.aclose(timeout_seconds=5))
    await settle()
    with pytest.raises(ChannelClosedError):
        await bench.channel.call("op", "c")
    assert not closing.done()
    await bench.run.finish()
    await bench.run.finish()
    assert await closing
    assert await results(tasks) == ["did a", "did b"]
    assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_aclose_can_be_repeated():
    """Closing twice, or a channel that never ran, is no different."""
    bench = Bench(workers=2)
    assert await bench.channel.aclose(timeout_seconds=5)
    [task] = await Bench().call("never closed")
    task.cancel()
    other = Bench(workers=2, batch_requests_max=1)
    tasks = await other.call("a", "b")
    await other.run.finish()
    await other.run.finish()
    await results(tasks)
    assert await other.channel.aclose(timeout_seconds=5)
    assert await other.channel.aclose(timeout_seconds=5)


@in_virtual_time
async def test_aclose_does_not_wait_for_a_batch_that_hangs():
    """At the deadline everybody is told what is known: begun and unknown, or not begun and without effect."""
    bench = Bench(batch_requests_max=1)
    running, waiting = await bench.call("a", "b")
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert not await bench.channel.aclose(timeout_seconds=5)
    assert loop.time() - started == pytest.approx(5)
    with pytest.raises(
        RegistryClosedError, match=r"closed while op\.a was under way: it may or may not have been"
    ):
        await running
    with pytest.raises(
        RegistryClosedError, match=r"closed while op\.b was under way: it was not begun"
    ) as caught:
        await waiting
    assert caught.value.tenant_id == "acme"
    # It is interrupted: nobody would be there any more to end a statement that runs away.
    await settle()
    assert bench.run.interrupted == [["a"]]
    assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_aclose_ends_a_call_alone_at_its_deadline():
    """A transaction that nobody ends does not keep the channel from closing."""
    bench = Bench()

    async def hold(future: asyncio.Future[Any]) -> None:
        future.set_result("session")
        await asyncio.Event().wait()

    assert await bench.channel.call_alone("transaction", hold) == "session"
    [behind] = await bench.call("a")
    assert not await bench.channel.aclose(timeout_seconds=5)
    with pytest.raises(RegistryClosedError):
        await behind


@in_virtual_time
async def test_workers_do_not_live_in_their_callers_context():
    """A worker outlives the caller whose call started it, and must not carry that caller's request around."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="nobody's")
    seen: list[str] = []

    async def run(requests: Sequence[Any]) -> list[Any]:
        seen.append(variable.get())
        return list(requests)

    bench = Bench()
    bench.channel._run = run
    variable.set("the first caller's")
    await bench.channel.call("op", 1)
    assert seen == ["nobody's"]
