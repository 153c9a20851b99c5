"""Moving a tenant to another back end: what callers, operators and the files see of it."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from moves import Writers, east_of, with_east
from operators import bring_to, contents
from others import other_process
from registries import config
from tenantry import Schema, Statement, TenantLimits, TenantRecord, TenantRegistry, TenantState
from tenantry.company import COMPANY
from tenantry.doctor.tenants import owned_locations
from tenantry.errors import (
    BackendNotConfiguredError,
    DatabaseCorruptError,
    TenantBusyError,
    TenantDeletedError,
    TenantNotMovableError,
    TenantQuarantinedError,
    TenantryError,
)
from tenantry.events import Event, OperationStepped, TenantMoved
from tenantry.tenancy.move.phase import STEPS
from tenants import database_path, make_message, query, tenant_files


async def test_a_move_while_callers_write(data_dir: Path):
    """There and back: nothing that was acknowledged is lost or doubled, nobody gets an error, and the old place is empty."""
    events: list[Event] = []
    async with with_east(data_dir) as registry:
        registry.add_hook(events.append)
        before = await registry.create("acme")
        writers = Writers(registry.tenant("acme"))
        async with writers.at_work():
            for to in ("east", "sqlite"):
                await writers.until(200)
                moved = await registry.move("acme", to)
                assert (moved.backend, moved.uid, moved.intent) == (to, before.uid, None)
                await writers.until(200)
        await writers.check()
        assert tenant_files(east_of(data_dir)) == []
        steps = [
            event.step for event in events if isinstance(event, OperationStepped) and event.action == "move"
        ]
        assert steps == [*STEPS, *STEPS]
        reports = [event for event in events if isinstance(event, TenantMoved)]
        assert [(one.source, one.target) for one in reports] == [("sqlite", "east"), ("east", "sqlite")]
        assert all(0 < one.pause_seconds < one.duration_seconds for one in reports)
        [entry] = [one for one in await registry.audit.list() if one.action == "move"][:1]
        assert entry.detail.keys() >= {"to", "rows", "pause_seconds", "snapshot_id"}


async def test_what_moves_along(data_dir: Path):
    """Limits, snapshots and idempotency keys are those of before; restore points are gone with the old place."""
    async with with_east(data_dir) as registry:
        await registry.create("acme", display_name="Acme")
        await registry.update("acme", limits=TenantLimits(calls_in_flight_max=7))
        acme = registry.tenant("acme")
        once = make_message("once")
        await acme.idempotent("once").messages.save(once)
        taken = await registry.snapshots.create("acme")
        await acme.messages.save(make_message("later"))
        await registry.snapshots.restore("acme", taken.id)
        before = await registry.get("acme")
        moved = await registry.move("acme", "east")
        assert moved.model_copy(update={"revision": before.revision}) == before.model_copy(
            update={"backend": "east", "location": moved.location, "restore_point": None}
        )
        await acme.idempotent("once").messages.save(once)
        assert await contents(acme) == ["once"]
        snapshots = await registry.snapshots.list("acme")
        assert [one.trigger for one in snapshots if not one.id.startswith("before")] == ["move", "manual"]
        restored = await registry.snapshots.restore("acme", taken.id)
        assert restored.backend == "east"


@pytest.mark.parametrize("state", [TenantState.SUSPENDED, TenantState.ARCHIVED])
async def test_a_tenant_that_serves_no_calls(data_dir: Path, state: TenantState):
    """It moves without being opened, and keeps its state."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, state)
        moved = await registry.move("acme", "east")
        assert (moved.backend, moved.state) == ("east", state)
        await (registry.resume if state is TenantState.SUSPENDED else registry.unarchive)("acme")
        assert await contents(registry.tenant("acme")) == ["of acme"]


@pytest.mark.parametrize(
    ("state", "error"),
    [(TenantState.QUARANTINED, TenantQuarantinedError), (TenantState.DELETED, TenantDeletedError)],
)
async def test_states_that_refuse_a_move(data_dir: Path, state: TenantState, error: type[Exception]):
    """A quarantined tenant's files stay as they are, and a deleted tenant stays until it is purged or undeleted."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, state)
        before = await registry.get("acme")
        with pytest.raises(error):
            await registry.move("acme", "east")
        assert await registry.get("acme") == before


async def test_a_move_to_where_the_tenant_is(data_dir: Path):
    """A repeated request changes nothing; the audit says so."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.ACTIVE)
        moved = await registry.move("acme", "east")
        assert await registry.move("acme", "east") == moved
        [entry, *_] = await registry.audit.list()
        assert entry.detail == {"to": "east", "is_moved": False}


