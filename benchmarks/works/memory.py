"""Work 11: what 512 open tenants keep in memory, each with its writer and a reader; every measurement in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.engines import PYTHON, by_engine
from benchmarks.fleet import Fleet
from benchmarks.harness import BenchmarkError, Load, Side, Work, compare
from benchmarks.many_calls import fleet_of
from benchmarks.peers.tenantry_registry import open_tenantry_fleet

_TENANTS, _QUICK_TENANTS = 512, 128
_TIMEOUT_SECONDS = 120
_CONNECTIONS = 2  # the writer and the reader
_SETTING = "resident bytes of an open tenant"
_PEER = "two aiosqlite connections"


def _run(load: Load) -> Sequence[Comparison]:
    fleet = fleet_of(_QUICK_TENANTS if load.is_quick else _TENANTS, load)
    sides = [Side(name, partial(_measure, name, fleet)) for name in (*by_engine(open_tenantry_fleet), _PEER)]
    return [compare(_SETTING, sides, load)]


def _measure(side: str, fleet: Fleet, directory: Path) -> Sample:  # noqa: ARG001  # the fleet's own is used
    tenants = len(fleet.tenants)
    command = [sys.executable, "-m", "benchmarks.memory_probe", side, str(fleet.data_dir), str(tenants)]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
    )
    if done.returncode:
        raise BenchmarkError(f"the memory probe failed: {done.stderr[-500:]}")
    found = json.loads(done.stdout)
    if found["connections"] < _CONNECTIONS:
        # Without a reader it would be another work.
        raise BenchmarkError(
            f"{side}: {found['connections']} connections to each open tenant, not {_CONNECTIONS}"
        )
    return Sample(tenants, time.perf_counter() - started, bytes_each=found["rss"], details=found)


WORK = Work(
    number="11",
    title="memory of 512 open tenants (--quick: 128), each with writer and reader",
    run=_run,
    targets=(
        Target(_SETTING, PYTHON, must=0.8, measure=Measure.BYTES),
        Target(_SETTING, _PEER, must=1.3, reach=1.0, measure=Measure.BYTES),
    ),
)
