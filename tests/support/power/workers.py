"""The worker process as tests see it: jobs go in, results come out."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import tenantry
from commands import environment

_JOBS_AT_ONCE: Final = 2
# As many numbers as a pipe holds while nobody reads them.
_JOBS_IN_A_ROW_MAX: Final = 1000


class Workers:
    """Does jobs in processes that have the preload library; see ``worker.py``.

    Args:
        process: The program.
        directory: For the results.
    """

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._count = 0

    def do(self, jobs: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
        """Do jobs, and yield each with what it found: lists of text for a check, a dict for a workload."""
        left = iter(jobs)
        while some := list(itertools.islice(left, _JOBS_IN_A_ROW_MAX)):
            yield from self._do_some(some)

    def _do_some(self, jobs: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        numbered = {}
        for job in jobs:
            told = {**job, "result": str(self._directory / f"{self._count}.json")}
            numbered[self._count] = told
            self._count += 1
            print(json.dumps(told, default=str), file=self._process.stdin)
        print(file=self._process.stdin, flush=True)
        self._count += 1  # the empty line has a number too
        for _ in jobs:
            number, status = json.loads(self._process.stdout.readline())
            job = numbered[number]
            assert status == 0, f"{job} ended with {status}; -14 is a job that hung"
            yield job, json.loads(Path(job["result"]).read_text())


@contextmanager
def workers(library: Path, directory: Path) -> Iterator[Workers]:
    """Start the worker process."""
    paths = (Path(tenantry.__file__).parents[1], Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "power.worker", str(_JOBS_AT_ONCE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(LD_PRELOAD=str(library), PYTHONPATH=":".join(map(str, paths))),
    )
    with process:
        try:
            yield Workers(process, directory)
        finally:
            process.kill()