async def test_a_back_end_that_nobody_named(data_dir: Path):
    """It is refused before anything is done, with the setting that would name it."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.ACTIVE)
        with pytest.raises(BackendNotConfiguredError, match="west"):
            await registry.move("acme", "west")
        with pytest.raises(BackendNotConfiguredError, match="west"):
            await registry.plan_move("acme", "west")


async def test_a_table_without_a_primary_key(data_dir: Path):
    """The plan and the refusal name it; nothing was changed."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.ACTIVE)
        session = registry.tenant("acme")._session
        await session.write(Statement("test.create", "CREATE TABLE notes (text)"))
        plan = await registry.plan_move("acme", "east")
        assert (plan.source, plan.target, plan.size_bytes > 0) == ("sqlite", "east", True)
        assert {one.name: one.rows for one in plan.tables}["messages"] == 1
        assert plan.refusals == ("table 'notes' cannot be moved, because it has no primary key",)
        before = await registry.get("acme")
        with pytest.raises(TenantNotMovableError, match="'notes' cannot be moved") as raised:
            await registry.move("acme", "east")
        assert raised.value.tables == ("notes",)
        assert await registry.get("acme") == before


async def test_the_journal_is_not_for_callers(data_dir: Path):
    """Callers can write to it only through the tables that they know; a snapshot during a move has none."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.ACTIVE)
        acme, found = registry.tenant("acme"), asyncio.Event()
        refusals: list[Exception] = []

        async def meddle() -> None:
            await found.wait()
            for sql in ("DELETE FROM tenantry_journal_1", "DROP TRIGGER tenantry_journal_1_insert"):
                try:
                    await acme._session.write(Statement("test.meddle", sql))
                except Exception as error:  # noqa: BLE001  # looked at below
                    refusals.append(error)
            await registry.snapshots.create("acme")

        meddling = asyncio.create_task(meddle())
        registry.add_hook(lambda event: found.set() if getattr(event, "step", "") == "journaled" else None)
        await registry.move("acme", "east")
        await meddling
        assert [str(error).count("tenantry's own data") for error in refusals] == [1, 1]
        for snapshot in await registry.snapshots.list("acme"):
            assert not any("journal" in table for table in snapshot.row_counts)


def block_directory(data_dir: Path) -> None:
    """Put a file where the new place's directory would be."""
    shutil.rmtree(east_of(data_dir) / "tenants", ignore_errors=True)
    (east_of(data_dir) / "tenants").write_text("in the way")


def block_snapshots(data_dir: Path) -> None:
    """Put a file where the tenant's snapshots would be."""
    [snapshots] = (data_dir / "snapshots").glob("*")
    shutil.rmtree(snapshots)
    snapshots.write_text("in the way")


def remove_copy(data_dir: Path) -> None:
    """Remove the copy's files."""
    for path in tenant_files(east_of(data_dir)):
        (east_of(data_dir) / path).unlink()


def change_copy(data_dir: Path) -> None:
    """Remove a row from the copy."""
    with closing(sqlite3.connect(database_path(east_of(data_dir), "acme.1"))) as connection:
        connection.execute("DELETE FROM messages WHERE content = 'of acme'")
        connection.commit()


@pytest.mark.parametrize(
    ("step", "damage"),
    [
        ("begun", block_snapshots),
        ("journaled", block_directory),
        ("copied", block_directory),
        ("placed", remove_copy),
        ("placed", change_copy),
        ("caught_up", remove_copy),
    ],
)
async def test_a_failure_before_the_switch(data_dir: Path, step: str, damage: Callable[[Path], None]):
    """The original serves on as if nothing had been: no copy, no journal, no intent; the next move succeeds."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.ACTIVE)
        await registry.snapshots.create("acme")
        before = await registry.get("acme")
        armed = [step]

        def fail(event: Event) -> None:
            if isinstance(event, OperationStepped) and event.action == "move" and armed == [event.step]:
                armed.clear()
                damage(data_dir)

        registry.add_hook(fail)
        writers = Writers(registry.tenant("acme"), kept={-1: "of acme"})
        async with writers.at_work(2):
            await writers.until(20)
            with pytest.raises(TenantryError):
                await registry.move("acme", "east")
            await writers.until(20)
        await writers.check()
        for path in (east_of(data_dir) / "tenants", *(data_dir / "snapshots").glob("*")):
            if path.is_file():
                path.unlink()
        # The next operation removes a copy that could not be removed before.
        after = await registry.update("acme", display_name="acme")
        assert after == before.model_copy(update={"revision": after.revision})
        assert tenant_files(east_of(data_dir)) == []
        journal = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'tenantry_journal%'"
        assert query(database_path(data_dir, "acme"), journal) == [(0,)]
        assert (await registry.move("acme", "east")).backend == "east"
        await writers.check()


async def test_a_record_that_changes_during_the_switch(data_dir: Path):
    """The compare-and-set fails, so the move is rolled back, and begins again with the new record."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.ACTIVE)
        armed, steps = ["closed"], []

        def change(event: Event) -> None:
            if isinstance(event, OperationStepped) and event.action == "move":
                steps.append(event.step)
                if armed == [event.step]:
                    armed.clear()
                    query(data_dir / "catalog.db", "UPDATE tenants SET revision = revision + 1")

        registry.add_hook(change)
        assert (await registry.move("acme", "east")).backend == "east"
        assert steps == [*STEPS[:6], *STEPS]
        assert await contents(registry.tenant("acme")) == ["of acme"]


