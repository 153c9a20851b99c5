"""``tenantry snapshot``: snapshots of tenants."""

from typing import Annotated

import typer

from tenantry.cli.api import Api, Document, tenant_path
from tenantry.cli.arguments import SnapshotArgument, TenantArgument
from tenantry.cli.command import command
from tenantry.cli.output import listing

group = typer.Typer(name="snapshot", no_args_is_help=True, help="Snapshots of tenants, and restoring them.")

_DRILLED = ("tenant_id", "outcome", "snapshot_id", "age_seconds", "duration_seconds", "error")


@command(group)
async def create(api: Api, tenant_id: TenantArgument) -> Document:
    """Take a snapshot of a tenant's present state; its calls go on."""
    return await api.operate(tenant_path(tenant_id, "snapshots"))


@command(
    group, show=listing("id", "created_at", "trigger", "database_bytes", "stored_bytes", "schema_versions")
)
async def list_(api: Api, tenant_id: TenantArgument) -> Document:
    """List a tenant's snapshots, newest first."""
    return await api.get(tenant_path(tenant_id, "snapshots"))


@command(group, question="Forget snapshot {snapshot_id} of tenant {tenant_id}?")
async def delete(api: Api, tenant_id: TenantArgument, snapshot_id: SnapshotArgument) -> Document:
    """Forget a snapshot."""
    await api.delete(tenant_path(tenant_id, "snapshots", snapshot_id))
    return {"tenant_id": tenant_id, "deleted": snapshot_id}


@command(group, question="Make the data of tenant {tenant_id} what it was in snapshot {snapshot_id}?")
async def restore(api: Api, tenant_id: TenantArgument, snapshot_id: SnapshotArgument) -> Document:
    """Make a tenant's data what it was in the snapshot; `undo-restore` takes it back."""
    return await api.operate(tenant_path(tenant_id, "snapshots", snapshot_id, "restore"))


@command(group, show=listing("id"))
async def points(api: Api, tenant_id: TenantArgument) -> Document:
    """List what restores of a tenant replaced and is still kept, oldest first; `restore` takes these ids too."""
    return await api.get(tenant_path(tenant_id, "restore-points"))


@command(group, question="Bring back what the last restore of tenant {tenant_id} replaced?")
async def undo_restore(api: Api, tenant_id: TenantArgument) -> Document:
    """Bring back what the last restore replaced."""
    return await api.operate(tenant_path(tenant_id, "undo-restore"))


@command(group, show=listing(*_DRILLED, items="results"), is_wrong=lambda report: not report["is_ok"])
async def drill(
    api: Api,
    *,
    sample: Annotated[int, typer.Option(min=1, max=1000, help="How many tenants, drawn at random.")] = 10,
) -> Document:
    """Restore the newest snapshot of some tenants to a scratch place, and say what came of each."""
    return await api.operate("/v1/snapshots/drill", {"sample": sample})
