"""The durable list of tenants, in a database of its own behind an actor of its own.

Several processes write it, so every change is one short transaction.
"""

import json
import secrets
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from tenantry.clock import as_text
from tenantry.errors import DuplicateRecordError, TenantExistsError
from tenantry.eventlog import EventLog
from tenantry.ids import TenantId, check_id_prefix
from tenantry.lifecycle import Permission, TenantEvent, TenantState, next_state, states_that_allow
from tenantry.pages import Page, decode_cursor, encode_cursor, page_rows
from tenantry.repository import placeholders
from tenantry.schema import Schema
from tenantry.statements import Fetch, Result, Sql, Statement
from tenantry.storage.protocol import Backend
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog.actor import CATALOG_NAME, CatalogActor
from tenantry.tenancy.catalog.audit import append_if
from tenantry.tenancy.catalog.authority import check_is_authorised
from tenantry.tenancy.catalog.cache import TenantCache
from tenantry.tenancy.catalog.rows import COLUMNS, ID_IN_JSON, INSERT, SELECT, after_prefix, from_row, to_row
from tenantry.tenancy.tenant_record import TenantRecord, not_found

T = TypeVar("T")

CATALOG: Final = Schema(name="catalog", package="tenantry.tenancy.catalog")
TENANT_ROWS_DEFAULT: Final = 100

_VALUES_MAX: Final = 500
"""How many values a list in a statement may have: one lookup must not keep others waiting for long."""


def _state_in(states: Collection[TenantState]) -> str:
    names = ", ".join(f"'{state}'" for state in states)
    return f"state IN ({names})"


_SERVED: Final = _state_in(states_that_allow(Permission.SERVE))
_BEGINNING: Final = _state_in(states_that_allow(TenantEvent.PROVISION))
_PURGEABLE: Final = _state_in(states_that_allow(TenantEvent.PURGE))
_GONE: Final = _state_in(set(TenantState) - set(states_that_allow(Permission.EXIST)))
_SERVED_BY_NUMBER: Final = f"""
SELECT uid FROM (SELECT uid, row_number() OVER (ORDER BY id) AS number FROM tenants WHERE {_SERVED}) AS numbered
"""  # noqa: S608  # our names


