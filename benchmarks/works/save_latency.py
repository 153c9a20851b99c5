"""Work 2: one tenant with one caller: how long a durable save takes when it shares its commit with nobody."""

from collections.abc import Sequence

from benchmarks.comparison import Comparison, Measure, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.harness import Load, Work, compare
from benchmarks.one_tenant import plural, postgres_sides, save_side
from benchmarks.peers import OpenStore
from benchmarks.peers.aiosqlite_lock import open_aiosqlite
from benchmarks.peers.datasette_queue import open_datasette
from benchmarks.peers.tenantry_registry import open_tenantry

_SETTING = plural(1, "caller")
_PEER = "aiosqlite execute + commit"
_FILES: dict[str, OpenStore] = {
    # With one caller its lock is never waited for.
    _PEER: open_aiosqlite,
    "Datasette execute_write": open_datasette,
}


def _run(load: Load) -> Sequence[Comparison]:
    stores = {**by_engine(open_tenantry), **_FILES, **postgres_sides(load)}
    return [compare(_SETTING, [save_side(name, store, 1, load) for name, store in stores.items()], load)]


WORK = Work(
    number="2",
    title="one tenant, 1 caller, messages.save",
    run=_run,
    targets=(
        Target(_SETTING, PYTHON, must=1, measure=Measure.P50),
        Target(_SETTING, _PEER, must=0.85, reach=0.6, measure=Measure.P50),
    ),
)
