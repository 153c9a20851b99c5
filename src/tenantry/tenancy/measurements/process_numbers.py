"""The numbers of this process: processor time, memory and open files.

prometheus_client has the same numbers as ``process_…``, but only of the process that Prometheus happens to reach.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tenantry.tenancy.measurements.families import Measured, counter, number

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def process_numbers() -> Iterator[Measured]:
    """Yield the numbers of this process; without ``/proc``, some have no series."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield counter(
        "tenantry_process_cpu_seconds",
        "Processor time of the process.",
        {(): used.ru_utime + used.ru_stime},
    )
    yield number(
        "tenantry_process_resident_memory_bytes", "Resident memory of the process.", _resident_bytes()
    )
    yield number("tenantry_process_open_files", "Open files of the process.", _open_files())
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield number(
        "tenantry_process_capacity_files",
        "Open files that the process may have; no sample without a limit.",
        None if limit == resource.RLIM_INFINITY else limit,
    )


def _resident_bytes() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def _open_files() -> int | None:
    try:
        # Without the descriptor of this listing. A process may have thousands of open files, and Path would be slower.
        return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208
    except OSError:
        return None
