"""Work 15: what the admin API costs with 10,000 tenants in the catalog against 10.

The service is a process of its own; a client that does next to nothing asks it over one connection on the loopback, so that
what is measured is the service.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Self

from benchmarks.comparison import Comparison, Measure, Sample, Target
from benchmarks.fleet import fill_catalog, tenant_name
from benchmarks.harness import BenchmarkError, Caller, Load, Side, Work, compare, measure

_FEW, _MANY = 10, 10_000
_SEED = 20_261_123
_END_SECONDS = 10
_GET, _SCRAPE = "GET /v1/tenants/{id}", "scrape of /metrics"

Paths = Callable[[], str]
"""Which path is asked for next."""


@dataclass(frozen=True, slots=True)
class _Service:
    """A service that runs, and the key to it."""

    port: int
    token: str


class _Client:
    """One connection that is kept: what HTTP/1.1 needs and no more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader, self._writer, self._token = reader, writer, token

    @classmethod
    async def connect(cls, service: _Service) -> Self:
        """Return a client of the service."""
        return cls(*await asyncio.open_connection("127.0.0.1", service.port), service.token)

    async def get(self, path: str) -> bytes:
        """Return the body of a good answer."""
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._token}\r\n\r\n"
        self._writer.write(head.encode())
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        size = int(answer.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await self._reader.readexactly(size)
        if not answer.startswith(b"http/1.1 200 "):
            raise BenchmarkError(f"{path} was answered with {answer[:12].decode()}: {body[:200].decode()}")
        return body

    def close(self) -> None:
        """End the connection."""
        self._writer.close()


def _run(load: Load) -> Sequence[Comparison]:
    asked: dict[str, Callable[[int], Paths]] = {_GET: _tenants, _SCRAPE: lambda _: lambda: "/metrics"}
    return [
        compare(setting, [_side(_MANY, paths, load), _side(_FEW, paths, load)], load)
        for setting, paths in asked.items()
    ]


def _tenants(count: int) -> Paths:
    random = Random(_SEED)
    return lambda: f"/v1/tenants/{tenant_name(random.randrange(count))}"


def _side(count: int, paths: Callable[[int], Paths], load: Load) -> Side:
    def run(directory: Path) -> Sample:  # noqa: ARG001  # the catalogs outlive the round
        service = load.once(f"a service with {_name(count)}", partial(_start, count, load))
        return load.run(_ask(service, paths(count), load))

    return Side(_name(count), run)


def _name(count: int) -> str:
    return f"{count:,} tenants"


async def _ask(service: _Service, next_path: Paths, load: Load) -> Sample:
    with closing(await _Client.connect(service)) as client:
        body = await client.get(next_path())
        measured = await measure([Caller(next_path, client.get)], load)
        return measured.sample(None, body_bytes=len(body))


def _start(count: int, load: Load) -> _Service:
    """Start a service that runs as long as the load's resources are held."""
    data_dir = load.directory / f"admin-{count}"
    fill_catalog(data_dir, count)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.admin_server", str(data_dir), tenant_name(0)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    load.resources.callback(_stop, process)
    assert process.stdout is not None
    told = process.stdout.readline()
    if not told:
        raise BenchmarkError(f"the service ended with {process.wait()}")
    return _Service(**json.loads(told))


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


WORK = Work(
    number="15",
    title="the admin API with 10,000 tenants in the catalog against 10",
    run=_run,
    targets=tuple(
        Target(setting, _name(_FEW), must=1.5, reach=1.05, measure=Measure.P99) for setting in (_GET, _SCRAPE)
    ),
)
