"""Checks and runs the lifecycle operations that operators request."""

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
from tenantry.tenancy.move.api import MoveAPI
from tenantry.tenancy.tenant_record import TenantRecord
from tenantry.texts import check_display_name, check_reason


class OperatorAPI(MoveAPI):
    """The methods of `TenantRegistry` for operators.

    Every operation is recorded in the audit and can be repeated. Cancelling the caller stops only the waiting, not the operation.
    After a crash the tenant is either as before or as after the operation. Two keywords are common to the operations:

    * ``by``: the principal for the audit; by default the user that the process runs as.
    * ``if_revision``: the `revision` that the tenant must have; by default any revision. If the tenant has another revision,
      nothing is changed (`RevisionError`). The revision is compared in the transaction of the change. Only one of two concurrent
      operations with the same `if_revision` therefore takes effect.
    """

    async def get(self, tenant_id: str) -> TenantRecord:
        """Return the tenant's record in the catalog, in any state except purged.

        Raises:
            InvalidTenantIdError: The text is not a valid tenant id.
            TenantNotFoundError: The tenant does not exist.
        """
        self._check_open()
        return await self._catalog.get_latest(parse_tenant_id(tenant_id))

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
            state: The state of the returned tenants; by default every state except purged. A purged tenant's record is kept until
                another tenant gets its id.
            id_prefix: The prefix of the returned tenants' ids.
            tenant_ids: The ids of the tenants to return; unknown ids are ignored.
            limit: The largest number of tenants in the page; by default 100.
            cursor: The `next_cursor` of the previous page.

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
        """Suspend the tenant: its calls are refused with `TenantSuspendedError`, and its data is kept.

        The method returns after the accepted calls have ended and the tenant is closed, in this process or in the process that has the
        tenant open. A process that takes no calls of other processes closes the tenant within a second.

        Raises:
            TenantNotFoundError: The tenant does not exist.
            TenantStateError: The tenant's state does not allow the operation.
            TenantBusyError: Another operation of the tenant is running.
            RevisionError: The tenant has another revision than `if_revision`.
            QueryError: `by` is not a valid name of a principal.
            TenantOwnedElsewhereError: The process that has the tenant open does not answer. The tenant is suspended, and that process
                closes the tenant when it continues.
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
            StorageFullError: There is less free disk space than the size of the database; the tenant was not changed.
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
        """Delete the tenant: its calls are refused with `TenantDeletedError`, and its grace period begins.

        The tenant's files and its id are kept until `purge_after` of the returned record, and `undelete` can bring the tenant back.
        After the grace period the registry purges the tenant. Raises like `suspend`, and:
            DeletionProtectedError: The tenant is protected from deletion, see `update`.
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
        """Return a deleted tenant to its state before the deletion, with the reason of that state. Raises like `suspend`."""
        return await self._apply(tenant_id, TenantEvent.UNDELETE, by=by, if_revision=if_revision)

    async def purge(
        self, tenant_id: str, *, force: bool = False, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Permanently remove a deleted tenant's files and snapshots, so that another tenant can get its id.

        Args:
            tenant_id: The tenant's id.
            force: Whether to purge the tenant even in its grace period.
            by: The principal for the audit, see `OperatorAPI`.
            if_revision: The revision that the tenant must have, see `OperatorAPI`.

        Raises like `suspend`, and:
            GracePeriodError: The tenant is in its grace period.
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
        """Change the tenant's id. The tenant keeps its `uid`, its files and its snapshots.

        Accepted calls are finished; later calls with the old id raise `TenantNotFoundError`. If another process has the tenant
        open, that process closes the tenant first. Another tenant can therefore safely get the old id.

        Raises like `suspend`, and:
            TenantExistsError: Another tenant has the new id.
            TenantOwnedElsewhereError: Another process keeps the tenant open; the tenant was not changed.
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
        """Quarantine an active tenant: its calls raise `TenantQuarantinedError` with the reason until a repair or a restore.

        tenantry itself quarantines a tenant whose database is damaged or whose migration fails. Raises like `suspend`.
        """
        return await self._apply(
            tenant_id, TenantEvent.QUARANTINE, reason=reason, by=by, if_revision=if_revision
        )

    async def repair(
        self, tenant_id: str, *, by: str | None = None, if_revision: int | None = None
    ) -> TenantRecord:
        """Check a quarantined tenant's database, rebuild its indexes if only indexes are damaged, and make the tenant active.

        A repair can be repeated, so an active tenant is returned without a check of its database. The audit row of a repair
        without a check has ``is_checked`` false.

        Raises like `suspend`, and:
            DatabaseCorruptError: The damage goes beyond indexes, and the tenant stays quarantined: restore a snapshot.
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
        """Change a tenant's settings; a setting that is left out does not change.

        Args:
            tenant_id: The tenant's id.
            display_name: The name that people see.
            deletion_protected: Whether `delete` is refused.
            limits: The tenant's new limits. The limits take effect before the method returns, after accepted calls and an open
                transaction have ended, also in another process that has the tenant open. A process that takes no calls of other
                processes applies the limits within a second.
            by: The principal for the audit, see `OperatorAPI`.
            if_revision: The revision that the tenant must have, see `OperatorAPI`.

        Raises like `suspend`, and:
            QueryError: The display name is not valid.
            UnsupportedByBackend: The tenant's back end cannot limit the size of a database (`database_bytes_max`).
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
        """Write a bundle of the tenant's current data: a compressed archive that contains a plain SQLite file.

        The tenant serves calls during the export. ``tar xzf`` extracts ``manifest.json``, ``SHA256SUMS`` and ``tenant.db``.

        Args:
            tenant_id: The tenant's id.
            path: The path of the bundle; the file appears there when the bundle is complete.
            replace: Whether to replace an existing file at the path.
            by: The principal for the audit, see `OperatorAPI`.

        Raises:
            TenantNotFoundError: The tenant does not exist.
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
