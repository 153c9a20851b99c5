"""A registry in another process, as the tests of several processes on one data directory talk to it.

Import it by name (``tests`` is on pytest's path): ``from others import other_process``.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenants import python, read_json
from warm_process import WarmChild

# Says that it is ready, and does as it is told, line by line.
_OTHER_PROCESS = """
import asyncio, json, os, signal, sys
from pathlib import Path
import structlog
from tenantry import LocalStorage, RegistryConfig, TenantRegistry
from tenantry.errors import TenantryError
from tenants import make_message

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
stop_at = None

def tell(what):
    print(json.dumps(what), flush=True)

def stop(event):
    if stop_at is not None and stop_at == getattr(event, "step", None):
        tell("stopped")
        os.kill(os.getpid(), signal.SIGSTOP)

async def do(registry, action, *arguments, **keywords):
    global stop_at
    stop_at = keywords.pop("stop_at", None)
    if action == "save":
        tenant_id, *content = arguments
        await registry.tenant(tenant_id).messages.save(make_message(*content))
    elif action in {"restore", "undo_restore"}:
        await getattr(registry.snapshots, action)(*arguments, **keywords)
    else:
        await getattr(registry, action)(*arguments, **keywords)

async def main(data_dir, settings):
    settings = json.loads(settings)
    snapshots = settings.pop("snapshots", None)
    async with TenantRegistry(
        RegistryConfig(data_dir=data_dir, open_tenants_max=4, **settings),
        hooks=[stop],
        snapshot_storage=snapshots and LocalStorage(Path(snapshots)),
    ) as registry:
        tell(os.getpid())
        while line := await asyncio.to_thread(sys.stdin.readline):
            arguments, keywords = json.loads(line)
            try:
                await do(registry, *arguments, **keywords)
                tell("ok")
            except TenantryError as error:
                tell({"error": type(error).__name__, "pid": getattr(error, "pid", None)})

asyncio.run(main(*sys.argv[1:]))
"""


class Other:
    """The registry of another process."""

    def __init__(self, process: WarmChild) -> None:
        self.process = process
        self.pid = read_json(process)

    def do(self, action: str, *arguments: str, **keywords: Any) -> Any:
        """Have it do something; return ``ok`` or which error it got.

        With ``stop_at`` it stops at that step of a lifecycle operation, and ``stopped`` is returned.
        """
        self.begin(action, *arguments, **keywords)
        return self.answer()

    async def ask(self, action: str, *arguments: str, **keywords: Any) -> Any:
        """Have it do something for which it needs this process, whose event loop must run meanwhile; return like `do`."""
        return await asyncio.to_thread(self.do, action, *arguments, **keywords)

    def begin(self, action: str, *arguments: str, **keywords: Any) -> None:
        """Have it begin something."""
        print(json.dumps([[action, *arguments], keywords]), file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        """Wait for the outcome of what it began."""
        return read_json(self.process)

    def go_on(self) -> Any:
        """Let it go on where it stopped, and return the outcome."""
        # The process prints "stopped" shortly before it stops. A SIGCONT in between would have no effect.
        while _state(self.pid) != "T":
            time.sleep(0.001)
        os.kill(self.pid, signal.SIGCONT)
        return self.answer()

    def kill(self) -> None:
        """End it as nobody wants to end: nothing is closed, nothing released but by the kernel."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait()


def _state(pid: int) -> str:
    """Return the letter of a process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@contextmanager
def other_process(data_dir: Path, **settings: Any) -> Iterator[Other]:
    """Start a registry on this data directory in another process; it ends with the block.

    Args:
        data_dir: The data directory.
        settings: Its settings; ``snapshots`` is the directory of its snapshots if it is another one than the default.
    """
    with python(_OTHER_PROCESS, data_dir, json.dumps(settings)) as process:
        yield Other(process)
