"""What operators do to tenants: requests are parsed and checked here, and run as operations."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tenantry.errors import TenantNotFoundError
from tenantry.ids import parse_tenant_id
from tenantry.lifecycle import TenantEvent, TenantState
from tenantry.limits import TenantLimits
from tenantry.pages import Page
from tenantry.storage.archive.manifest import Manifest
from tenantry.tenancy.creation_api import CreationAPI
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.texts import check_display_name, check_reason


class OperatorAPI(CreationAPI):
    """What `TenantRegistry` offers to operators.

    What is true of every operation: it can be repeated. Cancellation stops the waiting, not the operation. After a crash the tenant
    is as it was before, or as it is after the operation. The operation is in the audit. Its keywords:

    * ``by``: who does it, for the audit; the user that the process runs as if left out.
    * ``if_revision``: the ``revision`` of the tenant that the decision was made on; any if left out. If the tenant has another
      revision by now, nothing is changed (`RevisionError`). It is compared in the transaction of the change: of two operations that
      were decided on one revision, one happens.
    """

    async def get(self, tenant_id: str) -> TenantRecord:
        """Return the tenant's record in the catalog, in whatever state it is.

        Raises:
            InvalidTenantIdError: The text is not a valid tenant id.
            TenantNotFoundError: The tenant does not exist.
        """
        self._check_open()
        return await self._catalog.get(parse_tenant_id(tenant_id))

    async def find(self, tenant_id: str) -> TenantRecord | None:
        """Return the tenant's record like `get`, or None if the tenant does not exist."""
        try:
            return await self.get(tenant_id)
        except TenantNotFoundError:
            return None

    async def list(
        self,
        *,
        state: TenantState | None = None,
        id_prefix: str | None = None,
        tenant_ids: Sequence[str] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[TenantRecord]:
        """Return a page of the catalog, in the order of ids.

        Args:
            state: Only tenants in this state; all but the purged ones if left out. A purged tenant's record stays until its id
                is taken again.
            id_prefix: Only tenants whose ids begin with this.
            tenant_ids: Only these; ids that no tenant has are left out.
            limit: How many at most; 100 if left out.
            cursor: The `next_cursor` of the page before.

        Raises:
            InvalidTenantIdError: One of `tenant_ids` is not a valid tenant id.
            QueryError: `id_prefix`, `limit` or `cursor` is not valid.
        """
        self._check_open()
        names = None if tenant_ids is None else [parse_tenant_id(one) for one in tenant_ids]
        return await self._catalog.list(
            state=state, id_prefix=id_prefix, tenant_ids=names, limit=limit, cursor=cursor
        )

    async def suspend(
        self,
        tenant_id: str,
        *,
        reason: str | None = None,
        by: str | None = None,
        if_revision: int | None = None,
    ) -> TenantRecord:
        """Refuse the tenant's calls from now on, with `TenantSuspendedError`; its data is kept.

        Returns when the calls that were accepted have ended and the tenant is closed in this process. Another process that has
        it open closes it within a second.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            TenantStateError: It is neither active nor suspended.
            TenantBusyError: Another operation of the tenant is under way.
            RevisionError: The tenant has another revision than `if_revision`.
            QueryError: The name in `by` is not valid.
        """
        return await self._apply(
            tenant_id, TenantEvent.SUSPEND, reason=reason, by=by, if_revision=if_revision
        )

    async def resume(
        self, tenant_id: str, *, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Let a suspended tenant serve calls again. Raises like `suspend`."""
        return await self._apply(tenant_id, TenantEvent.RESUME, by=by, if_revision=if_revision)

    async def archive(
        self,
        tenant_id: str,
        *,
        reason: str | None = None,
        by: str | None = None,
        if_revision: int | None = None,
    ) -> TenantRecord:
        """Close an active or suspended tenant for a long time: its database becomes one compacted, checkpointed file.

        Raises like `suspend`, and:
            StorageFullError: Compacting needs as much free space as the database is large; the tenant is as it was.
        """
        self._check_open()
        check_reason(reason)
        work = partial(self._operations.archive.run, reason=reason)
        return await self._runner.run(
            parse_tenant_id(tenant_id), "archive", work, by=by, if_revision=if_revision, reason=reason
        )

    async def unarchive(
        self, tenant_id: str, *, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Let an archived tenant serve calls again. Raises like `suspend`."""
        return await self._apply(tenant_id, TenantEvent.UNARCHIVE, by=by, if_revision=if_revision)

    async def delete(
        self,
        tenant_id: str,
        *,
        reason: str | None = None,
        by: str | None = None,
        if_revision: int | None = None,
    ) -> TenantRecord:
        """Refuse the tenant's calls, with `TenantDeletedError`, and begin its grace period.

        Its files and its id are kept until ``purge_after`` of the returned record. Until then `undelete` brings the tenant back;
        afterwards the registry purges it. Raises like `suspend`, and:
            DeletionProtectedError: It is protected, see `update`.
        """
        self._check_open()
        check_reason(reason)
        work = partial(self._operations.change.delete, reason=reason)
        return await self._runner.run(
            parse_tenant_id(tenant_id), "delete", work, by=by, if_revision=if_revision, reason=reason
        )

    async def undelete(
        self, tenant_id: str, *, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Bring a deleted tenant back into the state that it was in, with the reason of that state. Raises like `suspend`."""
        return await self._apply(tenant_id, TenantEvent.UNDELETE, by=by, if_revision=if_revision)

    async def purge(
        self, tenant_id: str, *, force: bool = False, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Remove a deleted tenant's files and snapshots, for good; its id can be taken again.

        Args:
            tenant_id: The tenant.
            force: Also in its grace period.
            by: Who does it, for the audit, see the class.
            if_revision: The tenant's revision that this was decided on, see the class.

        Raises like `suspend`, and:
            GracePeriodError: It is in its grace period.
            DataDirectoryError: A file cannot be removed; call again. The tenant stays purged and serves no calls.
        """
        self._check_open()
        work = partial(self._operations.purge.run, is_forced=force)
        return await self._runner.run(
            parse_tenant_id(tenant_id), "purge", work, by=by, if_revision=if_revision, is_forced=force
        )

    async def rename(
        self, tenant_id: str, new_id: str, *, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Give the tenant another id. Its `uid`, its files and its snapshots stay what and where they are.

        Calls that were accepted are finished; later calls with the old id get `TenantNotFoundError`. Another process that has the
        tenant open closes it first, so that no call is served by this tenant under an id that belongs to another one by then.

        Raises like `suspend`, and:
            TenantExistsError: The new id is taken.
            TenantOwnedElsewhereError: Another process keeps it open; the tenant is as it was.
        """
        self._check_open()
        parsed, parsed_new = parse_tenant_id(tenant_id), parse_tenant_id(new_id)
        work = partial(self._operations.rename.run, new_id=parsed_new)
        return await self._runner.run(
            parsed, "rename", work, by=by, if_revision=if_revision, new_id=parsed_new
        )

    async def quarantine(
        self, tenant_id: str, *, reason: str, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Refuse an active tenant's calls until it is repaired or restored, with `TenantQuarantinedError` and the reason.

        tenantry itself quarantines a tenant whose database is damaged or whose migration fails. Raises like `suspend`.
        """
        return await self._apply(
            tenant_id, TenantEvent.QUARANTINE, reason=reason, by=by, if_revision=if_revision
        )

    async def repair(
        self, tenant_id: str, *, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Check a quarantined tenant's database, rebuild its indexes if only they are damaged, and let it serve calls again.

        So that a repair can be repeated, an active tenant is returned as it is: its database is not checked, and the audit's row has
        ``is_checked`` false.

        Raises like `suspend`, and:
            DatabaseCorruptError: More than indexes is damaged; the tenant stays quarantined: restore a snapshot.
            MigrationError: A migration still fails.
        """
        self._check_open()
        return await self._runner.run(
            parse_tenant_id(tenant_id), "repair", self._operations.repair.run, by=by, if_revision=if_revision
        )

    async def update(
        self,
        tenant_id: str,
        *,
        display_name: str | None = None,
        deletion_protected: bool | None = None,
        limits: TenantLimits | None = None,
        by: str | None = None,
        if_revision: int | None = None,
    ) -> TenantRecord:
        """Change a tenant's settings; what is left out stays.

        Args:
            tenant_id: The tenant.
            display_name: For people.
            deletion_protected: Whether `delete` is refused.
            limits: What it may use. They take effect in this process before this returns, and within a second in another
                process that has it open. Calls that were accepted before are finished; an open transaction is waited for.
            by: Who does it, for the audit, see the class.
            if_revision: The tenant's revision that this was decided on, see the class.

        Raises like `suspend`, and:
            QueryError: The name is not valid.
            PersistenceError: The limits are in the catalog, but could not be applied to the open database: call again.
        """
        self._check_open()
        if display_name is not None:
            check_display_name(display_name)
        given = {"display_name": display_name, "deletion_protected": deletion_protected, "limits": limits}
        changes = {name: value for name, value in given.items() if value is not None}
        work = partial(self._operations.change.update, changes=changes)
        return await self._runner.run(
            parse_tenant_id(tenant_id), "update", work, by=by, if_revision=if_revision, **_as_detail(changes)
        )

    async def export(
        self, tenant_id: str, path: str | Path, *, replace: bool = False, by: str | None = None
    ) -> Manifest:
        """Write a bundle of the tenant's present state: one compressed archive with a plain SQLite file in it.

        The tenant's calls go on during this. ``tar xzf`` gives ``manifest.json``, ``SHA256SUMS`` and ``tenant.db``.

        Args:
            tenant_id: The tenant.
            path: The bundle's file, which appears when it is complete.
            replace: Whether a file that exists at the path is replaced.
            by: Who does it, for the audit, see the class.

        Raises:
            TenantNotFoundError: There is no such tenant.
            SnapshotError: The file exists, or cannot be written.
        """
        self._check_open()
        work = partial(self._operations.export.run, path=Path(path), replace=replace)
        return await self._runner.run(
            parse_tenant_id(tenant_id), "export", work, queue="snapshot", by=by, path=self._audited_path(path)
        )

    async def _apply(
        self,
        tenant_id: str,
        event: TenantEvent,
        *,
        reason: str | None = None,
        by: str | None,
        if_revision: int | None,
    ) -> TenantRecord:
        self._check_open()
        check_reason(reason)
        work = partial(self._operations.change.apply, event=event, reason=reason)
        return await self._runner.run(
            parse_tenant_id(tenant_id), event.value, work, by=by, if_revision=if_revision, reason=reason
        )


def _as_detail(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value
        for name, value in changes.items()
    }
