"""Processes that share a tenant and count in it, each caller in a row of its own, while their owners die.

A caller adds 1 to its row and is told the new number. It knows the number that it must be told: an addition that is lost shows at the
next answer, and so does one that is done twice. What callers know lies in a file that all processes have mapped (`Board`), so a process
that is killed takes no knowledge with it.

Import it by name (``tests/support`` is on pytest's path): ``from counting import Counting``.
"""

import asyncio
import json
import logging
import mmap
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from registries import config
from tenantry import TenantHandle, TenantRegistry
from tenantry.errors import TenantryError, TransactionClosedError
from tenantry.events import BatchFinished
from tenantry.files.lock_file import LockFile, read_holder
from tenantry.storage.sqlite.statements import marks
from tenants import HANG_SECONDS, python, query, read_line, tenant_paths
from warm_process import WarmChild

TENANT: Final = "acme"
KINDS: Final = ("write",) * 12 + ("keyed",) * 2 + ("transaction",) * 2
"""How each caller of a process adds."""

PROCESSES: Final = 3
_CELL_BYTES: Final = 8
_CELLS: Final = 2
_PROCESS_CELLS: Final = 2
_ADD: Final = "UPDATE counts SET n = n + 1 WHERE caller = ? RETURNING n"
_ADDITIONS: Final = [f"add.{process}" for process in range(PROCESSES)]
"""The names of the plain writes of each process, which have marks if they are forwarded."""
_READ: Final = "SELECT n FROM counts WHERE caller = ?"
_SCRIPT: Final = "from counting import main; main()"


