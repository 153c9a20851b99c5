"""Work 23: 64 tenants, half of them open in each of two processes, called by 32 callers in each; against one process with 64 callers."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.comparison import Comparison, Sample, Target
from benchmarks.fleet import Fleet
from benchmarks.harness import Load, Side, Work, check_durable, check_rows, compare
from benchmarks.many_calls import fleet_of
from benchmarks.other_process import other_processes, reports_of, together

_TENANTS, _CALLERS, _PROCESSES = 64, 64, 2
_ANY, _ONE, _OWN = "2 processes, any tenant", "1 process", "2 processes, each only its own tenants"
_READS = {"save": 0.0, "get": 1.0}
_SEED = 20_261_130


def _run(load: Load) -> Sequence[Comparison]:
    fleet = fleet_of(_TENANTS, load)
    return [
        compare(
            f"{_TENANTS} tenants, {_CALLERS} callers, {what}",
            [Side(side, partial(_round, load, fleet, side, reads)) for side in (_ANY, _ONE, _OWN)],
            load,
        )
        for what, reads in _READS.items()
    ]


def _round(load: Load, fleet: Fleet, side: str, reads: float, directory: Path) -> Sample:  # noqa: ARG001  # the fleet's own is used
    count = 1 if side == _ONE else _PROCESSES
    saved: Counter[str] = Counter()
    with other_processes(count, fleet.data_dir) as processes:
        for number, process in enumerate(processes):
            used = process.use(fleet.tenants[number::count])
            durability = check_durable(used.durability)
            saved.update(used.saved)
        for number, process in enumerate(processes):
            process.start_calls(
                fleet.tenants[number::count] if side == _OWN else fleet.tenants,
                callers=_CALLERS // count,
                reads=reads,
                seed=_SEED + number * _CALLERS,
                seconds=load.seconds,
            )
        reports = load.run(reports_of(processes))
    for report in reports:
        saved.update(report.saved)
    failed = sum(report.errors for report in reports)
    check_rows(*fleet.add_acknowledged(saved, failed=failed), failed)
    return together(reports, durability=durability)


WORK = Work(
    number="23",
    title="64 tenants, two processes with 32 callers each, half of the calls forwarded, against one process with 64 callers",
    run=_run,
    targets=(Target(f"{_TENANTS} tenants, {_CALLERS} callers, save", _ONE, must=1.0),),
)
