"""Every lifecycle operation, its process killed at each of its steps: old or new state afterwards, and the call can be repeated.

`CALLS` is the table. One entry is one call: what to do before it, and the call. What is right afterwards follows from that:
the data directory is as it was before the call, or as the call leaves it when nobody kills it. A step is every event that
the registry reports, so the process also dies right after each commit of the catalog, between a connection and its
migrations, and the like; a new step of a call is a new fault point by itself.
"""

import asyncio
import contextlib
import inspect
import json
import os
import shutil
import signal
import sqlite3
import tarfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from deployments import Deployments, config_of, deployments, stored_messages, stored_tenants, url_of
from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.errors import (
    TenantDeletedError,
    TenantExistsError,
    TenantNotFoundError,
    TenantQuarantinedError,
    TenantStateError,
    TenantSuspendedError,
)
from tenantry.events import BatchFinished, Event, OperationStepped
from tenants import damage_index, database_path, make_message, python, query, read_json, tenant_files
from warm_process import WarmChild

pytestmark = pytest.mark.unmeasured

# A process that forks itself for each line it is given and does there what the line says, two at a time; an empty line
# waits for all. Each child is a process of its own that is killed for good, without the second that importing takes.
FORKING = """
import importlib.util, json, os, sys

spec = importlib.util.spec_from_file_location("crashes", sys.argv[1])
crashes = importlib.util.module_from_spec(spec)
sys.modules["crashes"] = crashes
spec.loader.exec_module(crashes)
running = {}
for line in sys.stdin:
    if line.strip():
        arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                crashes.call_until_killed(*arguments)
            finally:
                os._exit(1)
        running[child] = arguments
    while len(running) >= (2 if line.strip() else 1):
        child, status = os.wait()
        print(json.dumps([*running.pop(child), os.waitstatus_to_exitcode(status)]), flush=True)
"""

Work = Callable[[TenantRegistry], Awaitable[Any]]


async def do_nothing(_: TenantRegistry) -> None:
    """Leave everything as it is."""


@dataclass(frozen=True)
class Call:
    """One call of the table.

    Attributes:
        run: Makes it.
        prepare: What comes before it. There is a tenant ``acme`` already, with one message.
        damage: What happens to the closed data directory after that.
    """

    run: Work
    prepare: Work = do_nothing
    damage: Callable[[Path], object] = bool


def on_acme(action: str, *arguments: Any, **keywords: Any) -> Work:
    """Return what makes this call of ``acme``."""
    return lambda registry: getattr(registry, action)("acme", *arguments, **keywords)


def bundle_of(registry: TenantRegistry) -> Path:
    """Return where a bundle lies."""
    return registry.config.data_dir / "acme.tar.gz"


async def export_acme(registry: TenantRegistry) -> None:
    """Write a bundle."""
    await registry.export("acme", bundle_of(registry))


async def import_globex(registry: TenantRegistry) -> None:
    """Create a tenant from the bundle."""
    await registry.import_bundle("globex", bundle_of(registry))


async def make_application(registry: TenantRegistry) -> None:
    """Make a database of an application that has the tables of the company's pack."""
    with contextlib.closing(sqlite3.connect(registry.config.data_dir / "app.db")) as connection:
        for migration in COMPANY.migrations("sqlite"):
            connection.executescript(migration.sql)


async def adopt_globex(registry: TenantRegistry) -> None:
    """Create a tenant from the application's database."""
    at = {"company": len(COMPANY.migrations("sqlite"))}
    await registry.adopt("globex", registry.config.data_dir / "app.db", at=at)


async def snapshot_acme(registry: TenantRegistry) -> None:
    """Take a snapshot, and write more."""
    await registry.snapshots.create("acme")
    await registry.tenant("acme").messages.save(make_message("later"))


async def restore_acme(registry: TenantRegistry) -> None:
    """Restore the only snapshot."""
    (snapshot,) = await registry.snapshots.list("acme")
    await registry.snapshots.restore("acme", snapshot.id)


async def keep_file(registry: TenantRegistry) -> None:
    """Keep a copy of the database as a file, and write more."""
    await registry.export("acme", bundle_of(registry))
    with (
        tarfile.open(bundle_of(registry)) as bundle,
        (registry.config.data_dir / "acme.db").open("wb") as file,
    ):
        database = bundle.extractfile("tenant.db")
        assert database is not None
        shutil.copyfileobj(database, file)
    bundle_of(registry).unlink()
    await registry.tenant("acme").messages.save(make_message("later"))


async def make_restored(registry: TenantRegistry) -> None:
    """Be restored, and written to."""
    await snapshot_acme(registry)
    await restore_acme(registry)
    await registry.tenant("acme").messages.save(make_message("after the restore"))


