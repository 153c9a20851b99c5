"""The limit: sqlite3 on one thread, 256 rows to a transaction, nobody waiting for an answer."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from benchmarks.comparison import Sample
from benchmarks.harness import GarbageMeter, Load, check_durable, check_rows
from benchmarks.peers import DURABILITY_SQL, Durability, count_messages, create_company_file
from benchmarks.peers.message_row import INSERT, message_builder, row_of
from benchmarks.peers.task_row import GET, build_tasks, decode_task, task_id_picker
from tenantry.company import Message

BATCH_ROWS = 256
LIMIT = f"sqlite3, batches of {BATCH_ROWS}"

_Do = Callable[[sqlite3.Connection], object]


def save_batches(load: Load, directory: Path) -> Sample:
    """Build, serialize, insert and commit for as long as the load says; there are no callers and so no latencies."""
    return save_batches_into(create_company_file(directory), load)


def save_batches_into(path: Path, load: Load) -> Sample:
    """Do the same with a database that is there, and that nobody has open."""
    before = count_messages(path)
    sample, rows = _run(partial(_save, message_builder()), path, load)
    check_rows(count_messages(path) - before, rows)
    return sample


def get_batches(tasks: int, load: Load, directory: Path) -> Sample:
    """Select and validate for as long as the load says."""
    built = build_tasks(tasks)
    path = create_company_file(directory, built)
    return _run(partial(_get, task_id_picker(built)), path, load)[0]


def _save(build: Callable[[], Message], connection: sqlite3.Connection) -> None:
    connection.execute(INSERT, row_of(build()))


def _get(pick: Callable[[], str], connection: sqlite3.Connection) -> object:
    return decode_task(connection.execute(GET, (pick(),)).fetchone())


def _run(do: _Do, path: Path, load: Load) -> tuple[Sample, int]:
    """Return the sample, and how many rows there were with the warm-up's."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        durability = check_durable(Durability(*connection.execute(DURABILITY_SQL).fetchone()))
        warm_up_rows, _ = _run_for(load.warm_up_seconds, do, connection)
        with GarbageMeter() as garbage:
            rows, seconds = _run_for(load.seconds, do, connection)
    sample = Sample(
        calls=rows,
        seconds=seconds,
        gc_seconds=garbage.seconds,
        gc_collections=garbage.collections,
        durability=durability,
    )
    return sample, warm_up_rows + rows


def _run_for(seconds: float, do: _Do, connection: sqlite3.Connection) -> tuple[int, float]:
    """Run batches until the time is over; return the rows and the seconds."""
    rows = 0
    started = time.perf_counter()
    while time.perf_counter() < started + seconds:
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(BATCH_ROWS):
            do(connection)
        connection.execute("COMMIT")
        rows += BATCH_ROWS
    return rows, time.perf_counter() - started
