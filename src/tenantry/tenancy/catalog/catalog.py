"""The catalog: the durable list of tenants, in a separate database with its own actor.

Several processes write the catalog, so every change is one short transaction.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tenantry.clock import as_text
from tenantry.errors import DuplicateRecordError, TenantExistsError
from tenantry.eventlog import EventLog
from tenantry.ids import TenantId, check_id_prefix
from tenantry.lifecycle import Permission, TenantEvent, TenantState, next_state
from tenantry.pages import Page, decode_cursor, encode_cursor, page_rows
from tenantry.schemas.schema import Schema
from tenantry.sql.repository import placeholders
from tenantry.sql.statements import Fetch, Result, Statement
from tenantry.storage.protocol import Backend, Capability
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog import tenant_sql
from tenantry.tenancy.catalog.actor import CATALOG_NAME, CatalogActor
from tenantry.tenancy.catalog.authority import check_is_authorised
from tenantry.tenancy.catalog.cache import TenantCache
from tenantry.tenancy.catalog.changes import PolledChanges
from tenantry.tenancy.catalog.rows import SELECT, from_row
from tenantry.tenancy.tenant_record import TenantRecord, not_found

CATALOG: Final = Schema(name="catalog", package="tenantry.tenancy.catalog")
TENANT_ROWS_DEFAULT: Final = 100


class StaleTenantError(Exception):
    """The tenant was changed after its record was read: read the record again."""


class Catalog:
    """Reads and changes the list of tenants.

    Args:
        context: The clock, the settings, the event hook, and limiters for the catalog alone.
    """

    def __init__(self, backend: Backend, context: ActorContext) -> None:
        self._clock = context.clock
        log = EventLog(store=CATALOG_NAME)
        store = backend.catalog(CATALOG, log=log)
        self._polled = PolledChanges(self._clock.monotonic_seconds)
        self._is_polled = Capability.SHARED in backend.capabilities  # a database server has no change token
        self._change_token = self._polled.token if self._is_polled else store.change_token
        self._cache = TenantCache(self._change_token)
        self.changes = 0
        """The number of attempts of this registry to change a tenant; an increase makes cached counts stale."""
        self._actor = CatalogActor(CATALOG_NAME, store, context, log=log, on_failure=lambda _: None)

    async def open(self) -> None:
        """Open and migrate the catalog's database.

        Raises:
            CatalogMovedError: The catalog was moved to another database.
            PersistenceError: The database cannot be opened or migrated.
        """
        await self._actor.open()
        try:
            await self._actor.check_is_here()
        except BaseException:
            await self._actor.aclose(0.0)
            raise

    async def aclose(self, timeout_seconds: float) -> None:
        """Finish the accepted calls and close the database; idempotent."""
        await self._actor.aclose(timeout_seconds)

    async def insert(self, tenant: TenantRecord) -> None:
        """Add a tenant; a purged tenant with the same id is removed.

        Raises:
            TenantExistsError: Another tenant has the id.
        """
        try:
            await self._write_tenants(*tenant_sql.insert(tenant))
        except DuplicateRecordError as error:
            raise TenantExistsError(f"tenant {tenant.id!r} exists already", tenant_id=tenant.id) from error

    async def find(self, tenant_id: TenantId) -> TenantRecord | None:
        """Return the tenant, or None; the result includes all earlier commits of any process.

        Raises:
            TenantNotFoundError: The call was authorised for another tenant, see `acting_under`.
        """
        tenant = await self._read_one("catalog.find", "id = ?", tenant_id)
        if tenant is not None:
            check_is_authorised(tenant)
        return tenant

    async def get(self, tenant_id: TenantId) -> TenantRecord:
        """Return the tenant; the result includes all earlier commits of this process.

        The result includes another process's commit at once (SQLite), or after `UNPOLLED_SECONDS_MAX` at the latest; see `get_latest`.

        Raises:
            TenantNotFoundError: No tenant has this id, or the call was authorised for another tenant.
        """
        return await self._get(tenant_id, self._cache.get(tenant_id))

    async def get_latest(self, tenant_id: TenantId) -> TenantRecord:
        """Return the tenant; the result includes all earlier commits of any process. Raises like `get`."""
        return await self._get(tenant_id, None if self._is_polled else self._cache.get(tenant_id))

    async def _get(self, tenant_id: TenantId, cached: TenantRecord | None) -> TenantRecord:
        tenant = cached
        if tenant is None:
            token = self._change_token()
            tenant = await self.find(tenant_id)
            if tenant is not None:
                self._cache.add(tenant, token)
        if tenant is None or not tenant.state.allows(Permission.EXIST):
            raise not_found(tenant_id, tenant)
        check_is_authorised(tenant)
        return tenant

    async def list(
        self,
        *,
        state: TenantState | None = None,
        id_prefix: str | None = None,
        tenant_ids: Sequence[TenantId] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[TenantRecord]:
        """Return a page of tenants in the order of their ids; see `OperatorAPI.list`."""
        rows_max = page_rows(TENANT_ROWS_DEFAULT if limit is None else limit)
        after = "" if cursor is None else str(decode_cursor(CATALOG_NAME, cursor, str)[0])
        prefix = "" if id_prefix is None else check_id_prefix(id_prefix)
        statement = tenant_sql.list_page(after, prefix, state, tenant_ids, rows_max + 1)
        tenants = [from_row(row) for row in await self._actor.read(statement)]
        page = tenants[:rows_max]
        has_more = len(tenants) > rows_max
        return Page(page, encode_cursor(CATALOG_NAME, page[-1].id) if has_more else None)

    async def find_by_uid(self, uid: str) -> TenantRecord | None:
        """Return the tenant with this permanent key, even after a rename, or None."""
        return await self._read_one("catalog.find_by_uid", "uid = ?", uid)

    async def find_many(self, tenant_ids: Sequence[TenantId]) -> dict[TenantId, TenantRecord]:
        """Return a mapping of these ids to their tenants; unknown ids are ignored."""
        found: dict[TenantId, TenantRecord] = {}
        for chunk in tenant_sql.in_chunks(tenant_ids):
            where = f"id IN ({placeholders(chunk)})"
            found |= {one.id: one for one in await self._read_all("catalog.find_many", where, *chunk)}
        return found

    async def locations(self, name: str) -> set[str]:
        """Return the tenants' locations that are `name` with or without a counter: ``acme``, ``acme.1``."""
        return {location for (location,) in await self._actor.read(tenant_sql.locations(name))}

    async def to_purge(self, past: datetime, limit: int) -> Sequence[TenantRecord]:
        """Return deleted tenants whose grace period ended at or before the time `past`, in the order of these ends."""
        where = f"purge_after <= ? AND {tenant_sql.PURGEABLE} ORDER BY purge_after, id LIMIT ?"
        return await self._read_all("catalog.to_purge", where, as_text(past), limit)

    async def by_snapshot_due(self, count: int) -> Sequence[TenantRecord]:
        """Return at most `count` active tenants whose snapshot is due or that have no due time yet."""
        where = f"{tenant_sql.SERVED} ORDER BY snapshot_due_at NULLS FIRST, id LIMIT ?"
        tenants, now = await self._read_all("catalog.by_snapshot_due", where, count), self._clock.now()
        return [t for t in tenants if t.snapshot_due_at is None or t.snapshot_due_at <= now]

    async def by_snapshot_due_after(self, latest: datetime, count: int) -> Sequence[TenantRecord]:
        """Return at most `count` active tenants whose snapshot is due after `latest`."""
        where = f"{tenant_sql.SERVED} AND snapshot_due_at > ? ORDER BY snapshot_due_at, id LIMIT ?"
        return await self._read_all("catalog.by_snapshot_due_after", where, as_text(latest), count)

    async def move_snapshot_due(self, tenant: TenantRecord, due_at: datetime) -> bool:
        """Set the due time of the tenant's next snapshot; return False if the due time was changed after the tenant was read."""
        return bool((await self.write(tenant_sql.move_snapshot_due(tenant, due_at)))[0])

    async def sample(self, count: int) -> Sequence[TenantRecord]:
        """Return a random sample of at most `count` active tenants, in the order of their ids."""
        ((total,),) = await self._actor.read(tenant_sql.COUNT_SERVED)
        drawn = secrets.SystemRandom().sample(range(1, total + 1), min(page_rows(count), total))
        found: list[TenantRecord] = []
        for chunk in tenant_sql.in_chunks(sorted(drawn)):
            found += await self._read_all("catalog.sample", tenant_sql.has_number(chunk), *chunk)
        return found

    async def under_way(self) -> Sequence[TenantRecord]:
        """Return the tenants with a lifecycle operation that has started and not ended, in any process."""
        # Use two statements: each of them uses an index, but a single statement with OR would use none.
        begun = await self._read_all("catalog.under_way", "intent IS NOT NULL ORDER BY id")
        where = f"{tenant_sql.BEGINNING} AND intent IS NULL ORDER BY id"
        return [*begun, *await self._read_all("catalog.under_way", where)]

    async def apply(
        self,
        tenant: TenantRecord,
        event: TenantEvent,
        *,
        reason: str | None = None,
        audit: Statement | None = None,
        **changes: Any,
    ) -> TenantRecord:
        """Apply a lifecycle event to the tenant and return the changed tenant.

        Args:
            tenant: The tenant's record, as it was read.
            event: The event. If the event has already happened, only the reason and the fields of `changes` are changed.
            reason: The reason for the new state. If the event has already happened, None keeps the earlier reason. An undelete
                restores the reason that the tenant had before the deletion.
            audit: The statement that appends a row to the audit, see `tenantry.tenancy.catalog.audit.append`.
            changes: Other fields to change in the same transaction.

        Raises:
            TenantStateError: The event is not possible in the tenant's state.
            StaleTenantError: The tenant was changed after its record was read.
        """
        target = next_state(tenant.state, event, tenant_id=tenant.id, before_delete=tenant.state_before)
        if target is tenant.state:
            if reason is not None:
                changes["reason"] = reason
            changes = {name: value for name, value in changes.items() if getattr(tenant, name) != value}
            if not changes:
                return tenant
        else:
            can_undelete = target.allows(TenantEvent.UNDELETE)
            changes = {
                "state": target,
                "reason": tenant.reason_before if event is TenantEvent.UNDELETE else reason,
                "state_before": tenant.state if can_undelete else None,
                "reason_before": tenant.reason if can_undelete else None,
                "state_changed_at": self._clock.now(),
                "purge_after": None,
                **changes,
            }
        return await self.change(tenant, audit=audit, **changes)

    async def change(
        self, tenant: TenantRecord, *, audit: Statement | None = None, **changes: Any
    ) -> TenantRecord:
        """Change fields of the tenant if its revision is still ``tenant.revision``, and return the changed tenant.

        Args:
            tenant: The tenant's record, as it was read.
            audit: The statement that appends a row to the audit, see `tenantry.tenancy.catalog.audit.append`.
            changes: The fields and their new values; without fields, only the row of the audit is appended.

        Raises:
            StaleTenantError: The tenant was changed after its record was read.
            TenantExistsError: Another tenant has the new id.
        """
        changed = tenant.model_copy(update={**changes, "revision": tenant.revision + 1})
        try:
            results = await self._write_tenants(
                *tenant_sql.change(tenant, changed, (*changes, "revision"), audit)
            )
        except DuplicateRecordError as error:
            raise TenantExistsError(f"tenant {changed.id!r} exists already", tenant_id=changed.id) from error
        if not results[-1]:
            raise StaleTenantError(tenant.id)
        return changed

    async def remove(self, tenant: TenantRecord) -> None:
        """Remove a tenant whose creation failed."""
        await self._write_tenants(tenant_sql.remove(tenant))

    async def record_opened(self, tenant: TenantRecord, versions: dict[str, int], error: str | None) -> None:
        """Record the schema versions and the error of an opening if one of these differs from the tenant's record."""
        if tenant.schema_versions != versions or tenant.last_error != error:
            await self.write(tenant_sql.record_opened(tenant.uid, versions, error))

    async def states(self) -> dict[TenantState, int]:
        """Return the number of tenants in each state."""
        counts: dict[str, int] = dict(await self._actor.read(tenant_sql.COUNT_STATES))
        return {state: counts.get(state, 0) for state in TenantState}

    async def changes_by_others(self) -> int:
        """Return a number that changes when another process has committed to the catalog. The cache uses the number, too.

        Raises:
            CatalogMovedError: Another process has moved the catalog to another database.
        """
        began_at_seconds = self._clock.monotonic_seconds()
        changes = await self._actor.changes_by_others()
        if changes != self._polled.changes_by_others:
            await self._actor.check_is_here()
        self._polled.note_poll(changes, began_at_seconds=began_at_seconds)
        return changes

    async def check_writable(self) -> None:
        """Check that the catalog can be written: run a write transaction that changes nothing."""
        await self._actor.write((tenant_sql.CHECK_WRITABLE,))

    async def read(self, statement: Statement) -> Result:
        """Run one read-only statement on another table of the catalog."""
        return await self._actor.read(statement)

    async def write(self, *statements: Statement) -> Sequence[Result]:
        """Run statements on any table of the catalog as one atomic unit."""
        try:
            return await self._actor.write(statements)
        finally:
            self._polled.note_write()

    async def _read_all(self, name: str, where: str, *parameters: object) -> Sequence[TenantRecord]:
        statement = Statement(name, f"{SELECT} WHERE {where}", parameters, Fetch.ALL)
        return [from_row(row) for row in await self._actor.read(statement)]

    async def _read_one(self, name: str, where: str, key: str) -> TenantRecord | None:
        row = await self._actor.read(Statement(name, f"{SELECT} WHERE {where}", (key,), Fetch.ONE))
        return None if row is None else from_row(row)

    async def _write_tenants(self, *statements: Statement) -> Sequence[Result]:
        try:
            return await self.write(*statements)
        finally:
            self.changes += 1  # count failed writes too: a failed write may have been committed