CALLS: Final = {
    "create": Call(lambda registry: registry.create("globex", display_name="Globex")),
    "suspend": Call(on_acme("suspend", reason="unpaid")),
    "resume": Call(on_acme("resume"), on_acme("suspend")),
    "archive": Call(on_acme("archive", reason="quiet")),
    "unarchive": Call(on_acme("unarchive"), on_acme("archive")),
    "delete": Call(on_acme("delete", reason="ended")),
    "undelete": Call(on_acme("undelete"), on_acme("delete")),
    "purge": Call(on_acme("purge", force=True), on_acme("delete")),
    "rename": Call(on_acme("rename", "umbrella")),
    "quarantine": Call(on_acme("quarantine", reason="odd")),
    "repair": Call(
        on_acme("repair"),
        on_acme("quarantine", reason="an index is damaged"),
        lambda data_dir: damage_index(database_path(data_dir, "acme"), "messages_channel", b"general"),
    ),
    "clone": Call(lambda registry: registry.clone("acme", "globex", display_name="Globex")),
    "import_bundle": Call(import_globex, export_acme),
    "adopt": Call(adopt_globex, make_application),
    "restore": Call(restore_acme, snapshot_acme),
    "replace_file": Call(
        lambda registry: registry.snapshots.replace_file("acme", registry.config.data_dir / "acme.db"),
        keep_file,
    ),
    "undo_restore": Call(lambda registry: registry.snapshots.undo_restore("acme"), make_restored),
    "update": Call(on_acme("update", display_name="Acme Ltd.", deletion_protected=True)),
}
OF_SNAPSHOTS: Final = {"restore", "replace_file", "undo_restore"}
CREATING: Final = {"create", "clone", "import_bundle", "adopt"}
NO_LIFECYCLE_CALLS: Final = {
    *("open", "aclose", "get", "find", "list", "lease", "export", "check_catalog", "tenant_statistics"),
    *("backend_reports", "measurements", "tenant_owner"),
    "compare_database",
    *("move", "plan_move"),  # between two back ends: tests/tenancy/move
}
REFUSALS: Final = {
    TenantState.SUSPENDED: TenantSuspendedError,
    TenantState.ARCHIVED: TenantStateError,
    TenantState.QUARANTINED: TenantQuarantinedError,
    TenantState.DELETED: TenantDeletedError,
    TenantState.PURGED: TenantNotFoundError,
}
# What differs between two runs of the same call: chosen by chance or by the clock. Of the second, whether it is there counts.
BY_CHANCE: Final = ("uid", "created_at", "state_changed_at", "revision")
WHETHER: Final = ("purge_after", "restore_point", "snapshot_due_at")
# What is reported at any time, such as the registry's chores, or as often as the catalog had to be read: no call depends on it.
BACKGROUND: Final = {
    *("catalog.find", "catalog.find_many", "catalog.states", "catalog.to_purge", "catalog.under_way"),
    *("clock.keep", "fleet.expired", "fleet.live"),
}


def config(data_dir: Path) -> RegistryConfig:
    """Return settings for a small pool."""
    return config_of(data_dir, open_tenants_max=4)


class FaultPoints:
    """A hook that names what it is told, and calls `reached` with each name."""

    def __init__(self, reached: Callable[[str], object]) -> None:
        self._reached = reached
        self._seen: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        """Name the event, each call of a batch by itself: by its kind, what it is about, and how many of these there were."""
        abouts = [str(event.tenant_id)]
        if isinstance(event, OperationStepped):
            abouts = [event.step]
        elif isinstance(event, BatchFinished):  # which calls share one is a matter of chance
            abouts = [call.operation for call in event.calls if call.operation not in BACKGROUND]
        for about in abouts:
            name = f"{type(event).__name__} {about}"
            self._seen[name] += 1
            self._reached(f"{name} {self._seen[name]}")


async def make_call(data_dir: Path, name: str, reached: Callable[[str], object]) -> None:
    """Make a call of the table with a registry of its own, reporting its fault points."""
    async with TenantRegistry(config(data_dir)) as registry:
        registry.add_hook(FaultPoints(reached))
        await CALLS[name].run(registry)
        registry._parts.hooks._hooks.clear()


def call_until_killed(data_dir: str, name: str, fault_point: str) -> None:
    """Make a call of the table, and die at the fault point."""

    def reached(found: str) -> None:
        if found == fault_point:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(make_call(Path(data_dir), name, reached))


def snapshot(data_dir: Path) -> dict[str, Any]:
    """Return what a deployment holds, read without tenantry: tenants, databases, messages, and nothing that is by chance."""
    if url_of(data_dir) is not None:
        found: dict[str, Any] = dict(stored_messages(data_dir))
        found |= {tenant["id"]: _certain(tenant) for tenant in stored_tenants(data_dir)}
        return found
    return _snapshot_of_files(data_dir)


