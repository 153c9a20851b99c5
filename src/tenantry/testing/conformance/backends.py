"""The conformance suite of `Backend`: the checks of `BACKEND_CHECKS`, each on an empty deployment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias

from tenantry.errors import (
    DatabaseCorruptError,
    PersistenceError,
    TenantOwnedElsewhereError,
    TenantryError,
)
from tenantry.eventlog import EventLog
from tenantry.ids import parse_tenant_id
from tenantry.limits import TenantLimits
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage import artifacts
from tenantry.storage.moves import follow
from tenantry.storage.protocol import Backend, Capability, LockTakenError, Place, Store
from tenantry.tenancy.catalog.catalog import CATALOG
from tenantry.testing.conformance.expectations import Checks, check_name, expect, expect_raised
from tenantry.threads import run_in_thread

MakeBackend: TypeAlias = Callable[[], Backend]
"""Returns a new back end that is not open. All back ends of one check share a deployment, like several processes."""

BackendCheck: TypeAlias = Callable[[MakeBackend, Path], Awaitable[None]]
"""A check of back ends on an empty deployment, with an empty directory for copies."""

_ACME: Final = parse_tenant_id("acme")
_UID: Final = "0123456789abcdef0123456789abcdef"
_OTHER_UID: Final = "fedcba9876543210fedcba9876543210"
_POINT: Final = "before-1"
_LOG: Final = EventLog()

_checks: Final = Checks[BackendCheck]()


async def check_backend(make_deployment: Callable[[], MakeBackend], directory: Path) -> None:
    """Run all checks, each on an empty deployment, with copies in the directory; the first failure raises."""
    for check in BACKEND_CHECKS:
        copies = directory / check_name(check)
        copies.mkdir()
        await check(make_deployment(), copies)


@asynccontextmanager
async def _opened(make_backend: MakeBackend) -> AsyncIterator[Backend]:
    backend = make_backend()
    await backend.open()
    try:
        # Like a registry, create the catalog first: if a back end finds tenants but no catalog, it assumes a lost catalog.
        catalog = backend.catalog(CATALOG, log=_LOG)
        await catalog.connect()
        await catalog.migrate()
        await catalog.disconnect()
        yield backend
    finally:
        await backend.aclose()


@asynccontextmanager
async def _connected(backend: Backend, place: Place, *, is_new: bool = False) -> AsyncIterator[Store]:
    store = backend.store(place, limits=TenantLimits(), log=_LOG, is_new=is_new)
    await store.connect()
    try:
        await store.migrate()
        yield store
    finally:
        await store.disconnect()


async def _place(backend: Backend, uid: str = _UID, taken: Sequence[str] = ()) -> Place:
    return Place(_ACME, uid, await backend.new_location(_ACME, taken))


async def _created(backend: Backend, *notes: str) -> Place:
    """Return the place of a new tenant with these notes."""
    place = await _place(backend)
    async with _connected(backend, place, is_new=True) as store:
        await _write(store, "CREATE TABLE notes (id INTEGER NOT NULL PRIMARY KEY, body TEXT NOT NULL)")
        for note in notes:
            await _add(store, note)
    return place


async def _write(store: Store, sql: str, *parameters: object) -> None:
    (outcome,) = await store.write([(Statement("conformance.write", sql, parameters),)])
    if isinstance(outcome, TenantryError):
        raise outcome


async def _add(store: Store, note: str) -> None:
    await _write(store, "INSERT INTO notes (id, body) SELECT count(*) + 1, ? FROM notes", note)


async def _notes_of(store: Store) -> list[str]:
    statement = Statement("conformance.read", "SELECT body FROM notes ORDER BY id", (), Fetch.ALL)
    (rows,) = await store.read([statement])
    if isinstance(rows, TenantryError):
        raise rows
    return [row[0] for row in rows]


async def _notes(backend: Backend, place: Place) -> list[str]:
    async with _connected(backend, place) as store:
        return await _notes_of(store)


async def _copied(backend: Backend, place: Place, path: Path) -> Path:
    async with _connected(backend, place) as store:
        await store.copy_to(path)
    return path


async def _staged(backend: Backend, place: Place, directory: Path) -> None:
    """Stage a copy of the tenant's notes for a restore, and then add a note to the tenant."""
    copy = await _copied(backend, place, directory / "copy.db")
    async with _connected(backend, place) as store:
        await _add(store, "newer")
    await backend.prepare(copy)
    await artifacts.make_durable(copy)
    await backend.points(place).stage(_POINT, copy)


async def _restored(backend: Backend, place: Place, directory: Path) -> None:
    await _staged(backend, place, directory)
    async with backend.exclusive(place) as closed:
        await closed.keep(_POINT, is_as_found=False)
        await closed.exchange(_POINT)


