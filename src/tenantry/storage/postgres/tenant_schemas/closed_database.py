"""Works on the schema of a tenant that is closed, under a lock that keeps the stores of all processes out; see `locks`."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import Connection

from tenantry.errors import DatabaseCorruptError, TenantOwnedElsewhereError, UnsupportedByBackend
from tenantry.storage.postgres.connections import locks
from tenantry.storage.postgres.connections.lifecycle_tools import LifecycleTools
from tenantry.storage.postgres.connections.locks import tenant_key
from tenantry.storage.postgres.copies.new_schema import drop_schema
from tenantry.storage.postgres.copies.schema_check import check_schema
from tenantry.storage.postgres.quoting import quoted
from tenantry.storage.postgres.tenant_schemas.layout import free_point_schema, is_point_schema, staged_schema
from tenantry.storage.postgres.tenant_schemas.restore_points import (
    has_owner,
    read_schemas,
    rename_schema,
    set_comment,
)
from tenantry.storage.postgres.tenant_schemas.roles import drop_statement
from tenantry.storage.protocol import Capability, LockTakenError, Place

_MISSING: Final = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)


class PostgresClosedDatabase:
    """See `ClosedDatabase`.

    Args:
        tools: The tools of the database.
        place: The place of the tenant.
        backend: The back end's name, for errors.
        epoch: The epoch that this holder of the lock has raised; None if the schema has no owner's row of the tenant.
    """

    def __init__(self, tools: LifecycleTools, place: Place, *, backend: str, epoch: int | None) -> None:
        self._tools = tools
        self._place = place
        self._backend = backend
        self._epoch = epoch

    async def exists(self) -> bool:
        """Return whether the schema has a tenant's database; see `ClosedDatabase.exists`."""
        return await self._tools.work.run("cannot read the schemas", has_owner, self._place.location)

    async def check(self, *, is_thorough: bool) -> None:
        """Check the schema; see `check_schema`."""
        await self._tools.copies.run(
            f"cannot check the schema {self._place.location}",
            check_schema,
            self._place.location,
            self._place.uid,
            self._tools.schemas,
            is_thorough=is_thorough,
        )

    async def is_damaged(self) -> bool:
        """Check the schema again; see `ClosedDatabase.is_damaged`."""
        try:
            await self.check(is_thorough=True)
        except DatabaseCorruptError:
            return True
        return False

    async def compact(self) -> None:
        """Do nothing: the server's autovacuum frees the space of deleted rows for new ones."""

    async def check_repairable(self) -> None:
        """Do nothing: a schema has no files that could come from two databases."""

    async def repair(self) -> None:
        """Check the schema. A sound tenant can be served again, for example after a failed migration was corrected.

        Raises:
            UnsupportedByBackend: The schema is damaged.
        """
        try:
            await self.check(is_thorough=True)
        except DatabaseCorruptError as error:
            raise UnsupportedByBackend(
                f"tenant {self._place.tenant_id!r}: {error}: tenantry cannot repair a damaged schema: restore a snapshot, or run REINDEX "
                "on the server if only indexes are damaged",
                capability=Capability.REPAIR,
                backend=self._backend,
            ) from error

    async def keep(self, point: str, *, is_as_found: bool) -> None:
        """Do nothing: `exchange` renames the schema, which keeps it."""

    async def exchange(self, point: str) -> None:
        """Rename the tenant's schema and the staged schema in one transaction; see `ClosedDatabase.exchange`."""
        await self._tools.work.run(
            f"cannot exchange the schema {self._place.location}",
            _exchange,
            self._tools,
            self._place,
            point,
            self._epoch,
        )

    async def remove(self) -> None:
        """Drop the tenant's schemas; see `ClosedDatabase.remove`."""
        await self._tools.work.run(
            f"cannot drop the schema {self._place.location}", _remove, self._tools, self._place, self._epoch
        )


@asynccontextmanager
async def closed_database(
    tools: LifecycleTools, place: Place, *, backend: str, is_waited_for: bool
) -> AsyncIterator[PostgresClosedDatabase]:
    """Hold the tenant's lock during the block, and fence off all stores that were connected before; see `Backend.exclusive`."""
    wait_seconds = tools.wait_seconds_max if is_waited_for else locks.SHARED_SECONDS_MAX
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(
                locks.held(tools.exclusives, tenant_key(place.uid), wait_seconds=wait_seconds)
            )
        except LockTakenError as error:
            raise _owned_elsewhere(
                place, "an operation of another process keeps the tenant closed"
            ) from error
        epoch = await tools.work.run(
            f"cannot take over the schema {place.location}", _raise_epoch, tools, place
        )
        yield PostgresClosedDatabase(tools, place, backend=backend, epoch=epoch)


