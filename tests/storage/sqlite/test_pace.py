"""What jobs that take long leave of the processor to others."""

import threading
from pathlib import Path

import pytest

from stores import HANG_SECONDS, open_store, read_rows, rows, run
from tenantry.errors import QueryError
from tenantry.storage.sqlite.connections.functions import DIGESTED_BYTES_MAX
from tenantry.storage.sqlite.connections.opening import SQLiteOptions
from tenantry.storage.sqlite.connections.pace import (
    LONG_JOB_SECONDS,
    PAUSE_SECONDS_MAX,
    PROCESS,
    SLICE_SECONDS,
    LongBatchError,
    Pace,
)

pytestmark = pytest.mark.usefixtures("each_engine")

LONG_SECONDS = LONG_JOB_SECONDS * 2


class Machine:
    """A clock that stands still until it is told to go on, and a pace that goes by it."""

    def __init__(self) -> None:
        self.now_seconds = 1000.0
        self.pauses: list[float] = []
        self.pace = Pace(lambda: self.now_seconds, self.pauses.append)

    def work(self, seconds: float) -> list[float]:
        """Let a job of this thread work for so long, and return the pauses that it then makes."""
        self.now_seconds += seconds
        self.pauses.clear()
        self.pace.give_way()
        return list(self.pauses)

    def begin_another(self) -> None:
        """Have a short job run on another thread."""

        def job() -> None:
            self.pace.begin_job()
            self.pace.end_job()

        thread = threading.Thread(target=job)
        thread.start()
        thread.join(HANG_SECONDS)


@pytest.fixture
def machine() -> Machine:
    """A machine with a job on this thread."""
    machine = Machine()
    machine.pace.begin_job()
    return machine


class TestPauses:
    """When a job pauses, and for how long."""

    def test_a_short_job_makes_none(self, machine: Machine):
        """Within its turn a job works without a pause, whatever the others do."""
        machine.begin_another()
        assert machine.work(LONG_JOB_SECONDS * 0.9) == []

    def test_a_long_job_alone_makes_none(self, machine: Machine):
        """Where nobody else works a long job has the whole processor."""
        assert machine.work(LONG_SECONDS) == []
        assert machine.work(LONG_SECONDS) == []

    def test_a_long_job_beside_others_pauses_as_long_as_it_works(self, machine: Machine):
        """Beside others it works half of the time; what was long before is paid for with one short pause."""
        machine.work(LONG_SECONDS)
        machine.begin_another()
        assert machine.work(0.0) == []
        assert machine.work(0.01)[0] == pytest.approx(0.01)
        assert machine.work(SLICE_SECONDS / 2) == []
        assert machine.work(LONG_JOB_SECONDS / 2)[0] == PAUSE_SECONDS_MAX

    def test_the_next_job_begins_anew(self, machine: Machine):
        """A long job is not held against the next one of its thread."""
        machine.work(LONG_SECONDS)
        machine.pace.end_job()
        machine.pace.begin_job()
        machine.begin_another()
        assert machine.work(0.01) == []

    def test_what_is_no_job_makes_none(self):
        """Work on a thread of its own, such as a copy, is not paced."""
        machine = Machine()
        machine.begin_another()
        assert machine.work(LONG_SECONDS) == []


def test_of_several_long_jobs_one_works(machine: Machine):
    """Beside others a long job works only while no other long job does: it waits until that pauses or ends."""
    steps: list[str] = []
    waits = threading.Event()

    def pausing(seconds: float) -> None:
        if threading.current_thread() is second and seconds < SLICE_SECONDS:
            waits.set()  # it is about to ask whether it may work

    machine.pace = Pace(lambda: machine.now_seconds, pausing, lane_seconds_max=HANG_SECONDS)

    def second_job() -> None:
        machine.pace.begin_job()
        machine.now_seconds += LONG_SECONDS
        machine.begin_another()
        machine.pace.give_way()
        steps.append("second")
        machine.pace.end_job()

    second = threading.Thread(target=second_job)
    machine.pace.begin_job()
    machine.now_seconds += LONG_SECONDS
    machine.begin_another()
    machine.pace.give_way()
    second.start()
    assert waits.wait(HANG_SECONDS)
    steps.append("first")
    machine.pace.end_job()
    second.join(HANG_SECONDS)
    assert steps == ["first", "second"]


class EngineThread:
    """A thread on which the engine runs a batch."""

    def __init__(self, busy_since_seconds: float) -> None:
        self.busy_since_seconds = busy_since_seconds


def test_a_batch_of_the_engine(machine: Machine):
    """A batch that calls Python's functions for long leaves the engine; without them it may take as long as it likes."""
    machine.pace.end_job()
    machine.pace.begin_thread(EngineThread(machine.now_seconds))
    machine.pace.give_way_in_function()
    machine.work(LONG_SECONDS)
    machine.pace.give_way()
    with pytest.raises(LongBatchError):
        machine.pace.give_way_in_function()
    machine.pace.begin_job()
    machine.pace.give_way_in_function()


def test_the_engine_is_at_work(machine: Machine):
    """A long job makes pauses for the batches of the engine, too."""
    machine.pace.watch_engine(lambda: machine.now_seconds)
    assert machine.work(LONG_SECONDS) != []


async def test_statements_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A statement that lasts long is paced, whether it calls a function of ours for each row or not."""
    asked: list[str] = []
    monkeypatch.setattr(type(PROCESS), "give_way", lambda _: asked.append("x"))
    numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT {} FROM n"
    async with open_store(SQLiteOptions(path=tmp_path / "test.db")) as store:
        asked.clear()
        for function, count in (
            ("max(sha256('' || i))", 100),
            ("exact_sum(i)", 1000),
            ("count(*)", 1_000_000),
        ):
            await read_rows(store, numbers.format(count, function))
            assert asked, function
            asked.clear()
        await store.write([(run("CREATE TABLE t (n)"),)])
        await store.write([(run("INSERT INTO t VALUES (1)"),)])
        assert asked == []


async def test_a_digest_of_very_much(tmp_path: Path):
    """What `sha256` is given has a limit, for it is copied."""
    async with open_store(SQLiteOptions(path=tmp_path / "test.db")) as store:
        (outcome,) = await store.read([rows(f"SELECT sha256(zeroblob({DIGESTED_BYTES_MAX + 1}))")])
        assert isinstance(outcome, QueryError)
        assert len((await read_rows(store, f"SELECT sha256(zeroblob({DIGESTED_BYTES_MAX}))"))[0][0]) == 64
