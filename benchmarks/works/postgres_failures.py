"""Work 20: what failing callers cost the others of their batch on PostgreSQL: 1, and 8, of a batch of 64 against a clean batch."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.harness import BenchmarkError, Load, Side, Work, compare
from benchmarks.peers.message_row import INSERT, message_builder, row_of
from benchmarks.peers.postgres import PostgresServer
from benchmarks.peers.tenantry_postgres import BACKEND, postgres_config
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.errors import DuplicateRecordError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.ids import parse_tenant_id
from tenantry.limits import TenantLimits
from tenantry.sql.statements import Statement
from tenantry.storage.postgres.backend import PostgresBackend
from tenantry.storage.protocol import Place, Request, Store

_BATCH = 64
_CLEAN = "none fails"
_SETTINGS = {failing: f"batches of {_BATCH}, {failing} fail" for failing in (1, 8)}


def _run(load: Load) -> Sequence[Comparison]:
    return [
        compare(
            setting,
            [
                Side(f"{failing} fail", partial(_round, load, failing)),
                Side(_CLEAN, partial(_round, load, 0)),
            ],
            load,
        )
        for failing, setting in _SETTINGS.items()
    ]


def _round(load: Load, failing: int, directory: Path) -> Sample:
    return load.run(_write_batches(load, failing, directory))


async def _write_batches(load: Load, failing: int, directory: Path) -> Sample:
    config = postgres_config(PostgresServer.of(load), directory)
    log = EventLog()
    backend = PostgresBackend(
        config,
        (COMPANY,),
        name=BACKEND,
        database=config.databases[BACKEND],
        clock=SystemClock(),
        log=log,
    )
    await backend.open()
    try:
        tenant_id = parse_tenant_id(f"failures-{time.time_ns()}")
        place = Place(tenant_id, f"{time.time_ns():032x}", await backend.new_location(tenant_id, ()))
        store = backend.store(place, limits=TenantLimits(), log=log, is_new=True)
        await store.connect()
        try:
            await store.migrate()
            return await _measure(store, failing, load)
        finally:
            await store.disconnect()
    finally:
        await backend.aclose()


async def _measure(store: Store, failing: int, load: Load) -> Sample:
    build = message_builder()
    duplicate = (Statement("messages.save", INSERT, row_of(build())),)
    await store.write([duplicate])
    step = _BATCH // failing if failing else 0
    latencies: list[float] = []
    started = time.perf_counter()
    until = started + load.warm_up_seconds + load.seconds
    while (called := time.perf_counter()) < until:
        batch: list[Request] = [(Statement("messages.save", INSERT, row_of(build())),) for _ in range(_BATCH)]
        for position in range(failing):
            batch[position * step + step // 2] = duplicate
        called = time.perf_counter()
        outcomes = await store.write(batch)
        latencies.append(time.perf_counter() - called)
        _check(outcomes, failing)
    return Sample.of(latencies, time.perf_counter() - started)


def _check(outcomes: Sequence[object], failing: int) -> None:
    errors = [outcome for outcome in outcomes if isinstance(outcome, TenantryError)]
    if len(errors) != failing or not all(isinstance(error, DuplicateRecordError) for error in errors):
        raise BenchmarkError(f"{failing} callers should have failed, but the batch had {errors}")


WORK = Work(
    number="20",
    title="one store on PostgreSQL, batches of 64 messages of which some are duplicates",
    run=_run,
    targets=(
        Target(_SETTINGS[1], _CLEAN, must=1.6, measure=Measure.P50),
        Target(_SETTINGS[8], _CLEAN, must=5, measure=Measure.P50),
    ),
)
