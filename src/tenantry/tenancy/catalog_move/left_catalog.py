"""Refuses to start a registry on a database's catalog while the data directory has the catalog of the tenants."""

from typing import Final

from tenantry.config import SQLITE, RegistryConfig
from tenantry.errors import DataDirectoryError, TenantryError
from tenantry.eventlog import EventLog
from tenantry.sql.statements import Fetch, Statement
from tenantry.storage.backends import Backends
from tenantry.storage.protocol import Store
from tenantry.tenancy.catalog.actor import CATALOG_NAME
from tenantry.tenancy.catalog.catalog import CATALOG
from tenantry.tenancy.catalog.place import READ

_TENANTS: Final = Statement(
    "catalog_move.tenants", "SELECT count(*) FROM tenants WHERE state <> 'purged'", (), Fetch.ONE
)


async def check_no_catalog_is_left(config: RegistryConfig, backends: Backends) -> None:
    """Raise an error if the data directory has a catalog with tenants, but the settings name a database for the catalog.

    The registry would not know these tenants, and would give their ids to others. A catalog that a move has left is no such catalog.

    Raises:
        DataDirectoryError: The data directory has a catalog with tenants.
        PersistenceError: The data directory's catalog cannot be read.
    """
    files = backends.of(SQLITE)
    if backends.catalog is files or not await files.has_catalog():
        return
    store = files.catalog(CATALOG, log=EventLog(store=CATALOG_NAME))
    await store.connect()
    try:
        count = await _count_tenants(store)
    finally:
        await store.disconnect()
    if count:
        raise DataDirectoryError(
            f"the data directory {config.data_dir} has a catalog with tenants ({count}), but TENANTRY_DATABASE names another place for the "
            "catalog: move the catalog there with 'tenantry catalog move --to postgres', or unset TENANTRY_DATABASE; if a process without "
            "this setting made these tenants by mistake, export them without it, and move catalog.db and their directories away",
            path=str(config.data_dir),
        )


async def _count_tenants(store: Store) -> int:
    """Return the number of tenants of the catalog; 0 if a move has left the catalog, or has not completed it."""
    move, tenants = await store.read([READ, _TENANTS])
    # An older catalog has no table of moves, so it was not moved; a catalog without any table has no tenants.
    if not isinstance(move, TenantryError) and move is not None:
        return 0
    return 0 if isinstance(tenants, TenantryError) else int(tenants[0])
