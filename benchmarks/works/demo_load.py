"""Work 28: the load of ``tenantry demo`` on both engines, and on one aiosqlite connection for each company.

The latencies and the rate are those of the writes. Every round makes its companies anew and checks all records at its end.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.harness import BenchmarkError, Load, Side, Work, compare
from tenantry.demo import DemoSettings, LoadResult, run_demo, run_on_aiosqlite

_QUICK_QUIET_COMPANIES = 30
_SECONDS_FACTOR = 3.0  # a rare company works every ten seconds
_SETTING = "3 busy and 200 quiet companies"
_PEER = "aiosqlite per company"


def _run(load: Load) -> Sequence[Comparison]:
    settings = DemoSettings(Path(), seconds=load.seconds * _SECONDS_FACTOR)
    if load.is_quick:
        settings = replace(settings, quiet_companies=_QUICK_QUIET_COMPANIES)
    sides = [Side(name, partial(run, settings, load)) for name, run in by_engine(_on_tenantry).items()]
    return [compare(_SETTING, [*sides, Side(_PEER, partial(_on_aiosqlite, settings, load))], load)]


def _on_tenantry(settings: DemoSettings, load: Load, directory: Path, *, engine: Any) -> Sample:
    settings = replace(settings, data_dir=directory / "data", engine=engine)
    result = load.run(run_demo(settings, lambda _: None))
    if result.durability != "full" or result.engine != engine:
        raise BenchmarkError(f"the demo ran on {result.engine} with the durability {result.durability}")
    return _sample(result)


def _on_aiosqlite(settings: DemoSettings, load: Load, directory: Path) -> Sample:
    return _sample(load.run(run_on_aiosqlite(settings, "full", directory, lambda _: None)))


def _sample(result: LoadResult) -> Sample:
    """Return the sample of the writes.

    Raises:
        BenchmarkError: A record was lost or is in another company's file, or there was no write.
    """
    writes = result.timings.of(is_read=False)
    if not writes or not result.is_whole:
        raise BenchmarkError(f"{len(writes)} writes, and the demo's check found {result.check}")
    return Sample.of(writes, result.elapsed_seconds, details={"reads": result.timings.count(is_read=True)})


WORK = Work(
    number="28",
    title="the demo's load (--quick: 30 quiet companies), its writes",
    run=_run,
    targets=(
        Target(_SETTING, PYTHON, must=2.3, reach=4),
        Target(_SETTING, PYTHON, must=0.4, measure=Measure.P50),
    ),
)
