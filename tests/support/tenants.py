"""What the tests of tenancy share: time that moves when told to, and a look at a registry from outside.

Import it by name (``tests`` is on pytest's path): ``from tenants import in_virtual_time``.
"""

import asyncio
import contextvars
import functools
import json
import os
import selectors
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import engines  # noqa: F401  # makes the engine of this run the default
from tenantry import TenantRegistry
from tenantry.clock import SystemClock
from tenantry.company import Message, MessageType
from tenantry.events import BatchFinished
from tenantry.files.lock_file import LockFile
from tenantry.storage.sqlite.database_files.layout import tenant_paths
from tenantry.tenancy.catalog.catalog import CATALOG_NAME
from warm_process import WarmChild, warm_process

P = ParamSpec("P")
EventT = TypeVar("EventT")
ResultT = TypeVar("ResultT")

HANG_SECONDS = 60.0
"""When a test that waits for something that never comes is given up. Nothing is measured with it."""

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class StuckError(Exception):
    """Every task waits, and no timer is set: nothing would ever happen again."""


class _TimelessSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer, moves the clock to it."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise StuckError
            self.seconds += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while everybody waits. For code without threads and without sockets."""

    def __init__(self) -> None:
        self._virtual = _TimelessSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual.seconds

    @property
    def is_settled(self) -> bool:
        """Whether nothing can go on at this moment."""
        return not self._ready  # type: ignore[attr-defined]  # asyncio's own deque, stable since 3.4

    def run_until_settled(self) -> None:
        """Run, from outside of any task, until everybody waits; no time passes."""
        while not self.is_settled:
            self.call_soon(self.stop)
            self.run_forever()

    def advance(self, seconds: float) -> None:
        """Let time pass, from outside of any task, and run what that makes due."""
        self._virtual.seconds += seconds
        self.call_soon(_do_nothing)  # one more round, in which the timers that are due become ready
        self.run_until_settled()


class LoopClock:
    """A clock that follows the running event loop."""

    def monotonic_seconds(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def now(self) -> datetime:
        """Return the loop's time as an instant."""
        return _EPOCH + timedelta(seconds=self.monotonic_seconds())


class HandClock:
    """A clock that a test sets by hand."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def monotonic_seconds(self) -> float:
        """Return what the test has set."""
        return self.seconds

    def now(self) -> datetime:
        """Return the same as an instant."""
        return _EPOCH + timedelta(seconds=self.seconds)


class MovedClock(SystemClock):
    """The machine's clocks, and what a test has moved them by."""

    def __init__(self) -> None:
        self.moved = timedelta()
        self.waited_seconds = 0.0

    def monotonic_seconds(self) -> float:  # type: ignore[override]  # a plain function in the class that it is of
        """Return the seconds."""
        return SystemClock.monotonic_seconds() + self.waited_seconds

    def now(self) -> datetime:
        """Return the instant."""
        return super().now() + self.moved

    def wait(self, time: timedelta) -> None:
        """Let time pass by both clocks."""
        self.moved += time
        self.waited_seconds += time.total_seconds()


def in_virtual_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an asynchronous test on a `VirtualLoop`: exact about time, done at once, `StuckError` where it would hang."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())

    return run


async def settle() -> None:
    """Let every other task of a `VirtualLoop` run until it waits; no time passes."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    await asyncio.sleep(0)
    await until(lambda: loop.is_settled)


def as_another(call: Coroutine[Any, Any, ResultT]) -> "asyncio.Task[ResultT]":
    """Begin a task that is somebody else's: it inherits no transaction and no right of the task that begins it."""
    return asyncio.create_task(call, context=contextvars.Context())


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Give a directory on the file system of ``tmp_path``, to code that hypothesis calls many times in a test."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")) as directory:
        yield Path(directory)


async def until(condition: Callable[[], bool]) -> None:
    """Let everybody else run until the condition is true: for what no event tells, such as another thread's work."""
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():  # noqa: ASYNC110  # that is what this is for
            await asyncio.sleep(0)