async def test_a_process_with_the_old_record(data_dir: Path):
    """It finds no database at the old place: the tenant is not quarantined, and its callers are served at the new place."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.SUSPENDED)
        await registry.resume("acme")
        old = await registry.get("acme")
        await registry.move("acme", "east")
        opener = registry._parts.tools.opener
        with pytest.raises(TenantBusyError, match="'acme' is busy with 'move'"):
            await opener._open(old, is_for_write=False)
        with pytest.raises(TenantBusyError):
            await opener.quarantine(old, DatabaseCorruptError("missing"))
        assert (await registry.get("acme")).state is TenantState.ACTIVE
        assert await contents(registry.tenant("acme")) == ["of acme"]


async def test_a_tenant_that_another_process_has_open(data_dir: Path):
    """The other process gives the tenant up, and its callers are served at the new place."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.SUSPENDED)
        await registry.resume("acme")
        with other_process(data_dir) as other:
            assert other.do("save", "acme", "of the other") == "ok"
            moved = await registry.move("acme", "east")
            assert (moved.backend, moved.intent) == ("east", None)


async def test_a_tenant_that_lacks_migrations(data_dir: Path, pack: Callable[..., Schema]):
    """It is migrated before its tables are looked at, so the move does not fail because of its own migration."""
    first, second = "CREATE TABLE notes (id INTEGER PRIMARY KEY)", "ALTER TABLE notes ADD COLUMN body TEXT"
    old, new = pack(first, name="notes"), pack(first, second, name="notes")
    async with TenantRegistry(config(data_dir), schemas=(COMPANY, old)) as registry:
        await registry.create("acme")
    async with with_east(data_dir, schemas=(COMPANY, new)) as registry:
        moved = await registry.move("acme", "east")
        assert (moved.backend, moved.schema_versions["notes"]) == ("east", 2)
        await registry.tenant("acme").execute("INSERT INTO notes (body) VALUES ('there')")


@pytest.mark.parametrize("step", STEPS[:7])
@pytest.mark.parametrize("timeout_seconds", [0.001, 5.0])
async def test_closing_the_registry_during_a_move(data_dir: Path, step: str, timeout_seconds: float):
    """The move ends, at the new place or at the old one; the next registry finds the tenant at one of them, whole."""
    async with with_east(data_dir, shutdown_timeout_seconds=timeout_seconds) as registry:
        await bring_to(registry, TenantState.ACTIVE)
        closing: list[asyncio.Task[None]] = []

        def close(event: Event) -> None:
            if isinstance(event, OperationStepped) and (event.action, event.step) == ("move", step):
                closing.append(asyncio.ensure_future(registry.aclose()))

        registry.add_hook(close)
        move = asyncio.ensure_future(registry.move("acme", "east"))
        await asyncio.wait([move])
        await asyncio.gather(*closing)
    async with with_east(data_dir) as registry:
        tenant = await registry.get("acme")
        assert tenant.intent is None
        assert tenant.backend == "east" if move.exception() is None else True
        assert await contents(registry.tenant("acme")) == ["of acme"]
        here, there = (data_dir, east_of(data_dir))[:: 1 if tenant.backend == "sqlite" else -1]
        assert tenant_files(there) == []
        journal = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'tenantry_journal%'"
        assert query(database_path(here, tenant.location), journal) == [(0,)]


async def test_old_snapshots_are_deleted(data_dir: Path):
    """The snapshot of a move counts towards the snapshots that are kept, as any other does."""
    async with with_east(data_dir, snapshots_kept_max=2) as registry:
        await registry.create("acme")
        for to in ("east", "sqlite", "east"):
            await registry.move("acme", to)
        assert [one.trigger for one in await registry.snapshots.list("acme")] == ["move", "move"]


async def test_the_doctor_knows_both_places(data_dir: Path):
    """During a move, and after a crash in it, neither place is taken for a leftover."""
    async with with_east(data_dir) as registry:
        await bring_to(registry, TenantState.ACTIVE)
        seen: list[TenantRecord] = []

        async def look() -> None:
            seen.append(await registry.get("acme"))

        tasks: list[asyncio.Task[None]] = []
        registry.add_hook(
            lambda event: (
                tasks.append(asyncio.ensure_future(look()))
                if getattr(event, "step", "") == "placed"
                else None
            )
        )
        moved = await registry.move("acme", "east")
        await asyncio.gather(*tasks)
    assert owned_locations(seen, {"sqlite"}) == {"acme"}
    assert owned_locations(seen, {"east"}) == {moved.location}
    assert owned_locations([moved], {"sqlite"}) == set()
