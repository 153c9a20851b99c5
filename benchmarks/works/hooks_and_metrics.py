"""Work 12: what watching costs: work 1 with a hook and every metric, and without."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.comparison import Comparison, Target
from benchmarks.harness import Load, Work, compare
from benchmarks.one_tenant import plural, save_side
from benchmarks.peers.tenantry_registry import export_to_prometheus, open_tenantry
from tenantry import TenantRegistry

_CALLERS = 64
_SETTING = plural(_CALLERS, "caller")
_OFF, _ON = "tenantry", "tenantry + hook + metrics"
_ROUNDS_FACTOR = 2  # the effect is smaller than a round's noise


def _watch(registry: TenantRegistry) -> None:
    export_to_prometheus(registry)
    registry.add_hook(lambda _: None)


def _run(load: Load) -> Sequence[Comparison]:
    load = replace(load, rounds=load.rounds * _ROUNDS_FACTOR)
    sides = [
        save_side(_ON, partial(open_tenantry, prepare=_watch), _CALLERS, load),
        save_side(_OFF, open_tenantry, _CALLERS, load),
    ]
    return [compare(_SETTING, sides, load)]


WORK = Work(
    number="12",
    title="work 1 with a hook and metrics against without: at most 8% slower, 3% to reach for",
    run=_run,
    targets=(Target(_SETTING, _OFF, must=0.92, reach=0.97),),
)
