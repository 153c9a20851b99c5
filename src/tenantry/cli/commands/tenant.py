"""``tenantry tenant``: creates, lists and changes tenants, and runs their lifecycle operations."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tenantry.cli.arguments import (
    BackendOption,
    DisplayNameOption,
    NewIdArgument,
    PrefixOption,
    ReasonOption,
    TenantArgument,
    identifier,
    json_value,
)
from tenantry.cli.client.api import TENANTS, Api, Document, Paging, tenant_path
from tenantry.cli.command import command
from tenantry.cli.output import listing, print_note
from tenantry.lifecycle import TenantState

group = typer.Typer(name="tenant", no_args_is_help=True, help="Tenants and their lifecycle.")

_COLUMNS = (
    "id",
    "state",
    "backend",
    "display_name",
    "schema_versions",
    "state_changed_at",
    "busy_with",
    "reason",
)
_NONE = "none"
LIMITS = (
    *("database_bytes_max", "calls_per_second_max", "calls_burst_max", "calls_in_flight_max"),
    "durability",
)
"""The fields of `tenantry.TenantLimits`, which is slow to load."""


def _limit(text: str) -> tuple[str, object]:
    from pydantic import ValidationError

    from tenantry.limits import TenantLimits

    name, separator, value = text.partition("=")
    names = ", ".join(LIMITS)
    if not separator:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE: the names are {names}")
    if name not in LIMITS:
        raise typer.BadParameter(f"{name!r} is not a limit: the limits are {names}")
    if value == _NONE:
        return name, None
    try:
        limit = json_value(value)
    except ValueError:
        limit = value
    try:
        TenantLimits.model_validate({name: limit})
    except ValidationError as error:
        # Errors about other limits are ignored here, because the service checks all limits together.
        wrong = [detail["msg"].removeprefix("Value error, ") for detail in error.errors() if detail["loc"]]
        if wrong:
            raise typer.BadParameter(f"{name} cannot be {value[:80]!r}: {'; '.join(wrong)}") from error
    return name, limit


def _backend(name: str | None) -> Document:
    return {} if name is None else {"backend": name}


@command(group, may_create=True)
async def create(
    api: Api,
    tenant_id: TenantArgument,
    *,
    display_name: DisplayNameOption = None,
    backend: BackendOption = None,
    if_not_exists: Annotated[
        bool,
        typer.Option("--if-not-exists", help="Show an existing tenant; refuse the id of a deleted tenant."),
    ] = False,
) -> Document:
    """Create a tenant with a migrated database."""
    existed = if_not_exists and await api.exists(tenant_path(tenant_id))
    # A service of an older version refuses fields that it does not know, so only given options are sent.
    body: Document = {"id": tenant_id, "display_name": display_name} | _backend(backend)
    tenant = await api.post(TENANTS, body | ({"if_not_exists": True} if if_not_exists else {}))
    if existed:
        print_note(f"{tenant_id} already exists and is {tenant['state']}: nothing was changed")
    return tenant


@command(group, show=listing(*_COLUMNS), needs_service=False)
async def list_(
    api: Api,
    *,
    state: Annotated[TenantState | None, typer.Option(help="Only tenants in this state.")] = None,
    prefix: PrefixOption = None,
    paging: Paging,
) -> Document:
    """List tenants, ordered by id."""
    return await api.pages(TENANTS, paging, state=state, id_prefix=prefix)


@command(group)
async def get(api: Api, tenant_id: TenantArgument) -> Document:
    """Show a tenant's record in the catalog, and the process that has the tenant open."""
    return await api.get(tenant_path(tenant_id))


def _check_changes(given: Mapping[str, Any]) -> None:
    if given["display_name"] is None and given["is_protected"] is None and not given["limit"]:
        raise typer.BadParameter(
            "nothing is to be changed: give --display-name, --protect, --no-protect or --limit"
        )


@command(group, check=_check_changes)
async def update(
    api: Api,
    tenant_id: TenantArgument,
    *,
    display_name: DisplayNameOption = None,
    is_protected: Annotated[
        bool | None,
        typer.Option("--protect/--no-protect", help="Whether the tenant is protected from deletion."),
    ] = None,
    limit: Annotated[
        list[Any] | None,
        typer.Option(
            parser=_limit,
            metavar="NAME=VALUE",
            help=f"Set a limit, or remove it with NAME={_NONE}; other limits stay unchanged. The names are {', '.join(LIMITS)}.",
        ),
    ] = None,
    revision: Annotated[
        int | None, typer.Option("--if-revision", help="Change the tenant only at this revision.")
    ] = None,
) -> Document:
    """Change a tenant's settings and limits, with immediate effect."""
    changes: Document = {"display_name": display_name, "deletion_protected": is_protected}
    if limit:
        # The API replaces all limits, so the other limits are read first. The revision detects a concurrent change.
        tenant = await api.get(tenant_path(tenant_id))
        changes["limits"] = tenant["limits"] | dict(limit)
        revision = tenant["revision"] if revision is None else revision
    headers = {} if revision is None else {"If-Match": f'"{revision}"'}
    return await api.patch(tenant_path(tenant_id), changes, headers)


