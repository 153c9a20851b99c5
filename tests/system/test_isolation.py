"""What tenantry is for: many tenants in few places, nobody's data in another's file, and no acknowledged write lost."""

import asyncio
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments import config_of, deployments, stored_ids, stored_texts, url_of
from tenantry import TenantRegistry
from tenantry.events import TenantOpened
from tenants import database_path, make_message, open_files, python, query, read_line, threads_since

pytestmark = pytest.mark.unmeasured

CALLERS = 64
PLACES = 16
SEED = 20260131

# Writes for three tenants from 24 callers, and says which message was acknowledged as soon as it was.
WRITER = """
import asyncio, os, sys
from pathlib import Path
import structlog
from deployments import config_of
from tenantry import TenantRegistry
from tenantry.errors import TenantExistsError
from tenants import make_message

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

async def write(handle):
    while True:
        message = make_message()
        await handle.messages.save(message)
        os.write(1, f"{handle.id} {message.id.hex}\\n".encode())

async def transact(handle):
    while True:
        messages = [make_message(), make_message()]
        async with handle.transaction() as tx:
            for message in messages:
                await tx.messages.save(message)
        for message in messages:
            os.write(1, f"{handle.id} {message.id.hex}\\n".encode())

async def main(data_dir):
    async with TenantRegistry(config_of(Path(data_dir), open_tenants_max=2)) as registry:
        async with asyncio.TaskGroup() as group:
            for n in range(3):
                try:
                    await registry.create(f"t{n}")
                except TenantExistsError:
                    pass
                for _ in range(7):
                    group.create_task(write(registry.tenant(f"t{n}")))
                group.create_task(transact(registry.tenant(f"t{n}")))

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(params=["sqlite", "postgres"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The data directory of an empty deployment: in files, and with a database on a server."""
    is_on_server = request.param == "postgres"
    with deployments(request.getfixturevalue("postgres_server") if is_on_server else None) as made:
        made.make(tmp_path / "data")
        yield tmp_path / "data"


class Watch:
    """A hook that counts, at each opening, the tenants that are open: by the pool's word and by the kernel's."""

    def __init__(self, data_dir: Path) -> None:
        self.registry: TenantRegistry
        self.opens = 0
        self.places = 0
        self.files = 0
        self._data_dir = data_dir

    def __call__(self, event: object) -> None:
        if isinstance(event, TenantOpened):
            databases = {path for path in open_files(self._data_dir) if path.endswith("/tenant.db")}
            self.opens += 1
            self.places = max(self.places, self.registry.statistics().pool.open_tenants)
            self.files = max(self.files, len(databases))


@pytest.mark.parametrize(("tenants", "calls"), [(100, 12), pytest.param(300, 24, marks=pytest.mark.soak)])
async def test_many_tenants_in_few_places(data_dir: Path, tenants: int, calls: int):
    """Many tenants touched at random by 64 callers through 16 places: never more open, nothing mixed up, nothing left."""
    print(f"seed {SEED}")  # noqa: T201  # a simulation says how to repeat it
    threads = set(threading.enumerate())
    written: dict[str, Counter[str]] = {f"t{n}": Counter() for n in range(tenants)}
    watch = Watch(data_dir)

    async def caller(number: int) -> None:
        dice = random.Random(SEED + number)
        for n in range(calls):
            tenant_id = f"t{dice.randrange(tenants)}"
            messages = registry.tenant(tenant_id).messages
            if dice.random() < 0.7:
                content = f"{tenant_id} {number} {n}"
                await messages.save(make_message(content))
                written[tenant_id][content] += 1
            else:
                history = await messages.get_history("general")
                assert {message.content.split()[0] for message in history} <= {tenant_id}

    config = config_of(
        data_dir, open_tenants_max=PLACES, pool_wait_timeout_seconds=60, call_timeout_seconds=60
    )
    async with TenantRegistry(config, hooks=[watch]) as registry:
        watch.registry = registry
        for tenant_id in written:
            await registry.create(tenant_id)
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(caller(number))
        statistics = registry.statistics().pool
    files = PLACES if url_of(data_dir) is None else 0
    assert (statistics.open_tenants_peak, watch.places, watch.files) == (PLACES, PLACES, files)
    assert statistics.opened == watch.opens > tenants
    assert statistics.waiters == 0
    assert (threads_since(threads), open_files(data_dir)) == ([], [])
    for tenant_id, contents in written.items():
        assert Counter(stored_texts(data_dir, tenant_id)) == contents


async def test_tenants_in_one_place_do_not_starve(data_dir: Path):
    """With a single place every one of many tenants gets its turn, and each caller reads its own writes."""
    async with TenantRegistry(config_of(data_dir, open_tenants_max=1)) as registry:
        ids = [f"t{n}" for n in range(12)]
        for tenant_id in ids:
            await registry.create(tenant_id)

        async def caller(tenant_id: str) -> None:
            messages = registry.tenant(tenant_id).messages
            for n in range(5):
                await messages.save(make_message(f"{tenant_id} {n}"))
                assert len(await messages.get_history("general")) == n + 1

        async with asyncio.TaskGroup() as group:
            for tenant_id in ids:
                group.create_task(caller(tenant_id))
        assert registry.statistics().pool.open_tenants_peak == 1


@pytest.mark.parametrize("acknowledged_min", [1, 150, 600])
async def test_kill_9_loses_nothing_acknowledged(data_dir: Path, acknowledged_min: int):
    """A process killed while it writes, twice on the same files: whatever it said was saved is there, exactly once."""
    acknowledged: set[tuple[str, bytes]] = set()
    for _ in range(2):
        with python(WRITER, data_dir) as process:
            lines = [read_line(process) for _ in range(acknowledged_min)]
            os.kill(process.pid, signal.SIGKILL)
            assert process.stdout is not None
            lines += [line for line in process.stdout if line.endswith("\n")]
            assert process.wait() == -signal.SIGKILL
        for line in lines:
            tenant_id, message_id = line.split()
            acknowledged.add((tenant_id, bytes.fromhex(message_id)))
    assert len(acknowledged) >= 2 * acknowledged_min
    async with TenantRegistry(config_of(data_dir)) as registry:
        for tenant in await registry.list():
            await registry.tenant(tenant.id).messages.save(make_message())
    for tenant_id in {tenant_id for tenant_id, _ in acknowledged}:
        found = stored_ids(data_dir, tenant_id)
        stored = set(found)
        assert len(found) == len(stored)
        assert {message_id for owner, message_id in acknowledged if owner == tenant_id} <= stored
        assert not {message_id for owner, message_id in acknowledged if owner != tenant_id} & stored
        if url_of(data_dir) is None:
            assert query(database_path(data_dir, tenant_id), "PRAGMA integrity_check") == [("ok",)]
