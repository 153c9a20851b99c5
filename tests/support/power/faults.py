"""Lets system calls of a workload fail, one run for each, and checks what tenantry makes of it."""

import errno
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from power.tracing import Kind
from power.workers import Workers

SHORT: Final = 0
"""Instead of an error number: the write writes its first half only, as write(2) may."""

ERRORS: Final = {
    Kind.OPEN: (errno.EMFILE, errno.EIO, errno.ENOSPC),
    Kind.READ: (errno.EIO,),
    Kind.WRITE: (errno.ENOSPC, errno.EIO, SHORT),
    Kind.SYNC: (errno.EIO, errno.ENOSPC),
    Kind.TRUNCATE: (errno.EIO,),
    Kind.RENAME: (errno.EIO, errno.ENOSPC),
    Kind.UNLINK: (errno.EIO,),
    Kind.MKDIR: (errno.ENOSPC, errno.EIO),
    Kind.LINK: (errno.ENOSPC,),
}
"""What each kind of call fails with, the likeliest first."""

# One call may still say damage of a tenant's own database, which is looked at again before the tenant is quarantined.
_DAMAGE: Final = re.compile(r"\b(TenantQuarantined|SnapshotCorrupt|DatabaseCorruptError.*/scratch/)")


@dataclass(frozen=True)
class Fault:
    """A system call that fails.

    Attributes:
        kinds: Its kind.
        error: The error number.
        first: Which of the calls of this kind, from 1 on.
        is_lasting: Whether all after it fail too.
        name: Only calls count about a path that contains this text.
    """

    kinds: Kind
    error: int
    first: int
    is_lasting: bool = False
    name: str = ""

    def __str__(self) -> str:
        and_after = " and all after it" if self.is_lasting else ""
        error = errno.errorcode.get(self.error, "short")
        return f"{self.kinds.name} number {self.first}{and_after} {self.name}: {error}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        told = {"error": self.error, "first": self.first, "is_lasting": self.is_lasting}
        return {"kinds": int(self.kinds), "name": self.name, **told}


def count_calls(workload: str, workers: Workers, root: Path) -> dict[Kind, int]:
    """Return how many calls of each kind a workload makes when nothing fails."""
    root.mkdir()
    ((_, outcome),) = workers.do([{"do": "run", "workload": workload, "root": root}])
    assert outcome["is_finished"], outcome
    return {Kind[name]: count for name, count in outcome["calls"].items()}


def spread(calls: dict[Kind, int], each: int) -> Iterator[Fault]:
    """Yield faults of each kind, spread evenly over the calls, once and lasting in turn."""
    for kind, count in calls.items():
        for number in range(min(each, count)):
            error = ERRORS[kind][number % len(ERRORS[kind])]
            yield Fault(kind, error, 1 + number * count // min(each, count), is_lasting=number % 2 == 1)


def every(calls: dict[Kind, int], step: int, start: int) -> Iterator[Fault]:
    """Yield faults of each kind and each error, once and lasting, for one call in `step`."""
    for kind, count in calls.items():
        for error in ERRORS[kind]:
            for first in range(1 + start % step, count + 1, step):
                yield Fault(kind, error, first)
                yield Fault(kind, error, first, is_lasting=True)


def findings(
    workload: str, faults: Iterable[Fault], workers: Workers, directory: Path
) -> Iterator[tuple[Fault, list[str]]]:
    """Run a workload once for each fault, and yield the fault with what was wrong: nothing, if all was well.

    Only tenantry's errors may be raised. If one call fails once, no tenant is quarantined and no copy is called damaged, and
    what tenantry was asked for succeeds when it is repeated. Afterwards the disk is well again: what was acknowledged is there, and every tenant is in its
    state.
    """
    directory.mkdir(exist_ok=True)
    ran = _run(workload, faults, workers, directory)
    checks = (
        {"do": "check", "workload": workload, "root": root, "expected": outcome["expected"]}
        for _, root, outcome in ran
    )
    checked = {str(job["root"]): problems for job, problems in workers.do(checks)}
    for fault, root, outcome in ran:
        wrong = list(checked[str(root)])
        if not fault.is_lasting:
            wrong += [f"taken for damage: {error}" for error in outcome["errors"] if _DAMAGE.search(error)]
        if outcome["unexpected"]:
            wrong.append(outcome["unexpected"])
        if not outcome["is_finished"] and not outcome["unexpected"] and not fault.is_lasting:
            wrong.append(f"a call did not succeed when it was repeated: {outcome['errors']}")
        if wrong:
            wrong.append(f"failed: {outcome['failed_what']}; raised: {outcome['errors']}; left: {root}")
        else:
            shutil.rmtree(root)
        yield fault, wrong


def _run(
    workload: str, faults: Iterable[Fault], workers: Workers, directory: Path
) -> list[tuple[Fault, Path, dict[str, Any]]]:
    jobs = {}
    for fault in faults:
        root = directory / f"{workload}-{len(jobs)}-{fault.kinds.name}-{fault.first}"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        jobs[str(root)] = fault
    told = (
        {"do": "run", "workload": workload, "root": root, "fail": fault.as_json()}
        for root, fault in jobs.items()
    )
    return [(jobs[job["root"]], Path(job["root"]), outcome) for job, outcome in workers.do(told)]
