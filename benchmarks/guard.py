"""``python -m benchmarks.guard``: a regression guard that holds on noisy machines.

It asks for ratios against aiosqlite in the same run, never for a rate, with floors well below what a busy machine shows.
What misses its floor is measured once more, longer, and only what misses it twice is a regression.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.comparison import Measure, Target
from benchmarks.engines import PYTHON
from benchmarks.harness import BenchmarkError, Load
from benchmarks.machine import check_is_disk
from benchmarks.verdict import Verdict, bound, judge
from benchmarks.works import WORKS

_ROUNDS, _SECONDS = 3, 0.4
_AGAIN_ROUNDS, _AGAIN_SECONDS = 7, 0.8


@dataclass(frozen=True, slots=True)
class Floor:
    """A ratio that must hold anywhere: a work's name, and a target of it that is easier."""

    work: str
    target: Target


FLOORS = (
    Floor("save_one_tenant", Target("64 callers", "aiosqlite + lock", must=6)),
    Floor("save_latency", Target("1 caller", "aiosqlite execute + commit", must=1.6, measure=Measure.P50)),
    Floor("get_one_tenant", Target("64 callers", "aiosqlite execute + fetchone", must=2.5)),
    Floor("get_latency", Target("1 caller", "aiosqlite execute_fetchall", must=1.8, measure=Measure.P50)),
    Floor("mixed_tenants", Target("64 tenants, 1 caller each", "aiosqlite per tenant", must=0.9)),
    Floor(
        "cold_call",
        Target(
            "tenant closed, file warm", "aiosqlite connect + pragmas + select", must=2, measure=Measure.P50
        ),
    ),
    Floor("many_tenants", Target("Zipf 1.1, pool of 128, 64 callers", "open per operation", must=1.5)),
    Floor("migrate_fleet", Target("one new migration", "sqlite3 loop over the files", must=0.4)),
    # Beside the native engine, the Python store: where there is no native engine, nothing is held against it.
    Floor("mixed_tenants", Target("64 tenants, 1 caller each", PYTHON, must=1.2)),
    Floor("get_one_tenant", Target("64 callers", PYTHON, must=0.9)),
    Floor("hooks_and_metrics", Target("64 callers", "tenantry", must=0.8)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every floor; return 1 if one was missed twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description="has it become slower?")
    parser.add_argument("--dir", type=Path, default=Path(), help="on which disk (the current directory's)")
    options = parser.parse_args(arguments)
    try:
        check_is_disk(options.dir)
        missed = [floor for floor in FLOORS if not _holds(floor, options.dir)]
    except BenchmarkError as error:
        print(f"guard: {error}", file=sys.stderr)
        return 1
    for floor in missed:
        print(f"guard: {floor.work} has become slower than its floor", file=sys.stderr)
    return 1 if missed else 0


def _holds(floor: Floor, directory: Path) -> bool:
    return any(
        _measure(floor, Load(directory, rounds, seconds, is_quick=True, sides=frozenset([floor.target.side])))
        for rounds, seconds in ((_ROUNDS, _SECONDS), (_AGAIN_ROUNDS, _AGAIN_SECONDS))
    )


def _measure(floor: Floor, load: Load) -> bool:
    with TemporaryDirectory(prefix=".benchmarks-", dir=load.directory) as directory, ExitStack() as resources:
        comparisons = WORKS[floor.work].run(replace(load, directory=Path(directory), resources=resources))
    verdicts = judge([floor.target], comparisons)
    if not verdicts and all(comparison.subject == floor.target.side for comparison in comparisons):
        print(f"{floor.work:18} left out: {floor.target.side} is the only engine", flush=True)
        return True
    if not verdicts:
        raise BenchmarkError(
            f"{floor.work} has no setting {floor.target.setting!r} with {floor.target.side!r}"
        )
    for verdict in verdicts:
        print(_line(floor, verdict), flush=True)
    return all(verdict.is_met for verdict in verdicts)


def _line(floor: Floor, verdict: Verdict) -> str:
    target = floor.target
    return (
        f"{floor.work:18} {target.measure.value:5} {verdict.ratio.median:6.2f} x {target.side:38}"
        f"{bound(target.must, target.measure):>7}  {'ok' if verdict.is_met else 'MISSED'}"
    )


if __name__ == "__main__":
    sys.exit(main())
