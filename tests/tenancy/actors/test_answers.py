"""The answers of a batch: all at once for a tenant that is alone, and a few in each step of the event loop beside other tenants."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from channels import Bench, results
from tenantry.errors import DatabaseCorruptError, DuplicateRecordError
from tenantry.events import BatchFinished
from tenantry.tenancy.actors.answers import ANSWERS_PER_STEP, Answers
from tenantry.tenancy.actors.call_batch import Call
from tenantry.tenancy.actors.limiter import FairLimiter
from tenants import in_virtual_time, settle

CALLERS = 8 * ANSWERS_PER_STEP


async def flooded() -> Bench:
    """Return a tenant's channel after another tenant had a batch, so that the two share the event loop."""
    limiter = FairLimiter(4)
    quiet = Bench(limiter=limiter, tenant_id="quiet")
    [task] = await quiet.call("now and then")
    await quiet.run.finish()
    await task
    return Bench(limiter=limiter, batch_requests_max=CALLERS, shared_batch_requests_max=CALLERS)


@asynccontextmanager
async def watched(tasks: "list[asyncio.Task[object]]") -> AsyncIterator[list[int]]:
    """Count how many of the tasks end in each step of the event loop until all have ended."""
    ended: list[int] = []

    async def watch() -> None:
        while not all(task.done() for task in tasks):
            before = sum(task.done() for task in tasks)
            await asyncio.sleep(0)
            ended.append(sum(task.done() for task in tasks) - before)

    watcher = asyncio.ensure_future(watch())
    yield ended
    await watcher


@in_virtual_time
async def test_a_tenant_that_is_alone_gets_all_at_once():
    """Nobody else waits for the event loop."""
    bench = Bench(batch_requests_max=CALLERS)
    await bench.call("first")
    tasks = await bench.call(*range(CALLERS))
    await bench.run.finish()
    async with watched(tasks) as ended:
        await bench.run.finish()
    assert max(ended) == CALLERS
    assert await results(tasks) == [f"did {n}" for n in range(CALLERS)]


@in_virtual_time
async def test_beside_others_a_few_in_each_step():
    """Between two steps the event loop can serve the others; the answers keep their order, and none is lost."""
    bench = await flooded()
    order: list[object] = []
    await bench.call("first")
    tasks = await bench.call(*range(CALLERS))
    for task in tasks:
        task.add_done_callback(lambda done: order.append(done.result()))
    await bench.run.finish()
    async with watched(tasks) as ended:
        await bench.run.finish()
    assert max(ended) == ANSWERS_PER_STEP
    assert order == [f"did {n}" for n in range(CALLERS)]
    assert bench.channel.is_idle


@in_virtual_time
async def test_the_next_batch_begins_when_enough_calls_wait():
    """It does not wait for the last answer, and is not as small as the calls of those that were answered first."""
    bench = await flooded()
    left_at_begin: list[int] = []

    async def call_twice(name: int) -> None:
        await bench.channel.call("op", (name, 1))
        await bench.channel.call("op", (name, 2))

    await bench.call("first")
    tasks = [asyncio.ensure_future(call_twice(name)) for name in range(CALLERS)]
    await settle()
    await bench.run.finish()
    assert len(bench.run.batches[-1]) == CALLERS
    bench.run.on_begin = lambda: left_at_begin.append(
        bench.channel.load().calls - bench.statistics.running_requests
    )
    while bench.run.running:
        await bench.run.finish()
    await results(tasks)
    sizes = [len(batch) for batch in bench.run.batches[2:]]
    assert sum(sizes) == CALLERS
    assert sizes[0] >= CALLERS // 2
    assert left_at_begin[0] > 0


@in_virtual_time
async def test_an_error_is_its_callers_alone():
    """An outcome that is an error reaches its caller and the actor, in its turn."""
    bench = await flooded()
    duplicate, corrupt = (
        DuplicateRecordError("b exists already", record_id="b"),
        DatabaseCorruptError("damaged"),
    )
    outcomes: list[object] = [f"did {n}" for n in range(CALLERS)]
    outcomes[1], outcomes[-1] = duplicate, corrupt
    tasks = await bench.share(*range(CALLERS))
    await bench.run.finish(*outcomes)
    assert await results(tasks) == outcomes
    assert bench.errors == [duplicate, corrupt]
    labels = [sample.outcome for sample in bench.hook.of(BatchFinished)[-1].calls]
    assert (labels[0], labels[1], labels[-1]) == ("ok", duplicate.outcome, corrupt.outcome)


@in_virtual_time
async def test_a_caller_that_leaves_before_its_answer():
    """Its call has ended, and takes nobody else's answer along; the batch is not interrupted."""
    bench = await flooded()
    tasks = await bench.share(*range(CALLERS))
    first, *_, last = tasks
    first.add_done_callback(lambda _: last.cancel())
    await bench.run.finish()
    assert await results(tasks[:-1]) == [f"did {n}" for n in range(CALLERS - 1)]
    with pytest.raises(asyncio.CancelledError):
        await last
    assert bench.run.interrupted == []
    assert bench.channel.is_idle


@in_virtual_time
async def test_a_channel_that_closes_gives_the_rest():
    """What has ended is answered before the channel is closed."""
    bench = await flooded()
    tasks = await bench.share(*range(CALLERS))
    closing: list[asyncio.Task[bool]] = []
    tasks[0].add_done_callback(lambda _: closing.append(asyncio.ensure_future(bench.channel.aclose(0.0))))
    await bench.run.finish()
    [closed] = closing
    assert await results(tasks) == [f"did {n}" for n in range(CALLERS)]
    await closed
    assert bench.channel.is_idle


@in_virtual_time
async def test_calls_whose_answers_are_left_count_as_load():
    """A limit of a tenant's calls in flight holds until its callers have continued."""
    bench = await flooded()
    seen: list[int] = []
    tasks = await bench.share(*range(CALLERS))
    tasks[0].add_done_callback(lambda _: seen.append(bench.channel.load().calls))
    await bench.run.finish()
    await results(tasks)
    [left] = seen
    assert 0 < left < CALLERS
    assert bench.channel.load().calls == 0


async def test_answers_that_are_given_while_answers_are_given():
    """An error may close the channel, which gives the rest at once: each caller still has one answer, in order."""
    answers: Answers[int, str] = Answers()
    calls = [Call("op", n, 0.0, asyncio.get_running_loop().create_future()) for n in range(3)]
    answers.add(calls, [DuplicateRecordError("exists already", record_id="a") for _ in calls])
    failed: list[Call[int]] = []

    def fail(call: Call[int], _: object) -> None:
        failed.append(call)
        answers.give(fail)

    answers.give(fail, answers_max=2)
    assert failed == calls
    assert len(answers) == 0
