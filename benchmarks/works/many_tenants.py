"""Work 7: many more tenants than may be open, asked for by Zipf's law, nine reads to a write."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.comparison import Comparison, Target
from benchmarks.engines import PYTHON
from benchmarks.harness import Load, Work
from benchmarks.peers.limit import EIGHT_THREADS
from benchmarks.zipf import OPEN_PER_OPERATION, ZIPF_CALLERS, compare_zipf

_TENANTS, _QUICK_TENANTS = 5_000, 500
_POOL, _LARGE_POOL = 128, 512
_SECONDS_FACTOR = 2.0  # the pool has to fill first


def _setting(pool: int) -> str:
    return f"Zipf 1.1, pool of {pool}, {ZIPF_CALLERS} callers"


def _run(load: Load) -> Sequence[Comparison]:
    load = replace(load, seconds=load.seconds * _SECONDS_FACTOR)
    tenants = _QUICK_TENANTS if load.is_quick else _TENANTS
    return [compare_zipf(_setting(pool), tenants, pool, load) for pool in (_POOL, _LARGE_POOL)]


WORK = Work(
    number="7",
    title="5,000 tenants (--quick: 500), Zipf 1.1, 64 callers, 90% reads",
    run=_run,
    targets=(
        Target(_setting(_POOL), PYTHON, must=1),
        Target(_setting(_POOL), OPEN_PER_OPERATION, must=3, reach=6),
        Target(_setting(_LARGE_POOL), PYTHON, must=1),
        Target(_setting(_LARGE_POOL), OPEN_PER_OPERATION, must=4.5, reach=10),
        Target(_setting(_LARGE_POOL), EIGHT_THREADS, must=0.4, reach=0.7),
    ),
)
