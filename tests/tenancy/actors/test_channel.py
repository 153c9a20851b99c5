"""The channel over a scripted runner: who runs with whom, who is sent away, and what a caller that leaves takes along.

Time is virtual, so what the tests say about it is exact, and a call that nobody would ever answer fails its test.
"""

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Any

import pytest

from channels import Bench, results
from tenantry.errors import (
    DatabaseCorruptError,
    DuplicateRecordError,
    QueryError,
    RegistryClosedError,
    TenantError,
    TenantOverloadedError,
    TenantryError,
)
from tenantry.events import BatchFinished, CallRefused, CallSample
from tenantry.tenancy.actors.channel import ChannelClosedError, ChannelStatistics
from tenantry.tenancy.actors.limiter import ALONE_SECONDS, FairLimiter
from tenants import VirtualLoop, in_virtual_time, settle


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
async def test_a_tenant_whose_connection_is_in_use_is_overtaken():
    """A batch asks at its turn whether it is ready; if it is not, the next tenant's batch runs first."""
    limiter, free = FairLimiter(1), set[str]()
    busy = Bench(limiter=limiter)
    waiting, ready = (
        Bench(limiter=limiter, tenant_id=name, is_ready=lambda name=name: name in free)
        for name in ("waiting", "ready")
    )
    tasks = await busy.call("x") + await waiting.call("a") + await ready.call("b")
    free.add("ready")
    await busy.run.finish()
    assert (waiting.run.batches, ready.run.batches) == ([], [["b"]])
    await ready.run.finish()
    assert waiting.run.batches == [["a"]]
    await waiting.run.finish()
    assert await results(tasks) == ["did x", "did a", "did b"]


@in_virtual_time
async def test_batches_are_smaller_beside_other_tenants():
    """A tenant that is alone fills its batches; while another is at work too it takes smaller ones."""
    limiter = FairLimiter(2)
    flood, quiet = (
        Bench(limiter=limiter, batch_requests_max=64, shared_batch_requests_max=20, tenant_id=name)
        for name in ("flood", "quiet")
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
    assert await batch_size() == 20
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
async def test_followed_calls_begin_together():
    """Calls that are said to be followed by others wait for them until the end of the step, and share their batch."""
    bench = Bench()
    replies = [asyncio.get_running_loop().create_future() for _ in range(3)]
    for number, reply in enumerate(replies):
        bench.channel.submit("op", number, reply, is_followed=True)
    assert bench.run.batches == []
    await settle()
    assert bench.run.batches == [[0, 1, 2]]
    await bench.run.finish()
    assert await asyncio.gather(*replies) == ["did 0", "did 1", "did 2"]


@in_virtual_time
async def test_the_last_of_followed_calls_begins_the_batch():
    """A call that is followed by none begins its batch at once, together with those before it."""
    bench = Bench()
    replies = [asyncio.get_running_loop().create_future() for _ in range(3)]
    for number, reply in enumerate(replies):
        bench.channel.submit("op", number, reply, is_followed=number < 2)
    await settle()
    assert bench.run.batches == [[0, 1, 2]]
    await bench.run.finish()
    assert bench.run.running == 0


@in_virtual_time
async def test_aclose_begins_what_waits_for_the_next_step():
    """A call that was accepted in the step in which the channel closes runs to its end."""
    bench = Bench()
    reply = asyncio.get_running_loop().create_future()
    bench.channel.submit("op", "a", reply, is_followed=True)
    closing = asyncio.ensure_future(bench.channel.aclose(timeout_seconds=5))
    await settle()
    assert bench.run.batches == [["a"]]
    await bench.run.finish()
    assert await closing
    assert await reply == "did a"


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
        RegistryClosedError, match=r"closed during op\.a: the call may or may not have taken effect"
    ):
        await running
    with pytest.raises(RegistryClosedError, match=r"closed during op\.b: the call had not started") as caught:
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
