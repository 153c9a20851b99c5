"""Work 1: one tenant, callers that save one message after the other and wait for the durable answer."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.comparison import Comparison, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.harness import Load, Side, Work, compare
from benchmarks.one_tenant import plural, postgres_sides, save_side
from benchmarks.peers import OpenStore
from benchmarks.peers.aiosqlite_lock import open_aiosqlite
from benchmarks.peers.aiosqlite_pool import open_pool
from benchmarks.peers.datasette_queue import open_datasette
from benchmarks.peers.limit import ONE_THREAD, save_limit
from benchmarks.peers.open_per_operation import open_per_operation
from benchmarks.peers.sqlalchemy_async import open_sqlalchemy
from benchmarks.peers.sqlite3_batches import LIMIT, save_batches
from benchmarks.peers.tenantry_registry import open_tenantry

_CALLERS = 64
_CURVE_CALLERS = (1, 4, 16, 64, 256, 1024)
_CURVE_ROUNDS = 3
_CURVE_SECONDS = 0.5
_SETTING = plural(_CALLERS, "caller")
_FILES: dict[str, OpenStore] = {
    "aiosqlite + lock": open_aiosqlite,
    "aiosqlitepool": open_pool,
    "SQLAlchemy + aiosqlite": open_sqlalchemy,
    "Datasette execute_write": open_datasette,
    "open per operation": open_per_operation,
}


def _run(load: Load) -> Sequence[Comparison]:
    stores = {**by_engine(open_tenantry), **_FILES, **postgres_sides(load)}
    sides = [save_side(name, open_store, _CALLERS, load) for name, open_store in stores.items()]
    limits = [Side(LIMIT, partial(save_batches, load)), *save_limit(load)]
    return [compare(_SETTING, [*sides, *limits], load)]


def _curve(load: Load) -> Sequence[Comparison]:
    """Compare without the slowest and the limits, which have no callers."""
    load = replace(load, rounds=min(load.rounds, _CURVE_ROUNDS), seconds=min(load.seconds, _CURVE_SECONDS))
    stores = {
        **by_engine(open_tenantry),
        **{name: _FILES[name] for name in ("aiosqlite + lock", "Datasette execute_write")},
        "asyncpg": postgres_sides(load)["asyncpg"],
    }
    return [
        compare(str(callers), [save_side(name, store, callers, load) for name, store in stores.items()], load)
        for callers in _CURVE_CALLERS
    ]


WORK = Work(
    number="1",
    title="one tenant, 64 callers, messages.save",
    run=_run,
    targets=(
        Target(_SETTING, PYTHON, must=1),
        Target(_SETTING, "aiosqlite + lock", must=12, reach=20),
        Target(_SETTING, "Datasette execute_write", must=6),
        Target(_SETTING, "SQLAlchemy + aiosqlite", must=20),
        Target(_SETTING, "asyncpg", must=3),
        Target(_SETTING, LIMIT, must=0.5, reach=0.7),
        Target(_SETTING, ONE_THREAD, must=0.55, reach=0.9),
    ),
    curve=_curve,
    curve_axis="callers of one tenant",
)
