"""Alternating rounds, and what is made of them.

Theory of operation. A machine's speed drifts: the disk fills its cache, a neighbour wakes up. So two sides are never
compared by their best or mean of separate runs. In each round every side does the same work, one after the other, on
a file of its own; the ratio of two sides is taken within a round; and the median of those ratios is the result.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from benchmarks.comparison import Comparison, Sample, Target
from benchmarks.peers import Durability, PostgresDurability

T = TypeVar("T")

_WARM_UP_SHARE = 0.1


class BenchmarkError(Exception):
    """The numbers would be worth nothing: a side is not durable, lost rows, or failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """How long to measure, and where.

    Attributes:
        directory: On the disk that is measured; every side of every round gets a fresh directory in it.
        rounds: How many alternating rounds.
        seconds: How long one side works in a round, after a warm-up of a tenth of that.
        progress: Told in words what is running.
        is_quick: Whether to ask only if it runs: smaller fleets, fewer rows.
        sides: Run only these, and the first of each comparison; all if None.
        loop_factory: Makes the event loop; asyncio's own if None.
        resources: Closed when the work is done.
    """

    directory: Path
    rounds: int
    seconds: float
    progress: Callable[[str], None] = lambda _: None
    is_quick: bool = False
    sides: frozenset[str] | None = None
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    resources: ExitStack = field(default_factory=ExitStack)
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def warm_up_seconds(self) -> float:
        """How long a side works before it is measured."""
        return self.seconds * _WARM_UP_SHARE

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Return what `make` returned when this key was first asked for: what is too dear to make in each round."""
        if key not in self.made:
            self.progress(f"preparing {key}")
            self.made[key] = make()
        made: T = self.made[key]
        return made

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a side's round on an event loop of its own."""
        with asyncio.Runner(loop_factory=self.loop_factory) as runner:
            return runner.run(main)


@dataclass(frozen=True, slots=True)
class Side:
    """One that is compared: its name, and how it runs one round in a fresh directory."""

    name: str
    run: Callable[[Path], Sample]


@dataclass(frozen=True, slots=True)
class Work:
    """One benchmark.

    Attributes:
        number: Its number in the list of what must be reached; ``-`` if it is not there.
        title: What is done, in a line.
        run: Runs it.
        targets: What it must show.
        curve: Measures at growing sizes, each a comparison whose setting is the size; only in a full run.
        curve_axis: What that size is.
    """

    number: str
    title: str
    run: Callable[[Load], Sequence[Comparison]]
    targets: Sequence[Target] = ()
    curve: Callable[[Load], Sequence[Comparison]] | None = None
    curve_axis: str = ""


class Caller(NamedTuple):
    """One that calls, waits for the answer, and calls again; only `call` is timed.

    Attributes:
        prepare: Makes what the next call needs.
        call: Makes the call.
    """

    prepare: Callable[[], Any]
    call: Callable[[Any], Awaitable[object]]


@dataclass(slots=True)
class Calls:
    """What became of the calls of some time; `cpu_seconds` is the processor time of this process for all of them."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    errors: int = 0
    first_error: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A warm-up and what came after it."""

    warm_up: Calls
    calls: Calls
    garbage: "GarbageMeter"

    @property
    def answered(self) -> int:
        """How many calls were answered, the warm-up's included."""
        return len(self.warm_up.latencies) + len(self.calls.latencies)

    @property
    def failed(self) -> int:
        """How many calls failed, the warm-up's included."""
        return self.warm_up.errors + self.calls.errors

    def sample(
        self, durability: dict[str, Any] | None, *, cpu_seconds: float | None = None, **details: Any
    ) -> Sample:
        """Return the sample.

        Raises:
            BenchmarkError: No call was answered.
        """
        calls = self.calls
        if not calls.latencies:
            raise BenchmarkError(f"no call was answered: {calls.first_error or 'there was no time for one'}")
        return Sample.of(
            calls.latencies,
            calls.seconds,
            errors=self.failed,
            first_error=self.warm_up.first_error or calls.first_error,
            gc_seconds=self.garbage.seconds,
            gc_collections=self.garbage.collections,
            durability=durability,
            cpu_seconds=cpu_seconds,
            details=details,
        )


def compare(setting: str, sides: Sequence[Side], load: Load) -> Comparison:
    """Run the sides in alternating rounds; each round begins with another one."""
    if load.sides is not None:
        sides = [side for side in sides if side is sides[0] or side.name in load.sides]
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


async def measure(callers: Sequence[Caller], load: Load) -> Measured:
    """Let the callers call for the warm-up's time and then for the load's; failed calls are counted."""
    warm_up = await _call_for(load.warm_up_seconds, callers)
    with GarbageMeter() as garbage:
        calls = await _call_for(load.seconds, callers)
    return Measured(warm_up, calls, garbage)


async def _call_for(seconds: float, callers: Sequence[Caller]) -> Calls:
    calls = Calls()
    started, cpu_before = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(_call_until(started + seconds, caller, calls))
    calls.seconds, calls.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_before
    return calls


async def _call_until(until: float, caller: Caller, calls: Calls) -> None:
    now, seen = time.perf_counter, calls.latencies.append
    prepare, call = caller
    while now() < until:
        prepared = prepare()
        called = now()
        try:
            await call(prepared)
        except Exception as error:  # noqa: BLE001  # any failure of a side is a result, and is counted
            note_error(calls, error)
        else:
            seen(now() - called)


def note_error(calls: Calls, error: Exception) -> None:
    """Count a call that failed."""
    calls.errors += 1
    calls.first_error = calls.first_error or f"{type(error).__name__}: {error}"


def check_durable(durability: Durability | PostgresDurability) -> dict[str, Any]:
    """Return what was read back, if it means that an acknowledged write survives a loss of power.

    Raises:
        BenchmarkError: It does not.
    """
    if not durability.is_durable:
        raise BenchmarkError(f"a side writes with {durability}, which is not durable: nothing would compare")
    return durability._asdict()


def check_rows(stored: int, acknowledged: int, failed: int = 0) -> None:
    """Check that what was acknowledged is stored; a call that failed may have stored its row or not.

    Raises:
        BenchmarkError: There are fewer rows or more.
    """
    if not acknowledged <= stored <= acknowledged + failed:
        raise BenchmarkError(
            f"{stored} rows are stored, {acknowledged} were acknowledged and {failed} failed"
        )


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
