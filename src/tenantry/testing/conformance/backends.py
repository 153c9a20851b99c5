"""What a `Backend` promises: the checks of `BACKEND_CHECKS`, each on an empty place of its own."""

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
from tenantry.statements import Fetch, Statement
from tenantry.storage import artifacts
from tenantry.storage.protocol import Backend, Capability, LockTakenError, Place, Store
from tenantry.tenancy.catalog.catalog import CATALOG
from tenantry.testing.conformance.expectations import Checks, check_name, expect, expect_raised

MakeBackend: TypeAlias = Callable[[], Backend]
"""Returns a back end that is not open. All those that one check makes share their databases, like processes on one deployment."""

BackendCheck: TypeAlias = Callable[[MakeBackend, Path], Awaitable[None]]
"""A check. It is given back ends on an empty deployment, and an empty directory for copies."""

_ACME: Final = parse_tenant_id("acme")
_UID: Final = "0123456789abcdef0123456789abcdef"
_OTHER_UID: Final = "fedcba9876543210fedcba9876543210"
_POINT: Final = "before-1"
_LOG: Final = EventLog()

_checks: Final = Checks[BackendCheck]()


async def check_backend(make_deployment: Callable[[], MakeBackend], directory: Path) -> None:
    """Run every check, each on an empty deployment; the first that fails raises. Copies are made in the directory."""
    for check in BACKEND_CHECKS:
        copies = directory / check_name(check)
        copies.mkdir()
        await check(make_deployment(), copies)


@asynccontextmanager
async def _opened(make_backend: MakeBackend) -> AsyncIterator[Backend]:
    backend = make_backend()
    await backend.open()
    try:
        # As a registry does: tenants without a catalog are taken for a deployment whose catalog was lost.
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
    """Stage the tenant's present notes for a restore, and change the tenant then."""
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
    """It says what it is and what it can do, and its stores and its report say the same."""
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
    """A second call changes nothing, and a back end that was never opened can be closed."""
    await make_backend().aclose()
    async with _opened(make_backend) as backend:
        await backend.open()
        place = await _created(backend, "one")
        expect(await _notes(backend, place), ["one"])
        await backend.aclose()


@_checks.add
async def check_locations(make_backend: MakeBackend, _directory: Path) -> None:
    """A new tenant never gets a place that another one has, or had."""
    async with _opened(make_backend) as backend:
        first = await backend.new_location(_ACME, [])
        expect(await backend.new_location(_ACME, []), first)
        second = await backend.new_location(_ACME, [first])
        third = await backend.new_location(_ACME, [first, second])
        expect(len({first, second, third}), 3)
        await _created(backend)
        with expect_raised(
            PersistenceError
        ):  # the catalog that says that it is free is not the one that knows the tenant
            await backend.new_location(_ACME, [])


@_checks.add
async def check_a_missing_database_is_no_new_one(make_backend: MakeBackend, _directory: Path) -> None:
    """Only a tenant that is being created gets an empty database."""
    async with _opened(make_backend) as backend:
        place = await _place(backend)
        store = backend.store(place, limits=TenantLimits(), log=_LOG)
        with expect_raised(PersistenceError):
            await store.connect()
        expect(store.is_connected, False)
        async with backend.exclusive(place) as closed:
            expect(await closed.exists(), False)
        expect(await backend.size_bytes(place), 0)


@_checks.add
async def check_a_database_knows_its_tenant(make_backend: MakeBackend, _directory: Path) -> None:
    """A database of another tenant in the right place is refused, and not changed."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one")
        store = backend.store(place._replace(uid=_OTHER_UID), limits=TenantLimits(), log=_LOG)
        with expect_raised(DatabaseCorruptError):
            await store.connect()
        expect(await _notes(backend, place), ["one"])


@_checks.add
async def check_exclusive_keeps_others_out(make_backend: MakeBackend, _directory: Path) -> None:
    """While somebody works on a closed database nobody else can, and no write of anybody else is acknowledged."""
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
    """Another process that has the tenant open is waited for; what it acknowledged is there then."""
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
async def check_locks(make_backend: MakeBackend, _directory: Path) -> None:
    """A lock of one name is one holder's at a time, among all processes; those of other names are free."""
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
    """A copy says what it is; prepared and given to another tenant it is that tenant's database."""
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
    """What is no database is not prepared."""
    async with _opened(make_backend) as backend:
        path = directory / "copy.db"
        path.write_bytes(b"no database at all" * 1000)
        with expect_raised(DatabaseCorruptError):
            await backend.prepare(path)


@_checks.add
async def check_a_restore(make_backend: MakeBackend, directory: Path) -> None:
    """The staged database takes the other's place, which is kept whole; to repeat the steps changes nothing."""
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
    """Until the databases are exchanged everything can be taken back, and afterwards nothing."""
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
    """A process that dies between two steps leaves a restore that another one finishes."""
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
    """Old points go and the newest stays; those dated in the future neither count nor go; a removed one is gone."""
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
async def check_work_on_a_closed_database(make_backend: MakeBackend, _directory: Path) -> None:
    """A sound database is found sound, and compacting and repairing it keep what is in it."""
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
    """What is said of a closed database in passing is what the store says when it is opened, or nothing."""
    async with _opened(make_backend) as backend:
        place = await _created(backend)
        versions = await backend.closed_versions(place)
        async with _connected(backend, place) as store:
            assert versions in (None, (await store.migrate()).versions), versions


@_checks.add
async def check_removing(make_backend: MakeBackend, directory: Path) -> None:
    """A removed database is gone with its restore points, also if it was gone before."""
    async with _opened(make_backend) as backend:
        place = await _created(backend, "one")
        await _restored(backend, place, directory)
        for _ in range(2):
            async with backend.exclusive(place) as closed:
                await closed.remove()
                expect(await closed.exists(), False)
        expect(await backend.points(place).names(), [])
        with expect_raised(PersistenceError):
            await _notes(backend, place)


@_checks.add
async def check_the_catalog(make_backend: MakeBackend, _directory: Path) -> None:
    """The catalog is a store that several processes have open; each sees what another committed."""
    async with _opened(make_backend) as backend, _opened(make_backend) as other:
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
        finally:
            for store in stores:
                await store.disconnect()


BACKEND_CHECKS: Final[Sequence[BackendCheck]] = tuple(_checks)
"""Every check, for a parametrized test."""
