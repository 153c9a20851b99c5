"""Quiet tenants beside one that is flooded: what a quiet tenant notices, and what the flood does.

A quiet tenant has a call every 20 ms, a get and a save in turn. Its latency counts from the moment the call was due, so
an event loop that the flood keeps busy counts too; a call that was still waiting for the one before is due after that.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from benchmarks.comparison import Sample
from benchmarks.fleet import Fleet
from benchmarks.harness import (
    Caller,
    Calls,
    GarbageMeter,
    Load,
    Measured,
    check_durable,
    check_rows,
    note_error,
)
from benchmarks.many_calls import mixed_caller, use_each
from benchmarks.peers import OpenFleet

QUIET = 50
FLOODERS = 256
SECONDS_FACTOR = 2.0
"""5,000 quiet calls, so that fifty are beyond the 99th percentile."""

_INTERVAL_SECONDS = 0.020


def run_round(open_fleet: OpenFleet, fleet: Fleet, flooders: int, load: Load, directory: Path) -> Sample:  # noqa: ARG001  # the fleet's own is used
    """Return the quiet tenants' sample; its details have how many messages the flood saved.

    The first tenant of the fleet is the one that so many callers flood; the others are quiet.
    """
    return load.run(_call(open_fleet, fleet, flooders, load))


async def _call(open_fleet: OpenFleet, fleet: Fleet, flooders: int, load: Load) -> Sample:
    saved: Counter[str] = Counter()
    loud, *quiet = fleet.tenants
    async with open_fleet(fleet) as store:
        durability = check_durable(await store.durability(loud))
        await use_each(store, saved, fleet.tenants)
        flood = [mixed_caller(store, saved, cycle([loud]), 0.0, seed) for seed in range(flooders)]
        calls = [mixed_caller(store, saved, cycle([tenant]), 0.5, n) for n, tenant in enumerate(quiet)]
        warm_up = await _call_for(load.warm_up_seconds, calls, flood)
        saved_before = saved[loud]
        with GarbageMeter() as garbage:
            seen = await _call_for(load.seconds, calls, flood)
    measured = Measured(warm_up, seen, garbage)
    check_rows(*fleet.add_acknowledged(saved, failed=measured.failed), measured.failed)
    return measured.sample(durability, saved_by_the_flood=saved[loud] - saved_before)


async def _call_for(seconds: float, quiet: Sequence[Caller], flood: Sequence[Caller]) -> Calls:
    calls = Calls()
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for caller in flood:
            group.create_task(_flood_until(started + seconds, caller, calls))
        for number, caller in enumerate(quiet):
            first = started + _INTERVAL_SECONDS * number / len(quiet)
            group.create_task(_call_at_intervals(first, started + seconds, caller, calls))
    calls.seconds = time.perf_counter() - started
    return calls


async def _flood_until(until: float, caller: Caller, calls: Calls) -> None:
    """Call without a pause; of the flood only the errors are counted."""
    while time.perf_counter() < until:
        try:
            await caller.call(caller.prepare())
        except Exception as error:  # noqa: BLE001  # any failure of a side is a result, and is counted
            note_error(calls, error)


async def _call_at_intervals(due: float, until: float, caller: Caller, calls: Calls) -> None:
    while due < until:
        prepared = caller.prepare()
        await asyncio.sleep(due - time.perf_counter())
        try:
            await caller.call(prepared)
        except Exception as error:  # noqa: BLE001  # any failure of a side is a result, and is counted
            note_error(calls, error)
        done = time.perf_counter()
        calls.latencies.append(done - due)
        due = max(due + _INTERVAL_SECONDS, done)
