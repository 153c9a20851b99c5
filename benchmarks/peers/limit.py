"""The limit: threads in C that run tenantry's statements on tenants' files, without Python and without callers who wait.

The program is built by `benchmarks.limit_program`; `benchmarks/limits/limit.h` says what it does. Each round is a process of its own.
Where the program cannot be built, its sides are left out, and a message says why.
"""

import asyncio
import json
import subprocess
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.comparison import Sample
from benchmarks.engines import tell_left_out
from benchmarks.fleet import Fleet
from benchmarks.harness import BenchmarkError, Load, Side, check_durable, check_rows
from benchmarks.limit_program import NoLimitError, build_limit
from benchmarks.many_calls import PICKED, SEED, TASKS, Picks, reads_of
from benchmarks.peers import DURABILITY_SQL, Durability, count_messages
from benchmarks.peers.message_row import COLUMNS, INSERT, message_builder, row_of
from benchmarks.peers.task_row import GET, build_tasks
from benchmarks.peers.tenantry_registry import TENANT, make_tenant
from tenantry.company import Task
from tenantry.storage.sqlite.database_files.layout import TenantPaths, tenant_paths

# Private to tenantry, and used all the same: a limit with statements of its own would be the limit of something else.
from tenantry.storage.sqlite.database_files.ownership import _RAISE as RAISE
from tenantry.storage.sqlite.database_files.ownership import _SELECT_OWNER as GUARD
from tenantry.storage.sqlite.database_files.ownership import OWNER_SQL
from tenantry.storage.sqlite.migrations.migrator import SUMMARY_SQL

ONE_THREAD = "limit, 1 thread in C"
EIGHT_THREADS = "limit, 8 threads in C"

_THREADS = 8
_BATCH_ROWS = 64
_ROWS = 16  # one for each channel of the messages
_TIMEOUT_SECONDS = 120
_WORDS_MAX = 500
_SUMMARY = f"SELECT * FROM ({OWNER_SQL}), ({SUMMARY_SQL})"
"""What tenantry reads of a database at rest: the owner and the migrations, in one row."""


def save_limit(load: Load) -> list[Side]:
    """Return the side that saves messages of one tenant, 64 to a transaction; none where it cannot be built."""
    return _sides(ONE_THREAD, load, lambda: partial(_run_one, "save", load, build_tasks(1)))


def get_limit(tasks: int, load: Load) -> list[Side]:
    """Return the side that gets tasks of one tenant, 64 to a snapshot; none where it cannot be built."""
    return _sides(ONE_THREAD, load, lambda: partial(_run_one, "get", load, build_tasks(tasks)))


def fleet_limit(
    fleet: Fleet,
    picks: Callable[[], Sequence[Picks]],
    load: Load,
    *,
    reads: float,
    pool: int,
    are_open: bool = False,
) -> list[Side]:
    """Return the side whose 8 threads make the callers' calls to the fleet; none where it cannot be built.

    See `many_calls.fleet_side` for the arguments; at most `pool` tenants are open.
    """

    def run() -> Callable[[Path], Sample]:
        callers = load.once(f"calls of {len(fleet.tenants):,} tenants", lambda: _calls(fleet, picks(), reads))
        return partial(_run_fleet, fleet, callers, load, pool=pool, are_open=are_open)

    return _sides(EIGHT_THREADS, load, run)


def _sides(name: str, load: Load, make: Callable[[], Callable[[Path], Sample]]) -> list[Side]:
    if load.sides is not None and name not in load.sides:
        return []
    try:
        load.once("the limit", build_limit)
    except NoLimitError as error:
        tell_left_out(name, str(error))
        return []
    return [Side(name, make())]


def _calls(fleet: Fleet, picks: Sequence[Picks], reads: float) -> list["array[int]"]:
    """Return each caller's calls: the tenant's number, times 2, plus 1 for a read."""
    numbers = {tenant: number for number, tenant in enumerate(fleet.tenants)}
    callers: list[array[int]] = []
    for seed, mine in enumerate(picks, start=SEED):
        which = zip(islice(mine, PICKED), reads_of(seed, reads), strict=True)
        callers.append(array("I", (numbers[tenant] * 2 + is_read for tenant, is_read in which)))
    return callers


