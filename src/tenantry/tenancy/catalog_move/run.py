"""Moves the catalog of a deployment as its settings name it, while no registry has the data directory open."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from tenantry.clock import Clock, SystemClock
from tenantry.config import POSTGRES, SQLITE, RegistryConfig
from tenantry.errors import DataDirectoryError, MigrationError, SettingsError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.backends import make_backends
from tenantry.storage.migrations import AppliedMigration, plan_migrations
from tenantry.storage.objects.protocol import LocalStorage
from tenantry.storage.protocol import Store
from tenantry.tenancy.catalog.actor import CATALOG_NAME
from tenantry.tenancy.catalog.catalog import CATALOG
from tenantry.tenancy.catalog_move.move import CatalogMover, CatalogMoveReport, Observer, Side
from tenantry.tenancy.data_directory import locked_alone
from tenantry.tenancy.snapshot_storage.location import default_location, recorded_location

_APPLIED: Final = Statement(
    "catalog_move.applied", "SELECT schema, version, checksum FROM schema_migrations", (), Fetch.ALL
)


async def move_catalog(
    config: RegistryConfig,
    to: str,
    *,
    is_dry_run: bool = False,
    by: str | None = None,
    clock: Clock | None = None,
    observer: Observer | None = None,
) -> CatalogMoveReport:
    """Move the catalog to another back end. Afterwards change the settings as `setting_after` says.

    Args:
        config: The settings, which name both back ends.
        to: The name of the back end: ``postgres`` for the database of ``TENANTRY_DATABASE``, ``sqlite`` for the data directory, or
            the name of another database. The catalog is moved from the back end that has the catalog by the settings; if that is
            `to`, from the data directory.
        is_dry_run: Whether to check only, and change nothing.
        by: The principal for the audit; by default the user that the process runs as.
        clock: A replacement for the system clock.
        observer: The functions to call on the way.

    Raises:
        BackendNotConfiguredError: The settings do not name the back end.
        SettingsError: The catalog is there already, or tenants would lose their back end.
        DataDirectoryError: A registry has the data directory open, or the directory has no catalog.
        SnapshotError, CatalogMovedError, PersistenceError: See `CatalogMover.move`.
    """
    clock, log = clock or SystemClock(), EventLog(store=CATALOG_NAME)
    backends = make_backends(config, (), clock=clock, log=log)
    backend_from, backend_to = backends.of(source_name(config, to)), backends.of(to)
    async with AsyncExitStack() as stack:
        for backend in {one.name: one for one in (backends.of(SQLITE), backend_from, backend_to)}.values():
            await backend.open()
            stack.push_async_callback(backend.aclose)
        stack.enter_context(locked_alone(config.data_dir))
        if not await backend_from.has_catalog():
            raise DataDirectoryError(
                f"{place_of(config, backend_from.name)} has no catalog, so there is nothing to move: check the settings",
                path=str(config.data_dir),
            )
        is_target_new = not await backend_to.has_catalog()
        stores = [backend.catalog(CATALOG, log=log) for backend in (backend_from, backend_to)]
        for store in stores[: 1 if is_dry_run and is_target_new else 2]:
            await stack.enter_async_context(_connected(store, is_migrated=not is_dry_run))
        sides = [
            Side(backend, store, place_of(config, backend.name))
            for backend, store in zip((backend_from, backend_to), stores, strict=True)
        ]
        mover = CatalogMover(*sides, clock=clock, observer=observer)
        return await (mover.look(is_target_new=is_target_new) if is_dry_run else mover.move(by=by))


def source_name(config: RegistryConfig, to: str) -> str:
    """Return the name of the back end from which the catalog is moved.

    Raises:
        SettingsError: The catalog is in the data directory already, by the settings.
    """
    if config.catalog_backend != to:
        return config.catalog_backend
    if to != SQLITE:
        return SQLITE
    raise SettingsError(
        "the settings have no TENANTRY_DATABASE, so the catalog is in the data directory already: to move the catalog from a database "
        "to the data directory, set TENANTRY_DATABASE to the address of the database"
    )


def place_of(config: RegistryConfig, name: str) -> str:
    """Return the place of a back end's catalog, for people; never a password."""
    if name == SQLITE:
        return str(config.data_dir / "catalog.db")
    return f"the database {config.all_databases[name].address}"


def has_storage_elsewhere(data_dir: Path) -> bool:
    """Return whether snapshots are kept outside of the data directory, where the storage names its owner.

    The owner is the data directory, or the database of the catalog. So the storage has another owner after a move of the catalog.
    """
    return recorded_location(data_dir) not in {None, LocalStorage(default_location(data_dir)).location}


def setting_after(report: CatalogMoveReport) -> str:
    """Return what to change in the settings after a move."""
    if report.to_backend == SQLITE:
        return "unset TENANTRY_DATABASE"
    if report.to_backend == POSTGRES:
        return f"keep TENANTRY_DATABASE with the address of {report.to_place}"
    return f"set TENANTRY_DATABASE to the address of {report.to_place}"


@asynccontextmanager
async def _connected(store: Store, *, is_migrated: bool) -> AsyncIterator[None]:
    """Connect a store for the block."""
    await store.connect()
    try:
        if is_migrated:
            await store.migrate()
        else:
            await _check_is_migrated(store)
        yield
    finally:
        await store.disconnect()


async def _check_is_migrated(store: Store) -> None:
    """Raise an error if the catalog is newer than the code, or lacks migrations, which a dry run does not apply.

    Raises:
        MigrationError: The catalog is newer or older than the code.
    """
    (outcome,) = await store.read([_APPLIED])
    if isinstance(outcome, TenantryError):
        raise outcome
    applied = [AppliedMigration(*row) for row in outcome]
    if plan_migrations([CATALOG], store.backend, applied, len(applied)):
        raise MigrationError(
            "an older version of tenantry wrote the catalog, and a dry run changes nothing: start a service of this version once, or "
            "move the catalog without --dry-run"
        )
