"""A second batch of writes beside the first one: only when many calls wait, for nobody else's cost, and never beside a call alone."""

import asyncio

from channels import Bench, results
from tenantry.tenancy.actors.limiter import FairLimiter
from tenants import in_virtual_time, settle


def pipelined(limiter: FairLimiter | None = None, tenant_id: str = "acme") -> Bench:
    """Return a channel whose second batch begins when three calls wait."""
    return Bench(workers=2, second_batch_requests_min=3, limiter=limiter, tenant_id=tenant_id)


@in_virtual_time
async def test_it_begins_when_enough_calls_wait():
    """Fewer calls wait for the end of the first batch, and share the next one."""
    bench = pipelined()
    tasks = await bench.call("a")
    tasks += await bench.call("b", "c")
    assert bench.run.batches == [["a"]]
    tasks += await bench.call("d")
    assert bench.run.batches == [["a"], ["b", "c", "d"]]
    tasks += await bench.call("e", "f", "g")
    assert bench.run.running == 2
    await bench.run.finish()
    assert bench.run.batches[2:] == [["e", "f", "g"]]
    await bench.run.finish()
    await bench.run.finish()
    assert await results(tasks) == [f"did {name}" for name in "abcdefg"]
    assert bench.channel.is_idle


@in_virtual_time
async def test_a_call_alone_is_alone():
    """A transaction begins after all batches before it, and no batch begins beside it."""
    bench = pipelined()
    go_on = asyncio.Event()
    has_begun = asyncio.Event()

    async def hold(future: asyncio.Future[None]) -> None:
        has_begun.set()
        future.set_result(None)
        await go_on.wait()

    tasks = await bench.call("a")
    tasks += await bench.call("b", "c", "d")
    alone = asyncio.ensure_future(bench.channel.call_alone("transaction", hold))
    later = await bench.call("e", "f", "g")
    await bench.run.finish()
    assert not has_begun.is_set()
    await bench.run.finish()
    assert has_begun.is_set()
    assert bench.run.batches == [["a"], ["b", "c", "d"]]
    go_on.set()
    await settle()
    assert alone.done()
    assert await results(tasks) == ["did a", "did b", "did c", "did d"]
    await bench.run.finish()
    assert await results(later) == ["did e", "did f", "did g"]


@in_virtual_time
async def test_none_begins_while_other_tenants_are_active():
    """The permit that it would hold goes to another tenant; the calls run after the first batch."""
    limiter = FairLimiter(4)
    busy, quiet = pipelined(limiter), pipelined(limiter, "quiet")
    [task] = await quiet.call("now and then")
    await quiet.run.finish()
    assert await task == "did now and then"
    tasks = await busy.call("a")
    tasks += await busy.call("b", "c", "d")
    assert busy.run.batches == [["a"]]
    await busy.run.finish()
    assert busy.run.batches == [["a"], ["b", "c", "d"]]
    await busy.run.finish()
    assert await results(tasks) == ["did a", "did b", "did c", "did d"]
    assert not limiter.is_full


@in_virtual_time
async def test_it_waits_for_a_permit_only_once():
    """While the first batch waits for its permit, no second one asks for another."""
    limiter = FairLimiter(1)
    other, bench = pipelined(limiter, "other"), pipelined(limiter)
    first = await other.call("x")
    tasks = await bench.call("a", "b", "c", "d")
    await other.run.finish()
    assert bench.run.batches == [["a", "b", "c", "d"]]
    await bench.run.finish()
    assert await results(first + tasks) == ["did x", "did a", "did b", "did c", "did d"]
