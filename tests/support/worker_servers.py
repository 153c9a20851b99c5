"""The example of ``examples/processes``, started as users start it: servers of several workers on one data directory, and clients.

Import it by name (``tests/support`` is on pytest's path): ``from worker_servers import running``.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

import tenantry
from tenants import HANG_SECONDS, make_message, stored_contents, until

T = TypeVar("T")

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "processes"
_POLL_SECONDS: Final = 0.02
_REQUESTS_PER_CONNECTION: Final = 5
_FIRST_ANSWERS: Final = 50
_GUNICORN: Final = ["gunicorn", "--worker-class", "asgi", "--bind", "127.0.0.1:0", "--no-control-socket"]

SERVERS: Final = {
    # A busy machine may start a worker slowly; uvicorn gives it up after five seconds otherwise.
    "uvicorn": ["uvicorn", "--port", "0", "--timeout-worker-healthcheck", "60", "--workers", "4"],
    "gunicorn": [*_GUNICORN, "--workers", "2"],
    "preload": [*_GUNICORN, "--preload", "--workers", "4"],
}
"""The commands that start a server of several workers, without the application."""

OPEN_TENANTS_MAX: Final = 100
"""A setting of the processes, which they read from the environment."""

CLIENTS: Final = 16
"""The number of clients of a load. Each waits for its answer before its next request."""

DROPPED: Final = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""What a client sees of a connection that its server closed. A refused new connection is not among them."""


@dataclass
class WorkerServer:
    """A server that runs.

    Attributes:
        process: The process that starts the workers.
        log_path: What all of its processes print.
        workers_max: The number of its workers.
        url: Where it listens.
    """

    process: subprocess.Popen[bytes]
    log_path: Path
    workers_max: int
    url: str = ""

    def log(self) -> str:
        """Return what its processes have printed."""
        return self.log_path.read_text()

    def workers(self) -> set[int]:
        """Return the ids of the processes that serve requests now."""
        serving = re.findall(r"Started server process \[(\d+)\]|\[(\d+)\] \[INFO\] ASGI server", self.log())
        return {int(one or other) for one, other in serving} & children(self.process.pid)

    def are_replaced(self, workers: set[int]) -> bool:
        """Return whether all workers serve requests, and none of these is among them."""
        return len(self.workers() - workers) == self.workers_max and workers.isdisjoint(
            children(self.process.pid)
        )

    def end(self) -> None:
        """Ask it to end, and wait until it has."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(HANG_SECONDS)


def children(pid: int) -> set[int]:
    """Return the ids of a process's children; any of its threads may have started them."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended since
            found.update(map(int, path.read_text().split()))
    return found


async def replaced(server: WorkerServer, workers: set[int]) -> None:
    """Wait until the server has other workers than these."""
    async with asyncio.timeout(HANG_SECONDS):
        while not server.are_replaced(workers):  # noqa: ASYNC110  # another process tells no event
            await asyncio.sleep(_POLL_SECONDS)


def wait_until(condition: Callable[[], T]) -> T:
    """Ask until it is so, and return the answer: what another process does tells no event."""
    give_up = time.monotonic() + HANG_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < give_up
        time.sleep(_POLL_SECONDS)
    return answer


def environment(data_dir: Path) -> dict[str, str]:
    """Return the environment of a process that works on this directory with the tenantry that is tested here."""
    metrics_dir = data_dir.with_name("metrics")
    metrics_dir.mkdir(exist_ok=True)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(tenantry.__file__).parents[1]), str(Path(__file__).parent)]),
        "TENANTRY_DATA_DIR": str(data_dir),
        "TENANTRY_OPEN_TENANTS_MAX": str(OPEN_TENANTS_MAX),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir),
        "TASK_QUEUE_DIR": str(data_dir.with_name("queue")),
    }


