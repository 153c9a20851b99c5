"""The engine in C without a store: one connection with its queue, and the test's own thread as the thread of the pool.

Import it by name (``tests/support`` is on pytest's path): ``from engine_rig import Rig``.
"""

import select
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from needs import need
from tenantry.sql.statements import Statement
from tenantry.storage.sqlite.engine.native import READ, WRITE, engine
from tenantry.storage.sqlite.statements.execution import known_texts


def needed_engine() -> Any:
    """Return the engine's module; the test is skipped, or fails if ``CI`` is set, where the engine cannot be used."""
    try:
        return engine()
    except (ImportError, OSError) as error:
        need(is_there=False, message=f"needs the engine: run make engine ({error})")
        raise


class Outcome:
    """A future of a batch, as plain as it can be."""

    def __init__(self) -> None:
        self.batch: Any = None


class Rig:
    """A connection of Python's sqlite3, and the engine's objects for it.

    Attributes:
        module: The engine's module.
        connection: Python's connection.
        database: The engine's view of the connection.
        ready: The ready queue, of which `turn` is the only thread.
        queue: The connection's queue.
        outlet: Where the batches go that have ended.
    """

    def __init__(self, path: Path | str = ":memory:", *tables: str, token: str | None = None) -> None:
        self.module = needed_engine()
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, uri=True)
        for table in tables:
            self.connection.execute(table)
        self.database = self.module.Database(self.connection, token, None)
        self.ready = self.module.ReadyQueue()
        self.queue = self.module.SerialQueue(self.ready)
        self.outlet = self.module.Outlet()

    def batch(self, kind: int, units: Sequence[Any]) -> Any:
        """Return a batch of statements whose texts count as authorized; None if Python must run it."""
        for unit in units:
            for statement in [unit] if kind == READ else unit:
                if isinstance(statement.sql, str):
                    known_texts.setdefault(str(statement.sql), None)
        return self.database.batch(kind, list(units))

    def put(self, batch: Any, function: Callable[[], Any] = lambda: None) -> Outcome:
        """Put a batch into the queue, and return its future."""
        outcome = Outcome()
        self.queue.put_batch(batch, outcome, function, self.outlet)
        return outcome

    def turn(self) -> list[tuple[Any, Callable[[], Any]]]:
        """Run everything in the ready queue on this thread, as a thread of the pool does; return the jobs of Python."""
        jobs = []
        self.ready.put(None)
        worker = self.module.Worker()
        while (queue := self.ready.get(worker)) is not None:
            jobs.append(queue.first())
            jobs[-1][1]()
            if queue.remove_first():
                self.ready.put(queue)
        return jobs

    def ended(self) -> list[Any]:
        """Return the batches that have ended, as the event loop takes them."""
        for future, batch in (taken := self.outlet.take()):
            future.batch = batch
        return [batch for _, batch in taken]

    def is_woken(self, seconds: float = 0) -> bool:
        """Return whether the event loop would be woken within so many seconds."""
        return bool(select.select([self.outlet.fileno()], [], [], seconds)[0])

    def run(self, kind: int, *units: Any) -> Any:
        """Run a batch and return it; None if it had to run in Python."""
        batch = self.batch(kind, units)
        assert batch is not None, "the engine did not take the batch"
        return self.run_batch(batch)

    def run_batch(self, batch: Any) -> Any:
        """Run a batch that was made before; see `run`."""
        self.put(batch)
        jobs = self.turn()
        ended = self.ended()
        assert len(jobs) + len(ended) == 1
        return ended[0] if ended else None

    def read(self, *statements: Statement) -> Any:
        """Return the results of statements that the engine reads."""
        return self.run(READ, *statements).results()

    def write(self, *units: tuple[Statement, ...]) -> Any:
        """Return the results of units that the engine writes."""
        return self.run(WRITE, *units).results()

    def close(self) -> None:
        """Close the connection."""
        self.database.close()
        self.connection.close()
        self.outlet.close()


@contextmanager
def counted(module: Any, **changes: int) -> Iterator[None]:
    """Assert that the engine counts so many batches in the block, and no others."""
    before = module.counts()
    yield
    after = module.counts()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == changes
