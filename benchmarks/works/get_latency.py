"""Work 4: one tenant with one caller: how long a get takes when it shares its job with nobody."""

from collections.abc import Sequence
from functools import partial

from benchmarks.comparison import Comparison, Measure, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.harness import Load, Work, compare
from benchmarks.one_tenant import get_side, plural, postgres_sides
from benchmarks.peers import OpenStore
from benchmarks.peers.aiosqlite_lock import FetchallStore, open_aiosqlite
from benchmarks.peers.datasette_queue import open_datasette
from benchmarks.peers.tenantry_registry import open_tenantry

_SETTING = plural(1, "caller")
_PEER = "aiosqlite execute_fetchall"
_FILES: dict[str, OpenStore] = {
    _PEER: partial(open_aiosqlite, store_type=FetchallStore),
    "Datasette execute": open_datasette,
}


def _run(load: Load) -> Sequence[Comparison]:
    stores = {**by_engine(open_tenantry), **_FILES, **postgres_sides(load)}
    return [compare(_SETTING, [get_side(name, store, 1, load) for name, store in stores.items()], load)]


WORK = Work(
    number="4",
    title="one tenant, 1 caller, tasks.get",
    run=_run,
    targets=(
        Target(_SETTING, PYTHON, must=1, measure=Measure.P50),
        Target(_SETTING, _PEER, must=0.9, reach=0.6, measure=Measure.P50),
    ),
)