class Board:
    """What the processes tell the test, and the other way round, in a file that all of them have mapped.

    Each attribute of a number is one aligned word, so nobody reads half of it.

    Attributes:
        known: The number that each caller was told last.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "board"
        size = _CELL_BYTES * (_CELLS + PROCESSES * (_PROCESS_CELLS + len(KINDS)))
        with path.open("a+b") as file:
            file.truncate(size)
            self._cells = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
        self._processes = self._cells[_CELLS : _CELLS + PROCESSES * _PROCESS_CELLS]
        self.known = self._cells[_CELLS + PROCESSES * _PROCESS_CELLS :]
        self._findings = directory / "findings"
        self._findings.touch()

    @property
    def doomed(self) -> int:
        """The process that kills itself as soon as it has committed a batch, before it answers; 0 for none."""
        return self._cells[0]

    @doomed.setter
    def doomed(self, pid: int) -> None:
        self._cells[0] = pid

    def answered(self, process: int) -> None:
        """Note that a caller of the process has an answer now."""
        at = _PROCESS_CELLS * process
        now = time.monotonic_ns() // 1000
        if self._processes[at]:
            since = max(self._processes[at], self._cells[1])
            self._processes[at + 1] = max(self._processes[at + 1], now - since)
        self._processes[at] = now

    def pause_seconds(self, process: int) -> float:
        """Return the longest time without an answer in the process since `forget_pauses`."""
        return self._processes[_PROCESS_CELLS * process + 1] / 1e6

    def forget_pauses(self) -> None:
        """Begin to look for the longest pause of each process."""
        self._cells[1] = time.monotonic_ns() // 1000
        for process in range(PROCESSES):
            self._processes[_PROCESS_CELLS * process + 1] = 0

    def forget_process(self, process: int) -> None:
        """Forget when a process that has ended got its last answer."""
        self._processes[_PROCESS_CELLS * process] = 0

    def find(self, **finding: Any) -> None:
        """Keep a finding."""
        with self._findings.open("ab", buffering=0) as file:
            file.write(json.dumps(finding).encode() + b"\n")

    def findings(self) -> list[dict[str, Any]]:
        """Return the findings of all processes."""
        return [json.loads(line) for line in self._findings.read_bytes().splitlines()]


class _Counter:
    """The callers of one process.

    Args:
        process: The number of the process.
        may_know_less: Whether the process before this one was killed: then each caller may have one addition that it was not told of.
    """

    def __init__(self, board: Board, process: int, tenant: TenantHandle, *, may_know_less: bool) -> None:
        self._board = board
        self._process = process
        self._tenant = tenant
        self._may_know_less = may_know_less
        self.is_over = False

    async def count(self, number: int) -> None:
        """Add until it is over."""
        caller = self._process * len(KINDS) + number
        add = {"write": self._write, "keyed": self._write_once, "transaction": self._write_inside}
        known = await self._found(caller)
        if known - self._board.known[caller] not in ((0, 1) if self._may_know_less else (0,)):
            self._is_wrong(caller, known, self._board.known[caller])
        while not self.is_over:
            self._board.known[caller] = known
            try:
                told = await add[KINDS[number]](caller, known + 1)
            except TenantryError as error:
                found = await self._found(caller)
                is_expected = isinstance(error, TransactionClosedError) and found == known
                self._board.find(
                    error=type(error).__name__, kept=found - known, expected=is_expected, text=str(error)
                )
                known = found
                continue
            self._board.answered(self._process)
            if told != known + 1:
                self._is_wrong(caller, told, known + 1)
            known = told
        self._board.known[caller] = known

    def _is_wrong(self, caller: int, told: int, expected: int) -> None:
        self._board.find(wrong=told - expected, kind=KINDS[caller % len(KINDS)])

    async def _found(self, caller: int) -> int:
        return int(await self._tenant.fetch_value(_READ, (caller,)))

    async def _write(self, caller: int, _: int) -> int:
        return int(await self._tenant.fetch_value(_ADD, (caller,), name=_ADDITIONS[self._process]))

    async def _write_once(self, caller: int, number: int) -> int:
        return int(await self._tenant.idempotent(f"{caller} {number}").fetch_value(_ADD, (caller,)))

    async def _write_inside(self, caller: int, number: int) -> int:
        async with self._tenant.transaction() as tx:
            told = int(await tx.fetch_value(_ADD, (caller,)))
            if await tx.fetch_value(_READ, (caller,)) != told:
                self._is_wrong(caller, told, number)
        return told


async def _run(directory: Path, process: int, *, may_know_less: bool, settings: dict[str, Any]) -> None:
    board = Board(directory)
    forwarded = {*_ADDITIONS} - {_ADDITIONS[process]}

    def die_if_doomed(event: object) -> None:
        # The futures of the calls have their results, and no answer has been sent.
        is_doomed = board.doomed == os.getpid() and isinstance(event, BatchFinished)
        if is_doomed and any(call.operation in forwarded for call in event.calls):
            os.kill(os.getpid(), signal.SIGKILL)

    async with TenantRegistry(config(directory / "data", **settings), hooks=[die_if_doomed]) as registry:
        counter = _Counter(board, process, registry.tenant(TENANT), may_know_less=may_know_less)
        callers = [asyncio.create_task(counter.count(number)) for number in range(len(KINDS))]
        sys.stdout.write(f"{os.getpid()}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)  # ends with the test, too
        counter.is_over = True
        await asyncio.gather(*callers)


def main() -> None:
    """Count in a process of its own."""
    directory, process, may_know_less, settings, looks = map(json.loads, sys.argv[1:])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if not looks:
        setattr(marks, "find_results", _find_nothing)  # noqa: B010  # mypy refuses a plain assignment
    asyncio.run(_run(Path(directory), process, may_know_less=may_know_less, settings=settings))


def _find_nothing(*_: object) -> None:
    """Find no mark, so that every repeated unit runs again."""


@dataclass
class Verdict:
    """What became of the additions.

    Attributes:
        kills: The number of processes that were killed or ended.
        acknowledged: The number of additions that callers were told of.
        lost: The number of additions that callers were told of, and that are gone.
        doubled: The number of additions that were done twice.
        wrong: The number of answers that were not the next number.
        errors: The errors that callers got, with how much was kept of what they wanted; only those are expected that kept nothing and
            are of a transaction.
        unexpected: The texts of the other errors.
        pauses_seconds: For each kill and each process that survived it, the longest time without an answer.
    """

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    pauses_seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        pauses = self.pauses_seconds or [0.0]
        return (
            f"{self.kills} ends of owners, {self.acknowledged:,} acknowledged, {self.lost} lost, {self.doubled} doubled, {self.wrong} wrong "
            f"answers, errors: {dict(self.errors)}, unexpected: {self.unexpected[:3]}, longest pause of a process: median "
            f"{1000 * statistics.median(pauses):.0f} ms, most {1000 * max(pauses):.0f} ms"
        )

    def check(self) -> None:
        """Raise unless every addition was done once and acknowledged, or refused and not done."""
        assert (self.lost, self.doubled, self.wrong, self.unexpected) == (0, 0, 0, []), str(self)
        assert self.acknowledged > 0


class Counting:
    """The processes that count, from the outside.

    Args:
        directory: An empty directory.
        seed: What random moments follow from.
        looks: Whether an owner looks for the marks of repeated units, as it should.
        settings: Settings of the processes' registries.
    """

    def __init__(self, directory: Path, seed: int, *, looks: bool = True, **settings: Any) -> None:
        self.board = Board(directory)
        self.random = random.Random(seed)
        self.verdict = Verdict()
        self._directory = directory
        self._looks = looks
        self._settings = settings
        self._processes: dict[int, WarmChild] = {}
        self._pids: dict[int, int] = {}
        self._survivors: list[int] = []
        self._stack = ExitStack()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count during the block; afterwards `verdict` is complete."""
        asyncio.run(_make_counts(self._directory / "data"))
        with self._stack:
            for process in range(PROCESSES):
                self._start(process, may_know_less=False)
            self.progress()
            yield
            for child in self._processes.values():
                _end(child)
        self._judge()

    def progress(self, additions: int = 2) -> None:
        """Wait until each caller of each process has been told of more additions."""
        since = list(self.board.known)
        living = [p * len(KINDS) + number for p in self._processes for number in range(len(KINDS))]

        def says() -> str:
            told = {c: self.board.known[c] - since[c] for c in living}
            ended = [process for process in self._processes if self._has_ended(process)]
            return f"additions of each caller: {told}, ended: {ended}, last findings: {self._says()}"

        _wait_until(lambda: all(self.board.known[c] >= since[c] + additions for c in living), says)

    def owner(self) -> int:
        """Return the number of the process that owns the tenant."""
        lock = LockFile(tenant_paths(self._directory / "data", TENANT).lock)
        found: list[int] = []

        def is_found() -> bool:
            pid = read_holder(lock.read()).pid
            found[:] = [process for process in self._processes if self._pids[process] == pid]
            return bool(found)

        _wait_until(is_found, self._says)
        return found[0]

    def kill(self) -> list[int]:
        """Kill the owner at a random moment, and return its number."""
        time.sleep(self.random.uniform(0, 0.1))  # a moment, not an order
        return self._kill(self.owner())

    def kill_twice(self) -> list[int]:
        """Kill the owner, and the next owner as soon as it has the tenant."""
        return self.kill() + self._kill(self.owner())

    def kill_all(self) -> list[int]:
        """Kill all processes at once."""
        return self._kill(*self._processes)

    def kill_after_commit(self) -> list[int]:
        """Kill the owner between the commit of a batch and its first answer."""
        owner = self.owner()
        self.board.forget_pauses()
        self.board.doomed = self._pids[owner]
        # An owner that has handed the tenant over commits the next batch when it owns the tenant again.
        _wait_until(partial(self._has_ended, owner), self._says)
        self.board.doomed = 0
        return self._ended(owner)

    def stop_and_kill(self) -> list[int]:
        """Stop the owner for a while, then kill it."""
        owner = self.owner()
        self._processes[owner].send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0, 0.2))  # how long it is stopped
        return self._kill(owner)

    def end(self) -> list[int]:
        """Let the owner end as a process should."""
        owner = self.owner()
        self.board.forget_pauses()
        _end(self._processes[owner])
        return self._ended(owner)

    def replace(self, processes: Sequence[int], *, were_killed: bool) -> None:
        """Start processes in the places of those that have ended."""
        for process in processes:
            self._start(process, may_know_less=were_killed)

    def note_pauses(self) -> None:
        """Wait until the processes that have survived the last end go on, and note their pauses."""
        self.progress()
        self.verdict.pauses_seconds += map(self.board.pause_seconds, self._survivors)

    def _kill(self, *processes: int) -> list[int]:
        self.board.forget_pauses()
        for process in processes:
            self._processes[process].kill()
        return self._ended(*processes)

    def _ended(self, *processes: int) -> list[int]:
        for process in processes:
            self._processes.pop(process).wait(HANG_SECONDS)
            self.board.forget_process(process)
        self._survivors = [*self._processes]
        self.verdict.kills += len(processes)
        return [*processes]

    def _start(self, process: int, *, may_know_less: bool) -> None:
        arguments = [str(self._directory), process, may_know_less, self._settings, self._looks]
        child = self._stack.enter_context(python(_SCRIPT, *map(json.dumps, arguments)))
        self._pids[process] = int(read_line(child))
        self._processes[process] = child

    def _has_ended(self, process: int) -> bool:
        return self._processes[process].poll() is not None

    def _says(self) -> str:
        return f"{self.board.findings()[-3:]}"

    def _judge(self) -> None:
        verdict = self.verdict
        verdict.acknowledged = sum(self.board.known)
        path = tenant_paths(self._directory / "data", TENANT).database
        stored = dict(query(path, "SELECT caller, n FROM counts"))
        differences = [stored[caller] - known for caller, known in enumerate(self.board.known)]
        for finding in self.board.findings():
            if "wrong" in finding:
                verdict.wrong += 1
                differences.append(finding["wrong"])
            else:
                verdict.errors[finding["error"]] += 1
                if not finding["expected"]:
                    verdict.unexpected.append(f"{finding['text']} (kept: {finding['kept']})")
        verdict.lost += sum(-one for one in differences if one < 0)
        verdict.doubled += sum(one for one in differences if one > 0)


async def _make_counts(data_dir: Path) -> None:
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create(TENANT)
        tenant = registry.tenant(TENANT)
        await tenant.execute("CREATE TABLE counts (caller INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
        for caller in range(PROCESSES * len(KINDS)):
            await tenant.execute("INSERT INTO counts VALUES (?, 0)", (caller,))


def _end(child: WarmChild) -> None:
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(HANG_SECONDS) == 0


def _wait_until(is_true: Callable[[], bool], says: Callable[[], str]) -> None:
    assert _comes_true(is_true, HANG_SECONDS), says()


def _comes_true(is_true: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)  # another process works on it
    return True


def acts_of(counting: Counting, names: Sequence[str]) -> None:
    """Do to the owner what is named, one after the other, with a new process in the place of each that has ended."""
    for name in names:
        ended = getattr(counting, name)()
        counting.replace(ended, were_killed=name != "end")
        counting.note_pauses()