class Recorder:
    """A hook that keeps what it is told, and wakes who waits for one of it."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._arrived = asyncio.Event()

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        self._arrived.set()

    def of(self, event_type: type[EventT], **fields: object) -> list[EventT]:
        """Return the events of this type that have these fields."""
        return [
            event
            for event in self.events
            if isinstance(event, event_type)
            and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def wait_for(self, event_type: type[EventT], **fields: object) -> EventT:
        """Return the first event of this type with these fields, as soon as there is one."""
        async with asyncio.timeout(HANG_SECONDS):
            while not (found := self.of(event_type, **fields)):
                self._arrived.clear()
                await self._arrived.wait()
        return found[0]


async def chores_done(hook: Recorder, clock: MovedClock, time: timedelta = timedelta(seconds=11)) -> None:
    """Let time pass, and wait until the registry has done its chores once more, each of them."""

    def count() -> int:
        # The last thing that they look for.
        batches = hook.of(BatchFinished, tenant_id=CATALOG_NAME)
        return sum(call.operation == "fleet.expired" for batch in batches for call in batch.calls)

    before = count()
    clock.wait(time)
    await until(lambda: count() > before)


@contextmanager
def held_file(path: Path) -> Iterator[None]:
    """Hold a lock file as another process would."""
    lock = LockFile(path)
    lock.acquire()
    yield
    lock.release()


def make_message(content: str = "hello", **fields: Any) -> Message:
    """Return a message whose other fields do not matter."""
    others = {"sender": "ada", "to": "bob", "channel": "general", "type": MessageType.ANNOUNCEMENT}
    return Message(timestamp=_EPOCH, content=content, **{**others, **fields})


async def say(registry: TenantRegistry, tenant_id: str, *contents: str) -> None:
    """Save messages of a tenant, one after the other."""
    for content in contents:
        await registry.tenant(tenant_id).messages.save(make_message(content))


async def history(registry: TenantRegistry, tenant_id: str) -> list[str]:
    """Return what a tenant's messages say, oldest first."""
    messages = await registry.tenant(tenant_id).messages.get_history("general", limit=10_000)
    return [message.content for message in reversed(messages)]


def database_path(data_dir: Path, tenant_id: str) -> Path:
    """Return where a tenant's database lies, as long as it has the id that it was created with."""
    return tenant_paths(data_dir, tenant_id).database


def stored_contents(data_dir: Path, tenant_id: str) -> list[str]:
    """Return what the messages in the tenant's file say, read without tenantry."""
    return [
        row[0]
        for row in query(database_path(data_dir, tenant_id), "SELECT content FROM messages ORDER BY seq")
    ]


def tenant_files(data_dir: Path) -> list[Path]:
    """Return the files of all tenants, as seen from the data directory."""
    return sorted(path.relative_to(data_dir) for path in (data_dir / "tenants").rglob("*") if path.is_file())


def damage_index(path: Path, index: str, value: bytes) -> None:
    """Change a value in an index of a closed database and not in its table, by hand: the row is not found by it any more."""
    [(page_size, root)] = query(
        path, "SELECT page_size, rootpage FROM pragma_page_size, sqlite_schema WHERE name = ?", index
    )
    content = bytearray(path.read_bytes())
    start = content.index(value, page_size * (root - 1), page_size * root)
    content[start : start + len(value)] = b"!" * len(value)
    path.write_bytes(content)


def query(path: Path, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement on a database file, without tenantry, and commit it."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


@contextmanager
def held_writer(path: Path, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Hold a database's write lock: whoever writes to it meanwhile stays on its thread (five seconds at most).

    ``EXCLUSIVE`` holds readers off too, where there is no write-ahead log.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"BEGIN {kind}")
        yield
    finally:
        connection.close()


def open_files(data_dir: Path) -> list[str]:
    """Return the files below `data_dir` that this process has open, once for each descriptor; without the locks of the registries' numbers."""
    found = []
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208  # a descriptor may be gone when pathlib looks again
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        except FileNotFoundError:
            continue
        if target.startswith(f"{data_dir}/") and not target.startswith(f"{data_dir}/peers/"):
            found.append(target.removesuffix(" (deleted)"))
    return found


def threads_since(before: AbstractSet[threading.Thread]) -> list[str]:
    """Return the names of the threads that have begun since and still run; a thread of an earlier test may end at any time."""
    return sorted(thread.name for thread in set(threading.enumerate()) - before)


def write_pack(
    directory: Path, name: str, *migrations: str, code: str = "", postgres: Sequence[str] = ()
) -> str:
    """Write a schema pack, an importable package below `directory`, and return its name; a step with ``def migrate`` is in Python.

    `migrations` are for SQLite, and `postgres` for PostgreSQL.
    """
    (directory / name).mkdir(parents=True)
    (directory / name / "__init__.py").write_text(code)
    for backend, steps in (("sqlite", migrations), ("postgres", postgres)):
        folder = directory / name / "migrations" / backend
        folder.mkdir(parents=True)
        for number, step in enumerate(steps, start=1):
            language = "py" if "def migrate(" in step else "sql"
            (folder / f"{number:04d}_step.{language}").write_text(step)
    return name


@contextmanager
def python(script: str, *args: object, env: Mapping[str, str] | None = None) -> Iterator[WarmChild]:
    """Run a script in a process of its own, which is killed at the end of the block if it still lives.

    The script finds its arguments in ``sys.argv[1:]`` and may wait for its standard input. It imports the tenantry that is
    tested here, wherever another one is installed, and what tests share.

    Args:
        script: What it runs.
        args: Its arguments.
        env: More of the environment; of Python's own variables only ``PYTHONPATH`` has an effect.
    """
    started = warm_process().start_with_pipes(
        list(map(str, args)), env={**os.environ, **(env or {})}, script=script
    )
    with started as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str] | WarmChild) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the process ended with {process.wait()}"
    return line.rstrip("\n")


def read_json(process: subprocess.Popen[str] | WarmChild) -> Any:
    """Return the next line that a process prints, as JSON."""
    return json.loads(read_line(process))


def _do_nothing() -> None:
    """Be run."""