@_checks.add
async def check_says_what_it_is(make_backend: MakeBackend, _directory: Path) -> None:
    """A back end names its dialect and its capabilities, and its stores and its report name the same dialect."""
    async with _opened(make_backend) as backend:
        assert backend.dialect.isidentifier(), backend.dialect
        assert backend.capabilities <= set(Capability), backend.capabilities
        report = await backend.report()
        expect(report.backend, backend.dialect)
        assert report.version, report
        store = backend.store(await _place(backend), limits=TenantLimits(), log=_LOG, is_new=True)
        assert isinstance(store, Store)
        expect((store.backend, store.is_connected), (backend.dialect, False))


@_checks.add
async def check_open_and_close_are_idempotent(make_backend: MakeBackend, _directory: Path) -> None:
    """A second open or close is a no-op, and a back end that was never opened can be closed."""
    await make_backend().aclose()
    async with _opened(make_backend) as backend:
        await backend.open()
        place = await _created(backend, "one")
        expect(await _notes(backend, place), ["one"])
        await backend.aclose()


@_checks.add
async def check_locations(make_backend: MakeBackend, _directory: Path) -> None:
    """A new tenant never gets the location of an existing tenant or of a former tenant."""
    async with _opened(make_backend) as backend:
        first = await backend.new_location(_ACME, [])
        expect(await backend.new_location(_ACME, []), first)
        second = await backend.new_location(_ACME, [first])
        third = await backend.new_location(_ACME, [first, second])
        expect(len({first, second, third}), 3)
        await _created(backend)
        # This catalog does not list the database at this location, so the database belongs to another catalog's tenant.
        with expect_raised(PersistenceError):
            await backend.new_location(_ACME, [])


@_checks.add
async def check_a_missing_database_is_no_new_one(make_backend: MakeBackend, _directory: Path) -> None:
    """A store creates a database only for a new tenant; for any other tenant, a missing database raises an error."""
    async with _opened(make_backend) as backend:
        place = await _place(backend)
        store = backend.store(place, limits=TenantLimits(), log=_LOG)
        # A back end that several processes share cannot tell a lost database from one that another process has removed.
        with expect_raised(TenantryError):
            await store.connect()
        expect(store.is_connected, False)
        async with backend.exclusive(place) as closed:
            expect(await closed.exists(), False)
        expect(await backend.size_bytes(place), 0)


@_checks.add
async def check_a_database_knows_its_tenant(make_backend: MakeBackend, _directory: Path) -> None:
    """A database at a tenant's location that belongs to another tenant is refused and not changed."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one")
        store = backend.store(place._replace(uid=_OTHER_UID), limits=TenantLimits(), log=_LOG)
        with expect_raised(DatabaseCorruptError):
            await store.connect()
        expect(await _notes(backend, place), ["one"])


@_checks.add
async def check_exclusive_keeps_others_out(make_backend: MakeBackend, _directory: Path) -> None:
    """During exclusive work on a closed database, other processes can neither work on the database nor write to the database."""
    async with _opened(make_backend) as backend, _opened(make_backend) as other:
        place = await _created(backend, "one")
        async with backend.exclusive(place) as closed:
            expect(await closed.exists(), True)
            with expect_raised(TenantOwnedElsewhereError):
                async with other.exclusive(place, is_waited_for=False):
                    pass
            with expect_raised(TenantOwnedElsewhereError):
                async with _connected(other, place) as store:
                    await _add(store, "two")
        expect(await _notes(other, place), ["one"])


@_checks.add
async def check_exclusive_waits(make_backend: MakeBackend, _directory: Path) -> None:
    """Exclusive work waits until another process has closed the tenant, and sees that process's acknowledged writes."""
    async with _opened(make_backend) as backend, _opened(make_backend) as other, AsyncExitStack() as stack:
        place = await _created(backend, "one")
        store = await stack.enter_async_context(_connected(other, place))
        await _add(store, "two")
        if Capability.SHARED not in backend.capabilities:
            with expect_raised(TenantOwnedElsewhereError):
                async with backend.exclusive(place, is_waited_for=False):
                    pass

        async def check() -> None:
            async with backend.exclusive(place) as closed:
                await closed.check(is_thorough=True)

        waiting = asyncio.create_task(check())
        await stack.aclose()
        await waiting
        expect(await _notes(backend, place), ["one", "two"])


@_checks.add
async def check_exclusive_fences_off(make_backend: MakeBackend, _directory: Path) -> None:
    """If several processes may have a tenant open, exclusive work fences off every store that was connected before."""
    async with _opened(make_backend) as backend, _opened(make_backend) as other:
        if Capability.SHARED not in backend.capabilities:
            return
        place = await _created(backend, "one")
        async with _connected(other, place) as store, _connected(backend, place) as own:
            await _add(store, "two")
            async with backend.exclusive(place):
                for fenced in (store, own):
                    with expect_raised(TenantOwnedElsewhereError):
                        await _add(fenced, "three")
            with expect_raised(TenantOwnedElsewhereError):
                await _add(store, "four")
        expect(await _notes(other, place), ["one", "two"])


