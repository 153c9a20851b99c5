"""Work 27: what a call costs as processors are added, on both engines: 64 tenants, 64 callers of any of them, half of the calls reads.

Each side is a process of its own that may use only so many processors, as under ``taskset``.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import takewhile
from pathlib import Path

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.fleet import Fleet
from benchmarks.harness import Load, Side, Work, check_durable, check_rows, compare
from benchmarks.many_calls import SEED, fleet_of
from benchmarks.one_tenant import plural
from benchmarks.other_process import OtherProcess, other_process, reports_of

_TENANTS = _CALLERS = 64
_READS = 0.5
_PROCESSORS = (1, 2, 4, 8, 16, 32, 64)


def _run(load: Load) -> Sequence[Comparison]:
    fleet = fleet_of(_TENANTS, load)
    processes = by_engine(partial(other_process, fleet.data_dir))
    numbers = [*takewhile(lambda number: number <= len(os.sched_getaffinity(0)), _PROCESSORS)]
    sides = [
        Side(_side(name, number), partial(_round, load, fleet, partial(process, processors=number)))
        for number in numbers
        for name, process in processes.items()
    ]
    samples = compare("all", sides, load).samples
    return [*_by_processors(samples, numbers, [*processes]), *_by_engine(samples, numbers, [*processes])]


def _side(engine: str, processors: int) -> str:
    return f"{engine}, {_setting(processors)}"


def _setting(processors: int) -> str:
    return plural(processors, "processor")


def _by_processors(
    samples: dict[str, list[Sample]], numbers: Sequence[int], engines: Sequence[str]
) -> Iterator[Comparison]:
    """Yield the engines beside each other for each number of processors."""
    for number in numbers:
        yield Comparison(_setting(number), {name: samples[_side(name, number)] for name in engines})


def _by_engine(
    samples: dict[str, list[Sample]], numbers: Sequence[int], engines: Sequence[str]
) -> Iterator[Comparison]:
    """Yield the numbers of processors beside each other for each engine; the most processors are held against the fewer."""
    for name in engines:
        yield Comparison(
            name, {_setting(number): samples[_side(name, number)] for number in reversed(numbers)}
        )


def _round(
    load: Load,
    fleet: Fleet,
    start: Callable[[], AbstractContextManager[OtherProcess]],
    directory: Path,  # noqa: ARG001  # the fleet's own is used
) -> Sample:
    with start() as process:
        used = process.use(fleet.tenants)
        durability = check_durable(used.durability)
        process.start_calls(fleet.tenants, callers=_CALLERS, reads=_READS, seed=SEED, seconds=load.seconds)
        (report,) = load.run(reports_of([process]))
    saved = used.saved + report.saved
    check_rows(*fleet.add_acknowledged(saved, failed=report.errors), report.errors)
    return report.sample(durability=durability, cpu_seconds=report.cpu_seconds)


WORK = Work(
    number="27",
    title="64 tenants, 64 callers of any of them, half reads, on 1, 2, 4 … processors, on both engines",
    run=_run,
    targets=tuple(
        Target(_setting(number), PYTHON, must=1, measure=measure)
        for number in (1, 2)
        for measure in (Measure.RATE, Measure.CPU)
    ),
)
