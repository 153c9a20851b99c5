"""Other processes with the data directory of a benchmark: they own tenants, or call tenants of others."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.comparison import Sample
from benchmarks.harness import BenchmarkError
from benchmarks.peers import Durability

NEVER_HANDED_OVER: Final = {"handed_over_after_calls": 1_000_000}
"""The settings of an owner that keeps its tenants, however many calls other processes make."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a process did.

    Attributes:
        saved: The acknowledged messages by tenant, those of the warm-up included.
        errors: How many calls failed, those of the warm-up included.
        cpu_seconds: The processor time of the process for the calls after the warm-up.
    """

    saved: Counter[str]
    errors: int
    first_error: str | None
    seconds: float
    cpu_seconds: float
    latencies: list[float]

    def sample(self, **details: Any) -> Sample:
        """Return the process's sample."""
        return together([self], **details)


def together(reports: Sequence[Report], **others: Any) -> Sample:
    """Return the sample of processes that called at the same time.

    Raises:
        BenchmarkError: No call was answered.
    """
    latencies = [latency for report in reports for latency in report.latencies]
    first_error = next((report.first_error for report in reports if report.first_error), None)
    if not latencies:
        raise BenchmarkError(f"no call was answered: {first_error}")
    return Sample.of(
        latencies,
        max(report.seconds for report in reports),
        errors=sum(report.errors for report in reports),
        first_error=first_error,
        **others,
    )


class Used(NamedTuple):
    """The messages that a process saved to open its tenants, and the durability of its writes."""

    saved: Counter[str]
    durability: Durability


class OtherProcess:
    """A process that has a registry open; see `benchmarks.peer_process`. The constructor waits until the registry is open."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def use(self, tenants: Sequence[str]) -> Used:
        """Let the process open tenants, and so own them.

        Raises:
            BenchmarkError: The process has ended.
        """
        self._tell("use", tenants=list(tenants))
        answer = self._answer()
        return Used(Counter(answer["saved"]), Durability(*answer["durability"]))

    def start_calls(
        self, tenants: Sequence[str], *, callers: int, reads: float, seed: int, seconds: float
    ) -> None:
        """Let the process call tenants at random, for a warm-up and then for so many seconds; `report` returns what it did."""
        self._tell("call", tenants=list(tenants), callers=callers, reads=reads, seed=seed, seconds=seconds)

    async def report(self) -> Report:
        """Wait until the process has made its calls. Other processes may call tenants of this process meanwhile."""
        answer = await asyncio.to_thread(self._answer)
        return Report(**{**answer, "saved": Counter(answer["saved"])})

    def _tell(self, what: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, **arguments}) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError("the other process has ended")
        return json.loads(line)


@contextmanager
def other_process(
    data_dir: Path, *, processors: int | None = None, **settings: Any
) -> Iterator[OtherProcess]:
    """Run a process that has a registry open with these settings; at the end of the block the process closes it and ends.

    The process uses only so many `processors`; all of this process's if None.
    """
    arguments = [str(data_dir), json.dumps(settings), json.dumps(processors)]
    command = [sys.executable, "-m", "benchmarks.peer_process", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield OtherProcess(process)
        except BaseException:
            process.kill()
            raise


@contextmanager
def other_processes(count: int, data_dir: Path) -> Iterator[list[OtherProcess]]:
    """Run so many processes on one data directory."""
    with ExitStack() as stack:
        yield [stack.enter_context(other_process(data_dir)) for _ in range(count)]


async def reports_of(processes: Sequence[OtherProcess]) -> Sequence[Report]:
    """Wait until all processes have made their calls."""
    return await asyncio.gather(*(process.report() for process in processes))