@contextmanager
def started(data_dir: Path, name: str, *command: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Start a command of Python in the example's folder, and kill it and its children at the end of the block.

    Args:
        data_dir: The data directory.
        name: The name of its log.
        command: A module with its arguments.
    """
    log_path = data_dir.with_name(f"{name}.log")
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=EXAMPLE,
            env=environment(data_dir),
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield process, log_path
        finally:
            left = children(process.pid) if process.poll() is None else set()
            process.kill()
            for pid in left:
                os.kill(pid, signal.SIGKILL)


@contextmanager
def running(data_dir: Path, server: str, app: str = "web:app") -> Iterator[WorkerServer]:
    """Run the example's application in a server, on a free port, until the end of the block.

    Args:
        data_dir: The data directory.
        server: A name in `SERVERS`.
        app: Another application, as the server's command names it.
    """
    with started(data_dir, server, *SERVERS[server], app) as (process, log_path):
        found = WorkerServer(process, log_path, int(SERVERS[server][-1]))

        def is_ready() -> bool:
            assert process.poll() is None, found.log()
            return len(found.workers()) == found.workers_max

        wait_until(is_ready)
        match = re.search(r"(?:running on|Listening at:) (http://[\d.:]+)", found.log())
        assert match is not None, found.log()
        found.url = match[1]
        yield found
        found.end()


@contextmanager
def celery_worker(data_dir: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Run a worker of Celery with two processes, and yield its main process and its log."""
    command = ["celery", "--app", "tasks", "worker", "--concurrency", "2", "--loglevel", "info"]
    with started(data_dir, "celery", *command, "--hostname", "worker@localhost") as (process, log_path):
        wait_until(lambda: "ready." in log_path.read_text() or process.poll() is not None)
        assert process.poll() is None, log_path.read_text()
        yield process, log_path
        pool = children(process.pid)
        process.send_signal(signal.SIGTERM)
        # The main process ends some seconds after its children, which have closed their registries by then.
        wait_until(lambda: pool.isdisjoint(children(process.pid)))


_SEND_TASKS: Final = """
import json, sys
from tasks import send

given = json.load(sys.stdin)
waiting = [send.delay(company, message) for company, message in given]
for (company, message), result in zip(given, waiting, strict=True):
    print(json.dumps({"company": company, "content": message["content"], "pid": result.get(timeout=60)}))
"""


def send_tasks(data_dir: Path, companies: Sequence[str], name: str, count: int) -> list[dict[str, Any]]:
    """Send so many messages of these companies through Celery; return the company, the content and the process of each."""
    given = [
        (
            companies[number % len(companies)],
            make_message(f"{name}-{number}").model_dump(mode="json", by_alias=True),
        )
        for number in range(count)
    ]
    done = run_python(data_dir, "-c", _SEND_TASKS, standard_input=json.dumps(given))
    return [json.loads(line) for line in done.splitlines()]


def run_python(data_dir: Path, *arguments: str, standard_input: str = "") -> str:
    """Run Python in the example's folder, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLE,
        env=environment(data_dir),
        input=standard_input,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@dataclass
class Load:
    """Clients that send messages of several companies to a server. Each connection, and so its worker, serves a few requests.

    A client whose connection is dropped sends its message again, with the same key.

    Attributes:
        url: The server's.
        companies: Whose messages they send, in turn.
        name: The beginning of the messages, which have a number each.
        sent: The messages that were acknowledged, by their company.
        answered: The number of the answers of each worker.
        dropped: The worker of each connection that was dropped during a request; None if it had not answered before.
    """

    url: str
    companies: Sequence[str]
    name: str
    sent: dict[str, list[str]] = field(default_factory=dict)
    answered: Counter[int] = field(default_factory=Counter)
    dropped: list[int | None] = field(default_factory=list)

    async def send(self, count: int) -> None:
        """Send so many messages; every answer but that to a dropped connection must be a success."""
        await self._send_all(iter(range(count)))

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send messages until the end of the block. The block begins when the server has answered some."""
        is_ended = False

        def numbers() -> Iterator[int]:
            number = 0
            while not is_ended:
                yield number
                number += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_all(numbers()))
            await until(lambda: self.answered.total() >= _FIRST_ANSWERS)
            try:
                yield
            finally:
                is_ended = True

    async def _send_all(self, numbers: Iterator[int]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._send_each(numbers))

    async def _send_each(self, numbers: Iterator[int]) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=HANG_SECONDS) as client:
            worker: int | None = None
            for count, number in enumerate(numbers, 1):
                company, content = self.companies[number % len(self.companies)], f"{self.name}-{number}"
                message = make_message(content).model_dump(mode="json", by_alias=True)
                is_last = count % _REQUESTS_PER_CONNECTION == 0
                headers = {"X-Company": company, "Idempotency-Key": content}
                headers |= {"Connection": "close"} if is_last else {}
                while True:
                    try:
                        answer = await client.post("/messages", json=message, headers=headers)
                    except DROPPED:
                        self.dropped.append(worker)
                        worker = None
                        continue
                    assert answer.status_code == 201, answer.text
                    worker = int(answer.text)
                    break
                self.answered[worker] += 1
                worker = None if is_last else worker
                self.sent.setdefault(company, []).append(content)

    def check_stored(self, data_dir: Path) -> None:
        """Check that each message that was acknowledged is stored once, and no other."""
        for company in self.companies:
            stored = [text for text in stored_contents(data_dir, company) if text.startswith(f"{self.name}-")]
            assert sorted(stored) == sorted(self.sent.get(company, []))