@_checks.add
async def check_locks(make_backend: MakeBackend, _directory: Path) -> None:
    """Among all processes a named lock has one holder at a time, and locks with different names are independent."""
    async with _opened(make_backend) as backend, _opened(make_backend) as other:
        for first, second in ((backend, other), (other, backend)):
            async with first.lock("job-1"):
                for holder in (first, second):
                    with expect_raised(LockTakenError):
                        async with holder.lock("job-1"):
                            pass
                async with second.lock("job-2"):
                    pass


@_checks.add
async def check_a_copy_becomes_a_tenant(make_backend: MakeBackend, directory: Path) -> None:
    """A copy describes its content, and can become the database of another tenant."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one", "two")
        copy = await _copied(backend, place, directory / "copy.db")
        report = await artifacts.check(copy, ())
        expect((report.tenant_uid, report.row_counts["notes"]), (_UID, 2))
        expect(await backend.prepare(copy), report.schema_versions)
        await artifacts.assign_to(copy, _OTHER_UID)
        new = await _place(backend, _OTHER_UID, [place.location])
        await backend.adopt(new, copy)
        async with backend.exclusive(new) as closed:
            expect(await closed.exists(), True)
        expect(await _notes(backend, new), ["one", "two"])
        expect(await _notes(backend, place), ["one", "two"])


@_checks.add
async def check_a_damaged_copy_is_refused(make_backend: MakeBackend, directory: Path) -> None:
    """A file that is not a database raises `DatabaseCorruptError`."""
    async with _opened(make_backend) as backend:
        path = directory / "copy.db"
        path.write_bytes(b"no database at all" * 1000)
        with expect_raised(DatabaseCorruptError):
            await backend.prepare(path)


@_checks.add
async def check_a_restore(make_backend: MakeBackend, directory: Path) -> None:
    """A restore replaces the database with the staged copy and keeps the old database; repeated steps change nothing."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one")
        await _restored(backend, place, directory)
        for _ in range(2):
            async with backend.exclusive(place) as closed:
                await closed.keep(_POINT, is_as_found=False)
                await closed.exchange(_POINT)
            expect(await _notes(backend, place), ["one"])
        points = backend.points(place)
        expect((await points.names(), await points.exists(_POINT)), ([_POINT], True))
        kept = directory / "kept.db"
        await points.copy_to(_POINT, kept)
        expect((await artifacts.check(kept, ())).row_counts["notes"], 2)


@_checks.add
async def check_a_restore_that_is_given_up(make_backend: MakeBackend, directory: Path) -> None:
    """A restore can be rolled back until the databases are exchanged, but not afterwards."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one")
        points = backend.points(place)
        expect(await points.has_begun(_POINT), False)
        await _staged(backend, place, directory)
        expect(await points.has_begun(_POINT), True)
        async with backend.exclusive(place) as closed:
            await closed.keep(_POINT, is_as_found=False)
            expect(await points.unstage(_POINT), True)
            await closed.exchange(_POINT)
        expect((await points.has_begun(_POINT), await points.names()), (False, []))
        expect(await _notes(backend, place), ["one", "newer"])
        again = directory / "again"
        again.mkdir()
        await _restored(backend, place, again)
        expect(await points.unstage(_POINT), False)
        expect(await _notes(backend, place), ["one", "newer"])


@_checks.add
async def check_a_restore_after_a_crash(make_backend: MakeBackend, directory: Path) -> None:
    """If a process dies between two steps of a restore, another process can finish the restore."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one")
        await _staged(backend, place, directory)
        async with backend.exclusive(place) as closed:
            await closed.keep(_POINT, is_as_found=False)
    async with _opened(make_backend) as other:
        expect(await other.points(place).has_begun(_POINT), True)
        async with other.exclusive(place) as closed:
            await closed.keep(_POINT, is_as_found=False)
            await closed.exchange(_POINT)
        expect(await _notes(other, place), ["one"])
        expect(await other.points(place).names(), [_POINT])