def _certain(tenant: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table of tenants without what is by chance."""
    tenant = tenant | {name: tenant[name] is not None for name in WHETHER}
    return {name: value for name, value in tenant.items() if name not in BY_CHANCE}


def _snapshot_of_files(data_dir: Path) -> dict[str, Any]:
    columns = [name for _, name, *_ in query(data_dir / "catalog.db", "PRAGMA table_info(tenants)")]
    paths = tenant_files(data_dir)
    logs = [path for path in paths if path.suffix in {".db-wal", ".db-shm"}]
    found: dict[str, Any] = {
        path: path.suffix == ".db" and query(data_dir / path, "SELECT content FROM messages ORDER BY seq")
        for path in paths
        # What restores replaced is as many files as there were restores, with names by chance.
        if path not in logs and "points" not in path.parts
    }
    for row in query(data_dir / "catalog.db", f"SELECT {', '.join(columns)} FROM tenants"):
        tenant = dict(zip(columns, row, strict=True))
        found[tenant["id"]] = _certain(tenant)
        # A write-ahead log that a crash left is the database's own matter, unless somebody was promised one file.
        assert tenant["state"] != TenantState.ARCHIVED or logs == []
    return found


async def prepare(data_dir: Path, name: str) -> None:
    """Make the data directory that a call of the table begins with."""
    async with TenantRegistry(config(data_dir)) as registry:
        await registry.create("acme")
        await registry.tenant("acme").messages.save(make_message("acknowledged"))
        await CALLS[name].prepare(registry)
    if url_of(data_dir) is None:  # an index of a server cannot be damaged from outside
        CALLS[name].damage(data_dir)


async def reopen(data_dir: Path, *works: Work) -> dict[str, Any]:
    """Do something with a new registry, close it, and return what is there then; nothing may be locked or under way."""
    async with TenantRegistry(config(data_dir)) as registry:
        for work in works:
            await work(registry)
    assert list((data_dir / "operations").iterdir()) == []
    found = snapshot(data_dir)
    assert [tenant for tenant in found.values() if isinstance(tenant, dict) and tenant["intent"]] == []
    return found


async def repeat(registry: TenantRegistry, *, name: str) -> None:
    """Make the call again; to one that creates, that it exists is done."""
    try:
        await CALLS[name].run(registry)
    except TenantExistsError:
        assert name in CREATING


async def check_audit(registry: TenantRegistry, *, name: str) -> None:
    """The call is in the audit, and the audit's chain holds."""
    verification = await registry.audit.verify()
    assert verification.is_intact, verification
    assert [
        entry
        for entry in await registry.audit.list()
        if (entry.action, entry.outcome) == (name.removesuffix("_bundle"), "ok")
    ]


async def check_use(registry: TenantRegistry) -> None:
    """Each tenant serves calls, or refuses them, as its state says."""
    for tenant in await registry.list():
        messages = registry.tenant(tenant.id).messages
        if tenant.state is TenantState.ACTIVE:
            before = await messages.get_history("general")
            await messages.save(make_message("used again"))
            assert len(await messages.get_history("general")) == len(before) + 1
        else:
            with pytest.raises(REFUSALS[tenant.state]):
                await messages.save(make_message())


@pytest.fixture(scope="module")
def forking() -> Iterator[WarmChild]:
    """The process whose children are killed."""
    with python(FORKING, Path(__file__)) as process:
        yield process


@pytest.fixture(params=["sqlite", "postgres"])
def made(request: pytest.FixtureRequest) -> Iterator[Deployments]:
    """What makes deployments: in files, and with a database on a server."""
    is_on_server = request.param == "postgres"
    with deployments(request.getfixturevalue("postgres_server") if is_on_server else None) as made:
        yield made


def kill_at_each(
    fault_points: list[str], name: str, before: Path, forking: WarmChild, made: Deployments
) -> list[tuple[Path, str]]:
    """Make the call once for each fault point, in a process that dies there, and return what that left."""
    data_dirs = [before.with_name(f"killed-{number}") for number in range(len(fault_points))]
    for data_dir, fault_point in zip(data_dirs, fault_points, strict=True):
        made.copy(before, data_dir)
        print(json.dumps([str(data_dir), name, fault_point]), file=forking.stdin)
    print(file=forking.stdin, flush=True)
    ended = {fault_point: status for *_, fault_point, status in (read_json(forking) for _ in fault_points)}
    assert ended == dict.fromkeys(fault_points, -signal.SIGKILL)
    return list(zip(data_dirs, fault_points, strict=True))


@pytest.mark.parametrize("name", CALLS)
async def test_killed_at_every_step(name: str, tmp_path: Path, forking: WarmChild, made: Deployments):
    """Wherever the process dies, the next registry finds the old or the new state, and the same call then succeeds."""
    before, done = tmp_path / "before", tmp_path / "done"
    made.make(before)
    await prepare(before, name)
    made.copy(before, done)
    fault_points: list[str] = []
    await make_call(done, name, fault_points.append)
    old, new = snapshot(before), snapshot(done)
    if made.is_on_server:  # each point needs a database, so only those between an operation's own steps
        fault_points = [point for point in fault_points if point.startswith("OperationStepped")]
    assert any("OperationStepped" in point for point in fault_points)
    for data_dir, fault_point in kill_at_each(fault_points, name, before, forking, made):
        found = await reopen(data_dir)
        assert found in (old, new), fault_point
        assert await reopen(data_dir, partial(repeat, name=name)) == new, fault_point
        await reopen(data_dir, partial(check_audit, name=name), check_use)


def test_the_table_has_every_call():
    """A lifecycle operation that is new is missed here until it has its line in the table."""
    public = {
        name
        for name, member in inspect.getmembers(TenantRegistry, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    assert public - NO_LIFECYCLE_CALLS == set(CALLS) - OF_SNAPSHOTS