class Catalog:
    """Reads and changes the list of tenants.

    Args:
        backend: Keeps the catalog's database.
        context: Clock, settings and event hook; the limiters should be the catalog's own, so that no tenant's load delays it.
    """

    def __init__(self, backend: Backend, context: ActorContext) -> None:
        self._clock = context.clock
        log = EventLog(store=CATALOG_NAME)
        store = backend.catalog(CATALOG, log=log)
        self._change_token = store.change_token
        self._cache = TenantCache(store.change_token)
        self.changes = 0
        """How often this registry has changed tenants, or tried to: whoever caches their counts compares it."""
        self._actor = CatalogActor(CATALOG_NAME, store, context, log=log, on_failure=lambda _: None)

    async def open(self) -> None:
        """Open the file and migrate it.

        Raises:
            PersistenceError: It cannot be opened, or is newer than the code.
        """
        await self._actor.open()

    async def aclose(self, timeout_seconds: float) -> None:
        """Finish what was begun and close the file; idempotent."""
        await self._actor.aclose(timeout_seconds)

    async def insert(self, tenant: TenantRecord) -> None:
        """Add a tenant; the entry of a purged one makes way for it.

        Raises:
            TenantExistsError: Its id is taken.
        """
        insert = Statement("catalog.insert", INSERT, to_row(tenant))
        try:
            await self._write_tenants(_make_way("catalog.insert", tenant.id), insert)
        except DuplicateRecordError as error:
            raise TenantExistsError(f"tenant {tenant.id!r} exists already", tenant_id=tenant.id) from error

    async def find(self, tenant_id: TenantId) -> TenantRecord | None:
        """Return the tenant, or None; what any process committed before this call is seen.

        Raises:
            TenantNotFoundError: The call was authorised for another tenant, see `acting_under`.
        """
        statement = Statement("catalog.find", f"{SELECT} WHERE id = ?", (tenant_id,), Fetch.ONE)
        row = await self._actor.read(statement)
        tenant = None if row is None else from_row(row)
        if tenant is not None:
            check_is_authorised(tenant)
        return tenant

    async def get(self, tenant_id: TenantId) -> TenantRecord:
        """Return the tenant; what any process committed before this call is seen.

        Raises:
            TenantNotFoundError: No tenant has this id, or the call was authorised for another tenant.
        """
        tenant = self._cache.get(tenant_id)
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
        """Return a page of tenants in the order of their ids; purged ones only if that state is asked for.

        Raises:
            QueryError: `id_prefix`, `limit` or `cursor` is not one.
        """
        rows_max = page_rows(TENANT_ROWS_DEFAULT if limit is None else limit)
        after = "" if cursor is None else str(decode_cursor(CATALOG_NAME, cursor, str)[0])
        prefix = "" if id_prefix is None else check_id_prefix(id_prefix)
        # One lower bound: of two SQLite uses either, and may look through all that come before the prefix.
        conditions, parameters = (["id >= ?"], [prefix]) if prefix > after else (["id > ?"], [after])
        conditions.append(f"NOT {_GONE}" if state is None else "state = ?")
        if state is not None:
            parameters.append(state)
        if prefix:
            conditions.append("id < ?")
            parameters.append(after_prefix(prefix))
        where: str | Sql = " AND ".join(conditions)
        if tenant_ids is not None:
            where = where + " AND " + ID_IN_JSON
            parameters.append(json.dumps(tenant_ids))
        sql = f"{SELECT} WHERE " + where + " ORDER BY id LIMIT ?"
        rows = await self._actor.read(Statement("catalog.list", sql, (*parameters, rows_max + 1), Fetch.ALL))
        tenants = [from_row(row) for row in rows[:rows_max]]
        has_more = len(rows) > rows_max
        return Page(tenants, encode_cursor(CATALOG_NAME, tenants[-1].id) if has_more else None)

    async def find_by_uid(self, uid: str) -> TenantRecord | None:
        """Return the tenant with this stable key, whatever its id is now, or None."""
        statement = Statement("catalog.find_by_uid", f"{SELECT} WHERE uid = ?", (uid,), Fetch.ONE)
        row = await self._actor.read(statement)
        return None if row is None else from_row(row)

    async def locations(self, name: str) -> set[str]:
        """Return the tenants' locations that are `name`, or `name` with a counter: ``acme``, ``acme.1``."""
        sql = "SELECT location FROM tenants WHERE location = ? OR (location > ? AND location < ?)"
        parameters = (name, f"{name}.", f"{name}/")  # "/" is the character after "."
        rows = await self._actor.read(Statement("catalog.locations", sql, parameters, Fetch.ALL))
        return {name for (name,) in rows}

    async def to_purge(self, past: datetime, limit: int) -> Sequence[TenantRecord]:
        """Return deleted tenants whose grace period ended by `past`, those first that have waited the longest."""
        sql = f"{SELECT} WHERE purge_after <= ? AND {_PURGEABLE} ORDER BY purge_after, id LIMIT ?"
        parameters = (as_text(past), limit)
        return [
            from_row(row)
            for row in await self._actor.read(Statement("catalog.to_purge", sql, parameters, Fetch.ALL))
        ]

    async def by_snapshot_due(self, count: int) -> Sequence[TenantRecord]:
        """Return at most so many active tenants whose snapshot is due, or whose first moment is to be chosen."""
        sql = f"{SELECT} WHERE {_SERVED} ORDER BY snapshot_due_at NULLS FIRST, id LIMIT ?"
        rows = await self._actor.read(Statement("catalog.by_snapshot_due", sql, (count,), Fetch.ALL))
        now = self._clock.now()
        return [t for t in map(from_row, rows) if t.snapshot_due_at is None or t.snapshot_due_at <= now]

    async def by_snapshot_due_after(self, latest: datetime, count: int) -> Sequence[TenantRecord]:
        """Return at most so many active tenants whose snapshot is due only after a moment."""
        sql = f"{SELECT} WHERE {_SERVED} AND snapshot_due_at > ? ORDER BY snapshot_due_at, id LIMIT ?"
        parameters = (as_text(latest), count)
        statement = Statement("catalog.by_snapshot_due_after", sql, parameters, Fetch.ALL)
        return [from_row(row) for row in await self._actor.read(statement)]

    async def move_snapshot_due(self, tenant: TenantRecord, due_at: datetime) -> bool:
        """Move the moment of the tenant's next snapshot; return whether nobody else did since it was read."""
        before = () if tenant.snapshot_due_at is None else (as_text(tenant.snapshot_due_at),)
        is_as_read = "snapshot_due_at = ?" if before else "snapshot_due_at IS NULL"
        sql = f"UPDATE tenants SET snapshot_due_at = ? WHERE uid = ? AND {is_as_read}"  # noqa: S608  # our names
        parameters = (as_text(due_at), tenant.uid, *before)
        statement = Statement("catalog.move_snapshot_due", sql, parameters, Fetch.ROWCOUNT)
        return bool((await self._actor.write((statement,)))[0])

    async def sample(self, count: int) -> Sequence[TenantRecord]:
        """Return so many active tenants, drawn at random, in the order of their ids."""
        total = Statement("catalog.sample", f"SELECT count(*) FROM tenants WHERE {_SERVED}", (), Fetch.ONE)  # noqa: S608  # our names
        numbers = range(1, (await self._actor.read(total))[0] + 1)
        drawn = sorted(secrets.SystemRandom().sample(numbers, min(page_rows(count), len(numbers))))
        found: list[TenantRecord] = []
        for some in _in_chunks(drawn):
            sql = f"{SELECT} WHERE uid IN ({_SERVED_BY_NUMBER} WHERE number IN ({placeholders(some)})) ORDER BY id"
            rows = await self._actor.read(Statement("catalog.sample", sql, some, Fetch.ALL))
            found += map(from_row, rows)
        return found

    async def find_many(self, tenant_ids: Sequence[TenantId]) -> dict[TenantId, TenantRecord]:
        """Return those of the tenants that exist."""
        found: dict[TenantId, TenantRecord] = {}
        for some in _in_chunks(tenant_ids):
            sql = f"{SELECT} WHERE id IN ({placeholders(some)})"
            rows = await self._actor.read(Statement("catalog.find_many", sql, some, Fetch.ALL))
            found |= {tenant.id: tenant for tenant in map(from_row, rows)}
        return found

    async def apply(
        self,
        tenant: TenantRecord,
        event: TenantEvent,
        *,
        reason: str | None = None,
        audit: Statement | None = None,
        **changes: Any,
    ) -> TenantRecord:
        """Let `event` happen to the tenant and return it as it is then.

        Args:
            tenant: As it was read.
            event: One that happened before changes nothing but the reason and what `changes` says.
            reason: Why; of one that happened before, None leaves the reason that was given then.
            audit: What `tenantry.tenancy.catalog.audit.append` returned; the row is in the audit if the change took effect.
            changes: Other fields to change with it.

        Raises:
            TenantStateError: There is no such transition.
            StaleTenantError: Somebody changed it since it was read.
        """
        target = next_state(tenant.state, event, tenant_id=tenant.id, before_delete=tenant.state_before)
        if target is tenant.state:
            if reason is not None:
                changes["reason"] = reason
            changes = {name: value for name, value in changes.items() if getattr(tenant, name) != value}
            if not changes:
                return tenant
        else:
            changes = {
                "state": target,
                "reason": reason,
                "state_before": tenant.state if target.allows(TenantEvent.UNDELETE) else None,
                "state_changed_at": self._clock.now(),
                "purge_after": None,
                **changes,
            }
        return await self.change(tenant, audit=audit, **changes)

    async def change(
        self, tenant: TenantRecord, *, audit: Statement | None = None, **changes: Any
    ) -> TenantRecord:
        """Change fields of the tenant and return it as it is then: a compare-and-set on its revision.

        So of two processes that do opposite things at once, one wins and the other hears of it.

        Args:
            tenant: As it was read.
            audit: What `tenantry.tenancy.catalog.audit.append` returned; the row is in the audit if the change took effect.
            changes: Fields and their values; none appends the audit only.

        Raises:
            StaleTenantError: Somebody changed it since it was read.
            TenantExistsError: The new id is taken.
        """
        changed = tenant.model_copy(update={**changes, "revision": tenant.revision + 1})
        columns = (*changes, "revision")
        row = dict(zip(COLUMNS, to_row(changed), strict=True))
        where, key = "uid = ? AND revision = ?", (tenant.uid, tenant.revision)
        unit = []
        if "id" in changes:
            unit.append(_make_way("catalog.change", changed.id))
        if audit is not None:
            unit.append(append_if(f"EXISTS (SELECT 1 FROM tenants WHERE {where})", key, audit))  # noqa: S608  # our names
        sql = f"UPDATE tenants SET {' = ?, '.join(columns)} = ? WHERE {where}"  # noqa: S608  # our names
        parameters = (*(row[column] for column in columns), *key)
        unit.append(Statement("catalog.change", sql, parameters, Fetch.ROWCOUNT))
        try:
            results = await self._write_tenants(*unit)
        except DuplicateRecordError as error:
            raise TenantExistsError(f"tenant {changed.id!r} exists already", tenant_id=changed.id) from error
        if not results[-1]:
            raise StaleTenantError(tenant.id)
        return changed

    async def under_way(self) -> Sequence[TenantRecord]:
        """Return the tenants with a lifecycle operation that was begun and has not ended, here or anywhere."""
        found = []
        for where in ("intent IS NOT NULL", f"{_BEGINNING} AND intent IS NULL"):
            sql = f"{SELECT} WHERE {where} ORDER BY id"
            found += await self._actor.read(Statement("catalog.under_way", sql, (), Fetch.ALL))
        return [from_row(row) for row in found]

    async def remove(self, tenant: TenantRecord) -> None:
        """Forget a tenant that never came to life."""
        sql = "DELETE FROM tenants WHERE uid = ? AND state = ?"
        await self._write_tenants(Statement("catalog.remove", sql, (tenant.uid, tenant.state)))

    async def record_opened(self, tenant: TenantRecord, versions: dict[str, int], error: str | None) -> None:
        """Note the schema versions or the error of an opening, if they differ from what is known."""
        if tenant.schema_versions == versions and tenant.last_error == error:
            return
        sql = "UPDATE tenants SET schema_versions = ?, last_error = ? WHERE uid = ?"
        parameters = (json.dumps(versions, sort_keys=True), error, tenant.uid)
        await self._actor.write((Statement("catalog.record_opened", sql, parameters),))

    async def states(self) -> dict[TenantState, int]:
        """Return how many tenants are in each state."""
        statement = Statement("catalog.states", "SELECT state, count FROM tenant_states", (), Fetch.ALL)
        counts = dict(await self._actor.read(statement))
        return {state: counts.get(state, 0) for state in TenantState}

    async def changes_by_others(self) -> int:
        """Return a number that changes when another process has committed to the catalog."""
        return await self._actor.changes_by_others()

    async def check_writable(self) -> None:
        """Take the file's write lock and change nothing.

        Raises:
            PersistenceError: It cannot be written.
        """
        sql = "UPDATE tenant_states SET count = count WHERE 1 = 0"
        await self._actor.write((Statement("catalog.check_writable", sql),))

    async def read(self, statement: Statement) -> Result:
        """Run one reading statement, for the other tables of the catalog."""
        return await self._actor.read(statement)

    async def write(self, *statements: Statement) -> Sequence[Result]:
        """Run one unit, for the other tables of the catalog."""
        return await self._actor.write(statements)

    async def _write_tenants(self, *statements: Statement) -> Sequence[Result]:
        try:
            return await self._actor.write(statements)
        finally:
            self.changes += 1  # also if it failed: whether it was committed may be unknown


def _in_chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _VALUES_MAX):
        yield values[start : start + _VALUES_MAX]


class StaleTenantError(Exception):
    """The tenant was changed since it was read: read it again."""


def _make_way(operation: str, tenant_id: TenantId) -> Statement:
    """Return the statement that forgets a purged tenant, so that its id can be taken; not while it is being purged."""
    sql = f"DELETE FROM tenants WHERE id = ? AND {_GONE} AND intent IS NULL"  # noqa: S608  # our names
    return Statement(operation, sql, (tenant_id,))
