"""Work 18: four processes with 64 callers each save to one tenant on PostgreSQL.

The rows' numbers (`seq`) must follow the order of the commits: the numbers of one caller's messages rise. asyncpg's processes
write the same table without an owner's row, so their numbers may not be in the order of the commits; that is only counted.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.comparison import Comparison, Sample, Target
from benchmarks.harness import BenchmarkError, Load, Side, Work, compare
from benchmarks.one_tenant import plural
from benchmarks.peers.postgres import PostgresServer
from benchmarks.peers.tenantry_postgres import create_tenant, postgres_config
from tenantry import TenantRegistry

_PROCESSES, _CALLERS = 4, 64
_SETTING = f"{_PROCESSES} processes, {plural(_CALLERS, 'caller')} each, save"
_SUBJECT, _PEER = "tenantry on PostgreSQL", "asyncpg"
_START_SECONDS_MAX = 60
# A row that was written by a later transaction has a smaller number: the transaction's id is 32 bits wide, and does not wrap here.
_INVERSIONS = """
    SELECT count(*) FROM (
        SELECT xmin::text::bigint - lag(xmin::text::bigint) OVER (ORDER BY seq) AS step FROM {}
    ) AS steps WHERE step < 0
"""


def _run(load: Load) -> Sequence[Comparison]:
    sides = [Side(name, partial(_round, load, name)) for name in (_SUBJECT, _PEER)]
    return [compare(_SETTING, sides, load)]


def _round(load: Load, side: str, directory: Path) -> Sample:
    server = PostgresServer.of(load)
    if side == _SUBJECT:
        tenant, schema = asyncio.run(_new_tenant(server, directory))
    else:
        tenant = schema = server.create_tenant(())
    arguments = [server.uri, str(directory), side, tenant, str(load.seconds)]
    command = [sys.executable, "-m", "benchmarks.postgres_process", *arguments]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(_PROCESSES)
    ]
    try:
        return _sample(processes, server, schema)
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def _new_tenant(server: PostgresServer, directory: Path) -> tuple[str, str]:
    async with TenantRegistry(postgres_config(server, directory)) as registry:
        store = await create_tenant(registry, server, ())
        return store.tenant.id, store.schema


def _sample(processes: Sequence[subprocess.Popen[str]], server: PostgresServer, schema: str) -> Sample:
    for process in processes:  # all are connected before the first begins
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise BenchmarkError("a process could not be started")
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    reports = [json.loads(process.communicate(timeout=_START_SECONDS_MAX)[0]) for process in processes]
    seconds = time.perf_counter() - started
    acknowledged = sum(report["saved"] for report in reports)
    stored = server.count_messages(schema)
    errors = sum(report["errors"] for report in reports)
    if not acknowledged <= stored <= acknowledged + errors:
        raise BenchmarkError(f"{stored} rows are stored, and {acknowledged} were acknowledged")
    latencies = sorted(latency for report in reports for latency in report["latencies"])
    with psycopg.connect(server.uri) as connection:
        query = sql.SQL(_INVERSIONS).format(sql.Identifier(schema, "messages"))
        (inversions,) = connection.execute(query).fetchone() or (None,)
    return Sample.of(
        latencies, seconds, errors=errors, details={"inversions": inversions, "stored": stored, "lost": 0}
    )


WORK = Work(
    number="18",
    title="one tenant on PostgreSQL, four processes, messages.save",
    run=_run,
    targets=(Target(_SETTING, _PEER, must=3),),
)
