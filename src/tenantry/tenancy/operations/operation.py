"""One lifecycle operation of a tenant: what it may ask and do, see `tenantry.tenancy.operations.runner`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Protocol

import anyio

from tenantry.clock import as_text
from tenantry.errors import PersistenceConnectionError, RevisionError, TenantryError
from tenantry.events import OperationStepped
from tenantry.ids import TenantId
from tenantry.lifecycle import Permission, TenantEvent, TenantState
from tenantry.statements import Statement
from tenantry.tenancy.actors.actor import ActorContext
from tenantry.tenancy.catalog import audit
from tenantry.tenancy.catalog.catalog import Catalog, StaleTenantError
from tenantry.tenancy.tenant_record import Intent, TenantRecord, not_found

_expected_revision: ContextVar[int | None] = ContextVar("tenantry_expected_revision", default=None)


@contextmanager
def expecting(revision: int | None) -> Iterator[None]:
    """Let lifecycle operations in the block happen only to a tenant that still has this revision; None changes nothing.

    Compared in one with the change: of two calls that were decided on the same revision, one happens. Of `clone` it is the
    source's revision; other calls that make a tenant expect none.

    For example: ``with expecting(tenant.revision): await registry.suspend(tenant.id)`` raises `RevisionError` if somebody
    changed the tenant since it was read.
    """
    token = _expected_revision.set(_expected_revision.get() if revision is None else revision)
    try:
        yield
    finally:
        _expected_revision.reset(token)


def check_revision(tenant: TenantRecord) -> None:
    """Raise unless the tenant is what the call was decided on.

    Raises:
        RevisionError: It has another revision.
    """
    expected = _expected_revision.get()
    if expected is not None and expected != tenant.revision:
        raise RevisionError(
            f"tenant {tenant.id!r} was changed meanwhile: its revision is {tenant.revision}, not {expected}; read it again",
            tenant_id=tenant.id,
            revision=expected,
            current_revision=tenant.revision,
        )


class OperationHost(Protocol):
    """What runs a call: `tenantry.tenancy.operations.runner.OperationRunner`.

    Attributes:
        catalog: Where intents and the audit are.
        context: Settings, clock and event hook.
    """

    catalog: Catalog
    context: ActorContext

    def lock(self, tenant: TenantRecord, action: str) -> AbstractAsyncContextManager[None]:
        """Hold the lock that says that somebody is at a call of the tenant."""
        ...

    def leave_unfinished(self, tenant: TenantRecord, action: str, outcome: str) -> None:
        """Note that a call that was begun has failed and is to be finished later."""
        ...

    async def finish_leftover(self, tenant: TenantRecord) -> None:
        """Finish what a process that died had begun."""
        ...


class Operation:
    """One call that is under way.

    Args:
        runner: Runs it.
        tenant_id: As the caller gave it.
        action: Its name, in the audit, events and metrics.
        detail: What it was given, for the audit.
        last_outcome: That of the last try, if this is another one: the same failure is audited once.
    """

    def __init__(
        self,
        runner: OperationHost,
        tenant_id: TenantId,
        action: str,
        detail: dict[str, Any],
        *,
        last_outcome: str | None = None,
    ) -> None:
        self._runner = runner
        self._catalog = runner.catalog
        self.tenant_id = tenant_id
        self.action = action
        self.detail = detail
        self.last_outcome = last_outcome
        self.tenant_uid: str | None = None
        self.outcome = "ok"
        self.is_audited = False

    async def recover(self) -> TenantRecord | None:
        """Finish what a process that died had begun with the tenant of this id; return the tenant, in whatever state, or None.

        Raises:
            TenantBusyError: Somebody is at a call of it.
        """
        tenant = await self._catalog.find(self.tenant_id)
        if tenant is not None and tenant.is_under_way:
            await self._runner.finish_leftover(tenant)
            tenant = await self._catalog.find(self.tenant_id)
        if tenant is not None:
            self.tenant_uid = tenant.uid
        return tenant

    async def find(self) -> TenantRecord | None:
        """Return the tenant that the call is about, in whatever state, or None; raises like `recover`.

        Raises:
            RevisionError: It has another revision than the call expects, see `expecting`.
        """
        tenant = await self.recover()
        if tenant is not None:
            check_revision(tenant)
        return tenant

    async def get(self) -> TenantRecord:
        """Return the tenant, unless it was purged; raises like `find`.

        Raises:
            TenantNotFoundError: There is none.
        """
        tenant = await self.find()
        if tenant is None or not tenant.state.allows(Permission.EXIST):
            raise not_found(self.tenant_id)
        return tenant

    async def apply(
        self, tenant: TenantRecord, event: TenantEvent, *, reason: str | None = None, **changes: Any
    ) -> TenantRecord:
        """Let the event happen, audited; see `Catalog.apply`."""
        changed = await self._catalog.apply(
            tenant, event, reason=reason, audit=self.audited("ok", is_conditional=True), **changes
        )
        if changed is not tenant:
            self.is_audited = True
            self.step(changed.state.value)
        return changed

    async def change(self, tenant: TenantRecord, **changes: Any) -> TenantRecord:
        """Change fields of the tenant, audited; see `Catalog.change`."""
        changed = await self._catalog.change(tenant, audit=self.audited("ok", is_conditional=True), **changes)
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
    ) -> AsyncIterator[TenantRecord]:
        """Write down that the call has begun, and give the tenant as it is then; the block ends with `finish`.

        If the block raises, the tenant becomes what it was before, and the intent goes: what the block did to its files must
        leave that true.

        Args:
            tenant: As it was read.
            event: What happens to it at once, so that it serves nobody meanwhile.
            reason: Why.
            arguments: What is needed to finish it after a crash.
            is_reversible: Whether that can be. Otherwise the intent stays, and the next call of the tenant finishes it.

        Raises:
            TenantBusyError: Somebody else is at a call of it.
            StaleTenantError: It was changed since it was read.
        """
        async with self._runner.lock(tenant, self.action):
            intent = Intent(
                action=self.action,
                arguments={**(arguments or {}), **_before(tenant), "begun_by": audit.current_principal()},
                begun_at=self._runner.context.clock.now(),
            )
            if event is None:
                under_way = await self._catalog.change(tenant, intent=intent)
            else:
                under_way = await self._catalog.apply(tenant, event, reason=reason, intent=intent)
            self.step("begun")
            try:
                yield under_way
            except Exception as error:
                if is_reversible:
                    with anyio.CancelScope(shield=True):
                        await self.take_back(under_way)
                else:
                    # The runner makes an OSError a PersistenceConnectionError.
                    known = error if isinstance(error, TenantryError) else PersistenceConnectionError
                    self._runner.leave_unfinished(under_way, self.action, known.outcome)
                raise

    async def finish(self, tenant: TenantRecord, **changes: Any) -> TenantRecord:
        """Clear the intent and change what else the call changes at its end, audited."""
        changed = await self._complete(tenant, **changes)
        self.step("finished")
        return changed

    async def take_back(self, tenant: TenantRecord) -> None:
        """Make the tenant what it was before the call began; the audit then says ``taken_back``."""
        self.outcome = "taken_back"
        while True:
            latest = await self._catalog.find_by_uid(tenant.uid)
            if latest is None or latest.intent is None:
                return
            with suppress(StaleTenantError):
                await self._catalog.change(latest, intent=None, **_as_before(latest, latest.intent))
                return

    async def note(self, tenant: TenantRecord, **arguments: str | None) -> None:
        """Add to the arguments of the intent: what others are told of a call that cannot be finished for now."""
        while True:
            latest = await self._catalog.find_by_uid(tenant.uid)
            if latest is None or latest.intent is None:
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
        """Report that a step has ended, and that what is to survive a crash here is on the disk."""
        self._runner.context.report(OperationStepped(self.tenant_id, self.action, name))

    def audited(self, outcome: str, *, is_conditional: bool = False) -> Statement:
        """Return the statement that appends the call to the audit."""
        return audit.append(
            self._runner.context.clock,
            self.action,
            tenant_id=self.tenant_id,
            tenant_uid=self.tenant_uid,
            outcome=outcome,
            detail=self.detail,
            is_conditional=is_conditional,
        )

    async def _complete(self, tenant: TenantRecord, **changes: Any) -> TenantRecord:
        while True:
            try:
                completed = await self._catalog.change(
                    tenant, intent=None, audit=self.audited("ok", is_conditional=True), **changes
                )
            except StaleTenantError:
                # Nobody else decides anything while the intent stands, but damage may have been noted meanwhile.
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
    """Return what to change so that the tenant is as it was before the call began."""
    if tenant.state.allows(TenantEvent.REPAIR):
        return {}  # It was before, or damage was noted meanwhile, and stays noted.
    before = intent.arguments
    assert before["state"] is not None
    assert before["state_changed_at"] is not None
    return {
        "state": TenantState(before["state"]),
        "reason": before["reason"],
        "state_changed_at": datetime.fromisoformat(before["state_changed_at"]),
    }