def _raise_epoch(connection: Connection[tuple[Any, ...]], tools: LifecycleTools, place: Place) -> int | None:
    """Raise the epoch, which fences off all stores, and return it; None if the schema is missing or belongs to another tenant."""
    table = quoted(place.location, "tenantry_owner")
    update = f"UPDATE {table} SET epoch = epoch + 1 WHERE id = 1 AND tenant_uid = %s RETURNING epoch"  # noqa: S608
    try:
        with connection.transaction():
            tools.limit_waiting(connection)
            row = connection.execute(update.encode(), (place.uid,)).fetchone()
    except _MISSING:
        return None
    except psycopg.errors.LockNotAvailable as error:
        raise _owned_elsewhere(place, "a transaction of another process is still running") from error
    return None if row is None else int(row[0])


def _exchange(
    connection: Connection[tuple[Any, ...]],
    tools: LifecycleTools,
    place: Place,
    point: str,
    epoch: int | None,
) -> None:
    """Make the staged schema the tenant's, and the tenant's schema the restore point; a no-op if nothing is staged."""
    location = place.location
    staged = staged_schema(location)
    with connection.transaction():
        tools.limit_waiting(connection)
        schemas = read_schemas(connection, location)
        if schemas.get(staged) != point:
            return
        _lock_owner(connection, place, epoch)
        kept = free_point_schema(location, schemas)
        if location in schemas:
            rename_schema(connection, location, kept)
        else:
            # The empty schema shows after a crash that the exchange was done.
            connection.execute(f"CREATE SCHEMA {quoted(kept)}".encode())
        set_comment(connection, kept, point)
        _set_epoch(connection, staged, epoch)
        rename_schema(connection, staged, location)
        set_comment(connection, location, None)


def _remove(
    connection: Connection[tuple[Any, ...]], tools: LifecycleTools, place: Place, epoch: int | None
) -> None:
    """Drop the tenant's schema, then what is beside it. After a crash in between the next call drops the rest.

    A schema that belongs to another tenant stays: another deployment may have made it after this one found the name free.
    """
    with connection.transaction():
        tools.limit_waiting(connection)
        _lock_owner(connection, place, epoch)
        if not _is_anothers(connection, place.location, place.uid):
            connection.execute(f"DROP SCHEMA IF EXISTS {quoted(place.location)} CASCADE".encode())
    for schema in read_schemas(connection, place.location):
        is_beside = schema == staged_schema(place.location) or is_point_schema(place.location, schema)
        if is_beside and not _is_anothers(connection, schema, place.uid):
            drop_schema(connection, tools, schema)
    if tools.config.roles:
        connection.execute(drop_statement(place.uid).encode())


def _lock_owner(connection: Connection[tuple[Any, ...]], place: Place, epoch: int | None) -> None:
    """Lock the owner's row until the transaction ends, so that no write is under way.

    Raises:
        TenantOwnedElsewhereError: Another holder has raised the epoch: this process has lost its lock without noticing.
    """
    if epoch is None:
        return
    table = quoted(place.location, "tenantry_owner")
    select = f"SELECT FROM {table} WHERE id = 1 AND tenant_uid = %s AND epoch = %s FOR UPDATE"
    if connection.execute(select.encode(), (place.uid, epoch)).fetchone() is None:
        raise _owned_elsewhere(place, "another process has taken the tenant over")


def _is_anothers(connection: Connection[tuple[Any, ...]], schema: str, uid: str) -> bool:
    """Return whether the schema has the owner's row of another tenant. A missing or damaged schema is nobody's."""
    if not has_owner(connection, schema):
        return False
    table = quoted(schema, "tenantry_owner")
    select = f"SELECT FROM {table} WHERE id = 1 AND tenant_uid <> %s"  # quoted
    return connection.execute(select.encode(), (uid,)).fetchone() is not None


def _set_epoch(connection: Connection[tuple[Any, ...]], schema: str, epoch: int | None) -> None:
    """Give the restored database an epoch that no store has seen.

    The operation has raised the epoch, so a store that was connected before has a smaller one. If the replaced schema has no epoch,
    the time is the epoch: epochs count operations, so none has reached it.
    """
    table = quoted(schema, "tenantry_owner")
    update = f"UPDATE {table} SET epoch = greatest(epoch + 1, coalesce(%s, extract(epoch FROM now())::bigint)) WHERE id = 1"  # noqa: S608
    connection.execute(update.encode(), (epoch,))


def _owned_elsewhere(place: Place, why: str) -> TenantOwnedElsewhereError:
    return TenantOwnedElsewhereError(
        f"tenant {place.tenant_id!r}: {why}: try again", tenant_id=place.tenant_id, pid=None, host=None
    )
