"""Work 26: the quiet tenants of work 8, beside the flood, on both engines: their p99, and how much the flood itself does."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.harness import Load, Side, Work, compare
from benchmarks.many_calls import fleet_of
from benchmarks.neighbours import FLOODERS, QUIET, SECONDS_FACTOR, run_round
from benchmarks.peers.tenantry_registry import open_tenantry_fleet

_QUIET_CALLS = "quiet calls beside the flood"
_FLOOD = "saves of the flood"


def _run(load: Load) -> Sequence[Comparison]:
    load = replace(load, seconds=load.seconds * SECONDS_FACTOR)
    fleet = fleet_of(1 + QUIET, load)
    quiet = compare(
        _QUIET_CALLS,
        [
            Side(name, partial(run_round, open_fleet, fleet, FLOODERS, load))
            for name, open_fleet in by_engine(open_tenantry_fleet).items()
        ],
        load,
    )
    return [quiet, _flood_of(quiet)]


def _flood_of(quiet: Comparison) -> Comparison:
    """Return the flood's own comparison, of the same rounds."""
    return Comparison(_FLOOD, {name: [*map(_flood, samples)] for name, samples in quiet.samples.items()})


def _flood(sample: Sample) -> Sample:
    return Sample(sample.details["saved_by_the_flood"], sample.seconds, errors=sample.errors)


WORK = Work(
    number="26",
    title="50 quiet tenants beside one with 256 callers, on both engines",
    run=_run,
    targets=(
        Target(_QUIET_CALLS, PYTHON, must=0.45, measure=Measure.P99),
        Target(_FLOOD, PYTHON, must=4),
    ),
)
