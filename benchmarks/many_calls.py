"""Callers of many tenants: what they do, and a side's round of it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, cycle
from pathlib import Path
from random import Random

from benchmarks.comparison import Sample
from benchmarks.fleet import Fleet, build_fleet
from benchmarks.harness import Caller, Load, Side, check_durable, check_rows, measure
from benchmarks.peers import FleetStore, OpenFleet
from benchmarks.peers.message_row import message_builder
from benchmarks.peers.task_row import build_tasks

TASKS = 20
SEED = 20_261_123
PICKED = 8192
"""How many calls of a caller differ; after them the same come again."""

Picks = Iterator[str]
"""Which tenant is next."""


def fleet_of(count: int, load: Load) -> Fleet:
    """Return a fleet that all sides and rounds of the work share."""
    return load.once(
        f"a fleet of {count:,} tenants",
        lambda: build_fleet(load.directory / f"fleet-{count}", count, build_tasks(TASKS)),
    )


def fleet_side(
    name: str,
    open_fleet: OpenFleet,
    fleet: Fleet,
    picks: Callable[[], Sequence[Picks]],
    load: Load,
    *,
    reads: float,
    are_open: bool = False,
) -> Side:
    """Return the side on which callers, one for each of `picks()`, get tasks and save messages.

    Args:
        name: The side's name.
        open_fleet: Opens it.
        fleet: The tenants, which all sides share.
        picks: Makes the callers' choices anew, so that every side and round has the same.
        load: How long.
        reads: Which part of the calls gets a task; the others save a message.
        are_open: Whether every tenant is used once before the measuring, so that opening is no part of it.
    """

    def run(directory: Path) -> Sample:  # noqa: ARG001  # the fleet's own is used
        return load.run(_round(open_fleet, fleet, picks(), load, reads, are_open=are_open))

    return Side(name, run)


async def _round(
    open_fleet: OpenFleet,
    fleet: Fleet,
    picks: Sequence[Picks],
    load: Load,
    reads: float,
    *,
    are_open: bool,
) -> Sample:
    saved: Counter[str] = Counter()
    async with open_fleet(fleet) as store:
        durability = check_durable(await store.durability(fleet.tenants[0]))
        if are_open:
            await use_each(store, saved, fleet.tenants)
        callers = [
            mixed_caller(store, saved, tenants, reads, seed) for seed, tenants in enumerate(picks, start=SEED)
        ]
        measured = await measure(callers, load)
    started = time.perf_counter()
    check_rows(*fleet.add_acknowledged(saved, failed=measured.failed), measured.failed)
    return measured.sample(
        durability,
        cpu_seconds=measured.calls.cpu_seconds,
        seconds_to_count=time.perf_counter() - started,
    )


async def use_each(store: FleetStore, saved: Counter[str], tenants: Sequence[str]) -> None:
    """Open every tenant, its writer and its reader."""
    build = message_builder()
    task_id = build_tasks(1)[0].id
    for tenant in tenants:
        await store.save(tenant, build())
        saved[tenant] += 1
        # Twice: the first read after opening runs on the writer's connection, the second opens the reader.
        await store.get(tenant, task_id)
        await store.get(tenant, task_id)


def mixed_caller(store: FleetStore, saved: Counter[str], tenants: Picks, reads: float, seed: int) -> Caller:
    """Return a caller that gets a task or saves a message, and counts in `saved` what was acknowledged."""
    is_read = cycle(reads_of(seed, reads))
    build = message_builder()
    task_ids = cycle([task.id for task in build_tasks(TASKS)])

    def prepare() -> tuple[str, object]:
        return next(tenants), next(task_ids) if next(is_read) else build()

    async def call(prepared: tuple[str, object]) -> None:
        tenant, what = prepared
        if isinstance(what, str):
            assert await store.get(tenant, what) is not None
        else:
            await store.save(tenant, what)
            saved[tenant] += 1

    return Caller(prepare, call)


def reads_of(seed: int, reads: float) -> list[bool]:
    """Return which of a caller's calls are reads, before they begin anew."""
    random = Random(seed)
    return [random.random() < reads for _ in range(PICKED)]


def zipf_picks(fleet: Fleet, exponent: float, callers: int) -> list[Picks]:
    """Return each caller's endless choice of tenants: the n-th is asked for in proportion to n to the -exponent."""
    weights = list(accumulate((rank + 1) ** -exponent for rank in range(len(fleet.tenants))))
    return [
        cycle(Random(SEED + caller).choices(fleet.tenants, cum_weights=weights, k=PICKED))
        for caller in range(callers)
    ]


def random_picks(tenants: Sequence[str], callers: int, seed: int) -> list[Picks]:
    """Return each caller's endless choice of tenants, each as often as the others."""
    return [cycle(Random(seed + caller).choices(tenants, k=PICKED)) for caller in range(callers)]


def own_picks(fleet: Fleet) -> list[Picks]:
    """Return one caller for each tenant, who asks for nothing else."""
    return [cycle([tenant]) for tenant in fleet.tenants]