@command(group)
async def suspend(api: Api, tenant_id: TenantArgument, *, reason: ReasonOption = None) -> Document:
    """Refuse a tenant's calls, and keep its data."""
    return await api.post(tenant_path(tenant_id, "suspend"), {"reason": reason})


@command(group)
async def resume(api: Api, tenant_id: TenantArgument) -> Document:
    """Accept the calls of a suspended tenant again."""
    return await api.post(tenant_path(tenant_id, "resume"))


@command(group)
async def archive(api: Api, tenant_id: TenantArgument, *, reason: ReasonOption = None) -> Document:
    """Close a tenant for a long time, and compact its database to one file."""
    return await api.operate(tenant_path(tenant_id, "archive"), {"reason": reason})


@command(group)
async def unarchive(api: Api, tenant_id: TenantArgument) -> Document:
    """Accept the calls of an archived tenant again."""
    return await api.post(tenant_path(tenant_id, "unarchive"))


@command(group, question="Delete tenant {tenant_id}? Its calls will be refused.")
async def delete(api: Api, tenant_id: TenantArgument) -> Document:
    """Refuse a tenant's calls, and begin the grace period in which the tenant can be undeleted."""
    return await api.delete(tenant_path(tenant_id))


@command(group)
async def undelete(api: Api, tenant_id: TenantArgument) -> Document:
    """Return a deleted tenant to its state before the deletion."""
    return await api.post(tenant_path(tenant_id, "undelete"))


@command(group, question="Remove the files and the snapshots of tenant {tenant_id} permanently?")
async def purge(
    api: Api,
    tenant_id: TenantArgument,
    *,
    is_forced: Annotated[bool, typer.Option("--force", help="Purge even within the grace period.")] = False,
) -> Document:
    """Remove a deleted tenant's files and snapshots permanently."""
    return await api.operate(tenant_path(tenant_id, "purge"), {"force": is_forced})


@command(group)
async def rename(api: Api, tenant_id: TenantArgument, new_id: NewIdArgument) -> Document:
    """Give a tenant another id, without moving its files and snapshots."""
    return await api.post(tenant_path(tenant_id, "rename"), {"new_id": new_id})


@command(group)
async def clone(
    api: Api,
    tenant_id: TenantArgument,
    new_id: NewIdArgument,
    *,
    snapshot: Annotated[
        str | None,
        typer.Option(
            parser=identifier,
            metavar="SNAPSHOT",
            help="The snapshot to clone. Default: the tenant's current data.",
        ),
    ] = None,
    display_name: DisplayNameOption = None,
    backend: BackendOption = None,
) -> Document:
    """Create a tenant with another tenant's data."""
    body = {
        "new_id": new_id,
        "snapshot_id": snapshot,
        "display_name": display_name,
    } | _backend(backend)
    return await api.operate(tenant_path(tenant_id, "clone"), body)


@command(group)
async def quarantine(api: Api, tenant_id: TenantArgument, *, reason: ReasonOption = None) -> Document:
    """Quarantine an active tenant: refuse its calls until the tenant is repaired or restored."""
    return await api.post(tenant_path(tenant_id, "quarantine"), {"reason": reason})


@command(group)
async def repair(api: Api, tenant_id: TenantArgument) -> Document:
    """Check and repair a quarantined tenant's database, and accept the tenant's calls again."""
    before = await api.get(tenant_path(tenant_id))
    repaired = await api.operate(tenant_path(tenant_id, "repair"))
    if repaired["revision"] == before["revision"]:
        print_note(
            f"{tenant_id} is {repaired['state']}: its database was neither checked nor repaired. To check the database, run "
            f"tenantry fleet start check --tenant {tenant_id} --wait"
        )
    return repaired


@command(group)
async def statistics(api: Api, tenant_id: TenantArgument) -> Document:
    """Show the size of a tenant and, if the tenant is open in any process, its counters."""
    return await api.get(tenant_path(tenant_id, "statistics"))


@command(group, show=listing("tenant_id", "calls_per_second"))
async def top(
    api: Api, *, limit: Annotated[int, typer.Option(min=1, max=100, help="Number of tenants.")] = 10
) -> Document:
    """List the tenants with the most calls in the service's process during the last minute."""
    return await api.get("/v1/statistics/top", limit=limit)
