"""The demo's load: busy, quiet and rare companies, and the agents who work in them.

Of the quiet companies, every second one is rare: it works only every `_RARE_INTERVAL_SECONDS`. The demo's pool has places for the busy
companies and for those that work every `_QUIET_INTERVAL_SECONDS`, so these stay open. The rare companies evict each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import anyio

from tenantry.config import Engine
from tenantry.demo.check import CheckResult
from tenantry.demo.company import Company, Timings
from tenantry.tenancy.actors.pool import PoolStatistics

_PROGRESS_INTERVAL_SECONDS: Final = 0.25
_QUIET_INTERVAL_SECONDS: Final = 2.0
_RARE_INTERVAL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """The settings of a demo.

    Attributes:
        database: The URL of an empty PostgreSQL database for the companies; None for files in the data directory.
        open_tenants_max: The size of the pool. The pool is smaller if the process may open too few files.
        engine: What runs the statements of files; None for the setting of the environment.
    """

    data_dir: Path
    database: str | None = None
    seconds: float = 10.0
    busy_companies: int = 3
    callers: int = 64
    quiet_companies: int = 200
    open_tenants_max: int = 512
    engine: Engine | None = None

    @property
    def company_ids(self) -> list[str]:
        """The companies' ids, the busy companies first."""
        busy = [f"busy-{number}" for number in range(1, self.busy_companies + 1)]
        return busy + [f"quiet-{number:03d}" for number in range(1, self.quiet_companies + 1)]


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a demo, for a display."""

    phase: str
    fraction: float
    writes: int
    reads: int
    pool: PoolStatistics | None

    @classmethod
    def of(
        cls, phase: str, fraction: float, timings: Timings, pool: PoolStatistics | None = None
    ) -> "Progress":
        """Return the progress of a phase, of which this fraction is done."""
        writes, reads = timings.count(is_read=False), timings.count(is_read=True)
        return cls(phase, min(fraction, 1.0), writes, reads, pool)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of the load on one side.

    Attributes:
        elapsed_seconds: The duration of the working phase.
        timings: The durations of all calls, by statement.
        check: The result of the check after all companies were opened again.
    """

    elapsed_seconds: float
    timings: Timings
    check: CheckResult

    @property
    def is_whole(self) -> bool:
        """Whether every acknowledged record exists, in its own company."""
        return not self.check.missing and not self.check.foreign


async def work(companies: Sequence[Company], settings: DemoSettings, show: Callable[[float], None]) -> float:
    """Let every agent work until the time is up, and return the duration in seconds.

    Each agent finishes its last action, so all outcomes are known.
    """
    started = perf_counter()
    until = started + settings.seconds
    busy, quiet = companies[: settings.busy_companies], companies[settings.busy_companies :]

    async def agent(company: Company, name: str, pause_seconds: float) -> None:
        while perf_counter() < until:
            await company.work(name)
            if pause_seconds:
                await anyio.sleep(max(0.0, min(pause_seconds, until - perf_counter())))

    async def quiet_agent(company: Company, phase: float, interval_seconds: float) -> None:
        # Quiet companies start at different times within the interval, to avoid simultaneous writes.
        await anyio.sleep(min(phase * interval_seconds, settings.seconds))
        await agent(company, "agent-0", interval_seconds)

    async def display() -> None:
        while perf_counter() < until:
            show((perf_counter() - started) / settings.seconds)
            await anyio.sleep(_PROGRESS_INTERVAL_SECONDS)

    async with anyio.create_task_group() as group:
        group.start_soon(display)
        for company in busy:
            for number in range(settings.callers):
                group.start_soon(agent, company, f"agent-{number}", 0.0)
        for number, company in enumerate(quiet):
            interval_seconds = _RARE_INTERVAL_SECONDS if number % 2 else _QUIET_INTERVAL_SECONDS
            group.start_soon(quiet_agent, company, number / len(quiet), interval_seconds)
    return perf_counter() - started
