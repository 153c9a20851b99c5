"""``tenantry snapshot``: snapshots of tenants."""

from typing import Annotated

import typer

from tenantry.cli.arguments import SnapshotArgument, TenantArgument
from tenantry.cli.client.api import Api, Document, tenant_path
from tenantry.cli.client.target import choose_data_dir, choose_storage
from tenantry.cli.command import DataDirOption, JsonOption, YesOption, ask, command, ending, run_async
from tenantry.cli.exits import EPILOG, CommandError, Exit
from tenantry.cli.output import listing, print_document, record
from tenantry.errors import TenantryError

group = typer.Typer(name="snapshot", no_args_is_help=True, help="Snapshots and restores of tenants.")

_DRILLED = ("tenant_id", "outcome", "snapshot_id", "age_seconds", "duration_seconds", "error")


@command(group)
async def create(api: Api, tenant_id: TenantArgument) -> Document:
    """Take a snapshot of a tenant while the tenant accepts calls."""
    return await api.operate(tenant_path(tenant_id, "snapshots"))


@command(
    group, show=listing("id", "created_at", "trigger", "database_bytes", "stored_bytes", "schema_versions")
)
async def list_(api: Api, tenant_id: TenantArgument) -> Document:
    """List a tenant's snapshots, newest first."""
    return await api.get(tenant_path(tenant_id, "snapshots"))


@command(group, question="Delete snapshot {snapshot_id} of tenant {tenant_id}?")
async def delete(api: Api, tenant_id: TenantArgument, snapshot_id: SnapshotArgument) -> Document:
    """Delete a snapshot."""
    await api.delete(tenant_path(tenant_id, "snapshots", snapshot_id))
    return {"tenant_id": tenant_id, "deleted": snapshot_id}


@command(group, question="Replace the data of tenant {tenant_id} by snapshot {snapshot_id}?")
async def restore(api: Api, tenant_id: TenantArgument, snapshot_id: SnapshotArgument) -> Document:
    """Replace a tenant's data with the data of a snapshot; `undo-restore` undoes the restore."""
    return await api.operate(tenant_path(tenant_id, "snapshots", snapshot_id, "restore"))


@command(group, show=listing("id"))
async def points(api: Api, tenant_id: TenantArgument) -> Document:
    """List a tenant's restore points, the databases that restores replaced, oldest first. `restore` also accepts their ids."""
    return await api.get(tenant_path(tenant_id, "restore-points"))


@command(group, question="Remove restore point {point} of tenant {tenant_id} permanently?")
async def drop_point(api: Api, tenant_id: TenantArgument, point: SnapshotArgument) -> Document:
    """Remove a restore point to free disk space. Then the restore that created the restore point can no longer be undone."""
    await api.delete(tenant_path(tenant_id, "restore-points", point))
    return {"tenant_id": tenant_id, "dropped": point}


@command(group, question="Undo the last restore of tenant {tenant_id}?")
async def undo_restore(api: Api, tenant_id: TenantArgument) -> Document:
    """Undo the last restore of a tenant."""
    return await api.operate(tenant_path(tenant_id, "undo-restore"))


@command(
    group,
    question="Make this data directory the owner of the snapshot storage? The storage will refuse the former owner.",
)
async def claim_storage(api: Api) -> Document:
    """Make this data directory the owner of its snapshot storage, after a move or to take over another directory's snapshots."""
    return await api.post("/v1/snapshots/claim-storage")


@group.command(epilog=EPILOG)
def switch_storage(
    new: Annotated[str, typer.Argument(metavar="STORAGE", help="s3://bucket/prefix, a directory, ….")],
    *,
    is_sure: YesOption = False,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Store a data directory's future snapshots in another, empty storage. Services on the directory must be stopped first."""
    from tenantry.config import RegistryConfig
    from tenantry.tenancy.snapshot_storage import switch

    with ending(is_json=is_json):
        config = RegistryConfig.from_environment(data_dir=choose_data_dir(data_dir))
        storage = choose_storage(new, config.data_dir)
        assert storage is not None
        if not is_sure:
            ask(
                f"Store the future snapshots of {config.data_dir} at {storage.location}? Existing snapshots stay in the old storage, "
                "and will neither be listed nor deleted."
            )
        try:
            before = run_async(switch.switch_storage(config, storage))
        except TenantryError as error:
            raise CommandError(Exit.REFUSED, str(error)) from error
        print_document({"location": storage.location, "before": before}, record, is_json=is_json)


@command(group, show=listing(*_DRILLED, items="results"), is_wrong=lambda report: not report["is_ok"])
async def drill(
    api: Api,
    *,
    sample: Annotated[
        int, typer.Option(min=1, max=1000, help="The number of active tenants, which are chosen at random.")
    ] = 10,
) -> Document:
    """Restore the newest snapshots of some active tenants to a scratch directory, and list the outcomes."""
    return await api.operate("/v1/snapshots/drill", {"sample": sample})
