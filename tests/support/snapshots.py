"""What the tests of snapshots share.

Import it by name (``tests/support`` is on pytest's path): ``from snapshots import writing``.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tenantry import RegistryConfig, TenantRegistry
from tenantry.errors import (
    TenantBusyError,
)
from tenants import (
    say,
)


def config(data_dir: Path, **fields: Any) -> RegistryConfig:
    """Return settings for a small pool."""
    return RegistryConfig(data_dir=data_dir, **{"open_tenants_max": 4, **fields})


def spoil_page(database: Path) -> None:
    """Overwrite a page of a closed database, by hand."""
    fd = os.open(database, os.O_WRONLY)
    os.pwrite(fd, b"\xa5" * 4096, 8 * 4096)
    os.close(fd)


def kept_files(data_dir: Path) -> list[Path]:
    """Return the files that snapshots are kept in."""
    return sorted(path for path in (data_dir / "snapshots").rglob("*") if path.is_file())


@asynccontextmanager
async def writing(registry: TenantRegistry, callers: int) -> AsyncIterator[dict[int, list[str]]]:
    """Have callers write numbered messages, each its own, one after the other; give what was acknowledged to each."""
    acknowledged: dict[int, list[str]] = {caller: [] for caller in range(callers)}
    is_over = False

    async def write(caller: int) -> None:
        number = 0
        while not is_over:
            content = f"{caller}:{number}"
            number += 1
            try:
                await say(registry, "acme", content)
            except TenantBusyError:
                continue
            acknowledged[caller].append(content)

    async with asyncio.TaskGroup() as tasks:
        for caller in acknowledged:
            tasks.create_task(write(caller))
        try:
            yield acknowledged
        finally:
            is_over = True
