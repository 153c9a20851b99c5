"""Work 3: one tenant, callers that get tasks by id, each validated as a model again."""

from collections.abc import Sequence
from functools import partial

from benchmarks.comparison import Comparison, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.harness import Load, Side, Work, compare
from benchmarks.one_tenant import TASKS, get_side, plural, postgres_sides
from benchmarks.peers import OpenStore
from benchmarks.peers.aiosqlite_lock import FetchallStore, open_aiosqlite
from benchmarks.peers.aiosqlite_pool import open_pool
from benchmarks.peers.datasette_queue import open_datasette
from benchmarks.peers.limit import get_limit
from benchmarks.peers.open_per_operation import open_per_operation
from benchmarks.peers.sqlalchemy_async import open_sqlalchemy
from benchmarks.peers.sqlite3_batches import LIMIT, get_batches
from benchmarks.peers.tenantry_registry import open_tenantry

_CALLERS = 64
_SETTING = plural(_CALLERS, "caller")
_FILES: dict[str, OpenStore] = {
    "aiosqlite execute + fetchone": open_aiosqlite,
    "aiosqlite execute_fetchall": partial(open_aiosqlite, store_type=FetchallStore),
    # Reads do not wait for each other in SQLite: of 1, 2 and 5 connections what was fastest.
    "aiosqlitepool": partial(open_pool, pool_size=5),
    "SQLAlchemy + aiosqlite": partial(open_sqlalchemy, pool_size=2),
    "Datasette execute": open_datasette,
    "open per operation": open_per_operation,
}


def _run(load: Load) -> Sequence[Comparison]:
    stores = {**by_engine(open_tenantry), **_FILES, **postgres_sides(load)}
    sides = [get_side(name, open_store, _CALLERS, load) for name, open_store in stores.items()]
    limits = [Side(LIMIT, partial(get_batches, TASKS, load)), *get_limit(TASKS, load)]
    return [compare(_SETTING, [*sides, *limits], load)]


WORK = Work(
    number="3",
    title="one tenant, 64 callers, tasks.get",
    run=_run,
    targets=(
        Target(_SETTING, PYTHON, must=1),
        Target(_SETTING, "aiosqlite execute + fetchone", must=4),
        Target(_SETTING, "aiosqlite execute_fetchall", must=3, reach=6),
        Target(_SETTING, LIMIT, must=0.5, reach=0.7),
    ),
)
