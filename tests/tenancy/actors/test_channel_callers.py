"""The channel over a scripted runner: callers that leave, deadlines, and what is interrupted then."""

import asyncio
from typing import Any

import pytest

from channels import CALL_TIMEOUT_SECONDS, Bench, results
from tenantry.errors import (
    CallTimeoutError,
    QueryError,
)
from tenantry.events import CallRefused
from tenantry.tenancy.actors.limiter import PERMIT_SECONDS, FairLimiter
from tenants import in_virtual_time, settle, until


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
    assert "of tenant 'acme' took longer than call_timeout_seconds (30): the call had not started" in str(
        error
    )
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
    with pytest.raises(CallTimeoutError, match="the call may or may not have taken effect") as caught:
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
