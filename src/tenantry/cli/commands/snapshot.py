"""``tenantry snapshot``: snapshots of tenants."""

import asyncio
from typing import Annotated

import typer

from tenantry.cli.arguments import SnapshotArgument, TenantArgument
from tenantry.cli.client.api import Api, Document, tenant_path
from tenantry.cli.client.target import choose_data_dir, choose_storage, registry_config
from tenantry.cli.command import DataDirOption, JsonOption, command, ending
from tenantry.cli.exits import EPILOG, CommandError, Exit
from tenantry.cli.output import listing, print_document, record
from tenantry.errors import TenantryError
from tenantry.tenancy.snapshots import storage_switch

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


@command(group, question="Remove {point}, which a restore of tenant {tenant_id} replaced, for good?")
async def drop_point(api: Api, tenant_id: TenantArgument, point: SnapshotArgument) -> Document:
    """Remove what a restore replaced, for its space on the disk; that restore cannot be undone any more."""
    await api.delete(tenant_path(tenant_id, "restore-points", point))
    return {"tenant_id": tenant_id, "dropped": point}


@command(group, question="Bring back what the last restore of tenant {tenant_id} replaced?")
async def undo_restore(api: Api, tenant_id: TenantArgument) -> Document:
    """Bring back what the last restore replaced."""
    return await api.operate(tenant_path(tenant_id, "undo-restore"))


@command(
    group,
    question="Make the snapshot storage this data directory's? The directory that it belonged to is refused from then on.",
)
async def claim_storage(api: Api) -> Document:
    """Make the snapshot storage this directory's: after it was moved or restored, or to take another one's snapshots over."""
    return await api.post("/v1/snapshots/claim-storage")


@group.command(epilog=EPILOG)
def switch_storage(
    new: Annotated[str, typer.Argument(metavar="STORAGE", help="s3://bucket/prefix, a directory, ….")],
    *,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Keep a directory's snapshots in another place from now on, beginning with none; end its service before."""
    with ending(is_json=is_json):
        config = registry_config(choose_data_dir(data_dir))
        storage = choose_storage(new, config.data_dir)
        assert storage is not None
        try:
            before = asyncio.run(storage_switch.switch_storage(config, storage))
        except TenantryError as error:
            raise CommandError(Exit.REFUSED, str(error)) from error
        print_document({"location": storage.location, "before": before}, record, is_json=is_json)


@command(group, show=listing(*_DRILLED, items="results"), is_wrong=lambda report: not report["is_ok"])
async def drill(
    api: Api,
    *,
    sample: Annotated[int, typer.Option(min=1, max=1000, help="How many tenants, drawn at random.")] = 10,
) -> Document:
    """Restore the newest snapshot of some tenants to a scratch place, and say what came of each."""
    return await api.operate("/v1/snapshots/drill", {"sample": sample})
