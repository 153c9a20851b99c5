"""Alternating rounds, and what is made of them.

Theory of operation. A machine's speed drifts: the disk fills its cache, a neighbour wakes up. So two sides are never
compared by their best or mean of separate runs. In each round every side does the same work, one after the other, on
a file of its own; the ratio of two sides is taken within a round; and the median of those ratios is the result.
"""

import asyncio
import gc
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from benchmarks.peers import Durability, OpenStore
from tenantry.company import Message

_WARM_UP_SHARE = 0.1
_DURABLE = Durability(journal_mode="wal", synchronous=2)


class BenchmarkError(Exception):
    """The numbers would be worth nothing: a side is not durable, or lost rows."""


@dataclass(frozen=True, slots=True)
class Load:
    """How long to measure, and where.

    Attributes:
        directory: On the disk that is measured; every side of every round gets a fresh directory in it.
        rounds: How many alternating rounds.
        seconds: How long one side works in a round, after a warm-up of a tenth of that.
        progress: Told in words what is running.
    """

    directory: Path
    rounds: int
    seconds: float
    progress: Callable[[str], None]

    @property
    def warm_up_seconds(self) -> float:
        """How long a side works before it is measured."""
        return self.seconds * _WARM_UP_SHARE


@dataclass(frozen=True, slots=True)
class Sample:
    """One side in one round.

    Attributes:
        calls: Acknowledged in `seconds`.
        p50_seconds: Of a call as its caller saw it; None where there are no callers.
        p99_seconds: The same.
        gc_seconds: How long the garbage collector held everything up, out of `seconds`.
        gc_collections: How often.
        durability: As read back from the connection that writes.
    """

    calls: int
    seconds: float
    p50_seconds: float | None
    p99_seconds: float | None
    gc_seconds: float
    gc_collections: int
    durability: Durability

    @property
    def calls_per_second(self) -> float:
        """The rate."""
        return self.calls / self.seconds


@dataclass(frozen=True, slots=True)
class Side:
    """One that is compared: its name, and how it runs one round in a fresh directory."""

    name: str
    run: Callable[[Path], Sample]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the extremes that say how much it is worth."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """All samples of one setting, by side and in the order of the rounds; the first side is what others are held against."""

    setting: str
    samples: dict[str, list[Sample]]

    @property
    def subject(self) -> list[Sample]:
        """The samples of the side that is held against the others."""
        return next(iter(self.samples.values()))

    def rate(self, side: str) -> Spread:
        """Return a side's calls per second."""
        return Spread.of([sample.calls_per_second for sample in self.samples[side]])

    def rate_ratio(self, side: str) -> Spread:
        """Return how many times a side's rate the subject reaches, within each round."""
        pairs = zip(self.subject, self.samples[side], strict=True)
        return Spread.of([ours.calls_per_second / theirs.calls_per_second for ours, theirs in pairs])

    def p50(self, side: str) -> float | None:
        """Return the median over the rounds of a side's median latency, in seconds."""
        return _median_or_none([sample.p50_seconds for sample in self.samples[side]])

    def p99(self, side: str) -> float | None:
        """Return the same for the 99th percentile."""
        return _median_or_none([sample.p99_seconds for sample in self.samples[side]])

    def p50_ratio(self, side: str) -> float | None:
        """Return the subject's median latency as a multiple of a side's, within each round."""
        pairs = zip(self.subject, self.samples[side], strict=True)
        return _median_or_none(
            [
                ours.p50_seconds / theirs.p50_seconds if ours.p50_seconds and theirs.p50_seconds else None
                for ours, theirs in pairs
            ]
        )


def compare(setting: str, sides: Sequence[Side], load: Load) -> Comparison:
    """Run the sides in alternating rounds; each round begins with another one."""
    samples: dict[str, list[Sample]] = {side.name: [] for side in sides}
    for index in range(load.rounds):
        first = index % len(sides)
        for side in (*sides[first:], *sides[:first]):
            load.progress(f"{setting}, round {index + 1} of {load.rounds}: {side.name}")
            with TemporaryDirectory(dir=load.directory) as fresh:
                # Nobody pays for the garbage of the side before.
                gc.collect()
                samples[side.name].append(side.run(Path(fresh)))
    return Comparison(setting, samples)


def run_callers(
    open_store: OpenStore, build: Callable[[], Message], callers: int, load: Load, directory: Path
) -> Sample:
    """Let so many callers save messages, each the next one when the last is acknowledged, and check the rows after.

    The latency is that of `save`: serializing the message and all that follows, not building it.
    """
    return asyncio.run(_run_callers(open_store, build, callers, load, directory))


async def _run_callers(
    open_store: OpenStore, build: Callable[[], Message], callers: int, load: Load, directory: Path
) -> Sample:
    latencies: list[float] = []
    warm_up: list[float] = []

    async def call_until(until: float, seen: list[float]) -> None:
        now = time.perf_counter
        while now() < until:
            message = build()
            called = now()
            await store.save(message)
            seen.append(now() - called)

    async def call_for(seconds: float, seen: list[float]) -> float:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call_until(started + seconds, seen))
        return time.perf_counter() - started

    async with open_store(directory) as store:
        durability = check_durable(await store.durability())
        await call_for(load.warm_up_seconds, warm_up)
        with GarbageMeter() as garbage:
            seconds = await call_for(load.seconds, latencies)
        database = store.database
    check_rows(database, len(warm_up) + len(latencies))
    latencies.sort()
    return Sample(
        calls=len(latencies),
        seconds=seconds,
        p50_seconds=latencies[len(latencies) // 2],
        p99_seconds=latencies[len(latencies) * 99 // 100],
        gc_seconds=garbage.seconds,
        gc_collections=garbage.collections,
        durability=durability,
    )


def check_durable(durability: Durability) -> Durability:
    """Return what was read back, if it means that an acknowledged write survives a loss of power.

    Raises:
        BenchmarkError: It does not.
    """
    if durability != _DURABLE:
        raise BenchmarkError(
            f"a side writes with {durability}, not {_DURABLE}: the numbers would not compare"
        )
    return durability


def check_rows(database: Path, acknowledged: int) -> None:
    """Count the rows of a closed database.

    Raises:
        BenchmarkError: There are fewer or more than were acknowledged.
    """
    with closing(sqlite3.connect(database)) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM messages").fetchone()
    if rows != acknowledged:
        raise BenchmarkError(f"{database} holds {rows} rows, and {acknowledged} were acknowledged")


class GarbageMeter:
    """Measures what the garbage collector takes while it is entered; everyone runs with it on, as programs do."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.collections = 0
        self._started = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._observe)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        gc.callbacks.remove(self._observe)

    def _observe(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._started = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._started
            self.collections += 1


def _median_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
