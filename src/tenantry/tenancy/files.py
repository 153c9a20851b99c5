"""A closed tenant's files, held by a lifecycle operation: nobody opens the database while it works on them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio

from tenantry.errors import TenantOwnedElsewhereError
from tenantry.files.durable_files import check_own_path
from tenantry.storage.sqlite.layout import TenantPaths, tenant_paths
from tenantry.storage.sqlite.ownership import FileOwnership
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.threads import run_in_thread

_LOOK_AGAIN_SECONDS: Final = 0.05


@asynccontextmanager
async def owned_files(
    tenant: TenantRecord, context: ActorContext, *, is_waited_for: bool = True
) -> AsyncIterator[TenantPaths]:
    """Hold the lock of a tenant that is closed here, and give its paths.

    Another process that has it open closes it when it sees the change in the catalog that the call made first, within
    ``catalog_poll_interval_seconds`` and the time that its calls take: that is waited for, ``call_timeout_seconds`` at most.

    Raises:
        TenantOwnedElsewhereError: The other process does not let it go.
        PersistenceConnectionError: The lock file cannot be opened.
        DataDirectoryError: A link leads to the files.
    """
    paths = tenant_paths(context.config.data_dir, tenant.location)
    await run_in_thread(partial(check_own_path, context.config.data_dir, paths.database))
    ownership = FileOwnership(paths.lock, tenant.uid, tenant.id)
    try:
        await _acquire(ownership, context, is_waited_for=is_waited_for)
        yield paths
    finally:
        # Also when cancelled: the thread that was to acquire it has done so by then. Whoever opens it next looks for
        # himself in which state it is.
        ownership.release(is_clean=False)


async def _acquire(ownership: FileOwnership, context: ActorContext, *, is_waited_for: bool) -> None:
    now = context.clock.monotonic_seconds
    deadline = now() + context.config.call_timeout_seconds
    while True:
        try:
            await run_in_thread(ownership.acquire)
        except TenantOwnedElsewhereError:
            if not is_waited_for or now() > deadline:
                raise
        else:
            return
        await anyio.sleep(_LOOK_AGAIN_SECONDS)
