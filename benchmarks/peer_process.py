"""One of several processes with the same data directory: opens a registry, and does what it is told, a line of JSON for each command.

``python -m benchmarks.peer_process DATA_DIR SETTINGS PROCESSORS``, started by `benchmarks.other_process`.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.harness import Load, measure
from benchmarks.many_calls import mixed_caller, random_picks, use_each
from benchmarks.peers.tenantry_registry import TenantryFleet
from tenantry import RegistryConfig, TenantRegistry


def _keep_to(processors: int | None) -> None:
    """Use only so many processors; threads inherit it when they start (sched_setaffinity(2))."""
    if processors is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])


async def _main(data_dir: str, settings: str) -> None:
    config = RegistryConfig(data_dir=Path(data_dir), **json.loads(settings))
    async with TenantRegistry(config) as registry:
        store = TenantryFleet(registry)
        print(json.dumps("ready"), flush=True)
        while command := await asyncio.to_thread(sys.stdin.readline):
            answer = json.dumps(await _do(store, **json.loads(command)))
            # A full pipe must not stop the event loop, because other processes still need the tenants of this one.
            await asyncio.to_thread(print, answer, flush=True)


async def _do(store: TenantryFleet, what: str, **arguments: Any) -> Any:
    return await (_use(store, **arguments) if what == "use" else _call(store, **arguments))


async def _use(store: TenantryFleet, tenants: list[str]) -> Any:
    """Open the tenants, so that this process owns them."""
    saved: Counter[str] = Counter()
    await use_each(store, saved, tenants)
    return {"saved": saved, "durability": await store.durability(tenants[0])}


async def _call(
    store: TenantryFleet, tenants: list[str], callers: int, reads: float, seed: int, seconds: float
) -> Any:
    """Let the callers get tasks or save messages of these tenants at random, as `many_calls.mixed_caller` does."""
    saved: Counter[str] = Counter()
    picks = random_picks(tenants, callers, seed)
    calling = [mixed_caller(store, saved, pick, reads, seed + n) for n, pick in enumerate(picks)]
    measured = await measure(calling, Load(Path(), rounds=1, seconds=seconds))
    return {
        "saved": saved,
        "errors": measured.failed,
        "first_error": measured.warm_up.first_error or measured.calls.first_error,
        "seconds": measured.calls.seconds,
        "cpu_seconds": measured.calls.cpu_seconds,
        "latencies": measured.calls.latencies,
    }


if __name__ == "__main__":
    _keep_to(json.loads(sys.argv[3]))
    asyncio.run(_main(*sys.argv[1:3]))
