"""What the tests of moves share: a registry with a second back end, and writers that never rest.

Import it by name (``tests/support`` is on pytest's path): ``from moves import with_east``.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registries import config
from tenantry import Fetch, RegistryConfig, Schema, Statement, TenantHandle, TenantRegistry
from tenantry.clock import SystemClock
from tenantry.company import COMPANY
from tenantry.eventlog import EventLog
from tenantry.storage.sqlite.backend import SQLiteBackend
from tenants import make_message, until


def east_of(data_dir: Path) -> Path:
    """Return the directory of the second back end."""
    return data_dir.with_name(f"{data_dir.name}-east")


def with_east(data_dir: Path, *, schemas: Sequence[Schema] = (COMPANY,), **fields: Any) -> TenantRegistry:
    """Return a registry that has a second back end, ``east``, which keeps SQLite files in another directory."""
    registry = TenantRegistry(config(data_dir, **fields), schemas=schemas)
    # A data directory with tenants and without a catalog would be refused; this catalog is never opened.
    east_of(data_dir).mkdir(parents=True, exist_ok=True)
    (east_of(data_dir) / "catalog.db").touch()
    east = SQLiteBackend(
        RegistryConfig(data_dir=east_of(data_dir)),
        schemas,
        clock=SystemClock(),
        log=EventLog(),
        socket_name=registry._parts.peers._socket.name,
    )
    east.name = "east"
    registry._parts.backends._backends["east"] = east
    return registry


@dataclass
class Writers:
    """Writers of one tenant, and what they know.

    Attributes:
        prefix: What the contents of all messages begin with.
        kept: The contents of the messages that must be there, by the number of the write.
        errors: The errors that the writers got.
        count: The number of writes that were acknowledged.
    """

    tenant: TenantHandle
    seed: int = 0
    prefix: str = ""
    kept: dict[int, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    errors: list[Exception] = field(default_factory=list)
    count: int = 0

    @asynccontextmanager
    async def at_work(self, number: int = 4) -> AsyncIterator[None]:
        """Write until the block ends."""
        done = asyncio.Event()
        tasks = [asyncio.create_task(self._write(one, number, done)) for one in range(number)]
        try:
            yield
        finally:
            done.set()
            await asyncio.gather(*tasks)

    async def until(self, count: int) -> None:
        """Wait until this many more writes were acknowledged."""
        goal = self.count + count
        await until(lambda: self.count >= goal or bool(self.errors))

    async def check(self) -> None:
        """Check that every acknowledged write is there, and nothing else; each keyed write is there once."""
        assert self.errors == []
        found = await self.tenant._session.read(
            Statement("test.all", "SELECT content FROM messages", (), Fetch.ALL)
        )
        contents = [content for (content,) in found]
        assert sorted(contents) == sorted(self.everything())

    def everything(self) -> list[str]:
        """Return the contents of the messages that must be there."""
        return [*self.kept.values(), *self.keys]

    async def _write(self, one: int, step: int, done: asyncio.Event) -> None:
        chance = random.Random(self.seed * 1000 + one)
        number = one
        mine: list[int] = []
        while not done.is_set():
            try:
                await self._write_one(number, mine, chance)
            except Exception as error:  # noqa: BLE001  # the test looks at them
                self.errors.append(error)
                return
            number += step
            await asyncio.sleep(0)

    async def _write_one(self, number: int, mine: list[int], chance: random.Random) -> None:
        way = chance.randrange(6)
        if way == 0 and mine:
            gone = mine.pop(chance.randrange(len(mine)))
            await self._run("DELETE FROM messages WHERE content = ?", self.kept[gone])
            del self.kept[gone]
        elif way == 1 and mine:
            changed = chance.choice(mine)
            new = f"{self.kept[changed]}+{number}"
            await self._run("UPDATE messages SET content = ? WHERE content = ?", new, self.kept[changed])
            self.kept[changed] = new
        elif way == 2 and mine:
            renumbered = chance.choice(mine)
            new_seq = chance.randrange(2**40, 2**50)
            await self._run("UPDATE messages SET seq = ? WHERE content = ?", new_seq, self.kept[renumbered])
        elif way == 3:
            key = f"{self.prefix}key {number}"
            await self.tenant.idempotent(key).messages.save(make_message(key))
            self.keys.add(key)
        else:
            content = f"{self.prefix}message {number}"
            await self.tenant.messages.save(make_message(content))
            self.kept[number] = content
            mine.append(number)
        self.count += 1

    async def _run(self, sql: str, *parameters: object) -> None:
        await self.tenant._session.write(Statement("test.write", sql, parameters))
