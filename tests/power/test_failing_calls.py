"""A system call fails, whichever it is: tenantry raises its own errors, loses nothing, and goes on when the disk is well again.

A workload runs once for each fault. The fault is the n-th call of a kind (open, read, write, fsync, truncate, rename, unlink,
mkdir, link): it fails alone or all after it fail too, with the errors that disks and kernels give. A call of tenantry that fails
is repeated, as its caller would. Afterwards the directory is opened without faults and has to hold what was acknowledged.

``make soak`` makes one in ``SOAK_STEP`` of all calls fail, with each error; 1 is all of them. It prints its seed, which
decides at which call it begins; ``SOAK_SEED`` gives it one.
"""

import errno
from pathlib import Path

import pytest

from power.faults import Fault, count_calls, every, findings, spread
from power.soak import figures, soak_seed, soak_size
from power.tracing import Kind
from power.workers import Workers


def test_a_call_fails(power_workers: Workers, tmp_path: Path):
    """A few calls of each kind, spread over a little of everything that tenantry does."""
    calls = count_calls("short", power_workers, tmp_path / "calls")
    found = list(findings("short", spread(calls, each=2), power_workers, tmp_path))
    assert [(str(fault), wrong) for fault, wrong in found if wrong] == []
    assert len(found) > 2 * len(calls) - 2, calls


def test_a_read_fails(power_workers: Workers, tmp_path: Path):
    """A disk that fails to read once is not taken for damage: not of a tenant, and not of a copy that is being made or checked."""
    faults = [
        Fault(Kind.READ, errno.EIO, first, name=name)
        for name, numbers in {"tenants": (20, 60), "scratch": (15, 40, 65, 90)}.items()
        for first in numbers
    ]
    found = list(findings("short", faults, power_workers, tmp_path))
    assert [(str(fault), wrong) for fault, wrong in found if wrong] == []


@pytest.mark.parametrize(
    ("workload", "name", "numbers"),
    [("fresh", "acme/tenant.db", (7,)), ("placed-files", "data/catalog.db", (17, 20))],
)
def test_too_many_open_files(
    workload: str, name: str, numbers: tuple[int, ...], power_workers: Workers, tmp_path: Path
):
    """What SQLite opened for reading only, because it could not be opened for writing, is not kept: a later call succeeds."""
    faults = [Fault(Kind.OPEN, errno.EMFILE, number, name=name) for number in numbers]
    found = list(findings(workload, faults, power_workers, tmp_path))
    assert [(str(fault), wrong) for fault, wrong in found if wrong] == []


@pytest.mark.soak
@pytest.mark.parametrize("workload", ["short", "lifecycle", "copies", "placed-files", "writes", "openings"])
def test_any_call_fails(workload: str, power_workers: Workers, tmp_path: Path):
    """Many calls of each kind, with each error, once and lasting."""
    seed, step = soak_seed(), soak_size("STEP", 25)
    wrong = []
    with figures(f"failing calls in {workload}", seed) as told:
        told["faults"] = 0
        calls = count_calls(workload, power_workers, tmp_path / "calls")
        for fault, problems in findings(workload, every(calls, step, seed), power_workers, tmp_path):
            told["faults"] += 1
            wrong += [f"{fault}: {problem}" for problem in problems]
    assert not wrong, "\n".join(wrong)