def _run_one(work: str, load: Load, tasks: Sequence[Task], directory: Path) -> Sample:
    database = asyncio.run(make_tenant(directory, tasks))
    plan = _plan([tenant_paths(directory, TENANT)], tasks, load, batch=_BATCH_ROWS)
    answer = _run(load, work, plan)
    check_rows(count_messages(database), answer["saved"][0])
    return _sample(answer)


def _run_fleet(
    fleet: Fleet,
    callers: Sequence["array[int]"],
    load: Load,
    directory: Path,  # noqa: ARG001  # the fleet's own is used
    *,
    pool: int,
    are_open: bool,
) -> Sample:
    tenants = [tenant_paths(fleet.data_dir, tenant) for tenant in fleet.tenants]
    plan = _plan(
        tenants, build_tasks(TASKS), load, threads=_THREADS, pool=pool, are_open=are_open, callers=callers
    )
    answer = _run(load, "fleet", plan)
    saved = Counter({t: rows for t, rows in zip(fleet.tenants, answer["saved"], strict=True) if rows})
    check_rows(*fleet.add_acknowledged(saved))
    return _sample(answer)


def _plan(
    tenants: Sequence[TenantPaths],
    tasks: Sequence[Task],
    load: Load,
    *,
    threads: int = 1,
    batch: int = 1,
    pool: int = 1,
    are_open: bool = False,
    callers: Sequence["array[int]"] = (),
) -> bytes:
    """Return what the program reads, in the order of `read_plan` in `benchmarks/limits/plan.c`."""
    fields = [
        *(INSERT, GET, GUARD, RAISE, _SUMMARY, DURABILITY_SQL),
        *(len(COLUMNS), COLUMNS.index("timestamp") + 1, COLUMNS.index("id") + 1),
        *(_ROWS, *_row_texts(), len(tasks), *(task.id for task in tasks)),
        *(threads, batch, pool, int(are_open), load.warm_up_seconds, load.seconds, len(tenants)),
        *(path.absolute() for tenant in tenants for path in (tenant.database, tenant.lock)),
        *(len(callers), len(callers[0]) if callers else 0),
    ]
    return b"".join(f"{field}\0".encode() for field in fields) + b"".join(c.tobytes() for c in callers)


def _row_texts() -> list[str]:
    """Return the values of rows of messages; the program makes the timestamp and the id anew for each row.

    Raises:
        BenchmarkError: A value is no text: the program knows no other.
    """
    build = message_builder()
    made = [dict(zip(COLUMNS, row_of(build()), strict=True)) | {"id": ""} for _ in range(_ROWS)]
    if not all(isinstance(value, str) for row in made for value in row.values()):
        raise BenchmarkError(
            f"a message has a value that is no text, which the limit does not know: {made[0]}"
        )
    return [str(value) for row in made for value in row.values()]


def _run(load: Load, work: str, plan: bytes) -> dict[str, Any]:
    """Run the program and return its answer.

    Raises:
        BenchmarkError: The program failed.
    """
    program = load.once("the limit", build_limit)
    seconds_max = _TIMEOUT_SECONDS + load.warm_up_seconds + load.seconds
    done = subprocess.run(
        [str(program), work], input=plan, capture_output=True, check=False, timeout=seconds_max
    )
    if done.returncode:
        raise BenchmarkError(f"the limit failed: {done.stderr.decode(errors='replace')[-_WORDS_MAX:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _sample(answer: dict[str, Any]) -> Sample:
    return Sample(
        answer["calls"],
        answer["seconds"],
        cpu_seconds=answer["cpu_seconds"],
        durability=check_durable(Durability(*answer["durability"])),
        details={"opened": answer["opened"], "sqlite": answer["sqlite"]},
    )
