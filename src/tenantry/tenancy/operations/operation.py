"""One operation on a tenant, with the methods that its steps use; see `tenantry.tenancy.operations.runner`."""

from collections.abc import AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from datetime import datetime
from typing import Any, Protocol

import anyio

from tenantry.clock import as_text
from tenantry.errors import PersistenceConnectionError, RevisionError, TenantryError
from tenantry.events import OperationStepped
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission, TenantEvent, TenantState
from tenantry.sql.statements import Statement
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog import audit
from tenantry.tenancy.catalog.catalog import Catalog, StaleTenantError
from tenantry.tenancy.tenant_record import Intent, TenantRecord, not_found


class OperationHost(Protocol):
    """The part of `tenantry.tenancy.operations.runner.OperationRunner` that operations use."""

    catalog: Catalog
    context: ActorContext

    def lock(self, tenant: TenantRecord, action: str) -> AbstractAsyncContextManager[None]:
        """Exclude other operations on the tenant, in all processes."""

    def preparing(self) -> AbstractContextManager[None]:
        """Allow the registry's shutdown to cancel the block."""

    def leave_unfinished(self, tenant: TenantRecord, action: str, outcome: str) -> None:
        """Record that a failed operation must be finished later."""

    async def finish_leftover(self, tenant: TenantRecord, *, by: str) -> None:
        """Finish the operation of a process that died."""


