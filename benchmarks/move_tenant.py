"""``python -m benchmarks.move_tenant [--rows N] [--url URL] [--dir DIR]``: moves of a large tenant while callers write.

The tenant moves from a file to PostgreSQL and back. Meanwhile callers save, change and delete messages, one after the other with
short breaks. For each move the table shows the rows, the seconds, the pause of the callers as the registry reports it, and the
longest wait of a caller. Afterwards every message is compared with what the callers know; a difference is an error.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.harness import BenchmarkError, Load
from benchmarks.machine import check_is_disk, machine_facts
from benchmarks.peers.postgres import PostgresServer
from tenantry import RegistryConfig, TenantHandle, TenantRegistry
from tenantry.events import Event, TenantMoved
from tenantry.testing.conformance.samples import make_message

_ROWS = 1_000_000
_ROWS_PER_SAVE = 1_000
_CALLERS = 4
_DATABASE = "bench"
_BREAK_SECONDS = 0.004
_WRITE = "UPDATE messages SET content = ? WHERE id = ?"
_DELETE = "DELETE FROM messages WHERE id = ?"


@dataclass
class _Callers:
    """Callers of the tenant, each with messages of its own.

    Attributes:
        contents: What each message says, by the message's id.
        waits: The seconds of each call since the last `measured`.
    """

    tenant: TenantHandle
    contents: dict[bytes, str] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    is_over: bool = False

    async def fill(self, rows: int) -> None:
        for first in range(0, rows, _ROWS_PER_SAVE):
            messages = [
                make_message(content=f"message {number} " + "x" * 100)
                for number in range(first, min(first + _ROWS_PER_SAVE, rows))
            ]
            await self.tenant.messages.save_many(messages)
            self.contents |= {message.id.bytes: message.content for message in messages}

    async def work(self, caller: int) -> None:
        chance = random.Random(caller)
        mine = list(self.contents)[caller::_CALLERS]
        while not self.is_over:
            new = make_message(content=f"new of {caller}")
            await self._timed(self.tenant.messages.save(new))
            self.contents[new.id.bytes] = new.content
            changed = chance.choice(mine)
            content = f"changed by {caller}: {chance.random()}"
            await self._timed(self.tenant.execute(_WRITE, (content, changed)))
            self.contents[changed] = content
            gone = mine.pop(chance.randrange(len(mine)))
            await self._timed(self.tenant.execute(_DELETE, (gone,)))
            del self.contents[gone]
            await asyncio.sleep(_BREAK_SECONDS)

    async def check(self) -> None:
        found = Counter(content for (content,) in await self.tenant.fetch_all("SELECT content FROM messages"))
        if found != Counter(self.contents.values()):
            raise BenchmarkError("the tenant's messages are not those that the callers know")

    async def _timed(self, call: object) -> None:
        started = time.perf_counter()
        await call  # type: ignore[misc]  # every call is awaitable
        self.waits.append(time.perf_counter() - started)


async def _run(load: Load, server: PostgresServer, rows: int) -> Table:
    table = Table("move", "rows", "seconds", "rows/s", "pause ms", "calls", "p50 ms", "p99 ms", "longest ms")
    moves: list[TenantMoved] = []

    def note(event: Event) -> None:
        if isinstance(event, TenantMoved):
            moves.append(event)

    config = RegistryConfig(
        data_dir=load.directory / "data", databases={_DATABASE: server.uri}, open_tenants_max=16
    )
    async with TenantRegistry(config, hooks=[note]) as registry:
        await registry.create("acme")
        callers = _Callers(registry.tenant("acme"))
        load.progress(f"writing {rows:,} messages")
        await callers.fill(rows)
        tasks = [asyncio.create_task(callers.work(caller)) for caller in range(_CALLERS)]
        for source, target in (("sqlite", _DATABASE), (_DATABASE, "sqlite")):
            load.progress(f"moving from {source} to {target}")
            await asyncio.sleep(load.seconds)
            callers.waits.clear()
            await registry.move("acme", target)
            moved, waits = moves[-1], sorted(callers.waits)
            table.add_row(
                f"{source} to {target}",
                f"{moved.rows:,}",
                f"{moved.duration_seconds:.1f}",
                f"{moved.rows / moved.duration_seconds:,.0f}",
                f"{moved.pause_seconds * 1e3:.0f}",
                f"{len(waits):,}",
                *(f"{waits[int(share * (len(waits) - 1))] * 1e3:.1f}" for share in (0.5, 0.99, 1)),
            )
        callers.is_over = True
        await asyncio.gather(*tasks)
        load.progress("comparing every message")
        await callers.check()
        await registry.delete("acme")
        await registry.purge("acme", force=True)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the moves, and print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.move_tenant")
    parser.add_argument("--rows", type=int, default=_ROWS, help=f"the tenant's messages ({_ROWS:,})")
    parser.add_argument("--url", help="the PostgreSQL database; by default a server is started")
    parser.add_argument("--dir", type=Path, default=Path(), help="on which disk (the current directory's)")
    options = parser.parse_args(arguments)
    console = Console(width=160)
    try:
        check_is_disk(options.dir)
        with TemporaryDirectory(prefix=".benchmarks-", dir=options.dir) as name, ExitStack() as resources:
            directory = Path(name).absolute()
            load = Load(directory, rounds=1, seconds=1.0, progress=console.log, resources=resources)
            facts = machine_facts(directory)
            server = PostgresServer(options.url) if options.url else PostgresServer.of(load)
            console.print(load.run(_run(load, server, options.rows)))
            console.print(facts)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