@_checks.add
async def check_restore_points(make_backend: MakeBackend, directory: Path) -> None:
    """Retention removes old restore points, keeps the newest, and ignores restore points that are dated in the future."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one")
        points = backend.points(place)
        names = [f"before-{number}" for number in range(1, 6)]
        for name in names:
            copy = await _copied(backend, place, directory / f"{name}.db")
            await backend.prepare(copy)
            await points.stage(name, copy)
            async with backend.exclusive(place) as closed:
                await closed.keep(name, is_as_found=False)
                await closed.exchange(name)
        expect(await points.names(), names)
        await points.remove_old("before-4", latest="before-4", kept_max=2)
        expect(await points.names(), ["before-3", "before-4", "before-5"])
        for _ in range(2):
            await points.remove("before-3")
        expect(await points.names(), ["before-4", "before-5"])
        expect(await points.exists("before-3"), False)


@_checks.add
async def check_a_copy_follows_its_original(make_backend: MakeBackend, directory: Path) -> None:
    """A copy of an open database gets the rows that are written after the copy; at the end neither has a trace of the move."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one", "two")
        original = backend.original(place)
        expect([one.refusal for one in await original.tables()], [None] * len(await original.tables()))
        async with backend.exclusive(place):
            tables = await original.install()
        copy = await _copied(backend, place, directory / "copy.db")
        await artifacts.assign_to(copy, _OTHER_UID)
        new = await _place(backend, _OTHER_UID, [place.location])
        await backend.adopt(new, copy)
        replica = backend.replica(new)
        copies = {one.name: one for one in await replica.suspend_rules()}
        pairs = [(one, copies[one.name]) for one in tables]
        async with _connected(backend, place) as store:
            await _add(store, "three")
            await _write(store, "DELETE FROM notes WHERE id = 1")
            await _write(store, "UPDATE notes SET id = 9 WHERE id = 2")
            async with original.connected(), replica.connected():
                done = await run_in_thread(
                    follow, original, replica, pairs, {}, is_open=True, is_counted=True
                )
        expect(done.keys, 4)
        async with backend.exclusive(place):
            await replica.restore_rules(await original.sequences(tables))
            await original.remove()
        await replica.validate_rules()
        expect(await original.counts(tables), await backend.original(new).counts(tables))
        for one in (place, new):
            expect(await _notes(backend, one), ["three", "two"])


@_checks.add
async def check_work_on_a_closed_database(make_backend: MakeBackend, _directory: Path) -> None:
    """A sound database passes all checks, and compaction and repair keep its content."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one", "two")
        async with backend.exclusive(place) as closed:
            await closed.check(is_thorough=False)
            await closed.check(is_thorough=True)
            expect(await closed.is_damaged(), False)
            await closed.compact()
            await closed.check_repairable()
            if Capability.REPAIR in backend.capabilities:
                await closed.repair()
        expect(await _notes(backend, place), ["one", "two"])
        assert await backend.size_bytes(place) > 0


@_checks.add
async def check_versions(make_backend: MakeBackend, _directory: Path) -> None:
    """`closed_versions` returns the same versions as the opened store, or None."""
    async with _opened(make_backend) as backend:
        place = await _created(backend)
        versions = await backend.closed_versions(place)
        async with _connected(backend, place) as store:
            assert versions in (None, (await store.migrate()).versions), versions


@_checks.add
async def check_removing(make_backend: MakeBackend, directory: Path) -> None:
    """`remove` deletes a database and its restore points; a second `remove` is a no-op. `locations` lists only databases."""
    async with _opened(make_backend) as backend:
        expect(await backend.locations(), set())
        place = await _created(backend, "one")
        await _restored(backend, place, directory)
        await _staged(backend, place, directory)
        expect(await backend.locations(), {place.location})
        for _ in range(2):
            async with backend.exclusive(place) as closed:
                await closed.remove()
                expect(await closed.exists(), False)
        expect(await backend.points(place).names(), [])
        expect(await backend.locations(), set())
        with expect_raised(TenantryError):
            await _notes(backend, place)


@_checks.add
async def check_the_catalog(make_backend: MakeBackend, directory: Path) -> None:
    """Several processes can have the catalog open, and each process sees the other processes' commits."""
    unused = make_backend()
    await unused.open()
    try:
        expect(await unused.has_catalog(), False)
    finally:
        await unused.aclose()
    async with _opened(make_backend) as backend, _opened(make_backend) as other:
        expect(await other.has_catalog(), True)
        stores = [each.catalog(CATALOG, log=_LOG) for each in (backend, other)]
        try:
            for store in stores:
                await store.connect()
                await store.migrate()
            first, second = stores
            await _write(first, "CREATE TABLE notes (id INTEGER NOT NULL PRIMARY KEY, body TEXT NOT NULL)")
            await _add(first, "one")
            await _add(second, "two")
            for store in stores:
                expect(await _notes_of(store), ["one", "two"])
            copy = directory / "copy.db"
            await first.copy_to(copy)
            expect((await artifacts.check(copy, ())).row_counts["notes"], 2)
        finally:
            for store in stores:
                await store.disconnect()


BACKEND_CHECKS: Final[Sequence[BackendCheck]] = tuple(_checks)
"""All checks, in reading order."""