class Operation:
    """One running operation on a tenant.

    Args:
        expected_revision: The revision that the tenant must have; None to accept any revision.
        last_outcome: The outcome of the last attempt, if this operation is a retry; a repeated failure is audited only once.
    """

    def __init__(
        self,
        runner: OperationHost,
        tenant_id: TenantId,
        action: str,
        detail: dict[str, Any],
        *,
        principal: str,
        expected_revision: int | None = None,
        last_outcome: str | None = None,
    ) -> None:
        self._runner = runner
        self._catalog = runner.catalog
        self._expected_revision = expected_revision
        self.tenant_id = tenant_id
        self.action = action
        self.detail = detail
        self.principal = principal
        self.last_outcome = last_outcome
        self.tenant_uid: str | None = None
        self.intent: Intent | None = None
        self.outcome = "ok"
        self.is_audited = False

    def lock(self, tenant: TenantRecord) -> AbstractAsyncContextManager[None]:
        """Exclude other operations on the tenant during the block. `begun` takes this lock too."""
        return self._runner.lock(tenant, self.action)

    def preparing(self) -> AbstractContextManager[None]:
        """Allow the registry's shutdown to cancel the block; see `OperationRunner.preparing`."""
        return self._runner.preparing()

    def owns(self, tenant: TenantRecord | None) -> bool:
        """Return whether the record has this operation's intent.

        If this process loses the tenant's lock, for example because it was paused, another process finishes the operation, and the
        tenant's next operation may have begun.
        """
        mine, found = self.intent, None if tenant is None else tenant.intent
        return (
            mine is not None
            and found is not None
            and (found.action, found.begun_at) == (mine.action, mine.begun_at)
        )

    def check_revision(self, tenant: TenantRecord) -> None:
        """Raise `RevisionError` if the tenant has another revision than the caller expected."""
        expected = self._expected_revision
        if expected is not None and expected != tenant.revision:
            raise RevisionError(
                f"tenant {tenant.id!r} was changed in the meantime: its revision is {tenant.revision}, not {expected}; read it again",
                tenant_id=tenant.id,
                revision=expected,
                current_revision=tenant.revision,
            )

    async def recover(self) -> TenantRecord | None:
        """Finish an operation on the tenant that a dead process left unfinished, and return the tenant.

        Returns:
            The tenant, in any state; None if no tenant has the id.

        Raises:
            TenantBusyError: Another operation on the tenant is running.
        """
        tenant = await self._catalog.find(self.tenant_id)
        if tenant is not None and tenant.is_under_way:
            await self._runner.finish_leftover(tenant, by=self.principal)
            tenant = await self._catalog.find(self.tenant_id)
        if tenant is not None:
            self.tenant_uid = tenant.uid
        return tenant

    async def find(self) -> TenantRecord | None:
        """Return the operation's tenant, in any state, or None. Also raises the errors of `recover`.

        Raises:
            RevisionError: The tenant has another revision than the caller expected.
        """
        tenant = await self.recover()
        if tenant is not None:
            self.check_revision(tenant)
        return tenant

    async def get(self) -> TenantRecord:
        """Return the operation's tenant. Also raises the errors of `find`.

        Raises:
            TenantNotFoundError: The tenant does not exist, or was purged.
        """
        tenant = await self.find()
        if tenant is None or not tenant.state.allows(Permission.EXIST):
            raise not_found(self.tenant_id)
        return tenant

    async def apply(
        self, tenant: TenantRecord, event: TenantEvent, *, reason: str | None = None, **changes: Any
    ) -> TenantRecord:
        """Apply a lifecycle event to the tenant, and audit the change; see `Catalog.apply`."""
        changed = await self._catalog.apply(tenant, event, reason=reason, audit=self.audited("ok"), **changes)
        if changed is not tenant:
            self.is_audited = True
            self.step(changed.state.value)
        return changed

    async def change(self, tenant: TenantRecord, **changes: Any) -> TenantRecord:
        """Change fields of the tenant's record, and audit the change; see `Catalog.change`."""
        changed = await self._catalog.change(tenant, audit=self.audited("ok"), **changes)
        self.is_audited = True
        self.step("changed")
        return changed

    @asynccontextmanager
    async def begun(
        self,
        tenant: TenantRecord,
        event: TenantEvent | None = None,
        *,
        reason: str | None = None,
        arguments: dict[str, str | None] | None = None,
        is_reversible: bool = True,
        is_locked: bool = False,
    ) -> AsyncIterator[TenantRecord]:
        """Write the intent to the catalog, and yield the changed tenant; the block must end with `complete`.

        If the block raises, the record is rolled back and the intent is cleared; a block that raises must not have changed the
        database. If the block is cancelled, the intent stays, and the tenant's next operation finishes this operation.

        Args:
            tenant: The tenant, as read from the catalog.
            event: A lifecycle event to apply with the intent, so that the tenant serves no calls during the operation.
            reason: The reason for the event.
            arguments: The data needed to finish the operation after a crash.
            is_reversible: Whether to roll back a failed operation. An irreversible operation keeps its intent until finished.
            is_locked: Whether the caller holds the tenant's `lock` already.

        Raises:
            TenantBusyError: Another operation on the tenant is running.
            StaleTenantError: The tenant was changed after it was read.
        """
        async with nullcontext() if is_locked else self.lock(tenant):
            intent = Intent(
                action=self.action,
                arguments={**(arguments or {}), **_before(tenant), "begun_by": self.principal},
                begun_at=self._runner.context.clock.now(),
            )
            if event is None:
                under_way = await self._catalog.change(tenant, intent=intent)
            else:
                under_way = await self._catalog.apply(tenant, event, reason=reason, intent=intent)
            self.intent = intent
            self.step("begun")
            try:
                yield under_way
            except Exception as error:
                if is_reversible:
                    with anyio.CancelScope(shield=True):
                        await self.take_back(under_way)
                else:
                    # The runner raises PersistenceConnectionError for an OSError.
                    known = error if isinstance(error, TenantryError) else PersistenceConnectionError
                    self._runner.leave_unfinished(under_way, self.action, known.outcome)
                raise

    async def complete(self, tenant: TenantRecord, **changes: Any) -> TenantRecord:
        """Clear the intent, make the last changes of the record, and audit the operation, in one transaction."""
        changed = await self._clear_intent(tenant, **changes)
        self.step("finished")
        return changed

    async def take_back(self, tenant: TenantRecord) -> None:
        """Roll back the tenant's record; the operation is audited with the outcome ``taken_back``."""
        self.outcome = "taken_back"
        while True:
            latest = await self._catalog.find_by_uid(tenant.uid)
            if latest is None or latest.intent is None or not self.owns(latest):
                return
            with suppress(StaleTenantError):
                await self._catalog.change(latest, intent=None, **_as_before(latest, latest.intent))
                return

    async def note(self, tenant: TenantRecord, **arguments: str | None) -> None:
        """Add arguments to the intent, so that errors can describe the unfinished operation to callers."""
        while True:
            latest = await self._catalog.find_by_uid(tenant.uid)
            if latest is None or latest.intent is None or not self.owns(latest):
                return
            noted = {**latest.intent.arguments, **arguments}
            if noted == latest.intent.arguments:
                return
            with suppress(StaleTenantError):
                await self._catalog.change(
                    latest, intent=latest.intent.model_copy(update={"arguments": noted})
                )
                return

    def step(self, name: str) -> None:
        """Report that a step has ended and that its results are durable."""
        self._runner.context.report(OperationStepped(self.tenant_id, self.action, name))

    def audited(self, outcome: str) -> Statement:
        """Return the statement that appends the operation to the audit log."""
        return audit.append(
            self._runner.context.clock,
            self.action,
            tenant_id=self.tenant_id,
            tenant_uid=self.tenant_uid,
            outcome=outcome,
            detail=self.detail,
            by=self.principal,
        )

    async def _clear_intent(self, tenant: TenantRecord, **changes: Any) -> TenantRecord:
        while True:
            if tenant.intent is not None and not self.owns(tenant):
                # Another process has finished this operation, and the tenant's next operation runs.
                raise StaleTenantError(tenant.id)
            try:
                completed = await self._catalog.change(
                    tenant, intent=None, audit=self.audited("ok"), **changes
                )
            except StaleTenantError:
                # The intent excludes other operations, but a quarantine may have changed the record.
                latest = await self._catalog.find_by_uid(tenant.uid)
                if latest is None:
                    raise not_found(self.tenant_id) from None
                tenant = latest
            else:
                self.is_audited = True
                return completed


def _before(tenant: TenantRecord) -> dict[str, str | None]:
    return {
        "state": tenant.state,
        "reason": tenant.reason,
        "state_changed_at": as_text(tenant.state_changed_at),
    }


def _as_before(tenant: TenantRecord, intent: Intent) -> dict[str, Any]:
    """Return the changes that restore the tenant's record as it was before the operation."""
    if tenant.state.allows(TenantEvent.REPAIR):
        return {}  # The tenant was quarantined before or during the operation, and stays quarantined.
    before = intent.arguments
    assert before["state"] is not None
    assert before["state_changed_at"] is not None
    return {
        "state": TenantState(before["state"]),
        "reason": before["reason"],
        "state_changed_at": datetime.fromisoformat(before["state_changed_at"]),
    }
